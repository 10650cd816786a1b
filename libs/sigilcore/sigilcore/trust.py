"""Trust: a logistic model of six features that decides by integers alone.

Invariants:

1. Everything is an integer in millionths, so two machines that hold the same model and features reach the
   same verdict, and a stored decision can be judged again from its record for ever. No float and no libm
   function touches a verdict or its score.
2. A call is allowed if and only if `bias * 10**6 + sum(weight * feature) >= threshold * 10**6`.
3. Risk weighs against and merit weighs for: a model whose weight has the wrong sign is refused when read.
4. What a table does not know counts as the most dangerous: unknown action and target 1, unknown rung 0.
5. Every logit fits a JSON integer: 6 * 10**8 * 10**6 + 10**8 * 10**6 = 7 * 10**14 < 2**53.

Example: an operator (loa 500 000) with standing 500 000 writes memory (action 600 000, target 300 000) at
half the rate limit. `DEFAULT_MODEL` gives the logit 225 000 000 000, that is 0.225, which is above the
threshold 0: allowed, score "0.556014".

The sigmoid is for people. A threshold is a logit, never a probability.
"""

import decimal
from collections import Counter
from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Final

import msgspec

ONE: Final = 1_000_000
"""One, in millionths."""

STANDING_START: Final = 500_000
"""The standing of a caller without history."""

RATE_LIMIT: Final = 120
"""Calls in a minute at which the rate feature reaches one, unless the policy says otherwise."""

BOUND: Final = 100 * ONE
"""No weight, bias or threshold is larger: a hundred logits, in millionths."""

MERITS: Final = frozenset({"loa", "standing"})
"""The features that weigh for a caller; all others weigh against."""

Feature = Annotated[int, msgspec.Meta(ge=0, le=ONE)]
Against = Annotated[int, msgspec.Meta(ge=-BOUND, le=0)]
For = Annotated[int, msgspec.Meta(ge=0, le=BOUND)]
Logit = Annotated[int, msgspec.Meta(ge=-BOUND, le=BOUND)]
Version = Annotated[str, msgspec.Meta(pattern=r"\A[a-z0-9][a-z0-9._-]{0,31}\Z")]


