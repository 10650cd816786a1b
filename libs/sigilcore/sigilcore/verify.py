"""Offline verification of one record, in numbered steps, trusting nothing but a pinned genesis hash.

A bundle (`contracts.canon.Bundle`) carries the record, a C2SP tlog-proof, genesis, and the records that let its author's key speak. The
steps go down the page; the first that fails is the answer, and none is taken after it:

1. the bundle can be read
2. genesis is Root's, and is the pinned one
3. the record's own bytes agree: form, payload hash, record hash; of an erased payload nothing is left to agree with
4. the log signed the checkpoint, with genesis's key or one that the quorum put in its place, and the record is in its tree
5. the author's key could speak: Root and the witnesses before it, or a service that introduced this instance, or a licence's owner
6. the author signed exactly these bytes
7. if a policy is given: the cosigners that it asks for signed the checkpoint

Of a system record step 5 also says whether it is witnessed, by the log's own policy as far as the bundle shows it. Until then it is
committed, and a log that shows somebody else another history isn't found out by this bundle.

What a bundle doesn't show, and `sigil audit replay` does: that the decision it links was right, and that nothing was left out; so not
that a key which signed here hadn't ended meanwhile, where the bundle is silent about its end.
"""

from collections.abc import Sequence

import msgspec

from sigilcore import (
    admission,
    canonical,
    digest,
    governance,
    merkle,
    note,
    record,
    signing,
    tlog_policy,
    tlog_proof,
    witnessed,
)
from sigilcore.contracts.canon import Bundle
from sigilcore.refusals import Code, Refused

MAX_BUNDLE_BYTES = 64 * 1024 * 1024

STEPS = (
    "the bundle can be read",
    "genesis is Root's and the pinned one",
    "the record's own bytes agree",
    "the record is in the signed tree",
    "the author's key could speak",
    "the author signed these bytes",
)
POLICY_STEP = "the cosigners of the policy signed the checkpoint"


class Unreadable(ValueError):  # noqa: N818 - names the input
    """These bytes are no bundle."""


def read(data: bytes) -> Bundle:
    """Read a bundle; raises `Unreadable`."""
    try:
        return canonical.typed(canonical.parse(data, max_bytes=MAX_BUNDLE_BYTES), Bundle)
    except canonical.NotCanonical as error:
        raise Unreadable(str(error)) from error


def verify(
    bundle: Bundle, pinned_genesis: str | None = None, policy: tlog_policy.Policy | None = None
) -> tuple[tlog_proof.Step, ...]:
    """Take the steps; without a pin, step 2 says which genesis it took on trust; without a policy there is no step 7."""
    held: list[str] = [f"format {bundle.format}"]
    reason = ""
    try:
        genesis = _genesis(bundle, pinned_genesis, held)
        checked = _record(bundle, held)
        _place(bundle, checked, genesis, held)
        public = _author(bundle, checked, genesis, held)
        record.verify_author(checked.header, checked.core_bytes, public)
        held.append(f"key {checked.header.key_id}")
        if policy is not None:
            held.append(_cosigned(bundle, genesis, policy))
    except Refused as refusal:
        reason = refusal.message
    except note.NoteError as error:
        reason = str(error)
    return tlog_proof.taken(STEPS if policy is None else (*STEPS, POLICY_STEP), held, reason)


def verified(results: Sequence[tlog_proof.Step]) -> bool:
    """True if every step was taken and held."""
    return all(result.ok for result in results)


def signed(plain: dict[str, object]) -> record.SignedRecord:
    """A record as a bundle carries it: header and payload as JSON values, made canonical again."""
    try:
        header, payload, salt = plain["header"], plain["payload"], plain["salt"]
        raw = canonical.encode(header), canonical.encode(payload)
    except (KeyError, canonical.NotCanonical) as error:
        raise Refused(Code.RECORD_INVALID, "not a record with header, payload and salt") from error
    if not isinstance(salt, str) or len(salt) != 2 * digest.SALT_BYTES:
        raise Refused(Code.NOT_FOUND, "the payload was erased")
    return record.SignedRecord(header=msgspec.Raw(raw[0]), payload=msgspec.Raw(raw[1]), salt=salt)


def _genesis(bundle: Bundle, pinned: str | None, held: list[str]) -> record.Checked:
    checked = record.check(signed(bundle.genesis))
    admission.check_genesis(checked)
    if pinned is not None and checked.header.hash != pinned:
        raise Refused(Code.RECORD_INVALID, f"genesis is {checked.header.hash}, not the pinned one")
    held.append(f"{checked.header.hash}{'' if pinned else ' (not pinned: taken on trust)'}")
    return checked


def _record(bundle: Bundle, held: list[str]) -> record.Checked:
    checked = _checked(bundle.record)
    held.append(f"{checked.core.kind} {checked.header.hash}{' (payload erased)' if checked.erased else ''}")
    return checked


def _checked(plain: dict[str, object]) -> record.Checked:
    """A record as a bundle carries it, whole or erased. Genesis and the evidence are never erased, and are asked for whole."""
    if plain.get("payload") is not None or plain.get("salt") is not None:
        return record.check(signed(plain))
    try:
        return record.check_erased(canonical.encode(plain["header"]))
    except (KeyError, canonical.NotCanonical) as error:
        raise Refused(Code.RECORD_INVALID, "not a record with a header") from error


