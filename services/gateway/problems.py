"""What a caller hears when the answer is no, or when something of ours broke: RFC 9457 problem documents.

A refusal tells its code, the message, the next step, the field, and what it carries beside under `info`. A fault tells a trace id and
nothing else, whatever happened.
"""

from typing import Any

import msgspec
from aiohttp import web

from sigilcore.refusals import Code, Refused
from sigilrun import telemetry
from sigilrun.faces.routes import PROBLEM_JSON

# Refusals that pass by themselves; a rate limit tells its own seconds.
_PASSING_S = {Code.BUSY: 1, Code.NOT_YET: 1, Code.UNAVAILABLE: 1, Code.RATE_LIMITED: 1}


def of(refused: Refused, trace_id: str) -> web.Response:
    """The answer for a refusal."""
    told = refused.answer()
    document: dict[str, Any] = {
        "type": f"urn:sigil:refusal:{told.code}",
        "title": told.code,
        "status": told.status,
        "detail": told.message,
        "code": told.code,
        "next_step": told.next_step,
        "trace_id": trace_id,
    }
    if told.field is not None:
        document["field"] = told.field
    if told.detail is not None:
        document["info"] = told.detail
    return _response(told.status, document, _headers(refused))


def fault(trace_id: str) -> web.Response:
    """The answer for a fault."""
    return _response(
        500, {"type": "urn:sigil:fault", "title": telemetry.FAULT, "status": 500, "trace_id": trace_id}, {}
    )


def _headers(refused: Refused) -> dict[str, str]:
    detail = refused.detail or {}
    headers = {}
    if refused.code in _PASSING_S:
        headers["Retry-After"] = str(detail.get("retry_after_s", _PASSING_S[refused.code]))
    if refused.code is Code.METHOD_NOT_ALLOWED:
        headers["Allow"] = ", ".join(detail.get("allow", ()))
    if refused.code.status == 401:
        headers["WWW-Authenticate"] = 'Bearer realm="sigil"'
    return headers


def _response(status: int, document: dict[str, Any], headers: dict[str, str]) -> web.Response:
    return web.Response(status=status, body=msgspec.json.encode(document), content_type=PROBLEM_JSON, headers=headers)
