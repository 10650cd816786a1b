"""The gateway itself: every request comes in at `handle` and leaves with an answer, a trace id and one log line.

The order of one request: are we stopping → is there such a route → whose is it → not too often → is it there → CSRF → is there room →
body → no login too many → the page or the call. The first true reason is the answer. What is refused here, before the gate, is counted
and told to it (`reports`); what gate and services refuse, they count.

Invariants:

- an unsafe request that comes with a live cookie, and without Authorization, shows that cookie's CSRF token, or is refused;
- health is answered whatever the load;
- an exception's words stay here: the caller hears a trace id.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from aiohttp import hdrs, web

from services.gateway import (
    answers,
    calls,
    ends,
    kept,
    limits,
    logins,
    page,
    pages,
    parameters,
    problems,
    reading,
    reports,
    room,
    sessions,
)
from services.gateway.router import Match, Router
from services.gateway.server import Connections, Server
from services.gateway.watch import Seen, Watch, fault
from sigilcore.contracts.command import Admission
from sigilcore.faults import Fault
from sigilcore.refusals import Code, Refused
from sigilrun import settings, telemetry
from sigilrun.bus import Bus
from sigilrun.faces.routes import APPROVAL_HEADER, GRANT_HEADER, PROOF_HEADER, ROUTES

SPARE_BODY_S = 2  # a reserved place isn't held by who sends slowly; what takes one is small
_HEALTH = frozenset({"/healthz", "/readyz"})
_WITHOUT_CSRF = frozenset({"/api/csrf/token"})  # it changes nothing, and only its own origin can read the answer


class Gateway:
    """Everything that requests share. `serving` runs it."""

    def __init__(
        self,
        bus: Bus,
        options: settings.Gateway,
        deployed: settings.DeploymentFile,
        folder: Path,
        *,
        now_s: Callable[[], float] = time.time,
    ) -> None:
        """`folder` keeps the counts. Raises ValueError for trusted proxies that are no networks, and for a page that is too large."""
        self._now_s = now_s
        self._bus = bus
        self._options = options
        self._tenant = deployed.tenant
        self._runtime_id = deployed.runtime_id
        self._router = Router(ROUTES)
        self._proxies = limits.networks(options.trusted_proxies)
        self._kept = kept.Kept(folder)
        self._rates = limits.Rates(
            self._kept,
            address_per_minute=options.rate_limit_per_minute,
            session_per_minute=options.session_rate_per_minute,
        )
        self._logins = logins.Logins(self._kept, tries=options.login_tries)
        self._known = limits.Known(self._kept.name)
        self._cookies = sessions.Cookies(limit=options.max_cookies, secure=options.cookie_secure)
        self._calls = calls.Calls(bus, self._cookies, self._known)
        self._pages = pages.Pages(
            bus, self._calls, self._cookies, options, tenant=deployed.tenant, proxies=self._proxies
        )
        self._files = page.load(options.static_dir)
        self._watch = Watch(bus.metrics.registry)
        self._reports = reports.Reports(bus)
        self._ends = ends.Ends(self._cookies, self._known)
        self._room = room.Room(options.max_in_flight, options.reserved_in_flight)
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
        address = limits.counted(reading.address(request, self._proxies))
        command = found.route.command if isinstance(found, Match) else None
        caller = self._admit(request, seen, address, reserved=command is not None and command.reserved)
        if isinstance(found, Refused):
            raise found
        if isinstance(found, page.File):
            return answers.of_bytes(found.body, found.media, cache=found.cache, csp=page.CSP)
        self._check_csrf(request, caller, seen.route)
        with self._room.place(self._asking(caller, address, found)) as spare:
            return await self._serve(request, found, caller, address, spare=spare)

    def _asking(self, caller: calls.Caller, address: str, found: Match) -> room.Asking:
        good = None if caller.token is None else self._known.good(caller.token)
        command = found.route.command
        return room.Asking(
            caller=good or address,
            good=good is not None,
            reserved=command is not None and command.reserved,
            permit=command is not None and command.admission is Admission.PERMIT,
        )

    async def _serve(
        self, request: web.BaseRequest, found: Match, caller: calls.Caller, address: str, *, spare: bool
    ) -> web.Response:
        timeout_s = self._options.body_timeout_s
        body = await reading.body(
            request,
            most_bytes=self._options.body_limit_bytes,
            timeout_s=min(timeout_s, SPARE_BODY_S) if spare else timeout_s,
        )
        if caller.token is None or self._known.good(caller.token) is None:
            self._rates.weigh(address=address, size=len(body), now_s=self._now_s())
        if found.route.page:
            if _grant_of(request) is not None:
                raise Refused(Code.GRANT_INVALID, f"{found.route.path} takes no grant", field=GRANT_HEADER)
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
        bound = calls.bind(asked)
        tried = logins.attempt(bound.command, bound.body, address)
        if tried is None:
            return await self._calls.answer(bound)
        self._logins.check(tried, self._now_s())
        try:
            return await self._calls.answer(bound)
        except Refused as refused:
            self._logins.failed(tried, refused.code, self._now_s())
            raise

    # What a request must show.

    def _find(self, request: web.BaseRequest) -> Match | page.File | Refused:
        path = request.rel_url.raw_path
        if request.method in reading.SAFE and path in self._files:
            return self._files[path]
        try:
            return self._router.find(request.method, path)
        except Refused as refused:
            return refused

    def _admit(self, request: web.BaseRequest, seen: Seen, address: str, *, reserved: bool) -> calls.Caller:
        """Whose request it is, and that it isn't one too many; counted before anything else is said."""
        read = calls.read_caller(
            request.headers.get(hdrs.AUTHORIZATION),
            request.cookies.get(self._cookies.called) if hdrs.COOKIE in request.headers else None,
            request.headers.get(PROOF_HEADER),
            self._cookies,
            request.headers.get(APPROVAL_HEADER),
        )
        token = None if isinstance(read, Refused) else read.token
        if token is not None:
            seen.caller = telemetry.caller_hash(self._runtime_id, token)
        standing = self._rates.count(
            address=address,
            session=None if token is None else self._known.good(token),
            now_s=self._now_s(),
            reserved=reserved,
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
        connections = Connections(self._options.max_connections, self._proxies)
        server = Server(self.handle, self.broken, connections, head_s=self._options.head_timeout_s)
        runner = web.ServerRunner(server, shutdown_timeout=patience_s)
        await runner.setup()
        await self._ends.hear(self._bus, self._tenant)
        tasks = [
            asyncio.create_task(self._reports.run(), name="reports"),
            asyncio.create_task(self._settle_for_ever(), name="counts"),
        ]
        try:
            await web.TCPSite(runner, self._options.host, self._options.port).start()
            self.port = runner.addresses[0][1]
            telemetry.log.info("listening", host=self._options.host, port=self.port)
            yield self
        finally:
            self._stopping = True
            await runner.cleanup()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._reports.flush()
            self._kept.close()

    async def _settle_for_ever(self) -> None:
        while True:
            await asyncio.sleep(kept.SETTLED_S)
            self._kept.settle()


def _grant_of(request: web.BaseRequest) -> str | None:
    """The grant that a peer shows; several make one text that is none."""
    shown = request.headers.getall(GRANT_HEADER, ())
    return ",".join(shown) if shown else None
