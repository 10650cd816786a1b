"""A log never becomes shorter: set back, emptied or behind what is known of it, it is only read, says so, and is brought back whole."""

import asyncio
from pathlib import Path

import asyncpg
import msgspec
import pytest
import pytest_asyncio

from cli import ledger
from services.canon_writer import memory, restore
from services.canon_writer.laws import Moved, Query
from services.canon_writer.reading import Reading
from services.gateway import health
from sigilcore import ids, record
from sigilcore.access import Loa
from sigilcore.contracts import canon, common, house, knowledge
from sigilcore.refusals import Code, Refused
from sigilrun import http, testing
from sigilrun.embedded import postgres
from tests import machine as machines
from tests import oracle
from tests.canonworld import code_of
from tests.faults.test_writer_crash import PATIENCE_S, ROOT, Place, _unchained


@pytest_asyncio.fixture(loop_scope="session")
async def place(database, tmp_path):
    """A bus, a database and a world; some records of it are committed and published."""
    async with testing.bus_house(tmp_path / "house") as buses:
        made = Place(buses, database)
        await made.start()
        yield made


async def written(place, count=20):
    """A log with events, whose writer has ended."""
    place.write(count)
    async with place.writing():
        # A record that links no decision, and two calls that name it.
        signed, naming = place.world.finished(place.ada)
        mine, _ = (place.world.granted(place.ada, name, naming) for name in ("canon/user/write", "memory/write"))
        await place.world.send(place.pen)
        assert code_of(await place.world.call(place.pen, signed, decision=mine.decision)) is None
        # Commits of several records too, so that a log can be cut inside of one.
        several = _unchained(place, 12)
        await place.world.send(place.pen)
        await asyncio.gather(*(place.world.call(place.pen, one) for one in several))
        await place.check(len(place.world.log))
    return len(place.world.log)


async def restored(place, timeout_s=30):
    """The operator's command."""
    operator = await place.buses.bus("operator")
    return await operator.call(canon.RESTORE, common.Empty(), timeout_s=timeout_s)


async def state_of(place):
    """What the writer says of itself to whoever asks for its health."""
    gateway = await place.buses.bus("gateway")
    reply = await gateway.request("$SRV.PING.canon_writer", b"", timeout_s=2)
    return msgspec.json.decode(reply.data)["metadata"]["state"]


async def writes_again(place):
    """The next start writes, publishes, and the whole ledger verifies."""
    async with place.writing() as one:
        assert one.service.committer.read_only is None
        place.write(2)
        (late,) = _unchained(place, 1)
        await place.world.send(place.pen)
        assert code_of(await place.world.call(place.pen, late)) is None
        await place.check(len(place.world.log))


async def emptied(place):
    for table in ("record", "checkpoint", "cosignature", "tile", "data_key"):
        await place.database.tamper(f"delete from canon.{table}")


async def rows_alone(place, size):
    """Only rows are removed: checkpoints and tiles stay behind."""
    await place.database.tamper("delete from canon.record where seq >= $1", size)


async def as_backup(place, size):
    """Everything is as it was after the last commit up to that size."""
    async with place.shelf() as shelf:
        size = max(await shelf.notes(0, size))
    await place.set_back(size)


async def a_hole(place, size):
    """One record in the middle is gone, and the last one, so that it is noticed."""
    await place.set_back(size)
    await place.database.tamper("delete from canon.record where seq = $1", size - 10)


