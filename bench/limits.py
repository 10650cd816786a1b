"""What this machine can do at best, measured in the same run as everything else: the figures that ratios are taken to."""

import asyncio
import os
import tempfile
import time
from pathlib import Path

import asyncpg

from bench.figures import Figure, micro, rate, seconds
from sigilcore import signing


def signatures() -> tuple[float, float]:
    """Seconds of one Ed25519 sign and one verify, 400 bytes."""
    signer = signing.Ed25519Signer.generate()
    message = os.urandom(400)
    signed = signer.sign(message)
    return seconds(lambda: signer.sign(message)), seconds(lambda: signing.verify(signer.public_key, message, signed))


def fsync() -> float:
    """Seconds of one small write made durable."""
    with tempfile.TemporaryFile() as file:

        def once() -> None:
            file.write(b"x" * 512)
            file.flush()
            os.fsync(file.fileno())

        return seconds(once)


async def copy_rows(data: Path, rows: int = 50_000) -> float:
    """Rows a second by bare COPY of record-sized rows into a table of its own, one transaction of 500 rows after the other."""
    connection = await _owner(data)
    await connection.execute(
        "create unlogged table if not exists public.bench (seq bigint primary key, header bytea, payload bytea)"
    )
    await connection.execute("alter table public.bench set logged")
    await connection.execute("truncate public.bench")
    header, payload = os.urandom(700), os.urandom(600)
    started = time.perf_counter()
    for first in range(0, rows, 500):
        values = [(seq, header, payload) for seq in range(first, first + 500)]
        await connection.copy_records_to_table("bench", records=values, schema_name="public")
    spent = time.perf_counter() - started
    await connection.execute("drop table public.bench")
    await connection.close()
    return rows / spent


async def group_commit(data: Path, waiters: int, seconds_long: float = 2.0) -> tuple[float, float]:
    """Bare group commit: so many waiters, one connection, one INSERT of what has queued; commits a second and median latency."""
    connection = await _owner(data)
    await connection.execute("create table if not exists public.bench (seq bigint primary key, body bytea)")
    await connection.execute("truncate public.bench")
    queue: list[asyncio.Future[None]] = []
    body, waits = os.urandom(1300), []
    loop = asyncio.get_running_loop()
    until = time.perf_counter() + seconds_long

    async def wait() -> None:
        while time.perf_counter() < until:
            began, done = time.perf_counter(), loop.create_future()
            queue.append(done)
            await done
            waits.append(time.perf_counter() - began)

    async def commit() -> None:
        seq = 0
        while time.perf_counter() < until or queue:
            batch, queue[:] = queue[:500], queue[500:]
            if batch:
                await connection.execute(
                    "insert into public.bench select * from unnest($1::bigint[], $2::bytea[])",
                    list(range(seq, seq + len(batch))),
                    [body] * len(batch),
                )
                seq += len(batch)
                for done in batch:
                    done.set_result(None)
            await asyncio.sleep(0)

    await asyncio.gather(commit(), *(wait() for _ in range(waiters)))
    await connection.execute("drop table public.bench")
    await connection.close()
    waits.sort()
    return len(waits) / seconds_long, waits[len(waits) // 2]


async def _owner(data: Path) -> asyncpg.Connection:
    import json  # noqa: PLC0415 - used here only

    port = json.loads((data / "ports.json").read_text())["postgres"]
    password = (data / "keys" / "postgres_role_canon_owner").read_text().strip()
    return await asyncpg.connect(host="127.0.0.1", port=port, user="canon_owner", password=password, database="sigil")


def figures(sign_s: float, verify_s: float, fsync_s: float) -> list[Figure]:
    """The machine's own lines."""
    return [
        Figure(
            what="Ed25519 sign, verify",
            value=f"{micro(sign_s)}, {micro(verify_s)}",
            limit=f"{rate(1 / verify_s)} checks a core",
        ),
        Figure(what="a small write made durable (fsync)", value=micro(fsync_s)),
    ]
