"""Decisions: the gate's reasoning, frozen, and how an effect names the decision that admits it.

A `ReasoningChain` holds everything needed to judge again offline; a `FrozenChain` adds its content hash, so a changed byte is found on
read. A decision is named by the record that carries it and its index there.
"""

import enum
from typing import Annotated, Literal

import msgspec

from sigilcore import canonical, digest, grant, trust
from sigilcore.access import Loa
from sigilcore.record_types import Hex32, Hex64, Name


class Verdict(enum.StrEnum):
    """The gate's word."""

    ALLOW = "Allow"
    DENY = "Deny"
    MANUAL_REVIEW = "ManualReview"


# Integers that JSON carries exactly (RFC 7493); canonical bytes refuse all others, so the types may say so.
Count = Annotated[int, msgspec.Meta(ge=0, le=canonical.MAX_INT)]
Number = Annotated[int, msgspec.Meta(ge=-canonical.MAX_INT, le=canonical.MAX_INT)]
ProofKind = Literal["bearer", "session", "owner"]


class Step(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One check on the way down the page; the first that fails is the reason."""

    check: str
    passed: bool
    detail: str


class Trust(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """The score's parts: exact integers, and where they were taken.

    `standing_of` names whom the call proposes as witnesses: the lowest of their standings counts. Where it proposes nobody it isn't
    written, and the standing is the caller's own."""

    model: str
    features: trust.Features
    standing_as_of: Number
    logit: Number
    threshold: Number
    allowed: bool
    standing_of: Annotated[tuple[Name, ...], msgspec.Meta(max_length=16)] = ()  # as many as one record changes


class Audit(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Who, when, in which session. A peer has no licence: `licence` is then the id of the record that enrolled it."""

    ts: str
    chain_id: str
    session: str
    licence: str
    owner: str
    loa: Loa


class Grant(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The grant that a peer showed with a call, and what became of it. Of one that isn't valid, epoch and hash are its own word."""

    hash: Hex64
    epoch: grant.Epoch
    outcome: grant.Outcome


class ReasoningChain(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """One judgement. `digest` is SHA-256(salt || parameters); `effect` is the record id that the caller asked for, if any;
    `as_of` the log position (a record count) it was judged at.

    What most calls don't have isn't written: `approval` names the review whose approval was asked for in this judgement, `parent` the
    decision of the call that this one was made for, `module` the module that the parameters name, `grant` what a peer was lent."""

    command: str
    target: str
    digest: Hex64
    length: Count
    effect: str | None
    steps: tuple[Step, ...]
    suggestion: str
    verdict: Verdict
    audit: Audit
    trust: Trust | None
    proof: ProofKind
    as_of: Count
    scope: tuple[str, ...]
    approval: str | None = None
    parent: str | None = None
    module: str | None = None
    grant: Grant | None = None


def blames_gate(chain: ReasoningChain) -> bool:
    """True for a chain that names the gate among its steps. It says nothing of its caller; `gate.recompute` holds it to its one shape."""
    return any(step.check == "gate" for step in chain.steps)


_CHAIN = canonical.Shape(ReasoningChain)


class FrozenChain(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A chain and the hash of its canonical bytes."""

    chain: ReasoningChain
    content_hash: Hex64


def freeze(chain: ReasoningChain) -> FrozenChain:
    """Freeze a chain with its content hash."""
    return FrozenChain(chain=chain, content_hash=digest.sha256_hex(canonical.of(chain)))


def intact(frozen: FrozenChain) -> bool:
    """True if the chain is what was frozen."""
    return digest.sha256_hex(_CHAIN.write(frozen.chain)) == frozen.content_hash


class DecisionRef(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Names one decision: the id of its `decision_batch` record and the index there."""

    record: Annotated[str, msgspec.Meta(min_length=36, max_length=36)]
    index: Annotated[int, msgspec.Meta(ge=0, le=255)]

    def link(self) -> str:
        """As a link's target: `<record id>.<index>`."""
        return f"{self.record}.{self.index}"


def parse_ref(target: str) -> DecisionRef | None:
    """Read a link's target; None if it isn't one in its only spelling."""
    record, dot, index = target.partition(".")
    if len(record) != 36 or dot != "." or not (index.isascii() and index.isdigit()) or int(index) > 255:
        return None
    ref = DecisionRef(record=record, index=int(index))
    return ref if ref.link() == target else None


class Request(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What an effect keeps of the call that asked for it: the permit's salt and digest, and SHA-256 of this record's share of the
    parameters, by which a repeated call is known whatever was rebuilt in between. Inside a salted payload, so it tells nobody."""

    command: str
    salt: Hex32
    digest: Hex64
    parameters: Hex64
