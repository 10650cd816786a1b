"""The writer and its faults, on a real Postgres and a real NATS: killed, fenced, set back, cut off, and always the same ledger after."""

import asyncio
import base64
import contextlib
import os
import signal
import sys
import time
from pathlib import Path

import msgspec
import pytest
import pytest_asyncio
import structlog

from services.canon_writer import committer, publisher, reader, service, store
from services.canon_writer.laws import Lost, Query
from services.canon_writer.reading import Reading, Viewer
from sigilcore import checkpoint, permit, record, verify
from sigilcore.access import Loa
from sigilcore.contracts import canon, common
from sigilcore.refusals import Code, Refused
from sigilrun import private_files, settings, stream, testing
from sigilrun import service as process
from tests import oracle
from tests.canonworld import TOKEN_HASH, World, code_of
from tests.simulator import Person

ROOT = Viewer(owner="root", loa=Loa.ROOT)
PATIENCE_S = 20
WRITER = Path(__file__).with_name("writer_process.py")


class BusPen:
    """The writer, asked over the bus as a service asks it."""

    def __init__(self, bus, founder):
        self.bus = bus
        self.founder = founder

    async def append(self, request):
        return await self.bus.call(canon.APPEND, request)

    async def bootstrap(self, request):
        return await self.founder.call(canon.BOOTSTRAP, request)


class Place:
    """A bus, a database, a world whose keys are the deployment's, and what it takes to run writers on them."""

    def __init__(self, buses, database):
        self.buses = buses
        self.database = database
        self.high_water = buses.folder / "high_water"
        self.token_hash = buses.folder / "token_hash"
        private_files.write_new(self.token_hash, TOKEN_HASH.encode() + b"\n")
        self.world = World(buses.deployment, buses.keystore)
        self.payload_key = buses.keystore.aead_key("payload")
        self.ada = self.world.issue(Person("ada"), Loa.OPERATOR)

    async def start(self):
        self.gatekeeper = await self.buses.bus("gatekeeper")
        self.pen = BusPen(self.gatekeeper, await self.buses.bus("license"))

    def options(self, name):
        canon_options = self.database.options(
            name,
            pool_size=3,
            high_water_file=self.high_water if name == "canon_writer" else None,
            bootstrap_token_hash_file=self.token_hash if name == "canon_writer" else None,
        )
        return msgspec.structs.replace(self.buses.settings(name), canon=canon_options)

    def writing(self):
        """A writer in this process, on the world's clock."""
        return process.running(
            "canon_writer", service.build, service.HANDLERS, self.options("canon_writer"), now=self.world.clock
        )

    def reading(self):
        """A reader in this process."""
        return process.running(
            "canon_reader", reader.build, reader.HANDLERS, self.options("canon_reader"), now=self.world.clock
        )

    @contextlib.asynccontextmanager
    async def committing(self, **options):
        """A committer alone: no bus, no floors, nothing that ends the process."""
        keeping = await store.PostgresStore.connect(
            self.database.options("canon_writer"), "default", self.payload_key, **options
        )
        deployed = self.world.deployment
        one = committer.Committer(keeping, signer=self.world.writer, deployment=deployed, clock=self.world.clock)
        await one.load()
        task = asyncio.create_task(one.run())
        try:
            yield one
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await keeping.close()

    @contextlib.asynccontextmanager
    async def shelf(self):
        keeping = await store.PostgresStore.connect(
            self.database.options("canon_writer", pool_size=1), "default", self.payload_key
        )
        try:
            yield keeping
        finally:
            await keeping.close()

    async def records(self):
        async with self.shelf() as shelf:
            return [row.placed() for row in await shelf.rows(Query(first=0, end=100_000, limit=100_000))]

    async def check(self, expected=None):
        """The oracle over what Postgres holds; the stream holds the same, message by message."""
        placed = await self.records()
        async with self.shelf() as shelf:
            head = await shelf.head()
        report = oracle.check(placed, head.note, self.world.state.genesis_hash)
        assert expected is None or report.records == expected
        await self.stream_reaches(len(placed))
        assert [(at, message.data) for at, message in await self.messages(len(placed))] == [
            (one.seq + 1, msgspec.json.encode(one)) for one in placed
        ]
        return report

    async def stream_reaches(self, size):
        async with asyncio.timeout(PATIENCE_S):
            while True:
                with contextlib.suppress(stream.StreamMissing, Refused):
                    if await self.gatekeeper.stream_last("default") == size:
                        return
                await asyncio.sleep(0.02)

    async def messages(self, count):
        feed = self.gatekeeper.read_stream("default", 1)
        found = []
        async with asyncio.timeout(PATIENCE_S):
            while len(found) < count:
                found += await feed.fetch(500, 1)
        await feed.close()
        return [(message.stream_seq, message) for message in found]

    def write(self, count):
        for number in range(count):
            self.world.remember(self.ada, f"key-{number}")

    async def set_back(self, size):
        """What restoring an old backup does."""
        await self.database.tamper("delete from canon.record where seq >= $1", size)
        await self.database.tamper("delete from canon.checkpoint where size > $1", size)
        await self.database.tamper("delete from canon.tile where (index + 1) * 256 > $1 and level = 0", size)

    async def refused_as_read_only(self):
        for call in (
            self.pen.append(canon.Append(records=(self.world.log[-1],))),
            self.pen.bootstrap(self.world.genesis),
        ):
            with pytest.raises(Refused) as refused:
                await call
            assert refused.value.code is Code.READ_ONLY


