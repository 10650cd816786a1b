"""The real house, end to end: appends, decisions, HTTP writes and reads, catch-up, start, memory, storage.

Several authors append audit records over the bus, each with an instance key of its own, as services do; each waits for its receipt
and verifies it. Callers speak HTTP from one client process on the same two cores, so every figure pays for its load generator too.
"""

import asyncio
import contextlib
import json
import os
import secrets
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import asyncpg
import msgspec

from bench import bare, limits, storage
from bench.figures import Figure, micro, milli, quantile, rate
from bench.spent import Spent
from cli import ledger, owner
from sigilcore import clock, ids, merkle, policy, record, signing
from sigilcore.access import Loa
from sigilcore.contracts import canon, gatekeeper, knowledge, projections
from sigilcore.contracts.common import Empty
from sigilcore.records import audit
from sigilrun import http, keys
from sigilrun.bus import Bus
from tests import machine as machines

UNBOUND = {
    "SIGIL_GATE_RATE_LIMIT_PER_MINUTE": "1000000",
    "SIGIL_GATEWAY_RATE_LIMIT_PER_MINUTE": "1000000",
    "SIGIL_GATEWAY_SESSION_RATE_PER_MINUTE": "1000000",
}


async def run(fast: bool = False) -> list[Figure]:
    """All figures of a running house."""
    long_s = 1.5 if fast else 5.0
    sign_s, verify_s = limits.signatures()
    floor = await bare.measure(long_s)
    found = [*limits.figures(sign_s, verify_s, limits.fsync()), floor.figure()]
    with tempfile.TemporaryDirectory(prefix="sigil-bench-") as temporary:
        data = Path(temporary) / "data"
        found += await _starts(data)
        machine = machines.Machine(data, UNBOUND)
        try:
            await machine.start()
            await machine.bootstrap()
            found.append(_memory(machine))
            await machine.seal(3, 2)
            await _lift_rate(machine)
            found += await _appends(machine, sign_s, verify_s, long_s)
            found += await _decisions(machine, floor, long_s)
            found += await _http(machine, floor, long_s)
            found += await _catch_up(machine)
            found.append(await _storage(machine))
        finally:
            await machine.close()
    return found


async def _starts(data: Path) -> list[Figure]:
    spent = []
    for _ in range(2):
        machine = machines.Machine(data)
        started = time.perf_counter()
        await machine.start()
        spent.append(time.perf_counter() - started)
        await machine.stop()
    return [
        Figure(
            what="cold start to first answer: new data, then the same again",
            value=f"{spent[0]:.1f} s, {spent[1]:.1f} s",
            limit="aim 8 s",
            ratio=f"{spent[0] / 8:.2f}×",
            bound="ten Python processes importing on two cores; initdb",
        )
    ]


def _memory(machine: machines.Machine) -> Figure:
    total = 0
    for pid in machine.pids().values():
        with contextlib.suppress(FileNotFoundError):
            text = Path(f"/proc/{pid}/smaps_rollup").read_text()
            total += next(int(line.split()[1]) for line in text.splitlines() if line.startswith("Pss:"))
    for path in Path("/proc").glob("[0-9]*/smaps_rollup"):
        with contextlib.suppress(OSError, StopIteration, ValueError):
            parent = int((path.parent / "stat").read_text().rsplit(")", 1)[1].split()[1])
            if parent == machine.pids()["postgres"]:
                lines = path.read_text().splitlines()
                total += next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return Figure(
        what="memory at rest, whole house (proportional set size)",
        value=f"{total / 1024:.0f} MB",
        limit="aim 600 MB",
        ratio=f"{total / 1024 / 600:.2f}×",
        bound="one Python interpreter and its libraries a service",
    )


async def _lift_rate(machine: machines.Machine) -> None:
    """A policy under which a thousand calls a second are no sign of haste; set as anyone must, by the quorum."""
    wide = policy.AccessPolicy(version="bench", rate_limit=1_000_000)
    assert machine.root.signer is not None
    proposed = await owner.propose(
        machine.root.client, machine.root.signer, "access_policy", {"policy": msgspec.to_builtins(wide)}
    )
    for mentor in machine.mentors[:2]:
        await machine.attest(proposed.proposal_id, mentor)
    await machine.commit(proposed.proposal_id)


