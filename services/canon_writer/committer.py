"""Group commit: the one loop that turns calls into the next piece of the log.

While one transaction is in flight, arrivals queue; the next takes them all, up to a bound, without a timer. What needs no state is
checked at arrival; what needs it is checked here, in order, on a fold that only this loop moves.

Where safety happens:

- **The commit point** is `Store.commit`. Before it nothing happened, and the author may send the same bytes again. After it the same
  bytes are answered with their first place. A crash on either side needs no repair.
- After an unknown outcome, and after any error, everything in memory is dropped and loaded anew; then the calls that waited are simply
  taken again, and those that were written after all are found by their ids.
- **Never back.** If the log that is loaded is shorter than anything this process, its high-water file or the change stream has seen,
  or its tree isn't the one that the last checkpoint signs, nothing is written any more, and every call is told so.
- A writer whose epoch is over stops for good.
"""

import asyncio
import collections
from collections.abc import Awaitable, Callable, Collection, Hashable, Iterable, Sequence
from typing import Generic, TypeVar

import msgspec

from services.canon_writer import room, rules, tree
from services.canon_writer.laws import (
    Batch,
    Broken,
    Fenced,
    Full,
    Head,
    Lost,
    Moved,
    Ref,
    Row,
    Store,
    StoreError,
    thing_of,
)
from services.canon_writer.newest_ids import NewestIds
from sigilcore import admission, checkpoint, clock, faults, note, record, refusals, signing
from sigilcore.contracts import canon, house
from sigilcore.governance import Governance
from sigilcore.refusals import Code, Refused
from sigilrun import telemetry

_UNKNOWN = {"outcome": "unknown"}

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")

Successor = Callable[[bytes], signing.Signer | None]
"""The signer with this public key, if the keystore holds it: a key of the log that came after genesis's."""

Floor = Callable[[Head], Awaitable[str | None]]
"""Says why this head can't be the log's, or None."""


class Bounds(msgspec.Struct, frozen=True, kw_only=True):
    """What the loop takes on, each with its reason."""

    batch_records: int = 500  # a commit of this size takes about 10 ms; larger ones gain nothing
    waiting_records: int = 4_000  # eight commits; whoever comes later hears BUSY at once
    waiting_bytes: int = 64 * 1024 * 1024  # memory that callers can make us hold
    reserved_records: int = 500  # one commit more, for calls that brake or carry a quorum; they are committed first
    reserved_bytes: int = 8 * 1024 * 1024  # two of the largest calls
    call_bytes: int = 4 * 1024 * 1024  # the contract's bound of one call
    wait_s: float = 8.0  # below the callers' own deadline, so that they hear from us
    retry_first_s: float = 0.1
    retry_most_s: float = 2.0
    recent: int = 20_000  # decisions, thing heads and ids remembered


class Committed(msgspec.Struct, frozen=True, kw_only=True):
    """One commit, for those who come after it: the publisher, the high-water file."""

    rows: tuple[Row, ...]
    size: int
    note: bytes


class _Waiting(msgspec.Struct, kw_only=True):
    call: rules.Call
    answer: asyncio.Future[canon.Appended]
    until: float
    size_bytes: int


