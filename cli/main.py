"""The `sigil` command: one file a noun, one function a verb, one place where errors become words and exit codes.

Only the asked noun's file is loaded, so that `sigil verify` talks to nobody, not even to the libraries that could.
"""

import importlib
import io
import sys
from collections.abc import Mapping, Sequence
from types import MappingProxyType

import typer

from cli import seam

# What a person types first, and the file that answers; in the order of the help.
HOMES: Mapping[str, str] = MappingProxyType(
    {
        "run": "stack",
        "up": "stack",
        "down": "stack",
        "status": "stack",
        "doctor": "doctor",
        "init": "session",
        "login": "session",
        "logout": "session",
        "whoami": "session",
        "keys": "keyring",
        "license": "licenses",
        "witness": "witness",
        "proposal": "proposal",
        "seal": "proposal",
        "root": "root",
        "policy": "policy",
        "model": "model",
        "trust": "model",
        "approval": "approval",
        "memory": "memory",
        "canon": "records",
        "audit": "records",
        "consumer": "consumer",
        "grid": "grid",
        "commands": "commands",
        "call": "commands",
        "verify": "verify",
        "config": "config",
    }
)


def application(words: Sequence[str] = ()) -> typer.Typer:
    """The nouns and verbs that these words need; all of them, if they name none."""
    app = typer.Typer(
        name="sigil",
        help="A governed runtime: licences, a gate, a quorum, and one verifiable ledger.",
        epilog=seam.EXIT_CODES,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
    )

    @app.callback()
    def sigil() -> None:
        """Keeps a lone verb a verb: without a callback it would become the program itself."""

    asked = HOMES.get(next((word for word in words if not word.startswith("-")), ""))
    for home in (asked,) if asked else dict.fromkeys(HOMES.values()):
        importlib.import_module(f"cli.{home}").register(app)
    return app


def main() -> None:
    """Run one verb; the exit code says how it went."""
    words = sys.argv[1:]
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a letter that this terminal hasn't is no fault
    state = seam.State(as_json="--json" in words)
    try:
        application(words)(obj=state)
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        sys.exit(seam.fail(error, as_json=state.as_json))


if __name__ == "__main__":
    main()
