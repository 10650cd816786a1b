"""The canon in memory: a store that keeps the same laws as Postgres, and a whole canon on it for tests of the house.

`MemoryCanon` runs the very committer and the very reading of the service; only durability, processes and the bus are missing.

    canon = await MemoryCanon.start(signer=log_key, deployment=deployment, clock=clock)
    await canon.bootstrap(contracts.BootstrapAppend(token=token, record=genesis))
    receipt = await canon.append(contracts.Append(records=(signed,)))
    page = await canon.reading.events(contracts.Events(first=0))
    await canon.stop()
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from typing import Self

import msgspec

from services.canon_writer import committer, cosigning, reading, rules
from services.canon_writer.laws import (
    Batch,
    Cosignature,
    Erased,
    Fenced,
    Head,
    Moved,
    Query,
    Ref,
    Row,
    Standing,
    TileKey,
    decisions_of,
    erases,
    without_payload,
)
from sigilcore import clock, note, signing
from sigilcore.admission import DecisionRow
from sigilcore.contracts import canon


class Disk:
    """What outlives a writer: several `MemoryStore`s may stand on one."""

    def __init__(self) -> None:
        """Nothing is written."""
        self.epoch = 0
        self.rows: list[Row] = []
        self.ids: dict[str, Row] = {}
        self.decisions: dict[Ref, DecisionRow] = {}
        self.tiles: dict[TileKey, bytes] = {}
        self.notes: dict[int, bytes] = {}
        self.cosignatures: dict[int, dict[bytes, bytes]] = {}
        self.witnessed: set[int] = set()
        self.erased: list[Erased] = []


class MemoryStore:
    """A store on a `Disk`."""

    def __init__(self, disk: Disk | None = None) -> None:
        """On a fresh disk unless one is given."""
        self.disk = disk or Disk()
        self._epoch = 0

    # Reading.

    async def head(self) -> Head:
        """The newest checkpoint and its size."""
        size = len(self.disk.rows)
        return Head(size=size, note=self.disk.notes.get(size, b""))

    async def rows(self, query: Query) -> Sequence[Row]:
        """Rows in order of seq."""
        rows: list[Row] = []
        size_bytes = 0
        for row in self.disk.rows[query.first : query.end]:
            full = query.max_bytes is not None and size_bytes >= query.max_bytes
            if len(rows) == query.limit or full:
                break
            if _chosen(query, row):
                rows.append(row)
                size_bytes += row.weight
        return rows

    async def versions(self, of: bytes | tuple[str, ...], below: int, limit: int, max_bytes: int) -> Sequence[Row]:
        """Versions, newest first."""
        rows: list[Row] = []
        size_bytes = 0
        for row in reversed(self.disk.rows[:below]):
            if len(rows) == limit or size_bytes >= max_bytes:
                break
            if row.thing == of or (isinstance(of, tuple) and row.space == "system" and row.kind in of):
                rows.append(row)
                size_bytes += row.weight
        return rows

    async def headers(self, first: int, end: int) -> Sequence[bytes]:
        """The sealed headers of a run."""
        return [row.header for row in self.disk.rows[first:end]]

    async def by_ids(self, ids: Collection[str]) -> Sequence[Row]:
        """The rows that these ids name."""
        return [self.disk.ids[name] for name in ids if name in self.disk.ids]

    async def by_hash(self, digest: bytes) -> Row | None:
        """The row of this record hash."""
        return next((row for row in self.disk.rows if row.hash == digest), None)

    async def tiles(self, keys: Collection[TileKey]) -> dict[TileKey, bytes]:
        """Those of these full tiles that there are."""
        return {key: self.disk.tiles[key] for key in keys if key in self.disk.tiles}

    async def notes(self, first: int, last: int) -> dict[int, bytes]:
        """Checkpoints by size."""
        return {size: note for size, note in self.disk.notes.items() if first <= size <= last}

    async def cosignatures(self, size: int) -> Sequence[Cosignature]:
        """The lines of a checkpoint."""
        return [Cosignature(key=key, line=line) for key, line in self.disk.cosignatures.get(size, {}).items()]

    async def witnessed(self, most: int) -> Sequence[int]:
        """The largest sizes that were marked."""
        return sorted(self.disk.witnessed, reverse=True)[:most]

    async def erased(self, since: int) -> Sequence[Erased]:
        """What the erasures from `since` on erased."""
        return [one for one in self.disk.erased if one.by >= since]

    # Writing.

    async def open(self) -> None:
        """Become the only writer; the one before is fenced, and stays it however often it opens."""
        if self._epoch and self._epoch != self.disk.epoch:
            raise Fenced(f"epoch {self._epoch} is over")
        self.disk.epoch += 1
        self._epoch = self.disk.epoch

    async def governing(self) -> AsyncIterator[Row]:
        """Every row that moves the fold."""
        for row in self.disk.rows:
            if row.governs:
                yield row

    async def chain_heads(self, authors: Collection[str]) -> dict[str, str]:
        """The hash of each key's newest audit record."""
        return {row.author: row.hash.hex() for row in self.disk.rows if row.space == "audit" and row.author in authors}

    async def decisions(self, refs: Collection[Ref]) -> Sequence[DecisionRow]:
        """The rows of these decisions."""
        return [self.disk.decisions[ref] for ref in refs if ref in self.disk.decisions]

    async def standing(self, ids: Collection[str], things: Collection[bytes]) -> Standing:
        """By a look at all rows."""
        heads = {row.thing: row.hash.hex() for row in self.disk.rows if row.thing is not None and row.thing in things}
        return Standing(ids=frozenset(name for name in ids if name in self.disk.ids), heads=heads)

    async def greatest_ids(self, most: int) -> Sequence[str]:
        """By a look at all ids."""
        return sorted(self.disk.ids, reverse=True)[:most]

    async def live(self, things: Collection[bytes]) -> dict[bytes, list[str]]:
        """The ids of each thing's versions since it was last erased."""
        found: dict[bytes, list[str]] = {}
        for row in self.disk.rows:
            if row.thing is None or row.thing not in things:
                continue
            if erases(row):
                found.pop(row.thing, None)
            else:
                found.setdefault(row.thing, []).append(row.id)
        return found

    async def commit(self, batch: Batch) -> None:
        """Check everything, then write everything; nothing waits in between."""
        disk = self.disk
        if self._epoch != disk.epoch:
            raise Fenced(f"epoch {self._epoch} is over")
        if batch.size != len(disk.rows):
            raise Moved(f"the head is {len(disk.rows)}, not {batch.size}")
        ids = [row.id for row in batch.rows]
        if len(set(ids)) != len(ids) or any(name in disk.ids for name in ids):
            raise Moved("an id is taken")
        refs = [use.ref for use in batch.uses]
        unused = all(ref in disk.decisions and disk.decisions[ref].used_by is None for ref in refs)
        if len(set(refs)) != len(refs) or not unused:
            raise Moved("a decision was used already")
        if not {use.by for use in batch.uses} <= set(ids):
            raise Moved("a decision is used by a record of its commit")
        disk.rows.extend(batch.rows)
        disk.ids.update((row.id, row) for row in batch.rows)
        for row in batch.rows:
            if erases(row):
                self._erase(row)
        disk.decisions.update(((made.record, made.index), made) for row in batch.rows for made in decisions_of(row))
        for use in batch.uses:
            disk.decisions[use.ref] = msgspec.structs.replace(disk.decisions[use.ref], used_by=use.by)
        disk.tiles.update(((tile.level, tile.index), tile.hashes) for tile in batch.tiles)
        disk.notes[batch.size + len(batch.rows)] = batch.note

    async def put_back(self, batch: Batch) -> None:
        """Compare what stands, then add the rest."""
        disk = self.disk
        if self._epoch != disk.epoch:
            raise Fenced(f"epoch {self._epoch} is over")
        standing = tuple(disk.rows[batch.size : batch.size + len(batch.rows)])
        tiles = {(tile.level, tile.index): tile.hashes for tile in batch.tiles}
        end = batch.size + len(batch.rows)
        same = (
            standing == batch.rows[: len(standing)]
            and batch.size <= len(disk.rows)
            and all(disk.ids.get(row.id, row) == row for row in batch.rows)
            and all(disk.tiles.get(key, hashes) == hashes for key, hashes in tiles.items())
            and disk.notes.get(end, batch.note) == batch.note
            and all(
                (disk.decisions[use.ref].used_by or use.by) == use.by for use in batch.uses if use.ref in disk.decisions
            )
        )
        if not same:
            raise Moved(f"what stands up to {end} is something else")
        disk.rows.extend(batch.rows[len(standing) :])
        disk.ids.update((row.id, row) for row in batch.rows)
        for added in batch.rows[len(standing) :]:
            if erases(added):
                self._erase(added)
        for made in (made for row in batch.rows for made in decisions_of(row)):
            disk.decisions.setdefault((made.record, made.index), made)
        for use in batch.uses:
            disk.decisions[use.ref] = msgspec.structs.replace(disk.decisions[use.ref], used_by=use.by)
        disk.tiles.update(tiles)
        disk.notes[end] = batch.note

    async def cosign(self, size: int, lines: Sequence[Cosignature]) -> None:
        """The first line of a key stays."""
        if size not in self.disk.notes:
            return
        kept = self.disk.cosignatures.setdefault(size, {})
        for one in lines:
            kept.setdefault(one.key, one.line)

    async def mark_witnessed(self, size: int) -> None:
        """Of a checkpoint that is there."""
        if size in self.disk.notes:
            self.disk.witnessed.add(size)

    def _erase(self, by: Row) -> None:
        for row in self.disk.rows[: by.seq]:
            if row.thing == by.thing and not erases(row) and not row.erased:
                self.disk.rows[row.seq] = self.disk.ids[row.id] = without_payload(row)
                self.disk.erased.append(Erased(seq=row.seq, by=by.seq))

    async def close(self) -> None:
        """Nothing is held."""


