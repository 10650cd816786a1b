"""The canonical record: nine core fields, one hash, one author's signature, witnesses, and a payload that can be erased.

Invariants kept here:

- `hash` = hex SHA-256(JCS(core)); the signature covers the DSSE pre-authentication encoding of JCS(core), never a text form.
- `payload_hash` = hex SHA-256(salt || JCS(payload)), salt of 16 random bytes, so a payload is erasable and unguessable.
- The sealed header is JCS({core, hash, key_id, sig, witnesses}), at most 16 KiB. It is the log's leaf.
- What arrives signed arrives canonical: decoded untyped, encoded again, compared, and only then given its type.

Example::

    signed = record.build(NOTE, payload, id=ids.new(), tenant="default", ts="...", space="user", signer=signer, salt=salt)
    checked = record.check(signed)          # raises Refused; needs no state of the log
    leaf = merkle.leaf_hash(checked.leaf)
"""

import re
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Final, TypeVar

import msgspec

from sigilcore import canonical, clock, digest, ids, records, signing
from sigilcore.record_types import Hex32, Hex64, KindTag, Signature
from sigilcore.refusals import Code, Refused

MAX_HEADER_BYTES = 16 * 1024
SPACES = ("user", "system", "audit")

T = TypeVar("T")


class Link(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A named arrow to another record, by hash or id."""

    label: Annotated[str, msgspec.Meta(pattern=r"\A[a-z0-9_]{1,32}\Z")]
    target: Annotated[str, msgspec.Meta(min_length=1, max_length=128)]


class Core(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The nine signed fields."""

    kind: KindTag
    schema_version: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)]
    id: Annotated[str, msgspec.Meta(min_length=36, max_length=36)]
    tenant: Annotated[str, msgspec.Meta(pattern=r"\A[a-z0-9-]{1,32}\Z")]
    ts: Annotated[str, msgspec.Meta(min_length=24, max_length=24)]
    space: Annotated[str, msgspec.Meta(pattern=r"\A(user|system|audit)\Z")]
    payload_hash: Hex64
    links: Annotated[tuple[Link, ...], msgspec.Meta(max_length=32)]
    prev: Hex64 | None

    def link(self, label: str) -> str | None:
        """The target of the first link with this label."""
        for link in self.links:
            if link.label == label:
                return link.target
        return None