# Appends


class _Author:
    """An instance of `knowledge` by name `bench-<n>`: introduced by the service's key, writing small audit records."""

    def __init__(self, number: int, runtime: str) -> None:
        self.signer = signing.Ed25519Signer.generate()
        self.name = f"bench-{number}"
        self.head: str | None = None
        self.runtime = runtime

    def introduction(self) -> audit.InstanceOpened:
        return audit.InstanceOpened(
            service="knowledge", instance=self.name, key=self.signer.public_key.hex(), settings_digest="0" * 64
        )

    def next(self, count: int) -> tuple[record.SignedRecord, ...]:
        """So many chained records; `head` moves on."""
        made = []
        for _ in range(count):
            payload = audit.AppendRefused(code="BUSY", kind="memory_block", record_id=ids.new())
            made.append(_signed("append_refused", payload, self.signer, self.head))
            self.head = record.open_header(bytes(made[-1].header))[0].hash
        return tuple(made)


def _signed(kind: str, payload: msgspec.Struct, signer: signing.Signer, prev: str | None) -> record.SignedRecord:
    return record.build(
        kind,
        payload,
        id=ids.new(),
        tenant="default",
        ts=clock.format_ms(clock.SystemClock().now_ms()),
        space="audit",
        signer=signer,
        salt=secrets.token_bytes(16),
        prev=prev,
    )


async def introduced(machine: machines.Machine, bus: Bus, count: int) -> list[_Author]:
    """Authors that the knowledge service's own key introduces, after the introductions that are there."""
    store = keys.Keystore.open(
        machine.data / "keystore", keys.passphrase_from(f"file:{machine.data / 'keys' / 'passphrase'}")
    )
    service = store.signer("knowledge")
    authors = [_Author(number, machine.genesis) for number in range(count)]
    records, _ = await machine.ledger()
    own = [record.open_header(bytes(placed.header))[0] for placed in records]
    prev = [header.hash for header in own if header.key_id == service.key_id][-1]
    for author in authors:
        signed = _signed("instance_opened", author.introduction(), service, prev)
        prev = record.open_header(bytes(signed.header))[0].hash
        answer = await bus.call(canon.APPEND, canon.Append(records=(signed,)))
        assert answer.results[0].refusal is None, answer.results[0].refusal
    store.close()
    return authors


async def _appends(machine: machines.Machine, sign_s: float, verify_s: float, long_s: float) -> list[Figure]:
    bus = await ledger.connect(machine.data, "knowledge")
    found = []
    try:
        authors = await introduced(machine, bus, 100)
        for waiters in (1, 25, 100):
            done, waits = await _storm(long_s, [_one(bus, author, 1) for author in authors[:waiters]])
            bare, bare_wait = await limits.group_commit(machine.data, waiters, long_s / 2)
            found.append(
                Figure(
                    what=f"single appends, {waiters} in flight (signed, admitted, in the tree, proven)",
                    value=f"{rate(done / long_s)}, p50 {milli(quantile(waits, 0.5))}, p99 {milli(quantile(waits, 0.99))}",
                    limit=f"bare group commit {rate(bare)}, p50 {milli(bare_wait)}",
                    ratio=f"{done / long_s / bare:.0%}",
                    bound="one core of Python in the writer; the load generator shares the other",
                )
            )
        done, waits = await _storm(long_s, [_one(bus, author, 100) for author in authors[:8]])
        both = 1 / (sign_s + verify_s)
        copied = await limits.copy_rows(machine.data, 25_000)
        found.append(
            Figure(
                what="records in calls of 100, 8 in flight",
                value=f"{rate(done * 100 / long_s)}, p50 {milli(quantile(waits, 0.5))} a call",
                limit=f"one core's check + sign {rate(both)}; bare COPY {rate(copied)}",
                ratio=f"{done * 100 / long_s / both:.0%} of check + sign, {done * 100 / long_s / copied:.0%} of COPY",
                bound="the author signs on the same machine: both cores are busy with signatures",
            )
        )
    finally:
        await bus.close()
    return found


