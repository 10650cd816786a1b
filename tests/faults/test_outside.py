"""Consumers outside the house: what each was let read and nothing else, whatever they try; and what they believe."""

import asyncio
import json

import msgspec
import pytest
import pytest_asyncio
import structlog

from sigilcore import faults, record
from sigilcore.contracts import canon, common, gatekeeper, house
from sigilrun import authors, outside, testing, wire
from tests.faults.consuming import PATIENCE_S, Kept, from_outside
from tests.faults.test_writer_crash import Place

MEMORIES = ("user", "memory_block")
STREAM = house.stream("default")


@pytest_asyncio.fixture(loop_scope="session")
async def place(database, tmp_path):
    """A founded log of memories, its writer and its reader."""
    async with testing.bus_house(tmp_path / "house") as buses:
        made = Place(buses, database)
        await made.start()
        async with made.writing(), made.reading():
            made.write(5)
            await made.world.send(made.pen)
            await made.stream_reaches(len(made.world.log))  # what is heard later isn't of these
            yield made


@pytest_asyncio.fixture(loop_scope="session")
async def folder(place):
    """The account of a consumer of memories."""
    return await place.buses.outside("memories", (MEMORIES, house.GOVERNING), place.world.state.genesis_hash)


@pytest_asyncio.fixture(loop_scope="session")
async def bus(folder):
    """Its connection, for what `sigilrun` would never try."""
    connected = await outside.connect(folder)
    yield connected
    await connected.close()


def asked(scope):
    """The subject of a question."""
    return canon.EVENTS_OF.subject_of(*scope)


async def test_what_was_granted_is_read(bus):
    """The kind, what governs, and the checkpoint; nothing else is among it."""
    page = await bus.call(canon.EVENTS_OF, canon.EventsOf(first=0), scope=MEMORIES)
    kinds = {record.open_header(bytes(one.header))[0].core.kind for one in page.items}
    assert (kinds, len(page.items), page.next, page.checkpoint) == ({"memory_block"}, 5, page.head, None)
    governing = await bus.call(canon.EVENTS_OF, canon.EventsOf(first=0), scope=house.GOVERNING)
    kinds = {record.open_header(bytes(one.header))[0].core.kind for one in governing.items}
    assert kinds == {"genesis", "instance_opened", "license_issued"}
    assert (await bus.call(canon.CHECKPOINT, common.Empty())).bootstrapped


FORBIDDEN = (
    asked(("user", "document")),
    asked(("audit", "decision_batch")),
    asked(("system", "memory_block")),
    asked(house.EVERYTHING),
    canon.EVENTS_OF.subject,
    canon.EVENTS.subject,
    canon.APPEND.subject,
    canon.REFILL.subject,
    canon.TILE.subject,
    gatekeeper.AUTHORIZE.subject,
    "canon.v1.default.user.memory_block",
    "canon.v1.default.user.document",
    f"canon.stream.STREAM.INFO.{STREAM}",
    f"$JS.API.STREAM.INFO.{STREAM}",
    f"$JS.API.STREAM.MSG.GET.{STREAM}",
    f"$JS.API.DIRECT.GET.{STREAM}",
    f"$JS.API.DIRECT.GET.{STREAM}.canon.v1.default.user.document",
    f"$JS.API.CONSUMER.CREATE.{STREAM}.x",
    f"$JS.API.CONSUMER.CREATE.{STREAM}.x.canon.v1.default.user.memory_block",
    f"$JS.API.CONSUMER.MSG.NEXT.{STREAM}.x",
    f"$JS.API.STREAM.DELETE.{STREAM}",
    f"$JS.API.STREAM.PURGE.{STREAM}",
    "$SRV.PING",
    "$SYS.REQ.SERVER.PING",
    "_INBOX_gatekeeper.x",
)


async def test_nothing_else_can_be_said(bus):
    """Another kind, the whole log, any other command, a change event, any word with JetStream: refused by the server itself."""
    for subject in FORBIDDEN:
        with pytest.raises(wire.Forbidden):
            await bus.request(subject, b"{}", timeout_s=5)


async def test_nothing_else_can_be_heard(place, bus):
    """Only the kind's own change events reach it; every wider subject is refused."""
    heard = []

    def hear(message):
        heard.append(message.subject)

    with structlog.testing.capture_logs() as logged:
        for subject in (
            "canon.v1.default.user.memory_block",
            "canon.v1.default.user.*",
            "canon.v1.default.>",
            "canon.v1.default.audit.decision_batch",
            "_INBOX_gatekeeper.>",
            "sigil.v1.>",
            "$JS.>",
            ">",
        ):
            await bus.subscribe(subject, hear)
        await bus.flush()
        place.write(2)
        await place.world.send(place.pen)
        await place.stream_reaches(len(place.world.log))
        await bus.flush()
    assert len([line for line in logged if line["event"] == "bus_forbidden"]) == 7
    async with asyncio.timeout(PATIENCE_S):
        while len(heard) < 2:
            await asyncio.sleep(0.01)
    assert heard == ["canon.v1.default.user.memory_block"] * 2


async def test_no_answer_can_be_sent_where_one_may_not_speak(place, bus):
    """The reply of an honest question named as a subject of the house: it stays outside, and the stream is as it was."""
    before = await place.gatekeeper.request(f"canon.stream.STREAM.INFO.{STREAM}", b"", timeout_s=5)
    for reply in (
        "canon.v1.default.user.memory_block",
        f"$JS.API.STREAM.PURGE.{STREAM}",
        canon.APPEND.subject,
        "_INBOX_gatekeeper.x",
    ):
        await bus.publish(canon.CHECKPOINT.subject, b"{}", reply=reply)
        await bus.publish(asked(MEMORIES), b'{"first":0}', reply=reply)
    await bus.call(
        canon.EVENTS_OF, canon.EventsOf(first=0), scope=MEMORIES
    )  # one connection, one reader: those were taken before
    await asyncio.sleep(0.2)
    after = await place.gatekeeper.request(f"canon.stream.STREAM.INFO.{STREAM}", b"", timeout_s=5)
    assert json.loads(after.data)["state"] == json.loads(before.data)["state"]