class Committer:
    """Admits and commits; owns the fold, the tree's edge and the store's one connection."""

    def __init__(
        self,
        store: Store,
        *,
        signer: signing.Signer,
        deployment: rules.Deployment,
        clock: clock.Clock,
        bounds: Bounds | None = None,
        floors: Iterable[Floor] = (),
        on_commit: Callable[[Committed], None] = lambda _: None,
        successor: Successor = lambda _: None,
        on_read_only: Callable[[str], None] = lambda _: None,
        disk_low: Callable[[], bool] = lambda: False,
    ) -> None:
        """Nothing is loaded yet; call `load`, then `run`. `signer` is the log's key since genesis; `successor` finds later ones."""
        self._disk_low = disk_low
        self.state = Governance()
        self.head = Head(size=0, note=b"")
        self.read_only: str | None = None
        self.fenced = asyncio.Event()
        self._store = store
        self._signer = signer
        self._successor = successor
        self._deployment = deployment
        self._clock = clock
        self._bounds = bounds or Bounds()
        self._floors = list(floors)
        self._on_commit = on_commit
        self._on_read_only = on_read_only
        self._edge = tree.Edge()
        self._tiles = tree.Tiles(store)
        self._highest = 0
        self._first: collections.deque[_Waiting] = collections.deque()  # what brakes or carries a quorum
        self._queue: collections.deque[_Waiting] = collections.deque()
        self._waiting_records = 0
        self._waiting_bytes = 0
        self._arrived = asyncio.Event()
        self._decisions: _Recent[Ref, admission.DecisionRow] = _Recent(self._bounds.recent)
        self._heads: _Recent[bytes, str] = _Recent(self._bounds.recent)
        self._ids = NewestIds(self._bounds.recent)

    # What callers ask.

    async def append(self, request: canon.Append) -> canon.Appended:
        """Append one call's records; returns when they are durable."""
        self._refuse_stopped()
        size_bytes = sum(len(bytes(one.header)) + len(bytes(one.payload)) for one in request.records)
        if size_bytes > self._bounds.call_bytes:
            raise Refused(Code.BODY_TOO_LARGE, f"one call holds at most {self._bounds.call_bytes} bytes")
        # Only what fits at least the reserve is looked at any closer.
        self._refuse_full(len(request.records), size_bytes, reserved=True)
        return await self._enqueue(rules.proven(rules.open_call(request), self.state), size_bytes)

    async def bootstrap(self, request: canon.BootstrapAppend) -> canon.Appended:
        """Commit record 0; the same bytes again are answered with the same place."""
        self._refuse_stopped()
        checked = record.check(request.record)
        rules.check_token(request.token, checked.payload, self._deployment.bootstrap_token_hash)
        call = rules.open_call(canon.Append(records=(request.record,)), genesis=True)
        answer = await self._enqueue(call, len(checked.leaf) + len(checked.payload_bytes))
        refusal = answer.results[0].refusal
        if refusal is not None:
            raise refusals.raised(refusal)
        return answer

    def never_below(self, floor: Floor) -> None:
        """Ask one more witness of the past at each load."""
        self._floors.append(floor)

    def turn_read_only(self, reason: str) -> None:
        """Write nothing any more; only an operator and a new start end this."""
        if self.read_only is None:
            self.read_only = reason
            telemetry.log.critical("read_only", reason=reason, size=self.head.size)
            self._on_read_only(reason)
        self._refuse_waiting(Refused(Code.READ_ONLY, self.read_only))

    # The loop.

    async def load(self) -> None:
        """Become the writer and load the fold; raises `Lost`, and `Fenced` if the right to write is gone."""
        self._decisions.clear()
        self._heads.clear()
        self._tiles = tree.Tiles(self._store)
        try:
            await self._store.open()
            head = await self._store.head()
            self._ids.begin(await self._store.greatest_ids(self._bounds.recent))
            state = await load_state(self._store)
            edge = await load_edge(self._tiles, head, state)
        except Broken as broken:
            self.turn_read_only(str(broken))
            return
        self.state, self._edge, self.head = state, edge, head
        await self._check_floors(head)
        self._highest = max(self._highest, head.size)
        telemetry.log.info("loaded", size=head.size, governing=state.size, bootstrapped=state.bootstrapped)

    async def run(self) -> None:
        """Commit what arrives, until cancelled or fenced."""
        while not self.fenced.is_set():
            await self._arrived.wait()
            batch = self._take()
            if not batch:
                self._arrived.clear()
                continue
            try:
                await self._commit(batch)
            except Fenced as error:
                self.stop_for_good(str(error), batch)
            except Full as error:
                telemetry.log.critical("disk_full", error=str(error), calls=len(batch))
                for one in batch:
                    _fail(one.answer, Refused(Code.DISK_LOW, "the database's disk is full; nothing was written"))
                await self._recover()
            except (Lost, Moved) as error:
                telemetry.log.warning("commit_unknown", error=str(error), calls=len(batch))
                self._put_back(batch)
                await self._recover()
            except Exception as error:
                # A fault of ours: the fold may have moved. The callers hear a fault; what is in memory is dropped.
                telemetry.log.exception("commit_failed")
                for one in batch:
                    _fail(one.answer, error)
                await self._recover()

    async def _commit(self, batch: Sequence[_Waiting]) -> None:
        found = await self._look_up([one.call for one in batch])
        now_ms = self._clock.now_ms()
        draft = rules.Draft(
            self.state,
            self.head.size,
            found,
            now_ms,
            self._deployment,
            log_signer=self._log_signer,
            disk_low=self._disk_low(),
        )
        results = [draft.take(one.call) for one in batch]
        growth = self._edge.grow(draft.leaves)
        if draft.rows:
            signed = self._sign(growth.edge)
            # The commit point. A crash before it: nothing happened. After it: the records stand, and the same bytes find their place.
            await self._store.commit(
                Batch(
                    size=self.head.size,
                    rows=tuple(draft.rows),
                    uses=tuple(draft.uses),
                    tiles=growth.tiles,
                    note=signed,
                )
            )
            self._settle(draft, growth.edge, signed)
        for one, result in zip(batch, results, strict=True):
            await self._answer(one, result, growth)

    def _settle(self, draft: rules.Draft, edge: tree.Edge, signed: bytes) -> None:
        """Memory follows what is durable now."""
        self._edge = edge
        self.head = Head(size=edge.size, note=signed)
        self._highest = edge.size
        for row in draft.decisions:
            self._decisions.put((row.record, row.index), row)
        for use in draft.uses:
            if (used := self._decisions.get(use.ref)) is not None:
                self._decisions.put(use.ref, msgspec.structs.replace(used, used_by=use.by))
        self._ids.add(stored.id for stored in draft.rows)
        for stored in draft.rows:
            if stored.thing is not None:
                self._heads.put(stored.thing, stored.hash.hex())
        self._on_commit(Committed(rows=tuple(draft.rows), size=edge.size, note=signed))

    async def _answer(self, one: _Waiting, results: tuple[canon.AppendResult, ...], growth: tree.Growth) -> None:
        """The receipt: every place with its proof at the head. Proofs of older places are read from the tiles."""
        if not self.head.size:
            _fail(one.answer, _first_refusal(results))
            return
        places = rules.places(results)
        old = tree.runs(seq for seq in places if seq < growth.base)
        proofs = []
        for first, count in (*old, *tree.runs(seq for seq in places if seq >= growth.base)):
            if first >= growth.base:
                path = growth.appender.range_path(first, count)
            else:
                path = await self._tiles.range_path(first, count, self.head.size)
            proofs.append(tree.range_proof(first, count, self.head.size, path))
        if not one.answer.done():
            one.answer.set_result(
                canon.Appended(results=results, checkpoint=self.head.note.decode(), proofs=tuple(proofs))
            )

    async def _look_up(self, calls: Sequence[rules.Call]) -> rules.Found:
        """What the store knows of these calls; what is in memory isn't asked again."""
        checked = [(call, one) for call in calls for one in call.checked]
        effects = [(call, one) for call, one in checked if one.kind.effect]
        named = [(one, thing) for _, one in effects if (thing := thing_of(one)) is not None]
        heads = self._heads.known({thing for _, thing in named})
        absent = {thing for _, thing in named if thing not in heads}
        unsure = self._ids.unsure({one.core.id for _, one in checked} | rules.named_ids(checked))
        rows: Sequence[Row] = ()
        if unsure or absent:
            stand = await self._store.standing(unsure, absent)
            heads |= stand.heads
            rows = await self._store.by_ids(stand.ids) if stand.ids else ()
        known = {row.id: rules.Known(seq=row.seq, checked=_recheck(row)) for row in rows}
        refs = {
            ref for call, one in effects if one.core.id not in known and (ref := rules.ref_of(call, one)) is not None
        }
        decisions = self._decisions.known(refs)
        if missing := refs - decisions.keys():
            read = await self._store.decisions(missing)
            decisions |= {(row.record, row.index): row for row in read}
        ending = {thing for one, thing in named if one.kind.erases and one.core.id not in known}
        versions = await self._store.live(ending) if ending else {}
        return rules.Found(known=known, decisions=decisions, thing_heads=heads, versions=versions)

    # The queue.

    async def _enqueue(self, call: rules.Call, size_bytes: int) -> canon.Appended:
        loop = asyncio.get_running_loop()
        reserved = _reserved(call)
        self._refuse_full(len(call.records), size_bytes, reserved=reserved)
        waiting = _Waiting(
            call=call,
            answer=loop.create_future(),
            until=loop.time() + self._bounds.wait_s,
            size_bytes=size_bytes,
        )
        (self._first if reserved else self._queue).append(waiting)
        self._count(waiting, +1)
        self._arrived.set()
        return await waiting.answer

    def _take(self) -> list[_Waiting]:
        """All that has arrived, up to the bound of one commit; a caller who has gone is forgotten."""
        batch: list[_Waiting] = []
        records = 0
        for queue in (self._first, self._queue):
            while queue and (not batch or records + len(queue[0].call.records) <= self._bounds.batch_records):
                one = queue.popleft()
                self._count(one, -1)
                if not one.answer.done():
                    batch.append(one)
                    records += len(one.call.records)
        return batch

    def _put_back(self, batch: Sequence[_Waiting]) -> None:
        for one in reversed(batch):
            self._first.appendleft(one)
            self._count(one, +1)
        self._arrived.set()

    def _count(self, one: _Waiting, sign: int) -> None:
        self._waiting_records += sign * len(one.call.records)
        self._waiting_bytes += sign * one.size_bytes

    def _refuse_full(self, records: int, size_bytes: int, *, reserved: bool) -> None:
        bounds = self._bounds
        most_records = bounds.waiting_records + (bounds.reserved_records if reserved else 0)
        most_bytes = bounds.waiting_bytes + (bounds.reserved_bytes if reserved else 0)
        if self._waiting_records + records > most_records or self._waiting_bytes + size_bytes > most_bytes:
            raise Refused(Code.BUSY, "the writer's queue is full")

    def _refuse_stopped(self) -> None:
        if self.read_only is not None:
            raise Refused(Code.READ_ONLY, self.read_only)
        if self.fenced.is_set():
            # The other one hears the same call, and may have written.
            raise Refused(Code.UNAVAILABLE, "another writer has taken over", detail=_UNKNOWN)

    def _refuse_waiting(self, refused: Refused) -> None:
        for one in self._take_all():
            _fail(one.answer, refused)

    def _take_all(self) -> list[_Waiting]:
        everyone = [*self._first, *self._queue]
        self._first.clear()
        self._queue.clear()
        self._waiting_records = self._waiting_bytes = 0
        return everyone

    # Recovery: the ordinary start, again.

    async def _recover(self) -> None:
        delay_s = self._bounds.retry_first_s
        while self.read_only is None:
            try:
                await self.load()
            except Fenced as error:
                self.stop_for_good(str(error))
                return
            except StoreError as error:
                telemetry.log.warning("store_down", error=str(error), retry_s=delay_s)
                self._expire()
                await asyncio.sleep(delay_s)
                delay_s = min(delay_s * 2, self._bounds.retry_most_s)
            else:
                self._expire()
                return

    def _expire(self) -> None:
        """Nobody waits without a bound. Their records may or may not stand: only the same bytes, sent again, tell."""
        now = asyncio.get_running_loop().time()
        late = Refused(
            Code.UNAVAILABLE, "the store didn't answer in time; send the same records again", detail=_UNKNOWN
        )
        keep = []
        for one in self._take_all():
            if one.until <= now:
                _fail(one.answer, late)
            else:
                keep.append(one)
        self._put_back(keep)

    def stop_for_good(self, reason: str, batch: Sequence[_Waiting] = ()) -> None:
        """Another writer has taken over: refuse what waits, and write no more."""
        telemetry.log.critical("fenced", reason=reason)
        self.fenced.set()
        self._put_back(batch)
        self._refuse_waiting(
            Refused(Code.UNAVAILABLE, "another writer has taken over; send the same records again", detail=_UNKNOWN)
        )

    async def _check_floors(self, head: Head) -> None:
        if head.size < self._highest:
            self.turn_read_only(f"the store holds {head.size} records; this process committed {self._highest}")
        for floor in self._floors:
            reason = await floor(head)
            if reason is not None:
                self.turn_read_only(reason)

    # The checkpoint.

    def _sign(self, edge: tree.Edge) -> bytes:
        origin = house.origin(self.state.runtime_id, self.state.tenant)
        signer = self._log_signer(self.state.log_key_at(edge.size).public_key)
        if signer is None:
            raise faults.Corrupt("the keystore doesn't hold the key that the log names for its checkpoints")
        return checkpoint.sign(checkpoint.Checkpoint(origin, edge.size, edge.frontier.root()), signer)

    def _log_signer(self, public: bytes) -> signing.Signer | None:
        """The signer of checkpoints with this public key, if there is one here."""
        return self._signer if public == self._signer.public_key else self._successor(public)


