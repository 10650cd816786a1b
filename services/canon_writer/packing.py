"""A sealed header as it is stored: what the row's columns say already is not stored again.

Half of a header is names and hex digits, and most of the rest stands in columns by which rows are found. What is stored beside them is the
rest, in bytes: signature, payload hash, `prev`, links, witnesses. Put together with the columns it is the header's very bytes again, or
it was stored as it came.

Invariants:

- `unpack(pack(row), row's columns)` is the header to the byte; `pack` compares before it lets go of the bytes;
- `unpack` never raises: columns or bytes that were changed give another header, or none, which then agrees with no tree and no hash.

The form is a byte of flags, then the parts that they name:

    0                 the header as it came
    1 | flags         schema version (3 bytes, big-endian) · signature (64) · payload hash (32) · prev (32)? · decision (17)? · rest (JSON)?
"""

import uuid

import msgspec

from sigilcore import canonical, clock, ids, record, signing
from sigilcore.decision import parse_ref

AS_IT_CAME = b"\x00"
_PARTS, _PREV, _DECISION, _REST = 1, 2, 4, 8
_FLAGS = _PARTS | _PREV | _DECISION | _REST
_FIXED = 1 + 3 + 64 + 32
_HEADER = canonical.Shape(record.Header)


class Columns(msgspec.Struct, frozen=True):
    """What a row says beside its stored header."""

    tenant: str
    ts_ms: int
    id: str
    author: str
    space: str
    kind: str
    hash: bytes


class _Rest(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    links: tuple[record.Link, ...]
    witnesses: tuple[record.WitnessSignature, ...]


_rest = msgspec.json.Decoder(_Rest)


def pack(leaf: bytes, columns: Columns) -> bytes:
    """What to store of a sealed header beside these columns."""
    header = _HEADER.read(leaf)
    if header is not None:
        packed = _pack(header)
        # Equal values have one canonical form, and `read` has held this one to these bytes.
        if packed is not None and _unpack(packed, columns) == header:
            return packed
    return AS_IT_CAME + leaf


def unpack(stored: bytes, columns: Columns) -> bytes:
    """The sealed header; what can't be put together is something that is no header."""
    if stored[:1] == AS_IT_CAME:
        return stored[1:]
    try:
        return _HEADER.write(_unpack(stored, columns))
    except (ValueError, TypeError, msgspec.MsgspecError):
        return b""


def _pack(header: record.Header) -> bytes | None:
    core = header.core
    flags, parts = _PARTS, []
    signature = signing.signature_bytes(header.sig)
    if len(signature) != signing.SIGNATURE_BYTES:
        return None
    if core.prev is not None:
        flags |= _PREV
        parts.append(bytes.fromhex(core.prev))
    if (decided := _decision(core.links)) is not None and not header.witnesses:
        flags |= _DECISION
        parts.append(decided)
    elif core.links or header.witnesses:
        flags |= _REST
        parts.append(msgspec.json.encode(_Rest(core.links, header.witnesses)))
    version = core.schema_version.to_bytes(3)
    return b"".join((bytes((flags,)), version, signature, bytes.fromhex(core.payload_hash), *parts))


def _decision(links: tuple[record.Link, ...]) -> bytes | None:
    """A link to a decision and nothing else: the record's id and the index there."""
    if len(links) != 1 or links[0].label != "decision":
        return None
    ref = parse_ref(links[0].target)
    return None if ref is None or not ids.is_id(ref.record) else uuid.UUID(ref.record).bytes + bytes((ref.index,))


def _unpack(stored: bytes, columns: Columns) -> record.Header:
    flags, at = stored[0] if stored else 0, _FIXED
    if not flags & _PARTS or flags & ~_FLAGS or (flags & _DECISION and flags & _REST) or len(stored) < at:
        raise ValueError("no packed header")
    prev: str | None = None
    links: tuple[record.Link, ...] = ()
    witnesses: tuple[record.WitnessSignature, ...] = ()
    if flags & _PREV:
        prev, at = stored[at : at + 32].hex(), at + 32
    if flags & _DECISION:
        target = f"{uuid.UUID(bytes=stored[at : at + 16])}.{int.from_bytes(stored[at + 16 : at + 17])}"
        links, at = (record.Link(label="decision", target=target),), at + 17
    elif flags & _REST:
        rest = _rest.decode(stored[at:])
        links, witnesses, at = rest.links, rest.witnesses, len(stored)
    if at != len(stored):
        raise ValueError("more than a packed header")
    core = record.Core(
        kind=columns.kind,
        schema_version=int.from_bytes(stored[1:4]),
        id=columns.id,
        tenant=columns.tenant,
        ts=clock.format_ms(columns.ts_ms),
        space=columns.space,
        payload_hash=stored[68:100].hex(),
        links=links,
        prev=prev,
    )
    return record.Header(
        core=core,
        hash=columns.hash.hex(),
        key_id=columns.author,
        sig=signing.signature_text(stored[4:68]),
        witnesses=witnesses,
    )