def _one(bus: Bus, author: _Author, count: int) -> Callable[[], Awaitable[None]]:
    async def once() -> None:
        records = author.next(count)
        answer = await bus.call(canon.APPEND, canon.Append(records=records), timeout_s=30)
        assert all(result.refusal is None for result in answer.results), answer.results
        leaves = [merkle.leaf_hash(bytes(one.header)) for one in records]
        proof = answer.proofs[0]
        assert proof.count == len(leaves)

    return once


async def _storm(long_s: float, callers: list[Callable[[], Awaitable[None]]]) -> tuple[int, list[float]]:
    """Each caller again and again for so long; how many were answered, and their latencies in order."""
    waits: list[float] = []
    until = time.perf_counter() + long_s

    async def again(call: Callable[[], Awaitable[None]]) -> None:
        while time.perf_counter() < until:
            began = time.perf_counter()
            await call()
            waits.append(time.perf_counter() - began)

    await asyncio.gather(*(again(call) for call in callers))
    return len(waits), sorted(waits)


# Decisions, HTTP


class _Judged(msgspec.Struct, frozen=True):
    """So many in flight: decisions a second, their latencies in order, how many shared a record, and the processor seconds of one."""

    in_flight: int
    rate: float
    waits: list[float]
    shared: float
    cpu_s: float
    spent: str

    def told(self) -> str:
        return f"{rate(self.rate)}, p50 {milli(quantile(self.waits, 0.5))}, p99 {milli(quantile(self.waits, 0.99))}"


async def _decisions(machine: machines.Machine, floor: bare.Bare, long_s: float) -> list[Figure]:
    ada = await machine.person("ada-bench", Loa.OPERATOR)
    assert ada.client.session is not None
    token = ada.client.session.token
    bus = await ledger.connect(machine.data, "gateway")

    async def once() -> None:
        parameters = json.dumps({"key": "bench", "text": os.urandom(60).hex(), "id": ids.new()})
        await bus.call(
            gatekeeper.AUTHORIZE,
            gatekeeper.Authorize(session=token, command="memory/write", parameters=parameters),
            timeout_s=30,
        )

    async def judged(in_flight: int) -> _Judged:
        before, spent = await _size(bus), Spent(**machine.pids())
        done, waits = await _storm(long_s, [once] * in_flight)
        cpu_s, told = spent.all(done), spent.each(done, least_us=10)
        return _Judged(in_flight, done / long_s, waits, done / (await _size(bus) - before), cpu_s, told)

    try:
        trip = await _round_trip(bus)
        few, aimed, many = [await judged(in_flight) for in_flight in (4, 16, 64)]
    finally:
        await bus.close()
    record_s = (few.cpu_s - many.cpu_s) / (1 / few.shared - 1 / many.shared)
    return [
        Figure(
            what="gate decision with its committed record, over the bus, 16 in flight",
            value=aimed.told(),
            limit=f"aim 3,000/s and 5 ms; one bus round trip by itself {micro(trip)}; a bare call {micro(floor.bus_s)} of processor time",
            ratio=f"{aimed.rate / 3000:.2f}× of the aim, {aimed.cpu_s / floor.bus_s:.1f} bare calls",
            bound=f"processor time of one: {aimed.spent}",
        ),
        Figure(
            what="the same, 4 and 64 in flight",
            value=f"{few.told()}; {many.told()}",
            limit=f"processor time of one {micro(few.cpu_s)}, {micro(many.cpu_s)}; 16 in flight {micro(aimed.cpu_s)}",
            ratio=f"{few.shared:.0f}, {many.shared:.0f} and {aimed.shared:.0f} decisions shared a record",
            bound=f"a record's way there and back takes {milli(record_s)} of processor time whatever it carries, a decision"
            f" {micro(many.cpu_s - record_s / many.shared)} more; each step waits for the one before",
        ),
    ]


