"""The desk: every call of a caller comes here once, and leaves with a permit or a reason.

The order of one call: who calls (`callers`) → what grant it shows → is there such a command → too many calls → spend the proof → what the
parameters are → a read decision to share, or the grant's mark (`marks`), a judgement and its record (`batches`) → permit, or a place among
the calls that wait for a mentor (`reviews`).

A call that shows an approval is judged alone, since its decision is a record of its own. A call on somebody's behalf comes with the permit
of the call that it is made for, in place of session and proof.

Commit point: the writer's commit of the decision's record. Before it nothing was decided; after it a crash loses a permit, never a
decision.
"""

import asyncio
import collections
import functools
import secrets
from collections.abc import Awaitable, Callable, Sequence

import msgspec

from services.gatekeeper import rules, sessions
from services.gatekeeper.batches import Batches, Decided
from services.gatekeeper.callers import Callers
from services.gatekeeper.limits import Limits
from services.gatekeeper.marks import Marks
from services.gatekeeper.rates import LastMinute
from services.gatekeeper.reviews import Reviews
from services.gatekeeper.shares import Shares
from sigilcore import clock, decision, gate, ids, permit, session, signing
from sigilcore.contracts import gatekeeper
from sigilcore.decision import Verdict
from sigilcore.governance import Governance
from sigilcore.minute import Shown
from sigilcore.records import audit
from sigilcore.refusals import Code, Refused
from sigilcore.standing import Standings


