"""Whether calls can be served, and what is wrong when they can't: every resident asked on the bus, and the log's head read.

`ready` needs the bus, the pen, its reader and the gate; a missing one of the others leaves its own commands out and is told. Only while the
house comes up, for half a minute at most, is everyone waited for. Before genesis the house is ready: for the bootstrap. An answer is
kept for a second, so that asking often costs the house nothing. A pen that may not write (`read-only`) makes the house unready, and
says why; what needs no pen is still read.
"""

import asyncio
import time
from typing import Any

import msgspec

from sigilcore.contracts import canon, catalogue, gatekeeper, house
from sigilcore.contracts.common import Empty
from sigilcore.faults import Fault
from sigilcore.refusals import Refused
from sigilrun.bus import Bus
from sigilrun.wire import Forbidden

NEEDED = (canon.WRITER, canon.READER, gatekeeper.SERVICE)
ASK_S = 1.0
KEEP_S = 1.0
COMING_UP_S = 30.0
SILENT = "silent"
READ_ONLY = "read-only"


class Readiness(msgspec.Struct, frozen=True, kw_only=True):
    """What /readyz answers."""

    ready: bool
    state: str
    bootstrapped: bool
    sealed: bool
    parts: dict[str, str]
    wrong: tuple[str, ...]


class Health:
    """Asks, and keeps the answer for a moment."""

    def __init__(self, bus: Bus) -> None:
        """Nothing has been asked yet."""
        self._bus = bus
        self._asking: asyncio.Task[Readiness] | None = None
        self._asked_s = -KEEP_S
        self._coming_up_until_s = time.monotonic() + COMING_UP_S

    async def readiness(self) -> Readiness:
        """The state now, or a second ago."""
        if self._asking is None or (self._asking.done() and time.monotonic() - self._asked_s >= KEEP_S):
            self._asked_s = time.monotonic()
            self._asking = asyncio.create_task(self._look(), name="readiness")
        return await asyncio.shield(self._asking)

    async def _look(self) -> Readiness:
        if not self._bus.connected:
            return judge({"bus": "not connected"}, None, coming_up=False)
        names = [name for name in house.RESIDENTS if name != "gateway"]
        states = await asyncio.gather(*(self._state(name) for name in names))
        parts = {"bus": "connected", **dict(zip(names, states, strict=True))}
        readiness = judge(parts, await self._checkpoint(), coming_up=time.monotonic() < self._coming_up_until_s)
        if readiness.ready:
            self._coming_up_until_s = 0.0
        return readiness

    async def _state(self, name: str) -> str:
        """What a resident says of itself."""
        try:
            answer = await self._bus.request(f"$SRV.PING.{name}", b"", timeout_s=ASK_S)
            said: Any = msgspec.json.decode(answer.data)
            return str(said["metadata"]["state"])
        except (Refused, Forbidden):
            return SILENT
        except (msgspec.DecodeError, KeyError, TypeError):
            return "unreadable"

    async def _checkpoint(self) -> canon.Checkpoint | None:
        try:
            return await self._bus.call(canon.CHECKPOINT, Empty(), timeout_s=ASK_S)
        except (Refused, Fault):
            return None


def judge(parts: dict[str, str], head: canon.Checkpoint | None, *, coming_up: bool) -> Readiness:
    """What the parts' states mean; while the house is coming up, everyone is needed. Pure."""
    bootstrapped = head is not None and head.bootstrapped
    waiting = {"serving"} if bootstrapped else {"serving", "waiting for genesis"}
    wrong = [f"bus: {parts['bus']}"] if parts["bus"] != "connected" else []
    if head is None:
        wrong.append("the log's head can't be read: canon_reader or its database")
    for name, state in parts.items():
        if name != "bus" and state not in waiting:
            wrong.append(f"{name}: {state}{_commands(name)}")
    ready = head is not None and all(parts.get(name) in waiting for name in NEEDED) and not (coming_up and wrong)
    state = READ_ONLY if head is not None and parts.get(canon.WRITER, "").startswith(READ_ONLY) else "unready"
    if ready:
        state = "degraded" if wrong else "serving" if bootstrapped else "waiting for genesis"
    return Readiness(
        ready=ready,
        state=state,
        bootstrapped=bootstrapped,
        sealed=head is not None and head.sealed,
        parts=parts,
        wrong=tuple(wrong),
    )


def _commands(name: str) -> str:
    """What depends on it."""
    names = sorted(command.name for command in catalogue.of_service(name))
    return f"; its commands: {', '.join(names)}" if names else ""