async def _size(bus: Bus) -> int:
    return int((await bus.call(canon.CHECKPOINT, Empty())).note.split("\n")[1])


async def _round_trip(bus: Bus) -> float:
    started = time.perf_counter()
    for _ in range(200):
        await bus.call(canon.CHECKPOINT, Empty())
    return (time.perf_counter() - started) / 200


async def _http(machine: machines.Machine, floor: bare.Bare, long_s: float) -> list[Figure]:
    ada = await machine.person("ada-http", Loa.OPERATOR)

    async def write() -> None:
        asked = knowledge.MemoryWrite(key=f"k-{secrets.token_hex(6)}", text="a memory " * 12)
        await ada.client.call(knowledge.MEMORY_WRITE, asked)

    async def read() -> None:
        await ada.client.call(knowledge.MEMORY_LIST, knowledge.MemoryList(limit=1))

    pids = machine.pids()
    spent = Spent(**pids)
    wrote, write_waits = await _storm(long_s, [write] * 16)
    writing, all_writing = spent.each(wrote, least_us=10), spent.all(wrote)
    spent = Spent(**pids)
    answered, read_waits = await _storm(long_s, [read] * 16)
    bare_write, bare_read = 4 * floor.bus_s + floor.http_s, 2 * floor.bus_s + floor.http_s
    return [
        Figure(
            what="HTTP write, end to end, 16 in flight (two commits each)",
            value=f"{rate(wrote / long_s)}, p50 {milli(quantile(write_waits, 0.5))}, p99 {milli(quantile(write_waits, 0.99))}",
            limit=f"aim 1,000/s and 15 ms; the same way with bare calls (4 over the bus) {micro(bare_write)} of processor time",
            ratio=f"{wrote / long_s / 1000:.2f}× of the aim, {all_writing / bare_write:.1f}× the bare way",
            bound=f"processor time of one: {writing}",
        ),
        Figure(
            what="HTTP read under a shared decision, 16 in flight",
            value=f"{rate(answered / long_s)}, p50 {milli(quantile(read_waits, 0.5))}",
            limit=f"aim 5 ms; the same way with bare calls (2 over the bus) {micro(bare_read)} of processor time",
            ratio=f"{quantile(read_waits, 0.5) / 0.005:.2f}×, {spent.all(answered) / bare_read:.1f}× the bare way",
            bound=f"processor time of one: {spent.each(answered, least_us=10)}",
        ),
    ]


# Folding, storage


async def _catch_up(machine: machines.Machine) -> list[Figure]:
    async def position() -> projections.ProjectionStatus:
        return await machine.root.client.call(projections.STATUS, Empty())

    before = await http.persistently(position, give_up_s=30)
    pid = machine.pids()["projections"]
    machine.kill("projections")
    for path in (machine.data / "services" / "projections").rglob("*.sqlite*"):
        path.unlink(missing_ok=True)
    await machine.replaced("projections", pid)
    started = time.perf_counter()
    while True:
        now = await http.persistently(position, give_up_s=60)
        if now.position >= before.position:
            break
        await asyncio.sleep(0.02)
    spent = time.perf_counter() - started
    return [
        Figure(
            what=f"projection rebuilt from seq 0 ({now.position:,} events, each batch checked against the checkpoint)",
            value=rate(now.position / spent),
            limit="aim 20,000/s",
            ratio=f"{now.position / spent / 20_000:.2f}× of the aim, its start included",
            bound="parsing headers, leaf hashes, SQLite inserts",
        )
    ]


async def _storage(machine: machines.Machine) -> Figure:
    port = json.loads((machine.data / "ports.json").read_text())["postgres"]
    password = (machine.data / "keys" / "postgres_role_canon_owner").read_text().strip()
    connection = await asyncpg.connect(
        host="127.0.0.1", port=port, user="canon_owner", password=password, database="sigil"
    )
    async with _closing(connection):
        return storage.figure("the mix of this house", await storage.sizes(connection))


@contextlib.asynccontextmanager
async def _closing(connection: asyncpg.Connection) -> AsyncIterator[None]:
    try:
        yield
    finally:
        await connection.close()
