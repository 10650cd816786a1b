"""The quorum service: thin handlers over book and rules, then the table.

Where safety happens: every change goes through one lock, and ends only when the own book has seen it, so each decision stands on all that
this process wrote before. Two processes are still safe: a voice and an ending have ids derived from the proposal, so the writer takes
each once; the fold counts each once; and the system record itself is admitted by the writer alone.

A crash between the system record and the ending of its proposal loses nothing: the book sees the record in the system space, and the
next commit or sweep writes the ending.
"""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Sequence
from typing import Any, Literal, Protocol

import msgspec

from services.quorum import rules, views
from services.quorum.proposals import Book, Place, Proposal, carried
from sigilcore import clock, drafts, faults, ids, record, witnessed
from sigilcore.contracts import quorum as wire
from sigilcore.contracts.common import Empty, Placed
from sigilcore.contracts.license import Draft
from sigilcore.governance import Governance
from sigilcore.permit import Call
from sigilcore.records import audit
from sigilcore.refusals import Code, Refused
from sigilrun import telemetry

SWEEP_S = 5.0
"""Endings that nobody asked for are written within seconds; nothing depends on it, since state is told from time and head."""


class Ledger(Protocol):
    """What the quorum needs of the canon."""

    @property
    def state(self) -> Governance:
        """The newest state that was followed and verified."""

    @property
    def book(self) -> Book:
        """The fold of proposals."""

    async def refresh(self) -> None:
        """The book knows every proposal and every system record that stands in the canon now."""

    async def reach_head(self) -> None:
        """Book and state both know all that stands in the canon now. Raises NOT_YET."""

    async def reach(self, seq: int) -> None:
        """Return once the book holds the record that a caller names by `seq`. Raises BEYOND_HEAD, NOT_YET."""

    async def wait_for(self, size: int) -> None:
        """Return once the book has seen the first `size` records. Raises NOT_YET."""

    async def witnessed_size(self) -> int:
        """The size of the newest checkpoint that enough cosigners of the policy in force have signed; 0 if there is none."""

    async def audit(
        self,
        kind: str,
        payload: msgspec.Struct,
        *,
        id: str,  # noqa: A002 - the field's name
        links: Sequence[record.Link] = (),
    ) -> Placed:
        """Append one audit record; its place once it is durable and its receipt verified. Raises `Refused`."""

    async def system(self, signed: record.SignedRecord) -> Placed:
        """Append a system record, whole, with its witnesses. Raises `Refused`."""


class Quorum:
    """What the handlers share."""

    def __init__(self, *, ledger: Ledger, clock: clock.Clock) -> None:
        """`start` and `stop` around the time it answers."""
        self.ledger = ledger
        self.clock = clock
        self.changing = asyncio.Lock()
        self._sweeping: asyncio.Task[None] | None = None

    @property
    def state(self) -> Governance:
        """The newest state of the log."""
        return self.ledger.state

    @property
    def book(self) -> Book:
        """The fold of proposals."""
        return self.ledger.book

    @contextlib.asynccontextmanager
    async def deciding(self) -> AsyncIterator[None]:
        """One change at a time, each on all that was written before it."""
        async with self.changing:
            await self.ledger.reach_head()
            yield

    def proposal(self, name: str) -> Proposal:
        """The proposal of this name."""
        found = self.book.proposals.get(name)
        if found is None:
            raise Refused(Code.NOT_FOUND, "no such proposal", field="$.proposal_id")
        return found

    def end_of_draft(self) -> str:
        """When a change that is drafted now expires, unless it says otherwise."""
        return clock.format_ms(self.clock.now_ms() + rules.ttl_ms(self.state))

    async def write(self, kind: str, payload: msgspec.Struct, *, name: str, links: Sequence[record.Link] = ()) -> int:
        """Append one audit record and see it; its seq."""
        placed = await self.ledger.audit(kind, payload, id=name, links=links)
        await self.ledger.wait_for(placed.seq + 1)
        return placed.seq

    async def close(self, ending: audit.ProposalClosed) -> None:
        """Write an ending; one that was written by somebody else is as good."""
        try:
            await self.write("proposal_closed", ending, name=ids.derive(ending.proposal_id, "closed"))
        except Refused as refused:
            if refused.code is not Code.ID_TAKEN:
                raise

    async def start(self) -> None:
        """Begin to write endings that come by themselves."""
        self._sweeping = asyncio.create_task(self._sweep_for_ever(), name="sweep")

    async def stop(self) -> None:
        """Sweep no more."""
        if self._sweeping is not None:
            self._sweeping.cancel()
            await asyncio.gather(self._sweeping, return_exceptions=True)

    async def sweep(self) -> None:
        """Write the endings that came without anybody saying so."""
        async with self.deciding():
            for ending in rules.overdue(self.state, self.book, self.clock.now_ms()):
                await self.close(ending)

    async def _sweep_for_ever(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_S)
            if not self.state.bootstrapped:
                continue
            try:
                await self.sweep()
            except (Refused, faults.Fault) as error:
                telemetry.log.warning("sweep_waits", reason=str(error))
            except Exception:
                telemetry.log.exception("sweep_failed")


