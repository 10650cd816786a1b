"""The store on Postgres: `laws` kept by tables, grants, triggers and one function (see `migrations`).

One connection of its own holds the advisory lock and commits; a small pool reads. What goes wrong is one of three things: the epoch is
over (`Fenced`), the database isn't where we thought and nothing was written (`Moved`), or nobody knows (`Lost`).
"""

import asyncio
import contextlib
import importlib.resources
import uuid
from collections.abc import AsyncIterator, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from services.canon_writer import packing, vault
from services.canon_writer.laws import (
    Batch,
    Broken,
    Cosignature,
    Erased,
    Fenced,
    Full,
    Head,
    Lost,
    Moved,
    Query,
    Ref,
    Row,
    Standing,
    StoreError,
    TileKey,
    decisions_of,
)
from sigilcore import ids as uuids
from sigilcore.admission import DecisionRow
from sigilcore.refusals import Refused
from sigilrun import postgres, settings, sql, telemetry

STANDBY_S = 0.25  # between two looks at the lock
SEEN_S = 1.0  # how often a writer says that it lives
CLOSE_S = 2.0
GOVERNING_PAGE = 500
_NO_BOUND = 2**62
_REFUSED = {"SG001": Fenced, "SG002": Moved, "SG003": Moved, "SG004": Moved}
# Out of disk, memory or connections; an I/O error: the statement failed, and later it may not.
_FOR_NOW = ("53", "58")
_DISK_FULL = "53100"  # before the commit record; where that finds no room, the server stops, and nobody knows


