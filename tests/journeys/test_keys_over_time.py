"""Journey keys_over_time: keys are rotated by the quorum and revoked by Root while people write; nothing is lost and history verifies."""

import asyncio
import contextlib
import json
import os
import sys

import pytest

from cli import carried, governed, house_keys, owner
from sigilcore import verify
from sigilcore.access import Loa
from sigilcore.contracts import canon, common, keys, knowledge, quorum
from sigilcore.refusals import Code, Refused
from sigilrun import http
from sigilrun import keys as keystore
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


PASSWORD = "the operator's own words"


class Desk:
    """A terminal in the operator's folder: key files of everyone's, each of whom would sit at another one."""

    def __init__(self, folder, machine):
        self.folder = folder
        self.machine = machine
        (folder / "pass").write_text(PASSWORD + "\n")
        (folder / "pass").chmod(0o600)

    def key_file(self, name, signer):
        path = self.folder / f"{name}.key"
        keystore.write_key_file(path, name, PASSWORD.encode(), bytes(signer._key))
        return str(path)

    async def sigil(self, *words):
        """Exit code, and the JSON of the answer or the refusal."""
        told = ("--data", str(self.machine.data)) if words[1] != "attest" else ()
        secret = ("--passphrase", f"file:{self.folder / 'pass'}") if words[1] != "carry" else ()
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", "cli.main", *words, *told, *secret, "--json"),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            cwd=self.folder,
            env={**os.environ, "SIGIL_HOME": str(self.folder / "home")},
        )
        out, error = await process.communicate()
        answer = out if process.returncode == 0 else error.splitlines()[-1]
        return process.returncode, json.loads(answer)


async def test_quorum_services_key_revoked(machine, tmp_path):
    """Nobody can propose without the quorum service, so the record that gives it a key again goes by hand, with the same voices."""
    service = next(one for one in await listed(machine, active=True) if (one.role, one.name) == ("service", "quorum"))
    await machine.root.client.call(keys.REVOKE, keys.RevokeKey(key_id=service.key_id, reason="stolen"))
    desk = Desk(tmp_path, machine)
    root = desk.key_file("root", machine.root.signer)
    one, two, _ = ((mentor.owner_id, desk.key_file(mentor.owner_id, mentor.signer)) for mentor in machine.mentors)
    file = str(tmp_path / "record.json")

    assert (await desk.sigil("keys", "rotate-service", "nobody", "--key", root, "--out", file))[0] == 1
    code, told = await desk.sigil("keys", "rotate-service", "quorum", "--key", one[1], "--out", file)
    assert (code, told["message"]) == (1, "this key is not Root's")
    assert not (tmp_path / "record.json").exists()
    assert (await desk.sigil("keys", "rotate-service", "quorum", "--key", root, "--out", file))[0] == 0
    drafted = (tmp_path / "record.json").read_bytes()

    async def attested(witness):
        code, shown = await desk.sigil("keys", "attest", file, "--as", witness[0], "--key", witness[1])
        assert (code, shown["kind"], shown["payload"]["service"]) == (0, "service_key", "quorum")
        return shown

    shown = await attested(one)
    assert await attested(one) == shown  # the same voice again is the same voice
    code, told = await desk.sigil("keys", "carry", file)
    assert (code, told["code"], told["detail"]["have"]) == (1, "QUORUM_NOT_SATISFIED", 1)

    whole = json.loads((tmp_path / "record.json").read_bytes())
    spoilt = {**whole, "payload": {**whole["payload"], "key": "ab" * 32}}
    (tmp_path / "record.json").write_text(json.dumps(spoilt))
    for words in (("carry", file), ("attest", file, "--as", two[0], "--key", two[1])):
        assert (await desk.sigil("keys", *words))[0] == 1
    (tmp_path / "record.json").write_text(json.dumps(whole))

    assert (await attested(two))["hash"] == shown["hash"] == json.loads(drafted)["header"]["hash"]
    code, placed = await desk.sigil("keys", "carry", file)
    assert (code, placed["hash"]) == (0, shown["hash"])
    assert await desk.sigil("keys", "carry", file) == (0, placed)  # carried again, it is where it was
    assert (await spoken(machine, "quorum")).since_seq > placed["seq"]
    assert (await rotate(machine, "knowledge")).seq > placed["seq"]


async def test_the_log_is_read_by_the_key_of_each_size(machine):
    """After the log's key was rotated: who follows from genesis on reads both checkpoints, and the proposal is committed."""
    before = (await machine.root.client.call(canon.CHECKPOINT, common.Empty())).note.encode()
    named = await commit(machine, "log_key", lambda found: {"vkey": house_keys.log_successor(machine.data, found)})
    found = await carried.folded(machine.data)
    try:
        after = (await found.bus.call(canon.CHECKPOINT, common.Empty())).note.encode()
        assert (await found.follower.opened(before)).size <= named.seq < (await found.follower.opened(after)).size
        assert len(found.state.log_keys) == 2
    finally:
        await found.bus.close()
    shown = await machine.root.client.call(quorum.PROPOSAL, quorum.ReadProposal(proposal_id=named.proposal_id))
    assert (shown.state, shown.have >= shown.need) == ("committed", True)
