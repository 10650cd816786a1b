"""One road from a value to the bytes that are hashed or signed: RFC 8785 (JCS), I-JSON only.

Two roads, one result. `rfc8785` is the reference. msgspec's sorted encoder, far faster, serves only values made of dict, list, str,
bool, None and in-range int whose encoding holds no byte of 0xF0 or more (it orders keys by code point, which differs from JCS's UTF-16
order only where characters beyond the BMP stand beside U+E000 to U+FFFF); everything else takes the slow road.

Refused: NaN, infinities, integers beyond ±(2^53 − 1), lone surrogates, nesting deeper than 64, more than 1 MiB, anything that is not
plain JSON data.
"""

import json
from typing import Any, TypeVar

import msgspec
import rfc8785

MAX_DEPTH = 64
MAX_BYTES = 1 << 20
MAX_INT = 2**53 - 1

T = TypeVar("T")

_fast = msgspec.json.Encoder(order="sorted")
_decoder = msgspec.json.Decoder()
_BMP = bytes(range(0xF0))  # the bytes of UTF-8 that encode nothing beyond the BMP


class NotCanonical(ValueError):  # noqa: N818 - names what is wrong with the bytes
    """The value or bytes have no canonical form here; `path` is a JSON path, empty where it isn't known."""

    def __init__(self, reason: str, path: str = "") -> None:
        """`reason` is for people; neither part repeats the value."""
        super().__init__(f"{reason} at {path}" if path else reason)
        self.reason = reason
        self.path = path


def encode(value: object, *, max_bytes: int | None = MAX_BYTES) -> bytes:
    """The canonical bytes of plain JSON data."""
    try:
        data = _encode(value)
    except (UnicodeEncodeError, rfc8785.CanonicalizationError) as error:
        raise NotCanonical("a lone surrogate or a number that JSON can't hold") from error
    if max_bytes is not None and len(data) > max_bytes:
        raise NotCanonical(f"{len(data)} bytes, at most {max_bytes}")
    return data


def of(struct: msgspec.Struct) -> bytes:
    """The canonical bytes of a Struct."""
    return encode(msgspec.to_builtins(struct))


def decode(data: bytes, *, max_bytes: int = MAX_BYTES) -> Any:
    """Read bytes that must be canonical: decoded untyped, encoded again, compared (which also refuses duplicate keys)."""
    if len(data) > max_bytes:
        raise NotCanonical(f"{len(data)} bytes, at most {max_bytes}")
    try:
        value = _decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise NotCanonical("not JSON") from error
    if encode(value, max_bytes=max_bytes) != data:
        raise NotCanonical("not in canonical form (RFC 8785)")
    return value


def convert(data: bytes, kind: type[T], *, max_bytes: int = MAX_BYTES) -> T:
    """Read canonical bytes into a type; a value that doesn't fit names its path."""
    return typed(decode(data, max_bytes=max_bytes), kind)


def typed(value: Any, kind: type[T]) -> T:
    """Give plain data its type, strictly."""
    try:
        return msgspec.convert(value, kind, strict=True)
    except msgspec.ValidationError as error:
        reason, _, path = str(error).partition(" - at `")
        raise NotCanonical(reason, path.rstrip("`") or "$") from error


def parse(data: bytes, *, max_bytes: int = MAX_BYTES) -> Any:
    """Read I-JSON that need not be canonical: duplicate keys, deep nesting, NaN, big integers and lone surrogates are refused."""
    if len(data) > max_bytes:
        raise NotCanonical(f"{len(data)} bytes, at most {max_bytes}")
    try:
        value = json.loads(data.decode("utf-8"), object_pairs_hook=_object, parse_constant=_constant)
    except NotCanonical:
        raise
    except (ValueError, RecursionError) as error:
        raise NotCanonical("not JSON") from error
    encode(value, max_bytes=None)
    return value


def _encode(value: object) -> bytes:
    if _walk(value, 0, "$"):
        data = _fast.encode(value)
        if data.isascii() or not data.translate(None, _BMP):
            return data
    return rfc8785.dumps(value)  # type: ignore[arg-type]


def _walk(value: object, depth: int, path: str) -> bool:
    """Check types, depth and ranges; True if the fast road may serve."""
    kind = type(value)
    if kind is str or kind is bool or value is None:
        return True
    if kind is int:
        if -MAX_INT <= value <= MAX_INT:  # type: ignore[operator]
            return True
        raise NotCanonical("an integer beyond ±(2^53 - 1)", path)
    if kind is dict:
        if depth >= MAX_DEPTH:
            raise NotCanonical(f"nested deeper than {MAX_DEPTH}", path)
        fast = True
        for key, item in value.items():  # type: ignore[attr-defined]
            if type(key) is not str:
                raise NotCanonical("a key that is no text", path)
            inner = type(item)
            if inner is not str and not _walk(item, depth + 1, path):
                fast = False
        return fast
    if kind is list or kind is tuple:  # msgspec.to_builtins keeps the tuples of Structs
        if depth >= MAX_DEPTH:
            raise NotCanonical(f"nested deeper than {MAX_DEPTH}", path)
        fast = True
        for item in value:  # type: ignore[attr-defined]
            if not _walk(item, depth + 1, path):
                fast = False
        return fast
    if kind is float:
        if value != value or value in {float("inf"), float("-inf")}:  # noqa: PLR0124 - NaN
            raise NotCanonical("NaN or an infinity", path)
        return False
    raise NotCanonical(f"{kind.__name__} is not JSON", path)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise NotCanonical("a key stands twice")
    return value


def _constant(_: str) -> Any:
    raise NotCanonical("NaN or an infinity")
