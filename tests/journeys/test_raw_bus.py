"""The attacker has the bus: whatever a service's own identity may send, it can't do what it was not permitted to."""

import msgspec
import pytest

from cli import ledger
from sigilcore import canonical, envelope, ids, permit, session, signing
from sigilcore.access import Loa
from sigilcore.contracts import canon, catalogue, gatekeeper, house, knowledge
from sigilcore.contracts.command import Admission
from sigilcore.refusals import Code, Refused
from sigilrun.wire import Forbidden
from tests.simulator import House, Person


@pytest.fixture
async def gateway(machine):
    """The gateway's own bus identity, as someone who took over its process has it."""
    bus = await ledger.connect(machine.data, "gateway")
    yield bus
    await bus.close()


async def refused(code, awaitable):
    """The call is refused with exactly this code."""
    with pytest.raises(Refused) as caught:
        await awaitable
    assert caught.value.code is code, caught.value
    return caught.value


async def permitted(machine, gateway, someone, command, body):
    """A true permit for one call."""
    answer = await gateway.call(
        gatekeeper.AUTHORIZE,
        gatekeeper.Authorize(session=someone.client.session.token, command=command.name, parameters=body.decode()),
    )
    return answer.permit


@pytest.mark.parametrize(
    "command",
    [command for command in catalogue.public() if command.admission is Admission.PERMIT],
    ids=lambda command: command.name,
)
async def test_no_service_answers_without_a_permit(machine, gateway, command):
    """Every permitted command, asked on the raw bus with nothing in hand."""
    await refused(Code.PERMIT_MISSING, gateway.call(command, b"{}"))


async def test_forged_permit_on_the_bus(machine, gateway):
    """A permit sealed by another key, with every field true."""
    ada = await machine.person("ada-forged", Loa.OPERATOR)
    body = canonical.encode({"key": "x", "text": "y"})
    token = await permitted(machine, gateway, ada, knowledge.MEMORY_WRITE, body)
    true = envelope.peek_unverified(token, permit.Permit)
    forged = permit.seal(signing.Ed25519Signer.generate(), true)
    await refused(Code.PERMIT_INVALID, gateway.call(knowledge.MEMORY_WRITE, body, permit=forged))


async def test_permit_for_other_parameters_on_the_bus(machine, gateway):
    """A true permit, moved to another text."""
    ada = await machine.person("ada-moved", Loa.OPERATOR)
    token = await permitted(machine, gateway, ada, knowledge.MEMORY_WRITE, b'{"key":"x","text":"yes"}')
    moved = gateway.call(knowledge.MEMORY_WRITE, b'{"key":"x","text":"no!"}', permit=token)
    await refused(Code.PERMIT_MISMATCH, moved)


async def test_replayed_permit(machine, gateway):
    """The same permit a second time: refused by the service, and one effect in the log."""
    ada = await machine.person("ada-replay", Loa.OPERATOR)
    body = canonical.encode({"key": "x", "text": "y", "id": ids.new()})
    token = await permitted(machine, gateway, ada, knowledge.MEMORY_WRITE, body)
    written = await gateway.call(knowledge.MEMORY_WRITE, body, permit=token)
    await refused(Code.PERMIT_REPLAYED, gateway.call(knowledge.MEMORY_WRITE, body, permit=token))
    records = await machine.audit()
    assert sum(1 for placed in records if written.id.encode() in bytes(placed.header)) == 1


async def test_permit_for_another_command(machine, gateway):
    """A permit to read is no permit to write."""
    ada = await machine.person("ada-other", Loa.OPERATOR)
    body = canonical.encode({"key": "x"})
    token = await permitted(machine, gateway, ada, knowledge.MEMORY_READ, body)
    await refused(Code.PERMIT_MISMATCH, gateway.call(knowledge.MEMORY_LIST, body, permit=token))


async def test_gateway_speaks_for_no_key_bound_caller(machine, gateway):
    """With Root's session token but not its keys, the gateway gets no permit: not without a proof, not with one of its own."""
    token = machine.root.client.session.token
    parameters = '{"key":"x"}'
    asked = gatekeeper.Authorize(session=token, command="memory/read", parameters=parameters)
    await refused(Code.PROOF_MISSING, gateway.call(gatekeeper.AUTHORIZE, asked))
    stolen = envelope.peek_unverified(token, session.SessionToken)
    own = session.prove(
        signing.Ed25519Signer.generate(),
        session_id=stolen.session_id,
        command="memory/read",
        parameters=parameters.encode(),
        time_ms=stolen.not_after_ms - 8 * 3_600_000,
        nonce="0" * 32,
    )
    with_own = msgspec.structs.replace(asked, proof=own)
    await refused(Code.PROOF_INVALID, gateway.call(gatekeeper.AUTHORIZE, with_own))


@pytest.mark.parametrize("resident", [name for name in house.RESIDENTS if name != canon.WRITER])
async def test_service_publishing_on_a_forbidden_subject(machine, resident):
    """Nobody but the writer may publish a change event, and nobody may ask what isn't drawn."""
    bus = await ledger.connect(machine.data, resident)
    try:
        with pytest.raises((Forbidden, Refused)):
            await bus.request(house.event_subject("default", "user", "memory_block"), b"{}", timeout_s=1)
        undrawn = (
            next(
                command
                for command in catalogue.COMMANDS.values()
                if command.name not in house.RESIDENTS[resident].asks and command.service != resident
            )
            if resident != "gateway"
            else canon.APPEND
        )
        with pytest.raises((Forbidden, Refused)):
            await bus.call(undrawn, b"{}", timeout_s=1)
    finally:
        await bus.close()
    await machine.audit()


async def test_append_by_a_service_that_is_not_the_author(machine):
    """Records of its own making, signed by nobody the log knows, are refused by the writer itself."""
    other = House()
    ada = other.issue(Person("ada", keyed=False), Loa.OPERATOR)
    foreign = other.memory(other.granted(ada, "memory/write"))
    bus = await ledger.connect(machine.data, "knowledge")
    try:
        answer = await bus.call(canon.APPEND, canon.Append(records=(foreign,)))
    finally:
        await bus.close()
    assert answer.results[0].refusal.code in {Code.DECISION_UNKNOWN, Code.KEY_NOT_ALLOWED}
