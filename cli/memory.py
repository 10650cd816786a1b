"""`sigil memory`: what one remembers, and documents brought in from files."""

from pathlib import Path
from typing import Annotated, Any

import typer

from cli import caller, importing, records, seam
from cli.refusal import Refusal
from cli.seam import State
from sigilcore import ids
from sigilcore.contracts import knowledge
from sigilrun import http

Tags = Annotated[list[str] | None, typer.Option("--tag", help="repeat it")]
User = Annotated[str | None, typer.Option("--user", help="another owner's, for Root")]
Id = Annotated[
    str | None, typer.Option("--id", help="the record's id; the same again is answered with the first place")
]


def write(
    state: State,
    *,
    key: Annotated[str, typer.Option("--key", help="the memory's name")],
    text: Annotated[str, typer.Option("--text")],
    tag: Tags = None,
    id: Id = None,  # noqa: A002 - the option's name
) -> None:
    """Remember a text; a second write of the key supersedes the first."""
    asked = knowledge.MemoryWrite(key=key, text=text, tags=tuple(tag or ()), id=id or ids.new())

    async def work() -> knowledge.Written:
        async with caller.calling(state) as client:
            return await http.persistently(lambda: client.call(knowledge.MEMORY_WRITE, asked), give_up_s=10)

    done = seam.wait(work())
    seam.show(state, done, f"{done.key} at seq {done.seq}{' (existing)' if done.existing else ''}: {done.hash}")


def show_list(
    state: State,
    *,
    prefix: Annotated[str | None, typer.Option("--prefix")] = None,
    tag: Annotated[str | None, typer.Option("--tag")] = None,
    user: User = None,
    limit: seam.Limit = 50,
    cursor: seam.Cursor = None,
) -> None:
    """One's own memory."""
    asked = knowledge.MemoryList(prefix=prefix, tag=tag, user_id=user, limit=limit, cursor=cursor)

    page = caller.ask(state, knowledge.MEMORY_LIST, asked)
    seam.show(state, page, seam.page(page.items, page.cursor, "key", "version", "seq", "ts", "tags"))


def read(
    state: State,
    *,
    key: str,
    user: User = None,
    version: Annotated[int | None, typer.Option("--version", min=1)] = None,
) -> None:
    """One memory, now or as it was."""

    async def work() -> knowledge.MemoryView:
        async with caller.calling(state) as client:
            return await client.call(
                knowledge.MEMORY_READ, knowledge.MemoryRead(key=key, user_id=user, version=version)
            )

    found = seam.wait(work())
    seam.show(state, found, found.text)


def forget(
    state: State,
    *,
    key: Annotated[str, typer.Option("--key", help="the memory's name")],
    erase: Annotated[bool, typer.Option("--erase", help="yes: nobody will ever read any version of it again")] = False,
    id: Id = None,  # noqa: A002 - the option's name
) -> None:
    """Erase a memory of one's own, all versions of it. The records stay, without what they said."""
    if not erase:
        raise Refusal("forgetting erases every version, and nothing brings them back", "Say so with --erase.")
    records.erase_thing(state, knowledge.UserErase(kind="memory_block", key=key, id=id or ids.new()))


def bring(
    state: State,
    *,
    paths: Annotated[list[Path], typer.Argument(help="files, or folders of .html, .md, .txt, .rst")],
    licence: Annotated[str, typer.Option("--licence", help="SPDX expression of the texts")],
    prefix: Annotated[str, typer.Option("--prefix", help="goes before every name")] = "",
) -> None:
    """Bring files in as documents, in batches. Run it again after a break: what is there is not written twice."""
    documents, refused = _read(paths, prefix, licence)
    if not documents:
        raise Refusal("no text in these paths", "Name files or folders with .html, .md, .txt or .rst files.")
    counts = seam.wait(_send(state, documents, refused))
    told: dict[str, Any] = {"documents": len(documents), **counts, "refused": refused}
    text = f"{counts['written']} written, {counts['existing']} were there, {len(refused)} refused"
    seam.show(state, told, "\n".join([text, *(f"  {key}: {why}" for key, why in refused.items())]))
    if refused:
        raise typer.Exit(seam.EXIT_REFUSED)


def _read(paths: list[Path], prefix: str, licence: str) -> tuple[list[importing.Document], dict[str, str]]:
    """The documents, and what is too long by name."""
    documents, refused = [], {}
    for path, name in importing.files(paths):
        try:
            found = importing.document(path, name, prefix=prefix, licence=licence)
        except importing.TooLong as error:
            refused[name] = str(error)
            continue
        if found is not None:
            documents.append(found)
    return documents, refused


async def _send(state: State, documents: list[importing.Document], refused: dict[str, str]) -> dict[str, int]:
    from rich.console import Console  # noqa: PLC0415 - only long work shows a bar
    from rich.progress import Progress  # noqa: PLC0415

    counts = {"written": 0, "existing": 0}
    async with caller.calling(state) as client:
        if client.session is None:
            raise Refusal("no session is open", "Open one with sigil login.")
        namespace = importing.namespace(client.session)
        with Progress(console=Console(stderr=True), transient=True, disable=state.as_json) as bar:
            task = bar.add_task("importing", total=len(documents))
            async for step in importing.send(client, documents, namespace):
                for result in step.results:
                    if result.refusal is not None:
                        refused[result.key] = f"{result.refusal.code}: {result.refusal.message}"
                    else:
                        counts["existing" if result.existing else "written"] += 1
                bar.update(task, completed=step.done)
    return counts


def register(app: typer.Typer) -> None:
    """The noun `memory`."""
    noun = seam.family(app, "memory", "What you remember, and documents brought in.")
    seam.verb(noun, "write")(write)
    seam.verb(noun, "list")(show_list)
    seam.verb(noun, "read")(read)
    seam.verb(noun, "forget")(forget)
    seam.verb(noun, "import")(bring)
