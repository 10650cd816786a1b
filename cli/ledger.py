"""The whole ledger as a file: exported by the operator over the bus, judged again by anyone offline.

One JSON object a line: `{"checkpoint": …}` first, then each placed record in order of seq. The exporter is the `operator` identity of the
data folder; whoever replays needs the file and a pinned genesis hash only.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Final

import msgspec

from cli.refusal import NoHouse, Refusal
from sigilcore import checkpoint, note, record
from sigilcore import replay as replaying
from sigilcore.contracts import canon, house
from sigilcore.contracts.common import Empty
from sigilcore.replay import Diverged
from sigilrun import identities, settings, telemetry
from sigilrun.bus import Bus
from sigilrun.embedded import folder

PAGE: Final = 500
CONNECT_S: Final = 10.0

__all__ = ["Diverged", "connect", "events", "export", "replay"]


class Head(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The first line: the signed checkpoint that covers the records below, exactly."""

    checkpoint: str


async def connect(data: Path, name: str) -> Bus:
    """The running house's bus as one of the operator's own identities."""
    info = folder.running(data)
    if info is None or info.nats is None:
        raise NoHouse(f"nothing runs on {data}", "Start it with sigil up.")
    options = settings.Bus(url=info.nats, nkey_seed_file=identities.seed_file(folder.DataFolder(data).keys, name))
    telemetry.configure(level="critical", as_json=False, resident=name)
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


async def export(data: Path, out: Path) -> int:
    """Write the ledger up to the newest checkpoint; how many records."""
    bus = await connect(data, house.OPERATOR.name)
    try:
        newest = await bus.call(canon.CHECKPOINT, Empty())
        signed = checkpoint.parse_text(note.parse(newest.note.encode()).text)
        with out.open("wb") as file:
            file.write(msgspec.json.encode(Head(checkpoint=newest.note)) + b"\n")
            async for placed in events(bus, until=signed.size):
                file.write(msgspec.json.encode(placed) + b"\n")
        return signed.size
    finally:
        await bus.close()


def replay(file: Path, pinned_genesis: str | None) -> replaying.Report:
    """Judge the file. Raises `Diverged`; `Refusal` when it can't be read."""
    with file.open("rb") as lines:
        try:
            head = msgspec.json.decode(lines.readline(), type=Head)
            return replaying.replay(_placed(lines), head.checkpoint.encode(), pinned_genesis)
        except msgspec.DecodeError as error:
            raise Refusal(f"{file} can't be read: {error}") from error


def _placed(lines: Iterator[bytes]) -> Iterator[record.PlacedRecord]:
    for line in lines:
        yield msgspec.json.decode(line, type=record.PlacedRecord)
