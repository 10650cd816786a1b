"""The state of the log that admission reads: the fold of every governing record, in order.

Kept here: genesis, Root, the log's keys, service keys and instances, licences and revocations, closed sessions, mentors' approvals, the
witness registry, the quorum policy, the trust model, the access policy, peers with the grants issued to them and their marks, each with
the position since when; and the orders to erase. canon_writer keeps one as the authority; services keep another by following the stream;
a verifier makes one from an export. All of them fold with this one `apply`, after `admission` said yes.

Invariants:

- `apply` is called once for each record, in order of seq; it never refuses: what reaches it was admitted.
- Nothing is forgotten: keys, licences and witnesses that ended keep their entry with `until_seq`, so history keeps verifying.
- One public key has one role for ever, and a key that ended never speaks again.
- A tentative application can be undone exactly (`tentative`), which is how a call's audit records stand or fall together.
"""

import contextlib
from collections.abc import Collection, Iterator
from typing import Any, Literal

import msgspec

from sigilcore import clock, grant, licence, note, peers, policy, signing, trust
from sigilcore.access import Loa
from sigilcore.contracts import license as licensing
from sigilcore.record import Checked
from sigilcore.records import audit, system

Role = Literal["root", "log", "service", "instance", "witness", "peer"]
_ABSENT: Any = object()


class KeyEntry(msgspec.Struct, frozen=True, kw_only=True):
    """Which key spoke in which role, from `since_seq` on, up to and without `until_seq`."""

    public: bytes
    role: Role
    name: str  # service, or witness principal, or Root's owner id, or the log's origin, or the peer
    instance: str | None
    since_seq: int
    until_seq: int | None = None

    @property
    def active(self) -> bool:
        """True while it may speak."""
        return self.until_seq is None


class IssuedLicence(msgspec.Struct, frozen=True, kw_only=True):
    """A licence as the log knows it."""

    table: licence.LicenceTable
    content_hash: str
    issued_seq: int
    revoked_seq: int | None = None
    renews: str | None = None

    @property
    def changed_seq(self) -> int:
        """The last position that moved it."""
        return self.issued_seq if self.revoked_seq is None else self.revoked_seq


class Approval(msgspec.Struct, frozen=True, kw_only=True):
    """A mentor's word on one reviewed call, good for one decision."""

    approved: bool
    owner: str
    command: str
    digest: str
    approver: str
    licence: str
    not_after_ms: int
    decided_seq: int
    used_seq: int | None = None

    @property
    def changed_seq(self) -> int:
        """The last position that moved it."""
        return self.decided_seq if self.used_seq is None else self.used_seq


class WitnessEntry(msgspec.Struct, frozen=True, kw_only=True):
    """A principal's voice: one key, one name, between two positions."""

    witness_id: str
    name: str
    key: bytes
    since_seq: int
    until_seq: int | None = None
    persona: bool = False


class RootEntry(msgspec.Struct, frozen=True, kw_only=True):
    """Who became Root, by which record."""

    identity: system.RootIdentity
    record_id: str
    record_hash: str
    ts: str


class MeshTier(msgspec.Struct, frozen=True, kw_only=True):
    """The tier that a mesh's newest word gives a member, and until when."""

    tier: peers.Tier
    expires_at_ms: int | None


class PeerEntry(msgspec.Struct, frozen=True, kw_only=True):
    """A node that was enrolled; `enrolment` is the id of the record that did, which stands where a licence's id does."""

    name: str
    key: str
    tier: peers.Tier
    mesh: str
    mesh_key: str | None
    reach: audit.Reach | None
    enrolment: str
    since_seq: int
    changed_seq: int
    blocked: bool = False
    member: MeshTier | None = None

    @property
    def key_id(self) -> str:
        """Of the node's key."""
        return signing.key_id(bytes.fromhex(self.key))

    @property
    def owner_id(self) -> str:
        """How it is named where an owner is."""
        return peers.owner_id(self.key_id)

    @property
    def mesh_word(self) -> tuple[str, str, str]:
        """Under what the newest word of its mesh is remembered, however often it is enrolled."""
        return self.mesh_key or "", self.mesh, self.key

    def tier_at(self, now_ms: int) -> peers.Tier:
        """Root's block, else what the mesh says while it says it, else the enrolment's own."""
        if self.blocked:
            return peers.Tier.BLOCKED
        member = self.member
        if member is not None and (member.expires_at_ms is None or now_ms < member.expires_at_ms):
            return member.tier
        return self.tier


