"""OpenAPI 3.1 from the declarations: what the HTTP face offers, asks, answers and refuses. A pure function of the catalogue.

Invariants: every route of `routes.ROUTES` and nothing else; every refusal that a route may give, by status, with its code and next step;
the same declarations give the same bytes. Schemas come from the Structs themselves, so a body that fits the schema fits the Struct, but
for what only we and I-JSON forbid (a key twice, integers beyond 2^53 or written 1.0).
"""

import copy
import http
import json
import re
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from sigilcore import digest, ids
from sigilcore.contracts import catalogue, gatekeeper
from sigilcore.contracts.command import Admission, Command
from sigilcore.refusals import Code
from sigilrun.faces import examples
from sigilrun.faces.routes import APPROVAL_HEADER, BYTES, JSON, PROBLEM_JSON, PROOF_HEADER, ROUTES, Route

VERSION = "0.1.0"
_REF = "#/components/schemas/{name}"

# Too many, no room, stopping; a body where none belongs, an Authorization that is no bearer token, a grant that nobody would look at.
EVERY_ROUTE = (
    Code.RATE_LIMITED,
    Code.BUSY,
    Code.UNAVAILABLE,
    Code.BAD_INPUT,
    Code.SESSION_INVALID,
    Code.GRANT_INVALID,
)
EVERY_COMMAND = (Code.CSRF_INVALID, Code.NOT_BOOTSTRAPPED)
HEALTH = frozenset({"/healthz", "/readyz"})
EVERY_BODY = (Code.UNSUPPORTED_MEDIA_TYPE, Code.BODY_TOO_LARGE)
EVERY_PERMIT = (
    *gatekeeper.GATE_REFUSALS,
    Code.PERMIT_INVALID,
    Code.PERMIT_EXPIRED,
    Code.PERMIT_MISMATCH,
    Code.PERMIT_REPLAYED,
)
# Beside the routes: an unknown path is NOT_FOUND, an unknown command UNKNOWN_COMMAND, another method on a known one METHOD_NOT_ALLOWED.
INTRODUCTION = """Every way in is a command: `POST /api/commands/<name>` with the parameters as a JSON object; some have a route of
their own beside it. The body's very bytes are what the gate judges and a proof signs.

**Sessions.** `session/challenge`, then `session/open`. Send the token as `Authorization: Bearer <token>`, or let the cookie
`sigil_session` (over TLS `__Host-sigil_session`) carry it;
with the cookie every POST also needs `x-csrf-token` from `POST /api/csrf/token`. A key-bound session sends
`Sigil-Proof` with each call: its key's signature over command, parameters, time and a fresh nonce. For a GET the parameters are the
canonical JSON (RFC 8785) of the given path and query fields; with an `Idempotency-Key` they are that of the body with `id` set to it.

**Peers** are other nodes: `session/peer` opens their session, and `Sigil-Grant` carries what the owner of this node lent them. A grant that
can't be read, or that nobody would look at, is `GRANT_INVALID`.

**Reviews.** A call that a mentor must approve first is refused with `REVIEW_NEEDED`. Once approved, repeat it with the very same parameters
and `Sigil-Approval: <review>.<salt>`, both from the refusal's `info`.

**Bodies** are I-JSON (RFC 7493) in UTF-8: no key twice, no integer beyond ±(2^53 - 1), none written as `1.0`, no unknown field.

**Refusals** are RFC 9457 problem documents with a code, the next step and a trace id. An unknown path is `NOT_FOUND`, an unknown
command `UNKNOWN_COMMAND`, another method on a known path `METHOD_NOT_ALLOWED` with `Allow`. A fault of ours is status 500 and a trace id,
nothing else.

**Limits** are told in `RateLimit-Limit`, `RateLimit-Remaining` and `RateLimit-Reset` (seconds); 429 and 503 carry `Retry-After`.

`x-sigil-rung` is the licence level that a command asks for, `x-sigil-admission` what admits a call: `permit` (a session and the gate's
yes), `open` (what the request itself carries) or `witness` (a registered witness's signature)."""


def document() -> dict[str, Any]:
    """The whole description."""
    paths: dict[str, Any] = {}
    for route in sorted(ROUTES, key=lambda one: (one.path, one.method)):
        paths.setdefault(route.path.replace("*}", "}"), {})[route.method.lower()] = _operation(route)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Sigil",
            "version": VERSION,
            "summary": "A governed runtime for LLM agents: licences, a gate, a quorum, and one verifiable ledger.",
            "description": INTRODUCTION,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "tags": [{"name": name} for name in sorted({_tag(route) for route in ROUTES})],
        "paths": paths,
        "components": {
            "schemas": schemas(),
            "responses": refusal_responses(),
            "headers": _HEADERS,
            "securitySchemes": _SECURITY,
        },
    }


