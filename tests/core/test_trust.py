"""The trust model: a table of what the default weights must do, and the laws that hold for any model."""

import decimal
import itertools
import math
import random
from collections import Counter
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sigilcore import access, trust

ALLOWED, DENIED = True, False
RUNGS = tuple(trust.LOA)
RISKS = ("action", "target", "rate", "entropy")
MERITS = ("loa", "standing")
MILLION = trust.ONE


def features(loa: str, action: str, target: str, rate: float, entropy: float, standing: float) -> trust.Features:
    return trust.Features(
        action=trust.action_risk(action),
        target=trust.target_sensitivity(target),
        loa=trust.loa_feature(loa),
        rate=round(rate * MILLION),
        entropy=round(entropy * MILLION),
        standing=round(standing * MILLION),
    )


def allowed(*row: Any) -> bool:
    return trust.judge(trust.DEFAULT_MODEL, features(*row)).allowed


# loa, action, target, rate, entropy, standing, expected
TABLE = [
    # a guest reads what is public and its own trust status
    ("guest", "read", "module", 0.50, 0.0, 0.50, ALLOWED),
    ("guest", "read", "profile", 0.50, 0.0, 0.50, ALLOWED),
    # and writes nothing, however good its standing
    ("guest", "write", "module", 0.00, 0.0, 1.00, DENIED),
    ("guest", "write", "memory", 0.00, 0.0, 1.00, DENIED),
    ("guest", "write", "canon", 0.00, 0.0, 1.00, DENIED),
    # an observer reads, even the canon, and writes nothing
    ("observer", "read", "memory", 0.50, 0.0, 0.50, ALLOWED),
    ("observer", "read", "canon", 0.50, 0.0, 0.50, ALLOWED),
    ("observer", "write", "module", 0.00, 0.0, 1.00, DENIED),
    ("observer", "write", "memory", 0.00, 0.0, 0.50, DENIED),
    # an operator runs modules and writes memory at a normal rate, and not at the limit
    ("operator", "execute", "module", 0.50, 0.0, 0.50, ALLOWED),
    ("operator", "write", "memory", 0.50, 0.0, 0.50, ALLOWED),
    ("operator", "write", "memory", 1.00, 0.0, 0.50, DENIED),
    ("operator", "write", "memory", 1.00, 0.0, 0.65, DENIED),
    # random-looking input alone does not cost it that
    ("operator", "write", "memory", 0.50, 1.0, 0.50, ALLOWED),
    # it writes its own documents and records into the canon at a lower rate
    ("operator", "write", "canon", 0.25, 0.0, 0.50, ALLOWED),
    ("operator", "write", "canon", 0.75, 0.0, 0.50, DENIED),
    # it never administers
    ("operator", "administer", "module", 0.00, 0.0, 1.00, DENIED),
    ("operator", "administer", "config", 0.00, 0.0, 1.00, DENIED),
    ("operator", "administer", "system", 0.00, 0.0, 1.00, DENIED),
    # bad standing costs it its writes before its reads, and slowing down does not help
    ("operator", "read", "memory", 0.50, 0.0, 0.15, ALLOWED),
    ("operator", "read", "canon", 0.50, 0.0, 0.15, ALLOWED),
    ("operator", "write", "memory", 0.00, 0.0, 0.15, DENIED),
    # a mentor reads the audit space, changes configuration, and administers nothing at an ordinary standing
    ("mentor", "read", "audit", 0.50, 0.0, 0.50, ALLOWED),
    ("mentor", "write", "config", 0.50, 0.0, 0.50, ALLOWED),
    ("mentor", "administer", "module", 0.00, 0.0, 0.50, DENIED),
    # root administers the system at a normal rate
    ("root", "administer", "system", 0.50, 0.0, 0.50, ALLOWED),
    ("root", "elevation", "system", 0.50, 0.0, 0.50, ALLOWED),
    # nobody does something unknown to something unknown at the limit, not even root at its best
    ("root", "unknown", "unknown", 1.00, 0.0, 1.00, DENIED),
    ("mentor", "unknown", "unknown", 1.00, 0.0, 1.00, DENIED),
]


@pytest.mark.parametrize("row", TABLE, ids=lambda row: " ".join(map(str, row)))
def test_the_default_model_keeps_the_table(row: tuple[Any, ...]) -> None:
    """Each row is a promise of the default weights; changing one weight breaks the row that needed it."""
    *call, expected = row
    assert allowed(*call) is expected


