"""The gatekeeper as a process of the house: a real nats-server with the house's permissions, the real author and follower, the real
license service, and the writer's own committer on memory instead of Postgres."""

import asyncio
import contextlib
import secrets
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from services.canon_writer import memory
from services.canon_writer import rules as canon_rules
from services.gatekeeper import __main__ as gatekeeper_process
from services.gatekeeper.service import HANDLERS
from services.license import __main__ as license_process
from sigilcore import clock, decision, digest, record, session, signing
from sigilcore.access import Loa
from sigilcore.contracts import canon, catalogue
from sigilcore.contracts import gatekeeper as contract
from sigilcore.contracts import license as licences
from sigilcore.contracts.common import Empty
from sigilcore.refusals import Code, Refused
from sigilrun import answer, private_files, service, testing
from sigilrun.bus import Bus

TOKEN = "the one-time token"


class Caller:
    """A person at the gateway's end of the bus."""

    def __init__(self, bus: Bus, owner_id: str) -> None:
        self.bus = bus
        self.owner_id = owner_id
        self.owner = signing.Ed25519Signer.generate()
        self.key = signing.Ed25519Signer.generate()
        self.toml = ""
        self.licence_id = ""
        self.view: contract.SessionView | None = None

    async def login(self) -> None:
        challenge = await self.bus.call(contract.CHALLENGE, Empty())
        now_ms = clock.SystemClock().now_ms()
        certificate = session.Certificate(
            runtime_id=challenge.runtime_id,
            tenant=challenge.tenant,
            licence_id=self.licence_id,
            session_key=self.key.public_key.hex(),
            nonce=challenge.nonce,
            not_after_ms=now_ms + 3_600_000,
            mutations=(),
            mutations_not_after_ms=0,
        )
        request = contract.OpenSession(
            license=self.toml,
            nonce=challenge.nonce,
            session_key=self.key.public_key.hex(),
            certificate=session.certify(self.owner, certificate),
        )
        self.view = await self.bus.call(contract.OPEN, request)

    def proof(self, command: str, body: bytes, *, owner: bool = False) -> str:
        assert self.view is not None
        return session.prove(
            self.owner if owner else self.key,
            session_id=self.view.session_id,
            command=command,
            parameters=body,
            time_ms=clock.SystemClock().now_ms(),
            nonce=secrets.token_hex(16),
            by="owner" if owner else "session",
        )

    async def authorize(self, command: Any, body: bytes = b"{}") -> contract.Authorized:
        assert self.view is not None
        return await self.bus.call(
            contract.AUTHORIZE,
            contract.Authorize(
                session=self.view.token,
                proof=self.proof(command.name, body, owner=command.needs_owner),
                command=command.name,
                parameters=body.decode(),
            ),
        )

    async def call(self, command: Any, request: Any) -> Any:
        body = msgspec.json.encode(request)
        authorized = await self.authorize(command, body)
        return await self.bus.call(command, body, permit=authorized.permit)

    async def close(self) -> None:
        assert self.view is not None
        proof = self.proof("session/close", b"{}")
        await self.bus.call(contract.CLOSE, contract.SessionCall(session=self.view.token, proof=proof))


class Town:
    """The processes, the canon behind them, and Root logged in."""

    def __init__(self, bus: Bus, book: memory.MemoryCanon, gate: service.Running) -> None:
        self.bus = bus
        self.book = book
        self.gate = gate
        self.root = Caller(bus, "root")

    async def bootstrap(self) -> None:
        """Genesis and Root's licence, as a face does it."""
        asked = licences.Bootstrap(
            token=TOKEN, owner_id="root", owner_name="Root", root_key=self.root.owner.public_key.hex()
        )
        first = await self.bus.call(licences.BOOTSTRAP, asked)
        signature = signing.sign_typed(self.root.owner, signing.RECORD, first.draft.core.encode())
        done = await self.bus.call(
            licences.BOOTSTRAP,
            msgspec.structs.replace(asked, draft=first.draft, signature=signing.signature_text(signature)),
        )
        self.root.toml, self.root.licence_id = done.toml, done.license_id

    async def operator(self, owner_id: str) -> Caller:
        """A new operator with an open session."""
        person = Caller(self.bus, owner_id)
        created = await self.root.call(
            licences.CREATE,
            licences.CreateLicense(
                owner_id=owner_id,
                owner_name=owner_id.title(),
                loa=Loa.OPERATOR,
                expires_at=clock.format_ms(clock.SystemClock().now_ms() + 86_400_000),
                owner_key=person.owner.public_key.hex(),
            ),
        )
        person.toml, person.licence_id = created.toml, created.license_id
        await person.login()
        return person

    def payloads(self, kind: str) -> list[Any]:
        checked = (
            record.check(
                record.SignedRecord(
                    header=msgspec.Raw(row.header), payload=msgspec.Raw(row.payload), salt=row.salt.hex()
                )
            )
            for row in self.book.store.disk.rows
            if row.kind == kind
        )
        return [one.payload for one in checked]


