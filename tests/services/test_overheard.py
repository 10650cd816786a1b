"""What was overheard is worth nothing: a gateway that went over to the attacker, and an attacker who has the whole bus.

The first holds every session token, every proof and every permit that passed through it; the second may also send and hear on any subject.
Neither has a caller's key, and so neither makes a call, nor moves one by a letter. (A bearer's token is its caller: that is what the
word says, and why it reaches operator at most.)
"""

import asyncio
import itertools
from collections.abc import AsyncIterator

import msgspec
import pytest

from sigilcore import decision, envelope, ids, permit, session, signing
from sigilcore.access import Loa
from sigilcore.contracts import gatekeeper as contract
from sigilcore.contracts import knowledge
from sigilcore.refusals import Code, Refused
from sigilrun import http, wire
from sigilrun.bus import Bus
from tests import simulator
from tests.levels import PERMITTED
from tests.services.gateway_world import World, world
from tests.services.test_gatekeeper import WRITE, House, refused
from tests.simulator import Person

# The gateway in the attacker's hand


async def test_no_mixture_of_what_was_heard_is_a_call():
    """Two sessions, each a read and a write: every mixture of their tokens, proofs, commands and bodies, the true ones too, is refused."""
    house = House()
    clients = [await house.login(house.ada), await house.login(house.ada)]
    heard = [
        house.request(client, *call) for client in clients for call in (("memory/write", WRITE), ("memory/list", "{}"))
    ]
    for request in heard:
        await house.ask(contract.AUTHORIZE, request)
    decided = len(house.log.payloads("decision_batch"))
    calls = house.gate.desk.calls_last_minute(house.ada.licence_id)
    parts = [{getattr(request, field) for request in heard} for field in ("session", "proof", "command", "parameters")]
    mixtures = [
        contract.Authorize(session=s, proof=p, command=c, parameters=b) for s, p, c, b in itertools.product(*parts)
    ]
    assert len(mixtures) == 2 * 4 * 2 * 2
    for mixture in mixtures:
        with refused(Code.PROOF_REPLAYED if mixture in heard else Code.PROOF_INVALID):
            await house.ask(contract.AUTHORIZE, mixture)
    assert len(house.log.payloads("decision_batch")) == decided
    assert house.gate.desk.calls_last_minute(house.ada.licence_id) == calls


async def test_a_proof_is_bound_in_every_field():
    """Each word of a proof, changed under the old signature: no proof."""
    house = House()
    ada = await house.login(house.ada)
    request = house.request(ada, "memory/write", WRITE)
    said = msgspec.to_builtins(envelope.peek_unverified(request.proof, session.Proof))
    others = {
        "session_id": ids.new(),
        "command": "memory/list",
        "parameters": "0" * 64,
        "time_ms": said["time_ms"] + 1,
        "nonce": "f" * 32,
        "by": "owner",
    }
    assert set(others) == set(said)
    for field, value in others.items():
        moved = msgspec.convert(said | {field: value}, session.Proof)
        forged = spliced(request.proof, envelope.seal(Person("eve").signer, signing.PROOF, moved))
        with refused(Code.PROOF_INVALID):
            await house.ask(contract.AUTHORIZE, msgspec.structs.replace(request, proof=forged))
    await house.ask(contract.AUTHORIZE, request)


def spliced(true: str, other: str) -> str:
    """What the other token says, under the true one's signature."""
    return other.rpartition(".")[0] + "." + true.rpartition(".")[2]


async def test_a_login_that_was_heard_opens_nothing():
    """Repeated as it was; with a fresh nonce; for a key of the attacker's; without its certificate; as the owner of another licence."""
    house = House()
    key, challenge = signing.Ed25519Signer.generate(), await house.challenge()
    heard = contract.OpenSession(
        license=house.ada.toml,
        nonce=challenge.nonce,
        session_key=key.public_key.hex(),
        certificate=house.world.certificate(house.ada, key, challenge),
    )
    await house.ask(contract.OPEN, heard)
    fresh = (await house.challenge()).nonce
    mine = signing.Ed25519Signer.generate().public_key.hex()
    attempts = [
        ({}, Code.NONCE_INVALID),
        ({"nonce": fresh}, Code.CERTIFICATE_INVALID),
        ({"session_key": mine}, Code.CERTIFICATE_INVALID),
        ({"nonce": fresh, "session_key": mine}, Code.CERTIFICATE_INVALID),
        ({"nonce": fresh, "certificate": None}, Code.CERTIFICATE_INVALID),
        ({"nonce": fresh, "certificate": None, "session_key": None}, Code.CERTIFICATE_INVALID),
        ({"nonce": fresh, "license": house.world.root.toml}, Code.CERTIFICATE_INVALID),
        ({"nonce": fresh, "license": house.bob.toml}, Code.CERTIFICATE_INVALID),
    ]
    for changes, code in attempts:
        with refused(code):
            await house.ask(contract.OPEN, msgspec.structs.replace(heard, **changes))
    assert len(house.log.payloads("session_opened")) == 1