@pytest_asyncio.fixture(loop_scope="session")
async def place(database, tmp_path):
    async with testing.bus_house(tmp_path / "house") as buses:
        made = Place(buses, database)
        await made.start()
        yield made


# Change events


async def test_every_commit_becomes_events_in_order_and_its_last_one_bears_the_checkpoint(place):
    """Stream sequence = seq + 1, subject by space and kind, CloudEvents headers, checkpoints that the log's key signed."""
    place.write(10)
    async with place.writing():
        await place.world.send(place.pen)
        audits = [place.world.memory(place.world.granted(place.ada, "memory/write"), f"more-{n}") for n in range(3)]
        await place.world.send(place.pen)
        await asyncio.gather(*(place.world.call(place.pen, one) for one in audits))
        await place.check(len(place.world.log))
    messages = await place.messages(len(place.world.log))
    signed = 0
    for at, message in messages:
        placed = msgspec.json.decode(message.data, type=record.PlacedRecord)
        core = record.open_header(bytes(placed.header))[0].core
        assert message.subject == f"canon.v1.default.{core.space}.{core.kind}"
        assert message.headers["Nats-Msg-Id"] == f"default:{placed.seq}"
        assert message.headers["ce-type"] == f"sigil.{core.kind}.v1"
        assert (message.headers["ce-id"], message.headers["ce-time"]) == (core.id, core.ts)
        assert message.headers["ce-source"] == place.world.origin
        if "Sigil-Checkpoint" in message.headers:
            signed += 1
            data = base64.b64decode(message.headers["Sigil-Checkpoint"])
            assert checkpoint.open_signed(data, place.world.log_key).size == at
    assert "Sigil-Checkpoint" in messages[-1][1].headers
    assert signed >= len(place.world.log) - 2


async def test_a_deleted_stream_is_filled_again(place):
    """While the writer runs, by `canon/refill`; while it doesn't, at its start. Consumers find the same messages."""
    place.write(40)
    async with place.writing():
        await place.world.send(place.pen)
        await place.check()
        await place.buses.delete_stream()
        operator = await place.buses.bus("operator")
        refill = await operator.call(canon.REFILL, common.Empty(), timeout_s=10)
        assert refill.published == refill.head == refill.stream_last == len(place.world.log)
        await place.check()
    await place.buses.delete_stream()
    async with place.writing():
        await place.check(len(place.world.log))


async def test_a_stream_deleted_under_way_is_noticed_at_the_next_commit(place):
    """The next record finds no stream: it is made again, from the beginning."""
    place.write(5)
    async with place.writing():
        await place.world.send(place.pen)
        await place.check()
        await place.buses.delete_stream()
        place.write(1)
        await place.world.send(place.pen)
        await place.check(len(place.world.log))


