"""After an erasure: the destroyed key's very bytes leave the database's disk.

Setting `wrapped` to null destroys a key for every query, and leaves its bytes where they lay: in the row's old version, in the unused
part of its page after that was pruned, and in the write-ahead log. With the keystore they would still open what was erased. So, after
its commit, one scrub for all erasures so far:

1. the table of keys is written anew, which leaves nothing behind in pages (`vacuum full`: a pruned page keeps what it held in its hole);
2. the log goes on in a new segment, and a checkpoint lets go of all before it (the server removes them: `wal_recycle = off`).

Nothing remembers that this was done: at the start it is done again if anything was ever erased, so a crash in between heals.

Commits wait while the keys are written anew, about 10 ms for a thousand, a second for a hundred thousand. So scrubs are as far apart as
fifty times what the last one held them, the wait for a lock that somebody holds is short, and a table beyond `MOST_BYTES` is pruned only,
with an alarm: then a copy may stay in the hole of its page until the room is used again. A database whose administrator didn't grant the
rights (`deploy/postgres/roles.sql`) is not scrubbed, with an alarm; erasures work all the same.
"""

import asyncio
import time
from typing import Any

from services.canon_writer import store
from services.canon_writer.committer import Committed
from services.canon_writer.laws import erases
from sigilrun import postgres, settings, telemetry

GATHER_S = 0.1  # erasures that come together are scrubbed together
APART_S = 1.0
APART_TIMES = 50
RETRY_FIRST_S = 0.2
RETRY_MOST_S = 30.0
# About 300 000 keys, which are written anew in two seconds.
MOST_BYTES = 48 * 1024 * 1024
LONGEST_S = 300.0
LOCK_MS = 500


class NotGranted(Exception):  # noqa: N818 - what is the matter
    """The database's administrator didn't let this role scrub."""


class StillRead(Exception):  # noqa: N818 - what is the matter
    """Somebody reads what was there before the erasure, so it can't go yet."""


class Scrubber:
    """Keeps the database's disk without what was erased."""

    def __init__(self, options: settings.Canon, tenant: str) -> None:
        """The writer's own way to the database."""
        self._options = options
        self._tenant = tenant
        self._sql = store.queries()
        self._wake = asyncio.Event()
        self._wake.set()

    def committed(self, commit: Committed) -> None:
        """Hear of a commit; never waits."""
        if any(erases(row) for row in commit.rows):
            self._wake.set()

    async def run(self) -> None:
        """Scrub after erasures, until cancelled, or not let."""
        delay_s = RETRY_FIRST_S
        while True:
            await self._wake.wait()
            await asyncio.sleep(GATHER_S)
            self._wake.clear()
            try:
                held_s = await self.scrub()
            except NotGranted as error:
                telemetry.log.error("not_scrubbed", reason=str(error))
                return
            except (*postgres.LOST, postgres.Unavailable, postgres.PostgresError, StillRead) as error:
                telemetry.log.warning("scrub_waits", reason=f"{type(error).__name__}: {error}", retry_s=delay_s)
                self._wake.set()
                await asyncio.sleep(delay_s)
                delay_s = min(delay_s * 2, RETRY_MOST_S)
                continue
            delay_s = RETRY_FIRST_S
            await asyncio.sleep(max(APART_S, APART_TIMES * held_s))

    async def scrub(self) -> float:
        """Once, whole, if anything was ever erased; for how many seconds commits were held. Raises `NotGranted`, `StillRead`, and what a
        database raises."""
        connection = await postgres.connect(self._options, application="canon_scrub")
        try:
            if not await connection.fetchval(self._sql["anything_erased"], self._tenant):
                return 0.0
            await self._check_granted(connection)
            began = time.monotonic()
            await self._rewrite(connection)
            held_s = time.monotonic() - began
            await connection.execute(self._sql["switch_log"], timeout=LONGEST_S)
            await connection.execute(self._sql["checkpoint"], timeout=LONGEST_S)
            telemetry.log.info("scrubbed", held_s=round(held_s, 3), took_s=round(time.monotonic() - began, 3))
            return held_s
        finally:
            await connection.close(timeout=store.CLOSE_S)

    async def _check_granted(self, connection: Any) -> None:
        missing = await connection.fetchval(self._sql["not_granted"])
        if missing:
            raise NotGranted(f"{self._options.user} lacks what deploy/postgres/roles.sql grants: {missing}")

    async def _rewrite(self, connection: Any) -> None:
        await connection.execute(f"set lock_timeout = {LOCK_MS}")
        if await connection.fetchval(self._sql["keys_bytes"]) > MOST_BYTES:
            telemetry.log.error("keys_only_pruned", most_bytes=MOST_BYTES)
            await connection.execute(self._sql["prune_keys"], timeout=LONGEST_S)
            return
        told: list[str] = []
        connection.add_log_listener(lambda _, message: told.append(message.detail or ""))
        await connection.execute(self._sql["rewrite_keys"], timeout=LONGEST_S)
        # `found … row versions`, and in its detail how many dead ones somebody may still want to see.
        if not any(detail.startswith("0 ") for detail in told):
            raise StillRead(" ".join(told))
