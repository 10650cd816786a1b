"""What people sign among themselves: a file that lies beside its signature, and the succession of one key by another.

Both are DSSE envelopes (JSON) of a payload type that no door of the house takes, so a signature made here admits, mints, attests and
opens nothing; any DSSE library verifies them. The envelope of a file holds its SHA-256 and length, never its bytes.

- An envelope says nothing about who may speak: the verifier brings the public keys.
- A file's envelope holds if every asked key signed it, and the file has that length and that SHA-256.
- A succession holds if both keys signed it: the old one names the new one, the new one proves that it exists.

Example: `verify_file(envelope, [ada], size=3, sha256=digest)` is None, or the first reason why not.
"""

from collections.abc import Sequence
from typing import Annotated, TypeVar

import msgspec

from sigilcore import canonical, envelope, signing
from sigilcore.record_types import Hex64, PublicKey

Size = Annotated[int, msgspec.Meta(ge=0, le=canonical.MAX_INT)]


class FileStatement(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A file, by its bytes; its name is nobody's business."""

    size: Size
    sha256: Hex64


class Succession(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`new` speaks where `old` spoke; who believes `old` may believe this."""

    old: PublicKey
    new: PublicKey


T = TypeVar("T", FileStatement, Succession)


def sign_file(statement: FileStatement, signers: Sequence[signing.Signer]) -> bytes:
    """The envelope of a file."""
    return _signed(signing.FILE, statement, signers)


def sign_succession(old: signing.Signer, new: signing.Signer) -> bytes:
    """The envelope that hands one key's place to another; raises ValueError when they are one."""
    if old.public_key == new.public_key:
        raise ValueError("a key doesn't succeed itself")
    return _signed(signing.SUCCESSION, Succession(old=old.public_key.hex(), new=new.public_key.hex()), (old, new))


def verify_file(data: bytes, keys: Sequence[bytes], *, size: int, sha256: str) -> str | None:
    """The first reason why this envelope isn't these keys' word for this file; None if it is. Raises `envelope.BadToken`."""
    opened = envelope.parse(data)
    reason = _unsigned(opened, signing.FILE, keys)
    if reason is not None:
        return reason
    statement = _statement(opened, FileStatement)
    if statement.size != size:
        return f"the file has {size} bytes, {statement.size} were signed"
    return None if statement.sha256 == sha256 else "the file's bytes are not the signed ones"


def succession(data: bytes) -> Succession:
    """A succession whose two signatures hold. Raises `envelope.BadToken`."""
    opened = envelope.parse(data)
    found = _statement(opened, Succession)
    keys = [bytes.fromhex(found.old), bytes.fromhex(found.new)]
    if found.old == found.new or _unsigned(opened, signing.SUCCESSION, keys) is not None:
        raise envelope.BadToken("signature")
    return found


def _signed(payload_type: str, body: msgspec.Struct, signers: Sequence[signing.Signer]) -> bytes:
    data = canonical.of(body)
    made = [(signer.key_id, signing.sign_typed(signer, payload_type, data)) for signer in signers]
    return envelope.export(payload_type, data, made)


def _unsigned(opened: envelope.Envelope, payload_type: str, keys: Sequence[bytes]) -> str | None:
    """The first reason why not every key signed this; an empty list of keys is nobody's word."""
    if opened.payloadType != payload_type:
        return f"it is of type {opened.payloadType}, not {payload_type}"
    if not keys:
        return "no key was named"
    for public in keys:
        try:
            signing.check_public_key(public)
        except signing.WeakKey as error:
            return f"{signing.key_id(public)}: {error}"
        hinted = [sig for key_id, sig in opened.signed() if key_id == signing.key_id(public)]
        if not hinted:
            return f"no signature by {signing.key_id(public)}"
        if not signing.verify_typed(public, payload_type, opened.body(), hinted[0]):
            return f"the signature by {signing.key_id(public)} doesn't verify"
    return None


def _statement(opened: envelope.Envelope, kind: type[T]) -> T:
    try:
        return canonical.convert(opened.body(), kind)
    except canonical.NotCanonical as error:
        raise envelope.BadToken("content") from error
