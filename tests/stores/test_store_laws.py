"""The laws of a store, stated once and kept by memory and by Postgres alike."""

import contextlib
import uuid

import msgspec
import pytest
import pytest_asyncio

from services.canon_writer import laws, memory, store, tree
from services.canon_writer.laws import Batch, Fenced, Head, Moved, Query, Use
from sigilcore import admission, decision, merkle, record
from sigilcore.access import Loa
from sigilcore.records import user
from tests import payloadkey
from tests.canonworld import World
from tests.simulator import Person

NOTE = b"a signed note"


class Bench:
    """A store, another one on the same data, and batches made of a real house's records."""

    def __init__(self, make):
        self.make = make
        self.house = World()
        self.ada = self.house.issue(Person("ada"), Loa.OPERATOR)
        self.edge = tree.Edge()
        self.size = 0

    def rows(self, count):
        """The house's next records as rows."""
        while len(self.house.log) < self.size + count:
            self.house.remember(self.ada, f"key-{len(self.house.log) % 5}")
        return tuple(
            laws.row_of(checked, seq, laws.thing_of(checked))
            for seq, checked in enumerate(map(record.check, self.house.log[self.size : self.size + count]), self.size)
        )

    def batch(self, count, **changes):
        """The next batch; it isn't counted as written until `done`."""
        rows = self.rows(count)
        growth = self.edge.grow([merkle.leaf_hash(row.header) for row in rows])
        self.grown = growth.edge
        fields = {
            "size": self.size,
            "rows": rows,
            "uses": (),
            "tiles": growth.tiles,
            "note": NOTE + b"%d" % (self.size + count),
        }
        return Batch(**(fields | changes))

    def erase(self, slug):
        """The house's next records end with an erasure of all that Ada wrote under this name; the thing."""
        granted = self.house.granted(self.ada, "canon/user/erase", b"{}")
        name = next(
            one.kind.thing_name(one.payload)
            for one in map(record.check, self.house.log)
            if one.core.kind == "memory_block" and one.payload.key.endswith(slug)
        )
        live = []
        for one in map(record.check, self.house.log):
            if one.kind.thing_name(one.payload) == name:
                live = [] if one.kind.erases else [*live, one.core.id]
        request = decision.Request(
            command=granted.command, salt=granted.salt, digest=granted.digest, parameters="0" * 64
        )
        payload = user.Erasure(owner=name[1], kind=name[0], key=name[2], records=tuple(live), request=request)
        link = record.Link(label="decision", target=granted.decision.link())
        self.house.append(
            "erasure", payload, self.house.instances["knowledge"], links=[link], prev=self.house.heads[name]
        )
        return laws.thing_named("default", name[1], name[0], name[2])

    async def write(self, one, count=None):
        """So many records more, or all that the house has."""
        count = len(self.house.log) - self.size if count is None else count
        batch = self.batch(count)
        await one.commit(batch)
        self.edge, self.size = self.grown, self.size + count
        return batch


@pytest_asyncio.fixture(params=["memory", "postgres"], loop_scope="session")
async def bench(request, postgres_server):
    """A bench on each kind of store; `make` gives further stores on the same data."""
    async with contextlib.AsyncExitStack() as stack:
        if request.param == "memory":
            disk = memory.Disk()

            async def make():
                return memory.MemoryStore(disk)

        else:
            database = await postgres_server.database()

            async def make():
                made = await store.PostgresStore.connect(
                    database.options("canon_writer", pool_size=2), "default", payloadkey.ONE, unseen_s=-1
                )
                stack.push_async_callback(made.close)
                return made

        yield Bench(make)


def decisions(batch):
    return [made for row in batch.rows for made in admission.decisions_of(record.check(row.signed()), row.seq)]


async def everything(one, bench):
    return await one.rows(Query(first=0, end=10_000, limit=10_000))


async def test_what_was_committed_is_read_back_exactly(bench):
    """Rows, tiles, notes and head after two commits are what the batches held."""
    one = await bench.make()
    await one.open()
    assert await one.head() == Head(size=0, note=b"")
    first = await bench.write(one, 200)
    second = await bench.write(one, 100)
    assert tuple(await everything(one, bench)) == first.rows + second.rows
    assert await one.headers(198, 202) == [row.header for row in (first.rows + second.rows)[198:202]]
    assert await one.head() == Head(size=300, note=NOTE + b"300")
    assert await one.notes(1, 300) == {200: NOTE + b"200", 300: NOTE + b"300"}
    assert len(second.tiles) == 1
    assert await one.tiles([(0, 0), (0, 1), (1, 0)]) == {(0, 0): second.tiles[0].hashes}


