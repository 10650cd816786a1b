"""What the grid decides without talking: what may be issued, kept and called, and what is told of peers. All of it from the log.

Invariants:

1. What is issued was signed by Root on Root's side, names a peer that is enrolled, and names commands that a grant can confer at all.
2. What is kept was signed by the owner whom the peer's enrolment names, for this node's own key.
3. A call goes out to a peer that is enrolled with an address and not blocked, for a command that this house knows, so that the answer can
   be held to its declaration; and it carries that peer's owner's grant and nobody else's.
"""

from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from sigilcore import decision, enrolling, envelope, grant, peers, signing
from sigilcore.contracts import catalogue
from sigilcore.contracts import grid as wire
from sigilcore.contracts.command import Admission, Command
from sigilcore.contracts.common import Placed, cursor_number
from sigilcore.governance import Governance, IssuedGrant, PeerEntry
from sigilcore.records import audit
from sigilcore.refusals import Code, Refused

MOST_DETAIL_BYTES = 1_024  # of what a peer says about its no; ours are far shorter


class Outgoing(msgspec.Struct, frozen=True, kw_only=True):
    """A call that may go out."""

    peer: PeerEntry
    reach: audit.Reach
    command: Command[Any, Any]
    grant: grant.SignedCapabilityGrant | None


def card(state: Governance, node_key: str) -> wire.NodeCard:
    """Who this node is."""
    return wire.NodeCard(
        node_key=node_key,
        owner_key=state.root.key,
        runtime_id=state.runtime_id,
        tenant=state.tenant,
        canon_fingerprint=state.genesis_hash,
    )


def enrolment(state: Governance, request: wire.EnrolPeer, asked: decision.Request) -> audit.PeerEnrolled:
    """What the log keeps of an enrolment, or the first reason against it."""
    enrolling.fresh_peer(state, request.peer, request.key, "$")
    return audit.PeerEnrolled(
        peer=request.peer,
        key=request.key,
        tier=peers.Tier(request.tier),
        mesh=request.mesh,
        mesh_key=request.mesh_key,
        reach=request.reach,
        request=asked,
    )


def issuance(state: Governance, request: wire.IssueGrant, asked: decision.Request) -> audit.GrantIssued:
    """What the log keeps of a grant. A repetition under the caller's own id is the writer's to know."""
    try:
        shown = grant.read(request.grant)
    except envelope.BadToken as error:
        raise Refused(Code.GRANT_INVALID, f"grant: {error.reason}", field="$.grant") from error
    if request.id is None or shown.grant_hash not in state.grants:
        enrolling.check_grant(state, request.grant, "$.grant")
        for name in shown.grant.capabilities:
            check_grantable(name)
    return audit.GrantIssued(
        grant=request.grant,
        grant_hash=shown.grant_hash,
        grantee_key=shown.grant.grantee_key,
        epoch=shown.grant.epoch,
        request=asked,
    )


def check_grantable(name: str) -> None:
    """A command of this house that a grant can confer: nobody lends what would never be given."""
    command = catalogue.COMMANDS.get(name)
    if command is None or not peers.grantable(command):
        raise Refused(Code.GRANT_INVALID, f"{name} is no command that a grant confers here", field="$.grant")


def revocation(state: Governance, request: wire.RevokeGrants, asked: decision.Request) -> audit.GrantRevoked:
    """What the log keeps of a revocation: a mark above all that the peer's key was ever given."""
    peer = enrolling.peer_named(state, request.peer, "$.peer")
    epoch = state.next_epoch(peer.key_id)
    return audit.GrantRevoked(grantee_key=peer.key, epoch=epoch, reason=request.reason, request=asked)


def kept(state: Governance, request: wire.HoldGrant, node_key: str, now_ms: int) -> grant.SignedCapabilityGrant:
    """A grant that may be kept: of this peer's owner, for this node, and not over."""
    peer = enrolling.peer_named(state, request.peer, "$.peer")
    if peer.reach is None:
        raise Refused(
            Code.PEER_UNREACHABLE, f"{peer.name} was enrolled without an owner and an address", field="$.peer"
        )
    try:
        envelope.unseal(request.grant, signing.GRANT, grant.CapabilityGrant, bytes.fromhex(peer.reach.owner_key))
        shown = grant.read(request.grant)
    except envelope.BadToken as error:
        raise Refused(Code.GRANT_INVALID, f"grant: {error.reason}", field="$.grant") from error
    if shown.grant.issuer != peer.reach.owner_key:
        raise Refused(Code.GRANT_INVALID, "it names another issuer than its signer", field="$.grant")
    if shown.grant.grantee_key != node_key:
        raise Refused(Code.GRANT_INVALID, "it was given to another node's key", field="$.grant")
    if _over(shown.grant, now_ms):
        raise Refused(Code.GRANT_INVALID, "it has expired", field="$.grant")
    return shown


def outgoing(
    state: Governance,
    request: wire.CallPeer,
    newest: Callable[[str], grant.SignedCapabilityGrant | None],
    node_key: str,
    now_ms: int,
) -> Outgoing:
    """A call that may go out, with the newest grant of that peer's owner; `newest` finds it."""
    peer = enrolling.peer_named(state, request.peer, "$.peer")
    if peer.tier_at(now_ms) is peers.Tier.BLOCKED:
        raise Refused(Code.PEER_INVALID, f"{peer.name} is blocked", field="$.peer", detail={"reasons": ["BLOCKED"]})
    if peer.reach is None:
        raise Refused(Code.PEER_UNREACHABLE, f"{peer.name} was enrolled without an address", field="$.peer")
    command = catalogue.COMMANDS.get(request.command)
    if command is None or command.admission is not Admission.PERMIT:
        raise Refused(Code.UNKNOWN_COMMAND, "no command that can be asked of a peer", field="$.command")
    shown = newest(peer.reach.owner_key)
    useful = shown is not None and shown.grant.grantee_key == node_key and not _over(shown.grant, now_ms)
    return Outgoing(peer=peer, reach=peer.reach, command=command, grant=shown if useful else None)


