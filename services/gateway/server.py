"""The HTTP server: aiohttp's protocol with our answers to what isn't HTTP, and nothing of a request in any log.

aiohttp would answer broken requests with text that repeats them, and log them whole; both would show tokens.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

from sigilcore.refusals import Code, Refused
from sigilrun import telemetry

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]
Broken = Callable[[Refused | None], web.Response]
"""The answer to a request that never reached the handler: a refusal, or None for a fault."""

# A session token has at most 16 KiB; a header holds one.
MAX_HEADER_BYTES = 20_000
MAX_LINE_BYTES = 8_190
MAX_HEADERS = 64
KEEPALIVE_S = 75
LINGER_S = 2


class Server(web.Server):
    """Makes a protocol for each connection."""

    def __init__(self, handler: Handler, broken: Broken) -> None:
        """`broken` makes the answers to what never reached the handler."""
        super().__init__(handler)
        self._broken = broken

    def __call__(self) -> web.RequestHandler:
        """One connection."""
        return _Protocol(self, self._broken)


class _Protocol(web.RequestHandler):
    __slots__ = ("_broken",)

    def __init__(self, server: Server, broken: Broken) -> None:
        super().__init__(
            server,
            loop=asyncio.get_running_loop(),
            keepalive_timeout=KEEPALIVE_S,
            access_log=None,  # type: ignore[arg-type]  # the gateway writes its own
            max_line_size=MAX_LINE_BYTES,
            max_field_size=MAX_HEADER_BYTES,
            max_headers=MAX_HEADERS,
            lingering_time=LINGER_S,
            auto_decompress=False,
        )
        self._broken = broken

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer what could not be read as HTTP (400), or what broke around the handler."""
        del message  # it repeats the request
        if request.writer.output_size > 0:
            raise ConnectionError("an answer was begun already")
        if status == 400:
            refused = Refused(Code.BAD_INPUT, "this is not an HTTP/1.1 request, or its head is too large")
            response = self._broken(refused)
        else:
            telemetry.log.error("http_broken", error=type(exc).__name__)
            response = self._broken(None)
        response.force_close()
        return response

    def log_exception(self, *args: Any, **kw: Any) -> None:
        """Say what kind of thing broke, never its words."""
        del args
        telemetry.log.warning("http_connection_broken", error=type(kw.get("exc_info")).__name__)


__all__ = ["Broken", "Handler", "Server"]
