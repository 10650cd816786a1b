"""The canon as the gatekeeper sees it: the followed state, one audit record at a time, and the way to the head."""

import msgspec

from sigilcore.contracts import canon
from sigilcore.contracts.common import Empty
from sigilcore.decision import DecisionRef
from sigilcore.governance import Governance
from sigilrun import service


class FollowedLog:
    """`service.Log` over the bus."""

    def __init__(self, parts: service.Parts) -> None:
        """What the process was given."""
        self._parts = parts

    @property
    def state(self) -> Governance:
        """The newest state that was followed and verified."""
        return self._parts.following.state

    async def record(self, kind: str, payload: msgspec.Struct, decided: DecisionRef | None = None) -> str:
        """Append one audit record; its id once it is committed and its receipt verified."""
        placed = await self._parts.authoring.audit(kind, payload, decision=decided)
        return placed.id

    async def reach_head(self) -> None:
        """Follow to the size that the log's own signature states now."""
        answer = await self._parts.bus.call(canon.CHECKPOINT, Empty())
        head = await self._parts.following.opened(answer.note.encode())
        await self._parts.following.wait_for(head.size)
