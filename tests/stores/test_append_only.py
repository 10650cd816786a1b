"""What was written stays: what grants and triggers refuse, tried on a real Postgres by everybody who might."""

import asyncio
import contextlib

import asyncpg
import pytest
import pytest_asyncio

from services.canon_writer import committer, laws, migrate, store
from sigilcore import decision, record
from sigilcore.access import Loa
from sigilcore.records import user
from tests import payloadkey
from tests.canonworld import World
from tests.simulator import Person

CHANGES = [
    "update canon.record set header = payload",
    "update canon.record set subject = 'mallory' where false",
    "delete from canon.record",
    "truncate canon.record",
    "update canon.tile set hashes = hashes",
    "delete from canon.tile",
    "truncate canon.tile",
    "update canon.checkpoint set note = ''",
    "delete from canon.checkpoint",
    "truncate canon.checkpoint",
    "update canon.cosignature set line = ''",
    "delete from canon.cosignature",
    "truncate canon.cosignature",
    "update canon.witnessed set size = 0",
    "delete from canon.witnessed",
    "truncate canon.witnessed",
    "delete from canon.writer_epoch",
    "truncate canon.writer_epoch",
    "update canon.writer_epoch set epoch = epoch - 1",
    "update canon.record set decision = null where decision is not null",
    "delete from canon.data_key",
    "delete from canon.data_key where erased_seq is null",
    "truncate canon.data_key",
    "update canon.data_key set wrapped = '\\x00'",
    "update canon.data_key set purpose = gen_random_uuid()",
    "update canon.data_key set id = id + 1",
    "update canon.data_key set tenant = 'other'",
    "update canon.data_key set erasable = true where not erasable",
    "update canon.data_key set wrapped = null, erased_seq = 1 where not erasable",
    "update canon.data_key set wrapped = '\\x00', erased_seq = null where erased_seq is not null",
    "update canon.data_key set erased_seq = erased_seq + 1 where erased_seq is not null",
    "update canon.data_key set erased_seq = 1 where erased_seq is null and erasable",
    "update canon.data_key set wrapped = null where erased_seq is null and erasable",
]


def erase(world, person, slug):
    """The person erases a memory that has one version."""
    (old,) = (
        one
        for one in map(record.check, world.log)
        if one.core.kind == "memory_block" and one.payload.key.endswith(f"::{slug}")
    )
    granted = world.granted(person, "canon/user/erase")
    request = decision.Request(command=granted.command, salt=granted.salt, digest=granted.digest, parameters="0" * 64)
    payload = user.Erasure(
        owner=person.owner_id, kind="memory_block", key=old.payload.key, records=(old.core.id,), request=request
    )
    link = record.Link(label="decision", target=granted.decision.link())
    world.append("erasure", payload, world.instances["knowledge"], links=[link], prev=old.header.hash)


@contextlib.asynccontextmanager
async def founded(database):
    """A writer over a database, its world, and Ada the operator."""
    world = World()
    keeping = await store.PostgresStore.connect(database.options("canon_writer"), "default", payloadkey.ONE)
    writer = committer.Committer(keeping, signer=world.writer, deployment=world.deployment, clock=world.clock)
    await writer.load()
    task = asyncio.create_task(writer.run())
    try:
        yield world, writer, world.issue(Person("ada"), Loa.OPERATOR)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await keeping.close()


@pytest_asyncio.fixture(loop_scope="session")
async def written(database):
    """A database with a small log in it."""
    async with founded(database) as (world, writer, ada):
        for number in range(130):
            world.remember(ada, f"key-{number}")
        world.granted(ada, "memory/write")
        erase(world, ada, "key-7")
        await world.send(writer)
        yield database


@pytest.mark.parametrize("role", ["canon_reader", "canon_writer", "canon_owner", "postgres"])
async def test_nobody_changes_what_was_written(written, role):
    """Neither the services, nor the owner, nor the superuser, as long as the triggers stand; also in a replica's session."""
    async with written.connection(role) as connection:
        before = await connection.fetch("select * from canon.record order by seq")
        for change in CHANGES:
            with pytest.raises(asyncpg.PostgresError) as refused:
                await connection.execute(change)
            assert refused.value.sqlstate in {"42501", "SG000"}, (change, refused.value)
        if role == "postgres":
            await connection.execute("set session_replication_role = replica")
            with pytest.raises(asyncpg.PostgresError, match="append-only"):
                await connection.execute("delete from canon.record")
        assert await connection.fetch("select * from canon.record order by seq") == before


