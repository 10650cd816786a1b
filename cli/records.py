"""`sigil canon` and `sigil audit`: records read, listed, proven, written, and the whole ledger exported and judged again."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from cli import caller, ledger, seam
from cli.refusal import Refusal
from cli.seam import State
from sigilcore import canonical, ids
from sigilcore.contracts import canon, knowledge
from sigilrun import http

Out = Annotated[Path | None, typer.Option("--out", help="write it to this file")]
Space = Annotated[str | None, typer.Option("--space", help="user, system or audit")]
Kind = Annotated[str | None, typer.Option("--kind", help="a kind's tag")]
_COLUMNS = ("seq", "header.core.id", "header.core.space", "header.core.kind", "header.core.ts", "header.hash")


def get(
    state: State,
    name: Annotated[str, typer.Argument(help="a record's id, hash or seq")],
) -> None:
    """One record, verified by the house before it is shown."""
    if name.isascii() and name.isdigit() and len(name) <= 16:
        asked = canon.Get(seq=int(name))
    elif len(name) == 64:
        asked = canon.Get(hash=name)
    else:
        asked = canon.Get(id=name)

    async def work() -> canon.RecordView:
        async with caller.calling(state) as client:
            return await client.call(canon.GET, asked)

    _show_record(state, seam.wait(work()))


def canon_list(
    state: State,
    *,
    space: Space = None,
    kind: Kind = None,
    subject: Annotated[str | None, typer.Option("--subject")] = None,
    limit: seam.Limit = 50,
    cursor: seam.Cursor = None,
) -> None:
    """Records in order."""
    asked = _list(space, kind, subject, limit, cursor)

    async def work() -> canon.RecordPage:
        async with caller.calling(state) as client:
            return await client.call(canon.LIST, asked)

    _show_page(state, seam.wait(work()))


def proof(state: State, record_id: str, out: Out = None) -> None:
    """A bundle that proves one record offline; check it with sigil verify."""

    async def work() -> bytes:
        async with caller.calling(state) as client:
            return await client.send(canon.PROOF, http.parameter_bytes({"id": record_id}))

    data = seam.wait(work())
    if out is None:
        seam.say(data.decode())
        return
    out.write_bytes(data)
    seam.show(
        state,
        {"file": str(out), "bytes": len(data)},
        f"{len(data)} bytes to {out}; check them with: sigil verify {out}",
    )


def write(
    state: State,
    *,
    key: Annotated[str, typer.Option("--key", help="the thing's name")],
    value: Annotated[str, typer.Option("--value", help="JSON if it parses as JSON, else text")],
    id: Annotated[str | None, typer.Option("--id", help="the record's id")] = None,  # noqa: A002 - the option's name
) -> None:
    """Write a value of one's own."""
    try:
        plain = canonical.parse(value.encode())
    except canonical.NotCanonical:
        plain = value
    asked = knowledge.UserWrite(key=key, value=plain, id=id or ids.new())

    async def work() -> knowledge.Written:
        async with caller.calling(state) as client:
            return await http.persistently(lambda: client.call(knowledge.USER_WRITE, asked), give_up_s=10)

    done = seam.wait(work())
    seam.show(state, done, f"{done.key} at seq {done.seq}{' (existing)' if done.existing else ''}: {done.hash}")


def read(state: State, record_id: str) -> None:
    """A value of one's own, by its record's id."""

    async def work() -> knowledge.UserView:
        async with caller.calling(state) as client:
            return await client.call(knowledge.USER_READ, knowledge.UserRead(id=record_id))

    seam.show(state, seam.wait(work()))


def erase(
    state: State,
    record_id: Annotated[str, typer.Argument(help="the id of any version of the thing")],
    *,
    id: Annotated[str | None, typer.Option("--id", help="the erasure's own id")] = None,  # noqa: A002 - the option's name
) -> None:
    """Erase a thing of one's own, all versions of it. The records stay, without what they said."""
    erase_thing(state, knowledge.UserErase(record=record_id, id=id or ids.new()))


