"""What the quorum service decides: what may be proposed, whose signature is a voice, and when a proposal may be committed.

Invariants:

1. Threshold and witness set come from the state of the log, never from a request or a proposal.
2. Root's key is never a voice, under whatever name its signature comes.
3. A voice is a signature over exactly the proposal's bytes by a key that counts now; a joining key only proves itself.
4. The same function that the writer uses decides whether a proposal would be admitted (`admission`); nothing here says yes in its place.
5. A proposal ends when its payload's own end or the policy's time to live has come, whichever is first, or when another system record
   moved the head that it stands on.
"""

from collections.abc import Mapping
from typing import Any, Final, Literal, TypeVar

import msgspec

from services.quorum.proposals import MAX_VOICES, Book, Outcome, Proposal
from sigilcore import (
    admission,
    canonical,
    clock,
    decision,
    difference,
    drafts,
    ids,
    licence,
    record,
    records,
    signing,
    trust,
)
from sigilcore.access import Loa
from sigilcore.contracts import quorum as wire
from sigilcore.contracts.license import Draft
from sigilcore.governance import Governance, WitnessEntry
from sigilcore.records import audit, system
from sigilcore.refusals import Code, Refused

TTL_BEFORE_SEAL_S: Final = 86_400
"""A day to carry a proposal to every witness; after the seal the policy says how long."""

PASSING: Final = frozenset(
    {Code.BUSY, Code.READ_ONLY, Code.UNAVAILABLE, Code.NOT_YET, Code.QUORUM_NOT_SATISFIED, Code.NOT_BOOTSTRAPPED}
)
"""Refusals of a commit that may heal; any other ends the proposal."""

T = TypeVar("T")
Asked = system.TrustedWitness | system.ModelConfig | system.AccessPolicyChange


class Tally(msgspec.Struct, frozen=True, kw_only=True):
    """The voices that count now, and what is missing. `weight` is how many they are: of personas at most the policy's cap."""

    need: int
    have: tuple[str, ...]
    weight: int
    missing: tuple[str, ...]
    unproven: tuple[str, ...]  # principals whose new key has not proven itself

    @property
    def complete(self) -> bool:
        """True if the writer would find a quorum."""
        return self.weight >= self.need and not self.unproven


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """A proposal's state at a moment, and why."""

    state: wire.State
    reason: str = ""


# Drafts


def payload_of(kind: str, plain: Mapping[str, Any], expires_at: str) -> msgspec.Struct:
    """The typed payload of a change; `expires_at` is filled in where it is missing."""
    entry = records.REGISTRY.get(kind)
    if entry is None:
        raise Refused(Code.KIND_UNKNOWN, f"no kind {kind!r}", field="$.kind")
    if entry.space != "system" or entry.payload is system.Genesis:
        raise Refused(Code.KIND_NOT_ALLOWED, f"{kind} can't be proposed", field="$.kind")
    return _typed(drafts.with_ends(plain, expires_at), entry.payload, "$.payload")


def draft(state: Governance, payload: msgspec.Struct, *, record_id: str, now_ms: int, salt: bytes) -> Draft:
    """A change on the current head, for Root to sign."""
    kind = next(tag for tag, entry in records.REGISTRY.items() if type(payload) is entry.payload)
    return drafts.made(
        kind,
        payload,
        id=record_id,
        tenant=state.tenant,
        ts=clock.format_ms(now_ms),
        prev=state.system_head,
        salt=salt,
    )


def ttl_ms(state: Governance) -> int:
    """How long a proposal may wait for its voices."""
    seconds = TTL_BEFORE_SEAL_S if state.quorum is None else state.quorum.proposal_ttl_s
    return seconds * 1000


