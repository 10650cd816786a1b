"""The disk is full, Postgres's, the stream's, a view's: refused by name, nothing acknowledged lost, and with room all goes on by itself.

Real servers on a real file system of a few megabytes; see `smalldisk`.
"""

import asyncio
import contextlib
import functools
import sys
from pathlib import Path

import asyncpg
import msgspec
import pytest_asyncio

from services.canon_writer import committer, room
from sigilcore import record
from sigilcore.access import Loa
from sigilcore.contracts import canon, common
from sigilcore.records import audit
from sigilcore.refusals import Code, Refused
from sigilrun import testing
from tests import database as databases
from tests import smalldisk
from tests.canonworld import code_of
from tests.faults.test_writer_crash import PATIENCE_S, Place, _unchained
from tests.simulator import House, Person

POSTGRES_MB = 160
RESERVE_MB = 24
MIB = 1024 * 1024
INSIDE = Path(__file__).with_name("on_small_disk.py")


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def disk(tmp_path_factory):
    """The disk of this module's Postgres."""
    with smalldisk.small_disk(tmp_path_factory.mktemp("small") / "disk", POSTGRES_MB) as small:
        yield small


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def server(disk, tmp_path_factory):
    async with databases.server(tmp_path_factory.mktemp("full"), data=disk.folder / "postgres") as running:
        yield running


class Watched(Place):
    """A place whose writer watches a disk."""

    watched = None

    def options(self, name):
        options = super().options(name)
        if self.watched is None:
            return options
        canon_options = msgspec.structs.replace(options.canon, data_dir=self.watched, reserve_mb=RESERVE_MB)
        return msgspec.structs.replace(options, canon=canon_options)


@pytest_asyncio.fixture(loop_scope="session")
async def place(server, disk, tmp_path, monkeypatch):
    """Callers are told after a second that the store doesn't answer; there is room again at the end."""
    monkeypatch.setattr(committer, "Bounds", functools.partial(committer.Bounds, wait_s=1.0))
    async with testing.bus_house(tmp_path / "house") as buses:
        made = Watched(buses, await server.database())
        await made.start()
        try:
            yield made
        finally:
            disk.make_room()


def test_whose_the_last_room_is():
    """A revocation's decision and its record stand in it; nothing that an operator is allowed does, however often it asks."""
    world = House()
    ada = world.issue(Person("ada", keyed=False), Loa.OPERATOR)
    for command in ("memory/write", "memory/list", "canon/user/erase", "grid/call"):
        world.granted(ada, command)
        assert not room.is_reserved(record.check(world.log[-1])), command
    before = len(world.log)
    world.revoke(ada)
    assert [room.is_reserved(record.check(signed)) for signed in world.log[before:]] == [True, True]


def large(place, number):
    """A memory of fifteen kilobytes."""
    return place.world.memory(place.world.granted(place.ada, "memory/write"), f"large-{number}", text="x" * 15_000)


async def refused(call):
    """Why the call was refused; None if it wasn't."""
    try:
        code = code_of(await call)
    except Refused as why:
        return why
    assert code is None
    return None


async def taken(place, signed):
    """An author's way, until the records stand."""
    async with asyncio.timeout(2 * PATIENCE_S):
        while True:
            try:
                answer = await place.world.call(place.pen, signed)
            except Refused as why:
                assert why.code in {Code.UNAVAILABLE, Code.BUSY}
                await asyncio.sleep(0.1)
            else:
                assert code_of(answer) is None
                return answer


async def everything(place):
    """The whole log, as it is read over the bus."""
    page = await place.gatekeeper.call(canon.EVENTS, canon.Events(first=0, limit=2000))
    return [one.seq for one in page.items]


async def test_where_tables_can_not_grow_calls_are_refused_and_reads_go_on(place, disk):
    """No room for rows: DISK_LOW, nothing written; the log is read as before; with room the very same bytes stand, once."""
    async with place.writing() as one, place.reading():
        records = [large(place, number) for number in range(12)]
        await place.world.send(place.pen)
        await place.world.call(place.pen, records[0])
        disk.fill()
        left = list(records[1:])
        while (why := await refused(place.world.call(place.pen, left[0]))) is None:
            left.pop(0)
        assert why.code is Code.DISK_LOW
        stood = await everything(place)
        assert stood == list(range(len(place.world.log)))
        assert (await refused(place.world.call(place.pen, left[0]))).code is Code.DISK_LOW
        assert await everything(place) == stood
        assert one.service.committer.read_only is None
        disk.make_room()
        for signed in left:
            answer = await taken(place, signed)
            assert not answer.results[0].existing
        await place.check(len(place.world.log))


