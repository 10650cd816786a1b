"""The change stream deleted, cut, doubled and forged under load, and a consumer that was long away: all of them end equal to the ledger."""

import asyncio
import contextlib
import os

import msgspec
import pytest
import pytest_asyncio
import structlog

from services.canon_writer.laws import Query
from sigilcore import ids, record
from sigilcore.contracts import canon, common, house
from sigilcore.refusals import Code, Refused
from sigilrun import stream, testing
from tests.faults.consuming import PATIENCE_S, Kept, digest_of, from_outside, inside
from tests.faults.test_writer_crash import Place

# `make long` has a consumer away for 100 000 events; here it is a tenth of that.
AWAY = int(os.environ.get("SIGIL_TEST_AWAY", "10000"))
MEMORIES = ("user", "memory_block")


class Stage:
    """A real writer and reader, and three consumers: of the house, of the whole log from outside, of one kind from outside."""

    def __init__(self, place):
        self.place = place
        self.views = [Kept("inside"), Kept("whole"), Kept("memories")]

    async def found(self):
        """Genesis and a few memories."""
        self.place.write(3)
        await self.place.world.send(self.place.pen)
        genesis = self.place.world.state.genesis_hash
        self.bus = await self.place.buses.bus("subscriber")
        self.folders = [
            await self.place.buses.outside("whole", (house.EVERYTHING,), genesis),
            await self.place.buses.outside("memories", (MEMORIES, house.GOVERNING), genesis),
        ]

    @contextlib.asynccontextmanager
    async def consuming(self):
        async with contextlib.AsyncExitStack() as stack:
            await stack.enter_async_context(inside(self.bus, self.views[0], self.place.buses.deployment))
            for folder, view in zip(self.folders, self.views[1:], strict=True):
                await stack.enter_async_context(from_outside(folder, view))
            yield

    async def grow(self, count):
        """So many records, some of them memories."""
        for number in range(count):
            self.place.world.close(ids.new(), "someone")
            if number % 10 == 0:
                self.place.write(1)
        await self.place.world.send(self.place.pen)

    @contextlib.asynccontextmanager
    async def load(self):
        """Records all the while."""

        over = asyncio.Event()

        async def work():
            while not over.is_set():
                await self.grow(5)

        task = asyncio.create_task(work())
        try:
            yield
        finally:
            over.set()
            await task

    async def moved(self, count=30):
        """Return once every consumer has seen that many more."""
        for view in self.views:
            await view.until(view.next_seq + count)

    async def records(self):
        """What Postgres holds."""
        placed = []
        async with self.place.shelf() as shelf:
            while rows := await shelf.rows(Query(first=len(placed), end=2**53, limit=20_000)):
                placed += [row.placed() for row in rows]
        return placed

    async def agree(self):
        """Every consumer holds what the ledger holds."""
        placed = await self.records()
        for view in self.views:
            await view.until(len(placed))
        memories = [one for one in placed if record.open_header(bytes(one.header))[0].core.kind == "memory_block"]
        assert len(memories) >= 3
        assert [view.digest for view in self.views] == [digest_of(placed), digest_of(placed), digest_of(memories)]


@pytest_asyncio.fixture(loop_scope="session")
async def stage(database, tmp_path):
    async with testing.bus_house(tmp_path / "house") as buses:
        place = Place(buses, database)
        await place.start()
        async with place.reading():
            yield Stage(place)


async def test_a_stream_deleted_under_load_is_missed_by_nobody(stage):
    """Deleted twice while records come; the writer makes it again from Postgres."""
    async with stage.place.writing():
        await stage.found()
        async with stage.consuming():
            async with stage.load():
                await stage.moved()
                for _ in range(2):
                    await stage.place.buses.delete_stream()
                    await stage.moved()
            await stage.agree()
            operator = await stage.place.buses.bus("operator")
            refill = await operator.call(canon.REFILL, common.Empty(), timeout_s=10)
            assert refill.stream_last == refill.head


async def test_a_stream_cut_under_load_is_missed_by_nobody(stage):
    """Everything up to the newest message is purged, again and again, and a consumer starts on what is left."""
    async with stage.place.writing():
        await stage.found()
        async with stage.consuming():
            async with stage.load():
                for _ in range(4):
                    await stage.moved(10)
                    with contextlib.suppress(stream.StreamMissing):
                        await stage.place.buses.truncate_stream(await stage.bus.stream_last("default"))
            await stage.agree()
        late = Kept("late")
        async with inside(stage.bus, late, stage.place.buses.deployment):
            await late.until(len(stage.place.world.log))
        assert late.digest == stage.views[0].digest
        assert (await stage.bus.stream_info("default")).first > 1


async def test_consumers_that_come_and_go_while_the_stream_is_cut_repeat_nothing(stage):
    """Each stops and starts at its own position, with the stream cut in between."""
    async with stage.place.writing():
        await stage.found()
        for _ in range(3):
            async with stage.consuming(), stage.load():
                await stage.moved(10)
            await stage.grow(20)
            await stage.place.buses.truncate_stream(len(stage.place.world.log) - 5)
        async with stage.consuming():
            await stage.agree()


