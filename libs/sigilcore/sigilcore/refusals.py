"""Refusals: every way the house says no, each with its HTTP status and the next step.

A refusal is an answer, not an accident: it has a code whose name is a sentence, a message for this case, what to do next, and the
field when the input is at fault. A fault (`faults.Fault`) is ours and is never one of these.
"""

import enum
from collections.abc import Mapping
from typing import Any

import msgspec


class Code(enum.StrEnum):
    """A refusal's name; `status` and `next_step` come from the table below."""

    BAD_INPUT = "BAD_INPUT"
    BODY_TOO_LARGE = "BODY_TOO_LARGE"
    UNSUPPORTED_MEDIA_TYPE = "UNSUPPORTED_MEDIA_TYPE"
    METHOD_NOT_ALLOWED = "METHOD_NOT_ALLOWED"
    UNKNOWN_COMMAND = "UNKNOWN_COMMAND"
    NOT_FOUND = "NOT_FOUND"
    NOT_BOOTSTRAPPED = "NOT_BOOTSTRAPPED"
    ALREADY_BOOTSTRAPPED = "ALREADY_BOOTSTRAPPED"
    BOOTSTRAP_REFUSED = "BOOTSTRAP_REFUSED"
    SESSION_MISSING = "SESSION_MISSING"
    SESSION_INVALID = "SESSION_INVALID"
    SESSION_EXPIRED = "SESSION_EXPIRED"
    SESSION_CLOSED = "SESSION_CLOSED"
    NONCE_INVALID = "NONCE_INVALID"
    CERTIFICATE_INVALID = "CERTIFICATE_INVALID"
    PROOF_MISSING = "PROOF_MISSING"
    PROOF_INVALID = "PROOF_INVALID"
    PROOF_STALE = "PROOF_STALE"
    PROOF_REPLAYED = "PROOF_REPLAYED"
    OWNER_PROOF_NEEDED = "OWNER_PROOF_NEEDED"
    CSRF_INVALID = "CSRF_INVALID"
    RATE_LIMITED = "RATE_LIMITED"
    LICENSE_INVALID = "LICENSE_INVALID"
    LICENSE_NOT_FOUND = "LICENSE_NOT_FOUND"
    LICENSE_REVOKED = "LICENSE_REVOKED"
    ROOT_IS_SINGLE = "ROOT_IS_SINGLE"
    ROOT_SIGNATURE_NEEDED = "ROOT_SIGNATURE_NEEDED"
    LOA_TOO_LOW = "LOA_TOO_LOW"
    OUT_OF_SCOPE = "OUT_OF_SCOPE"
    DENIED_BY_TRUST = "DENIED_BY_TRUST"
    GATE_FAULT = "GATE_FAULT"
    PERMIT_MISSING = "PERMIT_MISSING"
    PERMIT_INVALID = "PERMIT_INVALID"
    PERMIT_EXPIRED = "PERMIT_EXPIRED"
    PERMIT_MISMATCH = "PERMIT_MISMATCH"
    PERMIT_REPLAYED = "PERMIT_REPLAYED"
    RECORD_INVALID = "RECORD_INVALID"
    HEADER_TOO_LARGE = "HEADER_TOO_LARGE"
    KIND_UNKNOWN = "KIND_UNKNOWN"
    KIND_NOT_ALLOWED = "KIND_NOT_ALLOWED"
    SIGNATURE_INVALID = "SIGNATURE_INVALID"
    KEY_NOT_ALLOWED = "KEY_NOT_ALLOWED"
    KEY_UNKNOWN = "KEY_UNKNOWN"
    KEY_ENDED = "KEY_ENDED"
    KEY_NOT_REVOCABLE = "KEY_NOT_REVOCABLE"
    WEAK_KEY = "WEAK_KEY"
    ID_TAKEN = "ID_TAKEN"
    STALE_PREV = "STALE_PREV"
    STALE_DECISION = "STALE_DECISION"
    DECISION_UNKNOWN = "DECISION_UNKNOWN"
    DECISION_USED = "DECISION_USED"
    DECISION_MISMATCH = "DECISION_MISMATCH"
    BATCH_REFUSED = "BATCH_REFUSED"
    QUORUM_NOT_SATISFIED = "QUORUM_NOT_SATISFIED"
    THRESHOLD_INVALID = "THRESHOLD_INVALID"
    NOT_SEALED = "NOT_SEALED"
    PROPOSAL_EXPIRED = "PROPOSAL_EXPIRED"
    PROPOSAL_CLOSED = "PROPOSAL_CLOSED"
    WITNESS_UNKNOWN = "WITNESS_UNKNOWN"
    WITNESS_TAKEN = "WITNESS_TAKEN"
    ALREADY_ATTESTED = "ALREADY_ATTESTED"
    ROOT_IS_NO_WITNESS = "ROOT_IS_NO_WITNESS"
    BEYOND_HEAD = "BEYOND_HEAD"
    NOT_YET = "NOT_YET"
    CORRUPT_RECORD = "CORRUPT_RECORD"
    BUSY = "BUSY"
    DISK_LOW = "DISK_LOW"
    READ_ONLY = "READ_ONLY"
    UNAVAILABLE = "UNAVAILABLE"

    @property
    def status(self) -> int:
        """The HTTP status that carries this refusal."""
        return _TABLE[self][0]

    @property
    def next_step(self) -> str:
        """What the refused caller can do about it."""
        return _TABLE[self][1]