@pytest.mark.parametrize("loa", RUNGS)
def test_low_risk_scores_above_high_risk_at_every_level(loa: str) -> None:
    """Actions in order of risk have logits in falling order, and so have targets, whoever calls."""
    by_action = [
        trust.logit(trust.DEFAULT_MODEL, features(loa, action, "memory", 0.2, 0, 0.5))
        for action in (*trust.ACTION_RISK, "unknown")
    ]
    by_target = [
        trust.logit(trust.DEFAULT_MODEL, features(loa, "read", target, 0.2, 0, 0.5))
        for target in ("module", "memory", "config", "audit", "system", "unknown")
    ]
    for logits in (by_action, by_target):
        assert all(low > high for low, high in itertools.pairwise(logits))


@pytest.mark.parametrize("target", [*trust.TARGET_SENSITIVITY, "unknown"])
def test_an_operator_never_administers_anything(target: str) -> None:
    """Best standing, no calls before, plain input: administering is still refused for every target."""
    assert not allowed("operator", "administer", target, 0, 0, 1)


def test_the_tables_are_those_of_the_design() -> None:
    """The numbers are part of the contract: a stored decision is judged again with them."""
    assert [trust.action_risk(a) for a in ("read", "execute", "write", "elevation", "delete", "administer")] == [
        100_000,
        400_000,
        600_000,
        800_000,
        900_000,
        950_000,
    ]
    assert [
        trust.target_sensitivity(t) for t in ("module", "profile", "memory", "config", "audit", "canon", "system")
    ] == [200_000, 300_000, 300_000, 700_000, 800_000, 900_000, 900_000]
    assert [trust.loa_feature(loa) for loa in access.Loa] == [0, 250_000, 500_000, 750_000, 1_000_000]


@pytest.mark.parametrize("word", ["", "Read", "read ", "superuser", "module\n"])
def test_an_unknown_word_counts_as_the_worst(word: str) -> None:
    """Misspelling an action, a target or a rung never helps."""
    assert trust.action_risk(word) == MILLION
    assert trust.target_sensitivity(word) == MILLION
    assert trust.loa_feature(word) == 0


def test_the_rate_rises_to_one_at_the_limit_and_stays() -> None:
    """Sixty of 120 calls are a half; beyond the limit it is one."""
    assert [trust.rate(n) for n in (0, 60, 119, 120, 10**9)] == [0, 500_000, 991_666, MILLION, MILLION]
    assert trust.rate(3, limit=4) == 750_000
    with pytest.raises(ValueError, match="positive"):
        trust.rate(1, limit=0)


# Laws of any model


millionths = st.integers(0, MILLION)
weights = st.integers(0, 100 * MILLION)
logits = st.integers(-100 * MILLION, 100 * MILLION)


@st.composite
def any_features(draw: st.DrawFn) -> trust.Features:
    return trust.Features(**{name: draw(millionths) for name in trust.Features.__struct_fields__})


@st.composite
def any_model(draw: st.DrawFn) -> trust.TrustModel:
    signed = {name: -draw(weights) for name in RISKS} | {name: draw(weights) for name in MERITS}
    return trust.TrustModel(version="any", weights=trust.Weights(**signed), bias=draw(logits), threshold=draw(logits))


@given(any_model(), any_features(), st.sampled_from(RISKS + MERITS), millionths)
def test_each_feature_moves_the_logit_its_own_way(
    model: trust.TrustModel, one: trust.Features, name: str, value: int
) -> None:
    """More risk never helps and more merit never harms, in any model that can be read."""
    other = msgspec.structs.replace(one, **{name: value})
    difference = trust.logit(model, other) - trust.logit(model, one)
    step = value - getattr(one, name)
    assert difference * step <= 0 if name in RISKS else difference * step >= 0


@given(any_features(), st.sampled_from(RISKS + MERITS), millionths)
def test_no_feature_is_ignored_by_the_default_model(one: trust.Features, name: str, value: int) -> None:
    """A millionth more of any risk lowers the logit, and of any merit raises it, strictly."""
    other = msgspec.structs.replace(one, **{name: value})
    step = value - getattr(one, name)
    difference = trust.logit(trust.DEFAULT_MODEL, other) - trust.logit(trust.DEFAULT_MODEL, one)
    assert difference == getattr(trust.DEFAULT_MODEL.weights, name) * step
    assert (difference == 0) == (step == 0)


