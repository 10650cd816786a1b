"""Which version of each thing is the newest, now: the view's answer, and what this process wrote that the view hasn't seen.

Invariants:

- writes of one thing take turns here, so two calls never build on the same head;
- before the first write, and after a write whose outcome nobody knows, the view must have reached the log's head;
- what the view has seen is forgotten here, so memory holds the writes of a moment.

Another instance of this service may still write in between. Then the writer refuses with the head it knows.
"""

import asyncio
import contextlib
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable

from services.knowledge.store import Store
from services.knowledge.things import Thing
from sigilcore.refusals import Code, Refused


class Heads:
    """The newest versions, for writers."""

    def __init__(self, store: Store, reach_head: Callable[[], Awaitable[None]]) -> None:
        """`reach_head` returns once the view holds all that the log held when it was called."""
        self._store = store
        self._reach_head = reach_head
        self._doubts = 1
        self._cleared = 0
        self._recent: dict[Thing, tuple[int, str]] = {}
        self._recent_ids: dict[str, int] = {}
        self._turns: weakref.WeakValueDictionary[Thing, asyncio.Lock] = weakref.WeakValueDictionary()

    @contextlib.asynccontextmanager
    async def turn(self, things: Iterable[Thing]) -> AsyncIterator[None]:
        """Alone with these things; always taken in one order, so that nobody waits in a circle."""
        async with contextlib.AsyncExitStack() as stack:
            for thing in sorted(set(things)):
                lock = self._turns.get(thing)
                if lock is None:
                    lock = self._turns[thing] = asyncio.Lock()
                await stack.enter_async_context(lock)
            await self._settle()
            try:
                yield
            except BaseException:
                self.unsettle()
                raise

    def of(self, thing: Thing) -> str | None:
        """The hash of the thing's newest version."""
        recent = self._recent.get(thing)
        if recent is not None and recent[0] >= self._store.at.next_seq:
            return recent[1]
        return self._store.head(thing)

    def knows(self, record_id: str) -> bool:
        """True if a record of this id is known to stand in the log."""
        return record_id in self._recent_ids or self._store.knows(record_id)

    def wrote(self, thing: Thing, record_id: str, seq: int, record_hash: str) -> None:
        """A record stands at its place."""
        if seq >= self._forget_seen():
            self._recent_ids[record_id] = seq
            if seq >= self._recent.get(thing, (0, ""))[0]:
                self._recent[thing] = (seq, record_hash)

    def unsettle(self) -> None:
        """Something may have been written that we don't know of."""
        self._doubts += 1

    async def settle_anew(self) -> None:
        """Return once the view holds all that the log holds now. Raises `Refused`: UNAVAILABLE."""
        self.unsettle()
        await self._settle()

    async def _settle(self) -> None:
        while self._cleared < self._doubts:
            doubts = self._doubts
            try:
                await self._reach_head()
            except Refused as refused:
                raise Refused(Code.UNAVAILABLE, f"not caught up yet: {refused.message}") from refused
            self._cleared = max(self._cleared, doubts)

    def _forget_seen(self) -> int:
        """Whatever the view has seen by now; how far that is."""
        seen = self._store.at.next_seq
        for thing, (seq, _) in list(self._recent.items()):
            if seq < seen:
                del self._recent[thing]
        for name, seq in list(self._recent_ids.items()):
            if seq < seen:
                del self._recent_ids[name]
        return seen