def _place(bundle: Bundle, checked: record.Checked, genesis: record.Checked, held: list[str]) -> None:
    log_key = _log_key(bundle, genesis)
    try:
        proof = tlog_proof.parse(bundle.proof.encode())
    except tlog_proof.TlogProofError as error:
        raise Refused(Code.RECORD_INVALID, f"proof: {error}") from error
    placed = tlog_proof.verify(proof, merkle.leaf_hash(checked.leaf), log_key)
    if placed.failed is not None:
        raise Refused(Code.RECORD_INVALID, f"{placed.failed.name}: {placed.failed.detail}")
    assert placed.checkpoint is not None
    held.append(f"index {proof.index} of {placed.checkpoint.size}, {placed.checkpoint.origin}")


def _log_key(bundle: Bundle, genesis: record.Checked) -> note.VerifierKey:
    """Genesis's key for the log, or the last that Root and the witnesses before it put in its place."""
    state = governance.Governance()
    state.apply(0, genesis)
    for seq, plain in enumerate(bundle.log, start=1):
        step = record.check(signed(plain))
        if step.core.space != "system":
            raise Refused(Code.RECORD_INVALID, "only system records name the log's key")
        check_quorum(state, step)
        state.apply(seq, step)
    return note.VerifierKey.parse(state.log_key)


def _author(bundle: Bundle, checked: record.Checked, genesis: record.Checked, held: list[str]) -> bytes:
    """Fold the evidence and name the author's key."""
    state = governance.Governance()
    state.apply(0, genesis)
    if checked.header.hash == genesis.header.hash:
        held.append("Root, by genesis itself")
        return bytes.fromhex(genesis.payload.root.key)
    for seq, plain in enumerate(bundle.evidence, start=1):
        step = record.check(signed(plain))
        if step.core.space == "system":
            check_quorum(state, step)
        else:
            admission.admit_governing(state, step)
        state.apply(seq, step)
    if checked.core.space == "system":
        have = check_quorum(state, checked)
        author = admission.system_author(state, checked)
        root = author == bytes.fromhex(state.root.key)
        need = state.need(checked) if root else len(state.active_witnesses())
        voices = f"{'' if root else 'the new '}Root and {len(have)} of {need} witnesses: {', '.join(sorted(have))}"
        held.append(voices + _standing(bundle, state, checked))
        return author
    return _speaker(state, checked, held)


def check_quorum(state: governance.Governance, checked: record.Checked) -> set[str]:
    """Root, or all witnesses who replace it, the chain of system records, what may come before the seal, and the voices, by the witnesses
    and threshold before it."""
    record.verify_author(checked.header, checked.core_bytes, admission.system_author(state, checked))
    if checked.core.prev != state.system_head:
        raise Refused(Code.STALE_PREV, "the chain of system records is broken")
    admission.check_seal(state, checked)
    admission.check_same_log(state, checked.payload)
    return admission.check_quorum(state, checked)


def _speaker(state: governance.Governance, checked: record.Checked, held: list[str]) -> bytes:
    key_id = checked.header.key_id
    entry = state.key(key_id)
    if entry is not None and entry.role in {"service", "instance"}:
        if entry.name not in checked.kind.authors:
            raise Refused(Code.KIND_NOT_ALLOWED, f"{entry.name} doesn't author {checked.core.kind}")
        if (entry.role == "service") != checked.kind.service_signed:
            raise Refused(Code.KEY_NOT_ALLOWED, f"a {entry.role} key doesn't sign {checked.core.kind}")
        held.append(f"{entry.role} {entry.name}{'' if entry.instance is None else '/' + entry.instance}")
        return entry.public
    for issued in state.licences.values():
        key = issued.table.owner.key
        if checked.core.space == "user" and key is not None and signing.key_id(bytes.fromhex(key)) == key_id:
            held.append(f"{issued.table.owner.id}, by licence {issued.table.id}")
            return bytes.fromhex(key)
    raise Refused(Code.KEY_NOT_ALLOWED, f"nothing in the evidence lets key {key_id} speak")


def _cosigned(bundle: Bundle, genesis: record.Checked, policy: tlog_policy.Policy) -> str:
    """The policy's word on the checkpoint; a policy that names no log takes the one that genesis names."""
    signed_note = tlog_proof.parse(bundle.proof.encode()).checkpoint
    verdict = tlog_policy.judge(policy, signed_note, [_log_key(bundle, genesis)])
    if not verdict.satisfied:
        raise Refused(Code.QUORUM_NOT_SATISFIED, verdict.reason)
    return verdict.reason


def _standing(bundle: Bundle, state: governance.Governance, checked: record.Checked) -> str:
    """Whether enough cosigners signed the checkpoint, by the policy that stands with this record."""
    state.apply(len(bundle.evidence) + 1, checked)
    if not witnessed.needed(state.quorum):
        return ""
    proof = tlog_proof.parse(bundle.proof.encode())
    opened = witnessed.opened(proof.checkpoint, state.quorum, note.VerifierKey.parse(state.log_key))
    return "; committed, not yet witnessed" if opened is None else "; witnessed"
