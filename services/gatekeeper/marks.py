"""Marks of grants: a grant above its peer's mark moves it in the log before anything is decided on it.

Invariants:

1. The mark is `grant_mark` in the canon, so neither a restart nor a database that was set back forgets one unseen; nothing is kept here.
2. The writer compares and sets: it takes a mark only above the one that stands. What another gate moved meanwhile is followed, not fought.
3. A mark is moved before it is asked what the grant confers. If it can't be moved, the judgement finds it unmoved, and denies
   (`WatermarkUnavailable`).

Commit point: the writer's commit of `grant_mark`. A crash before it decided nothing; after it the older grants are over, as was meant.
"""

import asyncio
from collections.abc import Awaitable, Callable

from sigilcore import faults, grant
from sigilcore.governance import Governance
from sigilcore.peers import Tier
from sigilcore.records import audit
from sigilcore.refusals import Code, Refused


class Marks:
    """Keeps marks where they can't be lost."""

    def __init__(
        self,
        *,
        state: Callable[[], Governance],
        record: Callable[[audit.GrantMark], Awaitable[str]],
        catch_up: Callable[[], Awaitable[None]],
        fault: Callable[[Exception], None],
        longest_s: float,
    ) -> None:
        """`record` appends one mark; `catch_up` and `fault` as in `Batches`; `longest_s` bounds the wait for the canon."""
        self._state = state
        self._record = record
        self._catch_up = catch_up
        self._fault = fault
        self._longest_s = longest_s
        self._moving = asyncio.Lock()

    async def keep(self, enrolment: str, token: str, now_ms: int) -> None:
        """Return once the peer's mark isn't below this grant, or can't be moved; the judgement sees which."""
        if not moves(self._state(), enrolment, token, now_ms):
            return
        try:
            async with asyncio.timeout(self._longest_s), self._moving:
                await self._move(enrolment, token, now_ms)
        except (Refused, faults.Fault, TimeoutError) as error:
            self._fault(error)

    async def _move(self, enrolment: str, token: str, now_ms: int) -> None:
        if not moves(self._state(), enrolment, token, now_ms):
            return
        shown = grant.read(token)
        payload = audit.GrantMark(
            grantee_key=shown.grant.grantee_key, epoch=shown.grant.epoch, grant_hash=shown.grant_hash, grant=token
        )
        try:
            await self._record(payload)
        except Refused as refused:
            if refused.code is not Code.GRANT_STALE:
                raise
        await self._catch_up()


def moves(state: Governance, enrolment: str, token: str, now_ms: int) -> bool:
    """True if this peer's mark stands below this grant, which is good for this peer in all that comes before the mark."""
    peer = state.peer_of(enrolment)
    if peer is None or peer.enrolment != enrolment or peer.tier_at(now_ms) is Tier.BLOCKED:
        return False
    return grant.evaluate(
        token,
        issuer_key=state.root.key,
        presenting_key=peer.key,
        mesh=peer.mesh,
        now_ms=now_ms,
        mark=state.mark_of(peer.key_id),
        command="",
    ).moves
