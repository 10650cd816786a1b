"""Words of a command line become a command's parameters, by one rule.

- nothing is `{}`;
- one word that is a JSON object is taken as it is;
- else `--key value`, `--key=value`, and a bare `--flag` for true; keys match the request's fields ignoring case, `-` and `_`;
  a value is JSON if it parses as JSON, else text.

So `--text 42` is the number and `--text '"42"'` the text, whatever the field: the rule never looks at types; the schema refuses.

Example: `--key greeting --text "Good morning" --tags '["day"]'` is `{"key": "greeting", "text": "Good morning", "tags": ["day"]}`.
"""

import json
from collections.abc import Collection, Sequence
from typing import Any

import msgspec

from sigilcore import canonical
from sigilcore.contracts.command import Command


class NotParameters(ValueError):  # noqa: N818 - names the input
    """These words are no parameters; the message says which word and what would be."""


def adapt(words: Sequence[str], fields: Collection[str] = ()) -> dict[str, Any]:
    """The parameters; `fields` are the request's, and none means that any key is taken as written, `-` as `_`.

    Raises:
        NotParameters: a word that fits nowhere, an unknown key, a key given twice.

    """
    if not words:
        return {}
    if len(words) == 1 and not words[0].startswith("--"):
        return _object(words[0])
    found: dict[str, Any] = {}
    at = 0
    while at < len(words):
        key, at, value = _pair(words, at)
        name = _field(key, fields)
        if name in found:
            raise NotParameters(f"--{key} stands twice")
        found[name] = value
    return found


def _object(word: str) -> dict[str, Any]:
    try:
        value = canonical.parse(word.encode("utf-8", "surrogateescape"))
    except canonical.NotCanonical as error:
        raise NotParameters(f"expected one JSON object or --key value pairs ({error})") from error
    if not isinstance(value, dict):
        raise NotParameters("expected a JSON object, not another JSON value")
    return value


def _pair(words: Sequence[str], at: int) -> tuple[str, int, Any]:
    """The key at this place, the next place, and the value."""
    word = words[at]
    if not word.startswith("--") or len(word) == len("--"):
        raise NotParameters(f"expected --key, found {word!r}")
    key, equals, text = word[2:].partition("=")
    if equals:
        return key, at + 1, _value(text)
    if at + 1 == len(words) or words[at + 1].startswith("--"):
        return key, at + 1, True
    return key, at + 2, _value(words[at + 1])


def _value(text: str) -> Any:
    try:
        return canonical.parse(text.encode("utf-8", "surrogateescape"))
    except canonical.NotCanonical:
        return text


def _field(key: str, fields: Collection[str]) -> str:
    if not fields:
        return key.replace("-", "_")
    for name in fields:
        if _folded(name) == _folded(key):
            return name
    raise NotParameters(f"no parameter --{key}; there are: {', '.join('--' + name for name in fields)}")


def _folded(name: str) -> str:
    return name.replace("-", "").replace("_", "").casefold()


def render_help(command: Command[Any, Any]) -> str:
    """A command's parameters for people, from its schema."""
    _, components = msgspec.json.schema_components((command.request,), ref_template="{name}")
    shape = components[command.request.__name__]
    lines = [f"{command.name}: {command.summary}", f"rung {command.rung}, {command.action} on {command.target}", ""]
    required = set(shape.get("required", ()))
    for name, field in shape.get("properties", {}).items():
        told = "required" if name in required else f"default {json.dumps(field.get('default'))}"
        about = field.get("description", "")
        lines.append(f"  --{name.replace('_', '-'):<18} {_kind(field):<28} {told}{'; ' + about if about else ''}")
    if not shape.get("properties"):
        lines.append("  (no parameters)")
    if command.example:
        lines += ["", f"example: sigil call {command.name} '{json.dumps(command.example)}'"]
    return "\n".join(lines)


def _kind(field: dict[str, Any]) -> str:
    """A JSON schema in a word or two."""
    if "$ref" in field:
        return str(field["$ref"])
    if "enum" in field:
        return " | ".join(map(str, field["enum"]))
    if "anyOf" in field:
        return " or ".join(_kind(option) for option in field["anyOf"])
    if field.get("type") == "array":
        return f"list of {_kind(field.get('items') or {})}"
    return str(field.get("type", "any JSON"))