async def test_a_writer_that_lost_its_word_with_the_stream_for_good_ends(place):
    """Its other connection may live; the supervisor starts it anew. What it committed is published then."""
    async with place.writing() as one:
        await place.world.send(place.pen)
        await one.service.publisher._bus.close()
        async with asyncio.timeout(PATIENCE_S):
            await one.ended.wait()
    async with place.writing():
        await place.check(len(place.world.log))


async def test_a_writer_with_a_broken_part_ends(place, monkeypatch):
    """What no part of it expected is told, and the process ends: none goes on without its publisher, its scrubber or its loop."""

    async def breaks(_):
        raise RuntimeError("nobody expected this")

    monkeypatch.setattr(publisher.Publisher, "_publish", breaks)
    with structlog.testing.capture_logs() as logged:
        async with place.writing() as one, asyncio.timeout(PATIENCE_S):
            await one.ended.wait()
    assert [line["log_level"] for line in logged if line["event"] == "part_broke"] == ["critical"]


async def test_a_writer_without_the_stream_s_seed_does_not_start(place):
    """It could commit, and nobody would hear of it."""
    options = place.options("canon_writer")
    bus = msgspec.structs.replace(options.bus, stream_nkey_seed_file=None)
    with pytest.raises(settings.SettingsError, match="stream_nkey_seed_file"):
        async with process.running(
            "canon_writer", service.build, service.HANDLERS, msgspec.structs.replace(options, bus=bus)
        ):
            pass


async def test_commits_go_on_while_the_bus_is_down_and_events_catch_up(place):
    """NATS killed under load: what was committed meanwhile appears in order once it is back."""
    async with place.writing() as one:
        await place.world.send(place.pen)
        await place.check()
        starts = 1
        place.buses.kill()
        place.write(60)
        await place.world.send(one.service.committer)
        await place.buses.restarted(starts + 1)
        await place.check(len(place.world.log))


# Crashes


@contextlib.asynccontextmanager
async def spawned(place, *before):
    """A writer in a process of its own, to be killed; `before` is a program that runs it, changed."""
    options = place.options("canon_writer")
    env = {
        "PATH": os.environ["PATH"],
        "SIGIL_CONFIG": str(place.buses.folder / "config.toml"),
        "SIGIL_BUS_URL": options.bus.url,
        "SIGIL_BUS_NKEY_SEED_FILE": str(options.bus.nkey_seed_file),
        "SIGIL_BUS_STREAM_NKEY_SEED_FILE": str(options.bus.stream_nkey_seed_file),
        "SIGIL_DEPLOYMENT_FILE": str(options.deployment.file),
        "SIGIL_SERVICE_STATE_DIR": str(place.buses.folder / "services" / "spawned"),
        "SIGIL_KEYSTORE_PATH": str(options.keystore.path),
        "SIGIL_KEYSTORE_PASSPHRASE_FILE": str(options.keystore.passphrase_file),
        "SIGIL_CANON_HOST": options.canon.host,
        "SIGIL_CANON_PORT": str(options.canon.port),
        "SIGIL_CANON_DATABASE": options.canon.database,
        "SIGIL_CANON_USER": options.canon.user,
        "SIGIL_CANON_PASSWORD_FILE": str(options.canon.password_file),
        "SIGIL_CANON_HIGH_WATER_FILE": str(place.high_water),
        "SIGIL_CANON_BOOTSTRAP_TOKEN_HASH_FILE": str(place.token_hash),
    }
    (place.buses.folder / "config.toml").touch()
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, *map(str, before), str(WRITER), str(place.world.now_ms)),
        env=env,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        yield child
    finally:
        if child.returncode is None:
            child.terminate()
        await child.wait()


async def _until_answered(place, signed, deadline):
    """An author's way: the same bytes again until the writer says what became of them."""
    while True:
        try:
            return await place.world.call(place.pen, signed)
        except Refused as refused:
            if refused.code not in {Code.UNAVAILABLE, Code.BUSY} or time.monotonic() > deadline:
                raise
            await asyncio.sleep(0.05)


