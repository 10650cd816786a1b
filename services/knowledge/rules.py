"""What may be written: the pure part of knowledge.

Invariants:

- A thing's owner is the permit's; nothing in a request names another. A record that a person signed must be that person's.
- Each effect keeps the call that asked for it; an item of a batch keeps its own share of the parameters, so it is known again in any batch.
- In one batch, versions of one thing follow each other in the call's order; an id that stands already is followed by nothing.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, cast

import msgspec

from services.knowledge.things import DOCUMENT, Thing, Version, key_of, slug_of
from sigilcore import canonical, decision, ids, permit, record, records
from sigilcore.contracts import canon
from sigilcore.contracts import knowledge as contract
from sigilcore.records import user
from sigilcore.refusals import Code, Refusal, Refused


class Effect(msgspec.Struct, frozen=True, kw_only=True):
    """A record to write."""

    thing: Thing
    id: str
    payload: msgspec.Struct
    kind: str = ""  # the record's, where it isn't the thing's own

    @property
    def tag(self) -> str:
        """The record's kind."""
        return self.kind or self.thing.kind


class Place(NamedTuple):
    """On what a record stands: the hash of the version before, or the index of an earlier record of the same call."""

    prev: str | None
    after: int | None = None


def memory(request: contract.MemoryWrite, bound: permit.Bound) -> Effect:
    """The record of `memory/write`."""
    thing = Thing(bound.permit.owner_id, "memory_block", request.key)
    payload = user.MemoryBlock(
        owner=thing.owner,
        key=thing.key,
        text=request.text,
        tags=request.tags,
        origin="person",
        admitted_at=bound.permit.loa,
        request=bound.request(),
    )
    return _bounded(Effect(thing=thing, id=record_id(request.id, "$.id"), payload=payload), "$.text")


def written_value(request: contract.UserWrite, plain: Mapping[str, Any]) -> tuple[Any, str]:
    """The one value of `canon/user/write` that isn't a finished record, and its field. `plain` is the request as it was sent:
    a null there is a value, if nothing else is."""
    given = [name for name in ("value", "payload", "record") if getattr(request, name) is not None]
    given = given or [name for name in ("value", "payload") if name in plain]
    if len(given) != 1 or given == ["record"]:
        raise Refused(Code.BAD_INPUT, "give exactly one of value, payload and record", field="$")
    return getattr(request, given[0]), f"$.{given[0]}"


def value(
    kind: str,
    slug: str | None,
    given: Any,
    *,
    wanted_id: str | None,
    owner: str,
    request: decision.Request,
    field: str,
    id_field: str,
) -> Effect:
    """The record of a value or a document; without a key, its id is its name."""
    name = record_id(wanted_id, id_field)
    thing = Thing(owner, kind, name if slug is None else slug)
    if kind == "document":
        payload: msgspec.Struct = _document(thing, given, request, field)
    else:
        payload = user.UserValue(owner=owner, key=thing.key, value=given, request=request)
    return _bounded(Effect(thing=thing, id=name, payload=payload), field)


def _document(thing: Thing, given: Any, request: decision.Request, field: str) -> user.Document:
    if type(given) is not dict:
        raise Refused(Code.BAD_INPUT, f"a document is {{{', '.join(DOCUMENT)}}}", field=field)
    for name in given:
        if name not in DOCUMENT:
            raise Refused(Code.BAD_INPUT, "a document has no such field", field=f"{field}.{name[:64]}")
    own = {"owner": thing.owner, "key": thing.key, "request": None}
    try:
        made = canonical.typed({**given, **own}, user.Document)
    except canonical.NotCanonical as error:
        raise Refused(Code.BAD_INPUT, error.reason, field=field + error.path[1:]) from error
    return msgspec.structs.replace(made, request=request)


def finished(
    signed: record.SignedRecord, request: contract.UserWrite, bound: permit.Bound
) -> tuple[record.Checked, Thing]:
    """A record that its owner signed: well-formed, of a kind for people, and the caller's own. The writer checks the signature."""
    try:
        checked = record.check(signed)
    except Refused as refused:
        where = "$.record" + (refused.field or "$")[1:]
        raise Refused(refused.code, refused.message, field=where, detail=refused.detail) from refused
    kind, payload = checked.core.kind, checked.payload
    if kind not in user.FAMILIES:
        raise Refused(Code.KIND_NOT_ALLOWED, f"{kind} is not for people to write", field="$.record.header.core.kind")
    if payload.owner != bound.permit.owner_id:
        raise Refused(Code.KEY_NOT_ALLOWED, "the record is another owner's", field="$.record.payload.owner")
    thing = Thing(payload.owner, kind, slug_of(kind, payload.owner, payload.key))
    if thing.key != payload.key:
        wanted = user.key_of_slug(kind, payload.owner, "<slug>")
        raise Refused(Code.RECORD_INVALID, f"the key of a {kind} is {wanted}", field="$.record.payload.key")
    if request.key not in {None, thing.slug}:
        raise Refused(Code.BAD_INPUT, "the record has another key", field="$.key")
    if request.id not in {None, checked.core.id}:
        raise Refused(Code.BAD_INPUT, "the record has another id", field="$.id")
    return checked, thing