class GrantStands(msgspec.Struct, frozen=True, kw_only=True):
    """A peer's mark: never lowered, never forgotten. `token` is the grant that set it; null where a revocation did."""

    mark: grant.Mark
    token: str | None
    since_seq: int


class IssuedGrant(msgspec.Struct, frozen=True, kw_only=True):
    """A grant as it was issued."""

    grant: grant.CapabilityGrant
    grant_hash: str
    issued_seq: int


class Governance:
    """The fold. Read its attributes; change it by `apply` only."""

    def __init__(self) -> None:
        """Before genesis: nothing is known and nobody may speak."""
        self.size = 0
        self.genesis: system.Genesis | None = None
        self.genesis_hash = ""
        self.runtime_id = ""
        self.tenant = ""
        self.system_head: str | None = None
        self.model: trust.TrustModel | None = None
        self.model_seq = 0
        self.policy: policy.AccessPolicy | None = None
        self.policy_seq = 0
        self.quorum: system.QuorumPolicy | None = None
        self.quorum_seq = 0
        self.keys: dict[str, KeyEntry] = {}
        self.roots: dict[int, RootEntry] = {}  # the position of the record that names it → who
        self.log_keys: dict[int, str] = {}  # the position of the record that names it → vkey text
        self.services: dict[str, str] = {}  # service → the key id that a system record names; it may be revoked
        self.instances: dict[tuple[str, str], str] = {}  # (service, instance) → key id now
        self.chains: dict[str, str] = {}  # key id → hash of its newest audit record
        self.licences: dict[str, IssuedLicence] = {}
        self.keyed: dict[str, tuple[str, ...]] = {}  # key id → the licences that name its key as their owner's
        self.closed_sessions: dict[str, int] = {}
        self.orders: dict[str, system.ErasureOrder] = {}  # by record id; which are used, the decisions tell
        self.approvals: dict[str, Approval] = {}  # by the decision that asked for the review
        self.witnesses: dict[str, WitnessEntry] = {}  # principal → its newest entry
        self.witness_history: dict[tuple[str, int], WitnessEntry] = {}  # (principal, since) → entry
        self.peers: dict[str, PeerEntry] = {}  # name → its newest enrolment
        self.enrolments: dict[str, str] = {}  # record id → the peer that it enrolled
        # Mesh key, mesh, member → when the newest word was issued.
        self.mesh_words: dict[tuple[str, str, str], int] = {}
        self.grants: dict[str, IssuedGrant] = {}  # hash → grant
        self.grant_epochs: dict[str, int] = {}  # key id → the highest epoch ever issued or revoked
        self.grant_marks: dict[str, GrantStands] = {}  # key id → mark
        self._journal: list[tuple[dict[Any, Any], Any, Any]] | None = None

    # What readers ask.

    @property
    def bootstrapped(self) -> bool:
        """True from genesis on."""
        return self.genesis is not None

    @property
    def sealed(self) -> bool:
        """True once a quorum policy stands."""
        return self.quorum is not None

    @property
    def root(self) -> system.RootIdentity:
        """Who Root is now; only after genesis."""
        return self.root_entry.identity

    @property
    def root_entry(self) -> RootEntry:
        """Who Root is now, and the record that says so; only after genesis."""
        return self.roots[max(self.roots)]

    def was_root(self, public: bytes) -> bool:
        """True for the key of Root, now or before."""
        entry = self.keys.get(signing.key_id(public))
        return entry is not None and entry.role == "root"

    @property
    def log_key(self) -> str:
        """The log's verifier key now (vkey text)."""
        return self.log_keys[max(self.log_keys)]

    def log_key_at(self, size: int) -> note.VerifierKey:
        """Who signs the checkpoint of this size: the newest key that one of its records names. Only after genesis."""
        return note.VerifierKey.parse(self.log_keys[max(seq for seq in self.log_keys if seq < max(size, 1))])

    def key(self, key_id: str) -> KeyEntry | None:
        """The entry of a key that the log ever knew."""
        return self.keys.get(key_id)

    def service_key(self, service: str) -> bytes | None:
        """A service's public key now; None after it was revoked, until another is enrolled."""
        key_id = self.services.get(service)
        return self.keys[key_id].public if key_id is not None and self.keys[key_id].active else None

    def enrolled_key(self, service: str) -> bytes | None:
        """The key that system records alone name for a service, whether or not it was revoked since."""
        key_id = self.services.get(service)
        return None if key_id is None else self.keys[key_id].public

    def seal_key(self, key_id: str) -> bytes | None:
        """The public key if it is, or was, the license service's own. Whether a licence counts is decided by its issuance."""
        entry = self.keys.get(key_id)
        return entry.public if entry is not None and (entry.role, entry.name) == ("service", "license") else None

    def issued(self, licence_id: str) -> IssuedLicence | None:
        """A licence, if the log ever issued it."""
        return self.licences.get(licence_id)

    def names_of(self, public: bytes) -> set[str]:
        """Whose key this is: in a role of its own, now or ever, or by a licence that wasn't revoked."""
        key_id = signing.key_id(public)
        entry = self.keys.get(key_id)
        owners = {
            issued.table.owner.id
            for issued in map(self.licences.__getitem__, self.keyed.get(key_id, ()))
            if issued.revoked_seq is None
        }
        if entry is not None:
            owners.add(entry.name if entry.role in {"root", "witness"} else f"{entry.role} {entry.name}")
        return owners

    def session_closed(self, session_id: str) -> bool:
        """True once a session was closed."""
        return session_id in self.closed_sessions

    def peer_of(self, enrolment: str) -> PeerEntry | None:
        """The peer that a record enrolled, as it stands now; maybe by a later enrolment."""
        name = self.enrolments.get(enrolment)
        return None if name is None else self.peers[name]

    def peer_with(self, key: str) -> PeerEntry | None:
        """The peer that has this key now."""
        return next((entry for entry in self.peers.values() if entry.key == key), None)

    def mark_of(self, key_id: str) -> grant.Mark | grant.Unavailable | None:
        """A key's mark; None if there is none yet, and room for one."""
        held = self.grant_marks.get(key_id)
        if held is not None:
            return held.mark
        return grant.UNAVAILABLE if len(self.grant_marks) >= peers.MOST else None

    def marked_token(self, key_id: str, grant_hash: str) -> str | None:
        """The grant that set a key's mark, if it is this one."""
        held = self.grant_marks.get(key_id)
        return held.token if held is not None and held.mark.grant_hash == grant_hash else None

    def next_epoch(self, key_id: str) -> int:
        """Above the mark and all that was ever issued to the key."""
        held = self.grant_marks.get(key_id)
        return max(0 if held is None else held.mark.epoch, self.grant_epochs.get(key_id, 0)) + 1

    def active_witnesses(self) -> dict[str, WitnessEntry]:
        """Principals whose voice counts now."""
        return {name: entry for name, entry in self.witnesses.items() if entry.until_seq is None}

    def need(self, record: Checked) -> int:
        """Voices that a system record needs now: after the seal the most that its kind, or one that it carries, asks for; before the seal
        every witness so far."""
        if self.quorum is None:
            return len(self.active_witnesses())
        kinds = {record.core.kind, *(change.kind for change in system.changes_in(record.payload))}
        return max(self.quorum.k, *(self.quorum.kinds.get(kind, 0) for kind in kinds))

    def weight(self, names: Collection[str]) -> int:
        """How many of these witnesses' voices count together: everyone's, but of personas no more than the policy lets count."""
        personas = sum(self.witnesses[name].persona for name in names)
        cap = personas if self.quorum is None else self.quorum.persona_cap
        return len(names) - max(0, personas - cap)

    def along(self, payload: object) -> Iterator[tuple["Governance", system.Change]]:
        """Each change that a system record's payload makes, with the state that those before it leave. Such a state holds until the next is
        asked for; this one never moves."""
        changes = system.changes_in(payload)
        state = self._fork() if len(changes) > 1 else self
        for change in changes:
            yield state, change
            if state is not self:
                state._change(state.size, change.payload)  # noqa: SLF001 - a fork of our own

    def _fork(self) -> "Governance":
        """The same state, going its own way. What the tables hold is frozen, so the tables are all that is copied."""
        other = Governance()
        for name, value in self.__dict__.items():
            other.__dict__[name] = dict(value) if isinstance(value, dict) else value
        other.__dict__["_journal"] = None
        return other

    # How it moves.

    @contextlib.contextmanager
    def tentative(self) -> Iterator[None]:
        """Undo everything applied inside the block if it raises."""
        assert self._journal is None, "tentative applications don't nest"
        self._journal = []
        try:
            yield
        except BaseException:
            for table, key, old in reversed(self._journal):
                if old is _ABSENT:
                    del table[key]
                else:
                    table[key] = old
            raise
        finally:
            self._journal = None

    def apply(self, seq: int, record: Checked) -> None:
        """Fold one admitted record."""
        core, payload = record.core, record.payload
        if core.space == "system":
            self._put(system_head=record.header.hash)
        elif core.space == "audit":
            self.continue_chain(record.header.key_id, record.header.hash)
        if not record.kind.governs:
            return
        self._put(size=seq + 1)
        match payload:
            case system.Genesis():
                self._genesis(record, payload)
            case system.RootKey():
                self._root(
                    seq,
                    record,
                    system.RootIdentity(owner_id=payload.owner_id, name=payload.name, key=payload.key),
                )
            case system.ErasureOrder():
                self._set(self.orders, core.id, payload)
            case _ if core.space == "system":
                for change in system.changes_in(payload):
                    self._change(seq, change.payload)
            case audit.InstanceOpened():
                self._instance(seq, payload)
            case audit.InstanceBeat() if payload.closing:
                self._end(record.header.key_id, seq)
            case audit.KeyRevoked():
                self._revoke(seq, self.keys[payload.key_id])
            case audit.SessionClosed():
                self._set(self.closed_sessions, payload.session_id, seq)
            case audit.ApprovalDecided():
                self._approval(seq, payload)
            case audit.ApprovedDecision():
                self._use_approval(seq, payload.decision.chain.approval)
            case audit.LicenceIssued():
                entry = IssuedLicence(
                    table=payload.license,
                    content_hash=payload.content_hash,
                    issued_seq=seq,
                    renews=core.link(licensing.RENEWS),
                )
                self._set(self.licences, payload.license.id, entry)
                if payload.license.owner.key is not None:
                    key_id = _key_id(payload.license.owner.key)
                    self._set(self.keyed, key_id, (*self.keyed.get(key_id, ()), payload.license.id))
            case audit.LicenceRevoked():
                revoked = msgspec.structs.replace(self.licences[payload.license_id], revoked_seq=seq)
                self._set(self.licences, payload.license_id, revoked)
            case _:
                self._apply_grid(seq, record)

    def _change(self, seq: int, payload: object) -> None:
        """One change, alone or among several."""
        match payload:
            case system.TrustedWitness():
                self._witness(seq, payload)
            case system.QuorumPolicy():
                self._put(quorum=payload, quorum_seq=seq)
            case system.ModelConfig():
                self._put(model=payload.model, model_seq=seq)
            case system.AccessPolicyChange():
                self._put(policy=payload.policy, policy_seq=seq)
            case system.ServiceKey():
                self._service(seq, payload.service, bytes.fromhex(payload.key))
            case system.LogKey():
                self._log(seq, payload.vkey)
            case _:
                pass

    def _apply_grid(self, seq: int, record: Checked) -> None:
        payload = record.payload
        match payload:
            case audit.PeerEnrolled():
                self._peer(seq, record.core.id, payload)
            case audit.PeerBlocked():
                self._change_peer(seq, payload.peer, blocked=True)
            case audit.PeerTiered():
                said = peers.read_membership(payload.membership)
                member = MeshTier(tier=said.tier, expires_at_ms=said.expires_at_ms)
                self._set(self.mesh_words, self.peers[payload.peer].mesh_word, said.issued_at_ms)
                self._change_peer(seq, payload.peer, member=member)
            case audit.GrantIssued():
                issued = IssuedGrant(
                    grant=grant.read(payload.grant).grant, grant_hash=payload.grant_hash, issued_seq=seq
                )
                self._set(self.grants, payload.grant_hash, issued)
                self._set(self.grant_epochs, _key_id(payload.grantee_key), payload.epoch)
            case audit.GrantRevoked():
                self._set(self.grant_epochs, _key_id(payload.grantee_key), payload.epoch)
                self._mark(seq, payload.grantee_key, grant.Mark(epoch=payload.epoch, grant_hash=None), None)
            case audit.GrantMark():
                mark = grant.Mark(epoch=payload.epoch, grant_hash=payload.grant_hash)
                self._mark(seq, payload.grantee_key, mark, payload.grant)
            case _:
                pass

    def continue_chain(self, key_id: str, digest: str) -> None:
        """All that an audit record which doesn't govern moves: its key's chain goes on with this hash."""
        self._set(self.chains, key_id, digest)

    def _genesis(self, record: Checked, payload: system.Genesis) -> None:
        self._put(
            genesis=payload,
            genesis_hash=record.header.hash,
            runtime_id=payload.runtime_id,
            tenant=payload.tenant,
            model=payload.model,
            policy=payload.policy,
        )
        self._root(0, record, payload.root)
        self._log(0, payload.log)
        for service, key in payload.services.items():
            self._service(0, service, bytes.fromhex(key))

    def _root(self, seq: int, named: Checked, identity: system.RootIdentity) -> None:
        """Another Root: the old one's key and licence end, and with the licence every session."""
        if self.roots:
            self._end(signing.key_id(bytes.fromhex(self.root.key)), seq)
        for licence_id, entry in list(self.licences.items()):
            if entry.table.loa is Loa.ROOT and entry.revoked_seq is None:
                self._set(self.licences, licence_id, msgspec.structs.replace(entry, revoked_seq=seq))
        core = named.core
        became = RootEntry(identity=identity, record_id=core.id, record_hash=named.header.hash, ts=core.ts)
        self._set(self.roots, seq, became)
        self._key("root", identity.owner_id, bytes.fromhex(identity.key), seq)

    def _log(self, seq: int, vkey: str) -> None:
        if self.log_keys:
            self._end(signing.key_id(note.VerifierKey.parse(self.log_key).public_key), seq)
        named = note.VerifierKey.parse(vkey)
        self._set(self.log_keys, seq, vkey)
        self._key("log", named.name, named.public_key, seq)

    def _service(self, seq: int, service: str, public: bytes) -> None:
        self._end_service(seq, service)
        self._set(self.services, service, self._key("service", service, public, seq))

    def _end_service(self, seq: int, service: str) -> None:
        """A service's key, and with it every instance that it introduced."""
        old = self.services.get(service)
        if old is None:
            return
        self._end(old, seq)
        for (name, instance), key_id in list(self.instances.items()):
            if name == service:
                self._end(key_id, seq)
                self._unset(self.instances, (name, instance))

    def _revoke(self, seq: int, entry: KeyEntry) -> None:
        if entry.role == "service":
            self._end_service(seq, entry.name)
            return
        assert entry.instance is not None, "admission lets service and instance keys only be revoked"
        self._end(signing.key_id(entry.public), seq)
        self._unset(self.instances, (entry.name, entry.instance))

    def _instance(self, seq: int, payload: audit.InstanceOpened) -> None:
        slot = (payload.service, payload.instance)
        old = self.instances.get(slot)
        if old is not None:
            self._end(old, seq)
        public = bytes.fromhex(payload.key)
        self._set(self.instances, slot, self._key("instance", payload.service, public, seq, payload.instance))

    def _approval(self, seq: int, payload: audit.ApprovalDecided) -> None:
        entry = Approval(
            approved=payload.verdict == "approved",
            owner=payload.owner,
            command=payload.command,
            digest=payload.digest,
            approver=payload.approver,
            licence=payload.licence,
            not_after_ms=clock.parse_ms(payload.not_after),
            decided_seq=seq,
        )
        self._set(self.approvals, payload.review, entry)

    def _use_approval(self, seq: int, review: str | None) -> None:
        assert review is not None, "admission takes no approved decision without its approval"
        self._set(self.approvals, review, msgspec.structs.replace(self.approvals[review], used_seq=seq))

    def _witness(self, seq: int, payload: system.TrustedWitness) -> None:
        old = self.witnesses.get(payload.witness_id)
        if old is not None and old.until_seq is None:
            self._end(signing.key_id(old.key), seq)
            self._enter_witness(msgspec.structs.replace(old, until_seq=seq))
        if payload.action != "revoke":
            public = bytes.fromhex(payload.key)
            self._key("witness", payload.witness_id, public, seq)
            entry = WitnessEntry(
                witness_id=payload.witness_id, name=payload.name, key=public, since_seq=seq, persona=payload.persona
            )
            self._enter_witness(entry)

    def _peer(self, seq: int, record_id: str, payload: audit.PeerEnrolled) -> None:
        old = self.peers.get(payload.peer)
        if old is not None and old.key != payload.key:
            self._end(old.key_id, seq)
        if old is None or old.key != payload.key:
            self._key("peer", payload.peer, bytes.fromhex(payload.key), seq)
        entry = PeerEntry(
            name=payload.peer,
            key=payload.key,
            tier=payload.tier,
            mesh=payload.mesh,
            mesh_key=payload.mesh_key,
            reach=payload.reach,
            enrolment=record_id,
            since_seq=seq,
            changed_seq=seq,
        )
        self._set(self.peers, payload.peer, entry)
        self._set(self.enrolments, record_id, payload.peer)

    def _change_peer(self, seq: int, name: str, **changes: Any) -> None:
        self._set(self.peers, name, msgspec.structs.replace(self.peers[name], changed_seq=seq, **changes))

    def _mark(self, seq: int, key: str, mark: grant.Mark, token: str | None) -> None:
        self._set(self.grant_marks, _key_id(key), GrantStands(mark=mark, token=token, since_seq=seq))

    def _enter_witness(self, entry: WitnessEntry) -> None:
        self._set(self.witnesses, entry.witness_id, entry)
        self._set(self.witness_history, (entry.witness_id, entry.since_seq), entry)

    def _key(self, role: Role, name: str, public: bytes, seq: int, instance: str | None = None) -> str:
        key_id = signing.key_id(public)
        entry = KeyEntry(public=public, role=role, name=name, instance=instance, since_seq=seq)
        self._set(self.keys, key_id, entry)
        return key_id

    def _end(self, key_id: str, seq: int) -> None:
        entry = self.keys[key_id]
        if entry.until_seq is None:
            self._set(self.keys, key_id, msgspec.structs.replace(entry, until_seq=seq))

    def _put(self, **values: Any) -> None:
        for name, value in values.items():
            self._set(self.__dict__, name, value)

    def _set(self, table: dict[Any, Any], key: Any, value: Any) -> None:
        if self._journal is not None:
            self._journal.append((table, key, table.get(key, _ABSENT)))
        table[key] = value

    def _unset(self, table: dict[Any, Any], key: Any) -> None:
        if self._journal is not None:
            self._journal.append((table, key, table[key]))
        del table[key]


def _key_id(key: str) -> str:
    return signing.key_id(bytes.fromhex(key))
