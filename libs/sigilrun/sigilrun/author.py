"""Writing into the canon on a service's behalf: signed, chained, sent until answered, believed only when proven.

Invariants:

- audit records are signed by an instance key of this process's own, which `introduce` lets the service key vouch for; each continues
  that key's chain, so there is one batch in flight and never a fork;
- a batch whose outcome is unknown is resolved by sending the very same bytes again: a caller may give up, the chain doesn't;
- a refused record is taken out, the rest are chained anew, its caller hears the refusal, and `append_refused` is recorded;
- effects go alone: one may turn out to repeat an earlier call, and then its record isn't written and nothing may chain on it;
- every receipt is verified (`receipt`) before anyone hears of a place. A bad one is loud, and its batch is asked again.

A full queue answers BUSY at once: nothing was signed, so nothing happens. `RESERVED_AUDITS` places beyond it, and the front of the queue,
are kept for records that brake or carry a quorum (`house.RESERVED_KINDS`). Person-signed and system records pass through `append_signed`
with the same checks.
"""

import asyncio
import collections
import contextlib
import secrets
import time
from collections.abc import Iterable, Iterator, Sequence

import msgspec

from sigilcore import checkpoint, clock, digest, faults, ids, merkle, note, record, records, signing
from sigilcore.contracts import canon, common, house
from sigilcore.decision import DecisionRef
from sigilcore.records import audit
from sigilcore.refusals import Code, Refusal, Refused, raised
from sigilrun import receipt, settings, telemetry
from sigilrun.bus import Bus
from sigilrun.follow import Follower

BATCH_MOST = 500
RESERVED_AUDITS = 64  # places; each waits for one append at most, and nobody revokes or attests faster than that
BATCH_BYTES = 4 * 1024 * 1024 - 64 * 1024  # the writer's bound for one call, less its envelope
RETRY_FIRST_S = 0.02
RETRY_MOST_S = 1.0
# The writer didn't say what became of the records: ask again with the same bytes.
_UNANSWERED = frozenset({Code.UNAVAILABLE, Code.BUSY, Code.NOT_YET})
_PAST = frozenset({Code.KEY_NOT_ALLOWED, Code.STALE_PREV})


class UserDraft(msgspec.Struct, frozen=True, kw_only=True):
    """One user record to write: its payload, its id (the idempotency key), the hash of the thing's version before.

    `after`: the version before is this earlier draft of the same call, whose hash nobody knows until it is signed.
    """

    kind: str
    payload: msgspec.Struct
    id: str
    prev: str | None
    after: int | None = None


class Receipt(msgspec.Struct, frozen=True, kw_only=True):
    """Verified: what became of each record, and the proof that travels with it."""

    results: tuple[canon.AppendResult, ...]
    checkpoint: str
    proofs: tuple[canon.RangeProof, ...]

    def placed(self) -> list[common.Placed]:
        """All places, in order; raises the first refusal."""
        return [_place(result) for result in self.results]


class _Item:
    """An audit record waiting for its place."""

    def __init__(self, kind: str, payload: msgspec.Struct, name: str, links: tuple[record.Link, ...]) -> None:
        self.kind = kind
        self.payload = payload
        self.id = name
        self.links = links
        self.alone = records.REGISTRY[kind].effect
        self.bytes = len(msgspec.json.encode(payload)) + 1024
        self.done: asyncio.Future[common.Placed] = asyncio.get_running_loop().create_future()
        # Who gave up doesn't read the outcome; nobody is to be told of it then.
        self.done.add_done_callback(lambda done: done.cancelled() or done.exception())


class _Queue:
    """Records that wait, those with room of their own before all others."""

    def __init__(self) -> None:
        self._reserved: collections.deque[_Item] = collections.deque()
        self._others: collections.deque[_Item] = collections.deque()

    def __len__(self) -> int:
        return len(self._reserved) + len(self._others)

    def __iter__(self) -> Iterator[_Item]:
        yield from self._reserved
        yield from self._others

    @property
    def first(self) -> _Item:
        return (self._reserved or self._others)[0]

    def append(self, item: _Item) -> None:
        (self._reserved if item.kind in house.RESERVED_KINDS else self._others).append(item)

    def popleft(self) -> _Item:
        return (self._reserved or self._others).popleft()

    def put_back(self, items: Sequence[_Item]) -> None:
        self._reserved.extendleft(reversed(items))

    def clear(self) -> None:
        self._reserved.clear()
        self._others.clear()


