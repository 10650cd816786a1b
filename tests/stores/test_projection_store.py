"""The records view: the laws of every view file, and what is particular to this one."""

import asyncio
import os
import random

import msgspec
import pytest

from services.knowledge import store as knowledge_store
from services.projections import rules
from services.projections import store as projection_store
from services.projections.generations import Generations
from services.projections.rebuild import rebuild
from services.projections.shelf import Shelf
from sigilcore import faults
from sigilcore.refusals import Code, Refused
from sigilrun import consume, live, sqlite
from tests.stores import views

HOUSE = views.house_with_memories(40)
EVENTS = views.events_of(HOUSE)


@pytest.fixture(params=[knowledge_store.Store, projection_store.Store], ids=["knowledge", "projections"])
def make(request, tmp_path):
    """Opens the same view file, again and again."""
    return lambda name="view.db": request.param(tmp_path / name)


def dump(store):
    """All content, by the tables themselves."""
    names = [row[0] for row in store.db.execute("select name from sqlite_schema where type = 'table' order by 1")]
    return {name: sorted(map(repr, store.db.execute(f"select * from {name}"))) for name in names}


class Crash(BaseException):
    """Not an Exception: nothing that only catches those can survive it."""


# The laws of every view file


def test_what_events_change_and_the_position_are_one(make):
    """The position moves with the data, and both are there for whoever opens the file next."""
    store = make()
    assert store.at == consume.START
    views.feed(store, EVENTS, end=30)
    whole = dump(store)
    store.close()
    again = make()
    assert again.at == views.position_at(EVENTS, 30)
    assert dump(again) == whole


def test_a_crash_inside_the_transaction_leaves_the_old_position(make, monkeypatch):
    """Between the data and the commit: the file is as it was, and the same batch goes in afterwards."""
    store = make()
    views.feed(store, EVENTS, end=28)
    before = dump(store)
    fold = store.fold

    def folded_then_crashed(events):
        fold(events)
        raise Crash

    monkeypatch.setattr(store, "fold", folded_then_crashed)
    with pytest.raises(Crash):
        store.apply(EVENTS[28:35], views.position_at(EVENTS, 35))
    assert store.at.next_seq == 28
    assert dump(store) == before
    monkeypatch.undo()
    views.feed(store, EVENTS, start=28)
    assert store.at.next_seq == len(EVENTS)


def test_a_process_killed_before_its_commit_left_nothing(make):
    """Another process dies with the transaction open; its work isn't there, the earlier work is."""
    store = make()
    views.feed(store, EVENTS, end=20)
    store.close()
    if (child := os.fork()) == 0:
        dying = make()
        dying.db.execute("begin immediate")
        dying.fold(EVENTS[20:30])
        dying.db.execute("insert or replace into position values (1, 30, x'00')")
        os._exit(9)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    again = make()
    assert again.at == views.position_at(EVENTS, 20)
    views.feed(again, EVENTS, start=20)


def test_older_events_are_ignored(make):
    """At least once is enough: what was applied is skipped, whole batches and parts of them."""
    store = make()
    views.feed(store, EVENTS, end=30)
    before = dump(store)
    store.apply(EVENTS[:30], views.position_at(EVENTS, 30))
    store.apply(EVENTS[5:12], views.position_at(EVENTS, 12))
    assert dump(store) == before
    store.apply(EVENTS[25:40], views.position_at(EVENTS, 40))
    other = make("other.db")
    views.feed(other, EVENTS, end=40)
    assert dump(store) == dump(other)


@pytest.mark.parametrize(
    ("chosen", "end"),
    [
        (slice(31, 35), 35),
        (slice(30, 34), 35),
        (slice(30, 30), 35),
        (slice(30, 36, 2), 36),
    ],
    ids=["hole before", "hole after", "nothing", "holes between"],
)
def test_a_gap_is_impossible(make, chosen, end):
    """A batch that doesn't follow on is refused whole, wherever its hole is."""
    store = make()
    views.feed(store, EVENTS, end=30)
    before = dump(store)
    with pytest.raises(sqlite.Gap):
        store.apply(EVENTS[chosen], views.position_at(EVENTS, end))
    assert dump(store) == before


