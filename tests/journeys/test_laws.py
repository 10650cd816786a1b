"""The twelve laws by name, in the happy case and under faults; most on the real house, the rest on the house in memory."""

import ast
import asyncio
import os
import signal
from pathlib import Path

import asyncpg
import msgspec
import pytest

from cli import ledger
from sigilcore import decision, gate, ids, licence, record, trust
from sigilcore.access import Loa
from sigilcore.contracts import canon, catalogue, gatekeeper, knowledge, license, projections
from sigilcore.contracts.command import Admission
from sigilcore.contracts.common import Empty
from sigilcore.records import audit, system
from sigilcore.refusals import Code, Refused
from sigilrun import http
from sigilrun.embedded import folder
from tests import machine as machines
from tests.simulator import House, Person

ROOT = Path(__file__).parents[2]


def effects(records):
    """Each effect's record and the seq of its decision."""
    where = {record.open_header(bytes(placed.header))[0].core.id: placed.seq for placed in records}
    for placed in records:
        checked = record.check_placed(placed)
        target = checked.core.link("decision")
        if checked.kind.effect and target is not None:
            yield checked, placed.seq, where[decision.parse_ref(target).record]


async def test_law_01_no_durable_record_no_effect(machine):
    """Every effect's decision stands before it; with the pen stopped there is neither answer nor effect."""
    ada = await machine.person("ada-law-1", Loa.OPERATOR)
    asked = knowledge.MemoryWrite(key="law", text="one", id=ids.new())
    machine.kill("canon_writer", signal.SIGSTOP)
    try:
        with pytest.raises(Refused) as caught:
            await ada.client.call(knowledge.MEMORY_WRITE, asked)
        assert caught.value.code.status in {403, 503}
    finally:
        machine.kill("canon_writer", signal.SIGCONT)
    await http.persistently(lambda: ada.client.call(knowledge.MEMORY_WRITE, asked), give_up_s=30)
    found = list(effects(await machine.audit()))
    assert found
    assert all(decided < seq for _, seq, decided in found)


async def test_law_02_one_pen(machine):
    """Readers can't write, and nobody else has an address: only canon_* processes know the database's password."""
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await machine.sql("canon_reader", "insert into canon.writer_epoch select * from canon.writer_epoch")
    known = {
        name
        for name, pid in machine.pids().items()
        if b"SIGIL_CANON_PASSWORD_FILE" in Path(f"/proc/{pid}/environ").read_bytes()
    }
    assert known == {"canon_writer", "canon_reader"}


@pytest.mark.parametrize("role", ["canon_writer", "canon_owner"])
@pytest.mark.parametrize(
    "statement",
    [
        "update canon.record set kind = 'x' where seq = 0",
        "delete from canon.record where seq = 0",
        "truncate canon.record",
        "delete from canon.checkpoint",
    ],
)
async def test_law_03_append_only(machine, role, statement):
    """Neither the pen nor the tables' owner changes or removes a record: by grant, and by trigger."""
    with pytest.raises(asyncpg.PostgresError):
        await machine.sql(role, statement)
    await machine.audit()


async def test_law_04_no_quorum_no_system_change(machine):
    """The direct system write, signed by Root, on the raw bus, as the quorum service itself: refused, and the way is named."""
    records, _ = await machine.ledger()
    head = [placed for placed in records if b'"space":"system"' in bytes(placed.header)][-1]
    model = msgspec.structs.replace(trust.DEFAULT_MODEL, version="back-door")
    signed = record.build(
        "model_config",
        system.ModelConfig(model=model, expires_at=machines.soon(60_000)),
        id=ids.new(),
        tenant="default",
        ts=machines.soon(0),
        space="system",
        signer=machine.root.signer,
        salt=os.urandom(16),
        prev=record.open_header(bytes(head.header))[0].hash,
    )
    bus = await ledger.connect(machine.data, "quorum")
    try:
        answer = await bus.call(canon.APPEND, canon.Append(records=(signed,)))
    finally:
        await bus.close()
    refusal = answer.results[0].refusal
    assert refusal.code is Code.QUORUM_NOT_SATISFIED
    assert "quorum/propose" in refusal.next_step
    assert len(await machine.audit()) == len(records)


async def test_law_05_default_deny(machine):
    """An unknown command, a stopped gate, a session of nobody: all are denials."""
    ada = await machine.person("ada-law-5", Loa.OPERATOR)
    for name in ("memory/wipe", "canon/append", "authorize/me"):
        with pytest.raises(Refused) as caught:
            await ada.client.ask(name, {})
        assert caught.value.code in {Code.UNKNOWN_COMMAND, Code.NOT_FOUND}
    machine.kill("gatekeeper", signal.SIGSTOP)
    try:
        with pytest.raises(Refused) as caught:
            await ada.client.call(gatekeeper.PING, Empty())
        assert caught.value.code.status in {403, 503}
    finally:
        machine.kill("gatekeeper", signal.SIGCONT)
    await http.persistently(lambda: ada.client.call(gatekeeper.PING, Empty()), give_up_s=30)


async def test_law_06_identity_flows(machine):
    """Who calls is who the session says, whatever header or body claims."""
    ada = await machine.person("ada-law-6", Loa.OPERATOR)
    status, body = await ada.client.fetch(
        "POST",
        "/api/commands/ping",
        body=b"{}",
        headers={
            "content-type": "application/json",
            "authorization": f"Bearer {ada.client.session.token}",
            "x-user": "root",
            "x-forwarded-user": "root",
            "sigil-permit": "root",
        },
    )
    assert status == 200, body
    assert msgspec.json.decode(body)["owner_id"] == "ada-law-6"


