"""The example consumers, run as their README says: Postgres for the whole log, DynamoDB (moto's server) for two kinds."""

import asyncio
import contextlib
import hashlib
import json
import os
import re
import shlex
import signal
import sys
import urllib.request
from pathlib import Path

import asyncpg
import boto3
import pytest
import pytest_asyncio

from examples.consumers import dynamodb, postgres
from sigilcore import ids, merkle, record
from sigilcore.access import Loa
from sigilcore.contracts import knowledge
from sigilrun import consume, consumers
from sigilrun.embedded import ports
from sigilrun.embedded import postgres as server
from tests import machine as machines
from tests.faults.consuming import Kept, from_outside
from tests.waiting import until

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "examples" / "consumers" / "README.md"
PATIENCE_S = 30
ROLE = "downstream"


def commands():
    """The lines of the README's shell blocks, one list a block."""
    blocks = re.findall(r"^```sh\n(.*?)^```", README.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    return [block.strip().splitlines() for block in blocks]


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def house(tmp_path_factory):
    """A founded house in `data`, with a few memories of ada's."""
    work = tmp_path_factory.mktemp("examples")
    async with machines.running(work / "data") as built:
        built.ada = await built.person("ada", Loa.OPERATOR)
        await remember(built, 3)
        yield built


async def remember(house, count):
    """So many memories more; the seq of the last."""
    for number in range(count):
        write = knowledge.MemoryWrite(key=f"note-{number}", text=f"Tea at {number}.")
        seq = (await house.ada.client.call(knowledge.MEMORY_WRITE, write)).seq
    return seq


async def forget(house, seen):
    """A memory of two versions, erased once the consumer has them; the erasure's seq."""
    for text in ("Said.", "Said again."):
        write = knowledge.MemoryWrite(key="slip", text=text)
        size = (await house.ada.client.call(knowledge.MEMORY_WRITE, write)).seq + 1
    await until(lambda: seen(size))
    done = await house.ada.client.call(knowledge.USER_ERASE, knowledge.UserErase(key="slip", id=ids.new()))
    return done.seq


@pytest_asyncio.fixture(loop_scope="session")
async def dsn(postgres_server):
    """A database of the consumer's own."""
    name = f"downstream_{os.urandom(4).hex()}"
    await server.create_database(
        postgres_server.options, name, owner=ROLE, roles=[server.Role(name=ROLE, password="downstream")]
    )
    return f"postgresql://{ROLE}:downstream@{ports.LOOPBACK}:{postgres_server.options.port}/{name}"


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def endpoint():
    """moto's server, as a process on loopback."""
    port = ports.free_port()
    argv = ["-m", "moto.server", "-H", ports.LOOPBACK, "-p", str(port)]
    process = await asyncio.create_subprocess_exec(
        sys.executable, *argv, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL
    )
    url = f"http://{ports.LOOPBACK}:{port}"
    try:
        async with asyncio.timeout(PATIENCE_S):
            while not await asyncio.to_thread(answers, url):
                await asyncio.sleep(0.1)
        yield url
    finally:
        process.terminate()
        await process.wait()


def answers(url):
    try:
        with urllib.request.urlopen(f"{url}/moto-api/data.json", timeout=2):
            return True
    except OSError:
        return False


@pytest.fixture
def dynamo(endpoint, monkeypatch):
    """A client of it; credentials of nobody."""
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    client = boto3.client("dynamodb", endpoint_url=endpoint, region_name="eu-central-1")
    for name in client.list_tables()["TableNames"]:
        client.delete_table(TableName=name)
    yield client
    client.close()


CREDENTIALS = {"AWS_ACCESS_KEY_ID": "nobody", "AWS_SECRET_ACCESS_KEY": "nothing"}


@contextlib.asynccontextmanager
async def following(house, lines, how=signal.SIGTERM, **environment):
    """Run a block: its first line to the end, its last as a process, which must stop well when it is asked to, or is killed."""
    env = {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "SIGIL_DATA": str(house.data),
        **CREDENTIALS,
        **environment,
    }
    where = {"cwd": house.data.parent, "env": env}
    (house.data.parent / "examples").unlink(missing_ok=True)
    (house.data.parent / "examples").symlink_to(ROOT / "examples")
    *before, last = lines
    for line in before:
        done = await asyncio.create_subprocess_shell(line, stderr=asyncio.subprocess.PIPE, **where)
        _, told = await done.communicate()
        assert done.returncode == 0, told
    words = [
        word.replace("$DSN", env.get("DSN", "")).replace("$ENDPOINT", env.get("ENDPOINT", ""))
        for word in shlex.split(last)
    ]
    process = await asyncio.create_subprocess_exec(*words, stderr=asyncio.subprocess.PIPE, **where)
    try:
        yield
    finally:
        if process.returncode is None:
            process.send_signal(how)
        _, told = await process.communicate()
    assert process.returncode == (0 if how is signal.SIGTERM else -how), told.decode()


def headers(placed):
    return [record.open_header(bytes(one.header))[0] for one in placed]


async def test_postgres_as_the_readme_says(house, dsn):
    """Records, payloads and links equal the ledger, what was erased meanwhile included; killed and started again it goes on; the frontier
    is the log's tree."""
    block = commands()[0]
    async with asyncpg.create_pool(dsn, min_size=1, max_size=2) as pool:
        view = postgres.PostgresView(pool)
        async with following(house, block, signal.SIGKILL, DSN=dsn):
            await until(lambda: reached(view, 5))
        async with following(house, block[1:], DSN=dsn):
            await remember(house, 2)
            seq = await forget(house, lambda size: reached(view, size))
            await until(lambda: reached(view, seq + 1))
        placed, _ = await house.ledger()
        at = await view.position()
        placed = placed[: at.next_seq]
        rows = await pool.fetch("select seq, id::text, kind, hash, payload from sigil.record order by seq")
        assert [(row["seq"], row["id"], row["kind"], row["hash"]) for row in rows] == [
            (seq, header.core.id, header.core.kind, header.hash) for seq, header in enumerate(headers(placed))
        ]
        assert [(row["payload"] or "null").encode() for row in rows] == [bytes(one.payload) for one in placed]
        assert b"null" in [bytes(one.payload) for one in placed]
        links = await pool.fetch("select seq, ordinal, label, target from sigil.link order by seq, ordinal")
        assert [tuple(row) for row in links] == [
            (seq, ordinal, link.label, link.target)
            for seq, header in enumerate(headers(placed))
            for ordinal, link in enumerate(header.core.links)
        ]
        assert links
        leaves = [merkle.leaf_hash(bytes(one.header)) for one in placed]
        assert merkle.Frontier.from_bytes(at.frontier).root() == merkle.root(leaves)


async def reached(view, size):
    """True once the view has seen that much; False while it has no tables."""
    with contextlib.suppress(asyncpg.PostgresError):
        return (await view.position()).next_seq >= size
    return False


async def test_postgres_refuses_the_canons_own_database(house, database):
    """A consumer pointed at the canon by mistake makes nothing there."""
    options = database.options("canon_owner")
    async with asyncpg.create_pool(
        host=options.host,
        port=options.port,
        database=options.database,
        user=options.user,
        password="password-of-canon_owner",
        min_size=1,
        max_size=1,
    ) as pool:
        with pytest.raises(SystemExit, match="canon's database"):
            await postgres.PostgresView(pool).prepare()
        assert await pool.fetchval("select to_regnamespace('sigil') is null")


async def test_dynamodb_as_the_readme_says(house, dynamo, endpoint):
    """The two kinds of one space, found by key, by kind and by link; nothing of another kind, and no payload that was erased meanwhile."""
    block = commands()[1]
    size = await remember(house, 3) + 1
    view = dynamodb.DynamoView(dynamo, "sigil")
    async with following(house, block, ENDPOINT=endpoint):
        await until(lambda: seen(view, size))
        seq = await forget(house, lambda size: seen(view, size))
        await until(lambda: seen(view, seq + 1))
    placed, _ = await house.ledger()
    wanted = {
        header.core.id: (one, header)
        for one, header in zip(placed, headers(placed), strict=True)
        if header.core.kind in {"memory_block", "document"}
    }
    found = dynamo.query(
        TableName="sigil",
        IndexName="by_kind",
        KeyConditionExpression="kind = :kind",
        ExpressionAttributeValues={":kind": {"S": "memory_block"}},
    )["Items"]
    assert [int(item["seq"]["N"]) for item in found] == [one.seq for one, _ in wanted.values()]
    for item in found:
        one, header = wanted[item["pk"]["S"].removeprefix("record#")]
        payload = item["payload"]["S"].encode() if "payload" in item else b"null"
        assert (item["hash"]["S"], payload) == (header.hash, bytes(one.payload))
        for link in header.core.links:
            linked = dynamo.query(
                TableName="sigil",
                IndexName="by_target",
                KeyConditionExpression="target = :target",
                ExpressionAttributeValues={":target": {"S": link.target}},
            )["Items"]
            assert item["pk"] in [other["pk"] for other in linked]
    assert len(found) == len(wanted) >= 6
    assert any("payload" not in item for item in found)


async def seen(view, size):
    """True once the view has seen that much; False while there is no table."""
    try:
        return (await view.position()).next_seq >= size
    except view._client.exceptions.ResourceNotFoundException:
        return False


async def events_of(house):
    placed, _ = await house.ledger()
    return [consume.open_event(one) for one in placed]


def position_after(events):
    tree = merkle.EMPTY.extend([merkle.leaf_hash(event.leaf) for event in events])
    return consume.Position(next_seq=len(events), frontier=tree.to_bytes())


def digest_of(dynamo, table):
    items = dynamo.scan(TableName=table)["Items"]
    text = sorted(json.dumps(item, sort_keys=True, default=bytes.hex) for item in items)
    return hashlib.sha256("\n".join(text).encode()).hexdigest(), len(items)


async def test_dynamodb_batches_fit_and_repeat_nothing(house, dynamo):
    """A batch larger than a transaction, given twice, in other cuts, and by a second process that was behind: one content."""
    events = await events_of(house)
    views = [dynamodb.DynamoView(dynamo, name) for name in ("whole", "pieces")]
    for view in views:
        await view.prepare()
    whole, pieces = views
    await whole.apply(events, position_after(events))
    await whole.apply(events, position_after(events))
    for end in range(1, len(events) + 1, 3):
        await pieces.apply(events[max(0, end - 5) : end], position_after(events[:end]))
    await pieces.apply(events, position_after(events))
    assert digest_of(dynamo, "whole") == digest_of(dynamo, "pieces")
    assert await whole.position() == position_after(events)


async def test_dynamodb_moves_only_from_where_it_was(house, dynamo):
    """Two processes at one position: the second's transaction is cancelled whole, and its next look finds the truth."""
    events = await events_of(house)
    view = dynamodb.DynamoView(dynamo, "one")
    await view.prepare()
    await view.apply(events[:2], position_after(events[:2]))
    before = await view.position()
    await view._write(events[2:4], before, position_after(events[:4]))
    after = digest_of(dynamo, "one")
    with pytest.raises(dynamo.exceptions.TransactionCanceledException):
        await view._write(events[2:5], before, position_after(events[:5]))
    assert digest_of(dynamo, "one") == after
    await view.apply(events[2:6], position_after(events[:6]))
    assert (await view.position()).next_seq == 6


def test_chunks_fit_a_transaction():
    """At most 99 items and three megabytes beside the position, whatever comes; every event once, in order, an erasure first."""

    class Core:
        def __init__(self, links):
            self.links = (None,) * links

    def event(number):
        core = type("Header", (), {"core": Core(number % 33)})
        kind = "erasure" if number % 50 == 7 else "memory_block"
        size = (number * 7919) % 600_000
        return type("Event", (), {"header": core, "leaf": b"x" * 500, "payload": b"y" * size, "kind": kind})

    events = [event(number) for number in range(400)]
    chunks = list(dynamodb._chunks(events))
    assert [one for chunk in chunks for one in chunk] == events
    for chunk in chunks:
        assert sum(1 + len(one.header.core.links) for one in chunk) < dynamodb.ITEMS_MOST
        stored = sum(len(one.leaf) + min(len(one.payload), dynamodb.PAYLOAD_MOST) for one in chunk)
        assert stored <= dynamodb.BYTES_MOST
        assert all(one.kind != "erasure" for one in chunk[1:])
    assert len(chunks) > 10


async def test_accounts_are_named_once_listed_and_revoked(house, tmp_path):
    """What was issued is known; a second of the same name is refused, as is what can't be granted; a revoked one is gone."""
    await consumers.issue(house.data, "kept", consumers.scopes_of("user", ["document"]), tmp_path / "kept")
    for path in (tmp_path / "kept").iterdir():
        assert path.stat().st_mode & 0o777 == 0o600, path
    with pytest.raises(consumers.ConsumerRefused, match="already"):
        await consumers.issue(house.data, "kept", consumers.scopes_of(None, ()), tmp_path / "again")
    for name in ("gateway", "Kept", "../x", ""):
        with pytest.raises(consumers.ConsumerRefused):
            await consumers.issue(house.data, name, consumers.scopes_of(None, ()), tmp_path / "never")
    for space, kinds in ((None, ["document"]), ("user", ["genesis"]), ("nowhere", [])):
        with pytest.raises(consumers.ConsumerRefused):
            consumers.scopes_of(space, kinds)
    assert not (tmp_path / "never").exists()
    seed = (tmp_path / "kept" / "seed").read_text().strip()
    assert not any(seed.encode() in held for _, held in machines.contents(house.data))
    assert "kept" in [one.name for one in consumers.listed(house.data)]
    await consumers.revoke(house.data, "kept")
    with pytest.raises(consumers.NoSuchConsumer):
        await consumers.revoke(house.data, "kept")
    assert "kept" not in [one.name for one in consumers.listed(house.data)]
    assert "_INBOX_kept" not in (house.data / "nats" / "outside.conf").read_text()


async def test_an_account_outlives_the_house(house, tmp_path):
    """Issued while the house is down, it reads as soon as it is up, and after the next restart too."""
    await house.stop()
    await consumers.issue(house.data, "patient", consumers.scopes_of("user", ["memory_block"]), tmp_path / "patient")
    view = Kept("patient")
    for _ in range(2):
        await house.start()
        async with from_outside(tmp_path / "patient", view):
            await view.until(len((await house.ledger())[0]))
        assert await house.stop() == 0
    assert {event.kind for event in view.events} == {"memory_block"}
    await house.start()
    await house.open_again()