def test_content_depends_on_the_log_alone(make):
    """Whatever the batches, the same records make the same content."""
    one, other = make("one.db"), make("other.db")
    views.feed(one, EVENTS, step=1)
    sizes = random.Random(7)
    at = 0
    while at < len(EVENTS):
        step = sizes.randint(1, 20)
        views.feed(other, EVENTS, start=at, end=min(at + step, len(EVENTS)), step=step)
        at += step
    assert dump(one) == dump(other)


def test_a_dropped_file_begins_anew(make, tmp_path):
    """The file is gone, its write-ahead log was left behind: nothing of it comes back."""
    store = make()
    views.feed(store, EVENTS, end=30)
    whole = dump(store)
    (tmp_path / "view.db").unlink()
    again = make()
    assert again.at == consume.START
    views.feed(again, EVENTS, end=30)
    assert dump(again) == whole
    store.db.close()


@pytest.mark.parametrize(
    "spoilt", [b"not a database, and long enough to be looked at as one" * 100, b"SQLite format 3\x00"]
)
def test_a_file_that_is_no_database_begins_anew(make, tmp_path, spoilt):
    """Damage is not an obstacle: the log is the truth."""
    (tmp_path / "view.db").write_bytes(spoilt)
    store = make()
    views.feed(store, EVENTS)
    assert store.at.next_seq == len(EVENTS)


def rot(path):
    """Everything but the first page becomes noise, as a failing disk does it."""
    data = bytearray(path.read_bytes())
    data[4096:] = b"\xff" * (len(data) - 4096)
    path.write_bytes(data)


def test_pages_that_rot_are_found_in_work(make, tmp_path):
    """Damage found in the middle drops the file and says so; the next feeding begins at the first record."""
    store = make()
    views.feed(store, EVENTS, end=30)
    store.close()
    rot(tmp_path / "view.db")
    store = make()
    with pytest.raises(faults.Corrupt):
        store.apply(EVENTS[30:35], views.position_at(EVENTS, 35))
    assert store.at == consume.START
    views.feed(store, EVENTS)
    assert store.at.next_seq == len(EVENTS)


def test_pages_that_rot_are_found_by_looking(make, tmp_path):
    """Whoever asks for the position of a damaged file is sent to the first record."""
    store = make()
    views.feed(store, EVENTS, end=30)
    store.close()
    rot(tmp_path / "view.db")
    assert make().at == consume.START


def test_another_schema_is_dropped_not_migrated(make):
    """A view of an older version is folded again."""
    store = make()
    views.feed(store, EVENTS, end=30)
    store.db.execute("pragma user_version = 99")
    store.close()
    assert make().at == consume.START


def test_whoever_only_looks_drops_nothing(tmp_path):
    """A reader of another's file refuses what it can't read, and leaves it."""
    path = tmp_path / "view.db"
    with pytest.raises(sqlite.Unreadable):
        projection_store.Store(path, owned=False)
    path.write_bytes(b"precious, if not to us" * 400)
    with pytest.raises(sqlite.Unreadable):
        projection_store.Store(path, owned=False)
    assert path.read_bytes().startswith(b"precious")


def test_the_file_is_private(make, tmp_path):
    """People's memory is in it."""
    store = make()
    views.feed(store, EVENTS, end=10)
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o600}
    store.close()


# The records view


@pytest.fixture
def store(tmp_path):
    """A records view with everything in it."""
    made = projection_store.Store(tmp_path / "records.db")
    views.feed(made, EVENTS)
    return made


def test_every_record_is_there_with_its_links(store):
    """Header fields, links in order, and whose it is."""
    entries = list(store.entries(len(EVENTS)))
    assert [entry.seq for entry in entries] == list(range(len(EVENTS)))
    for entry, event in zip(entries, EVENTS, strict=True):
        core = event.header.core
        assert (entry.id, entry.kind, entry.space, entry.ts) == (core.id, core.kind, core.space, core.ts)
        assert (entry.hash, entry.key_id) == (event.header.hash, event.header.key_id)
        assert entry.links == tuple((link.label, link.target) for link in core.links)
    assert {entry.subject for entry in entries if entry.kind == "memory_block"} == {"ada", "bob"}


def test_counts_are_those_of_the_log(store):
    """Records by space and kind, links in all."""
    content, tally = store.content(), store.tally()
    assert content.records == len(EVENTS) == sum(sum(kinds.values()) for kinds in tally.values())
    assert tally["user"] == {"memory_block": 40}
    assert tally["system"] == {"genesis": 1}
    assert content.links == sum(len(event.header.core.links) for event in EVENTS)


