"""Approvals: whether a mentor's word lets one reviewed call pass, asked of the log alone.

The gate asks when the call is repeated, the writer when the decision is appended, the replay for ever after; all by `fault`. A word counts
once, for one caller, one command and one digest, until it is over, and only while its giver's licence counts: a mentor whose licence was
revoked has no say any more, whatever they said before.
"""

from typing import Final

from sigilcore import clock, decision, licence
from sigilcore.access import Loa
from sigilcore.contracts import gatekeeper
from sigilcore.governance import Approval, Governance
from sigilcore.refusals import Code, Refused

APPROVE: Final = gatekeeper.APPROVE.name
REFUSE: Final = gatekeeper.REFUSE.name
FAMILY: Final = "approval/"  # what decides reviews is never under review itself


def fault(state: Governance, review: str, *, owner: str, command: str, digest: str, now_ms: int) -> Code | None:
    """The first reason why this review's approval doesn't let this call pass; None if it does."""
    entry = state.approvals.get(review)
    if entry is None:
        return Code.APPROVAL_UNKNOWN
    if not entry.approved:
        return Code.APPROVAL_REFUSED
    if (entry.owner, entry.command, entry.digest) != (owner, command, digest):
        return Code.APPROVAL_MISMATCH
    if now_ms >= entry.not_after_ms:
        return Code.APPROVAL_EXPIRED
    if entry.used_seq is not None:
        return Code.APPROVAL_USED
    return approver_fault(state, entry.licence, entry.approver, owner, now_ms)


def approver_fault(state: Governance, licence_id: str, approver: str, owner: str, now_ms: int | None) -> Code | None:
    """The first reason why this approver has no say in a call of `owner`; without a time, as far as the log alone tells."""
    entry = state.issued(licence_id)
    if approver == owner:
        return Code.SELF_APPROVAL
    if entry is None or entry.table.owner.id != approver or not entry.table.loa.includes(Loa.MENTOR):
        return Code.APPROVER_INVALID
    if entry.revoked_seq is not None:
        return Code.APPROVER_INVALID
    if now_ms is not None and licence.standing_reason(entry.table, entry, now_ms) is not None:
        return Code.APPROVER_INVALID
    return None


def moved(state: Governance, review: str) -> int:
    """The last position that moved what `fault` says of this review but for the time; -1 if there is none."""
    entry: Approval | None = state.approvals.get(review)
    if entry is None:
        return -1
    approver = state.issued(entry.licence)
    return max(entry.changed_seq, -1 if approver is None else approver.changed_seq)


def check(state: Governance, chain: decision.ReasoningChain, field: str) -> None:
    """An Allow by approval: alone in its record, and standing on an approval that lets it pass. Raises `Refused`."""
    if chain.approval is None or chain.verdict is not decision.Verdict.ALLOW:
        raise Refused(Code.RECORD_INVALID, "an approved decision is an Allow and names its approval", field=field)
    if moved(state, chain.approval) >= chain.as_of:
        raise Refused(Code.STALE_DECISION, "the approval moved since as_of", field=field)
    reason = fault(
        state,
        chain.approval,
        owner=chain.audit.owner,
        command=chain.command,
        digest=chain.digest,
        now_ms=clock.parse_ms(chain.audit.ts),
    )
    if reason is not None:
        raise Refused(reason, "the approval doesn't let this call pass", field=field)
