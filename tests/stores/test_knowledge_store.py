"""Things and versions in the view of knowledge. The laws that it shares with every view file are in `test_projection_store`."""

import itertools

import msgspec
import pytest

from services.knowledge import reading
from services.knowledge.store import Store
from services.knowledge.things import Order, Thing, slug_of
from sigilcore import ids
from sigilcore.contracts import knowledge as contract
from sigilcore.refusals import Code, Refused
from tests.stores import views

HOUSE = views.house_with_memories(40)
EVENTS = views.events_of(HOUSE)
MEMORIES = [event for event in EVENTS if event.kind == "memory_block"]
NOTE_0 = Thing("ada", "memory_block", "note-0")


@pytest.fixture
def store(tmp_path):
    """A view of the whole ledger."""
    made = Store(tmp_path / "knowledge.db")
    views.feed(made, EVENTS)
    return made


class Author:
    """Writes records of one owner as events, without a log: what the store folds is the payload and the header's names."""

    def __init__(self, store):
        self.store = store
        self.seq = store.at.next_seq

    def write(self, slug, text="text", *, tags=(), owner="ada", ts="2026-01-01T00:00:00.000Z"):
        event = MEMORIES[0]
        payload = event.typed()
        thing = Thing(owner, "memory_block", slug)
        payload = msgspec.structs.replace(payload, owner=owner, key=thing.key, text=text, tags=tags)
        core = msgspec.structs.replace(event.header.core, id=ids.new(), ts=ts)
        header = msgspec.structs.replace(event.header, core=core, hash=f"{self.seq:064x}")
        made = msgspec.structs.replace(event, seq=self.seq, header=header, payload=msgspec.json.encode(payload))
        self.seq += 1
        self.store.apply([made], msgspec.structs.replace(self.store.at, next_seq=self.seq))
        return made


@pytest.fixture
def author(tmp_path):
    """An author with an empty store."""
    return Author(Store(tmp_path / "empty.db"))


def names(versions):
    return [version.slug for version in versions]


def pages(store, owner, limit, **order):
    """All pages of a list, followed by their cursors."""
    cursor, found = None, []
    while True:
        request = contract.MemoryList(cursor=cursor, limit=limit, **order)
        shown, cursor = reading.page(store.newest(owner, reading.memory_order(request)), limit)
        found.append(names(shown))
        if cursor is None:
            return found


def test_records_of_other_spaces_only_move_the_position(store):
    """Everything was read, people's records were kept."""
    assert store.at.next_seq == len(EVENTS)
    (count,) = store.db.execute("select count(*) from version").fetchone()
    assert count == len(MEMORIES) == 40


def test_versions_count_up_and_the_newest_is_the_head(store):
    """A second write of a key is the next version of the same thing; earlier ones stay readable."""
    texts = [event.typed().text for event in MEMORIES if event.typed().key == NOTE_0.key]
    versions = [store.version(NOTE_0, number) for number in range(1, len(texts) + 1)]
    assert [reading.memory_view(version).text for version in versions] == texts
    assert [version.number for version in versions] == [1, 2, 3, 4]
    assert store.version(NOTE_0, None) == versions[-1]
    assert store.version(NOTE_0, len(texts) + 1) is None
    assert store.head(NOTE_0) == versions[-1].hash == HOUSE.heads["memory_block", "ada", NOTE_0.key]


def test_a_thing_that_was_never_written_has_no_head(store):
    """The first version stands on nothing."""
    assert store.head(Thing("ada", "memory_block", "other")) is None
    assert store.head(Thing("ada", "user_value", "note-0")) is None


def test_a_record_is_found_by_its_id(store):
    """With owner and place, whoever's it is: who may see it is decided elsewhere."""
    event = MEMORIES[7]
    found = store.by_id(event.header.core.id)
    assert (found.seq, found.hash, found.owner) == (event.seq, event.header.hash, "bob")
    assert store.knows(event.header.core.id)
    assert store.by_id(ids.new()) is None
    assert not store.knows(ids.new())


def test_lists_hold_the_newest_of_each_in_order_of_name(store):
    """One line a thing, one owner's only."""
    found = list(store.newest("ada", Order()))
    assert names(found) == [f"note-{number}" for number in range(5)]
    assert {version.owner for version in found} == {"ada"}
    assert {version.number for version in found} == {4}
    assert list(store.newest("nobody", Order())) == []


@pytest.mark.parametrize("limit", [1, 2, 3, 4, 5, 6])
def test_pages_together_are_the_list(store, limit):
    """Whatever the limit, nothing is missing and nothing doubled."""
    found = pages(store, "ada", limit)
    assert list(itertools.chain(*found)) == [f"note-{number}" for number in range(5)]
    assert all(len(page) <= limit for page in found)


def test_a_cursor_is_stable_under_writes(author):
    """Writing a listed thing again neither hides nor repeats anything on the next page."""
    for slug in "bdfh":
        author.write(slug)
    shown, cursor = reading.page(author.store.newest("ada", Order()), 2)
    assert names(shown) == ["b", "d"]
    for slug in "bhae":
        author.write(slug)
    order = reading.memory_order(contract.MemoryList(cursor=cursor))
    assert names(author.store.newest("ada", order)) == ["e", "f", "h"]


