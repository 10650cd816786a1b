"""The grid as a service: thin handlers over the rules, then the table.

Where safety happens: the writer holds every record of peers and grants to the log by itself (`enrolling`), and the gate judges each call
of a peer. A grid that lies enrols nobody without Root's decision, and mints no grant without Root's signature.

A call to a peer uses its decision up by a record of its own, `peer_asked`, before anything is sent: a second process that was shown the
same permit, or a later one, is refused by the writer (DECISION_USED) and sends nothing. What became of it is recorded, `peer_called`,
before it is shown; a crash in between leaves `peer_asked`, and nobody says whether the peer did it.
"""

from typing import Any, Protocol

import msgspec

from services.grid import rules
from services.grid.caller import Caller, Silent
from services.grid.store import Held
from sigilcore import clock, decision, enrolling, ids, signing
from sigilcore.contracts import grid as wire
from sigilcore.contracts.common import Empty, Placed
from sigilcore.governance import Governance
from sigilcore.permit import Call
from sigilcore.records import audit
from sigilcore.refusals import Code, Refused
from sigilrun import telemetry


class Ledger(Protocol):
    """What the grid needs of the canon."""

    @property
    def state(self) -> Governance:
        """The newest state that was followed and verified."""

    async def reach(self, seq: int) -> None:
        """Return once the state has seen the record that a caller names by `seq`. Raises BEYOND_HEAD, NOT_YET."""

    async def effect(self, kind: str, payload: msgspec.Struct, *, name: str, admits: decision.DecisionRef) -> Placed:
        """Append the effect of a decision; its place once the state has seen it. Raises `Refused`."""

    async def outcome(self, kind: str, payload: msgspec.Struct, *, asked: Placed) -> Placed:
        """Append what became of an effect that stands already; its place. Raises `Refused`."""


class Grid:
    """What the handlers share."""

    def __init__(self, *, ledger: Ledger, clock: clock.Clock, node: signing.Signer, held: Held, caller: Caller) -> None:
        """`node` is the service's own key, which is this node's name to its peers."""
        self.ledger = ledger
        self.clock = clock
        self.node = node
        self.held = held
        self.caller = caller

    @property
    def state(self) -> Governance:
        """The newest state of the log."""
        return self.ledger.state

    @property
    def node_key(self) -> str:
        """This node's public key, as the log names it now."""
        return self.node.public_key.hex()

    async def effect(self, kind: str, payload: msgspec.Struct, call: Call, given: str | None = None) -> Placed:
        """Write what a call does, under the caller's id or a new one."""
        if given is not None and not ids.is_id(given):
            raise Refused(Code.BAD_INPUT, "id is a UUIDv7", field="$.id")
        return await self.ledger.effect(kind, payload, name=given or ids.new(), admits=call.bound.permit.decision)


async def node(service: Grid, request: Empty, call: Call) -> wire.NodeCard:
    """Who this node is to its peers."""
    del request, call
    return rules.card(service.state, service.node_key)


async def enrol(service: Grid, request: wire.EnrolPeer, call: Call) -> wire.PeerChanged:
    """Let a node call here."""
    payload = rules.enrolment(service.state, request, call.bound.request())
    placed = await service.effect("peer_enrolled", payload, call, request.id)
    return rules.changed(service.state, request.peer, placed, service.clock.now_ms())


async def block(service: Grid, request: wire.BlockPeer, call: Call) -> wire.PeerChanged:
    """End a peer's calls."""
    enrolling.peer_named(service.state, request.peer, "$.peer")
    payload = audit.PeerBlocked(peer=request.peer, reason=request.reason, request=call.bound.request())
    placed = await service.effect("peer_blocked", payload, call, request.id)
    return rules.changed(service.state, request.peer, placed, service.clock.now_ms())


async def tier(service: Grid, request: wire.TierPeer, call: Call) -> wire.PeerChanged:
    """Bring the mesh's word on a peer. A repetition under the caller's own id is the writer's to know."""
    peer = enrolling.peer_named(service.state, request.peer, "$.peer")
    if request.id is None:
        enrolling.check_membership(service.state, peer, request.membership, service.clock.now_ms(), "$.membership")
    payload = audit.PeerTiered(peer=request.peer, membership=request.membership, request=call.bound.request())
    placed = await service.effect("peer_tiered", payload, call, request.id)
    return rules.changed(service.state, request.peer, placed, service.clock.now_ms())


