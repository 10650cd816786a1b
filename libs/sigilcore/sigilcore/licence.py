"""The licence: a TOML document that a person can read, signed over canonical bytes.

The seal signs JCS of the `[license]` table (DSSE type `application/vnd.sigil.license.v1+json`), never the TOML text. A licence with
`owner.key` is key-bound; without it the document itself is the credential (bearer), and the log never holds its seal.

`validate` answers in a fixed order, first true reason always the same: parsed, seal, content hash, bindings, issued, not before, not
after, not revoked. So a stolen seal key mints nothing that counts: what the log doesn't know was never issued.
"""

import enum
import re
import tomllib
from typing import Annotated, Literal, Protocol

import msgspec
import tomli_w

from sigilcore import canonical, clock, digest, ids, signing
from sigilcore.access import Loa
from sigilcore.record_types import Hex32, Hex64, Name, PublicKey, RecordId, Signature, Timestamp

MAX_TOML_BYTES = 16 * 1024
MAX_DOTS = 64  # outside texts and comments: a licence of ours has two
# Texts as the reader of TOML ends them: three quotes may have two more of their own before them.
_TEXTS = re.compile(
    r'''"""(?:[^\\]|\\.?)*?(?:"{3,5}|\Z)|\'{3}.*?(?:\'{3,5}|\Z)|"(?:[^"\\\n]|\\.)*"?|'[^'\n]*'?|\#[^\n]*''',
    re.DOTALL,
)


