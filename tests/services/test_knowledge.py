"""Knowledge and projections over the bus: commands in, records and refusals out, and the oracle over the whole ledger at the end."""

import asyncio
import json

import msgspec
import pytest
import pytest_asyncio

from sigilcore import checkpoint as checkpoints
from sigilcore import clock, ids, merkle, note, record, signing
from sigilcore.contracts import canon, common, projections
from sigilcore.contracts import knowledge as contract
from sigilcore.records import system, user
from sigilcore.refusals import Code, Refused
from tests.services import study as studies


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def study(tmp_path_factory):
    """One house for the tests that leave it whole."""
    async with studies.opened(tmp_path_factory.mktemp("study") / "house") as one:
        yield one


@pytest.fixture
def key():
    """A name that no other test uses."""
    return f"k-{ids.new()}"


def refused(code, field=None):
    """Expect a refusal with this code at this field."""

    class Expect:
        def __enter__(self):
            self.raises = pytest.raises(Refused)
            self.info = self.raises.__enter__()
            return self.info

        def __exit__(self, *error):
            caught = self.raises.__exit__(*error)
            if caught:
                assert (self.info.value.code, self.info.value.field) == (code, field), str(self.info.value)
            return caught

    return Expect()


def payload_at(study, seq):
    return record.check(study.world.log[seq]).payload


async def remember(study, key, text="text", person="ada", **more):
    return await study.call(person, contract.MEMORY_WRITE, contract.MemoryWrite(key=key, text=text, **more))


async def recall(study, key, person="ada", **more):
    return await study.call(person, contract.MEMORY_READ, contract.MemoryRead(key=key, **more))


# Writing one thing


async def test_a_memory_is_a_record_that_says_for_whom_and_why(study, key):
    """Owner, key, origin and level come from the permit; the decision is linked, the call's parameters are kept."""
    body = msgspec.json.encode(contract.MemoryWrite(key=key, text="Say good morning.", tags=("habit",)))
    granted = await study.granted("ada", contract.MEMORY_WRITE, body)
    written = await study.bus.call(contract.MEMORY_WRITE, body, permit=study.sealed(granted))
    checked = record.check(study.world.log[written.seq])
    assert (written.id, written.hash, written.key, written.existing) == (
        checked.core.id,
        checked.header.hash,
        key,
        False,
    )
    payload = checked.payload
    assert (payload.owner, payload.key, payload.text, payload.tags) == (
        "ada",
        f"mem::ada::{key}",
        "Say good morning.",
        ("habit",),
    )
    assert (payload.origin, payload.admitted_at, payload.request.digest) == ("person", "operator", granted.digest)
    assert checked.core.link("decision") == granted.decision.link()
    assert checked.core.prev is None


async def test_the_answer_proves_its_place(study, key):
    """Checkpoint and audit path verify with the log's key and nothing else."""
    written = await remember(study, key)
    signed = checkpoints.open_signed(written.checkpoint.encode(), study.world.log_key)
    leaf = merkle.leaf_hash(bytes(study.world.log[written.seq].header))
    path = [note.parse_hash(text) for text in written.proof]
    assert merkle.verify_inclusion(leaf, written.seq, signed.size, path, signed.root)


async def test_a_second_write_supersedes_the_first(study, key):
    """Versions are chained by `prev`, faster than the view can follow."""
    first, second = await remember(study, key, "one"), await remember(study, key, "two")
    assert record.check(study.world.log[second.seq]).core.prev == first.hash
    now = await recall(study, key, wait_for=second.seq)
    then = await recall(study, key, version=1)
    assert (now.text, now.version, now.id, now.hash, now.seq) == ("two", 2, second.id, second.hash, second.seq)
    assert (then.text, then.version, then.seq) == ("one", 1, first.seq)


async def test_the_same_call_again_gets_the_first_receipt(study, key):
    """Same id, same parameters, a new permit: nothing is written, and the first place is answered, though the thing moved on."""
    body = msgspec.json.encode(contract.MemoryWrite(key=key, text="one", id=ids.new()))
    first = await study.call("ada", contract.MEMORY_WRITE, body)
    await remember(study, key, "two")
    size = study.kinds().count("memory_block")
    again = await study.call("ada", contract.MEMORY_WRITE, body)
    assert (again.id, again.hash, again.seq, again.existing) == (first.id, first.hash, first.seq, True)
    assert study.kinds().count("memory_block") == size
    third = await remember(study, key, "three")
    assert (await recall(study, key, wait_for=third.seq)).version == 3