_TABLE: dict[Code, tuple[int, str]] = {
    Code.BAD_INPUT: (400, "Correct the named field; the command's schema is in /openapi.json."),
    Code.BODY_TOO_LARGE: (413, "Send less in one call, or split it into batches."),
    Code.UNSUPPORTED_MEDIA_TYPE: (415, "Send application/json."),
    Code.METHOD_NOT_ALLOWED: (405, "Use one of the methods in the Allow header."),
    Code.UNKNOWN_COMMAND: (404, "List what you may call with commands/list."),
    Code.NOT_FOUND: (404, "Check the name; what you may not see is answered like this too."),
    Code.NOT_BOOTSTRAPPED: (
        503,
        "Bootstrap first: sigil init, or POST /api/license/bootstrap with the one-time token.",
    ),
    Code.ALREADY_BOOTSTRAPPED: (403, "Root exists and is single for ever; log in with its licence."),
    Code.BOOTSTRAP_REFUSED: (
        403,
        "Use the one-time token from run.json and the key that began the bootstrap.",
    ),
    Code.SESSION_MISSING: (401, "Open a session: session/challenge, then session/open with your licence."),
    Code.SESSION_INVALID: (401, "Open a new session with your licence."),
    Code.SESSION_EXPIRED: (401, "Open a new session with your licence."),
    Code.SESSION_CLOSED: (401, "Open a new session with your licence."),
    Code.NONCE_INVALID: (401, "Ask session/challenge for a fresh nonce and use it once, within a minute."),
    Code.CERTIFICATE_INVALID: (
        401,
        "Sign a session certificate with the licence owner's key over this nonce.",
    ),
    Code.PROOF_MISSING: (401, "Sign this call with the session key and send it as Sigil-Proof."),
    Code.PROOF_INVALID: (401, "Sign the exact command and body with this session's key."),
    Code.PROOF_STALE: (401, "Check your clock and sign the call anew."),
    Code.PROOF_REPLAYED: (401, "Sign every call anew, with a fresh nonce."),
    Code.OWNER_PROOF_NEEDED: (
        403,
        "Sign this call with the owner's key, or open a session whose certificate names the command.",
    ),
    Code.CSRF_INVALID: (403, "Ask csrf/token and send it in x-csrf-token."),
    Code.RATE_LIMITED: (429, "Wait for the seconds in Retry-After."),
    Code.LICENSE_INVALID: (401, "See reasons; ask Root for a licence that is valid here and now."),
    Code.LICENSE_NOT_FOUND: (404, "List licences with license/list."),
    Code.LICENSE_REVOKED: (409, "It has ended for good; issue another licence if its owner needs one."),
    Code.ROOT_IS_SINGLE: (
        403,
        "Choose another level or key; Root comes from genesis, or from a root_key record, only.",
    ),
    Code.ROOT_SIGNATURE_NEEDED: (
        422,
        "Sign the licence table in detail.draft with Root's key and send it as root_signature.",
    ),
    Code.LOA_TOO_LOW: (403, "Ask Root for a licence of the named level."),
    Code.OUT_OF_SCOPE: (403, "Ask Root for a licence whose scope names this command."),
    Code.DENIED_BY_TRUST: (403, "See detail.score and threshold; trust/check tells where you stand."),
    Code.GATE_FAULT: (403, "Nothing was done. Try again; tell the operator the trace id."),
    Code.PERMIT_MISSING: (401, "Call through the gateway or ask gatekeeper/authorize."),
    Code.PERMIT_INVALID: (403, "Ask gatekeeper/authorize for a permit."),
    Code.PERMIT_EXPIRED: (403, "Ask for a new permit and use it within five seconds."),
    Code.PERMIT_MISMATCH: (403, "Use a permit only for the command and the very bytes it was made for."),
    Code.PERMIT_REPLAYED: (403, "Ask for a new permit; each is good for one call."),
    Code.RECORD_INVALID: (422, "Correct the named part of the record and sign it again."),
    Code.HEADER_TOO_LARGE: (413, "Use fewer or shorter links."),
    Code.KIND_UNKNOWN: (422, "Use a kind from the registry."),
    Code.KIND_NOT_ALLOWED: (403, "This kind can't be written here by this author or command."),
    Code.SIGNATURE_INVALID: (403, "Sign the exact canonical bytes with the named key."),
    Code.KEY_NOT_ALLOWED: (403, "The log doesn't let this key speak here; enrol it or use the right one."),
    Code.KEY_UNKNOWN: (404, "List keys with keys/list."),
    Code.KEY_ENDED: (409, "Nothing to do: the key has ended already."),
    Code.KEY_NOT_REVOCABLE: (
        403,
        "Revoke a witness with witness/revoke; replace the log's key by a log_key record, Root's by a root_key record.",
    ),
    Code.WEAK_KEY: (422, "Make a new key pair; this public key is not a safe curve point."),
    Code.ID_TAKEN: (409, "Choose a new id: this one names a different record."),
    Code.STALE_PREV: (409, "Rebuild on the head in detail.head and sign again."),
    Code.STALE_DECISION: (409, "Ask the gate to judge again."),
    Code.DECISION_UNKNOWN: (403, "Link a committed decision that allows this."),
    Code.DECISION_USED: (409, "Ask the gate for a new decision; each admits one append."),
    Code.DECISION_MISMATCH: (403, "Use a decision made for this caller, command and parameters."),
    Code.BATCH_REFUSED: (
        409,
        "Correct the record named in detail and send the batch again; nothing was written.",
    ),
    Code.QUORUM_NOT_SATISFIED: (
        409,
        "Propose it with quorum/propose and collect attestations until have equals need.",
    ),
    Code.THRESHOLD_INVALID: (
        422,
        "Choose k of at least 1, at most n, and more than half of the active witnesses.",
    ),
    Code.NOT_SEALED: (409, "Register witnesses and seal with a quorum_policy first."),
    Code.PROPOSAL_EXPIRED: (409, "Propose again."),
    Code.PROPOSAL_CLOSED: (409, "Propose again; this proposal has ended."),
    Code.WITNESS_UNKNOWN: (403, "Only an active witness of the registry may attest."),
    Code.WITNESS_TAKEN: (409, "One principal, one key, one name: choose those that are free."),
    Code.ALREADY_ATTESTED: (409, "Nothing to do: this witness's voice is counted once."),
    Code.ROOT_IS_NO_WITNESS: (403, "Choose a mentor's key; Root's never counts as a witness."),
    Code.BEYOND_HEAD: (400, "Ask for a position that the log has reached."),
    Code.NOT_YET: (503, "Ask again in a moment; this view is still catching up."),
    Code.CORRUPT_RECORD: (
        503,
        "The record at this position fails verification; tell the operator. Nothing was hidden.",
    ),
    Code.BUSY: (503, "Too much in flight; ask again in a moment."),
    Code.DISK_LOW: (
        507,
        "Nothing was written; the operator must make room. Revocations, closings and quorum commands still pass.",
    ),
    Code.READ_ONLY: (503, "The writer refuses to write; tell the operator to look at its log."),
    Code.UNAVAILABLE: (503, "A part of the house can't be reached; nothing was done. Try again."),
}

assert set(_TABLE) == set(Code)


class Refusal(msgspec.Struct, frozen=True, kw_only=True):
    """A refusal as it crosses the bus and, as an RFC 9457 problem, HTTP."""

    code: Code
    message: str
    next_step: str
    status: int
    field: str | None = None
    detail: dict[str, Any] | None = None


class Refused(Exception):  # noqa: N818 - a refusal is an answer, not an error
    """Raised where a check down the page says no."""

    def __init__(
        self, code: Code, message: str, *, field: str | None = None, detail: Mapping[str, Any] | None = None
    ) -> None:
        """`field` is a JSON path such as `$.key`; `detail` is plain JSON data."""
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        self.field = field
        self.detail = dict(detail) if detail else None

    def answer(self) -> Refusal:
        """The value that crosses the bus."""
        return Refusal(
            code=self.code,
            message=self.message,
            next_step=self.code.next_step,
            status=self.code.status,
            field=self.field,
            detail=self.detail,
        )


def raised(refusal: Refusal) -> Refused:
    """The exception for a refusal that came over the bus."""
    return Refused(refusal.code, refusal.message, field=refusal.field, detail=refusal.detail)
