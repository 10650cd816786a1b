"""Admission: what the one writer checks against the state of the log before a record may stand in the canon.

`record.check` has already held the record's own bytes to each other. Here, in order, for each record: tenant → may this key author
this kind in this space now → the author's signature → the rules of its space → `prev`. The first true reason is the refusal.

- `system`: Root's signature, `prev`, time, the seal, what the change itself must satisfy, and the quorum: distinct active principals with
  distinct keys over exactly these bytes. Root never counts. Threshold and set come from the log before this record.
- `audit`: an instance key that its service key introduced; that key's chain; the decision, if the kind is an effect.
- `user`: the service that owns the command, or the person whose key the licence names; the decision; the thing's previous version.

An erased payload can't be asked what it said: in a ledger that is read again, such a record is held to all that its header says. It never
enters: `record.check`, which the writer asks, takes whole records only.

There is no other path: canon_writer, followers, verifiers and the simulator call these same functions.
"""

import msgspec

from sigilcore import clock, decision, enrolling, gate, licence, note, peers, signing
from sigilcore.access import Loa
from sigilcore.contracts import catalogue
from sigilcore.governance import Governance, KeyEntry
from sigilcore.record import Checked, verify_author, verify_witness
from sigilcore.records import REGISTRY, audit, system
from sigilcore.refusals import Code, Refused

DECISION_AGE_MS = 60_000
DECISION_SKEW_MS = 2_000
BEFORE_SEAL = ("trusted_witness", "quorum_policy")


class DecisionRow(msgspec.Struct, frozen=True, kw_only=True):
    """An Allow that may still admit one append. `used_by` is the first record id of the call that used it."""

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


def decisions_of(checked: Checked, seq: int) -> list[DecisionRow]:
    """The rows that a decision batch at `seq` brings: each Allow of a command that writes."""
    if not isinstance(checked.payload, audit.DecisionBatch):
        return []
    rows = []
    for index, frozen in enumerate(checked.payload.decisions):
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
                )
            )
    return rows


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
) -> None:
    """Admit one record at the head of the log, or raise the first reason why not.

    `decided` is the row of the decision that the record links (or its call names); `thing_head` the hash of the newest version of the
    record's thing.
    """
    core = checked.core
    if not state.bootstrapped:
        raise Refused(Code.NOT_BOOTSTRAPPED, "the canon has no genesis yet")
    if core.tenant != state.tenant:
        raise Refused(Code.RECORD_INVALID, "another tenant's record", field="$.header.core.tenant")
    if core.space == "system":
        check_system(state, checked, now_ms)
    elif core.space == "audit":
        _admit_audit(state, checked, now_ms, decided)
    else:
        _admit_user(state, checked, now_ms, decided, thing_head)


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
        _check_audit_author(state, checked)
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
    log = _log_vkey(payload.log, "$.payload.log")
    keys = [payload.root.key, *payload.services.values(), log.public_key.hex()]
    if len(set(keys)) != len(keys):
        raise Refused(Code.RECORD_INVALID, "one key in two roles", field="$.payload.services")
    for key in keys:
        _strong(key, "$.payload")
    verify_author(checked.header, checked.core_bytes, bytes.fromhex(payload.root.key))


# System


def check_system(state: Governance, checked: Checked, now_ms: int | None) -> None:
    """Law 4: the whole quorum, from the log's own state. `now_ms` is None when history is read again."""
    precheck_system(state, checked, now_ms)
    have = voices(state, checked)
    need = state.need(checked.core.kind)
    if len(have) < need:
        raise Refused(
            Code.QUORUM_NOT_SATISFIED,
            f"{len(have)} of {need} voices",
            detail={"have": len(have), "need": need, "by": sorted(have)},
        )


def precheck_system(state: Governance, checked: Checked, now_ms: int | None) -> None:
    """All that must hold of a system record but its witnesses."""
    core, payload = checked.core, checked.payload
    if isinstance(payload, system.Genesis):
        raise Refused(Code.ALREADY_BOOTSTRAPPED, "there is one genesis")
    verify_author(checked.header, checked.core_bytes, bytes.fromhex(state.root.key))
    if core.prev != state.system_head:
        raise Refused(Code.STALE_PREV, "prev is not the newest system record", detail={"head": state.system_head})
    if now_ms is not None and now_ms >= _time(payload.expires_at):
        raise Refused(Code.PROPOSAL_EXPIRED, f"it expired at {payload.expires_at}", field="$.payload.expires_at")
    if not state.sealed and core.kind not in BEFORE_SEAL:
        raise Refused(Code.NOT_SEALED, f"before the seal only {' and '.join(BEFORE_SEAL)} are taken")
    _check_change(state, payload, now_ms)


