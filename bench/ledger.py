"""The one writer beside what bounds it: the same Postgres, the same bytes, one run.

First the writer by itself, in this process, with records that were signed before: what admitting, sealing, the tree and the commit cost.
Then a writer process over the bus, asked by authors who sign, wait and verify their receipts. Then its peers on that very Postgres: the
`eventsourcing` library's recorder, which neither checks signatures nor keeps a tree, and bare COPY. Then a house with a cosigner.

`million` fills one log with a million records and says what grew.
"""

import asyncio
import contextlib
import os
import secrets
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from bench import limits, storage
from bench.figures import Figure, milli, quantile, rate
from bench.spent import Spent
from services.canon_writer import committer, store
from sigilcore import checkpoint, clock, ids, merkle, note, record, signing
from sigilcore.access import Loa
from sigilcore.contracts import canon
from sigilcore.contracts.common import Empty
from sigilcore.records import audit
from sigilrun import author as authoring
from sigilrun import follow, private_files, receipt, testing, wire
from sigilrun.bus import Bus
from tests import database, payloadkey, simulator
from tests.canonworld import TOKEN_HASH, World
from tests.simulator import Person

IN_FLIGHT = (1, 25, 100)
BATCHES = (100, 500)
SINGLES, SINGLE_TURNS = 100, 7  # appends of one turn, and turns
AUTHORS = 100
Append = Callable[[canon.Append], Awaitable[canon.Appended]]


async def run(fast: bool = False) -> list[Figure]:
    """All figures of the writer."""
    sign_s, verify_s = limits.signatures()
    both = 1 / (sign_s + verify_s)
    with tempfile.TemporaryDirectory(prefix="sigil-ledger-") as temporary:
        folder = Path(temporary)
        folder.chmod(0o755)  # Postgres runs as another user when we are root
        async with database.server(folder / "postgres") as server:
            found = await _alone(await server.database(), both, 0.25 if fast else 1.0)
            found += await _kept(await server.database(), 2_000 if fast else 4_000)
            async with _on_bus(server, folder / "bus") as running:
                found += await _over_the_bus(running, both, 0.25 if fast else 1.0)
            found += await _peers(await server.database(), 0.2 if fast else 1.0)
        found += await _witnessed(folder / "house", 10 if fast else 40)
    return found


async def million() -> list[Figure]:
    """What a million records change."""
    with tempfile.TemporaryDirectory(prefix="sigil-ledger-") as temporary:
        folder = Path(temporary)
        folder.chmod(0o755)
        async with (
            database.server(folder / "postgres") as server,
            _on_bus(server, folder / "big") as big,
            _on_bus(server, folder / "small") as small,
        ):
            return await _million(big, small)


class Author:
    """An instance of `knowledge`, writing small audit records on a chain of its own."""

    def __init__(self, number: int) -> None:
        self.signer = signing.Ed25519Signer.generate()
        self.name = f"bench-{number}"
        self.head: str | None = None

    def introduction(self) -> audit.InstanceOpened:
        return audit.InstanceOpened(
            service="knowledge", instance=self.name, key=self.signer.public_key.hex(), settings_digest="0" * 64
        )

    def next(self, count: int, now_ms: int) -> canon.Append:
        """A call of so many chained records."""
        made = []
        for _ in range(count):
            payload = audit.AppendRefused(code="BUSY", kind="memory_block", record_id=ids.new())
            made.append(
                record.build(
                    "append_refused",
                    payload,
                    id=ids.new(),
                    tenant="default",
                    ts=clock.format_ms(now_ms),
                    space="audit",
                    signer=self.signer,
                    salt=secrets.token_bytes(16),
                    prev=self.head,
                )
            )
            self.head = msgspec.json.decode(made[-1].header, type=record.Header).hash
        return canon.Append(records=tuple(made))


def introduced(world: World, count: int) -> list[Author]:
    """Authors whom the knowledge service's own key introduces in this world."""
    authors = [Author(number) for number in range(count)]
    for author in authors:
        world.append("instance_opened", author.introduction(), world.services["knowledge"])
    return authors


def _rss_mb(pid: int) -> float:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


class Ran(msgspec.Struct, frozen=True, kw_only=True):
    """What one load took: records a second and what the callers waited, in order; `verified` includes the receipt's check."""

    records_s: float
    waits: list[float]
    verified: list[float]
    spent: str

    def told(self) -> str:
        return (
            f"{rate(self.records_s)}, p50 {milli(quantile(self.waits, 0.5))}, p99 {milli(quantile(self.waits, 0.99))}"
        )


