"""Hashes: SHA-256 throughout; salted where a guess must not be confirmable."""

import hashlib

SALT_BYTES = 16


def sha256(data: bytes) -> bytes:
    """32 bytes."""
    return hashlib.sha256(data).digest()


def sha256_hex(data: bytes) -> str:
    """64 lower-case hex digits."""
    return hashlib.sha256(data).hexdigest()


def payload_hash(salt: bytes, payload: bytes) -> str:
    """Hex SHA-256(salt || JCS(payload)); the salt has 16 bytes."""
    return _salted(salt, payload)


def parameter_digest(salt: bytes, parameters: bytes) -> str:
    """Hex SHA-256(salt || the body's very bytes); the salt has 16 bytes."""
    return _salted(salt, parameters)


def _salted(salt: bytes, data: bytes) -> str:
    if len(salt) != SALT_BYTES:
        raise ValueError(f"a salt has {SALT_BYTES} bytes")
    return hashlib.sha256(salt + data).hexdigest()