@pytest.mark.parametrize("how", [as_backup, rows_alone, a_hole])
async def test_what_survives_in_the_stream_is_brought_back(place, how):
    """Read-only and loud first; then every record stands at its old place, under its old checkpoint, and writing goes on."""
    size = await written(place)
    before = await place.records()
    await how(place, size - 5)
    async with place.writing() as one, place.reading() as reading:
        assert one.service.committer.read_only is not None
        await place.refused_as_read_only()
        said = await state_of(place)
        assert said == f"read-only: {one.service.committer.read_only}"
        parts = {"bus": "connected", "canon_writer": said, "canon_reader": "serving", "gatekeeper": "serving"}
        shown = await place.gatekeeper.call(canon.CHECKPOINT, common.Empty())
        told = health.judge(parts, shown, coming_up=False)
        assert (told.ready, told.state) == (False, "read-only")
        assert any(said in line for line in told.wrong)
        assert (await place.gatekeeper.call(canon.EVENTS, canon.Events(first=0))).items
        assert not reading.ended.is_set()
        answer = await restored(place)
        assert (answer.size, answer.left) == (size, 0)
        assert answer.restored >= 5
        await place.refused_as_read_only()
        async with asyncio.timeout(PATIENCE_S):
            await one.ended.wait()
    assert await place.records() == before
    await writes_again(place)


async def test_an_emptied_database_is_brought_back_from_genesis_on(place):
    """Not a row is left: bootstrap stays shut, also at a second start, and the stream holds the whole log."""
    size = await written(place)
    before = await place.records()
    await emptied(place)
    for _ in range(2):
        async with place.writing():
            await place.refused_as_read_only()
    async with place.writing():
        answer = await restored(place)
        assert (answer.restored, answer.size, answer.left) == (size, size, 0)
    assert await place.records() == before
    await writes_again(place)


async def test_looking_at_a_shorter_database_does_not_lower_what_is_known(place):
    """The high-water file grows only: a second start on the set-back database knows as much as the first."""
    size = await written(place)
    await place.buses.delete_stream()
    await as_backup(place, size - 4)
    for _ in range(2):
        async with place.writing() as one:
            assert f"the high-water file knows of {size}" in one.service.committer.read_only
            one.service.high_water.write()
        assert place.high_water.read_bytes() == b"%d\n" % size
    place.high_water.write_bytes(b"1_000\n")
    async with place.writing() as one:
        one.service.high_water.write()
    assert place.high_water.read_bytes() == b"1_000\n"


async def test_an_old_copy_without_a_stream_stays_read_only(place):
    """Nothing survives: the command says at which place, nothing is written, and the next start asks again."""
    size = await written(place)
    await place.buses.delete_stream()
    await as_backup(place, size - 4)
    left = len(await place.records())
    async with place.writing() as one:
        with pytest.raises(Refused) as refused:
            await restored(place)
        assert refused.value.code is Code.READ_ONLY
        assert not one.ended.is_set()
    assert len(await place.records()) == left
    async with place.writing():
        await place.refused_as_read_only()


async def test_a_healthy_writer_has_nothing_to_bring_back(place):
    """The command changes nothing and the writer goes on."""
    size = await written(place)
    async with place.writing() as one:
        answer = await restored(place)
        assert (answer.restored, answer.size, answer.left) == (0, size, 0)
        assert not one.ended.is_set()
        place.write(1)
        await place.world.send(place.pen)
        await place.check(len(place.world.log))