class Owner(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """The licensee."""

    id: Name
    name: Annotated[str, msgspec.Meta(min_length=1, max_length=128)]
    key: PublicKey | None = None


class Bindings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which deployment the licence is for."""

    runtime_id: RecordId
    canon_fingerprint: Hex64


class LicenceTable(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The `[license]` table: what is signed."""

    id: RecordId
    owner: Owner
    loa: Loa
    scope: Annotated[tuple[Annotated[str, msgspec.Meta(min_length=1, max_length=64)], ...], msgspec.Meta(max_length=64)]
    issued_at: Timestamp
    expires_at: Timestamp
    issuer: Annotated[str, msgspec.Meta(min_length=1, max_length=128)]
    version: Literal[1]
    bindings: Bindings

    @property
    def key_bound(self) -> bool:
        """True if the owner must prove a key."""
        return self.owner.key is not None


class Seal(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The `[seal]` table."""

    alg: Literal["ed25519"]
    key_id: Hex32
    content_hash: Hex64
    sig: Signature


class LicenceDocument(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A whole licence."""

    license: LicenceTable
    seal: Seal


class Reason(enum.StrEnum):
    """Why a licence doesn't count, in the order of the checks."""

    UNREADABLE = "UNREADABLE"
    SEAL_KEY_UNKNOWN = "SEAL_KEY_UNKNOWN"
    SEAL_BROKEN = "SEAL_BROKEN"
    CONTENT_CHANGED = "CONTENT_CHANGED"
    OTHER_RUNTIME = "OTHER_RUNTIME"
    NEVER_ISSUED = "NEVER_ISSUED"
    NOT_YET_VALID = "NOT_YET_VALID"
    EXPIRED = "EXPIRED"
    REVOKED = "REVOKED"


class Issued(Protocol):
    """What the log knows of an issued licence."""

    @property
    def content_hash(self) -> str:
        """Of the table that was issued."""

    @property
    def revoked_seq(self) -> int | None:
        """Where it ended, if it did."""


class Registry(Protocol):
    """What the log says that validation needs; `governance.Governance` is one."""

    @property
    def runtime_id(self) -> str:
        """The deployment."""

    @property
    def genesis_hash(self) -> str:
        """The fingerprint of its canon."""

    def seal_key(self, key_id: str) -> bytes | None:
        """The public key if the log says it may (or might) issue licences."""

    def issued(self, licence_id: str) -> Issued | None:
        """The licence as the log knows it."""


class Validation(msgspec.Struct, frozen=True, kw_only=True):
    """The structured answer: `reasons` is empty exactly when the licence is valid; the first is the reason."""

    document: LicenceDocument | None
    reasons: tuple[Reason, ...]

    @property
    def valid(self) -> bool:
        """True if nothing speaks against it."""
        return not self.reasons


def content_bytes(table: LicenceTable) -> bytes:
    """The bytes that seal and Root sign."""
    return canonical.of(table)


def content_hash(table: LicenceTable) -> str:
    """Hex SHA-256 of the signed bytes."""
    return digest.sha256_hex(content_bytes(table))


def seal(table: LicenceTable, signer: signing.Signer) -> LicenceDocument:
    """Seal a table with the `license` service's key."""
    body = content_bytes(table)
    sig = signing.sign_typed(signer, signing.LICENSE, body)
    return LicenceDocument(
        license=table,
        seal=Seal(
            alg="ed25519",
            key_id=signer.key_id,
            content_hash=digest.sha256_hex(body),
            sig=signing.signature_text(sig),
        ),
    )


def root_sign(table: LicenceTable, root: signing.Signer) -> str:
    """Root's own signature over a mentor licence's content; a type of its own, so it is no seal."""
    return signing.signature_text(signing.sign_typed(root, signing.LICENSE_ROOT, content_bytes(table)))


def root_signed(table: LicenceTable, signature: str, root_key: bytes) -> bool:
    """True if Root signed this table."""
    return signing.verify_typed(
        root_key, signing.LICENSE_ROOT, content_bytes(table), signing.signature_bytes(signature)
    )


def to_toml(document: LicenceDocument) -> str:
    """The document as its owner keeps it."""
    return tomli_w.dumps(msgspec.to_builtins(document))


def parse(text: str) -> LicenceDocument:
    """Read a licence's TOML; raises ValueError with what is wrong and where."""
    if len(text.encode("utf-8", "surrogatepass")) > MAX_TOML_BYTES:
        raise ValueError(f"a licence has at most {MAX_TOML_BYTES} bytes")
    if _TEXTS.sub("", text).count(".") > MAX_DOTS:
        # A name of n parts costs the reader n * n: half a second for sixteen kilobytes that any stranger may send.
        raise ValueError("no licence has names of so many parts")
    try:
        document = msgspec.convert(tomllib.loads(text), LicenceDocument, strict=True)
        content_bytes(document.license)
    except (
        tomllib.TOMLDecodeError,
        msgspec.ValidationError,
        canonical.NotCanonical,
        RecursionError,
    ) as error:
        raise ValueError(str(error)) from error
    if not ids.is_id(document.license.id):
        raise ValueError("license.id is not a UUIDv7")
    clock.parse_ms(document.license.issued_at)
    clock.parse_ms(document.license.expires_at)
    return document


def validate(text: str, registry: Registry, now_ms: int) -> Validation:
    """Check a presented licence against the log, down the page; only the first reason counts, and only it is given."""
    try:
        document = parse(text)
    except ValueError:
        return Validation(document=None, reasons=(Reason.UNREADABLE,))
    reason = _first_reason(document, registry, now_ms)
    return Validation(document=document, reasons=() if reason is None else (reason,))


def _first_reason(document: LicenceDocument, registry: Registry, now_ms: int) -> Reason | None:
    table, sealed = document.license, document.seal
    public = registry.seal_key(sealed.key_id)
    if public is None:
        return Reason.SEAL_KEY_UNKNOWN
    body = content_bytes(table)
    if not signing.verify_typed(public, signing.LICENSE, body, signing.signature_bytes(sealed.sig)):
        return Reason.SEAL_BROKEN
    if digest.sha256_hex(body) != sealed.content_hash:
        return Reason.CONTENT_CHANGED
    if table.bindings != Bindings(runtime_id=registry.runtime_id, canon_fingerprint=registry.genesis_hash):
        return Reason.OTHER_RUNTIME
    entry = registry.issued(table.id)
    if entry is None or entry.content_hash != sealed.content_hash:
        return Reason.NEVER_ISSUED
    return standing_reason(table, entry, now_ms)


def standing_reason(table: LicenceTable, entry: Issued, now_ms: int) -> Reason | None:
    """The reasons that time and revocation give, for a licence that the log knows."""
    if now_ms < clock.parse_ms(table.issued_at):
        return Reason.NOT_YET_VALID
    if now_ms >= clock.parse_ms(table.expires_at):
        return Reason.EXPIRED
    if entry.revoked_seq is not None:
        return Reason.REVOKED
    return None