class Author:
    """A service's hand. `introduce` before `audit`; `close` says goodbye."""

    def __init__(
        self,
        bus: Bus,
        signer: signing.Signer,
        follower: Follower,
        options: settings.Settings,
        *,
        resident: str,
        clock: clock.Clock,
    ) -> None:
        """`signer` is the service's key; the instance key is made here and lives in memory only."""
        self.lost = asyncio.Event()  # set when the log lets this instance speak no more
        self._bus = bus
        self._signer = signer
        self._follower = follower
        self._options = options
        self._resident = resident
        self._instance = options.service.instance
        self._clock = clock
        self._tenant = options.deployed.tenant
        self._key = signing.Ed25519Signer.generate()
        self._opened: common.Placed | None = None
        self._introduced = asyncio.Event()
        self._head: str | None = None
        self._written = 0
        self._beaten = 0
        self._queue = _Queue()
        self._sent: list[_Item] = []
        self._waiting = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        follower.on_change(self._notice)

    @property
    def key_id(self) -> str:
        """The instance key's id."""
        return self._key.key_id

    # What services ask.

    async def introduce(self) -> common.Placed:
        """Let the service key vouch for this instance's key; then `audit` works. Again after a failure, it goes on where it was."""
        if self._opened is None:
            self._opened = await self._open()
        await self._follower.wait_for(self._opened.seq + 1, timeout_s=10.0)
        if not self._introduced.is_set():
            self._introduced.set()
            self._tasks = [
                asyncio.create_task(self._write(), name="author"),
                asyncio.create_task(self._beat(), name="beat"),
            ]
        return self._opened

    async def _open(self) -> common.Placed:
        """Append `instance_opened`, on the service key's own chain as the log has it."""
        payload = audit.InstanceOpened(
            service=self._resident,
            instance=self._instance,
            key=self._key.public_key.hex(),
            settings_digest=settings.digest_hex(self._options),
        )
        name, head = ids.new(), self._follower.state.chains.get(self._signer.key_id)
        while True:
            signed = self._build("instance_opened", payload, name, "audit", self._signer, prev=head)
            (result,) = (await self._append_until_answered([signed], None)).results
            if result.refusal is None:
                return _place(result)
            # Another instance of this service was introduced meanwhile: the refusal names its record.
            newer = (result.refusal.detail or {}).get("head")
            if result.refusal.code is not Code.STALE_PREV or newer == head:
                raise raised(result.refusal)
            head = newer

    async def wait_introduced(self) -> None:
        """Return once `audit` works."""
        await self._introduced.wait()

    async def audit(
        self,
        kind: str,
        payload: msgspec.Struct,
        *,
        id: str | None = None,  # noqa: A002 - the record's field
        links: Sequence[record.Link] = (),
        decision: DecisionRef | None = None,
        timeout_s: float | None = None,
    ) -> common.Placed:
        """Append one audit record and return its proven place.

        Raises:
            Refused: the writer's refusal; BUSY; UNAVAILABLE when there was no answer in time (the record may still be written).

        """
        self._check_may_write()
        most = self._options.service.max_queued_audits + (RESERVED_AUDITS if kind in house.RESERVED_KINDS else 0)
        if len(self._queue) >= most:
            raise Refused(Code.BUSY, f"{len(self._queue)} records wait for their place")
        if type(payload) is not records.REGISTRY[kind].payload:
            raise TypeError(f"{kind} takes {records.REGISTRY[kind].payload.__name__}")
        return await self._queued(_Item(kind, payload, id or ids.new(), _links(links, decision)), timeout_s)

    async def user(self, drafts: Sequence[UserDraft], decision: DecisionRef) -> Receipt:
        """Append user records of one call under its decision; each result is a place or its own refusal.

        Raises:
            Refused: none was answered for: BUSY, UNAVAILABLE, READ_ONLY.

        """
        self._check_may_write()
        links = _links((), decision)
        signed: list[record.SignedRecord] = []
        for draft in drafts:
            prev = draft.prev if draft.after is None else _sent(signed[draft.after]).hash
            signed.append(self._build(draft.kind, draft.payload, draft.id, "user", self._key, links=links, prev=prev))
        answered = await self.append_signed(signed, decision=decision)
        if await self._ended_at(answered):
            raise self._ended_here()
        return answered

    async def system(self, signed: record.SignedRecord) -> common.Placed:
        """Append a finished system record. Raises `Refused`."""
        return (await self.append_signed([signed])).placed()[0]

    async def append_signed(
        self, signed: Sequence[record.SignedRecord], *, decision: DecisionRef | None = None
    ) -> Receipt:
        """Append finished records, the same bytes again while there is no answer, and verify the receipt.

        Raises:
            Refused: none was answered for; with `detail.outcome` unknown if they may be written nevertheless.

        """
        until = time.monotonic() + self._options.bus.request_timeout_s
        return await self._append_until_answered(list(signed), decision, until=until)

    async def settled(self) -> None:
        """Return once every audit record that was handed in before has its place or its refusal, whoever still waits."""
        handed_in = [item.done for item in (*self._sent, *self._queue) if not item.done.done()]
        if handed_in:
            await asyncio.wait(handed_in)

    async def close(self) -> None:
        """Write what waits, say that this instance ends, stop. Bounded by the drain time-out."""
        if self._introduced.is_set() and not self.lost.is_set():
            try:
                async with asyncio.timeout(self._options.bus.drain_timeout_s / 2):
                    payload = audit.InstanceBeat(records=0, closing=True)
                    await self._queued(_Item("instance_beat", payload, ids.new(), ()), None)
            except (TimeoutError, Refused, faults.Fault) as error:
                telemetry.log.warning("closing_beat_lost", reason=str(error))
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for item in self._queue:
            if not item.done.done():
                item.done.set_exception(Refused(Code.UNAVAILABLE, f"{self._resident} is stopping"))
        self._queue.clear()

    def _notice(self, _seq: int, _checked: record.Checked) -> None:
        """The log may have let this instance's key end: it was revoked, its service's key was rotated, or another took its place."""
        if self._has_ended() and not self.lost.is_set():
            telemetry.log.critical("instance_ended", key_id=self.key_id)
            self.lost.set()
            self._waiting.set()

    def _has_ended(self) -> bool:
        entry = self._follower.state.key(self.key_id)
        return entry is not None and not entry.active

    async def _ended_at(self, answered: Receipt) -> bool:
        """True if records were refused because this instance's key had ended: then none of them was at fault."""
        refusals = [result.refusal for result in answered.results if result.refusal is not None]
        if not any(refusal.code is Code.KEY_NOT_ALLOWED for refusal in refusals):
            return False
        with contextlib.suppress(Refused, note.NoteError):
            size = checkpoint.parse_text(note.parse(answered.checkpoint.encode()).text).size
            await self._follower.wait_for(size)
        return self._has_ended()

    def _ended_here(self) -> Refused:
        """What callers hear then: nothing was written, and another instance comes."""
        self.lost.set()
        return Refused(Code.UNAVAILABLE, f"this instance of {self._resident} has ended", detail={"outcome": "none"})

    def _check_may_write(self) -> None:
        if not self._introduced.is_set() or self.lost.is_set():
            raise Refused(Code.UNAVAILABLE, f"this instance of {self._resident} may not write")

    # The chain.

    async def _queued(self, item: _Item, timeout_s: float | None) -> common.Placed:
        self._queue.append(item)
        self._waiting.set()
        timeout = self._options.bus.request_timeout_s if timeout_s is None else timeout_s
        try:
            async with asyncio.timeout(timeout):
                return await asyncio.shield(item.done)
        except TimeoutError:
            raise Refused(
                Code.UNAVAILABLE,
                "the canon did not answer in time",
                detail={"outcome": "unknown", "id": item.id},
            ) from None

    async def _write(self) -> None:
        """One batch at a time, as long as this instance lives."""
        while not self.lost.is_set():
            await self._waiting.wait()
            items = self._sent = self._next_batch()
            if not items:
                self._waiting.clear()
                continue
            try:
                await self._write_batch(items)
            except asyncio.CancelledError:
                self._queue.put_back([item for item in items if not item.done.done()])
                raise
            except Exception:
                trace_id = telemetry.current_trace_id()
                telemetry.log.exception("author_fault", trace_id=trace_id)
                self._end(items, faults.Fault(trace_id))
                # What became of the batch isn't known, so nothing may chain on it: this instance has ended.
                self.lost.set()
        self._end(self._queue, Refused(Code.UNAVAILABLE, f"this instance of {self._resident} has ended"))
        self._queue.clear()

    def _next_batch(self) -> list[_Item]:
        """What has queued, up to the bounds of one call; an effect alone."""
        items: list[_Item] = []
        size = 0
        while len(self._queue) and len(items) < BATCH_MOST:
            item = self._queue.first
            size += item.bytes
            if items and (item.alone or items[0].alone or size > BATCH_BYTES):
                break
            items.append(self._queue.popleft())
        self._bus.metrics.append_queue.set(len(self._queue))
        return items

    async def _write_batch(self, items: list[_Item]) -> None:
        """Until each has its place or its refusal."""
        while items:
            prev, signed, hashes = self._head, list[record.SignedRecord](), list[str]()
            for item in items:
                payload = self._counted(item.payload, len(signed))
                signed.append(self._build(item.kind, payload, item.id, "audit", self._key, links=item.links, prev=prev))
                prev = _sent(signed[-1]).hash
                hashes.append(prev)
            try:
                answered = await self._append_until_answered(signed, None)
            except Refused as refused:
                # Said of the whole call, and nothing was written: the chain stands where it stood.
                self._end(items, refused)
                return
            refused_items = [
                (item, result.refusal)
                for item, result in zip(items, answered.results, strict=True)
                if result.refusal is not None
            ]
            if not refused_items:
                self._placed(items, answered, hashes)
                return
            if await self._ended_at(answered):
                self._end(items, self._ended_here())
                return
            items = self._without_refused(items, refused_items)

    def _counted(self, payload: msgspec.Struct, ahead: int) -> msgspec.Struct:
        """A beat says how many records this key's chain has before it, so it is filled in where its place is known; a replay counts."""
        if isinstance(payload, audit.InstanceBeat):
            return msgspec.structs.replace(payload, records=self._written + ahead)
        return payload

    def _placed(self, items: list[_Item], answered: Receipt, hashes: list[str]) -> None:
        """What stands is in this chain if it is what was sent, also when an earlier try had written it; else it repeats another's."""
        for item, result, digest_sent in zip(items, answered.results, hashes, strict=True):
            if result.hash == digest_sent:
                self._written += 1
                self._head = digest_sent
            if not item.done.done():
                item.done.set_result(_place(result))

    def _without_refused(self, items: list[_Item], refused_items: Sequence[tuple[_Item, Refusal]]) -> list[_Item]:
        """The batch without the records at fault; their callers hear why, and the log will."""
        at_fault = [(item, refusal) for item, refusal in refused_items if refusal.code is not Code.BATCH_REFUSED]
        if not at_fault:
            raise receipt.BadReceipt("a batch was refused and no record named")
        for item, refusal in at_fault:
            if refusal.code in _PAST and not item.alone:
                telemetry.log.critical("instance_ended", code=refusal.code, message=refusal.message)
                self.lost.set()
            telemetry.log.warning("append_refused", kind=item.kind, code=refusal.code, message=refusal.message)
            self._end([item], raised(refusal))
            if item.kind != "append_refused":
                payload = audit.AppendRefused(code=refusal.code, kind=item.kind, record_id=item.id)
                self._queue.append(_Item("append_refused", payload, ids.new(), ()))
                self._waiting.set()
        if self.lost.is_set():
            self._end(items, Refused(Code.UNAVAILABLE, f"this instance of {self._resident} has ended"))
            return []
        gone = {item.id for item, _ in at_fault}
        return [item for item in items if item.id not in gone]

    def _end(self, items: Iterable[_Item], why: Exception) -> None:
        for item in items:
            if not item.done.done():
                item.done.set_exception(why)

    async def _beat(self) -> None:
        """Once an interval in which something was written."""
        while True:
            await asyncio.sleep(self._options.service.beat_interval_s)
            if self._written == self._beaten:
                continue
            try:
                payload = audit.InstanceBeat(records=0, closing=False)
                await self._queued(_Item("instance_beat", payload, ids.new(), ()), None)
                self._beaten = self._written
            except (Refused, faults.Fault) as error:
                telemetry.log.warning("beat_lost", reason=str(error))

    # One append.

    def _build(
        self,
        kind: str,
        payload: msgspec.Struct,
        name: str,
        space: str,
        signer: signing.Signer,
        *,
        links: Sequence[record.Link] = (),
        prev: str | None,
    ) -> record.SignedRecord:
        return record.build(
            kind,
            payload,
            id=name,
            tenant=self._tenant,
            ts=clock.format_ms(self._clock.now_ms()),
            space=space,
            signer=signer,
            salt=secrets.token_bytes(digest.SALT_BYTES),
            links=links,
            prev=prev,
        )

    async def _append_until_answered(
        self, signed: list[record.SignedRecord], decision: DecisionRef | None, *, until: float | None = None
    ) -> Receipt:
        """Send the same bytes until the writer says what became of them, or until `until`.

        A refusal of the whole call counts only if no earlier try may have been written; else the question stays open.
        """
        body = msgspec.json.encode(canon.Append(records=tuple(signed), decision=decision))
        sent = [_sent(one) for one in signed]
        delay_s, unknown, began = RETRY_FIRST_S, False, time.monotonic()
        while True:
            try:
                answered = await self._append_once(body, sent, _left(until, self._options.bus.request_timeout_s))
            except Refused as refused:
                known = refused.code is Code.BUSY or (refused.detail or {}).get("outcome") == "none"
                unknown = unknown or (refused.code in _UNANSWERED and not known)
                if refused.code not in _UNANSWERED and not unknown:
                    raise
                why: Exception = refused
            except (faults.Fault, receipt.BadReceipt) as fault:
                telemetry.log.error("append_unproven", reason=str(fault), records=len(sent))
                unknown, why = True, fault
            else:
                self._bus.metrics.append_seconds.observe(time.monotonic() - began)
                self._bus.metrics.append_records.observe(len(sent))
                return answered
            if until is not None and time.monotonic() + delay_s >= until:
                raise _given_up(why, unknown=unknown) from why
            await asyncio.sleep(delay_s)
            delay_s = min(delay_s * 2, RETRY_MOST_S)

    async def _append_once(self, body: bytes, sent: list[receipt.Sent], timeout_s: float) -> Receipt:
        appended = await self._bus.call(canon.APPEND, body, timeout_s=timeout_s)
        try:
            earlier = {seq: await self._standing(seq) for seq in receipt.rebuilt(sent, appended)}
            if any(result.seq is not None for result in appended.results):
                receipt.prove(sent, appended, await self._checkpoint(appended.checkpoint), earlier)
        except receipt.BadReceipt:
            self._bus.metrics.bad_receipts.inc()
            raise
        return Receipt(results=appended.results, checkpoint=appended.checkpoint, proofs=appended.proofs)

    async def _checkpoint(self, text: str) -> checkpoint.Checkpoint:
        """The receipt's checkpoint, by the log's key of its size."""
        try:
            return await self._follower.opened(text.encode())
        except note.NoteError as error:
            raise receipt.BadReceipt(str(error)) from error

    async def _standing(self, seq: int) -> receipt.Sent:
        """The record that stands at a place, to be proven there: ours was a repetition of it."""
        page = await self._bus.call(canon.EVENTS, canon.Events(first=seq, limit=1))
        if not page.items or page.items[0].seq != seq:
            raise receipt.BadReceipt(f"no record at {seq}")
        leaf = bytes(page.items[0].header)
        header, _ = record.open_header(leaf)
        return receipt.Sent(id=header.core.id, hash=header.hash, leaf_hash=merkle.leaf_hash(leaf))


