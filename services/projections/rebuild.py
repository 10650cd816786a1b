"""Building the view again from the first record, beside the one that is served.

Law: rebuilt from seq 0, a view equals the running one. `rebuild` shows it: it folds the log into a file of its own, each batch under a
signed checkpoint, compares the two entry by entry up to where both have read, and then installs the new one, which is right by
construction. A difference is told with its position, never hidden.
"""

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import msgspec

from services.projections.generations import Generations
from services.projections.rules import Entry
from services.projections.store import Store
from sigilrun import consume, sqlite

Feed = Callable[[consume.View, asyncio.Event], Awaitable[None]]
"""Feeds a view with the log until the event is set."""


class Rebuilt(msgspec.Struct, frozen=True, kw_only=True):
    """What was built, how much of it was compared, and where the old one first differed, if it did."""

    path: Path
    position: int
    digest: str
    compared: int
    differs_at: int | None


class _Building:
    """A view that asks to be fed no more once it has read enough."""

    name = "rebuild"

    def __init__(self, store: Store, size: int) -> None:
        self.enough = asyncio.Event()
        self._store = store
        self._size = size
        self._look()

    async def position(self) -> consume.Position:
        """Where to go on."""
        return self._store.at

    async def apply(self, events: Sequence[consume.Event], position: consume.Position) -> None:
        """Into the new file."""
        self._store.apply(events, position)
        self._look()

    def _look(self) -> None:
        if self._store.at.next_seq >= self._size:
            self.enough.set()


async def rebuild(folder: Path, feed: Feed, size: int) -> Rebuilt:
    """Build the view up to at least `size` records, compare, install. The running one may read on meanwhile, and serves until then."""
    generations = Generations(folder)
    scratch = generations.scratch()
    built = Store(scratch)
    try:
        building = _Building(built, size)
        await feed(building, building.enough)
        position, digest = built.at.next_seq, built.content().digest
        compared, differs_at = compare(generations.current(), built)
    finally:
        built.close()
    path = generations.install(scratch)
    return Rebuilt(path=path, position=position, digest=digest.hex(), compared=compared, differs_at=differs_at)


def compare(running: Path, built: Store) -> tuple[int, int | None]:
    """How far both have read, and the first seq below it where they differ. Nothing to compare with is no difference."""
    try:
        old = Store(running, owned=False)
    except sqlite.Unreadable:
        return 0, None
    try:
        end = min(old.at.next_seq, built.at.next_seq)
        return end, difference(old, built, end)
    finally:
        old.close()


def difference(old: Store, new: Store, end: int) -> int | None:
    """The first seq below `end` where two stores hold different entries; one that lacks entries differs at the first of them. A subject
    that one store has not is no difference: an erasure that the other has not read yet took it."""
    pairs = itertools.zip_longest(old.entries(end), new.entries(end))
    return next((seq for seq, (one, other) in enumerate(pairs) if not _agree(one, other)), None)


def _agree(one: Entry | None, other: Entry | None) -> bool:
    if one is None or other is None or one.space != "user" or (one.subject and other.subject):
        return one == other
    return one._replace(subject="") == other._replace(subject="")
