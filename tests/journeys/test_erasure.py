"""Journey erasure: what a person erases is gone from everywhere the house keeps it, and the ledger still proves itself."""

import asyncio
import json
import urllib.parse

import msgspec
import pytest

from cli import ledger, owner
from sigilcore import ids, verify
from sigilcore.access import Loa
from sigilcore.contracts import canon, knowledge, quorum
from sigilcore.records import user
from sigilcore.refusals import Code, Refused
from tests import machine as machines

CANARY = "xylophone-7f3a91c4-quicksand"


def holders(machine, *words):
    """Every file of the house that holds one of these words: database, stream, views, logs, settings."""
    words = words or (CANARY.encode(),)
    return [
        str(path.relative_to(machine.data))
        for path, held in machines.contents(machine.data)
        if any(word in held for word in words)
    ]


async def gone(machine, *words, wait_s=30.0):
    """Return once no file holds the canary, or these words; what still does, if that takes too long."""
    loop = asyncio.get_running_loop()
    until = loop.time() + wait_s
    while (found := holders(machine, *words)) and loop.time() < until:
        await asyncio.sleep(0.1)
    return found


async def wrapped_key(machine, seq):
    """The wrapped data key of a record's payload, as it lies in Postgres."""
    (row,) = await machine.sql(
        "canon_reader",
        "select wrapped from canon.record join canon.data_key on data_key.id = record.data_key where seq = $1",
        seq,
    )
    return row["wrapped"]


async def stream_holds(machine, seq):
    """Whether the change stream still has the record's message, or the canary in any."""
    bus = await ledger.connect(machine.data, "operator")
    try:
        return any(seq + 1 == one.stream_seq or CANARY.encode() in one.data for one in await _all(bus))
    finally:
        await bus.close()


async def _all(bus):
    feed = bus.read_stream("default", 1)
    found = []
    try:
        while batch := await feed.fetch(500, 1.0):
            found += batch
    finally:
        await feed.close()
    return found


async def test_what_is_erased_is_gone_everywhere(machine):
    """Two versions with a canary; after the erasure no file holds it, nor the key that sealed it; the records stand without payload, and
    everything still verifies."""
    ada = await machine.person("ada-erasure", Loa.OPERATOR)

    async def write(text, key="secret"):
        return await ada.client.call(
            knowledge.MEMORY_WRITE, knowledge.MemoryWrite(key=key, text=text, tags=(CANARY[:9],))
        )

    first, second = await write(f"one {CANARY}"), await write(f"two {CANARY}")
    other = await write("stays", key="other")
    await ada.client.call(knowledge.MEMORY_READ, knowledge.MemoryRead(key="secret", wait_for=other.seq))
    assert [name for name in holders(machine) if "knowledge.db" in name]
    key = await wrapped_key(machine, second.seq)
    assert key == await wrapped_key(machine, first.seq)
    assert [name for name in holders(machine, key) if name.startswith("postgres/")]

    asked = knowledge.UserErase(key="secret", id=ids.new())
    done = await ada.client.call(knowledge.USER_ERASE, asked)
    assert (done.versions, done.existing) == (2, False)
    again = await ada.client.call(knowledge.USER_ERASE, asked)
    assert (again.seq, again.versions, again.existing) == (done.seq, 2, True)

    assert await gone(machine) == []
    assert await gone(machine, key) == []
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
    """The writer is killed right after the commit; the next one clears stream and disk at its start, and nothing else is lost."""
    ada = await machine.person("ada-crash", Loa.OPERATOR)
    written = await ada.client.call(knowledge.MEMORY_WRITE, knowledge.MemoryWrite(key="gone", text=CANARY))
    await ada.client.call(knowledge.MEMORY_READ, knowledge.MemoryRead(key="gone", wait_for=written.seq))
    key = await wrapped_key(machine, written.seq)
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
    assert await gone(machine, key) == []
    await machine.audit()


async def remember(someone, key, text):
    return await someone.client.call(knowledge.MEMORY_WRITE, knowledge.MemoryWrite(key=key, text=text))


async def propose_erasure(machine, owner_id, slug, kind="memory_block"):
    """Root's proposal, as `sigil proposal erase` makes it."""
    asked = {
        "owner": owner_id,
        "kind": kind,
        "key": user.key_of_slug("memory_block", owner_id, slug),
        "reason": "a court",
    }
    return await owner.propose(machine.root.client, machine.root.signer, "erasure_order", asked)


