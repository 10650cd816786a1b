"""Change events into a view, over everything that can happen to the stream on the way."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
import structlog

from sigilcore import checkpoint, ids, merkle, record, signing
from sigilcore.contracts import house as contract
from sigilrun import consume, stream, testing
from sigilrun.bus import Bus
from tests.services.canon_on_bus import CanonOnBus, canon_on_bus


class ListView:
    """A view whose store is a list; its transaction is one assignment. `fail` lets that many fail before it, `lose` after it."""

    name = "list"

    def __init__(self) -> None:
        """At the start, empty."""
        self.kept: tuple[tuple[consume.Event, ...], consume.Position] = ((), consume.START)
        self.applied: list[int] = []
        self.fail = 0
        self.lose = 0
        self.changed = asyncio.Event()

    @property
    def seqs(self) -> list[int]:
        """What it holds, in order."""
        return [event.seq for event in self.kept[0]]

    async def position(self) -> consume.Position:
        """Where it is."""
        return self.kept[1]

    async def apply(self, events: Sequence[consume.Event], position: consume.Position) -> None:
        """All or nothing."""
        if self.fail:
            self.fail -= 1
            raise RuntimeError("the disk is full")
        self.kept = ((*self.kept[0], *events), position)
        self.applied.append(len(events))
        self.changed.set()
        if self.lose:
            self.lose -= 1
            raise RuntimeError("the connection broke after the commit")

    async def until(self, size: int, timeout_s: float = 10.0) -> None:
        """Return once it is there."""
        async with asyncio.timeout(timeout_s):
            while self.kept[1].next_seq < size:
                self.changed.clear()
                await self.changed.wait()


class World:
    """A ledger on a bus, and a view that follows it."""

    def __init__(self, running: testing.BusHouse, canon: CanonOnBus, bus: Bus) -> None:
        """See `world`."""
        self.running = running
        self.canon = canon
        self.bus = bus
        self.view = ListView()
        self.stop = asyncio.Event()

    @property
    def size(self) -> int:
        """The ledger's size."""
        return len(self.canon.ledger.log)

    async def grow(self, count: int, *, publish: bool = True) -> None:
        """So many more records, in one commit."""
        ledger = self.canon.ledger
        for _ in range(count):
            ledger.close(ids.new(), "someone")
        if publish:
            await self.canon.publish()

    @contextlib.asynccontextmanager
    async def consuming(self, **options: Any) -> AsyncIterator[None]:
        """Consume in the background; a clean stop at the end."""
        self.stop = asyncio.Event()
        task = asyncio.create_task(
            consume.consume(
                self.bus,
                self.view,
                tenant=testing.TENANT,
                log_key=self.running.deployment.log,
                stop=self.stop,
                **options,
            )
        )
        try:
            yield
        finally:
            self.stop.set()
            async with asyncio.timeout(5):
                await task

    def agrees(self) -> None:
        """The view holds every record once, in order, and its frontier is the log's tree."""
        assert self.view.seqs == list(range(self.size))
        assert [event.leaf for event in self.view.kept[0]] == [bytes(one.header) for one in self.canon.ledger.log]
        frontier = merkle.Frontier.from_bytes(self.view.kept[1].frontier)
        assert (frontier.size, frontier.root()) == (self.size, self.canon.root(self.size))


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    """A founded ledger of a few records, published."""
    async with canon_on_bus(tmp_path / "house") as (running, canon):
        canon.ledger.found()
        canon.ledger.open_instances("gatekeeper", "license")
        await canon.publish()
        yield World(running, canon, await running.bus("projections"))


async def test_a_view_catches_up_and_follows(world: World) -> None:
    """From the start through the canon, then as it grows through the stream, each record once."""
    await world.grow(700, publish=False)
    await world.canon.publish()
    async with world.consuming():
        await world.view.until(world.size)
        pages = world.canon.pages
        for count in (1, 30, 3):
            await world.grow(count)
            await world.view.until(world.size)
        assert world.canon.pages <= pages + 2
    world.agrees()
    assert max(world.view.applied) <= 500


async def test_a_restart_goes_on_where_the_view_is(world: World) -> None:
    """The position is the view's; nothing is applied twice."""
    async with world.consuming():
        await world.view.until(world.size)
    await world.grow(40)
    async with world.consuming():
        await world.view.until(world.size)
    world.agrees()


@pytest.mark.parametrize("when", ["fail", "lose"])
async def test_a_view_that_fails_is_asked_for_its_position_again(world: World, when: str) -> None:
    """A transaction that failed is tried again; one whose answer was lost isn't repeated."""
    setattr(world.view, when, 2)
    async with world.consuming():
        await world.grow(30)
        await world.view.until(world.size)
    world.agrees()


