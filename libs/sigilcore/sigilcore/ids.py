"""Record ids: UUIDv7 (RFC 9562), lower case, one spelling."""

import hashlib
import re

import uuid_utils

_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", re.ASCII)


def new() -> str:
    """A fresh id, ordered by time; the one function of sigilcore that reads clock and randomness."""
    return str(uuid_utils.uuid7())


def is_id(text: str) -> bool:
    """True for a UUIDv7 in its canonical spelling."""
    return _ID.fullmatch(text) is not None


def derive(parent: str, label: str) -> str:
    """An id made from another and a label: the parent's time, the rest from SHA-256, so a retry derives the same."""
    if not is_id(parent):
        raise ValueError("the parent is not a UUIDv7")
    time = parent.replace("-", "")[:12]
    rest = hashlib.sha256(f"{parent}/{label}".encode()).hexdigest()
    variant = "89ab"[int(rest[3], 16) & 3]
    return f"{time[:8]}-{time[8:]}-7{rest[:3]}-{variant}{rest[4:7]}-{rest[7:19]}"