def voices(state: Governance, checked: Checked) -> set[str]:
    """The distinct active principals who signed exactly these bytes; a signature that doesn't count is a refusal, not a bystander."""
    have: set[str] = set()
    seen: list[tuple[str, str]] = []
    possessed = False
    active = state.active_witnesses()
    root = signing.key_id(bytes.fromhex(state.root.key))
    joining = _joining(checked.payload)
    for index, witness in enumerate(checked.header.witnesses):
        field = f"$.header.witnesses[{index}]"
        seen.append((witness.witness_id, witness.key_id))
        if witness.key_id == root:
            raise Refused(Code.ROOT_IS_NO_WITNESS, "Root's key never counts as a witness", field=field)
        entry = active.get(witness.witness_id)
        if entry is not None and signing.key_id(entry.key) == witness.key_id:
            public = entry.key
            have.add(witness.witness_id)
        elif joining is not None and (witness.witness_id, witness.key_id) == joining[:2]:
            public = joining[2]
            possessed = True
        else:
            raise Refused(Code.WITNESS_UNKNOWN, f"{witness.witness_id} is no active witness with this key", field=field)
        if not verify_witness(witness, checked.core_bytes, public):
            raise Refused(Code.SIGNATURE_INVALID, f"the signature of {witness.witness_id} doesn't verify", field=field)
    if seen != sorted(set(seen)):
        raise Refused(Code.RECORD_INVALID, "witnesses are listed once each, in order", field="$.header.witnesses")
    if joining is not None and not possessed:
        raise Refused(
            Code.QUORUM_NOT_SATISFIED,
            f"{joining[0]} has not proven its new key",
            detail={"have": len(have), "need": state.need(checked.core.kind), "possession": joining[0]},
        )
    return have


def _joining(payload: object) -> tuple[str, str, bytes] | None:
    """Principal, key id and key that must prove possession, for a joining or rotating witness."""
    if not isinstance(payload, system.TrustedWitness) or payload.action == "revoke":
        return None
    public = bytes.fromhex(payload.key)
    return payload.witness_id, signing.key_id(public), public


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
        case _:
            pass


def _check_witness(state: Governance, payload: system.TrustedWitness, now_ms: int | None) -> None:
    active = state.active_witnesses()
    current = active.get(payload.witness_id)
    if payload.witness_id == state.root.owner_id or payload.key == state.root.key:
        raise Refused(Code.ROOT_IS_NO_WITNESS, "Root is no witness", field="$.payload.witness_id")
    if payload.action == "add" and current is not None:
        raise Refused(Code.WITNESS_TAKEN, f"{payload.witness_id} is a witness already", field="$.payload.witness_id")
    if payload.action != "add" and current is None:
        raise Refused(Code.WITNESS_UNKNOWN, f"{payload.witness_id} is no active witness", field="$.payload.witness_id")
    if payload.action == "revoke":
        _check_count(state, len(active) - 1)
        return
    _fresh_key(state, payload.key)
    others = {entry.name for name, entry in active.items() if name != payload.witness_id}
    if payload.name in others:
        raise Refused(Code.WITNESS_TAKEN, f"the name {payload.name!r} is taken", field="$.payload.name")
    if payload.action == "add":
        _check_mentor(state, payload, now_ms)
        _check_count(state, len(active) + 1)


def _check_mentor(state: Governance, payload: system.TrustedWitness, now_ms: int | None) -> None:
    entry = state.issued(payload.licence_id)
    if entry is None or entry.table.loa is not Loa.MENTOR or entry.table.owner.id != payload.witness_id:
        raise Refused(Code.LICENSE_INVALID, "a witness holds a mentor licence of its own", field="$.payload.licence_id")
    reason = None if now_ms is None else licence.standing_reason(entry.table, entry, now_ms)
    if reason is not None or entry.revoked_seq is not None:
        raise Refused(
            Code.LICENSE_INVALID, f"the mentor licence is {reason or 'REVOKED'}", field="$.payload.licence_id"
        )


def _check_count(state: Governance, count: int) -> None:
    if state.quorum is not None:
        _check_threshold(state.quorum, count)


