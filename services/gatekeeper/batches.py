"""Decisions in flight together become one record, so that they share one commit.

Invariants:

1. Nobody hears of a decision before its record is committed. The commit point is the writer's; a crash before it means that nothing was
   decided, a crash after it leaves a decision that nobody holds a permit for.
2. A call is judged when its batch is made up, by the newest state, so what waited in the queue isn't judged by old law.
3. If the writer says that the law moved meanwhile (`STALE_DECISION`), wait for it to be seen here and judge again, a bounded number of
   times. Whatever else fails: nothing is issued.
4. One batch in flight; the next takes what has queued meanwhile. No timer. A call that stands `alone` shares its record with none.
5. Calls that brake or carry a quorum (`reserved`) wait before all others, and have room that others can't take.
"""

import asyncio
import collections
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

import msgspec

from sigilcore import decision
from sigilcore.decision import FrozenChain, ReasoningChain, Verdict
from sigilcore.refusals import Code, Refused

MAX_BYTES = 900_000  # of the kind's 1 MiB
MAX_TRIES = 4  # the law may move under a batch, but not for ever

T = TypeVar("T")


class Decided(msgspec.Struct, frozen=True, kw_only=True):
    """A judgement and the record that holds it; None for a denial beyond those that a caller gets recorded."""

    chain: ReasoningChain
    ref: decision.DecisionRef | None


class _Waiting(Generic[T]):
    """A call that waits for its decision; at most `bytes` of the record are its."""

    __slots__ = ("answer", "bytes", "call", "counted")

    def __init__(self, call: T, size: int, answer: asyncio.Future[Decided]) -> None:
        self.call = call
        self.bytes = size
        self.answer = answer
        self.counted = False

    def settle(self, decided: Decided) -> None:
        if not self.answer.done():
            self.answer.set_result(decided)

    def refuse(self, refusal: Refused) -> None:
        if not self.answer.done():
            self.answer.set_exception(refusal)


class Batches(Generic[T]):
    """Judges calls and commits their decisions.

    `judging` begins a record: what it gives judges one call after the other, each by the state of now, and freezes what it found, a fault
    of its own too, or raises the refusal that needs no decision. `commit` appends one batch and answers with its record's id. `catch_up`
    waits, for a bounded time, until the log's head has been seen. `worth_recording` says of a denial whether it still gets a record.
    `fault` hears what broke; the callers hear GATE_FAULT.
    """

    def __init__(
        self,
        *,
        judging: Callable[[], Callable[[T], FrozenChain]],
        commit: Callable[[Sequence[FrozenChain]], Awaitable[str]],
        catch_up: Callable[[], Awaitable[None]],
        worth_recording: Callable[[ReasoningChain], bool],
        fault: Callable[[Exception], None],
        alone: Callable[[T], bool],
        most: int,
        most_waiting: int,
        most_reserved: int,
    ) -> None:
        """`most` decisions in a record, `most_waiting` calls in the queue and `most_reserved` before it."""
        self._judging = judging
        self._commit = commit
        self._catch_up = catch_up
        self._worth_recording = worth_recording
        self._fault = fault
        self._alone = alone
        self._most = most
        self._most_waiting = most_waiting
        self._most_reserved = most_reserved
        self._waiting: collections.deque[_Waiting[T]] = collections.deque()
        self._reserved: collections.deque[_Waiting[T]] = collections.deque()
        self._pump: asyncio.Task[None] | None = None

    async def decide(self, call: T, size: int, *, reserved: bool = False) -> Decided:
        """A call's decision, committed; `size` bounds its chain's bytes. Raises `Refused`; then nothing was issued."""
        queue, most = (self._reserved, self._most_reserved) if reserved else (self._waiting, self._most_waiting)
        if len(queue) >= most:
            raise Refused(Code.BUSY, "too many calls wait for their decision")
        waiting = _Waiting(call, size, asyncio.get_running_loop().create_future())
        queue.append(waiting)
        if self._pump is None:
            self._pump = asyncio.create_task(self._run())
        return await waiting.answer

    async def stop(self) -> None:
        """Wait until nothing is in flight."""
        while (pump := self._pump) is not None and not pump.done():
            await asyncio.wait([pump])

    async def _run(self) -> None:
        try:
            while self._waiting or self._reserved:
                await self._settle(self._next())
        finally:
            self._pump = None

    def _next(self) -> list[_Waiting[T]]:
        batch: list[_Waiting[T]] = []
        room = MAX_BYTES
        for queue in (self._reserved, self._waiting):
            while queue and len(batch) < self._most and (not batch or queue[0].bytes <= room):
                if self._alone(queue[0].call):
                    return batch or [queue.popleft()]
                batch.append(queue.popleft())
                room -= batch[-1].bytes
        return batch

    async def _settle(self, batch: list[_Waiting[T]]) -> None:
        """Bring every call of the batch to an answer, whatever happens."""
        left, why = batch, Refused(Code.GATE_FAULT, "the decision could not be recorded")
        try:
            for _ in range(MAX_TRIES):
                left = await self._try(left)
                if not left:
                    break
        except Refused as refusal:
            if refusal.code is Code.DISK_LOW:  # not the gate's fault, and its own words help
                why = refusal
            elif refusal.code is Code.BUSY:  # said before anything was signed or sent: no decision, and no fault either
                why = Refused(Code.BUSY, "there is no room to record the decision; nothing was issued")
            else:
                self._fault(refusal)
        except Exception as error:
            self._fault(error)
        finally:
            for waiting in left:
                waiting.refuse(why)

    async def _try(self, batch: list[_Waiting[T]]) -> list[_Waiting[T]]:
        """Judge and commit once; returns the calls that are to be judged again."""
        judge = self._judging()
        judged = [(waiting, frozen) for waiting in batch if (frozen := self._judged(judge, waiting)) is not None]
        if not judged:
            return []
        try:
            record_id = await self._commit(tuple(frozen for _, frozen in judged))
        except Refused as refusal:
            if refusal.code is not Code.STALE_DECISION:
                raise
            await self._catch_up()
            return [waiting for waiting, _ in judged]
        for index, (waiting, frozen) in enumerate(judged):
            waiting.settle(Decided(chain=frozen.chain, ref=decision.DecisionRef(record=record_id, index=index)))
        return []

    def _judged(self, judge: Callable[[T], FrozenChain], waiting: _Waiting[T]) -> FrozenChain | None:
        """The decision to record; None for a call that has its answer without a record."""
        if waiting.answer.done():
            return None
        try:
            frozen = judge(waiting.call)
        except Refused as refusal:
            waiting.refuse(refusal)
            return None
        except Exception as error:
            # Not even its fault could be said: one such call takes nobody with it.
            self._fault(error)
            waiting.refuse(Refused(Code.GATE_FAULT, "the call could not be judged"))
            return None
        if frozen.chain.verdict is Verdict.ALLOW or waiting.counted:
            return frozen
        if not self._worth_recording(frozen.chain):
            waiting.settle(Decided(chain=frozen.chain, ref=None))
            return None
        waiting.counted = True
        return frozen
