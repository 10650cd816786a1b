"""The canon as the quorum service sees it: the followed state, and a book that is read to the head before each decision.

Invariants:

- A system record moves the book only if the follower admitted that very record at that place.
- A proposal's record moves the book only if the log says that its key is, or was, an instance of this service, and its signature holds.
- What doesn't hold is loud, moves nothing, and is read again with the next call.

The book is asked for and not pushed: changes of the system are rare, and every decision about one shall stand on all that was written
before it. Only records of its kinds are read, so a long log costs a start nothing.
"""

import asyncio
from collections.abc import Sequence

import msgspec

from services.quorum.proposals import KINDS, Book
from sigilcore import note, record, witnessed
from sigilcore.contracts import canon
from sigilcore.contracts import quorum as wire
from sigilcore.contracts.common import Empty, Placed
from sigilcore.faults import Corrupt
from sigilcore.governance import Governance
from sigilcore.refusals import Code, Refused
from sigilrun import service

PAGE = 500
WAIT_S = 2.0
LOOK_AGAIN_S = 0.02


class BusLedger:
    """`service.Ledger` over the bus."""

    def __init__(self, parts: service.Parts) -> None:
        """Before the follower starts, so that nothing it admits is missed."""
        self.book = Book()
        self.position = 0
        self._parts = parts
        self._admitted: dict[int, str] = {}  # seq → hash of each system record that the follower admitted
        self._reading = asyncio.Lock()
        parts.following.on_change(self._note)

    @property
    def state(self) -> Governance:
        """The newest state that was followed and verified."""
        return self._parts.following.state

    async def refresh(self) -> None:
        """Read the book's records from `position` to the canon's head."""
        async with self._reading:
            while True:
                asked = canon.Events(first=self.position, limit=PAGE, kinds=KINDS)
                page = await self._parts.bus.call(canon.EVENTS, asked)
                for placed in page.items:
                    await self._take(placed)
                self.position = max(self.position, page.next)
                if page.next >= page.head or not page.items:
                    return

    async def reach_head(self) -> None:
        """Book and state both know all that stands in the canon now."""
        await self.refresh()
        await self._parts.following.wait_for(self.position)

    async def reach(self, seq: int) -> None:
        """Return once book and state hold the record that a caller names by `seq`. Raises BEYOND_HEAD, NOT_YET."""
        await self.refresh()
        await self._parts.following.reach(seq)
        await self.wait_for(seq + 1)

    async def wait_for(self, size: int) -> None:
        """Return once the book has seen the first `size` records."""
        try:
            async with asyncio.timeout(WAIT_S):
                while self.position < size:
                    await self.refresh()
                    if self.position < size:
                        await asyncio.sleep(LOOK_AGAIN_S)
        except TimeoutError:
            raise Refused(
                Code.NOT_YET, f"seen {self.position} of {size} records", detail={"position": self.position}
            ) from None

    async def witnessed_size(self) -> int:
        """The size of the newest checkpoint that enough cosigners have signed, by the policy that was followed here."""
        shown = (await self._parts.bus.call(canon.CHECKPOINT, Empty())).witnessed
        if shown is None:
            return 0
        try:
            await self._parts.following.opened(shown.encode())  # so that a key that was named by it is known
            opened = witnessed.opened_by_size(shown.encode(), self.state.quorum, self.state.log_key_at)
        except note.NoteError as error:
            raise Corrupt(f"the witnessed checkpoint: {error}") from error
        return 0 if opened is None else opened.size

    async def audit(
        self,
        kind: str,
        payload: msgspec.Struct,
        *,
        id: str,  # noqa: A002 - the field's name
        links: Sequence[record.Link] = (),
    ) -> Placed:
        """Append one audit record."""
        return await self._parts.authoring.audit(kind, payload, id=id, links=links)

    async def system(self, signed: record.SignedRecord) -> Placed:
        """Append a system record with its witnesses."""
        return await self._parts.authoring.system(signed)

    def _note(self, seq: int, checked: record.Checked) -> None:
        if checked.core.space == "system":
            self._admitted[seq] = checked.header.hash

    async def _take(self, placed: record.PlacedRecord) -> None:
        """One record, if it is new and believed."""
        if placed.seq < self.position:
            return
        try:
            checked = record.check(placed.signed())
        except Refused as refused:
            raise Corrupt(f"the record at {placed.seq}: {refused}") from refused
        if checked.core.space == "system":
            await self._check_admitted(placed.seq, checked)
        else:
            await self._check_author(placed.seq, checked)
        self.book.apply(placed.seq, checked)
        self.position = placed.seq + 1

    async def _check_admitted(self, seq: int, checked: record.Checked) -> None:
        if seq not in self._admitted:
            await self._parts.following.wait_for(seq + 1)
        if self._admitted.get(seq) != checked.header.hash:
            raise Corrupt(f"the system record at {seq} is not the one that was followed")

    async def _check_author(self, seq: int, checked: record.Checked) -> None:
        if self.state.key(checked.header.key_id) is None:
            await self._parts.following.wait_for(seq)
        entry = self.state.key(checked.header.key_id)
        if entry is None or (entry.role, entry.name) != ("instance", wire.SERVICE):
            raise Corrupt(f"the record at {seq} is not by an instance of {wire.SERVICE}")
        try:
            record.verify_author(checked.header, checked.core_bytes, entry.public)
        except Refused as refused:
            raise Corrupt(f"the record at {seq}: {refused}") from refused