class PostgresShelf:
    """Reading one tenant's log."""

    def __init__(self, pool: postgres.Pool, tenant: str, wrapping: vault.Wrapping) -> None:
        self._pool = pool
        self._vault = vault.Vault(wrapping, tenant)
        self._tenant = tenant
        self._sql = queries()

    async def head(self) -> Head:
        """The newest checkpoint and its size."""
        rows = await self._read("head")
        return Head(size=rows[0]["size"], note=rows[0]["note"]) if rows else Head(size=0, note=b"")

    async def rows(self, query: Query) -> Sequence[Row]:
        """Rows in order of seq."""
        arguments = [
            query.first,
            query.end,
            query.limit,
            query.max_bytes or _NO_BOUND,
            list(query.kinds),
            list(query.spaces),
            query.owner,
            query.since_ms,
            query.until_ms,
        ]
        if query.subject is not None:
            return await self._opened(await self._read("rows_of_subject", *arguments, query.subject))
        name = "rows_of_kinds" if query.kinds else "rows"
        return await self._opened(await self._read(name, *arguments))

    async def versions(self, of: bytes | tuple[str, ...], below: int, limit: int, max_bytes: int) -> Sequence[Row]:
        """Versions, newest first."""
        if isinstance(of, bytes):
            rows = await self._read("versions", uuid.UUID(bytes=of), below, limit, max_bytes)
        else:
            rows = await self._read("versions_of_kinds", list(of), below, limit, max_bytes)
        return await self._opened(rows)

    async def headers(self, first: int, end: int) -> Sequence[bytes]:
        """The sealed headers of a run."""
        rows = await self._read("headers", first, end)
        return [packing.unpack(one["header"], _columns_of(one, self._tenant)) for one in rows]

    async def by_ids(self, ids: Collection[str]) -> Sequence[Row]:
        """The rows that these ids name."""
        known = [name for name in ids if uuids.is_id(name)]
        return await self._opened(await self._read("by_ids", known)) if known else []

    async def by_hash(self, digest: bytes) -> Row | None:
        """The row of this record hash."""
        rows = await self._opened(await self._read("by_hash", digest))
        return rows[0] if rows else None

    async def tiles(self, keys: Collection[TileKey]) -> dict[TileKey, bytes]:
        """Those of these full tiles that there are."""
        if not keys:
            return {}
        rows = await self._read("tiles", [level for level, _ in keys], [index for _, index in keys])
        return {(one["level"], one["index"]): one["hashes"] for one in rows}

    async def notes(self, first: int, last: int) -> dict[int, bytes]:
        """Checkpoints by size."""
        return {one["size"]: one["note"] for one in await self._read("notes", first, last)}

    async def cosignatures(self, size: int) -> Sequence[Cosignature]:
        """The lines of a checkpoint."""
        return [Cosignature(key=one["key"], line=one["line"]) for one in await self._read("cosignatures", size)]

    async def witnessed(self, most: int) -> Sequence[int]:
        """The largest sizes that were marked."""
        return [one["size"] for one in await self._read("witnessed", most)]

    async def erased(self, since: int) -> Sequence[Erased]:
        """What the erasures from `since` on erased."""
        return [Erased(seq=one["seq"], by=one["by"]) for one in await self._read("erased", since)]

    async def _opened(self, found: Sequence[postgres.Record]) -> list[Row]:
        """Rows in the clear. Keys are read after rows: what was erased meanwhile is shown erased."""
        unseen = self._vault.unseen({one["data_key"] for one in found})
        stored = {one["id"]: _key(one) for one in await self._read("data_keys", list(unseen))} if unseen else {}
        return [
            self._vault.open(_row(one, self._tenant), one["data_key"], stored.get(one["data_key"])) for one in found
        ]

    async def close(self) -> None:
        """Give the connections back."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_S):
                await self._pool.close()
        self._pool.terminate()

    async def _read(self, name: str, *arguments: Any) -> Sequence[postgres.Record]:
        with _named():
            rows: Sequence[postgres.Record] = await self._pool.fetch(self._sql[name], self._tenant, *arguments)
        return rows


class PostgresStore(PostgresShelf):
    """Writing one tenant's log."""

    def __init__(
        self,
        pool: postgres.Pool,
        options: settings.Canon,
        tenant: str,
        wrapping: vault.Wrapping,
        *,
        unseen_s: float | None = None,
    ) -> None:
        super().__init__(pool, tenant, wrapping)
        self.over = asyncio.Event()  # set when another writer's epoch has begun
        self._options = options
        self._unseen_s = options.take_over_s if unseen_s is None else unseen_s
        self._connection: Any = None
        self._epoch = 0
        self._alive: asyncio.Task[None] | None = None

    @classmethod
    async def connect(
        cls, options: settings.Canon, tenant: str, wrapping: vault.Wrapping, *, unseen_s: float | None = None
    ) -> "PostgresStore":
        """A store with its pool; the right to write comes with `open`. Raises `Lost`."""
        with _named():
            pool = await postgres.pool(options, application="canon_writer")
        return cls(pool, options, tenant, wrapping, unseen_s=unseen_s)

    @property
    def epoch(self) -> int:
        """Whose turn it was when this writer opened last; 0 before."""
        return self._epoch

    async def open(self) -> None:
        """Take the lock, as a stand-by if another writer holds it, and raise the epoch."""
        await self._let_go()
        self._vault.forget()
        with _named():
            self._connection = await postgres.connect(self._options, application="canon_writer")
            await self._lock()
            self._epoch = await self._value("raise_epoch")
        self._alive = asyncio.create_task(self._say_alive(self._epoch), name="say alive")
        if await self._last_seq() + 1 != (await self.head()).size:
            raise Broken("the newest row and the newest checkpoint don't belong together")
        telemetry.log.info("writing", epoch=self._epoch)

    async def _lock(self) -> None:
        """Wait for the lock. Its holder is ended if it hasn't been seen for long, or if it is our own lost connection."""
        waited = False
        while not await self._value("lock"):
            if not waited:
                telemetry.log.info("standing_by")
            waited = True
            if self._epoch and await self._value("epoch") != self._epoch:
                raise Fenced(f"epoch {self._epoch} is over")
            unseen_s = await self._value("seconds_unseen")
            if self._epoch or (unseen_s is not None and unseen_s > self._unseen_s):
                telemetry.log.warning("taking_over", unseen_s=unseen_s)
                await self._value("terminate_holder")
            await asyncio.sleep(STANDBY_S)

    async def _say_alive(self, epoch: int) -> None:
        """So that no stand-by takes over from a writer that only has nothing to write, or much to load."""
        while True:
            await asyncio.sleep(SEEN_S)
            try:
                if not await self._read("seen", epoch):
                    self.over.set()
                    return
            except StoreError as error:
                telemetry.log.warning("unseen", reason=str(error))

    async def governing(self) -> AsyncIterator[Row]:
        """Every row that moves the fold."""
        last = -1
        while rows := await self._read("governing", last, GOVERNING_PAGE):
            for one in await self._opened(rows):
                yield one
            last = rows[-1]["seq"]

    async def chain_heads(self, authors: Collection[str]) -> dict[str, str]:
        """The hash of each key's newest audit record."""
        return {one["author"].hex: one["hash"].hex() for one in await self._read("chain_heads", list(authors))}

    async def decisions(self, refs: Collection[Ref]) -> Sequence[DecisionRow]:
        """These decisions, read from their batches. Raises `Broken` for a batch that doesn't verify."""
        if not refs:
            return []
        try:
            rows = [made for row in await self.by_ids({name for name, _ in refs}) for made in decisions_of(row)]
        except Refused as refused:
            raise Broken(f"a decision can't be read: {refused}") from refused
        found = {_number(row.seq, row.index): row for row in rows if (row.record, row.index) in refs}
        used = {one["decision"]: str(one["id"]) for one in await self._read("used", list(found))}
        return [msgspec.structs.replace(row, used_by=used.get(number)) for number, row in found.items()]

    async def standing(self, ids: Collection[str], things: Collection[bytes]) -> Standing:
        """By the writing connection, which is idle then."""
        if self._connection is None:
            raise Lost("not open")
        names = [uuid.UUID(bytes=thing) for thing in things]
        with _named():
            rows = await self._connection.fetch(self._sql["look_up"], self._tenant, list(ids), names)
        heads = {one["name"].bytes: one["hash"].hex() for one in rows if one["hash"] is not None}
        # A key is made in the commit of a thing's first version, so where there is none the next commit needn't ask for it.
        self._vault.learn(set(things) - heads.keys(), ())
        return Standing(ids=frozenset(str(one["name"]) for one in rows if one["hash"] is None), heads=heads)

    async def greatest_ids(self, most: int) -> Sequence[str]:
        """From the end of the index that keeps ids unique."""
        return [str(one["id"]) for one in await self._read("greatest_ids", most)]

    async def live(self, things: Collection[bytes]) -> dict[bytes, list[str]]:
        """The ids of each thing's versions since it was last erased."""
        found: dict[bytes, list[str]] = {}
        for one in await self._read("live", [uuid.UUID(bytes=thing) for thing in things]):
            found.setdefault(one["thing"].bytes, []).append(str(one["id"]))
        return found

    async def commit(self, batch: Batch) -> None:
        """One statement, one transaction, one answer. The commit point is Postgres's own."""
        if self._connection is None:
            raise Lost("not open")
        sealing = await self._seal(batch.rows)
        rows, keys, tiles = batch.rows, sealing.made, batch.tiles
        uses = _uses(batch)
        with _named():
            await self._connection.execute(
                self._sql["commit"],
                self._tenant,
                self._epoch,
                batch.size,
                [row.id for row in rows],
                [row.space for row in rows],
                [row.kind for row in rows],
                [row.subject for row in rows],
                [None if row.thing is None else uuid.UUID(bytes=row.thing) for row in rows],
                [row.author for row in rows],
                [row.governs for row in rows],
                [row.ts_ms for row in rows],
                [row.hash for row in rows],
                [_packed(row, self._tenant) for row in rows],
                [len(row.header) for row in rows],
                sealing.payloads,
                sealing.keys,
                [uses.get(row.id) for row in rows],
                [tile.level for tile in tiles],
                [tile.index for tile in tiles],
                [tile.hashes for tile in tiles],
                batch.note,
                [number for number, _ in sealing.ended],
                [seq for _, seq in sealing.ended],
                [key.id for key in keys],
                [uuid.UUID(bytes=key.purpose) for key in keys],
                [key.erasable for key in keys],
                [key.wrapped for key in keys],
                [key.erased_seq for key in keys],
            )
        self._vault.settle(sealing)

    async def _seal(self, rows: Sequence[Row]) -> vault.Sealing:
        """Seal what is about to be written. Only this writer makes and destroys keys, so what it knows of them holds between commits."""
        unknown = self._vault.unknown(rows)
        if unknown:
            found = await self._read("keys_in_use", [uuid.UUID(bytes=one) for one in unknown])
            self._vault.learn(unknown, [_key(one) for one in found])
        return self._vault.seal(rows)

    async def put_back(self, batch: Batch) -> None:
        """One transaction: what is missing is added, then everything is compared. A crash before its end: nothing happened."""
        if self._connection is None:
            raise Lost("not open")
        with _named():
            async with self._connection.transaction():
                if await self._connection.fetchval(self._sql["hold_epoch"], self._tenant, self._epoch) is None:
                    raise Fenced(f"epoch {self._epoch} is over")
                records = _columns(batch, self._tenant)
                await self._put_rows(batch, records)
                for name, arguments in (("records", records), *_parts(batch)):
                    if name != "records":
                        await self._connection.execute(self._sql[f"put_{name}"], self._tenant, *arguments)
                    same = await self._connection.fetchval(self._sql[f"same_{name}"], self._tenant, *arguments)
                    if same != len(arguments[0]):
                        raise Moved(f"other {name} stand where {len(arguments[0])} of seq {batch.size} on belong")

    async def _put_rows(self, batch: Batch, records: Sequence[Sequence[Any]]) -> None:
        """Add the rows that are missing, sealed as `commit` seals them."""
        end = batch.size + len(batch.rows)
        found = await self._connection.fetch(self._sql["standing"], self._tenant, batch.size, end)
        standing = {one["seq"] for one in found}
        missing = [row for row in batch.rows if row.seq not in standing]
        if not missing:
            return
        self._vault.forget()  # nothing is remembered of keys that this transaction may yet take back
        sealing = await self._seal(missing)
        keys, ended = sealing.made, sealing.ended
        await self._connection.execute(
            self._sql["end_keys"], self._tenant, [number for number, _ in ended], [seq for _, seq in ended]
        )
        await self._connection.execute(
            self._sql["put_keys"],
            self._tenant,
            [key.id for key in keys],
            [uuid.UUID(bytes=key.purpose) for key in keys],
            [key.erasable for key in keys],
            [key.wrapped for key in keys],
            [key.erased_seq for key in keys],
        )
        columns = [
            [value for row, value in zip(batch.rows, column, strict=True) if row.seq not in standing]
            for column in records
        ]
        await self._connection.execute(self._sql["put_records"], self._tenant, *columns, sealing.payloads, sealing.keys)
        self._vault.forget()

    async def cosign(self, size: int, lines: Sequence[Cosignature]) -> None:
        """By a connection of the pool: it waits for no commit, and a writer whose time is over does no harm by it."""
        await self._read("cosign", size, [one.key for one in lines], [one.line for one in lines])

    async def mark_witnessed(self, size: int) -> None:
        """The same."""
        await self._read("mark_witnessed", size)

    async def close(self) -> None:
        """Let go of the lock, then of everything."""
        await self._let_go()
        await super().close()

    async def _value(self, name: str) -> Any:
        return await self._connection.fetchval(self._sql[name], self._tenant)

    async def _last_seq(self) -> int:
        rows = await self._read("last_seq")
        return -1 if rows[0]["max"] is None else int(rows[0]["max"])

    async def _let_go(self) -> None:
        connection, self._connection = self._connection, None
        if self._alive is not None:
            self._alive.cancel()
        if connection is not None:
            with contextlib.suppress(*postgres.LOST, postgres.PostgresError):
                await connection.close(timeout=CLOSE_S)


