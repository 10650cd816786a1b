"""Change events into a view: in order, each once, and only what a signed checkpoint covers.

Invariants:

- the view's position is the only one: it moves in the view's own transaction with what the events changed, and everything starts from it;
- events come in order of seq; older ones are ignored; a hole is filled from the canon before anything after it is applied;
- with `check="tree"`, leaf hashes are recomputed and the tree's root compared with the log's signed checkpoint. Events after the last
  checkpoint that fits wait in memory; the view never sees an event that the log's key doesn't vouch for;
- with `check="signatures"`, for who sees some kinds only: each record's author is checked against the fold of what governs, at its place
  (`authors`);
- a payload belongs to its header by its salted hash; an erased one is None;
- what doesn't verify is loud, moves nothing, and is read again from the canon.

The stream is only the fast way. When it is missing, shorter than the view, silent or strange, `canon/events` is asked, and
it is asked after each quiet spell besides. Who sees some kinds only can't tell a hole from what isn't theirs, so for them a change event
is never more than a knock: what they get is what the canon says, page by page, and so whole. Memory is bounded: the stream hands out at
most a batch at a time, and no more than `WAITING_MOST` events wait for a checkpoint.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Literal, Protocol, TypeVar

import msgspec

from sigilcore import canonical, checkpoint, digest, faults, merkle, note, record, records, vouch
from sigilcore.contracts import canon, common, house
from sigilcore.refusals import Code, Refused
from sigilrun import stream, telemetry
from sigilrun.bus import Bus
from sigilrun.wire import Message

CHECKPOINT = "Sigil-Checkpoint"  # the event header that carries the note in base64
PAGE = 500
IDLE_S = 1.0
# Who is knocked for asks by himself that often: a knock may be lost with a connection, and what others wrote doesn't knock.
UNASKED_S = 2.0
# What comes after rest is taken at once. After a few events a view gathers for a moment before it takes more: a transaction and a
# checkpoint are then paid for many. A reader of its own write waits so much longer at most.
GATHER_S = 0.02
FEW = 100
RETRY_FIRST_S = 0.05
RETRY_MOST_S = 1.0
CORRUPT_RETRY_S = 1.0
# A commit has at most 500 records, so a checkpoint is never further away than that when all is well.
WAITING_MOST = 4000

Check = Literal["tree", "signatures", "none"]
Pager = Callable[[canon.Events], Awaitable[canon.EventPage]]
Opens = Callable[[bytes], Awaitable[checkpoint.Checkpoint]]
"""Reads a signed checkpoint by the key that the log had at its size; raises `note.NoteError`. `Follower.opened` is one."""
T = TypeVar("T")


class Position(msgspec.Struct, frozen=True, kw_only=True):
    """How far a view has read: the next seq, and the tree's frontier there (`merkle.Frontier.to_bytes`; empty where unchecked)."""

    next_seq: int
    frontier: bytes


START = Position(next_seq=0, frontier=merkle.EMPTY.to_bytes())


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """One record at its place. `payload` is JCS, None once erased."""

    seq: int
    header: record.Header
    leaf: bytes
    payload: bytes | None
    salt: str | None

    @property
    def kind(self) -> str:
        """The record's kind; it may be one that this code doesn't know."""
        return self.header.core.kind

    def signed(self) -> record.SignedRecord:
        """The record as its author sent it. Raises `Refused`: NOT_FOUND once erased."""
        if self.payload is None or self.salt is None:
            raise Refused(Code.NOT_FOUND, "the payload was erased")
        return record.SignedRecord(header=msgspec.Raw(self.leaf), payload=msgspec.Raw(self.payload), salt=self.salt)

    def typed(self) -> Any:
        """The payload in its kind's Struct; None once erased. Raises KeyError for an unknown kind."""
        return None if self.payload is None else canonical.stored(self.payload, records.REGISTRY[self.kind].payload)


class View(Protocol):
    """What events change. `apply` is all or nothing, and durable when it returns: the position is part of it."""

    @property
    def name(self) -> str:
        """For logs and metrics."""

    async def position(self) -> Position:
        """Where to go on; `START` at first."""

    async def apply(self, events: Sequence[Event], position: Position) -> None:
        """Take these events, which stand right before `position`."""


