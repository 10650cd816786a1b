"""Every way a request can be wrong, generated from the declarations: bodies, queries, heads.

Invariants:

- a case is one request that is wrong in exactly one way, with the refusal that says so and where it must point;
- cases come from the Structs, so a new command or field is swept without a word here;
- nothing here would be an effect if it were right: the good part of a request is the declared example, which no case sends whole.
"""

import json
import urllib.parse
from collections.abc import Iterator
from typing import Any

import msgspec

from sigilcore.contracts import gatekeeper
from sigilcore.refusals import Code
from sigilrun.faces import examples
from sigilrun.faces.routes import JSON, ROUTES, Route

LIMIT = 1_048_576
BEYOND = 2**53 + 1
DEEP = 65
_OF_KIND: dict[str, Any] = {
    "string": "no such thing",
    "integer": 7,
    "number": 7.5,
    "boolean": True,
    "array": ["x", 1],
    "object": {"surprise": 1},
    "null": None,
}
"""A value of each JSON kind; the array and the object fit no array or object that a command declares."""


class Case(msgspec.Struct, frozen=True, kw_only=True):
    """One wrong request. `field` is what the refusal must name; None where nothing of the input is at fault."""

    name: str
    route: Route
    code: Code
    field: str | None
    method: str = ""
    target: str = ""  # path and query as sent
    body: bytes | None = None
    media: str = JSON
    says: str = ""  # what the message must hold, where the field is the object around

    def __str__(self) -> str:
        return f"{self.method or self.route.method} {self.target or self.route.path}: {self.name}"


def cases() -> Iterator[Case]:
    """All cases of all routes that a command answers."""
    for route in ROUTES:
        yield from _of_method(route)
        if route.command is None or route.page:
            continue
        if route.method == "POST":
            yield from of_body(route)
        else:
            yield from of_query(route)


def good(route: Route) -> dict[str, Any]:
    """Parameters that fit."""
    assert route.command is not None
    return examples.request(route.command)


def target_of(route: Route, values: dict[str, Any]) -> str:
    """Path and query of a GET, or the path of a POST."""
    path = route.path
    for name in route.fields:
        path = path.replace(f"{{{name}}}", urllib.parse.quote(str(values[name]), safe=""))
    given = {name: value for name, value in values.items() if name not in route.fields}
    if route.method == "POST" or not given:
        return path
    return f"{path}?{urllib.parse.urlencode(given)}"


def filled(route: Route) -> str:
    """A path that matches the route's pattern; the values mean nothing."""
    return "/".join("none" if part.startswith("{") else part for part in route.path.split("/"))


def _of_method(route: Route) -> Iterator[Case]:
    for method in ("PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"):
        yield Case(
            name="another method",
            route=route,
            method=method,
            target=filled(route),
            code=Code.METHOD_NOT_ALLOWED,
            field=None,
        )


# Bodies


def of_body(route: Route) -> Iterator[Case]:
    """What no body may be, then what each field may not be."""
    assert route.command is not None
    base, text = good(route), json.dumps(good(route)).encode()
    first = next(iter(base), "surprise")

    def case(name: str, body: bytes, field: str | None = "$", code: Code = Code.BAD_INPUT, **more: Any) -> Case:
        return Case(name=name, route=route, body=body, field=field, code=code, **more)

    yield case("no JSON", b"{")
    yield case("no JSON, for people", b"key=value")
    yield case("two values", text + text)
    yield case("an array", b"[" + text + b"]")
    yield case("a number", b"42")
    yield case("null", b"null")
    yield case("a byte order mark", b"\xef\xbb\xbf" + text)
    yield case("no UTF-8", b'{"' + first.encode() + b'": "\xff"}')
    yield case("UTF-16", text.decode().encode("utf-16"))
    yield case("a key twice", _with(base, first, b'"a"', twice=True), f"$.{first}")
    yield case("an integer beyond 2^53", _with(base, first, str(BEYOND).encode()), f"$.{first}")
    yield case("an integer of 5000 digits", _with(base, first, b"9" * 5000), f"$.{first}")
    yield case("a double beyond all", _with(base, first, b"1e999"), f"$.{first}")
    yield case("NaN", _with(base, first, b"NaN"), f"$.{first}")
    yield case("minus infinity", _with(base, first, b"-Infinity"), f"$.{first}")
    yield case("a lone surrogate", _with(base, first, rb'"\ud800"'), f"$.{first}")
    yield case("a lone surrogate as a key", _with(base, r"\udfff", b"1"), r'$["\udfff"]')
    yield case("too deep", _with(base, first, b"[" * DEEP + b"]" * DEEP), None)
    yield case("far too deep", _with(base, first, b"[" * 100_000 + b"]" * 100_000), None)
    yield case("an unknown field", _with(base, "surprise", b"1"), "$", says="surprise")
    yield case("no JSON by its type", text, "Content-Type", Code.UNSUPPORTED_MEDIA_TYPE, media="text/plain")
    yield case("a form", text, "Content-Type", Code.UNSUPPORTED_MEDIA_TYPE, media="application/x-www-form-urlencoded")
    yield case(
        "another charset", text, "Content-Type", Code.UNSUPPORTED_MEDIA_TYPE, media="application/json; charset=latin-1"
    )
    if "/commands/" in route.path:  # a megabyte each: once a command is enough
        yield case("too large", b" " * (LIMIT + 1), None, Code.BODY_TOO_LARGE)
    for field in msgspec.structs.fields(route.command.request):
        yield from _of_field(route, field)


