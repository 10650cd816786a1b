"""What every answer says to browsers: no sniffing, framing, caching, referrers or scripts, unless the answer itself says otherwise."""

import msgspec
from aiohttp import hdrs, web

from sigilrun.faces.routes import JSON

TRACE = "Sigil-Trace"
CSP = "Content-Security-Policy"
NO_STORE = "no-store"
IMMUTABLE = "public, max-age=31536000, immutable"
_EVERY = {
    CSP: "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    hdrs.CACHE_CONTROL: NO_STORE,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    hdrs.SERVER: "sigil",
}


def dress(response: web.Response, trace_id: str) -> None:
    """Add what an answer hasn't said itself, and the trace id."""
    for name, value in _EVERY.items():
        response.headers.setdefault(name, value)
    response.headers[TRACE] = trace_id


def of_bytes(body: bytes, media: str, *, cache: str = NO_STORE, csp: str | None = None) -> web.Response:
    """An answer of these bytes; `media` may name a charset."""
    headers = {hdrs.CONTENT_TYPE: media, hdrs.CACHE_CONTROL: cache}
    return web.Response(body=body, headers=headers if csp is None else headers | {CSP: csp})


def of_json(value: object, status: int = 200) -> web.Response:
    """An answer of plain data or a Struct."""
    return web.Response(status=status, body=msgspec.json.encode(value), content_type=JSON)


def compressed(response: web.Response) -> web.Response:
    """The same, compressed if the caller takes that; never for answers that hold a secret."""
    response.enable_compression()
    return response
