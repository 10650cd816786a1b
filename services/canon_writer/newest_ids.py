"""Which of the newest ids stand: exact, and without a question to the store.

A UUIDv7 begins with its time (RFC 9562), so a new record's id is greater than nearly all that stand. From a floor on every id that stands
is held here, since this writer alone writes: one that isn't held doesn't stand. Below the floor only the store knows. An author who makes
ids of a far future moves the floor there, and then the store is asked for all others, which is right as well and a little slower.
"""

import heapq
from collections.abc import Collection, Iterable


class NewestIds:
    """The greatest ids that stand, as text in their one spelling, whose order is that of their bytes."""

    def __init__(self, most: int) -> None:
        """At most twice `most` ids are held."""
        self._most = most
        self._floor = ""
        self._held: set[str] = set()

    def begin(self, greatest: Collection[str]) -> None:
        """Forget all, and hold these: the greatest that stand, `most` of them unless there are fewer in all."""
        self._held = set(greatest)
        self._floor = min(greatest) if len(greatest) >= self._most else ""

    def add(self, ids: Iterable[str]) -> None:
        """These stand now too."""
        self._held.update(name for name in ids if name >= self._floor)
        if len(self._held) > 2 * self._most:
            self.begin(heapq.nlargest(self._most, self._held))

    def unsure(self, ids: Iterable[str]) -> set[str]:
        """Those of these that stand, or of which only the store can tell whether they do."""
        return {name for name in ids if name < self._floor or name in self._held}
