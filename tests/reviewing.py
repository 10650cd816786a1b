"""A house in memory in which calls wait for a mentor, and services call for their callers: with a gate that may lie.

What a lying gatekeeper would write is built here whole, signed by its true instance key; `put` brings it before the writer, `smuggle` past
it, for the replay to find.
"""

from typing import Any

import msgspec

from sigilcore import clock, decision, gate, policy, record
from sigilcore.access import Loa
from sigilcore.contracts import catalogue
from sigilcore.decision import ReasoningChain, Verdict
from sigilcore.records import audit
from tests.simulator import House, Person

BODY = b'{"key":"plan","text":"Sell the house."}'
OTHER = b'{"key":"plan","text":"Burn the house."}'
SALT = bytes(range(16))
WITHIN_S = 600


class Lie(msgspec.Struct, kw_only=True):
    """A record of the gatekeeper's, ready to be signed."""

    kind: str
    payload: Any
    links: tuple[record.Link, ...] = ()


class Reviewed(House):
    """Ada and Bob are operators, Mia and Max mentors; every `memory/write` is reviewed."""

    def __init__(self) -> None:
        super().__init__()
        self.ada = self.issue(Person("ada", keyed=False), Loa.OPERATOR)
        self.bob = self.issue(Person("bob", keyed=False), Loa.OPERATOR)
        self.mia = self.issue(Person("mia"), Loa.MENTOR)
        self.max = self.issue(Person("max"), Loa.MENTOR)
        self.change_policy(reviews={"memory/write": policy.Review(within_s=WITHIN_S)})

    # What the gate does.

    def asked(self, person: Person, body: bytes = BODY, **changes: Any) -> ReasoningChain:
        """A call of `memory/write` as the gate judges it; `approval` is the review whose approval is shown."""
        command = catalogue.COMMANDS["memory/write"]
        return self.judge(person, command.name, observed=gate.observe(command, body, SALT), **changes)

    def batched(self, *chains: ReasoningChain) -> list[str]:
        """These decisions, committed; their links."""
        placed = self.put(batch(*chains))
        return [decision.DecisionRef(record=placed.core.id, index=index).link() for index in range(len(chains))]

    def review(self, person: Person, body: bytes = BODY) -> str:
        """A call that waits; the review."""
        chain = self.asked(person, body)
        assert chain.verdict is Verdict.MANUAL_REVIEW
        return self.batched(chain)[0]

    def word(
        self, review: str, by: Person, verdict: str = "approved", command: str | None = None, **changes: Any
    ) -> Lie:
        """A mentor's word on a review, as the gatekeeper would write it; `changes` are its lies."""
        said = command or {"approved": "approval/approve", "refused": "approval/refuse"}[verdict]
        granted = self.granted(by, said)
        asked = self.named[review]
        fields = {
            "review": review,
            "verdict": verdict,
            "owner": asked.owner,
            "command": asked.command,
            "digest": asked.digest,
            "approver": by.owner_id,
            "licence": by.licence_id,
            "not_after": clock.format_ms(asked.ts_ms + WITHIN_S * 1000),
            "request": decision.Request(command=said, salt=granted.salt, digest=granted.digest, parameters="0" * 64),
        }
        link = record.Link(label="decision", target=granted.decision.link())
        return Lie(kind="approval_decided", payload=audit.ApprovalDecided(**(fields | changes)), links=(link,))

    def approved(self, person: Person, by: Person | None = None) -> str:
        """A call that waited and was approved; the review."""
        review = self.review(person)
        self.put(self.word(review, by or self.mia))
        return review

    # Before the writer, or past it.

    def put(self, lie: Lie) -> record.Checked:
        return self.append(lie.kind, lie.payload, self.instances["gatekeeper"], links=lie.links)

    def smuggle_lie(self, lie: Lie) -> int:
        """It stands in the log, whatever admission says; where."""
        self.log.append(self.signed(lie))
        return len(self.log) - 1

    def signed(self, lie: Lie) -> record.SignedRecord:
        """The record that the gatekeeper would send."""
        return self.signed_by(self.instances["gatekeeper"], lie.kind, lie.payload, links=lie.links)

    # Calls on somebody's behalf.

    def explaining(self, person: Person, **changes: Any) -> tuple[str, str]:
        """A call of `memory/explain`; its decision and its session."""
        chain = self.judge(person, "memory/explain", **changes)
        return self.batched(chain)[0], chain.audit.session

    def child(self, person: Person, parent: str, session: str, command: str = "canon/get", **changes: Any) -> Lie:
        """A call on this person's behalf, judged and ready to be recorded."""
        return batch(self.judge(person, command, parent=parent, session_id=session, **changes))


def batch(*chains: ReasoningChain) -> Lie:
    """A record of decisions."""
    return Lie(
        kind="decision_batch", payload=audit.DecisionBatch(decisions=tuple(decision.freeze(one) for one in chains))
    )


def alone(chain: ReasoningChain) -> Lie:
    """An approved decision's record."""
    return Lie(kind="approved_decision", payload=audit.ApprovedDecision(decision=decision.freeze(chain)))


def waved_through(chain: ReasoningChain, review: str) -> ReasoningChain:
    """A denial that a lying gate turned into an Allow by this review's approval."""
    assert chain.verdict is not Verdict.ALLOW
    passed = decision.Step(check="review", passed=True, detail="approved")
    return msgspec.structs.replace(
        chain, steps=(*chain.steps[:-1], passed), verdict=Verdict.ALLOW, suggestion=gate.GO_AHEAD, approval=review
    )
