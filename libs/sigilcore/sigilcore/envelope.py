"""Envelopes: DSSE for export, and a compact token for what travels in headers.

A token is `base64url(JCS(body)) "." base64url(signature)` without padding; the signature covers the DSSE encoding with the document's
type, so a token of one kind never passes for another. Both forms have one spelling: base64 that doesn't encode back to itself (padding,
another alphabet, white space, stray last bits) is refused. Verify first, then parse: `unseal` looks into a body only after its signature
is good; `peek_unverified` is there to find out which key to ask.

An envelope that was read says nothing about who signed it: keys and thresholds are the reader's business.
"""

import base64
import binascii
from collections.abc import Sequence
from typing import TypeVar

import msgspec

from sigilcore import canonical, signing

MAX_TOKEN = 64 * 1024  # characters; far more than any header may carry
MAX_ENVELOPE_BYTES = 2 * canonical.MAX_BYTES  # base64 of a whole document, with room for signatures
MAX_SIGNATURES = 64
_TO_URL = bytes.maketrans(b"+/", b"-_")

T = TypeVar("T", bound=msgspec.Struct)


class BadToken(ValueError):  # noqa: N818 - names what is wrong with the token
    """A token or envelope that says nothing; `reason` is `malformed`, `signature` or `content`."""

    def __init__(self, reason: str) -> None:
        """`reason` never repeats the token."""
        super().__init__(reason)
        self.reason = reason


class EnvelopeSignature(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One signature of a DSSE envelope: the key id is a hint, the signature standard base64."""

    keyid: str
    sig: str


class Envelope(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A DSSE envelope in its JSON form."""

    payload: str
    payloadType: str  # noqa: N815 - the standard's spelling
    signatures: tuple[EnvelopeSignature, ...]

    def body(self) -> bytes:
        """The signed document's bytes."""
        return base64.b64decode(self.payload)

    def signed(self) -> tuple[tuple[str, bytes], ...]:
        """The (key id, signature) pairs, unverified."""
        return tuple((one.keyid, base64.b64decode(one.sig)) for one in self.signatures)


def export(payload_type: str, body: bytes, signatures: Sequence[tuple[str, bytes]]) -> bytes:
    """A DSSE envelope (canonical JSON) with these (key id, signature) pairs; raises ValueError where `parse` would refuse it."""
    envelope = Envelope(
        payload=_standard(body),
        payloadType=payload_type,
        signatures=tuple(EnvelopeSignature(keyid=key_id, sig=_standard(sig)) for key_id, sig in signatures),
    )
    data = canonical.encode(msgspec.to_builtins(envelope), max_bytes=MAX_ENVELOPE_BYTES)
    parse(data)
    return data


def parse(data: bytes) -> Envelope:
    """Read a DSSE envelope with one to 64 signatures of different keys; raises `BadToken`."""
    try:
        envelope = canonical.typed(canonical.parse(data, max_bytes=MAX_ENVELOPE_BYTES), Envelope)
    except canonical.NotCanonical as error:
        raise BadToken("malformed") from error
    if not 1 <= len(envelope.signatures) <= MAX_SIGNATURES:
        raise BadToken("malformed")
    if len({one.keyid for one in envelope.signatures}) < len(envelope.signatures):
        raise BadToken("malformed")
    for text in (envelope.payload, *(one.sig for one in envelope.signatures)):
        if _standard(_decoded(text)) != text:
            raise BadToken("malformed")
    return envelope


def seal(signer: signing.Signer, payload_type: str, body: msgspec.Struct) -> str:
    """Sign a document as a compact token; raises ValueError for one that `unseal` would refuse for its size."""
    data = canonical.of(body)
    token = f"{_url(data)}.{_url(signing.sign_typed(signer, payload_type, data))}"
    if len(token) > MAX_TOKEN:
        raise ValueError(f"a token of {len(token)} characters, at most {MAX_TOKEN}")
    return token


def unseal(token: str, payload_type: str, kind: type[T], public: bytes) -> T:
    """The document of a token that this key signed as this type; raises `BadToken`."""
    body, signature = _parts(token)
    if not signing.verify_typed(public, payload_type, body, signature):
        raise BadToken("signature")
    return _content(body, kind)


def peek_unverified(token: str, kind: type[T]) -> T:
    """Read a token without believing it, to learn which key to check it with; raises `BadToken`."""
    return _content(_parts(token)[0], kind)


def _parts(token: str) -> tuple[bytes, bytes]:
    if len(token) > MAX_TOKEN:
        raise BadToken("malformed")
    body, dot, signature = token.partition(".")
    if not body or not dot:
        raise BadToken("malformed")
    raw = _unpadded(body), _unpadded(signature)
    if len(raw[1]) != signing.SIGNATURE_BYTES:
        raise BadToken("malformed")
    return raw


def _content(body: bytes, kind: type[T]) -> T:
    try:
        return canonical.convert(body, kind)
    except canonical.NotCanonical as error:
        raise BadToken("content") from error


def _unpadded(text: str) -> bytes:
    data = _decoded(text.replace("-", "+").replace("_", "/") + "=" * (-len(text) % 4))
    if _url(data) != text:
        raise BadToken("malformed")
    return data


def _decoded(text: str) -> bytes:
    """Lenient in the ways Python is; the callers compare with the one spelling."""
    try:
        return binascii.a2b_base64(text, strict_mode=True)
    except (binascii.Error, ValueError) as error:
        raise BadToken("malformed") from error


def _standard(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _url(data: bytes) -> str:
    return binascii.b2a_base64(data, newline=False).translate(_TO_URL, b"=").decode()
