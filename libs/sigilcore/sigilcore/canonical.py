"""One road from a value to the bytes that are hashed or signed: RFC 8785 (JCS), I-JSON (RFC 7493) only.

- One value has one encoding, and what `encode` writes `decode` reads back equal.
- What arrives signed must arrive canonical: `decode` reads it untyped, encodes it again and compares. That refuses duplicate keys, which
  decoders take silently, with every other second spelling; only then does `convert` give it a type.
- Only `NotCanonical` leaves this room, however hostile the bytes.

Two roads, one result. The package `rfc8785` is the reference. msgspec's sorted encoder, forty times faster, serves only values without
floats (it spells them otherwise) whose encoding holds no byte of 0xF0 or more: it orders keys by code point, JCS by UTF-16 code unit, and
the two differ only where characters beyond the BMP stand beside U+E000 to U+FFFF. Left alone it would also write integers beyond 2^53,
NaN as null, and bytes, sets, dates and Decimals, so the types are checked first on either road.

Refused: NaN, infinities, numbers spelled as integers beyond ±(2^53 - 1), lone surrogates, nesting deeper than 64, more than `max_bytes`,
and anything that is not exactly dict with text keys, list, tuple (an array: `msgspec.to_builtins` keeps the tuples of Structs), str,
bool, None, int or float. RFC 8785 itself spells doubles from 2^53 up to 10^21 as integers; since such an integer is refused when it
arrives, the double is refused when it leaves.
"""

import functools
import json
import math
import re
from collections.abc import Iterable
from typing import Any, Generic, TypeVar

import msgspec
import rfc8785
from msgspec import inspect

MAX_DEPTH = 64
MAX_BYTES = 1 << 20
MAX_INT = 2**53 - 1

T = TypeVar("T")

_MAX_INT_DIGITS = len(str(-MAX_INT))
_LEAST_EXPONENT = 1e21  # ECMAScript writes smaller integral doubles without an exponent
_MAX_NAME = 64
_PLAIN_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_BMP = bytes(range(0xF0))  # the bytes of UTF-8 that encode nothing beyond the BMP

_TOO_DEEP = f"nested deeper than {MAX_DEPTH}"
_BIG_INTEGER = "an integer beyond ±(2^53 - 1)"
_NOT_FINITE = "a number that is no finite double"
_SURROGATE = "a lone surrogate"

# A number with an exponent, outside of texts; inside one it costs nothing but the slower reader.
_EXPONENT = re.compile(rb"[\s:,\[]-?[0-9]+(?:\.[0-9]+)?[eE]")

_fast = msgspec.json.Encoder(order="sorted")
_decoder = msgspec.json.Decoder()


class NotCanonical(ValueError):  # noqa: N818 - names what is wrong with the bytes
    """The value or bytes have no canonical form here; `path` is a JSON path, empty where it isn't known."""

    def __init__(self, reason: str, path: str = "") -> None:
        """`reason` is for people and doesn't repeat the value; `path` is ASCII and names keys, shortened."""
        super().__init__(f"{reason} at {path}" if path else reason)
        self.reason = reason
        self.path = path


class _Unfit(Exception):  # noqa: N818 - never leaves this module
    """The walk met something; `_first_fault` says what and where."""


class _Flaw:
    """Stands in a parsed value where the JSON reader met something that no value can show, until the walk finds its path."""

    def __init__(self, reason: str, key: str | None = None) -> None:
        self.reason = reason
        self.key = key


def encode(value: object, *, max_bytes: int | None = MAX_BYTES) -> bytes:
    """The canonical bytes of plain JSON data; raises `NotCanonical`."""
    try:
        data = _encode(value)
    except (_Unfit, UnicodeEncodeError, rfc8785.CanonicalizationError):
        raise _refusal(value) from None
    if max_bytes is not None:
        _check_size(data, max_bytes)
    return data


