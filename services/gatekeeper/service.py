"""The gatekeeper as a service: thin handlers over the desk, the logins and the state of the log, then the table."""

import asyncio
import contextlib
from collections.abc import Iterator, Sequence
from typing import Any, Literal, Protocol

import msgspec

from services.gatekeeper import rules
from services.gatekeeper.callers import Callers
from services.gatekeeper.counters import Refusals
from services.gatekeeper.desk import Desk
from services.gatekeeper.history import History
from services.gatekeeper.limits import Limits
from services.gatekeeper.logins import Logins
from services.gatekeeper.reviews import Reviews
from sigilcore import clock, decision, permit, signing
from sigilcore.access import Loa
from sigilcore.contracts import canon, common
from sigilcore.contracts import gatekeeper as contract
from sigilcore.contracts.common import Empty
from sigilcore.governance import Governance
from sigilcore.minute import Shown
from sigilcore.records import audit
from sigilcore.refusals import Code, Refused
from sigilrun import telemetry


class Log(Protocol):
    """What the gatekeeper needs of the canon."""

    @property
    def state(self) -> Governance:
        """The newest state that was followed and verified."""

    @property
    def key_id(self) -> str:
        """The key that this gate's own records bear."""

    async def record(
        self, kind: str, payload: msgspec.Struct, decided: decision.DecisionRef | None = None
    ) -> common.Placed:
        """Append one audit record, an effect with the decision that admits it; its place once it is committed and its receipt verified.
        Raises `Refused`."""

    async def settled(self) -> None:
        """Return once all that was handed in before has its place or its refusal, whoever still waits for it."""

    async def history(self, first: int, limit: int) -> canon.EventPage:
        """At most so many records of decisions from a seq on."""

    async def reach_head(self) -> None:
        """Return when everything that stands in the log now has been followed."""


class Call(permit.Call, Protocol):
    """What the seam knows of a call."""

    @property
    def scope(self) -> tuple[str, ...]:
        """What the subject said, where the bus lets only one service ask."""


