"""The canon as the license service sees it: the followed state, one audit record at a time, and the founding."""

import asyncio
from collections.abc import Sequence

import msgspec

from sigilcore import merkle, note, record
from sigilcore.contracts import canon
from sigilcore.contracts.common import Placed
from sigilcore.governance import Governance
from sigilcore.refusals import Code, Refused, raised
from sigilrun import receipt, service

INTRODUCED_S = 5.0
"""An instance is introduced within milliseconds of genesis; who waits longer asks again."""


class BusLedger:
    """`service.Ledger` over the bus."""

    def __init__(self, parts: service.Parts) -> None:
        """What the process was given."""
        self._parts = parts

    @property
    def state(self) -> Governance:
        """The newest state that was followed and verified."""
        return self._parts.following.state

    async def wait_for(self, size: int) -> None:
        """Return once the state has seen the first `size` records."""
        await self._parts.following.wait_for(size)

    async def reach(self, seq: int) -> None:
        """Return once the state has seen the record that a caller names by `seq`. Raises BEYOND_HEAD, NOT_YET."""
        await self._parts.following.reach(seq)

    async def seek_genesis(self) -> None:
        """If the canon has a record 0, return once the state has seen it."""
        page = await self._parts.bus.call(canon.EVENTS, canon.Events(first=0, limit=1))
        if page.head > 0:
            await self.wait_for(1)

    async def introduced(self) -> None:
        """Return once this instance may write audit records."""
        try:
            async with asyncio.timeout(INTRODUCED_S):
                await self._parts.authoring.wait_introduced()
        except TimeoutError:
            raise Refused(Code.UNAVAILABLE, "this instance is not introduced yet") from None

    async def found(self, request: canon.BootstrapAppend) -> None:
        """Have record 0 committed, and verify the receipt by the log's key."""
        appended = await self._parts.bus.call(canon.BOOTSTRAP, request)
        (result,) = appended.results
        if result.refusal is not None:
            raise raised(result.refusal)
        checked = record.check(request.record)
        sent = receipt.Sent(id=checked.core.id, hash=checked.header.hash, leaf_hash=merkle.leaf_hash(checked.leaf))
        receipt.verify([sent], appended, note.VerifierKey.parse(self._parts.deployment.log), {})

    async def audit(
        self,
        kind: str,
        payload: msgspec.Struct,
        *,
        id: str,  # noqa: A002 - the field's name
        links: Sequence[record.Link],
    ) -> Placed:
        """Append one audit record."""
        return await self._parts.authoring.audit(kind, payload, id=id, links=links)
