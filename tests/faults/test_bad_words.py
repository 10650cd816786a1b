"""The command line: every verb answers wrong words with exit 1 or 2, names what is wrong, and never shows a traceback."""

import enum
import inspect
import json
import sys
from collections.abc import Callable, Iterator
from typing import get_args, get_origin

import msgspec
import pytest
import pytest_asyncio
import typer

from cli import main
from sigilcore.access import Loa
from sigilcore.contracts import catalogue


class Done(msgspec.Struct, frozen=True):
    """How a verb ended."""

    code: int
    out: str
    err: str

    @property
    def told(self) -> dict[str, object]:
        """The error as a program reads it (`--json`)."""
        return json.loads(self.err.splitlines()[-1])


class Word(msgspec.Struct, frozen=True, kw_only=True):
    """One parameter of a verb: an option by its flag, or an argument."""

    name: str
    kind: type
    flag: str | None
    needed: bool
    many: bool
    least: int | None = None
    most: int | None = None

    @property
    def shown(self) -> str:
        """How a usage error names it."""
        return self.flag or self.name

    def saying(self, text: str) -> list[str]:
        """The words that give it."""
        return [text] if self.flag is None else [self.flag, text]

    def filling(self) -> list[str]:
        """The words that give it something that fits its type and names nothing."""
        if self.kind is bool:
            return [self.flag or ""]
        if issubclass(self.kind, enum.Enum):
            return self.saying(next(iter(self.kind)).value)
        return self.saying("1" if self.kind is int else "none")

    def wrong(self) -> list[str]:
        """Texts that its type refuses."""
        if self.kind is int:
            below = [] if self.least is None else [str(self.least - 1)]
            above = [] if self.most is None else [str(self.most + 1)]
            return ["many", "1.5", *below, *above]
        return ["no-such"] if issubclass(self.kind, enum.Enum) else []


def verbs() -> Iterator[tuple[tuple[str, ...], tuple[Word, ...]]]:
    """Every verb as the words that name it, and its parameters, from the signatures that typer reads."""
    app = main.application()
    for command in app.registered_commands:
        yield (command.name,), tuple(parameters(command.callback))
    for group in app.registered_groups:
        noun = group.typer_instance
        for command in noun.registered_commands:
            yield (noun.info.name, command.name), tuple(parameters(command.callback))


def parameters(callback: Callable[..., None]) -> Iterator[Word]:
    """A verb's parameters."""
    for one in inspect.signature(callback).parameters.values():
        if one.annotation is typer.Context:
            continue
        kind, info = one.annotation, None
        if hasattr(kind, "__metadata__"):
            kind, info = kind.__origin__, kind.__metadata__[0]
        inner = [part for part in get_args(kind) if part is not type(None)] or [kind]
        many = get_origin(kind) is list or any(get_origin(part) is list for part in inner)
        if many:
            inner = get_args(inner[0]) or inner
        is_option = isinstance(info, typer.models.OptionInfo) or (info is None and one.default is not one.empty)
        # Inside Annotated, typer keeps the first flag as the default.
        given = [getattr(info, "default", None), *(getattr(info, "param_decls", None) or ())]
        flags = [flag for flag in given if isinstance(flag, str) and flag.startswith("--")]
        yield Word(
            name=one.name,
            kind=inner[0] if isinstance(inner[0], type) else str,
            flag=(flags or [f"--{one.name.replace('_', '-')}"])[0] if is_option else None,
            needed=one.default is one.empty,
            many=many,
            least=getattr(info, "min", None),
            most=getattr(info, "max", None),
        )


VERBS = [pytest.param(words, takes, id=" ".join(words)) for words, takes in verbs()]


