"""Used once: a bounded memory of names, which fails closed whatever the clock does.

Invariants:

1. A name is accepted at most once, through any jumps of the clock: it is held, or its time is among those that were forgotten, for good.
   What was dated before this process began counts as forgotten.
2. A name is held while its time can be in reach, two windows around the moment of its acceptance.
3. A full memory refuses new names; it never drops one that could still be replayed.
4. A name dated now is fresh as long as the clock only goes on; and after it was set back, except within three windows of where it had
   been, and before this process began. So a clock that ran ahead and was corrected closes nothing but the time that it really showed.

Example: an hour ahead for five minutes with calls, then corrected: those five minutes an hour from now are forgotten, and refused when
they come; until then, and after, calls are as fresh as ever.

A process that begins while the clock is ahead begins to remember there: after the correction it refuses everything until then, or until
the next one begins.

Not covered: a name dated ahead of our clock, used, and presented to another process, or to this one's successor, once its time has come.
"""

import bisect
import collections
import enum

# More than there can be gaps that are as long as they are far from now: each of those doubles the distance, at most 35 times between ten
# seconds and the year 9999, on either side. So a gap that is closed is shorter than its distance.
MOST_RANGES = 80
_FIRST_MS = -(1 << 63)


class Use(enum.Enum):
    """What may be said of a name."""

    FRESH = "fresh"
    STALE = "stale"
    USED = "used"
    FULL = "full"


class OnceOnly:
    """Names with their times, each good within `window_ms` of its time, once."""

    def __init__(self, *, window_ms: int, limit: int, started_ms: int) -> None:
        """`limit` bounds the names held; `started_ms` is when this process began to remember."""
        self._window_ms = window_ms
        self._limit = limit
        self._forgotten = _Forgotten(gap_ms=2 * window_ms, until_ms=started_ms - 1)
        self._names: set[str] = set()
        self._order: collections.deque[tuple[int, str, int]] = collections.deque()  # accepted when, name, its time

    def ask(self, name: str, time_ms: int, now_ms: int) -> Use:
        """Whether a name of this time may be used; changes nothing that an outsider could notice."""
        self._forget(now_ms)
        if abs(now_ms - time_ms) > self._window_ms or time_ms in self._forgotten:
            return Use.STALE
        if name in self._names:
            return Use.USED
        return Use.FULL if len(self._names) >= self._limit else Use.FRESH

    def use(self, name: str, time_ms: int, now_ms: int) -> Use:
        """Use a name if it is fresh."""
        answer = self.ask(name, time_ms, now_ms)
        if answer is Use.FRESH:
            self._names.add(name)
            self._order.append((now_ms, name, time_ms))
        return answer

    def __len__(self) -> int:
        """How many are held."""
        return len(self._names)

    def _forget(self, now_ms: int) -> None:
        # Its time is at most a window from when it was accepted, so it is out of reach by more than another, ahead or behind.
        while self._order and abs(now_ms - self._order[0][0]) > 2 * self._window_ms:
            _, name, time_ms = self._order.popleft()
            self._names.remove(name)
            self._forgotten.add(time_ms, now_ms)


class _Forgotten:
    """Times that were forgotten, as ranges in their order, more than `gap_ms` from each other. It only ever grows."""

    def __init__(self, *, gap_ms: int, until_ms: int) -> None:
        """Everything until then."""
        self._gap_ms = gap_ms
        self._ranges = [(_FIRST_MS, until_ms)]

    def __contains__(self, time_ms: int) -> bool:
        return time_ms <= self._ranges[self._after(time_ms) - 1][1]

    def add(self, time_ms: int, now_ms: int) -> None:
        """Forget a time; it extends the ranges that it is near to, and joins them, or else begins one."""
        low = high = time_ms
        first = last = self._after(time_ms)
        if time_ms - self._ranges[first - 1][1] <= self._gap_ms:
            first -= 1
            low, high = self._ranges[first][0], max(high, self._ranges[first][1])
        if last < len(self._ranges) and self._ranges[last][0] - time_ms <= self._gap_ms:
            high = self._ranges[last][1]
            last += 1
        self._ranges[first:last] = [(low, high)]
        if len(self._ranges) > MOST_RANGES:
            self._close_one(now_ms)

    def _after(self, time_ms: int) -> int:
        """The place of the first range that begins after a time."""
        return bisect.bisect_right(self._ranges, time_ms, key=lambda one: one[0])

    def _close_one(self, now_ms: int) -> None:
        """Close the gap that is shortest for its distance from now: what is left of a jump is long, and begins near."""

        def worth(at: int) -> float:
            begin, end = self._ranges[at - 1][1], self._ranges[at][0]
            return (end - begin) / (1 + max(0, begin - now_ms, now_ms - end))

        at = min(range(1, len(self._ranges)), key=worth)
        self._ranges[at - 1 : at + 1] = [(self._ranges[at - 1][0], self._ranges[at][1])]
