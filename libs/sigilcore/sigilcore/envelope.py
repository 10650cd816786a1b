"""Envelopes: DSSE for export, and a compact token for what travels in headers.

A token is `base64url(JCS(body)) "." base64url(signature)` without padding; the signature covers the DSSE encoding with the document's
type. Both forms have one spelling: what doesn't encode back to itself is refused.
"""

import base64
import binascii
from collections.abc import Sequence
from typing import TypeVar

import msgspec

from sigilcore import canonical, signing

MAX_TOKEN = 64 * 1024

T = TypeVar("T", bound=msgspec.Struct)


class BadToken(ValueError):  # noqa: N818 - names what is wrong with the token
    """A token that says nothing; `reason` is `malformed`, `signature` or `content`."""

    def __init__(self, reason: str) -> None:
        """`reason` never repeats the token."""
        super().__init__(reason)
        self.reason = reason


class EnvelopeSignature(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One signature of a DSSE envelope."""

    keyid: str
    sig: str


class Envelope(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A DSSE envelope in its JSON form."""

    payload: str
    payloadType: str  # noqa: N815 - the standard's spelling
    signatures: tuple[EnvelopeSignature, ...]


def export(payload_type: str, body: bytes, signatures: Sequence[tuple[str, bytes]]) -> bytes:
    """A DSSE envelope (JSON) with these (key id, signature) pairs."""
    return msgspec.json.encode(
        Envelope(
            payload=base64.b64encode(body).decode(),
            payloadType=payload_type,
            signatures=tuple(
                EnvelopeSignature(keyid=key_id, sig=base64.b64encode(sig).decode()) for key_id, sig in signatures
            ),
        )
    )


def parse(data: bytes) -> Envelope:
    """Read a DSSE envelope; raises `BadToken`."""
    try:
        envelope = canonical.typed(canonical.parse(data), Envelope)
    except canonical.NotCanonical as error:
        raise BadToken("malformed") from error
    for text in (envelope.payload, *(signature.sig for signature in envelope.signatures)):
        if text and not signing.signature_bytes(text):
            raise BadToken("malformed")
    return envelope


def seal(signer: signing.Signer, payload_type: str, body: msgspec.Struct) -> str:
    """Sign a document as a compact token."""
    data = canonical.of(body)
    return f"{_text(data)}.{_text(signing.sign_typed(signer, payload_type, data))}"


def unseal(token: str, payload_type: str, kind: type[T], public: bytes) -> T:
    """The document of a token that this key signed as this type; raises `BadToken`."""
    body, signature = _parts(token)
    if not signing.verify_typed(public, payload_type, body, signature):
        raise BadToken("signature")
    return _content(body, kind)


def peek_unverified(token: str, kind: type[T]) -> T:
    """Read a token without believing it, to learn which key to check it with."""
    return _content(_parts(token)[0], kind)


def _parts(token: str) -> tuple[bytes, bytes]:
    if len(token) > MAX_TOKEN or not token.isascii():
        raise BadToken("malformed")
    body, dot, signature = token.partition(".")
    if not dot:
        raise BadToken("malformed")
    return _bytes(body), _bytes(signature)


def _content(body: bytes, kind: type[T]) -> T:
    try:
        return canonical.convert(body, kind)
    except canonical.NotCanonical as error:
        raise BadToken("content") from error


def _text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _bytes(text: str) -> bytes:
    try:
        data = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError) as error:
        raise BadToken("malformed") from error
    if _text(data) != text:
        raise BadToken("malformed")
    return data