async def test_a_deleted_stream_is_survived_through_the_canon(world: World) -> None:
    """While there is no stream the canon is asked; when it is refilled the stream is followed again."""
    async with world.consuming():
        await world.view.until(world.size)
        await world.running.delete_stream()
        await world.grow(10, publish=False)
        await world.view.until(world.size)
        await world.canon.keeper.ensure_stream(testing.TENANT)
        world.canon.published = 0
        await world.canon.publish()
        await world.grow(10)
        await world.view.until(world.size)
    world.agrees()


async def test_a_stream_that_is_shorter_than_the_view_hides_nothing(world: World) -> None:
    """An empty stream under the same name, with the canon growing: the view keeps up."""
    async with world.consuming():
        await world.view.until(world.size)
        await world.running.delete_stream()
        await world.canon.keeper.ensure_stream(testing.TENANT)
        await world.grow(10, publish=False)
        await world.view.until(world.size)
    world.agrees()


async def test_a_hole_in_the_stream_is_filled_from_the_canon(world: World) -> None:
    """A stream that was made anew at a later sequence: what lies between comes from the canon, in order."""
    async with world.consuming():
        await world.view.until(world.size)
        await world.running.delete_stream()
        await world.grow(20, publish=False)
        await world.canon.keeper.ensure_stream(testing.TENANT, first_seq=world.size + 1)
        world.canon.published = world.size
        await world.grow(5)
        await world.view.until(world.size)
    world.agrees()


async def test_a_server_that_dies_loses_and_doubles_nothing(world: World) -> None:
    """kill -9 of nats-server in the middle."""
    async with world.consuming():
        await world.view.until(world.size)
        await world.grow(30)
        world.running.kill()
        await world.running.restarted(2)
        await world.grow(30, publish=False)
        async with asyncio.timeout(10):
            while world.canon.published < world.size:
                try:
                    await world.canon.publish()
                except (stream.StreamAhead, stream.StreamBehind) as error:
                    world.canon.published = error.last
                except Exception:
                    await asyncio.sleep(0.02)
        await world.view.until(world.size)
    world.agrees()


async def test_a_corrupt_event_is_loud_moves_nothing_and_is_read_from_the_canon(world: World) -> None:
    """A byte changed in the stream: the view never sees it, and gets the true record."""
    with structlog.testing.capture_logs() as logged:
        async with world.consuming():
            await world.view.until(world.size)
            await world.grow(1, publish=False)
            (event,) = world.canon.events(world.size - 1, world.size)
            placed = msgspec.json.decode(event.body, type=record.PlacedRecord)
            spoilt = msgspec.structs.replace(
                placed, header=msgspec.Raw(bytes(placed.header).replace(b'"sig":"', b'"sig":"A', 1))
            )
            bad = msgspec.structs.replace(event, body=msgspec.json.encode(spoilt))
            world.canon.published = await world.canon.keeper.publish_events([bad], world.canon.published)
            await world.view.until(world.size)
    assert any(line["event"] == "corrupt_event" and line["log_level"] == "critical" for line in logged)
    world.agrees()


def flip_payload(placed: record.PlacedRecord) -> record.PlacedRecord:
    """Another payload under the same header."""
    return msgspec.structs.replace(placed, payload=msgspec.Raw(b'{"owner_id":"mallory"}'))


def other_place(placed: record.PlacedRecord) -> record.PlacedRecord:
    """The right record, said to stand elsewhere."""
    return msgspec.structs.replace(placed, seq=placed.seq + 7)


@pytest.mark.parametrize("spoil", [flip_payload, other_place])
async def test_a_changed_payload_or_place_is_not_believed(
    world: World, spoil: Callable[[record.PlacedRecord], record.PlacedRecord]
) -> None:
    """A payload is its header's by hash; a place is the stream's own."""
    async with world.consuming():
        await world.view.until(world.size)
        await world.grow(1, publish=False)
        (event,) = world.canon.events(world.size - 1, world.size)
        body = msgspec.json.encode(spoil(msgspec.json.decode(event.body, type=record.PlacedRecord)))
        bad = msgspec.structs.replace(event, body=body)
        world.canon.published = await world.canon.keeper.publish_events([bad], world.canon.published)
        await world.view.until(world.size)
    world.agrees()


async def test_what_no_checkpoint_covers_waits(world: World) -> None:
    """Events without their commit's checkpoint reach the view only when the log's key has vouched for them."""
    async with world.consuming():
        await world.view.until(world.size)
        before = world.size
        await world.grow(3, publish=False)
        bare = [msgspec.structs.replace(event, headers={}) for event in world.canon.events(before, world.size)]
        world.canon.published = await world.canon.keeper.publish_events(bare[:1], world.canon.published)
        # The canon itself vouches for all three, so the quiet look at it brings the first checkpoint that fits.
        await world.view.until(world.size)
    assert world.view.applied[-1] == 3
    world.agrees()