@pytest.fixture
def sigil(monkeypatch, capsys, tmp_path):
    """Run one verb here, as its program would; whoever logged in nowhere, unless a test says where."""
    monkeypatch.setenv("SIGIL_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("SIGIL_ADDRESS", "http://127.0.0.1:9")  # nobody answers there
    (tmp_path / "file").touch()
    monkeypatch.setenv(
        "SIGIL_DATA", str(tmp_path / "file" / "data")
    )  # no house can start there, should wrong words be taken
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


def filled(takes: tuple[Word, ...], without: Word | None = None) -> list[str]:
    """Words that fill what is needed, one left out."""
    return [text for one in takes if one.needed and one is not without for text in one.filling()]


@pytest.mark.parametrize(("words", "takes"), VERBS)
def test_words_that_no_verb_takes(sigil, words, takes):
    """An option that isn't there, a word too many, a needed one too few, an option without its value: usage, by name."""
    strange = sigil(*words, "--surprise")
    assert (strange.code, "--surprise" in strange.err) == (2, True), strange
    if not any(one.flag is None and one.many for one in takes):
        room = sum(one.flag is None and not one.needed for one in takes)
        more = sigil(*words, *filled(takes), *["surprise"] * (room + 1))
        assert (more.code, "surprise" in more.err) == (2, True), more
    for one in takes:
        if one.needed:
            less = sigil(*words, *filled(takes, without=one))
            assert (less.code, one.shown in less.err) == (2, True), less
        if one.flag is not None and one.kind is not bool and words[-1] != "call":  # there it is a parameter's
            cut = sigil(*words, *filled(takes, without=one), one.flag)
            assert (cut.code, one.flag in cut.err) == (2, True), cut


@pytest.mark.parametrize(("words", "takes"), [one for one in VERBS if any(word.wrong() for word in one.values[1])])
def test_values_of_another_type(sigil, words, takes):
    """A number that is a word, one out of bounds, a choice that isn't one: usage, by name."""
    for one in takes:
        for text in one.wrong():
            done = sigil(*words, *filled(takes, without=one), *one.saying(text))
            assert (done.code, one.shown in done.err) == (2, True), done


def test_an_unknown_verb(sigil):
    """Neither a noun nor a verb that isn't there."""
    assert sigil("surprise").code == 2
    assert sigil("memory", "surprise").code == 2
    assert sigil("--surprise").code == 2


# With a house


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def olga(house):
    """A bearer operator's licence."""
    return await house.person("olga-words", Loa.OPERATOR)


@pytest.fixture
def at_home(sigil, monkeypatch, house, olga, tmp_path):
    """An operator's terminal, logged in."""
    monkeypatch.setenv("SIGIL_ADDRESS", house.address)
    (tmp_path / "olga.toml").write_text(olga.toml)
    assert sigil("login", "--license", "olga.toml").code == 0
    return sigil


def refused(done: Done, code: str, field: str | None = None) -> None:
    """Exit 1, with this code, the field, and what to do next."""
    assert done.code == 1, done
    assert (done.told["code"], done.told.get("field")) == (code, field), done
    assert done.told["message"]
    assert done.told["next_step"]


def test_every_command_called_wrongly(at_home):
    """`sigil call`: what the words can't be is said here, what the schema forbids is said by the house, each by name."""
    for name in sorted(command.name for command in catalogue.public()):
        for words in (("{",), ("[]",), ('{"a": 1, "a": 2}',), ('{"a": NaN}',), ("surprise", "1"), ("--",)):
            done = at_home("call", "--json", name, *words)
            refused(done, "REFUSED")
            assert name in done.told["message"]
        unknown = at_home("call", "--json", name, '{"surprise": 1}')
        refused(unknown, "BAD_INPUT", "$")
        assert "surprise" in unknown.told["message"]


@pytest.mark.parametrize(
    ("words", "field"),
    [
        ("memory write --key no/such/../key! --text t", "$.key"),
        ("memory write --key k --text=", "$.text"),
        ("memory write --key k --text t --id 1", "$.id"),
        ("memory write --key k --text t --tag=", "$.tags[0]"),
        ("memory list --cursor garbage", "$.cursor"),
        ("memory list --user no!", "$.user_id"),
        ("memory read no!", "$.key"),
        ("memory read k --version 9999999999", "$.version"),
        ("canon list --kind 123456789012345678901234567890123", "$.kind"),
        ("canon list --cursor garbage", "$.cursor"),
        ("canon read 1", "$.id"),
        ("canon proof 1 --out bundle", "$.id"),
        ("audit get 1", "$.id"),
        ("audit list --cursor " + "x" * 300, "$.cursor"),
        ("license create --owner-id no! --owner-name N --loa guest --expires-at 2035-01-01 --out l", "$.owner_id"),
        ("license create --owner-id n --owner-name N --loa guest --expires-at soon --out l", "$.expires_at"),
        ("license revoke 1", "$.license_id"),
        ("proposal show 1", "$.proposal_id"),
        ("proposal withdraw 1", "$.proposal_id"),
        ("trust check " + "x" * 33 + " memory", "$.action"),
    ],
)
def test_values_that_only_the_house_can_judge(at_home, words, field):
    """A verb passes on what it was given, and shows the refusal with the field that the words became."""
    refused(at_home(*words.split(), "--json"), "BAD_INPUT", field)


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        ("login --license none.toml", 2, "none.toml"),
        ("login --license garbage", 1, "garbage"),
        ("license validate none.toml", 2, "none.toml"),
        ("license validate garbage", 1, "garbage"),
        ("license create --owner-id n --owner-name N --loa guest --expires-at 2035-01-01 --out garbage", 1, "garbage"),
        ("verify none.json", 2, "none.json"),
        ("verify garbage", 2, "garbage"),
        ("keys public none.key", 10, "none.key"),
        ("keys public garbage", 11, "garbage"),
        ("memory import garbage none --licence MIT", 2, "none"),
        ("whoami --profile ../x", 1, "../x"),
        ("whoami --profile nobody", 1, "session"),
    ],
)
def test_files_and_profiles_that_are_none(at_home, tmp_path, words, code, says):
    """What isn't there, and what isn't what it should be, is named; nothing is overwritten."""
    (tmp_path / "garbage").write_bytes(b"\xff\x00garbage")
    done = at_home(*words.split(), "--json")
    assert (done.code, says in done.err) == (code, True), done
    assert (tmp_path / "garbage").read_bytes() == b"\xff\x00garbage"