@given(any_model(), any_features(), st.none() | logits)
def test_judging_twice_gives_one_answer_and_changes_nothing(
    model: trust.TrustModel, one: trust.Features, threshold: int | None
) -> None:
    """The judgement depends on its arguments alone, in any order of calls, and survives JSON."""
    before = msgspec.json.encode([model, one])
    first = trust.judge(model, one, threshold)
    trust.judge(trust.DEFAULT_MODEL, one)
    assert trust.judge(*msgspec.json.decode(before, type=tuple[trust.TrustModel, trust.Features]), threshold) == first
    assert msgspec.json.encode([model, one]) == before


@given(any_model(), any_features())
def test_the_threshold_itself_is_allowed_and_one_above_is_not(model: trust.TrustModel, one: trust.Features) -> None:
    """The boundary belongs to the allowed side, exactly; a given threshold replaces the model's."""
    value = trust.logit(model, one)
    at, above = value // MILLION, value // MILLION + 1
    assert trust.judge(model, one, at).allowed
    assert not trust.judge(model, one, above).allowed
    assert trust.judge(model, one).allowed == (value >= model.threshold * MILLION)
    assert trust.judge(model, one).threshold == model.threshold


def test_a_threshold_of_zero_is_not_no_threshold() -> None:
    """Zero given replaces the model's threshold; a falsy zero would not."""
    strict = msgspec.structs.replace(trust.DEFAULT_MODEL, threshold=90 * MILLION)
    reading = features("operator", "read", "memory", 0, 0, 0.5)
    assert not trust.judge(strict, reading).allowed
    assert trust.judge(strict, reading, 0).allowed


@given(st.integers(-40 * 10**12, 40 * 10**12))
def test_the_score_is_the_sigmoid_to_six_digits(logit: int) -> None:
    """The text agrees with the floating-point sigmoid within one millionth."""
    text = trust.score(logit)
    assert len(text) == 8
    assert abs(float(text) - 1 / (1 + math.exp(-logit / 10**12))) <= 1e-6


@given(st.integers(-8 * 10**14, 8 * 10**14))
def test_the_score_saturates_and_is_symmetric(logit: int) -> None:
    """Any logit a model can reach has a score between the ends; a logit and its opposite add to one."""
    assert decimal.Decimal(trust.score(logit)) + decimal.Decimal(trust.score(-logit)) == 1
    assert "0.000000" <= trust.score(logit) <= "1.000000"


def test_the_score_is_fixed_to_the_digit() -> None:
    """Known values, so that another platform or library version can't shift a digit unseen."""
    known = {0: "0.500000", 225 * 10**9: "0.556014", -(10**12): "0.268941", 13 * 10**12: "0.999998"}
    known |= {
        20 * 10**12: "1.000000",
        10**12 * 20 - 1: "1.000000",
        -20 * 10**12: "0.000000",
        1 - 20 * 10**12: "0.000000",
    }
    assert {logit: trust.score(logit) for logit in known} == known


def test_the_score_ignores_the_thread_s_decimal_settings() -> None:
    """A library that changes the decimal context changes no score."""
    with decimal.localcontext() as context:
        context.prec = 2
        context.rounding = decimal.ROUND_UP
        context.traps[decimal.Inexact] = True
        assert trust.score(225 * 10**9) == "0.556014"


# What is refused when read

GOOD_MODEL = msgspec.to_builtins(trust.DEFAULT_MODEL)


@pytest.mark.parametrize(
    "change",
    [
        {"weights": GOOD_MODEL["weights"] | {"action": 1}},
        {"weights": GOOD_MODEL["weights"] | {"standing": -1}},
        {"weights": GOOD_MODEL["weights"] | {"action": -100_000_001}},
        {"weights": GOOD_MODEL["weights"] | {"loa": 1.5}},
        {"weights": GOOD_MODEL["weights"] | {"mood": 1}},
        {"bias": 100_000_001},
        {"threshold": -100_000_001},
        {"bias": True},
        {"version": ""},
        {"version": "v1\n"},
        {"version": "a" * 33},
        {"note": "x"},
    ],
    ids=str,
)
def test_a_model_out_of_bounds_is_refused(change: dict[str, Any]) -> None:
    """A risk that weighs for, a weight too large, a float, a stray field: none becomes a model."""
    msgspec.convert(GOOD_MODEL, trust.TrustModel)
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(GOOD_MODEL | change, trust.TrustModel)