def of(struct: msgspec.Struct) -> bytes:
    """The canonical bytes of a Struct; a set becomes a sorted array, so that it too has one encoding."""
    data = _shape_of(type(struct)).made(struct)
    return encode(msgspec.to_builtins(struct, str_keys=True, order="deterministic")) if data is None else data


def decode(data: bytes, *, max_bytes: int = MAX_BYTES) -> Any:
    """Read bytes that must be canonical: decoded untyped, encoded again, compared; raises `NotCanonical`."""
    _check_size(data, max_bytes)
    value = loads(data)
    if encode(value, max_bytes=None) != data:
        raise NotCanonical("not in canonical form (RFC 8785)")
    return value


def loads(data: bytes) -> Any:
    """Plain data of JSON that has no canonical form to keep, as who checked it stored it; raises `NotCanonical` for what is no JSON.

    msgspec takes 14 µs for a double such as 1e+300, a second for half a MiB of them; Python's own reader takes a quarter of one.
    """
    try:
        return json.loads(data.decode()) if has_exponents(data) else _decoder.decode(data)
    except RecursionError:
        raise NotCanonical(_TOO_DEEP) from None
    except ValueError as error:  # of either reader, of UTF-8, and of integers that Python doesn't read
        raise NotCanonical("not JSON") from error


def stored(data: bytes, kind: type[T]) -> T:
    """Bytes of a type that were checked when they came, read again; raises `NotCanonical`, or what msgspec raises, where they weren't."""
    if _shape_of(kind).closed or not has_exponents(data):  # type: ignore[arg-type]  # a type is hashable
        return msgspec.json.decode(data, type=kind)
    return typed(loads(data), kind)


def has_exponents(data: bytes) -> bool:
    """True for JSON that `loads` and `parse` read faster than msgspec does."""
    return _EXPONENT.search(data) is not None


def convert(data: bytes, kind: type[T]) -> T:
    """Read canonical bytes into a type; a value that doesn't fit is `NotCanonical` and names its path."""
    known = _shape_of(kind).read(data)  # type: ignore[arg-type]  # a type is hashable
    return typed(decode(data), kind) if known is None else known


class Shape(Generic[T]):
    """The short way for a Struct whose type already says what the walk would check: texts, bounded integers, and arrays and tables of them.

    What arrives is read as the type, written again with sorted keys and compared: equal bytes are canonical bytes of that type, by the
    same argument as `decode` and `convert`. Anything else, even if only spelled otherwise, is left to those two, who say what is wrong.
    """

    def __init__(self, kind: type[T]) -> None:
        """A type that says too little (floats, Any, integers without bounds) has a shape that recognises nothing."""
        self._closed = _is_closed(inspect.type_info(kind), ())
        self._decoder = msgspec.json.Decoder(kind)

    @property
    def closed(self) -> bool:
        """True if it recognises anything; then no value holds a float."""
        return self._closed

    def read(self, data: bytes, *, max_bytes: int = MAX_BYTES) -> T | None:
        """The value if these bytes are surely its canonical form; None if only `decode` can tell."""
        if not self._closed or len(data) > max_bytes:
            return None
        try:
            value = self._decoder.decode(data)
            same = _fast.encode(value) == data
        except (msgspec.DecodeError, UnicodeError, RecursionError):
            return None
        return value if same and (data.isascii() or not data.translate(None, _BMP)) else None

    def write(self, value: T) -> bytes:
        """The canonical bytes of a value that was read strictly; for what code has built itself, ask `of`, which checks."""
        return _fast.encode(value) if self._closed else encode(msgspec.to_builtins(value, str_keys=True))

    def made(self, value: T) -> bytes | None:
        """The canonical bytes of a value that code has built, if they can be read as its type again; None if only `encode` can tell."""
        if not self._closed:
            return None
        try:
            data = _fast.encode(value)
        except UnicodeError:
            return None
        return None if self.read(data) is None else data


@functools.lru_cache(maxsize=256)  # as many as there are kinds and documents, and no caller makes new ones
def _shape_of(kind: type[T]) -> Shape[T]:
    return Shape(kind)


