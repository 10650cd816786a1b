"""Proposals: the fold of what the log says about them.

A proposal is opened, attested and closed by audit records; whether it was committed is told by the system space itself. Invariants:

1. The fold is total: any admitted records in any number fold without a refusal, and the same records give the same book.
2. A principal has one voice in a proposal, and a joining key one proof; the first counts, repetitions change nothing.
3. What is closed stays closed as it was closed first; only the system space says that a record was committed.
4. A proposal holds at most as many signatures as a header does.

Example: `book = Book()`, then `book.apply(seq, checked)` for each record of kinds `KINDS`, in order; then `book.proposals[id]`.
"""

from typing import Final, Literal

import msgspec

from sigilcore import clock, decision, record, records
from sigilcore.governance import Governance
from sigilcore.records import audit, system
from sigilcore.refusals import Refused

KINDS: Final = (
    *(kind.tag for kind in records.REGISTRY.values() if kind.space == "system"),
    "proposal_opened",
    "proposal_attested",
    "proposal_closed",
)
"""What a book folds: the whole system space, and the life of proposals."""

MAX_VOICES: Final = 32
"""As many as a sealed header holds."""


class Voice(msgspec.Struct, frozen=True, kw_only=True):
    """A signature over the proposal's core. Not `counted`: a joining key's proof of possession."""

    witness_id: str
    key_id: str
    sig: str
    counted: bool

    def signature(self) -> record.WitnessSignature:
        """As it stands in a header."""
        return record.WitnessSignature(witness_id=self.witness_id, key_id=self.key_id, sig=self.sig)


Outcome = Literal["committed", "expired", "withdrawn", "stale", "refused"]


class Ending(msgspec.Struct, frozen=True, kw_only=True):
    """How a proposal was closed."""

    outcome: Outcome
    reason: str


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """Where a system record stands."""

    id: str
    hash: str
    seq: int


class Proposal(msgspec.Struct, frozen=True, kw_only=True):
    """A prospective system record, signed by Root, and what became of it so far."""

    proposal_id: str
    record: record.Checked
    request: decision.Request
    opened_seq: int
    opened_ms: int
    voices: tuple[Voice, ...] = ()
    ending: Ending | None = None
    need: int | None = None  # voices, by the policy in force when it was committed or closed; None until then

    @property
    def hash(self) -> str:
        """The prospective record's hash."""
        return self.record.header.hash

    @property
    def expires_at(self) -> str:
        """The end that the payload itself names, or the first of several; the writer refuses it from then on."""
        return system.ends_at(self.record.payload)


def opened(seq: int, opening: record.Checked) -> Proposal | None:
    """The proposal that a `proposal_opened` opens; None if the record it carries doesn't hold together."""
    payload = opening.payload
    carried = payload.record
    try:
        checked = record.check(
            record.SignedRecord(
                header=msgspec.Raw(carried.header.encode()),
                payload=msgspec.Raw(carried.payload.encode()),
                salt=carried.salt,
            )
        )
    except Refused:
        return None
    if checked.core.space != "system" or isinstance(checked.payload, system.Genesis):
        return None
    return Proposal(
        proposal_id=payload.proposal_id,
        record=checked,
        request=payload.request,
        opened_seq=seq,
        opened_ms=clock.parse_ms(opening.core.ts),
    )


def attested(proposal: Proposal, payload: audit.ProposalAttested) -> Proposal:
    """The proposal with one more voice, if it is new."""
    known = any((voice.witness_id, voice.counted) == (payload.witness_id, payload.counted) for voice in proposal.voices)
    if known or proposal.ending is not None or len(proposal.voices) >= MAX_VOICES:
        return proposal
    voice = Voice(witness_id=payload.witness_id, key_id=payload.key_id, sig=payload.sig, counted=payload.counted)
    return msgspec.structs.replace(proposal, voices=(*proposal.voices, voice))


def closed(proposal: Proposal, payload: audit.ProposalClosed, *, committed: bool) -> Proposal:
    """The proposal with its end, if it had none; a claim that it was committed counts only if it was."""
    if proposal.ending is not None or (payload.outcome == "committed" and not committed):
        return proposal
    return msgspec.structs.replace(proposal, ending=Ending(outcome=payload.outcome, reason=payload.reason))


def carried(checked: record.Checked) -> audit.CarriedRecord:
    """A prospective record as an opening carries it."""
    return audit.CarriedRecord(
        header=checked.leaf.decode(), payload=checked.payload_bytes.decode(), salt=checked.salt.hex()
    )


class Book:
    """All proposals, and every system record's place. Read its attributes; change it by `apply` only, in order of seq."""

    def __init__(self) -> None:
        """Before the first record."""
        self.size = 0
        self.proposals: dict[str, Proposal] = {}
        self.committed: dict[str, Place] = {}  # record hash → place
        self.open: set[str] = set()  # ids without an ending
        self._system = Governance()  # of the system space alone: how many voices were needed when

    def apply(self, seq: int, checked: record.Checked) -> None:
        """Fold one admitted record; one that was folded before changes nothing."""
        if seq < self.size:
            return
        self.size = seq + 1
        payload = checked.payload
        if checked.core.space == "system":
            self.committed[checked.header.hash] = Place(id=checked.core.id, hash=checked.header.hash, seq=seq)
            proposal = self.pending(checked.header.hash)
            if proposal is not None:
                self._put(self._decided(proposal))
            self._system.apply(seq, checked)
        elif isinstance(payload, audit.ProposalOpened):
            proposal = opened(seq, checked)
            if proposal is not None and payload.proposal_id not in self.proposals:
                self._put(proposal)
        elif isinstance(payload, audit.ProposalAttested) and payload.proposal_id in self.proposals:
            self._put(attested(self.proposals[payload.proposal_id], payload))
        elif isinstance(payload, audit.ProposalClosed) and payload.proposal_id in self.proposals:
            proposal = self.proposals[payload.proposal_id]
            self._put(closed(self._decided(proposal), payload, committed=proposal.hash in self.committed))

    def _decided(self, proposal: Proposal) -> Proposal:
        """The proposal with the number of voices that it needs now, once for all."""
        if proposal.need is not None:
            return proposal
        return msgspec.structs.replace(proposal, need=self._system.need(proposal.record))

    def place(self, proposal: Proposal) -> Place | None:
        """Where the proposed record stands, once it does."""
        return self.committed.get(proposal.hash)

    def pending(self, record_hash: str) -> Proposal | None:
        """The proposal without an ending that carries this very record."""
        return next((self.proposals[name] for name in self.open if self.proposals[name].hash == record_hash), None)

    def _put(self, proposal: Proposal) -> None:
        self.proposals[proposal.proposal_id] = proposal
        if proposal.ending is None:
            self.open.add(proposal.proposal_id)
        else:
            self.open.discard(proposal.proposal_id)
