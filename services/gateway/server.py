"""The HTTP server: aiohttp's protocol with our answers to what isn't HTTP, and nothing of a request in any log.

aiohttp would answer broken requests with text that repeats them, and log them whole; both would show tokens.

A connection is bounded too: a head that was begun is whole within `head_s`, however slowly its bytes drip; one that says nothing ends with
`KEEPALIVE_S`; and of all connections one address has at most a quarter, unless it is a trusted proxy's.
"""

import asyncio
import collections
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from aiohttp import web

from services.gateway import limits
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


class Connections:
    """How many there are, and from where."""

    def __init__(self, most: int, proxies: Sequence[limits.Network]) -> None:
        """At most so many; of one address a quarter, except of these."""
        self._most = most
        self._proxies = proxies
        self._total = 0
        self._of: collections.Counter[str] = collections.Counter()

    def come(self, peer: str) -> bool:
        """Count one; False if it is one too many. Either way it goes by `gone`."""
        self._total += 1
        self._of[peer] += 1
        if self._total > self._most:
            return False
        return self._of[peer] <= max(1, self._most // 4) or limits.is_within(peer, self._proxies)

    def gone(self, peer: str) -> None:
        """It ended."""
        self._total -= 1
        self._of[peer] -= 1
        if not self._of[peer]:
            del self._of[peer]


class Server(web.Server):
    """Makes a protocol for each connection."""

    def __init__(self, handler: Handler, broken: Broken, connections: Connections, *, head_s: float) -> None:
        """`broken` makes the answers to what never reached the handler."""
        super().__init__(handler)
        self._broken = broken
        self._counted = connections
        self._head_s = head_s

    def __call__(self) -> web.RequestHandler:
        """One connection."""
        return _Protocol(self, self._broken, self._counted, self._head_s)


class _Protocol(web.RequestHandler):
    __slots__ = ("_broken", "_counted", "_head_s", "_head_timer", "_peer")

    def __init__(self, server: Server, broken: Broken, connections: Connections, head_s: float) -> None:
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
        self._counted = connections
        self._head_s = head_s
        self._head_timer: asyncio.TimerHandle | None = None
        self._peer: str | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Let it in, or close it at once."""
        super().connection_made(transport)
        named = transport.get_extra_info("peername")
        self._peer = limits.counted(str(named[0])) if named else "unknown"
        if not self._counted.come(self._peer):
            self.force_close()

    def connection_lost(self, exc: BaseException | None) -> None:
        """It ended, however."""
        self._head_done()
        if self._peer is not None:
            self._counted.gone(self._peer)
            self._peer = None
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Bytes came; those of a head that isn't whole yet have their time."""
        super().data_received(data)
        if not self._waits_for_head:
            self._head_done()
        elif self._head_timer is None:
            self._head_timer = asyncio.get_running_loop().call_later(self._head_s, self._head_too_slow)

    @property
    def _waits_for_head(self) -> bool:
        return self._waiter is not None and not self._waiter.done()

    def _head_done(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _head_too_slow(self) -> None:
        self._head_timer = None
        if self._waits_for_head:
            self.force_close()

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
