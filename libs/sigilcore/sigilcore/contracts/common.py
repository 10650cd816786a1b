"""Shapes that several services' messages share."""

from typing import Annotated

import msgspec

from sigilcore.record_types import Hex64, Name, RecordId
from sigilcore.refusals import Code, Refused

PositiveSeq = Annotated[int, msgspec.Meta(ge=0, le=2**53 - 1)]
Cursor = Annotated[str, msgspec.Meta(max_length=256, description="as the last answer gave it")]
Limit = Annotated[int, msgspec.Meta(ge=1, le=500)]
Id = Annotated[
    str,
    msgspec.Meta(min_length=36, max_length=36, description="UUIDv7; the record's id and the idempotency key"),
]
WaitFor = Annotated[int, msgspec.Meta(ge=0, le=2**53 - 1, description="a seq that the view must have reached")]

__all__ = [
    "Cursor",
    "Empty",
    "Hex64",
    "Id",
    "Limit",
    "Message",
    "Name",
    "Placed",
    "PositiveSeq",
    "RecordId",
    "WaitFor",
    "cursor_number",
]


class Message(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of all that crosses the bus: frozen, by name only, unknown fields refused."""


class Empty(Message, frozen=True, kw_only=True):
    """Nothing is asked or told."""


class Placed(Message, frozen=True, kw_only=True):
    """Where an effect stands in the canon."""

    id: RecordId
    hash: Hex64
    seq: int


def cursor_number(cursor: str) -> int:
    """The number that a cursor is, where a page begins at one. Raises `Refused`: BAD_INPUT for any other spelling."""
    if not (cursor.isascii() and cursor.isdigit() and len(cursor) <= 16):
        raise Refused(Code.BAD_INPUT, "a cursor as the last answer gave it", field="$.cursor")
    return int(cursor)
