"""The grid: other nodes that may call here, what is lent to them, and calls from here to them.

Root signs grants on its own side; the commands carry them, record them and move their marks. A call to a peer goes to its enrolled
address and nowhere else.
"""

from typing import Annotated, Any, Literal

import msgspec

from sigilcore import peers
from sigilcore.access import Loa
from sigilcore.contracts.command import Action, Command, Target
from sigilcore.contracts.common import Cursor, Empty, Id, Limit, Message, WaitFor
from sigilcore.grant import CommandName, GrantToken, MeshName, PeerName
from sigilcore.record_types import Hex32, Hex64, PublicKey, RecordId
from sigilcore.records.audit import Reach
from sigilcore.refusals import Code

SERVICE = peers.SERVICE
Reason = Annotated[str, msgspec.Meta(max_length=512)]


class NodeCard(Message, frozen=True, kw_only=True):
    """Who this node is to others: what its peers enrol, carried to them by people who know each other."""

    node_key: PublicKey
    owner_key: PublicKey
    runtime_id: str
    tenant: str
    canon_fingerprint: str


class EnrolPeer(Message, frozen=True, kw_only=True):
    """A node's name here and key, how far it is trusted, and the mesh that it is of; `reach` if it is to be called."""

    peer: PeerName
    key: PublicKey
    tier: Literal["provisional", "trusted"] = "provisional"
    mesh: MeshName
    mesh_key: PublicKey | None = None
    reach: Reach | None = None
    id: Id | None = None


class BlockPeer(Message, frozen=True, kw_only=True):
    """Ends a peer's calls."""

    peer: PeerName
    reason: Reason = ""
    id: Id | None = None


class TierPeer(Message, frozen=True, kw_only=True):
    """The mesh's signed word on a peer."""

    peer: PeerName
    membership: Annotated[str, msgspec.Meta(min_length=1, max_length=2_048)]
    id: Id | None = None


class PeerChanged(Message, frozen=True, kw_only=True):
    """The peer as it stands now, and where that stands in the canon."""

    peer: PeerName
    key_id: Hex32
    tier: peers.Tier
    id: RecordId
    hash: Hex64
    seq: int


class HeldGrant(Message, frozen=True, kw_only=True):
    """A grant that the peer's owner gave to us."""

    grant_hash: Hex64
    epoch: int
    capabilities: tuple[str, ...]
    expires_at_ms: int | None


class PeerView(Message, frozen=True, kw_only=True):
    """A peer: its tier now, the mark of what was lent to it, the next epoch for it, and what we hold of its."""

    peer: PeerName
    key: PublicKey
    key_id: Hex32
    tier: peers.Tier
    mesh: str
    mesh_key: PublicKey | None
    address: str | None
    since_seq: int
    changed_seq: int
    mark: int | None
    next_epoch: int
    held: HeldGrant | None


class ListPeers(Message, frozen=True, kw_only=True):
    """Peers in the order in which they were enrolled first."""

    cursor: Cursor | None = None
    limit: Limit = 50
    wait_for: WaitFor | None = None


class PeerPage(Message, frozen=True, kw_only=True):
    """A page of peers."""

    items: tuple[PeerView, ...]
    cursor: str | None


class IssueGrant(Message, frozen=True, kw_only=True):
    """A grant that Root signed."""

    grant: GrantToken
    id: Id | None = None


class GrantPlaced(Message, frozen=True, kw_only=True):
    """Where a grant's issuance stands."""

    peer: PeerName
    epoch: int
    grant_hash: Hex64
    id: RecordId
    hash: Hex64
    seq: int


class RevokeGrants(Message, frozen=True, kw_only=True):
    """Ends every grant that a peer holds of ours."""

    peer: PeerName
    reason: Reason = ""
    id: Id | None = None


class GrantsRevoked(Message, frozen=True, kw_only=True):
    """The mark that stands now, and where it stands."""

    peer: PeerName
    epoch: int
    id: RecordId
    hash: Hex64
    seq: int


class GrantView(Message, frozen=True, kw_only=True):
    """A grant as it was issued. `counts`: its epoch isn't below the mark, its time isn't over, and its key is a peer's who may call."""

    peer: PeerName
    grantee_key: PublicKey
    capabilities: tuple[str, ...]
    mesh: str
    epoch: int
    issued_at_ms: int
    expires_at_ms: int | None
    grant_hash: Hex64
    issued_seq: int
    counts: bool


class ListGrants(Message, frozen=True, kw_only=True):
    """Grants in order of issue; of one peer, if it is named."""

    peer: PeerName | None = None
    cursor: Cursor | None = None
    limit: Limit = 50
    wait_for: WaitFor | None = None


class GrantPage(Message, frozen=True, kw_only=True):
    """A page of grants."""

    items: tuple[GrantView, ...]
    cursor: str | None


class HoldGrant(Message, frozen=True, kw_only=True):
    """A grant that a peer's owner gave to this node."""

    peer: PeerName
    grant: GrantToken


class GrantHeld(Message, frozen=True, kw_only=True):
    """The newest grant held of this peer's owner."""

    peer: PeerName
    held: HeldGrant


class CallPeer(Message, frozen=True, kw_only=True):
    """A command for a peer, with its parameters."""

    peer: PeerName
    command: CommandName
    parameters: dict[str, Any] = msgspec.field(default_factory=dict)