def witness_payload(
    state: Governance,
    action: Literal["add", "rotate", "revoke"],
    change: wire.WitnessChange,
    *,
    expires_at: str,
    now_ms: int,
) -> system.TrustedWitness:
    """The change of the registry that the request names; key and name default to what log and licence say."""
    current = state.active_witnesses().get(change.witness_id)
    mentor = _mentor_licence(state, change.witness_id, now_ms)
    if action == "add":
        if mentor is None:
            raise Refused(Code.LICENSE_INVALID, "a witness holds a valid mentor licence", field="$.witness_id")
        key, name = change.key or mentor.owner.key, mentor.owner.name
    else:
        if current is None:
            raise Refused(Code.WITNESS_UNKNOWN, f"{change.witness_id} is no active witness", field="$.witness_id")
        if change.persona not in {None, current.persona}:
            raise Refused(Code.BAD_INPUT, "who is enrolled as a persona stays one", field="$.persona")
        key, name = change.key if action == "rotate" else current.key.hex(), current.name
    if key is None:
        raise Refused(Code.BAD_INPUT, "the new key", field="$.key")
    if action == "revoke" and change.key not in {None, key}:
        raise Refused(Code.BAD_INPUT, "not this witness's key", field="$.key")
    return system.TrustedWitness(
        action=action,
        witness_id=change.witness_id,
        name=name if change.name == "-" else change.name,
        key=key,
        licence_id="" if mentor is None else mentor.id,
        expires_at=expires_at,
        persona=bool(change.persona) if current is None else current.persona,
    )


def model_payload(upload: wire.UploadModel, *, expires_at: str) -> system.ModelConfig:
    """The trust model that the request names, within the model's own bounds."""
    plain = {
        "version": upload.version,
        "weights": msgspec.to_builtins(upload.weights),
        "bias": upload.bias,
        "threshold": upload.threshold,
    }
    model = _typed(plain, trust.TrustModel, "$")
    return system.ModelConfig(model=model, expires_at=expires_at, because=upload.because)


def policy_payload(upload: wire.UploadPolicy, *, expires_at: str) -> system.AccessPolicyChange:
    """The access policy that the request names."""
    return system.AccessPolicyChange(policy=upload.policy, expires_at=expires_at)


def check_asked(asked: Asked, checked: record.Checked) -> None:
    """A record that comes back with a request holds exactly the asked change; only its time to expire is its own."""
    signed = checked.payload
    if type(signed) is not type(asked):
        raise Refused(Code.RECORD_INVALID, "the record changes something else", field="$.record.core")
    expected = msgspec.structs.replace(asked, expires_at=signed.expires_at)
    lines = difference.between(expected, signed)
    if lines:
        field = "$.record.payload" + lines[0].path[1:]
        raise Refused(Code.RECORD_INVALID, "the record doesn't hold the asked change", field=field)


def _mentor_licence(state: Governance, owner: str, now_ms: int) -> licence.LicenceTable | None:
    """The owner's newest mentor licence that is valid now."""
    valid = [
        entry
        for entry in state.licences.values()
        if entry.table.loa is Loa.MENTOR
        and entry.table.owner.id == owner
        and licence.standing_reason(entry.table, entry, now_ms) is None
    ]
    return max(valid, key=lambda entry: entry.issued_seq).table if valid else None


# Proposing


def proposable(state: Governance, parts: wire.RootSigned, now_ms: int) -> record.Checked:
    """The prospective record, if the writer would take it once its witnesses have signed."""
    checked = drafts.assembled(parts, bytes.fromhex(state.root.key))
    if isinstance(checked.payload, system.Genesis):
        raise Refused(Code.KIND_NOT_ALLOWED, "there is one genesis", field="$.record.core.kind")
    if checked.core.tenant != state.tenant:
        raise Refused(Code.RECORD_INVALID, "another tenant's record", field="$.record.core.tenant")
    admission.precheck_system(state, checked, now_ms)
    return checked


def same_call(known: Proposal, asked: decision.Request) -> Proposal:
    """The proposal that this id names, if the very same call opened it."""
    if (known.request.command, known.request.parameters) != (asked.command, asked.parameters):
        raise Refused(Code.ID_TAKEN, "this id names another proposal", field="$.id")
    return known


# Tally and state