async def test_a_forged_checkpoint_vouches_for_nothing(world: World) -> None:
    """A checkpoint by another key, over a canon that lies as well: the view stays where it is, loudly."""
    async with world.consuming():
        await world.view.until(world.size)
    honest = world.view.kept
    honest_writer = world.canon.ledger.writer
    world.canon.ledger.writer = signing.Ed25519Signer.generate()
    with structlog.testing.capture_logs() as logged:
        async with world.consuming():
            await world.grow(3)
            async with asyncio.timeout(5):
                while not any(line["event"] == "corrupt_event" for line in logged):
                    await asyncio.sleep(0.01)
        assert world.view.kept == honest
    world.canon.ledger.writer = honest_writer
    async with world.consuming():
        await world.view.until(world.size)
    world.agrees()


async def test_a_rewritten_record_below_a_signed_root_is_found(world: World) -> None:
    """The canon serves another header for a record: the tree has another root, and nothing of the page is applied."""
    await world.grow(20)
    leaf = bytes(world.canon.ledger.log[10].header)
    world.canon.spoil[10] = bytes(world.canon.ledger.log[11].header)
    assert world.canon.spoil[10] != leaf
    with structlog.testing.capture_logs() as logged:
        async with world.consuming():
            async with asyncio.timeout(5):
                while not any(line["event"] == "corrupt_event" for line in logged):
                    await asyncio.sleep(0.01)
            assert world.view.seqs == []
            world.canon.spoil.clear()
            await world.view.until(world.size)
    world.agrees()


async def test_pages_without_checkpoints_are_covered_by_the_newest_one(world: World) -> None:
    """A reader that tells no checkpoint in its pages: `log/checkpoint` is asked."""
    world.canon.page_checkpoints = False
    await world.grow(600, publish=False)
    await world.canon.publish()
    async with world.consuming():
        await world.view.until(world.size)
    world.agrees()


async def test_a_filter_brings_its_kinds_only_and_the_position_moves_past_the_rest(world: World) -> None:
    """With kinds there is no tree to check; the position still says how far the canon was seen."""
    async with world.consuming(check="none", kinds=("instance_opened",)):
        await world.view.until(world.size)
        await world.grow(5)
        world.canon.ledger.open_instances("quorum")
        await world.canon.publish()
        await world.view.until(world.size)
        await world.grow(5)
        await world.view.until(world.size)
    assert {event.kind for event in world.view.kept[0]} == {"instance_opened"}
    assert len(world.view.kept[0]) == 3
    assert world.view.kept[1].next_seq == world.size


async def test_an_erased_payload_is_none_and_the_tree_holds(world: World) -> None:
    """Erasure takes payload and salt; the header, and so the tree, stays."""
    await world.grow(3)
    placed = world.canon.ledger.placed()[-1]
    erased = msgspec.structs.replace(placed, payload=msgspec.Raw(b"null"), salt=None)
    event = consume.open_event(erased)
    assert event.payload is None
    assert event.typed() is None
    assert merkle.leaf_hash(event.leaf) == world.canon.leaves(world.size)[-1]


async def test_stopping_is_clean_even_when_nothing_comes(world: World) -> None:
    """A stop while waiting ends within a moment and leaves a whole position."""
    async with world.consuming():
        await world.view.until(world.size)
    began = asyncio.get_running_loop().time()
    async with world.consuming():
        pass
    assert asyncio.get_running_loop().time() - began < 1
    world.agrees()


async def test_a_tree_cannot_be_checked_from_some_of_its_leaves(world: World) -> None:
    """Asking for both is a mistake of ours, told at once."""
    with pytest.raises(ValueError, match="signatures"):
        await consume.consume(
            world.bus,
            world.view,
            tenant=testing.TENANT,
            log_key=world.running.deployment.log,
            stop=world.stop,
            kinds=("genesis",),
        )


async def test_a_checkpoint_of_another_log_is_not_ours(world: World) -> None:
    """The log's key signs for its own origin only."""
    other = checkpoint.Checkpoint(contract.origin("other", testing.TENANT), world.size, world.canon.root(world.size))
    noted = checkpoint.sign(other, world.canon.ledger.writer)
    world.canon.checkpoint = lambda size: noted  # type: ignore[method-assign]
    with structlog.testing.capture_logs() as logged:
        async with world.consuming():
            async with asyncio.timeout(5):
                while not any(line["event"] == "corrupt_event" for line in logged):
                    await asyncio.sleep(0.01)
    assert world.view.seqs == []