class Gatekeeper:
    """Everything that the handlers share; `start` and `stop` around the time it answers."""

    def __init__(self, *, limits: Limits, clock: clock.Clock, signer: signing.Signer, log: Log) -> None:
        """`signer` is the gatekeeper's service key."""
        started_ms = clock.now_ms()
        self._limits = limits
        self.clock = clock
        self.log = log
        self.refusals = Refusals(started_ms)
        self._summaries: asyncio.Task[None] | None = None
        self._reading: asyncio.Task[None] | None = None
        callers = Callers(limits, started_ms)
        self.history = History(
            read=log.history,
            settled=log.settled,
            state=lambda: log.state,
            own_key=lambda: log.key_id,
            begun=self._begin,
        )
        self.reviews = Reviews(limits)
        self.desk = Desk(
            limits=limits,
            clock=clock,
            signer=signer,
            state=lambda: log.state,
            callers=callers,
            standings=lambda: self.history.standings,
            shown=lambda: self.history.shown,
            reviews=self.reviews,
            commit=self._commit,
            mark=self._mark,
            catch_up=self.catch_up,
            fault=_log_fault,
        )
        self.logins = Logins(
            limits=limits,
            clock=clock,
            signer=signer,
            state=lambda: log.state,
            callers=callers,
            record=log.record,
            catch_up=self.catch_up,
            started_ms=started_ms,
        )

    @property
    def state(self) -> Governance:
        """The newest state of the log."""
        return self.log.state

    async def start(self) -> None:
        """Begin to read what callers did of late, and to summarise what is refused without a record."""
        self._summaries = asyncio.create_task(self._summarise_for_ever())
        self._reading = asyncio.create_task(self._read_ahead())

    async def stop(self) -> None:
        """Let decisions in flight end, then write the last summary."""
        await self.desk.stop()
        for task in (self._summaries, self._reading):
            if task is not None:
                task.cancel()
                await asyncio.wait([task])
        await self.summarise()

    async def summarise(self) -> None:
        """Write the counts since the last summary, if there are any; what can't be written now is told with the next."""
        summary = self.refusals.take(self.clock.now_ms())
        if summary is None:
            return
        try:
            await self.log.record("refusal_summary", summary)
        except Exception as error:
            self.refusals.put_back(summary)
            _log_fault(error)

    @contextlib.contextmanager
    def counting(self) -> Iterator[None]:
        """Count a refusal that has no record of its own."""
        try:
            yield
        except Refused as refusal:
            if "decision" not in (refusal.detail or {}):
                self.refusals.add(refusal.code)
            raise

    def _begin(self, calls: Shown, denials: Shown) -> None:
        self.desk.begin(calls, denials)

    async def _commit(self, frozen: Sequence[decision.FrozenChain]) -> str:
        async with asyncio.timeout(self._limits.answer_s):
            more = await self.history.catch_up()
        if more:
            raise Refused(Code.STALE_DECISION, "more was decided than this gate knew of")
        kind, payload = rules.record_of(frozen)
        try:
            placed = await self.log.record(kind, payload)
        except BaseException:
            # It may stand in the log all the same: the writer's answer could have been lost.
            self.history.doubt()
            raise
        self.history.add(placed.seq, frozen)
        return placed.id

    async def _mark(self, mark: audit.GrantMark) -> str:
        return (await self.log.record("grant_mark", mark)).id

    async def catch_up(self) -> None:
        """Follow the log to its head, for a bounded time."""
        try:
            async with asyncio.timeout(self._limits.catch_up_s):
                await self.log.reach_head()
        except (TimeoutError, Refused) as error:
            _log_fault(error)

    async def _read_ahead(self) -> None:
        """So that the first caller needn't wait for it; whatever hinders this, the first decision reads again."""
        try:
            await self.log.reach_head()
            await self.history.catch_up()
        except Exception as error:
            telemetry.log.info("history_waits", reason=type(error).__name__)

    async def _summarise_for_ever(self) -> None:
        while True:
            await asyncio.sleep(self._limits.summary_s)
            await self.summarise()


def _log_fault(error: Exception) -> None:
    telemetry.log.error("gate_fault", exc_info=error)


async def challenge(service: Gatekeeper, request: Empty, call: Call) -> contract.Challenge:
    """A nonce to open a session with."""
    del request, call
    return service.logins.challenge()


async def open_session(service: Gatekeeper, request: contract.OpenSession, call: Call) -> contract.SessionView:
    """Open a session."""
    del call
    with service.counting():
        return await service.logins.open(request)


async def open_peer(service: Gatekeeper, request: contract.OpenPeerSession, call: Call) -> contract.SessionView:
    """Open a session as another node."""
    del call
    with service.counting():
        return await service.logins.open_peer(request)


async def close_session(service: Gatekeeper, request: contract.SessionCall, call: Call) -> Empty:
    """Close a session."""
    del call
    with service.counting():
        return await service.logins.close(request)


async def authorize(service: Gatekeeper, request: contract.Authorize, call: Call) -> contract.Authorized:
    """Ask the gate."""
    del call
    with service.counting():
        return await service.desk.authorize(request)


async def authorize_child(service: Gatekeeper, request: contract.AuthorizeChild, call: Call) -> contract.Authorized:
    """Ask the gate on a caller's behalf; which service asks is what the bus let it say."""
    with service.counting():
        return await service.desk.authorize_child(call.scope[0], request)


async def approval_list(service: Gatekeeper, request: contract.ListReviews, call: Call) -> contract.ReviewList:
    """What waits: one's own, for a mentor everybody's."""
    del request
    caller = call.bound.permit
    everyone = caller.loa.includes(Loa.MENTOR)
    return service.reviews.shown(None if everyone else caller.owner_id, service.clock.now_ms())


async def approve(service: Gatekeeper, request: contract.DecideReview, call: Call) -> contract.ReviewDecided:
    """Approve one call."""
    return await _decide(service, request, call, "approved")