async def _send_all(place, records):
    deadline = time.monotonic() + 2 * PATIENCE_S
    return await asyncio.gather(*(_until_answered(place, signed, deadline) for signed in records))


def _unchained(place, count):
    """Records that don't depend on each other: effects of decisions that are committed already."""
    granted = [place.world.granted(place.ada, "memory/write") for _ in range(count)]
    return [place.world.memory(one, f"thing-{number}") for number, one in enumerate(granted)]


async def test_kill_9_loses_nothing_acknowledged_and_repeats_nothing(place):
    """Killed twice under load, at no chosen moment: every record stands once, where its answer said."""
    records = _unchained(place, 150)
    async with spawned(place) as child:
        await _first_answer(place)
        await place.world.send(place.pen)
        before = await _head(place)
        sending = asyncio.create_task(_send_all(place, records[:100]))
        await _some_commits(place, before)
        child.send_signal(signal.SIGKILL)
        await child.wait()
    async with spawned(place) as child:
        answers = await sending
        before = await _head(place)
        sending = asyncio.create_task(_send_all(place, records[100:]))
        await _some_commits(place, before)
        child.send_signal(signal.SIGKILL)
        await child.wait()
    async with spawned(place):
        answers += await sending
        assert [code_of(answer) for answer in answers] == [None] * len(records)
        said = {one.results[0].id: one.results[0].seq for one in answers}
        placed = {record.open_header(bytes(one.header))[0].core.id: one.seq for one in await place.records()}
        assert {name: placed[name] for name in said} == said
        await place.check(len(place.world.log))


async def _head(place):
    """The log's size now."""
    async with place.shelf() as shelf:
        return (await shelf.head()).size


async def _some_commits(place, before):
    """Return once the log has grown, in the middle of whatever else is going on."""
    async with place.shelf() as shelf, asyncio.timeout(PATIENCE_S):
        while (await shelf.head()).size == before:
            await asyncio.sleep(0)


