"""What may be recorded of peers and grants, held to the state of the log before it.

`admission` asks these for the writer, followers and verifiers; the grid service and the gate ask them first, for the refusal. Everything
that a record claims of a signed document is taken from the document and compared, so a service that lies about one is refused.

Invariants:

- one name, one key, one peer; a key that has or had another role here is no peer's, and weak keys are nobody's;
- an epoch is issued once, above the key's mark and all that was issued to it; a revocation goes above them too;
- a mesh's older word never counts after a newer one, whatever the peer was enrolled as between them;
- a mark moves only by a grant that Root signed for that very key and mesh, only upward, and never beyond the bound on marks.
"""

from collections.abc import Callable
from typing import Final

from sigilcore import clock, envelope, grant, peers, signing
from sigilcore.governance import Governance, PeerEntry
from sigilcore.record import Checked
from sigilcore.records import audit
from sigilcore.refusals import Code, Refused


def check(state: Governance, checked: Checked) -> None:
    """Hold a record of peers or grants to the log; other payloads are none of this module's. Raises `Refused`."""
    rule = _RULES.get(type(checked.payload))
    if rule is not None:
        rule(state, checked.payload, checked)


def peer_named(state: Governance, name: str, field: str = "$.payload.peer") -> PeerEntry:
    """The peer of this name."""
    found = state.peers.get(name)
    if found is None:
        raise Refused(Code.PEER_UNKNOWN, f"no peer {name!r} is enrolled here", field=field)
    return found


def _enrolled(state: Governance, payload: audit.PeerEnrolled, checked: Checked) -> None:
    fresh_peer(state, payload.peer, payload.key)
    if payload.mesh_key is not None:
        signing.strong_key(payload.mesh_key, "$.payload.mesh_key")
    if payload.reach is not None:
        signing.strong_key(payload.reach.owner_key, "$.payload.reach.owner_key")
    if checked.core.id in state.licences:
        raise Refused(Code.ID_TAKEN, "a licence has this id", field="$.header.core.id")


def fresh_peer(state: Governance, name: str, key: str, where: str = "$.payload") -> None:
    """A safe key that this peer has already, or that has no role here; and room for it."""
    public = signing.strong_key(key, f"{where}.key")
    old = state.peers.get(name)
    if old is not None and old.key == key:
        return
    if state.names_of(public):
        raise Refused(Code.PEER_TAKEN, "this key is somebody's here, or was", field=f"{where}.key")
    if sum(entry.role == "peer" for entry in state.keys.values()) >= peers.MOST:
        raise Refused(Code.GRANTS_FULL, f"{peers.MOST} peers' keys were enrolled, and none is forgotten")


def _blocked(state: Governance, payload: audit.PeerBlocked, _: Checked) -> None:
    peer_named(state, payload.peer)


def _tiered(state: Governance, payload: audit.PeerTiered, checked: Checked) -> None:
    entry = peer_named(state, payload.peer)
    check_membership(state, entry, payload.membership, _ts(checked), "$.payload.membership")


def check_membership(state: Governance, entry: PeerEntry, token: str, now_ms: int, field: str) -> peers.Membership:
    """A mesh's word on this very peer, by the key that its enrolment pins, newer than all that were brought before. Another enrolment
    forgets none of them; the newest may be brought to it again."""
    if entry.mesh_key is None:
        raise Refused(Code.MEMBERSHIP_INVALID, f"no mesh key was pinned for {entry.name}", field=field)
    try:
        said = envelope.unseal(token, signing.MEMBERSHIP, peers.Membership, bytes.fromhex(entry.mesh_key))
    except envelope.BadToken as error:
        raise Refused(Code.MEMBERSHIP_INVALID, f"membership: {error.reason}", field=field) from error
    if (said.mesh, said.member_key) != (entry.mesh, entry.key):
        raise Refused(Code.MEMBERSHIP_INVALID, "it is of another mesh or member", field=field)
    if said.expires_at_ms is not None and now_ms >= said.expires_at_ms:
        raise Refused(Code.MEMBERSHIP_INVALID, "it has expired", field=field)
    newest_ms = state.mesh_words.get(entry.mesh_word, -1)
    if said.issued_at_ms < newest_ms or (said.issued_at_ms == newest_ms and entry.member is not None):
        raise Refused(Code.MEMBERSHIP_INVALID, "the mesh has said something newer", field=field)
    return said


