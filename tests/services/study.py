"""Knowledge and projections as processes of the house: a real nats-server with the house's permissions, the real author, follower and
consumer, the writer's own committer, readers and publisher on memory. The simulator decides calls and grants permits.

What can go wrong between knowledge and the writer is a switch: another writer in between, answers that are lost.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec

from services.canon_writer import committer, memory, publisher
from services.knowledge import __main__ as knowledge_process
from services.knowledge.service import HANDLERS as KNOWLEDGE
from services.projections import __main__ as projections_process
from services.projections.service import HANDLERS as PROJECTIONS
from sigilcore import clock, permit, record
from sigilcore.access import Loa
from sigilcore.contracts import canon, common
from sigilcore.contracts import house as contract
from sigilcore.contracts.command import Command
from sigilcore.refusals import Code, Refused
from sigilrun import answer, service, testing
from tests import canonworld, oracle
from tests.simulator import TENANT, Person


class World(canonworld.World):
    """Founded now: processes read the machine's clock."""

    def _genesis(self) -> None:
        self.clock.ms = clock.SystemClock().now_ms()
        super()._genesis()


class Study:
    """People, and the processes that keep what they write."""

    def __init__(self, house: testing.BusHouse) -> None:
        """Use `opened`."""
        self.house = house
        self.world = World(house.deployment, house.keystore)
        self.lose_answers = 0  # so many commits are never answered
        self.appended: list[canon.Append] = []
        self.before_append: list[canon.Append] = []  # what another instance gets in first
        self.canon: memory.MemoryCanon
        self.knowledge: service.Running
        self.bus: testing.Bus
        self.people: dict[str, Person] = {}

    # What people do.

    async def call(self, person: str, command: Command, request: msgspec.Struct | bytes, **changes):
        """One call, judged, committed, permitted, and answered over the bus."""
        body = request if isinstance(request, bytes) else msgspec.json.encode(request)
        granted = await self.granted(person, command, body, **changes)
        return await self.bus.call(command, body, permit=self.sealed(granted))

    async def granted(self, person: str, command: Command, body: bytes, **changes) -> permit.Permit:
        """A permit whose decision stands in the canon."""
        self.world.clock.ms = clock.SystemClock().now_ms()
        granted = self.world.granted(self.people[person], command.name, body, **changes)
        await self.world.send(self.canon)
        return granted

    def sealed(self, granted: permit.Permit) -> str:
        return permit.seal(self.world.services["gatekeeper"], granted)

    def signed(self, person: str, granted: permit.Permit, **changes) -> record.SignedRecord:
        """A memory that its owner signed, finished but for its place."""
        signer = changes.pop("signer", self.people[person].signer)
        return self.world.memory(granted, signer=signer, links=(), request=None, **changes)

    def kinds(self) -> list[str]:
        return [row.kind for row in self.canon.store.disk.rows]

    def check(self) -> None:
        """The oracle, over everything."""
        rows = self.canon.store.disk.rows
        oracle.check([row.placed() for row in rows], self.canon.store.disk.notes[len(rows)])

    # What the writer does.

    async def _append(self, incoming: answer.Incoming) -> canon.Appended:
        request = msgspec.json.decode(incoming.body, type=canon.Append)
        while self.before_append:
            await self.canon.append(self.before_append.pop(0))
        self.appended.append(request)
        answered = await self.canon.append(request)
        if self.lose_answers:
            self.lose_answers -= 1
            raise Refused(Code.UNAVAILABLE, "lost on the way back", detail={"outcome": "unknown"})
        return answered

    async def _events(self, incoming: answer.Incoming) -> canon.EventPage:
        return await self.canon.reading.events(msgspec.json.decode(incoming.body, type=canon.Events))

    async def _checkpoint(self, incoming: answer.Incoming) -> canon.Checkpoint:
        msgspec.json.decode(incoming.body, type=common.Empty)
        return await self.canon.reading.checkpoint()

    def mirror(self, committed: committer.Committed) -> None:
        """What services wrote becomes part of the simulator's ledger."""
        for row in committed.rows:
            if row.seq == len(self.world.log):
                self.world._commit(row.signed(), record.check(row.signed()))
                self.world.sent = len(self.world.log)

    @contextlib.asynccontextmanager
    async def writing(self) -> AsyncIterator[None]:
        """The canon on the bus, with its stream."""
        writer, reader = await self.house.bus("canon_writer"), await self.house.bus("canon_reader")
        keeper = await self.house.bus(contract.KEEPER)
        heard: list[publisher.Publisher] = []

        def committed(commit: committer.Committed) -> None:
            self.mirror(commit)
            for one in heard:
                one.committed(commit)

        self.canon = await memory.MemoryCanon.start(
            signer=self.world.writer, deployment=self.world.deployment, clock=clock.SystemClock(), on_commit=committed
        )
        heard.append(publisher.Publisher(keeper, self.canon.store, tenant=TENANT, origin=self.world.origin))
        await keeper.ensure_stream(TENANT)
        publishing = asyncio.create_task(heard[0].run())
        answering = [
            await writer.serve("canon_writer", {canon.APPEND: self._append}),
            await reader.serve("canon_reader", {canon.EVENTS: self._events, canon.CHECKPOINT: self._checkpoint}),
        ]
        try:
            yield
        finally:
            for one in answering:
                await one.stop()
            publishing.cancel()
            await asyncio.gather(publishing, return_exceptions=True)
            await self.canon.stop()

    @contextlib.asynccontextmanager
    async def running(self, resident: str = "knowledge", instance: str = "main") -> AsyncIterator[service.Running]:
        """One of the two processes, ready."""
        process, handlers = {
            "knowledge": (knowledge_process, KNOWLEDGE),
            "projections": (projections_process, PROJECTIONS),
        }[resident]
        options = self.house.settings(resident, instance=instance)
        async with service.running(resident, process.build, handlers, options) as one:
            async with asyncio.timeout(20):
                await one.ready.wait()
            yield one


@contextlib.asynccontextmanager
async def opened(folder: Path) -> AsyncIterator[Study]:
    """Everything started: Ada and Bob are operators, Mia a mentor, and Root is Root."""
    async with testing.bus_house(folder) as house:
        study = Study(house)
        async with study.writing():
            for name, loa in (("ada", Loa.OPERATOR), ("bob", Loa.OPERATOR), ("mia", Loa.MENTOR)):
                study.people[name] = study.world.issue(Person(name), loa)
            study.people["root"] = study.world.root
            await study.world.send(study.canon)
            study.bus = await house.bus("gateway")
            async with study.running("knowledge") as study.knowledge:
                yield study
            study.check()