async def _load(
    append: Append,
    calls: Sequence[Callable[[], canon.Append]],
    rounds: int,
    spent: Spent,
    log_key: note.VerifierKey | None = None,
) -> Ran:
    """Each caller its calls, one after the other; with the log's key every receipt is verified as authors do."""
    waits: list[float] = []
    verified: list[float] = []
    seen: dict[str, checkpoint.Checkpoint] = {}
    records = 0

    async def again(call: Callable[[], canon.Append]) -> None:
        nonlocal records
        for _ in range(rounds):
            began = time.perf_counter()
            request = call()
            answer = await append(request)
            waits.append(time.perf_counter() - began)
            records += len(request.records)
            if log_key is None:
                assert all(result.refusal is None for result in answer.results), answer.results
            else:
                # Receipts of one commit bear one checkpoint, which an author's follower opens once.
                if answer.checkpoint not in seen:
                    seen.clear()
                    seen[answer.checkpoint] = checkpoint.open_signed(answer.checkpoint.encode(), log_key)
                receipt.prove([_sent(one) for one in request.records], answer, seen[answer.checkpoint], {})
                assert all(result.refusal is None for result in answer.results), answer.results
                verified.append(time.perf_counter() - began)

    began = time.perf_counter()
    await asyncio.gather(*(again(call) for call in calls))
    took = time.perf_counter() - began
    return Ran(records_s=records / took, waits=sorted(waits), verified=sorted(verified), spent=spent.each(records))


def _sent(signed: record.SignedRecord) -> receipt.Sent:
    leaf = bytes(signed.header)
    header = msgspec.json.decode(leaf, type=record.Header)
    return receipt.Sent(id=header.core.id, hash=header.hash, leaf_hash=merkle.leaf_hash(leaf))


# The writer by itself


async def _alone(place: database.Database, both: float, size: float) -> list[Figure]:
    world = World()
    found = []
    async with _writing(place, world) as writer:
        authors = introduced(world, AUTHORS)
        await world.send(writer)
        for in_flight in IN_FLIGHT:
            rounds = int(size * (600 if in_flight == 1 else 10_000 / in_flight))
            ran = await _signed_before(place, writer.append, authors[:in_flight], 1, rounds)
            found.append(
                Figure(
                    what=f"the writer by itself: single appends, {in_flight} in flight, signed before",
                    value=ran.told(),
                    limit=f"one core's check + sign {rate(both)}",
                    ratio=f"{ran.records_s / both:.0%}",
                    bound=f"processor time of a record: {ran.spent}",
                )
            )
        for batch in BATCHES:
            ran = await _signed_before(place, writer.append, authors[:4], batch, max(1, int(size * 7_500 / batch)))
            found.append(
                Figure(
                    what=f"the writer by itself: records in calls of {batch}, 4 in flight, signed before",
                    value=ran.told(),
                    limit=f"one core's check + sign {rate(both)}; aim 50 %, 10,000/s",
                    ratio=f"{ran.records_s / both:.0%}",
                    bound=f"processor time of a record: {ran.spent}",
                )
            )
        return [*found, storage.figure("small audit records", await _sizes(place))]


@contextlib.asynccontextmanager
async def _writing(place: database.Database, world: World) -> AsyncIterator[committer.Committer]:
    """The writer in this process, without bus."""
    keeping = await store.PostgresStore.connect(place.options("canon_writer"), "default", payloadkey.ONE)
    writer = committer.Committer(keeping, signer=world.writer, deployment=world.deployment, clock=world.clock)
    await writer.load()
    task = asyncio.create_task(writer.run())
    try:
        yield writer
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await keeping.close()


async def _signed_before(
    place: database.Database, append: Append, authors: Sequence[Author], count: int, rounds: int
) -> Ran:
    now_ms = simulator.NOW_MS
    ready = [[author.next(count, now_ms) for _ in range(rounds)] for author in authors]
    return await _load(append, [iter(calls).__next__ for calls in ready], rounds, Spent(Postgres=place.server.pid))


# Storage


