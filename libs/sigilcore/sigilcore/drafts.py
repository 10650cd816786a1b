"""Drafts: system records on their way to Root's signature and back.

A service makes the draft, Root signs it somewhere else, and it comes back as text. Invariants:

- A draft's `core` and `payload` are JCS as text; what is signed is exactly the bytes of `core`.
- What comes back is rebuilt strictly: canonical, typed, hashes recomputed. Nothing that the sender says about it is believed.
- `assembled` verifies no signature, since it doesn't know whose; `record.verify_author` does, with the key that the log names.
"""

from collections.abc import Mapping
from typing import Any

import msgspec

from sigilcore import canonical, digest, record, records, signing
from sigilcore.contracts.license import Draft
from sigilcore.contracts.quorum import RootSigned
from sigilcore.record_types import Timestamp
from sigilcore.refusals import Code, Refused


def with_ends(plain: Mapping[str, Any], expires_at: str) -> dict[str, Any]:
    """A change as somebody wrote it down, with this end where it names none: itself, and each that it carries."""

    def ended(part: Any) -> Any:
        inner = part.get("payload") if isinstance(part, Mapping) else None
        return {**part, "payload": {"expires_at": expires_at, **inner}} if isinstance(inner, Mapping) else part

    parts = plain.get("changes")
    carried = {"changes": [ended(part) for part in parts]} if isinstance(parts, list | tuple) else {}
    return {"expires_at": expires_at, **plain, **carried}


def without_ends(payload: msgspec.Struct) -> dict[str, Any]:
    """A change as somebody would write it down again, to end at another time."""
    plain: dict[str, Any] = msgspec.to_builtins(payload)
    for inner in (plain, *(part["payload"] for part in plain.get("changes", ()))):
        del inner["expires_at"]
    return plain


def made(
    kind: str,
    payload: msgspec.Struct,
    *,
    id: str,  # noqa: A002 - the field's name
    tenant: str,
    ts: Timestamp,
    prev: str | None,
    salt: bytes,
) -> Draft:
    """The draft of a system record."""
    payload_bytes = canonical.of(payload)
    core = record.Core(
        kind=kind,
        schema_version=records.REGISTRY[kind].version,
        id=id,
        tenant=tenant,
        ts=ts,
        space="system",
        payload_hash=digest.payload_hash(salt, payload_bytes),
        links=(),
        prev=prev,
    )
    return Draft(core=canonical.of(core).decode(), payload=payload_bytes.decode(), salt=salt.hex())


def signed(draft: Draft, root: signing.Signer) -> RootSigned:
    """The draft with Root's signature, as its owner's side makes it. Read the payload before you sign."""
    sig = signing.sign_typed(root, signing.RECORD, draft.core.encode())
    return RootSigned(core=draft.core, payload=draft.payload, salt=draft.salt, sig=signing.signature_text(sig))


def assembled(parts: RootSigned, root_key: bytes, *, field: str = "$.record") -> record.Checked:
    """The record that these parts are, checked like any other; its key id is Root's, its signature still to verify."""
    core_bytes = parts.core.encode()
    try:
        plain = canonical.decode(core_bytes, max_bytes=record.MAX_HEADER_BYTES)
        core = msgspec.convert(plain, record.Core, strict=True)
    except (canonical.NotCanonical, msgspec.ValidationError) as error:
        raise Refused(Code.RECORD_INVALID, f"core: {error}", field=f"{field}.core") from error
    header = record.Header(
        core=core,
        hash=digest.sha256_hex(core_bytes),
        key_id=signing.key_id(root_key),
        sig=parts.sig,
        witnesses=(),
    )
    checked = record.check(
        record.SignedRecord(
            header=msgspec.Raw(canonical.of(header)),
            payload=msgspec.Raw(parts.payload.encode()),
            salt=parts.salt,
        )
    )
    if checked.core.space != "system":
        raise Refused(Code.KIND_NOT_ALLOWED, f"{checked.core.kind} is no system kind", field=f"{field}.core")
    return checked


def parts_of(checked: record.Checked) -> RootSigned:
    """A record taken apart again, as proposals show it."""
    return RootSigned(
        core=checked.core_bytes.decode(),
        payload=checked.payload_bytes.decode(),
        salt=checked.salt.hex(),
        sig=checked.header.sig,
    )
