"""Where the gate or the log is away, full or slow, nothing happens: no permit, no effect, no answer that says otherwise; and later neither.

The gate, knowledge and the gateway are real; what fails is what stands between them.
"""

import asyncio
from collections.abc import AsyncIterator

import msgspec
import pytest

from sigilcore import canonical
from sigilcore.contracts import gatekeeper, knowledge
from sigilcore.refusals import Code, Refused
from sigilrun.faces import examples
from tests import oracle
from tests.levels import PERMITTED
from tests.services.gateway_world import Face, World, bearer, world

WRITE = {"key": "greeting", "text": "Good morning."}


@pytest.fixture(name="home")
async def _home(tmp_path) -> AsyncIterator[World]:
    """A house whose gate gives up soon; its ledger is re-verified at the end, whatever failed."""
    async with world(tmp_path / "house") as one:
        patience(one, 0.3)
        yield one
        oracle.check(one.ledger.placed(), one.ledger.checkpoint(), one.ledger.state.genesis_hash)


@pytest.fixture(name="face")
async def _face(home: World) -> AsyncIterator[Face]:
    """A gateway of the test's own."""
    async with home.gateway() as one:
        yield one


def patience(home: World, seconds: float) -> None:
    """How long the gate tries before it gives up."""
    desk = home.gate.service.desk
    desk._limits = msgspec.structs.replace(desk._limits, answer_s=seconds)


def effects(home: World) -> list[str]:
    """What stands in `user`."""
    return [one.core.id for one in home.ledger.by_id.values() if one.core.space == "user"]


async def write(face: Face, token: str) -> str:
    """What a write is answered."""
    return (await face.call("memory/write", WRITE, authorization=bearer(token))).code


async def test_gatekeeper_down_nothing_happens(home: World, face: Face) -> None:
    """Every command there is, asked with a good session: unavailable, and not a record more in the log. Nobody logs in either."""
    token, _ = await face.login(home.bob)
    stood = len(home.ledger.log)
    assert home.gate.answering is not None
    await home.gate.answering.stop()
    for command in PERMITTED:
        answer = await face.call(command.name, examples.request(command), authorization=bearer(token))
        assert answer.code == Code.UNAVAILABLE, command.name
    assert (await face.call("session/challenge")).code == Code.UNAVAILABLE
    assert len(home.ledger.log) == stood


async def test_canon_down_nothing_happens(home: World, face: Face) -> None:
    """No decision can be recorded, so none is given; nor a session. Once the log is back, what was asked meanwhile hasn't happened."""
    token, _ = await face.login(home.bob)
    stood = len(home.ledger.log)
    await home.canon.stop()
    assert await write(face, token) == Code.GATE_FAULT
    nonce = (await face.call("session/challenge")).json["nonce"]
    opening = await face.call("session/open", {"license": home.bob.toml, "nonce": nonce})
    assert opening.code == Code.UNAVAILABLE
    assert len(home.ledger.log) == stood
    await home.canon.start()
    patience(home, 5.0)
    assert await write(face, token) == "OK"
    assert len(effects(home)) == 1


async def test_canon_down_after_the_permit_nothing_happens(home: World, face: Face) -> None:
    """A decision that was recorded, and a log that is away when its effect comes: the service says so and shows nothing."""
    token, _ = await face.login(home.bob)
    body, gateway = canonical.encode(WRITE), await home.running.bus("gateway")
    asked = gatekeeper.Authorize(session=token, command="memory/write", parameters=body.decode())
    permit = (await gateway.call(gatekeeper.AUTHORIZE, asked)).permit
    await home.canon.stop()
    with pytest.raises(Refused) as caught:
        await gateway.call(knowledge.MEMORY_WRITE, body, permit=permit, timeout_s=15)
    assert caught.value.code is Code.UNAVAILABLE
    assert effects(home) == []
    await home.canon.start()
    listed = await face.call("memory/list", {}, authorization=bearer(token))
    assert listed.json["items"] == []


async def test_audit_queue_full_zero_effects(home: World, face: Face) -> None:
    """The writer takes no decision: no call passes, however often it is made; with room again one call is one effect."""
    token, _ = await face.login(home.bob)
    stood = len(home.ledger.log)
    home.canon.busy = 10**6
    assert {await write(face, token) for _ in range(3)} == {Code.GATE_FAULT}
    assert len(home.ledger.log) == stood
    home.canon.busy = 0
    patience(home, 5.0)
    assert await write(face, token) == "OK"
    assert len(effects(home)) == 1


async def test_audit_queue_slow_zero_effects(home: World, face: Face) -> None:
    """The writer commits and its answer comes too late: the decision stands, nobody holds a permit by it, and it has no effect ever."""
    token, _ = await face.login(home.bob)
    publish, released, stood = home.canon.publish, asyncio.Event(), len(home.ledger.log)

    async def slowly() -> None:
        await released.wait()
        await publish()

    home.canon.publish = slowly  # type: ignore[method-assign]
    assert {await write(face, token) for _ in range(3)} == {Code.GATE_FAULT}
    assert len(home.ledger.log) > stood
    assert effects(home) == []
    released.set()
    home.canon.publish = publish  # type: ignore[method-assign]
    await home.gate.service.desk.stop()
    assert effects(home) == []
    patience(home, 5.0)
    assert await write(face, token) == "OK"
    assert len(effects(home)) == 1