async def test_a_batch_begins_at_the_head(bench):
    """A batch for an older or a later head is refused whole, so seq has no gap and no double."""
    one = await bench.make()
    await one.open()
    await bench.write(one, 5)
    for size in (4, 6):
        with pytest.raises(Moved):
            await one.commit(bench.batch(2, size=size))
    assert (await one.head()).size == 5
    assert len(await everything(one, bench)) == 5


async def test_an_id_stands_once(bench):
    """A batch with an id that stands already, or twice in itself, writes nothing."""
    one = await bench.make()
    await one.open()
    before = await bench.write(one, 5)
    fresh = bench.rows(2)
    taken = msgspec.structs.replace(fresh[1], id=before.rows[3].id)
    for rows in ((fresh[0], taken), (fresh[0], msgspec.structs.replace(fresh[1], id=fresh[0].id))):
        with pytest.raises(Moved):
            await one.commit(bench.batch(2, rows=rows))
    assert (await one.head()).size == 5
    await bench.write(one, 2)


async def test_a_decision_is_used_once(bench):
    """The second use of a decision, in the same batch or a later one, is refused and writes nothing of its batch."""
    one = await bench.make()
    await one.open()
    batch = await bench.write(one, 40)
    made = decisions(batch)[0]
    ref = (made.record, made.index)

    def use(row):
        return Use(ref=ref, seq=made.seq, by=row.id)

    both = bench.rows(2)
    with pytest.raises(Moved):
        await one.commit(bench.batch(2, uses=(use(both[0]), use(both[1]))))
    await one.commit(bench.batch(1, uses=(use(both[0]),)))
    bench.edge, bench.size = bench.grown, bench.size + 1
    (row,) = await one.decisions([ref])
    assert row == msgspec.structs.replace(made, used_by=both[0].id)
    (late,) = bench.rows(1)
    with pytest.raises(Moved):
        await one.commit(bench.batch(1, uses=(use(late),)))
    unknown = Use(ref=(batch.rows[0].id, 0), seq=batch.rows[0].seq, by=late.id)
    with pytest.raises(Moved):
        await one.commit(bench.batch(1, uses=(unknown,)))
    stranger = Use(ref=(decisions(batch)[1].record, 0), seq=decisions(batch)[1].seq, by=batch.rows[0].id)
    with pytest.raises(Moved):
        await one.commit(bench.batch(1, uses=(stranger,)))
    assert (await one.head()).size == 41


async def test_whoever_opens_later_fences_the_one_before(bench):
    """After another writer's `open` the old one commits nothing, and the new one does."""
    old, new = await bench.make(), await bench.make()
    await old.open()
    await bench.write(old, 5)
    await new.open()
    with pytest.raises(laws.StoreError) as caught:
        await old.commit(bench.batch(1))
    assert isinstance(caught.value, Fenced | laws.Lost)
    with pytest.raises(Fenced):
        await old.open()
    assert (await new.head()).size == 5
    await bench.write(new, 1)
    assert (await new.head()).size == 6


async def test_what_the_start_needs_is_found(bench):
    """Governing rows in order, the newest audit record of each key, the newest version of each thing, decisions by their names."""
    one = await bench.make()
    await one.open()
    batch = await bench.write(one, 120)
    governing = [row async for row in one.governing()]
    assert governing == [row for row in batch.rows if row.governs]
    heads = {row.author: row.hash.hex() for row in batch.rows if row.space == "audit"}
    assert await one.chain_heads([*heads, "0" * 32]) == heads
    things = {row.thing: row.hash.hex() for row in batch.rows if row.thing is not None}
    assert len(things) == 5
    assert (await one.standing([], [*things, bytes(16)])).heads == things
    ids = sorted((row.id for row in batch.rows), reverse=True)
    assert list(await one.greatest_ids(7)) == ids[:7]
    assert list(await one.greatest_ids(200)) == ids
    wanted = [(row.record, row.index) for row in decisions(batch)]
    found = await one.decisions([*wanted, (batch.rows[0].id, 3)])
    assert sorted(found, key=lambda row: row.seq) == decisions(batch)


