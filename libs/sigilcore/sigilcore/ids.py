"""Record ids: UUIDv7 (RFC 9562), lower case, one spelling.

Ids made from one idempotency key are derived, so that a retry after a crash writes the same ids again. A derived id sorts beside its
parent: the 48 bits of time are the parent's.
"""

import hashlib
import re

import uuid_utils

PATTERN = r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"
"""The one spelling, for schemas."""

_ID = re.compile(PATTERN)


def new() -> str:
    """A fresh id, ordered by time; the one function of sigilcore that reads clock and randomness."""
    return str(uuid_utils.uuid7())


def is_id(text: str) -> bool:
    """True for a UUIDv7 in its canonical spelling."""
    return _ID.fullmatch(text) is not None


def derive(parent: str, label: str) -> str:
    """An id made from another and a label: the parent's time, the other 74 bits from SHA-256; raises ValueError for a bad parent."""
    if not is_id(parent):
        raise ValueError("the parent is not a UUIDv7")
    # The parent has a fixed length, so the join is unambiguous.
    rest = hashlib.sha256(f"{parent}/{label}".encode()).hexdigest()
    variant = "89ab"[int(rest[3], 16) & 3]
    return f"{parent[:13]}-7{rest[:3]}-{variant}{rest[4:7]}-{rest[7:19]}"