async def test_an_id_names_one_record_only(study, key):
    """Same id with other parameters, or by another person, is taken."""
    name = ids.new()
    await remember(study, key, "one", id=name)
    with refused(Code.ID_TAKEN, "$.header.core.id"):
        await remember(study, key, "two", id=name)
    with refused(Code.ID_TAKEN, "$.header.core.id"):
        await remember(study, key, "one", person="bob", id=name)


async def test_an_id_is_a_uuid_of_version_seven(study, key):
    """Thirty-six characters aren't enough."""
    with refused(Code.BAD_INPUT, "$.id"):
        await remember(study, key, id="x" * 36)


async def test_writers_of_one_thing_take_turns(study, key):
    """Twenty calls at once on one key: each is a version, none is refused, no decision is lost."""
    bodies = [msgspec.json.encode(contract.MemoryWrite(key=key, text=str(number))) for number in range(20)]
    permits = [study.sealed(await study.granted("ada", contract.MEMORY_WRITE, body)) for body in bodies]
    calls = (study.bus.call(contract.MEMORY_WRITE, body, permit=one) for body, one in zip(bodies, permits, strict=True))
    written = await asyncio.gather(*calls)
    last = max(one.seq for one in written)
    assert (await recall(study, key, wait_for=last)).version == 20
    assert len({one.seq for one in written}) == 20


async def test_another_instance_in_between_costs_a_try(study, key):
    """The writer names the head it knows, and the same call is built on it: its decision is still unused."""
    first = await remember(study, key, "one")
    other = await study.granted("ada", contract.MEMORY_WRITE, b"{}")
    between = study.world.memory(other, key, "from elsewhere")
    study.before_append.append(canon.Append(records=(between,)))
    second = await remember(study, key, "two")
    checked = record.check(study.world.log[second.seq])
    assert checked.core.prev == record.check(between).header.hash
    assert record.check(between).core.prev == first.hash
    assert (await recall(study, key, wait_for=second.seq)).version == 3


async def test_a_lost_answer_is_found_again(study, key):
    """The commit stands, its answer vanished: the same bytes are sent again, and it is written once."""
    study.lose_answers = 1
    written = await remember(study, key, "once")
    assert not written.existing
    assert (await recall(study, key, wait_for=written.seq)).version == 1
    following = await remember(study, key, "twice")
    assert record.check(study.world.log[following.seq]).core.prev == written.hash


async def test_a_body_that_is_too_large_is_refused_before_the_writer(study, key):
    """Bounds are of bytes; nothing is sent."""
    sent = len(study.appended)
    with refused(Code.BODY_TOO_LARGE, "$.value"):
        await study.call("ada", contract.USER_WRITE, contract.UserWrite(key=key, value="x" * (513 * 1024)))
    with refused(Code.BODY_TOO_LARGE, "$.value"):
        document = {"title": "t", "text": "\U0001f600" * 262_144, "source": "s", "licence": "MIT"}
        await study.call("ada", contract.USER_WRITE, contract.UserWrite(kind="document", key=key, value=document))
    assert not [one for one in study.appended[sent:] if one.decision is not None]


# Values and documents


@pytest.mark.parametrize(
    ("body", "value"),
    [
        ({"value": {"deep": [1, 2.5, None]}}, {"deep": [1, 2.5, None]}),
        ({"payload": "by its other name"}, "by its other name"),
        ({"value": None}, None),
        ({"value": False, "payload": None, "record": None}, False),
    ],
    ids=["value", "payload", "null", "false beside nulls"],
)
async def test_any_json_is_a_value(study, key, body, value):
    """Also null, if it was written."""
    written = await study.call("ada", contract.USER_WRITE, json.dumps({"key": key} | body).encode())
    view = await study.call("ada", contract.USER_READ, contract.UserRead(id=written.id, wait_for=written.seq))
    assert (view.kind, view.key, view.value, view.version) == ("user_value", key, value, 1)
    assert payload_at(study, written.seq).key == f"val::ada::{key}"


@pytest.mark.parametrize("body", [{}, {"value": 1, "payload": 1}, {"value": None, "payload": None}, {"record": None}])
async def test_exactly_one_thing_is_given(study, key, body):
    """None, or two, is no answer to what shall be written."""
    with refused(Code.BAD_INPUT, "$"):
        await study.call("ada", contract.USER_WRITE, json.dumps({"key": key} | body).encode())


