"""Authors and followers on a real bus: chains that never fork, receipts that are proven, a state that believes only the log."""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import structlog

from sigilcore import clock, decision, digest, ids, record, signing
from sigilcore.access import Loa
from sigilcore.contracts import house as contract
from sigilcore.records import audit, user
from sigilcore.refusals import Code, Refused
from sigilrun import service, stream, testing
from sigilrun.author import Author, UserDraft
from sigilrun.follow import Follower, WrongCanon
from tests import simulator
from tests.services.canon_on_bus import CanonOnBus, canon_on_bus


@contextlib.asynccontextmanager
async def build(parts: service.Parts) -> AsyncIterator[service.Parts]:
    """A service that is only its parts."""
    yield parts


class World:
    """A founded ledger, and processes beside it."""

    def __init__(self, running: testing.BusHouse, canon: CanonOnBus) -> None:
        """See `world`."""
        self.running = running
        self.canon = canon
        self.ledger = canon.ledger

    @contextlib.asynccontextmanager
    async def process(self, name: str, instance: str = "main", **changed: Any) -> AsyncIterator[service.Running]:
        """A process of this service, introduced."""
        options = self.running.settings(name, instance=instance)
        options = msgspec.structs.replace(options, service=msgspec.structs.replace(options.service, **changed))
        async with service.running(name, build, {}, options) as one:
            async with asyncio.timeout(10):
                await one.ready.wait()
            yield one

    def chain(self, key_id: str) -> list[record.Header]:
        """All audit records by this key, in the ledger's order."""
        headers = [record.open_header(bytes(one.header))[0] for one in self.ledger.log]
        return [one for one in headers if one.key_id == key_id and one.core.space == "audit"]

    def unbroken(self, author: Author) -> list[str]:
        """The kinds of an author's chain, after checking that it is one."""
        chain = self.chain(author.key_id)
        assert [one.core.prev for one in chain] == [None, *(one.hash for one in chain[:-1])]
        return [one.core.kind for one in chain]


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    """Genesis, the simulator's own gatekeeper and license, and Root's licence."""
    async with canon_on_bus(tmp_path / "house") as (running, canon):
        canon.ledger.found()
        canon.ledger.open_instances("gatekeeper", "license")
        canon.ledger.root_licence()
        await canon.publish()
        yield World(running, canon)


def opened(owner: str = "someone") -> audit.SessionOpened:
    """A record that the gatekeeper may write at any time."""
    return audit.SessionOpened(session_id=ids.new(), licence_id=ids.new(), owner_id=owner, key=None, expires_at="x")


# Authors


async def test_an_instance_is_introduced_and_says_goodbye(world: World) -> None:
    """The service key vouches for the instance's key, with the settings' digest; the closing beat ends it."""
    async with world.process("gatekeeper") as one:
        author = one.parts.authoring
        placed = await author.audit("session_opened", opened())
        assert world.ledger.log[placed.seq]
        entry = world.ledger.state.key(author.key_id)
        assert entry is not None
        assert (entry.role, entry.name, entry.instance, entry.active) == ("instance", "gatekeeper", "main", True)
    assert world.unbroken(author) == ["session_opened", "instance_beat"]
    ended = world.ledger.state.key(author.key_id)
    assert ended is not None
    assert not ended.active


async def test_many_at_once_share_appends_and_one_chain(world: World) -> None:
    """What queues while an append is in flight goes together; each caller gets its own proven place."""
    async with world.process("gatekeeper") as one:
        author, before = one.parts.authoring, len(world.canon.appends)
        placed = await asyncio.gather(
            *(author.audit("session_opened", opened(f"o{n}"), timeout_s=30) for n in range(800))
        )
        appends = len(world.canon.appends) - before
    for n, place in enumerate(placed):
        stands = world.ledger.by_id[place.id]
        assert (stands.header.hash, stands.payload.owner_id) == (place.hash, f"o{n}")
        assert bytes(world.ledger.log[place.seq].header) == stands.leaf
    assert world.unbroken(author).count("session_opened") == 800
    assert appends <= 20