async def refuse(service: Gatekeeper, request: contract.DecideReview, call: Call) -> contract.ReviewDecided:
    """Refuse one call."""
    return await _decide(service, request, call, "refused")


async def _decide(
    service: Gatekeeper, request: contract.DecideReview, call: Call, verdict: Literal["approved", "refused"]
) -> contract.ReviewDecided:
    """The word becomes a record, then the call waits no more. A word that the writer refused leaves it waiting."""
    one = service.reviews.find(request.review, service.clock.now_ms())
    payload = rules.decided(one, request, call.bound, verdict)
    placed = await service.log.record("approval_decided", payload, call.bound.permit.decision)
    service.reviews.drop(one.review)
    await service.catch_up()  # who hears of the word may use it at once
    return contract.ReviewDecided(
        review=one.review,
        verdict=verdict,
        owner=one.owner,
        command=one.command,
        until=payload.not_after,
        id=placed.id,
    )


async def trust_check(service: Gatekeeper, request: contract.TrustCheck, call: Call) -> contract.TrustAnswer:
    """Where the caller stands."""
    caller = call.bound.permit
    return rules.trust_answer(
        service.state,
        caller.loa,
        request,
        calls_last_minute=service.desk.calls_last_minute(caller.licence_id),
        stands=service.desk.standing(caller.owner_id),
    )


async def trust_explain(service: Gatekeeper, request: contract.Explain, call: Call) -> contract.Explanation:
    """What each feature brings."""
    caller = call.bound.permit
    return rules.explained(
        service.state,
        service.history.standings,
        caller,
        request,
        calls=service.desk.calls_last_minute(caller.licence_id),
        now_ms=service.clock.now_ms(),
    )


async def trust_status(service: Gatekeeper, request: Empty, call: Call) -> contract.TrustStatus:
    """The model and policy in force."""
    del request, call
    return rules.trust_status(service.state)


async def command_list(service: Gatekeeper, request: Empty, call: Call) -> contract.CommandList:
    """What the caller may call (law 7)."""
    del request
    return rules.listed(service.state, call.bound.permit.licence_id, service.clock.now_ms())


async def ping(service: Gatekeeper, request: Empty, call: Call) -> contract.Pong:
    """Alive."""
    del service, request
    caller = call.bound.permit
    return contract.Pong(owner_id=caller.owner_id, loa=caller.loa)


async def system_info(service: Gatekeeper, request: Empty, call: Call) -> contract.SystemInfo:
    """The deployment's fingerprints and state."""
    del request, call
    return rules.system_info(service.state)


async def model_refresh(service: Gatekeeper, request: Empty, call: Call) -> contract.Reload:
    """Follow the log to its head, and say which model is in force there."""
    del request, call
    try:
        async with asyncio.timeout(contract.MODEL_REFRESH.longest_run_s / 2):
            await service.log.reach_head()
    except TimeoutError:
        raise Refused(Code.UNAVAILABLE, "the gate could not follow the log to its head in time") from None
    status = rules.trust_status(service.state)
    return contract.Reload(model=status.model.version, as_of=status.as_of)


async def report(service: Gatekeeper, request: contract.RefusalCounts, call: Call) -> Empty:
    """What a face refused before the gate; told with the next summary."""
    del call
    service.refusals.merge(request.counts)
    return Empty()


HANDLERS: dict[Any, Any] = {
    contract.CHALLENGE: challenge,
    contract.OPEN: open_session,
    contract.PEER: open_peer,
    contract.CLOSE: close_session,
    contract.AUTHORIZE: authorize,
    contract.CHILD: authorize_child,
    contract.APPROVAL_LIST: approval_list,
    contract.APPROVE: approve,
    contract.REFUSE: refuse,
    contract.TRUST_CHECK: trust_check,
    contract.TRUST_EXPLAIN: trust_explain,
    contract.TRUST_STATUS: trust_status,
    contract.COMMAND_LIST: command_list,
    contract.PING: ping,
    contract.SYSTEM_INFO: system_info,
    contract.MODEL_REFRESH: model_refresh,
    contract.REPORT: report,
}