class Desk:
    """Answers `authorize`."""

    def __init__(
        self,
        *,
        limits: Limits,
        clock: clock.Clock,
        signer: signing.Signer,
        state: Callable[[], Governance],
        callers: Callers,
        reviews: Reviews,
        standings: Callable[[], Standings],
        shown: Callable[[], Shown],
        commit: Callable[[Sequence[decision.FrozenChain]], Awaitable[str]],
        mark: Callable[[audit.GrantMark], Awaitable[str]],
        catch_up: Callable[[], Awaitable[None]],
        fault: Callable[[Exception], None],
    ) -> None:
        """`state` gives the newest state, `standings` what callers did, `shown` how often by this gate's decisions; `signer` is the
        gatekeeper's service key; `mark` appends one mark; the rest: `Batches`."""
        self._limits = limits
        self._clock = clock
        self._signer = signer
        self._state = state
        self._callers = callers
        self._standings = standings
        self._shown = shown
        self._reviews = reviews
        self._fault = fault
        self._calls = LastMinute(callers=limits.callers)
        self._bulk = LastMinute(callers=limits.callers)
        self._denials = LastMinute(callers=limits.callers)
        self._shares = Shares(limit=limits.sessions, longest_ms=limits.share_ms)
        self._marks = Marks(state=state, record=mark, catch_up=catch_up, fault=fault, longest_s=limits.mark_s)
        self._batches: Batches[rules.Call] = Batches(
            judging=self._judging,
            commit=commit,
            catch_up=catch_up,
            worth_recording=self._worth_recording,
            fault=fault,
            alone=lambda call: call.approval is not None,
            most=limits.batch,
            most_waiting=limits.waiting,
            most_reserved=limits.waiting_reserve,
        )

    async def authorize(self, request: gatekeeper.Authorize) -> gatekeeper.Authorized:
        """A permit; or the first reason why not, and a reason of the gate's own making is GATE_FAULT (law 5)."""
        return await self._answered(self._authorize(request))

    async def authorize_child(self, service: str, request: gatekeeper.AuthorizeChild) -> gatekeeper.Authorized:
        """A permit for a call that `service` makes on behalf of a caller whom it is answering."""
        return await self._answered(self._authorize_child(service, request))

    async def _answered(self, work: Awaitable[gatekeeper.Authorized]) -> gatekeeper.Authorized:
        try:
            async with asyncio.timeout(self._limits.answer_s):
                return await work
        except Refused:
            raise
        except Exception as error:
            self._fault(error)
            raise Refused(Code.GATE_FAULT, "the gate could not decide; nothing was issued") from None

    def calls_last_minute(self, licence_id: str) -> int:
        """How often this licence called of late."""
        return self._calls.count(licence_id, self._clock.now_ms())

    def standing(self, owner_id: str) -> int:
        """Where this owner stands by its decisions of late."""
        return self._standings().at(owner_id, self._clock.now_ms())

    def begin(self, calls: Shown, denials: Shown) -> None:
        """What was decided in the last minute before this process began counts as if it had been decided here: a restart gives no caller
        new calls, and no new denials to record."""
        for counted, before in ((self._calls, calls), (self._denials, denials)):
            for licence, at_ms in before:
                counted.recall(licence, at_ms, self._clock.now_ms())

    async def stop(self) -> None:
        """Wait for decisions in flight."""
        await self._batches.stop()

    async def _authorize(self, request: gatekeeper.Authorize) -> gatekeeper.Authorized:
        state, now_ms = self._state(), self._clock.now_ms()
        review, approved_salt = rules.shown_approval(request.approval)
        salt = approved_salt or secrets.token_bytes(16)
        parameters = rules.parameter_bytes(request.parameters)
        said = self._callers.open_session(state, request.session, now_ms)
        proven = self._callers.prove(
            state, said, proof=request.proof, command=request.command, parameters=parameters, now_ms=now_ms
        )
        shown = rules.shown_grant(state, said, request.grant)
        command = rules.command_named(request.command)
        calls = self._counted(said, command.reserved, now_ms, len(parameters))
        self._callers.spend(said, proven, now_ms)
        call = rules.Call(
            said=said,
            proven=proven,
            command=command,
            observed=gate.observe(command, parameters, salt),
            calls_last_minute=calls,
            approval=review,
            grant=shown,
        )
        shared = None
        if review is None:
            shared = self._shares.find(state, said, command, proven.kind, now_ms, module=call.observed.module)
        if shared is not None:
            return self._permit(call, shared.chain, shared.ref, salt)
        if shown is not None:
            await self._marks.keep(said.licence_id, shown, now_ms)
        # Room of its own is for who may at all: a flood of calls above one's level waits with everyone else.
        reserved = command.reserved and said.loa.includes(command.rung)
        decided = await self._batches.decide(call, rules.chain_bytes(state, call), reserved=reserved)
        if decided.chain.verdict is Verdict.MANUAL_REVIEW:
            raise self._waits(call, decided, request.parameters, salt)
        if decided.chain.verdict is not Verdict.ALLOW or decided.ref is None:
            raise gate.refusal_of(decided.chain, decided.ref)
        self._shares.keep(self._state(), command, decided.chain, decided.ref)
        return self._permit(call, decided.chain, decided.ref, salt)

    async def _authorize_child(self, service: str, request: gatekeeper.AuthorizeChild) -> gatekeeper.Authorized:
        """The caller is the parent's, and judged anew: session, licence, level, scope, score. What the parent was given lends nothing."""
        state, now_ms, salt = self._state(), self._clock.now_ms(), secrets.token_bytes(16)
        parameters = rules.parameter_bytes(request.parameters)
        key = sessions.gate_key(state)
        parent = rules.parent_of(state, key, request, service, now_ms)
        said = rules.session_of(parent)
        self._callers.check_open(state, said, now_ms)
        command = rules.command_named(request.command)
        call = rules.Call(
            said=said,
            proven=sessions.Proven(kind=parent.proof, proof=None),
            command=command,
            observed=gate.observe(command, parameters, salt),
            calls_last_minute=self._counted(said, command.reserved, now_ms, len(parameters)),
            parent=parent.decision,
        )
        decided = await self._batches.decide(call, rules.chain_bytes(state, call))
        if decided.chain.verdict is not Verdict.ALLOW or decided.ref is None:
            raise gate.refusal_of(decided.chain, decided.ref)
        return self._permit(call, decided.chain, decided.ref, salt)

    def _waits(self, call: rules.Call, decided: Decided, text: str, salt: bytes) -> Refused:
        """Keep a call for a mentor to see, and tell its caller how to come back."""
        now_ms = self._clock.now_ms()
        if decided.ref is None:
            wait_s = -(-self._denials.wait_ms(call.said.licence_id, now_ms) // 1000)
            raise Refused(Code.RATE_LIMITED, "too many reviews in a minute", detail={"retry_after_s": wait_s})
        one = rules.waiting(self._state(), decided.chain, decided.ref.link(), text, salt)
        self._reviews.keep(one, now_ms)
        refusal = gate.refusal_of(decided.chain, decided.ref)
        until = clock.format_ms(one.until_ms)
        return Refused(
            refusal.code, refusal.message, detail={**(refusal.detail or {}), "salt": one.salt, "until": until}
        )

    def _counted(self, said: session.SessionToken, reserved: bool, now_ms: int, size: int) -> int:
        """Count the call; braking and quorum commands have room of their own beyond the limit. Long parameters have a count of their own,
        which moves no score."""
        limit, bulk = self._limits.calls_per_minute, size // self._limits.bulk_bytes
        if bulk and self._bulk.take(said.licence_id, now_ms, max(limit, bulk), weight=bulk) is None:
            wait_s = -(-self._bulk.wait_ms(said.licence_id, now_ms) // 1000)
            raise Refused(Code.RATE_LIMITED, "too many long calls in a minute", detail={"retry_after_s": wait_s})
        limit += self._limits.braking_reserve if reserved else 0
        calls = self._calls.take(said.licence_id, now_ms, limit)
        if calls is None:
            wait_s = -(-self._calls.wait_ms(said.licence_id, now_ms) // 1000)
            raise Refused(Code.RATE_LIMITED, f"over {limit} calls in a minute", detail={"retry_after_s": wait_s})
        return calls

    def _judging(self) -> Callable[[rules.Call], decision.FrozenChain]:
        """Judge the calls of one record."""
        return functools.partial(self._judge, collections.Counter())

    def _judge(self, before: collections.Counter[str], call: rules.Call) -> decision.FrozenChain:
        """Judge by the newest state; a session that was closed or ended while the call waited gets no decision.

        However long a call waited, its rate is at least what the decisions before it show by their own times, in the log and (`before`) in
        its own record: a replay holds it to that. Whatever breaks on the way to a chain that can be recorded, the call is denied, and that
        is the decision (law 5).
        """
        state, now_ms, licence_id = self._state(), self._clock.now_ms(), call.said.licence_id
        self._callers.check_open(state, call.said, now_ms)
        before[licence_id] += 1
        shown = self._shown().count(licence_id, now_ms) + before[licence_id]
        call = msgspec.structs.replace(call, calls_last_minute=max(call.calls_last_minute, shown))
        chain_id = ids.new()
        try:
            asked = rules.facts(state, self._standings(), call, now_ms=now_ms, chain_id=chain_id)
            return decision.freeze(gate.judge(state, asked))
        except Exception as error:
            self._fault(error)
            return decision.freeze(gate.faulted(rules.bare_facts(state, call, now_ms=now_ms, chain_id=chain_id)))

    def _worth_recording(self, chain: decision.ReasoningChain) -> bool:
        limit = self._limits.recorded_denials
        return self._denials.take(chain.audit.licence, self._clock.now_ms(), limit) is not None

    def _permit(
        self, call: rules.Call, chain: decision.ReasoningChain, ref: decision.DecisionRef, salt: bytes
    ) -> gatekeeper.Authorized:
        """Nothing is issued to a session that was closed or ended, or a caller who was revoked, while its decision was committed."""
        state, now_ms = self._state(), self._clock.now_ms()
        self._callers.check_open(state, call.said, now_ms)
        rules.check_counts(state, call.said.licence_id, now_ms)
        issued = rules.permit_for(call, chain, ref, salt=salt, permit_id=secrets.token_hex(16), now_ms=now_ms)
        return gatekeeper.Authorized(permit=permit.seal(self._signer, issued), decision=ref, verdict=chain.verdict)