def test_a_page_is_bounded_in_bytes(author, monkeypatch):
    """Large things make short pages, and one that is larger than the bound still comes."""
    monkeypatch.setattr(reading, "ANSWER_BYTES", 3_000)
    for slug in "abcd":
        author.write(slug, "x" * (5_000 if slug == "b" else 1_000))
    assert pages(author.store, "ada", 10) == [["a"], ["b"], ["c", "d"]]


@pytest.mark.parametrize(
    ("prefix", "found"),
    [
        ("", ["A", "a", "a.b", "a/b", "a/c", "b"]),
        ("a", ["a", "a.b", "a/b", "a/c"]),
        ("a/", ["a/b", "a/c"]),
        ("%", []),
        ("_", []),
        ("a/b/c", []),
        ("\x00", []),
        ("\U0010ffff", []),
    ],
)
def test_a_prefix_is_taken_as_it_is(author, prefix, found):
    """No wildcard, no folding of case, order of code points."""
    for slug in ("a", "b", "a/c", "a/b", "A", "a.b"):
        author.write(slug)
    assert names(author.store.newest("ada", Order(prefix=prefix))) == found


def test_tags_are_those_of_the_newest_version(author):
    """A tag that a later version drops finds nothing any more; a tag given twice is one."""
    author.write("a", tags=("red", "red", "blue"))
    author.write("b", tags=("red",))
    assert names(author.store.newest("ada", Order(tag="red"))) == ["a", "b"]
    author.write("a", tags=("green",))
    assert names(author.store.newest("ada", Order(tag="red"))) == ["b"]
    assert names(author.store.newest("ada", Order(tag="re"))) == []


def test_a_time_range_holds_its_first_moment_and_not_its_last(author):
    """`since` is in, `until` is out."""
    for day in "123":
        author.write(f"d{day}", ts=f"2026-01-0{day}T00:00:00.000Z")
    request = contract.MemoryList(since="2026-01-02T00:00:00.000Z", until="2026-01-03T00:00:00.000Z")
    assert names(author.store.newest("ada", reading.memory_order(request))) == ["d2"]


@pytest.mark.parametrize("text", ["", "2026-01-02", "2026-01-02T00:00:00Z", "2026-13-02T00:00:00.000Z", "9999"])
def test_a_time_of_another_spelling_is_refused(text):
    """Times are compared as texts, so there is one spelling."""
    with pytest.raises(Refused) as caught:
        reading.memory_order(contract.MemoryList(since=text))
    assert (caught.value.code, caught.value.field) == (Code.BAD_INPUT, "$.since")


@pytest.mark.parametrize("cursor", ["", "a", "e30=", "WyJhIl0=", "WyJhIiwxXQ==", "[]", "//", "é"])
def test_a_made_up_cursor_is_refused(cursor):
    """Two names, in the wrapping that an answer gave them."""
    with pytest.raises(Refused) as caught:
        reading.user_order(contract.UserList(cursor=cursor))
    assert (caught.value.code, caught.value.field) == (Code.BAD_INPUT, "$.cursor")


def test_two_owners_never_share_a_thing(author):
    """Owners' names may hold colons; a slug may not, so no two pairs make one key."""
    author.write("c", "first", owner="a::b")
    author.write("b-c", "second", owner="a")
    assert slug_of("memory_block", "a", "mem::a::b::c") == "::mem::a::b::c"
    assert slug_of("memory_block", "a::b", "mem::a::b::c") == "c"
    assert names(author.store.newest("a", Order())) == ["b-c"]


def test_a_record_with_a_key_of_another_form_is_kept_apart(author):
    """Such a record can't be taken for the thing whose slug it resembles."""
    author.write("x", "proper")
    proper = author.store.head(Thing("ada", "memory_block", "x"))
    event = MEMORIES[0]
    payload = msgspec.structs.replace(event.typed(), owner="ada", key="x")
    core = msgspec.structs.replace(event.header.core, id=ids.new())
    odd = msgspec.structs.replace(
        event,
        seq=author.seq,
        header=msgspec.structs.replace(event.header, core=core),
        payload=msgspec.json.encode(payload),
    )
    author.store.apply([odd], msgspec.structs.replace(author.store.at, next_seq=author.seq + 1))
    assert author.store.head(Thing("ada", "memory_block", "x")) == proper
    assert names(author.store.newest("ada", Order())) == ["::x", "x"]


def test_an_erased_record_is_not_there(tmp_path):
    """Without its payload nobody knows whose thing it was."""
    erased = [
        msgspec.structs.replace(event, payload=None, salt=None) if event is MEMORIES[0] else event for event in EVENTS
    ]
    store = Store(tmp_path / "erased.db")
    views.feed(store, erased)
    assert store.by_id(MEMORIES[0].header.core.id) is None
    assert store.at.next_seq == len(EVENTS)


@pytest.mark.law
def test_a_view_folded_again_is_the_same(store, tmp_path):
    """Law 10: same records, other batches, same digest; and one record less is another digest."""
    again = Store(tmp_path / "again.db")
    views.feed(again, EVENTS, step=50, end=len(EVENTS) - 1)
    assert again.digest() != store.digest()
    views.feed(again, EVENTS, start=len(EVENTS) - 1)
    assert again.digest() == store.digest()