class Features(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is known of one call, each 0 to 1 000 000."""

    action: Feature
    target: Feature
    loa: Feature
    rate: Feature
    entropy: Feature
    standing: Feature


class Weights(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One weight a feature, in millionths of a logit; the sign belongs to the type."""

    action: Against
    target: Against
    loa: For
    rate: Against
    entropy: Against
    standing: For


class TrustModel(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A model as the log carries it; bias and threshold are logits in millionths."""

    version: Version
    weights: Weights
    bias: Logit
    threshold: Logit


class TrustJudgement(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The verdict: `logit` in 10**-12, `threshold` in 10**-6 as the model writes it, `score` for people."""

    logit: int
    threshold: int
    allowed: bool
    score: str


# Found by a search over round numbers against the table in the tests. Action and level weigh most, so
# standing and rate move a caller only between neighbouring actions; the target separates calls of one action;
# entropy is light, since padding games it.
DEFAULT_MODEL: Final = TrustModel(
    version="default-1",
    weights=Weights(
        action=-20_000_000,
        target=-750_000,
        loa=15_000_000,
        rate=-1_500_000,
        entropy=-100_000,
        standing=3_000_000,
    ),
    bias=4_200_000,
    threshold=0,
)


def judge(model: TrustModel, features: Features, threshold: int | None = None) -> TrustJudgement:
    """Decide one call; a policy's own `threshold` for a command or module replaces the model's."""
    limit = model.threshold if threshold is None else threshold
    value = logit(model, features)
    return TrustJudgement(logit=value, threshold=limit, allowed=value >= limit * ONE, score=score(value))


def logit(model: TrustModel, features: Features) -> int:
    """The model's answer in 10**-12 of a logit, exactly."""
    weights = model.weights
    return (
        model.bias * ONE
        + weights.action * features.action
        + weights.target * features.target
        + weights.loa * features.loa
        + weights.rate * features.rate
        + weights.entropy * features.entropy
        + weights.standing * features.standing
    )


# Every field is given, because a Context takes what is missing from a default that any library may change.
_DECIMAL: Final = decimal.Context(
    prec=40, rounding=decimal.ROUND_HALF_EVEN, Emin=-9999, Emax=9999, capitals=1, clamp=0, flags=[], traps=[]
)
_SIX_DIGITS: Final = decimal.Decimal("0.000001")
_SATURATED: Final = 20 * ONE * ONE
"""The sigmoid of 20 is one to eight digits; beyond it the ends are exact to six."""


def score(logit: int) -> str:
    """The sigmoid of a logit in 10**-12, as text with six digits; decimal, so the same on every platform."""
    if logit >= _SATURATED:
        return "1.000000"
    if logit <= -_SATURATED:
        return "0.000000"
    odds_against = _DECIMAL.exp(_DECIMAL.scaleb(decimal.Decimal(-logit), -12))
    share = _DECIMAL.divide(decimal.Decimal(1), _DECIMAL.add(decimal.Decimal(1), odds_against))
    return format(_DECIMAL.quantize(share, _SIX_DIGITS), "f")


ACTION_RISK: Final[Mapping[str, int]] = MappingProxyType(
    {
        "read": 100_000,
        "execute": 400_000,
        "write": 600_000,
        "elevation": 800_000,
        "delete": 900_000,
        "administer": 950_000,
    }
)

TARGET_SENSITIVITY: Final[Mapping[str, int]] = MappingProxyType(
    {
        "module": 200_000,
        "profile": 300_000,
        "memory": 300_000,
        "config": 700_000,
        "audit": 800_000,
        "canon": 900_000,
        "system": 900_000,
    }
)

LOA: Final[Mapping[str, int]] = MappingProxyType(
    {"guest": 0, "observer": 250_000, "operator": 500_000, "mentor": 750_000, "root": ONE}
)


def action_risk(action: str) -> int:
    """How risky the command's declared action is; an unknown one is the riskiest."""
    return ACTION_RISK.get(action, ONE)


def target_sensitivity(target: str) -> int:
    """How sensitive the touched thing is; `profile` is the caller's own; an unknown one counts as most."""
    return TARGET_SENSITIVITY.get(target, ONE)


def loa_feature(rung: str) -> int:
    """The caller's level; an unknown rung earns nothing."""
    return LOA.get(rung, 0)


def rate(calls_in_last_minute: int, limit: int = RATE_LIMIT) -> int:
    """Recent calls over the limit, at most one. Raises ValueError for a limit that is not positive."""
    if limit <= 0:
        raise ValueError("the rate limit must be positive")
    return max(0, min(ONE, calls_in_last_minute * ONE // limit))


def features(
    *, action: str, target: str, rung: str, calls: int, rate_limit: int, entropy: int, standing: int
) -> Features:
    """The features of one call: what its command declares, its caller's level, calls in the last minute, input and standing."""
    return Features(
        action=action_risk(action),
        target=target_sensitivity(target),
        loa=loa_feature(rung),
        rate=rate(calls, rate_limit),
        entropy=entropy,
        standing=standing,
    )


_FRACTION: Final = 32
_GUARD: Final = 64


def log2_q32(number: int) -> int:
    """log2 of a positive integer in units of 2**-32, by integers only; under the truth by less than 2 units.

    The whole part is the bit length. Each further bit comes from squaring the mantissa: if the square reaches
    two, the bit is one and the mantissa halves. Dropping bits below 2**-64 errs by less than 2**-30 in the
    last mantissa, so the logarithm errs by one unit for the bits not computed and by less than 2**-29 of a
    unit for the dropped ones.
    """
    whole = number.bit_length() - 1
    mantissa = (number << _GUARD) >> whole
    result = whole
    for _ in range(_FRACTION):
        mantissa = mantissa * mantissa >> _GUARD
        bit = mantissa >> (_GUARD + 1)
        mantissa >>= bit
        result = result << 1 | bit
    return result


_WEIGHED: Final = (0, *(count * log2_q32(count) for count in range(1, 1025)))
"""count * log2(count) for the counts that small inputs have."""


def entropy(data: bytes) -> int:
    """Shannon entropy in bits per byte, as a feature: 0 up to 5 bits, rising in a straight line to one at 8.

    With n bytes and c of each value, n * H = n * log2(n) - sum(c * log2(c)), taken with `log2_q32`; then
    floor(10**6 * (H - 5) / 3), held between 0 and 10**6. H errs by less than 2**-31 bits, which is less than
    0.0002 of a millionth, so the answer differs from the true floor by at most one and only next to a whole
    number.
    """
    size = len(data)
    if size == 0:
        return 0
    bits = _weighed(size) - sum(map(_weighed, Counter(data).values()))
    unit = size << _FRACTION
    return max(0, min(ONE, (bits - 5 * unit) * ONE // (3 * unit)))


def _weighed(count: int) -> int:
    return _WEIGHED[count] if count < len(_WEIGHED) else count * log2_q32(count)
