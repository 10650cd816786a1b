"""The gateway itself: every request comes in at `handle` and leaves with an answer, a trace id and one log line.

The order of one request: is there such a route → whose is it → not too often → is there room → CSRF → body → the call (`calls`). The first
true reason is the answer. Refusals given here, before the gate, are counted and told to it (`reports`).

Invariants:

- an unsafe request that comes with a live cookie, and without Authorization, shows that cookie's CSRF token, or is refused;
- every answer tells no browser to sniff, frame, cache (but for log files) or send a referrer, and allows no script but the page's own;
- the log holds the route's template, never the path; a caller's keyed hash, never a token; no bodies;
- an exception's words stay here: the caller hears a trace id.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator

import msgspec
import prometheus_client
from aiohttp import hdrs, web

from services.gateway import calls, docs_page, health, limits, page, parameters, problems, reports, sessions
from services.gateway.router import Match, Router
from services.gateway.server import Server
from sigilcore import tiles
from sigilcore.contracts import canon
from sigilcore.faults import Fault
from sigilcore.refusals import Code, Refused
from sigilrun import settings, telemetry
from sigilrun.bus import Bus
from sigilrun.faces import openapi
from sigilrun.faces.routes import BYTES, JSON, ROUTES, TEXT, Route

TRACE_HEADER = "Sigil-Trace"
CSP = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
NO_STORE = "no-store"
IMMUTABLE = "public, max-age=31536000, immutable"
CHECKPOINT_CACHE = "public, max-age=1"
NO_ROUTE = "-"
_UNLIMITED = frozenset({"/healthz", "/readyz"})
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Seen:
    """What the log line of one request will say."""

    def __init__(self, request: web.BaseRequest) -> None:
        """All but what is learned on the way."""
        self.method = request.method
        self.route = NO_ROUTE
        self.caller = ""
        self.code = telemetry.OK
        self.standing: limits.Standing | None = None


class Gateway:
    """Everything that requests share. `serving` runs it."""

    def __init__(self, bus: Bus, options: settings.Gateway, deployed: settings.DeploymentFile) -> None:
        """Raises ValueError for trusted proxies that are no networks, and for a page that is too large."""
        self._bus = bus
        self._options = options
        self._deployed = deployed
        self._router = Router(ROUTES)
        self._proxies = limits.networks(options.trusted_proxies)
        self._rates = limits.Rates(
            address_per_minute=options.rate_limit_per_minute, session_per_minute=options.session_rate_per_minute
        )
        self._known = limits.Known()
        self._cookies = sessions.Cookies(limit=options.max_cookies, secure=options.cookie_secure)
        self._calls = calls.Calls(bus, self._cookies, self._known)
        self._health = health.Health(bus)
        self._files = page.load(options.static_dir)
        self._openapi = openapi.encoded()
        self._docs = docs_page.render(openapi.document())
        self._in_flight = 0
        self._stopping = False
        self._answered = prometheus_client.Counter(
            "sigil_http_requests", "Requests answered.", ("route", "method", "status"), registry=bus.metrics.registry
        )
        self._refused = prometheus_client.Counter(
            "sigil_http_refusals", "Refusals given, by code.", ("code",), registry=bus.metrics.registry
        )
        self._seconds = prometheus_client.Histogram(
            "sigil_http_seconds", "Time to answer.", ("route",), buckets=_SECONDS, registry=bus.metrics.registry
        )
        self.reports = reports.Reports(bus)
        self.port = 0

    # One request.

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request, whatever happens."""
        trace_id, began = telemetry.new_trace_id(), time.perf_counter()
        with telemetry.tracing(trace_id):
            seen = Seen(request)
            response = await self._outcome(request, seen, trace_id)
            self._dress(request, response, seen, trace_id)
            self._tell(response, seen, time.perf_counter() - began)
        return response

    def broken(self, refused: Refused | None) -> web.Response:
        """The answer to what never reached `handle`."""
        trace_id = telemetry.new_trace_id()
        if refused is not None:
            self.reports.add(refused.code)
        response = problems.fault(trace_id) if refused is None else problems.of(refused, trace_id)
        response.headers.update(_HARDENED | {hdrs.CACHE_CONTROL: NO_STORE, TRACE_HEADER: trace_id})
        telemetry.log.info("request", route=NO_ROUTE, method="-", status=response.status, trace_id=trace_id)
        return response

    async def _outcome(self, request: web.BaseRequest, seen: Seen, trace_id: str) -> web.Response:
        try:
            return await self._admit(request, seen)
        except Refused as refused:
            seen.code = refused.code
            self._refused.labels(refused.code).inc()
            return problems.of(refused, trace_id)
        except Fault as fault:
            telemetry.log.error("fault", route=seen.route, cause=fault.trace_id)
        except Exception as error:
            telemetry.log.error("fault", route=seen.route, error=type(error).__name__, at=_where(error))
        seen.code = telemetry.FAULT
        return problems.fault(trace_id)

    async def _admit(self, request: web.BaseRequest, seen: Seen) -> web.Response:
        """The checks before a call, in their order; what they refuse is counted for the gate."""
        with self._counting():
            if self._stopping:
                raise Refused(Code.UNAVAILABLE, "this gateway is stopping")
            found = self._find(request)
            if isinstance(found, Match):
                seen.route = found.route.path
            if seen.route in _UNLIMITED:
                caller = calls.Caller(token=None, cookie=None, by_cookie=False, proof=None)
            else:
                caller = self._caller(request, seen)
            if isinstance(found, Refused):
                raise found
            if isinstance(found, page.File):
                return web.Response(body=found.body, content_type=found.media, headers={hdrs.CACHE_CONTROL: found.cache, CSP_HEADER: page.CSP})
            if self._in_flight >= self._options.max_in_flight and seen.route not in _UNLIMITED:
                raise Refused(Code.BUSY, f"{self._in_flight} requests are being answered")
        self._in_flight += 1
        try:
            return await self._serve(request, found, caller)
        finally:
            self._in_flight -= 1

    def _find(self, request: web.BaseRequest) -> Match | page.File | Refused:
        path = request.rel_url.raw_path
        file = self._files.get(path) if request.method in {"GET", "HEAD"} else None
        if file is not None:
            return file
        try:
            return self._router.find(request.method, path)
        except Refused as refused:
            return refused

    def _caller(self, request: web.BaseRequest, seen: Seen) -> calls.Caller:
        """Whose request it is, and that it isn't one too many."""
        cookie = request.cookies.get(sessions.COOKIE) if hdrs.COOKIE in request.headers else None
        wrong: Refused | None = None
        try:
            caller = calls.read_caller(
                request.headers.get(hdrs.AUTHORIZATION),
                cookie,
                request.headers.get(calls.PROOF_HEADER),
                self._cookies,
                _now_ms(),
            )
        except Refused as refused:
            wrong = refused
            caller = calls.Caller(token=None, cookie=None, by_cookie=False, proof=None)
        good = None if caller.token is None else self._known.good(caller.token)
        seen.caller = "" if caller.token is None else telemetry.caller_hash(self._deployed.runtime_id, caller.token)
        seen.standing = self._rates.count(address=limits.counted(self._address(request)), session=good)
        seen.standing.check()
        if wrong is not None:
            raise wrong
        if caller.by_cookie and request.method not in {"GET", "HEAD"} and seen.route != "/api/csrf/token":
            assert caller.cookie is not None
            if not self._cookies.csrf_shown(caller.cookie, request.headers.get(sessions.CSRF_HEADER)):
                raise Refused(Code.CSRF_INVALID, "the session's CSRF token is missing or another's", field=sessions.CSRF_HEADER)
        return caller

    async def _serve(self, request: web.BaseRequest, found: Match, caller: calls.Caller) -> web.Response:
        route = found.route
        with self._counting():
            body = await self._body(request)
            if route.page:
                prepared = self._page(request, found, caller, body)
            else:
                prepared = calls.bind(
                    calls.Asked(
                        route=route,
                        path=found.fields,
                        query=request.rel_url.raw_query_string,
                        body=body,
                        key=request.headers.get(parameters.KEY_HEADER),
                        caller=caller,
                    )
                )
        if isinstance(prepared, web.Response):
            return prepared
        if isinstance(prepared, calls.Bound) and not route.page:
            return await self._calls.answer(prepared)
        return await self._log_file(route, prepared) if prepared is not None else await self._ready()

    # Pages.

    def _page(
        self, request: web.BaseRequest, found: Match, caller: calls.Caller, body: bytes
    ) -> web.Response | calls.Bound | None:
        """A page that is ready at once, a file of the log to ask for, or None for /readyz."""
        route = found.route
        if route.command is not None:
            return self._log_part(found, caller)
        if route.path == "/api/csrf/token":
            return self._csrf(caller, body)
        if route.path == "/healthz":
            return _json({"alive": True})
        if route.path == "/openapi.json":
            return _compressed(web.Response(body=self._openapi, content_type=JSON))
        if route.path == "/docs":
            shown = web.Response(body=self._docs, content_type="text/html", charset="utf-8", headers={CSP_HEADER: docs_page.CSP})
            return _compressed(shown)
        if route.path == "/metrics":
            if not self._may_see_metrics(request):
                raise Refused(Code.NOT_FOUND, "no such route")
            return web.Response(body=self._bus.metrics.render(), headers={hdrs.CONTENT_TYPE: TEXT})
        return None

    def _csrf(self, caller: calls.Caller, body: bytes) -> web.Response:
        if body.strip() not in {b"", b"{}"}:
            raise Refused(Code.BAD_INPUT, "csrf/token takes nothing", field="$")
        if caller.cookie is None:
            raise Refused(Code.SESSION_MISSING, "CSRF tokens belong to the session cookie, and there is none")
        return _json({"token": self._cookies.csrf(caller.cookie)})

    def _log_part(self, found: Match, caller: calls.Caller) -> calls.Bound:
        if found.fields["tenant"] != self._deployed.tenant:
            raise Refused(Code.NOT_FOUND, "no such log")
        asked = calls.Asked(route=found.route, path=found.fields, query="", body=b"", key=None, caller=caller)
        if "path" in found.fields:
            folder = "tile/entries/" if found.route.command is canon.ENTRIES else "tile/"
            try:
                tiles.parse_path(folder + found.fields["path"])
            except tiles.TileError:
                raise Refused(Code.NOT_FOUND, "no such tile") from None
        return calls.bind(asked)

    async def _log_file(self, route: Route, bound: calls.Bound) -> web.Response:
        """Files of the log, with the types and caching of C2SP tlog-tiles. Entries are for those who may, so they aren't kept on the way."""
        reply = await self._calls.ask(bound)
        if route.command is canon.CHECKPOINT:
            head = msgspec.json.decode(reply, type=canon.Checkpoint)
            if not head.note:
                raise Refused(Code.NOT_BOOTSTRAPPED, "the log has no checkpoint yet")
            headers = {hdrs.CACHE_CONTROL: CHECKPOINT_CACHE, hdrs.CONTENT_TYPE: TEXT}
            return web.Response(body=head.note.encode(), headers=headers)
        body = msgspec.json.decode(reply, type=canon.LogBytes).body
        if route.command is canon.ENTRIES:
            return _compressed(web.Response(body=body, headers={hdrs.CACHE_CONTROL: NO_STORE, hdrs.CONTENT_TYPE: BYTES}))
        return web.Response(body=body, headers={hdrs.CACHE_CONTROL: IMMUTABLE, hdrs.CONTENT_TYPE: BYTES})

    async def _ready(self) -> web.Response:
        readiness = await self._health.readiness()
        return web.Response(
            status=200 if readiness.ready else 503, body=msgspec.json.encode(readiness), content_type=JSON
        )

    def _may_see_metrics(self, request: web.BaseRequest) -> bool:
        if self._options.metrics_public:
            return True
        # Somebody's word that they speak for another is enough to make them no neighbour.
        through = request.headers.getall("X-Forwarded-For", []) or request.headers.getall("Forwarded", [])
        address = self._address(request)
        return limits.is_loopback(address) and (not through or address != limits.client_address(request.remote, (), ()))

    # Reading and dressing.

    def _address(self, request: web.BaseRequest) -> str:
        return limits.client_address(request.remote, request.headers.getall("X-Forwarded-For", []), self._proxies)

    async def _body(self, request: web.BaseRequest) -> bytes:
        """The body, bounded in bytes and time; a body is JSON and nothing else."""
        if not request.can_read_body:
            return b""
        if request.method != "POST":
            raise Refused(Code.BAD_INPUT, f"{request.method} takes no body")
        most = self._options.body_limit_bytes
        if request.content_length is not None and request.content_length > most:
            raise Refused(Code.BODY_TOO_LARGE, f"at most {most} bytes")
        if request.headers.get("Expect", "").lower() == "100-continue":
            await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            request.writer.output_size = 0
        body = bytearray()
        try:
            async with asyncio.timeout(self._options.body_timeout_s):
                async for chunk in request.content.iter_any():
                    body += chunk
                    if len(body) > most:
                        raise Refused(Code.BODY_TOO_LARGE, f"at most {most} bytes")
        except TimeoutError:
            raise Refused(Code.BAD_INPUT, f"the body took over {self._options.body_timeout_s} s") from None
        except web.RequestPayloadError:
            raise Refused(Code.BAD_INPUT, "the body is not what its head says") from None
        if body:
            _check_media(request)
        return bytes(body)

    @contextlib.contextmanager
    def _counting(self) -> "contextlib.AbstractContextManager[None]":  # type: ignore[misc]
        try:
            yield  # type: ignore[misc]
        except Refused as refused:
            self.reports.add(refused.code)
            raise

    def _dress(self, request: web.BaseRequest, response: web.Response, seen: Seen, trace_id: str) -> None:
        for name, value in _HARDENED.items():
            response.headers.setdefault(name, value)
        response.headers.setdefault(hdrs.CACHE_CONTROL, NO_STORE)
        response.headers[TRACE_HEADER] = trace_id
        if seen.standing is not None:
            response.headers.update(seen.standing.headers())
        if self._stopping or (request.can_read_body and not request.content.is_eof()):
            response.force_close()

    def _tell(self, response: web.Response, seen: Seen, seconds: float) -> None:
        self._answered.labels(seen.route, seen.method if seen.route != NO_ROUTE else "-", response.status).inc()
        self._seconds.labels(seen.route).observe(seconds)
        telemetry.log.info(
            "request",
            route=seen.route,
            method=seen.method if seen.method in {"GET", "HEAD", "POST"} else "-",
            status=response.status,
            outcome=seen.code,
            ms=round(seconds * 1000, 2),
            caller=seen.caller,
        )

    # Its life.

    @contextlib.asynccontextmanager
    async def serving(self, *, patience_s: float = 8.0) -> AsyncIterator["Gateway"]:
        """Listen; leaving the block refuses what is new, ends what is in flight within `patience_s`, and tells the last refusals."""
        runner = web.ServerRunner(Server(self.handle, self.broken), shutdown_timeout=patience_s)
        await runner.setup()
        site = web.TCPSite(runner, self._options.host, self._options.port)
        await site.start()
        self.port = runner.addresses[0][1]
        telemetry.log.info("listening", host=self._options.host, port=self.port)
        telling = asyncio.create_task(self.reports.run(), name="reports")
        try:
            yield self
        finally:
            self._stopping = True
            await runner.cleanup()
            telling.cancel()
            await asyncio.gather(telling, return_exceptions=True)
            await self.reports.flush()