async def _first_answer(place):
    """Wait until the writer answers at all."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            await place.pen.append(canon.Append(records=(place.world.log[1],)))
        except Refused as refused:
            if refused.code is Code.NOT_BOOTSTRAPPED:
                return
            if time.monotonic() > deadline:
                raise
            await asyncio.sleep(0.05)


async def test_killed_after_the_commit_before_answer_and_event(place):
    """The commit stood and nobody was told: the same bytes are answered with the first place, and the event comes at the start."""
    async with place.committing() as one:
        await place.world.send(one)
        (signed,) = _unchained(place, 1)
        await place.world.send(one)
        await one.append(canon.Append(records=(signed,)))  # never reaches its caller, no event is published
    async with place.writing():
        head = len(place.world.log)
        answer = await place.world.call(place.pen, signed)
        assert (answer.results[0].seq, answer.results[0].existing) == (head, True)
        await place.check(head + 1)


async def test_postgres_killed_under_load(place):
    """kill -9 of the server: the writer reconnects, loads anew, and every call is answered once and truly."""
    async with place.writing():
        await place.world.send(place.pen)
        records = _unchained(place, 60)
        await place.world.send(place.pen)
        starts = place.database.server.starts
        sending = asyncio.create_task(_send_all(place, records))
        await asyncio.sleep(0.03)
        place.database.server.kill()
        await place.database.server.restarted(starts + 1)
        answers = await sending
        assert [code_of(answer) for answer in answers] == [None] * len(records)
        await place.check(len(place.world.log))


# Two writers


async def test_a_stand_by_waits_for_a_living_writer_and_follows_a_gone_one(place):
    """It begins when the first lets go, not before, and knows all that was written."""
    async with contextlib.AsyncExitStack() as stack:
        async with place.committing() as first:
            await place.world.send(first)
            second = asyncio.create_task(stack.enter_async_context(place.committing()))
            await asyncio.sleep(0.6)
            assert not second.done()
            place.write(3)
            await place.world.send(first)
        async with asyncio.timeout(PATIENCE_S):
            following = await second
        assert following.head.size == len(place.world.log)
        place.write(1)
        await place.world.send(following)


async def test_a_writer_that_was_not_seen_is_ended_and_can_not_commit(place):
    """A paused writer that wakes finds its connection ended and its epoch over: it wrote nothing, and stops for good."""
    async with place.committing() as old:
        await place.world.send(old)
        (signed,) = _unchained(place, 1)
        await place.world.send(old)
        async with place.committing(unseen_s=-1) as new:
            with pytest.raises(Refused) as refused:
                await old.append(canon.Append(records=(signed,)))
            assert refused.value.code is Code.UNAVAILABLE
            assert old.fenced.is_set()
            assert new.head.size == len(place.world.log)
            assert code_of(await place.world.call(new, signed)) is None


async def test_an_epoch_alone_fences(place):
    """Though the old writer still has its connection and the lock: a raised epoch is enough."""
    async with place.committing() as old:
        await place.world.send(old)
        (signed,) = _unchained(place, 1)
        await place.world.send(old)
        async with place.database.connection("canon_writer") as connection:
            await connection.fetchval("select canon.raise_epoch('default')")
        with pytest.raises(Refused) as refused:
            await old.append(canon.Append(records=(signed,)))
        assert refused.value.code is Code.UNAVAILABLE
        assert old.fenced.is_set()
    assert len(await place.records()) == len(place.world.log)


# Never back


async def test_postgres_set_back_behind_the_stream_is_read_only(place):
    """An old backup was restored: the stream holds more. Nothing is written, nothing published, the evidence stays."""
    place.write(10)
    async with place.writing():
        await place.world.send(place.pen)
        await place.check()
    place.high_water.unlink()
    await place.set_back(len(place.world.log) - 4)
    async with place.writing() as one:
        assert "the stream holds" in one.service.committer.read_only
        await place.refused_as_read_only()
        assert await place.gatekeeper.stream_last("default") == len(place.world.log)
        operator = await place.buses.bus("operator")
        with pytest.raises(Refused) as refused:
            await operator.call(canon.REFILL, common.Empty())
        assert refused.value.code is Code.READ_ONLY


async def test_postgres_set_back_behind_the_high_water_file_is_read_only(place):
    """The stream is gone too: the file still knows, and the stream isn't rebuilt from the shorter store."""
    place.write(10)
    async with place.writing():
        await place.world.send(place.pen)
    await place.buses.delete_stream()
    await place.set_back(len(place.world.log) - 4)
    async with place.writing() as one:
        assert "the high-water file knows" in one.service.committer.read_only
        await place.refused_as_read_only()
        await asyncio.sleep(0.1)
        with pytest.raises(stream.StreamMissing):
            await place.gatekeeper.stream_last("default")


async def test_an_emptied_database_never_reopens_bootstrap(place):
    """All tables emptied, with file and stream, with the file alone, with the stream alone: Root isn't founded twice."""
    async with place.writing():
        await place.world.send(place.pen)
        await place.check()
    for table in ("record", "checkpoint", "tile", "writer_epoch"):
        await place.database.tamper(f"delete from canon.{table}")
    kept = place.high_water.read_bytes()
    async with place.writing():
        await place.refused_as_read_only()
    place.high_water.unlink()
    async with place.writing():
        await place.refused_as_read_only()
    await place.buses.delete_stream()
    private_files.write_new(place.high_water, kept)
    async with place.writing():
        await place.refused_as_read_only()


async def test_another_past_of_the_same_length_is_noticed(place):
    """Set back by one record and written on otherwise: sizes agree, the last message doesn't."""
    async with place.writing():
        await place.world.send(place.pen)
        first, second = _unchained(place, 2)
        await place.world.send(place.pen)
        await place.world.call(place.pen, first)
        await place.check()
    await place.set_back(len(place.world.log) - 1)
    async with place.committing() as careless:
        answer = await careless.append(canon.Append(records=(second,)))
        assert answer.results[0].seq == len(place.world.log) - 1
    async with place.writing() as one:
        assert "different records" in one.service.committer.read_only
        await place.refused_as_read_only()