async def test_a_full_write_ahead_log_stops_postgres_and_all_comes_back(place, disk):
    """Postgres panics where its log can't grow, and can't recover until there is room: refused meanwhile, then everything goes on."""
    async with place.writing() as one, place.reading():
        records = _unchained(place, 8)
        await place.world.send(place.pen)
        for signed in records[:4]:
            await place.world.call(place.pen, signed)
        starts = place.database.server.starts
        disk.fill()
        with contextlib.suppress(asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
            async with place.database.connection() as glutton:
                for _ in range(64):
                    await glutton.execute("select pg_logical_emit_message(false, 'ballast', repeat('x', 1048576))")
        async with asyncio.timeout(PATIENCE_S):
            while (why := await refused(place.world.call(place.pen, records[4]))) is None:
                records.append(records.pop(4))
        assert why.code is Code.UNAVAILABLE
        disk.make_room()
        for signed in records[4:]:
            await taken(place, signed)
        assert place.database.server.starts > starts
        assert one.service.committer.read_only is None
        assert len(await everything(place)) == len(place.world.log)
        await place.check(len(place.world.log))


async def test_the_last_room_is_for_braking_and_for_the_quorum(place, disk):
    """Below the mark an ordinary record is refused by name, alone; a revocation with its decision, a logout, a change of the system and an
    instance are written; reads go on; with room the same bytes are taken."""
    place.watched = disk.folder
    eve = place.world.issue(Person("eve"), Loa.OPERATOR)
    voices = place.world.mentors(1)
    place.world.seal(voices, 1)
    async with place.writing(), place.reading():
        before = _unchained(place, 2)
        await place.world.send(place.pen)
        await place.world.call(place.pen, before[0])
        disk.fill(leave_bytes=(RESERVE_MB - 4) * MIB)
        await asyncio.sleep(0.3)  # the disk is looked at four times a second
        for _ in range(2):
            answer = await place.world.call(place.pen, before[1])
            assert code_of(answer) == "DISK_LOW"
            assert answer.results[0].refusal.status == 507
        # What stands is still answered with its place: who lost an answer hears the truth.
        assert (await place.world.call(place.pen, before[0])).results[0].existing
        left = len(place.world.log)
        place.world.revoke(eve)
        place.world.close("a session", "ada")
        place.world.place(place.world.attested(place.world.proposal("model_config", place.world.new_model()), *voices))
        key = place.world.instances["knowledge"]
        payload = audit.InstanceBeat(records=0, closing=True)
        place.world.append("instance_beat", payload, key)
        await place.world.send(place.pen)
        assert len(place.world.log) > left + 3
        assert len(await everything(place)) == len(place.world.log)
        disk.make_room()
        await asyncio.sleep(0.3)
        place.world.close("another session", "ada")
        await place.world.send(place.pen)
        await place.check(len(place.world.log))


async def test_commits_go_on_while_the_streams_disk_is_full(database, tmp_path):
    """The stream is a copy: nobody waits for it, and it is whole again once there is room."""
    with smalldisk.small_disk(tmp_path / "disk", 24) as small:
        async with testing.bus_house(tmp_path / "house", data=small.folder / "nats") as buses:
            place = Place(buses, database)
            await place.start()
            async with place.writing() as one, place.reading():
                await place.world.send(place.pen)
                await place.check()
                small.fill()
                records = [large(place, number) for number in range(5)]
                await place.world.send(place.pen)
                for signed in records:
                    await place.world.call(place.pen, signed)
                assert len(await everything(place)) == len(place.world.log)
                small.make_room()
                await place.check(len(place.world.log))
                operator = await buses.bus("operator")
                refill = await operator.call(canon.REFILL, common.Empty(), timeout_s=10)
                assert refill.stream_last == len(place.world.log)
                assert one.service.committer.read_only is None


def test_a_view_on_a_full_disk_stays_where_it_was_and_goes_on(tmp_path):
    """SQLite finds no room: neither content nor position move, the file isn't dropped, and the same events are taken later."""
    smalldisk.run_inside(tmp_path / "disk", 12, [sys.executable, str(INSIDE), "view", str(tmp_path / "disk")])


def test_a_gateway_on_a_full_disk_starts_and_resets_nobody_s_counts(tmp_path):
    """It counts in memory meanwhile: whoever can fill the disk gains no new minute by it, and Root can still revoke."""
    smalldisk.run_inside(tmp_path / "disk", 1, [sys.executable, str(INSIDE), "counts", str(tmp_path / "disk")])


def test_a_witness_on_a_full_disk_cosigns_nothing_and_goes_on(tmp_path):
    """No line leaves before its checkpoint is durable, so there is none; it stands where it stood, and goes on once there is room."""
    smalldisk.run_inside(tmp_path / "disk", 1, [sys.executable, str(INSIDE), "witness", str(tmp_path / "disk")])
