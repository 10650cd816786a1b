"""Decisions that later records name: the review that an approval answers, the call on whose behalf another was made.

The fold doesn't hold every decision. So admission judges a record but for these, and whoever can find them asks here: the writer in its
store, a reader of the whole log in its memory (`places`). What a record names stands in an earlier one, always.

Invariants:

1. An approval or refusal answers a recorded ManualReview of the same owner, command and digest, under the policy by which the review was
   asked for and within the time that this policy gives.
2. A call on somebody's behalf stands on an Allow of the same session, licence, owner and way of proving, whose command declares it, made
   while that call may have been running.
"""

from collections.abc import Callable
from typing import Final

import msgspec

from sigilcore import clock, decision, permit
from sigilcore.contracts import catalogue
from sigilcore.decision import DecisionRef, ReasoningChain, Verdict
from sigilcore.governance import Governance
from sigilcore.record import Checked
from sigilcore.records import audit
from sigilcore.refusals import Code, Refused

SKEW_MS: Final = 2_000  # between the clocks of two gates
SHARED_MS: Final = 60_000  # reads share a decision for so long, so a call may begin that much after it


class Decided(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What of a decision is asked later."""

    verdict: Verdict
    command: str
    module: str | None
    digest: str
    session: str
    licence: str
    owner: str
    proof: str
    ts_ms: int
    as_of: int


class Child(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A decision on a call that another call made: the link of that one's decision, and what is asked of both."""

    parent: str
    said: Decided


Find = Callable[[str], Decided | None]


def decided(chain: ReasoningChain) -> Decided:
    """A chain, cut down."""
    return Decided(
        verdict=chain.verdict,
        command=chain.command,
        module=chain.module,
        digest=chain.digest,
        session=chain.audit.session,
        licence=chain.audit.licence,
        owner=chain.audit.owner,
        proof=chain.proof,
        ts_ms=clock.parse_ms(chain.audit.ts),
        as_of=chain.as_of,
    )


def brought(checked: Checked) -> tuple[tuple[str, Decided], ...]:
    """The decisions of a record that later ones may name, by their links: reviews, and Allows of commands that make calls."""
    found = []
    for index, frozen in enumerate(audit.decisions_in(checked.payload)):
        chain = frozen.chain
        command = catalogue.COMMANDS.get(chain.command)
        parent = chain.verdict is Verdict.ALLOW and command is not None and bool(command.calls)
        if parent or chain.verdict is Verdict.MANUAL_REVIEW:
            found.append((DecisionRef(record=checked.core.id, index=index).link(), decided(chain)))
    return tuple(found)


def children(checked: Checked) -> tuple[Child, ...]:
    """The decisions of a record on calls that other calls made."""
    chains = (frozen.chain for frozen in audit.decisions_in(checked.payload))
    return tuple(Child(parent=chain.parent, said=decided(chain)) for chain in chains if chain.parent is not None)


def named(checked: Checked) -> tuple[str, ...]:
    """The links of the decisions that a record names so."""
    if isinstance(checked.payload, audit.ApprovalDecided):
        return (checked.payload.review,)
    return tuple(child.parent for child in children(checked))


def record_of(link: str) -> str | None:
    """The id of the record that carries a decision; None for what is no link."""
    ref = decision.parse_ref(link)
    return None if ref is None else ref.record


def check(state: Governance, checked: Checked, find: Find) -> None:
    """Hold a record to the decisions that it names; `find` knows those of earlier records. Raises `Refused`."""
    if isinstance(checked.payload, audit.ApprovalDecided):
        _check_review(state, checked.payload, find(checked.payload.review))
        return
    for child in children(checked):
        check_child(child, find(child.parent))


def check_child(child: Child, parent: Decided | None) -> None:
    """Invariant 2. Raises `Refused`."""
    said = child.said
    if parent is None or parent.verdict is not Verdict.ALLOW:
        raise Refused(Code.DECISION_UNKNOWN, "the call on whose behalf it was made was never allowed")
    if said.command not in catalogue.COMMANDS[parent.command].calls:
        raise Refused(Code.CALL_UNDECLARED, f"{parent.command} doesn't call {said.command}")
    if (said.session, said.licence, said.owner, said.proof) != (
        parent.session,
        parent.licence,
        parent.owner,
        parent.proof,
    ):
        raise Refused(Code.DECISION_MISMATCH, "the call on whose behalf it was made is another caller's")
    if not parent.ts_ms - SKEW_MS <= said.ts_ms <= _open_until_ms(parent) + SKEW_MS:
        raise Refused(Code.DECISION_MISMATCH, "the call on whose behalf it was made was over")


def _open_until_ms(parent: Decided) -> int:
    """When a call by this decision has surely ended."""
    command = catalogue.COMMANDS[parent.command]
    shared_ms = 0 if command.mutates or command.writes else SHARED_MS
    return parent.ts_ms + shared_ms + permit.START_WINDOW_MS + command.longest_run_s * 1000


def _check_review(state: Governance, payload: audit.ApprovalDecided, asked: Decided | None) -> None:
    """Invariant 1."""
    field = "$.payload.review"
    if asked is None or asked.verdict is not Verdict.MANUAL_REVIEW:
        raise Refused(Code.REVIEW_UNKNOWN, "no recorded decision asked for this review", field=field)
    if (payload.owner, payload.command, payload.digest) != (asked.owner, asked.command, asked.digest):
        raise Refused(Code.APPROVAL_MISMATCH, "the review is of another call", field=field)
    assert state.policy is not None, "genesis brings the first policy"
    review = state.policy.review(asked.command, asked.module)
    if review is None or state.policy_seq >= asked.as_of:
        raise Refused(Code.REVIEW_UNKNOWN, "the policy changed since the review was asked for", field=field)
    if clock.parse_ms(payload.not_after) != asked.ts_ms + review.within_s * 1000:
        raise Refused(Code.RECORD_INVALID, f"a review is open for {review.within_s} s", field="$.payload.not_after")
