"""`sigil doctor`: what is wrong with a house, with the next step for each. Exit 0 clean, 1 findings, 2 couldn't look."""

from pathlib import Path
from typing import Annotated

import msgspec
import typer

from cli import caller, checkup, looking, seam
from cli.refusal import NoHouse
from cli.seam import Data, State
from sigilrun.embedded import folder

Days = Annotated[int, typer.Option("--days", min=0, max=36_500, help="licences that end within so many days are found")]


NOT_NAMED = Path("data")  # who names no folder may well have none


def doctor(state: State, data: Data = NOT_NAMED, days: Days = 30) -> None:
    """Look at files, settings, clocks, keys' margins, licences, checkpoints and the bus. Changes nothing."""
    try:
        address = caller.address_of(state, data)
    except NoHouse:
        address = None
    here = data if data.is_dir() else None
    facts = seam.wait(looking.Doctor(state.kept, here, address, days).look())
    if here is None and data != NOT_NAMED:
        facts = msgspec.structs.replace(facts, unseen=(*facts.unseen, f"{data}: there is no such folder"))
    elif here is not None and address is not None and folder.holder(data) is None:
        facts = msgspec.structs.replace(facts, unseen=(*facts.unseen, f"the house on {data}: nothing runs there"))
    found = checkup.examine(facts)
    lines = [f"{one.code}: {one.what}\n  next: {one.next_step}" for one in found.findings]
    lines += [f"couldn't look at {what}" for what in found.unseen]
    told = {**msgspec.to_builtins(found), "exit_code": found.exit_code}
    seam.show(state, told, "\n".join(lines) if lines else "nothing found")
    if found.exit_code:
        raise typer.Exit(found.exit_code)


def register(app: typer.Typer) -> None:
    """The verb `doctor`."""
    seam.verb(app, "doctor")(doctor)
