"""Records and links in a Postgres of one's own: `python postgres.py --account FOLDER --dsn postgresql://...`

What it keeps: `sigil.record` (one row a record, with its payload while that isn't erased), `sigil.link` (the arrows between them, found
from both ends), and `sigil.position`, one row. The position moves in the transaction that writes the records, and the row is locked in
it: a crash leaves both as they were, two processes on one database take turns, and what comes twice is ignored. An erasure takes the
payloads of the records that it names out of their rows; what a database keeps of old rows is for its `vacuum` and its backups.
"""

import argparse
import asyncio
import signal
from collections.abc import Sequence
from pathlib import Path

import asyncpg

from sigilcore import record
from sigilrun import consume, outside

SCHEMA = """
create schema if not exists sigil;
create table if not exists sigil.record (
    seq bigint primary key, id uuid not null unique, space text not null, kind text not null, ts timestamptz not null,
    hash text not null, key_id text not null, payload json -- null once erased; json, for jsonb refuses some of its strings
);
create index if not exists record_kind on sigil.record (kind, seq);
create table if not exists sigil.link (
    seq bigint not null references sigil.record, ordinal integer not null, label text not null, target text not null,
    primary key (seq, ordinal)
);
create index if not exists link_target on sigil.link (target, seq);
create table if not exists sigil.position (
    only_row boolean primary key default true check (only_row), next_seq bigint not null, frontier bytea not null
);
"""


class PostgresView:
    """`consume.View` over a pool."""

    name = "postgres"

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool

    async def prepare(self) -> None:
        """Make the tables; never in the canon's own database."""
        async with self._pool.acquire() as connection:
            if await connection.fetchval("select to_regnamespace('canon') is not null"):
                raise SystemExit("this is the canon's database: give the consumer one of its own")
            await connection.execute(SCHEMA)
            start = (consume.START.next_seq, consume.START.frontier)
            await connection.execute("insert into sigil.position values (true, $1, $2) on conflict do nothing", *start)

    async def position(self) -> consume.Position:
        """Where to go on."""
        row = await self._pool.fetchrow("select next_seq, frontier from sigil.position")
        return consume.Position(next_seq=row["next_seq"], frontier=row["frontier"])

    async def apply(self, events: Sequence[consume.Event], position: consume.Position) -> None:
        """Records, links and position, or nothing."""
        async with self._pool.acquire() as connection, connection.transaction():
            at = await connection.fetchval("select next_seq from sigil.position for update")
            new = [event for event in events if event.seq >= at]
            if position.next_seq <= at:
                return
            await connection.executemany(
                "insert into sigil.record values ($1, $2, $3, $4, $5::text::timestamptz, $6, $7, $8)",
                [_record(event) for event in new],
            )
            await connection.executemany(
                "insert into sigil.link values ($1, $2, $3, $4)",
                [(event.seq, n, link.label, link.target) for event in new for n, link in enumerate(_links(event))],
            )
            erased = [name for event in new if event.kind == "erasure" for name in event.typed().records]
            await connection.execute("update sigil.record set payload = null where id = any($1::uuid[])", erased)
            await connection.execute(
                "update sigil.position set next_seq = $1, frontier = $2", position.next_seq, position.frontier
            )


def _links(event: consume.Event) -> Sequence[record.Link]:
    return event.header.core.links


def _record(event: consume.Event) -> tuple[object, ...]:
    core = event.header.core
    payload = None if event.payload is None else event.payload.decode()
    return event.seq, core.id, core.space, core.kind, core.ts, event.header.hash, event.header.key_id, payload


async def main(account: Path, dsn: str) -> None:
    """Read until SIGTERM or Ctrl-C; start again at any time."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with asyncpg.create_pool(dsn, min_size=1, max_size=2) as pool:
        view = PostgresView(pool)
        await view.prepare()
        await outside.consume(account, view, stop=stop)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--account", type=Path, required=True, help="the folder that sigil consumer issue made")
    parser.add_argument("--dsn", required=True, help="a database of the consumer's own")
    given = parser.parse_args()
    asyncio.run(main(given.account, given.dsn))
