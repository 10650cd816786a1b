"""Voices for proposals: every attestation in a ledger is somebody's signature over what was proposed, committed or not.

A system record shows the signatures that admitted it. A proposal that failed leaves only what the quorum service wrote down, and who
reads a ledger again must not take that word: here each opening is held to Root's signature over the record that it carries, and each
attestation to the witness's over the same bytes:

- a counted voice is by a key that the registry gives this witness, there or at some time since the proposal was opened: the service may
  have heard it just before the registry moved;
- a voice that isn't counted is the proof of a key that the proposed record itself names for this witness;
- the first opening under an id is the proposal; an attestation of what was never opened is none.

Whether a proposal should have passed is the system space's to say (`admission.check_system`).
"""

import msgspec

from sigilcore import admission, record, signing
from sigilcore.governance import Governance
from sigilcore.record import Checked
from sigilcore.records import audit, system
from sigilcore.refusals import Code, Refused

Spoken = audit.ProposalOpened | audit.ProposalAttested
"""What a ledger says of voices."""


class _Proposal(msgspec.Struct, frozen=True):
    """The bytes that voices sign, since when they are known, and whose new keys they would let speak."""

    core_bytes: bytes
    opened_seq: int
    joining: dict[str, bytes]


class Voices:
    """Feed it every record that was admitted, in order."""

    def __init__(self) -> None:
        """Nothing was proposed yet."""
        self._proposals: dict[str, _Proposal] = {}

    def hear(self, state: Governance, seq: int, checked: Checked) -> None:
        """Check what the record at `seq` says of a proposal; `state` is the log before it. Raises `Refused`, and remembers nothing then."""
        match checked.payload:
            case audit.ProposalOpened() as payload:
                carried = _carried(state, payload)
                opened = _Proposal(carried.core_bytes, seq, admission.joining_keys(carried.payload))
                self._proposals.setdefault(payload.proposal_id, opened)
            case audit.ProposalAttested() as payload:
                proposal = self._proposals.get(payload.proposal_id)
                if proposal is None:
                    raise Refused(Code.RECORD_INVALID, "no such proposal was opened", field="$.payload.proposal_id")
                public = _key(state, proposal, payload)
                if public is None:
                    raise Refused(
                        Code.WITNESS_UNKNOWN,
                        f"{payload.witness_id} had no such key for this proposal",
                        field="$.payload.key_id",
                    )
                voice = record.WitnessSignature(witness_id=payload.witness_id, key_id=payload.key_id, sig=payload.sig)
                if not record.verify_witness(voice, proposal.core_bytes, public):
                    raise Refused(
                        Code.SIGNATURE_INVALID,
                        f"the attestation of {payload.witness_id} doesn't verify",
                        field="$.payload.sig",
                    )
            case _:
                pass


def _carried(state: Governance, payload: audit.ProposalOpened) -> Checked:
    """The prospective record of an opening, by Root."""
    inside = payload.record
    signed = record.SignedRecord(
        header=msgspec.Raw(inside.header.encode()), payload=msgspec.Raw(inside.payload.encode()), salt=inside.salt
    )
    try:
        carried = record.check(signed)
        record.verify_author(carried.header, carried.core_bytes, bytes.fromhex(state.root.key))
    except Refused as refusal:
        raise Refused(refusal.code, f"the proposed record: {refusal.message}", field="$.payload.record") from refusal
    if carried.core.space != "system" or isinstance(carried.payload, system.Genesis):
        raise Refused(Code.RECORD_INVALID, f"a {carried.core.kind} isn't proposed", field="$.payload.record")
    if carried.header.hash != payload.record_hash:
        raise Refused(Code.RECORD_INVALID, "record_hash is another record's", field="$.payload.record_hash")
    return carried


def _key(state: Governance, proposal: _Proposal, voice: audit.ProposalAttested) -> bytes | None:
    """The key that may speak so."""
    if not voice.counted:
        public = proposal.joining.get(voice.witness_id)
        return public if public is not None and signing.key_id(public) == voice.key_id else None
    for (witness_id, _), entry in state.witness_history.items():
        stood = entry.until_seq is None or entry.until_seq > proposal.opened_seq
        if witness_id == voice.witness_id and stood and signing.key_id(entry.key) == voice.key_id:
            return entry.key
    return None