def encoded() -> bytes:
    """The bytes that are served and committed."""
    return json.dumps(document(), indent=1, ensure_ascii=False, sort_keys=False).encode() + b"\n"


def schemas() -> dict[str, Any]:
    """JSON Schema of every Struct that a public command takes or gives, by name."""
    structs = {struct for command in catalogue.public() for struct in (command.request, command.reply)}
    _, found = msgspec.json.schema_components(sorted(structs, key=lambda one: one.__name__), ref_template=_REF)
    named = {name: _portable(schema) for name, schema in sorted(found.items())}
    return named | {"Problem": _PROBLEM, "Fault": _FAULT, "Csrf": _CSRF, "Readiness": _READINESS}


def codes_of(route: Route) -> tuple[Code, ...]:
    """Every refusal that a route may give, in the order of `Code`."""
    found: set[Code] = {*route.refusals, *EVERY_ROUTE}
    command = route.command
    if command is not None:
        found |= {*command.refusals, *EVERY_COMMAND}
        if command.admission is Admission.PERMIT:
            found |= set(EVERY_PERMIT)
        if command is gatekeeper.CLOSE:
            found.add(Code.SESSION_MISSING)  # without a body it closes the caller's own
        if route.method == "GET":
            found.discard(Code.CSRF_INVALID)
    if route.method == "POST":
        found |= set(EVERY_BODY)
    if route.path in HEALTH:
        found = {Code.UNAVAILABLE}  # it is stopping
    return tuple(code for code in Code if code in found)


def query_of(route: Route) -> list[dict[str, Any]]:
    """Path and query parameters of a GET, from the fields of the command's Struct."""
    if route.command is None or route.page:
        return [_path_parameter(name, {"type": "string"}) for name in route.fields]
    properties = _struct_schema(route.command.request)
    required = set(properties.get("required", ()))
    found = []
    for name, schema in properties.get("properties", {}).items():
        told = _without_null(schema)
        if name in route.fields:
            found.append(_path_parameter(name, told))
        elif route.method == "GET":
            found.append({"name": name, "in": "query", "required": name in required, "schema": told})
    return found


def _operation(route: Route) -> dict[str, Any]:
    command = route.command
    operation: dict[str, Any] = {
        "operationId": _operation_id(route),
        "summary": route.summary,
        "tags": [_tag(route)],
    }
    if command is not None:
        operation |= _said_of(command)
    parameters = query_of(route)
    if command is not None and command.admission is Admission.PERMIT:
        parameters.extend((_PROOF_HEADER, _APPROVAL_HEADER))
        if not route.page:
            parameters.append(_GRANT_HEADER)
    if command is not None and takes_idempotency_key(command) and route.method == "POST":
        parameters.append(_KEY_HEADER)
    if route.method == "POST" and command is not None:
        parameters.append(_CSRF_HEADER)
    if parameters:
        operation["parameters"] = parameters
    if route.method == "POST":
        operation["requestBody"] = _body(command)
    operation["responses"] = (
        {"200": _answer(route)} | _refused(codes_of(route)) | {"500": {"$ref": "#/components/responses/Fault"}}
    )
    if route.path == "/readyz":
        operation["responses"]["503"] = _unready(route)
    operation["security"] = _security(command)
    return operation


def _said_of(command: Command[Any, Any]) -> dict[str, Any]:
    told = {
        "x-sigil-command": command.name,
        "x-sigil-rung": command.rung.value,
        "x-sigil-admission": command.admission.value,
        "x-sigil-action": command.action.value,
        "x-sigil-target": command.target.value,
        "x-sigil-needs-owner": command.needs_owner,
    }
    return told | ({"x-sigil-writes": list(command.writes)} if command.writes else {})


def _body(command: Command[Any, Any] | None) -> dict[str, Any]:
    if command is None:
        return {"required": False, "content": {JSON: {"schema": {"type": "object", "additionalProperties": False}}}}
    content: dict[str, Any] = {"schema": {"$ref": _REF.format(name=command.request.__name__)}}
    content["example"] = examples.request(command)
    needed = any(field.required for field in msgspec.structs.fields(command.request))
    return {"required": needed and command is not gatekeeper.CLOSE, "content": {JSON: content}}


def _answer(route: Route) -> dict[str, Any]:
    command, media = route.command, route.media.partition(";")[0]
    schema: dict[str, Any] = {"type": "string"}
    if media == BYTES:
        schema = {"contentMediaType": BYTES}
    elif route.name == "csrf/token":
        schema = {"$ref": _REF.format(name="Csrf")}
    elif route.path == "/readyz":
        schema = {"$ref": _REF.format(name="Readiness")}
    elif command is not None and not route.page:
        schema = {"$ref": _REF.format(name=command.reply.__name__)}
    elif media == JSON:
        schema = {"type": "object"}
    headers = {name: {"$ref": f"#/components/headers/{name}"} for name in _HEADERS if name.startswith("RateLimit")}
    if route.path in HEALTH:
        headers = {}
    answer: dict[str, Any] = {"description": route.summary, "content": {media: {"schema": schema}}}
    return answer | ({"headers": headers} if headers else {})