async def test_what_is_published_twice_stands_once(stage):
    """A publisher that lost the answer and publishes again is refused whole by the stream, single and in batches."""
    async with stage.place.writing():
        await stage.found()
        async with stage.consuming():
            await stage.grow(40)
            await stage.agree()
            last = await stage.bus.stream_last("default")
            keeper = await stage.place.buses.bus(house.KEEPER)
            for count in (1, 30):
                messages = (await stage.place.messages(last))[-count:]
                again = [
                    stream.Event(
                        subject=message.subject,
                        message_id=f"again:{at}",
                        body=message.data,
                        headers={"ce-id": message.headers["ce-id"]},
                    )
                    for at, message in messages
                ]
                with pytest.raises(stream.StreamAhead):
                    await keeper.publish_events(again, last - count)
            assert await stage.bus.stream_last("default") == last
            await stage.grow(5)
            await stage.agree()


async def test_a_record_that_can_t_be_read_is_not_passed_by(stage):
    """A header that somebody spoiled in the database, and a stream to be filled: loud, and nothing after it is published; commits go on,
    and once the header is as it was so does the stream."""
    place = stage.place
    with structlog.testing.capture_logs() as logged:
        async with place.writing():
            await stage.found()
            await stage.grow(260)
            await place.check(len(place.world.log))
        kinds = [record.open_header(bytes(one.header))[0].core.kind for one in place.world.log]
        seq = kinds.index("memory_block")
        assert seq < 256, "in a full tile: the writer needs it neither for its fold nor for its tree"
        async with place.database.connection() as connection:
            header = await connection.fetchval("select header from canon.record where seq = $1", seq)
        spoil = "update canon.record set header = $2 where seq = $1"
        await place.database.tamper(spoil, seq, b"\x00{")
        await place.buses.delete_stream()
        async with place.writing():
            async with asyncio.timeout(PATIENCE_S):
                while not any(line["log_level"] == "critical" for line in logged):
                    await asyncio.sleep(0.01)
            assert str(seq) in next(line["reason"] for line in logged if line["log_level"] == "critical")
            await stage.grow(5)
            assert await stage.bus.stream_last("default") <= seq
            await place.database.tamper(spoil, seq, header)
            await place.check(len(place.world.log))


def doubled(event):
    """An event of the past, again."""
    return event


def forged(event):
    """A record that nobody signed, at the next place."""
    placed = msgspec.json.decode(event.body, type=record.PlacedRecord)
    header = msgspec.json.decode(placed.header)
    header["core"]["ts"] = "2031-01-01T00:00:00.000Z"
    lie = msgspec.structs.replace(placed, seq=placed.seq + 1, header=msgspec.Raw(msgspec.json.encode(header)))
    return msgspec.structs.replace(event, body=msgspec.json.encode(lie))


def unreadable(event):
    """No record at all."""
    return msgspec.structs.replace(event, body=b'{"seq":')


def loud(logged):
    """The views that called for help."""
    return {line["view"] for line in logged if "view" in line and line["log_level"] in {"error", "critical"}}


@pytest.mark.parametrize("lie", [doubled, forged, unreadable])
async def test_a_lie_on_the_stream_moves_nobody_and_is_healed_from_the_canon(stage, lie):
    """Somebody with the machine puts a message on the stream: loud, no position moves, the writer stops over that evidence; and once
    the stream is deleted it is filled from Postgres and everyone goes on."""
    with structlog.testing.capture_logs() as logged:
        async with stage.place.writing():
            await stage.found()
            async with stage.consuming():
                await stage.agree()
                size = len(stage.place.world.log)
                ((_, message),) = (await stage.place.messages(size))[-1:]
                event = stream.Event(subject=message.subject, message_id="", body=message.data, headers={})
                await stage.place.buses.forge_event(lie(event))
                async with asyncio.timeout(PATIENCE_S):
                    while not loud(logged):
                        await asyncio.sleep(0.01)
                await stage.agree()
                assert [view.next_seq for view in stage.views] == [size] * 3
                # The next commit stands in Postgres; publishing it finds what it didn't publish, and the writer writes no more.
                stage.place.world.close(ids.new(), "someone")
                await stage.place.world.send(stage.place.pen)
                async with asyncio.timeout(PATIENCE_S):
                    while not any(line["event"] == "read_only" for line in logged):
                        await asyncio.sleep(0.01)
                with pytest.raises(Refused) as refused:
                    await stage.place.pen.append(canon.Append(records=(stage.place.world.log[-1],)))
                assert refused.value.code is Code.READ_ONLY
                await stage.agree()
        await stage.place.buses.delete_stream()
        async with stage.place.writing(), stage.consuming():
            await stage.grow(20)
            await stage.agree()
    assert loud(logged) == {"inside"}  # who is outside reads the canon only
    await stage.place.check(len(stage.place.world.log))


async def test_a_consumer_that_was_long_away_catches_up(stage):
    """Thousands of events later, over a stream that is gone, whole and by kind."""
    async with stage.place.writing():
        await stage.found()
        async with stage.consuming():
            await stage.agree()
    world = stage.place.world
    async with stage.place.committing() as pen:
        for first in range(0, AWAY, 500):
            before = len(world.log)
            for _ in range(min(500, AWAY - first)):
                world.close(ids.new(), "someone")
            await pen.append(canon.Append(records=tuple(world.log[before:])))
        world.sent = len(world.log)
    await stage.place.buses.delete_stream()
    async with stage.consuming():
        for view in stage.views:
            await view.until(len(world.log), timeout_s=30 + AWAY / 1000)
        await stage.agree()