class PeerAnswer(Message, frozen=True, kw_only=True):
    """What the peer answered, in the shape that the command declares, and where the call stands in our own canon."""

    peer: PeerName
    command: str
    reply: dict[str, Any]
    grant_hash: Hex64 | None
    id: RecordId
    hash: Hex64
    seq: int


NODE = Command(
    name="grid/node",
    service=SERVICE,
    request=Empty,
    reply=NodeCard,
    summary="Who this node is to its peers.",
    action=Action.READ,
    target=Target.MODULE,
    rung=Loa.GUEST,
)
PEER_ENROL = Command(
    name="grid/peer/enrol",
    service=SERVICE,
    request=EnrolPeer,
    reply=PeerChanged,
    summary="Let a node call here, and be called.",
    action=Action.ELEVATION,
    target=Target.SYSTEM,
    rung=Loa.ROOT,
    writes=("peer_enrolled",),
    refusals=(Code.PEER_TAKEN, Code.WEAK_KEY, Code.GRANTS_FULL, Code.ID_TAKEN),
    example={"peer": "library", "key": "a1" * 32, "tier": "trusted", "mesh": "town"},
)
PEER_BLOCK = Command(
    name="grid/peer/block",
    service=SERVICE,
    request=BlockPeer,
    reply=PeerChanged,
    summary="End a peer's calls, whatever it shows.",
    action=Action.DELETE,
    target=Target.SYSTEM,
    rung=Loa.ROOT,
    writes=("peer_blocked",),
    scored=False,
    refusals=(Code.PEER_UNKNOWN, Code.ID_TAKEN),
)
PEER_TIER = Command(
    name="grid/peer/tier",
    service=SERVICE,
    request=TierPeer,
    reply=PeerChanged,
    summary="Bring the mesh's signed word on a peer's tier.",
    action=Action.WRITE,
    target=Target.CONFIG,
    rung=Loa.OPERATOR,
    writes=("peer_tiered",),
    refusals=(Code.PEER_UNKNOWN, Code.MEMBERSHIP_INVALID, Code.ID_TAKEN),
)
PEER_LIST = Command(
    name="grid/peer/list",
    service=SERVICE,
    request=ListPeers,
    reply=PeerPage,
    summary="Peers, their tiers and marks, and what is held of theirs.",
    action=Action.READ,
    target=Target.AUDIT,
    rung=Loa.MENTOR,
    refusals=(Code.BEYOND_HEAD, Code.NOT_YET),
)
GRANT_ISSUE = Command(
    name="grid/grant/issue",
    service=SERVICE,
    request=IssueGrant,
    reply=GrantPlaced,
    summary="Lend commands to a peer, by a grant that Root signed.",
    action=Action.ELEVATION,
    target=Target.SYSTEM,
    rung=Loa.ROOT,
    writes=("grant_issued",),
    refusals=(Code.GRANT_INVALID, Code.GRANT_STALE, Code.PEER_UNKNOWN, Code.ID_TAKEN),
)
GRANT_LIST = Command(
    name="grid/grant/list",
    service=SERVICE,
    request=ListGrants,
    reply=GrantPage,
    summary="What was lent to peers, in order of issue.",
    action=Action.READ,
    target=Target.AUDIT,
    rung=Loa.MENTOR,
    refusals=(Code.BEYOND_HEAD, Code.NOT_YET),
)
GRANT_REVOKE = Command(
    name="grid/grant/revoke",
    service=SERVICE,
    request=RevokeGrants,
    reply=GrantsRevoked,
    summary="End every grant of a peer; felt at every gate within a second.",
    action=Action.DELETE,
    target=Target.SYSTEM,
    rung=Loa.ROOT,
    writes=("grant_revoked",),
    scored=False,
    refusals=(Code.PEER_UNKNOWN, Code.GRANT_STALE, Code.ID_TAKEN),
)
HOLD = Command(
    name="grid/hold",
    service=SERVICE,
    request=HoldGrant,
    reply=GrantHeld,
    summary="Keep a grant that a peer's owner gave to this node.",
    action=Action.WRITE,
    target=Target.CONFIG,
    rung=Loa.OPERATOR,
    refusals=(Code.PEER_UNKNOWN, Code.PEER_UNREACHABLE, Code.GRANT_INVALID, Code.GRANT_STALE),
)
CALL = Command(
    name="grid/call",
    service=SERVICE,
    request=CallPeer,
    reply=PeerAnswer,
    summary="Ask a command of a peer, with the grant that is held of its owner.",
    action=Action.EXECUTE,
    target=Target.MODULE,
    rung=Loa.OPERATOR,
    writes=("peer_asked",),
    refusals=(Code.PEER_UNKNOWN, Code.PEER_INVALID, Code.PEER_REFUSED, Code.PEER_UNREACHABLE, Code.UNKNOWN_COMMAND),
    longest_run_s=30,
    example={"peer": "library", "command": "ping", "parameters": {}},
)

COMMANDS = (
    NODE,
    PEER_ENROL,
    PEER_BLOCK,
    PEER_TIER,
    PEER_LIST,
    GRANT_ISSUE,
    GRANT_LIST,
    GRANT_REVOKE,
    HOLD,
    CALL,
)
