"""The house in memory: real keys, real records, real admission, one log in a list; nothing is stubbed.

Whatever changes the state of the log does so as a record that `admission.admit` let in, so a test can't stand on a state that the
writer would never reach. Its log is a ledger like any other: `tests.oracle` re-verifies it whole. An attack is five lines: take a house,
build the record that the attacker would send, and `place` it.
"""

import hashlib
import os
from typing import Any

import msgspec

from services.gatekeeper import rates
from sigilcore import (
    admission,
    antecedents,
    checkpoint,
    clock,
    decision,
    digest,
    gate,
    ids,
    licence,
    merkle,
    note,
    permit,
    policy,
    record,
    session,
    signing,
    standing,
    tlog_proof,
    trust,
)
from sigilcore.access import Loa
from sigilcore.contracts import canon, catalogue, house
from sigilcore.contracts import gatekeeper as contract
from sigilcore.governance import Governance
from sigilcore.records import audit, system, user

TENANT = "default"
NOW_MS = 1_790_000_000_000
DAY_MS = 24 * 60 * 60 * 1000
HASH = "0" * 64


class Person:
    """An owner with a key of their own, and a licence."""

    def __init__(self, owner_id: str, *, keyed: bool = True) -> None:
        self.owner_id = owner_id
        self.signer = signing.Ed25519Signer.generate()
        self.keyed = keyed
        self.toml = ""
        self.table: licence.LicenceTable | None = None

    @property
    def licence_id(self) -> str:
        assert self.table is not None
        return self.table.id


