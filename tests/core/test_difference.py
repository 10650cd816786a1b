"""What a mentor reads before signing: every change, no other line, always in the same order."""

import copy
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sigilcore import difference, policy, trust
from sigilcore.records import system
from tests import simulator

LATER = "2030-01-01T00:00:00.000Z"

leaves = st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | st.text(max_size=5)
documents = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=20,
)


def lines(old: Any, new: Any) -> list[tuple[str, Any, Any]]:
    return [tuple(line) for line in difference.between(old, new)]


@given(documents)
def test_equal_values_have_no_difference(value: Any) -> None:
    """A value and its copy read as nothing to sign."""
    assert lines(value, copy.deepcopy(value)) == []


@given(documents, documents)
def test_whatever_differs_is_told(old: Any, new: Any) -> None:
    """Two values without a line between them are the same JSON."""
    same = msgspec.json.encode(old, order="sorted") == msgspec.json.encode(new, order="sorted")
    assert (lines(old, new) == []) is same


@given(documents, documents)
def test_the_way_back_is_the_mirror(old: Any, new: Any) -> None:
    """From new to old the same paths are told, with the sides exchanged."""
    there = lines(old, new)
    assert [(path, after, before) for path, before, after in there] == lines(new, old)
    assert len({path for path, _, _ in there}) == len(there)


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ({"k": 2}, {"k": 3, "kinds": {"genesis": 4}}, [("$.k", 2, 3), ("$.kinds.genesis", None, 4)]),
        ({"k": 1}, {"k": True}, [("$.k", 1, True)]),
        ({"k": 1}, {"k": "1"}, [("$.k", 1, "1")]),
        ({"k": None}, {}, [("$.k", None, None)]),
        ({"a": [1, 2]}, {"a": [2]}, [("$.a[0]", 1, 2), ("$.a[1]", 2, None)]),
        ({"a": []}, {}, [("$.a", [], None)]),
        ({"a": {}}, {"a": []}, [("$.a", {}, [])]),
        ({"a": {"b": 1}}, {"a": 1}, [("$.a", {"b": 1}, 1)]),
        ({}, {"memory/write": 1}, [('$["memory/write"]', None, 1)]),
        ({}, {'"': 1}, [('$["\\""]', None, 1)]),
        (None, {"b": 1, "a": {"c": 2}}, [("$.a.c", None, 2), ("$.b", None, 1)]),
        ({"b": 1}, None, [("$.b", 1, None)]),
    ],
)
def test_lines_read_as_written(old: Any, new: Any, told: list[tuple[str, Any, Any]]) -> None:
    """Booleans are no numbers, absence is not null, keys that are no words are quoted."""
    assert lines(old, new) == told


@pytest.fixture(scope="module")
def sealed() -> simulator.House:
    """A house with one witness and a policy."""
    world = simulator.House()
    world.change_policy(rate_limit=60)
    return world


def test_a_model_is_compared_with_the_one_in_force(sealed: simulator.House) -> None:
    """Only what moves is told, and that the change itself expires."""
    model = msgspec.structs.replace(trust.DEFAULT_MODEL, bias=1)
    told = difference.of_change(sealed.state, system.ModelConfig(model=model, expires_at=LATER))
    assert [tuple(line) for line in told] == [
        ("$.expires_at", None, LATER),
        ("$.model.bias", trust.DEFAULT_MODEL.bias, 1),
    ]


def test_a_policy_is_compared_with_the_one_in_force(sealed: simulator.House) -> None:
    """A rung that is raised shows its command."""
    changed = policy.AccessPolicy(version="changed", rate_limit=60, rungs={"memory/write": "mentor"})
    told = difference.of_change(sealed.state, system.AccessPolicyChange(policy=changed, expires_at=LATER))
    assert ('$.policy.rungs["memory/write"]', None, "mentor") in [tuple(line) for line in told]
    assert len(told) == 2


def test_a_witness_is_compared_with_the_registry(sealed: simulator.House) -> None:
    """A rotation shows the old key and the new one; the name that stays is not told."""
    entry = sealed.state.witnesses["witness"]
    payload = system.TrustedWitness(
        action="rotate", witness_id="witness", name=entry.name, key="11" * 32, licence_id="", expires_at=LATER
    )
    told = {line.path: line[1:] for line in difference.of_change(sealed.state, payload)}
    assert told["$.key"] == (entry.key.hex(), "11" * 32)
    assert told["$.action"] == (None, "rotate")
    assert told.keys() == {"$.action", "$.expires_at", "$.key", "$.licence_id"}


def test_a_quorum_and_a_service_key_are_compared(sealed: simulator.House) -> None:
    """The threshold's old value and a service's old key are told; what was never there is told as null."""
    assert sealed.state.quorum is not None
    raised = msgspec.structs.replace(sealed.state.quorum, k=2)
    assert lines_of(sealed, raised) == [("$.k", 1, 2)]
    key = sealed.services["quorum"].public_key.hex()
    assert lines_of(sealed, system.ServiceKey(service="quorum", key="22" * 32, expires_at=LATER)) == [
        ("$.expires_at", None, LATER),
        ("$.key", key, "22" * 32),
    ]
    fresh = lines_of(sealed, system.ServiceKey(service="mentor", key="22" * 32, expires_at=LATER))
    assert ("$.key", None, "22" * 32) in fresh
    assert ("$.service", None, "mentor") in fresh


def lines_of(world: simulator.House, payload: msgspec.Struct) -> list[tuple[str, Any, Any]]:
    return [tuple(line) for line in difference.of_change(world.state, payload)]
