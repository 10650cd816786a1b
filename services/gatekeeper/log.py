"""The canon as the gatekeeper sees it: the followed state, one audit record at a time, and the way to the head."""

import msgspec

from sigilcore.contracts import canon, common
from sigilcore.contracts.common import Empty
from sigilcore.decision import DecisionRef
from sigilcore.governance import Governance
from sigilcore.records import audit
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

    @property
    def key_id(self) -> str:
        """The key that this gate's own records bear."""
        return self._parts.authoring.key_id

    async def record(self, kind: str, payload: msgspec.Struct, decided: DecisionRef | None = None) -> common.Placed:
        """Append one audit record; its place once it is committed and its receipt verified."""
        return await self._parts.authoring.audit(kind, payload, decision=decided)

    async def settled(self) -> None:
        """Return once all that was handed in before has its place or its refusal."""
        await self._parts.authoring.settled()

    async def history(self, first: int, limit: int) -> canon.EventPage:
        """At most so many records of decisions from a seq on."""
        return await self._parts.bus.call(
            canon.EVENTS, canon.Events(first=first, limit=limit, kinds=audit.OF_DECISIONS)
        )

    async def reach_head(self) -> None:
        """Follow to the size that the log's own signature states now."""
        answer = await self._parts.bus.call(canon.CHECKPOINT, Empty())
        head = await self._parts.following.opened(answer.note.encode())
        await self._parts.following.wait_for(head.size)
