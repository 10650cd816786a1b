"""docs/CATALOGUE.md from the declarations: every command, kind, refusal and resident, for people. A pure function of the catalogue."""

from collections.abc import Iterable, Iterator
from typing import Any

import msgspec

from sigilcore import records
from sigilcore.contracts import catalogue, house
from sigilcore.contracts.command import Command
from sigilcore.refusals import Code
from sigilrun.faces import openapi, routes


def text() -> str:
    """The whole page."""
    return "\n".join(_lines()).rstrip("\n") + "\n"


def _lines() -> Iterator[str]:
    yield "# Catalogue"
    yield ""
    yield "Made by `make docs` from the declarations in `sigilcore`; a test of the house shows when it is out of date."
    yield ""
    yield "[Commands](#commands) · [Kinds of record](#kinds-of-record) · [Refusals](#refusals) · [Residents](#residents)"
    yield ""
    yield "## Commands"
    yield ""
    yield "The rung is the floor. A policy may raise it, and what it raises to mentor or root needs the owner's own word too if it mutates."
    yield "`commands/list` says what holds now."
    yield ""
    for service in sorted({command.service for command in catalogue.COMMANDS.values()}):
        yield f"### {service}"
        yield ""
        for command in sorted(catalogue.of_service(service), key=lambda one: one.name):
            yield from _command(command)
    yield "## Kinds of record"
    yield ""
    yield from _kinds()
    yield "## Refusals"
    yield ""
    yield from _refusals()
    yield "## Residents"
    yield ""
    yield from _residents()


def _command(command: Command[Any, Any]) -> Iterator[str]:
    yield f"#### `{command.name}`"
    yield ""
    yield command.summary
    yield ""
    ways = [f"`{route.method} {route.path}`" for route in routes.ROUTES if route.command is command]
    yield f"- Asked: `{command.heard}`" + "".join(f" · {way}" for way in ways)
    owner = ", by the owner's own word" if command.needs_owner else ""
    yield f"- Admitted by: {command.admission}" + (f", {command.rung} and above{owner}" if _permitted(command) else "")
    yield f"- Does: {command.action} · {command.target} · at most {command.longest_run_s} s" + _scored(command)
    if command.writes:
        yield f"- Writes: {_code(command.writes)}"
    if command.calls:
        yield f"- Calls: {_code(command.calls)}"
    yield f"- Takes `{command.request.__name__}`: {_fields(command.request)}"
    yield f"- Gives `{command.reply.__name__}`: {_fields(command.reply)}"
    if command.refusals:
        yield f"- Refuses: {_code(sorted(command.refusals))}"
    yield ""


def _permitted(command: Command[Any, Any]) -> bool:
    return command.admission.value == "permit"


def _scored(command: Command[Any, Any]) -> str:
    if not command.scored:
        return " · never scored"
    field = command.candidate_field
    return "" if field is None else f" · scored on the standing of whom `{field}` proposes"


def _fields(struct: type[Any]) -> str:
    fields = msgspec.structs.fields(struct)
    return ", ".join(f"`{field.encode_name}`" + ("" if field.required else "?") for field in fields) or "nothing"


def _code(words: Iterable[str]) -> str:
    return " ".join(f"`{word}`" for word in words)


def _kinds() -> Iterator[str]:
    yield "| kind | what | version | space | authors | effect | governs | at most | holds |"
    yield "|---|---|---|---|---|---|---|---|---|"
    for name, kind in sorted(records.REGISTRY.items()):
        yield (
            f"| `{name}` | {kind.summary} | {kind.version} | {kind.space} | {_code(kind.authors)} | {_yes(kind.effect)} "
            f"| {_yes(kind.governs)} | {kind.max_bytes} B | {_fields(kind.payload)} |"
        )
    yield ""


def _yes(value: object) -> str:
    return "yes" if value else ""


def _refusals() -> Iterator[str]:
    yield (
        "Every route may also answer: "
        + _code(openapi.EVERY_ROUTE)
        + ". Every command: "
        + _code(openapi.EVERY_COMMAND)
        + "."
    )
    yield "Every command that needs a permit: " + _code(dict.fromkeys(openapi.EVERY_PERMIT)) + "."
    yield ""
    yield "| code | status | next step |"
    yield "|---|---|---|"
    for code in Code:
        yield f"| `{code}` | {code.status} | {code.next_step} |"
    yield ""


def _residents() -> Iterator[str]:
    yield "| resident | answers | asks | follows the canon | opens the keystore |"
    yield "|---|---|---|---|---|"
    for resident in house.RESIDENTS.values():
        answered = _code(command.name for command in catalogue.of_service(resident.name))
        asks = "every public command `gate/refusals`" if resident.name == "gateway" else _code(resident.asks)
        yield f"| {resident.name} | {answered} | {asks} | {_yes(resident.follows)} | {_yes(resident.keystore)} |"
    yield ""