def tally(state: Governance, proposal: Proposal) -> Tally:
    """Who has spoken, of those whose voice counts now; what is needed is what was when the proposal ended, if it has."""
    active = state.active_witnesses()
    have = {voice.witness_id for voice in proposal.voices if _counts(active.get(voice.witness_id), voice.key_id)}
    proven = {(voice.witness_id, voice.key_id) for voice in proposal.voices}
    joining = admission.joining_keys(proposal.record.payload).items()
    return Tally(
        need=state.need(proposal.record) if proposal.need is None else proposal.need,
        have=tuple(sorted(have)),
        weight=state.weight(have),
        missing=tuple(sorted(active.keys() - have)),
        unproven=tuple(sorted(name for name, key in joining if (name, signing.key_id(key)) not in proven)),
    )


def _counts(entry: WitnessEntry | None, key_id: str) -> bool:
    return entry is not None and signing.key_id(entry.key) == key_id


def expires_ms(state: Governance, proposal: Proposal) -> int:
    """When the proposal ends by itself."""
    return min(clock.parse_ms(proposal.expires_at), proposal.opened_ms + ttl_ms(state))


def standing(state: Governance, book: Book, proposal: Proposal, now_ms: int) -> Standing:
    """Its state now, the first true reason down the page."""
    if proposal.ending is not None:
        return Standing(state=proposal.ending.outcome, reason=proposal.ending.reason)
    if book.place(proposal) is not None:
        return Standing(state="committed")
    if now_ms >= expires_ms(state, proposal):
        return Standing(state="expired", reason=f"its time ended at {clock.format_ms(expires_ms(state, proposal))}")
    if proposal.record.core.prev != state.system_head:
        return Standing(state="stale", reason="another system record moved the head")
    voices = tally(state, proposal)
    if voices.unproven:
        said = "has not proven its new key" if len(voices.unproven) == 1 else "have not proven their new keys"
        return Standing(state="open", reason=f"{', '.join(voices.unproven)} {said}")
    return Standing(state="ready" if voices.complete else "open")


_ENDED: Final[Mapping[str, Code]] = {
    "committed": Code.PROPOSAL_CLOSED,
    "withdrawn": Code.PROPOSAL_CLOSED,
    "refused": Code.PROPOSAL_CLOSED,
    "stale": Code.PROPOSAL_CLOSED,
    "expired": Code.PROPOSAL_EXPIRED,
}


def check_running(now: Standing) -> None:
    """Refuse what comes after the end."""
    code = _ENDED.get(now.state)
    if code is not None:
        raise Refused(
            code, f"it is {now.state}" + (f": {now.reason}" if now.reason else ""), detail={"state": now.state}
        )


# Attesting


def attestation(
    state: Governance, book: Book, proposal: Proposal, asked: wire.Attest, now_ms: int
) -> audit.ProposalAttested:
    """The voice that this signature is, or the first reason why it is none."""
    check_running(standing(state, book, proposal, now_ms))
    sig = signing.signature_bytes(asked.signature)
    root = bytes.fromhex(state.root.key)
    joining = admission.joining_keys(proposal.record.payload).get(asked.witness_id)
    joins = joining is not None
    if _signs(root, proposal, sig) or (asked.witness_id == state.root.owner_id and not joins):
        raise Refused(Code.ROOT_IS_NO_WITNESS, "Root's signature never counts as a witness's", field="$.witness_id")
    entry = state.active_witnesses().get(asked.witness_id)
    if entry is None and not joins:
        known = asked.witness_id in state.witnesses
        why = "its voice was revoked" if known else "it is not in the registry"
        raise Refused(Code.WITNESS_UNKNOWN, f"{asked.witness_id}: {why}", field="$.witness_id")
    if entry is not None and _signs(entry.key, proposal, sig):
        key, counted = entry.key, True
    elif joining is not None and _signs(joining, proposal, sig):
        key, counted = joining, False
    else:
        raise Refused(
            Code.SIGNATURE_INVALID,
            f"not over this proposal's bytes by the key that {asked.witness_id} has now",
            field="$.signature",
        )
    if any((voice.witness_id, voice.counted) == (asked.witness_id, counted) for voice in proposal.voices):
        raise Refused(Code.ALREADY_ATTESTED, f"{asked.witness_id} has attested", field="$.witness_id")
    room_for_proofs = len(tally(state, proposal).unproven) if counted else 0
    if len(proposal.voices) + room_for_proofs >= MAX_VOICES:
        raise Refused(
            Code.PROPOSAL_CLOSED, f"a proposal holds at most {MAX_VOICES} signatures, proofs of keys included"
        )
    return audit.ProposalAttested(
        proposal_id=proposal.proposal_id,
        witness_id=asked.witness_id,
        key_id=signing.key_id(key),
        sig=asked.signature,
        counted=counted,
    )