# A permit that was seen


def checked(house: simulator.House, token: str, **changes) -> permit.Bound:
    """The permit as the service that it names would check it, but for these changes."""
    said = envelope.peek_unverified(token, permit.Permit)
    asked = {
        "parameters": b"{}",
        "gatekeeper_key": house.services["gatekeeper"].public_key,
        "runtime_id": house.runtime_id,
        "tenant": simulator.TENANT,
        "service": said.service,
        "command": said.command,
        "now_ms": house.now_ms,
    } | changes
    return permit.check(token, asked.pop("parameters"), **asked)


@pytest.fixture(scope="module", name="permits")
def _permits() -> tuple[simulator.House, dict[str, str]]:
    """A sealed permit of Root's for every command."""
    house = simulator.House()
    seal = house.services["gatekeeper"]
    return house, {one.name: permit.seal(seal, house.granted(house.root, one.name)) for one in PERMITTED}


@pytest.mark.parametrize("command", PERMITTED, ids=lambda command: command.name)
def test_a_permit_opens_its_own_door_alone(permits, command):
    """Shown at every other command's door, or at its own name in another service: no permit there."""
    house, tokens = permits
    assert checked(house, tokens[command.name]).permit.command == command.name
    for other in PERMITTED:
        if other is not command:
            with refused(Code.PERMIT_MISMATCH):
                checked(house, tokens[command.name], service=other.service, command=other.name)
    with refused(Code.PERMIT_MISMATCH):
        checked(house, tokens[command.name], service="canon_writer")


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"parameters": b"{ }"}, Code.PERMIT_MISMATCH),
        ({"parameters": b""}, Code.PERMIT_MISMATCH),
        ({"tenant": "other"}, Code.PERMIT_INVALID),
        ({"runtime_id": ids.new()}, Code.PERMIT_INVALID),
        ({"gatekeeper_key": signing.Ed25519Signer.generate().public_key}, Code.PERMIT_INVALID),
        ({"now_ms": simulator.NOW_MS + permit.START_WINDOW_MS + 1}, Code.PERMIT_EXPIRED),
        ({"now_ms": simulator.NOW_MS - permit.START_WINDOW_MS - 1}, Code.PERMIT_INVALID),
    ],
    ids=["other bytes", "no bytes", "tenant", "deployment", "key", "late", "early"],
)
def test_a_permit_carried_elsewhere(permits, changes, code):
    """To other bytes, another tenant, deployment or gatekeeper, or another time."""
    house, tokens = permits
    with refused(code):
        checked(house, tokens["ping"], **changes)


def test_a_permit_is_bound_in_every_field():
    """Each word of a permit put in from another's, under the old signature: no permit."""
    house = simulator.House()
    ada, eve = house.issue(Person("ada"), Loa.OPERATOR), house.issue(Person("eve", keyed=False), Loa.OBSERVER)
    seal = house.services["gatekeeper"]
    mine = house.granted(eve, "canon/list")
    house.clock.advance(1)
    hers = house.granted(ada, "memory/write", b'{"a":1}', tenant="other", runtime_id=ids.new())
    hers = msgspec.structs.replace(hers, parent=mine.decision, longest_run_s=600)
    token, fields = permit.seal(seal, mine), permit.Permit.__struct_fields__
    differing = [field for field in fields if getattr(mine, field) != getattr(hers, field)]
    assert differing == list(fields)
    for field in differing:
        moved = msgspec.structs.replace(mine, **{field: getattr(hers, field)})
        with refused(Code.PERMIT_INVALID):
            checked(house, spliced(token, permit.seal(eve.signer, moved)))
    assert checked(house, token).permit == mine