def _unready(route: Route) -> dict[str, Any]:
    """What isn't ready says so in its own shape; what is stopping refuses as any route does."""
    stopping = _refusal_answer(503, [Code.UNAVAILABLE])
    content = _answer(route)["content"] | stopping["content"]
    return stopping | {"description": "Calls can't be served; `wrong` says why.", "content": content}


def refusal_responses() -> dict[str, Any]:
    """The answers that say no, each set of codes once; a name is made of the status and the codes, so it stays while they stay."""
    found: dict[str, Any] = {}
    for route in ROUTES:
        for status, group in _by_status(codes_of(route)).items():
            found[_response_name(status, group)] = _refusal_answer(status, group)
    return dict(sorted(found.items())) | {"Fault": _FAULT_ANSWER}


def _refused(codes: Iterable[Code]) -> dict[str, Any]:
    return {
        str(status): {"$ref": f"#/components/responses/{_response_name(status, group)}"}
        for status, group in sorted(_by_status(codes).items())
    }


def _by_status(codes: Iterable[Code]) -> dict[int, list[Code]]:
    grouped: dict[int, list[Code]] = {}
    for code in codes:
        grouped.setdefault(code.status, []).append(code)
    return grouped


def _response_name(status: int, group: Sequence[Code]) -> str:
    return f"Refused{status}_{digest.sha256_hex(' '.join(group).encode())[:8]}"


def _refusal_answer(status: int, group: Sequence[Code]) -> dict[str, Any]:
    lines = "\n".join(f"- `{code}`: {code.next_step}" for code in group)
    answer: dict[str, Any] = {
        "description": f"{http.HTTPStatus(status).phrase}.\n\n{lines}",
        "content": {PROBLEM_JSON: {"schema": {"$ref": _REF.format(name="Problem")}}},
        "x-sigil-codes": [code.value for code in group],
    }
    if status in {429, 503}:
        answer["headers"] = {"Retry-After": {"$ref": "#/components/headers/Retry-After"}}
    return answer


def takes_idempotency_key(command: Command[Any, Any]) -> bool:
    """True if the request's `id` names what is written; where a read has an `id`, it names what is read."""
    return command.mutates and any(
        field.name == "id" and not field.required for field in msgspec.structs.fields(command.request)
    )


def _security(command: Command[Any, Any] | None) -> list[dict[str, Any]]:
    if command is None or command.admission is not Admission.PERMIT:
        return [{}]
    return [{"session": []}, {"cookie": []}]


def _operation_id(route: Route) -> str:
    words = re.sub("[^a-zA-Z0-9]+", "_", route.name).strip("_")
    general = route.command is not None and not route.page and route.path.startswith("/api/commands/")
    return f"command_{words}" if general else words


def _tag(route: Route) -> str:
    if route.command is not None:
        return route.command.service
    return "gateway"


def _struct_schema(struct: type[Any]) -> dict[str, Any]:
    _, found = msgspec.json.schema_components([struct], ref_template=_REF)
    schema: dict[str, Any] = _portable(found[struct.__name__])
    return schema


def _portable(schema: Any) -> Any:
    r"""Plain JSON, with Python's \A and \Z as the ECMAScript that JSON Schema wants."""
    if isinstance(schema, dict):
        made = {key: _portable(value) for key, value in schema.items()}
        if isinstance(made.get("pattern"), str):
            made["pattern"] = made["pattern"].replace(r"\A", "^").replace(r"\Z", "$")
        return made
    if isinstance(schema, list | tuple):
        return [_portable(one) for one in schema]
    return schema


def _without_null(schema: dict[str, Any]) -> dict[str, Any]:
    """A query parameter is given or not; it is never null."""
    told = copy.deepcopy(schema)
    if told.get("default", 0) is None:
        del told["default"]
    kinds = [one for one in told.get("anyOf", ()) if one != {"type": "null"}]
    if len(kinds) == 1:
        told.pop("anyOf")
        told |= kinds[0]
    if isinstance(told.get("enum"), list):
        told["enum"] = [one for one in told["enum"] if one is not None]
    return told


def _path_parameter(name: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "in": "path", "required": True, "schema": schema}