CSP_HEADER = "Content-Security-Policy"
_HARDENED = {
    CSP_HEADER: CSP,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    hdrs.SERVER: "sigil",
}


def _check_media(request: web.BaseRequest) -> None:
    charset = (request.charset or "utf-8").lower()
    if request.content_type != JSON or charset != "utf-8":
        raise Refused(Code.UNSUPPORTED_MEDIA_TYPE, f"a body is {JSON} in UTF-8", field=hdrs.CONTENT_TYPE)
    if request.headers.get(hdrs.CONTENT_ENCODING, "identity").lower() != "identity":
        raise Refused(Code.UNSUPPORTED_MEDIA_TYPE, "a body is not compressed", field=hdrs.CONTENT_ENCODING)


def _json(value: object) -> web.Response:
    return web.Response(body=msgspec.json.encode(value), content_type=JSON)


def _compressed(response: web.Response) -> web.Response:
    response.enable_compression()
    return response


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _where(error: BaseException) -> str:
    """The place of a fault, without its words: those may repeat what somebody sent."""
    at = error.__traceback__
    while at is not None and at.tb_next is not None:
        at = at.tb_next
    return "" if at is None else f"{at.tb_frame.f_code.co_filename.rsplit('/', 1)[-1]}:{at.tb_lineno}"
