"""What all verbs share: options, output, and how an error reaches a person.

Exit codes: 0 done; 1 refused, or it doesn't verify; 2 usage, or a file that can't be read; 3 nobody answers, or a fault of the house;
10 to 30 a key file or a passphrase, each fault its own (`key_faults`, docs/CLI.md).
A refusal shows its code, the message, the field and the next step, on stderr; with `--json` as one JSON object.
"""

import asyncio
import dataclasses
import errno
import inspect
import json
import os
import stat
import sys
import traceback
from collections.abc import Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TextIO, TypeVar

import msgspec
import typer

from cli import profiles
from cli.refusal import Refusal
from sigilcore.faults import Fault
from sigilcore.refusals import Refused
from sigilrun.key_faults import KeystoreError

T = TypeVar("T")

# What moves a terminal's cursor, colours, titles or clipboard (C0 and C1), or the order in which letters are read.
_OBEYED: Mapping[int, str] = {
    code: f"\\u{code:04x}"
    for code in (
        *(code for code in range(0x20) if chr(code) not in "\n\t"),
        *range(0x7F, 0xA0),
        0x061C,
        0x200E,
        0x200F,
        *range(0x2028, 0x202F),
        *range(0x2066, 0x206A),
    )
}

PROMPT = "prompt"
EXIT_REFUSED = 1
EXIT_USAGE = 2
EXIT_UNREACHABLE = 3
EXIT_CODES = (
    "Exit codes: 0 done, 1 refused, 2 usage, 3 unreachable or a fault, 10 to 30 a key file or passphrase (docs/CLI.md)."
)

Key = Annotated[Path, typer.Option("--key", help="your key file; the key never leaves this machine")]
MaybeKey = Annotated[
    Path | None, typer.Option("--key", help="prove by the owner's key file instead of the session's certificate")
]
Passphrase = Annotated[
    str,
    typer.Option(
        "--passphrase", envvar="SIGIL_PASSPHRASE", help="where it comes from, never itself: file:PATH, fd:N or prompt"
    ),
]
Data = Annotated[Path, typer.Option("--data", envvar="SIGIL_DATA", help="the stack's data folder")]


Limit = Annotated[int, typer.Option("--limit", min=1, max=500, help="most rows")]
Cursor = Annotated[str | None, typer.Option("--cursor", help="go on where the last page ended")]


@dataclasses.dataclass
class State:
    """One invocation's options."""

    as_json: bool = False
    field: str | None = None
    profile: str = "default"
    address: str | None = None

    @property
    def kept(self) -> profiles.Profile:
        """The profile on disk."""
        return profiles.Profile(self.profile)


def family(app: typer.Typer, name: str, about: str) -> typer.Typer:
    """A noun; verbs are added to it."""
    noun = typer.Typer(name=name, help=about, epilog=EXIT_CODES, no_args_is_help=True, rich_markup_mode=None)
    app.add_typer(noun)
    return noun


def verb(noun: typer.Typer, name: str, **settings: Any) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Add a function to a noun; its first parameter is the invocation's `State`, the options of every verb come by themselves."""

    def register(function: Callable[..., None]) -> Callable[..., None]:
        signature = inspect.signature(function, eval_str=True)
        own = list(signature.parameters.values())[1:]

        def called(context: typer.Context, **given: Any) -> None:
            state = context.find_object(State)
            assert state is not None, "main makes the state"
            state.as_json = given.pop("as_json") or state.as_json
            state.field = given.pop("field") or state.field
            state.profile = given.pop("profile") or state.profile
            state.address = given.pop("address") or state.address
            function(state, **given)

        parameters = [
            inspect.Parameter("context", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context),
            *(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in own),
            *_EVERY_VERB,
        ]
        called.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        called.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        called.__doc__ = function.__doc__
        noun.command(name, epilog=EXIT_CODES, **settings)(called)
        return function

    return register


def _common(name: str, kind: Any, default: Any, *, flag: str, about: str) -> inspect.Parameter:
    annotation = Annotated[kind, typer.Option(flag, help=about)]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


_EVERY_VERB = (
    _common("as_json", bool, default=False, flag="--json", about="print JSON"),
    _common("field", str | None, default=None, flag="--field", about="print only this field of the answer"),
    _common("profile", str | None, default=None, flag="--profile", about="which profile to use"),
    _common("address", str | None, default=None, flag="--address", about="the gateway's address"),
)


def wait(work: Coroutine[Any, Any, T]) -> T:
    """Run a verb's asynchronous part. What the bus has to say meanwhile is the verb's to tell; only what is critical is logged."""
    from sigilrun import telemetry  # noqa: PLC0415 - verbs that talk to nobody don't pay for it

    telemetry.configure(level="critical", as_json=False, resident="sigil")
    return asyncio.run(work)


def free(path: Path) -> None:
    """Before the house is asked for what will go there: the file isn't there yet, and can be made. Raises `Refusal`, OSError."""
    if os.path.lexists(path):
        raise Refusal(f"{path} is there already", "Choose another file.")
    if not stat.S_ISDIR(path.parent.stat().st_mode):
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path.parent))
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path.parent))