def _check_quorum_policy(state: Governance, payload: system.QuorumPolicy) -> None:
    for kind in payload.kinds:
        if kind not in REGISTRY or REGISTRY[kind].space != "system":
            raise Refused(Code.RECORD_INVALID, f"{kind} is no system kind", field=f"$.payload.kinds.{kind}")
    _check_cosigners(state, payload.checkpoint_witnesses)
    _check_threshold(payload, len(state.active_witnesses()))


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
        _strong(key.public_key.hex(), field)
        if key.public_key in taken or signing.key_id(key.public_key) in state.keys:
            raise Refused(Code.THRESHOLD_INVALID, "this key has a role already", field=field)
        taken.add(key.public_key)


def _check_log_key(state: Governance, payload: system.LogKey) -> None:
    """The same log's name over a key of its own: safe, new, and no cosigner's."""
    check_same_log(state, payload)
    key, field = note.VerifierKey.parse(payload.vkey), "$.payload.vkey"
    _fresh_key(state, key.public_key.hex())
    wanted = () if state.quorum is None else state.quorum.checkpoint_witnesses.cosigners
    if key.public_key in {note.VerifierKey.parse(cosigner.vkey).public_key for cosigner in wanted}:
        raise Refused(Code.WITNESS_TAKEN, "this key cosigns checkpoints", field=field)


def check_same_log(state: Governance, payload: object) -> None:
    """A change of the log's key names this log, and a key that can sign its checkpoints."""
    if isinstance(payload, system.LogKey):
        key = _log_vkey(payload.vkey, "$.payload.vkey")
        if key.name != note.VerifierKey.parse(state.log_key).name:
            raise Refused(Code.RECORD_INVALID, "the key of another log", field="$.payload.vkey")


def _log_vkey(text: str, field: str) -> note.VerifierKey:
    try:
        key = note.VerifierKey.parse(text)
    except note.NoteError as error:
        raise Refused(Code.RECORD_INVALID, str(error), field=field) from error
    if key.type != note.ED25519:
        raise Refused(Code.RECORD_INVALID, "not a log's key (Ed25519, type 0x01)", field=field)
    return key


def _check_threshold(quorum: system.QuorumPolicy, count: int) -> None:
    """k of n with k ≥ 1, k ≤ n and 2k > n, so that no two quorums are disjoint; overrides only raise."""
    for k in (quorum.k, *quorum.kinds.values()):
        if not quorum.k <= k <= count or 2 * k <= count:
            raise Refused(
                Code.THRESHOLD_INVALID,
                f"{k} of {count} is no quorum",
                field="$.payload.k",
                detail={"k": k, "n": count},
            )


def _check_access_policy(payload: system.AccessPolicyChange) -> None:
    for name, rung in payload.policy.rungs.items():
        command = catalogue.COMMANDS.get(name)
        if command is None:
            raise Refused(Code.RECORD_INVALID, f"no command {name!r}", field=f"$.payload.policy.rungs.{name}")
        if not rung.includes(command.rung):
            raise Refused(
                Code.RECORD_INVALID,
                f"{name} needs at least {command.rung}",
                field=f"$.payload.policy.rungs.{name}",
            )
    for name in payload.policy.thresholds:
        if name not in catalogue.COMMANDS:
            raise Refused(Code.RECORD_INVALID, f"no command {name!r}", field=f"$.payload.policy.thresholds.{name}")


# Audit


def _admit_audit(state: Governance, checked: Checked, now_ms: int, decided: DecisionRow | None) -> None:
    _check_audit_author(state, checked)
    head = state.chains.get(checked.header.key_id)
    if checked.core.prev != head:
        raise Refused(Code.STALE_PREV, "prev is not this key's newest audit record", detail={"head": head})
    if checked.kind.effect and not _is_root_licence(checked.payload):
        row = _check_decision(checked, decided, now_ms)
        service = catalogue.COMMANDS[row.command].service
        if checked.payload.request is None or state.keys[checked.header.key_id].name != service:
            raise Refused(Code.DECISION_MISMATCH, f"{service} owns {row.command} and says for which call")
    _check_audit_payload(state, checked, now_ms)


