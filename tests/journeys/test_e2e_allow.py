"""Journey e2e_allow: a permitted call leaves a decision, an effect, and a proof that anyone can check."""

import asyncio
import subprocess
import sys

import msgspec

from sigilcore import decision, verify
from sigilcore.access import Loa
from sigilcore.contracts import canon, gatekeeper, knowledge
from sigilcore.contracts.common import Empty


async def test_e2e_allow(machine, tmp_path):
    """An operator remembers; the decision stands before the effect; the bundle verifies offline and with the pin."""
    ada = await machine.person("ada-allow", Loa.OPERATOR)
    written = await ada.client.call(knowledge.MEMORY_WRITE, knowledge.MemoryWrite(key="tea", text="Earl Grey, hot."))
    assert not written.existing

    read = await ada.client.call(knowledge.MEMORY_READ, knowledge.MemoryRead(key="tea", wait_for=written.seq))
    assert (read.text, read.id, read.hash, read.version) == ("Earl Grey, hot.", written.id, written.hash, 1)

    shown = await ada.client.call(canon.GET, canon.Get(id=written.id))
    (link,) = (one["target"] for one in shown.header["core"]["links"] if one["label"] == "decision")
    judged = await ada.client.call(canon.AUDIT_GET, canon.AuditGet(id=link))
    chain = msgspec.convert(judged.payload, decision.FrozenChain).chain
    assert judged.seq < shown.seq
    assert (chain.verdict, chain.command, chain.audit.owner) == ("Allow", "memory/write", "ada-allow")

    bundle = await ada.client.call(canon.PROOF, canon.Prove(id=written.id))
    assert verify.verified(verify.verify(bundle, machine.genesis))
    file = tmp_path / "bundle.json"
    file.write_bytes(msgspec.json.encode(bundle))
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "cli.main", "verify", str(file), "--genesis", machine.genesis],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    await machine.audit()


async def test_listed_is_callable(machine):
    """Law 7 at the gate: what commands/list shows an observer, the gate lets pass up to the request itself."""
    observer = await machine.person("olga-list", Loa.OBSERVER)
    listed = await observer.client.call(gatekeeper.COMMAND_LIST, Empty())
    names = {item.name for item in listed.items}
    assert {"memory/list", "canon/list", "ping"} <= names
    assert {"memory/write", "license/create", "audit/list"}.isdisjoint(names)