@pytest.mark.parametrize("fault", ["lose_before", "lose_after", "busy"])
async def test_an_unknown_outcome_is_resolved_by_the_same_bytes(world: World, fault: str) -> None:
    """Lost before the commit, lost after it, or no room: sent again as it was, written once."""
    async with world.process("gatekeeper") as one:
        author = one.parts.authoring
        setattr(world.canon, fault, 3)
        seen = len(world.canon.appends)
        placed = await author.audit("session_opened", opened())
        tries = world.canon.appends[seen:]
        assert len(tries) == 4
        assert len(set(tries)) == 1
        assert world.ledger.by_id[placed.id].header.hash == placed.hash
        await author.audit("session_opened", opened())
    assert world.unbroken(author) == ["session_opened", "session_opened", "instance_beat"]


@pytest.mark.parametrize("lie", ["signature", "proof", "hash", "order", "silence"])
async def test_a_receipt_that_proves_nothing_is_not_believed(world: World, lie: str) -> None:
    """A forged checkpoint, a wrong path, another hash, another order, no proof at all: loud, and asked again."""
    async with world.process("gatekeeper") as one:
        author = one.parts.authoring
        world.canon.lie = lie
        with structlog.testing.capture_logs() as logged:
            first = author.audit("session_opened", opened())
            placed = await asyncio.gather(first, *(author.audit("session_opened", opened()) for _ in range(3)))
        assert any(line["event"] == "append_unproven" for line in logged)
        assert b"sigil_bad_receipts_total 1.0" in one.parts.metrics.render()
        assert [world.ledger.by_id[place.id].header.hash for place in placed] == [place.hash for place in placed]
    assert world.unbroken(author) == ["session_opened"] * 4 + ["instance_beat"]


async def test_a_caller_may_give_up_and_the_chain_does_not(world: World) -> None:
    """The caller hears that the outcome is unknown; the record is written when the writer is back, once, and the chain goes on."""
    async with world.process("gatekeeper") as one:
        author = one.parts.authoring
        world.canon.lose_before = 10_000
        name = ids.new()
        with pytest.raises(Refused) as caught:
            await author.audit("session_opened", opened(), id=name, timeout_s=0.1)
        assert caught.value.code is Code.UNAVAILABLE
        assert caught.value.detail == {"outcome": "unknown", "id": name}
        assert name not in world.ledger.by_id
        world.canon.lose_before = 0
        await author.audit("session_opened", opened(), timeout_s=5)
        assert name in world.ledger.by_id
    assert world.unbroken(author) == ["session_opened", "session_opened", "instance_beat"]


async def test_a_refused_record_is_taken_out_and_the_rest_is_written(world: World) -> None:
    """One bad record of a batch: its caller hears why, the others are placed, and the log says what was refused."""
    async with world.process("gatekeeper") as one:
        author = one.parts.authoring
        chain = world.ledger.judge(world.ledger.root, "license/list")
        bad = audit.DecisionBatch(decisions=(decision.FrozenChain(chain=chain, content_hash="0" * 64),))
        name = ids.new()
        results = await asyncio.gather(
            author.audit("session_opened", opened()),
            author.audit("decision_batch", bad, id=name),
            author.audit("session_opened", opened()),
            return_exceptions=True,
        )
    refused = results[1]
    assert isinstance(refused, Refused)
    assert refused.code is Code.RECORD_INVALID
    assert not isinstance(results[0], BaseException)
    assert not isinstance(results[2], BaseException)
    assert world.unbroken(author).count("session_opened") == 2
    told = [one for one in world.ledger.by_id.values() if one.core.kind == "append_refused"]
    assert [(one.payload.code, one.payload.kind, one.payload.record_id) for one in told] == [
        ("RECORD_INVALID", "decision_batch", name)
    ]