@pytest.mark.parametrize("value", [-1, 1_000_001, 0.5, "1", None, True])
@pytest.mark.parametrize("name", trust.Features.__struct_fields__)
def test_a_feature_out_of_bounds_is_refused(name: str, value: object) -> None:
    """Features read from a record are whole millionths between 0 and one."""
    good = dict.fromkeys(trust.Features.__struct_fields__, 0)
    msgspec.convert(good, trust.Features)
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(good | {name: value}, trust.Features)


def test_the_largest_logit_fits_a_json_integer() -> None:
    """Bias and all weights at their bounds stay far below 2**53."""
    edge = 100 * MILLION
    risks, merits = dict.fromkeys(RISKS, -edge), dict.fromkeys(MERITS, edge)
    for bias, values in ((edge, dict.fromkeys(RISKS, 0) | dict.fromkeys(MERITS, MILLION)), (-edge, {})):
        model = trust.TrustModel(version="edge", weights=trust.Weights(**risks, **merits), bias=bias, threshold=0)
        worst = dict.fromkeys(RISKS, MILLION) | dict.fromkeys(MERITS, 0)
        assert abs(trust.logit(model, trust.Features(**(values or worst)))) < 2**53


# Entropy


def true_bits(data: bytes) -> decimal.Decimal:
    """H in bits per byte, to far more digits than the feature shows."""
    with decimal.localcontext(prec=50):
        shares = [decimal.Decimal(count) / len(data) for count in Counter(data).values()]
        return -sum((p * p.ln() for p in shares), decimal.Decimal(0)) / decimal.Decimal(2).ln()


def true_feature(data: bytes) -> decimal.Decimal:
    return max(decimal.Decimal(0), min(decimal.Decimal(MILLION), (true_bits(data) - 5) * MILLION / 3))


@pytest.mark.parametrize("copies", [1, 3, 1000, 4097])
def test_uniform_bytes_have_exactly_the_ends(copies: int) -> None:
    """All 256 values alike are one to the last digit; 128 are 7 bits, two thirds; 32 are 5 bits, zero."""
    assert trust.entropy(bytes(range(256)) * copies) == MILLION
    assert trust.entropy(bytes(range(128)) * copies) == 666_666
    assert trust.entropy(bytes(range(32)) * copies) == 0


@pytest.mark.parametrize("data", [b"", b"a", b"a" * 100_000, b'{"key":"value"}', "héllo wörld".encode() * 9])
def test_plain_input_has_no_entropy_to_speak_of(data: bytes) -> None:
    """Nothing, one byte, repetition and short text count as zero."""
    assert trust.entropy(data) == 0


@given(st.binary(max_size=3000) | st.integers(0, 2**32).map(lambda seed: random.Random(seed).randbytes(2048)))
def test_the_entropy_is_within_its_stated_error(data: bytes) -> None:
    """The integer is the floor of the true value, give or take 0.0002 of a millionth before the floor."""
    if data:
        truth = true_feature(data)
        error = decimal.Decimal("0.0002")
        assert int(truth - error) <= trust.entropy(data) <= int(truth + error)


@given(st.binary(min_size=40, max_size=400), st.randoms(use_true_random=False))
def test_the_entropy_counts_bytes_and_ignores_their_order(data: bytes, shuffler: random.Random) -> None:
    """Shuffled input has the same entropy, so reordering is not recomputed differently."""
    shuffled = bytearray(data)
    shuffler.shuffle(shuffled)
    assert trust.entropy(bytes(shuffled)) == trust.entropy(data)


def test_a_mebibyte_is_measured_beyond_the_small_table() -> None:
    """Counts past the precomputed ones use the same logarithm."""
    data = random.Random(1).randbytes(1 << 20)
    assert abs(trust.entropy(data) - true_feature(data)) <= 1


@given(st.integers(1, 2**70))
def test_the_integer_logarithm_is_never_above_the_truth_and_hardly_below(number: int) -> None:
    """The error bound in the docstring, held over all sizes."""
    with decimal.localcontext(prec=60):
        truth = decimal.Decimal(number).ln() / decimal.Decimal(2).ln() * 2**32
        assert 0 <= truth - trust.log2_q32(number) < 2 or number.bit_count() == 1


@pytest.mark.parametrize("power", range(64))
def test_the_logarithm_of_a_power_of_two_is_exact(power: int) -> None:
    """Whole bits come out whole."""
    assert trust.log2_q32(1 << power) == power << 32