def test_law_06_no_composition_raises_rights():
    """A service that holds Ada's decision can't write as Bob with it."""
    house = House()
    ada = house.issue(Person("ada", keyed=False), Loa.OPERATOR)
    with pytest.raises(Refused) as caught:
        house.place(house.memory(house.granted(ada, "memory/write"), owner="bob"))
    assert caught.value.code is Code.DECISION_MISMATCH


@pytest.mark.parametrize("loa", [Loa.GUEST, Loa.OBSERVER, Loa.OPERATOR])
async def test_law_07_listed_is_callable(machine, loa):
    """For every public command: refused for its level exactly when it isn't listed."""
    someone = await machine.person(f"lou-law-7-{loa}", loa)
    listed = {item.name for item in (await someone.client.call(gatekeeper.COMMAND_LIST, Empty())).items}
    for command in catalogue.public():
        if command.admission is not Admission.PERMIT:
            continue
        assert (command.name in listed) == loa.includes(command.rung), command.name
    unlisted = [
        command
        for command in catalogue.public()
        if command.admission is Admission.PERMIT and command.name not in listed
    ]
    for command in unlisted[:8]:
        with pytest.raises(Refused) as caught:
            await someone.client.ask(command.name, dict(command.example))
        assert caught.value.code in {Code.LOA_TOO_LOW, Code.BAD_INPUT}, command.name


def test_law_08_one_road_to_bytes():
    """Signing and canonical form happen in the rooms that own them; nobody else imports the tools."""
    allowed = {
        "nacl": {"signing.py"},
        "rfc8785": {"canonical.py"},
    }
    found = {name: set() for name in allowed}
    for folder_name in ("libs/sigilcore/sigilcore", "services"):
        for path in (ROOT / folder_name).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
                for name in names:
                    if name.split(".")[0] in found:
                        found[name.split(".")[0]].add(path.name)
    assert {name: found[name] - allowed[name] for name in allowed} == {name: set() for name in allowed}


async def test_law_09_keys_stay_home(machine):
    """Root's and the mentors' keys are nowhere in the house's folder, and no session token is in any log."""
    await machine.root.client.call(gatekeeper.PING, Empty())
    secrets = [bytes(someone.signer._key)[:32] for someone in (machine.root, *machine.mentors)]
    secrets += [secret.hex().encode() for secret in secrets]
    for path, held in machines.contents(machine.data):
        assert not any(secret in held for secret in secrets), path
    assert machine.root.client.session.token not in machine.logs()
    info = folder.running(machine.data)
    assert info.bootstrap_token is None


async def test_law_10_rebuildable(machine):
    """The projection dropped and rebuilt from the first event ends equal."""

    async def settled():
        while True:
            status = await machine.root.client.call(projections.STATUS, Empty())
            if status.lag <= 1:
                return status
            await asyncio.sleep(0.05)

    await machine.root.client.call(gatekeeper.PING, Empty())
    pid = machine.kill("projections", signal.SIGSTOP)
    for path in (machine.data / "services" / "projections").rglob("*.sqlite*"):
        path.unlink()
    os.kill(pid, signal.SIGKILL)
    await machine.replaced("projections", pid)
    rebuilt = await http.persistently(settled, give_up_s=30)
    records, _ = await machine.ledger()
    assert rebuilt.records <= len(records)
    links = sum(len(record.open_header(bytes(placed.header))[0].core.links) for placed in records[: rebuilt.position])
    assert (rebuilt.records, rebuilt.links) == (rebuilt.position, links)


async def test_law_11_recomputable(machine):
    """From the records alone, every decision of this house is judged again with the same result."""
    records = await machine.audit()
    judged = sum(
        len(checked.payload.decisions)
        for checked in (record.check_placed(placed) for placed in records)
        if isinstance(checked.payload, audit.DecisionBatch)
    )
    assert judged > 0


def test_law_11_a_decision_that_does_not_follow_is_found():
    """Change what the gate said, and recomputing says where."""
    house = House()
    ada = house.issue(Person("ada", keyed=False), Loa.OPERATOR)
    chain = house.judge(ada, "memory/write")
    assert gate.recompute(house.state, chain, catalogue.COMMANDS["memory/write"]) == []
    guest = msgspec.structs.replace(chain, audit=msgspec.structs.replace(chain.audit, loa=Loa.GUEST))
    assert gate.recompute(house.state, guest, catalogue.COMMANDS["memory/write"]) != []


async def test_law_12_recorded_then_shown(machine):
    """What an answer shows stands in the log already: a licence, and a memory with its proof."""
    made = await machine.root.client.call(
        license.CREATE,
        license.CreateLicense(owner_id="ada-law-12", owner_name="Ada", loa=Loa.OPERATOR, expires_at=machines.UNTIL),
    )
    records, _ = await machine.ledger()
    issued = record.check(records[made.seq].signed())
    assert issued.payload.content_hash == licence.parse(made.toml).seal.content_hash
    ada = await machine.client()
    await ada.login(made.toml)
    written = await ada.call(knowledge.MEMORY_WRITE, knowledge.MemoryWrite(key="x", text="y"))
    records, _ = await machine.ledger()
    assert record.check(records[written.seq].signed()).header.hash == written.hash
