"""Knowledge as a service: thin handlers over the rules, the store and the writer's pen, then the table."""

from collections.abc import Sequence
from typing import Any, Protocol, TypeVar

import msgspec

from services.knowledge import reading, rules
from services.knowledge.heads import Heads
from services.knowledge.rules import Effect
from services.knowledge.store import Store
from services.knowledge.things import Thing
from sigilcore import canonical, decision, permit, record
from sigilcore.contracts import canon
from sigilcore.contracts import knowledge as contract
from sigilcore.contracts.command import Command
from sigilcore.permit import Call
from sigilcore.refusals import raised
from sigilrun.author import Receipt, UserDraft
from sigilrun.live import LiveView

Req = TypeVar("Req", bound=msgspec.Struct)
Rep = TypeVar("Rep", bound=msgspec.Struct)

TRIES = 3  # of one call whose thing another instance is writing too


class Pen(Protocol):
    """What knowledge needs of `sigilrun.author.Author`."""

    async def user(self, drafts: Sequence[UserDraft], decision: decision.DecisionRef) -> Receipt:
        """Append user records of one call under its decision."""

    async def append_signed(
        self, signed: Sequence[record.SignedRecord], *, decision: decision.DecisionRef | None = None
    ) -> Receipt:
        """Append finished records."""


class Behalf(Protocol):
    """What knowledge needs of `sigilrun.behalf.Behalf`."""

    async def call(self, bound: permit.Bound, command: Command[Req, Rep], request: Req) -> Rep:
        """Ask a command for the caller of the call that `bound` admitted."""


class Knowledge:
    """What the handlers share."""

    def __init__(self, store: Store, view: LiveView, pen: Pen, behalf: Behalf) -> None:
        """`view` feeds `store`."""
        self.store = store
        self.view = view
        self.pen = pen
        self.behalf = behalf
        self.heads = Heads(store, view.reach_head)

    async def write(self, effects: Sequence[Effect], ref: decision.DecisionRef) -> Receipt:
        """Append these under one decision; each result is a place or its own refusal. While nothing was placed the decision is
        unused, and what was only stale is built anew on the head that the writer named."""
        heads = {effect.thing: self.heads.of(effect.thing) for effect in effects}
        for _ in range(TRIES):
            chosen = rules.places(effects, heads.__getitem__, self.heads.knows)
            drafts = [
                UserDraft(kind=effect.tag, payload=effect.payload, id=effect.id, prev=place.prev, after=place.after)
                for effect, place in zip(effects, chosen, strict=True)
            ]
            receipt = await self.pen.user(drafts, ref)
            moved = {
                effect.thing: head
                for effect, place, result in zip(effects, chosen, receipt.results, strict=True)
                for stale, head in (rules.stale_head(result.refusal, place.prev),)
                if stale and place.after is None
            }
            if not moved or any(result.seq is not None for result in receipt.results):
                break
            heads |= moved
        for effect, result in zip(effects, receipt.results, strict=True):
            self.note(effect.thing, result)
        return receipt

    def note(self, thing: Thing, result: canon.AppendResult) -> None:
        """Remember what stands now. Of a record that stood before it isn't known whether others followed it."""
        if result.existing:
            self.heads.unsettle()
        elif result.seq is not None and result.hash is not None:
            self.heads.wrote(thing, result.id, result.seq, result.hash)


async def memory_write(service: Knowledge, request: contract.MemoryWrite, call: Call) -> contract.Written:
    """Remember a text."""
    return await _write_one(service, rules.memory(request, call.bound), call, named=request.id is not None)


async def user_write(service: Knowledge, request: contract.UserWrite, call: Call) -> contract.Written:
    """Write a value, a document, or a record that its owner signed."""
    plain = _as_sent(call)
    if request.record is not None and request.value is None and request.payload is None:
        return await _write_finished(service, request, request.record, call)
    given, field = rules.written_value(request, plain)
    effect = rules.value(
        request.kind,
        request.key,
        given,
        wanted_id=request.id,
        owner=call.bound.permit.owner_id,
        request=call.bound.request(),
        field=field,
        id_field="$.id",
    )
    return await _write_one(service, effect, call, named=request.id is not None)


async def user_batch(service: Knowledge, request: contract.UserBatch, call: Call) -> contract.BatchWritten:
    """Write many things; each stands or falls alone."""
    plain = _as_sent(call)["items"]
    items = rules.batch(request, plain, call.bound)
    effects = [item for item in items if isinstance(item, Effect)]
    if not effects:
        return contract.BatchWritten(items=tuple(rules.batch_results(items, ())), checkpoint="")
    async with service.heads.turn(effect.thing for effect in effects):
        receipt = await service.write(effects, call.bound.permit.decision)
    return contract.BatchWritten(
        items=tuple(rules.batch_results(items, receipt.results)), checkpoint=receipt.checkpoint
    )


async def user_erase(service: Knowledge, request: contract.UserErase, call: Call) -> contract.Erased:
    """Erase a thing of the caller's own. Its versions are listed while nobody writes it here, from a view that has all of them; if another
    instance comes between, the writer refuses the list, and the caller asks again."""
    owner = call.bound.permit.owner_id
    await service.heads.settle_anew()
    thing = _named(service, request, owner)
    async with service.heads.turn([thing]):
        await service.heads.settle_anew()
        versions = service.store.versions(thing)
        effect = rules.erasure(thing, versions, request, call.bound)
        draft = UserDraft(kind=effect.tag, payload=effect.payload, id=effect.id, prev=service.heads.of(thing))
        receipt = await service.pen.user([draft], call.bound.permit.decision)
        service.note(thing, receipt.results[0])
    done = _written(thing, receipt, named=request.id is not None)
    before = service.store.erasure(done.id) if done.existing else None
    return contract.Erased(
        id=done.id,
        hash=done.hash,
        seq=done.seq,
        kind=thing.kind,
        key=thing.slug,
        versions=len(versions) if before is None else before[1],
        existing=done.existing,
        checkpoint=done.checkpoint,
        proof=done.proof,
    )


