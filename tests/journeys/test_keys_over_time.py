"""Journey keys_over_time: keys are rotated by the quorum and revoked by Root while people write; nothing is lost and history verifies."""

import asyncio
import contextlib

import pytest

from cli import carried, governed, house_keys, owner
from sigilcore import clock, verify
from sigilcore.access import Loa
from sigilcore.contracts import canon, keys, knowledge
from sigilcore.refusals import Code, Refused
from sigilrun import http
from tests import machine as machines

HEAL_S = 30.0


class Scribe:
    """Somebody who writes all the time, and repeats what wasn't answered."""

    def __init__(self, client):
        self.client = client
        self.written = []
        self._asked = asyncio.Event()
        self._task = asyncio.create_task(self._write())

    async def _write(self):
        number = 0
        while not self._asked.is_set():
            asked = knowledge.MemoryWrite(key=f"line-{number}", text=f"line {number}")
            self.written.append(await remember(self.client, asked))
            number += 1

    async def more(self, count=3):
        """Return once so many more lines are written."""
        wanted = len(self.written) + count
        async with asyncio.timeout(HEAL_S):
            while len(self.written) < wanted:
                assert not self._task.done(), self._task.exception()
                await asyncio.sleep(0.02)

    async def rest(self):
        """Write no more."""
        self._asked.set()
        await self._task


async def remember(client, asked):
    """Write, again while a service starts anew or hasn't seen yet whose permits count."""
    async with asyncio.timeout(HEAL_S):
        while True:
            try:
                return await http.persistently(lambda: client.call(knowledge.MEMORY_WRITE, asked), give_up_s=HEAL_S)
            except Refused as refused:
                if refused.code is not Code.PERMIT_INVALID:
                    raise
                await asyncio.sleep(0.05)


async def commit(machine, kind, asked):
    """Root proposes, the witnesses attest, Root commits."""
    client, signer = machine.root.client, machine.root.signer
    found = await governed.state(client)
    proposed = await owner.propose(client, signer, kind, asked(found))
    for mentor in machine.mentors[:2]:
        await machine.attest(proposed.proposal_id, mentor)
    return await machine.commit(proposed.proposal_id)


async def rotate(machine, service):
    """A new key for a service, as `sigil keys rotate-service` makes it."""
    return await commit(
        machine,
        "service_key",
        lambda found: {"service": service, "key": house_keys.successor(machine.data, service, found).hex()},
    )


async def listed(machine, **asked):
    """All keys that the log ever knew."""
    page = await http.persistently(
        lambda: machine.root.client.call(keys.LIST, keys.ListKeys(limit=500, **asked)), give_up_s=HEAL_S
    )
    return page.items


async def spoken(machine, service):
    """The service's instance that speaks now, once there is one."""
    async with asyncio.timeout(HEAL_S):
        while True:
            found = [one for one in await listed(machine, active=True) if (one.role, one.name) == ("instance", service)]
            if found:
                return found[0]
            await asyncio.sleep(0.05)


@pytest.fixture
async def machine(tmp_path):
    """A house of its own, whose keys may be turned upside down; its whole ledger is re-verified at the end."""
    async with machines.running(tmp_path / "data") as built:
        await built.seal(3, 2)
        yield built


