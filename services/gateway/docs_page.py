"""/docs: the OpenAPI description as a page that works offline: no script, one style allowed by its hash, all text escaped."""

import base64
import hashlib
import html
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from sigilcore.refusals import Code

_STYLE = """
:root{color-scheme:light dark;--line:#8884;--soft:#8882}
body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}
code,pre{font:14px/1.45 ui-monospace,monospace}
pre{background:var(--soft);padding:.7rem;overflow:auto;border-radius:.4rem;white-space:pre-wrap}
article{border-top:1px solid var(--line);padding:.6rem 0 1rem}
h3{margin:.5rem 0}h3 small{font-weight:normal;opacity:.75}
table{border-collapse:collapse;width:100%}td,th{border-top:1px solid var(--line);padding:.3rem .6rem;text-align:left;vertical-align:top}
nav a{margin-right:.8rem;white-space:nowrap}
:target{background:var(--soft)}
"""
_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
CSP = f"default-src 'none'; style-src 'sha256-{_HASH}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"  # the one style above


def render(document: Mapping[str, Any]) -> bytes:
    """The page for an OpenAPI document."""
    return "\n".join(_page(document)).encode()


def _page(document: Mapping[str, Any]) -> Iterator[str]:
    info, tags = document["info"], [tag["name"] for tag in document["tags"]]
    yield '<!doctype html><html lang="en"><head><meta charset="utf-8">'
    yield '<meta name="viewport" content="width=device-width,initial-scale=1">'
    yield f"<title>{_text(info['title'])} {_text(info['version'])}</title><style>{_STYLE}</style></head><body>"
    yield f"<header><h1>{_text(info['title'])} {_text(info['version'])}</h1><p>{_text(info['summary'])}</p></header><main>"
    yield from (_paragraph(part) for part in info["description"].split("\n\n"))
    yield '<p><a href="/openapi.json">openapi.json</a></p>'
    yield '<nav aria-label="services">' + "".join(f'<a href="#{_text(tag)}">{_text(tag)}</a>' for tag in tags)
    yield '<a href="#refusals">refusals</a></nav>'
    for tag in tags:
        yield f'<section><h2 id="{_text(tag)}">{_text(tag)}</h2>'
        for method, path, operation in _operations(document, tag):
            yield from _operation(document, method, path, operation)
        yield "</section>"
    yield from _refusals()
    yield "</main></body></html>"


def _operations(document: Mapping[str, Any], tag: str) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """The operations of a service; a command's own route stands before its general one."""
    found = [
        (method, path, operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
        if tag in operation["tags"]
    ]
    yield from sorted(found, key=lambda one: (one[2].get("x-sigil-command", ""), one[1].startswith("/api/commands/")))


def _operation(document: Mapping[str, Any], method: str, path: str, operation: Mapping[str, Any]) -> Iterator[str]:
    yield f'<article id="{_text(operation["operationId"])}"><h3><code>{method.upper()} {_text(path)}</code> '
    rung, admission = operation.get("x-sigil-rung"), operation.get("x-sigil-admission")
    if admission == "permit":
        owner = ", the owner's own word" if operation["x-sigil-needs-owner"] else ""
        yield f"<small>{_text(rung)} and above{owner}</small>"
    elif admission is not None:
        yield f"<small>{_text(admission)}</small>"
    yield f"</h3><p>{_text(operation['summary'])}</p>"
    body = operation.get("requestBody", {}).get("content", {}).get("application/json")
    if body and "$ref" in body["schema"]:
        yield from _fields(document, body["schema"]["$ref"], "Takes")
        yield f"<pre>{_text(json.dumps(body['example'], indent=1, ensure_ascii=False))}</pre>"
    given = [one for one in operation.get("parameters", ()) if one["in"] != "header"]
    if given:
        yield "<p>Takes</p>" + _table(
            ("field", "where", "form"), ((one["name"], one["in"], _form(one["schema"])) for one in given)
        )
    schema = next(iter(operation["responses"]["200"]["content"].values()))["schema"]
    if "$ref" in schema:
        yield from _fields(document, schema["$ref"], "Gives")
    codes = [
        code
        for answer in operation["responses"].values()
        for code in _resolve(document, answer).get("x-sigil-codes", ())
    ]
    links = " ".join(f'<a href="#{_text(code)}"><code>{_text(code)}</code></a>' for code in codes)
    yield f"<details><summary>Refuses</summary><p>{links}</p></details></article>"


def _resolve(document: Mapping[str, Any], answer: Mapping[str, Any]) -> Mapping[str, Any]:
    if "$ref" not in answer:
        return answer
    found: Mapping[str, Any] = document["components"]["responses"][answer["$ref"].rsplit("/", 1)[1]]
    return found


def _fields(document: Mapping[str, Any], ref: str, verb: str) -> Iterator[str]:
    schema = document["components"]["schemas"][ref.rsplit("/", 1)[1]]
    needed = set(schema.get("required", ()))
    yield f"<p>{verb} {_text(schema.get('description', ''))}</p>"
    fields = schema.get("properties", {})
    if fields:
        rows = ((name, "" if name in needed else "optional", _form(one)) for name, one in fields.items())
        yield _table(("field", "", "form"), rows)


def _form(schema: Mapping[str, Any]) -> str:
    """A schema in a few words."""
    if "$ref" in schema:
        return str(schema["$ref"].rsplit("/", 1)[1])
    if "anyOf" in schema:
        return " or ".join(_form(one) for one in schema["anyOf"])
    if "enum" in schema:
        return " | ".join(str(one) for one in schema["enum"])
    words = [str(schema.get("type", "any JSON"))]
    if "items" in schema:
        words.append("of " + (_form(schema["items"]) if schema["items"] else "any JSON"))
    words += [f"{name} {schema[key]}" for key, name in _BOUNDS.items() if key in schema]
    if "description" in schema:
        words.append(f"({schema['description']})")
    return ", ".join(words) if len(words) > 1 else words[0]


_BOUNDS = {
    "pattern": "like",
    "minimum": "from",
    "maximum": "to",
    "minLength": "length from",
    "maxLength": "length to",
    "maxItems": "at most",
    "default": "else",
}


def _refusals() -> Iterator[str]:
    yield '<section><h2 id="refusals">Refusals</h2><table><thead><tr><th>code</th><th>status</th><th>next step</th></tr></thead><tbody>'
    for code in Code:
        yield f'<tr id="{code}"><td><code>{code}</code></td><td>{code.status}</td><td>{_text(code.next_step)}</td></tr>'
    yield "</tbody></table></section>"


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    top = "".join(f"<th>{_text(word)}</th>" for word in head)
    body = "".join("<tr>" + "".join(f"<td>{_text(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"


def _paragraph(text: str) -> str:
    """Text with `code` and **bold**; everything else is text."""
    made = _between(_text(text), "**", "b")
    return f"<p>{_between(made, '`', 'code')}</p>"


def _between(text: str, mark: str, tag: str) -> str:
    parts = text.split(mark)
    return "".join(f"<{tag}>{part}</{tag}>" if at % 2 else part for at, part in enumerate(parts))


def _text(value: object) -> str:
    return html.escape(str(value), quote=True)
