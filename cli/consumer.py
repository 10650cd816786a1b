"""`sigil consumer issue | revoke | list`: who outside the house may read which kinds of the log. On the operator's machine."""

from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from cli import seam
from cli.refusal import Refusal
from cli.seam import Data, State

if TYPE_CHECKING:
    from sigilrun import consumers

T = TypeVar("T")

Space = Annotated[str | None, typer.Option("--space", help="user, audit or system; none: the whole log")]
Kind = Annotated[
    list[str] | None, typer.Option("--kind", help="of that space, may be repeated; none: all of its kinds")
]
Out = Annotated[Path | None, typer.Option("--out", help="the new folder for its owner; by default the consumer's name")]


def issue(
    state: State,
    name: str,
    *,
    space: Space = None,
    kind: Kind = None,
    out: Out = None,
    data: Data = Path("data"),
) -> None:
    """Make a consumer's account; a running house knows it at once. The new folder is all that its owner needs, and is secret."""
    from sigilrun import consumers  # noqa: PLC0415 - the bus's libraries are loaded by the verbs that need them

    given = out or Path(name)
    made = _done(lambda: consumers.issue(data, name, consumers.scopes_of(space, kind or ()), given))
    reads = _reads(made)
    text = f"{name} reads {reads}\n{given}/ is its owner's: seed and account.json"
    seam.show(state, {"name": name, "reads": reads, "folder": str(given)}, text)


def revoke(state: State, name: str, *, data: Data = Path("data")) -> None:
    """End a consumer's account; whoever is connected with it is cut off."""
    from sigilrun import consumers  # noqa: PLC0415 - as above

    _done(lambda: consumers.revoke(data, name))
    seam.show(state, {"name": name, "revoked": True}, f"{name} reads nothing any more")


def show_list(state: State, data: Data = Path("data")) -> None:
    """Who may read what."""
    from sigilrun import consumers  # noqa: PLC0415 - as above

    rows = [{"name": one.name, "reads": _reads(one), "public_nkey": one.public_nkey} for one in consumers.listed(data)]
    seam.show(state, {"items": rows}, seam.table(rows, "name", "reads", "public_nkey"))


def _reads(one: "consumers.Consumer") -> str:
    return ", ".join("everything" if scope == ("all", "all") else "/".join(scope) for scope in one.scopes)


def _done(work: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run it; what stands in the way is told to the person at the terminal."""
    from sigilrun.embedded.errors import EmbeddedError  # noqa: PLC0415 - as above

    try:
        return seam.wait(work())
    except EmbeddedError as error:
        raise Refusal(str(error)) from error


def register(app: typer.Typer) -> None:
    """The noun `consumer`."""
    noun = seam.family(app, "consumer", "Readers outside the house, by space and kind.")
    seam.verb(noun, "issue")(issue)
    seam.verb(noun, "revoke")(revoke)
    seam.verb(noun, "list")(show_list)
