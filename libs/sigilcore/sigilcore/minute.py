"""The last minute: how often something happened in it, for clocks that may jump.

Invariants:

1. What happened within a minute before now counts. So does what lies ahead, after a clock was set back: as if it had happened now, so it
   is neither lost nor counted for longer than a minute of the new time.
2. `Shown` by a gate's own decisions is the least rate that it may record: those of the licence, in the order of the log. Gate and replay
   fold the same decisions by the same code, so wherever clocks went, an honest gate's ledger replays.
"""

import collections
from collections.abc import Iterator
from typing import Final

MINUTE_MS: Final = 60_000


def slide(times: collections.deque[int], now_ms: int) -> None:
    """Times in their order, as they stand now: what is a minute old is gone, what lies ahead is now."""
    while times and times[0] <= now_ms - MINUTE_MS:
        times.popleft()
    ahead = 0
    while times and times[-1] > now_ms:
        times.pop()
        ahead += 1
    times.extend([now_ms] * ahead)


class Shown:
    """What committed decisions show; `fold` them in the order of the log."""

    def __init__(self) -> None:
        """Nothing was decided."""
        self._times: dict[str, collections.deque[int]] = {}

    def fold(self, licence: str, ts_ms: int) -> None:
        """A decision about this licence, at this time, stands in the log."""
        times = self._times.get(licence)
        if times is None:
            times = self._times[licence] = collections.deque()
        slide(times, ts_ms)
        times.append(ts_ms)

    def count(self, licence: str, now_ms: int) -> int:
        """How many count for a decision that bears this time."""
        times = self._times.get(licence, ())
        for gone, ts_ms in enumerate(times):
            if ts_ms > now_ms - MINUTE_MS:
                return len(times) - gone
        return 0

    def __iter__(self) -> Iterator[tuple[str, int]]:
        """Licence and time of each decision in its licence's last minute, as the log ends."""
        return ((licence, ts_ms) for licence, times in self._times.items() for ts_ms in times)
