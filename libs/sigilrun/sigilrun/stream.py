"""The change stream in JetStream: made, published to in order, read from any position.

Invariants:

- the stream's sequence is the canon's seq + 1; every publication says after which sequence it stands, so a gap or a double is refused
  whole by the server, and its place is verified in the acknowledgement;
- from 40 messages on a publication is one atomic batch: all of it or nothing; of fewer the first is published alone, so that nothing is
  sent to a stream that ends elsewhere, and then the others together;
- nothing is lost by limits: the stream has none, and when the disk is full it refuses;
- a reader has no durable state here: an ephemeral consumer, acknowledging nothing, from a position that the reader owns.
- it is in a bus account of its own, where only its keeper speaks: made, published to, compared and erased from by that identity, asked for
  its end and read by whoever follows, through the house's doors (`house.doors`).

JetStream is a copy. Who publishes does it after its own commit; who reads fills holes from the canon.
"""

import asyncio
import contextlib
import json
import re
import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Protocol

import msgspec

from sigilcore.contracts import house
from sigilcore.refusals import Code, Refused
from sigilrun import wire

# Measured: the server pays nearly 3 ms for a batch whatever its size, and 0.07 ms for a message alone.
BATCH_FROM = 40
BATCH_MOST = 500
# The window for doubled Nats-Msg-Id. Sequences are the authority; a long one only blocks an honest refill.
DUPLICATE_WINDOW_NS = 1_000_000_000
REQUEST_S = 5.0
# A consumer lives in memory and is made at once, or JetStream isn't there: then whoever reads asks the canon instead.
OPEN_S = 0.5
# A consumer that nobody reads from any more is removed after this.
INACTIVE_NS = 60_000_000_000
PULL_NS = 20_000_000_000
HEARTBEAT_NS = 1_000_000_000
# Three heartbeats missed: the pull is lost, whatever the reason.
SILENCE_S = 3.5
# Bytes of one pull: twice the largest message.
PULL_BYTES = 16 * 1024 * 1024

_WRONG_LAST = 10071
_NO_STREAM = 10059
_LAST = re.compile(r"wrong last sequence: (\d+)")


class StreamMissing(Exception):  # noqa: N818 - what is found
    """There is no stream of that name, or it doesn't take the subject."""


class StreamBehind(Exception):  # noqa: N818
    """The stream ends before the sequence that was expected: publish what it lacks first."""

    def __init__(self, last: int) -> None:
        """`last`: where it ends."""
        super().__init__(f"the stream ends at {last}")
        self.last = last


class StreamAhead(Exception):  # noqa: N818
    """The stream goes on after the sequence that was expected: an earlier publication, or a canon that was rolled back."""

    def __init__(self, last: int) -> None:
        """`last`: where it ends."""
        super().__init__(f"the stream ends at {last}")
        self.last = last


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """One change event to publish."""

    subject: str
    message_id: str
    body: bytes
    headers: dict[str, str]


class Message(msgspec.Struct, frozen=True):
    """One stored message as it is read. `pending`: how many more the consumer has for us."""

    subject: str
    stream_seq: int
    data: bytes
    headers: dict[str, str]
    pending: int


class Info(msgspec.Struct, frozen=True, kw_only=True):
    """What a stream holds."""

    first: int
    last: int
    messages: int
    size_bytes: int


