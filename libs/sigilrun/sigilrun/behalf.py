"""Calls on a caller's behalf: while a service answers somebody, it may ask another command for them, if its own declaration says so.

The gate judges the caller again, by the permit of the call that is being answered; nothing is lent and nothing is raised. The door at the
gate is this service's own, which the bus keeps. A call ends with its handler: what a handler left running asks for nobody any more. The
gate itself knows of a call's end by its time alone.
"""

from collections.abc import Collection
from typing import TypeVar

import msgspec

from sigilcore import permit
from sigilcore.contracts import gatekeeper
from sigilcore.contracts.command import Command
from sigilcore.refusals import Code, Refused
from sigilrun.bus import Bus

Req = TypeVar("Req", bound=msgspec.Struct)
Rep = TypeVar("Rep", bound=msgspec.Struct)


class Behalf:
    """One service's way to call for its callers."""

    def __init__(self, bus: Bus, resident: str, answering: Collection[str]) -> None:
        """`resident` is the service's own name on the bus; `answering` the permits of the calls whose handlers run (`Parts`)."""
        self._bus = bus
        self._answering = answering
        self._scope = (resident,)

    async def call(self, bound: permit.Bound, command: Command[Req, Rep], request: Req) -> Rep:
        """Ask a command for the caller of the call that `bound` admitted.

        Raises:
            Refused: the gate's refusal of this caller, or the command's own; PERMIT_EXPIRED once the call has been answered.
            Fault: something of ours broke over there.

        """
        if bound.permit.permit_id not in self._answering:
            raise Refused(Code.PERMIT_EXPIRED, "the call on whose behalf it asks is over")
        body = msgspec.json.encode(request)
        asked = gatekeeper.AuthorizeChild(parent=bound.token, command=command.name, parameters=body.decode())
        granted = await self._bus.call(gatekeeper.CHILD, asked, scope=self._scope)
        return await self._bus.call(command, body, permit=granted.permit)
