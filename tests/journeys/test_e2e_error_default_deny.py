"""Journey e2e_error_default_deny: whatever breaks on the way, the answer is a denial and nothing is half done."""

import signal

import pytest

from sigilcore import ids
from sigilcore.access import Loa
from sigilcore.contracts import knowledge
from sigilcore.refusals import Refused
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
