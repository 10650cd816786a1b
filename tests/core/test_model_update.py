"""A model's next weights from judged outcomes: computed by integers, by whoever holds the records."""

import fractions
import math

import hypothesis
import msgspec
import pytest
from hypothesis import strategies as st

from sigilcore import model_update, trust

MODEL = trust.DEFAULT_MODEL
LINK = "019a0000-0000-7000-8000-000000000000.0"
OTHER = "019a0000-0000-7000-8000-000000000000.1"
ASKED = trust.Features(action=600_000, target=300_000, loa=500_000, rate=500_000, entropy=0, standing=500_000)

features = st.builds(trust.Features, **dict.fromkeys(trust.Features.__struct_fields__, st.integers(0, trust.ONE)))


def judged(asked: trust.Features = ASKED) -> model_update.Judged:
    return model_update.Judged(features=asked, logit=trust.logit(MODEL, asked))


def because(*outcomes: tuple[str, bool], rate: int = trust.ONE) -> model_update.Because:
    told = tuple(model_update.Outcome(decision=link, good=good) for link, good in outcomes)
    return model_update.Because(version=MODEL.version, rate=rate, outcomes=told)


def test_a_bad_write_weighs_heavier_afterwards():
    """The example of the module, in its own numbers."""
    new = model_update.proposed(MODEL, because((LINK, False)), {LINK: judged()}, "next")
    assert new.weights.action - MODEL.weights.action == -333_608
    assert new.bias - MODEL.bias == -556_014
    assert new.threshold == MODEL.threshold


def test_a_good_denial_is_learnt_too():
    """What was denied and would have been good moves the same weights the other way."""
    asked = msgspec.structs.replace(ASKED, rate=trust.ONE)
    new = model_update.proposed(MODEL, because((LINK, True)), {LINK: judged(asked)}, "next")
    assert trust.logit(new, asked) > trust.logit(MODEL, asked)


@hypothesis.given(st.lists(st.tuples(features, st.booleans()), min_size=1, max_size=8), st.integers(1, 10 * trust.ONE))
def test_the_step_is_the_gradient_and_no_sign_turns(told, rate):
    """Against a computation in fractions; whatever is said of the past, risk weighs against and merit for."""
    links = {f"{LINK[:-1]}{index}": one for index, one in enumerate(told)}
    decisions = {link: judged(asked) for link, (asked, _) in links.items()}
    why = because(*((link, good) for link, (_, good) in links.items()), rate=rate)
    new = model_update.proposed(MODEL, why, decisions, "next")
    assert msgspec.convert(msgspec.to_builtins(new), trust.TrustModel) == new
    for name in trust.Weights.__struct_fields__:
        gradient = sum(
            (good - fractions.Fraction(trust.score(decisions[link].logit))) * getattr(asked, name)
            for link, (asked, good) in links.items()
        )
        exact = getattr(MODEL.weights, name) + math.trunc(fractions.Fraction(rate, trust.ONE) * gradient / len(told))
        low, high = (0, trust.BOUND) if name in {"loa", "standing"} else (-trust.BOUND, 0)
        assert getattr(new.weights, name) == max(low, min(high, exact))


@pytest.mark.parametrize(
    ("why", "said"),
    [
        (msgspec.structs.replace(because((LINK, True)), version="other"), "in force is default-1"),
        (because((LINK, True), (LINK, False)), "one outcome"),
        (because((OTHER, True)), "no scored decision"),
    ],
)
def test_outcomes_that_prove_nothing(why, said):
    """Outcomes of another model, told twice, or of what was never decided."""
    with pytest.raises(model_update.NotComputable, match=said):
        model_update.proposed(MODEL, why, {LINK: judged()}, "next")


def test_the_explanation_names_every_outcome_and_every_weight():
    """A line each: the outcomes with their errors, the weights with what they were and become."""
    why = because((LINK, False))
    decisions = {LINK: judged()}
    lines = model_update.explained(MODEL, model_update.proposed(MODEL, why, decisions, "next"), why, decisions)
    assert lines[1] == f"{LINK}: score 0.556014, bad, error -556014"
    assert "weight of action: -20000000 -> -20333608 (-333608)" in lines
    assert len(lines) == 2 + len(trust.Weights.__struct_fields__) + 1
