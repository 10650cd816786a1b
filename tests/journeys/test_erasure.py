"""Journey erasure: what a person erases is gone from everywhere the house keeps it, and the ledger still proves itself."""

import asyncio
import json

import msgspec
import pytest

from cli import ledger
from sigilcore import ids, verify
from sigilcore.access import Loa
from sigilcore.contracts import canon, knowledge
from sigilcore.refusals import Code, Refused

CANARY = "xylophone-7f3a91c4-quicksand"


def holders(machine, word=CANARY):
    """Every file of the house that holds this word: database, stream, views, logs, settings."""
    found = []
    for path in sorted(machine.data.rglob("*")):
        try:
            if path.is_file() and word.encode() in path.read_bytes():
                found.append(str(path.relative_to(machine.data)))
        except (FileNotFoundError, PermissionError):
            continue
    return found


async def gone(machine, wait_s=10.0):
    """Return once no file holds the canary; what still does, if that takes too long."""
    loop = asyncio.get_running_loop()
    until = loop.time() + wait_s
    while (found := holders(machine)) and loop.time() < until:
        await asyncio.sleep(0.1)
    return found


async def stream_holds(machine, seq):
    """Whether the change stream still has the record's message."""
    bus = await ledger.connect(machine.data, "operator")
    try:
        return seq + 1 in {one.stream_seq for one in await _all(bus)}
    finally:
        await bus.close()


async def _all(bus):
    feed = bus.read_stream("default", 1)
    found = []
    try:
        while batch := await feed.fetch(500, 1.0):
            found += batch
            assert all(CANARY.encode() not in one.data for one in batch)
    finally:
        await feed.close()
    return found


async def test_what_is_erased_is_gone_everywhere(machine):
    """Two versions with a canary; after the erasure no file holds it, the records stand without payload, and everything still verifies."""
    ada = await machine.person("ada-erasure", Loa.OPERATOR)

    async def write(text, key="secret"):
        return await ada.client.call(
            knowledge.MEMORY_WRITE, knowledge.MemoryWrite(key=key, text=text, tags=(CANARY[:9],))
        )

    first, second = await write(f"one {CANARY}"), await write(f"two {CANARY}")
    other = await write("stays", key="other")
    await ada.client.call(knowledge.MEMORY_READ, knowledge.MemoryRead(key="secret", wait_for=other.seq))
    assert [name for name in holders(machine) if "knowledge.db" in name]

    asked = knowledge.UserErase(key="secret", id=ids.new())
    done = await ada.client.call(knowledge.USER_ERASE, asked)
    assert (done.versions, done.existing) == (2, False)
    again = await ada.client.call(knowledge.USER_ERASE, asked)
    assert (again.seq, again.versions, again.existing) == (done.seq, 2, True)

    assert await gone(machine) == []
    for seq in (first.seq, second.seq):
        assert not await stream_holds(machine, seq)
    for written in (first, second):
        view = await ada.client.call(canon.GET, canon.Get(id=written.id))
        assert (view.payload, view.salt, view.header["hash"]) == (None, None, written.hash)
        bundle = await ada.client.call(canon.PROOF, canon.Prove(id=written.id))
        results = verify.verify(bundle, machine.genesis)
        assert verify.verified(results), results
        assert "payload erased" in results[2].detail
    with pytest.raises(Refused) as caught:
        await ada.client.call(knowledge.MEMORY_READ, knowledge.MemoryRead(key="secret", wait_for=done.seq))
    assert caught.value.code is Code.NOT_FOUND
    records = await machine.audit()
    assert [bytes(records[seq].payload) for seq in (first.seq, second.seq)] == [b"null", b"null"]

    third = await write("written anew")
    now = await ada.client.call(knowledge.MEMORY_READ, knowledge.MemoryRead(key="secret", wait_for=third.seq))
    assert (now.text, now.version) == ("written anew", 1)
    await machine.audit()


async def test_nobody_erases_what_is_anothers(machine):
    """Another person's record, by its id or its name, isn't there for whoever isn't its owner; Root erases nobody's things either."""
    ada, bob = await machine.person("ada-owns", Loa.OPERATOR), await machine.person("bob-wants", Loa.OPERATOR)
    written = await ada.client.call(knowledge.MEMORY_WRITE, knowledge.MemoryWrite(key="mine", text="mine"))
    for client in (bob.client, machine.root.client):
        for asked in (knowledge.UserErase(record=written.id), knowledge.UserErase(key="mine")):
            with pytest.raises(Refused) as caught:
                await client.call(knowledge.USER_ERASE, asked)
            assert caught.value.code is Code.NOT_FOUND
    read = await ada.client.call(knowledge.MEMORY_READ, knowledge.MemoryRead(key="mine", wait_for=written.seq))
    assert read.text == "mine"


async def test_audit_and_system_records_are_nobodys_to_erase(machine):
    """There is no such thing: their ids name nothing that could be erased."""
    page = await machine.root.client.call(canon.LIST, canon.ListRecords(space="audit", limit=1))
    genesis = await machine.root.client.call(canon.GET, canon.Get(seq=0))
    for view in (page.items[0], genesis):
        with pytest.raises(Refused) as caught:
            await machine.root.client.call(knowledge.USER_ERASE, knowledge.UserErase(record=view.header["core"]["id"]))
        assert caught.value.code is Code.NOT_FOUND
    assert json.loads(msgspec.json.encode(genesis.payload))


async def test_a_crash_before_the_stream_is_cleared_heals(machine):
    """The writer is killed right after the commit; the next one clears the stream at its start, and nothing else is lost."""
    ada = await machine.person("ada-crash", Loa.OPERATOR)
    written = await ada.client.call(knowledge.MEMORY_WRITE, knowledge.MemoryWrite(key="gone", text=CANARY))
    await ada.client.call(knowledge.MEMORY_READ, knowledge.MemoryRead(key="gone", wait_for=written.seq))
    erasing = asyncio.create_task(ada.client.call(knowledge.USER_ERASE, knowledge.UserErase(key="gone", id=ids.new())))
    await asyncio.wait([erasing], timeout=0.05)
    pid = machine.kill("canon_writer")
    await machine.replaced("canon_writer", pid)
    await asyncio.gather(erasing, return_exceptions=True)
    asked = knowledge.UserErase(key="gone")
    try:
        await asyncio.wait_for(ada.client.call(knowledge.USER_ERASE, asked), 20)
    except Refused as refused:
        assert refused.code is Code.NOT_FOUND
    async with asyncio.timeout(20):
        while await stream_holds(machine, written.seq):
            await asyncio.sleep(0.2)
    assert await gone(machine) == []
    await machine.audit()
