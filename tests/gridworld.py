"""Peers in the house in memory: enrolled, lent to, blocked, each by a record that admission let in."""

from typing import Any

import msgspec

from sigilcore import decision, gate, grant, ids, peers, record, signing
from sigilcore.contracts import catalogue
from sigilcore.records import audit
from tests.simulator import DAY_MS, House

MESH = "town"


class Node:
    """Another node: its key, and the mesh that vouches for it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.signer = signing.Ed25519Signer.generate()
        self.enrolment = ""

    @property
    def key(self) -> str:
        return self.signer.public_key.hex()

    @property
    def owner_id(self) -> str:
        return peers.owner_id(self.signer.key_id)


class Grid(House):
    """The house, and what Root does about peers."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.mesh = signing.Ed25519Signer.generate()

    def effect(self, command: str, kind: str, payload: Any) -> record.Checked:
        """Root's call of a grid command, judged, committed, and its effect placed."""
        request, link = self._permission(command)
        return self.append(kind, payload(request), self.instances["grid"], links=[link])

    def enrol_peer(self, node: Node, tier: peers.Tier = peers.Tier.TRUSTED, **changes: Any) -> Node:
        """Root lets a node call."""
        fields = {
            "peer": node.name,
            "key": node.key,
            "tier": tier,
            "mesh": MESH,
            "mesh_key": self.mesh.public_key.hex(),
            "reach": None,
        }
        placed = self.effect(
            "grid/peer/enrol",
            "peer_enrolled",
            lambda request: audit.PeerEnrolled(**(fields | changes), request=request),
        )
        node.enrolment = placed.core.id
        return node

    def block(self, node: Node) -> None:
        self.effect(
            "grid/peer/block",
            "peer_blocked",
            lambda request: audit.PeerBlocked(peer=node.name, reason="", request=request),
        )

    def member(self, node: Node, tier: peers.Tier, signer: signing.Signer | None = None, **changes: Any) -> str:
        """The mesh's word on a node."""
        fields = {
            "mesh": MESH,
            "member_key": node.key,
            "tier": tier,
            "issued_at_ms": self.now_ms,
            "expires_at_ms": None,
        }
        return peers.vouch(signer or self.mesh, peers.Membership(**(fields | changes)))

    def tier(self, node: Node, membership: str) -> None:
        self.effect(
            "grid/peer/tier",
            "peer_tiered",
            lambda request: audit.PeerTiered(peer=node.name, membership=membership, request=request),
        )

    def grant(self, node: Node, *capabilities: str, signer: signing.Signer | None = None, **changes: Any) -> str:
        """A grant by Root, or by an attacker; issued by nobody yet."""
        issuer = signer or self.root.signer
        fields = {
            "grantee": node.name,
            "grantee_key": node.key,
            "capabilities": capabilities,
            "granted_in": MESH,
            "issued_at_ms": self.now_ms,
            "expires_at_ms": self.now_ms + DAY_MS,
            "epoch": self.state.next_epoch(node.signer.key_id),
            "issuer": issuer.public_key.hex(),
        }
        return grant.sign(issuer, grant.CapabilityGrant(**(fields | changes)))

    def issue_grant(self, token: str, **changes: Any) -> record.Checked:
        shown = grant.read(token)
        fields = {
            "grant": token,
            "grant_hash": shown.grant_hash,
            "grantee_key": shown.grant.grantee_key,
            "epoch": shown.grant.epoch,
        }
        return self.effect(
            "grid/grant/issue", "grant_issued", lambda request: audit.GrantIssued(**(fields | changes), request=request)
        )

    def lend(self, node: Node, *capabilities: str, **changes: Any) -> str:
        """A grant, signed and issued."""
        token = self.grant(node, *capabilities, **changes)
        self.issue_grant(token)
        return token

    def revoke_grants(self, node: Node, epoch: int | None = None) -> None:
        wanted = self.state.next_epoch(node.signer.key_id) if epoch is None else epoch
        self.effect(
            "grid/grant/revoke",
            "grant_revoked",
            lambda request: audit.GrantRevoked(grantee_key=node.key, epoch=wanted, reason="", request=request),
        )

    def mark(self, token: str, signer: signing.Signer | None = None, **changes: Any) -> record.Checked:
        """The gate keeps the mark of a grant that was shown, or an attacker with its instance key does."""
        shown = grant.read(token)
        fields = {
            "grantee_key": shown.grant.grantee_key,
            "epoch": shown.grant.epoch,
            "grant_hash": shown.grant_hash,
            "grant": token,
        }
        payload = audit.GrantMark(**(fields | changes))
        return self.append("grant_mark", payload, signer or self.instances["gatekeeper"])

    def call(self, node: Node, command: str, token: str | None = None, **changes: Any) -> decision.ReasoningChain:
        """A peer's proven call, judged; the gate's mark was kept before if the grant moves it and `mark` isn't False."""
        keep = changes.pop("mark", True)
        entry = self.state.peer_of(node.enrolment)
        assert entry is not None
        now_ms = changes.get("now_ms", self.now_ms)
        if token is not None and keep:
            found = grant.evaluate(
                token,
                issuer_key=self.state.root.key,
                presenting_key=entry.key,
                mesh=entry.mesh,
                now_ms=now_ms,
                mark=self.state.mark_of(entry.key_id),
                command=command,
            )
            if found.moves:
                self.mark(token)
        declared = catalogue.COMMANDS[command]
        fields = {
            "session_id": ids.new(),
            "licence_id": node.enrolment,
            "owner_id": node.owner_id,
            "loa": "guest",
            "keyed": True,
            "mandated": False,
            "proof": "session",
            "command": declared,
            "observed": gate.observe(declared, b"{}", bytes(16)),
            "calls_last_minute": self.calls.take(node.enrolment, self.now_ms, 1_000_000),
            "now_ms": now_ms,
            "chain_id": ids.new(),
            "as_of": self.head(),
            "standing": self.standings.at(node.owner_id, self.now_ms),
            "standing_as_of": self.standings.size,
            "grant": token,
        }
        return gate.judge(self.state, gate.Facts(**(fields | changes)))

    def decide(self, chain: decision.ReasoningChain) -> record.Checked:
        """Commit a decision as the gatekeeper would."""
        batch = audit.DecisionBatch(decisions=(decision.freeze(chain),))
        return self.append("decision_batch", batch, self.instances["gatekeeper"])


def forged(chain: decision.ReasoningChain, **changes: Any) -> decision.ReasoningChain:
    """A chain that the gate didn't make."""
    return msgspec.structs.replace(chain, **changes)
