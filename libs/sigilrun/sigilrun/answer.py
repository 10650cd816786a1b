"""Answering calls: bounded, each in its own task, faults hidden, health told, drained at the end.

Invariants:

- one task a request, at most `max_in_flight` at once; beyond that BUSY is answered at once. Braking and quorum commands
  (`Command.reserved`) have `reserved_in_flight` places more, so a flood can't keep anyone from revoking; those that need no permit,
  and so anyone may send, have half of them, so that they can't keep out those that the gate let in;
- a request whose `Sigil-Deadline` has passed is refused unread: its caller is gone;
- a handler ends within its command's longest run;
- what goes wrong is logged in full and counted; the caller hears FAULT and a trace id, never the exception's words;
- an answer goes to a private inbox or nowhere, so that nobody can make a service call another one by asking it to answer there;
- `stop` takes nothing new, answers everything taken, and only then returns.

`$SRV.PING`, `INFO` and `STATS` are answered in the manner of NATS services (ADR-32), without echoing the asker's headers and without
anything of the last error but its name.
"""

import asyncio
import contextlib
import re
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from sigilcore import faults
from sigilcore.contracts.command import Admission, Command
from sigilcore.refusals import Code, Refused
from sigilrun import telemetry, wire

if TYPE_CHECKING:
    from sigilrun.bus import Bus

VERSION = "0.1.0"
_OWN_STATUS = frozenset({"PING", "INFO", "STATS"})


class Incoming(msgspec.Struct, frozen=True, kw_only=True):
    """One request as it came: nothing of it is checked yet but its deadline."""

    command: Command[Any, Any]
    scope: tuple[str, ...] = ()  # of a scoped command: what its subject said, which the bus has permitted
    body: bytes
    permit: str | None
    trace_id: str
    deadline_ms: int | None


Handler = Callable[..., Awaitable[msgspec.Struct]]
Seam = Callable[[Incoming, Handler], Awaitable[msgspec.Struct]]
"""What stands between the bus and a handler: admission and parsing. Raises `Refused`."""


async def unguarded(incoming: Incoming, handler: Handler) -> msgspec.Struct:
    """The seam of tests and tools: the handler gets the request as it came."""
    return await handler(incoming)


class Presence(msgspec.Struct, kw_only=True):
    """How a service shows itself on the bus, for the service to say.

    `trouble`: what keeps it from doing all that it is for, as its PING and so /readyz tell it. `queue`: the group whose members share its
    calls, all of the resident unless said; groups of their own hear each call, so one that hangs takes none from the others. `carried`:
    the command that a call is about, where that isn't the command itself (`authorize`); asked only when all ordinary places are taken.
    """

    trouble: str | None = None
    queue: str | None = None
    carried: Callable[[Command[Any, Any], bytes], Command[Any, Any] | None] = lambda command, _: command


class Tally(msgspec.Struct, kw_only=True):
    """What STATS says of one command."""

    requests: int = 0
    errors: int = 0
    last_error: str = ""
    nanoseconds: int = 0


