"""Decisions in flight together become one record, so that they share one commit.

Invariants:

1. Nobody hears of a decision before its record is committed. The commit point is the writer's; a crash before it means that nothing was
   decided, a crash after it leaves a decision that nobody holds a permit for.
2. A call is judged when its batch is made up, by the newest state, so what waited in the queue isn't judged by old law.
3. If the writer says that the law moved meanwhile (`STALE_DECISION`), wait for it to be seen here and judge again, a bounded number of
   times. Whatever else fails: nothing is issued.
4. One batch in flight; the next takes what has queued meanwhile. No timer.
"""

import asyncio
import collections
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

import msgspec

from sigilcore import decision
from sigilcore.decision import ReasoningChain, Verdict
from sigilcore.records import audit
from sigilcore.refusals import Code, Refused

MAX_DECISIONS = 256
MAX_BYTES = 900_000  # of the kind's 1 MiB
MAX_WAITING = 4096
MAX_TRIES = 4
_CHAIN_BYTES = 2_048  # a chain without its scope, generously
_PATTERN_BYTES = 6  # a character of a scope's pattern as JSON, at most

T = TypeVar("T")


class Decided(msgspec.Struct, frozen=True, kw_only=True):
    """A judgement and the record that holds it; None for a denial beyond those that a caller gets recorded."""

    chain: ReasoningChain
    ref: decision.DecisionRef | None


class _Waiting(Generic[T]):
    """A call that waits for its decision."""

    __slots__ = ("answer", "call", "counted")

    def __init__(self, call: T, answer: asyncio.Future[Decided]) -> None:
        self.call = call
        self.answer = answer
        self.counted = False


class Batches(Generic[T]):
    """Judges calls and commits their decisions.

    `judge` judges one call by the state of now, or raises the refusal that needs no decision. `commit` appends one batch and answers with
    its record's id. `catch_up` waits, for a bounded time, until the log's head has been seen. `worth_recording` says of a denial whether
    it still gets a record. `fault` hears what broke; the callers hear GATE_FAULT.
    """

    def __init__(
        self,
        *,
        judge: Callable[[T], ReasoningChain],
        commit: Callable[[audit.DecisionBatch], Awaitable[str]],
        catch_up: Callable[[], Awaitable[None]],
        worth_recording: Callable[[ReasoningChain], bool],
        fault: Callable[[Exception], None],
    ) -> None:
        """Only what is passed here is ever called."""
        self._judge = judge
        self._commit = commit
        self._catch_up = catch_up
        self._worth_recording = worth_recording
        self._fault = fault
        self._waiting: collections.deque[_Waiting[T]] = collections.deque()
        self._pump: asyncio.Task[None] | None = None

    async def decide(self, call: T) -> Decided:
        """A call's decision, committed. Raises `Refused`; then nothing was issued."""
        if len(self._waiting) >= MAX_WAITING:
            raise Refused(Code.GATE_FAULT, "too many calls wait for their decision")
        waiting = _Waiting(call, asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        if self._pump is None:
            self._pump = asyncio.create_task(self._run())
        return await waiting.answer

    async def stop(self) -> None:
        """Wait until nothing is in flight."""
        while self._pump is not None:
            await asyncio.shield(self._pump)

    async def _run(self) -> None:
        try:
            while self._waiting:
                batch = [self._waiting.popleft() for _ in range(min(MAX_DECISIONS, len(self._waiting)))]
                await self._settle(batch)
        finally:
            self._pump = None

    async def _settle(self, batch: list[_Waiting[T]]) -> None:
        """Bring every call of the batch to its answer."""
        left = batch
        try:
            for _ in range(MAX_TRIES):
                left = await self._try(left)
                if not left:
                    break
        except Exception as error:
            self._fault(error)
        finally:
            for waiting in batch:
                if waiting not in self._later:
                    _fail(waiting, Refused(Code.GATE_FAULT, "the decision could not be recorded"))

    async def _try(self, batch: list[_Waiting[T]]) -> list[_Waiting[T]]:
        """Judge and commit once; returns the calls to judge again."""
        judged, later = self._judged(batch)
        self._waiting.extendleft(reversed(later))
        if not judged:
            return []
        frozen = tuple(decision.freeze(chain) for _, chain in judged)
        try:
            record_id = await self._commit(audit.DecisionBatch(decisions=frozen))
        except Refused as refusal:
            if refusal.code is not Code.STALE_DECISION:
                raise
            await self._catch_up(min(chain.as_of for _, chain in judged))
            return [waiting for waiting, _ in judged]
        for index, (waiting, chain) in enumerate(judged):
            _answer(waiting, Decided(chain=chain, ref=decision.DecisionRef(record=record_id, index=index)))
        return []

    def _judged(
        self, batch: list[_Waiting[T]]
    ) -> tuple[list[tuple[_Waiting[T], ReasoningChain]], list[_Waiting[T]]]:
        """The calls to record with their chains, and those that no longer fit; the others are answered here."""
        judged: list[tuple[_Waiting[T], ReasoningChain]] = []
        room = MAX_BYTES
        for position, waiting in enumerate(batch):
            if waiting.answer.done():
                continue
            try:
                chain = self._judge(waiting.call)
            except Exception as error:
                _fail(waiting, error)
                continue
            if chain.verdict is not Verdict.ALLOW and not waiting.counted:
                if not self._worth_recording(chain):
                    _answer(waiting, Decided(chain=chain, ref=None))
                    continue
                waiting.counted = True
            room -= _CHAIN_BYTES + _PATTERN_BYTES * sum(len(pattern) + 3 for pattern in chain.scope)
            if room < 0 and judged:
                return judged, batch[position:]
            judged.append((waiting, chain))
        return judged, []


def _answer(waiting: _Waiting[T], decided: Decided) -> None:
    if not waiting.answer.done():
        waiting.answer.set_result(decided)


def _fail(waiting: _Waiting[T], error: Exception) -> None:
    if not waiting.answer.done():
        waiting.answer.set_exception(error)