async def test_a_restore_that_was_killed_is_asked_again(place):
    """Put back in part, as a crash leaves it: the same command finishes, and nothing stands twice."""
    size = await written(place)
    before = await place.records()
    await as_backup(place, size // 2)
    async with place.shelf() as shelf:
        await shelf.open()
        keeper = await place.buses.bus(house.KEEPER)
        survivors = restore.StreamSurvivors(keeper, "default")

        class Breaking(restore.StreamSurvivors):
            async def fetch(self, seqs):
                found = await survivors.fetch(seqs)
                return {seq: one for seq, one in found.items() if seq < size - 6}

        with pytest.raises(Refused) as refused:
            await restore.Restoring(shelf, Breaking(keeper, "default"), place.world.deployment).run()
        assert refused.value.detail == {"seq": size - 6}
        first = len(await place.records())
        assert size // 2 < first <= size - 6
        done = await restore.Restoring(shelf, survivors, place.world.deployment).run()
        assert (done.restored, done.size) == (size - first, size)
        done = await restore.Restoring(shelf, survivors, place.world.deployment).run()
        assert (done.restored, done.size) == (0, size)
    assert await place.records() == before
    await writes_again(place)


# What survives is believed only for its signatures. The laws of restoring, on memory and Postgres alike.


class Kept:
    """Survivors in a list, for whoever wants to change them."""

    def __init__(self, rows, notes):
        self.kept = {row.seq: restore.Survivor(placed=row.placed(), note=notes.get(row.seq + 1)) for row in rows}

    async def size(self):
        return max(self.kept, default=-1) + 1

    async def fetch(self, seqs):
        return {seq: self.kept[seq] for seq in seqs if seq in self.kept}

    def change(self, seq, **fields):
        placed = msgspec.structs.replace(self.kept[seq].placed, **fields)
        self.kept[seq] = msgspec.structs.replace(self.kept[seq], placed=placed)


@pytest_asyncio.fixture(loop_scope="session")
async def lost(place):
    """A log that survives in a list, and an empty store."""
    await written(place, 10)
    async with place.shelf() as shelf:
        rows = await shelf.rows(Query(first=0, end=10_000, limit=10_000))
        kept = Kept(rows, await shelf.notes(0, 10_000))
    await emptied(place)
    async with place.shelf() as empty:
        await empty.open()
        yield place, empty, kept


async def _refused(place, empty, kept, deployment=None):
    with pytest.raises(Refused) as refused:
        await restore.Restoring(empty, kept, deployment or place.world.deployment).run()
    return refused.value


@pytest.mark.parametrize(
    "what", ["payload", "salt", "swapped", "missing", "note", "another log's note", "note of other records"]
)
async def test_a_survivor_that_does_not_follow_ends_the_work_at_its_place(lost, what):
    """Changed, exchanged, absent, under a checkpoint that isn't the log's or signs something else: nothing from there on is put back."""
    place, empty, kept = lost
    at = 12
    if what == "payload":
        kept.change(at, payload=msgspec.Raw(bytes(kept.kept[at].placed.payload).replace(b'"', b" ", 1)))
    elif what == "salt":
        kept.change(at, salt="0" * 32)
    elif what == "swapped":
        kept.kept[at] = msgspec.structs.replace(
            kept.kept[at + 2], placed=msgspec.structs.replace(kept.kept[at + 2].placed, seq=at)
        )
    elif what == "missing":
        del kept.kept[at]
    else:
        at = next(seq for seq in range(at, 100) if kept.kept[seq].note)
        other = next(kept.kept[seq].note for seq in range(at - 1, 0, -1) if kept.kept[seq].note)
        wrong = {
            "note": b"no note",
            "another log's note": kept.kept[at].note.replace(place.world.origin.encode(), b"sigil/other/default"),
            "note of other records": other,
        }[what]
        kept.kept[at] = msgspec.structs.replace(kept.kept[at], note=wrong)
    refused = await _refused(place, empty, kept)
    assert refused.code in {Code.READ_ONLY, Code.CORRUPT_RECORD}
    assert refused.detail == {"seq": at}
    head = await empty.head()
    assert head.size <= at
    placed = await place.records()
    assert len(placed) == head.size
    if head.size:
        oracle.check(placed, head.note, place.world.state.genesis_hash)


async def test_another_deployments_log_is_not_brought_in(lost):
    """Genesis must name this deployment's keys: a stream of another house restores nothing."""
    place, empty, kept = lost
    deployment = msgspec.structs.replace(place.world.deployment, runtime_id=ids.new())
    refused = await _refused(place, empty, kept, deployment)
    assert refused.detail == {"seq": 0}
    assert (await empty.head()).size == 0


async def test_what_no_checkpoint_covers_is_left_where_it_is(lost):
    """The stream ends inside of a commit: no checkpoint is made for the rest, and it is said how many are left."""
    place, empty, kept = lost
    size = len(place.world.log)
    last = max(seq for seq in kept.kept if seq < size - 1 and kept.kept[seq].note)
    kept.kept[size - 1] = msgspec.structs.replace(kept.kept[size - 1], note=None)
    done = await restore.Restoring(empty, kept, place.world.deployment).run()
    assert (done.size, done.left) == (last + 1, size - last - 1)
    head = await empty.head()
    assert head.size == last + 1
    oracle.check(await place.records(), head.note, place.world.state.genesis_hash)


async def test_memory_keeps_the_same_law(lost):
    """The canon in memory is brought back by the same code, and a fenced or contradicted one isn't."""
    place, empty, kept = lost
    disk = memory.Disk()
    mine = memory.MemoryStore(disk)
    await mine.open()
    done = await restore.Restoring(mine, kept, place.world.deployment).run()
    await restore.Restoring(empty, kept, place.world.deployment).run()
    assert done.size == len(disk.rows) == len(place.world.log)
    rows = await empty.rows(Query(first=0, end=10_000, limit=10_000))
    assert list(rows) == disk.rows
    refs = list(disk.decisions)
    assert {(row.record, row.index): row for row in await empty.decisions(refs)} == disk.decisions
    assert (await empty.head()).note == (await mine.head()).note


async def test_what_stands_is_never_written_over(lost):
    """Another record, decision or checkpoint where one is to be put back: Moved, and nothing changes."""
    place, empty, kept = lost
    await restore.Restoring(empty, kept, place.world.deployment).run()
    before = await place.records()
    await place.database.tamper("update canon.checkpoint set note = note || ' '::bytea where size = $1", len(before))
    await place.database.tamper("delete from canon.record where seq = $1", len(before) - 1)
    kept_note = kept.kept[len(before) - 1].note
    notes = await empty.notes(len(before), len(before))
    assert notes[len(before)] != kept_note
    refused = await _refused(place, empty, kept)
    assert refused.code is Code.READ_ONLY
    await place.database.tamper("update canon.checkpoint set note = $1 where size = $2", kept_note, len(before))
    await place.database.tamper(
        "update canon.record set decision = decision - 1 where seq = (select max(seq) from canon.record where decision is not null)"
    )
    with pytest.raises(Moved):
        await restore.Restoring(empty, kept, place.world.deployment).run()
    assert len(await place.records()) == len(before) - 1


async def test_a_page_of_everything_reports_a_missing_record(place):
    """A row that was removed in the middle is told at its position by list, by history's chain and by get; the rest is shown."""
    size = await written(place)
    async with place.committing() as one:
        versions = [place.world.remember(place.ada, "thing", f"text {number}") for number in range(4)]
        await place.world.send(one)
        state = one.state
    seqs = {checked.core.id: seq for seq, checked in enumerate(map(record.check, place.world.log))}
    gone = seqs[versions[1].core.id]
    assert gone > size
    await place.database.tamper("delete from canon.record where seq = $1", gone)
    async with place.shelf() as shelf:
        reading = Reading(shelf, lambda: state, place.world.log_key)
        page = await reading.records(ROOT, canon.ListRecords(limit=500))
        assert [corrupt.seq for corrupt in page.corrupt] == [gone]
        assert len(page.items) == len(place.world.log) - 1
        history = await reading.history(ROOT, canon.History(id=versions[3].core.id))
        assert [item.seq for item in history.items] == [seqs[versions[at].core.id] for at in (3, 2, 0)]
        assert [corrupt.seq for corrupt in history.corrupt] == [seqs[versions[2].core.id]]
        with pytest.raises(Refused) as refused:
            await reading.diff(ROOT, canon.Diff(new=versions[2].core.id))
        assert refused.value.code is Code.CORRUPT_RECORD


# The whole house


async def test_a_house_whose_database_was_set_back_says_so_and_is_brought_back(tmp_path):
    """Rows removed by the superuser: appends refused, /readyz says why, the log is still read; one command, and everyone goes on."""
    async with machines.running(tmp_path / "data") as house:
        ada = await house.person("ada", Loa.OPERATOR)
        for number in range(5):
            await _write(ada, number)
        bus = await ledger.connect(house.data, "operator")
        try:
            await bus.call(
                canon.REFILL, common.Empty(), timeout_s=30
            )  # returns when the stream has all that the store has
        finally:
            await bus.close()
        await _remove_newest_rows(house, 6)
        pid = house.kill("canon_writer")
        await house.replaced("canon_writer", pid)
        told = await _ready(house, "read-only")
        assert any("read-only: " in line for line in told["wrong"])
        with pytest.raises(Refused):
            await _write(ada, 5, give_up_s=1)
        status, _ = await ada.client.fetch("GET", "/log/default/checkpoint")
        assert status == 200
        bus = await ledger.connect(house.data, "operator")
        try:
            assert (await bus.call(canon.EVENTS, canon.Events(first=0))).items
            done = await bus.call(canon.RESTORE, common.Empty(), timeout_s=30)
        finally:
            await bus.close()
        assert (done.restored, done.left) == (6, 0)
        await _ready(house, "serving")
        await _write(ada, 6)


async def test_versions_are_read_through_the_front_door(tmp_path):
    """History and difference by the gateway's commands, for their owner alone; the GET routes are there and need a session."""
    async with machines.running(tmp_path / "data") as house:
        ada, eve = await house.person("ada", Loa.OPERATOR), await house.person("eve", Loa.OPERATOR)
        for value in ("first", "second"):
            asked = knowledge.UserWrite(key="thing", value=value, id=ids.new())
            written = await http.persistently(
                lambda asked=asked: ada.client.call(knowledge.USER_WRITE, asked), give_up_s=30
            )
        history = await ada.client.call(canon.HISTORY, canon.History(id=written.id))
        assert [item.payload["value"] for item in history.items] == ["second", "first"]
        found = await ada.client.call(canon.DIFF, canon.Diff(new=written.id))
        assert canon.Differs(path="$.value", old="first", new="second") in found.lines
        with pytest.raises(Refused) as refused:
            await eve.client.call(canon.HISTORY, canon.History(id=written.id))
        assert refused.value.code is Code.NOT_FOUND
        stranger = await house.client()
        for path in ("/api/canon/history?kind=access_policy&limit=5", f"/api/canon/diff?new={written.id}"):
            status, _ = await stranger.fetch("GET", path)
            assert status == 401


async def _write(someone, number, give_up_s=30):
    asked = knowledge.UserWrite(key=f"key-{number}", value=number, id=ids.new())
    return await http.persistently(lambda: someone.client.call(knowledge.USER_WRITE, asked), give_up_s=give_up_s)


async def _ready(house, state):
    """What /readyz says, once it says this."""
    client = await house.client()
    async with asyncio.timeout(PATIENCE_S):
        while True:
            status, body = await client.fetch("GET", "/readyz")
            told = msgspec.json.decode(body)
            if told["state"] == state:
                assert (status == 200) is told["ready"] is (state == "serving")
                return told
            await asyncio.sleep(0.1)


async def _remove_newest_rows(house, count):
    pid = house.pids()["canon_writer"]
    env = dict(pair.split("=", 1) for pair in Path(f"/proc/{pid}/environ").read_text().rstrip("\0").split("\0"))
    connection = await asyncpg.connect(
        host=env["SIGIL_CANON_HOST"],
        port=int(env["SIGIL_CANON_PORT"]),
        database=env["SIGIL_CANON_DATABASE"],
        user=postgres.SUPERUSER,
        password=(house.data / "keys" / "postgres_superuser").read_text().strip(),
        ssl=False,
    )
    try:
        await connection.execute("alter table canon.record disable trigger user")
        await connection.execute(
            "delete from canon.record where seq > (select max(seq) from canon.record) - $1::bigint", count
        )
        await connection.execute("alter table canon.record enable always trigger append_only")
    finally:
        await connection.close()