class Wire(Protocol):
    """What this module needs of a bus."""

    name: str

    async def request(
        self, subject: str, body: bytes, *, headers: Mapping[str, str] | None = None, timeout_s: float
    ) -> wire.Message:
        """One request, one reply."""

    async def publish(
        self, subject: str, body: bytes, *, reply: str = "", headers: Mapping[str, str] | None = None
    ) -> None:
        """Send."""

    async def subscribe(self, subject: str, heard: wire.Hear, *, queue: str = "") -> Callable[[], Awaitable[None]]:
        """Hear."""

    def new_inbox(self) -> str:
        """A private subject."""

    def on_reconnect(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Be told."""


# The stream itself.


def configuration(tenant: str, first_seq: int = 1) -> dict[str, Any]:
    """How a tenant's stream is kept."""
    config: dict[str, Any] = {
        "name": house.stream(tenant),
        "description": "change events of one tenant's canon; a copy, Postgres is the truth",
        "subjects": [f"{house.EVENTS}.{tenant}.>"],
        "retention": "limits",
        "storage": "file",
        "num_replicas": 1,
        "max_msgs": -1,
        "max_bytes": -1,
        "max_age": 0,
        "max_consumers": -1,
        "max_msg_size": -1,
        "discard": "new",
        "duplicate_window": DUPLICATE_WINDOW_NS,
        "allow_direct": True,
        "allow_atomic": True,
    }
    if first_seq > 1:
        config["first_seq"] = first_seq
    return config


async def ensure(bus: Wire, tenant: str, first_seq: int = 1) -> int:
    """Make the stream, or bring an old one to these settings; its last sequence."""
    name = house.stream(tenant)
    try:
        found = await _api(bus, f"STREAM.INFO.{name}", {})
    except StreamMissing:
        made = await _api(bus, f"STREAM.CREATE.{name}", configuration(tenant, first_seq))
        return int(made["state"]["last_seq"])
    wanted = configuration(tenant)
    if any(found["config"].get(key) != value for key, value in wanted.items() if value not in (0, -1)):
        found = await _api(bus, f"STREAM.UPDATE.{name}", found["config"] | wanted)
    return int(found["state"]["last_seq"])


async def info(bus: Wire, tenant: str) -> Info:
    """What the stream holds. Raises `StreamMissing`, `Refused`."""
    state = (await _api(bus, f"STREAM.INFO.{house.stream(tenant)}", {}))["state"]
    return Info(first=state["first_seq"], last=state["last_seq"], messages=state["messages"], size_bytes=state["bytes"])


class Gone(msgspec.Struct, frozen=True, kw_only=True):
    """The sequences that a stream gave away: all below `first`, and those listed."""

    first: int
    deleted: frozenset[int]

    def __contains__(self, stream_seq: int) -> bool:
        """True if no message stands there any more."""
        return stream_seq < self.first or stream_seq in self.deleted


async def gone(bus: Wire, tenant: str) -> Gone:
    """Which sequences the stream doesn't hold any more. Raises `StreamMissing`, `Refused`."""
    state = (await _api(bus, f"STREAM.INFO.{house.stream(tenant)}", {"deleted_details": True}))["state"]
    return Gone(first=state["first_seq"], deleted=frozenset(state.get("deleted") or ()))


async def erase(bus: Wire, tenant: str, stream_seq: int) -> None:
    """Remove one message, its bytes overwritten with random ones; nothing if it isn't there. Raises `StreamMissing`, `Refused`."""
    try:
        await _api(bus, f"STREAM.MSG.DELETE.{house.stream(tenant)}", {"seq": stream_seq, "no_erase": False})
    except Refused:
        # The server has several words for what isn't there.
        if await get(bus, tenant, stream_seq) is not None:
            raise


async def get(bus: Wire, tenant: str, stream_seq: int) -> Message | None:
    """One stored message by its sequence, or None."""
    reply = await bus.request(
        house.asked_of_stream(bus.name, f"DIRECT.GET.{house.stream(tenant)}"),
        json.dumps({"seq": stream_seq}).encode(),
        timeout_s=REQUEST_S,
    )
    if reply.headers.get(wire.STATUS) is not None:
        return None
    headers = dict(reply.headers)
    return Message(headers["Nats-Subject"], int(headers["Nats-Sequence"]), reply.data, headers, 0)


async def _api(bus: Wire, verb: str, body: dict[str, Any], timeout_s: float = REQUEST_S) -> dict[str, Any]:
    reply = await bus.request(house.asked_of_stream(bus.name, verb), json.dumps(body).encode(), timeout_s=timeout_s)
    answer: dict[str, Any] = json.loads(reply.data)
    if "error" in answer:
        raise _refusal(answer["error"])
    return answer


def _refusal(error: dict[str, Any]) -> Exception:
    """JetStream's error in our words."""
    if error.get("err_code") == _NO_STREAM:
        return StreamMissing(error.get("description", ""))
    return Refused(
        Code.UNAVAILABLE, f"JetStream: {error.get('description')}", detail={"err_code": error.get("err_code")}
    )


# Publishing.


async def publish(bus: Wire, events: Sequence[Event], expected_last_seq: int) -> int:
    """Publish these right after `expected_last_seq`; the new last sequence.

    Raises:
        StreamBehind, StreamAhead: the stream doesn't end where it was expected to; with where it ends.
        StreamMissing: there is no stream.
        Refused: UNAVAILABLE; the outcome is unknown, ask `stream_last`.

    """
    last = expected_last_seq
    if BATCH_FROM <= len(events) <= BATCH_MOST:
        return await _publish_batch(bus, events, last)
    if len(events) > BATCH_MOST:
        raise ValueError(f"{len(events)} events, at most {BATCH_MOST} in one batch")
    for event in events[:1]:
        last = _placed(await _ask_after(bus, event, last), last, 1)
    asked = [_ask_after(bus, event, before) for before, event in enumerate(events[1:], last)]
    for answer in await asyncio.gather(*asked, return_exceptions=True):
        if isinstance(answer, BaseException):
            raise answer
        last = _placed(answer, last, 1)
    return last


async def _ask_after(bus: Wire, event: Event, before: int) -> dict[str, Any] | None:
    headers = event.headers | {"Nats-Msg-Id": event.message_id, "Nats-Expected-Last-Sequence": str(before)}
    return await _ask(bus, event, headers)


async def _publish_batch(bus: Wire, events: Sequence[Event], expected_last_seq: int) -> int:
    """One atomic batch (ADR-50): the server answers the first message with an empty yes, and the last with the place of all."""
    batch_id = secrets.token_hex(16)
    for number, event in enumerate(events, 1):
        headers = event.headers | {
            "Nats-Msg-Id": event.message_id,
            "Nats-Batch-Id": batch_id,
            "Nats-Batch-Sequence": str(number),
        }
        if number == 1:
            headers["Nats-Expected-Last-Sequence"] = str(expected_last_seq)
            first = await _ask(bus, event, headers)
            if first is not None:
                _placed(first, expected_last_seq, len(events))
        elif number < len(events):
            await bus.publish(event.subject, event.body, headers=headers)
    headers["Nats-Batch-Commit"] = "1"
    return _placed(await _ask(bus, events[-1], headers), expected_last_seq, len(events))


async def _ask(bus: Wire, event: Event, headers: dict[str, str]) -> dict[str, Any] | None:
    try:
        reply = await bus.request(event.subject, event.body, headers=headers, timeout_s=REQUEST_S)
    except wire.NobodyAnswers as nobody:
        raise StreamMissing(event.subject) from nobody
    return json.loads(reply.data) if reply.data else None


def _placed(acknowledgement: dict[str, Any] | None, expected_last_seq: int, count: int) -> int:
    """The last sequence, if the acknowledgement says that exactly these messages stand right after the expected one."""
    answer = acknowledgement or {}
    error = answer.get("error")
    if error is not None:
        found = _LAST.search(error.get("description", ""))
        if error.get("err_code") == _WRONG_LAST and found is not None:
            last = int(found[1])
            raise StreamAhead(last) if last > expected_last_seq else StreamBehind(last)
        raise _refusal(error)
    last = expected_last_seq + count
    if answer.get("seq") != last:
        raise Refused(Code.UNAVAILABLE, "JetStream acknowledged another place", detail={"outcome": "unknown"})
    return last


# Reading.


class Feed:
    """The stream from `first_stream_seq` on, in order, as it grows.

    The consumer is made at the first `fetch`, and made anew after a lost connection, a restarted server or a deleted stream, each time
    from the sequence after the last message handed out. Between messages there may be holes: who reads looks at `stream_seq`.
    """

    def __init__(self, bus: Wire, tenant: str, first_stream_seq: int, subjects: Sequence[str] = ()) -> None:
        """`subjects` filters; none means all."""
        self._bus = bus
        self._stream = house.stream(tenant)
        self._next = first_stream_seq
        self._subjects = tuple(subjects)
        self.opened = 0  # consumers made so far: when it grows, who filters can't know what was between
        self._consumer = ""
        self._count = 0  # messages handed to us by this consumer
        self._credit = 0  # messages of the running pull that may still come
        self._inbox = ""
        self._arrived: asyncio.Queue[wire.Message | None] = asyncio.Queue()
        self._unsubscribe: Callable[[], Awaitable[None]] | None = None
        self._forget = bus.on_reconnect(self._interrupted)

    @property
    def consumer(self) -> str:
        """The consumer's name; empty while there is none."""
        return self._consumer

    async def fetch(self, limit: int, wait_s: float) -> list[Message]:
        """Up to `limit` messages, as soon as there are any; none after `wait_s`, or at once when the connection was lost and is back.

        Raises:
            StreamMissing: there is no stream.
            Refused: UNAVAILABLE.

        """
        found: list[Message] = []
        loop = asyncio.get_running_loop()
        until = loop.time() + wait_s
        silence = loop.time() + SILENCE_S
        while not found:
            if not self._consumer:
                await self._open()
            if self._credit <= 0:
                await self._pull(limit)
            left = min(until, silence) - loop.time()
            if left <= 0 and loop.time() >= until:
                break
            try:
                async with asyncio.timeout(max(left, 0)):
                    arrived = await self._arrived.get()
            except TimeoutError:
                if loop.time() >= silence:
                    await self._drop()
                    silence = loop.time() + SILENCE_S
                continue
            silence = loop.time() + SILENCE_S
            if arrived is None:
                await self._drop()
                break
            await self._take(arrived, found)
        while len(found) < limit and not self._arrived.empty():
            arrived = self._arrived.get_nowait()
            if arrived is None:
                await self._drop()
                break
            await self._take(arrived, found)
        return found

    async def close(self) -> None:
        """Give the consumer back."""
        self._forget()
        await self._drop()
        if self._unsubscribe is not None:
            await self._unsubscribe()
            self._unsubscribe = None

    async def _open(self) -> None:
        """A new consumer, on a new inbox, so that nothing late of the old one is mistaken."""
        if self._unsubscribe is not None:
            await self._unsubscribe()
        self._arrived = asyncio.Queue()
        self._inbox = self._bus.new_inbox()
        self._unsubscribe = await self._bus.subscribe(self._inbox, self._arrived.put_nowait)
        name = f"{self._bus.name}-{secrets.token_hex(16)}"
        config: dict[str, Any] = {
            "name": name,
            "deliver_policy": "by_start_sequence",
            "opt_start_seq": self._next,
            "ack_policy": "none",
            "replay_policy": "instant",
            "inactive_threshold": INACTIVE_NS,
            "mem_storage": True,
            "num_replicas": 1,
        }
        if self._subjects:
            config["filter_subjects"] = list(self._subjects)
        asked = {"stream_name": self._stream, "config": config, "action": "create"}
        await _api(self._bus, f"CONSUMER.CREATE.{self._stream}.{name}", asked, OPEN_S)
        self._consumer, self._count, self._credit = name, 0, 0
        self.opened += 1

    async def _pull(self, limit: int) -> None:
        ask = {"batch": limit, "expires": PULL_NS, "idle_heartbeat": HEARTBEAT_NS, "max_bytes": PULL_BYTES}
        subject = house.asked_of_stream(self._bus.name, f"CONSUMER.MSG.NEXT.{self._stream}.{self._consumer}")
        await self._bus.publish(subject, json.dumps(ask).encode(), reply=self._inbox)
        self._credit = limit

    async def _take(self, arrived: wire.Message, found: list[Message]) -> None:
        """A message, or a word of the server's about the pull or the consumer."""
        status = arrived.headers.get(wire.STATUS)
        if status is None:
            message, count = _read(arrived)
            self._credit -= 1
            self._count += 1
            if count != self._count:
                # Something was lost on the way: begin again after what we handed out.
                await self._drop()
                return
            self._next = message.stream_seq + 1
            found.append(message)
        elif status == "100" or (status == "409" and "batch completed" in _description(arrived)):
            # A heartbeat; or the end of a pull whose last message was counted already, and after which the next one may be under way.
            return
        elif status in {"404", "408"} or (status == "409" and "consumer" not in _description(arrived)):
            self._credit = 0
        else:
            await self._drop()

    async def _drop(self) -> None:
        """Forget the consumer; the server removes it anyway after a while."""
        name, self._consumer = self._consumer, ""
        self._credit = 0
        if name:
            with contextlib.suppress(Refused, StreamMissing, wire.Forbidden):
                verb = f"CONSUMER.DELETE.{self._stream}.{name}"
                await self._bus.publish(house.asked_of_stream(self._bus.name, verb), b"")

    def _interrupted(self) -> None:
        """The connection was gone, and with it the pull."""
        self._arrived.put_nowait(None)


def _description(message: wire.Message) -> str:
    return message.headers.get(wire.DESCRIPTION, "").lower()


def _read(arrived: wire.Message) -> tuple[Message, int]:
    """The message and its number among those of its consumer, from the reply subject
    `$JS.ACK.[<domain>.<account>.]<stream>.<consumer>.<delivered>.<stream seq>.<consumer seq>.<time>.<pending>[.<token>]`."""
    parts = arrived.reply.split(".")
    at = 4 if len(parts) == 9 else 6
    _, stream_seq, consumer_seq, _, pending = (int(part) for part in parts[at : at + 5])
    return Message(arrived.subject, stream_seq, arrived.data, dict(arrived.headers), pending), consumer_seq