async def test_without_a_key_the_id_is_the_name(study):
    """So it can be read again by both."""
    name = ids.new()
    written = await study.call("ada", contract.USER_WRITE, contract.UserWrite(value=1, id=name))
    assert (written.id, written.key) == (name, name)


async def test_a_document_keeps_source_and_licence(study, key):
    """Its key is of a family of its own, so a value of the same name is another thing."""
    value = {"title": "Ownership", "text": "Each value has an owner.", "source": "book", "licence": "MIT"}
    written = await study.call("ada", contract.USER_WRITE, contract.UserWrite(kind="document", key=key, value=value))
    other = await study.call("ada", contract.USER_WRITE, contract.UserWrite(key=key, value=1))
    payload = payload_at(study, written.seq)
    assert (payload.key, payload.licence, payload.request is None) == (f"rag::ada::{key}", "MIT", False)
    page = await study.call("ada", contract.USER_LIST, contract.UserList(prefix=key, wait_for=other.seq))
    assert [(view.kind, view.value) for view in page.items] == [("document", value), ("user_value", 1)]
    only = await study.call("ada", contract.USER_LIST, contract.UserList(kind="document", prefix=key))
    assert [view.id for view in only.items] == [written.id]


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"title": 1}, "$.value.title"),
        ({"text": ""}, "$.value.text"),
        ({"owner": "bob"}, "$.value.owner"),
        ({"request": None}, "$.value.request"),
        ({"key": "mem::bob::x"}, "$.value.key"),
    ],
)
async def test_a_document_of_another_shape_is_refused_at_its_field(study, key, change, field):
    """Strictly, and nobody writes an owner into it."""
    value = {"title": "t", "text": "x", "source": "s", "licence": "MIT"} | change
    with refused(Code.BAD_INPUT, field):
        await study.call("ada", contract.USER_WRITE, contract.UserWrite(kind="document", key=key, value=value))


@pytest.mark.parametrize("value", ["text", 1, ["t", "x", "s", "l"]])
async def test_a_document_is_an_object(study, key, value):
    """Not anything else."""
    with refused(Code.BAD_INPUT, "$.value"):
        await study.call("ada", contract.USER_WRITE, contract.UserWrite(kind="document", key=key, value=value))


# Records that people signed


async def finished(study, person, key, changes=None, grant=None):
    """A person's own record, through `canon/user/write`, by a decision that names it."""
    name = ids.new()
    granted = await study.granted("ada", contract.MEMORY_READ, b"{}")
    signed = study.signed(
        person, msgspec.structs.replace(granted, owner_id=person), key=key, id=name, **(changes or {})
    )
    body = msgspec.json.encode(contract.UserWrite(record=signed))
    return name, await study.call(grant or person, contract.USER_WRITE, body)


async def test_a_person_signs_for_themselves(study, key):
    """The record stands as it was signed, byte for byte, and is a version like any other."""
    name, written = await finished(study, "ada", key)
    checked = record.check(study.world.log[written.seq])
    assert (written.id, written.key, checked.header.key_id) == (name, key, study.people["ada"].signer.key_id)
    after = await remember(study, key, "two")
    assert record.check(study.world.log[after.seq]).core.prev == written.hash


async def test_a_person_signs_for_nobody_else(study, key):
    """Bob's record, brought by Ada."""
    with refused(Code.KEY_NOT_ALLOWED, "$.record.payload.owner"):
        await finished(study, "bob", key, grant="ada")


async def test_a_stranger_signs_nothing(study, key):
    """Ada's name, another key."""
    with pytest.raises(Refused) as caught:
        await finished(study, "ada", key, {"signer": signing.Ed25519Signer.generate()})
    assert caught.value.code is Code.KEY_NOT_ALLOWED


async def test_a_broken_record_is_refused_at_its_part(study, key):
    """The path leads into the record."""
    granted = await study.granted("ada", contract.MEMORY_READ, b"{}")
    signed = study.signed("ada", granted, key=key)
    broken = msgspec.structs.replace(signed, salt="0" * 32)
    with refused(Code.RECORD_INVALID, "$.record.header.core.payload_hash"):
        await study.call("ada", contract.USER_WRITE, contract.UserWrite(record=broken))