async def test_rows_are_chosen_by_kind_space_subject_owner_and_time(bench):
    """Each filter chooses what a plain look at all rows chooses, in order, from any start, within any limit."""
    one = await bench.make()
    await one.open()
    rows = (await bench.write(one, 90)).rows
    queries = [
        Query(first=10, end=80, limit=500),
        Query(first=10, end=80, limit=7),
        Query(first=0, end=90, limit=5, kinds=("memory_block",)),
        Query(first=21, end=90, limit=500, kinds=("memory_block", "genesis", "instance_opened")),
        Query(first=0, end=90, limit=500, spaces=("system", "user")),
        Query(first=3, end=90, limit=500, subject="ada"),
        Query(first=0, end=90, limit=500, subject="ada", kinds=("memory_block",), spaces=("user",)),
        Query(first=0, end=90, limit=500, owner="nobody"),
        Query(first=0, end=90, limit=500, owner="ada"),
        Query(first=0, end=90, limit=500, since_ms=rows[0].ts_ms, until_ms=rows[0].ts_ms + 1),
        Query(first=0, end=90, limit=500, since_ms=rows[0].ts_ms + 1),
    ]
    for query in queries:
        assert list(await one.rows(query)) == _plainly(rows, query), query


async def test_a_page_is_bounded_in_bytes_and_never_empty_for_it(bench):
    """At most about `max_bytes` come back, and always the first row."""
    one = await bench.make()
    await one.open()
    rows = (await bench.write(one, 30)).rows
    one_row = len(rows[0].header) + len(rows[0].payload)
    assert await one.rows(Query(first=0, end=30, limit=30, max_bytes=1)) == [rows[0]]
    assert await one.rows(Query(first=0, end=30, limit=30, max_bytes=one_row)) == [rows[0]]
    assert await one.rows(Query(first=0, end=30, limit=30, max_bytes=one_row + 1)) == list(rows[:2])


async def test_versions_come_newest_first_within_their_bounds(bench):
    """Of a thing and of a system kind, below any seq, within a number and about so many bytes."""
    one = await bench.make()
    await one.open()
    rows = (await bench.write(one, 90)).rows
    things = {row.thing for row in rows if row.thing is not None}
    kinds = (("genesis",), ("access_policy",), ("memory_block",), ("access_policy", "genesis"))
    for of in (*things, *kinds, bytes(16)):
        chosen = [
            row
            for row in reversed(rows)
            if row.thing == of or (isinstance(of, tuple) and row.space == "system" and row.kind in of)
        ]
        assert list(await one.versions(of, 90, 500, 1 << 30)) == chosen
        assert list(await one.versions(of, 90, 3, 1 << 30)) == chosen[:3]
        assert list(await one.versions(of, 90, 500, 1)) == chosen[:1]
        assert list(await one.versions(of, 40, 500, 1 << 30)) == [row for row in chosen if row.seq < 40]


async def test_single_rows_are_found_by_id_and_hash(bench):
    """Ids and hashes name their rows; strange ones name none."""
    one = await bench.make()
    await one.open()
    rows = (await bench.write(one, 20)).rows
    found = await one.by_ids({rows[3].id, rows[7].id, str(uuid.uuid4()), "z" * 36})
    assert sorted(found, key=lambda row: row.seq) == [rows[3], rows[7]]
    assert await one.by_hash(rows[9].hash) == rows[9]
    assert await one.by_hash(bytes(32)) is None


async def test_an_erasure_takes_the_payloads_of_one_thing_and_nothing_else(bench):
    """After its commit the thing's rows so far are headers, for every reader of the store at once; all else stays, and says what it was."""
    one, other = await bench.make(), await bench.make()
    await one.open()
    rows = list((await bench.write(one, 60)).rows)
    await everything(other, bench)  # who has read it before doesn't read on
    thing = bench.erase("key-3")
    rows += bench.rows(len(bench.house.log) - bench.size)
    gone = [row.seq for row in rows if row.thing == thing and row.kind != "erasure"]
    assert len(gone) > 2
    assert await one.live([thing, bytes(16)]) == {thing: [rows[seq].id for seq in gone if seq < bench.size]}
    await bench.write(one)
    for store_of in (one, other, await bench.make()):
        for found in await everything(store_of, bench):
            before = rows[found.seq]
            if found.seq not in gone:
                assert found == before
                continue
            assert found == laws.without_payload(before)
            assert (found.erased, found.header, found.weight) == (True, before.header, before.weight)
        assert await store_of.by_hash(rows[gone[0]].hash) == laws.without_payload(rows[gone[0]])
        assert {row.seq for row in await store_of.by_ids({rows[seq].id for seq in gone})} == set(gone)
        assert [row.seq for row in await store_of.versions(thing, len(rows), 500, 1 << 30)] == [
            len(rows) - 1,
            *gone[::-1],
        ]
    assert await one.live([thing]) == {}
    assert [(erased.seq, erased.by) for erased in await one.erased(0)] == [(seq, len(rows) - 1) for seq in gone]
    assert await one.erased(len(rows)) == []
    assert (await one.standing([], [thing])).heads == {thing: rows[-1].hash.hex()}