async def load_state(store: Store) -> Governance:
    """The fold of every governing row, each checked and admitted as it was the first time. Raises `Broken`."""
    state = Governance()
    count = 0
    async for row in store.governing():
        try:
            checked = record.check(row.signed())
            admission.admit_governing(state, checked)
        except Refused as refused:
            raise Broken(f"the record at {row.seq} doesn't verify: {refused}") from refused
        state.apply(row.seq, checked)
        count += 1
        if count % 64 == 0:
            await asyncio.sleep(0)
    speaking = [name for name, entry in state.keys.items() if entry.active and entry.role in {"service", "instance"}]
    state.chains.update(await store.chain_heads(speaking))
    return state


async def load_edge(tiles_of: tree.Tiles, head: Head, state: Governance) -> tree.Edge:
    """The tree's edge, proven against the last signed checkpoint. Raises `Broken`."""
    if head.size == 0:
        return tree.Edge()
    if not state.bootstrapped:
        raise Broken("there are records and no genesis")
    try:
        signed = checkpoint.open_by_size(head.note, state.log_key_at)
        edge = await tiles_of.edge(head.size)
    except (note.NoteError, ValueError) as error:
        raise Broken(f"the last checkpoint or its tiles can't be read: {error}") from error
    if signed.size != head.size or signed.origin != house.origin(state.runtime_id, state.tenant):
        raise Broken(f"the last checkpoint is of {signed.origin} and size {signed.size}, not {head.size}")
    if edge.frontier.root() != signed.root:
        raise Broken(f"the tree of {head.size} records isn't the one that the last checkpoint signs")
    return edge