def _is_closed(info: inspect.Type, inside: tuple[type, ...]) -> bool:
    """True if every value of this type has a canonical form that the fast encoder writes. Types within themselves say no depth."""
    match info:
        case inspect.StrType() | inspect.BoolType() | inspect.NoneType() | inspect.LiteralType():
            return True
        case inspect.Metadata():
            return _is_closed(info.type, inside)
        case inspect.EnumType():
            return issubclass(info.cls, str)
        case inspect.IntType():
            low, high = info.ge, info.le
            return low is not None and high is not None and low >= -MAX_INT and high <= MAX_INT
        case inspect.VarTupleType() | inspect.ListType():
            return _is_closed(info.item_type, inside)
        case inspect.DictType():
            return isinstance(info.key_type, inspect.StrType | inspect.EnumType) and _is_closed(info.value_type, inside)
        case inspect.UnionType():
            return all(_is_closed(one, inside) for one in info.types)
        case inspect.StructType():
            flat = info.cls not in inside and info.forbid_unknown_fields and not info.array_like
            return flat and all(_is_closed(field.type, (*inside, info.cls)) for field in info.fields)
        case _:
            return False


def typed(value: Any, kind: type[T]) -> T:
    """Give plain data its type, strictly; raises `NotCanonical`."""
    try:
        return msgspec.convert(_with_raw(value, kind), kind, strict=True, str_keys=True)
    except msgspec.ValidationError as error:
        reason, _, path = str(error).partition(" - at `")
        raise NotCanonical(reason, path.removesuffix("`") or "$") from error


def _with_raw(value: Any, kind: Any) -> Any:
    """The data with what the type leaves as JSON in canonical form; the converter has none for it."""
    for path in _raw_paths(kind):
        value = _raw_at(value, path)
    return value


def _raw_at(value: Any, path: tuple[str, ...]) -> Any:
    if not path:
        return msgspec.Raw(encode(value, max_bytes=None))
    if type(value) is not dict or path[0] not in value:
        return value
    return value | {path[0]: _raw_at(value[path[0]], path[1:])}


@functools.lru_cache(maxsize=256)
def _raw_paths(kind: Any) -> tuple[tuple[str, ...], ...]:
    return tuple(_raws(inspect.type_info(kind), ()))


def _raws(info: inspect.Type, inside: tuple[type, ...]) -> Iterable[tuple[str, ...]]:
    """Where Raw stands in a Struct, and in those that it has or may have."""
    match info:
        case inspect.Metadata():
            yield from _raws(info.type, inside)
        case inspect.RawType():
            yield ()
        case inspect.UnionType():
            for one in info.types:
                yield from _raws(one, inside)
        case inspect.StructType() if info.cls not in inside:
            for field in info.fields:
                for path in _raws(field.type, (*inside, info.cls)):
                    yield (field.encode_name, *path)


def parse(data: bytes, *, max_bytes: int = MAX_BYTES) -> Any:
    """Read I-JSON that need not be canonical, for input that people or other programs wrote; raises `NotCanonical`."""
    _check_size(data, max_bytes)
    try:
        value = json.loads(
            data.decode("utf-8"), object_pairs_hook=_object, parse_int=_integer, parse_constant=_constant
        )
    except UnicodeDecodeError as error:
        raise NotCanonical("not UTF-8") from error
    except json.JSONDecodeError as error:
        raise NotCanonical(
            f"not JSON: {error.msg.removesuffix(' at')}, line {error.lineno} column {error.colno}"
        ) from None
    except RecursionError:
        raise NotCanonical(_TOO_DEEP) from None
    try:
        _is_plain((value,), MAX_DEPTH + 1)
        if b"\\u" in data:  # strict UTF-8 holds no surrogates, so only an escape can write one
            _fast.encode(value)
    except (_Unfit, UnicodeEncodeError):
        raise _refusal(value) from None
    return value


def _check_size(data: bytes, max_bytes: int) -> None:
    if len(data) > max_bytes:
        raise NotCanonical(f"{len(data)} bytes, at most {max_bytes}")


