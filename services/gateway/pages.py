"""The answers that aren't a command's JSON: health, metrics, descriptions, the CSRF token, and the log as files.

Files of the log have the types and caching of C2SP tlog-tiles: a checkpoint is kept for a second, a hash tile for ever. Entry bundles are
for those who may read them, so nobody on the way keeps them.
"""

from collections.abc import Awaitable, Callable, Sequence

import msgspec
from aiohttp import hdrs, web

from services.gateway import answers, calls, docs_page, health, limits, reading, sessions
from services.gateway.router import Match
from sigilcore import tiles
from sigilcore.contracts import canon
from sigilcore.refusals import Code, Refused
from sigilrun import settings
from sigilrun.bus import Bus
from sigilrun.faces import openapi
from sigilrun.faces.routes import BYTES, HTML, JSON, TEXT

CHECKPOINT_CACHE = "public, max-age=1"
_NO_TILE = "no such tile"


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """A request for a page."""

    request: web.BaseRequest
    found: Match
    caller: calls.Caller
    body: bytes


class Pages:
    """All pages, in a table by path."""

    def __init__(
        self,
        bus: Bus,
        way: calls.Calls,
        cookies: sessions.Cookies,
        options: settings.Gateway,
        *,
        tenant: str,
        proxies: Sequence[limits.Network],
    ) -> None:
        """The descriptions are made once, here."""
        self._bus = bus
        self._calls = way
        self._cookies = cookies
        self._options = options
        self._tenant = tenant
        self._proxies = proxies
        self._health = health.Health(bus)
        self._openapi = answers.pack(openapi.encoded(), JSON)
        self._docs = answers.pack(docs_page.render(openapi.document()), HTML, csp=docs_page.CSP)
        self._by_path: dict[str, Callable[[Asked], Awaitable[web.Response]]] = {
            "/api/csrf/token": self._csrf,
            "/log/{tenant}/checkpoint": self._checkpoint,
            "/log/{tenant}/tile/entries/{path*}": self._entries,
            "/log/{tenant}/tile/{path*}": self._tile,
            "/healthz": self._alive,
            "/readyz": self._ready,
            "/metrics": self._metrics,
            "/openapi.json": self._description,
            "/docs": self._description_for_people,
        }

    async def answer(self, asked: Asked) -> web.Response:
        """The page; raises `Refused`."""
        return await self._by_path[asked.found.route.path](asked)

    async def _csrf(self, asked: Asked) -> web.Response:
        if asked.body.strip() not in {b"", b"{}"}:
            raise Refused(Code.BAD_INPUT, "csrf/token takes nothing", field="$")
        if asked.caller.cookie is None:
            raise Refused(Code.SESSION_MISSING, "CSRF tokens belong to the session cookie, and there is none")
        return answers.of_json({"token": self._cookies.csrf(asked.caller.cookie)})

    async def _checkpoint(self, asked: Asked) -> web.Response:
        reply = await self._calls.ask(self._bound(asked, {}))
        head = msgspec.json.decode(reply, type=canon.Checkpoint)
        if not head.note:
            raise Refused(Code.NOT_BOOTSTRAPPED, "the log has no checkpoint yet")
        # What is published is what others have cosigned; the newest of all is there too, by log/checkpoint and in every receipt.
        published = head.witnessed or head.note
        return answers.of_bytes(published.encode(), TEXT, cache=CHECKPOINT_CACHE)

    async def _tile(self, asked: Asked) -> web.Response:
        return answers.of_bytes(await self._log_bytes(asked, "tile/"), BYTES, cache=answers.IMMUTABLE)

    async def _entries(self, asked: Asked) -> web.Response:
        return answers.compressed(answers.of_bytes(await self._log_bytes(asked, "tile/entries/"), BYTES))

    async def _log_bytes(self, asked: Asked, folder: str) -> bytes:
        path = folder + asked.found.fields["path"]
        try:
            tiles.parse_path(path)
        except tiles.TileError:
            raise Refused(Code.NOT_FOUND, _NO_TILE) from None
        # What is kept for ever on the way is kept by its address: with a second spelling anyone could fill those caches.
        if any(mark in asked.request.rel_url.raw_path_qs for mark in "%?"):
            raise Refused(Code.NOT_FOUND, _NO_TILE)
        reply = await self._calls.ask(self._bound(asked, {"path": path}))
        return msgspec.json.decode(reply, type=canon.LogBytes).body

    def _bound(self, asked: Asked, given: dict[str, str]) -> calls.Bound:
        if asked.found.fields["tenant"] != self._tenant:
            raise Refused(Code.NOT_FOUND, "no such log")
        command = asked.found.route.command
        assert command is not None
        return calls.bind_value(command, given, asked.caller)

    async def _alive(self, _: Asked) -> web.Response:
        return answers.of_json({"alive": True})

    async def _ready(self, _: Asked) -> web.Response:
        readiness = await self._health.readiness()
        return answers.of_json(readiness, status=200 if readiness.ready else 503)

    async def _metrics(self, asked: Asked) -> web.Response:
        if not (self._options.metrics_public or reading.is_neighbour(asked.request, self._proxies)):
            raise Refused(Code.NOT_FOUND, "no such route")
        return answers.of_bytes(self._bus.metrics.render(), TEXT)

    async def _description(self, asked: Asked) -> web.Response:
        return answers.of_packed(self._openapi, asked.request.headers.get(hdrs.ACCEPT_ENCODING, ""))

    async def _description_for_people(self, asked: Asked) -> web.Response:
        return answers.of_packed(self._docs, asked.request.headers.get(hdrs.ACCEPT_ENCODING, ""))