# Drafts and proposals


async def draft(service: Quorum, request: wire.MakeDraft, call: Call) -> Draft:
    """A change on the current head, for Root to sign."""
    del call
    await service.ledger.reach_head()
    return _draft(service, rules.payload_of(request.kind, request.payload, service.end_of_draft()))


def _draft(service: Quorum, payload: msgspec.Struct) -> Draft:
    return rules.draft(service.state, payload, record_id=ids.new(), now_ms=service.clock.now_ms(), salt=os.urandom(16))


async def propose(service: Quorum, request: wire.Propose, call: Call) -> wire.Proposed:
    """Open a proposal; also for a stale change signed again on the current head, whose attestations don't carry over."""
    return await _open(service, request.record, call, given_id=request.id)


async def _open(service: Quorum, parts: wire.RootSigned, call: Call, given_id: str | None = None) -> wire.Proposed:
    asked = call.bound.request()
    async with service.deciding():
        if given_id is not None and not ids.is_id(given_id):
            raise Refused(Code.BAD_INPUT, "id is a UUIDv7", field="$.id")
        known = None if given_id is None else service.book.proposals.get(given_id)
        if known is not None:
            return views.proposed(service.state, rules.same_call(known, asked))
        checked = rules.proposable(service.state, parts, service.clock.now_ms())
        running = service.book.pending(checked.header.hash)
        if running is not None:
            return views.proposed(service.state, running)
        name = given_id or ids.new()
        opening = audit.ProposalOpened(
            proposal_id=name, record=carried(checked), record_hash=checked.header.hash, request=asked
        )
        link = record.Link(label="decision", target=call.bound.permit.decision.link())
        await service.write("proposal_opened", opening, name=name, links=(link,))
        return views.proposed(service.state, service.proposal(name))


async def listed(service: Quorum, request: wire.ListProposals, call: Call) -> wire.ProposalPage:
    """Proposals, newest first."""
    del call
    await _seen(service, request.wait_for)
    size = await _witnessed_size(service)
    return views.page(service.state, service.book, request, service.clock.now_ms(), size)


async def shown(service: Quorum, request: wire.ReadProposal, call: Call) -> wire.ProposalView:
    """One proposal, whole."""
    del call
    await _seen(service, request.wait_for)
    proposal = service.proposal(request.proposal_id)
    size = await _witnessed_size(service)
    return views.view(service.state, service.book, proposal, service.clock.now_ms(), size)


async def _witnessed_size(service: Quorum) -> int:
    """Asked only where the policy asks for cosignatures."""
    return await service.ledger.witnessed_size() if witnessed.needed(service.state.quorum) else 0


async def _seen(service: Quorum, seq: int | None) -> None:
    """The book at the head, and at least at the record that the caller names."""
    await (service.ledger.refresh() if seq is None else service.ledger.reach(seq))


# Voices and endings


async def attest(service: Quorum, request: wire.Attest, call: Call) -> wire.Tally:
    """Add a witness's signature; admitted by it alone."""
    del call
    async with service.deciding():
        proposal = service.proposal(request.proposal_id)
        voice = rules.attestation(service.state, service.book, proposal, request, service.clock.now_ms())
        name = rules.voice_id(voice)
        try:
            await service.write("proposal_attested", voice, name=name)
        except Refused as refused:
            if refused.code is not Code.ID_TAKEN:
                raise
            raise Refused(Code.ALREADY_ATTESTED, f"{request.witness_id} has attested", field="$.witness_id") from None
        return _tally(service, request.proposal_id)


async def commit(service: Quorum, request: wire.ProposalId, call: Call) -> wire.Committed:
    """Commit a proposal that has its quorum; once it is committed, the same answer again."""
    del call
    async with service.deciding():
        proposal = service.proposal(request.proposal_id)
        place = service.book.place(proposal)
        if place is None:
            place = await _commit(service, proposal)
        if proposal.ending is None:
            await _close_if_possible(service, rules.ending(proposal, "committed"))
        standing = witnessed.standing(service.state.quorum, await _witnessed_size(service), place.seq)
        return wire.Committed(
            proposal_id=proposal.proposal_id, id=place.id, hash=place.hash, seq=place.seq, witnessed=standing
        )


async def _commit(service: Quorum, proposal: Proposal) -> Place:
    """The commit point is the writer's; a refusal that can't heal ends the proposal."""
    try:
        signed = rules.committable(service.state, service.book, proposal, service.clock.now_ms())
        placed = await service.ledger.system(signed)
    except Refused as refused:
        outcome = rules.outcome_of(refused)
        if outcome is not None and proposal.ending is None:
            await _close_if_possible(service, rules.ending(proposal, outcome, refused.message))
        raise
    await service.ledger.wait_for(placed.seq + 1)
    return Place(id=placed.id, hash=proposal.hash, seq=placed.seq)


