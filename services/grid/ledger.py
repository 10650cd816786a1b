"""The canon as the grid sees it: the followed state, and one effect at a time."""

import msgspec

from sigilcore import decision, record
from sigilcore.contracts.common import Placed
from sigilcore.governance import Governance
from sigilrun import service


class BusLedger:
    """`service.Ledger` over the bus."""

    def __init__(self, parts: service.Parts) -> None:
        """What the process was given."""
        self._parts = parts

    @property
    def state(self) -> Governance:
        """The newest state that was followed and verified."""
        return self._parts.following.state

    async def reach(self, seq: int) -> None:
        """Return once the state has seen the record that a caller names by `seq`. Raises BEYOND_HEAD, NOT_YET."""
        await self._parts.following.reach(seq)

    async def effect(self, kind: str, payload: msgspec.Struct, *, name: str, admits: decision.DecisionRef) -> Placed:
        """Append the effect of a decision; its place once it is durable, its receipt verified, and the state has seen it."""
        placed = await self._parts.authoring.audit(kind, payload, id=name, decision=admits)
        await self._parts.following.wait_for(placed.seq + 1)
        return placed

    async def outcome(self, kind: str, payload: msgspec.Struct, *, asked: Placed) -> Placed:
        """Append what became of an effect that stands already; its place once it is durable and its receipt verified."""
        return await self._parts.authoring.audit(kind, payload, links=[record.Link(label="asked", target=asked.id)])
