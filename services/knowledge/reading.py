"""Who may see what, in which order, and how it is shown.

- Of what may not be seen nothing is said: another person's things are answered like things that don't exist.
- A page is bounded in things and in bytes. Its cursor is a place in the order of names, so what is written meanwhile neither hides nor
  repeats anything.
"""

import base64
from collections.abc import Iterable

import msgspec

from services.knowledge.things import DOCUMENT, FIRST_TIME, LAST_TIME, Order, Version
from sigilcore import canonical, clock, decision, faults, permit, record
from sigilcore.access import Loa
from sigilcore.contracts import canon
from sigilcore.contracts import knowledge as contract
from sigilcore.records import user
from sigilcore.refusals import Code, Refused

ANSWER_BYTES = 4 * 1024 * 1024  # payloads of one page; half of what the bus carries
_ABSENT = Refused(Code.NOT_FOUND, "no such thing of yours")


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


def origin(shown: canon.RecordView, memory: contract.MemoryView) -> tuple[record.Header, str | None]:
    """The header of a memory's record as the canon shows it, and the link of the decision that admitted it."""
    header = canonical.typed(shown.header, record.Header)
    if header.hash != memory.hash:
        raise faults.Corrupt(f"the canon shows another record for {memory.id}")
    return header, header.core.link("decision")


def reasoning(shown: canon.RecordView) -> decision.FrozenChain:
    """A decision as the canon shows it, whole."""
    frozen = canonical.typed(shown.payload, decision.FrozenChain)
    if not decision.intact(frozen):
        raise faults.Corrupt("a decision isn't what was frozen")
    return frozen


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
    """So many versions, fewer if they are large, and the cursor of the next ones."""
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
    payload = canonical.loads(version.payload)
    content = {name: payload[name] for name in (*DOCUMENT, "tags") if name in payload}
    return contract.UserView(
        kind=version.kind,
        key=version.slug,
        value=payload["value"] if version.kind == "user_value" else content,
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