class Answering:
    """The commands of one resident, being answered. Made by `Bus.serve`."""

    def __init__(
        self,
        bus: "Bus",
        resident: str,
        handlers: Mapping[Command[Any, Any], Handler],
        seam: Seam,
        presence: Presence | None = None,
    ) -> None:
        """Nothing is heard yet."""
        self.state = "starting"  # told in PING's metadata: starting, waiting for genesis, serving, stopping
        self._presence = presence or Presence()
        self._queue = self._presence.queue or resident
        self._bus = bus
        self._resident = resident
        self._handlers = {command: handlers[command] for command in sorted(handlers, key=lambda c: c.name)}
        self._seam = seam
        self._instance = secrets.token_hex(11)
        self._started = _now()
        self._tallies = {command.name: Tally() for command in self._handlers}
        self._tasks: set[asyncio.Task[None]] = set()
        self._said: set[asyncio.Task[None]] = set()
        self._stops: list[Callable[[], Awaitable[None]]] = []
        bus.metrics.in_flight.set_function(lambda: len(self._tasks))

    @property
    def in_flight(self) -> int:
        """Calls being answered now."""
        return len(self._tasks)

    async def start(self) -> None:
        """Hear the commands, each in the queue group of the resident, and `$SRV`."""
        for verb in sorted(_OWN_STATUS):
            for tail in ("", f".{self._resident}", f".{self._resident}.{self._instance}"):
                self._stops.append(await self._bus.subscribe(f"$SRV.{verb}{tail}", self._tell))
        for command in self._handlers:
            self._stops.append(await self._bus.subscribe(command.heard, self._hearing(command), queue=self._queue))
        await self._bus.flush()

    async def stop(self) -> None:
        """Take nothing new, end what was taken."""
        self.state = "stopping"
        stops, self._stops = self._stops, []
        await asyncio.gather(*(stop() for stop in stops), return_exceptions=True)
        if self._tasks:
            _, left = await asyncio.wait(self._tasks, timeout=self._bus.options.drain_timeout_s)
            for task in left:
                telemetry.log.error("call_cut_off", task=task.get_name())
                task.cancel()
            await asyncio.gather(*left, return_exceptions=True)
        await asyncio.gather(*self._said, return_exceptions=True)

    # One call.

    def _hearing(self, command: Command[Any, Any]) -> wire.Hear:
        def hear(message: wire.Message) -> None:
            loop = asyncio.get_running_loop()
            if not self._has_room(command, message):
                busy = Refused(Code.BUSY, f"{self._resident} has its hands full")
                self._saying(loop.create_task(self._refuse(command, message, busy)))
                return
            task = loop.create_task(self._answer(command, message), name=command.name)
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

        return hear

    def _saying(self, task: asyncio.Task[None]) -> None:
        """A word that needs no work: nobody waits for it, and it takes no place."""
        self._said.add(task)
        task.add_done_callback(self._said.discard)

    def _has_room(self, command: Command[Any, Any], message: wire.Message) -> bool:
        options, taken = self._bus.options, len(self._tasks)
        if taken < options.max_in_flight:
            return True
        if taken >= options.max_in_flight + options.reserved_in_flight:
            return False
        carried = self._presence.carried(command, message.data)
        if carried is None or not carried.reserved:
            return False
        admitted = carried.admission is Admission.PERMIT
        return admitted or taken < options.max_in_flight + options.reserved_in_flight // 2

    async def _refuse(self, command: Command[Any, Any], message: wire.Message, refused: Refused) -> None:
        self._count(command, refused.code, 0.0)
        await self._reply(message, *wire.refusal(refused))

    async def _answer(self, command: Command[Any, Any], message: wire.Message) -> None:
        trace_id = telemetry.trace_id_of(message.headers.get(wire.TRACE))
        began = time.perf_counter()
        with telemetry.tracing(trace_id):
            outcome, body, headers = await self._outcome(command, message, trace_id)
            self._count(command, outcome, time.perf_counter() - began)
            await self._reply(message, body, headers)

    async def _outcome(
        self, command: Command[Any, Any], message: wire.Message, trace_id: str
    ) -> tuple[str, bytes, dict[str, str] | None]:
        try:
            async with asyncio.timeout(command.longest_run_s):
                reply = await self._run(command, message, trace_id)
            return telemetry.OK, msgspec.json.encode(reply), None
        except Refused as refused:
            if not command.may_refuse(refused.code):
                undeclared(command, refused)
            return refused.code, *wire.refusal(refused)
        except TimeoutError:
            telemetry.log.exception("call_too_long", command=command.name, longest_run_s=command.longest_run_s)
            too_long = Refused(Code.UNAVAILABLE, "it took too long", detail={"outcome": "unknown"})
            return too_long.code, *wire.refusal(too_long)
        except faults.Fault as fault:
            telemetry.log.exception("fault", command=command.name, cause=fault.trace_id)
        except Exception:
            telemetry.log.exception("fault", command=command.name)
        return telemetry.FAULT, *wire.fault(trace_id)

    async def _run(self, command: Command[Any, Any], message: wire.Message, trace_id: str) -> msgspec.Struct:
        deadline_ms = wire.deadline_of(message.headers)
        if wire.late(deadline_ms, time.time_ns() // 1_000_000):
            raise Refused(Code.UNAVAILABLE, "the request came after its deadline")
        incoming = Incoming(
            command=command,
            scope=tuple(message.subject.removeprefix(command.subject).split(".")[1:]),
            body=message.data,
            permit=message.headers.get(wire.PERMIT),
            trace_id=trace_id,
            deadline_ms=deadline_ms,
        )
        reply = await self._seam(incoming, self._handlers[command])
        if type(reply) is not command.reply:
            raise TypeError(f"{command.name} answers {command.reply.__name__}, not {type(reply).__name__}")
        return reply

    async def _reply(self, message: wire.Message, body: bytes, headers: dict[str, str] | None = None) -> None:
        """Send the answer; if it can't be sent the caller's time runs out, and we know why."""
        if not message.reply.startswith((wire.INBOX, wire.MAPPED)):
            # The server lets us answer anywhere we were asked from. An answer to a command's subject would be a call in our name.
            telemetry.log.error("answer_refused", subject=message.subject, reply=message.reply[:128])
            return
        try:
            await self._bus.publish(message.reply, body, headers=headers)
        except Refused as refused:
            telemetry.log.warning("answer_lost", subject=message.subject, code=refused.code, bytes=len(body))
            if refused.code is Code.BODY_TOO_LARGE:
                body, headers = wire.fault(telemetry.current_trace_id())
                with contextlib.suppress(Refused):
                    await self._bus.publish(message.reply, body, headers=headers)

    def _count(self, command: Command[Any, Any], outcome: str, seconds: float) -> None:
        tally = self._tallies[command.name]
        tally.requests += 1
        tally.nanoseconds += int(seconds * 1e9)
        if outcome != telemetry.OK:
            tally.errors += 1
            tally.last_error = outcome
        telemetry.record_call(self._bus.metrics, command=command.name, outcome=outcome, seconds=seconds)

    # $SRV.

    def _tell(self, message: wire.Message) -> None:
        verb = message.subject.split(".")[1]
        told = {"PING": self._ping, "INFO": self._info, "STATS": self._stats}[verb]()
        if message.reply:
            reply = self._reply(message, msgspec.json.encode(told))
            self._saying(asyncio.get_running_loop().create_task(reply))

    def _ping(self) -> dict[str, Any]:
        return self._told("ping")

    def _info(self) -> dict[str, Any]:
        endpoints = [
            {
                "name": _endpoint(command),
                "subject": command.heard,
                "queue_group": self._queue,
                "metadata": {"command": command.name, "admission": command.admission.value},
            }
            for command in self._handlers
        ]
        return self._told("info") | {"description": f"sigil {self._resident}", "endpoints": endpoints}

    def _stats(self) -> dict[str, Any]:
        endpoints = [
            {
                "name": _endpoint(command),
                "subject": command.heard,
                "queue_group": self._queue,
                "num_requests": tally.requests,
                "num_errors": tally.errors,
                "last_error": tally.last_error,
                "processing_time": tally.nanoseconds,
                "average_processing_time": tally.nanoseconds // max(tally.requests, 1),
            }
            for command, tally in zip(self._handlers, self._tallies.values(), strict=True)
        ]
        return self._told("stats") | {"started": self._started, "endpoints": endpoints}

    def _told(self, kind: str) -> dict[str, Any]:
        return {
            "type": f"io.nats.micro.v1.{kind}_response",
            "name": self._resident,
            "id": self._instance,
            "version": VERSION,
            "metadata": {"state": self._presence.trouble or self.state},
        }


def undeclared(command: Command[Any, Any], refused: Refused) -> None:
    """A true answer that the contract doesn't tell of: the caller gets it, and we hear that the contract is wrong."""
    telemetry.log.error("refusal_undeclared", command=command.name, code=refused.code)


def _endpoint(command: Command[Any, Any]) -> str:
    return re.sub("[^a-zA-Z0-9_-]", "_", command.name)


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
