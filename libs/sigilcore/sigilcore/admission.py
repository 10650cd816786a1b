"""Admission: what the one writer checks against the state of the log before a record may stand in the canon.

`record.check` has already held the record's own bytes to each other. Here, in order, for each record: tenant → may this key author
this kind in this space now → the author's signature → the rules of its space → `prev`. The first true reason is the refusal.

- `system`: Root's signature, `prev`, time, the seal, what the change itself must satisfy, and the quorum: distinct active principals with
  distinct keys over exactly these bytes. Root never counts. Threshold and set come from the log before this record. One record needs no
  Root: a `root_key` that the new Root signs itself, with the voice of every active witness. Of several changes in one record each must
  satisfy what it would alone, on the state that those before it leave; the first that doesn't refuses them all.
- `audit`: an instance key that its service key introduced; that key's chain; the decision, if the kind is an effect. A proposal's was
  scored on the standing of exactly those whom its record enrols.
- `user`: the service that owns the command, or the person whose key the licence names; the decision; the thing's previous version.
  An erasure may stand on an order of the quorum instead: of this very thing, unused, before the order's end.

An erased payload can't be asked what it said: in a ledger that is read again, such a record is held to all that its header says. It never
enters: `record.check`, which the writer asks, takes whole records only.

There is no other path: canon_writer, followers, verifiers and the simulator call these same functions.
"""

import contextlib
from collections.abc import Collection, Iterator
from typing import Any

import msgspec

from sigilcore import (
    approvals,
    candidates,
    clock,
    decision,
    enrolling,
    gate,
    licence,
    note,
    peers,
    policy,
    signing,
    tlog_policy,
    wayback,
    witnessed,
)
from sigilcore.access import Loa
from sigilcore.contracts import catalogue, knowledge
from sigilcore.contracts import license as licensing
from sigilcore.contracts.command import Command
from sigilcore.governance import Governance, KeyEntry, WitnessEntry
from sigilcore.record import AuthorCheck, Checked, verify_author, verify_witness
from sigilcore.records import REGISTRY, audit, system, user
from sigilcore.refusals import Code, Refused

DECISION_AGE_MS = 60_000
DECISION_SKEW_MS = 2_000
_LINKS = "$.header.core.links"
SEAL = "quorum_policy"
BEFORE_SEAL = ("trusted_witness", SEAL)


ORDER = "erasure_order"  # stands for the command in the row of an order, which nobody called
NOBODY = "00000000-0000-0000-0000-000000000000"  # and for its licence