async def test_the_quorum_erases_anothers_thing(machine):
    """Root and k witnesses order it; before that nothing happens, after it the thing is gone everywhere, by no call of anybody's."""
    ada = await machine.person("ada-ordered", Loa.OPERATOR)
    written = [await remember(ada, "libel", f"{number} {CANARY}") for number in range(2)]
    key = await wrapped_key(machine, written[0].seq)
    stays = await remember(ada, "stays", "stays")
    proposed = await propose_erasure(machine, "ada-ordered", "libel")
    assert {change.path for change in proposed.difference} >= {"$.owner", "$.kind", "$.key", "$.reason"}
    for mentor in machine.mentors[:2]:
        await machine.attest(proposed.proposal_id, mentor)
    with pytest.raises(Refused) as caught:
        await machine.commit(proposed.proposal_id)
    assert caught.value.code is Code.QUORUM_NOT_SATISFIED
    read = await ada.client.call(knowledge.MEMORY_READ, knowledge.MemoryRead(key="libel", wait_for=stays.seq))
    assert CANARY in read.text
    await machine.attest(proposed.proposal_id, machine.mentors[2])
    done = await machine.commit(proposed.proposal_id)

    assert await gone(machine) == []
    assert await gone(machine, key) == []
    erasures = [
        one
        for one in (await ada.client.call(canon.HISTORY, canon.History(id=written[0].id))).items
        if one.header["core"]["kind"] == "erasure"
    ]
    assert [one.header["core"]["links"] for one in erasures] == [[{"label": "decision", "target": f"{done.id}.0"}]]
    assert (erasures[0].payload["records"], erasures[0].payload["request"]) == ([one.id for one in written], None)
    for one in written:
        bundle = await ada.client.call(canon.PROOF, canon.Prove(id=one.id))
        assert verify.verified(verify.verify(bundle, machine.genesis))
    bundle = await ada.client.call(canon.PROOF, canon.Prove(id=erasures[0].header["core"]["id"]))
    assert verify.verified(verify.verify(bundle, machine.genesis))
    shown = await machine.root.client.call(quorum.PROPOSAL, quorum.ReadProposal(proposal_id=proposed.proposal_id))
    assert (shown.state, shown.need, shown.have) == ("committed", 3, 3)
    again = await remember(ada, "libel", "written anew")
    now = await ada.client.call(knowledge.MEMORY_READ, knowledge.MemoryRead(key="libel", wait_for=again.seq))
    assert now.text == "written anew"
    await machine.audit()


@pytest.mark.parametrize("kind", ["erasure", "decision_batch", "genesis"])
async def test_audit_and_system_can_not_be_ordered_away(machine, kind):
    """The draft of such an order is refused, with its place."""
    with pytest.raises(Refused) as caught:
        await propose_erasure(machine, "root", "x", kind)
    assert (caught.value.code, caught.value.field) == (Code.BAD_INPUT, "$.payload.kind")


async def test_history_and_difference_of_erased_versions(machine):
    """The chain is whole, with its erasure in it; what was said is told nowhere, and what came after is compared with nothing."""
    ada = await machine.person("ada-history", Loa.OPERATOR)
    first, second = await remember(ada, "h", f"1 {CANARY}"), await remember(ada, "h", f"2 {CANARY}")
    erased = await ada.client.call(knowledge.USER_ERASE, knowledge.UserErase(key="h", id=ids.new()))
    third = await remember(ada, "h", "3")
    key = user.key_of_slug("memory_block", "ada-history", "h")
    whole = [third.id, erased.id, second.id, first.id]
    for asked in (canon.History(id=first.id), canon.History(kind="memory_block", key=key)):
        page = await ada.client.call(canon.HISTORY, asked)
        assert ([one.header["core"]["id"] for one in page.items], page.corrupt, page.cursor) == (whole, (), None)
        assert [one.payload is None for one in page.items] == [False, False, True, True]
    found, cursor = [], None
    for _ in whole:
        page = await ada.client.call(canon.HISTORY, canon.History(id=third.id, limit=1, cursor=cursor))
        assert page.corrupt == ()
        found += [one.header["core"]["id"] for one in page.items]
        cursor = page.cursor
    assert (found, cursor) == (whole, None)
    lines = (await ada.client.call(canon.DIFF, canon.Diff(new=third.id, old=second.id))).lines
    assert {one.path: (one.old, one.new) for one in lines}["$.text"] == (None, "3")
    assert (await ada.client.call(canon.DIFF, canon.Diff(new=second.id, old=first.id))).lines == ()
    told = await ada.client.call(canon.DIFF, canon.Diff(new=erased.id))
    assert (told.old_seq, CANARY in json.dumps(msgspec.to_builtins(told))) == (second.seq, False)