async def test_a_revoked_consumer_is_cut_off_and_nobody_else(place, folder):
    """Its consumption ends by itself, what it holds stays whole, and the others read on."""
    other = await place.buses.outside("other", (house.EVERYTHING,), place.world.state.genesis_hash)
    mine, theirs = Kept("memories"), Kept("other")
    async with from_outside(other, theirs):
        reading = asyncio.create_task(outside.consume(folder, mine, stop=asyncio.Event()))
        await mine.until(len(place.world.log))
        await place.buses.end_outside("memories")
        async with asyncio.timeout(PATIENCE_S):
            with pytest.raises(outside.AccountEnded):
                await reading
        place.write(2)
        await place.world.send(place.pen)
        await theirs.until(len(place.world.log))
    assert len(mine.events) == 5
    assert place.gatekeeper.connected


async def test_without_what_governs_nothing_is_believed(place):
    """An account that can't read the governing records can't tell one signature from another: it takes nothing."""
    folder = await place.buses.outside("bare", (MEMORIES,), place.world.state.genesis_hash)
    view = Kept("bare")
    with structlog.testing.capture_logs() as logged:
        async with from_outside(folder, view), asyncio.timeout(PATIENCE_S):
            while not any(line["event"] == "view_failed" for line in logged):
                await asyncio.sleep(0.01)
    assert view.events == ()


# What a reader could serve instead of the truth


def lying(pager, lie):
    """A pager whose answers pass through a liar."""

    async def page(events):
        honest = await pager(events)
        return msgspec.structs.replace(honest, items=tuple(lie(one) for one in honest.items))

    return page


def other_text(placed):
    """Another text under the same header."""
    return msgspec.structs.replace(
        placed, payload=msgspec.Raw(bytes(placed.payload).replace(b'"text":"', b'"text":"not '))
    )


def other_time(placed):
    """A header changed, with a hash that fits again."""
    header, _ = record.open_header(bytes(placed.header))
    core = msgspec.structs.replace(header.core, ts="2031-01-01T00:00:00.000Z")
    changed = record.canonical.of(core)
    sealed = msgspec.structs.replace(header, core=core, hash=record.digest.sha256_hex(changed))
    return msgspec.structs.replace(placed, header=msgspec.Raw(record.canonical.of(sealed)))


def strangers_key(placed):
    """The whole record, well signed by a key that the log doesn't know."""
    header, _ = record.open_header(bytes(placed.header))
    stranger = record.signing.Ed25519Signer.generate()
    signed = record.seal(header.core, bytes(placed.payload), bytes.fromhex(placed.salt), stranger)
    return msgspec.structs.replace(placed, header=signed.header)


@pytest.mark.parametrize("lie", [other_text, other_time, strangers_key])
async def test_a_lying_reader_is_not_believed_and_the_truth_heals(place, folder, bus, lie):
    """Loud, the position stays; the honest page afterwards is taken."""
    who, view = outside.account(folder), Kept("memories")
    honest = outside.pager(bus, (MEMORIES,))
    lies = [True]

    async def page(events):
        return await (lying(honest, lie) if lies else honest)(events)

    stop = asyncio.Event()
    with structlog.testing.capture_logs() as logged:
        task = asyncio.create_task(
            outside.consuming.consume(
                bus,
                view,
                tenant="default",
                log_key=who.deployment.log,
                stop=stop,
                check="signatures",
                authors=authors.Authors(
                    bus, who.deployment, genesis=who.genesis, pager=outside.pager(bus, (house.GOVERNING,))
                ),
                kinds=who.kinds,
                pager=page,
                hears=who.hears,
            )
        )
        async with asyncio.timeout(PATIENCE_S):
            while not any(line["event"] == "corrupt_event" for line in logged):
                await asyncio.sleep(0.01)
        assert (view.next_seq, view.events) == (0, ())
        lies.clear()
        await view.until(len(place.world.log))
        stop.set()
        await task
    assert len(view.events) == 5


async def test_another_canon_is_not_the_one_that_was_pinned(place, bus, folder):
    """The same house under another genesis pin: nothing is taken."""
    who = outside.account(folder)
    fold = authors.Authors(bus, who.deployment, genesis="0" * 64, pager=outside.pager(bus, (house.GOVERNING,)))
    page = await bus.call(canon.EVENTS_OF, canon.EventsOf(first=0), scope=MEMORIES)
    event = outside.consuming.open_event(page.items[0], whole_tree=False)
    with pytest.raises(Exception, match="was pinned"):
        await fold.check([event])


async def test_a_governing_record_is_the_one_that_governs(place, bus, folder):
    """A governing record signed again by a stranger, under the place of the true one."""
    who = outside.account(folder)
    fold = authors.Authors(bus, who.deployment, genesis=who.genesis, pager=outside.pager(bus, (house.GOVERNING,)))
    page = await bus.call(canon.EVENTS_OF, canon.EventsOf(first=0), scope=house.GOVERNING)
    events = [outside.consuming.open_event(one, whole_tree=False) for one in page.items]
    await fold.check(events)
    lie = outside.consuming.open_event(strangers_key(page.items[1]), whole_tree=False)
    with pytest.raises(faults.Corrupt, match="governs"):
        await fold.check([lie])
