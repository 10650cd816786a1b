"""What services did: their instances, the gate's decisions, sessions, issuances, the life of proposals, what was refused.

Each is signed by an instance key that a service key introduced, and continues that key's chain; only `instance_opened` is signed by
the service key itself.
"""

from typing import Annotated, Literal

import msgspec

from sigilcore import decision, licence, peers
from sigilcore.grant import Epoch, GrantToken, MeshName, PeerName
from sigilcore.record_types import Hex32, Hex64, PublicKey, RecordId, Signature, Timestamp
from sigilcore.records.kind import Kind

Text = Annotated[str, msgspec.Meta(max_length=512)]


class InstanceOpened(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A running instance and its key; an older instance of the same service and name ends here."""

    service: Text
    instance: Annotated[str, msgspec.Meta(pattern=r"\A[a-z0-9-]{1,32}\Z")]
    key: Hex64
    settings_digest: Hex64


class InstanceBeat(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Once a minute while it writes, and last when it closes: bounds what a cut tail can hide."""

    records: Annotated[int, msgspec.Meta(ge=0)]
    closing: bool


class DecisionBatch(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All decisions that were in flight together."""

    decisions: Annotated[tuple[decision.FrozenChain, ...], msgspec.Meta(min_length=1, max_length=256)]


class ApprovalDecided(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A mentor's word on one call: `review` names the decision that asked for it, `owner`, `command` and `digest` say which call that was,
    `not_after` until when the word counts. `licence` is the approver's."""

    review: Annotated[str, msgspec.Meta(max_length=40)]
    verdict: Literal["approved", "refused"]
    owner: Text
    command: Text
    digest: Hex64
    approver: Text
    licence: Text
    not_after: Timestamp
    request: decision.Request


class ApprovedDecision(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An Allow that stands on a mentor's approval, and uses it up: a batch of one."""

    decision: decision.FrozenChain


class SessionOpened(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A login: licence, owner, and the session key if the licence is key-bound."""

    session_id: str
    licence_id: str
    owner_id: str
    key: Hex64 | None
    expires_at: str


class SessionClosed(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A logout; felt at every gate at once."""

    session_id: str
    owner_id: str


class LicenceIssued(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A licence's content, never its seal. `root_signature` is Root's own, for mentor licences."""

    license: licence.LicenceTable
    content_hash: Hex64
    seal_key_id: Hex32
    root_signature: Signature | None
    request: decision.Request | None


class LicenceRevoked(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A licence ends at this position."""

    license_id: str
    reason: Text
    request: decision.Request


class KeyRevoked(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A key ends at this position, never before it; with a service's key its instances end too. `role` says what the key was."""

    key_id: Hex32
    role: Literal["service", "instance"]
    reason: Text
    request: decision.Request


class CarriedRecord(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A prospective system record as text: header and payload are JCS."""

    header: Annotated[str, msgspec.Meta(max_length=16_384)]
    payload: Annotated[str, msgspec.Meta(max_length=65_536)]
    salt: Hex32


class ProposalOpened(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A proposal: the whole prospective record, signed by Root."""

    proposal_id: str
    record: CarriedRecord
    record_hash: Hex64
    request: decision.Request


class ProposalAttested(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A witness's signature over the prospective record. `counted` is false for a joining key's proof of possession."""

    proposal_id: str
    witness_id: str
    key_id: Hex32
    sig: Signature
    counted: bool


class ProposalClosed(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a proposal ended."""

    proposal_id: str
    outcome: Literal["committed", "expired", "withdrawn", "stale", "refused"]
    reason: Text
    record_hash: Hex64 | None


class RefusalSummary(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What was refused before the gate, or beyond a caller's ten recorded denials a minute: counts by code."""

    since: str
    until: str
    counts: dict[str, Annotated[int, msgspec.Meta(ge=1)]]


class AppendRefused(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The writer refused what this service wanted to append."""

    code: str
    kind: str
    record_id: str


class LogContradiction(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Somebody holds another history of this log than ours. `proven`: `evidence` is a note by the log's own key that can't stand beside
    `note`, ours; else it is a cosigner's word."""

    cosigner: Text
    proven: bool
    reason: Text
    note: Annotated[str, msgspec.Meta(max_length=16_384)]
    evidence: Annotated[str, msgspec.Meta(max_length=16_384)]


class Reach(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where a peer answers and who it must be there: its deployment, and the owner whose grants we may hold."""

    address: peers.Address
    runtime_id: RecordId
    canon_fingerprint: Hex64
    owner_key: PublicKey


class PeerEnrolled(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A node may call here from now on, in the name of its key. Enrolling a name again takes the place of the first, and lifts a block.

    `mesh_key` lets that mesh set the peer's tier by its signature; without `reach` the peer is never called from here.
    """

    peer: PeerName
    key: PublicKey
    tier: peers.Tier
    mesh: MeshName
    mesh_key: PublicKey | None
    reach: Reach | None
    request: decision.Request


class PeerBlocked(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A peer's calls end here, whatever it shows, until it is enrolled again."""

    peer: PeerName
    reason: Text
    request: decision.Request


class PeerTiered(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A mesh's signed word set a member's tier."""

    peer: PeerName
    membership: Annotated[str, msgspec.Meta(max_length=2_048)]
    request: decision.Request


class GrantIssued(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The owner lent commands to a peer: the signed grant itself, which only the peer's key can use."""

    grant: GrantToken
    grant_hash: Hex64
    grantee_key: PublicKey
    epoch: Epoch
    request: decision.Request


class GrantRevoked(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """No grant up to this epoch counts any more for this key: the mark moves here and now."""

    grantee_key: PublicKey
    epoch: Epoch
    reason: Text
    request: decision.Request


class GrantMark(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A peer showed a grant above its mark, which stands here from now on; the grant is kept so that a replay judges by it."""

    grantee_key: PublicKey
    epoch: Epoch
    grant_hash: Hex64
    grant: GrantToken


class PeerAsked(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A command goes to a peer for a caller of ours. It uses the decision up before anything is sent: one permit is one call out there."""

    peer: PeerName
    key_id: Hex32
    command: Annotated[str, msgspec.Meta(max_length=64)]
    grant_hash: Hex64 | None
    request: decision.Request


class PeerCalled(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What became of a call to a peer; the link `asked` names the record that it left with. `outcome`: `answered`, the code it refused
    with, or what was the matter."""

    peer: PeerName
    key_id: Hex32
    command: Annotated[str, msgspec.Meta(max_length=64)]
    grant_hash: Hex64 | None
    outcome: Annotated[str, msgspec.Meta(max_length=64)]
    request: decision.Request


OF_DECISIONS = ("decision_batch", "approved_decision")  # the kinds that carry decisions


def decisions_in(payload: object) -> tuple[decision.FrozenChain, ...]:
    """The decisions that a record carries, in the order of their index."""
    if isinstance(payload, DecisionBatch):
        return payload.decisions
    return (payload.decision,) if isinstance(payload, ApprovedDecision) else ()


def _owner(payload: SessionOpened | SessionClosed) -> str:
    return payload.owner_id


def _kind(tag: str, payload: type[msgspec.Struct], summary: str, *authors: str, **more: object) -> Kind:
    return Kind(tag=tag, payload=payload, space="audit", summary=summary, authors=authors, **more)  # type: ignore[arg-type]


_EVERY_AUTHOR = ("gatekeeper", "license", "quorum", "knowledge", "notary", "grid")

KINDS = (
    _kind(
        "instance_opened",
        InstanceOpened,
        "A service's running instance and its key.",
        *_EVERY_AUTHOR,
        service_signed=True,
        governs=True,
        subject=lambda p: p.service,
    ),
    _kind("instance_beat", InstanceBeat, "An instance is alive, or closes.", *_EVERY_AUTHOR, governs=True),
    _kind(
        "decision_batch",
        DecisionBatch,
        "The gate's decisions, frozen.",
        "gatekeeper",
        max_bytes=1 << 20,
    ),
    _kind(
        "approval_decided",
        ApprovalDecided,
        "A mentor approved or refused one call.",
        "gatekeeper",
        effect=True,
        governs=True,
        subject=lambda p: p.owner,
        thing=lambda p: p.review,
    ),
    _kind(
        "approved_decision",
        ApprovedDecision,
        "The gate's decision on an approved call, frozen.",
        "gatekeeper",
        governs=True,
        max_bytes=256 * 1024,
        subject=lambda p: p.decision.chain.audit.owner,
    ),
    _kind("session_opened", SessionOpened, "A login.", "gatekeeper", subject=_owner),
    _kind("session_closed", SessionClosed, "A logout.", "gatekeeper", governs=True, subject=_owner),
    _kind(
        "license_issued",
        LicenceIssued,
        "A licence was issued.",
        "license",
        effect=True,
        governs=True,
        subject=lambda p: p.license.owner.id,
        thing=lambda p: p.license.id,
    ),
    _kind(
        "license_revoked",
        LicenceRevoked,
        "A licence was revoked.",
        "license",
        effect=True,
        governs=True,
        thing=lambda p: p.license_id,
    ),
    _kind(
        "key_revoked",
        KeyRevoked,
        "A service's or an instance's key was revoked.",
        "license",
        effect=True,
        governs=True,
        thing=lambda p: p.key_id,
    ),
    _kind(
        "proposal_opened",
        ProposalOpened,
        "A system change was proposed.",
        "quorum",
        effect=True,
        max_bytes=256 * 1024,
        thing=lambda p: p.proposal_id,
    ),
    _kind("proposal_attested", ProposalAttested, "A witness attested.", "quorum", thing=lambda p: p.proposal_id),
    _kind("proposal_closed", ProposalClosed, "A proposal ended.", "quorum", thing=lambda p: p.proposal_id),
    _kind("refusal_summary", RefusalSummary, "Counts of what was refused without a record.", "gatekeeper"),
    _kind("log_contradiction", LogContradiction, "Another history of this log was seen.", "notary"),
    _kind("append_refused", AppendRefused, "The writer refused an append.", *_EVERY_AUTHOR),
    _kind("peer_enrolled", PeerEnrolled, "A node may call here.", "grid", effect=True, governs=True),
    _kind("peer_blocked", PeerBlocked, "A node may call here no more.", "grid", effect=True, governs=True),
    _kind("peer_tiered", PeerTiered, "A mesh set a peer's tier.", "grid", effect=True, governs=True),
    _kind("grant_issued", GrantIssued, "Commands were lent to a peer.", "grid", effect=True, governs=True),
    _kind("grant_revoked", GrantRevoked, "A peer's grants ended.", "grid", effect=True, governs=True),
    _kind("grant_mark", GrantMark, "A peer showed a grant above its mark.", "gatekeeper", governs=True),
    _kind("peer_asked", PeerAsked, "A command goes to a peer.", "grid", effect=True),
    _kind("peer_called", PeerCalled, "What became of a call to a peer.", "grid"),
)