async def test_only_kinds_for_people(study):
    """A genesis in a person's hand."""
    with refused(Code.KIND_NOT_ALLOWED, "$.record.header.core.kind"):
        await study.call("ada", contract.USER_WRITE, contract.UserWrite(record=study.world.log[0]))


async def test_a_signed_key_has_the_form_of_its_family(study):
    """Else it couldn't be read by its name."""
    with refused(Code.RECORD_INVALID, "$.record.payload.key"):
        await finished(study, "ada", "no slug, this")


@pytest.mark.parametrize("beside", [{"key": "other"}, {"id": ids.new()}], ids=["key", "id"])
async def test_names_beside_a_finished_record_must_be_its_own(study, key, beside):
    """A key or id that says something else is a mistake of the caller's."""
    granted = await study.granted("ada", contract.MEMORY_READ, b"{}")
    signed = study.signed("ada", granted, key=key)
    with refused(Code.BAD_INPUT, f"$.{next(iter(beside))}"):
        await study.call("ada", contract.USER_WRITE, contract.UserWrite(record=signed, **beside))


async def test_a_stale_signed_record_is_its_signers_to_rebuild(study, key):
    """Nobody can sign it anew for them; the refusal names the head."""
    first = await remember(study, key)
    with pytest.raises(Refused) as caught:
        await finished(study, "ada", key, {"prev": None})
    assert (caught.value.code, caught.value.detail) == (Code.STALE_PREV, {"head": first.hash})


# Batches


async def batch(study, *items, person="ada"):
    return await study.call(person, contract.USER_BATCH, contract.UserBatch(items=tuple(items)))


def codes(answer):
    return [None if one.refusal is None else str(one.refusal.code) for one in answer.items]


async def test_a_batch_is_one_call_of_many_things(study, key):
    """Consecutive places under one checkpoint and one decision."""
    answer = await batch(study, *(contract.Item(key=f"{key}/{n}", value=n) for n in range(256)))
    assert [one.seq for one in answer.items] == list(range(answer.items[0].seq, answer.items[0].seq + 256))
    assert [one.key for one in answer.items] == [f"{key}/{n}" for n in range(256)]
    links = {record.check(study.world.log[one.seq]).core.link("decision") for one in answer.items}
    assert len(links) == 1
    signed = checkpoints.open_signed(answer.checkpoint.encode(), study.world.log_key)
    assert signed.size > answer.items[-1].seq


async def test_each_item_stands_or_falls_alone(study, key):
    """What can't be written says why at its field, and the rest is written."""
    taken = ids.new()
    await remember(study, key, id=taken)
    answer = await batch(
        study,
        contract.Item(key=f"{key}/a", value=1),
        contract.Item(kind="document", key=f"{key}/b", value={"title": "t"}),
        contract.Item(key=f"{key}/c", value="x" * (513 * 1024)),
        contract.Item(key=f"{key}/d", value=1, id="y" * 36),
        contract.Item(key=f"{key}/e", value=1, id=taken),
        contract.Item(value="the last one"),
    )
    assert codes(answer) == [None, "BAD_INPUT", "BODY_TOO_LARGE", "BAD_INPUT", "ID_TAKEN", None]
    fields = [one.refusal.field for one in answer.items if one.refusal is not None]
    assert fields[:3] == ["$.items[1].value", "$.items[2].value", "$.items[3].id"]
    assert answer.items[5].key == answer.items[5].id


async def test_a_batch_of_nothing_good_asks_the_writer_nothing(study, key):
    """All refused: no append, no checkpoint."""
    sent = len(study.appended)
    answer = await batch(study, contract.Item(kind="document", key=key, value=1))
    assert (codes(answer), answer.checkpoint) == (["BAD_INPUT"], "")
    assert not [one for one in study.appended[sent:] if one.decision is not None]


async def test_one_key_twice_makes_two_versions(study, key):
    """In the call's order, on what stood before."""
    before = await study.call("ada", contract.USER_WRITE, contract.UserWrite(key=key, value=0))
    answer = await batch(study, *(contract.Item(key=key, value=n) for n in (1, 2, 3)), contract.Item(value="other"))
    assert codes(answer) == [None] * 4
    prevs = [record.check(study.world.log[one.seq]).core.prev for one in answer.items]
    assert prevs == [before.hash, answer.items[0].hash, answer.items[1].hash, None]


