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

import binascii

import msgspec

from sigilcore import canonical, clock, record, signing

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


_header = msgspec.json.Decoder(record.Header)
_rest = msgspec.json.Decoder(_Rest)


def pack(leaf: bytes, columns: Columns) -> bytes:
    """What to store of a sealed header beside these columns."""
    try:
        packed = _pack(_header.decode(leaf))
    except (ValueError, msgspec.MsgspecError):
        packed = None
    # The bytes themselves are compared: whatever a part didn't carry shows here.
    return packed if packed is not None and unpack(packed, columns) == leaf else AS_IT_CAME + leaf


def unpack(stored: bytes, columns: Columns) -> bytes:
    """The sealed header; what can't be put together is something that is no header."""
    if stored[:1] == AS_IT_CAME:
        return stored[1:]
    try:
        return _HEADER.write(_unpack(stored, columns))
    except (ValueError, TypeError, msgspec.MsgspecError):
        return b""


def _pack(header: record.Header) -> bytes:
    """The parts, without asking whether they can be put together again: `pack` does, and nothing else could."""
    core, links = header.core, header.core.links
    flags = _PARTS
    prev, rest = b"", b""
    if core.prev is not None:
        flags, prev = flags | _PREV, bytes.fromhex(core.prev)
    if len(links) == 1 and links[0].label == "decision" and not header.witnesses:
        name, _, index = links[0].target.partition(".")
        flags, rest = flags | _DECISION, bytes.fromhex(name.replace("-", "")) + bytes((int(index),))
    elif links or header.witnesses:
        flags, rest = flags | _REST, msgspec.json.encode(_Rest(links, header.witnesses))
    fixed = binascii.a2b_base64(header.sig) + bytes.fromhex(core.payload_hash)
    return bytes((flags,)) + core.schema_version.to_bytes(3) + fixed + prev + rest


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
        name, index = stored[at : at + 16].hex(), int.from_bytes(stored[at + 16 : at + 17])
        target = f"{name[:8]}-{name[8:12]}-{name[12:16]}-{name[16:20]}-{name[20:]}.{index}"
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
