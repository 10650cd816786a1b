"""After an erasure the destroyed key's bytes are nowhere on the database's disk: every file of a real Postgres is read."""

import asyncio

import msgspec
import pytest
import pytest_asyncio

from services.canon_writer import laws, scrubbing, store
from sigilrun.embedded import postgres
from tests import machine as machines
from tests import payloadkey
from tests.stores.test_append_only import erase, founded

STAYS, *NAMES, LAST = ("stays", *(f"gone-{number}" for number in range(8)), "last")


def holders(server, key):
    """The server's files that hold these bytes."""
    place = server.options.folder
    return [str(path.relative_to(place)) for path, held in machines.contents(place) if key in held]


async def keys_in_use(database):
    """The wrapped keys of things, in the order in which they were made."""
    async with database.connection() as connection:
        rows = await connection.fetch(
            "select wrapped from canon.data_key where erasable and wrapped is not null order by ctid"
        )
    return [row["wrapped"] for row in rows]


@pytest_asyncio.fixture(loop_scope="session")
async def house(database):
    """A log with a few things in it, its writer, and a scrubber that the test asks."""
    async with founded(database) as (world, writer, ada):
        for name in (STAYS, *NAMES, LAST):
            world.remember(ada, name)
        await world.send(writer)
        yield database, world, writer, ada


def scrubber(database):
    return scrubbing.Scrubber(database.options("canon_writer"), "default")


async def test_a_destroyed_key_is_on_no_page_and_in_no_segment(house):
    """Not in the row's old version, not in the log, nor in the unused part of its page, where a copy stayed when its neighbours went."""
    database, world, writer, ada = house
    stays, *keys = await keys_in_use(database)
    async with database.connection() as connection:
        for names in (NAMES, [LAST]):
            for name in names:
                erase(world, ada, name)
            await world.send(writer)
            await connection.execute("vacuum canon.data_key")
        await connection.execute("checkpoint")
    assert [one for one in holders(database.server, keys[-1]) if "/base/" in one], (
        "no copy in the hole: the test shows nothing"
    )
    await scrubber(database).scrub()
    assert [holders(database.server, key) for key in keys] == [[]] * 9
    assert await keys_in_use(database) == [stays]
    assert holders(database.server, stays)
    shelf = await store.PostgresStore.connect(database.options("canon_writer"), "default", payloadkey.ONE)
    try:
        rows = await shelf.rows(laws.Query(first=0, end=1_000, limit=1_000, kinds=("memory_block",)))
    finally:
        await shelf.close()
    assert [row.erased for row in rows] == [False, *[True] * 9]


async def test_a_writer_scrubs_by_itself_once_for_many_and_again_at_its_start(house):
    """Commits go on meanwhile; a writer that was killed before it scrubbed is followed by one that does."""
    database, world, writer, ada = house
    _, *keys = await keys_in_use(database)
    for name in NAMES[:2]:
        erase(world, ada, name)
    await world.send(writer)
    running = asyncio.create_task(scrubber(database).run())
    try:
        async with asyncio.timeout(20):
            while any(holders(database.server, key) for key in keys[:2]):
                world.remember(ada, "meanwhile")
                await world.send(writer)
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def test_what_somebody_still_reads_is_scrubbed_later(house):
    """A snapshot from before the erasure keeps the old version; the scrub says so, and the next one has it."""
    database, world, writer, ada = house
    (_, key, *_) = await keys_in_use(database)
    async with database.connection() as reader, reader.transaction(isolation="repeatable_read"):
        await reader.fetch("select 1 from canon.checkpoint")
        erase(world, ada, NAMES[0])
        await world.send(writer)
        with pytest.raises(scrubbing.StillRead):
            await scrubber(database).scrub()
    await scrubber(database).scrub()
    assert holders(database.server, key) == []


async def test_a_table_that_is_locked_holds_up_no_commit(house):
    """The scrub gives up its place in the queue soon, and comes again."""
    database, world, writer, ada = house
    erase(world, ada, NAMES[0])
    await world.send(writer)
    async with database.connection() as reader, reader.transaction():
        await reader.fetch("select 1 from canon.data_key")
        running = asyncio.create_task(scrubber(database).scrub())
        world.remember(ada, "meanwhile")
        async with asyncio.timeout(5):
            await world.send(writer)
        with pytest.raises(postgres.asyncpg.LockNotAvailableError):
            await running


async def test_nothing_is_done_before_the_first_erasure(house):
    """No log is switched and no checkpoint made."""
    database, *_ = house
    async with database.connection() as connection:
        before = await connection.fetchval("select pg_relation_filenode('canon.data_key')")
        await scrubber(database).scrub()
        assert await connection.fetchval("select pg_relation_filenode('canon.data_key')") == before


async def test_who_may_not_scrub_says_what_is_missing_and_erases_all_the_same(house):
    """Another's Postgres whose administrator granted none of it: an alarm, and the loop ends without harm."""
    database, world, writer, ada = house
    erase(world, ada, NAMES[0])
    await world.send(writer)
    asked = scrubbing.Scrubber(
        msgspec.structs.replace(database.options("canon_reader"), user="canon_reader"), "default"
    )
    with pytest.raises(
        scrubbing.NotGranted, match=r"maintain on canon.data_key, execute on pg_switch_wal\(\), pg_checkpoint"
    ):
        await asked.scrub()
    async with asyncio.timeout(5):
        await asked.run()


async def test_a_large_table_is_pruned_and_no_commit_waits_for_more(house, monkeypatch):
    """Beyond the bound nothing is written anew; the log and the pages' rows are without the key."""
    database, world, writer, ada = house
    monkeypatch.setattr(scrubbing, "MOST_BYTES", 0)
    async with database.connection() as connection:
        before = await connection.fetchval("select pg_relation_filenode('canon.data_key')")
        _, key, *_ = await keys_in_use(database)
        erase(world, ada, NAMES[0])
        await world.send(writer)
        await scrubber(database).scrub()
        assert await connection.fetchval("select pg_relation_filenode('canon.data_key')") == before
    assert not [one for one in holders(database.server, key) if "pg_wal" in one]
