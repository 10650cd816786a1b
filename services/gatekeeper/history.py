"""What callers did of late, from the decisions that stand in the log: the gate's standings.

Invariants:

1. Nobody is judged before the last day's decisions were read, and never by fewer than stand in the log: after a batch whose fate isn't
   known the log is read again, and who was judged without it is judged anew.
2. A record counts only by a gatekeeper's instance key: the bus can delay history and can't forge it.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from sigilcore import clock, decision, faults, record, standing
from sigilcore.contracts import canon, gatekeeper
from sigilcore.governance import Governance
from sigilcore.records import audit

DAY_MS = standing.HOURS * standing.HOUR_MS
PAGE = 500  # decision records of one answer

Pager = Callable[[int, int], Awaitable[canon.EventPage]]


class History:
    """The standings, and how they follow the log; `read` gives at most so many decision records from a seq on."""

    def __init__(
        self,
        *,
        read: Pager,
        settled: Callable[[], Awaitable[None]],
        state: Callable[[], Governance],
        clock: clock.Clock,
        seen: Callable[[decision.ReasoningChain], None] = lambda _: None,
    ) -> None:
        """Nothing is read yet. `settled` waits for what this gate handed in and gave up; `seen` hears of each decision that is read from
        the log rather than made here."""
        self._seen = seen
        self.standings = standing.Standings()
        self._read = read
        self._settled = settled
        self._state = state
        self._clock = clock
        self._next: int | None = None
        self._sure = False
        self._lock = asyncio.Lock()

    def doubt(self) -> None:
        """A batch was sent and its fate isn't known."""
        self._sure = False

    def add(self, seq: int, decisions: Sequence[decision.FrozenChain]) -> None:
        """Decisions of this gate's own, committed at `seq`."""
        if self._next is None or seq < self._next:
            return
        for frozen in decisions:
            self.standings.fold_chain(seq, frozen.chain)
        self._next = seq + 1

    async def catch_up(self) -> bool:
        """Read what the log has and this doesn't; True if there was anything. Raises what reading raises."""
        async with self._lock:
            if self._sure:
                return False
            await self._settled()  # else what is on its way could come to stand before who was judged without it
            before = self.standings.size
            if self._next is None:
                self._next = await self._beginning()
            while True:
                page = await self._read(self._next, PAGE)
                for placed in page.items:
                    batch = self._checked(placed)
                    self.add(placed.seq, batch)
                    for frozen in batch:
                        self._seen(frozen.chain)
                self._next = max(self._next, page.next)
                if page.next >= page.head:
                    self._sure = True
                    return self.standings.size != before

    async def _beginning(self) -> int:
        """The first seq whose decision still weighs, by halving: decisions stand in the order of their times."""
        since_ms = self._clock.now_ms() - DAY_MS
        low, high = 0, (await self._read(0, 1)).head
        while low < high:
            middle = (low + high) // 2
            found = (await self._read(middle, 1)).items
            if found and clock.parse_ms(record.check(found[0].signed()).core.ts) < since_ms:
                low = found[0].seq + 1
            else:
                high = middle
        return low

    def _checked(self, placed: record.PlacedRecord) -> Sequence[decision.FrozenChain]:
        """Decisions of one of this log's gatekeepers, now or earlier."""
        checked = record.check(placed.signed())
        entry = self._state().key(checked.header.key_id)
        if entry is None or (entry.role, entry.name) != ("instance", gatekeeper.SERVICE):
            raise faults.Corrupt(f"seq {placed.seq} isn't a gatekeeper's")
        record.verify_author(checked.header, checked.core_bytes, entry.public)
        decisions = audit.decisions_in(checked.payload)
        if not decisions:
            raise faults.Corrupt(f"seq {placed.seq} holds no decisions")
        return decisions