def _sent(signed: record.SignedRecord) -> receipt.Sent:
    leaf = bytes(signed.header)
    header = msgspec.json.decode(leaf, type=record.Header)
    return receipt.Sent(id=header.core.id, hash=header.hash, leaf_hash=merkle.leaf_hash(leaf))


def _links(links: Sequence[record.Link], decision: DecisionRef | None) -> tuple[record.Link, ...]:
    if decision is None:
        return tuple(links)
    return (*links, record.Link(label="decision", target=decision.link()))


def _place(result: canon.AppendResult) -> common.Placed:
    if result.refusal is not None:
        raise raised(result.refusal)
    assert result.seq is not None
    assert result.hash is not None
    return common.Placed(id=result.id, hash=result.hash, seq=result.seq)


def _left(until: float | None, most_s: float) -> float:
    return most_s if until is None else max(0.05, min(most_s, until - time.monotonic()))


def _given_up(why: Exception, *, unknown: bool) -> Exception:
    """What a caller hears whose time is over."""
    if isinstance(why, receipt.BadReceipt):
        return faults.Fault(telemetry.current_trace_id())
    if unknown and not isinstance(why, faults.Fault):
        return Refused(Code.UNAVAILABLE, "the canon did not answer in time", detail={"outcome": "unknown"})
    return why