class WitnessSignature(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One witness's signature over the same bytes that the author signed."""

    witness_id: Annotated[str, msgspec.Meta(min_length=1, max_length=128)]
    key_id: Hex32
    sig: Signature


class Header(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The sealed header: all of a record but its payload and salt."""

    core: Core
    hash: Hex64
    key_id: Hex32
    sig: Signature
    witnesses: Annotated[tuple[WitnessSignature, ...], msgspec.Meta(max_length=32)]


class SignedRecord(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A record as it travels: the very bytes of header and payload, and the salt (hex)."""

    header: msgspec.Raw
    payload: msgspec.Raw
    salt: Hex32


class PlacedRecord(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A record at its place in the log; the body of a change event. `payload` is null once erased."""

    seq: int
    header: msgspec.Raw
    payload: msgspec.Raw
    salt: str | None

    def signed(self) -> SignedRecord:
        """The record without its place."""
        if self.salt is None:
            raise Refused(Code.NOT_FOUND, "the payload was erased")
        return SignedRecord(header=self.header, payload=self.payload, salt=self.salt)


AuthorCheck = Callable[[Header, bytes, bytes], None]
"""Checks an author's signature, as `verify_author` does: given the header, JCS(core) and the key that the log names."""

# A sealed header as nearly all of them are spelled: no witnesses, links of plain letters. Each text here needs no escape, so what matches
# is in canonical form and keeps to the types above; what doesn't match may still, and is read by `_open_slowly`.
_LINK: Final = r'\{"label":"[a-z0-9_]{1,32}","target":"[ !#-\[\]-~]{1,128}"\}'
_SEALED: Final = re.compile(
    r'\{"core":(\{"id":"(' + ids.PATTERN + r')","kind":"([a-z0-9_]{1,32})",'
    r'"links":(\[\]|\[' + _LINK + "(?:," + _LINK + r"){0,31}\]),"
    r'"payload_hash":"([0-9a-f]{64})","prev":(?:null|"([0-9a-f]{64})"),"schema_version":([1-9][0-9]{0,5}),'
    r'"space":"(user|system|audit)","tenant":"([a-z0-9-]{1,32})","ts":"([0-9TZ:.-]{24})"\}),'
    r'"hash":"([0-9a-f]{64})","key_id":"([0-9a-f]{32})","sig":"([A-Za-z0-9+/]{86}==)","witnesses":\[\]\}'
)

_LINKS = msgspec.json.Decoder(tuple[Link, ...])
_PAYLOADS: dict[type, canonical.Shape[Any]] = {
    kind.payload: canonical.Shape(kind.payload) for kind in records.REGISTRY.values()
}


class Checked(msgspec.Struct, frozen=True, kw_only=True):
    """A record whose own bytes agree with each other: schema, canonical form, hashes, bounds. Its signature is checked by
    `verify_author`, once somebody says which public key `key_id` is."""

    header: Header
    leaf: bytes
    core_bytes: bytes
    payload: Any
    payload_bytes: bytes
    salt: bytes
    kind: records.Kind
    proven: bytes = b""  # the public key whose signature `prove_author` found good

    @property
    def core(self) -> Core:
        """The nine signed fields."""
        return self.header.core

    @property
    def erased(self) -> bool:
        """True if only the header is left; see `check_erased`."""
        return not self.payload_bytes

    def signed(self) -> SignedRecord:
        """The record as it travels."""
        return SignedRecord(
            header=msgspec.Raw(self.leaf), payload=msgspec.Raw(self.payload_bytes), salt=self.salt.hex()
        )


def check(signed: SignedRecord) -> Checked:
    """Check what needs no state of the log, in order: header's form, kind, payload's form, payload hash, record hash, bounds."""
    return _check(bytes(signed.header), bytes(signed.payload), signed.salt)


def _check(leaf: bytes, payload_bytes: bytes, salt_text: str) -> Checked:
    header, core_bytes, kind = _check_header(leaf)
    core = header.core
    if len(payload_bytes) > kind.max_bytes:
        raise Refused(Code.BODY_TOO_LARGE, f"{core.kind} holds at most {kind.max_bytes} bytes", field="$.payload")
    payload = _canonical(payload_bytes, kind.payload, "$.payload", kind.max_bytes)
    salt = _salt(salt_text)
    if digest.payload_hash(salt, payload_bytes) != core.payload_hash:
        raise Refused(Code.RECORD_INVALID, "payload_hash doesn't match", field="$.header.core.payload_hash")
    return Checked(
        header=header,
        leaf=leaf,
        core_bytes=core_bytes,
        payload=payload,
        payload_bytes=payload_bytes,
        salt=salt,
        kind=kind,
    )


def _salt(text: str) -> bytes:
    """The bytes of a salt in its one spelling; a change event or an export may hold any text there."""
    try:
        salt = bytes.fromhex(text)
    except ValueError:
        salt = b""
    if len(salt) != digest.SALT_BYTES or salt.hex() != text:
        raise Refused(Code.RECORD_INVALID, f"a salt is {digest.SALT_BYTES} bytes in hex", field="$.salt")
    return salt


def check_erased(leaf: bytes) -> Checked:
    """Check what is left of a record in `user` whose payload was erased: its header by itself. There is no payload to ask."""
    header, core_bytes, kind = _check_header(leaf)
    if header.core.space != "user":
        raise Refused(Code.RECORD_INVALID, f"a {header.core.space} record's payload is never erased", field="$.payload")
    if not kind.erasable:
        raise Refused(Code.RECORD_INVALID, f"an {kind.tag}'s payload is never erased", field="$.payload")
    return Checked(
        header=header, leaf=leaf, core_bytes=core_bytes, payload=None, payload_bytes=b"", salt=b"", kind=kind
    )


def check_placed(placed: PlacedRecord) -> Checked:
    """Check a record as the log holds it, erased or whole. What enters the log is whole: the writer asks `check`."""
    leaf, payload_bytes = bytes(placed.header), bytes(placed.payload)
    if placed.salt is not None:
        return _check(leaf, payload_bytes, placed.salt)
    if payload_bytes == b"null":
        return check_erased(leaf)
    raise Refused(Code.RECORD_INVALID, "a payload without its salt", field="$.salt")


def _check_header(leaf: bytes) -> tuple[Header, bytes, records.Kind]:
    """The sealed header's size and form, and the kind that it names."""
    if len(leaf) > MAX_HEADER_BYTES:
        raise Refused(Code.HEADER_TOO_LARGE, f"the sealed header has {len(leaf)} bytes, at most {MAX_HEADER_BYTES}")
    header, core_bytes = open_header(leaf)
    core = header.core
    kind = records.REGISTRY.get(core.kind)
    if kind is None:
        raise Refused(Code.KIND_UNKNOWN, f"no kind {core.kind!r}", field="$.header.core.kind")
    if core.space != kind.space:
        raise Refused(Code.KIND_NOT_ALLOWED, f"{core.kind} doesn't stand in {core.space}", field="$.header.core.space")
    if core.schema_version != kind.version:
        raise Refused(
            Code.RECORD_INVALID,
            f"{core.kind} has version {kind.version}",
            field="$.header.core.schema_version",
        )
    return header, core_bytes, kind


def open_header(leaf: bytes) -> tuple[Header, bytes]:
    """Read a sealed header strictly; returns it with JCS(core). Kinds may be unknown here: they are carried opaquely."""
    plain = _open_plain(leaf)
    header, core_bytes = plain or _open_slowly(leaf)
    if digest.sha256_hex(core_bytes) != header.hash:
        raise Refused(Code.RECORD_INVALID, "hash doesn't match the core", field="$.header.hash")
    if plain is None:
        _check_texts(header.core)
    try:
        clock.parse_ms(header.core.ts)
    except ValueError as error:
        raise Refused(Code.RECORD_INVALID, "ts is not RFC 3339 UTC milliseconds", field="$.header.core.ts") from error
    return header, core_bytes


def _check_texts(core: Core) -> None:
    """What `_SEALED` says of a core beyond its types."""
    if not ids.is_id(core.id):
        raise Refused(Code.RECORD_INVALID, "id is not a UUIDv7", field="$.header.core.id")
    for index, link in enumerate(core.links):
        if len(link.target.encode()) > 128:
            raise Refused(
                Code.RECORD_INVALID,
                "a target has at most 128 bytes",
                field=f"$.header.core.links[{index}].target",
            )


def _open_plain(leaf: bytes) -> tuple[Header, bytes] | None:
    """Read a header spelled as `_SEALED`; None for any other, right or wrong."""
    match = _SEALED.fullmatch(leaf.decode("ascii", "replace"))
    if match is None:
        return None
    core_text, id_, kind, links, payload_hash, prev, version, space, tenant, ts, core_hash, key_id, sig = match.groups()
    core = Core(
        kind=kind,
        schema_version=int(version),
        id=id_,
        tenant=tenant,
        ts=ts,
        space=space,
        payload_hash=payload_hash,
        links=() if links == "[]" else _LINKS.decode(links),
        prev=prev,
    )
    return Header(core=core, hash=core_hash, key_id=key_id, sig=sig, witnesses=()), core_text.encode()


def _open_slowly(leaf: bytes) -> tuple[Header, bytes]:
    try:
        plain = canonical.decode(leaf, max_bytes=MAX_HEADER_BYTES)
    except canonical.NotCanonical as error:
        raise Refused(Code.RECORD_INVALID, f"header: {error.reason}", field="$.header" + error.path[1:]) from error
    return _typed(plain, Header, "$.header"), canonical.encode(plain["core"])


def verify_author(header: Header, core_bytes: bytes, public: bytes) -> None:
    """Check the author's signature with the key that the log names; the key id must be that key's."""
    if signing.key_id(public) != header.key_id:
        raise Refused(Code.KEY_NOT_ALLOWED, "key_id is another key's", field="$.header.key_id")
    if not signing.verify_typed(public, signing.RECORD, core_bytes, signing.signature_bytes(header.sig)):
        raise Refused(Code.SIGNATURE_INVALID, "the author's signature doesn't verify", field="$.header.sig")


def prove_author(checked: Checked, public: bytes) -> Checked:
    """The record with the author's signature checked, which isn't done again then; whether that key may speak is for admission to say."""
    verify_author(checked.header, checked.core_bytes, public)
    return msgspec.structs.replace(checked, proven=public)


def verify_witness(witness: WitnessSignature, core_bytes: bytes, public: bytes) -> bool:
    """True if the witness signed exactly these bytes with this key."""
    return signing.key_id(public) == witness.key_id and signing.verify_typed(
        public, signing.RECORD, core_bytes, signing.signature_bytes(witness.sig)
    )


def build(
    kind: str,
    payload: msgspec.Struct,
    *,
    id: str,  # noqa: A002 - the field's name
    tenant: str,
    ts: str,
    space: str,
    signer: signing.Signer,
    salt: bytes,
    links: Sequence[Link] = (),
    prev: str | None = None,
) -> SignedRecord:
    """Build and sign a record; the payload's Struct must be the kind's."""
    entry = records.REGISTRY[kind]
    if type(payload) is not entry.payload:
        raise TypeError(f"{kind} takes {entry.payload.__name__}, not {type(payload).__name__}")
    payload_bytes = canonical.of(payload)
    core = Core(
        kind=kind,
        schema_version=entry.version,
        id=id,
        tenant=tenant,
        ts=ts,
        space=space,
        payload_hash=digest.payload_hash(salt, payload_bytes),
        links=tuple(links),
        prev=prev,
    )
    return seal(core, payload_bytes, salt, signer)


def seal(core: Core, payload_bytes: bytes, salt: bytes, signer: signing.Signer) -> SignedRecord:
    """Sign a core and put the header together."""
    core_bytes = canonical.of(core)
    header = Header(
        core=core,
        hash=digest.sha256_hex(core_bytes),
        key_id=signer.key_id,
        sig=signing.signature_text(signing.sign_typed(signer, signing.RECORD, core_bytes)),
        witnesses=(),
    )
    return SignedRecord(header=msgspec.Raw(canonical.of(header)), payload=msgspec.Raw(payload_bytes), salt=salt.hex())


def witnessed(signed: SignedRecord, witnesses: Sequence[WitnessSignature]) -> SignedRecord:
    """The same record with these witnesses in its header."""
    header, _ = open_header(bytes(signed.header))
    sealed = msgspec.structs.replace(header, witnesses=tuple(witnesses))
    return SignedRecord(header=msgspec.Raw(canonical.of(sealed)), payload=signed.payload, salt=signed.salt)


def witness(signed: SignedRecord, witness_id: str, signer: signing.Signer) -> WitnessSignature:
    """A witness's signature over this record's core."""
    _, core_bytes = open_header(bytes(signed.header))
    sig = signing.sign_typed(signer, signing.RECORD, core_bytes)
    return WitnessSignature(witness_id=witness_id, key_id=signer.key_id, sig=signing.signature_text(sig))


def _canonical(data: bytes, kind: type[T], field: str, max_bytes: int) -> T:
    value: T | None = _PAYLOADS[kind].read(data, max_bytes=max_bytes)
    if value is not None:
        return value
    try:
        plain = canonical.decode(data, max_bytes=max_bytes)
    except canonical.NotCanonical as error:
        raise Refused(Code.RECORD_INVALID, error.reason, field=field + error.path[1:]) from error
    return _typed(plain, kind, field)


def _typed(plain: Any, kind: type[T], field: str) -> T:
    try:
        return msgspec.convert(plain, kind, strict=True)
    except msgspec.ValidationError as error:
        reason, _, path = str(error).partition(" - at `$")
        raise Refused(Code.RECORD_INVALID, reason, field=field + path.rstrip("`")) from error