async def test_a_full_queue_is_busy_at_once(world: World) -> None:
    """Nobody waits without a bound."""
    async with world.process("gatekeeper", max_queued_audits=3) as one:
        author = one.parts.authoring
        world.canon.lose_before = 10_000
        waiting = [asyncio.create_task(author.audit("session_opened", opened(), timeout_s=5)) for _ in range(3)]
        await asyncio.sleep(0)
        more = [asyncio.create_task(author.audit("session_opened", opened(), timeout_s=5)) for _ in range(5)]
        done = await asyncio.gather(
            *(asyncio.wait_for(asyncio.shield(one), 0.2) for one in more), return_exceptions=True
        )
        assert sum(isinstance(one, Refused) and one.code is Code.BUSY for one in done) >= 2
        world.canon.lose_before = 0
        await asyncio.gather(*waiting)
        await asyncio.gather(*more, return_exceptions=True)
    world.unbroken(author)


async def test_a_full_queue_keeps_room_for_what_brakes_and_writes_it_first(world: World) -> None:
    """Logins fill the queue: nothing happens to the next one, and a closing still gets its place, before those that waited."""
    async with world.process("gatekeeper", max_queued_audits=3) as one:
        author = one.parts.authoring
        world.canon.lose_before = 10_000
        in_flight = asyncio.create_task(author.audit("session_opened", opened(), timeout_s=10))
        while author._queue or not world.canon.appends or world.canon.lose_before == 10_000:
            await asyncio.sleep(0.005)
        waiting = [asyncio.create_task(author.audit("session_opened", opened(), timeout_s=10)) for _ in range(3)]
        await asyncio.sleep(0)
        before = len(world.ledger.log)
        with pytest.raises(Refused) as caught:
            await author.audit("session_opened", opened("late"), timeout_s=10)
        assert caught.value.code is Code.BUSY
        assert len(world.ledger.log) == before
        payload = audit.SessionClosed(session_id=ids.new(), owner_id="ada")
        closing = asyncio.create_task(author.audit("session_closed", payload, timeout_s=10))
        await asyncio.sleep(0)
        world.canon.lose_before = 0
        placed = await asyncio.gather(in_flight, *waiting, closing)
        assert placed[0].seq < placed[-1].seq < min(one.seq for one in placed[1:-1])
    assert world.unbroken(author)[:2] == ["session_opened", "session_closed"]
    assert "late" not in [
        one.payload.owner_id for one in world.ledger.by_id.values() if one.core.kind == "session_opened"
    ]


async def test_a_repeated_effect_is_its_first_place_and_breaks_no_chain(world: World) -> None:
    """Another instance wrote this effect before: the first place is proven and answered, and nothing chains on what wasn't written."""
    ledger = world.ledger
    person = simulator.Person("someone")
    ledger.issue(person, Loa.OPERATOR)
    first = next(one for one in ledger.by_id.values() if getattr(one.payload, "license", None) == person.table)
    await world.canon.publish()
    async with world.process("license") as one:
        author = one.parts.authoring
        ref = decision.parse_ref(first.core.link("decision") or "")
        placed = await author.audit("license_issued", first.payload, id=first.core.id, decision=ref)
        assert placed.hash == first.header.hash
        assert bytes(ledger.log[placed.seq].header) == first.leaf
        await author.audit("append_refused", audit.AppendRefused(code="X", kind="x", record_id="x"))
    assert world.unbroken(author) == ["append_refused", "instance_beat"]


async def test_user_records_stand_under_their_decision_and_fall_alone(world: World) -> None:
    """Two drafts of one call, one on a version that never was: one place, one refusal, both in the receipt."""
    ledger = world.ledger
    person = ledger.issue(simulator.Person("someone"), Loa.OPERATOR)
    async with world.process("knowledge") as one:
        author = one.parts.authoring
        ledger.clock.ms = one.parts.clock.now_ms()
        granted = ledger.granted(person, "memory/write")
        request = decision.Request(
            command="memory/write",
            salt=granted.salt,
            digest=granted.digest,
            parameters=digest.sha256_hex(b"{}"),
        )

        def draft(slug: str, prev: str | None) -> UserDraft:
            payload = user.MemoryBlock(
                owner="someone",
                key=f"mem::someone::{slug}",
                text="x",
                tags=(),
                origin="person",
                admitted_at="operator",
                request=request,
            )
            return UserDraft(kind="memory_block", payload=payload, id=ids.new(), prev=prev)

        receipt = await author.user([draft("a", None)], granted.decision)
        (placed,) = receipt.placed()
        assert ledger.by_id[placed.id].payload.key == "mem::someone::a"
        bad = await author.user([draft("b", "e" * 64)], granted.decision)
    assert bad.results[0].refusal is not None
    assert bad.results[0].refusal.code in {Code.STALE_PREV, Code.DECISION_USED}