async def test_an_item_is_known_again_in_another_batch(study, key):
    """Same id and same item: its first place, in whatever company it comes; its thing's next version follows the real head."""
    name = ids.new()
    item = contract.Item(key=key, value={"a": 1.0}, id=name)
    first = await batch(study, item)
    moved = await batch(study, contract.Item(key=key, value=2))
    again = await batch(study, contract.Item(key=f"{key}/x", value=1), item, contract.Item(key=key, value=3))
    assert [one.existing for one in again.items] == [False, True, False]
    assert (again.items[1].seq, again.items[1].hash) == (first.items[0].seq, first.items[0].hash)
    assert record.check(study.world.log[again.items[2].seq]).core.prev == moved.items[0].hash


async def test_an_item_that_changed_is_another_item(study, key):
    """Its id is taken then; spelling that JSON doesn't tell apart is no change."""
    name = ids.new()

    def body(item):
        return f'{{"items":[{item}]}}'.encode()

    await study.call("ada", contract.USER_BATCH, body(f'{{"key":"{key}","value":[1,2],"id":"{name}"}}'))
    same = await study.call("ada", contract.USER_BATCH, body(f'{{"id":"{name}",  "value":[1.0,2],"key":"{key}"}}'))
    other = await study.call("ada", contract.USER_BATCH, body(f'{{"key":"{key}","value":[1,3],"id":"{name}"}}'))
    assert same.items[0].existing
    assert codes(other) == ["ID_TAKEN"]


async def test_one_id_twice_in_a_batch_is_written_once(study, key):
    """The second is a repetition of the first, and nothing stands on it."""
    item = contract.Item(key=key, value=1, id=ids.new())
    answer = await batch(study, item, item, contract.Item(key=key, value=2))
    assert [one.existing for one in answer.items] == [False, True, False]
    assert record.check(study.world.log[answer.items[2].seq]).core.prev == answer.items[0].hash


async def test_a_whole_batch_that_came_too_late_is_built_anew(study, key):
    """Nothing was placed, so the decision is unused and the batch is tried on the heads that the writer named."""
    elsewhere = await user_value_elsewhere(study, key)
    study.before_append.append(elsewhere)
    answer = await batch(study, contract.Item(key=key, value=1), contract.Item(key=key, value=2))
    assert codes(answer) == [None, None]
    head = record.check(elsewhere.records[0]).header.hash
    assert record.check(study.world.log[answer.items[0].seq]).core.prev == head


async def user_value_elsewhere(study, key, value=0):
    """What another instance of knowledge appends for another call of Ada's."""
    body = msgspec.json.encode(contract.UserWrite(key=key, value=value))
    granted = await study.granted("ada", contract.USER_WRITE, body)
    bound = study.world.bound(granted, body)
    payload = user.UserValue(owner="ada", key=f"val::ada::{key}", value=value, request=bound.request())
    signed = record.build(
        "user_value",
        payload,
        id=ids.new(),
        tenant="default",
        ts=clock.format_ms(study.world.now_ms),
        space="user",
        signer=study.world.instances["knowledge"],
        salt=bytes(16),
        links=(record.Link(label="decision", target=granted.decision.link()),),
        prev=study.world.heads.get(("user_value", "ada", payload.key)),
    )
    return canon.Append(records=(signed,))


async def test_an_item_that_came_too_late_says_so_when_others_stand(study, key):
    """The decision is used by what was placed; the rest is refused with the head to build on, and not lost in silence."""
    study.before_append.append(await user_value_elsewhere(study, key))
    answer = await batch(study, contract.Item(key=f"{key}/fine", value=1), contract.Item(key=key, value=1))
    assert codes(answer) == [None, "STALE_PREV"]
    assert answer.items[1].refusal.detail["head"] == study.world.heads["user_value", "ada", f"val::ada::{key}"]
    second = await batch(study, contract.Item(key=key, value=1))
    assert codes(second) == [None]


# Reading


