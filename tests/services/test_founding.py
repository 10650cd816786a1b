"""From an empty canon to a changed model, over a real bus: license, quorum and gate as processes run them, the committer in memory.

Root's and the mentors' keys stay in this file, as they would on their owners' machines; every call goes through the gate.
"""

import asyncio
import contextlib
import secrets
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from services.canon_writer import rules as writer_rules
from services.canon_writer.memory import MemoryCanon
from services.gatekeeper import __main__ as gatekeeper
from services.license import __main__ as license_main
from services.license import bootstrap
from services.quorum import __main__ as quorum_main
from sigilcore import canonical, clock, digest, drafts, faults, ids, licence, record, session, signing, trust
from sigilcore.access import Loa
from sigilcore.contracts import canon
from sigilcore.contracts import gatekeeper as gate_wire
from sigilcore.contracts import license as wire
from sigilcore.contracts import quorum as quorum_wire
from sigilcore.contracts.common import Empty
from sigilcore.records import audit
from sigilcore.refusals import Code, Refused
from sigilrun import service, testing

TOKEN = "one-time-token"
YEAR_MS = 365 * 86_400_000


def later(ms: int = YEAR_MS) -> str:
    return clock.format_ms(time.time_ns() // 1_000_000 + ms)


class Canon:
    """The canon's two residents on the bus, over one committer in memory."""

    def __init__(self, memory: MemoryCanon) -> None:
        self.memory = memory
        self.refuse_audits = False
        self.forged: record.SignedRecord | None = None

    async def append(self, incoming: Any) -> canon.Appended:
        request = msgspec.json.decode(incoming.body, type=canon.Append)
        if self.refuse_audits and any(record.check(one).core.kind == "proposal_closed" for one in request.records):
            raise Refused(Code.READ_ONLY, "not now")
        return await self.memory.append(request)

    async def found(self, incoming: Any) -> canon.Appended:
        return await self.memory.bootstrap(msgspec.json.decode(incoming.body, type=canon.BootstrapAppend))

    async def events(self, incoming: Any) -> canon.EventPage:
        page = await self.memory.reading.events(msgspec.json.decode(incoming.body, type=canon.Events))
        if self.forged is None or "proposal_closed" not in incoming.body.decode():
            return page
        signed = self.forged
        lie = record.PlacedRecord(seq=page.head, header=signed.header, payload=signed.payload, salt=signed.salt)
        return msgspec.structs.replace(page, items=(*page.items, lie), head=page.head + 1, next=page.head + 1)

    async def checkpoint(self, incoming: Any) -> canon.Checkpoint:
        return await self.memory.reading.checkpoint()

    def kinds(self) -> list[str]:
        return [row.kind for row in self.memory.store.disk.rows]


class Root:
    """Root's own side: a key, a licence, a session, and the way through the gate."""

    def __init__(self, house: "Founded") -> None:
        self.house = house
        self.signer = signing.Ed25519Signer.generate()
        self.toml = ""
        self.view: Any = None

    @property
    def claim(self) -> dict[str, str]:
        return {
            "token": TOKEN,
            "owner_id": "root",
            "owner_name": "Root",
            "root_key": self.signer.public_key.hex(),
        }

    async def found(self) -> wire.Bootstrapped:
        bus = self.house.gateway
        first = await bus.call(wire.BOOTSTRAP, wire.Bootstrap(**self.claim))
        signature = drafts.signed(first.draft, self.signer).sig
        return await bus.call(wire.BOOTSTRAP, wire.Bootstrap(**self.claim, draft=first.draft, signature=signature))

    async def login(self, toml: str) -> None:
        bus = self.house.gateway
        challenge = await bus.call(gate_wire.CHALLENGE, Empty())
        key = signing.Ed25519Signer.generate()
        now_ms = time.time_ns() // 1_000_000
        certificate = session.Certificate(
            runtime_id=challenge.runtime_id,
            tenant=challenge.tenant,
            licence_id=licence.parse(toml).license.id,
            session_key=key.public_key.hex(),
            nonce=challenge.nonce,
            not_after_ms=now_ms + 3_600_000,
            mutations=(),
            mutations_not_after_ms=0,
        )
        self.view = await bus.call(
            gate_wire.OPEN,
            gate_wire.OpenSession(
                license=toml,
                nonce=challenge.nonce,
                session_key=key.public_key.hex(),
                certificate=session.certify(self.signer, certificate),
            ),
        )

    async def call(self, command: Any, request: Any) -> Any:
        """One call: proof by the owner's key, permit from the gate, the very bytes to the service."""
        body = canonical.of(request)
        proof = session.prove(
            self.signer,
            session_id=self.view.session_id,
            command=command.name,
            parameters=body,
            time_ms=time.time_ns() // 1_000_000,
            nonce=secrets.token_hex(16),
            by="owner",
        )
        asked = gate_wire.Authorize(
            session=self.view.token, proof=proof, command=command.name, parameters=body.decode()
        )
        allowed = await self.house.gateway.call(gate_wire.AUTHORIZE, asked)
        return await self.house.gateway.call(command, body, permit=allowed.permit)

    async def mentor(self, name: str) -> signing.Ed25519Signer:
        """A mentor licence, signed by Root over the table that the first answer shows."""
        key = signing.Ed25519Signer.generate()
        request = wire.CreateLicense(
            owner_id=name,
            owner_name=name.title(),
            loa=Loa.MENTOR,
            expires_at=later(),
            owner_key=key.public_key.hex(),
        )
        with pytest.raises(Refused, match=Code.ROOT_SIGNATURE_NEEDED) as info:
            await self.call(wire.CREATE, request)
        table = msgspec.convert(info.value.detail["draft"], licence.LicenceTable)
        signature = licence.root_sign(table, self.signer)
        made = await self.call(
            wire.CREATE,
            msgspec.structs.replace(request, id=table.id, issued_at=table.issued_at, root_signature=signature),
        )
        assert not made.bearer
        return key

    async def join(self, name: str, others: dict[str, signing.Ed25519Signer]) -> signing.Ed25519Signer:
        """A mentor becomes a witness: draft, signature, proposal, voices, commit."""
        key = await self.mentor(name)
        change = quorum_wire.WitnessChange(witness_id=name)
        first = await self.call(quorum_wire.WITNESS_ADD, change)
        signed = drafts.signed(first.draft, self.signer)
        made = await self.call(quorum_wire.WITNESS_ADD, msgspec.structs.replace(change, record=signed))
        for witness_id, signer in {**others, name: key}.items():
            await self.house.attest(made.proposal_id, witness_id, signer)
        await self.call(quorum_wire.COMMIT, quorum_wire.ProposalId(proposal_id=made.proposal_id))
        return key

    async def propose(self, kind: str, payload: dict[str, Any]) -> quorum_wire.Proposed:
        draft = await self.call(quorum_wire.DRAFT, quorum_wire.MakeDraft(kind=kind, payload=payload))
        return await self.call(
            quorum_wire.PROPOSE, quorum_wire.Propose(record=drafts.signed(draft, self.signer), id=ids.new())
        )


class Founded:
    """The running residents."""

    def __init__(self, bus_house: testing.BusHouse, memory: MemoryCanon) -> None:
        self.bus_house = bus_house
        self.canon = Canon(memory)
        self.gateway: Any = None
        self.stack = contextlib.AsyncExitStack()
        self.root = Root(self)

    async def start(self) -> None:
        writer = await self.bus_house.bus("canon_writer")
        await writer.serve("canon_writer", {canon.APPEND: self.canon.append, canon.BOOTSTRAP: self.canon.found})
        reader = await self.bus_house.bus("canon_reader")
        await reader.serve("canon_reader", {canon.EVENTS: self.canon.events, canon.CHECKPOINT: self.canon.checkpoint})
        self.gateway = await self.bus_house.bus("gateway")
        await self.run("gatekeeper", gatekeeper.build, gatekeeper.HANDLERS)
        await self.run("license", license_main.build, license_main.HANDLERS)

    async def run(self, name: str, build: Any, handlers: Any, stack: Any = None) -> service.Running:
        options = self.bus_house.settings(name)
        token_hash = self.bus_house.folder / "token_hash"
        token_hash.write_text(digest.sha256_hex(TOKEN.encode()) + "\n")
        deployment = msgspec.structs.replace(options.deployment, bootstrap_token_hash_file=token_hash)
        options = msgspec.structs.replace(options, deployment=deployment)
        return await (stack or self.stack).enter_async_context(service.running(name, build, handlers, options))

    async def quorum(self, stack: Any = None) -> service.Running:
        one = await self.run("quorum", quorum_main.build, quorum_main.HANDLERS, stack)
        await asyncio.wait_for(one.ready.wait(), 10)
        return one

    async def attest(self, proposal_id: str, witness_id: str, signer: signing.Signer) -> quorum_wire.Tally:
        """A witness reads the proposal by way of Root's screen and signs on its own machine; no permit."""
        shown = await self.root.call(quorum_wire.PROPOSAL, quorum_wire.ReadProposal(proposal_id=proposal_id))
        checked = drafts.assembled(shown.record, self.root.signer.public_key)
        record.verify_author(checked.header, checked.core_bytes, self.root.signer.public_key)
        voice = record.witness(checked.signed(), witness_id, signer)
        return await self.gateway.call(
            quorum_wire.ATTEST,
            quorum_wire.Attest(proposal_id=proposal_id, witness_id=witness_id, signature=voice.sig),
        )


@contextlib.asynccontextmanager
async def residents(folder: Path) -> AsyncIterator[Founded]:
    """Gate and license before genesis, on an empty canon."""
    async with testing.bus_house(folder / "house") as bus_house:
        deployed = bus_house.deployment
        memory = await MemoryCanon.start(
            signer=bus_house.keystore.signer("writer"),
            deployment=writer_rules.Deployment(
                tenant=deployed.tenant,
                runtime_id=deployed.runtime_id,
                services=deployed.services,
                log=deployed.log,
                bootstrap_token_hash=bootstrap.token_hash(TOKEN),
            ),
            clock=clock.SystemClock(),
        )
        house = Founded(bus_house, memory)
        try:
            async with asyncio.timeout(30):
                await house.start()
            yield house
        finally:
            await house.stack.aclose()
            await memory.stop()


@pytest.fixture
async def founded(tmp_path: Path) -> AsyncIterator[Founded]:
    """A house of its own."""
    async with residents(tmp_path) as house:
        yield house


async def bootstrapped(house: Founded) -> wire.Bootstrapped:
    made = await house.root.found()
    async with asyncio.timeout(10):
        while True:
            with contextlib.suppress(Refused):
                await house.root.login(made.toml)
                return made
            await asyncio.sleep(0.05)


async def test_bootstrap_ends_in_one_root_from_wherever_it_broke_off(founded: Founded) -> None:
    """Before it nothing answers; the same claim hears the same licence again, also after a restart; any other is refused."""
    bus = founded.gateway
    with pytest.raises(Refused, match=Code.NOT_BOOTSTRAPPED):
        await bus.call(wire.VALIDATE, wire.ValidateLicense(license="x"))
    with pytest.raises(Refused, match=Code.BOOTSTRAP_REFUSED):
        await bus.call(wire.BOOTSTRAP, wire.Bootstrap(**(founded.root.claim | {"token": "x"})))
    made = await founded.root.found()
    answer = await bus.call(wire.VALIDATE, wire.ValidateLicense(license=made.toml))
    assert (answer.valid, answer.loa, answer.key_bound) == (True, Loa.ROOT, True)
    again = await bus.call(wire.BOOTSTRAP, wire.Bootstrap(**founded.root.claim))
    assert again == made
    for other in ({"token": "x"}, {"root_key": signing.Ed25519Signer.generate().public_key.hex()}, {"owner_id": "eve"}):
        with pytest.raises(Refused, match=Code.ALREADY_BOOTSTRAPPED):
            await bus.call(wire.BOOTSTRAP, wire.Bootstrap(**(founded.root.claim | other)))
    await founded.stack.aclose()
    await founded.run("license", license_main.build, license_main.HANDLERS)
    assert await bus.call(wire.BOOTSTRAP, wire.Bootstrap(**founded.root.claim)) == made
    assert founded.canon.kinds().count("license_issued") == 1


async def test_a_licence_is_issued_once_and_ends_once(founded: Founded) -> None:
    """The same call again answers the same document; revoked twice under one id is one revocation, under another a refusal."""
    await bootstrapped(founded)
    root = founded.root
    request = wire.CreateLicense(owner_id="ada", owner_name="Ada", loa=Loa.OPERATOR, expires_at=later(), id=ids.new())
    made = await root.call(wire.CREATE, request)
    assert await root.call(wire.CREATE, request) == made
    assert made.bearer
    with pytest.raises(Refused, match=Code.ID_TAKEN):
        await root.call(wire.CREATE, msgspec.structs.replace(request, owner_name="Eve"))
    page = await root.call(wire.LIST, wire.ListLicenses(wait_for=made.seq))
    assert [item.owner_id for item in page.items] == ["root", "ada"]
    revoke = wire.RevokeLicense(license_id=made.license_id, reason="left", id=ids.new())
    ended = await root.call(wire.REVOKE, revoke)
    assert await root.call(wire.REVOKE, revoke) == ended
    with pytest.raises(Refused, match=Code.LICENSE_REVOKED):
        await root.call(wire.REVOKE, msgspec.structs.replace(revoke, id=ids.new()))
    with pytest.raises(Refused, match=Code.ROOT_IS_SINGLE):
        await root.call(wire.REVOKE, wire.RevokeLicense(license_id=page.items[0].license_id))
    answer = await founded.gateway.call(wire.VALIDATE, wire.ValidateLicense(license=made.toml))
    assert answer.reasons == (licence.Reason.REVOKED,)
    assert founded.canon.kinds().count("license_revoked") == 1


async def test_three_witnesses_seal_and_change_the_model(founded: Founded) -> None:
    """The whole story: witnesses join, the quorum seals, a model is proposed, attested, refused while short, committed."""
    await bootstrapped(founded)
    first_run = await founded.stack.enter_async_context(contextlib.AsyncExitStack())
    await founded.quorum(first_run)
    root = founded.root
    witnesses: dict[str, signing.Ed25519Signer] = {}
    for name in ("mia", "ned", "ora"):
        witnesses[name] = await root.join(name, witnesses)
    policy = {
        "k": 2,
        "kinds": {},
        "proposal_ttl_s": 3600,
        "checkpoint_witnesses": {"c": 0, "cosigners": []},
        "persona_cap": 0,
    }
    with pytest.raises(Refused, match=Code.NOT_SEALED):
        await root.propose("model_config", {"model": msgspec.to_builtins(trust.DEFAULT_MODEL)})
    seal = await root.propose("quorum_policy", policy)
    assert (seal.need, {change.path for change in seal.difference} >= {"$.k", "$.proposal_ttl_s"}) == (3, True)
    for name, signer in witnesses.items():
        await founded.attest(seal.proposal_id, name, signer)
    await root.call(quorum_wire.COMMIT, quorum_wire.ProposalId(proposal_id=seal.proposal_id))
    model = msgspec.structs.replace(trust.DEFAULT_MODEL, version="v2", bias=trust.DEFAULT_MODEL.bias + 1)
    change = await root.propose("model_config", {"model": msgspec.to_builtins(model)})
    name = quorum_wire.ProposalId(proposal_id=change.proposal_id)
    assert {line.path for line in change.difference} == {"$.expires_at", "$.model.bias", "$.model.version"}
    tally = await founded.attest(change.proposal_id, "mia", witnesses["mia"])
    assert tally == quorum_wire.Tally(have=1, need=2, state="open")
    with pytest.raises(Refused, match=Code.ALREADY_ATTESTED):
        await founded.attest(change.proposal_id, "mia", witnesses["mia"])
    with pytest.raises(Refused, match=Code.ROOT_IS_NO_WITNESS):
        await founded.attest(change.proposal_id, "ned", root.signer)
    with pytest.raises(Refused, match=Code.QUORUM_NOT_SATISFIED) as short:
        await root.call(quorum_wire.COMMIT, name)
    assert short.value.detail == {"have": 1, "need": 2, "missing": ["ned", "ora"]}

    # Everything that the service knows of the proposal survives its end: it is read from the log again.
    await first_run.aclose()
    await founded.quorum()
    tally = await founded.attest(change.proposal_id, "ora", witnesses["ora"])
    assert tally.state == "ready"
    founded.canon.refuse_audits = True
    committed = await root.call(quorum_wire.COMMIT, name)
    assert await root.call(quorum_wire.COMMIT, name) == committed
    founded.canon.refuse_audits = False
    shown = await root.call(quorum_wire.PROPOSAL, quorum_wire.ReadProposal(proposal_id=change.proposal_id))
    assert (shown.state, shown.by) == ("committed", ("mia", "ora"))
    current = await root.call(quorum_wire.MODEL_CURRENT, Empty())
    assert (current.model, current.seq) == (model, committed.seq)
    closed = founded.canon.kinds().count("proposal_closed")
    await root.call(quorum_wire.COMMIT, name)
    assert founded.canon.kinds().count("proposal_closed") == closed + 1
    with pytest.raises(Refused, match=Code.PROPOSAL_CLOSED):
        await root.call(quorum_wire.WITHDRAW, name)

    # Two changes on one head: the second is stale; one that is withdrawn stays so; the list shows all, newest first.
    left = await root.propose("model_config", {"model": msgspec.to_builtins(trust.DEFAULT_MODEL)})
    withdrawn = await root.call(quorum_wire.WITHDRAW, quorum_wire.ProposalId(proposal_id=left.proposal_id))
    assert withdrawn.state == "withdrawn"
    assert await root.call(quorum_wire.WITHDRAW, quorum_wire.ProposalId(proposal_id=left.proposal_id)) == withdrawn
    page = await root.call(quorum_wire.PROPOSALS, quorum_wire.ListProposals(limit=2))
    assert [item.proposal_id for item in page.items] == [left.proposal_id, change.proposal_id]
    rest = await root.call(quorum_wire.PROPOSALS, quorum_wire.ListProposals(limit=10, cursor=page.cursor))
    assert [item.kind for item in rest.items] == ["quorum_policy"] + ["trusted_witness"] * 3
    registry = await root.call(quorum_wire.WITNESS_LIST, Empty())
    assert (registry.active, registry.quorum) == (3, 2)


async def test_proposals_repeat_and_end(founded: Founded) -> None:
    """The same call and the same record are the same proposal; a lost race is swept as stale; rebased, it starts anew."""
    await bootstrapped(founded)
    one = await founded.quorum()
    root = founded.root
    mia = await root.join("mia", {})
    policy = {
        "k": 1,
        "kinds": {},
        "proposal_ttl_s": 3600,
        "checkpoint_witnesses": {"c": 0, "cosigners": []},
        "persona_cap": 0,
    }
    draft = await root.call(quorum_wire.DRAFT, quorum_wire.MakeDraft(kind="quorum_policy", payload=policy))
    request = quorum_wire.Propose(record=drafts.signed(draft, root.signer), id=ids.new())
    made = await root.call(quorum_wire.PROPOSE, request)
    assert await root.call(quorum_wire.PROPOSE, request) == made
    assert await root.call(quorum_wire.PROPOSE, msgspec.structs.replace(request, id=None)) == made
    other = await root.call(quorum_wire.DRAFT, quorum_wire.MakeDraft(kind="quorum_policy", payload=policy))
    with pytest.raises(Refused, match=Code.ID_TAKEN):
        await root.call(quorum_wire.PROPOSE, msgspec.structs.replace(request, record=drafts.signed(other, root.signer)))
    loser = await root.call(quorum_wire.PROPOSE, quorum_wire.Propose(record=drafts.signed(other, root.signer)))
    await founded.attest(made.proposal_id, "mia", mia)
    await founded.attest(loser.proposal_id, "mia", mia)
    await root.call(quorum_wire.COMMIT, quorum_wire.ProposalId(proposal_id=made.proposal_id))
    await one.service.sweep()
    await one.service.sweep()
    shown = await root.call(quorum_wire.PROPOSAL, quorum_wire.ReadProposal(proposal_id=loser.proposal_id))
    assert (shown.state, shown.difference) == ("stale", ())
    with pytest.raises(Refused, match=Code.STALE_PREV):
        await root.call(quorum_wire.COMMIT, quorum_wire.ProposalId(proposal_id=loser.proposal_id))
    with pytest.raises(Refused, match=Code.STALE_PREV):
        await root.call(quorum_wire.REBASE, quorum_wire.Propose(record=drafts.signed(other, root.signer)))
    again = await root.call(
        quorum_wire.DRAFT, quorum_wire.MakeDraft(kind="quorum_policy", payload=policy | {"proposal_ttl_s": 60})
    )
    rebased = await root.call(quorum_wire.REBASE, quorum_wire.Propose(record=drafts.signed(again, root.signer)))
    assert [line.path for line in rebased.difference] == ["$.expires_at", "$.proposal_ttl_s"]
    view = await root.call(quorum_wire.PROPOSAL, quorum_wire.ReadProposal(proposal_id=rebased.proposal_id))
    assert (view.state, view.have, view.need, view.missing) == ("open", 0, 1, ("mia",))
    assert founded.canon.kinds().count("proposal_closed") == 3  # mia's joining, the seal, the lost race


async def test_the_registry_and_the_model_change_by_proposal(founded: Founded) -> None:
    """Upload, rotate and revoke answer a draft first, then the proposal of exactly that; a record of another change is refused."""
    await bootstrapped(founded)
    await founded.quorum()
    root = founded.root
    mia = await root.join("mia", {})
    key = signing.Ed25519Signer.generate()
    rotate = quorum_wire.WitnessChange(witness_id="mia", key=key.public_key.hex())
    signed = drafts.signed((await root.call(quorum_wire.WITNESS_ROTATE, rotate)).draft, root.signer)
    with pytest.raises(Refused, match=Code.RECORD_INVALID):
        await root.call(quorum_wire.WITNESS_REVOKE, msgspec.structs.replace(rotate, key=None, record=signed))
    made = await root.call(quorum_wire.WITNESS_ROTATE, msgspec.structs.replace(rotate, record=signed))
    await founded.attest(made.proposal_id, "mia", mia)
    with pytest.raises(Refused, match=Code.QUORUM_NOT_SATISFIED) as short:
        await root.call(quorum_wire.COMMIT, quorum_wire.ProposalId(proposal_id=made.proposal_id))
    assert short.value.detail["possession"] == "mia"
    await founded.attest(made.proposal_id, "mia", key)
    await root.call(quorum_wire.COMMIT, quorum_wire.ProposalId(proposal_id=made.proposal_id))
    registry = await root.call(quorum_wire.WITNESS_LIST, Empty())
    assert [(item.key, item.until_seq is None) for item in registry.items] == [
        (mia.public_key.hex(), False),
        (key.public_key.hex(), True),
    ]
    upload = quorum_wire.UploadModel(version="v2", weights=trust.DEFAULT_MODEL.weights, bias=0, threshold=0)
    draft = (await root.call(quorum_wire.MODEL_UPLOAD, upload)).draft
    with pytest.raises(Refused, match=Code.NOT_SEALED):
        await root.call(
            quorum_wire.MODEL_UPLOAD, msgspec.structs.replace(upload, record=drafts.signed(draft, root.signer))
        )
    with pytest.raises(Refused, match=Code.RECORD_INVALID):
        await root.call(
            quorum_wire.MODEL_UPLOAD,
            msgspec.structs.replace(upload, bias=1, record=drafts.signed(draft, root.signer)),
        )


async def test_a_forged_page_of_the_canon_moves_nothing(founded: Founded) -> None:
    """A reader that lies about a proposal's end is a fault, loudly; once it tells the truth the proposal is as it was."""
    await bootstrapped(founded)
    await founded.quorum()
    root = founded.root
    mia = await root.mentor("mia")
    change = quorum_wire.WitnessChange(witness_id="mia")
    signed = drafts.signed((await root.call(quorum_wire.WITNESS_ADD, change)).draft, root.signer)
    made = await root.call(quorum_wire.WITNESS_ADD, msgspec.structs.replace(change, record=signed))
    closing = audit.ProposalClosed(proposal_id=made.proposal_id, outcome="withdrawn", reason="", record_hash=None)
    founded.canon.forged = record.build(
        "proposal_closed",
        closing,
        id=ids.new(),
        tenant="default",
        ts=later(0),
        space="audit",
        signer=mia,
        salt=bytes(16),
    )
    read = quorum_wire.ReadProposal(proposal_id=made.proposal_id)
    with pytest.raises(faults.Fault):
        await root.call(quorum_wire.PROPOSAL, read)
    founded.canon.forged = None
    assert (await root.call(quorum_wire.PROPOSAL, read)).state == "open"
