"""Refusals given here, before the gate: counted by code, told to the gatekeeper, so that they end in its `refusal_summary`.

Nothing is lost while the gatekeeper can't be reached: what couldn't be told is told with the next. A crash of this process loses at most
one interval's counts; these are counts of strangers, and no decision hangs on them.
"""

import asyncio
import collections

from sigilcore.contracts import gatekeeper
from sigilcore.faults import Fault
from sigilcore.refusals import Code, Refused
from sigilrun import telemetry
from sigilrun.bus import Bus

INTERVAL_S = 5.0


class Reports:
    """The counts since the last report."""

    def __init__(self, bus: Bus, interval_s: float = INTERVAL_S) -> None:
        """Counting begins now."""
        self._bus = bus
        self._interval_s = interval_s
        self._counts: collections.Counter[Code] = collections.Counter()

    def add(self, code: Code) -> None:
        """Count one refusal."""
        self._counts[code] += 1

    async def flush(self) -> None:
        """Tell what has been counted, if anything."""
        counts, self._counts = self._counts, collections.Counter()
        if not counts:
            return
        told = gatekeeper.RefusalCounts(counts={code.value: count for code, count in sorted(counts.items())})
        try:
            await self._bus.call(gatekeeper.REPORT, told)
        except (Refused, Fault) as error:
            self._counts.update(counts)
            telemetry.log.warning("refusals_untold", reason=type(error).__name__)

    async def run(self) -> None:
        """Tell for ever."""
        while True:
            await asyncio.sleep(self._interval_s)
            await self.flush()