class House:
    """Genesis, Root's licence, and an instance of each service."""

    rate_limit = 1_000_000
    """Of genesis: in tests all calls fall into one minute, and by this nobody calls too often unless a test asks for the real one."""

    def __init__(self, *, rate_limit: int = rate_limit, now_ms: int = NOW_MS) -> None:
        self.clock = clock.FixedClock(now_ms)
        self.rate_limit = rate_limit
        self.state = Governance()
        self.log: list[record.SignedRecord] = []
        self.writer = signing.Ed25519Signer.generate()
        self.runtime_id = ids.new()
        self.origin = house.origin(self.runtime_id, TENANT)
        self.heads: dict[tuple[str, str, str], str] = {}
        self.by_id: dict[str, record.Checked] = {}
        self.services = {name: signing.Ed25519Signer.generate() for name in house.SERVICE_KEYS}
        self.instances = {name: signing.Ed25519Signer.generate() for name in house.SERVICE_KEYS}
        self.rows: dict[tuple[str, int], admission.DecisionRow] = {}
        self.named: dict[str, antecedents.Decided] = {}
        self.calls = rates.LastMinute(callers=1_000_000)
        self.standings = standing.Standings()
        self.root = Person("root")
        self.witness: Person | None = None
        self._genesis()
        for name in self.services:
            payload = audit.InstanceOpened(
                service=name, instance="1", key=self.instances[name].public_key.hex(), settings_digest=HASH
            )
            self.append("instance_opened", payload, self.services[name], prev=None)
        self._issue(self.root, Loa.ROOT, None, [record.Link(label="genesis", target=self.state.genesis_hash)])

    @property
    def now_ms(self) -> int:
        return self.clock.ms

    # The log

    def append(
        self,
        kind: str,
        payload: Any,
        signer: signing.Signer,
        *,
        prev: str | None = "chain",
        links: Any = (),
        wrap: Any = None,
    ) -> record.Checked:
        """Build, sign, admit and fold one record."""
        signed = self.signed_by(signer, kind, payload, prev=prev, links=links)
        return self.place(signed if wrap is None else wrap(signed))

    def smuggle(self, kind: str, payload: Any, signer: signing.Signer) -> int:
        """A writer that is in on it: the record stands in the log, whatever admission says; where."""
        self.log.append(self.signed_by(signer, kind, payload))
        return len(self.log) - 1

    def signed_by(
        self, signer: signing.Signer, kind: str, payload: Any, *, prev: str | None = "chain", links: Any = ()
    ) -> record.SignedRecord:
        """The record that this author would send now."""
        return record.build(
            kind,
            payload,
            id=ids.new(),
            tenant=TENANT,
            ts=clock.format_ms(self.now_ms),
            space=record.records.REGISTRY[kind].space,
            signer=signer,
            salt=os.urandom(16),
            links=links,
            prev=self.state.chains.get(signer.key_id) if prev == "chain" else prev,
        )

    def place(self, *records: record.SignedRecord, named: decision.DecisionRef | None = None) -> record.Checked:
        """One call of `canon/append`: every record admitted in order against the log, the decision used once by all of them."""
        used: dict[tuple[str, int], str] = {}
        checked = record.check(records[0])
        for signed in records:
            checked = record.check(signed)
            ref = admission.decision_ref(checked) or named
            place = None if ref is None else (ref.record, ref.index)
            row = None if place is None else self.rows.get(place)
            if not self.state.bootstrapped:
                admission.check_genesis(checked)
            else:
                admission.admit(
                    self.state,
                    checked,
                    now_ms=self.now_ms,
                    decided=row,
                    thing_head=self.heads.get(self._thing(checked)),
                )
                antecedents.check(self.state, checked, self.named.get)
            self._commit(signed, checked)
            if place is not None and checked.kind.effect:
                used.setdefault(place, checked.core.id)
        for place, first in used.items():
            self.rows[place] = msgspec.structs.replace(self.rows[place], used_by=first)
        return checked

    def _commit(self, signed: record.SignedRecord, checked: record.Checked) -> None:
        seq = len(self.log)
        self.state.apply(seq, checked)
        self.log.append(signed)
        self.by_id[checked.core.id] = checked
        if checked.core.space == "user":
            self.heads[self._thing(checked)] = checked.header.hash
        self.named.update(antecedents.brought(checked))
        for row in admission.decisions_of(checked, seq):
            self.rows[row.record, row.index] = row
        for frozen in audit.decisions_in(checked.payload):
            self.standings.fold_chain(seq, frozen.chain)

    @staticmethod
    def _thing(checked: record.Checked) -> tuple[str, str, str]:
        return checked.kind.thing_name(checked.payload) or ("", "", "")

    def placed(self) -> list[record.PlacedRecord]:
        """The ledger as change events carry it."""
        return [
            record.PlacedRecord(seq=seq, header=signed.header, payload=signed.payload, salt=signed.salt)
            for seq, signed in enumerate(self.log)
        ]

    def checkpoint(self, signer: signing.Signer | None = None) -> bytes:
        """The signed checkpoint over the whole log, by the log's key now or by an attacker's."""
        root = merkle.root([merkle.leaf_hash(bytes(signed.header)) for signed in self.log])
        return checkpoint.sign(checkpoint.Checkpoint(self.origin, len(self.log), root), signer or self.writer)

    def head(self) -> int:
        """As_of for a judgement now: everything has been seen."""
        return len(self.log)

    # People

    def issue(self, person: Person, loa: Loa, scope: tuple[str, ...] = ("*",), days: int = 30) -> Person:
        """Root issues a licence, by a decision of the gate."""
        self._issue(person, loa, self._permission("license/create"), [], scope=scope, days=days)
        return person

    def revoke(self, person: Person) -> None:
        """Root ends a licence."""
        request, link = self._permission("license/revoke")
        payload = audit.LicenceRevoked(license_id=person.licence_id, reason="", request=request)
        self.append("license_revoked", payload, self.instances["license"], links=[link])

    def close(self, session_id: str, owner_id: str) -> None:
        """Another gatekeeper closed a session."""
        payload = audit.SessionClosed(session_id=session_id, owner_id=owner_id)
        self.append("session_closed", payload, self.instances["gatekeeper"])

    def token(self, person: Person, key: signing.Signer | None = None, **changes: Any) -> session.SessionToken:
        """What a session token of this person says."""
        assert person.table is not None
        fields = {
            "session_id": ids.new(),
            "runtime_id": self.state.runtime_id,
            "tenant": TENANT,
            "licence_id": person.licence_id,
            "owner_id": person.owner_id,
            "loa": person.table.loa,
            "session_key": None if key is None else key.public_key.hex(),
            "mutations": (),
            "mutations_not_after_ms": 0,
            "not_after_ms": self.now_ms + DAY_MS,
        }
        return session.SessionToken(**(fields | changes))

    def certificate(self, person: Person, key: signing.Signer, challenge: contract.Challenge, **changes: Any) -> str:
        """The owner's certificate for a session key."""
        fields = {
            "runtime_id": challenge.runtime_id,
            "tenant": challenge.tenant,
            "licence_id": person.licence_id,
            "session_key": key.public_key.hex(),
            "nonce": challenge.nonce,
            "not_after_ms": self.now_ms + 3_600_000,
            "mutations": (),
            "mutations_not_after_ms": 0,
        }
        return session.certify(person.signer, session.Certificate(**(fields | changes)))

    def facts(self, person: Person, command: str, **changes: Any) -> gate.Facts:
        """An ordinary, proven call."""
        assert person.table is not None
        declared = catalogue.COMMANDS[command]
        observed = changes.pop("observed", None) or gate.observe(declared, b"{}", bytes(16))
        fields = {
            "session_id": ids.new(),
            "licence_id": person.licence_id,
            "owner_id": person.owner_id,
            "loa": person.table.loa,
            "keyed": person.keyed,
            "mandated": False,
            "proof": "session" if person.keyed else "bearer",
            "command": declared,
            "observed": observed,
            "calls_last_minute": self.calls.take(person.licence_id, self.now_ms, 1_000_000),
            "now_ms": self.now_ms,
            "chain_id": ids.new(),
            "as_of": self.head(),
            "standing": self.standings.lowest(observed.candidates or (person.owner_id,), self.now_ms),
            "standing_as_of": self.standings.size,
        }
        return gate.Facts(**(fields | changes))

    def judge(self, person: Person, command: str, **changes: Any) -> decision.ReasoningChain:
        return gate.judge(self.state, self.facts(person, command, **changes))

    # System

    def change(self, kind: str, payload: Any) -> None:
        """Root and the one witness change what governs; the first change seals with a mentor of its own."""
        if self.witness is None:
            self._seal()
        self._system(kind, payload)

    def change_policy(self, **fields: Any) -> None:
        payload = system.AccessPolicyChange(
            policy=policy.AccessPolicy(version="changed", **fields), expires_at=clock.format_ms(self.now_ms + DAY_MS)
        )
        self.change("access_policy", payload)

    def change_model(self, **fields: Any) -> None:
        model = msgspec.structs.replace(trust.DEFAULT_MODEL, **({"version": "changed"} | fields))
        self.change("model_config", system.ModelConfig(model=model, expires_at=clock.format_ms(self.now_ms + DAY_MS)))

    def rotate_service(self, service: str) -> signing.Ed25519Signer:
        """The quorum enrols a new key for a service, which introduces an instance; its old key."""
        old, self.services[service] = self.services[service], signing.Ed25519Signer.generate()
        key = self.services[service].public_key.hex()
        self.change("service_key", system.ServiceKey(service=service, key=key, expires_at=self.later()))
        self.introduce(service)
        return old

    def introduce(self, service: str, signer: signing.Signer | None = None, key: signing.Signer | None = None) -> None:
        """A service's key introduces a new instance in place of the old, or an attacker does."""
        new = signing.Ed25519Signer.generate()
        payload = audit.InstanceOpened(
            service=service, instance="1", key=(key or new).public_key.hex(), settings_digest=HASH
        )
        self.append("instance_opened", payload, signer or self.services[service])
        self.instances[service] = new

    def rotate_log(self) -> signing.Ed25519Signer:
        """The quorum puts a new key in place of the log's; its old key."""
        old, new = self.writer, signing.Ed25519Signer.generate()
        vkey = note.VerifierKey.of(self.origin, note.ED25519, new.public_key).format()
        self.change("log_key", system.LogKey(vkey=vkey, expires_at=self.later()))
        self.writer = new
        return old

    def revoke_key(self, key: signing.Signer, role: Any = "instance") -> None:
        """Root ends a key, by a decision of the gate."""
        request, link = self._permission("keys/revoke")
        payload = audit.KeyRevoked(key_id=key.key_id, role=role, reason="stolen", request=request)
        self.append("key_revoked", payload, self.instances["license"], links=[link])

    def _seal(self) -> None:
        witness = self.issue(Person("witness"), Loa.MENTOR)
        key = Person("witness")
        later = clock.format_ms(self.now_ms + DAY_MS)
        payload = system.TrustedWitness(
            action="add",
            witness_id="witness",
            name="Witness",
            key=key.signer.public_key.hex(),
            licence_id=witness.licence_id,
            expires_at=later,
        )
        self.witness = key
        self._system("trusted_witness", payload)
        quorum = system.QuorumPolicy(
            k=1,
            kinds={},
            proposal_ttl_s=3600,
            checkpoint_witnesses=system.CheckpointWitnesses(c=0, cosigners=()),
            persona_cap=0,
            expires_at=later,
        )
        self._system("quorum_policy", quorum)

    def _system(self, kind: str, payload: Any) -> None:
        witness = self.witness
        assert witness is not None

        def attest(signed: record.SignedRecord) -> record.SignedRecord:
            return record.witnessed(signed, [record.witness(signed, witness.owner_id, witness.signer)])

        self.append(kind, payload, self.root.signer, prev=self.state.system_head, wrap=attest)

    def _permission(self, command: str, parameters: bytes = b"{}", **lies: Any) -> tuple[decision.Request, record.Link]:
        """Root's call of a command, judged and committed; `lies` are what the gate makes of it."""
        observed = gate.observe(catalogue.COMMANDS[command], parameters, bytes(16))
        chain = self.judge(self.root, command, **({"proof": "owner", "observed": observed} | lies))
        batch = audit.DecisionBatch(decisions=(decision.freeze(chain),))
        placed = self.append("decision_batch", batch, self.instances["gatekeeper"])
        ref = decision.DecisionRef(record=placed.core.id, index=0)
        request = decision.Request(
            command=command,
            salt=bytes(16).hex(),
            digest=chain.digest,
            parameters=hashlib.sha256(parameters).hexdigest(),
        )
        return request, record.Link(label="decision", target=ref.link())

    def _issue(
        self,
        person: Person,
        loa: Loa,
        permission: tuple[decision.Request, record.Link] | None,
        links: list[record.Link],
        scope: tuple[str, ...] = ("*",),
        days: int = 30,
    ) -> None:
        request = None
        if permission is not None:
            request, link = permission
            links = [*links, link]
        owner = licence.Owner(
            id=person.owner_id,
            name=person.owner_id.title(),
            key=person.signer.public_key.hex() if person.keyed else None,
        )
        table = licence.LicenceTable(
            id=ids.new(),
            owner=owner,
            loa=loa,
            scope=scope,
            issued_at=clock.format_ms(self.now_ms),
            expires_at=clock.format_ms(self.now_ms + days * DAY_MS),
            issuer="root",
            version=1,
            bindings=licence.Bindings(runtime_id=self.state.runtime_id, canon_fingerprint=self.state.genesis_hash),
        )
        document = licence.seal(table, self.services["license"])
        payload = audit.LicenceIssued(
            license=table,
            content_hash=document.seal.content_hash,
            seal_key_id=document.seal.key_id,
            root_signature=licence.root_sign(table, self.root.signer) if loa is Loa.MENTOR else None,
            request=request,
        )
        self.append("license_issued", payload, self.instances["license"], links=links)
        person.table, person.toml = table, licence.to_toml(document)

    def _genesis(self) -> None:
        payload = system.Genesis(
            format="sigil/1",
            tenant=TENANT,
            runtime_id=self.runtime_id,
            root=system.RootIdentity(owner_id="root", name="Root", key=self.root.signer.public_key.hex()),
            services={name: signer.public_key.hex() for name, signer in self.services.items()},
            log=note.VerifierKey.of(self.origin, note.ED25519, self.writer.public_key).format(),
            bootstrap_token_hash=HASH,
            model=trust.DEFAULT_MODEL,
            policy=msgspec.structs.replace(policy.FIRST_POLICY, rate_limit=self.rate_limit),
            modules=(),
            corpus_licences=(),
        )
        self.append("genesis", payload, self.root.signer, prev=None)

    # Calls and effects

    def granted(self, person: Person, command: str, parameters: bytes = b"{}", **changes: Any) -> permit.Permit:
        """Judge a call, commit the decision, and write the permit that the gatekeeper would seal."""
        salt = os.urandom(16)
        declared = catalogue.COMMANDS[command]
        observed = gate.observe(declared, parameters, salt)
        need = self.state.policy.rung(command, declared.rung, observed.module)
        owed = declared.needs_owner_at(need)
        chain = self.judge(person, command, observed=observed, **({"proof": "owner"} if owed else {}))
        batch = audit.DecisionBatch(decisions=(decision.freeze(chain),))
        committed = self.append("decision_batch", batch, self.instances["gatekeeper"])
        if chain.verdict is not decision.Verdict.ALLOW:
            raise gate.refusal_of(chain, decision.DecisionRef(record=committed.core.id, index=0))
        assert person.table is not None
        fields = {
            "permit_id": os.urandom(16).hex(),
            "runtime_id": self.runtime_id,
            "tenant": TENANT,
            "owner_id": person.owner_id,
            "licence_id": person.licence_id,
            "session_id": chain.audit.session,
            "session_ends_ms": self.now_ms + DAY_MS,
            "loa": person.table.loa,
            "proof": chain.proof,
            "command": command,
            "service": declared.service,
            "target": declared.target,
            "salt": salt.hex(),
            "digest": chain.digest,
            "decision": decision.DecisionRef(record=committed.core.id, index=0),
            "parent": None,
            "not_after_ms": self.now_ms + permit.START_WINDOW_MS,
            "longest_run_s": declared.longest_run_s,
        }
        return permit.Permit(**(fields | changes))

    def bound(
        self, granted: permit.Permit, parameters: bytes = b"{}", signer: signing.Signer | None = None
    ) -> permit.Bound:
        """What the called service makes of a permit; raises what it refuses."""
        return permit.check(
            permit.seal(signer or self.services["gatekeeper"], granted),
            parameters,
            gatekeeper_key=self.services["gatekeeper"].public_key,
            runtime_id=self.runtime_id,
            tenant=TENANT,
            service=granted.service,
            command=granted.command,
            now_ms=self.now_ms,
        )

    def memory(
        self, granted: permit.Permit, key: str = "note", text: str = "text", **changes: Any
    ) -> record.SignedRecord:
        """The memory record that knowledge would write for this permit, before it is placed; `changes` are the attacker's."""
        thing = f"mem::{granted.owner_id}::{key}"
        request = decision.Request(
            command=granted.command,
            salt=granted.salt,
            digest=granted.digest,
            parameters=digest.sha256_hex(b"{}"),
        )
        payload = user.MemoryBlock(
            owner=changes.pop("owner", granted.owner_id),
            key=thing,
            text=text,
            tags=(),
            origin="person",
            admitted_at=granted.loa,
            request=changes.pop("request", request),
        )
        fields = {
            "id": ids.new(),
            "tenant": TENANT,
            "ts": clock.format_ms(self.now_ms),
            "space": "user",
            "signer": self.instances["knowledge"],
            "salt": os.urandom(16),
            "links": (record.Link(label="decision", target=granted.decision.link()),),
            "prev": self.heads.get(("memory_block", granted.owner_id, thing)),
        }
        return record.build(changes.pop("kind", "memory_block"), payload, **(fields | changes))

    def remember(self, person: Person, key: str = "note", text: str = "text") -> record.Checked:
        """A whole memory write."""
        return self.place(self.memory(self.granted(person, "memory/write"), key, text))

    def finished(self, person: Person) -> tuple[record.SignedRecord, bytes]:
        """A value that a person signed before anybody decided on it, and the parameters of a call that names it."""
        signed = record.build(
            "user_value",
            user.UserValue(owner=person.owner_id, key=f"val::{person.owner_id}::k", value=1, request=None),
            id=ids.new(),
            tenant=TENANT,
            ts=clock.format_ms(self.now_ms),
            space="user",
            signer=person.signer,
            salt=os.urandom(16),
        )
        return signed, msgspec.json.encode({"id": record.check(signed).core.id})

    # The quorum

    def proposal(
        self, kind: str, payload: Any, signer: signing.Signer | None = None, **changes: Any
    ) -> record.SignedRecord:
        """A system record signed by Root (or by an attacker), on the current head."""
        fields = {
            "id": ids.new(),
            "tenant": TENANT,
            "ts": clock.format_ms(self.now_ms),
            "space": "system",
            "signer": signer or self.root.signer,
            "salt": os.urandom(16),
            "prev": self.state.system_head,
        }
        return record.build(kind, payload, **(fields | changes))

    def several(self, *payloads: Any, **changes: Any) -> system.Changes:
        """The payload that makes these changes together."""
        parts = [
            {"kind": system.changes_in(payload)[0].kind, "payload": msgspec.to_builtins(payload)}
            for payload in payloads
        ]
        return msgspec.convert({"changes": parts, "expires_at": self.later(), **changes}, system.Changes)

    def enrolment(self, mentor: Person, key: signing.Signer, **changes: Any) -> system.TrustedWitness:
        """The payload that makes a mentor a witness."""
        fields = {
            "action": "add",
            "witness_id": mentor.owner_id,
            "name": mentor.owner_id.title(),
            "key": key.public_key.hex(),
            "licence_id": mentor.licence_id,
            "expires_at": self.later(),
        }
        return system.TrustedWitness(**(fields | changes))

    def later(self, ms: int = DAY_MS) -> str:
        """A time in the future, as text."""
        return clock.format_ms(self.now_ms + ms)

    def attested(self, signed: record.SignedRecord, *voices: Person) -> record.SignedRecord:
        """The record with these people's signatures, in the order that the header demands."""
        signatures = [record.witness(signed, voice.owner_id, voice.signer) for voice in voices]
        return record.witnessed(signed, sorted(signatures, key=lambda entry: (entry.witness_id, entry.key_id)))

    def mentors(self, count: int) -> list[Person]:
        """So many mentors, each with a witness key of its own, in the registry."""
        registered: list[Person] = []
        for number in range(1, count + 1):
            registered.append(self.enrol(f"mentor-{number}", registered))
        return registered

    def enrol(self, owner_id: str, voices: list[Person], **changes: Any) -> Person:
        """One more mentor becomes a witness, by these voices and its own proof of possession."""
        mentor = self.issue(Person(owner_id), Loa.MENTOR)
        voice = Person(owner_id)
        voice.table = mentor.table
        change = self.proposal("trusted_witness", self.enrolment(mentor, voice.signer, **changes))
        self.place(self.attested(change, *voices, voice))
        return voice

    def quorum_policy(self, k: int, **changes: Any) -> system.QuorumPolicy:
        """The payload that seals."""
        fields = {
            "k": k,
            "kinds": {},
            "proposal_ttl_s": 3600,
            "checkpoint_witnesses": system.CheckpointWitnesses(c=0, cosigners=()),
            "persona_cap": 0,
            "expires_at": self.later(),
        }
        return system.QuorumPolicy(**(fields | changes))

    def seal(self, voices: list[Person], k: int) -> record.Checked:
        """Seal with k of these witnesses."""
        return self.place(self.attested(self.proposal("quorum_policy", self.quorum_policy(k)), *voices))

    def root_change(self, successor: Person, **changes: Any) -> system.RootKey:
        """The payload that makes somebody Root."""
        fields = {
            "owner_id": successor.owner_id,
            "name": successor.owner_id.title(),
            "key": successor.signer.public_key.hex(),
            "expires_at": self.later(),
        }
        return system.RootKey(**(fields | changes))

    def replace_root(self, successor: Person, *voices: Person, without_root: bool = False) -> record.Checked:
        """Another Root: signed by the old one, where the new key proves itself among the witnesses; or by the new one itself."""
        change = self.root_change(successor)
        if without_root:
            signed = self.attested(self.proposal("root_key", change, successor.signer), *voices)
        else:
            signed = self.attested(self.proposal("root_key", change), *voices, successor)
        placed = self.place(signed)
        self.root = successor
        return placed

    def root_licence_follows(self) -> None:
        """The license service issues the licence of the Root that the log names."""
        label, target = admission.root_link(self.state)
        self._issue(self.root, Loa.ROOT, None, [record.Link(label=label, target=target)])

    def new_model(self, version: str = "second", **changes: Any) -> system.ModelConfig:
        """A model_config payload."""
        model = msgspec.structs.replace(trust.DEFAULT_MODEL, version=version, **changes)
        return system.ModelConfig(model=model, expires_at=self.later())

    # Reading

    def bundle(self, record_id: str) -> canon.Bundle:
        """What `canon/proof` answers: the record, its tlog-proof, genesis, and what lets its author's key speak."""
        leaves = [merkle.leaf_hash(bytes(signed.header)) for signed in self.log]
        index = next(seq for seq, signed in enumerate(self.log) if record.check(signed).core.id == record_id)
        wanted = record.check(self.log[index])
        path = merkle.inclusion_path(index, leaves)
        return canon.Bundle(
            format="sigil-bundle/1",
            record=plain(self.log[index]),
            proof=tlog_proof.format(index, path, self.checkpoint()).decode(),
            genesis=plain(self.log[0]),
            evidence=tuple(
                plain(signed)
                for signed in self.log[1:index]
                if _introduces(record.check(signed), wanted.header.key_id)
                or (wanted.core.space == "system" and record.check(signed).core.space == "system")
            ),
            log=tuple(
                plain(signed)
                for signed in self.log[1 : max(self.state.log_keys) + 1]
                if record.check(signed).core.space == "system"
            ),
        )


def _introduces(placed: record.Checked, key_id: str) -> bool:
    """True if this record is the introduction of that instance key."""
    return isinstance(placed.payload, audit.InstanceOpened) and (
        signing.key_id(bytes.fromhex(placed.payload.key)) == key_id
    )


def plain(signed: record.SignedRecord) -> dict[str, Any]:
    """A record as JSON values."""
    return {
        "header": msgspec.json.decode(signed.header),
        "payload": msgspec.json.decode(signed.payload),
        "salt": signed.salt,
    }
