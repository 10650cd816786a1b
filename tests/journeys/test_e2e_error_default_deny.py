"""Journey e2e_error_default_deny: whatever breaks on the way, the answer is a denial and nothing is half done."""

import asyncio
import shutil
import signal

import pytest

from cli import ledger
from sigilcore import ids
from sigilcore.access import Loa
from sigilcore.contracts import canon, common, knowledge, license
from sigilcore.refusals import Code, Refused
from sigilrun import http


@pytest.mark.parametrize("broken", ["gatekeeper", "canon_writer", "knowledge"])
async def test_e2e_error_default_deny(machine, broken):
    """With the gate, the pen or the service stopped dead, a write is refused; awake again, the same call succeeds once."""
    ada = await machine.person(f"ada-down-{broken.replace('_', '-')}", Loa.OPERATOR)
    asked = knowledge.MemoryWrite(key="x", text=f"while {broken} sleeps", id=ids.new())
    machine.kill(broken, signal.SIGSTOP)
    try:
        with pytest.raises(Refused) as caught:
            await ada.client.call(knowledge.MEMORY_WRITE, asked)
        assert caught.value.code.status in {403, 503}
    finally:
        machine.kill(broken, signal.SIGCONT)
    await http.persistently(lambda: ada.client.call(knowledge.MEMORY_WRITE, asked), give_up_s=30)
    records = await machine.audit()
    assert sum(1 for placed in records if asked.id.encode() in bytes(placed.header)) == 1


@pytest.mark.parametrize("broken", ["postgres", "nats"])
async def test_servers_killed_under_a_call(machine, broken):
    """`kill -9` of a server: what was acknowledged stands, and the call ends by itself."""
    ada = await machine.person(f"ada-killed-{broken}", Loa.OPERATOR)
    before = await ada.client.call(knowledge.MEMORY_WRITE, knowledge.MemoryWrite(key="before", text="stands"))
    pid = machine.kill(broken)
    asked = knowledge.MemoryWrite(key="after", text="comes", id=ids.new())
    await http.persistently(lambda: ada.client.call(knowledge.MEMORY_WRITE, asked), give_up_s=60)
    await machine.replaced(broken, pid)
    records = await machine.audit()
    assert before.id.encode() in bytes(records[before.seq].header)


async def test_a_disk_that_is_nearly_full_takes_revocations_only(machine):
    """A write is refused by its own name at the front door, and nothing of it stands; a revocation is done; with room all goes on."""
    ada, eve = [await machine.person(f"{name}-low", Loa.OPERATOR) for name in ("ada", "eve")]
    config = machine.data / "config.toml"
    before = config.read_text()
    asked = knowledge.MemoryWrite(key="low", text="while there is no room", id=ids.new())
    try:
        config.write_text(before + "\n[canon]\nreserve_mb = 1048576\n")
        await _anew(machine, "canon_writer")
        await _anew(machine, "license")  # it has no database, and starts on the same file
        with pytest.raises(Refused) as caught:
            await _until_known(lambda: ada.client.call(knowledge.MEMORY_WRITE, asked))
        assert (caught.value.code, caught.value.code.status) == (Code.DISK_LOW, 507)
        found = await machine.doctor()
        assert "DISK_LOW" in found
        assert "SETTINGS" not in found
        revoke = license.RevokeLicense(license_id=eve.licence_id, reason="braking must always work")
        await http.persistently(lambda: machine.root.client.call(license.REVOKE, revoke), give_up_s=30)
        assert not any(asked.id.encode() in bytes(placed.header) for placed in await machine.audit())
    finally:
        config.write_text(before)
        await _anew(machine, "canon_writer")
    await http.persistently(lambda: ada.client.call(knowledge.MEMORY_WRITE, asked), give_up_s=30)
    assert "DISK_LOW" not in await machine.doctor()
    with pytest.raises(Refused) as caught:
        await eve.client.call(knowledge.MEMORY_WRITE, knowledge.MemoryWrite(key="x", text="y"))
    assert caught.value.code in {Code.LICENSE_INVALID, Code.SESSION_CLOSED}
    await machine.audit()


async def test_a_stream_that_somebody_took_away_is_found_and_filled_again(machine):
    """Removed from nats-server's folder while the writer can't notice: the doctor says so, and what it says to do heals it."""
    ada = await machine.person("ada-stream", Loa.OPERATOR)
    await ada.client.call(knowledge.MEMORY_WRITE, knowledge.MemoryWrite(key="x", text="before"))
    assert "STREAM_BEHIND" not in await machine.doctor()
    machine.kill("canon_writer", signal.SIGSTOP)
    try:
        (folder,) = (machine.data / "nats").rglob("streams/CANON_default")
        shutil.rmtree(folder)
        pid = machine.kill("nats")
        await machine.replaced("nats", pid)
        assert "STREAM_BEHIND" in await machine.doctor()
    finally:
        machine.kill("canon_writer", signal.SIGCONT)
    bus = await ledger.connect(machine.data, "operator")
    try:
        filled = await http.persistently(lambda: bus.call(canon.REFILL, common.Empty(), timeout_s=10), give_up_s=30)
    finally:
        await bus.close()
    assert filled.stream_last == filled.head
    assert "STREAM_BEHIND" not in await machine.doctor()
    await http.persistently(
        lambda: ada.client.call(knowledge.MEMORY_WRITE, knowledge.MemoryWrite(key="x", text="after")), give_up_s=30
    )
    await machine.audit()


async def _anew(machine, name):
    pid = machine.kill(name, signal.SIGTERM)
    await machine.replaced(name, pid)


async def _until_known(call):
    """The answer, once the new writer gives one."""
    async with asyncio.timeout(30):
        while True:
            try:
                return await call()
            except Refused as why:
                if why.code not in {Code.UNAVAILABLE, Code.GATE_FAULT, Code.BUSY}:
                    raise
                await asyncio.sleep(0.1)
