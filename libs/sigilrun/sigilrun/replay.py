"""What was used once and must not be used again, remembered for as long as it could be."""

import collections


class ReplayMemory:
    """Ids with the time after which they are refused anyway. Bounded by time: an id lives at most `longest_ms`.

    What was forgotten stays refused: a clock that jumps ahead makes it forget early, and one that is then set back lets none of those in.
    """

    def __init__(self, longest_ms: int) -> None:
        """`longest_ms`: no id is good for longer."""
        self._longest_ms = longest_ms
        self._seen: set[str] = set()
        self._order: collections.deque[tuple[int, str, int]] = collections.deque()  # by the time they were seen
        self._over_ms = -1  # the latest end of what was forgotten

    def first_time(self, one: str, until_ms: int, now_ms: int) -> bool:
        """True the first time; False while the id could still be good elsewhere."""
        self._forget(now_ms)
        if one in self._seen or until_ms < now_ms or until_ms <= self._over_ms:
            return False
        self._seen.add(one)
        # Kept for the longest life from now, whatever the id claims, so that the order of the queue is the order of time.
        self._order.append((now_ms + self._longest_ms, one, until_ms))
        return True

    def __len__(self) -> int:
        """How many are remembered."""
        return len(self._seen)

    def _forget(self, now_ms: int) -> None:
        while self._order and self._order[0][0] < now_ms:
            _, one, until_ms = self._order.popleft()
            self._seen.discard(one)
            self._over_ms = max(self._over_ms, until_ms)
