"""Journey e2e_deny: who may not is refused with a reason and a next step, and the refusal is on record."""

import msgspec
import pytest

from sigilcore import decision
from sigilcore.access import Loa
from sigilcore.contracts import canon, common, gatekeeper, knowledge
from sigilcore.refusals import Code, Refused


async def test_e2e_deny(machine):
    """A licensed guest can't write: the denial is committed, names what is needed, and no effect follows."""
    gus = await machine.person("gus-deny", Loa.GUEST)
    with pytest.raises(Refused) as caught:
        await gus.client.call(knowledge.MEMORY_WRITE, knowledge.MemoryWrite(key="x", text="y"))
    assert caught.value.code is Code.LOA_TOO_LOW
    assert caught.value.detail["need"] == "operator"

    shown = await machine.root.client.call(canon.AUDIT_GET, canon.AuditGet(id=caught.value.detail["decision"]))
    chain = msgspec.convert(shown.payload, decision.FrozenChain).chain
    assert (chain.verdict, chain.command, chain.audit.owner) == ("Deny", "memory/write", "gus-deny")
    records = await machine.audit()
    assert not any(
        b"gus-deny" in bytes(placed.payload) for placed in records if b'"space":"user"' in bytes(placed.header)
    )


async def test_stranger_is_refused_and_counted(machine):
    """Without a licence there is nothing to record by name; the refusal is counted in the next summary."""
    stranger = await machine.client()
    with pytest.raises(Refused) as caught:
        await stranger.call(gatekeeper.PING, common.Empty())
    assert caught.value.code is Code.SESSION_MISSING


async def test_scope_is_kept(machine):
    """A licence for memory only does memory only."""
    narrow = await machine.person("nina-scope", Loa.OPERATOR, scope=("memory/*",))
    await narrow.client.call(knowledge.MEMORY_WRITE, knowledge.MemoryWrite(key="x", text="y"))
    with pytest.raises(Refused) as caught:
        await narrow.client.call(knowledge.USER_WRITE, knowledge.UserWrite(key="x", value=1))
    assert caught.value.code is Code.OUT_OF_SCOPE


async def test_hidden_looks_like_absent(machine):
    """Another's record is answered exactly like one that doesn't exist, by id and by list."""
    ada = await machine.person("ada-hidden", Loa.OPERATOR)
    bob = await machine.person("bob-hidden", Loa.OPERATOR)
    written = await ada.client.call(knowledge.MEMORY_WRITE, knowledge.MemoryWrite(key="secret", text="of Ada's"))

    async def answer(request):
        with pytest.raises(Refused) as caught:
            await bob.client.call(knowledge.USER_READ, request)
        return caught.value.code, caught.value.message, caught.value.field, caught.value.detail

    absent = "0190a3a0-0000-7000-8000-000000000000"
    assert await answer(knowledge.UserRead(id=written.id)) == await answer(knowledge.UserRead(id=absent))
    mine = await bob.client.call(
        knowledge.MEMORY_LIST, knowledge.MemoryList(user_id="ada-hidden", wait_for=written.seq)
    )
    assert mine.items == ()