def test_links_to_a_target_come_in_pages(store):
    """In order of the log; a cursor goes on exactly where the page ended, whatever is written meanwhile."""
    (genesis,) = [event for event in EVENTS if event.seq == 0]
    (place, licence), *rest = store.links_to(genesis.header.hash, rules.BEFORE_ALL, 10, reader=None)
    assert (licence.kind, licence.label, rest) == ("license_issued", "genesis", [])
    assert store.links_to(genesis.header.hash, place, 10, reader=None) == []
    memory = next(event for event in EVENTS if event.kind == "memory_block")
    target = memory.header.core.link("decision")
    assert [link.id for _, link in store.links_to(target, rules.BEFORE_ALL, 10, reader=None)] == [memory.header.core.id]


@pytest.mark.parametrize(
    "cursor", ["", "1", "1.2.3", "-1.0", "01.0", "1.0\n", "٣.0", "1_0.0", "99999999999999999.0", "9" * 200]
)
def test_a_made_up_cursor_is_refused(cursor):
    """Only the spelling that an answer gave."""
    with pytest.raises(Refused) as caught:
        rules.place_of(cursor)
    assert (caught.value.code, caught.value.field) == (Code.BAD_INPUT, "$.cursor")


def test_a_cursor_goes_round():
    """What an answer gives is what the next call takes."""
    assert rules.place_of(rules.cursor_of(rules.Place(12, 3))) == rules.Place(12, 3)


def test_the_digest_is_found_again_in_the_tables(store):
    """The running chain and the one over the rows are equal, and another log has another."""
    assert store.recomputed() == store.content()
    assert store.content().digest != bytes(32)


@pytest.mark.parametrize(
    "change",
    [
        "update record set kind = 'genesis' where seq = 9",
        "update link set target = 'x' where seq = (select max(seq) from link)",
        "delete from link where seq = (select max(seq) from link)",
        "delete from record where seq = 11",
    ],
)
def test_a_changed_row_gives_itself_away(store, change):
    """Whoever edits the tables doesn't know the digest that stands for them."""
    store.db.execute(change)
    assert store.recomputed() != store.content()


def test_an_erased_payload_changes_no_digest(tmp_path):
    """A view folded before an erasure and one folded after it agree."""
    erased = [
        msgspec.structs.replace(event, payload=None, salt=None) if event.kind == "memory_block" else event
        for event in EVENTS
    ]
    before, after = projection_store.Store(tmp_path / "a.db"), projection_store.Store(tmp_path / "b.db")
    views.feed(before, EVENTS)
    views.feed(after, erased)
    assert before.content() == after.content()
    assert {entry.subject for entry in after.entries(len(EVENTS)) if entry.kind == "memory_block"} == {""}


def test_a_kind_from_the_future_is_carried(tmp_path):
    """A record whose kind this code doesn't know is kept like any other."""
    core = msgspec.structs.replace(EVENTS[0].header.core, kind="not_invented_yet")
    header = msgspec.structs.replace(EVENTS[0].header, core=core)
    store = projection_store.Store(tmp_path / "a.db")
    store.apply([msgspec.structs.replace(EVENTS[0], header=header)], views.position_at(EVENTS, 1))
    assert store.tally() == {"system": {"not_invented_yet": 1}}


# Readers that wait


async def test_a_reader_waits_until_the_view_has_seen_a_record(tmp_path):
    """It wakes with the batch that holds the record; what is there already costs no question to the log."""
    asked = []

    async def head():
        asked.append(1)
        return len(EVENTS)

    view = live.LiveView("records", projection_store.Store(tmp_path / "a.db"), head)
    waiting = asyncio.create_task(view.reach(20, timeout_s=10))
    for first in range(0, 21, 7):
        await asyncio.sleep(0)
        assert not waiting.done()
        await view.apply(EVENTS[first : first + 7], views.position_at(EVENTS, first + 7))
    await waiting
    await view.reach(20)
    await view.reach(None)
    assert len(asked) == 1