async def test_an_unreadable_high_water_file_is_no_permission(place):
    """What can't be read might say anything: read-only until somebody looks."""
    async with place.writing():
        await place.world.send(place.pen)
    place.high_water.write_bytes(b"1_000\n")
    async with place.writing() as one:
        assert "can't be read" in one.service.committer.read_only


# Reading from Postgres


async def test_a_byte_changed_by_the_superuser_is_reported_at_its_position(place):
    """In the sealed part of the tree and at its edge, header and payload: that record and no other is corrupt."""
    place.write(140)
    async with place.committing() as one:
        await place.world.send(one)
        state = one.state
    sealed, edge = 100, len(place.world.log) - 2
    await place.database.tamper(
        "update canon.record set header = set_byte(header, 40, get_byte(header, 40) # 1) where seq = $1", sealed
    )
    await place.database.tamper(
        "update canon.record set payload = set_byte(payload, 40, get_byte(payload, 40) # 1) where seq = $1", edge
    )
    async with place.shelf() as shelf:
        reading = Reading(shelf, lambda: state, place.world.log_key)
        page = await reading.records(ROOT, canon.ListRecords(limit=500))
        assert [corrupt.seq for corrupt in page.corrupt] == [sealed, edge]
        assert len(page.items) == len(place.world.log) - 2


async def test_a_changed_tile_proves_nothing(place):
    """A tile that was changed can't vouch: its records are shown only by their authors' signatures, and the writer stops at its start."""
    place.write(140)
    async with place.committing() as one:
        await place.world.send(one)
        state = one.state
    await place.database.tamper("update canon.tile set hashes = set_byte(hashes, 33, 7) where level = 0")
    async with place.shelf() as shelf:
        reading = Reading(shelf, lambda: state, place.world.log_key)
        view = await reading.get(ROOT, canon.Get(seq=3))
        assert view.header["core"]["kind"] == "instance_opened"
        bundle = await reading.proof(ROOT, canon.Prove(id=view.header["core"]["id"]))
        assert not verify.verified(verify.verify(bundle, place.world.state.genesis_hash))
    async with place.committing() as one:
        assert "isn't the one that the last checkpoint signs" in one.read_only


async def test_the_reader_answers_over_the_bus_with_a_permit(place):
    """Open and bus commands for the house, permits for people; the reader's own fold follows Postgres."""
    place.write(3)
    async with place.writing(), place.reading() as reading:
        shown = await place.gatekeeper.call(canon.CHECKPOINT, common.Empty())
        assert (shown.bootstrapped, shown.note) == (False, "")
        await place.world.send(place.pen)
        async with asyncio.timeout(PATIENCE_S):
            await reading.ready.wait()
        shown = await place.gatekeeper.call(canon.CHECKPOINT, common.Empty())
        assert checkpoint.open_signed(shown.note.encode(), place.world.log_key).size == len(place.world.log)
        page = await place.gatekeeper.call(canon.EVENTS, canon.Events(first=0, limit=2000))
        oracle.check(page.items, shown.note.encode(), place.world.state.genesis_hash)

        wanted = record.check(place.world.log[-1]).core.id
        body = msgspec.json.encode(canon.Get(id=wanted))
        # From after the reader began: one of before is none to it.
        place.world.clock.advance(1)
        granted = place.world.granted(place.ada, "canon/get", body)
        await place.world.send(place.pen)
        token = permit.seal(place.world.services["gatekeeper"], granted)
        gateway = await place.buses.bus("gateway")
        view = await gateway.call(canon.GET, body, permit=token)
        assert view.header["core"]["id"] == wanted
        with pytest.raises(Refused) as refused:
            await gateway.call(canon.GET, body)
        assert refused.value.code is Code.PERMIT_MISSING


async def test_without_its_database_a_reader_says_so(place):
    """UNAVAILABLE, and no word of addresses or passwords."""
    async with place.shelf() as shelf:
        await shelf.close()
        with pytest.raises(Lost):
            await shelf.head()
        one = reader.Reader(shelf, lambda: place.world.state, place.world.log_key)
        with pytest.raises(Refused) as refused:
            await one.page(canon.Events(first=0))
        assert refused.value.code is Code.UNAVAILABLE
        assert "password" not in str(refused.value.answer())
