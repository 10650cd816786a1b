"""How often a caller called in the last minute: exact, bounded, and failing closed."""

import bisect
import collections

from sigilcore.minute import MINUTE_MS, slide


class LastMinute:
    """Times of events by caller, over a sliding minute. A caller is never forgotten while one of its events counts."""

    def __init__(self, *, callers: int) -> None:
        """`callers` bounds how many callers are held at once."""
        self._callers = callers
        self._times: dict[str, collections.deque[int]] = {}

    def count(self, caller: str, now_ms: int) -> int:
        """Events in the last minute; of a clock that was set back, those ahead too, as of now."""
        times = self._times.get(caller)
        if times is None:
            return 0
        slide(times, now_ms)
        return len(times)

    def take(self, caller: str, now_ms: int, limit: int, *, weight: int = 1) -> int | None:
        """Count an event, so many times, and answer how many there are with it; None, and nothing counted, beyond `limit` or when memory is
        full."""
        if self.count(caller, now_ms) + weight > limit or not self._room(caller, now_ms):
            return None
        times = self._times.setdefault(caller, collections.deque())
        times.extend([now_ms] * weight)
        return len(times)

    def recall(self, caller: str, at_ms: int, now_ms: int) -> None:
        """Count an event of before, whatever the limit; one that lies ahead as of now."""
        if at_ms > now_ms - MINUTE_MS and self._room(caller, now_ms):
            bisect.insort(self._times.setdefault(caller, collections.deque()), min(at_ms, now_ms))

    def wait_ms(self, caller: str, now_ms: int) -> int:
        """How long until the oldest event no longer counts."""
        times = self._times.get(caller)
        return max(1, times[0] + MINUTE_MS - now_ms) if times else 1

    def _room(self, caller: str, now_ms: int) -> bool:
        if caller in self._times or len(self._times) < self._callers:
            return True
        for idle in [name for name in self._times if self.count(name, now_ms) == 0]:
            del self._times[idle]
        return len(self._times) < self._callers
