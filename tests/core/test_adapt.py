"""How words of a command line become parameters: one rule, and what it refuses."""

import json
import shlex

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cli import adapt
from sigilcore.contracts import catalogue

NAMES = st.text(alphabet="abcdefghijklmnopqrstuvwxyz_", min_size=1, max_size=12).filter(lambda name: name.strip("_"))
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


def test_nothing_is_an_empty_object():
    """No words, no parameters."""
    assert adapt.adapt([]) == {}


def test_one_json_object_is_taken_as_it_is():
    """One word that is an object is the parameters."""
    assert adapt.adapt(['{"key": "a", "tags": ["x"], "n": 1}']) == {"key": "a", "tags": ["x"], "n": 1}


@pytest.mark.parametrize("word", ["[1]", "7", '"text"', "null", "key", "{", '{"a": 1, "a": 2}', "key=value", ""])
def test_one_word_that_is_no_object_is_refused(word):
    """Anything else alone is refused, a doubled key too."""
    with pytest.raises(adapt.NotParameters):
        adapt.adapt([word])


def test_keys_values_and_flags_in_every_spelling():
    """`--key value`, `--key=value` and a bare flag, in any order."""
    words = shlex.split("--a 1 --b=two --c --d '[1, {}]' --e=--x --f -5 --g ''")
    assert adapt.adapt(words) == {"a": 1, "b": "two", "c": True, "d": [1, {}], "e": "--x", "f": -5, "g": ""}


@pytest.mark.parametrize("spelling", ["wait_for", "wait-for", "waitFor", "WAIT-FOR", "waitfor"])
def test_keys_match_ignoring_case_and_dashes(spelling):
    """A key is found under the field's own name however it is spelt."""
    assert adapt.adapt([f"--{spelling}=3"], ("key", "wait_for")) == {"wait_for": 3}


@pytest.mark.parametrize(
    "words",
    [
        ["--nope", "1"],
        ["--key", "1", "--KEY", "2"],
        ["--key", "1", "stray"],
        ["stray", "--key", "1"],
        ["--"],
        ["--key", "1", '{"a": 1}'],
    ],
)
def test_words_that_fit_nowhere_are_refused(words):
    """An unknown key, a key twice, a word that belongs to nothing."""
    with pytest.raises(adapt.NotParameters):
        adapt.adapt(words, ("key", "text"))


def test_a_refusal_names_what_there_is():
    """Who mistypes a key hears the right ones."""
    with pytest.raises(adapt.NotParameters, match="--key, --text"):
        adapt.adapt(["--kye", "1"], ("key", "text"))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("true", True),
        ("null", None),
        ("1", 1),
        ("01", "01"),
        ("1e400", "1e400"),
        ("NaN", "NaN"),
        ("9007199254740993", "9007199254740993"),
        ("'x'", "'x'"),
        ('"1"', "1"),
        ("{not json", "{not json"),
    ],
)
def test_a_value_is_json_if_it_is_json_and_text_otherwise(text, value):
    """What isn't I-JSON stays text: nothing is rounded and nothing is infinite."""
    assert adapt.adapt(["--a", text, "--b", "1"]) == {"a": value, "b": 1}


@given(st.dictionaries(NAMES, PLAIN, max_size=4))
@example({"a": "--b"})
def test_what_json_says_comes_back(parameters):
    """Any JSON value survives as `--key=<json>`, and the whole as one object."""
    if len({name.replace("_", "") for name in parameters}) == len(parameters):
        words = [f"--{name}={json.dumps(value)}" for name, value in parameters.items()]
        assert adapt.adapt(words, tuple(parameters)) == parameters
    assert adapt.adapt([json.dumps(parameters)]) == parameters


@given(st.lists(st.text(max_size=12), max_size=5))
def test_no_words_break_it(words):
    """Any words are parameters or are refused; nothing else happens."""
    try:
        assert isinstance(adapt.adapt(words, ("key", "text")), dict)
    except adapt.NotParameters as error:
        assert str(error)


@pytest.mark.parametrize("name", sorted(catalogue.COMMANDS))
def test_every_command_has_help(name):
    """The help of a command names every parameter of its schema."""
    command = catalogue.COMMANDS[name]
    text = adapt.render_help(command)
    assert text.startswith(f"{name}: ")
    for field in command.request.__struct_fields__:
        assert f"--{field.replace('_', '-')}" in text