async def _kept(place: database.Database, effects: int) -> list[Figure]:
    """A log of memory records, each of a thing of its own by a decision of its own: a hundred decisions, then as many calls at once."""
    world = World()
    async with _writing(place, world) as writer:
        ada = world.issue(Person("ada"), Loa.OPERATOR)
        await world.send(writer)
        for first in range(0, effects, 100):
            granted = [world.granted(ada, "memory/write") for _ in range(100)]
            await writer.append(canon.Append(records=tuple(world.log[-100:])))
            made = [world.memory(one, f"note-{first + at}", "words to keep " * 12) for at, one in enumerate(granted)]
            answers = await asyncio.gather(*(writer.append(canon.Append(records=(one,))) for one in made))
            assert all(answer.results[0].refusal is None for answer in answers), answers[0]
    return [storage.figure("effects of new things, each with its decision and its data key", await _sizes(place))]


async def _sizes(place: database.Database) -> dict[str, float]:
    async with place.connection() as connection:
        return await storage.sizes(connection)


# A writer process over the bus


class Running(msgspec.Struct, frozen=True, kw_only=True):
    """A writer process, an author's bus, and who may write."""

    world: World
    bus: Bus
    authors: list[Author]
    writer: int
    nats: int
    place: database.Database
    buses: testing.BusHouse

    async def append(self, request: canon.Append) -> canon.Appended:
        return await self.bus.call(canon.APPEND, request, timeout_s=30)

    def spent(self) -> Spent:
        return Spent(writer=self.writer, Postgres=self.place.server.pid, NATS=self.nats)


class _Pen:
    def __init__(self, author: Bus, founder: Bus) -> None:
        self._author, self._founder = author, founder

    async def append(self, request: canon.Append) -> canon.Appended:
        return await self._author.call(canon.APPEND, request)

    async def bootstrap(self, request: canon.BootstrapAppend) -> canon.Appended:
        return await self._founder.call(canon.BOOTSTRAP, request)


@contextlib.asynccontextmanager
async def _on_bus(server: database.Server, folder: Path) -> AsyncIterator[Running]:
    """A bus, a database and `python -m services.canon_writer`, founded."""
    place = await server.database()
    async with testing.bus_house(folder) as buses:
        world = World(buses.deployment, buses.keystore, now_ms=clock.SystemClock().now_ms() - 1_000)
        writer, reader = ("canon_writer", "services.canon_writer"), ("canon_reader", "services.canon_writer.reader")
        async with _process(buses, place, *writer) as child, _process(buses, place, *reader):
            pen = _Pen(await buses.bus("knowledge"), await buses.bus("license"))
            authors = introduced(world, AUTHORS)
            async with asyncio.timeout(30):
                while True:
                    try:
                        await world.send(pen)
                        break
                    except wire.NobodyAnswers:
                        await asyncio.sleep(0.1)
            yield Running(
                world=world,
                bus=await buses.bus("knowledge"),
                authors=authors,
                writer=child,
                nats=buses.server_pid,
                place=place,
                buses=buses,
            )


@contextlib.asynccontextmanager
async def _process(buses: testing.BusHouse, place: database.Database, name: str, module: str) -> AsyncIterator[int]:
    token_hash = buses.folder / "token_hash"
    if not token_hash.exists():
        private_files.write_new(token_hash, TOKEN_HASH.encode() + b"\n")
    (buses.folder / "config.toml").touch()
    options, stored = buses.settings(name), place.options(name)
    assert options.keystore is not None
    env = {
        "PATH": os.environ["PATH"],
        "SIGIL_CONFIG": str(buses.folder / "config.toml"),
        "SIGIL_BUS_URL": options.bus.url,
        "SIGIL_BUS_NKEY_SEED_FILE": str(options.bus.nkey_seed_file),
        "SIGIL_BUS_STREAM_NKEY_SEED_FILE": str(options.bus.stream_nkey_seed_file),
        "SIGIL_DEPLOYMENT_FILE": str(options.deployment.file),
        "SIGIL_SERVICE_STATE_DIR": str(options.service.state_dir),
        "SIGIL_KEYSTORE_PATH": str(options.keystore.path),
        "SIGIL_KEYSTORE_PASSPHRASE_FILE": str(options.keystore.passphrase_file),
        "SIGIL_CANON_HOST": stored.host,
        "SIGIL_CANON_PORT": str(stored.port),
        "SIGIL_CANON_DATABASE": stored.database,
        "SIGIL_CANON_USER": stored.user,
        "SIGIL_CANON_PASSWORD_FILE": str(stored.password_file),
        "SIGIL_CANON_HIGH_WATER_FILE": str(buses.folder / "high_water"),
        "SIGIL_CANON_BOOTSTRAP_TOKEN_HASH_FILE": str(token_hash),
    }
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-m", module, env=env, stderr=asyncio.subprocess.DEVNULL
    )
    try:
        yield child.pid
    finally:
        child.terminate()
        await child.wait()