async def test_a_destroyed_key_never_comes_back(written):
    """Not by update, not by another row of its number, and a second key for what was sealed opens nothing; readers can't touch any."""
    async with written.connection("canon_writer") as connection:
        ended = await connection.fetchrow("select * from canon.data_key where erased_seq is not null")
        assert (ended["wrapped"], ended["erasable"]) == (None, True)
        other = await connection.fetchrow("select * from canon.data_key where erased_seq is null and erasable limit 1")
        for again in (
            "insert into canon.data_key select id, null, purpose, true, tenant, '' from canon.data_key where wrapped is null",
            "insert into canon.data_key select id, null, gen_random_uuid(), true, tenant, '' from canon.data_key limit 1",
        ):
            with pytest.raises(asyncpg.UniqueViolationError):
                await connection.execute(again)
        # A key in use of the same thing may be made again, since it may be written again: what was sealed stays sealed.
        done = await connection.execute(
            "insert into canon.data_key (id, purpose, erasable, tenant, wrapped) values (1, $1, true, 'default', $2)",
            ended["purpose"],
            other["wrapped"],
        )
        assert done == "INSERT 0 1"
    shelf = await store.PostgresStore.connect(written.options("canon_writer"), "default", payloadkey.ONE)
    try:
        rows = await shelf.rows(laws.Query(first=0, end=10_000, limit=10_000))
    finally:
        await shelf.close()
    gone = [row for row in rows if row.thing is not None and row.thing == ended["purpose"].bytes]
    assert [(row.kind, row.erased) for row in gone] == [("memory_block", True), ("erasure", False)]
    async with written.connection("canon_reader") as connection:
        for change in (
            "insert into canon.data_key (id, purpose, erasable, tenant, wrapped) values (2, gen_random_uuid(), true, 'x', '')",
            "update canon.data_key set wrapped = null, erased_seq = 1",
            "delete from canon.data_key",
        ):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connection.execute(change)


async def test_a_reader_only_reads(written):
    """Insert, commit and take-over aren't the reader's."""
    async with written.connection("canon_reader") as connection:
        for statement in (
            "insert into canon.writer_epoch (tenant, epoch, seen_at) values ('x', 1, now())",
            "insert into canon.checkpoint (size, tenant, note) values (1, 'x', '')",
            "insert into canon.record select * from canon.record",
            "select canon.raise_epoch('default')",
            "create table canon.mine (x int)",
            "create table public.mine (x int)",
        ):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connection.execute(statement)


async def test_services_own_nothing(written):
    """The writer can't drop, alter or disable anything."""
    async with written.connection("canon_writer") as connection:
        for statement in (
            "drop table canon.record",
            "alter table canon.record disable trigger all",
            "create or replace function canon.refuse_change() returns trigger language plpgsql as 'begin return null; end'",
            "set session_replication_role = replica",
            "drop schema canon cascade",
        ):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connection.execute(statement)


async def test_a_used_decision_stays_used(written):
    """Who may insert still can't use a decision again: it stands in the record that used it, once."""
    async with written.connection("canon_writer") as connection:
        columns = "ts, author, thing, decision, data_key, header_bytes, governs, tenant, space, kind, subject, hash, header, payload"
        with pytest.raises(asyncpg.UniqueViolationError, match="record_decision"):
            await connection.execute(
                f"insert into canon.record (seq, id, {columns}) select seq + 1000000, gen_random_uuid(), {columns}"
                " from canon.record where decision is not null limit 1"
            )


async def test_migrations_are_safe_to_run_again(written):
    """Again, and by several at once: nothing to do."""
    options = written.options("canon_owner")
    assert await asyncio.gather(*(migrate.migrate(options) for _ in range(3))) == [[], [], []]


async def test_a_migration_that_was_changed_after_it_ran_is_refused(written, monkeypatch):
    """History of the schema isn't rewritten either."""
    changed = [migrate.Migration(name=one.name, sql=one.sql + "\n-- changed") for one in migrate.migrations()]
    monkeypatch.setattr(migrate, "migrations", lambda: changed)
    with pytest.raises(migrate.ChangedMigration):
        await migrate.migrate(written.options("canon_owner"))


async def test_a_record_costs_few_bytes_in_indexes(database):
    """Twenty thousand rows, half of them versions of things: all indexes together stay below 220 bytes a record."""
    async with database.connection() as connection:
        await connection.execute(
            """insert into canon.record
               select n, n, uuidv7(), md5((n % 5)::text)::uuid, case when n % 2 = 0 then gen_random_uuid() end,
                      case when n % 2 = 0 then n << 8 end, 1, 600, n % 100 = 0, 'default',
                      case when n % 2 = 0 then 'user' else 'audit' end, 'kind_' || n % 4, 'subject_' || n % 50,
                      sha256(n::text::bytea), '', ''
               from generate_series(0, 19999) as n"""
        )
        size = await connection.fetchval("select pg_indexes_size('canon.record')")
    assert size / 20_000 < 220
