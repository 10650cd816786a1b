"""A view that is fed by the change stream while it serves, and callers who wait until it has seen what they wrote.

Decides how long a reader waits, and for what: a seq beyond the log's own signed size is refused (`BEYOND_HEAD`), one below it is waited for
(`NOT_YET` when that takes too long). What the view holds is always covered by a signed checkpoint; see `consume`.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Protocol

from sigilcore import faults, note
from sigilcore.contracts import canon, common
from sigilcore.refusals import Code, Refused
from sigilrun import consume, telemetry
from sigilrun.bus import Bus

WAIT_S = 2.0  # the longest that a caller waits to read its own write
SETTLE_S = 4.0  # the longest that a call waits for the view to reach the head, after a start

Head = Callable[[], Awaitable[int]]


class Store(Protocol):
    """What is fed: see the laws in `sqlite`."""

    @property
    def at(self) -> consume.Position:
        """How far it has read."""

    def apply(self, events: Sequence[consume.Event], position: consume.Position) -> None:
        """Take these events, which stand right before `position`, or nothing."""


class LiveView:
    """A store behind `consume.View`, with its waiting readers."""

    def __init__(self, name: str, store: Store, head: Head) -> None:
        """`head` tells the log's size now."""
        self.name = name
        self.head = head
        self._store = store
        self._moved = asyncio.Event()

    async def position(self) -> consume.Position:
        """Where to go on."""
        return self._store.at

    async def apply(self, events: Sequence[consume.Event], position: consume.Position) -> None:
        """Into the store; then wake who waits."""
        self._store.apply(events, position)
        self._moved.set()
        self._moved = asyncio.Event()

    async def reach(self, seq: int | None, timeout_s: float = WAIT_S) -> None:
        """Return once the record at `seq` is in the view; at once for None.

        Raises:
            Refused: BEYOND_HEAD, NOT_YET.

        """
        if seq is None or seq < self._store.at.next_seq:
            return
        head = await self.head()
        if seq >= head:
            raise Refused(Code.BEYOND_HEAD, f"the log has {head} records", field="$.wait_for", detail={"head": head})
        await self._until(seq + 1, timeout_s)

    async def reach_head(self, timeout_s: float = SETTLE_S) -> None:
        """Return once the view holds all that the log held when this was called. Raises `Refused`: NOT_YET."""
        await self._until(await self.head(), timeout_s)

    async def hold(self, size: int) -> None:
        """Return once the first `size` records are in the view, however long that takes."""
        while self._store.at.next_seq < size:
            await self._moved.wait()

    async def _until(self, size: int, timeout_s: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self.hold(size)
        position = self._store.at.next_seq
        if position < size:
            raise Refused(
                Code.NOT_YET, f"seen {position} of {size} records", detail={"position": position, "head": size}
            )


def head_of(bus: Bus, opens: consume.Opens) -> Head:
    """The size that the log's own signature states now."""

    async def head() -> int:
        answer = await bus.call(canon.CHECKPOINT, common.Empty())
        try:
            return (await opens(answer.note.encode())).size
        except note.NoteError as error:
            trace_id = telemetry.current_trace_id()
            telemetry.log.critical("checkpoint_forged", reason=str(error), trace_id=trace_id)
            raise faults.Fault(trace_id) from error

    return head


@contextlib.asynccontextmanager
async def feeding(bus: Bus, view: consume.View, *, tenant: str, opens: consume.Opens) -> AsyncIterator[None]:
    """Feed the view while the block runs; then let the batch in work end."""
    stop = asyncio.Event()
    task = asyncio.create_task(
        consume.consume(bus, view, tenant=tenant, log_key=opens, stop=stop), name=f"feed {view.name}"
    )
    try:
        yield
    finally:
        stop.set()
        await task