def erase_thing(state: State, asked: knowledge.UserErase) -> None:
    """Ask for an erasure, and say what is gone."""

    async def work() -> knowledge.Erased:
        async with caller.calling(state) as client:
            return await http.persistently(lambda: client.call(knowledge.USER_ERASE, asked), give_up_s=10)

    done = seam.wait(work())
    plural = "" if done.versions == 1 else "s"
    seam.show(state, done, f"{done.key}: {done.versions} version{plural} erased, at seq {done.seq}")


def audit_get(
    state: State,
    name: Annotated[str, typer.Argument(help="a record's id, or <id>.<index> for one decision of a batch")],
) -> None:
    """An audit record, or one decision."""

    async def work() -> canon.RecordView:
        async with caller.calling(state) as client:
            return await client.call(canon.AUDIT_GET, canon.AuditGet(id=name))

    _show_record(state, seam.wait(work()))


def audit_list(state: State, kind: Kind = None, limit: seam.Limit = 50, cursor: seam.Cursor = None) -> None:
    """Audit records in order (mentor)."""
    asked = _list(None, kind, None, limit, cursor)

    async def work() -> canon.RecordPage:
        async with caller.calling(state) as client:
            return await client.call(canon.AUDIT_LIST, asked)

    _show_page(state, seam.wait(work()))


def export(state: State, *, data: seam.Data = Path("data"), out: Annotated[Path, typer.Option("--out")]) -> None:
    """Write the whole ledger to a file, as the operator of the data folder."""
    count = seam.wait(ledger.export(data, out))
    seam.show(
        state,
        {"file": str(out), "records": count},
        f"{count} records to {out}; judge them with: sigil audit replay {out}",
    )


def replay(
    state: State,
    file: Path,
    genesis: Annotated[str | None, typer.Option("--genesis", help="the genesis hash that you pinned")] = None,
) -> None:
    """Judge an exported ledger again, offline, from the first record to the checkpoint."""
    try:
        report = ledger.replay(file, genesis)
    except ledger.Diverged as diverged:
        raise Refusal(str(diverged), "The records up to there follow; this one doesn't.") from diverged
    seam.show(state, report)


def _list(
    space: str | None, kind: str | None, subject: str | None, limit: int, cursor: str | None
) -> canon.ListRecords:
    if space not in {None, "user", "system", "audit"}:
        raise Refusal(f"no space {space!r}", "Spaces are user, system and audit.")
    return canon.ListRecords(space=space, kind=kind, subject=subject, limit=limit, cursor=cursor)  # type: ignore[arg-type]


def _show_record(state: State, view: canon.RecordView) -> None:
    core: dict[str, Any] = view.header["core"]
    head = {"seq": view.seq, "hash": view.header["hash"], **core}
    text = f"{seam.fields(head)}\n{json.dumps(view.payload, indent=2, ensure_ascii=False)}"
    seam.show(state, view, text)


def _show_page(state: State, page: canon.RecordPage) -> None:
    corrupt = "".join(f"\ncorrupt at seq {at.seq}: {at.reason}" for at in page.corrupt)
    seam.show(state, page, seam.page(page.items, page.cursor, *_COLUMNS) + corrupt)
    if page.corrupt:
        raise typer.Exit(seam.EXIT_REFUSED)


def register(app: typer.Typer) -> None:
    """The nouns `canon` and `audit`."""
    canons = seam.family(app, "canon", "Records: read, list, prove, write.")
    seam.verb(canons, "get")(get)
    seam.verb(canons, "list")(canon_list)
    seam.verb(canons, "proof")(proof)
    seam.verb(canons, "write")(write)
    seam.verb(canons, "read")(read)
    seam.verb(canons, "erase")(erase)
    audits = seam.family(app, "audit", "What was decided and done; the whole ledger judged again.")
    seam.verb(audits, "get")(audit_get)
    seam.verb(audits, "list")(audit_list)
    seam.verb(audits, "export")(export)
    seam.verb(audits, "replay")(replay)