async def test_an_instance_that_was_replaced_writes_no_more(world: World) -> None:
    """A second process under the same name ends the first one's key: it stops, and says that it has to."""
    async with world.process("gatekeeper") as old:
        async with world.process("gatekeeper") as new:
            with pytest.raises(Refused):
                await old.parts.authoring.audit("session_opened", opened())
            async with asyncio.timeout(5):
                await old.ended.wait()
            await new.parts.authoring.audit("session_opened", opened())
        assert old.failed is not None
    assert world.unbroken(new.parts.authoring) == ["session_opened", "instance_beat"]


async def test_an_instance_beats_only_while_it_writes(world: World) -> None:
    """One beat an interval in which something was written; it counts the records."""
    async with world.process("gatekeeper", beat_interval_s=1) as one:
        author = one.parts.authoring
        await author.audit("session_opened", opened())
        async with asyncio.timeout(5):
            while "instance_beat" not in [entry.core.kind for entry in world.chain(author.key_id)]:
                await asyncio.sleep(0.02)
        beat = world.ledger.by_id[world.chain(author.key_id)[1].core.id].payload
        assert (beat.records, beat.closing) == (1, False)


# Followers


async def follower(world: World, name: str = "gatekeeper", **changed: Any) -> Follower:
    """A follower of its own, started."""
    one = Follower(await world.running.bus(name), world.running.deployment, **changed)
    await one.start()
    return one


async def test_a_revocation_is_felt_within_a_second(world: World) -> None:
    """Through the stream, at every follower."""
    ledger = world.ledger
    person = ledger.issue(simulator.Person("someone"), Loa.OPERATOR)
    followers = [await follower(world, name) for name in ("gatekeeper", "quorum", "knowledge")]
    await world.canon.publish()
    for one in followers:
        await one.wait_for(ledger.head())
        assert one.state.licences[person.licence_id].revoked_seq is None
    seen: list[int] = []
    followers[0].on_change(lambda seq, _checked: seen.append(seq))
    ledger.revoke(person)
    await world.canon.publish()
    async with asyncio.timeout(1):
        while any(one.state.licences[person.licence_id].revoked_seq is None for one in followers):
            await asyncio.sleep(0.005)
    assert seen == [ledger.head() - 1]
    for one in followers:
        await one.stop()


@pytest.mark.parametrize("gone", ["stream", "server"])
async def test_a_revocation_is_felt_without_the_stream(world: World, gone: str) -> None:
    """The stream is deleted, or the server dies: the canon is asked instead."""
    ledger = world.ledger
    person = ledger.issue(simulator.Person("someone"), Loa.OPERATOR)
    await world.canon.publish()
    one = await follower(world)
    await one.wait_for(ledger.head())
    if gone == "stream":
        await world.running.delete_stream()
    else:
        world.running.kill()
    ledger.revoke(person)
    async with asyncio.timeout(10):
        while one.state.licences[person.licence_id].revoked_seq is None:
            await asyncio.sleep(0.01)
    await one.stop()


