"""All commands, in one table; a clash of names, routes or Struct names fails at import."""

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

from sigilcore import records
from sigilcore.contracts import canon, gatekeeper, grid, keys, knowledge, license, notary, projections, quorum
from sigilcore.contracts.command import Admission, Command


def collect(families: Iterable[Iterable[Command[Any, Any]]]) -> Mapping[str, Command[Any, Any]]:
    """The table by name, checked for clashes and for kinds and commands that don't exist."""
    table: dict[str, Command[Any, Any]] = {}
    routes: set[tuple[str, str]] = set()
    structs: dict[str, type] = {}
    for command in (command for family in families for command in family):
        if command.name in table:
            raise ValueError(f"command {command.name!r} is declared twice")
        if command.http is not None:
            route = (command.http.method, command.http.path)
            if route in routes:
                raise ValueError(f"route {route} is declared twice")
            routes.add(route)
        for struct in (command.request, command.reply):
            if structs.setdefault(struct.__name__, struct) is not struct:
                raise ValueError(f"Struct name {struct.__name__!r} is used twice")
        for kind in command.writes:
            if kind not in records.REGISTRY:
                raise ValueError(f"{command.name} writes unknown kind {kind!r}")
        table[command.name] = command
    for command in table.values():
        for called in command.calls:
            _check_call(table, command, called)
    return MappingProxyType(table)


def _check_call(table: Mapping[str, Command[Any, Any]], command: Command[Any, Any], called: str) -> None:
    """A call on the caller's behalf: of a command that takes permits and no owner's word, and that doesn't lead back here."""
    wanted = table.get(called)
    if wanted is None:
        raise ValueError(f"{command.name} calls unknown command {called!r}")
    if wanted.admission is not Admission.PERMIT or wanted.needs_owner:
        raise ValueError(f"{command.name} can't call {called} on anybody's behalf")
    reached, seen = [called], set[str]()
    while reached:
        name = reached.pop()
        if name == command.name:
            raise ValueError(f"{command.name} calls itself by way of {called}")
        if name not in seen and name in table:
            seen.add(name)
            reached.extend(table[name].calls)


COMMANDS: Mapping[str, Command[Any, Any]] = collect(
    (
        gatekeeper.COMMANDS,
        license.COMMANDS,
        keys.COMMANDS,
        quorum.COMMANDS,
        canon.COMMANDS,
        notary.COMMANDS,
        knowledge.COMMANDS,
        projections.COMMANDS,
        grid.COMMANDS,
    )
)


def of_service(service: str) -> tuple[Command[Any, Any], ...]:
    """The commands that a service answers."""
    return tuple(command for command in COMMANDS.values() if command.service == service)


def public() -> tuple[Command[Any, Any], ...]:
    """The commands that faces offer."""
    return tuple(command for command in COMMANDS.values() if not command.internal)
