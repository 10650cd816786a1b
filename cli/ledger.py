"""The whole ledger as a file: exported by the operator over the bus, judged again by anyone offline.

One JSON object a line: `{"checkpoint": …}` first, then each placed record in order of seq. The exporter is the `operator` identity of the
data folder; whoever replays needs the file and two pinned fingerprints only, genesis and the seal.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Collection
from pathlib import Path
from typing import BinaryIO, Final, Literal

import msgspec

from cli import replaying
from cli.refusal import NoHouse, Refusal
from sigilcore import checkpoint, note, record
from sigilcore.contracts import canon, house
from sigilcore.contracts.common import Empty
from sigilcore.records import user
from sigilcore.replay import Diverged, Pins, Report
from sigilrun import identities, settings
from sigilrun.bus import Bus
from sigilrun.embedded import folder

PAGE: Final = 500
CONNECT_S: Final = 10.0
EXPORT_TRIES: Final = 16  # each begins where the last ended, and so takes less time

__all__ = ["Diverged", "Pins", "connect", "events", "export", "replay", "size"]


class Head(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The first line: the signed checkpoint that covers the records below, exactly."""

    checkpoint: str


async def connect(data: Path, name: str) -> Bus:
    """The running house's bus as one of the operator's own identities."""
    info = folder.running(data)
    if info is None or info.nats is None:
        raise NoHouse(f"nothing runs on {data}", "Start it with sigil up.")
    options = settings.Bus(url=info.nats, nkey_seed_file=identities.seed_file(folder.DataFolder(data).keys, name))
    async with asyncio.timeout(CONNECT_S):
        return await Bus.connect(options, name)


async def events(bus: Bus, first: int = 0, *, until: int | None = None) -> AsyncIterator[record.PlacedRecord]:
    """Records from a seq on, up to the head, or up to and without `until`."""
    while until is None or first < until:
        page = await bus.call(canon.EVENTS, canon.Events(first=first, limit=PAGE))
        for placed in page.items:
            if until is not None and placed.seq >= until:
                return
            yield placed
        if page.next >= page.head or not page.items:
            return
        first = page.next


async def export(data: Path, out: Path, progress: replaying.Progress = lambda _: None) -> int:
    """Write the ledger up to the newest checkpoint; how many records. `progress` hears how many were written.

    An erasure that is committed meanwhile takes payloads from pages that weren't read yet, and its own record would stand beyond the end:
    then the file goes on to a newer checkpoint, and what was erased until there is taken out of the pages that were read before.
    """
    bus = await connect(data, house.OPERATOR.name)
    try:
        signed, size = await _newest(bus)
        with _private(out, "wb") as file:
            file.write(msgspec.json.encode(Head(checkpoint=signed)) + b"\n")
            await _append(bus, file, 0, size, progress)
        for _ in range(EXPORT_TRIES):
            if not await _erased_since(bus, size):
                return size
            first = size
            signed, size = await _newest(bus)
            with _private(out, "ab") as file:
                erased = await _append(bus, file, first, size, progress)
            _rewrite(out, signed, erased)
        raise Refusal("things are erased faster than the ledger can be read", "Export it at a quieter time.")
    finally:
        await bus.close()


def _private(path: Path, mode: Literal["wb", "ab"]) -> BinaryIO:
    """What is written holds everybody's payloads in the clear, so a new file is its owner's alone; `Path.open` takes no opener."""
    return open(path, mode, opener=lambda name, flags: os.open(name, flags, 0o600))


async def _newest(bus: Bus) -> tuple[str, int]:
    newest = (await bus.call(canon.CHECKPOINT, Empty())).note
    return newest, checkpoint.parse_text(note.parse(newest.encode()).text).size


async def _append(bus: Bus, file: BinaryIO, first: int, until: int, progress: replaying.Progress) -> set[str]:
    """Write these records; the ids that erasures among them name."""
    erased: set[str] = set()
    async for placed in events(bus, first, until=until):
        file.write(msgspec.json.encode(placed) + b"\n")
        erased |= _named(placed)
        progress(placed.seq + 1)
    return erased


async def _erased_since(bus: Bus, first: int) -> bool:
    while True:
        page = await bus.call(canon.EVENTS, canon.Events(first=first, limit=1, kinds=("erasure",)))
        if page.items or page.next >= page.head:
            return bool(page.items)
        first = page.next


def _named(placed: record.PlacedRecord) -> set[str]:
    """What an erasure erases; nothing for any other record."""
    if b'"kind":"erasure"' not in bytes(placed.header):
        return set()
    return set(msgspec.json.decode(placed.payload, type=user.Erasure).records)


def _rewrite(out: Path, signed: str, erased: Collection[str]) -> None:
    """The same records under another checkpoint, those that were erased without their payloads."""
    part = out.with_name(out.name + ".part")
    with out.open("rb") as old, _private(part, "wb") as new:
        old.readline(replaying.LINE_BYTES)
        new.write(msgspec.json.encode(Head(checkpoint=signed)) + b"\n")
        for line in old:
            placed = msgspec.json.decode(line, type=record.PlacedRecord)
            header, _ = record.open_header(bytes(placed.header))
            if header.core.id in erased:
                placed = msgspec.structs.replace(placed, payload=msgspec.Raw(b"null"), salt=None)
            new.write(msgspec.json.encode(placed) + b"\n")
    part.replace(out)


def replay(
    file: Path,
    pinned_genesis: str | None = None,
    *,
    pins: Pins | None = None,
    workers: int | None = None,
    progress: replaying.Progress = lambda _: None,
) -> Report:
    """Judge the file, on all cores unless told otherwise. Raises `Diverged`; `Refusal` when it can't be read."""
    with file.open("rb") as opened:
        try:
            signed = _head(opened).checkpoint.encode()
            return replaying.replay_file(
                opened,
                signed,
                pins or Pins(genesis=pinned_genesis),
                workers=workers or replaying.cores(),
                progress=progress,
            )
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise Refusal(f"{file} can't be read: {error}") from error
        except replaying.WorkerDied as died:
            raise Refusal(str(died), "Try again with fewer --cores.") from died


def size(file: Path) -> int | None:
    """How many records the file says it holds, for showing progress; None if it doesn't say."""
    with file.open("rb") as opened:
        try:
            return checkpoint.parse_text(note.parse(_head(opened).checkpoint.encode()).text).size
        except (msgspec.DecodeError, UnicodeDecodeError, note.NoteError):
            return None


def _head(file: BinaryIO) -> Head:
    return msgspec.json.decode(file.readline(replaying.LINE_BYTES), type=Head)