class DecisionRow(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An Allow that may still admit one append, or an order of the quorum. `used_by` is the first record id of the call that used it;
    `candidates` are those on whose standing it was scored, as they would be made witnesses."""

    record: str
    index: int
    seq: int
    ts_ms: int
    command: str
    owner: str
    licence_id: str
    digest: str
    effect: str | None
    used_by: str | None = None
    candidates: tuple[str, ...] = ()


def decisions_of(checked: Checked, seq: int) -> list[DecisionRow]:
    """The rows that a record at `seq` brings: of decisions each Allow of a command that writes, of an order the one that it is."""
    if isinstance(checked.payload, system.ErasureOrder):
        return [_order_row(checked, checked.payload, seq)]
    rows = []
    for index, frozen in enumerate(audit.decisions_in(checked.payload)):
        chain = frozen.chain
        command = catalogue.COMMANDS.get(chain.command)
        if chain.verdict is decision.Verdict.ALLOW and command is not None and command.writes:
            rows.append(
                DecisionRow(
                    record=checked.core.id,
                    index=index,
                    seq=seq,
                    ts_ms=clock.parse_ms(chain.audit.ts),
                    command=chain.command,
                    owner=chain.audit.owner,
                    licence_id=chain.audit.licence,
                    digest=chain.digest,
                    effect=chain.effect,
                    candidates=() if chain.trust is None else chain.trust.standing_of,
                )
            )
    return rows


def _order_row(checked: Checked, payload: system.ErasureOrder, seq: int) -> DecisionRow:
    return DecisionRow(
        record=checked.core.id,
        index=0,
        seq=seq,
        ts_ms=clock.parse_ms(checked.core.ts),
        command=ORDER,
        owner=payload.owner,
        licence_id=NOBODY,
        digest=checked.header.hash,
        effect=None,
    )


def decision_ref(checked: Checked) -> decision.DecisionRef | None:
    """The decision that a record links, if it does."""
    target = checked.core.link("decision")
    return None if target is None else decision.parse_ref(target)


def repeats(old: Checked, new: Checked) -> bool:
    """True if `new` asks again for what `old` is: same id, kind, subject, command and parameters, whatever was rebuilt in between."""
    if old.header.hash == new.header.hash:
        return True
    before, after = getattr(old.payload, "request", None), getattr(new.payload, "request", None)
    if old.core.id != new.core.id or old.core.kind != new.core.kind or before is None or after is None:
        return False
    same_call = (before.command, before.parameters) == (after.command, after.parameters)
    return same_call and old.kind.subject(old.payload) == new.kind.subject(new.payload)


def admit(
    state: Governance,
    checked: Checked,
    *,
    now_ms: int,
    decided: DecisionRow | None = None,
    thing_head: str | None = None,
    author: AuthorCheck = verify_author,
) -> None:
    """Admit one record at the head of the log, or raise the first reason why not.

    `decided` is the row of the decision that the record links (or its call names); `thing_head` the hash of the newest version of the
    record's thing. `author` checks the signature in `user` and `audit`; only who checks it afterwards puts another in its place.
    """
    core = checked.core
    if not state.bootstrapped:
        raise Refused(Code.NOT_BOOTSTRAPPED, "the canon has no genesis yet")
    if core.tenant != state.tenant:
        raise Refused(Code.RECORD_INVALID, "another tenant's record", field="$.header.core.tenant")
    if core.space == "system":
        check_system(state, checked, now_ms)
    elif core.space == "audit":
        _admit_audit(state, checked, now_ms, decided, author)
    else:
        _admit_user(state, checked, _entitled(state, checked, decided, now_ms), thing_head, author)


def admit_governing(state: Governance, checked: Checked) -> None:
    """What a follower checks of a governing record before it believes it: all that needs neither the clock nor records between."""
    if not state.bootstrapped:
        check_genesis(checked)
        return
    if checked.core.tenant != state.tenant:
        raise Refused(Code.RECORD_INVALID, "another tenant's record", field="$.header.core.tenant")
    if checked.core.space == "system":
        check_system(state, checked, None)
    else:
        _check_audit_author(state, checked, verify_author)
        _check_audit_payload(state, checked, None)


# Genesis


def check_genesis(checked: Checked) -> None:
    """Record 0 on its own: Root's signature by the key that it names, keys that are safe and distinct, no past."""
    payload = checked.payload
    if not isinstance(payload, system.Genesis):
        raise Refused(Code.NOT_BOOTSTRAPPED, "the first record is genesis")
    if checked.core.prev is not None or checked.core.links or checked.header.witnesses:
        raise Refused(Code.RECORD_INVALID, "genesis has no past, links or witnesses", field="$.header.core")
    if payload.tenant != checked.core.tenant:
        raise Refused(Code.RECORD_INVALID, "payload and core name different tenants", field="$.payload.tenant")
    _check_root_name(payload.root.owner_id, "$.payload.root.owner_id")
    log = _log_vkey(payload.log, "$.payload.log")
    keys = [payload.root.key, *payload.services.values(), log.public_key.hex()]
    if len(set(keys)) != len(keys):
        raise Refused(Code.RECORD_INVALID, "one key in two roles", field="$.payload.services")
    for key in keys:
        signing.strong_key(key, "$.payload")
    verify_author(checked.header, checked.core_bytes, bytes.fromhex(payload.root.key))


# System


def check_system(state: Governance, checked: Checked, now_ms: int | None) -> None:
    """Law 4: the whole quorum, from the log's own state. `now_ms` is None when history is read again."""
    precheck_system(state, checked, now_ms)
    check_quorum(state, checked)


def precheck_system(state: Governance, checked: Checked, now_ms: int | None) -> None:
    """All that must hold of a system record but its witnesses."""
    core, payload = checked.core, checked.payload
    if isinstance(payload, system.Genesis):
        raise Refused(Code.ALREADY_BOOTSTRAPPED, "there is one genesis")
    verify_author(checked.header, checked.core_bytes, system_author(state, checked))
    if core.prev != state.system_head:
        raise Refused(Code.STALE_PREV, "prev is not the newest system record", detail={"head": state.system_head})
    _check_end(payload, now_ms)
    changed: set[tuple[str, str]] = set()
    for before, change in state.along(payload):
        with _below(change.path):
            _check_end(change.payload, now_ms)
            _check_seal(state, core.kind, change.kind)
            thing = change.kind, _thing(change.payload)
            if thing in changed:
                raise Refused(Code.RECORD_INVALID, "another of these changes is of the same thing", field="$.payload")
            changed.add(thing)
            _check_change(before, change.payload, now_ms)
    _check_way_back(state, payload)


def _check_way_back(state: Governance, payload: object) -> None:
    """A new model or policy, with the other as it will be then, leaves open how both are changed."""
    model, law, field = state.model, state.policy, ""
    for change in system.changes_in(payload):
        match change.payload:
            case system.ModelConfig():
                model, field = change.payload.model, f"{change.path}.model"
            case system.AccessPolicyChange():
                law, field = change.payload.policy, f"{change.path}.policy"
            case _:
                pass
    if not field:
        return
    assert model is not None, "genesis brings the first model"
    assert law is not None, "genesis brings the first policy"
    closed = wayback.closed(model, law)
    if closed is not None:
        raise Refused(Code.RECORD_INVALID, f"{closed} would be out of everyone's reach for ever", field=field)


@contextlib.contextmanager
def _below(path: str) -> Iterator[None]:
    """A refusal inside names its field as if the payload stood alone; it is told where it stands."""
    try:
        yield
    except Refused as refused:
        if path == "$.payload":
            raise
        field = path + (refused.field or "").removeprefix("$.payload")
        raise Refused(refused.code, refused.message, field=field, detail=refused.detail) from refused


def _check_end(payload: Any, now_ms: int | None) -> None:
    if now_ms is not None and now_ms >= _time(payload.expires_at):
        raise Refused(Code.PROPOSAL_EXPIRED, f"it expired at {payload.expires_at}", field="$.payload.expires_at")


def check_seal(state: Governance, checked: Checked) -> None:
    """What a system record may change before the seal, by all that it carries."""
    for change in system.changes_in(checked.payload):
        with _below(change.path):
            _check_seal(state, checked.core.kind, change.kind)


def _check_seal(state: Governance, record_kind: str, change_kind: str) -> None:
    """What may come before the seal. The seal itself is one policy in a record of its own, which people pin, by every witness so far: a
    witness that the same record enrols has no voice yet."""
    if state.sealed:
        return
    if change_kind not in BEFORE_SEAL:
        raise Refused(Code.NOT_SEALED, f"before the seal only {' and '.join(BEFORE_SEAL)} are taken")
    if change_kind == SEAL != record_kind:
        raise Refused(Code.NOT_SEALED, "the seal is a record of its own")


def _thing(payload: object) -> str:
    """What of its kind a change is about, where there are many."""
    match payload:
        case system.TrustedWitness():
            return payload.witness_id
        case system.ServiceKey():
            return payload.service
        case _:
            return ""


def system_author(state: Governance, checked: Checked) -> bytes:
    """Whose signature a system record must carry: Root's; or the new Root's own, where all witnesses put it in place of another."""
    if not _without_root(checked):
        return bytes.fromhex(state.root.key)
    if not state.sealed:
        raise Refused(Code.NOT_SEALED, "before the seal there are no witnesses to replace Root")
    return bytes.fromhex(checked.payload.key)


def _without_root(checked: Checked) -> bool:
    payload = checked.payload
    return isinstance(payload, system.RootKey) and signing.key_id(bytes.fromhex(payload.key)) == checked.header.key_id


def check_quorum(state: Governance, checked: Checked) -> set[str]:
    """Who agreed, if they are enough; of personas no more count than the policy lets. Without Root, everyone must agree."""
    have = voices(state, checked)
    weight, need = state.weight(have), state.need(checked)
    if _without_root(checked):
        weight, need = len(have), len(state.active_witnesses())
    if weight < need:
        raise Refused(
            Code.QUORUM_NOT_SATISFIED,
            f"{weight} of {need} voices",
            detail={"have": weight, "need": need, "by": sorted(have)},
        )
    return have


def voices(state: Governance, checked: Checked) -> set[str]:
    """The distinct active principals who signed exactly these bytes; a signature that doesn't count is a refusal, not a bystander."""
    have: set[str] = set()
    seen: list[tuple[str, str]] = []
    proven: set[str] = set()
    active = state.active_witnesses()
    root = signing.key_id(bytes.fromhex(state.root.key))
    joining = {} if _without_root(checked) else joining_keys(checked.payload)
    for index, witness in enumerate(checked.header.witnesses):
        field = f"$.header.witnesses[{index}]"
        seen.append((witness.witness_id, witness.key_id))
        if witness.key_id == root:
            raise Refused(Code.ROOT_IS_NO_WITNESS, "Root's key never counts as a witness", field=field)
        entry, new = active.get(witness.witness_id), joining.get(witness.witness_id)
        if entry is not None and signing.key_id(entry.key) == witness.key_id:
            public = entry.key
            have.add(witness.witness_id)
        elif new is not None and signing.key_id(new) == witness.key_id:
            public = new
            proven.add(witness.witness_id)
        else:
            raise Refused(Code.WITNESS_UNKNOWN, f"{witness.witness_id} is no active witness with this key", field=field)
        if not verify_witness(witness, checked.core_bytes, public):
            raise Refused(Code.SIGNATURE_INVALID, f"the signature of {witness.witness_id} doesn't verify", field=field)
    if seen != sorted(set(seen)):
        raise Refused(Code.RECORD_INVALID, "witnesses are listed once each, in order", field="$.header.witnesses")
    lacking = sorted(joining.keys() - proven)
    if lacking:
        raise Refused(
            Code.QUORUM_NOT_SATISFIED,
            f"{lacking[0]} has not proven its new key",
            detail={"have": state.weight(have), "need": state.need(checked), "possession": lacking[0]},
        )
    return have


def joining_keys(payload: object) -> dict[str, bytes]:
    """Principals and the keys that must prove possession: joining and rotating witnesses', and a new Root's. None of them is a voice."""
    found = {}
    for change in system.changes_in(payload):
        match change.payload:
            case system.TrustedWitness() as enrolled if enrolled.action != "revoke":
                found[enrolled.witness_id] = bytes.fromhex(enrolled.key)
            case system.RootKey() as successor:
                found[successor.owner_id] = bytes.fromhex(successor.key)
            case _:
                pass
    return found


def _check_change(state: Governance, payload: object, now_ms: int | None) -> None:
    match payload:
        case system.TrustedWitness():
            _check_witness(state, payload, now_ms)
        case system.QuorumPolicy():
            _check_quorum_policy(state, payload)
        case system.AccessPolicyChange():
            _check_access_policy(payload)
        case system.ServiceKey():
            _fresh_key(state, payload.key)
        case system.LogKey():
            _check_log_key(state, payload)
        case system.RootKey():
            _check_root_key(state, payload)
        case _:
            pass


def _check_witness(state: Governance, payload: system.TrustedWitness, now_ms: int | None) -> None:
    active = state.active_witnesses()
    current = active.get(payload.witness_id)
    if payload.witness_id == state.root.owner_id or state.was_root(bytes.fromhex(payload.key)):
        raise Refused(Code.ROOT_IS_NO_WITNESS, "Root is no witness", field="$.payload.witness_id")
    if payload.action == "add" and current is not None:
        raise Refused(Code.WITNESS_TAKEN, f"{payload.witness_id} is a witness already", field="$.payload.witness_id")
    if payload.action != "add" and current is None:
        raise Refused(Code.WITNESS_UNKNOWN, f"{payload.witness_id} is no active witness", field="$.payload.witness_id")
    if payload.action == "revoke":
        _check_set(state, [entry for entry in active.values() if entry is not current])
        return
    _fresh_key(state, payload.key, name=payload.witness_id)
    _no_cosigner(state, bytes.fromhex(payload.key), "$.payload.key")
    others = {entry.name for name, entry in active.items() if name != payload.witness_id}
    if payload.name in others:
        raise Refused(Code.WITNESS_TAKEN, f"the name {payload.name!r} is taken", field="$.payload.name")
    if current is not None and payload.persona != current.persona:
        raise Refused(Code.RECORD_INVALID, "a rotation changes the key, not who it is", field="$.payload.persona")
    if payload.action == "add":
        _check_mentor(state, payload, now_ms)
        joining = WitnessEntry(witness_id=payload.witness_id, name="", key=b"", since_seq=0, persona=payload.persona)
        _check_set(state, [*active.values(), joining])


def _check_mentor(state: Governance, payload: system.TrustedWitness, now_ms: int | None) -> None:
    entry = state.issued(payload.licence_id)
    if entry is None or entry.table.loa is not Loa.MENTOR or entry.table.owner.id != payload.witness_id:
        raise Refused(Code.LICENSE_INVALID, "a witness holds a mentor licence of its own", field="$.payload.licence_id")
    reason = None if now_ms is None else licence.standing_reason(entry.table, entry, now_ms)
    if reason is not None or entry.revoked_seq is not None:
        raise Refused(
            Code.LICENSE_INVALID, f"the mentor licence is {reason or 'REVOKED'}", field="$.payload.licence_id"
        )


def _check_set(state: Governance, witnesses: Collection[WitnessEntry]) -> None:
    if state.quorum is not None:
        _check_threshold(state.quorum, witnesses)


def _check_quorum_policy(state: Governance, payload: system.QuorumPolicy) -> None:
    for kind in payload.kinds:
        if kind not in REGISTRY or REGISTRY[kind].space != "system":
            raise Refused(Code.RECORD_INVALID, f"{kind} is no system kind", field=f"$.payload.kinds.{kind}")
    _check_cosigners(state, payload.checkpoint_witnesses)
    _check_threshold(payload, state.active_witnesses().values())


def _check_cosigners(state: Governance, wanted: system.CheckpointWitnesses) -> None:
    """c of m cosigners, each a key of its own that is safe, can cosign, and speaks in no other role here."""
    where = "$.payload.checkpoint_witnesses"
    if wanted.c > len(wanted.cosigners):
        raise Refused(Code.THRESHOLD_INVALID, f"{wanted.c} of {len(wanted.cosigners)} cosigners", field=f"{where}.c")
    taken: set[bytes] = set()
    for index, cosigner in enumerate(wanted.cosigners):
        field = f"{where}.cosigners[{index}].vkey"
        try:
            key = note.VerifierKey.parse(cosigner.vkey)
        except note.NoteError as error:
            raise Refused(Code.RECORD_INVALID, str(error), field=field) from error
        if key.type != note.COSIGNATURE:
            raise Refused(Code.RECORD_INVALID, "not a cosigner's key (type 0x04)", field=field)
        signing.strong_key(key.public_key.hex(), field)
        if key.public_key in taken or signing.key_id(key.public_key) in state.keys:
            raise Refused(Code.THRESHOLD_INVALID, "this key has a role already", field=field)
        taken.add(key.public_key)
    try:
        tlog_policy.Policy.of_cosigners(note.VerifierKey.parse(state.log_key), witnessed.cosigners_of(wanted), wanted.c)
    except tlog_policy.PolicyError as error:
        raise Refused(Code.RECORD_INVALID, f"no C2SP policy can name them: {error}", field=where) from error


def _check_log_key(state: Governance, payload: system.LogKey) -> None:
    """The same log's name over a key of its own: safe, new, and no cosigner's."""
    check_same_log(state, payload)
    key = note.VerifierKey.parse(payload.vkey)
    _fresh_key(state, key.public_key.hex(), field="$.payload.vkey")
    _no_cosigner(state, key.public_key, "$.payload.vkey")


def _check_root_key(state: Governance, payload: system.RootKey) -> None:
    """A key of its own, that no licence names either; and Root is no witness."""
    if payload.owner_id in state.active_witnesses():
        raise Refused(Code.ROOT_IS_NO_WITNESS, f"{payload.owner_id} is a witness", field="$.payload.owner_id")
    _check_root_name(payload.owner_id, "$.payload.owner_id")
    _fresh_key(state, payload.key)
    _no_cosigner(state, bytes.fromhex(payload.key), "$.payload.key")
    if signing.key_id(bytes.fromhex(payload.key)) in state.keyed:
        raise Refused(Code.WITNESS_TAKEN, "this key is a licence owner's", field="$.payload.key")


def _check_root_name(name: str, field: str) -> None:
    """No licence names a peer, so a Root that was called like one would never get its own."""
    if peers.is_peer(name):
        raise Refused(Code.RECORD_INVALID, "a peer's name is no Root's", field=field)


def _no_cosigner(state: Governance, public: bytes, field: str) -> None:
    wanted = () if state.quorum is None else state.quorum.checkpoint_witnesses.cosigners
    if public in {note.VerifierKey.parse(cosigner.vkey).public_key for cosigner in wanted}:
        raise Refused(Code.WITNESS_TAKEN, "this key cosigns checkpoints", field=field)


def check_same_log(state: Governance, payload: object) -> None:
    """A change of the log's key names this log, and a key that can sign its checkpoints."""
    for change in system.changes_in(payload):
        if isinstance(change.payload, system.LogKey):
            key = _log_vkey(change.payload.vkey, f"{change.path}.vkey")
            if key.name != note.VerifierKey.parse(state.log_key).name:
                raise Refused(Code.RECORD_INVALID, "the key of another log", field=f"{change.path}.vkey")


def _log_vkey(text: str, field: str) -> note.VerifierKey:
    try:
        key = note.VerifierKey.parse(text)
    except note.NoteError as error:
        raise Refused(Code.RECORD_INVALID, str(error), field=field) from error
    if key.type != note.ED25519:
        raise Refused(Code.RECORD_INVALID, "not a log's key (Ed25519, type 0x01)", field=field)
    return key


def _check_threshold(quorum: system.QuorumPolicy, witnesses: Collection[WitnessEntry]) -> None:
    """k of n with k ≥ 1, 2k > n, so that no two quorums are disjoint, and k ≤ n, without the personas beyond the cap, so that it can be
    reached; overrides only raise."""
    count = len(witnesses)
    personas = sum(entry.persona for entry in witnesses)
    most = count - max(0, personas - quorum.persona_cap)
    for k in (quorum.k, *quorum.kinds.values()):
        if not quorum.k <= k <= most or 2 * k <= count:
            raise Refused(
                Code.THRESHOLD_INVALID,
                f"{k} of {count} is no quorum" + (f": only {most} may count" if most < count else ""),
                field="$.payload.k",
                detail={"k": k, "n": count, "personas": personas},
            )


def _check_access_policy(payload: system.AccessPolicyChange) -> None:
    for name, rung in payload.policy.rungs.items():
        command = _policed(name, f"$.payload.policy.rungs.{name}")
        if not rung.includes(command.rung):
            raise Refused(
                Code.RECORD_INVALID,
                f"{name} needs at least {command.rung}",
                field=f"$.payload.policy.rungs.{name}",
            )
    for name in payload.policy.thresholds:
        _policed(name, f"$.payload.policy.thresholds.{name}")
    for name in payload.policy.reviews:
        command = _policed(name, f"$.payload.policy.reviews.{name}")
        if not command.scored or command.name.startswith(approvals.FAMILY):
            raise Refused(
                Code.RECORD_INVALID,
                f"{name} brakes, or approves: it is never reviewed",
                field=f"$.payload.policy.reviews.{name}",
            )


def _policed(name: str, field: str) -> Command[Any, Any]:
    """The command that a policy's entry speaks of."""
    named, module = policy.command_of(name)
    command = catalogue.COMMANDS.get(named)
    if command is None:
        raise Refused(Code.RECORD_INVALID, f"no command {named!r}", field=field)
    if module is not None and command.module_field is None:
        raise Refused(Code.RECORD_INVALID, f"{named} runs no modules", field=field)
    return command


# Audit


def _admit_audit(
    state: Governance, checked: Checked, now_ms: int, decided: DecisionRow | None, author: AuthorCheck
) -> None:
    _check_audit_author(state, checked, author)
    head = state.chains.get(checked.header.key_id)
    if checked.core.prev != head:
        raise Refused(Code.STALE_PREV, "prev is not this key's newest audit record", detail={"head": head})
    if checked.kind.effect and not _is_root_licence(checked.payload):
        row = _check_decision(state, checked, decided, now_ms)
        service = catalogue.COMMANDS[row.command].service
        if checked.payload.request is None or state.keys[checked.header.key_id].name != service:
            raise Refused(Code.DECISION_MISMATCH, f"{service} owns {row.command} and says for which call")
        if isinstance(checked.payload, audit.ApprovalDecided):
            _check_approver(checked.payload, row)
        if isinstance(checked.payload, audit.ProposalOpened):
            candidates.check(checked.payload, row.candidates)
    _check_audit_payload(state, checked, now_ms)


def _check_audit_author(state: Governance, checked: Checked, author: AuthorCheck) -> None:
    kind = checked.kind
    entry = _active_key(state, checked)
    if kind.service_signed:
        payload = checked.payload
        if entry.role != "service" or entry.name != payload.service:
            raise Refused(Code.KEY_NOT_ALLOWED, f"only {payload.service}'s own key introduces its instances")
    elif entry.role != "instance" or entry.name not in kind.authors:
        raise Refused(Code.KIND_NOT_ALLOWED, f"{entry.role} {entry.name} doesn't author {kind.tag}")
    author(checked.header, checked.core_bytes, entry.public)
    if checked.header.witnesses:
        raise Refused(Code.RECORD_INVALID, "only system records carry witnesses", field="$.header.witnesses")


def _check_audit_payload(state: Governance, checked: Checked, now_ms: int | None) -> None:
    match checked.payload:
        case audit.InstanceOpened() as payload:
            _fresh_key(state, payload.key)
        case audit.DecisionBatch() as payload:
            for index, frozen in enumerate(payload.decisions):
                field = f"$.payload.decisions[{index}]"
                _check_chain(state, frozen, now_ms, field)
                if frozen.chain.approval is not None and frozen.chain.verdict is decision.Verdict.ALLOW:
                    raise Refused(
                        Code.RECORD_INVALID, "an Allow by approval stands in a record of its own", field=field
                    )
                _check_judged(state, frozen.chain, field)
        case audit.ApprovedDecision() as payload:
            _check_chain(state, payload.decision, now_ms, "$.payload.decision")
            approvals.check(state, payload.decision.chain, "$.payload.decision")
            _check_judged(state, payload.decision.chain, "$.payload.decision")
        case audit.ApprovalDecided() as payload:
            _check_approval(state, payload, now_ms)
        case audit.LicenceIssued() as payload:
            _check_issued(state, checked, payload)
        case audit.LicenceRevoked() as payload:
            entry = state.issued(payload.license_id)
            if entry is None:
                raise Refused(Code.LICENSE_NOT_FOUND, "the log never issued it", field="$.payload.license_id")
            if entry.table.loa is Loa.ROOT:
                raise Refused(Code.ROOT_IS_SINGLE, "Root's licence can't be revoked", field="$.payload.license_id")
            if entry.revoked_seq is not None:
                raise Refused(Code.LICENSE_REVOKED, "it is revoked already", field="$.payload.license_id")
        case audit.KeyRevoked() as payload:
            role = revocable(state, payload.key_id).role
            if role != payload.role:
                raise Refused(Code.RECORD_INVALID, f"it is the key of a {role}", field="$.payload.role")
        case _:
            enrolling.check(state, checked)


def _check_approver(payload: audit.ApprovalDecided, row: DecisionRow) -> None:
    """The word is the caller's of the command that says it."""
    command = approvals.APPROVE if payload.verdict == "approved" else approvals.REFUSE
    if (row.command, row.owner, row.licence_id) != (command, payload.approver, payload.licence):
        raise Refused(Code.DECISION_MISMATCH, "the decision is for another approver, or another word")


def _check_approval(state: Governance, payload: audit.ApprovalDecided, now_ms: int | None) -> None:
    """One word a review, by a mentor who is somebody else, in time."""
    if payload.review in state.approvals:
        raise Refused(Code.REVIEW_UNKNOWN, "this review was decided already", field="$.payload.review")
    reason = approvals.approver_fault(state, payload.licence, payload.approver, payload.owner, now_ms)
    if reason is not None:
        raise Refused(reason, f"{payload.approver} has no say in this", field="$.payload.approver")
    if now_ms is not None and now_ms >= _time(payload.not_after):
        raise Refused(
            Code.APPROVAL_EXPIRED, f"the review was open until {payload.not_after}", field="$.payload.not_after"
        )
    _time(payload.not_after)


def revocable(state: Governance, key_id: str) -> KeyEntry:
    """The key, if `keys/revoke` may end it now: a service's or an instance's, and still speaking. Root's key and the log's end
    by their successor, witnesses' keys by the registry."""
    entry = state.key(key_id)
    if entry is None:
        raise Refused(Code.KEY_UNKNOWN, "the log never knew this key", field="$.key_id")
    if entry.role not in {"service", "instance"}:
        raise Refused(
            Code.KEY_NOT_REVOCABLE, f"the key of {entry.role} {entry.name} ends in another way", field="$.key_id"
        )
    if not entry.active:
        raise Refused(
            Code.KEY_ENDED, f"it ended at seq {entry.until_seq}", field="$.key_id", detail={"seq": entry.until_seq}
        )
    return entry


def check_positions(checked: Checked, seq: int) -> None:
    """No decision was judged by a log that is longer than the one it stands in, at `seq`."""
    for index, frozen in enumerate(audit.decisions_in(checked.payload)):
        if frozen.chain.as_of > seq:
            why = f"judged at {frozen.chain.as_of}, ahead of the log"
            raise Refused(Code.RECORD_INVALID, why, field=f"$.payload.decisions[{index}].chain.as_of")


def _check_chain(state: Governance, frozen: decision.FrozenChain, now_ms: int | None, field: str) -> None:
    """A decision may enter only as it was frozen; an Allow only if nothing that it stands on moved since `as_of`."""
    chain = frozen.chain
    if not decision.intact(frozen):
        raise Refused(Code.RECORD_INVALID, "content_hash doesn't match the chain", field=f"{field}.content_hash")
    ts_ms = _time(chain.audit.ts)
    if chain.verdict is decision.Verdict.ALLOW:
        _check_allow(state, chain, ts_ms, now_ms, field)


def _check_judged(state: Governance, chain: decision.ReasoningChain, field: str) -> None:
    """As anyone would judge it again, by the law in force here: a gate that lies isn't heard."""
    differences = gate.recompute(state, chain, catalogue.COMMANDS.get(chain.command))
    if differences:
        raise Refused(Code.RECORD_INVALID, f"the log gives another decision: {differences[0]}", field=field)


def _check_allow(state: Governance, chain: decision.ReasoningChain, ts_ms: int, now_ms: int | None, field: str) -> None:
    entry = state.issued(chain.audit.licence)
    if not all(step.passed for step in chain.steps):
        raise Refused(Code.RECORD_INVALID, "an Allow whose own steps don't allow", field=field)
    known = state.peer_of(chain.audit.licence) if entry is None else entry.table.owner.id == chain.audit.owner
    if not known:
        raise Refused(Code.RECORD_INVALID, "an Allow for a licence that the log doesn't know so", field=field)
    revoked = entry is not None and entry.revoked_seq is not None
    if revoked or gate.overtaken(state, chain) or state.session_closed(chain.audit.session):
        raise Refused(Code.STALE_DECISION, "licence, peer, session, policy or model moved since as_of", field=field)
    if now_ms is not None and abs(now_ms - ts_ms) > DECISION_SKEW_MS:
        raise Refused(Code.STALE_DECISION, "judged too long ago, or by another clock", field=field)
    if entry is not None and ts_ms >= _time(entry.table.expires_at):
        raise Refused(Code.STALE_DECISION, "the licence expired", field=field)


def _check_issued(state: Governance, checked: Checked, payload: audit.LicenceIssued) -> None:
    table = payload.license
    if payload.content_hash != licence.content_hash(table):
        raise Refused(Code.RECORD_INVALID, "content_hash doesn't match", field="$.payload.content_hash")
    if table.bindings != licence.Bindings(runtime_id=state.runtime_id, canon_fingerprint=state.genesis_hash):
        raise Refused(Code.RECORD_INVALID, "bound to another deployment", field="$.payload.license.bindings")
    if peers.is_peer(table.owner.id):
        raise Refused(Code.RECORD_INVALID, "a peer's name is no licensee's", field="$.payload.license.owner.id")
    if table.id in state.licences or table.id in state.enrolments:
        raise Refused(Code.ID_TAKEN, "this licence id is taken", field="$.payload.license.id")
    for moment in (table.issued_at, table.expires_at):
        _time(moment)
    if table.owner.key is not None:
        signing.strong_key(table.owner.key, "$.payload.license.owner.key")
    _check_renewal(state, checked, payload)
    if table.loa is Loa.ROOT:
        _check_root_licence(state, checked, table)
    elif table.loa is Loa.MENTOR:
        root = bytes.fromhex(state.root.key)
        own = table.owner.key is not None and not state.was_root(bytes.fromhex(table.owner.key))
        if not own or table.owner.id == state.root.owner_id:
            raise Refused(Code.RECORD_INVALID, "a mentor has a key of its own", field="$.payload.license.owner")
        if payload.root_signature is None or not licence.root_signed(table, payload.root_signature, root):
            raise Refused(Code.SIGNATURE_INVALID, "a mentor licence carries Root's own signature")
    if table.owner.key is not None:
        check_one_name(state, table.owner.key, table.owner.id, "$.payload.license.owner.key")


def _check_renewal(state: Governance, checked: Checked, payload: audit.LicenceIssued) -> None:
    """A renewal names what it renews, and makes nobody more than they were: owner, level, scope and key stay, and the end comes later."""
    renewed = checked.core.link(licensing.RENEWS)
    asked = None if payload.request is None else payload.request.command
    if (asked == licensing.RENEW.name) != (renewed is not None):
        raise Refused(Code.RECORD_INVALID, "a renewal, and nothing else, links what it renews", field=_LINKS)
    if renewed is None:
        return
    entry = state.issued(renewed)
    if entry is None:
        raise Refused(Code.LICENSE_NOT_FOUND, "the log never issued what is renewed", field=_LINKS)
    if entry.table.loa is Loa.ROOT:
        raise Refused(Code.ROOT_IS_SINGLE, "Root's licence isn't renewed", field=_LINKS)
    if entry.revoked_seq is not None:
        raise Refused(Code.LICENSE_REVOKED, "what is renewed was revoked", field=_LINKS)
    old, new = entry.table, payload.license
    if (old.owner, old.loa, old.scope) != (new.owner, new.loa, new.scope):
        raise Refused(Code.RECORD_INVALID, "a renewal keeps owner, level, scope and key", field="$.payload.license")
    if _time(new.expires_at) <= _time(old.expires_at):
        raise Refused(Code.RECORD_INVALID, "a renewal ends later", field="$.payload.license.expires_at")


def check_one_name(state: Governance, key: str, name: str, field: str) -> None:
    """One key, one name: who had two could be their own mentor, or two witnesses."""
    others = state.names_of(bytes.fromhex(key)) - {name}
    if others:
        raise Refused(Code.WITNESS_TAKEN, f"this key is {min(others)}'s", field=field)


def _is_root_licence(payload: object) -> bool:
    return isinstance(payload, audit.LicenceIssued) and payload.license.loa is Loa.ROOT


def _check_root_licence(state: Governance, checked: Checked, table: licence.LicenceTable) -> None:
    """Root's licence follows the record that names Root, once; it stands on that record instead of a decision."""
    owner = (table.owner.id, table.owner.key)
    ended = all(entry.table.loa is not Loa.ROOT or entry.revoked_seq is not None for entry in state.licences.values())
    if not ended or owner != (state.root.owner_id, state.root.key):
        raise Refused(Code.ROOT_IS_SINGLE, "Root exists and is single")
    label, target = root_link(state)
    if checked.core.link(label) != target:
        raise Refused(Code.RECORD_INVALID, f"Root's licence links {label}", field="$.header.core.links")


def root_link(state: Governance) -> tuple[str, str]:
    """What Root's licence links: the record that names Root, genesis or the newest `root_key`."""
    return "genesis" if len(state.roots) == 1 else "root_key", state.root_entry.record_hash


# User


def _entitled(state: Governance, checked: Checked, decided: DecisionRow | None, now_ms: int) -> DecisionRow:
    """What a `user` record stands on: a decision, or an order of the quorum."""
    if decided is not None and decided.command == ORDER:
        return _check_order(state, checked, decided, now_ms)
    return _check_decision(state, checked, decided, now_ms)


def _admit_user(
    state: Governance, checked: Checked, row: DecisionRow, thing_head: str | None, author: AuthorCheck
) -> None:
    ordered = row.command == ORDER
    entry = state.key(checked.header.key_id)
    if entry is not None and entry.active and entry.role == "instance":
        service = knowledge.SERVICE if ordered else catalogue.COMMANDS[row.command].service
        if entry.name != service or entry.name not in checked.kind.authors:
            raise Refused(Code.KEY_NOT_ALLOWED, f"{entry.name} doesn't write for {row.command}")
        if not ordered and not checked.erased and checked.payload.request is None:
            raise Refused(Code.DECISION_MISMATCH, "a service says for which call it writes", field="$.payload.request")
        public = entry.public
    else:
        public = _person_key(state, checked, row)
    author(checked.header, checked.core_bytes, public)
    if checked.header.witnesses:
        raise Refused(Code.RECORD_INVALID, "only system records carry witnesses", field="$.header.witnesses")
    if not checked.erased and checked.kind.subject(checked.payload) != row.owner:
        raise Refused(Code.DECISION_MISMATCH, "the decision is for another caller", field="$.payload.owner")
    if checked.core.prev != thing_head:
        raise Refused(Code.STALE_PREV, "prev is not this thing's newest version", detail={"head": thing_head})


def _person_key(state: Governance, checked: Checked, row: DecisionRow) -> bytes:
    """The key of a person who signed a finished record: their licence names it, and the decision names this record."""
    entry = state.issued(row.licence_id)
    if entry is None or entry.table.owner.key is None:
        raise Refused(Code.KEY_NOT_ALLOWED, "the log doesn't let this key speak here")
    public = bytes.fromhex(entry.table.owner.key)
    if signing.key_id(public) != checked.header.key_id:
        raise Refused(Code.KEY_NOT_ALLOWED, "signed by neither the service nor the licence's owner")
    if entry.revoked_seq is not None:
        # What a service does for a call that was let in before is the service's word; this key has none any more.
        raise Refused(Code.KEY_NOT_ALLOWED, "the licence that names this key was revoked", field="$.header.key_id")
    if row.effect != checked.core.id:
        raise Refused(Code.DECISION_MISMATCH, "the decision doesn't name this record")
    return public


# Shared by effects


def _check_decision(state: Governance, checked: Checked, row: DecisionRow | None, now_ms: int) -> DecisionRow:
    """One decision, one append: committed, an Allow, for this command, kind and parameters, unused, and recent."""
    if row is None:
        raise Refused(Code.DECISION_UNKNOWN, f"{checked.core.kind} links no committed decision that allows it")
    if row.used_by is not None:
        raise Refused(Code.DECISION_USED, "another append used this decision")
    caller = state.issued(row.licence_id)
    if caller is not None and caller.table.loa is Loa.ROOT and caller.revoked_seq is not None:
        raise Refused(Code.DECISION_UNKNOWN, "it was a Root's who was replaced since")
    if row.command == ORDER:
        raise Refused(Code.KIND_NOT_ALLOWED, f"an order to erase doesn't write {checked.core.kind}")
    command = catalogue.COMMANDS[row.command]
    if checked.core.kind not in command.writes:
        raise Refused(Code.KIND_NOT_ALLOWED, f"{row.command} doesn't write {checked.core.kind}")
    request = getattr(checked.payload, "request", None)
    if request is not None and (request.command, request.digest) != (row.command, row.digest):
        raise Refused(Code.DECISION_MISMATCH, "the decision is for another command or other parameters")
    # Without a link it can't be found again but by the id that it names.
    named = row.effect == checked.core.id
    if not named and (checked.core.link("decision") is None or (request is None and not checked.erased)):
        raise Refused(Code.DECISION_MISMATCH, "the decision doesn't name this record")
    if now_ms - row.ts_ms > max(DECISION_AGE_MS, command.longest_run_s * 1000):
        raise Refused(Code.DECISION_UNKNOWN, "the decision is too old")
    if row.ts_ms - now_ms > DECISION_AGE_MS:
        raise Refused(Code.DECISION_UNKNOWN, "the decision lies ahead: the clock was set back")
    return row


def _check_order(state: Governance, checked: Checked, row: DecisionRow, now_ms: int) -> DecisionRow:
    """One order, one erasure: of the thing that it names, by nobody's request, unused, and before its end."""
    payload, order = checked.payload, state.orders.get(row.record)
    if order is None:
        raise Refused(Code.DECISION_UNKNOWN, "the log knows no such order")
    if row.used_by is not None:
        raise Refused(Code.DECISION_USED, "the order was carried out already")
    if not isinstance(payload, user.Erasure):
        raise Refused(Code.KIND_NOT_ALLOWED, f"an order to erase doesn't write {checked.core.kind}")
    if payload.request is not None or (payload.owner, payload.kind, payload.key) != (
        order.owner,
        order.kind,
        order.key,
    ):
        raise Refused(Code.DECISION_MISMATCH, "the order is for another thing", field="$.payload.key")
    if now_ms >= _time(order.expires_at):
        raise Refused(Code.DECISION_UNKNOWN, f"the order ended at {order.expires_at}")
    return row


def _active_key(state: Governance, checked: Checked) -> KeyEntry:
    entry = state.key(checked.header.key_id)
    if entry is None or not entry.active:
        raise Refused(Code.KEY_NOT_ALLOWED, "the log doesn't let this key speak now", field="$.header.key_id")
    return entry


def _fresh_key(state: Governance, key: str, *, name: str = "", field: str = "$.payload.key") -> None:
    """A key that is safe, has no role yet, and that no licence names as somebody else's than `name`'s."""
    public = signing.strong_key(key, field)
    if signing.key_id(public) in state.keys:
        raise Refused(Code.WITNESS_TAKEN, "this key has a role already", field=field)
    check_one_name(state, key, name, field)


def _time(text: str) -> int:
    try:
        return clock.parse_ms(text)
    except ValueError as error:
        raise Refused(Code.RECORD_INVALID, "not RFC 3339 UTC milliseconds", field="$.payload") from error