class MemoryCanon:
    """Writer and readers of one tenant, without Postgres and NATS."""

    def __init__(self, writer: committer.Committer, store: MemoryStore, log_key: note.VerifierKey) -> None:
        """Use `start`."""
        self.writer = writer
        self.store = store
        self.reading = reading.Reading(store, lambda: writer.state, log_key)
        self._task: asyncio.Task[None] | None = None

    @classmethod
    async def start(
        cls,
        *,
        signer: signing.Signer,
        deployment: rules.Deployment,
        clock: clock.Clock,
        disk: Disk | None = None,
        bounds: committer.Bounds | None = None,
        on_commit: Callable[[committer.Committed], None] = lambda _: None,
    ) -> Self:
        """Load what is on the disk and begin to commit. `on_commit` hears each commit, as the publisher does."""
        store = MemoryStore(disk)
        writer = committer.Committer(
            store, signer=signer, deployment=deployment, clock=clock, bounds=bounds, on_commit=on_commit
        )
        await writer.load()
        made = cls(writer, store, note.VerifierKey.parse(deployment.log))
        made._task = asyncio.create_task(writer.run())
        return made

    async def append(self, request: canon.Append) -> canon.Appended:
        """`canon/append`."""
        return await self.writer.append(request)

    async def bootstrap(self, request: canon.BootstrapAppend) -> canon.Appended:
        """`canon/bootstrap`."""
        return await self.writer.bootstrap(request)

    async def cosign(self, request: canon.Cosign) -> canon.Cosigned:
        """`canon/cosign`."""
        return await cosigning.keep(self.store, self.writer.state, request)

    async def stop(self) -> None:
        """End the loop; the disk stays."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)


def _chosen(query: Query, row: Row) -> bool:
    return (
        (not query.kinds or row.kind in query.kinds)
        and (not query.spaces or row.space in query.spaces)
        and (query.owner is None or row.space != "user" or row.subject == query.owner)
        and (query.subject is None or row.subject == query.subject)
        and (query.since_ms is None or row.ts_ms >= query.since_ms)
        and (query.until_ms is None or row.ts_ms < query.until_ms)
    )
