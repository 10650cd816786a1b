"""A trust model's next weights, from decisions whose outcome people have judged: an explained proposal, never a silent change.

Decides: one step of logistic regression by integers alone, from the model in force and recorded decisions, so whoever holds the records
computes the same model. For each outcome the error is what should have been (one for good, zero for bad) less the recorded score; each
weight moves by rate * mean(error * feature), the bias by rate * mean(error).

Invariants:

1. A weight keeps its sign and its bound: risk never comes to weigh for a caller, nor merit against.
2. The threshold is policy, not experience: it stays.
3. `proposed` takes nothing from the proposer: a mentor gives it the model in force and the decisions as the log has them.

Example: a write that the model gave 0.556014 turned out bad. The error is -556 014; with rate 1 000 000 the weight of an action of
600 000 falls by 333 608.
"""

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Annotated, Final

import msgspec

from sigilcore import trust

Rate = Annotated[int, msgspec.Meta(ge=1, le=10 * trust.ONE, description="millionths of a whole step")]
MOST: Final = 256


class Outcome(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What became of a decision; `decision` is its link, `<record id>.<index>`."""

    decision: Annotated[str, msgspec.Meta(max_length=40)]
    good: bool


class Because(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Why a model is proposed: the model it comes of, and the outcomes that moved it."""

    version: trust.Version
    rate: Rate
    outcomes: Annotated[tuple[Outcome, ...], msgspec.Meta(min_length=1, max_length=MOST)]


class Judged(msgspec.Struct, frozen=True, kw_only=True):
    """A decision's own numbers, as the log has them."""

    features: trust.Features
    logit: int


class NotComputable(ValueError):  # noqa: N818 - an answer
    """Why no model follows."""


def proposed(
    model: trust.TrustModel, because: Because, decisions: Mapping[str, Judged], version: str
) -> trust.TrustModel:
    """The model that follows; `decisions` by link. Raises `NotComputable`."""
    if because.version != model.version:
        raise NotComputable(f"the outcomes are said of model {because.version}, in force is {model.version}")
    links = [outcome.decision for outcome in because.outcomes]
    if len(set(links)) != len(links):
        raise NotComputable("a decision has one outcome")
    missing = [link for link in links if link not in decisions]
    if missing:
        raise NotComputable(f"{missing[0]} is no scored decision of this log")
    errors = [_error(decisions[outcome.decision], good=outcome.good) for outcome in because.outcomes]
    features = [decisions[link].features for link in links]
    weights = {
        name: _bounded(name, old + _step(because.rate, errors, [getattr(one, name) for one in features]))
        for name in trust.Weights.__struct_fields__
        for old in [getattr(model.weights, name)]
    }
    bias = model.bias + _step(because.rate, errors, [trust.ONE] * len(errors))
    return trust.TrustModel(
        version=version,
        weights=trust.Weights(**weights),
        bias=max(-trust.BOUND, min(trust.BOUND, bias)),
        threshold=model.threshold,
    )


def explained(
    old: trust.TrustModel, new: trust.TrustModel, because: Because, decisions: Mapping[str, Judged]
) -> list[str]:
    """Why each weight moves, a line each: for the people who are asked to attest."""
    lines = [
        f"model {new.version} from {old.version}: {len(because.outcomes)} outcomes, rate {because.rate} of 1000000"
    ]
    for outcome in because.outcomes:
        judged = decisions[outcome.decision]
        was = "good" if outcome.good else "bad"
        lines.append(
            f"{outcome.decision}: score {trust.score(judged.logit)}, {was}, error {_error(judged, good=outcome.good)}"
        )
    for name in trust.Weights.__struct_fields__:
        before, after = getattr(old.weights, name), getattr(new.weights, name)
        lines.append(f"weight of {name}: {before} -> {after} ({after - before:+d})")
    lines.append(f"bias: {old.bias} -> {new.bias} ({new.bias - old.bias:+d})")
    return lines


def _error(judged: Judged, *, good: bool) -> int:
    return (trust.ONE if good else 0) - int(Decimal(trust.score(judged.logit)).scaleb(6))


def _step(rate: int, errors: Sequence[int], values: Sequence[int]) -> int:
    """rate * mean(error * value) in millionths, toward zero."""
    total = rate * sum(error * value for error, value in zip(errors, values, strict=True))
    size = len(errors) * trust.ONE * trust.ONE
    return total // size if total >= 0 else -(-total // size)


def _bounded(name: str, weight: int) -> int:
    low, high = (0, trust.BOUND) if name in trust.MERITS else (-trust.BOUND, 0)
    return max(low, min(high, weight))