def erasable(request: contract.UserErase, named: Version | None, owner: str) -> Thing:
    """The thing of the caller's own that is to be erased; `named` is the version that `request.record` names, if it is there."""
    if (request.key is None) == (request.record is None):
        raise Refused(Code.BAD_INPUT, "name the thing by exactly one of key and record", field="$")
    if request.key is not None:
        return Thing(owner, request.kind, request.key)
    # Nobody erases another's things, root included; so of those nothing is said, even to who may read them.
    if named is None or named.owner != owner:
        raise Refused(Code.NOT_FOUND, "no such thing of yours", field="$.record")
    return Thing(owner, named.kind, named.slug)


def erasure(thing: Thing, versions: Sequence[str], request: contract.UserErase, bound: permit.Bound) -> Effect:
    """The record that ends a thing's versions. Of a thing without versions only a repeated call may still ask, by its id."""
    if not versions and request.id is None:
        raise Refused(Code.NOT_FOUND, "nothing of yours is left to erase under this name")
    return _erasure(thing, versions, record_id(request.id, "$.id"), bound.request())


def ordered_erasure(thing: Thing, versions: Sequence[str]) -> Effect:
    """The same by an order of the quorum: at nobody's request."""
    return _erasure(thing, versions, ids.new(), None)


def _erasure(thing: Thing, versions: Sequence[str], name: str, request: decision.Request | None) -> Effect:
    if len(versions) > user.MAX_ERASED:
        raise Refused(Code.BODY_TOO_LARGE, f"one erasure lists at most {user.MAX_ERASED} versions")
    kind = cast("user.ErasableKind", thing.kind)  # every kind of thing that this service writes
    payload = user.Erasure(owner=thing.owner, kind=kind, key=key_of(thing), records=tuple(versions), request=request)
    return Effect(thing=thing, id=name, payload=payload, kind="erasure")


def batch(
    request: contract.UserBatch, plain: Sequence[Any], bound: permit.Bound
) -> list[Effect | contract.BatchResult]:
    """Each item's record, or why there is none. `plain` are the items as they were sent: each one's share of the parameters."""
    return [
        _item(item, sent, bound, index) for index, (item, sent) in enumerate(zip(request.items, plain, strict=True))
    ]


def _item(item: contract.Item, sent: Any, bound: permit.Bound, index: int) -> Effect | contract.BatchResult:
    field = f"$.items[{index}]"
    try:
        return value(
            item.kind,
            item.key,
            item.value,
            wanted_id=item.id,
            owner=bound.permit.owner_id,
            request=bound.request(canonical.encode(sent, max_bytes=None)),
            field=f"{field}.value",
            id_field=f"{field}.id",
        )
    except Refused as refused:
        name = item.id or ids.new()
        return contract.BatchResult(key=item.key or name, id=name, refusal=refused.answer())


def places(effects: Sequence[Effect], head: Callable[[Thing], str | None], known: Callable[[str], bool]) -> list[Place]:
    """On what each record of one call stands."""
    last: dict[Thing, int] = {}
    seen: set[str] = set()
    chosen = []
    for index, effect in enumerate(effects):
        before = last.get(effect.thing)
        chosen.append(Place(head(effect.thing)) if before is None else Place(None, before))
        # What stands already is not written again, so nothing can follow it here.
        if effect.id not in seen and not known(effect.id):
            last[effect.thing] = index
        seen.add(effect.id)
    return chosen


def batch_results(
    items: Sequence[Effect | contract.BatchResult], placed: Iterable[canon.AppendResult]
) -> list[contract.BatchResult]:
    """Each item's fate in the call's order; `placed` are the writer's results for those that are effects."""
    fates = iter(placed)
    return [_fate(item, next(fates)) if isinstance(item, Effect) else item for item in items]


def _fate(effect: Effect, result: canon.AppendResult) -> contract.BatchResult:
    return contract.BatchResult(
        key=effect.thing.slug,
        id=effect.id,
        hash=result.hash,
        seq=result.seq,
        existing=result.existing,
        refusal=result.refusal,
    )


def stale_head(refusal: Refusal | None, prev: str | None) -> tuple[bool, str | None]:
    """Whether a record was refused only because its thing has another head, and that head."""
    if refusal is None or refusal.code is not Code.STALE_PREV or "head" not in (refusal.detail or {}):
        return False, None
    head = (refusal.detail or {})["head"]
    return head != prev, head


def record_id(given: str | None, field: str) -> str:
    """The caller's id, or a new one."""
    if given is None:
        return ids.new()
    if not ids.is_id(given):
        raise Refused(Code.BAD_INPUT, "id is a UUIDv7", field=field)
    return given


def _bounded(effect: Effect, field: str) -> Effect:
    """Refused here rather than by the writer, so that nothing in the same call waits for it."""
    most = records.REGISTRY[effect.thing.kind].max_bytes
    try:
        canonical.encode(msgspec.to_builtins(effect.payload), max_bytes=most)
    except canonical.NotCanonical as error:
        raise Refused(Code.BODY_TOO_LARGE, f"a {effect.thing.kind} holds at most {most} bytes", field=field) from error
    return effect
