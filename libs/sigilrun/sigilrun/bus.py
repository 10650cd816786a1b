"""The bus: NATS, wrapped once so that only our own words and errors leave the room. The only module that imports nats.

Decides how a call crosses (headers, deadline, refusals, faults) and what every failure of the transport is called. Invariants:

- an identity is an nkey and a private inbox `_INBOX_<name>`; nobody is who a header or body says;
- a call ends: with a reply, with `Refused` (the other side's, or UNAVAILABLE when it can't be reached in time), or with `Fault`;
- a connection is sought for ever; only the server closing it for good ends the process (`closed`);
- what isn't connected now is refused now: nothing is sent later that its caller gave up.

After UNAVAILABLE by time-out the outcome is unknown, and `detail.outcome` says so: ask again with the same id.

How calls are answered is in `answer`; the change stream is in `stream`; both use the primitives here.
"""

import asyncio
import contextlib
import re
import ssl
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Self, TypeVar

import msgspec

from sigilcore import faults
from sigilcore.contracts.command import Command
from sigilcore.refusals import Code, Refused
from sigilrun import answer, settings, spared, stream, telemetry, wire

with spared.without("aiohttp"):  # which speaks NATS through websockets
    import nats.aio.client
    import nats.aio.subscription
    import nats.errors

Req = TypeVar("Req", bound=msgspec.Struct)
Rep = TypeVar("Rep", bound=msgspec.Struct)

# Two missed answers to a ping every ten seconds: a dead connection is found within half a minute.
PING_INTERVAL_S = 10
# Commands kept while nothing can be sent; calls are refused then, so these are subscriptions and answers only.
PENDING_BYTES = 16 * 1024 * 1024
FLUSH_S = 5.0
_UNKNOWN = "authorization violation"
_DENIED = re.compile(r"permissions violation for (publish|subscription) to \"([^\"]*)\"", re.IGNORECASE)


class _Client(nats.aio.client.Client):
    """The client with an order that can be relied on.

    The library writes PING past the commands that still wait to be written, so its `flush`, and with it `drain`, came back before the
    server had seen a subscription or its end: calls found nobody, and calls in flight were dropped at stop.

    And headers at a third of the price, since each call has some on its way in and out, and each change event eight: one text, written
    or read at once. What has line breaks inside is left to the library.

    And a message is heard where it is read (`hear`): the library's way, a queue and a task for each subscription, costs as much again as
    all else that is done with a message. So who hears may not wait; what takes time gets a task of its own.
    """

    def __init__(self) -> None:
        super().__init__()
        self._hearers: dict[int, wire.Hear] = {}

    async def hear(self, subject: str, queue: str, heard: wire.Hear) -> nats.aio.subscription.Subscription:
        self._hearers[self._sid + 1] = heard  # the number that `subscribe` takes first of all
        return await self.subscribe(subject, queue=queue)

    def forget(self, subscription: nats.aio.subscription.Subscription) -> None:
        self._hearers.pop(subscription._id, None)  # noqa: SLF001 - the library shows its number nowhere else

    async def _process_msg(self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes) -> None:
        heard = self._hearers.get(sid)
        if heard is None:
            return
        self.stats["in_msgs"] += 1
        self.stats["in_bytes"] += len(data)
        try:
            heard(wire.Message(subject.decode(), reply.decode(), data, _read_headers(headers)))
        except Exception:
            telemetry.log.exception("not_heard", subject=subject.decode("utf-8", "replace"))

    async def _send_publish(
        self, subject: str, reply: str, payload: bytes, payload_size: int, headers: dict[str, Any] | None
    ) -> None:
        block = "".join([f"{name}: {value}\r\n" for name, value in headers.items()]) if headers else ""
        if not subject or not block or not block.count("\r") == block.count("\n") == len(headers or ()):
            await super()._send_publish(subject, reply, payload, payload_size, headers)
            return
        head = f"NATS/1.0\r\n{block}\r\n".encode()
        to = f"{subject} {reply}" if reply else subject
        self.stats["out_msgs"] += 1
        self.stats["out_bytes"] += payload_size
        await self._send_command(
            b"".join((f"HPUB {to} {len(head)} {len(head) + payload_size}\r\n".encode(), head, payload, b"\r\n"))
        )
        if self._flush_queue is not None and self._flush_queue.empty():
            await self._flush_pending()

    async def _send_ping(self, future: asyncio.Future[Any] | None = None) -> None:
        await self._flush_pending(force_flush=True)
        await super()._send_ping(future)