class _Recent(Generic[Key, Value]):
    """A bounded memory of what was written last; the store is asked for the rest."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._table: collections.OrderedDict[Key, Value] = collections.OrderedDict()

    def put(self, key: Key, value: Value) -> None:
        self._table[key] = value
        self._table.move_to_end(key)
        if len(self._table) > self._most:
            self._table.popitem(last=False)

    def get(self, key: Key) -> Value | None:
        return self._table.get(key)

    def known(self, keys: Collection[Key]) -> dict[Key, Value]:
        return {key: self._table[key] for key in keys if key in self._table}

    def clear(self) -> None:
        self._table.clear()


def _recheck(row: Row) -> record.Checked:
    """A stored record, as good as on the day it came; raises `faults.Corrupt`."""
    try:
        return record.check_placed(row.placed())
    except Refused as refused:
        raise faults.Corrupt(f"the record at {row.seq} doesn't verify: {refused}") from refused


def _reserved(call: rules.Call) -> bool:
    """True for a call that carries anything with room of its own: an author sends what waited together, and it must not be held up."""
    return any(room.is_reserved(one) for one in call.checked)


def _first_refusal(results: Sequence[canon.AppendResult]) -> Refused:
    """Before genesis there is no checkpoint to answer with, so the refusal is the answer."""
    refusal = next((result.refusal for result in results if result.refusal is not None), None)
    if refusal is None:
        return Refused(Code.NOT_BOOTSTRAPPED, "the canon has no genesis yet")
    return refusals.raised(refusal)


def _fail(answer: asyncio.Future[canon.Appended], error: BaseException) -> None:
    """Answer with a refusal or a fault, if anyone still waits."""
    if not answer.done():
        answer.set_exception(error)