async def test_only_root_reads_what_others_keep(study, key):
    """For everybody else, a mentor too, it looks exactly like what isn't there."""
    written = await remember(study, key, "mine")
    assert (await recall(study, key, "root", user_id="ada", wait_for=written.seq)).text == "mine"
    for person in ("bob", "mia"):
        answers = []
        for asked in (key, f"{key}-absent"):
            with pytest.raises(Refused) as caught:
                await recall(study, asked, person, user_id="ada")
            answers.append(caught.value.answer())
        assert answers[0] == answers[1]
        assert answers[0].code is Code.NOT_FOUND
        page = await study.call(person, contract.MEMORY_LIST, contract.MemoryList(user_id="ada", prefix=key))
        assert page == contract.MemoryPage(items=(), cursor=None)
        listed = await study.call(person, contract.USER_LIST, contract.UserList(user_id="ada", prefix=key))
        assert listed == contract.UserPage(items=(), cursor=None)
        with pytest.raises(Refused) as caught:
            await study.call(person, contract.USER_READ, contract.UserRead(id=written.id))
        assert caught.value.answer() == answers[0]
    page = await study.call("root", contract.MEMORY_LIST, contract.MemoryList(user_id="ada", prefix=key))
    assert [view.id for view in page.items] == [written.id]


async def test_ones_own_name_may_be_said(study, key):
    """`user_id` of oneself is oneself."""
    written = await remember(study, key)
    assert (await recall(study, key, user_id="ada", wait_for=written.seq)).id == written.id


async def test_a_list_is_read_page_by_page(study, key):
    """By prefix, tag and time; the cursor of one page is the next one's beginning."""
    written = [await remember(study, f"{key}/{number}", tags=("t",)) for number in range(5)]
    cursor, found = None, []
    while True:
        request = contract.MemoryList(prefix=key, tag="t", cursor=cursor, limit=2, wait_for=written[-1].seq)
        page = await study.call("ada", contract.MEMORY_LIST, request)
        found += [view.id for view in page.items]
        cursor = page.cursor
        if cursor is None:
            break
    assert found == [one.id for one in written]
    later = contract.MemoryList(prefix=key, since="2999-01-01T00:00:00.000Z")
    assert (await study.call("ada", contract.MEMORY_LIST, later)).items == ()


async def test_whoever_waits_for_what_will_not_come_is_told(study):
    """A seq beyond the log's signed head is refused at once."""
    size = len(study.world.log)
    with refused(Code.BEYOND_HEAD, "$.wait_for"):
        await study.call("ada", contract.MEMORY_LIST, contract.MemoryList(wait_for=size + 10_000))


async def test_a_permit_for_another_body_writes_nothing(study, key):
    """The permit binds the very bytes."""
    body = msgspec.json.encode(contract.MemoryWrite(key=key, text="asked"))
    granted = await study.granted("ada", contract.MEMORY_WRITE, body)
    forged = msgspec.json.encode(contract.MemoryWrite(key=key, text="forged"))
    with pytest.raises(Refused) as caught:
        await study.bus.call(contract.MEMORY_WRITE, forged, permit=study.sealed(granted))
    assert caught.value.code is Code.PERMIT_MISMATCH


# The process


async def test_a_restarted_instance_builds_on_what_stands(tmp_path):
    """Its file is gone, the log is there: the first write waits until the view has reached the head, and isn't stale."""
    async with studies.opened(tmp_path / "house") as study:
        written = [await remember(study, "note", str(number)) for number in range(3)]
        await study.knowledge.answering.stop()
        async with study.running("knowledge", "second") as second:
            assert second.parts.state_dir.joinpath("knowledge.db").exists()
            tries = len(study.appended)
            fourth = await remember(study, "note", "3")
            effects = [one for one in study.appended[tries:] if one.decision is not None]
            assert len(effects) == 1
            assert record.check(study.world.log[fourth.seq]).core.prev == written[-1].hash
            assert (await recall(study, "note", wait_for=fourth.seq)).version == 4


async def test_the_records_view_over_the_bus(tmp_path):
    """Projections: position and lag, counts, who links to a decision; rebuilt beside itself it is the same."""
    async with studies.opened(tmp_path / "house") as study, study.running("projections") as running:
        body = msgspec.json.encode(contract.MemoryWrite(key="note", text="text"))
        granted = await study.granted("ada", contract.MEMORY_WRITE, body)
        written = await study.bus.call(contract.MEMORY_WRITE, body, permit=study.sealed(granted))
        asked = projections.Links(target=granted.decision.link(), wait_for=written.seq)
        page = await study.call("root", projections.LINKS, asked)
        assert [(link.seq, link.id, link.kind, link.label) for link in page.items] == [
            (written.seq, written.id, "memory_block", "decision")
        ]
        hidden = await study.call("mia", projections.LINKS, asked)
        assert hidden == projections.LinkPage(items=(), cursor=None)
        with refused(Code.BEYOND_HEAD, "$.wait_for"):
            await study.call("mia", projections.LINKS, projections.Links(target="x", wait_for=10_000))
        await running.service.view.reach_head()
        before = await study.call("ada", projections.STATUS, common.Empty())
        counts = await study.call("ada", projections.STATISTICS, common.Empty())
        assert counts.counts["user"] == {"memory_block": 1}
        assert before.head - before.position == before.lag
        await running.service.view.reach_head()  # those two calls left a decision each
        result = await studies.projections_process.rebuilt(running.parts.settings)
        assert (result.differs_at, result.compared) == (None, result.position)
        await remember(study, "note", "after the exchange")
        await running.service.view.reach_head()
        after = await study.call("ada", projections.STATUS, common.Empty())
        assert after.records == after.position > before.position
        store = running.service.shelf.store
        assert store.path == result.path
        assert store.recomputed() == store.content()


