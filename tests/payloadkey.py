"""A payload key for tests that need no keystore: the same sealing as `sigilrun.keys.AeadKey`, on a key in plain memory."""

import os

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from sigilrun import key_faults


class PayloadKey:
    """Wraps data keys."""

    def __init__(self) -> None:
        self._aead = AESGCM(AESGCM.generate_key(256))

    def seal(self, plaintext: bytes, associated: bytes) -> bytes:
        nonce = os.urandom(12)
        return nonce + self._aead.encrypt(nonce, plaintext, associated)

    def unseal(self, sealed: bytes, associated: bytes) -> bytes:
        try:
            return self._aead.decrypt(sealed[:12], sealed[12:], associated)
        except (InvalidTag, ValueError):
            raise key_faults.SealBroken("sealed by another key") from None


ONE = PayloadKey()