def voice_id(voice: audit.ProposalAttested) -> str:
    """The id of the record of a voice, so that one voice is written once."""
    return ids.derive(voice.proposal_id, f"{'voice' if voice.counted else 'proof'}/{voice.witness_id}")


def _signs(public: bytes, proposal: Proposal, sig: bytes) -> bool:
    return signing.verify_typed(public, signing.RECORD, proposal.record.core_bytes, sig)


# Committing


def committable(state: Governance, book: Book, proposal: Proposal, now_ms: int) -> record.SignedRecord:
    """The whole system record with its witnesses, as the writer takes it; or the first reason why not yet, or never."""
    now = standing(state, book, proposal, now_ms)
    if now.state == "stale":
        raise Refused(Code.STALE_PREV, now.reason, detail={"head": state.system_head})
    check_running(now)
    voices = tally(state, proposal)
    if not voices.complete:
        detail: dict[str, Any] = {"have": voices.weight, "need": voices.need, "missing": list(voices.missing)}
        if voices.unproven:
            detail["possession"] = voices.unproven[0]
        raise Refused(
            Code.QUORUM_NOT_SATISFIED, now.reason or f"{voices.weight} of {voices.need} voices", detail=detail
        )
    signed = record.witnessed(proposal.record.signed(), _witnesses(state, proposal))
    admission.check_system(state, record.check(signed), now_ms)
    return signed


def _witnesses(state: Governance, proposal: Proposal) -> list[record.WitnessSignature]:
    """Every signature that counts now and the proofs of joining keys, once each, in the order that the header keeps."""
    active = state.active_witnesses()
    joining = admission.joining_keys(proposal.record.payload)
    keys = {(name, signing.key_id(entry.key)) for name, entry in active.items()}
    keys |= {(name, signing.key_id(key)) for name, key in joining.items()}
    signatures = (voice.signature() for voice in proposal.voices if (voice.witness_id, voice.key_id) in keys)
    return sorted(signatures, key=lambda witness: (witness.witness_id, witness.key_id))


def outcome_of(refused: Refused) -> Outcome | None:
    """How a refused commit ends its proposal; None if it may be tried again."""
    if refused.code in PASSING:
        return None
    if refused.code is Code.STALE_PREV:
        return "stale"
    return "expired" if refused.code is Code.PROPOSAL_EXPIRED else "refused"


def overdue(state: Governance, book: Book, now_ms: int) -> list[audit.ProposalClosed]:
    """The endings that came without anybody saying so: committed before a crash, expired, or stale."""
    endings = []
    for name in sorted(book.open):
        proposal = book.proposals[name]
        now = standing(state, book, proposal, now_ms)
        if (outcome := _OUTCOMES.get(now.state)) is not None:
            endings.append(ending(proposal, outcome, now.reason))
    return endings


_OUTCOMES: Final[Mapping[str, Outcome]] = {"committed": "committed", "expired": "expired", "stale": "stale"}


def ending(proposal: Proposal, outcome: Outcome, reason: str = "") -> audit.ProposalClosed:
    """The record that closes a proposal."""
    return audit.ProposalClosed(
        proposal_id=proposal.proposal_id,
        outcome=outcome,
        reason=reason[:512],
        record_hash=proposal.hash if outcome == "committed" else None,
    )


def _typed(plain: object, kind: type[T], field: str) -> T:
    """A caller's plain data as its type; what doesn't fit names the path in the request."""
    try:
        canonical.encode(plain)
        return canonical.typed(plain, kind)
    except canonical.NotCanonical as error:
        raise Refused(Code.BAD_INPUT, error.reason, field=field + error.path[1:]) from error
