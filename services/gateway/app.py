"""The gateway itself: every request comes in at `handle` and leaves with an answer, a trace id and one log line.

The order of one request: are we stopping → is there such a route → whose is it → not too often → is it there → CSRF → is there room →
body → the page or the call. The first true reason is the answer. What is refused here, before the gate, is counted and told to it
(`reports`); what gate and services refuse, they count.

Invariants:

- an unsafe request that comes with a live cookie, and without Authorization, shows that cookie's CSRF token, or is refused;
- health is answered whatever the load;
- an exception's words stay here: the caller hears a trace id.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator

from aiohttp import hdrs, web

from services.gateway import answers, calls, limits, page, pages, parameters, problems, reading, reports, sessions
from services.gateway.router import Match, Router
from services.gateway.server import Server
from services.gateway.watch import Seen, Watch, fault
from sigilcore.faults import Fault
from sigilcore.refusals import Code, Refused
from sigilrun import settings, telemetry
from sigilrun.bus import Bus
from sigilrun.faces.routes import ROUTES

_HEALTH = frozenset({"/healthz", "/readyz"})
_WITHOUT_CSRF = frozenset({"/api/csrf/token"})  # it changes nothing, and only its own origin can read the answer


class Gateway:
    """Everything that requests share. `serving` runs it."""

    def __init__(self, bus: Bus, options: settings.Gateway, deployed: settings.DeploymentFile) -> None:
        """Raises ValueError for trusted proxies that are no networks, and for a page that is too large."""
        self._options = options
        self._runtime_id = deployed.runtime_id
        self._router = Router(ROUTES)
        self._proxies = limits.networks(options.trusted_proxies)
        self._rates = limits.Rates(
            address_per_minute=options.rate_limit_per_minute, session_per_minute=options.session_rate_per_minute
        )
        self._known = limits.Known()
        self._cookies = sessions.Cookies(limit=options.max_cookies, secure=options.cookie_secure)
        self._calls = calls.Calls(bus, self._cookies, self._known)
        self._pages = pages.Pages(
            bus, self._calls, self._cookies, options, tenant=deployed.tenant, proxies=self._proxies
        )
        self._files = page.load(options.static_dir)
        self._watch = Watch(bus.metrics.registry)
        self._reports = reports.Reports(bus)
        self._in_flight = 0
        self._stopping = False
        self.port = 0

    # One request.

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request, whatever happens."""
        trace_id, began = telemetry.new_trace_id(), time.perf_counter()
        with telemetry.tracing(trace_id):
            seen = Seen(request.method)
            response = await self._outcome(request, seen, trace_id)
            answers.dress(response, trace_id)
            response.headers.update(seen.standing)
            if self._stopping or (request.can_read_body and not request.content.is_eof()):
                response.force_close()  # what is left of the body isn't worth reading
            self._watch.tell(response, seen, time.perf_counter() - began)
        return response

    def broken(self, refused: Refused | None) -> web.Response:
        """The answer to what never reached `handle`: bytes that are no HTTP request, or a fault around it."""
        trace_id, seen = telemetry.new_trace_id(), Seen("-")
        with telemetry.tracing(trace_id):
            if refused is None:
                seen.outcome, response = telemetry.FAULT, problems.fault(trace_id)
            else:
                self._reports.add(refused.code)
                seen.outcome, response = refused.code, problems.of(refused, trace_id)
            answers.dress(response, trace_id)
            self._watch.tell(response, seen, 0.0)
        return response

    async def _outcome(self, request: web.BaseRequest, seen: Seen, trace_id: str) -> web.Response:
        try:
            return await self._answer(request, seen)
        except Refused as refused:
            if not isinstance(refused, calls.Told):
                self._reports.add(refused.code)
            seen.outcome = refused.code
            return problems.of(refused, trace_id)
        except Fault as told:
            telemetry.log.error("fault", route=seen.route, told=told.trace_id)
        except Exception as error:
            fault(seen.route, error)
        seen.outcome = telemetry.FAULT
        return problems.fault(trace_id)

    async def _answer(self, request: web.BaseRequest, seen: Seen) -> web.Response:
        if self._stopping:
            raise Refused(Code.UNAVAILABLE, "this gateway is stopping")
        found = self._find(request)
        if isinstance(found, Match):
            seen.route = found.route.path
        if seen.route in _HEALTH and isinstance(found, Match):
            return await self._pages.answer(pages.Asked(request=request, found=found, caller=calls.NOBODY, body=b""))
        caller = self._admit(request, seen)
        if isinstance(found, Refused):
            raise found
        if isinstance(found, page.File):
            return answers.of_bytes(found.body, found.media, cache=found.cache, csp=page.CSP)
        self._check_csrf(request, caller, seen.route)
        if self._in_flight >= self._options.max_in_flight:
            raise Refused(Code.BUSY, f"{self._in_flight} requests are being answered")
        self._in_flight += 1
        try:
            return await self._serve(request, found, caller)
        finally:
            self._in_flight -= 1

    async def _serve(self, request: web.BaseRequest, found: Match, caller: calls.Caller) -> web.Response:
        body = await reading.body(
            request, most_bytes=self._options.body_limit_bytes, timeout_s=self._options.body_timeout_s
        )
        if found.route.page:
            if _grant_of(request) is not None:
                raise Refused(Code.GRANT_INVALID, f"{found.route.path} takes no grant", field=calls.GRANT_HEADER)
            return await self._pages.answer(pages.Asked(request=request, found=found, caller=caller, body=body))
        asked = calls.Asked(
            route=found.route,
            path=found.fields,
            query=request.rel_url.raw_query_string,
            body=body,
            key=request.headers.get(parameters.KEY_HEADER),
            caller=caller,
            grant=_grant_of(request),
        )
        return await self._calls.answer(calls.bind(asked))

    # What a request must show.

    def _find(self, request: web.BaseRequest) -> Match | page.File | Refused:
        path = request.rel_url.raw_path
        if request.method in reading.SAFE and path in self._files:
            return self._files[path]
        try:
            return self._router.find(request.method, path)
        except Refused as refused:
            return refused

    def _admit(self, request: web.BaseRequest, seen: Seen) -> calls.Caller:
        """Whose request it is, and that it isn't one too many; counted before anything else is said."""
        read = calls.read_caller(
            request.headers.get(hdrs.AUTHORIZATION),
            request.cookies.get(sessions.COOKIE) if hdrs.COOKIE in request.headers else None,
            request.headers.get(calls.PROOF_HEADER),
            self._cookies,
            request.headers.get(calls.APPROVAL_HEADER),
        )
        token = None if isinstance(read, Refused) else read.token
        if token is not None:
            seen.caller = telemetry.caller_hash(self._runtime_id, token)
        standing = self._rates.count(
            address=limits.counted(reading.address(request, self._proxies)),
            session=None if token is None else self._known.good(token),
        )
        seen.standing = standing.headers()
        standing.check()
        if isinstance(read, Refused):
            raise read
        return read

    def _check_csrf(self, request: web.BaseRequest, caller: calls.Caller, route: str) -> None:
        if not caller.by_cookie or request.method in reading.SAFE or route in _WITHOUT_CSRF:
            return
        assert caller.cookie is not None
        if not self._cookies.csrf_shown(caller.cookie, request.headers.get(sessions.CSRF_HEADER)):
            raise Refused(
                Code.CSRF_INVALID, "the session's CSRF token is missing or another's", field=sessions.CSRF_HEADER
            )

    # Its life.

    @contextlib.asynccontextmanager
    async def serving(self, *, patience_s: float = 8.0) -> AsyncIterator["Gateway"]:
        """Listen; leaving the block refuses what is new, ends what is in flight within `patience_s`, and tells the last refusals."""
        runner = web.ServerRunner(Server(self.handle, self.broken), shutdown_timeout=patience_s)
        await runner.setup()
        telling = asyncio.create_task(self._reports.run(), name="reports")
        try:
            await web.TCPSite(runner, self._options.host, self._options.port).start()
            self.port = runner.addresses[0][1]
            telemetry.log.info("listening", host=self._options.host, port=self.port)
            yield self
        finally:
            self._stopping = True
            await runner.cleanup()
            telling.cancel()
            await asyncio.gather(telling, return_exceptions=True)
            await self._reports.flush()


def _grant_of(request: web.BaseRequest) -> str | None:
    """The grant that a peer shows; several make one text that is none."""
    shown = request.headers.getall(calls.GRANT_HEADER, ())
    return ",".join(shown) if shown else None