async def list_peers(service: Grid, request: wire.ListPeers, call: Call) -> wire.PeerPage:
    """Peers in the order of their first enrolment."""
    del call
    if request.wait_for is not None:
        await service.ledger.reach(request.wait_for)
    return rules.peer_page(service.state, request, service.held.newest, service.clock.now_ms())


async def issue(service: Grid, request: wire.IssueGrant, call: Call) -> wire.GrantPlaced:
    """Record a grant that Root signed."""
    payload = rules.issuance(service.state, request, call.bound.request())
    placed = await service.effect("grant_issued", payload, call, request.id)
    issued = service.state.grants[payload.grant_hash]
    return wire.GrantPlaced(
        peer=issued.grant.grantee,
        epoch=payload.epoch,
        grant_hash=payload.grant_hash,
        id=placed.id,
        hash=placed.hash,
        seq=placed.seq,
    )


async def list_grants(service: Grid, request: wire.ListGrants, call: Call) -> wire.GrantPage:
    """Grants in order of issue."""
    del call
    if request.wait_for is not None:
        await service.ledger.reach(request.wait_for)
    return rules.grant_page(service.state, request, service.clock.now_ms())


async def revoke(service: Grid, request: wire.RevokeGrants, call: Call) -> wire.GrantsRevoked:
    """Move a peer's mark above all that it was given."""
    payload = rules.revocation(service.state, request, call.bound.request())
    placed = await service.effect("grant_revoked", payload, call, request.id)
    mark = service.state.grant_marks[service.state.peers[request.peer].key_id].mark
    return wire.GrantsRevoked(peer=request.peer, epoch=mark.epoch, id=placed.id, hash=placed.hash, seq=placed.seq)


async def hold(service: Grid, request: wire.HoldGrant, call: Call) -> wire.GrantHeld:
    """Keep a grant that was given to this node."""
    del call
    now_ms = service.clock.now_ms()
    shown = rules.kept(service.state, request, service.node_key, now_ms)
    service.held.keep(shown, now_ms)
    return wire.GrantHeld(peer=request.peer, held=rules.held_view(shown))


async def call_peer(service: Grid, request: wire.CallPeer, call: Call) -> wire.PeerAnswer:
    """Ask a peer; recorded before it is asked, and before it is shown, whatever it answered."""
    going = rules.outgoing(service.state, request, service.held.newest, service.node_key, service.clock.now_ms())
    said = call.bound.request()
    asked = await service.effect("peer_asked", rules.asked(going, said), call)
    reply: dict[str, Any] = {}
    said_no: Refused | None = None
    outcome = "answered"
    try:
        reply = await service.caller.ask(going, request.parameters)
    except Refused as refused:
        outcome = refused.code.value
        said_no = rules.refused_by(going, refused)
    except Silent as silent:
        telemetry.log.warning("peer_silent", peer=going.peer.name, reason=str(silent))
        outcome = "silent"
        said_no = Refused(Code.PEER_UNREACHABLE, f"{going.peer.name} gave no answer that counts")
    payload = rules.called(going, outcome, said)
    placed = await service.ledger.outcome("peer_called", payload, asked=asked)
    if said_no is not None:
        raise said_no
    return wire.PeerAnswer(
        peer=going.peer.name,
        command=going.command.name,
        reply=reply,
        grant_hash=payload.grant_hash,
        id=placed.id,
        hash=placed.hash,
        seq=placed.seq,
    )


HANDLERS: dict[Any, Any] = {
    wire.NODE: node,
    wire.PEER_ENROL: enrol,
    wire.PEER_BLOCK: block,
    wire.PEER_TIER: tier,
    wire.PEER_LIST: list_peers,
    wire.GRANT_ISSUE: issue,
    wire.GRANT_LIST: list_grants,
    wire.GRANT_REVOKE: revoke,
    wire.HOLD: hold,
    wire.CALL: call_peer,
}
