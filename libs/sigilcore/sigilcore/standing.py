"""Standing: what a caller's own committed decisions of late say of it, as the sixth feature of the trust model.

Decides: a number from 0 to `CEILING` in millionths, `trust.STANDING_START` for a caller without history. Every recorded denial of an
authenticated call costs `LOSS`, every Allow earns `GAIN`, within one hour at most `WORST` and `BEST`; what an hour brought fades by the
integer table `DECAY` and is gone after a day. So a caller is forgiven by time as well as by clean use, and nobody lives on old merit.

Invariants:

1. Only decisions that stand in the log count, each by its own `ts`; strangers, what was refused without a record, what awaits a review and
   the gate's own faults move nobody.
2. It is the owner's, not the licence's: a new licence is no new beginning.
3. It depends on nothing older than `HOURS` hours, and on nothing but integers.
4. It depends on the end of the log alone, wherever clocks went: each decision belongs to a turn, which a decision begins whose hour isn't
   one of the two newest, and only the last `TURNS` turns count. So a reader may begin anywhere before them, and can tell (`whole`).
   While clocks go on, a turn is an hour in which anything was decided; one that jumps makes one or two turns more.
5. A caller costs a bounded memory and a bounded sum, however much it did (two sums for each of `2 * TURNS` turns, `RECENT` positions).

Example: a caller with ten denials within this hour stands at 500 000 - 10 * 30 000 = 200 000; five hours later, untouched, at 373 865.
"""

import collections
from collections.abc import Iterable
from typing import Final

from sigilcore import clock, decision, trust
from sigilcore.decision import ReasoningChain, Verdict

HOUR_MS: Final = 3_600_000
LOSS: Final = 30_000
GAIN: Final = 1_000
WORST: Final = -500_000
BEST: Final = 100_000
CEILING: Final = 600_000

# What an hour's balance still weighs when it is so many hours old, in millionths: a half every four hours.
DECAY: Final = (
    *(1_000_000, 840_896, 707_107, 594_604, 500_000, 420_448, 353_553, 297_302, 250_000, 210_224, 176_777, 148_651),
    *(125_000, 105_112, 88_388, 74_325, 62_500, 52_556, 44_194, 37_163, 31_250, 26_278, 22_097, 18_581),
)
HOURS: Final = len(DECAY)
TURNS: Final = 32  # a day, and room for some that a clock made by jumping
RECENT: Final = 256  # of a caller's decisions, those whose positions are remembered


_Part = tuple[int, int]  # of a turn, the decisions of one hour: turn, hour


class _Caller:
    """One owner's sums, and where its newest decisions stand."""

    __slots__ = ("recent", "sums")

    def __init__(self) -> None:
        self.sums: dict[_Part, tuple[int, int]] = {}  # (allowed, denied), in the order of turns
        # (seq, part, allowed)
        self.recent: collections.deque[tuple[int, _Part, bool]] = collections.deque(maxlen=RECENT)


class Standings:
    """The fold of all decisions; `fold` them in order of seq, from the first or from any other."""

    def __init__(self) -> None:
        """Nobody has a history."""
        self._callers: dict[str, _Caller] = {}
        self.size = 0  # last decision's seq + 1: the `standing_as_of` of who judges by it
        self._turn = 0
        self._hours = (-1, -1)  # the two newest, the older first
        # The seqs at which the newest turns began.
        self._turned: collections.deque[int] = collections.deque(maxlen=TURNS)

    @property
    def whole(self) -> bool:
        """True if nothing before the decision that was folded first counts, now or ever. Of two turns the fold can't know whether they
        were any: until it has seen two hours, it doesn't know which are the newest."""
        return self._turn >= TURNS + 2

    def fold(self, seq: int, owner: str, ts_ms: int, verdict: Verdict | None) -> None:
        """Count one committed decision; one that awaits a review, or has no verdict on its caller, moves only the position."""
        self.size = max(self.size, seq + 1)
        part = self._part(seq, ts_ms // HOUR_MS)
        if verdict is None or verdict is Verdict.MANUAL_REVIEW:
            return
        allowed = verdict is Verdict.ALLOW
        caller = self._callers.get(owner)
        if caller is None:
            caller = self._callers[owner] = _Caller()
        _add(caller.sums, part, allowed, 1)
        caller.recent.append((seq, part, allowed))
        before = self._turn - 2 * TURNS  # as many more for who asks about earlier
        while (oldest := next(iter(caller.sums)))[0] <= before:
            del caller.sums[oldest]

    def fold_chain(self, seq: int, chain: ReasoningChain) -> None:
        """Count one committed decision, as the record at `seq` has it."""
        self.fold(seq, chain.audit.owner, clock.parse_ms(chain.audit.ts), verdict_on(chain))

    def at(self, owner: str, now_ms: int) -> int:
        """Where an owner stands by everything folded so far."""
        caller = self._callers.get(owner)
        return trust.STANDING_START if caller is None else _value(caller.sums, self._turn, now_ms // HOUR_MS)

    def lowest(self, owners: Iterable[str], now_ms: int) -> int:
        """Where the one of these stands who stands lowest."""
        return min(self.at(owner, now_ms) for owner in owners)

    def as_of(self, owner: str, size: int, now_ms: int) -> int | None:
        """Where an owner stood by the decisions with seq below `size`; None if that is too long ago to say."""
        later = sum(seq >= size for seq in self._turned) if self._turned and self._turned[-1] >= size else 0
        if later == TURNS:
            return None
        caller = self._callers.get(owner)
        if caller is None:
            return trust.STANDING_START
        sums = caller.sums
        if caller.recent[-1][0] >= size:
            if len(caller.recent) == RECENT and caller.recent[0][0] >= size:
                return None
            sums = sums.copy()
            for seq, part, allowed in caller.recent:
                if seq >= size:
                    _add(sums, part, allowed, -1)
        return _value(sums, self._turn - later, now_ms // HOUR_MS)

    def _part(self, seq: int, hour: int) -> _Part:
        """Where a decision of this hour belongs, which may begin a turn."""
        if hour != self._hours[1]:
            if hour != self._hours[0]:
                self._turn += 1
                self._turned.append(seq)
            self._hours = (self._hours[1], hour)
        return self._turn, hour

    def lowest_as_of(self, owners: Iterable[str], size: int, now_ms: int) -> int | None:
        """As `as_of`, of the one of these who stood lowest; None if of any it is too long ago to say."""
        found = [self.as_of(owner, size, now_ms) for owner in owners]
        known = [one for one in found if one is not None]
        return min(known) if len(known) == len(found) else None


def verdict_on(chain: ReasoningChain) -> Verdict | None:
    """What a decision says of its caller; None where the gate broke."""
    return None if decision.blames_gate(chain) else chain.verdict


def _add(sums: dict[_Part, tuple[int, int]], part: _Part, allowed: bool, count: int) -> None:
    good, bad = sums.get(part, (0, 0))
    sums[part] = (good + count, bad) if allowed else (good, bad + count)


def _value(sums: dict[_Part, tuple[int, int]], turn: int, now: int) -> int:
    balances: dict[int, int] = {}
    for (at, hour), (allowed, denied) in sums.items():
        if turn - TURNS < at and now - hour < HOURS:
            balances[hour] = balances.get(hour, 0) + GAIN * allowed - LOSS * denied
    total = sum(DECAY[max(0, now - hour)] * max(WORST, min(BEST, brought)) for hour, brought in balances.items())
    return max(0, min(CEILING, trust.STANDING_START + total // trust.ONE))