def asked(going: Outgoing, said: decision.Request) -> audit.PeerAsked:
    """What the log keeps of a call to a peer before it goes out."""
    return audit.PeerAsked(
        peer=going.peer.name,
        key_id=going.peer.key_id,
        command=going.command.name,
        grant_hash=None if going.grant is None else going.grant.grant_hash,
        request=said,
    )


def called(going: Outgoing, outcome: str, said: decision.Request) -> audit.PeerCalled:
    """What the log keeps of what became of it."""
    return audit.PeerCalled(
        peer=going.peer.name,
        key_id=going.peer.key_id,
        command=going.command.name,
        grant_hash=None if going.grant is None else going.grant.grant_hash,
        outcome=outcome,
        request=said,
    )


def refused_by(going: Outgoing, refused: Refused) -> Refused:
    """A peer's no, in a refusal of ours, so that nobody takes it for the word of this house."""
    told: dict[str, Any] = {
        "peer": going.peer.name,
        "code": refused.code.value,
        "next_step": refused.code.next_step,
    }
    if refused.detail and len(msgspec.json.encode(refused.detail)) <= MOST_DETAIL_BYTES:
        told["detail"] = refused.detail
    return Refused(Code.PEER_REFUSED, f"{going.peer.name}: {refused.code}", detail=told)


# What is told


def changed(state: Governance, name: str, placed: Placed, now_ms: int) -> wire.PeerChanged:
    """The peer as it stands now."""
    peer = state.peers[name]
    return wire.PeerChanged(
        peer=name,
        key_id=peer.key_id,
        tier=peer.tier_at(now_ms),
        id=placed.id,
        hash=placed.hash,
        seq=placed.seq,
    )


def peer_page(
    state: Governance,
    request: wire.ListPeers,
    newest: Callable[[str], grant.SignedCapabilityGrant | None],
    now_ms: int,
) -> wire.PeerPage:
    """Peers in the order of their first enrolment: a name keeps its place, so a cursor is a place."""
    items, cursor = _page(iter(state.peers.values()), request.cursor, request.limit)
    return wire.PeerPage(items=tuple(_peer_view(state, one, newest, now_ms) for one in items), cursor=cursor)


def _peer_view(
    state: Governance,
    peer: PeerEntry,
    newest: Callable[[str], grant.SignedCapabilityGrant | None],
    now_ms: int,
) -> wire.PeerView:
    mark = state.grant_marks.get(peer.key_id)
    held = None if peer.reach is None else newest(peer.reach.owner_key)
    return wire.PeerView(
        peer=peer.name,
        key=peer.key,
        key_id=peer.key_id,
        tier=peer.tier_at(now_ms),
        mesh=peer.mesh,
        mesh_key=peer.mesh_key,
        address=None if peer.reach is None else peer.reach.address,
        since_seq=peer.since_seq,
        changed_seq=peer.changed_seq,
        mark=None if mark is None else mark.mark.epoch,
        next_epoch=state.next_epoch(peer.key_id),
        held=None if held is None else held_view(held),
    )


def held_view(shown: grant.SignedCapabilityGrant) -> wire.HeldGrant:
    """A grant that we hold."""
    return wire.HeldGrant(
        grant_hash=shown.grant_hash,
        epoch=shown.grant.epoch,
        capabilities=shown.grant.capabilities,
        expires_at_ms=shown.grant.expires_at_ms,
    )


def grant_page(state: Governance, request: wire.ListGrants, now_ms: int) -> wire.GrantPage:
    """Grants in order of issue; a grant keeps its place among those that are asked for."""
    wanted = (one for one in state.grants.values() if request.peer in {None, one.grant.grantee})
    items, cursor = _page(wanted, request.cursor, request.limit)
    return wire.GrantPage(items=tuple(_grant_view(state, one, now_ms) for one in items), cursor=cursor)


def _grant_view(state: Governance, issued: IssuedGrant, now_ms: int) -> wire.GrantView:
    said = issued.grant
    return wire.GrantView(
        peer=said.grantee,
        grantee_key=said.grantee_key,
        capabilities=said.capabilities,
        mesh=said.granted_in,
        epoch=said.epoch,
        issued_at_ms=said.issued_at_ms,
        expires_at_ms=said.expires_at_ms,
        grant_hash=issued.grant_hash,
        issued_seq=issued.issued_seq,
        counts=_counts(state, issued, now_ms),
    )


def _counts(state: Governance, issued: IssuedGrant, now_ms: int) -> bool:
    said = issued.grant
    peer = state.peer_with(said.grantee_key)
    if peer is None or peer.tier_at(now_ms) is peers.Tier.BLOCKED:
        return False
    if (said.granted_in, said.issuer) != (peer.mesh, state.root.key):
        return False
    if _over(said, now_ms):
        return False
    held = state.grant_marks.get(peer.key_id)
    return held is None or said.epoch > held.mark.epoch or issued.grant_hash == held.mark.grant_hash


def _over(said: grant.CapabilityGrant, now_ms: int) -> bool:
    return said.expires_at_ms is not None and now_ms >= said.expires_at_ms


def _page(found: Iterator[Any], cursor: str | None, limit: int) -> tuple[list[Any], str | None]:
    first = 0 if cursor is None else cursor_number(cursor)
    items: list[Any] = []
    for place, one in enumerate(found):
        if place < first:
            continue
        if len(items) == limit:
            return items, str(place)
        items.append(one)
    return items, None