async def test_a_long_log_is_folded_from_its_first_record(tmp_path):
    """More records than a view holds in memory at once: a fresh instance reads page by page, each under a checkpoint."""
    async with studies.opened(tmp_path / "house") as study:
        for number in range(18):
            answer = await batch(study, *(contract.Item(key=f"{n}", value=number) for n in range(256)))
            assert codes(answer) == [None] * 256
        async with study.running("projections") as running:
            await running.service.view.reach_head(timeout_s=20)
            content = running.service.shelf.store.content()
            assert content.records == len(study.world.log) > 4_500
            assert running.service.shelf.store.recomputed() == content


# Erased by the quorum's order


async def ordered(study, key, *, owner="ada", kind="memory_block", until_ms=3_600_000):
    """Root and a witness order it; the order's record."""
    study.world.clock.ms = clock.SystemClock().now_ms()
    payload = system.ErasureOrder(
        owner=owner,
        kind=kind,
        key=user.key_of_slug(kind, owner, key),
        reason="a court said so",
        expires_at=clock.format_ms(study.world.now_ms + until_ms),
    )
    study.world.change("erasure_order", payload)
    order = record.check(study.world.log[-1])
    await study.world.send(study.canon)
    return order


async def erasure_of(study, order):
    """The erasure that carries it out, once it stands."""
    async with asyncio.timeout(10):
        while True:
            for signed in study.world.log:
                found = record.check(signed)
                if found.core.kind == "erasure" and found.core.link("decision") == f"{order.core.id}.0":
                    return found
            await asyncio.sleep(0.02)


async def test_an_order_is_carried_out_by_itself(study, key):
    """Both versions go, whoever's they are; the erasure names the order and nobody's call. What is written after it stays."""
    first, second = await remember(study, key, "one"), await remember(study, key, "two")
    order = await ordered(study, key)
    erasure = await erasure_of(study, order)
    assert (erasure.payload.request, erasure.payload.records) == (None, (first.id, second.id))
    rows = study.canon.store.disk.rows
    assert [rows[written.seq].erased for written in (first, second)] == [True, True]
    third = await remember(study, key, "three")
    now = await recall(study, key, wait_for=third.seq)
    assert (now.text, now.version) == ("three", 1)
    assert record.check(study.world.log[third.seq]).core.prev == erasure.header.hash
    assert study.kinds().count("erasure") == len({row.id for row in rows if row.kind == "erasure"})


async def test_an_order_waits_for_its_thing(study, key):
    """Nothing is there yet: the order stands until it is, and acts once."""
    order = await ordered(study, key)
    written = await remember(study, key, "late")
    erasure = await erasure_of(study, order)
    assert erasure.payload.records == (written.id,)


async def test_an_order_that_a_stopped_service_missed_is_carried_out_at_its_start(tmp_path):
    """Committed while nobody was there to hear it; the view finds it, and finds it only once."""
    async with studies.opened(tmp_path / "house") as one:
        written = await remember(one, "k", "x")
        await recall(one, "k", wait_for=written.seq)
        order = await ordered(one, "k", owner="nobody")  # of a thing that never comes
        async with one.running("knowledge", "second"):
            missed = await ordered(one, "k")
            await erasure_of(one, missed)
        later = await remember(one, "k", "y")
        assert (await recall(one, "k", wait_for=later.seq)).text == "y"
        assert f"{order.core.id}.0" not in [
            record.open_header(bytes(signed.header))[0].core.link("decision") for signed in one.world.log
        ]
