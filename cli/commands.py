"""`sigil commands list` and `sigil call`: everything that is declared can be asked, whether or not it has a verb of its own."""

from typing import Annotated, Any

import msgspec
import typer

from cli import adapt, caller, seam
from cli.refusal import Refusal
from cli.seam import PROMPT, MaybeKey, Passphrase, State
from sigilcore.contracts import catalogue, gatekeeper
from sigilcore.contracts.common import Empty

_HELP = {"--help", "-h"}


def show_list(state: State) -> None:
    """The commands that you may call."""
    listed = caller.ask(state, gatekeeper.COMMAND_LIST, Empty())
    seam.show(state, listed, seam.table(listed.items, "name", "rung", "needs_owner", "summary"))


def call(
    state: State,
    *,
    name: Annotated[str, typer.Argument(help="a command's name, such as memory/write")],
    words: Annotated[
        list[str] | None,
        typer.Argument(metavar="PARAMETERS", help="one JSON object, or --key value pairs; --help lists them"),
    ] = None,
    approval: Annotated[
        str | None, typer.Option("--approval", help="REVIEW.SALT of a call that a mentor approved, its very parameters")
    ] = None,
    key: MaybeKey = None,
    passphrase: Passphrase = PROMPT,
) -> None:
    """Ask any command. Options of this verb come before the command's name, its parameters after it."""
    command = catalogue.COMMANDS.get(name)
    given = list(words or ())
    names = () if command is None else msgspec.structs.fields(command.request)
    fields = tuple(field.encode_name for field in names)
    if command is not None and _HELP & set(given):
        seam.say(adapt.render_help(command))
        return
    if "--json" in given and "json" not in fields:
        given.remove("--json")
        state.as_json = True
    try:
        parameters = adapt.adapt(given, fields)
    except adapt.NotParameters as error:
        raise Refusal(f"{name}: {error}", f"See sigil call {name} --help.") from error
    owner = caller.maybe_signer(key, passphrase)

    async def work() -> Any:
        async with caller.calling(state, owner=owner) as client:
            return await client.ask(name, parameters, approval=approval)

    answer = seam.wait(work())
    seam.show(state, answer, seam.as_json(answer))


def register(app: typer.Typer) -> None:
    """The noun `commands`, and `call`: what follows the command's name is a parameter, even when it looks like an option."""
    noun = seam.family(app, "commands", "What may be called.")
    seam.verb(noun, "list")(show_list)
    seam.verb(app, "call", context_settings={"allow_interspersed_args": False})(call)