def _number(seq: int, index: int) -> int:
    """How a row names the decision that it used."""
    return seq << 8 | index


def _uses(batch: Batch) -> dict[str, int]:
    """Which decision each of these rows is the first to use, if it is. Raises `Moved` for a use by none of them, or of two by one."""
    uses = {use.by: _number(use.seq, use.ref[1]) for use in batch.uses}
    if len(uses) != len(batch.uses) or not uses.keys() <= {row.id for row in batch.rows}:
        raise Moved("a decision is used by one record of its commit, and a record uses one")
    return uses


def _packed(row: Row, tenant: str) -> bytes:
    return packing.pack(
        row.header, packing.Columns(tenant, row.ts_ms, row.id, row.author, row.space, row.kind, row.hash)
    )


def _columns(batch: Batch, tenant: str) -> tuple[list[Any], ...]:
    """All of these rows but their payloads."""
    rows = batch.rows
    uses = _uses(batch)
    return (
        [row.seq for row in rows],
        [row.ts_ms for row in rows],
        [row.id for row in rows],
        [row.author for row in rows],
        [None if row.thing is None else uuid.UUID(bytes=row.thing) for row in rows],
        [row.governs for row in rows],
        [row.space for row in rows],
        [row.kind for row in rows],
        [row.subject for row in rows],
        [row.hash for row in rows],
        [_packed(row, tenant) for row in rows],
        [len(row.header) for row in rows],
        [uses.get(row.id) for row in rows],
    )


