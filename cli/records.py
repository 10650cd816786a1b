"""`sigil canon` and `sigil audit`: records read, listed, proven, written, and the whole ledger exported and judged again."""

import json
import time
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from cli import caller, ledger, progress, seam
from cli.refusal import Refusal
from cli.seam import State
from sigilcore import canonical, ids
from sigilcore.contracts import canon, house, knowledge
from sigilcore.contracts.command import Command, Rep
from sigilcore.contracts.common import Empty
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

    _show_record(state, caller.ask(state, canon.GET, asked))


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

    _show_page(state, caller.ask(state, canon.LIST, asked))


def history(
    state: State,
    record_id: Annotated[
        str | None, typer.Argument(help="the id of any version; or name the thing by kind and key")
    ] = None,
    *,
    kind: Kind = None,
    key: Annotated[str | None, typer.Option("--key", help="the thing's key, as its records have it")] = None,
    owner: Annotated[str | None, typer.Option("--owner", help="whose thing; for root only")] = None,
    limit: seam.Limit = 50,
    cursor: seam.Cursor = None,
) -> None:
    """Every version of one thing, newest first."""
    asked = canon.History(id=record_id, kind=kind, key=key, owner=owner, limit=limit, cursor=cursor)

    _show_page(state, caller.ask(state, canon.HISTORY, asked))


def diff(
    state: State,
    new: Annotated[str, typer.Argument(help="the newer version's record id")],
    old: Annotated[str | None, typer.Argument(help="the older one's; without it, the version before")] = None,
) -> None:
    """What changed from one version to another."""

    async def work() -> canon.Difference:
        async with caller.calling(state) as client:
            return await client.call(canon.DIFF, canon.Diff(new=new, old=old))

    found = seam.wait(work())
    lines = [f"{seam.line(one.path)}: {_json(one.old)} -> {_json(one.new)}" for one in found.lines] or [
        "nothing changed"
    ]
    before = "nothing" if found.old_seq is None else f"seq {found.old_seq}"
    seam.show(state, found, "\n".join((f"from {before} to seq {found.new_seq}", *lines)))


def restore(state: State, *, data: seam.Data = Path("data")) -> None:
    """Bring back from the change stream what a set-back database lacks, as the operator of the data folder."""

    done = seam.wait(_operate(data, canon.RESTORE))
    text = f"{done.restored} records brought back; the log has {done.size}"
    if done.left:
        text += f"; {done.left} more can't be proven by a signed checkpoint, and the writer stays read-only"
    seam.show(state, done, text)


def refill(state: State, *, data: seam.Data = Path("data")) -> None:
    """Publish again whatever the change stream lacks, from the database, as the operator of the data folder."""
    done = seam.wait(_operate(data, canon.REFILL))
    seam.show(state, done, f"{done.published} events published; the log has {done.head}")


async def _operate(data: Path, command: Command[Empty, Rep]) -> Rep:
    """Ask what only the operator's own bus identity may."""
    bus = await ledger.connect(data, house.OPERATOR.name)
    try:
        return await bus.call(command, Empty(), timeout_s=command.longest_run_s)
    finally:
        await bus.close()


def proof(state: State, record_id: str, out: Out = None) -> None:
    """A bundle that proves one record offline; check it with sigil verify."""

    async def work() -> bytes:
        async with caller.calling(state) as client:
            return await client.send(canon.PROOF, http.parameter_bytes({"id": record_id}))

    data = seam.wait(work())
    if out is None:
        seam.show(state, json.loads(data), data.decode())
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
    seam.show(state, caller.ask(state, knowledge.USER_READ, knowledge.UserRead(id=record_id)))


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

    _show_record(state, caller.ask(state, canon.AUDIT_GET, canon.AuditGet(id=name)))


def audit_list(state: State, kind: Kind = None, limit: seam.Limit = 50, cursor: seam.Cursor = None) -> None:
    """Audit records in order (mentor)."""
    asked = _list(None, kind, None, limit, cursor)

    _show_page(state, caller.ask(state, canon.AUDIT_LIST, asked))


def export(state: State, *, data: seam.Data = Path("data"), out: Annotated[Path, typer.Option("--out")]) -> None:
    """Write the whole ledger to a file, as the operator of the data folder."""
    with progress.bar("exported", None) as done:
        count = seam.wait(ledger.export(data, out, done))
    seam.show(
        state,
        {"file": str(out), "records": count},
        f"{count} records to {out}; judge them with: sigil audit replay {out}",
    )


def replay(
    state: State,
    file: Path,
    *,
    genesis: Annotated[str | None, typer.Option("--genesis", help="the hash of record 0 that you pinned")] = None,
    seal: Annotated[
        str | None, typer.Option("--seal", help="the hash of the first quorum_policy record that you pinned")
    ] = None,
    kept: Annotated[
        Path | None,
        typer.Option("--checkpoint", help="a signed checkpoint kept from earlier, which the log must continue"),
    ] = None,
    size: Annotated[int, typer.Option("--size", min=0, help="how many records the log has at least")] = 0,
    cores: Annotated[int | None, typer.Option("--cores", min=1, help="how many to use; all, if not told")] = None,
) -> None:
    """Judge an exported ledger again, offline, from the first record to the checkpoint, on all cores."""
    pins = ledger.Pins(genesis=genesis, seal=seal, checkpoint=None if kept is None else kept.read_bytes(), size=size)
    began = time.monotonic()
    try:
        with progress.bar("judged again", ledger.size(file)) as done:
            report = ledger.replay(file, pins=pins, workers=cores, progress=done)
    except ledger.Diverged as diverged:
        raise Refusal(str(diverged), "The records up to there follow; this one doesn't.") from diverged
    took_s = time.monotonic() - began
    seam.show(
        state,
        {**msgspec.to_builtins(report), "seconds": round(took_s, 1), "records_per_s": int(report.records / took_s)},
    )


def _list(
    space: str | None, kind: str | None, subject: str | None, limit: int, cursor: str | None
) -> canon.ListRecords:
    if space not in {None, "user", "system", "audit"}:
        raise Refusal(f"no space {space!r}", "Spaces are user, system and audit.")
    return canon.ListRecords(space=space, kind=kind, subject=subject, limit=limit, cursor=cursor)  # type: ignore[arg-type]


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


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
    seam.verb(canons, "history")(history)
    seam.verb(canons, "diff")(diff)
    seam.verb(canons, "restore")(restore)
    seam.verb(canons, "refill")(refill)
    seam.verb(canons, "proof")(proof)
    seam.verb(canons, "write")(write)
    seam.verb(canons, "read")(read)
    seam.verb(canons, "erase")(erase)
    audits = seam.family(app, "audit", "What was decided and done; the whole ledger judged again.")
    seam.verb(audits, "get")(audit_get)
    seam.verb(audits, "list")(audit_list)
    seam.verb(audits, "export")(export)
    seam.verb(audits, "replay")(replay)