def _named(service: Knowledge, request: contract.UserErase, owner: str) -> Thing:
    """The thing that is to be erased; of a call that is repeated, the one that was."""
    before = None if request.id is None else service.store.erasure(request.id)
    if before is not None and before[0].owner == owner:
        return before[0]
    named = None if request.record is None else service.store.by_id(request.record)
    return rules.erasable(request, named, owner)


def _as_sent(call: Call) -> Any:
    """The parameters untyped: what was absent and what was null, and each item's own share. The seam has bounded and read them."""
    data = call.bound.parameters
    return canonical.parse(data, max_bytes=len(data))


async def _write_one(service: Knowledge, effect: Effect, call: Call, *, named: bool) -> contract.Written:
    async with service.heads.turn([effect.thing]):
        receipt = await service.write([effect], call.bound.permit.decision)
    return _written(effect.thing, receipt, named=named)


async def _write_finished(
    service: Knowledge, request: contract.UserWrite, signed: record.SignedRecord, call: Call
) -> contract.Written:
    _, thing = rules.finished(signed, request, call.bound)
    async with service.heads.turn([thing]):
        receipt = await service.pen.append_signed([signed], decision=call.bound.permit.decision)
        service.note(thing, receipt.results[0])
    return _written(thing, receipt, named=True)


def _written(thing: Thing, receipt: Receipt, *, named: bool) -> contract.Written:
    """The place of the one record. `named`: the caller chose its id, so that it can have been written before."""
    (result,) = receipt.results
    if result.refusal is not None:
        raise raised(result.refusal)
    assert result.seq is not None
    assert result.hash is not None
    return contract.Written(
        id=result.id,
        hash=result.hash,
        seq=result.seq,
        key=thing.slug,
        existing=result.existing and named,
        checkpoint=receipt.checkpoint,
        proof=receipt.proofs[0].hashes,
    )


async def memory_list(service: Knowledge, request: contract.MemoryList, call: Call) -> contract.MemoryPage:
    """One's own memory."""
    order = reading.memory_order(request)
    await service.view.reach(request.wait_for)
    owner = reading.readable_owner(call.bound.permit, request.user_id)
    if owner is None:
        return contract.MemoryPage(items=(), cursor=None)
    shown, cursor = reading.page(service.store.newest(owner, order), request.limit)
    return contract.MemoryPage(items=tuple(map(reading.memory_view, shown)), cursor=cursor)


async def memory_read(service: Knowledge, request: contract.MemoryRead, call: Call) -> contract.MemoryView:
    """One memory, now or as it was."""
    await service.view.reach(request.wait_for)
    owner = reading.readable_owner(call.bound.permit, request.user_id)
    thing = Thing(owner or "", "memory_block", request.key)
    return reading.memory_view(reading.readable(call.bound.permit, service.store.version(thing, request.version)))


async def memory_explain(service: Knowledge, request: contract.MemoryExplain, call: Call) -> contract.MemoryReason:
    """Why a memory is there. What the canon says of it is asked on the caller's behalf, so it shows what the caller may see."""
    named = contract.MemoryRead(
        key=request.key, user_id=request.user_id, version=request.version, wait_for=request.wait_for
    )
    memory = await memory_read(service, named, call)
    shown = await service.behalf.call(call.bound, canon.GET, canon.Get(id=memory.id))
    header, link = reading.origin(shown, memory)
    if link is None:
        return contract.MemoryReason(memory=memory, signed_by=header.key_id, decision=None, reasoning=None)
    said = await service.behalf.call(call.bound, canon.AUDIT_GET, canon.AuditGet(id=link))
    return contract.MemoryReason(
        memory=memory, signed_by=header.key_id, decision=link, reasoning=reading.reasoning(said)
    )


async def user_list(service: Knowledge, request: contract.UserList, call: Call) -> contract.UserPage:
    """One's own things."""
    order = reading.user_order(request)
    await service.view.reach(request.wait_for)
    owner = reading.readable_owner(call.bound.permit, request.user_id)
    if owner is None:
        return contract.UserPage(items=(), cursor=None)
    shown, cursor = reading.page(service.store.newest(owner, order), request.limit)
    return contract.UserPage(items=tuple(map(reading.user_view, shown)), cursor=cursor)


async def user_read(service: Knowledge, request: contract.UserRead, call: Call) -> contract.UserView:
    """One record of one's own."""
    await service.view.reach(request.wait_for)
    return reading.user_view(reading.readable(call.bound.permit, service.store.by_id(request.id)))


HANDLERS: dict[Any, Any] = {
    contract.MEMORY_WRITE: memory_write,
    contract.MEMORY_LIST: memory_list,
    contract.MEMORY_READ: memory_read,
    contract.MEMORY_EXPLAIN: memory_explain,
    contract.USER_WRITE: user_write,
    contract.USER_BATCH: user_batch,
    contract.USER_ERASE: user_erase,
    contract.USER_LIST: user_list,
    contract.USER_READ: user_read,
}