def _of_field(route: Route, field: msgspec.structs.FieldInfo) -> Iterator[Case]:
    base, name = good(route), field.encode_name
    info = msgspec.inspect.type_info(field.type)
    for what, value in wrong_values(info):
        body = json.dumps(base | {name: value}).encode()
        yield Case(name=f"{name} is {what}", route=route, body=body, code=Code.BAD_INPUT, field=f"$.{name}")
    if field.required:
        body = json.dumps({key: value for key, value in base.items() if key != name}).encode()
        yield Case(name=f"no {name}", route=route, body=body, code=Code.BAD_INPUT, field="$", says=name)


def _with(base: dict[str, Any], name: str, raw: bytes, *, twice: bool = False) -> bytes:
    """The base with one member written by hand, `name` and all."""
    kept = [json.dumps(key).encode() + b":" + json.dumps(value).encode() for key, value in base.items() if key != name]
    member = b'"' + name.encode() + b'":' + raw
    return b"{" + b",".join([*kept, member, *([member] if twice else [])]) + b"}"


# Fields


def wrong_values(info: msgspec.inspect.Type) -> Iterator[tuple[str, Any]]:
    """Values that this type refuses: each other kind of JSON, then what is beyond its bounds. `Any` refuses nothing."""
    taken = kinds_of(info)
    if "any" in taken:
        return
    for kind, value in _OF_KIND.items():
        if kind not in taken:
            yield f"of kind {kind}", value
    yield from _beyond(info)


def kinds_of(info: msgspec.inspect.Type) -> frozenset[str]:
    """The kinds of JSON that a type may be written as."""
    inspect = msgspec.inspect
    match info:
        case inspect.Metadata():
            return kinds_of(info.type)
        case inspect.AnyType() | inspect.RawType():
            return frozenset({"any"})
        case inspect.UnionType():
            return frozenset().union(*(kinds_of(one) for one in info.types))
        case inspect.StrType() | inspect.BytesType():
            return frozenset({"string"})
        case inspect.IntType():
            return frozenset({"integer"})
        case inspect.FloatType():
            return frozenset({"integer", "number"})
        case inspect.BoolType():
            return frozenset({"boolean"})
        case inspect.NoneType():
            return frozenset({"null"})
        case inspect.EnumType() | inspect.LiteralType():
            return frozenset({"string"})
        case inspect.ListType() | inspect.VarTupleType() | inspect.TupleType():
            return frozenset({"array"})
        case inspect.StructType() | inspect.DictType():
            return frozenset({"object"})
    raise AssertionError(f"a field of a type that the sweep doesn't know: {info}")


def _beyond(info: msgspec.inspect.Type) -> Iterator[tuple[str, Any]]:
    inspect = msgspec.inspect
    match info:
        case inspect.Metadata():
            yield from _beyond(info.type)
        case inspect.UnionType():
            for one in info.types:
                yield from _beyond(one)
        case inspect.StrType():
            if info.max_length is not None:
                yield "too long", "x" * (info.max_length + 1)
            if info.min_length:
                yield "too short", "x" * (info.min_length - 1)
            if info.pattern is not None:
                yield "of another shape", "no such \u0000 shape\n"
        case inspect.IntType():
            if info.ge is not None:
                yield "too small", info.ge - 1
            if info.le is not None and info.le < 2**53 - 1:
                yield "too large", info.le + 1
        case inspect.EnumType() | inspect.LiteralType():
            yield "none of these", "no such thing"
        case inspect.ListType() | inspect.VarTupleType():
            if info.max_length is not None:
                yield "too many", ["x"] * (info.max_length + 1)
        case inspect.StructType():
            yield "without its fields", {}


# Queries


def of_query(route: Route) -> Iterator[Case]:
    """What no query may be, then what each field may not be."""
    assert route.command is not None
    values = {name: value for name, value in good(route).items() if not isinstance(value, (dict, list))}
    whole = target_of(route, values)
    join = "&" if "?" in whole else "?"

    def case(name: str, target: str, field: str | None, **more: Any) -> Case:
        return Case(name=name, route=route, target=target, field=field, code=Code.BAD_INPUT, **more)

    yield case("an unknown field", f"{whole}{join}surprise=1", "$", says="surprise")
    yield case("no pair", f"{whole}{join}surprise", None)
    yield case("no UTF-8", f"{whole}{join}surprise=%FF", None)
    yield case("too many fields", whole + join + "&".join(f"f{i}=1" for i in range(33)), None)
    yield case("a body", whole, None, body=b"{}")
    for field in msgspec.structs.fields(route.command.request):
        name, info = field.encode_name, msgspec.inspect.type_info(field.type)
        for what, value in wrong_values(info):
            if not isinstance(value, str) or ("string" in kinds_of(info) and what.startswith("of kind")):
                continue  # a query has texts only
            if name in route.fields and not value:
                continue  # an empty segment is another path
            yield case(f"{name} is {what}", target_of(route, values | {name: value}), f"$.{name}")
        if name not in route.fields:
            twice = f"{name}=1&{name}=1"
            yield case(f"{name} twice", f"{target_of(route, values)}{join}{twice}", f"$.{name}")
        if field.required and name not in route.fields:
            rest = {key: value for key, value in values.items() if key != name}
            yield case(f"no {name}", target_of(route, rest), "$", says=name)


def closes(route: Route) -> bool:
    """True for the one command that an empty body is meant for."""
    return route.command is gatekeeper.CLOSE
