"""One signing function: Ed25519 over the DSSE pre-authentication encoding, with a payload type for each kind of document.

The type is signed, so no signature can be replayed as another kind of document. Public keys are checked where they are enrolled: the
verifying constructors of the libraries take small-order and non-canonical points, `check_public_key` does not. `verify` answers every
malformed key or signature with False; nothing a stranger sends makes it raise.
"""

import binascii
import functools
from typing import Protocol

import nacl.bindings
import nacl.exceptions
import nacl.signing
import nacl.utils

from sigilcore import digest
from sigilcore.refusals import Code, Refused

RECORD = "application/vnd.sigil.record.v1+json"
LICENSE = "application/vnd.sigil.license.v1+json"
LICENSE_ROOT = "application/vnd.sigil.license-root.v1+json"
SESSION = "application/vnd.sigil.session.v1+json"
CERTIFICATE = "application/vnd.sigil.session-certificate.v1+json"
PROOF = "application/vnd.sigil.proof.v1+json"
PERMIT = "application/vnd.sigil.permit.v1+json"
NONCE = "application/vnd.sigil.nonce.v1+json"
GRANT = "application/vnd.sigil.grant.v1+json"
PEER_SESSION = "application/vnd.sigil.peer-session.v1+json"
MEMBERSHIP = "application/vnd.sigil.mesh-membership.v1+json"
# For people among themselves: no door of the house takes these.
FILE = "application/vnd.sigil.file.v1+json"
SUCCESSION = "application/vnd.sigil.key-succession.v1+json"

SEED_BYTES = 32
PUBLIC_KEY_BYTES = 32
SIGNATURE_BYTES = 64


class WeakKey(ValueError):  # noqa: N818 - names what is wrong with the key
    """A public key that is no canonical point of the prime-order group."""


class Signer(Protocol):
    """Signs messages with a key that stays where it is."""

    @property
    def public_key(self) -> bytes:
        """The raw public key, 32 bytes."""

    @property
    def key_id(self) -> str:
        """The first 32 hex digits of SHA-256(public key)."""

    def sign(self, message: bytes) -> bytes:
        """An Ed25519 signature, 64 bytes (RFC 8032)."""


class Ed25519Signer:
    """A signer whose key lives in this process."""

    def __init__(self, seed: bytes) -> None:
        """`seed` has 32 bytes."""
        self._key = nacl.signing.SigningKey(seed)
        self._public = bytes(self._key.verify_key)
        self._key_id = key_id(self._public)

    @classmethod
    def generate(cls) -> "Ed25519Signer":
        """A signer with a fresh key that dies with it: the seed can't be read back, so what must be kept starts from a seed."""
        return cls(nacl.utils.random(SEED_BYTES))

    @property
    def public_key(self) -> bytes:
        """The raw public key, 32 bytes."""
        return self._public

    @property
    def key_id(self) -> str:
        """The first 32 hex digits of SHA-256(public key)."""
        return self._key_id

    def sign(self, message: bytes) -> bytes:
        """An Ed25519 signature, 64 bytes (RFC 8032)."""
        return self._key.sign(message).signature

    def __repr__(self) -> str:
        """Never the key."""
        return f"Ed25519Signer({self._key_id})"


@functools.lru_cache(maxsize=1024)  # few keys speak often
def key_id(public: bytes) -> str:
    """The first 32 hex digits of SHA-256(raw public key)."""
    return digest.sha256_hex(public)[:32]


def check_public_key(public: bytes) -> bytes:
    """The key, if it is a canonical point of the prime-order group; raises `WeakKey`."""
    if len(public) != PUBLIC_KEY_BYTES:
        raise WeakKey(f"a public key has {PUBLIC_KEY_BYTES} bytes")
    if not nacl.bindings.crypto_core_ed25519_is_valid_point(public):
        raise WeakKey("not a canonical point of the prime-order group")
    return public


def strong_key(key: str, field: str) -> bytes:
    """The raw key that these hex digits spell, if it is a safe curve point; raises `Refused`: WEAK_KEY with the field."""
    try:
        return check_public_key(bytes.fromhex(key))
    except WeakKey as error:
        raise Refused(Code.WEAK_KEY, str(error), field=field) from error


def verify(public: bytes, message: bytes, signature: bytes) -> bool:
    """True if the signature is good; False for anything else, however malformed."""
    if len(public) != PUBLIC_KEY_BYTES or len(signature) != SIGNATURE_BYTES:
        return False
    try:
        nacl.bindings.crypto_sign_open(signature + message, public)
    except nacl.exceptions.BadSignatureError:
        return False
    return True


def pae(payload_type: str, body: bytes) -> bytes:
    """DSSE v1 pre-authentication encoding; lengths count bytes."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(body), body)


def sign_typed(signer: Signer, payload_type: str, body: bytes) -> bytes:
    """Sign a document of this type."""
    return signer.sign(pae(payload_type, body))


def verify_typed(public: bytes, payload_type: str, body: bytes, signature: bytes) -> bool:
    """True if this key signed this document as this type."""
    return verify(public, pae(payload_type, body), signature)


def signature_bytes(text: str) -> bytes:
    """The bytes of a signature in standard base64; empty when malformed, which then verifies nothing."""
    try:
        raw = binascii.a2b_base64(text, strict_mode=True)
    except ValueError:
        return b""
    return raw if signature_text(raw) == text else b""


def signature_text(raw: bytes) -> str:
    """Standard base64 with padding."""
    return binascii.b2a_base64(raw, newline=False).decode()