@contextlib.asynccontextmanager
async def book_on(house: testing.BusHouse) -> AsyncIterator[memory.MemoryCanon]:
    """The canon on the bus: the writer's committer and readers, on memory."""
    deployed = house.deployment
    book = await memory.MemoryCanon.start(
        signer=house.keystore.signer("writer"),
        deployment=canon_rules.Deployment(
            tenant=deployed.tenant,
            runtime_id=deployed.runtime_id,
            services=deployed.services,
            log=deployed.log,
            bootstrap_token_hash=digest.sha256_hex(TOKEN.encode()),
        ),
        clock=clock.SystemClock(),
    )

    def handler(command: Any, ask: Any) -> answer.Handler:
        async def handle(incoming: answer.Incoming) -> msgspec.Struct:
            return await ask(msgspec.json.decode(incoming.body, type=command.request))

        return handle

    async def checkpoint(_: Empty) -> canon.Checkpoint:
        return await book.reading.checkpoint()

    writer, reader = await house.bus("canon_writer"), await house.bus("canon_reader")
    pen = await writer.serve(
        "canon_writer",
        {canon.APPEND: handler(canon.APPEND, book.append), canon.BOOTSTRAP: handler(canon.BOOTSTRAP, book.bootstrap)},
    )
    shelf = await reader.serve(
        "canon_reader",
        {
            canon.EVENTS: handler(canon.EVENTS, book.reading.events),
            canon.CHECKPOINT: handler(canon.CHECKPOINT, checkpoint),
        },
    )
    try:
        yield book
    finally:
        await pen.stop()
        await shelf.stop()
        await book.stop()


@pytest.fixture
async def town() -> AsyncIterator[Town]:
    async with town_up() as town:
        yield town


@contextlib.asynccontextmanager
async def town_up() -> AsyncIterator[Town]:
    """Everything started, Root made and logged in; stopped in order at the end."""
    async with contextlib.AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        house = await stack.enter_async_context(testing.bus_house(folder / "house"))
        book = await stack.enter_async_context(book_on(house))
        token_hash = folder / "token_hash"
        private_files.write_new(token_hash, digest.sha256_hex(TOKEN.encode()).encode())
        options = house.settings("license")
        deployment = msgspec.structs.replace(options.deployment, bootstrap_token_hash_file=token_hash)
        options = msgspec.structs.replace(options, deployment=deployment)
        licensing = await stack.enter_async_context(
            service.running("license", license_process.build, license_process.HANDLERS, options)
        )
        gate = await stack.enter_async_context(
            service.running("gatekeeper", gatekeeper_process.build, HANDLERS, house.settings("gatekeeper"))
        )
        town = Town(await house.bus("gateway"), book, gate)
        async with asyncio.timeout(20):
            await town.bootstrap()
            await asyncio.gather(licensing.ready.wait(), gate.ready.wait())
            await town.root.login()
        yield town


async def test_a_day_at_the_gate(town: Town) -> None:
    """Root logs in, makes an operator, the operator asks; every answer stands on a committed decision."""
    ada = await town.operator("ada")
    pong = await ada.call(contract.PING, Empty())
    assert (pong.owner_id, pong.loa) == ("ada", Loa.OPERATOR)
    info = await ada.call(contract.SYSTEM_INFO, Empty())
    assert info.canon_fingerprint == town.book.writer.state.genesis_hash
    listed = await ada.call(contract.COMMAND_LIST, Empty())
    assert "memory/write" in {view.name for view in listed.items}
    assert "license/create" not in {view.name for view in listed.items}
    chains = [one.chain for batch in town.payloads("decision_batch") for one in batch.decisions]
    assert [chain.command for chain in chains if chain.audit.owner == "ada"] == ["ping", "system/info", "commands/list"]


async def test_a_permit_is_good_once(town: Town) -> None:
    """The service that answers remembers it."""
    authorized = await town.root.authorize(contract.PING)
    await town.bus.call(contract.PING, b"{}", permit=authorized.permit)
    with pytest.raises(Refused) as caught:
        await town.bus.call(contract.PING, b"{}", permit=authorized.permit)
    assert caught.value.code is Code.PERMIT_REPLAYED


async def test_calls_in_flight_share_commits(town: Town) -> None:
    """Sixty-four calls at once make far fewer records, and sixty-four decisions."""
    ada = await town.operator("ada")
    before = len(town.payloads("decision_batch"))
    write = catalogue.COMMANDS["memory/write"]
    answers = await asyncio.gather(*(ada.authorize(write, b'{"key":"a","text":"b"}') for _ in range(64)))
    batches = town.payloads("decision_batch")[before:]
    assert sum(len(batch.decisions) for batch in batches) == 64
    assert len(batches) < 32
    assert len({answer.decision.link() for answer in answers}) == 64


async def test_a_revocation_is_felt_at_the_gate(town: Town) -> None:
    """The next write is refused, however warm the gate's caches are."""
    ada = await town.operator("ada")
    await ada.authorize(contract.PING)
    await town.root.call(licences.REVOKE, licences.RevokeLicense(license_id=ada.licence_id))
    with pytest.raises(Refused) as caught:
        await ada.authorize(catalogue.COMMANDS["memory/write"])
    assert caught.value.code is Code.LICENSE_INVALID
    assert caught.value.detail is not None
    assert caught.value.detail["reasons"] == ["REVOKED"]
    chains = [one.chain for batch in town.payloads("decision_batch") for one in batch.decisions]
    assert chains[-1].verdict is decision.Verdict.DENY


async def test_model_refresh_follows_to_the_head(town: Town) -> None:
    """What the log's own signature calls its head has been seen when the answer comes."""
    reload = await town.root.call(contract.MODEL_REFRESH, Empty())
    assert reload.model == town.book.writer.state.model.version


async def test_leaving_the_house() -> None:
    """A logout is a record; what was refused unrecorded is told when the gate stops, before its closing beat."""
    async with town_up() as town:
        ada = await town.operator("ada")
        await ada.close()
        with pytest.raises(Refused) as caught:
            await ada.authorize(contract.PING)
    assert caught.value.code is Code.SESSION_CLOSED
    assert ada.view is not None
    assert [closed.session_id for closed in town.payloads("session_closed")] == [ada.view.session_id]
    assert [summary.counts for summary in town.payloads("refusal_summary")] == [{"SESSION_CLOSED": 1}]
    last = [row.kind for row in town.book.store.disk.rows][-3:]
    assert last == ["refusal_summary", "instance_beat", "instance_beat"]
