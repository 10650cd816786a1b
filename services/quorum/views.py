"""What the quorum service tells: proposals, tallies, the registry, model and policy; all of it from book and state.

The difference shown is the server's own reading against what is in force now. Who signs computes it again from verified records; after
an ending there is nothing left to compare with, and none is shown.
"""

from services.quorum import rules
from services.quorum.proposals import Book, Proposal
from sigilcore import clock, difference, drafts, witnessed
from sigilcore.contracts import quorum as wire
from sigilcore.contracts.common import cursor_number
from sigilcore.governance import Governance

RUNNING = frozenset({"open", "ready"})


def proposed(state: Governance, proposal: Proposal) -> wire.Proposed:
    """The answer to who proposed."""
    return wire.Proposed(
        proposal_id=proposal.proposal_id,
        hash=proposal.hash,
        need=state.need(proposal.record),
        difference=_changes(state, proposal),
        seq=proposal.opened_seq,
    )


def view(state: Governance, book: Book, proposal: Proposal, now_ms: int, witnessed_size: int) -> wire.ProposalView:
    """One proposal, whole; `witnessed_size` is that of the newest checkpoint with enough cosignatures."""
    place = book.place(proposal)
    now = rules.standing(state, book, proposal, now_ms)
    voices = rules.tally(state, proposal)
    running = now.state in RUNNING
    by = voices.have if running else _spoken(proposal)
    have = voices.weight if running else len(by)
    return wire.ProposalView(
        proposal_id=proposal.proposal_id,
        state=now.state,
        kind=proposal.record.core.kind,
        record=drafts.parts_of(proposal.record),
        record_hash=proposal.hash,
        difference=_changes(state, proposal) if running else (),
        need=voices.need,
        have=have,
        by=by,
        missing=voices.missing if running else (),
        expires_at=clock.format_ms(rules.expires_ms(state, proposal)),
        opened_seq=proposal.opened_seq,
        reason=now.reason,
        witnessed=None if place is None else witnessed.standing(state.quorum, witnessed_size, place.seq),
    )


def tally(state: Governance, book: Book, proposal: Proposal, now_ms: int) -> wire.Tally:
    """Voices so far."""
    now = rules.standing(state, book, proposal, now_ms)
    voices = rules.tally(state, proposal)
    return wire.Tally(have=voices.weight, need=voices.need, state=now.state)


def page(
    state: Governance, book: Book, request: wire.ListProposals, now_ms: int, witnessed_size: int
) -> wire.ProposalPage:
    """Proposals, newest first, from the one before `cursor` (an opening seq)."""
    before = None if request.cursor is None else cursor_number(request.cursor)
    shown: list[wire.ProposalView] = []
    for proposal in reversed(book.proposals.values()):
        if before is not None and proposal.opened_seq >= before:
            continue
        if request.state not in {None, rules.standing(state, book, proposal, now_ms).state}:
            continue
        if len(shown) == request.limit:
            return wire.ProposalPage(items=tuple(shown), cursor=str(shown[-1].opened_seq))
        shown.append(view(state, book, proposal, now_ms, witnessed_size))
    return wire.ProposalPage(items=tuple(shown), cursor=None)


def witnesses(state: Governance) -> wire.WitnessList:
    """The registry with its history, in order of joining."""
    entries = sorted(state.witness_history.values(), key=lambda entry: entry.since_seq)
    return wire.WitnessList(
        items=tuple(
            wire.WitnessView(
                witness_id=entry.witness_id,
                name=entry.name,
                key=entry.key.hex(),
                since_seq=entry.since_seq,
                until_seq=entry.until_seq,
                persona=entry.persona,
            )
            for entry in entries
        ),
        active=len(state.active_witnesses()),
        quorum=None if state.quorum is None else state.quorum.k,
    )


def model(state: Governance) -> wire.CurrentModel:
    """The trust model in force, the record that put it there, and the position up to which this is known."""
    assert state.model is not None
    return wire.CurrentModel(model=state.model, seq=state.model_seq, as_of=state.size)


def policy(state: Governance) -> wire.CurrentPolicy:
    """The access policy in force, and the same of it."""
    assert state.policy is not None
    return wire.CurrentPolicy(policy=state.policy, seq=state.policy_seq, as_of=state.size)


def _changes(state: Governance, proposal: Proposal) -> tuple[wire.Change, ...]:
    lines = difference.of_change(state, proposal.record.payload)
    return tuple(wire.Change(path=line.path, old=line.old, new=line.new) for line in lines)


def _spoken(proposal: Proposal) -> tuple[str, ...]:
    return tuple(sorted({voice.witness_id for voice in proposal.voices if voice.counted}))