def test_a_stolen_permit_does_only_what_its_caller_asked():
    """Whoever presents Ada's permit first gets what Ada asked for: nothing for themselves, and nothing for Ada that she didn't ask."""
    house = simulator.House()
    ada, eve = house.issue(Person("ada"), Loa.OPERATOR), house.issue(Person("eve"), Loa.OPERATOR)
    body = b'{"key":"note","text":"hers"}'
    granted = house.granted(ada, "memory/write", body)
    request = decision.Request(command="memory/write", salt=granted.salt, digest="0" * 64, parameters="0" * 64)
    for changes in ({"owner": "eve"}, {"request": request}):
        with refused(Code.DECISION_MISMATCH):
            house.place(house.memory(granted, **changes))
    with refused(Code.PERMIT_MISMATCH):
        house.bound(granted, body.replace(b"hers", b"eves"))
    house.place(house.memory(granted))
    with refused(Code.DECISION_USED):
        house.place(house.memory(granted, "another"))
    assert eve.owner_id not in {owner for _, owner, _ in house.heads}


# The whole bus in the attacker's hand


@pytest.fixture(scope="module", name="home")
async def _home(tmp_path_factory) -> AsyncIterator[World]:
    """A house behind a gateway."""
    async with world(tmp_path_factory.mktemp("overheard") / "house") as one:
        yield one


@pytest.fixture(name="attacker")
async def _attacker(home: World) -> Bus:
    """A connection that may send and hear anything."""
    return await home.running.whole_bus()


def effects(home: World) -> tuple[int, int, int]:
    """User records, decisions and logins that stand in the log."""
    kinds = [one.core.kind for one in home.ledger.by_id.values()]
    return kinds.count("memory_block"), kinds.count("decision_batch"), kinds.count("session_opened")


async def test_everything_that_was_heard_sent_again(home: World, attacker: Bus) -> None:
    """Each request of Ada's day, from login to logout, repeated as it was to whoever answers it: nothing more stands in the log."""
    heard: list[wire.Message] = []

    stop = await attacker.subscribe("sigil.v1.>", heard.append)
    await attacker.flush()
    async with home.gateway() as face, http.Client(face.address) as ada:
        await ada.login(home.ada.toml, owner=home.ada.signer)
        written = await ada.call(knowledge.MEMORY_WRITE, knowledge.MemoryWrite(key="heard", text="once"))
        await ada.call(knowledge.MEMORY_READ, knowledge.MemoryRead(key="heard", wait_for=written.seq))
        await attacker.flush()
        await stop()
        stood = effects(home)
        assert {message.subject for message in heard} >= {
            one.subject for one in (contract.OPEN, contract.AUTHORIZE, knowledge.MEMORY_WRITE)
        }
        refusals = [await repeated(attacker, message) for message in heard]
        assert effects(home) == stood
        assert {"NONCE_INVALID", "PROOF_REPLAYED", "PERMIT_REPLAYED"} <= set(refusals)
        await ada.call(contract.PING, contract.Empty())


async def repeated(attacker: Bus, message: wire.Message) -> str:
    """Send a message again, without the deadline that would end it; what the answer's refusal is called, if it is one."""
    headers = {name: value for name, value in message.headers.items() if name != wire.DEADLINE}
    reply = await attacker.request(message.subject, message.data, headers=headers, timeout_s=5)
    return reply.headers.get(wire.ERROR, "")


async def test_an_answer_in_the_gates_name(home: World, attacker: Bus) -> None:
    """The attacker answers `authorize` faster than the gate, with a permit of its own making: the service takes none but the gate's."""
    thief, answered = signing.Ed25519Signer.generate(), asyncio.Event()
    granted = home.ledger.granted(home.ledger.root, "memory/write")
    forged = contract.Authorized(
        permit=permit.seal(thief, granted), decision=granted.decision, verdict=decision.Verdict.ALLOW
    )
    desk = home.gate.service.desk
    true = desk.authorize
    answering: list[asyncio.Task[None]] = []

    async def answer(message: wire.Message) -> None:
        await attacker.publish(message.reply, msgspec.json.encode(forged))
        answered.set()

    def hear(message: wire.Message) -> None:
        answering.append(asyncio.create_task(answer(message)))

    async def slowly(request: contract.Authorize) -> contract.Authorized:
        await answered.wait()
        return await true(request)

    async with home.gateway() as face, http.Client(face.address) as ada:
        await ada.login(home.ada.toml, owner=home.ada.signer)
        stood = effects(home)[0]
        stop = await attacker.subscribe(contract.AUTHORIZE.subject, hear)
        await attacker.flush()
        desk.authorize = slowly
        try:
            with pytest.raises(Refused) as caught:
                await ada.call(knowledge.MEMORY_WRITE, knowledge.MemoryWrite(key="forged", text="x"))
        finally:
            desk.authorize = true
            await stop()
        assert caught.value.code is Code.PERMIT_INVALID
        assert effects(home)[0] == stood
