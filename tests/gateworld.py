"""A small house for the gate's tests: real keys, real records, real admission, one log in a list; nothing is stubbed.

Whatever changes the state of the log does so as a record that `admission.admit` let in, so a test can't stand on a state that the
writer would never reach.
"""

import hashlib
import os
from typing import Any

import msgspec

from sigilcore import admission, clock, decision, gate, ids, licence, policy, record, session, signing, trust
from sigilcore.access import Loa
from sigilcore.contracts import catalogue, house
from sigilcore.contracts import gatekeeper as contract
from sigilcore.governance import Governance
from sigilcore.records import audit, system

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


class World:
    """Genesis, Root's licence, and an instance of each service."""

    def __init__(self) -> None:
        self.clock = clock.FixedClock(NOW_MS)
        self.state = Governance()
        self.log: list[record.SignedRecord] = []
        self.services = {name: signing.Ed25519Signer.generate() for name in house.SERVICE_KEYS}
        self.instances = {name: signing.Ed25519Signer.generate() for name in house.SERVICE_KEYS}
        self.rows: dict[tuple[str, int], admission.DecisionRow] = {}
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
        space = record.records.REGISTRY[kind].space
        if prev == "chain":
            prev = self.state.chains.get(signer.key_id)
        signed = record.build(
            kind,
            payload,
            id=ids.new(),
            tenant=TENANT,
            ts=clock.format_ms(self.now_ms),
            space=space,
            signer=signer,
            salt=os.urandom(16),
            links=links,
            prev=prev,
        )
        return self.place(signed if wrap is None else wrap(signed))

    def place(self, signed: record.SignedRecord) -> record.Checked:
        checked = record.check(signed)
        if self.state.bootstrapped:
            ref = admission.decision_ref(checked)
            row = None if ref is None else self.rows.get((ref.record, ref.index))
            admission.admit(self.state, checked, now_ms=self.now_ms, decided=row)
        else:
            admission.check_genesis(checked)
        seq = len(self.log)
        self.state.apply(seq, checked)
        self.log.append(signed)
        for row in admission.decisions_of(checked, seq):
            self.rows[row.record, row.index] = row
        return checked

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
        fields = {
            "session_id": ids.new(),
            "licence_id": person.licence_id,
            "owner_id": person.owner_id,
            "loa": person.table.loa,
            "keyed": person.keyed,
            "mandated": False,
            "proof": "session" if person.keyed else "bearer",
            "command": declared,
            "observed": gate.observe(declared, b"{}", bytes(16)),
            "calls_last_minute": 1,
            "now_ms": self.now_ms,
            "chain_id": ids.new(),
            "as_of": self.head(),
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
            checkpoint_witnesses=system.CheckpointWitnesses(c=0, keys=()),
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

    def _permission(self, command: str) -> tuple[decision.Request, record.Link]:
        """Root's call of a command, judged and committed."""
        chain = self.judge(self.root, command, proof="owner")
        batch = audit.DecisionBatch(decisions=(decision.freeze(chain),))
        placed = self.append("decision_batch", batch, self.instances["gatekeeper"])
        ref = decision.DecisionRef(record=placed.core.id, index=0)
        request = decision.Request(
            command=command, salt=bytes(16).hex(), digest=chain.digest, parameters=hashlib.sha256(b"{}").hexdigest()
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
            runtime_id=ids.new(),
            root=system.RootIdentity(owner_id="root", name="Root", key=self.root.signer.public_key.hex()),
            services={name: signer.public_key.hex() for name, signer in self.services.items()},
            log="sigil+00000000+AAAA",
            bootstrap_token_hash=HASH,
            model=trust.DEFAULT_MODEL,
            policy=policy.FIRST_POLICY,
            modules=(),
            corpus_licences=(),
        )
        self.append("genesis", payload, self.root.signer, prev=None)
