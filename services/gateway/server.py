"""The HTTP server: aiohttp's protocol with our answers to what isn't HTTP, and nothing of a request in any log.

aiohttp would answer broken requests with text that repeats them, and log them whole; both would show tokens.

A connection is bounded too: a head that was begun is whole within `head_s`, however slowly its bytes drip; one that says nothing ends with
`KEEPALIVE_S`; one that doesn't take its answer ends with `TAKEN_S`; of all connections one address has at most a quarter, unless it is a
trusted proxy's; and when there are no more, the address with the most gives way to one with fewer.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol

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
TAKEN_S = 60  # our largest answer at a slow modem's rate


class Connection(Protocol):
    """What is asked of one."""

    @property
    def idle(self) -> bool:
        """True while nobody waits for an answer on it."""

    def end(self) -> None:
        """Close it now."""


class Connections:
    """How many there are, and from where."""

    def __init__(self, most: int, proxies: Sequence[limits.Network]) -> None:
        """At most so many; of one address a quarter, except of these."""
        self._most = most
        self._proxies = proxies
        self._total = 0
        self._of: dict[str, dict[Connection, None]] = {}  # oldest first

    def come(self, peer: str, one: Connection) -> bool:
        """Count one; False if it is one too many. Either way it goes by `gone`."""
        self._total += 1
        own = self._of.setdefault(peer, {})
        own[one] = None
        if len(own) > max(1, self._most // 4) and not limits.is_within(peer, self._proxies):
            return False
        return self._total <= self._most or self._made_room(len(own))

    def gone(self, peer: str, one: Connection) -> None:
        """It ended."""
        self._total -= 1
        own = self._of[peer]
        del own[one]
        if not own:
            del self._of[peer]

    def _made_room(self, count: int) -> bool:
        """End the oldest idle connection of the address that has the most, if that has more than who comes; so a few addresses that say
        nothing shut nobody out."""
        of_people = (held for peer, held in self._of.items() if not limits.is_within(peer, self._proxies))
        most: dict[Connection, None] = max(of_people, key=len, default={})
        idle = next((one for one in most if one.idle), None) if len(most) > count else None
        if idle is None:
            return False
        idle.end()
        return True


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
    __slots__ = ("_broken", "_counted", "_head_s", "_head_timer", "_peer", "_taken_timer", "_wire")

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
        self._taken_timer: asyncio.TimerHandle | None = None
        self._wire: asyncio.Transport | None = None
        self._peer: str | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Let it in, or close it at once."""
        super().connection_made(transport)
        self._wire = self.transport
        if self._wire is not None:
            self._wire.set_write_buffer_limits(high=0)  # so that whatever isn't taken at once has its time
        named = transport.get_extra_info("peername")
        self._peer = limits.counted(str(named[0])) if named else "unknown"
        if not self._counted.come(self._peer, self):
            self.force_close()

    def connection_lost(self, exc: BaseException | None) -> None:
        """It ended, however."""
        self._head_done()
        self._taken()
        self._wire = None
        if self._peer is not None:
            self._counted.gone(self._peer, self)
            self._peer = None
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Bytes came; those of a head that isn't whole yet have their time."""
        super().data_received(data)
        if not self.idle:
            self._head_done()
        elif self._head_timer is None:
            self._head_timer = asyncio.get_running_loop().call_later(self._head_s, self._head_too_slow)

    def pause_writing(self) -> None:
        """The other side doesn't take at once what is sent: it has its time."""
        super().pause_writing()
        self._taken_timer = asyncio.get_running_loop().call_later(TAKEN_S, self._not_taken)

    def resume_writing(self) -> None:
        """It was taken."""
        super().resume_writing()
        self._taken()

    def _taken(self) -> None:
        if self._taken_timer is not None:
            self._taken_timer.cancel()
            self._taken_timer = None

    def _not_taken(self) -> None:
        self._taken_timer = None
        if self._wire is not None:
            self._wire.abort()  # to close it would wait for what isn't taken

    @property
    def idle(self) -> bool:
        """True while no request of it is answered."""
        return self._waiter is not None and not self._waiter.done()

    def end(self) -> None:
        """Close it now."""
        self.force_close()

    def _head_done(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _head_too_slow(self) -> None:
        self._head_timer = None
        if self.idle:
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
