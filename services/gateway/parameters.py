"""A call's parameter bytes: what the gate judges, a proof signs and the service reads. Pure.

Invariants:

- a JSON body is passed on byte for byte; an empty one is `{}`;
- where a request isn't a body (GET), or something is added to one (Idempotency-Key, a field in the path), the bytes are the JCS
  (RFC 8785) of the given fields and no others, so that a client can sign them before it sends them;
- whatever doesn't fit the command's Struct is refused here, with its JSON path.
"""

import functools
import re
import urllib.parse
from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from sigilcore import canonical, ids
from sigilcore.contracts.command import Command
from sigilcore.refusals import Code, Refused
from sigilrun.faces import openapi

KEY_HEADER = "Idempotency-Key"
EMPTY = b"{}"
MAX_FIELDS = 32
_INTEGER = re.compile(r"-?(0|[1-9][0-9]{0,15})", re.ASCII)
_TRUTH = {"true": True, "false": False}


def of_body(command: Command[Any, Any], body: bytes, path: Mapping[str, str], key: str | None) -> bytes:
    """The parameters of a POST."""
    given = _object(body or EMPTY)
    added: dict[str, Any] = {name: _typed(command, name, text) for name, text in path.items()}
    if key is not None:
        added["id"] = _key(command, key)
    for name, value in added.items():
        if given.get(name) is not None and given[name] != value:
            raise Refused(Code.BAD_INPUT, f"the body says another {name} than path or header", field=f"$.{name}")
    _check(command, given | added)
    if not added:
        return body or EMPTY
    return canonical.encode(given | added)


def of_query(command: Command[Any, Any], path: Mapping[str, str], query: str) -> bytes:
    """The parameters of a GET: path and query fields, each given once."""
    given: dict[str, Any] = {name: _typed(command, name, text) for name, text in path.items()}
    for name, text in _pairs(query):
        if name in given:
            raise Refused(Code.BAD_INPUT, "given twice", field=f"$.{name}")
        given[name] = _typed(command, name, text)
    _check(command, given)
    return canonical.encode(given)


def of_value(command: Command[Any, Any], given: dict[str, Any]) -> bytes:
    """The parameters for fields that the gateway itself fills in."""
    _check(command, given)
    return canonical.encode(given)


def _object(body: bytes) -> dict[str, Any]:
    try:
        given = canonical.parse(body)
    except canonical.NotCanonical as error:
        raise Refused(Code.BAD_INPUT, error.reason, field=error.path or "$") from None
    if not isinstance(given, dict):
        raise Refused(Code.BAD_INPUT, "the body is a JSON object", field="$")
    return given


def _check(command: Command[Any, Any], given: dict[str, Any]) -> None:
    try:
        canonical.typed(given, command.request)
    except canonical.NotCanonical as error:
        raise Refused(Code.BAD_INPUT, error.reason, field=error.path or "$") from None


def _key(command: Command[Any, Any], key: str) -> str:
    if not openapi.takes_idempotency_key(command):
        raise Refused(Code.BAD_INPUT, f"{command.name} writes nothing that has an id", field=KEY_HEADER)
    if not ids.is_id(key):
        raise Refused(Code.BAD_INPUT, "the key is a UUIDv7 in lower case", field=KEY_HEADER)
    return key


def _pairs(query: str) -> list[tuple[str, str]]:
    if not query:
        return []
    try:
        return urllib.parse.parse_qsl(
            query, keep_blank_values=True, strict_parsing=True, errors="strict", max_num_fields=MAX_FIELDS
        )
    except ValueError:
        raise Refused(
            Code.BAD_INPUT, f"the query is at most {MAX_FIELDS} fields of the form name=value, in UTF-8"
        ) from None


def _typed(command: Command[Any, Any], name: str, text: str) -> Any:
    """A field's text as what the Struct has there; an unknown field stays text and is refused by the Struct."""
    kind = _kinds(command).get(name, "text")
    if kind == "integer" and _INTEGER.fullmatch(text):
        return int(text)
    if kind == "truth" and text in _TRUTH:
        return _TRUTH[text]
    return text


@functools.cache
def _kinds(command: Command[Any, Any]) -> dict[str, Literal["integer", "truth", "text"]]:
    fields = msgspec.structs.fields(command.request)
    return {field.encode_name: _kind(msgspec.inspect.type_info(field.type)) for field in fields}


def _kind(info: msgspec.inspect.Type) -> Literal["integer", "truth", "text"]:
    if isinstance(info, msgspec.inspect.Metadata):
        return _kind(info.type)
    if isinstance(info, msgspec.inspect.UnionType):
        kinds = {_kind(one) for one in info.types if not isinstance(one, msgspec.inspect.NoneType)}
        return kinds.pop() if len(kinds) == 1 else "text"
    if isinstance(info, msgspec.inspect.IntType):
        return "integer"
    return "truth" if isinstance(info, msgspec.inspect.BoolType) else "text"
