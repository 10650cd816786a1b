"""The whole ledger as a file: exported by the operator over the bus, judged again by anyone offline.

One JSON object a line: `{"checkpoint": …}` first, then each placed record in order of seq. The exporter is the `operator` identity of the
data folder; whoever replays needs the file and two pinned fingerprints only, genesis and the seal.
"""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import BinaryIO, Final

import msgspec

from cli import replaying
from cli.refusal import NoHouse, Refusal
from sigilcore import checkpoint, note, record
from sigilcore.contracts import canon, house
from sigilcore.contracts.common import Empty
from sigilcore.replay import Diverged, Pins, Report
from sigilrun import identities, settings
from sigilrun.bus import Bus
from sigilrun.embedded import folder

PAGE: Final = 500
CONNECT_S: Final = 10.0

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
    """Write the ledger up to the newest checkpoint; how many records. `progress` hears how many were written."""
    bus = await connect(data, house.OPERATOR.name)
    try:
        newest = await bus.call(canon.CHECKPOINT, Empty())
        signed = checkpoint.parse_text(note.parse(newest.note.encode()).text)
        with out.open("wb") as file:
            file.write(msgspec.json.encode(Head(checkpoint=newest.note)) + b"\n")
            async for placed in events(bus, until=signed.size):
                file.write(msgspec.json.encode(placed) + b"\n")
                progress(placed.seq + 1)
        return signed.size
    finally:
        await bus.close()


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