def _check_audit_author(state: Governance, checked: Checked) -> None:
    kind = checked.kind
    entry = _active_key(state, checked)
    if kind.service_signed:
        payload = checked.payload
        if entry.role != "service" or entry.name != payload.service:
            raise Refused(Code.KEY_NOT_ALLOWED, f"only {payload.service}'s own key introduces its instances")
    elif entry.role != "instance" or entry.name not in kind.authors:
        raise Refused(Code.KIND_NOT_ALLOWED, f"{entry.role} {entry.name} doesn't author {kind.tag}")
    verify_author(checked.header, checked.core_bytes, entry.public)
    if checked.header.witnesses:
        raise Refused(Code.RECORD_INVALID, "only system records carry witnesses", field="$.header.witnesses")


def _check_audit_payload(state: Governance, checked: Checked, now_ms: int | None) -> None:
    match checked.payload:
        case audit.InstanceOpened() as payload:
            _fresh_key(state, payload.key)
        case audit.DecisionBatch() as payload:
            for index, frozen in enumerate(payload.decisions):
                _check_chain(state, frozen, now_ms, f"$.payload.decisions[{index}]")
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


def revocable(state: Governance, key_id: str) -> KeyEntry:
    """The key, if `keys/revoke` may end it now: a service's or an instance's, and still speaking. Root's key ends by nothing; witnesses'
    keys by the registry; the log's by its successor."""
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


def _check_chain(state: Governance, frozen: decision.FrozenChain, now_ms: int | None, field: str) -> None:
    """A decision may enter only as it was frozen; an Allow only if nothing it stands on moved since `as_of`."""
    chain = frozen.chain
    if not decision.intact(frozen):
        raise Refused(Code.RECORD_INVALID, "content_hash doesn't match the chain", field=f"{field}.content_hash")
    if chain.verdict is not decision.Verdict.ALLOW:
        return
    command = catalogue.COMMANDS.get(chain.command)
    entry = state.issued(chain.audit.licence)
    if command is None or not all(step.passed for step in chain.steps):
        raise Refused(Code.RECORD_INVALID, "an Allow whose own steps don't allow", field=field)
    if entry is None and state.peer_of(chain.audit.licence) is not None:
        _check_peer_chain(state, chain, now_ms, field)
        return
    if entry is None or entry.table.owner.id != chain.audit.owner or entry.table.loa is not chain.audit.loa:
        raise Refused(Code.RECORD_INVALID, "an Allow for a licence that the log doesn't know so", field=field)
    if not chain.audit.loa.includes(command.rung):
        raise Refused(Code.RECORD_INVALID, "an Allow below the command's rung", field=field)
    moved = (
        entry.changed_seq >= chain.as_of
        or state.policy_seq >= chain.as_of
        or state.model_seq >= chain.as_of
        or state.closed_sessions.get(chain.audit.session, -1) >= 0
        or entry.revoked_seq is not None
    )
    if moved:
        raise Refused(Code.STALE_DECISION, "licence, session, policy or model moved since as_of", field=field)
    ts_ms = _time(chain.audit.ts)
    if now_ms is not None and abs(now_ms - ts_ms) > DECISION_SKEW_MS:
        raise Refused(Code.STALE_DECISION, "judged too long ago, or by another clock", field=field)
    if ts_ms >= _time(entry.table.expires_at):
        raise Refused(Code.STALE_DECISION, "the licence expired", field=field)


def _check_peer_chain(state: Governance, chain: decision.ReasoningChain, now_ms: int | None, field: str) -> None:
    """A peer's Allow stands on its tier and its grant, and both are in the log: it is judged again, whole."""
    if gate.overtaken(state, chain) or state.session_closed(chain.audit.session):
        raise Refused(Code.STALE_DECISION, "peer, mark, session, policy or model moved since as_of", field=field)
    if now_ms is not None and abs(now_ms - _time(chain.audit.ts)) > DECISION_SKEW_MS:
        raise Refused(Code.STALE_DECISION, "judged too long ago, or by another clock", field=field)
    differences = gate.recompute(state, chain, catalogue.COMMANDS.get(chain.command))
    if differences:
        raise Refused(Code.RECORD_INVALID, f"an Allow that the log doesn't give: {differences[0]}", field=field)


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
    if table.owner.key is not None:
        _strong(table.owner.key, "$.payload.license.owner.key")
    if table.loa is Loa.ROOT:
        _check_root_licence(state, checked, table)
    elif table.loa is Loa.MENTOR:
        root = bytes.fromhex(state.root.key)
        if table.owner.key is None or table.owner.key == state.root.key or table.owner.id == state.root.owner_id:
            raise Refused(Code.RECORD_INVALID, "a mentor has a key of its own", field="$.payload.license.owner")
        if payload.root_signature is None or not licence.root_signed(table, payload.root_signature, root):
            raise Refused(Code.SIGNATURE_INVALID, "a mentor licence carries Root's own signature")