async def test_a_thing_is_written_and_erased_again(bench):
    """Each erasure ends what stands before it and nothing after it; a thing that is written and erased in one commit is gone too."""
    one = await bench.make()
    await one.open()
    await bench.write(one, 40)
    thing = bench.erase("key-1")
    await bench.write(one)
    bench.house.remember(bench.ada, "key-1")
    await bench.write(one)
    (second,) = (await one.live([thing]))[thing]
    (row,) = await one.by_ids({second})
    assert not row.erased
    bench.erase("key-1")
    bench.house.remember(bench.ada, "key-1")
    bench.erase("key-1")
    batch = await bench.write(one)
    third = next(row for row in batch.rows if row.thing == thing and row.kind == "memory_block")
    assert [found.erased for found in await one.by_ids({second, third.id})] == [True, True]
    assert await one.live([thing]) == {}


async def test_an_erasure_that_is_put_back_erases_again(bench):
    """A store that was set back behind an erasure holds the payloads again; with the erasure they go, whole."""
    one = await bench.make()
    await one.open()
    rows = (await bench.write(one, 40)).rows
    thing = bench.erase("key-4")
    lost = bench.batch(len(bench.house.log) - bench.size)
    await one.put_back(lost)
    found = await everything(one, bench)
    gone = [row.seq for row in (*rows, *lost.rows) if row.thing == thing and row.kind != "erasure"]
    assert [row.seq for row in found if row.erased] == gone
    assert await one.live([thing]) == {}
    await one.put_back(msgspec.structs.replace(lost, rows=tuple(found[bench.size :])))
    assert await everything(one, bench) == found


async def test_a_refused_commit_erases_nothing(bench):
    """An erasure whose commit doesn't stand leaves every payload where it was."""
    one = await bench.make()
    await one.open()
    rows = (await bench.write(one, 40)).rows
    thing = bench.erase("key-2")
    batch = bench.batch(len(bench.house.log) - bench.size)
    with pytest.raises(Moved):
        await one.commit(msgspec.structs.replace(batch, uses=(Use(ref=(rows[0].id, 0), seq=0, by=batch.rows[0].id),)))
    assert await everything(one, bench) == list(rows)
    await bench.write(one)
    assert await one.live([thing]) == {}


def _plainly(rows, query):
    chosen = [
        row
        for row in rows
        if query.first <= row.seq < query.end
        and row.kind in (query.kinds or (row.kind,))
        and row.space in (query.spaces or (row.space,))
        and query.subject in {None, row.subject}
        and (query.owner is None or row.space != "user" or row.subject == query.owner)
        and (query.since_ms is None or row.ts_ms >= query.since_ms)
        and (query.until_ms is None or row.ts_ms < query.until_ms)
    ]
    return chosen[: query.limit]


def line(key, text=b"a line"):
    return laws.Cosignature(key=bytes([key]) * 32, line=text)


async def test_the_first_line_of_a_key_stays(bench):
    """Lines are added to a checkpoint that is there; the same key's second one, and one for no checkpoint, change nothing."""
    one = await bench.make()
    await one.open()
    await bench.write(one, 3)
    await one.cosign(3, [line(1), line(2)])
    await one.cosign(3, [line(1, b"another line"), line(3)])
    await one.cosign(2, [line(1)])
    assert sorted((found.key[0], found.line) for found in await one.cosignatures(3)) == [
        (1, b"a line"),
        (2, b"a line"),
        (3, b"a line"),
    ]
    assert await one.cosignatures(2) == []


async def test_the_newest_marks_of_checkpoints_that_are_there(bench):
    """Marks come back largest first and bounded; again, and for no checkpoint, changes nothing."""
    one = await bench.make()
    await one.open()
    for _ in range(3):
        await bench.write(one, 2)
    for size in (4, 2, 4, 3, 6, 8):
        await one.mark_witnessed(size)
    assert list(await one.witnessed(10)) == [6, 4, 2]
    assert list(await one.witnessed(2)) == [6, 4]