def text(path: Path) -> str:
    """A text file that somebody named; raises `Refusal` for what is no text."""
    try:
        return path.read_text("utf-8")
    except UnicodeDecodeError as error:
        raise Refusal(f"{path} is no text in UTF-8", "Name another file.") from error


# Output


def show(state: State, value: Any, text: str | None = None) -> None:
    """Print a value: JSON when asked for, else `text`, else one line a field."""
    plain = msgspec.to_builtins(value)
    if state.field is not None:
        if state.field not in plain:
            raise Refusal(f"the answer has no field {state.field!r}", f"It has: {', '.join(plain)}.")
        found = plain[state.field]
        say(found if isinstance(found, str) else cell(found))
    elif state.as_json:
        say(as_json(plain))
    elif text is not None:
        say(text)
    else:
        say(fields(plain))


def as_json(plain: Any) -> str:
    """A value as JSON for people and programs."""
    return json.dumps(plain, indent=2, ensure_ascii=False)


def say(text: str) -> None:
    """One text on stdout."""
    _write(sys.stdout, text)


def note(text: str) -> None:
    """A line beside the result, for people."""
    _write(sys.stderr, text)


def _write(stream: TextIO, text: str) -> None:
    """What a terminal would obey is shown instead of sent to it; what goes to a file or a program goes as it is."""
    stream.write((text.translate(_OBEYED) if stream.isatty() else text) + "\n")
    stream.flush()


def line(text: str) -> str:
    """Somebody else's text within one line of ours, each character where it stands: what would end the line, move a terminal's cursor, turn
    the direction or show nothing is spelled out, so that nothing can be written over or hidden."""
    return "".join(one if one.isprintable() else json.dumps(one)[1:-1] for one in text)


def fields(plain: dict[str, Any]) -> str:
    """One line a field, empty ones left out."""
    shown = {name: value for name, value in plain.items() if value not in (None, (), [], {})}
    width = max((len(name) for name in shown), default=0)
    return "\n".join(f"{name:<{width}}  {cell(value)}" for name, value in shown.items())


def table(rows: Sequence[Any], *columns: str) -> str:
    """Rows of Structs or dicts as aligned columns; a path such as `header.core.kind` reaches inside."""
    plain = [msgspec.to_builtins(row) for row in rows]
    cells = [[cell(_at(row, column)) for column in columns] for row in plain]
    heads = [column.rpartition(".")[2] for column in columns]
    widths = [max(len(line[i]) for line in (heads, *cells)) for i in range(len(columns))]
    lines = [
        "  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip()
        for line in (heads, *cells)
    ]
    return "\n".join(lines) if rows else "(none)"


def page(rows: Sequence[Any], cursor: str | None, *columns: str) -> str:
    """A table, and how to see what follows."""
    return table(rows, *columns) + ("" if cursor is None else f"\n(more: --cursor {cursor})")


def _at(row: Any, path: str) -> Any:
    for part in path.split("."):
        row = row.get(part) if isinstance(row, dict) else None
    return row


def cell(value: Any) -> str:
    """A value in one line."""
    if value is None:
        return "-"
    return line(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))


# Errors


def fail(error: BaseException, *, as_json: bool) -> int:
    """Tell a person what was wrong and what to do; the exit code."""
    code, told = _told(error)
    if as_json:
        sys.stderr.write(json.dumps(told, ensure_ascii=False) + "\n")
        return code
    note(f"{told.pop('code')}: {told.pop('message')}")
    for name, value in told.items():
        if value:
            note(f"  {name.replace('_', ' ')}: {cell(value)}")
    return code


def _told(error: BaseException) -> tuple[int, dict[str, Any]]:
    match error:
        case Refused():
            answer = error.answer()
            return EXIT_REFUSED, {
                "code": answer.code.value,
                "message": answer.message,
                "field": answer.field,
                "next_step": answer.next_step,
                "detail": answer.detail,
            }
        case Fault():
            return EXIT_UNREACHABLE, {
                "code": "FAULT",
                "message": "something of the house's broke",
                "next_step": f"Find trace id {error.trace_id} in the logs.",
            }
        case KeystoreError():
            told = {"code": type(error).__name__, "message": error.what, "next_step": error.next_step}
            return error.exit_code, told
        case Refusal():
            return error.exit_code, {
                "code": error.code,
                "message": str(error),
                "field": error.field,
                "next_step": error.next_step,
            }
        case TimeoutError() | ConnectionError():
            return EXIT_UNREACHABLE, {
                "code": "UNREACHABLE",
                "message": str(error) or "no answer in time",
                "next_step": _UP,
            }
        case OSError():
            where = f"{error.filename}: " if error.filename else ""
            return EXIT_USAGE, {"code": "FILE", "message": f"{where}{error.strerror or error}"}
        case _:
            return _foreign(error)


_UP = "Start the stack with sigil up, or name it with --address."


def _foreign(error: BaseException) -> tuple[int, dict[str, Any]]:
    """What a room raises that only some verbs load; anything else is a mistake of ours, and shown whole."""
    if type(error).__name__ == "Unreachable":
        return EXIT_UNREACHABLE, {"code": "UNREACHABLE", "message": str(error), "next_step": _UP}
    traceback.print_exception(error)
    return EXIT_UNREACHABLE, {"code": "FAULT", "message": "this command itself broke; the lines above say where"}