class Authorship(Protocol):
    """Says whether these records were written by who could write them there; see `authors`."""

    async def check(self, events: Sequence[Event]) -> None:
        """Raises `Corrupt` at the first that wasn't, `Refused` if that can't be told yet."""


async def consume(
    bus: Bus,
    view: View,
    *,
    tenant: str,
    log_key: str | Opens,
    stop: asyncio.Event,
    batch: int = 500,
    check: Check = "tree",
    authors: Authorship | None = None,
    kinds: Sequence[str] = (),
    pager: Pager | None = None,
    hears: Sequence[str] = (),
) -> None:
    """Feed the view until `stop`. `log_key` opens checkpoints: by the log's key over time, or, given as vkey text, by that one key only,
    and then nothing is believed that its successor signs. `kinds` filters, which leaves nothing to check a tree by: then the
    `authors` say who could write. Outside of the house (see `outside`) there is no stream: `hears` are the subjects that knock.

    Returns after the batch in work when `stop` is set. Nothing else ends it: what fails is tried again.
    """
    if check == "tree" and kinds:
        raise ValueError('a tree can\'t be checked from some of its leaves: with kinds pass check="signatures"')
    if (check == "signatures") != (authors is not None):
        raise ValueError('check="signatures" and authors go together')
    one = _Consumption(
        bus,
        view,
        tenant,
        log_key,
        stop,
        batch=batch,
        check=check == "tree",
        authors=authors,
        kinds=tuple(kinds),
        pager=pager,
        hears=tuple(hears),
    )
    delay_s = RETRY_FIRST_S
    while not stop.is_set():
        try:
            await one.load()
            await one.catch_up()
            delay_s = RETRY_FIRST_S
            await one.follow()
        except _Stopped:
            return
        except faults.Corrupt as corrupt:
            telemetry.log.critical("corrupt_event", view=view.name, position=one.base, reason=str(corrupt))
            bus.metrics.corrupt.labels(view.name).inc()
            delay_s = CORRUPT_RETRY_S
        except Refused as refused:
            say = telemetry.log.error if refused.code is Code.BEYOND_HEAD else telemetry.log.debug
            say("view_waits", view=view.name, position=one.base, code=refused.code, reason=refused.message)
        except (faults.Fault, stream.StreamMissing) as error:
            telemetry.log.debug("view_waits", view=view.name, position=one.base, reason=str(error))
        except Exception:
            telemetry.log.exception("view_failed", view=view.name, position=one.base)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), delay_s)
        delay_s = min(delay_s * 2, max(RETRY_MOST_S, delay_s))


class _Stopped(Exception):  # noqa: N818 - what happened
    """`stop` was set while we waited for the bus."""