def _encode(value: object) -> bytes:
    if _is_plain((value,), MAX_DEPTH + 1):
        data = _fast.encode(value)
        if data.isascii() or not data.translate(None, _BMP):
            return data
    return rfc8785.dumps(value)  # type: ignore[arg-type]


def _is_plain(values: Iterable[object], room: int) -> bool:
    """Check types, ranges and depth; True if the fast road may serve. Every byte we sign passes here, so it stays this bare."""
    if not room:
        raise _Unfit
    plain = True
    for value in values:
        kind = type(value)
        if kind is str or value is None or kind is bool:
            continue
        if kind is int:
            if not -MAX_INT <= value <= MAX_INT:  # type: ignore[operator]
                raise _Unfit
        elif kind is dict:
            for key in value:  # type: ignore[attr-defined]
                if type(key) is not str:
                    raise _Unfit
            if not _is_plain(value.values(), room - 1):  # type: ignore[attr-defined]
                plain = False
        elif kind is list or kind is tuple:
            if not _is_plain(value, room - 1):  # type: ignore[arg-type]
                plain = False
        elif kind is float and not _number_flaw(value):  # type: ignore[arg-type]
            plain = False
        else:
            raise _Unfit
    return plain


def _number_flaw(number: float) -> str:
    """What keeps a number out, or nothing."""
    if type(number) is int:
        return "" if -MAX_INT <= number <= MAX_INT else _BIG_INTEGER
    if not math.isfinite(number):
        return _NOT_FINITE
    return _BIG_INTEGER if MAX_INT < abs(number) < _LEAST_EXPONENT else ""


def _refusal(value: object) -> NotCanonical:
    return _first_fault(value, "$", MAX_DEPTH) or NotCanonical("not plain JSON data")


def _first_fault(value: object, path: str, room: int) -> NotCanonical | None:
    """The first fault in the order of the value, with its path: the slow walk, taken only when something is wrong."""
    if value is None or type(value) is bool:
        return None
    if type(value) is str:
        return None if _is_unicode(value) else NotCanonical(_SURROGATE, path)
    if type(value) is int or type(value) is float:
        reason = _number_flaw(value)
        return NotCanonical(reason, path) if reason else None
    if type(value) is _Flaw:
        return NotCanonical(value.reason, path if value.key is None else _member(path, value.key))
    if type(value) is not dict and type(value) is not list and type(value) is not tuple:
        return NotCanonical(f"{type(value).__name__} is not JSON", path)
    if not room:
        return NotCanonical(_TOO_DEEP, path)
    if type(value) is dict:
        faults = (_fault_of_member(key, item, path, room - 1) for key, item in value.items())
    else:
        faults = (_first_fault(item, f"{path}[{index}]", room - 1) for index, item in enumerate(value))
    return next(filter(None, faults), None)


def _fault_of_member(key: object, item: object, path: str, room: int) -> NotCanonical | None:
    if type(key) is not str:
        return NotCanonical("a key that is no text", path)
    if not _is_unicode(key):
        return NotCanonical(f"{_SURROGATE} in a key", _member(path, key))
    return _first_fault(item, _member(path, key), room)


def _member(path: str, key: str) -> str:
    short = key if len(key) <= _MAX_NAME else key[:_MAX_NAME] + "…"
    return f"{path}.{short}" if _PLAIN_NAME.fullmatch(short) else f"{path}[{json.dumps(short)}]"


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _object(pairs: list[tuple[str, Any]]) -> Any:
    members = dict(pairs)
    if len(members) == len(pairs):
        return members
    seen: set[str] = set()
    for key, _ in pairs:
        if key in seen:
            return _Flaw("a key stands twice", key)
        seen.add(key)
    raise AssertionError("fewer members than pairs, yet no key stands twice")


def _integer(digits: str) -> Any:
    return int(digits) if len(digits) <= _MAX_INT_DIGITS else _Flaw(_BIG_INTEGER)


def _constant(_: str) -> Any:
    return _Flaw(_NOT_FINITE)
