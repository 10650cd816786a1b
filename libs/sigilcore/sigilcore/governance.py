"""The state of the log that admission reads: the fold of every governing record, in order.

Kept here: genesis, Root, the log's keys, service keys and instances, licences and revocations, closed sessions, the witness registry, the
quorum policy, the trust model, the access policy, each with the position since when; and the orders to erase. canon_writer keeps one as
the authority; services keep another by following the stream; a verifier makes one from an export. All of them fold with this one `apply`,
after `admission` said yes.

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

from sigilcore import licence, note, policy, signing, trust
from sigilcore.access import Loa
from sigilcore.contracts import license as licensing
from sigilcore.record import Checked
from sigilcore.records import audit, system

Role = Literal["root", "log", "service", "instance", "witness"]
_ABSENT: Any = object()


class KeyEntry(msgspec.Struct, frozen=True, kw_only=True):
    """Which key spoke in which role, from `since_seq` on, up to and without `until_seq`."""

    public: bytes
    role: Role
    name: str  # service, or witness principal, or Root's owner id, or the log's origin
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
        self.closed_sessions: dict[str, int] = {}
        self.orders: dict[str, system.ErasureOrder] = {}  # by record id; which are used, the decisions tell
        self.witnesses: dict[str, WitnessEntry] = {}  # principal → its newest entry
        self.witness_history: dict[tuple[str, int], WitnessEntry] = {}  # (principal, since) → entry
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

    def session_closed(self, session_id: str) -> bool:
        """True once a session was closed."""
        return session_id in self.closed_sessions

    def active_witnesses(self) -> dict[str, WitnessEntry]:
        """Principals whose voice counts now."""
        return {name: entry for name, entry in self.witnesses.items() if entry.until_seq is None}

    def need(self, kind: str) -> int:
        """Voices that a system record of this kind needs now: k after the seal, every witness so far before it."""
        if self.quorum is None:
            return len(self.active_witnesses())
        return max(self.quorum.k, self.quorum.kinds.get(kind, 0))

    def weight(self, names: Collection[str]) -> int:
        """How many of these witnesses' voices count together: everyone's, but of personas no more than the policy lets count."""
        personas = sum(self.witnesses[name].persona for name in names)
        cap = personas if self.quorum is None else self.quorum.persona_cap
        return len(names) - max(0, personas - cap)

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
            case system.ErasureOrder():
                self._set(self.orders, core.id, payload)
            case audit.InstanceOpened():
                self._instance(seq, payload)
            case audit.InstanceBeat() if payload.closing:
                self._end(record.header.key_id, seq)
            case audit.KeyRevoked():
                self._revoke(seq, self.keys[payload.key_id])
            case audit.SessionClosed():
                self._set(self.closed_sessions, payload.session_id, seq)
            case audit.LicenceIssued():
                entry = IssuedLicence(
                    table=payload.license,
                    content_hash=payload.content_hash,
                    issued_seq=seq,
                    renews=core.link(licensing.RENEWS),
                )
                self._set(self.licences, payload.license.id, entry)
            case audit.LicenceRevoked():
                revoked = msgspec.structs.replace(self.licences[payload.license_id], revoked_seq=seq)
                self._set(self.licences, payload.license_id, revoked)
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