def _issued(state: Governance, payload: audit.GrantIssued, _: Checked) -> None:
    shown = check_grant(state, payload.grant, "$.payload.grant")
    said = (payload.grant_hash, payload.grantee_key, payload.epoch)
    if said != (shown.grant_hash, shown.grant.grantee_key, shown.grant.epoch):
        raise Refused(Code.RECORD_INVALID, "the record says otherwise than its grant", field="$.payload")


def check_grant(state: Governance, token: str, field: str) -> grant.SignedCapabilityGrant:
    """A grant that may be issued now: Root's own signature, for an enrolled peer in its mesh, of a new epoch."""
    try:
        envelope.unseal(token, signing.GRANT, grant.CapabilityGrant, bytes.fromhex(state.root.key))
        shown = grant.read(token)
    except envelope.BadToken as error:
        raise Refused(Code.GRANT_INVALID, f"grant: {error.reason}", field=field) from error
    said = shown.grant
    if said.issuer != state.root.key:
        raise Refused(Code.GRANT_INVALID, "it names another issuer than its signer", field=field)
    entry = peer_named(state, said.grantee, field)
    if (said.grantee_key, said.granted_in) != (entry.key, entry.mesh):
        raise Refused(Code.GRANT_INVALID, f"it is for another key or mesh than {entry.name}'s", field=field)
    check_epoch(state, entry.key_id, said.epoch, field)
    return shown


def check_epoch(state: Governance, key_id: str, epoch: int, field: str) -> None:
    """Above the mark and everything issued."""
    least = state.next_epoch(key_id)
    if epoch < least:
        raise Refused(
            Code.GRANT_STALE, f"the next epoch is {least}", field=field, detail={"epoch": epoch, "next_epoch": least}
        )


def _revoked(state: Governance, payload: audit.GrantRevoked, _: Checked) -> None:
    key_id = signing.key_id(bytes.fromhex(payload.grantee_key))
    entry = state.key(key_id)
    if entry is None or entry.role != "peer":
        raise Refused(Code.PEER_UNKNOWN, "no peer ever had this key", field="$.payload.grantee_key")
    check_epoch(state, key_id, payload.epoch, "$.payload.epoch")


def _marked(state: Governance, payload: audit.GrantMark, checked: Checked) -> None:
    entry = state.peer_with(payload.grantee_key)
    now_ms = _ts(checked)
    if entry is None or entry.tier_at(now_ms) is peers.Tier.BLOCKED:
        raise Refused(Code.PEER_UNKNOWN, "no peer that may call has this key", field="$.payload.grantee_key")
    found = grant.evaluate(
        payload.grant,
        issuer_key=state.root.key,
        presenting_key=entry.key,
        mesh=entry.mesh,
        now_ms=now_ms,
        mark=state.mark_of(entry.key_id),
        command="",
    )
    if found.outcome is grant.Outcome.WATERMARK_UNAVAILABLE:
        raise Refused(Code.GRANTS_FULL, f"{peers.MOST} marks are kept, and none is forgotten")
    if not found.moves:
        raise Refused(Code.GRANT_STALE, f"this grant moves no mark: {found.outcome}", field="$.payload.grant")
    shown = grant.read(payload.grant)
    if (payload.grant_hash, payload.epoch) != (shown.grant_hash, shown.grant.epoch):
        raise Refused(Code.RECORD_INVALID, "the record says otherwise than its grant", field="$.payload")


def _ts(checked: Checked) -> int:
    return clock.parse_ms(checked.core.ts)


_RULES: Final[dict[type, Callable[..., None]]] = {
    audit.PeerEnrolled: _enrolled,
    audit.PeerBlocked: _blocked,
    audit.PeerTiered: _tiered,
    audit.GrantIssued: _issued,
    audit.GrantRevoked: _revoked,
    audit.GrantMark: _marked,
}