async def _over_the_bus(running: Running, both: float, size: float) -> list[Figure]:
    found = []
    log_key = running.world.log_key
    for in_flight in IN_FLIGHT:
        rounds = int(size * (400 if in_flight == 1 else 8_000 / in_flight))
        ran = await _load(running.append, _live(running.authors[:in_flight], 1), rounds, running.spent(), log_key)
        aim = {1: "", 25: "; aim p50 5 ms", 100: "; aim p50 15 ms"}[in_flight]
        found.append(
            Figure(
                what=f"over the bus: single appends, {in_flight} in flight, durable"
                " (signed here, admitted, in the tree; then the receipt verified here)",
                value=f"{ran.told()}; receipt verified p50 {milli(quantile(ran.verified, 0.5))},"
                f" p99 {milli(quantile(ran.verified, 0.99))}",
                limit=f"one core's check + sign {rate(both)}{aim}",
                ratio=f"{ran.records_s / both:.0%}, p99 / p50 {quantile(ran.waits, 0.99) / quantile(ran.waits, 0.5):.1f}",
                bound=f"processor time of a record: {ran.spent}",
            )
        )
    found += await _as_services(running, both, size)
    for batch in BATCHES:
        ran = await _load(
            running.append,
            _live(running.authors[:4], batch),
            max(1, int(size * 6_000 / batch)),
            running.spent(),
            log_key,
        )
        found.append(
            Figure(
                what=f"over the bus: records in calls of {batch}, 4 in flight, signed and verified here",
                value=f"{ran.told()} a call",
                limit=f"one core's check + sign {rate(both)}; aim 50 %, 10,000/s",
                ratio=f"{ran.records_s / both:.0%}",
                bound=f"processor time of a record: {ran.spent}",
            )
        )
    return found


async def _as_services(running: Running, both: float, size: float) -> list[Figure]:
    """Appends as a service makes them: its author sends what waits together, one call in flight, and verifies each receipt."""
    options = running.buses.settings("quorum", instance="bench")
    follower = follow.Follower(await running.buses.bus("quorum"), options.deployed, pinned=None)
    await follower.start()
    await follower.wait_bootstrapped()
    writing = authoring.Author(
        await running.buses.bus("quorum"),
        running.buses.keystore.signer("quorum"),
        follower,
        options,
        resident="quorum",
        clock=clock.SystemClock(),
    )
    await writing.introduce()
    found = []
    try:
        for in_flight in IN_FLIGHT[1:]:
            waits: list[float] = []
            rounds, spent = int(size * 20_000 / in_flight), running.spent()

            async def again(rounds: int = rounds, waits: list[float] = waits) -> None:
                for _ in range(rounds):
                    began = time.perf_counter()
                    await writing.audit(
                        "append_refused", audit.AppendRefused(code="BUSY", kind="x", record_id=ids.new())
                    )
                    waits.append(time.perf_counter() - began)

            began = time.perf_counter()
            await asyncio.gather(*(again() for _ in range(in_flight)))
            took = time.perf_counter() - began
            waits.sort()
            aim = {25: "5 ms", 100: "15 ms"}[in_flight]
            found.append(
                Figure(
                    what=f"over the bus: single appends of one service, {in_flight} in flight, by its author, receipts verified",
                    value=f"{rate(len(waits) / took)}, p50 {milli(quantile(waits, 0.5))}, p99 {milli(quantile(waits, 0.99))}",
                    limit=f"one core's check + sign {rate(both)}; aim p50 {aim}",
                    ratio=f"{len(waits) / took / both:.0%}, p99 / p50 {quantile(waits, 0.99) / quantile(waits, 0.5):.1f}",
                    bound=f"processor time of a record: {spent.each(len(waits))}",
                )
            )
    finally:
        await writing.close()
        await follower.stop()
    return found


def _live(authors: Sequence[Author], count: int) -> list[Callable[[], canon.Append]]:
    now = clock.SystemClock().now_ms

    def caller(author: Author) -> Callable[[], canon.Append]:
        return lambda: author.next(count, now())

    return [caller(author) for author in authors]


