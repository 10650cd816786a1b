"""Peers: other nodes that call this one, by what right, and how far a grant lifts them.

Decides: a peer's tier at a moment, the rung that the tier gives, and the rung that one call is judged by. Pure.

Invariants:

1. Tiers come from outside: blocked gives nothing, provisional guest, trusted observer. Nobody becomes the owner from outside: a peer has no
   licence, no owner's key and no certificate, and what it does is never the owner's word.
2. Root's block stands above everything. Else a membership that the mesh signed sets the tier for as long as it says; without one, or
   after it, the enrolment's own tier counts.
3. A grant lifts exactly to the rung of the command that it confers, never above operator (so never to what a policy raised to mentor, which
   needs the owner's word), and never for the owner's own commands or those of the grid itself: a peer that could send our calls on would
   borrow the grants that others gave to us.
4. A peer is named `peer:<key id>` wherever an owner is named; no licence may name its owner so.
"""

import enum
from typing import Annotated, Any, Final

import msgspec

from sigilcore import envelope, grant, signing
from sigilcore.access import Loa
from sigilcore.contracts.command import Admission, Command
from sigilcore.grant import MeshName, Ms
from sigilcore.record_types import PublicKey

OWNER_PREFIX: Final = "peer:"
GRANT_CEILING: Final = Loa.OPERATOR
SERVICE: Final = "grid"
MOST: Final = 4_096
"""Keys of peers ever enrolled, and so of marks: none is ever forgotten, and a log that names so many nodes is no house any more."""


class Tier(enum.StrEnum):
    """How far a node is trusted from outside."""

    BLOCKED = "blocked"
    PROVISIONAL = "provisional"
    TRUSTED = "trusted"

    @property
    def rung(self) -> Loa | None:
        """The level that it gives; None for nothing at all."""
        return _RUNGS[self]


_RUNGS: Final[dict[Tier, Loa | None]] = {
    Tier.BLOCKED: None,
    Tier.PROVISIONAL: Loa.GUEST,
    Tier.TRUSTED: Loa.OBSERVER,
}


Address = Annotated[
    str,
    msgspec.Meta(
        pattern=r"\A(https://([a-z0-9]([a-z0-9.-]{0,198}[a-z0-9])?|\[[0-9a-f:]{2,39}\])|http://(127(\.[0-9]{1,3}){3}|\[::1\]))(:[0-9]{1,5})?\Z",
        description="https://host, or http:// and a loopback address; a port if need be, and nothing after it",
    ),
]


class Membership(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A mesh's word on one of its members, signed with the mesh's key (DSSE type of its own)."""

    mesh: MeshName
    member_key: PublicKey
    tier: Tier
    issued_at_ms: Ms
    expires_at_ms: Ms | None


class PeerSession(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A node's word that this session key speaks for it at this deployment, signed with the node's key (DSSE type of its own).

    It names the deployment that it is for, so that no node can carry another's challenge to us and speak there with what we sign.
    """

    runtime_id: str
    tenant: str
    node_key: PublicKey
    session_key: PublicKey
    nonce: str
    not_after_ms: Ms


def owner_id(key_id: str) -> str:
    """How a peer is named where an owner is."""
    return f"{OWNER_PREFIX}{key_id}"


def is_peer(owner: str) -> bool:
    """True for a name that only a peer has."""
    return owner.startswith(OWNER_PREFIX)


def greet(node: signing.Signer, said: PeerSession) -> str:
    """Sign a session's opening with the node's key."""
    return envelope.seal(node, signing.PEER_SESSION, said)


def vouch(mesh: signing.Signer, said: Membership) -> str:
    """Sign a membership with the mesh's key."""
    return envelope.seal(mesh, signing.MEMBERSHIP, said)


def read_membership(token: str) -> Membership:
    """A membership, unverified; raises `envelope.BadToken`."""
    return envelope.peek_unverified(token, Membership)


def grantable(command: Command[Any, Any]) -> bool:
    """True for what a grant may confer at all, whatever a policy asks besides."""
    mine = command.service == SERVICE or command.needs_owner
    return command.admission is Admission.PERMIT and not mine and GRANT_CEILING.includes(command.rung)


def lifted(tier: Loa, need: Loa, command: Command[Any, Any], outcome: grant.Outcome | None) -> Loa:
    """The rung that a call is judged by: the tier's, or the command's own where a grant confers it."""
    confers = outcome is grant.Outcome.AUTHORIZED and grantable(command) and GRANT_CEILING.includes(need)
    return need if confers and need.includes(tier) else tier
