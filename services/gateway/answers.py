"""What every answer says to browsers: no sniffing, framing, caching, referrers or scripts, unless the answer itself says otherwise."""

import gzip

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


class Packed(msgspec.Struct, frozen=True, kw_only=True):
    """A page that is always the same, compressed once: to compress it anew each time would cost us more than asking costs."""

    body: bytes
    small: bytes
    media: str
    csp: str | None


def pack(body: bytes, media: str, *, csp: str | None = None) -> Packed:
    """Made at the start."""
    return Packed(body=body, small=gzip.compress(body, mtime=0), media=media, csp=csp)


def of_packed(page: Packed, accepts: str) -> web.Response:
    """The page, as small as this `Accept-Encoding` allows."""
    is_small = "gzip" in accepts.lower()
    response = of_bytes(page.small if is_small else page.body, page.media, csp=page.csp)
    response.headers[hdrs.VARY] = hdrs.ACCEPT_ENCODING
    if is_small:
        response.headers[hdrs.CONTENT_ENCODING] = "gzip"
    return response


def compressed(response: web.Response) -> web.Response:
    """The same, compressed if the caller takes that; never for answers that hold a secret."""
    response.enable_compression()
    return response
