"""What callers did of late, from the decisions that stand in the log: the gate's standings, and the rates that its decisions show.

Invariants:

1. Nobody is judged before all decisions that count were read (`Standings.whole`), wherever clocks went, and never by fewer than stand in
   the log: after a batch whose fate isn't known the log is read again, and who was judged without it is judged anew.
2. A record counts only by a gatekeeper's instance key: the bus can delay history and can't forge it.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from sigilcore import clock, decision, faults, minute, record, standing
from sigilcore.contracts import canon, gatekeeper
from sigilcore.decision import Verdict
from sigilcore.governance import Governance
from sigilcore.records import audit

# Where clocks only went on, and somebody called every hour, that is all that counts.
READ_MS = (standing.TURNS + 2) * standing.HOUR_MS
PAGE = 500  # decision records of one answer

Pager = Callable[[int, int], Awaitable[canon.EventPage]]


class _Past:
    """What was read from one seq on, up to another."""

    def __init__(self, first: int) -> None:
        self.first = first
        self.next = first
        self.standings = standing.Standings()
        self.shown = minute.Shown()
        self.calls, self.denials = minute.Shown(), minute.Shown()  # whoever decided

    @property
    def whole(self) -> bool:
        """True if nothing before it counts."""
        return self.first == 0 or self.standings.whole

    def fold(self, seq: int, decisions: Sequence[decision.FrozenChain], *, own: bool) -> None:
        """The decisions of one record; `own` if this gate made them."""
        for frozen in decisions:
            self.standings.fold_chain(seq, frozen.chain)
            if own:
                self.shown.fold(frozen.chain.audit.licence, clock.parse_ms(frozen.chain.audit.ts))
        self.next = seq + 1

    def hear(self, decisions: Sequence[decision.FrozenChain]) -> None:
        """Decisions from before this process began."""
        for frozen in decisions:
            said = frozen.chain.audit
            for heard in (self.calls,) if frozen.chain.verdict is Verdict.ALLOW else (self.calls, self.denials):
                heard.fold(said.licence, clock.parse_ms(said.ts))


class History:
    """The standings, and how they follow the log; `read` gives at most so many decision records from a seq on."""

    def __init__(
        self,
        *,
        read: Pager,
        settled: Callable[[], Awaitable[None]],
        state: Callable[[], Governance],
        own_key: Callable[[], str],
        begun: Callable[[minute.Shown, minute.Shown], None],
    ) -> None:
        """Nothing is read yet. `settled` waits for what this gate handed in and gave up; `own_key` is the key of its own records; `begun`
        hears of the decisions that stood in the log before this gate made any, and of the denials among them."""
        self._tell_begun = begun
        self._past = _Past(0)
        self._draft: _Past | None = None  # the first reading, as far as it came
        self._begun = False
        self._read = read
        self._settled = settled
        self._state = state
        self._own_key = own_key
        self._sure = False
        self._lock = asyncio.Lock()

    @property
    def standings(self) -> standing.Standings:
        """Where callers stand."""
        return self._past.standings

    @property
    def shown(self) -> minute.Shown:
        """How often each was decided upon, by this gate."""
        return self._past.shown

    def doubt(self) -> None:
        """A batch was sent and its fate isn't known."""
        self._sure = False

    def add(self, seq: int, decisions: Sequence[decision.FrozenChain]) -> None:
        """Decisions of this gate's own, committed at `seq`."""
        if self._begun and seq >= self._past.next:
            self._past.fold(seq, decisions, own=True)

    async def catch_up(self) -> bool:
        """Read what the log has and this doesn't; True if there was anything, whoever read it since this was asked. Raises what reading
        raises."""
        before = self.standings.size
        async with self._lock:
            if not self._sure:
                await self._settled()  # else what is on its way could come to stand before who was judged without it
                await (self._read_on(self._past) if self._begun else self._begin())
                self._sure = True
        return self.standings.size != before

    async def _begin(self) -> None:
        """The first reading. It begins where all that counts would if clocks only went on, else as far again before that, until it is
        whole; what hinders it costs nothing that was read."""
        past = self._draft = self._draft or _Past(await self._likely_beginning())
        await self._read_on(past)
        while not past.whole:
            past = self._draft = _Past(max(0, past.first - max(PAGE, past.next - past.first)))
            await self._read_on(past)
        self._past, self._draft, self._begun = past, None, True
        self._tell_begun(past.calls, past.denials)

    async def _read_on(self, past: _Past) -> None:
        """Read to the head."""
        while True:
            page = await self._read(past.next, PAGE)
            for placed in page.items:
                decisions, key_id = self._checked(placed)
                past.fold(placed.seq, decisions, own=key_id == self._own_key())
                if not self._begun:
                    past.hear(decisions)
            past.next = max(past.next, page.next)
            if page.next >= page.head:
                return

    async def _likely_beginning(self) -> int:
        """A seq as far in time from the newest decision as is read, and little further: by doubling back from the head, then by halving.
        The clock isn't asked: it may be what is wrong."""
        head = (await self._read(0, 1)).head
        newest_ms = None
        back = 1
        while back < head:
            at_ms = await self._time_at(head - back)
            newest_ms = at_ms if newest_ms is None else newest_ms
            if _is_far(at_ms, newest_ms):
                break
            back *= 2
        low, high = max(0, head - back), head - back // 2
        while high - low > PAGE:
            middle = (low + high) // 2
            if _is_far(await self._time_at(middle), newest_ms):
                low = middle
            else:
                high = middle
        return low

    async def _time_at(self, seq: int) -> int | None:
        """The time of the first record of decisions from a seq on, if there is one."""
        found = (await self._read(seq, 1)).items
        return clock.parse_ms(record.check(found[0].signed()).core.ts) if found else None

    def _checked(self, placed: record.PlacedRecord) -> tuple[Sequence[decision.FrozenChain], str]:
        """Decisions of one of this log's gatekeepers, now or earlier, and its key."""
        checked = record.check(placed.signed())
        entry = self._state().key(checked.header.key_id)
        if entry is None or (entry.role, entry.name) != ("instance", gatekeeper.SERVICE):
            raise faults.Corrupt(f"seq {placed.seq} isn't a gatekeeper's")
        record.verify_author(checked.header, checked.core_bytes, entry.public)
        decisions = audit.decisions_in(checked.payload)
        if not decisions:
            raise faults.Corrupt(f"seq {placed.seq} holds no decisions")
        return decisions, checked.header.key_id


def _is_far(at_ms: int | None, newest_ms: int | None) -> bool:
    return at_ms is not None and newest_ms is not None and abs(newest_ms - at_ms) >= READ_MS
