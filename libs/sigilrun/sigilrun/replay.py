"""What was used once and must not be used again, remembered for as long as it could be."""

import collections


class ReplayMemory:
    """Ids with the time after which they are refused anyway. Bounded by time: an id lives at most `longest_ms`."""

    def __init__(self, longest_ms: int) -> None:
        """`longest_ms`: no id is good for longer."""
        self._longest_ms = longest_ms
        self._seen: set[str] = set()
        self._order: collections.deque[tuple[int, str]] = collections.deque()  # by the time they were seen

    def first_time(self, one: str, until_ms: int, now_ms: int) -> bool:
        """True the first time; False while the id could still be good elsewhere."""
        self._forget(now_ms)
        if one in self._seen or until_ms < now_ms:
            return False
        self._seen.add(one)
        # Kept for the longest life from now, whatever the id claims, so that the order of the queue is the order of time.
        self._order.append((now_ms + self._longest_ms, one))
        return True

    def __len__(self) -> int:
        """How many are remembered."""
        return len(self._seen)

    def _forget(self, now_ms: int) -> None:
        while self._order and self._order[0][0] < now_ms:
            self._seen.discard(self._order.popleft()[1])