async def test_a_forged_event_moves_nothing(world: World) -> None:
    """A revocation signed by nobody, at the right place of the stream: loud, not believed, and the true record comes from the canon."""
    ledger = world.ledger
    person = ledger.issue(simulator.Person("someone"), Loa.OPERATOR)
    other = ledger.issue(simulator.Person("other"), Loa.OPERATOR)
    await world.canon.publish()
    one = await follower(world)
    await one.wait_for(ledger.head())
    payload = audit.LicenceRevoked(
        license_id=person.licence_id,
        reason="",
        request=decision.Request(command="license/revoke", salt="0" * 32, digest="0" * 64, parameters="0" * 64),
    )
    forged = record.build(
        "license_revoked",
        payload,
        id=ids.new(),
        tenant=testing.TENANT,
        ts=clock.format_ms(ledger.now_ms),
        space="audit",
        signer=signing.Ed25519Signer.generate(),
        salt=os.urandom(16),
    )
    placed = record.PlacedRecord(seq=ledger.head(), header=forged.header, payload=forged.payload, salt=forged.salt)
    event = stream.Event(
        subject=contract.event_subject(testing.TENANT, "audit", "license_revoked"),
        message_id="forged",
        body=msgspec.json.encode(placed),
        headers={},
    )
    with structlog.testing.capture_logs() as logged:
        world.canon.published = await world.canon.keeper.publish_events([event], world.canon.published)
        async with asyncio.timeout(5):
            while not any(line["event"] == "follower_stuck" for line in logged):
                await asyncio.sleep(0.01)
    assert one.state.licences[person.licence_id].revoked_seq is None
    ledger.revoke(other)
    await one.wait_for(ledger.head(), timeout_s=5)
    assert one.state.licences[person.licence_id].revoked_seq is None
    assert one.state.licences[other.licence_id].revoked_seq is not None
    await one.stop()


async def test_another_root_s_canon_is_refused_loudly(world: World) -> None:
    """A pinned genesis that differs, or a deployment file that does: the follower stops, and its process with it."""
    pinned = await follower(world, pinned="0" * 64)
    deployed = world.running.deployment
    elsewhere = msgspec.structs.replace(deployed, runtime_id=ids.new())
    moved = Follower(await world.running.bus("gatekeeper"), elsewhere)
    await moved.start()
    swapped = {name: key[::-1] for name, key in deployed.services.items()}
    rekeyed = Follower(await world.running.bus("gatekeeper"), msgspec.structs.replace(deployed, services=swapped))
    await rekeyed.start()
    for one in (pinned, moved, rekeyed):
        async with asyncio.timeout(5):
            await one.stopped.wait()
        assert isinstance(one.wrong, WrongCanon)
        assert not one.state.bootstrapped
        await one.stop()


async def test_waiting_for_what_is_not_there_ends(world: World) -> None:
    """A position beyond the head is NOT_YET, in the time that was given; a position of other kinds is reached by asking."""
    one = await follower(world)
    await one.wait_for(world.ledger.head())
    for _ in range(3):
        world.ledger.append("session_opened", opened(), world.ledger.instances["gatekeeper"])
    await one.wait_for(world.ledger.head())
    assert one.position == world.ledger.head()
    with pytest.raises(Refused) as caught:
        await one.wait_for(world.ledger.head() + 1, timeout_s=0.1)
    assert caught.value.code is Code.NOT_YET
    await one.stop()


async def test_what_a_caller_names_is_reached_or_was_never_there(world: World) -> None:
    """A record just written is waited for, one seen long ago isn't; one beyond the head is refused at once, with the head."""
    one = await follower(world)
    await one.reach(world.ledger.head() - 1)
    assert one.position == world.ledger.head()
    world.ledger.append("session_opened", opened(), world.ledger.instances["gatekeeper"])
    await one.reach(world.ledger.head() - 1)
    await one.reach(0)
    with pytest.raises(Refused) as caught:
        await one.reach(world.ledger.head())
    assert (caught.value.code, caught.value.field) == (Code.BEYOND_HEAD, "$.wait_for")
    assert caught.value.detail == {"head": world.ledger.head()}
    await one.stop()


async def test_the_state_is_the_writer_s(world: World) -> None:
    """After growth by stream and by page the fold is the same as the writer's."""
    ledger = world.ledger
    one = await follower(world)
    for n in range(5):
        ledger.issue(simulator.Person(f"p{n}"), Loa.OPERATOR)
        if n % 2:
            await world.canon.publish()
    await one.wait_for(ledger.head())
    assert one.state.licences == ledger.state.licences
    assert one.state.keys == ledger.state.keys
    assert one.state.genesis_hash == ledger.state.genesis_hash
    await one.stop()
