"""The command line: every verb answers wrong words with exit 1 or 2, names what is wrong, and never shows a traceback."""

import builtins
import json
import sys
from collections.abc import Iterator

import msgspec
import pytest
import pytest_asyncio
import typer

from cli import main
from sigilcore.access import Loa
from sigilcore.contracts import catalogue
from sigilrun.faces import examples

FILLING = {"integer": "1", "integer range": "1", "path": "none", "text": "none", "choice": "none", "boolean": None}


class Done(msgspec.Struct, frozen=True):
    """How a verb ended."""

    code: int
    out: str
    err: str

    @property
    def told(self) -> dict[str, object]:
        """The error as a program reads it (`--json`)."""
        return json.loads(self.err.splitlines()[-1])


def leaves() -> Iterator[tuple[tuple[str, ...], object]]:
    """Every verb as the words that name it, and its parser."""

    def walk(words: tuple[str, ...], command: object) -> Iterator[tuple[tuple[str, ...], object]]:
        inside = getattr(command, "commands", None)
        if inside is None:
            yield words, command
            return
        for name, one in inside.items():
            yield from walk((*words, name), one)

    yield from walk((), typer.main.get_command(main.application()))


VERBS = [pytest.param(words, command, id=" ".join(words)) for words, command in leaves()]


@pytest.fixture
def sigil(monkeypatch, capsys, tmp_path):
    """Run one verb here, as its program would; whoever logged in nowhere, unless a test says where."""
    monkeypatch.setenv("SIGIL_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("SIGIL_ADDRESS", "http://127.0.0.1:9")  # nobody answers there
    monkeypatch.delenv("SIGIL_PASSPHRASE", raising=False)
    monkeypatch.chdir(tmp_path)

    def run(*words: str) -> Done:
        monkeypatch.setattr(sys, "argv", ["sigil", *words])
        with pytest.raises(SystemExit) as ended:
            main.main()
        shown = capsys.readouterr()
        code = ended.value.code
        done = Done(code if isinstance(code, int) else 0, shown.out, shown.err)
        assert "Traceback" not in done.err, done.err
        return done

    return run


def needed(command) -> list[object]:
    """What a verb can't do without."""
    return [one for one in command.params if one.required]


def words_for(command, *, without=None, instead=None) -> list[str]:
    """Words that fill what is needed, with nothing that exists; one left out, or given otherwise."""
    words: list[str] = []
    for one in command.params:
        text = FILLING.get(one.type.name, "none")
        if instead is not None and one is instead[0]:
            text = instead[1]
        elif not one.required or one is without:
            continue
        words += [text] if one.param_type_name == "argument" else [one.opts[0], text]
    return words


def named(one) -> str:
    """How usage errors name a parameter."""
    return one.opts[0] if one.param_type_name == "option" else one.name.split("_")[0].upper()


@pytest.mark.parametrize(("words", "command"), VERBS)
def test_words_that_no_verb_takes(sigil, words, command):
    """An option that isn't there, a word too many, a needed one too few, an option without its value: usage, by name."""
    strange = sigil(*words, "--surprise")
    assert (strange.code, "--surprise" in strange.err) == (2, True)
    if not any(one.param_type_name == "argument" and one.nargs == -1 for one in command.params):
        more = sigil(*words, *words_for(command), "surprise")
        assert (more.code, "surprise" in more.err) == (2, True)
    for one in needed(command):
        less = sigil(*words, *words_for(command, without=one))
        assert (less.code, named(one) in less.err.upper() or named(one) in less.err) == (2, True), less
    for one in command.params:
        if one.param_type_name == "option" and not one.is_flag and words != ("call",):
            cut = sigil(*words, *words_for(command, without=one), one.opts[0])
            assert (cut.code, one.opts[0] in cut.err) == (2, True), cut


@pytest.mark.parametrize(("words", "command"), VERBS)
def test_values_of_another_type(sigil, words, command):
    """A number that is a word, a number out of bounds, a choice that isn't one: usage, by name."""
    for one in command.params:
        wrong = {"integer": ["many"], "choice": ["no-such"]}.get(one.type.name, [])
        if one.type.name == "integer range":
            wrong = ["many", "1.5", str(-(10**6)), str(10**9)]
            wrong = wrong if one.type.max is not None else wrong[:3]
        for text in wrong:
            done = sigil(*words, *words_for(command, without=one, instead=(one, text)))
            assert (done.code, named(one) in done.err) == (2, True), done


def test_an_unknown_verb(sigil):
    """Neither a noun nor a verb that isn't there."""
    assert sigil("surprise").code == 2
    assert sigil("memory", "surprise").code == 2
    assert sigil("--surprise").code == 2
