"""What the records view makes of a record, and how its pages are told apart: pure."""

import hashlib
from collections.abc import Iterable
from typing import Any, NamedTuple

import msgspec

from sigilcore import permit, records
from sigilcore.access import Loa
from sigilcore.records.kind import Kind
from sigilcore.refusals import Code, Refused
from sigilrun import consume

_MOST = 2**53
_encoder = msgspec.json.Encoder()


class Entry(NamedTuple):
    """One record in the view; `links` are label and target."""

    seq: int
    id: str
    space: str
    kind: str
    ts: str
    hash: str
    key_id: str
    subject: str
    links: tuple[tuple[str, str], ...]


class Place(NamedTuple):
    """A link's place in the order of all links."""

    seq: int
    ordinal: int


BEFORE_ALL = Place(-1, -1)


def entry_of(event: consume.Event) -> Entry:
    """The entry of a record."""
    header = event.header
    core = header.core
    links = tuple((link.label, link.target) for link in core.links)
    return Entry(event.seq, core.id, core.space, core.kind, core.ts, header.hash, header.key_id, _subject(event), links)


def chained(digest: bytes, entries: Iterable[Entry]) -> bytes:
    """The digest after these entries, in order; all of an entry but its subject."""
    for entry in entries:
        row = _encoder.encode((*entry[:7], entry.links))
        digest = hashlib.sha256(digest + row).digest()
    return digest


def reader_of(caller: permit.Permit) -> str | None:
    """Whose user records the caller sees: their own; None for Root, who sees everybody's."""
    return None if caller.loa is Loa.ROOT else caller.owner_id


def cursor_of(place: Place) -> str:
    """A place as callers carry it."""
    return f"{place.seq}.{place.ordinal}"


def place_of(cursor: str | None) -> Place:
    """The place that a cursor names. Raises `Refused`: BAD_INPUT for any other spelling."""
    if cursor is None:
        return BEFORE_ALL
    parts = cursor.split(".")
    if len(parts) == 2 and all(part.isascii() and part.isdigit() and len(part) <= 16 for part in parts):
        place = Place(int(parts[0]), int(parts[1]))
        if cursor_of(place) == cursor and max(place) < _MOST:
            return place
    raise Refused(Code.BAD_INPUT, "a cursor as the last answer gave it", field="$.cursor")


def _subject(event: consume.Event) -> str:
    """Whose record it is. Most kinds name nobody, and then the payload isn't read."""
    kind = records.REGISTRY.get(event.kind)
    if kind is None or kind.subject is _NOBODY or event.payload is None:
        return ""
    return kind.subject(event.typed())


def _default(name: str) -> Any:
    return next(field.default for field in msgspec.structs.fields(Kind) if field.name == name)


_NOBODY = _default("subject")