def _is_root_licence(payload: object) -> bool:
    return isinstance(payload, audit.LicenceIssued) and payload.license.loa is Loa.ROOT


def _check_root_licence(state: Governance, checked: Checked, table: licence.LicenceTable) -> None:
    """Root's licence follows genesis, once; it stands on genesis instead of a decision."""
    owner = (table.owner.id, table.owner.key)
    single = all(entry.table.loa is not Loa.ROOT for entry in state.licences.values())
    if not single or owner != (state.root.owner_id, state.root.key):
        raise Refused(Code.ROOT_IS_SINGLE, "Root exists and is single for ever")
    if checked.core.link("genesis") != state.genesis_hash:
        raise Refused(Code.RECORD_INVALID, "Root's licence links genesis", field="$.header.core.links")


# User


def _admit_user(
    state: Governance, checked: Checked, now_ms: int, decided: DecisionRow | None, thing_head: str | None
) -> None:
    row = _check_decision(checked, decided, now_ms)
    entry = state.key(checked.header.key_id)
    if entry is not None and entry.active and entry.role == "instance":
        command = catalogue.COMMANDS[row.command]
        if entry.name != command.service or entry.name not in checked.kind.authors:
            raise Refused(Code.KEY_NOT_ALLOWED, f"{entry.name} doesn't write for {row.command}")
        if not checked.erased and checked.payload.request is None:
            raise Refused(Code.DECISION_MISMATCH, "a service says for which call it writes", field="$.payload.request")
        public = entry.public
    else:
        public = _person_key(state, checked, row)
    verify_author(checked.header, checked.core_bytes, public)
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
    if row.effect != checked.core.id:
        raise Refused(Code.DECISION_MISMATCH, "the decision doesn't name this record")
    return public


# Shared by effects


def _check_decision(checked: Checked, row: DecisionRow | None, now_ms: int) -> DecisionRow:
    """One decision, one append: committed, an Allow, for this command, kind and parameters, unused, and recent."""
    if row is None:
        raise Refused(Code.DECISION_UNKNOWN, f"{checked.core.kind} links no committed decision that allows it")
    if row.used_by is not None:
        raise Refused(Code.DECISION_USED, "another append used this decision")
    command = catalogue.COMMANDS[row.command]
    if checked.core.kind not in command.writes:
        raise Refused(Code.KIND_NOT_ALLOWED, f"{row.command} doesn't write {checked.core.kind}")
    request = getattr(checked.payload, "request", None)
    if request is not None and (request.command, request.digest) != (row.command, row.digest):
        raise Refused(Code.DECISION_MISMATCH, "the decision is for another command or other parameters")
    if request is None and not checked.erased and row.effect != checked.core.id:
        raise Refused(Code.DECISION_MISMATCH, "the decision doesn't name this record")
    if now_ms - row.ts_ms > max(DECISION_AGE_MS, command.longest_run_s * 1000):
        raise Refused(Code.DECISION_UNKNOWN, "the decision is too old")
    return row


def _active_key(state: Governance, checked: Checked) -> KeyEntry:
    entry = state.key(checked.header.key_id)
    if entry is None or not entry.active:
        raise Refused(Code.KEY_NOT_ALLOWED, "the log doesn't let this key speak now", field="$.header.key_id")
    return entry


def _fresh_key(state: Governance, key: str) -> None:
    """A key that is safe and has no role yet."""
    public = _strong(key, "$.payload.key")
    if signing.key_id(public) in state.keys:
        raise Refused(Code.WITNESS_TAKEN, "this key has a role already", field="$.payload.key")


def _strong(key: str, field: str) -> bytes:
    try:
        return signing.check_public_key(bytes.fromhex(key))
    except signing.WeakKey as error:
        raise Refused(Code.WEAK_KEY, str(error), field=field) from error


def _time(text: str) -> int:
    try:
        return clock.parse_ms(text)
    except ValueError as error:
        raise Refused(Code.RECORD_INVALID, "not RFC 3339 UTC milliseconds", field="$.payload") from error