_PROBLEM: dict[str, Any] = {
    "title": "Problem",
    "description": "A refusal (RFC 9457).",
    "type": "object",
    "properties": {
        "type": {"type": "string", "format": "uri", "description": "urn:sigil:refusal:<code>"},
        "title": {"type": "string", "description": "the code"},
        "status": {"type": "integer"},
        "detail": {"type": "string", "description": "this case, for people"},
        "code": {"type": "string", "enum": [code.value for code in Code]},
        "next_step": {"type": "string", "description": "what to do about it"},
        "field": {"type": "string", "description": "JSON path of the field at fault, or the header's name"},
        "trace_id": {"type": "string", "pattern": "^[0-9a-f]{32}$"},
        "info": {"type": "object", "description": "what this refusal tells beside: a decision, reasons, a head"},
    },
    "required": ["type", "title", "status", "detail", "code", "next_step", "trace_id"],
    "example": {
        "type": "urn:sigil:refusal:BAD_INPUT",
        "title": "BAD_INPUT",
        "status": 400,
        "detail": "Expected `str`, got `int`",
        "code": "BAD_INPUT",
        "next_step": Code.BAD_INPUT.next_step,
        "field": "$.key",
        "trace_id": "4bf92f3577b34da6a3ce929d0e0e4736",
    },
}
_FAULT: dict[str, Any] = {
    "title": "Fault",
    "description": "Something of ours broke; the trace id finds it in the logs.",
    "type": "object",
    "properties": {
        "type": {"const": "urn:sigil:fault"},
        "title": {"const": "FAULT"},
        "status": {"const": 500},
        "trace_id": {"type": "string", "pattern": "^[0-9a-f]{32}$"},
    },
    "required": ["type", "title", "status", "trace_id"],
    "additionalProperties": False,
}
_FAULT_ANSWER: dict[str, Any] = {
    "description": "A fault of ours.",
    "content": {PROBLEM_JSON: {"schema": {"$ref": _REF.format(name="Fault")}}},
}
_CSRF: dict[str, Any] = {
    "title": "Csrf",
    "type": "object",
    "properties": {"token": {"type": "string"}},
    "required": ["token"],
    "additionalProperties": False,
}
_READINESS: dict[str, Any] = {
    "title": "Readiness",
    "type": "object",
    "properties": {
        "ready": {"type": "boolean"},
        "state": {"type": "string", "enum": ["serving", "waiting for genesis", "degraded", "read-only", "unready"]},
        "bootstrapped": {"type": "boolean"},
        "sealed": {"type": "boolean"},
        "parts": {"type": "object", "additionalProperties": {"type": "string"}},
        "wrong": {"type": "array", "items": {"type": "string"}},
    },
    "required": ["ready", "state", "bootstrapped", "sealed", "parts", "wrong"],
    "additionalProperties": False,
}
_HEADERS: dict[str, Any] = {
    "RateLimit-Limit": {"description": "Requests a minute.", "schema": {"type": "integer"}},
    "RateLimit-Remaining": {"description": "Requests left now.", "schema": {"type": "integer"}},
    "RateLimit-Reset": {"description": "Seconds until the count is fresh.", "schema": {"type": "integer"}},
    "Retry-After": {"description": "Seconds to wait.", "schema": {"type": "integer"}},
}
_SECURITY: dict[str, Any] = {
    "session": {
        "type": "http",
        "scheme": "bearer",
        "description": "The token of session/open. Key-bound sessions send Sigil-Proof beside it.",
    },
    "cookie": {
        "type": "apiKey",
        "in": "cookie",
        "name": "sigil_session",
        "description": "Set by session/open; over TLS its name is __Host-sigil_session.",
    },
}
_PROOF_HEADER = {
    "name": PROOF_HEADER,
    "in": "header",
    "required": False,
    "description": "Of a key-bound session: its key's signature over this call.",
    "schema": {"type": "string", "minLength": 1, "maxLength": 16_384},
}
_APPROVAL_HEADER = {
    "name": APPROVAL_HEADER,
    "in": "header",
    "required": False,
    "description": "Of a call that a mentor approved: `<review>.<salt>`, as the refusal of the first call told them.",
    "schema": {"type": "string", "minLength": 1, "maxLength": 128},
}
_GRANT_HEADER = {
    "name": "Sigil-Grant",
    "in": "header",
    "required": False,
    "description": "Of a peer's session: what the owner of this node lent it.",
    "schema": {"type": "string", "minLength": 1, "maxLength": 16_384},
}
_KEY_HEADER = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "description": "A UUIDv7; the record's id. The same key and parameters give the same record.",
    "schema": {"type": "string", "format": "uuid", "pattern": f"^{ids.PATTERN}$"},
}
_CSRF_HEADER = {
    "name": "x-csrf-token",
    "in": "header",
    "required": False,
    "description": "Needed with the cookie, and only then.",
    "schema": {"type": "string"},
}
