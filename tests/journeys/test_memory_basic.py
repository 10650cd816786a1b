"""Journey memory_basic: write, supersede, read now and as it was, list by cursor; and the same call twice is one call."""

import pytest

from sigilcore import ids
from sigilcore.access import Loa
from sigilcore.contracts import knowledge
from sigilcore.refusals import Code, Refused


async def test_memory_basic(machine):
    """A second write of a key supersedes the first; both stay readable; the list shows what is now."""
    ada = await machine.person("ada-memory", Loa.OPERATOR)

    async def write(key, text, **more):
        return await ada.client.call(knowledge.MEMORY_WRITE, knowledge.MemoryWrite(key=key, text=text, **more))

    first = await write("plan", "Sow in May.")
    second = await write("plan", "Sow in April.")
    third = await write("place", "By the wall.", tags=("garden",))
    now = await ada.client.call(knowledge.MEMORY_READ, knowledge.MemoryRead(key="plan", wait_for=third.seq))
    then = await ada.client.call(knowledge.MEMORY_READ, knowledge.MemoryRead(key="plan", version=1))
    assert (now.text, now.version, now.id) == ("Sow in April.", 2, second.id)
    assert (then.text, then.version, then.id) == ("Sow in May.", 1, first.id)

    page = await ada.client.call(knowledge.MEMORY_LIST, knowledge.MemoryList(limit=1))
    rest = await ada.client.call(knowledge.MEMORY_LIST, knowledge.MemoryList(limit=10, cursor=page.cursor))
    assert sorted(item.key for item in (*page.items, *rest.items)) == ["place", "plan"]
    tagged = await ada.client.call(knowledge.MEMORY_LIST, knowledge.MemoryList(tag="garden"))
    assert [item.key for item in tagged.items] == ["place"]
    await machine.audit()


async def test_the_same_call_twice_is_one_call(machine):
    """Same id and same parameters: the first place again. Same id, other text: refused, nothing written."""
    ada = await machine.person("ada-twice", Loa.OPERATOR)
    asked = knowledge.MemoryWrite(key="once", text="said once", id=ids.new())
    first = await ada.client.call(knowledge.MEMORY_WRITE, asked)
    again = await ada.client.call(knowledge.MEMORY_WRITE, asked)
    assert again.existing
    assert (again.id, again.hash, again.seq) == (first.id, first.hash, first.seq)
    other = knowledge.MemoryWrite(key="once", text="said otherwise", id=asked.id)
    with pytest.raises(Refused) as caught:
        await ada.client.call(knowledge.MEMORY_WRITE, other)
    assert caught.value.code is Code.ID_TAKEN
    records = await machine.audit()
    assert sum(1 for placed in records if asked.id.encode() in bytes(placed.header)) == 1


async def test_batch_items_stand_alone(machine):
    """One taken id refuses its item, not the batch; the same key twice in a batch chains."""
    ada = await machine.person("ada-batch", Loa.OPERATOR)
    taken = (await ada.client.call(knowledge.USER_WRITE, knowledge.UserWrite(key="a", value=1, id=ids.new()))).id
    items = (
        knowledge.Item(key="b", value=1),
        knowledge.Item(key="c", value={"deep": [1, 2]}, id=taken),
        knowledge.Item(key="b", value=2),
    )
    done = await ada.client.call(knowledge.USER_BATCH, knowledge.UserBatch(items=items))
    assert [item.refusal.code if item.refusal else None for item in done.items] == [None, Code.ID_TAKEN, None]
    read = await ada.client.call(
        knowledge.USER_READ, knowledge.UserRead(id=done.items[2].id, wait_for=done.items[2].seq)
    )
    assert (read.value, read.version) == (2, 2)
    await machine.audit()
