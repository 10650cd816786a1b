"""Sessions: a session key of the client's own, a certificate by the licence's owner, a token by the gatekeeper, a proof on each call.

A key-bound caller speaks only by a signature: its session key's, or its owner's key's own. Neither the gateway nor anyone on the bus
can make one, so neither can speak for it. A bearer session has no proof and reaches operator at most.
"""

from typing import Annotated, Literal

import msgspec

from sigilcore import digest, envelope, signing
from sigilcore.access import Loa
from sigilcore.record_types import Hex32, Hex64, PublicKey, RecordId

CERTIFICATE_MS = 15 * 60 * 1000
PROOF_WINDOW_MS = 30 * 1000
NONCE_MS = 60 * 1000
LONGEST_SESSION_MS = 12 * 60 * 60 * 1000


class Nonce(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A challenge, signed by the gatekeeper so that it need not be kept; used once, within a minute."""

    nonce: Hex32
    runtime_id: RecordId
    tenant: str
    issued_ms: int


class Certificate(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The owner's word that this session key speaks for them, and for which root- or mentor-rung mutations by name."""

    runtime_id: RecordId
    tenant: str
    licence_id: RecordId
    session_key: PublicKey
    nonce: Annotated[str, msgspec.Meta(max_length=1024, description="the challenge token as it came")]
    not_after_ms: int
    mutations: Annotated[tuple[str, ...], msgspec.Meta(max_length=64)]
    mutations_not_after_ms: int


class SessionToken(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the gatekeeper says of an open session. `session_key` is null for a bearer session."""

    session_id: RecordId
    runtime_id: RecordId
    tenant: str
    licence_id: RecordId
    owner_id: str
    loa: Loa
    session_key: PublicKey | None
    mutations: tuple[str, ...]
    mutations_not_after_ms: int
    not_after_ms: int


class Proof(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One call's proof: this command, these very bytes, now, once; by the session key or the owner's own."""

    session_id: RecordId
    command: str
    parameters: Hex64
    time_ms: int
    nonce: Hex32
    by: Literal["session", "owner"]


def prove(
    signer: signing.Signer,
    *,
    session_id: str,
    command: str,
    parameters: bytes,
    time_ms: int,
    nonce: str,
    by: Literal["session", "owner"] = "session",
) -> str:
    """Sign one call; `parameters` are the body's very bytes."""
    proof = Proof(
        session_id=session_id,
        command=command,
        parameters=digest.sha256_hex(parameters),
        time_ms=time_ms,
        nonce=nonce,
        by=by,
    )
    return envelope.seal(signer, signing.PROOF, proof)


def certify(signer: signing.Signer, certificate: Certificate) -> str:
    """Sign a session certificate with the owner's key."""
    return envelope.seal(signer, signing.CERTIFICATE, certificate)
