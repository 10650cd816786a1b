"""Calls on a caller's behalf: while a service answers somebody, it may ask another command for them, if its own declaration says so.

The gate judges the caller again, by the permit of the call that is being answered; nothing is lent and nothing is raised. The door at the
gate is this service's own, which the bus keeps.
"""

from typing import TypeVar

import msgspec

from sigilcore import permit
from sigilcore.contracts import gatekeeper
from sigilcore.contracts.command import Command
from sigilrun.bus import Bus

Req = TypeVar("Req", bound=msgspec.Struct)
Rep = TypeVar("Rep", bound=msgspec.Struct)


class Behalf:
    """One service's way to call for its callers."""

    def __init__(self, bus: Bus, resident: str) -> None:
        """`resident` is the service's own name on the bus."""
        self._bus = bus
        self._scope = (resident,)

    async def call(self, bound: permit.Bound, command: Command[Req, Rep], request: Req) -> Rep:
        """Ask a command for the caller of the call that `bound` admitted.

        Raises:
            Refused: the gate's refusal of this caller, or the command's own.
            Fault: something of ours broke over there.

        """
        body = msgspec.json.encode(request)
        asked = gatekeeper.AuthorizeChild(parent=bound.token, command=command.name, parameters=body.decode())
        granted = await self._bus.call(gatekeeper.CHILD, asked, scope=self._scope)
        return await self._bus.call(command, body, permit=granted.permit)