# A million


async def _million(big: Running, small: Running, records: int = 1_000_000) -> list[Figure]:
    """Calls of 500 until there are so many; what a single append costs then, in turns with a log that stays small, so that whatever else
    the machine does meets both; and how much memory the writer holds on the way."""
    await _load(small.append, _live(small.authors[:2], 500), 1, small.spent())
    told = {}
    filled = 0
    for goal in (1_000, records // 4, records // 2, records):
        rounds = max(1, (goal - filled) // (500 * 4)) if goal > 1_000 else 1
        authors = big.authors[:4] if goal > 1_000 else big.authors[:2]
        began = time.perf_counter()
        await _load(big.append, _live(authors, 500), rounds, big.spent())
        filled += rounds * 500 * len(authors)
        took = time.perf_counter() - began
        await _published(big)
        turns = [(await _singly(big), await _singly(small)) for _ in range(SINGLE_TURNS)]
        filled += SINGLE_TURNS * SINGLES
        told[goal] = (*(_middle(rans) for rans in zip(*turns, strict=True)), _rss_mb(big.writer))
        print(
            f"{filled:,} records: {told[goal][0].told()}, writer {_rss_mb(big.writer):.0f} MB, {took:.0f} s", flush=True
        )
    large, little, mb = told[records]
    begun = told[1_000][2]
    return [
        Figure(
            what=f"a single append at {filled:,} records",
            value=_latency(large),
            limit=f"in turns with it, in a log of {1_000 + 4 * SINGLE_TURNS * SINGLES:,}: {_latency(little)}",
            ratio=f"p50 {quantile(large.waits, 0.5) / quantile(little.waits, 0.5):.2f}×",
            bound=f"{large.spent}; in the small log {little.spent}",
        ),
        Figure(
            what=f"the writer's memory at {filled:,} records",
            value=f"{mb:.0f} MB",
            limit=f"at 1,000: {begun:.0f} MB; at a quarter and a half: {told[records // 4][2]:.0f}, {told[records // 2][2]:.0f} MB",
            ratio=f"{mb / begun:.2f}×",
            bound="bounded memories (ids, data keys, heads of things, recent commits) fill once",
        ),
        storage.figure("small audit records", await _sizes(big.place)),
    ]


async def _singly(one: Running) -> Ran:
    return await _load(one.append, _live(one.authors[50:51], 1), SINGLES, one.spent(), one.world.log_key)


def _middle(rans: Sequence[Ran]) -> Ran:
    """That of several turns whose typical latency is the middle one."""
    return sorted(rans, key=lambda ran: quantile(ran.waits, 0.5))[len(rans) // 2]


async def _published(running: Running) -> None:
    """Return once the change stream holds all that was committed."""
    bus = await running.buses.bus("gatekeeper")
    while True:
        size = int((await running.bus.call(canon.CHECKPOINT, Empty())).note.split("\n")[1])
        if await bus.stream_last("default") >= size:
            return
        await asyncio.sleep(0.1)


def _latency(ran: Ran) -> str:
    return f"p50 {milli(quantile(ran.waits, 0.5))}, p99 {milli(quantile(ran.waits, 0.99))}"


# Peers on the same Postgres


async def _peers(place: database.Database, size: float) -> list[Figure]:
    state = os.urandom(650)
    copied = await _copied(place, state, int(40_000 * size))
    found = [
        Figure(
            what="peer: bare COPY of rows of the same bytes, 500 a transaction",
            value=rate(copied),
            bound="no signature, no tree, no index but the key",
        )
    ]
    try:
        import eventsourcing.postgres as peer  # noqa: PLC0415 - a peer that may not be installed
    except ImportError as missing:
        return [*found, Figure(what="peer: eventsourcing's Postgres recorder", value=f"not installed here ({missing})")]
    return found + await asyncio.to_thread(_eventsourcing, peer, place, state, size)


async def _copied(place: database.Database, state: bytes, rows: int) -> float:
    async with place.connection() as connection:
        await connection.execute("create table public.copied (seq bigint primary key, body bytea)")
        began = time.perf_counter()
        for first in range(0, rows, 500):
            values = [(seq, state) for seq in range(first, first + 500)]
            await connection.copy_records_to_table("copied", records=values, schema_name="public")
        return rows / (time.perf_counter() - began)


def _eventsourcing(peer: Any, place: database.Database, state: bytes, size: float) -> list[Figure]:
    """Its application recorder: one event a call, from one thread and from many, and many a call."""
    import uuid  # noqa: PLC0415 - used here only

    from eventsourcing.persistence import StoredEvent  # noqa: PLC0415

    options = place.server.options
    datastore = peer.PostgresDatastore(
        dbname=place.name, host="127.0.0.1", port=options.port, user="postgres", password=options.superuser_password,
        pool_size=25, max_overflow=75, schema="public",
    )  # fmt: skip
    recorder = peer.PostgresApplicationRecorder(datastore, events_table_name="peer_events")
    recorder.create_table()
    found = []

    def insert(count: int, rounds: int, waits: list[float]) -> None:
        originator, version = uuid.uuid4(), 0
        for _ in range(rounds):
            events = [StoredEvent(originator, version + at, "topic", state) for at in range(count)]
            version += count
            began = time.perf_counter()
            recorder.insert_events(events)
            waits.append(time.perf_counter() - began)

    for threads, count, rounds in ((1, 1, 1_500), (25, 1, 200), (100, 1, 50), (1, 100, 100), (1, 500, 30)):
        waits: list[float] = []
        some = max(2, int(rounds * size))
        working = [threading.Thread(target=insert, args=(count, some, waits)) for _ in range(threads)]
        began = time.perf_counter()
        for one in working:
            one.start()
        for one in working:
            one.join()
        took = time.perf_counter() - began
        waits.sort()
        how = f"{threads} in flight" if count == 1 else f"batches of {count}"
        found.append(
            Figure(
                what=f"peer: eventsourcing's Postgres recorder, {how}",
                value=f"{rate(threads * some * count / took)}, p50 {milli(quantile(waits, 0.5))},"
                f" p99 {milli(quantile(waits, 0.99))}",
                bound="no signature, no tree, no idempotency; a table lock orders its inserts",
            )
        )
    datastore.close()
    return found


# Witnessed


async def _witnessed(folder: Path, rounds: int) -> list[Figure]:
    """A whole house whose checkpoints one `sigil witness serve` cosigns: one append at a time, until each stage has it."""
    from bench import house  # noqa: PLC0415 - it needs this module's neighbours
    from cli import ledger  # noqa: PLC0415
    from tests import machine as machines  # noqa: PLC0415
    from tests.journeys.test_witnessing import Stranger  # noqa: PLC0415

    machine = machines.Machine(folder)
    (folder.parent / "witness").mkdir()
    stranger = Stranger(folder.parent / "witness" / "ann", "ann")
    durable, verified, witnessed = [], [], []
    try:
        await machine.start()
        await machine.bootstrap()
        bus = await ledger.connect(machine.data, "knowledge")
        log_key = await _log_key(machine)
        stranger.log = log_key.format()
        await stranger.come()
        await machine.seal(1, 1, c=1, cosigners=(stranger.cosigner,))
        (author,) = await house.introduced(machine, bus, 1)
        for _ in range(rounds):
            began = time.perf_counter()
            request = canon.Append(records=author.next(1))
            answer = await bus.call(canon.APPEND, request)
            durable.append(time.perf_counter() - began)
            receipt.verify([_sent(request.records[0])], answer, log_key, {})
            verified.append(time.perf_counter() - began)
            seq = answer.results[0].seq
            assert seq is not None
            while True:
                shown = (await bus.call(canon.CHECKPOINT, Empty())).witnessed
                if shown is not None and int(shown.split("\n")[1]) > seq:
                    break
                await asyncio.sleep(0.002)
            witnessed.append(time.perf_counter() - began)
        await bus.close()
    finally:
        await stranger.go()
        await machine.close()
    told = [
        f"{name} p50 {milli(quantile(sorted(waits), 0.5))}, p99 {milli(quantile(sorted(waits), 0.99))}"
        for name, waits in (("durable", durable), ("in a checkpoint, verified", verified), ("witnessed", witnessed))
    ]
    return [
        Figure(
            what="one append in a whole house, by stage",
            value="; ".join(told),
            bound="witnessed: the notary hears of the commit, asks the cosigner, the writer keeps its line",
        )
    ]


async def _log_key(machine: Any) -> note.VerifierKey:
    records, _ = await machine.ledger()
    genesis = msgspec.json.decode(bytes(records[0].payload))
    return note.VerifierKey.parse(genesis["log"])
