"""`sigil config show`: the effective settings of a process, without secrets."""

import os
from pathlib import Path
from typing import Annotated

import typer

from cli import seam
from cli.refusal import Refusal
from cli.seam import Data, State
from sigilcore.contracts import house
from sigilrun import settings

Resident = Annotated[str, typer.Option("--resident", help="for which process: " + ", ".join(house.RESIDENTS))]
# Variables of the command itself, which are no settings of a process.
_OURS = frozenset({"SIGIL_DATA", "SIGIL_HOME", "SIGIL_ADDRESS", "SIGIL_PASSPHRASE"})


def environment() -> dict[str, str]:
    """The variables that are settings, or were meant as such."""
    return {name: value for name, value in os.environ.items() if name not in _OURS}


def show(state: State, data: Data = Path("data"), resident: Resident = "gateway") -> None:
    """What config.toml and the environment make of each setting; all problems at once, each with its origin."""
    if resident not in house.RESIDENTS:
        raise Refusal(f"no process {resident!r}", f"Choose one of {', '.join(house.RESIDENTS)}.")
    try:
        loaded = settings.load(data / "config.toml", environment(), resident=resident)
    except settings.SettingsError as error:
        raise Refusal(str(error), "Correct config.toml or the environment.") from error
    shown = settings.show(loaded)
    lines = [
        f"{section}.{name} = {seam.cell(value)}"
        for section, values in shown.items()
        if isinstance(values, dict)
        for name, value in values.items()
    ]
    seam.show(state, shown, "\n".join(lines))


def register(app: typer.Typer) -> None:
    """The noun `config`."""
    noun = seam.family(app, "config", "Settings.")
    seam.verb(noun, "show")(show)