async def test_a_reader_is_told_when_it_waits_in_vain(tmp_path):
    """Below the head it may come later; beyond the head it was never there."""

    async def head():
        return 10

    view = live.LiveView("records", projection_store.Store(tmp_path / "a.db"), head)
    with pytest.raises(Refused) as caught:
        await view.reach(9, timeout_s=0.01)
    assert (caught.value.code, caught.value.detail) == (Code.NOT_YET, {"position": 0, "head": 10})
    with pytest.raises(Refused) as caught:
        await view.reach(10)
    assert (caught.value.code, caught.value.detail) == (Code.BEYOND_HEAD, {"head": 10})


# Rebuilding


async def fed(view, enough):
    """Feeds a view from the ledger, as `consume` does."""
    while not enough.is_set():
        first = (await view.position()).next_seq
        last = min(first + 16, len(EVENTS))
        await view.apply(EVENTS[first:last], views.position_at(EVENTS, last))


@pytest.mark.law
async def test_a_rebuilt_view_equals_the_running_one(tmp_path):
    """Law 10: folded again from the first record, beside the running one, and then in its place."""
    shelf = Shelf(tmp_path / "records")
    views.feed(shelf, EVENTS, end=60)
    result = await rebuild(tmp_path / "records", fed, len(EVENTS))
    assert (result.compared, result.differs_at, result.position) == (60, None, len(EVENTS))
    assert shelf.store.path == result.path
    assert shelf.store.content().digest.hex() == result.digest
    views.feed(other := projection_store.Store(tmp_path / "other.db"), EVENTS)
    assert shelf.store.content() == other.content()
    assert {path.suffix for path in (tmp_path / "records").glob("records-1.*")} == set()


@pytest.mark.parametrize(
    ("change", "seq"),
    [("update record set subject = 'mallory' where seq = 21", 21), ("delete from record where seq >= 50", 50)],
)
async def test_a_view_that_was_tampered_with_is_told_and_replaced(tmp_path, change, seq):
    """The first position where the running view differed is the answer; what is served afterwards is right."""
    shelf = Shelf(tmp_path / "records")
    views.feed(shelf, EVENTS, end=60)
    shelf.store.db.execute("pragma foreign_keys = off")
    shelf.store.db.execute(change)
    result = await rebuild(tmp_path / "records", fed, len(EVENTS))
    assert result.differs_at == seq
    assert shelf.store.recomputed() == shelf.store.content()


async def test_the_feed_of_an_exchanged_view_begins_again(tmp_path):
    """The first batch after the exchange is refused, so that whoever feeds asks for the new position."""
    shelf = Shelf(tmp_path / "records")
    views.feed(shelf, EVENTS, end=30)
    await rebuild(tmp_path / "records", fed, 30)
    with pytest.raises(Refused):
        shelf.apply(EVENTS[30:37], views.position_at(EVENTS, 37))
    views.feed(shelf, EVENTS, start=shelf.at.next_seq)
    assert shelf.at.next_seq == len(EVENTS)


async def test_a_rebuild_that_dies_leaves_the_running_view(tmp_path):
    """Before the pointer moves nothing has happened; the next attempt starts clean."""
    shelf = Shelf(tmp_path / "records")
    views.feed(shelf, EVENTS, end=30)
    path = shelf.store.path

    async def dies(view, enough):
        await view.apply(EVENTS[:16], views.position_at(EVENTS, 16))
        raise Crash

    with pytest.raises(Crash):
        await rebuild(tmp_path / "records", dies, len(EVENTS))
    assert shelf.store.path == path
    result = await rebuild(tmp_path / "records", fed, len(EVENTS))
    assert result.differs_at is None


async def test_a_generation_that_vanished_is_folded_again(tmp_path):
    """After an exchange the current file is deleted: the next start begins at the first record, not at an older generation."""
    shelf = Shelf(tmp_path / "records")
    views.feed(shelf, EVENTS)
    result = await rebuild(tmp_path / "records", fed, len(EVENTS))
    shelf.store.close()
    result.path.unlink()
    assert Shelf(tmp_path / "records").at == consume.START


def test_a_stray_generation_is_swept(tmp_path):
    """A crash between the file's rename and the pointer's leaves a file that nobody serves; the next start removes it."""
    Shelf(tmp_path / "records").close()
    stray = tmp_path / "records" / "records-2.db"
    stray.write_bytes(b"")
    assert Generations(tmp_path / "records").current().name == "records-1.db"
    Shelf(tmp_path / "records").close()
    assert not stray.exists()