def _parts(batch: Batch) -> list[tuple[str, tuple[list[Any], ...]]]:
    """The rest of a commit of the past, table by table, as columns."""
    tiles = batch.tiles
    return [
        (
            "tiles",
            ([tile.level for tile in tiles], [tile.index for tile in tiles], [tile.hashes for tile in tiles]),
        ),
        ("checkpoints", ([batch.size + len(batch.rows)], [batch.note])),
    ]


def queries() -> Any:
    """The named queries, as they are installed with the program."""
    with importlib.resources.as_file(importlib.resources.files(__package__).joinpath("queries.sql")) as path:
        return sql.queries(Path(path))


@contextlib.contextmanager
def _named() -> Iterator[None]:
    """Postgres's errors by what they mean here."""
    try:
        yield
    except postgres.UniqueViolation as error:
        raise Moved(str(error)) from error
    except ValueError as error:  # a value that no column holds: ours to refuse before
        raise StoreError(str(error)) from error
    except (*postgres.LOST, postgres.Unavailable) as error:
        raise Lost(f"{type(error).__name__}: {error}") from error
    except postgres.PostgresError as error:
        code = error.sqlstate or ""
        if code == _DISK_FULL:
            raise Full(str(error)) from error
        if code.startswith(_FOR_NOW):
            raise Lost(f"{type(error).__name__}: {error}") from error
        raise _REFUSED.get(code, StoreError)(str(error)) from error


def _key(one: postgres.Record) -> vault.StoredKey:
    return vault.StoredKey(
        id=one["id"],
        purpose=one["purpose"].bytes,
        erasable=one["erasable"],
        wrapped=one["wrapped"],
        erased_seq=one["erased_seq"],
    )


def _columns_of(one: postgres.Record, tenant: str) -> packing.Columns:
    """What a stored header is put together with."""
    return packing.Columns(tenant, one["ts"], str(one["id"]), one["author"].hex, one["space"], one["kind"], one["hash"])


def _row(one: postgres.Record, tenant: str) -> Row:
    """The row as it lies there, its payload sealed."""
    thing, columns = one["thing"], _columns_of(one, tenant)
    return Row(
        seq=one["seq"],
        ts_ms=columns.ts_ms,
        id=columns.id,
        author=columns.author,
        thing=None if thing is None else thing.bytes,
        governs=one["governs"],
        space=columns.space,
        kind=columns.kind,
        subject=one["subject"],
        hash=columns.hash,
        salt=b"",
        header=packing.unpack(one["header"], columns),
        payload=one["payload"],
    )