async def test_history_and_difference_by_get(machine):
    """Plain GETs with query fields; a bad cursor is refused by its field; what is another's looks exactly like what isn't there."""
    ada, eve = await machine.person("ada-get", Loa.OPERATOR), await machine.person("eve-get", Loa.OPERATOR)
    first, second = await remember(ada, "g", "1"), await remember(ada, "g", "2")
    key = urllib.parse.quote(user.key_of_slug("memory_block", "ada-get", "g"), safe="")

    async def asked(someone, path):
        headers = {"Authorization": f"Bearer {someone.client.session.token}"}
        status, body = await someone.client.fetch("GET", path, headers=headers)
        return status, msgspec.json.decode(body)

    by_key = f"/api/canon/history?kind=memory_block&key={key}"
    for path in (by_key, f"/api/canon/history?id={first.id}"):
        status, page = await asked(ada, path)
        assert (status, [one["seq"] for one in page["items"]]) == (200, [second.seq, first.seq])
    status, page = await asked(ada, f"{by_key}&limit=1")
    assert (status, len(page["items"]), page["cursor"]) == (200, 1, str(second.seq))
    status, page = await asked(ada, f"{by_key}&limit=1&cursor={page['cursor']}")
    assert (status, [one["seq"] for one in page["items"]]) == (200, [first.seq])
    for path in (f"/api/canon/diff?new={second.id}", f"/api/canon/diff?new={second.id}&old={first.id}"):
        status, told = await asked(ada, path)
        assert (status, told["old_seq"], told["new_seq"]) == (200, first.seq, second.seq)
        assert {"path": "$.text", "old": "1", "new": "2"} in told["lines"]
    for cursor in ("x", "-1", "1_0", "%D9%A3"):
        status, problem = await asked(ada, f"{by_key}&cursor={cursor}")
        assert (status, problem["code"], problem["field"]) == (400, "BAD_INPUT", "$.cursor")

    def told_of(answer):
        status, problem = answer
        return status, {name: value for name, value in problem.items() if name not in {"trace_id", "instance"}}

    absent = told_of(await asked(eve, f"/api/canon/history?id={ids.new()}"))
    assert (absent[0], absent[1]["code"]) == (404, "NOT_FOUND")
    for path in (f"/api/canon/history?id={first.id}", f"{by_key}&owner=ada-get", by_key):
        assert told_of(await asked(eve, path)) == absent
    missing = told_of(await asked(eve, f"/api/canon/diff?new={ids.new()}"))
    assert told_of(await asked(eve, f"/api/canon/diff?new={second.id}")) == missing
    assert (await asked(machine.root, f"{by_key}&owner=ada-get"))[0] in {200, 401}


async def test_an_export_that_an_erasure_passes_still_verifies(machine, tmp_path, monkeypatch):
    """One version is read before the erasure, one after it, and the erasure stands beyond the first checkpoint: the file is whole."""
    ada = await machine.person("ada-export", Loa.OPERATOR)
    first = await remember(ada, "torn", f"1 {CANARY}")
    for number in range(6):
        await remember(ada, f"between-{number}", "x")
    second = await remember(ada, "torn", "2")
    monkeypatch.setattr(ledger, "PAGE", 5)
    assert second.seq - first.seq > 2 * ledger.PAGE
    loop, erased = asyncio.get_running_loop(), []

    def erase(count):
        if count == first.seq + 1 and not erased:
            asked = knowledge.UserErase(key="torn", id=ids.new())
            erasing = asyncio.run_coroutine_threadsafe(ada.client.call(knowledge.USER_ERASE, asked), loop)
            erased.append(erasing.result(20))

    out = tmp_path / "ledger.jsonl"
    size = await asyncio.to_thread(lambda: asyncio.run(ledger.export(machine.data, out, erase)))
    assert size > erased[0].seq > second.seq
    report = await asyncio.to_thread(ledger.replay, out, machine.genesis, workers=1)
    assert (report.records, report.erased >= 2) == (size, True)
    assert CANARY.encode() not in out.read_bytes()
    assert list(tmp_path.iterdir()) == [out]
