"""Capability grants: a node's owner lends commands to a peer, by a token that only the peer's own key can use.

Decides: what one presented grant says of one call. Pure; whose key presents it, which mesh that peer is of here, the time and the mark
are parameters.

Invariants:

1. Checks go down the page, and the first that fails is the outcome: issuer pinned, encoding, signature, presenting key, mesh, expiry,
   epoch, capability. What stands in an unverified body never decides anything but which refusal is given.
2. The presenting key is the authenticated sender's, never one that the token or a body names.
3. The epoch's mark only rises. A grant above it moves it even when it doesn't confer what is asked, so a higher epoch without capabilities
   revokes. `moves` says that the mark must stand, durably, before anybody acts on the outcome.
4. One epoch, one grant: another grant of the mark's own epoch is superseded. So the mark in the log says which grant was meant, and a
   replay judges it again.
5. A capability is a command's name, and confers that command and what lies under it: `ai/generate` confers `ai/generate/stream`, never
   `ai/generatex`.

Example: a peer shows a grant of epoch 4 where the mark is 3 and asks `memory/write`. The outcome is Authorized and `moves` is true; a
moment later its grant of epoch 3 is Superseded for ever.
"""

import enum
from collections.abc import Iterable
from typing import Annotated, Final

import msgspec

from sigilcore import canonical, digest, envelope, signing
from sigilcore.record_types import Hex64, PublicKey

MAX_CAPABILITIES: Final = 64
MAX_TOKEN: Final = 6_144
"""Characters of a token; an HTTP header line holds eight thousand."""

Epoch = Annotated[int, msgspec.Meta(ge=0, le=canonical.MAX_INT)]
Ms = Annotated[int, msgspec.Meta(ge=0, le=canonical.MAX_INT, description="milliseconds since 1970")]
PeerName = Annotated[str, msgspec.Meta(pattern=r"\A[a-z0-9][a-z0-9-]{0,31}\Z", description="a peer's name here")]
MeshName = Annotated[str, msgspec.Meta(pattern=r"\A[a-z0-9][a-z0-9.-]{0,63}\Z", description="a mesh's name")]
CommandName = Annotated[str, msgspec.Meta(pattern=r"\A[a-z][a-z0-9_/.-]{0,63}\Z", description="a command's name")]
Capabilities = Annotated[tuple[CommandName, ...], msgspec.Meta(max_length=MAX_CAPABILITIES)]
GrantToken = Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_TOKEN, description="a signed capability grant")]


