"""The permit: the gatekeeper's signed yes for one call, bound to the very bytes.

Whoever answers a call checks it down the page: signature, deployment, time, service and command, digest of the body, and that it was
not used before. The effect is then bound to the decision by the writer; a permit alone writes nothing.
"""

from typing import Annotated, Protocol

import msgspec

from sigilcore import canonical, digest, envelope, signing
from sigilcore.access import Loa
from sigilcore.decision import DecisionRef, Number, ProofKind, Request
from sigilcore.record_types import Hex32, Hex64, RecordId
from sigilcore.refusals import Code, Refused

START_WINDOW_MS = 5_000


class Permit(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`not_after_ms` bounds the start; `longest_run_s` the run; `parent` names the decision of the call on whose behalf this one is made;
    `session_ends_ms` is when the caller's session does."""

    permit_id: Hex32
    runtime_id: RecordId
    tenant: str
    owner_id: str
    licence_id: RecordId
    session_id: RecordId
    session_ends_ms: Number
    loa: Loa
    proof: ProofKind
    command: str
    service: str
    target: str
    salt: Hex32
    digest: Hex64
    decision: DecisionRef
    parent: DecisionRef | None
    not_after_ms: Number
    longest_run_s: Annotated[int, msgspec.Meta(ge=1, le=canonical.MAX_INT)]


class Bound(msgspec.Struct, frozen=True, kw_only=True):
    """A checked permit with the parameters it was made for: what a handler knows of its caller."""

    permit: Permit
    parameters: bytes
    token: str

    def request(self, share: bytes | None = None) -> Request:
        """What an effect keeps of this call; `share` is this record's part of the parameters when there are several."""
        return Request(
            command=self.permit.command,
            salt=self.permit.salt,
            digest=self.permit.digest,
            parameters=digest.sha256_hex(self.parameters if share is None else share),
        )


class Call(Protocol):
    """What a handler is told of a call that a permit admitted."""

    @property
    def bound(self) -> Bound:
        """The checked permit."""


def seal(signer: signing.Signer, permit: Permit) -> str:
    """Sign a permit with the gatekeeper's service key."""
    return envelope.seal(signer, signing.PERMIT, permit)


def check(
    token: str | None,
    parameters: bytes,
    *,
    gatekeeper_key: bytes,
    runtime_id: str,
    tenant: str,
    service: str,
    command: str,
    now_ms: int,
) -> Bound:
    """Check a permit for one call; replay is the caller's to check by `permit_id`, since it needs memory."""
    if not token:
        raise Refused(Code.PERMIT_MISSING, f"{command} needs a permit")
    try:
        permit = envelope.unseal(token, signing.PERMIT, Permit, gatekeeper_key)
    except envelope.BadToken as error:
        raise Refused(Code.PERMIT_INVALID, f"permit: {error.reason}") from error
    if (permit.runtime_id, permit.tenant) != (runtime_id, tenant):
        raise Refused(Code.PERMIT_INVALID, "the permit is for another deployment or tenant")
    if now_ms > permit.not_after_ms:
        raise Refused(Code.PERMIT_EXPIRED, "the permit's time to start is over")
    if permit.not_after_ms - now_ms > 2 * START_WINDOW_MS:
        raise Refused(Code.PERMIT_INVALID, "the permit claims a longer life than permits have")
    if (permit.service, permit.command) != (service, command):
        raise Refused(Code.PERMIT_MISMATCH, f"the permit is for {permit.command}")
    if digest.parameter_digest(bytes.fromhex(permit.salt), parameters) != permit.digest:
        raise Refused(Code.PERMIT_MISMATCH, "the permit is for other parameters")
    return Bound(permit=permit, parameters=parameters, token=token)