async def _close_if_possible(service: Quorum, ending: audit.ProposalClosed) -> None:
    """The caller's answer doesn't wait for good weather: an ending that can't be written now is the sweep's."""
    try:
        await service.close(ending)
    except (Refused, faults.Fault) as error:
        telemetry.log.warning("ending_waits", proposal=ending.proposal_id, reason=str(error))


async def withdraw(service: Quorum, request: wire.ProposalId, call: Call) -> wire.Tally:
    """Withdraw a proposal; again is the same answer, after another ending a refusal."""
    del call
    async with service.deciding():
        proposal = service.proposal(request.proposal_id)
        if proposal.ending is None and service.book.place(proposal) is None:
            await service.close(rules.ending(proposal, "withdrawn"))
        now = rules.standing(service.state, service.book, service.proposal(request.proposal_id), service.clock.now_ms())
        if now.state != "withdrawn":
            rules.check_running(now)
        return _tally(service, request.proposal_id)


def _tally(service: Quorum, name: str) -> wire.Tally:
    return views.tally(service.state, service.book, service.proposal(name), service.clock.now_ms())


# The registry, the model and the policy


async def witness_add(service: Quorum, request: wire.WitnessChange, call: Call) -> wire.DraftOrProposal:
    """Draft, then propose, a new witness."""
    return await _witness(service, "add", request, call)


async def witness_rotate(service: Quorum, request: wire.WitnessChange, call: Call) -> wire.DraftOrProposal:
    """Draft, then propose, a witness's new key."""
    return await _witness(service, "rotate", request, call)


async def witness_revoke(service: Quorum, request: wire.WitnessChange, call: Call) -> wire.DraftOrProposal:
    """Draft, then propose, a witness's end."""
    return await _witness(service, "revoke", request, call)


async def _witness(
    service: Quorum, action: Literal["add", "rotate", "revoke"], request: wire.WitnessChange, call: Call
) -> wire.DraftOrProposal:
    await service.ledger.reach_head()
    payload = rules.witness_payload(
        service.state, action, request, expires_at=service.end_of_draft(), now_ms=service.clock.now_ms()
    )
    return await _draft_or_proposal(service, payload, request.record, call)


async def model_upload(service: Quorum, request: wire.UploadModel, call: Call) -> wire.DraftOrProposal:
    """Draft, then propose, a new trust model."""
    await service.ledger.reach_head()
    payload = rules.model_payload(request, expires_at=service.end_of_draft())
    return await _draft_or_proposal(service, payload, request.record, call)


async def policy_upload(service: Quorum, request: wire.UploadPolicy, call: Call) -> wire.DraftOrProposal:
    """Draft, then propose, a new access policy."""
    await service.ledger.reach_head()
    payload = rules.policy_payload(request, expires_at=service.end_of_draft())
    return await _draft_or_proposal(service, payload, request.record, call)


async def _draft_or_proposal(
    service: Quorum, payload: rules.Asked, parts: wire.RootSigned | None, call: Call
) -> wire.DraftOrProposal:
    if parts is None:
        return wire.DraftOrProposal(draft=_draft(service, payload))
    rules.check_asked(payload, drafts.assembled(parts, bytes.fromhex(service.state.root.key)))
    made = await _open(service, parts, call)
    return wire.DraftOrProposal(proposal_id=made.proposal_id, hash=made.hash, need=made.need)


async def witness_list(service: Quorum, request: Empty, call: Call) -> wire.WitnessList:
    """The registry with its history."""
    del request, call
    return views.witnesses(service.state)


async def model_current(service: Quorum, request: Empty, call: Call) -> wire.CurrentModel:
    """The trust model in force."""
    del request, call
    return views.model(service.state)


async def policy_current(service: Quorum, request: Empty, call: Call) -> wire.CurrentPolicy:
    """The access policy in force."""
    del request, call
    return views.policy(service.state)


HANDLERS: dict[Any, Any] = {
    wire.DRAFT: draft,
    wire.PROPOSE: propose,
    wire.PROPOSALS: listed,
    wire.PROPOSAL: shown,
    wire.ATTEST: attest,
    wire.COMMIT: commit,
    wire.WITHDRAW: withdraw,
    wire.REBASE: propose,
    wire.WITNESS_ADD: witness_add,
    wire.WITNESS_ROTATE: witness_rotate,
    wire.WITNESS_REVOKE: witness_revoke,
    wire.WITNESS_LIST: witness_list,
    wire.MODEL_UPLOAD: model_upload,
    wire.MODEL_CURRENT: model_current,
    wire.POLICY_UPLOAD: policy_upload,
    wire.POLICY_CURRENT: policy_current,
}
