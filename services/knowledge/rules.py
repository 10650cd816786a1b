"""What may be written and who may see what: the pure part of knowledge.

Invariants:

- A thing's owner is the permit's; nothing in a request names another. A record that a person signed must be that person's.
- A thing's key is `<family>::<owner>::<slug>`; a slug holds no colon, so a key names one owner and one slug.
- Each effect keeps the call that asked for it; an item of a batch keeps its own share of the parameters, so it is known again in any batch.
- Of what may not be seen nothing is said: another person's things are answered like things that don't exist.
- In one batch, versions of one thing follow each other in the call's order; an id that stands already is followed by nothing.
"""

import base64
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from sigilcore import canonical, clock, decision, ids, permit, record, records
from sigilcore.access import Loa
from sigilcore.contracts import canon
from sigilcore.contracts import knowledge as contract
from sigilcore.records import user
from sigilcore.refusals import Code, Refusal, Refused

FAMILIES = {"memory_block": "mem", "user_value": "val", "document": "rag"}
ANSWER_BYTES = 4 * 1024 * 1024  # payloads of one page; half of what the bus carries
FIRST_TIME = "0000"
LAST_TIME = "9999-12-31T23:59:60"
_SLUG = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,127}")
_DOCUMENT = ("title", "text", "source", "licence")
_ABSENT = Refused(Code.NOT_FOUND, "no such thing of yours")


class Thing(NamedTuple):
    """What has versions."""

    owner: str
    kind: str
    slug: str

    @property
    def key(self) -> str:
        """As its records name it."""
        return f"{FAMILIES[self.kind]}::{self.owner}::{self.slug}"


class Version(msgspec.Struct, frozen=True, array_like=True):
    """One version of a thing, with the record that holds it. `number` counts from 1; `payload` is JCS."""

    owner: str
    kind: str
    slug: str
    number: int
    seq: int
    id: str
    hash: str
    ts: str
    payload: bytes


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """Which of an owner's things, from where in the order of slug and kind."""

    prefix: str = ""
    kind: str | None = None
    tag: str | None = None
    since: str = FIRST_TIME
    until: str = LAST_TIME
    after_slug: str = ""
    after_kind: str = ""


class Effect(msgspec.Struct, frozen=True, kw_only=True):
    """A record to write."""

    thing: Thing
    id: str
    payload: msgspec.Struct


class Place(NamedTuple):
    """On what a record stands: the hash of the version before, or the index of an earlier record of the same call."""

    prev: str | None
    after: int | None = None


def slug_of(kind: str, owner: str, key: str) -> str:
    """The slug in a record's key. A key of another form keeps all of itself, behind colons that no slug has."""
    _, found, slug = key.partition(f"{FAMILIES[kind]}::{owner}::")
    return slug if found and Thing(owner, kind, slug).key == key and _SLUG.fullmatch(slug) else f"::{key}"


# Writing


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
        raise Refused(Code.BAD_INPUT, f"a document is {{{', '.join(_DOCUMENT)}}}", field=field)
    for name in given:
        if name not in _DOCUMENT:
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
    if kind not in FAMILIES:
        raise Refused(Code.KIND_NOT_ALLOWED, f"{kind} is not for people to write", field="$.record.header.core.kind")
    if payload.owner != bound.permit.owner_id:
        raise Refused(Code.KEY_NOT_ALLOWED, "the record is another owner's", field="$.record.payload.owner")
    thing = Thing(payload.owner, kind, slug_of(kind, payload.owner, payload.key))
    if thing.key != payload.key:
        wanted = f"{FAMILIES[kind]}::{payload.owner}::<slug>"
        raise Refused(Code.RECORD_INVALID, f"the key of a {kind} is {wanted}", field="$.record.payload.key")
    if request.key not in {None, thing.slug}:
        raise Refused(Code.BAD_INPUT, "the record has another key", field="$.key")
    if request.id not in {None, checked.core.id}:
        raise Refused(Code.BAD_INPUT, "the record has another id", field="$.id")
    return checked, thing


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
            request=bound.request(canonical.encode(sent)),
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


# Reading


def readable_owner(caller: permit.Permit, asked: str | None) -> str | None:
    """Whose things the caller asks for; None if they aren't the caller's to see."""
    if asked is None or asked == caller.owner_id or caller.loa is Loa.ROOT:
        return asked or caller.owner_id
    return None


def readable(caller: permit.Permit, found: Version | None) -> Version:
    """The version, if it is there for the caller. Raises `Refused`: NOT_FOUND."""
    if found is None or readable_owner(caller, found.owner) is None:
        raise _ABSENT
    return found


def memory_order(request: contract.MemoryList) -> Order:
    """Which memories `memory/list` asks for."""
    slug, _ = _after(request.cursor)
    return Order(
        prefix=request.prefix or "",
        kind="memory_block",
        tag=request.tag,
        since=_time(request.since, "$.since") or FIRST_TIME,
        until=_time(request.until, "$.until") or LAST_TIME,
        after_slug=slug,
        after_kind="memory_block" if slug else "",
    )


def user_order(request: contract.UserList) -> Order:
    """Which things `canon/user/list` asks for."""
    slug, kind = _after(request.cursor)
    return Order(prefix=request.prefix or "", kind=request.kind, after_slug=slug, after_kind=kind)


def page(versions: Iterable[Version], limit: int) -> tuple[list[Version], str | None]:
    """So many versions, fewer if they are large, and the cursor of the next ones. The cursor is a place in the order of names, so
    what is written meanwhile neither hides nor repeats anything."""
    shown: list[Version] = []
    size = 0
    for version in versions:
        size += len(version.payload)
        if shown and (len(shown) == limit or size > ANSWER_BYTES):
            last = shown[-1]
            return shown, base64.urlsafe_b64encode(msgspec.json.encode((last.slug, last.kind))).decode()
        shown.append(version)
    return shown, None


def memory_view(version: Version) -> contract.MemoryView:
    """A memory as its reader sees it."""
    payload = msgspec.json.decode(version.payload, type=user.MemoryBlock)
    return contract.MemoryView(
        key=version.slug,
        text=payload.text,
        tags=payload.tags,
        owner=version.owner,
        id=version.id,
        hash=version.hash,
        seq=version.seq,
        ts=version.ts,
        version=version.number,
    )


def user_view(version: Version) -> contract.UserView:
    """A thing as its reader sees it."""
    payload = msgspec.json.decode(version.payload)
    if version.kind == "user_value":
        shown = payload["value"]
    else:
        shown = {name: payload[name] for name in (*_DOCUMENT, "tags") if name in payload}
    return contract.UserView(
        kind=version.kind,
        key=version.slug,
        value=shown,
        owner=version.owner,
        id=version.id,
        hash=version.hash,
        seq=version.seq,
        ts=version.ts,
        version=version.number,
    )


def _after(cursor: str | None) -> tuple[str, str]:
    if cursor is None:
        return "", ""
    try:
        return msgspec.json.decode(base64.b64decode(cursor, altchars=b"-_", validate=True), type=tuple[str, str])
    except (ValueError, msgspec.DecodeError) as error:
        raise Refused(Code.BAD_INPUT, "a cursor as the last answer gave it", field="$.cursor") from error


def _time(text: str | None, field: str) -> str | None:
    """The text itself, since times of this one spelling sort as they follow each other."""
    if text is None:
        return None
    try:
        clock.parse_ms(text)
    except ValueError as error:
        raise Refused(Code.BAD_INPUT, "RFC 3339, UTC, milliseconds, Z", field=field) from error
    return text
