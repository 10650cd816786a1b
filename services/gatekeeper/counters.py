"""What is refused without a record of its own, counted by code: one summary a minute, so that no flood fills the log."""

import collections
from collections.abc import Mapping

from sigilcore import clock
from sigilcore.records import audit
from sigilcore.refusals import Code, Refused

MOST = 2**53 - 1  # what a JSON integer holds


class Refusals:
    """Counts since the last summary."""

    def __init__(self, now_ms: int) -> None:
        """Counting begins now."""
        self._since_ms = now_ms
        self._counts: collections.Counter[Code] = collections.Counter()

    def add(self, code: Code) -> None:
        """Count one."""
        self._counts[code] += 1

    def merge(self, counts: Mapping[str, int]) -> None:
        """Join what a face refused before the gate; nothing is taken if a code is unknown or a count beyond all reason."""
        for name, count in counts.items():
            if name not in Code.__members__ or count > MOST:
                raise Refused(Code.BAD_INPUT, "a refusal's code and a possible count", field=f"$.counts.{name}")
        self._counts.update({Code(name): count for name, count in counts.items()})

    def take(self, now_ms: int) -> audit.RefusalSummary | None:
        """The summary up to now, and begin anew; None if there is nothing to tell."""
        since_ms, self._since_ms = self._since_ms, max(self._since_ms, now_ms)
        if not self._counts:
            return None
        counts, self._counts = self._counts, collections.Counter()
        return audit.RefusalSummary(
            since=clock.format_ms(since_ms),
            until=clock.format_ms(max(since_ms, now_ms)),
            counts={code.value: min(count, MOST) for code, count in sorted(counts.items())},
        )

    def put_back(self, summary: audit.RefusalSummary) -> None:
        """A summary that could not be written: its counts join the next one."""
        self._since_ms = clock.parse_ms(summary.since)
        self._counts.update({Code(code): count for code, count in summary.counts.items()})