class _Consumption:
    """One view's reading: what was applied (`base`, `_tree`), and what waits for its checkpoint (`_waiting`)."""

    def __init__(
        self,
        bus: Bus,
        view: View,
        tenant: str,
        log_key: str | Opens,
        stop: asyncio.Event,
        *,
        batch: int,
        check: bool,
        authors: Authorship | None,
        kinds: tuple[str, ...],
        pager: Pager | None,
        hears: tuple[str, ...],
    ) -> None:
        self.base = 0
        self._bus = bus
        self._view = view
        self._tenant = tenant
        self._opens = by_one_key(log_key) if isinstance(log_key, str) else log_key
        self._stop = stop
        self._batch = batch
        self._check = check
        self._authors = authors
        self._kinds = kinds
        self._hears = hears or tuple(_subjects(tenant, kinds))
        self._pager = pager or self._ask
        self._tree = merkle.EMPTY
        self._waiting: list[Event] = []
        self._leaves: list[bytes] = []
        self._covered = 0  # how many of those waiting a checkpoint covers
        self._ahead = merkle.EMPTY  # the tree with those
        self._next = 0

    async def load(self) -> None:
        """Begin at the view's own position, whatever we held."""
        position = await self._view.position()
        self.base = self._next = position.next_seq
        self._waiting, self._leaves, self._covered = [], [], 0
        if self._check:
            try:
                self._tree = merkle.Frontier.from_bytes(position.frontier)
            except merkle.MerkleError as error:
                raise faults.Corrupt(f"the view's own position: {error}") from error
            if self._tree.size != self.base:
                raise faults.Corrupt(f"the view is at {self.base}, its tree at {self._tree.size}")

    async def catch_up(self) -> None:
        """From the canon, page by page, to its head."""
        while True:
            page = await self._page(PAGE)
            for placed in page.items:
                self._add(placed)
            if self._kinds:
                self._next = max(self._next, page.next)
            if page.checkpoint is not None:
                await self._cover(page.checkpoint)
            await self._apply()
            done = page.next >= page.head or not page.items
            if self._waiting and (done or len(self._waiting) >= WAITING_MOST):
                await self._ask_checkpoint()
            if done:
                return
            if len(self._waiting) >= WAITING_MOST:
                raise faults.Corrupt(f"no checkpoint covers {len(self._waiting)} records after {self.base}")

    async def follow(self) -> None:
        """From the stream, until it is silent while the canon isn't, or there is a hole; or from the canon, at each knock."""
        if self._hears:
            await self._follow_knocks()
            return
        feed = self._bus.read_stream(self._tenant, self._next + 1)
        try:
            while True:
                arrived = await self._unless_stopped(feed.fetch(self._batch, IDLE_S))
                if not (await self._take(arrived) if arrived else await self._quiet()):
                    return
                if 0 < len(arrived) < FEW:
                    await asyncio.sleep(GATHER_S)
        finally:
            await feed.close()

    async def _follow_knocks(self) -> None:
        """The canon, asked whenever something may be new in it. What knocks isn't read: whole is what the canon's pages are."""
        knocked = asyncio.Event()

        def hear(_: Message) -> None:
            knocked.set()

        async with contextlib.AsyncExitStack() as hearing:
            hearing.callback(self._bus.on_reconnect(knocked.set))
            for subject in self._hears:
                hearing.push_async_callback(await self._bus.subscribe(subject, hear))
            while True:
                # Forgotten before the canon is asked: what comes meanwhile is asked for again.
                knocked.clear()
                await self.catch_up()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(UNASKED_S):
                        await self._unless_stopped(knocked.wait())

    async def _take(self, arrived: Sequence[stream.Message]) -> bool:
        """Add what the stream brought; False at a hole, after applying what stands before it."""
        newest, whole = None, True
        for message in arrived:
            placed = _decode(message)
            if placed.seq < self._next:
                continue
            if placed.seq > self._next:
                whole = False
                break
            self._add(placed)
            newest = message.headers.get(CHECKPOINT, newest)
        if newest is not None and self._check:
            await self._cover(_note(newest))
        await self._apply()
        return whole and len(self._waiting) < WAITING_MOST

    async def _quiet(self) -> bool:
        """Nothing came: is there nothing? False if the canon goes on where the stream doesn't."""
        page = await self._page(1)
        if page.items:
            return False
        if self._waiting:
            await self._ask_checkpoint()
        return True

    # What waits.

    def _add(self, placed: record.PlacedRecord) -> None:
        if placed.seq < self._next:
            return
        if placed.seq != self._next and not self._kinds:
            raise faults.Corrupt(f"{placed.seq} where {self._next} was to come")
        event = open_event(placed, whole_tree=self._check)
        self._waiting.append(event)
        if self._check:
            self._leaves.append(merkle.leaf_hash(event.leaf))
        self._next = placed.seq + 1

    async def _cover(self, text: str) -> None:
        """Take a checkpoint: if it speaks of a size that we hold, the roots must be equal."""
        if not self._check:
            return
        try:
            signed = await self._opens(text.encode())
        except note.NoteError as error:
            raise faults.Corrupt(f"checkpoint: {error}") from error
        count = signed.size - self.base
        if not self._covered < count <= len(self._waiting):
            return
        tree = self._tree.extend(self._leaves[:count])
        if tree.root() != signed.root:
            raise faults.Corrupt(f"the tree of {signed.size} records has another root than its checkpoint")
        self._covered, self._ahead = count, tree

    async def _ask_checkpoint(self) -> None:
        answer = await self._unless_stopped(self._bus.call(canon.CHECKPOINT, common.Empty()))
        if self._check:
            await self._cover(answer.note)
        await self._apply()

    async def _apply(self) -> None:
        """Give the view what is covered, a batch at a time. Not interrupted by `stop`."""
        covered = self._covered if self._check else len(self._waiting)
        while covered > 0:
            events = self._waiting[: min(covered, self._batch)]
            tree = self._tree
            if self._check:
                whole = len(events) == covered
                tree = self._ahead if whole else self._tree.extend(self._leaves[: len(events)])
            end = events[-1].seq + 1
            await self._move(events, end if self._check or covered > len(events) else self._next, tree)
            covered -= len(events)
        if self._kinds and self._next > self.base:
            await self._move([], self._next, self._tree)

    async def _move(self, events: list[Event], end: int, tree: merkle.Frontier) -> None:
        frontier = tree.to_bytes() if self._check else b""
        if self._authors is not None and events:
            await self._authors.check(events)
        await self._view.apply(events, Position(next_seq=end, frontier=frontier))
        # The commit point was the view's. What follows is memory, and is loaded from the view if we fall.
        self.base, self._tree = end, tree
        del self._waiting[: len(events)], self._leaves[: len(events)]
        self._covered = max(0, self._covered - len(events))
        self._bus.metrics.position.labels(self._view.name).set(end)

    # The canon.

    async def _page(self, limit: int) -> canon.EventPage:
        return await self._unless_stopped(self._pager(canon.Events(first=self._next, limit=limit, kinds=self._kinds)))

    async def _ask(self, events: canon.Events) -> canon.EventPage:
        return await self._bus.call(canon.EVENTS, events)

    async def _unless_stopped(self, waiting: Awaitable[T]) -> T:
        """What is waited for, unless `stop` is set first."""
        task = asyncio.ensure_future(waiting)
        stopping = asyncio.ensure_future(self._stop.wait())
        try:
            await asyncio.wait((task, stopping), return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                raise _Stopped
            return task.result()
        finally:
            for one in (task, stopping):
                one.cancel()
            await asyncio.gather(task, stopping, return_exceptions=True)


def by_one_key(vkey: str) -> Opens:
    """Opens what this one key signed."""
    key = note.VerifierKey.parse(vkey)

    async def opened(data: bytes) -> checkpoint.Checkpoint:
        return checkpoint.open_signed(data, key)

    return opened


def open_event(placed: record.PlacedRecord, *, whole_tree: bool = True) -> Event:
    """The event of a placed record; its payload is its header's. With `whole_tree` the header itself is proven by the tree.

    Raises:
        Corrupt: header and payload don't belong together, or can't be read.

    """
    leaf = bytes(placed.header)
    try:
        if whole_tree:
            header = msgspec.json.decode(leaf, type=record.Header)
        else:
            header, _ = record.open_header(leaf)
        if placed.salt is None:
            return Event(seq=placed.seq, header=header, leaf=leaf, payload=None, salt=None)
        payload = bytes(placed.payload)
        if digest.payload_hash(bytes.fromhex(placed.salt), payload) != header.core.payload_hash:
            raise faults.Corrupt(f"the payload of {placed.seq} is not its header's")
    except (msgspec.DecodeError, UnicodeDecodeError, ValueError, Refused) as error:
        raise faults.Corrupt(f"the record at {placed.seq}: {error}") from error
    return Event(seq=placed.seq, header=header, leaf=leaf, payload=payload, salt=placed.salt)


def _subjects(tenant: str, kinds: tuple[str, ...]) -> list[str]:
    """Where change events of these kinds are published; a kind that this code doesn't know may stand in any space."""
    return [
        house.event_subject(tenant, records.REGISTRY[kind].space if kind in records.REGISTRY else "*", kind)
        for kind in kinds
    ]


def _decode(message: stream.Message) -> record.PlacedRecord:
    try:
        placed = vouch.read(message.data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise faults.Corrupt(f"event {message.stream_seq} of the stream: {error}") from error
    if placed.seq + 1 != message.stream_seq:
        raise faults.Corrupt(f"seq {placed.seq} stands at {message.stream_seq} of the stream")
    return placed


def _note(header: str) -> str:
    try:
        return note.parse_base64(header).decode()
    except (note.NoteError, UnicodeDecodeError) as error:
        raise faults.Corrupt(f"{CHECKPOINT}: not a note in base64") from error