class Bus:
    """One identity's connection."""

    def __init__(self, name: str, options: settings.Bus, metrics: telemetry.Metrics) -> None:
        """Use `connect`."""
        self.name = name
        self.options = options
        self.metrics = metrics
        self.closed = asyncio.Event()
        self.unknown = asyncio.Event()  # the server doesn't know this identity (any more); it is asked again for ever
        self.closing = False
        self._client = _Client()
        self._reconnected: list[Callable[[], None]] = []
        self._inbox = ""
        self._asked = 0
        self._waiting: dict[str, tuple[str, asyncio.Future[wire.Message]]] = {}

    @classmethod
    async def connect(cls, options: settings.Bus, name: str, *, metrics: telemetry.Metrics | None = None) -> Self:
        """Connect as `name`, trying for ever; who wants a bound puts `asyncio.timeout` around it."""
        bus = cls(name, options, metrics or telemetry.Metrics())
        tls = ssl.create_default_context(cafile=options.ca_file) if options.ca_file else None
        await bus._client.connect(
            [url.strip() for url in options.url.split(",")],
            name=name,
            nkeys_seed=str(options.nkey_seed_file),
            inbox_prefix=f"{wire.INBOX}{name}",
            tls=tls,
            allow_reconnect=True,
            max_reconnect_attempts=-1,
            reconnect_time_wait=options.reconnect_wait_ms / 1000,  # type: ignore[arg-type]
            connect_timeout=options.connect_timeout_s,
            ping_interval=PING_INTERVAL_S,
            max_outstanding_pings=2,
            drain_timeout=options.drain_timeout_s,
            pending_size=PENDING_BYTES,
            flush_timeout=FLUSH_S,
            error_cb=bus._on_error,
            disconnected_cb=bus._on_disconnected,
            reconnected_cb=bus._on_reconnected,
            closed_cb=bus._on_closed,
        )
        return bus

    @property
    def connected(self) -> bool:
        """True while messages go out at once."""
        return self._client.is_connected

    def on_reconnect(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call back after each reconnection; returns how to stop that."""
        self._reconnected.append(callback)
        return lambda: self._reconnected.remove(callback)

    # Calls.

    async def call(
        self,
        command: Command[Req, Rep],
        request: Req | bytes,
        *,
        permit: str | None = None,
        timeout_s: float | None = None,
        trace_id: str | None = None,
        scope: Sequence[str] = (),
    ) -> Rep:
        """Ask a command, of a scope if it has one; bytes are sent as they are.

        Raises:
            Refused: the other side's refusal, or UNAVAILABLE.
            Fault: something of ours broke over there.

        """
        body = await self.call_raw(command, request, permit=permit, timeout_s=timeout_s, trace_id=trace_id, scope=scope)
        try:
            return msgspec.json.decode(body, type=command.reply)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            trace_id = telemetry.trace_id_of(trace_id)
            telemetry.log.error("reply_unreadable", command=command.name, error=str(error), trace_id=trace_id)
            raise faults.Fault(trace_id) from error

    async def call_raw(
        self,
        command: Command[Any, Any],
        request: msgspec.Struct | bytes,
        *,
        permit: str | None = None,
        timeout_s: float | None = None,
        trace_id: str | None = None,
        scope: Sequence[str] = (),
    ) -> bytes:
        """As `call`, and the reply's very bytes: for faces that pass them on."""
        trace_id = trace_id or telemetry.current_trace_id()
        timeout = self.options.request_timeout_s if timeout_s is None else timeout_s
        headers = {wire.TRACE: trace_id, wire.DEADLINE: str(int((time.time() + timeout) * 1000))}
        if permit is not None:
            headers[wire.PERMIT] = permit
        body = request if isinstance(request, bytes) else msgspec.json.encode(request)
        try:
            reply = await self.request(command.subject_of(*scope), body, headers=headers, timeout_s=timeout)
            wire.raise_for(reply, trace_id)
        except Refused as refused:
            self.metrics.asked_of(command.name, refused.code).inc()
            raise
        except faults.Fault:
            self.metrics.asked_of(command.name, telemetry.FAULT).inc()
            raise
        self.metrics.asked_of(command.name, telemetry.OK).inc()
        return reply.data

    async def serve(
        self,
        resident: str,
        handlers: Mapping[Command[Any, Any], answer.Handler],
        seam: answer.Seam | None = None,
        presence: answer.Presence | None = None,
    ) -> answer.Answering:
        """Answer these commands until `Answering.stop`; see `answer`."""
        answering = answer.Answering(self, resident, handlers, seam or answer.unguarded, presence)
        await answering.start()
        return answering

    # The change stream; see `stream`.

    async def ensure_stream(self, tenant: str, *, first_seq: int = 1) -> int:
        """Make the tenant's stream, or bring it to its settings; its last sequence."""
        return await stream.ensure(self, tenant, first_seq)

    async def stream_last(self, tenant: str) -> int:
        """The stream's last sequence. Raises `StreamMissing`."""
        return (await stream.info(self, tenant)).last

    async def stream_info(self, tenant: str) -> stream.Info:
        """First and last sequence, messages, bytes. Raises `StreamMissing`."""
        return await stream.info(self, tenant)

    async def publish_events(self, messages: Sequence[stream.Event], expected_last_seq: int) -> int:
        """Publish change events right after `expected_last_seq`; the new last sequence."""
        return await stream.publish(self, messages, expected_last_seq)

    async def stream_message(self, tenant: str, stream_seq: int) -> stream.Message | None:
        """One stored message, or None; the writer compares and brings records back with it."""
        return await stream.get(self, tenant, stream_seq)

    async def stream_gone(self, tenant: str) -> stream.Gone:
        """Which sequences the stream doesn't hold any more. Raises `StreamMissing`."""
        return await stream.gone(self, tenant)

    async def erase_message(self, tenant: str, stream_seq: int) -> None:
        """Overwrite one stored message and forget it; one that is gone already is fine. Raises `StreamMissing`."""
        await stream.erase(self, tenant, stream_seq)

    def read_stream(self, tenant: str, first_stream_seq: int, *, subjects: Sequence[str] = ()) -> stream.Feed:
        """The stream from a sequence on, as an ephemeral pull consumer."""
        return stream.Feed(self, tenant, first_stream_seq, subjects)

    # Primitives.

    async def request(
        self, subject: str, body: bytes, *, headers: Mapping[str, str] | None = None, timeout_s: float
    ) -> wire.Message:
        """One request, one reply.

        Raises:
            Refused: UNAVAILABLE: not connected, nobody answers there, or no reply in time.
            Forbidden: this identity may not publish there.

        """
        if not self._client.is_connected:
            raise Refused(Code.UNAVAILABLE, "the bus is not connected", detail={"outcome": "none"})
        if not self._inbox:
            self._inbox = self._client.new_inbox()
            await self.subscribe(f"{self._inbox}.*", self._on_reply)
        self._asked += 1
        loop = asyncio.get_running_loop()
        reply, answered = f"{self._inbox}.{self._asked}", loop.create_future()
        self._waiting[reply] = (subject, answered)
        try:
            await self.publish(subject, body, reply=reply, headers=headers)
            # Not `asyncio.timeout`: only the answer is waited for, and each call passes here.
            late = loop.call_later(timeout_s, _too_late, answered, subject)
            try:
                message: wire.Message = await answered
            finally:
                late.cancel()
        finally:
            del self._waiting[reply]
        if message.headers.get(wire.STATUS) == wire.NO_RESPONDERS and not message.data:
            raise wire.NobodyAnswers(subject)
        return message

    async def publish(
        self, subject: str, body: bytes, *, reply: str = "", headers: Mapping[str, str] | None = None
    ) -> None:
        """Send without waiting for anyone. Raises `Refused` when it can't be sent now."""
        if not self._client.is_connected and not self._client.is_draining:
            raise Refused(Code.UNAVAILABLE, "the bus is not connected")
        try:
            await self._client.publish(subject, body, reply=reply, headers=dict(headers) if headers else None)
        except nats.errors.MaxPayloadError:
            raise Refused(Code.BODY_TOO_LARGE, f"{len(body)} bytes don't fit the bus") from None
        except nats.errors.Error as error:
            raise Refused(Code.UNAVAILABLE, f"the bus: {type(error).__name__}") from error

    async def subscribe(self, subject: str, heard: wire.Hear, *, queue: str = "") -> Callable[[], Awaitable[None]]:
        """Hear a subject; returns how to stop, after which nothing more is heard. `heard` is called where the connection is read, so it
        may not wait."""

        subscription = await self._client.hear(subject, queue, heard)

        async def stop() -> None:
            # A connection that is gone hears nothing more anyway.
            with contextlib.suppress(nats.errors.Error):
                if self._client.is_connected:
                    # The client's drain may swallow a cancellation (wait_for before Python 3.12); who is cancelled here must hear of it.
                    await asyncio.shield(asyncio.create_task(subscription.drain()))  # type: ignore[no-untyped-call]
                else:
                    await subscription.unsubscribe()
            self._client.forget(subscription)

        return stop

    def new_inbox(self) -> str:
        """A fresh subject below this identity's private prefix."""
        return self._client.new_inbox()

    async def flush(self, timeout_s: int = 2) -> None:
        """Return when the server has seen everything sent so far. Raises `Refused`."""
        try:
            await self._client.flush(timeout_s)
        except nats.errors.Error as error:
            raise Refused(Code.UNAVAILABLE, "the bus doesn't answer") from error

    async def close(self) -> None:
        """Drain what was heard and sent, then close; safe to call twice."""
        self.closing = True
        if self._client.is_closed:
            return
        try:
            await self._client.drain()
        except (nats.errors.Error, TimeoutError):
            await self._client.close()

    # What the client tells.

    async def _on_error(self, error: Exception) -> None:
        denied = _DENIED.search(str(error))
        if denied is None and _UNKNOWN in str(error).lower():
            if not self.unknown.is_set():
                telemetry.log.error("bus_identity_unknown", bus=self.name)
            self.unknown.set()
            return
        if denied is None:
            # While a server is away every try fails alike; that it is away was said once.
            say = telemetry.log.warning if self._client.is_connected else telemetry.log.debug
            say("bus_error", bus=self.name, error=f"{type(error).__name__}: {error}")
            return
        telemetry.log.error("bus_forbidden", bus=self.name, what=denied[1].lower(), subject=denied[2])
        for subject, answered in self._waiting.values():
            # The client hands the server's words on in lower case.
            if subject.lower() == denied[2].lower() and not answered.done():
                answered.set_exception(wire.Forbidden(subject))

    def _on_reply(self, message: wire.Message) -> None:
        _, answered = self._waiting.get(message.subject, ("", None))
        if answered is not None and not answered.done():
            answered.set_result(message)

    async def _on_disconnected(self) -> None:
        if not self.closing:
            telemetry.log.warning("bus_disconnected", bus=self.name)
        # Answers to what was asked have nowhere to go; who asked needn't wait for his time to run out.
        for subject, answered in self._waiting.values():
            if not answered.done():
                lost = Refused(
                    Code.UNAVAILABLE, f"the bus was lost while asking {subject}", detail={"outcome": "unknown"}
                )
                answered.set_exception(lost)

    async def _on_reconnected(self) -> None:
        telemetry.log.info("bus_reconnected", bus=self.name)
        self.unknown.clear()
        self.metrics.reconnects.inc()
        for callback in list(self._reconnected):
            callback()

    async def _on_closed(self) -> None:
        if not self.closing:
            telemetry.log.error("bus_closed", bus=self.name)
        self.closed.set()


def _too_late(answered: asyncio.Future[wire.Message], subject: str) -> None:
    if not answered.done():
        why = f"no answer from {subject} in time"
        answered.set_exception(Refused(Code.UNAVAILABLE, why, detail={"outcome": "unknown"}))


def _read_headers(raw: bytes | None) -> dict[str, str]:
    """The headers of a message; of the server's own word its status (`NATS/1.0 404 No Messages`) too."""
    if not raw:
        return {}
    first, _, lines = raw.decode("utf-8", "replace").partition("\r\n")
    found = {}
    said = first.removeprefix("NATS/1.0").strip()
    if said:
        found[wire.STATUS], _, found[wire.DESCRIPTION] = said.partition(" ")
    for line in lines.split("\r\n"):
        name, colon, value = line.partition(":")
        if colon and (name := name.strip()).isascii() and name.split() == [name]:
            found[name] = value.strip()
    return found