async def test_keys_over_time(machine):
    """Rotate the knowledge service's key and the log's, revoke an instance and the service key itself: writes go on, or heal."""
    ada = await machine.person("ada-keys", Loa.OPERATOR)
    scribe = Scribe(ada.client)
    await scribe.more()
    first = await spoken(machine, "knowledge")

    committed = await rotate(machine, "knowledge")
    await scribe.more()
    second = await spoken(machine, "knowledge")
    by_id = {one.key_id: one for one in await listed(machine)}
    assert (by_id[first.key_id].until_seq, second.since_seq > committed.seq) == (committed.seq, True)

    ended = await machine.root.client.call(keys.REVOKE, keys.RevokeKey(key_id=second.key_id, reason="lost laptop"))
    assert (ended.role, ended.name, ended.instances) == ("instance", "knowledge", ())
    await scribe.more()
    assert (await spoken(machine, "knowledge")).since_seq > ended.seq

    named = await commit(machine, "log_key", lambda found: {"vkey": house_keys.log_successor(machine.data, found)})
    await scribe.more()
    record_id = scribe.written[0].id
    bundle = await machine.root.client.call(canon.PROOF, canon.Prove(id=record_id))
    assert len(bundle.log) > 0
    assert verify.verified(verify.verify(bundle, machine.genesis))
    assert bundle.log[-1]["header"]["core"]["id"] == named.id

    service = next(
        one for one in await listed(machine, active=True) if (one.role, one.name) == ("service", "knowledge")
    )
    ended = await machine.root.client.call(keys.REVOKE, keys.RevokeKey(key_id=service.key_id, reason="stolen"))
    assert (ended.role, len(ended.instances)) == ("service", 1)
    with pytest.raises(Refused) as caught:
        await machine.root.client.call(keys.REVOKE, keys.RevokeKey(key_id=service.key_id))
    assert caught.value.code is Code.KEY_ENDED
    await rotate(machine, "knowledge")
    await scribe.more()
    await scribe.rest()

    records = await machine.audit()
    lines = [one for one in records if b'"kind":"memory_block"' in bytes(one.header)]
    assert len(lines) == len(scribe.written) == len({one.id for one in scribe.written})


async def test_gatekeepers_key_rotated(machine):
    """Session tokens of the old key are over with it: everyone logs in again, and nobody is let in by what was sealed before."""
    ada = await machine.person("ada-gate", Loa.OPERATOR)
    await remember(ada.client, knowledge.MemoryWrite(key="before", text="x"))
    before = ada.client.session
    await rotate(machine, "gatekeeper")
    async with asyncio.timeout(HEAL_S):
        while True:
            with contextlib.suppress(http.Unreachable):
                try:
                    await http.persistently(
                        lambda: ada.client.call(knowledge.MEMORY_WRITE, knowledge.MemoryWrite(key="y", text="y")),
                        give_up_s=HEAL_S,
                    )
                except Refused as refused:
                    if refused.code is Code.SESSION_INVALID:
                        break
                    assert refused.code is Code.PERMIT_INVALID
            await asyncio.sleep(0.05)
    for someone in (machine.root, ada):
        await http.persistently(
            lambda someone=someone: someone.client.login(someone.toml, owner=someone.licence_signer), give_up_s=HEAL_S
        )
    assert ada.client.session != before
    await remember(ada.client, knowledge.MemoryWrite(key="after", text="x"))


async def test_quorum_services_key_revoked(machine):
    """Nobody can propose without the quorum service, so the record that gives it a key again goes by hand, with the same voices."""
    service = next(one for one in await listed(machine, active=True) if (one.role, one.name) == ("service", "quorum"))
    await machine.root.client.call(keys.REVOKE, keys.RevokeKey(key_id=service.key_id, reason="stolen"))
    found = await carried.folded(machine.data)
    try:
        key = house_keys.successor(machine.data, "quorum", found.state).hex()
        asked = {"service": "quorum", "key": key}
        signed = carried.drafted(found.state, "service_key", asked, machine.root.signer, clock.SystemClock().now_ms())
        one, two, _ = machine.mentors
        signed = carried.voiced(signed, one.owner_id, one.signer)
        with pytest.raises(Refused) as caught:
            await carried.carry(found, signed)
        assert caught.value.code is Code.QUORUM_NOT_SATISFIED
        placed = await carried.carry(found, carried.voiced(signed, two.owner_id, two.signer))
    finally:
        await found.bus.close()
    assert (await spoken(machine, "quorum")).since_seq > placed.seq
    assert (await rotate(machine, "knowledge")).seq > placed.seq