class CapabilityGrant(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the owner signs. `issuer` is the owner's key; `grantee` the peer's name at the owner's, for people."""

    grantee: PeerName
    grantee_key: PublicKey
    capabilities: Capabilities
    granted_in: MeshName
    issued_at_ms: Ms
    expires_at_ms: Ms | None
    epoch: Epoch
    issuer: PublicKey


class SignedCapabilityGrant(msgspec.Struct, frozen=True, kw_only=True):
    """A grant that was read from its token; who signed it isn't known yet."""

    grant: CapabilityGrant
    grant_hash: Hex64
    token: str


class Mark(msgspec.Struct, frozen=True, kw_only=True):
    """The highest epoch that a peer ever showed or that was revoked up to; `grant_hash` is null where a revocation set it."""

    epoch: Epoch
    grant_hash: Hex64 | None


class Unavailable(msgspec.Struct, frozen=True):
    """The mark can't be read, or no more marks can be kept."""


UNAVAILABLE: Final = Unavailable()


class Outcome(enum.StrEnum):
    """What became of a presented grant."""

    AUTHORIZED = "Authorized"
    UNTRUSTED_ISSUER = "Invalid(UntrustedIssuer)"
    ENCODING_FAILED = "Invalid(EncodingFailed)"
    BAD_SIGNATURE = "Invalid(BadSignature)"
    KEY_MISMATCH = "Invalid(KeyMismatch)"
    WRONG_MESH = "Invalid(WrongMesh)"
    EXPIRED = "Invalid(Expired)"
    SUPERSEDED = "Superseded"
    NOT_GRANTED = "NotGranted"
    WATERMARK_UNAVAILABLE = "WatermarkUnavailable"


class Evaluation(msgspec.Struct, frozen=True, kw_only=True):
    """The outcome. `moves`: the grant's epoch is above the mark, which must be moved before the outcome counts."""

    outcome: Outcome
    moves: bool = False


def sign(owner: signing.Signer, grant: CapabilityGrant) -> str:
    """The token of a grant, by its issuer's own key; raises ValueError for another signer, or a grant too long for a header."""
    if owner.public_key.hex() != grant.issuer:
        raise ValueError("a grant is signed by the issuer that it names")
    token = envelope.seal(owner, signing.GRANT, grant)
    if len(token) > MAX_TOKEN:
        raise ValueError(f"a grant's token has at most {MAX_TOKEN} characters, this one {len(token)}")
    return token


def read(token: str) -> SignedCapabilityGrant:
    """A token's grant, unverified; raises `envelope.BadToken` for what is none."""
    if len(token) > MAX_TOKEN:
        raise envelope.BadToken("malformed")
    grant = envelope.peek_unverified(token, CapabilityGrant)
    return SignedCapabilityGrant(grant=grant, grant_hash=digest.sha256_hex(canonical.of(grant)), token=token)


def confers(capabilities: Iterable[str], command: str) -> bool:
    """True if a capability names the command, or a command that it lies under."""
    return any(command == name or command.startswith(f"{name}/") for name in capabilities)


def evaluate(
    token: str,
    *,
    issuer_key: str | None,
    presenting_key: str,
    mesh: str,
    now_ms: int,
    mark: Mark | Unavailable | None,
    command: str,
) -> Evaluation:
    """What this grant says of this call. `issuer_key` is the one pinned here, `mark` the presenting key's; None: there is none yet."""
    # 1. Issuer pinned.
    if issuer_key is None:
        return Evaluation(outcome=Outcome.UNTRUSTED_ISSUER)
    named = _issuer(token)
    if named is not None and named != issuer_key:
        return Evaluation(outcome=Outcome.UNTRUSTED_ISSUER)
    # 2. Encoding: one token, one spelling.
    try:
        shown = read(token)
    except envelope.BadToken:
        return Evaluation(outcome=Outcome.ENCODING_FAILED)
    # 3. Signature, by the pinned key.
    try:
        grant = envelope.unseal(token, signing.GRANT, CapabilityGrant, bytes.fromhex(issuer_key))
    except envelope.BadToken:
        return Evaluation(outcome=Outcome.BAD_SIGNATURE)
    # 4. The presenting key is the grantee's.
    if presenting_key != grant.grantee_key:
        return Evaluation(outcome=Outcome.KEY_MISMATCH)
    # 5. Mesh.
    if mesh != grant.granted_in:
        return Evaluation(outcome=Outcome.WRONG_MESH)
    # 6. Expiry: at its very millisecond it is over.
    if grant.expires_at_ms is not None and now_ms >= grant.expires_at_ms:
        return Evaluation(outcome=Outcome.EXPIRED)
    # 7. The epoch's mark.
    if isinstance(mark, Unavailable):
        return Evaluation(outcome=Outcome.WATERMARK_UNAVAILABLE)
    moves = mark is None or grant.epoch > mark.epoch
    if mark is not None and not moves and (grant.epoch, shown.grant_hash) != (mark.epoch, mark.grant_hash):
        return Evaluation(outcome=Outcome.SUPERSEDED)
    # 8. Capability.
    if not confers(grant.capabilities, command):
        return Evaluation(outcome=Outcome.NOT_GRANTED, moves=moves)
    return Evaluation(outcome=Outcome.AUTHORIZED, moves=moves)


class _Hint(msgspec.Struct):
    issuer: str


def _issuer(token: str) -> str | None:
    """The issuer that a body names, whatever else it holds; None if none can be read."""
    try:
        return envelope.peek_unverified(token, _Hint).issuer
    except envelope.BadToken:
        return None
