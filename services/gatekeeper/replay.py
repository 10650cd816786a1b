"""Used once: a bounded memory of names, which fails closed.

Invariants:

1. A name is accepted at most once while its time is within the window.
2. What was forgotten is refused: everything at or before the newest forgotten time, so neither a clock that jumps back nor a full
   memory lets a name in again. What was signed before this process began counts as forgotten.
3. A full memory refuses new names; it never drops one that could still be replayed.

Not covered: a name dated ahead of our clock, used, and presented again to another or a restarted gatekeeper within the window.
"""

import collections
import enum


class Use(enum.Enum):
    """What may be said of a name."""

    FRESH = "fresh"
    STALE = "stale"
    USED = "used"
    FULL = "full"


class OnceOnly:
    """Names with their times, kept for as long as their time is within `window_ms` of now."""

    def __init__(self, *, window_ms: int, limit: int, started_ms: int) -> None:
        """`limit` bounds the names held; `started_ms` is when this process began to remember."""
        self._window_ms = window_ms
        self._limit = limit
        self._forgotten_ms = started_ms - 1
        self._names: dict[str, None] = {}
        self._order: collections.deque[tuple[int, str, int]] = collections.deque()

    def ask(self, name: str, time_ms: int, now_ms: int) -> Use:
        """Whether a name of this time may be used; changes nothing that an outsider could notice."""
        self._forget(now_ms)
        if abs(now_ms - time_ms) > self._window_ms or time_ms <= self._forgotten_ms:
            return Use.STALE
        if name in self._names:
            return Use.USED
        return Use.FULL if len(self._names) >= self._limit else Use.FRESH

    def use(self, name: str, time_ms: int, now_ms: int) -> Use:
        """Use a name if it is fresh."""
        answer = self.ask(name, time_ms, now_ms)
        if answer is Use.FRESH:
            self._names[name] = None
            # It was accepted at most a window before its time, so after two windows its time is out of reach.
            self._order.append((now_ms + 2 * self._window_ms, name, time_ms))
        return answer

    def _forget(self, now_ms: int) -> None:
        while self._order and self._order[0][0] < now_ms:
            _, name, time_ms = self._order.popleft()
            del self._names[name]
            self._forgotten_ms = max(self._forgotten_ms, time_ms)
