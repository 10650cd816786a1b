"""The real house for tests: `sigil run` as a process on a folder of its own, and the people who use it.

Everything is real: nats-server, Postgres, every service, the gateway, the command's own client. A test asks as a person would
(`Person.client`), looks from outside as an operator (`Machine.ledger`), and may kill what it likes (`Machine.kill`).
"""

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import asyncpg
import msgspec

from cli import ledger, owner
from sigilcore import clock, licence, record, signing
from sigilcore.access import Loa
from sigilcore.contracts import canon, common, license, quorum
from sigilcore.refusals import Code, Refused
from sigilrun import http
from sigilrun.embedded import folder
from tests import oracle

START_S = 60.0
UNTIL = "2035-01-01T00:00:00.000Z"
# What `sigil run` does, with overrides for every process: an operator would write them into config.toml.
TOLD = """
import asyncio, json, pathlib, sys
from sigilrun import house
tell = lambda ready: print("ready " + ready.address, flush=True)
asyncio.run(house.run(pathlib.Path(sys.argv[1]), port=None, tell=tell, overrides=json.loads(sys.argv[2])))
"""


def paths_below(place: Path) -> Iterator[Path]:
    """Every folder and file below a place where servers make and remove them meanwhile."""
    for folder_name, folders, names in os.walk(place):
        for name in (*folders, *names):
            yield Path(folder_name) / name


def contents(place: Path) -> Iterator[tuple[Path, bytes]]:
    """Every file below such a place, with its bytes."""
    for path in paths_below(place):
        with contextlib.suppress(FileNotFoundError):
            if path.is_file() and not path.is_symlink():
                yield path, path.read_bytes()


class Someone:
    """A person with a licence, and a client that speaks for them."""

    def __init__(self, owner_id: str, client: http.Client, signer: signing.Signer | None) -> None:
        """`signer` is the owner's own key; None for a bearer licence."""
        self.owner_id = owner_id
        self.client = client
        self.signer = signer  # the owner's key; for a witness, the key that speaks for it
        self.licence_signer = signer
        self.toml = ""
        self.licence_id = ""


class Machine:
    """One running house."""

    def __init__(self, data: Path, env: Mapping[str, str] | None = None) -> None:
        """Use `running`."""
        self.data = data
        self.env = dict(env or {})
        self.address = ""
        self.genesis = ""
        self.root: Someone
        self.mentors: list[Someone] = []
        self._process: asyncio.subprocess.Process | None = None
        self._stack = contextlib.AsyncExitStack()
        self._log = data.with_suffix(".out")

    # The house as its operator sees it

    async def start(self) -> None:
        """`sigil run`, until it says ready; with settings of a test's own, the house that it runs, told of them."""
        argv = ["-m", "cli.main", "run", "--data", str(self.data)]
        if self.env:
            argv = ["-c", TOLD, str(self.data), json.dumps(self.env)]
        seen = len(self._log.read_text().splitlines()) if self._log.exists() else 0
        with self._log.open("ab") as out:
            self._process = await asyncio.create_subprocess_exec(sys.executable, *argv, stdout=out, stderr=out)
        async with asyncio.timeout(START_S):
            while True:
                lines = self._log.read_text().splitlines()
                ready = [line.removeprefix("ready ") for line in lines[seen:] if line.startswith("ready ")]
                if ready:
                    self.address = ready[-1]
                    return
                assert self._process.returncode is None, "\n".join(lines)
                await asyncio.sleep(0.05)

    async def stop(self) -> int:
        """SIGTERM, and wait; the exit code."""
        assert self._process is not None
        self._process.terminate()
        async with asyncio.timeout(START_S):
            return await self._process.wait()

    def pids(self) -> dict[str, int]:
        """Process ids by name, from run.json."""
        info = folder.running(self.data)
        assert info is not None
        return info.processes

    def kill(self, name: str, how: signal.Signals = signal.SIGKILL) -> int:
        """Send one process a signal; its id."""
        pid = self.pids()[name]
        os.kill(pid, how)
        return pid

    async def replaced(self, name: str, pid: int) -> None:
        """Return once another process of that name runs."""
        async with asyncio.timeout(START_S):
            while self.pids().get(name, pid) == pid:
                await asyncio.sleep(0.05)

    async def doctor(self) -> set[str]:
        """What `sigil doctor` finds, as the operator on this machine; by code."""
        child = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", "cli.main", "doctor", "--json", "--data", str(self.data)),
            stdout=asyncio.subprocess.PIPE,
            env={**os.environ, "SIGIL_HOME": str(self.data.with_suffix(".home"))},
        )
        said, _ = await child.communicate()
        told = json.loads(said)
        assert told["unseen"] == []
        assert child.returncode == told["exit_code"] == bool(told["findings"])
        return {one["code"] for one in told["findings"]}

    def logs(self) -> str:
        """Everything that any process ever logged."""
        return "\n".join(path.read_text(errors="replace") for path in (self.data / "logs").glob("*.log*"))

    async def sql(self, role: str, statement: str, *arguments: Any) -> list[asyncpg.Record]:
        """One statement as a database role."""
        port = msgspec.json.decode((self.data / "ports.json").read_bytes())["postgres"]
        password = (self.data / "keys" / f"postgres_role_{role}").read_text().strip()
        connection = await asyncpg.connect(
            host="127.0.0.1", port=port, user=role, password=password, database="sigil", timeout=10
        )
        try:
            return await connection.fetch(statement, *arguments)
        finally:
            await connection.close()

    async def ledger(self) -> tuple[list[record.PlacedRecord], bytes]:
        """All records and the checkpoint that covers exactly them, over the bus as the operator."""
        bus = await ledger.connect(self.data, "operator")
        try:
            note_text = (await bus.call(canon.CHECKPOINT, common.Empty())).note
            size = int(note_text.split("\n")[1])
            return [placed async for placed in ledger.events(bus, until=size)], note_text.encode()
        finally:
            await bus.close()

    async def audit(self) -> list[record.PlacedRecord]:
        """Re-verify the whole ledger; every test of this house ends with it."""
        records, checkpoint = await self.ledger()
        oracle.check(records, checkpoint, self.genesis)
        return records

    async def close(self) -> None:
        """Close clients, stop the house, and see that nothing of it is left."""
        await self._stack.aclose()
        pids = self.pids() if folder.running(self.data) else {}
        if self._process is not None and self._process.returncode is None:
            await self.stop()
        assert "refusal_undeclared" not in self.logs(), "a service refused with what its contract doesn't declare"
        left = [pid for pid in pids.values() if Path(f"/proc/{pid}").exists()]
        assert left == []

    # The people

    async def client(self) -> http.Client:
        """A stranger's client."""
        return await self._stack.enter_async_context(http.Client(self.address))

    async def bootstrap(self) -> None:
        """Found the canon; Root is logged in."""
        root = signing.Ed25519Signer.generate()
        client = await self.client()
        token = (self.data / "bootstrap.token").read_text().strip()
        # Resumable: until every service has seen genesis, the same token and key are answered with what is there.
        done = await http.persistently(
            lambda: owner.bootstrap(client, root, token=token, owner_id="root", owner_name="Root"), give_up_s=30
        )
        assert done.toml is not None
        assert done.genesis_hash is not None
        self.genesis = done.genesis_hash
        self.root = Someone("root", client, root)
        self.root.toml = done.toml
        await self._seen(lambda: http.persistently(lambda: client.login(self.root.toml, owner=root), give_up_s=10))

    async def _seen(self, attempt: Callable[[], Awaitable[object]]) -> None:
        """Again until the gatekeeper too has seen genesis."""
        async with asyncio.timeout(START_S):
            while True:
                try:
                    await attempt()
                except Refused as refused:
                    if refused.code is not Code.NOT_BOOTSTRAPPED:
                        raise
                    await asyncio.sleep(0.05)
                else:
                    return

    async def person(
        self, owner_id: str, loa: Loa, *, keyed: bool = False, scope: tuple[str, ...] | None = None
    ) -> Someone:
        """Root issues a licence, and its owner logs in."""
        signer = signing.Ed25519Signer.generate() if keyed or loa is Loa.MENTOR else None
        asked = license.CreateLicense(
            owner_id=owner_id,
            owner_name=owner_id.title(),
            loa=loa,
            expires_at=UNTIL,
            owner_key=None if signer is None else signer.public_key.hex(),
            scope=scope,
        )
        created = await owner.create_license(self.root.client, asked, self.root.signer)
        someone = Someone(owner_id, await self.client(), signer)
        someone.toml, someone.licence_id = created.toml, created.license_id
        await someone.client.login(created.toml, owner=signer)
        return someone

    async def enrol(self, owner_id: str) -> Someone:
        """A new mentor becomes a witness, by every witness so far and their own proof of possession."""
        mentor = await self.person(owner_id, Loa.MENTOR)
        # A witness key is another key than the licence's: one key, one role.
        voice = signing.Ed25519Signer.generate()
        change = quorum.WitnessChange(witness_id=owner_id, name=owner_id.title(), key=voice.public_key.hex())
        assert self.root.signer is not None
        proposed = await owner.propose_witness(self.root.client, self.root.signer, "add", change, mentor.licence_id)
        mentor.signer = voice
        assert proposed.proposal_id is not None
        for witness in (*self.mentors, mentor):
            await self.attest(proposed.proposal_id, witness)
        await self.commit(proposed.proposal_id)
        self.mentors.append(mentor)
        return mentor

    async def attest(self, proposal_id: str, witness: Someone) -> quorum.Tally:
        """A witness reads the proposal on their own side, and signs."""
        assert witness.signer is not None
        read = await owner.read_proposal(witness.client, proposal_id)
        return await owner.attest(witness.client, read, witness.owner_id, witness.signer)

    async def commit(self, proposal_id: str) -> quorum.Committed:
        """Root commits."""
        return await self.root.client.call(quorum.COMMIT, quorum.ProposalId(proposal_id=proposal_id))

    async def seal(self, mentors: int, k: int, **cosigning: Any) -> quorum.Committed:
        """So many witnesses, and the quorum policy; `c` and `cosigners` as `owner.seal_payload` takes them."""
        for number in range(1, mentors + 1):
            await self.enrol(f"mentor-{number}")
        return await self.change_quorum(k, **cosigning)

    async def change_quorum(self, k: int, **cosigning: Any) -> quorum.Committed:
        """A quorum policy by every mentor."""
        payload = owner.seal_payload(k, kinds={}, proposal_ttl_s=3600, **cosigning)
        assert self.root.signer is not None
        proposed = await owner.propose(self.root.client, self.root.signer, "quorum_policy", payload)
        for mentor in self.mentors:
            await self.attest(proposed.proposal_id, mentor)
        return await self.commit(proposed.proposal_id)

    async def open_again(self) -> None:
        """After a restart: clients find the address, and everyone logs in again."""
        await self._stack.aclose()
        self._stack = contextlib.AsyncExitStack()
        for someone in (self.root, *self.mentors):
            someone.client = await self.client()
        await self.root.client.login(self.root.toml, owner=self.root.signer)


@contextlib.asynccontextmanager
async def running(data: Path, env: Mapping[str, str] | None = None) -> AsyncIterator[Machine]:
    """A founded house, stopped at the end, with its whole ledger re-verified; `env` overrides settings (`SIGIL_<SECTION>_<KEY>`)."""
    machine = Machine(data, env)
    try:
        await machine.start()
        await machine.bootstrap()
        yield machine
        await machine.audit()
    finally:
        await machine.close()


def soon(ms: int) -> str:
    """A time from now, as text."""
    return clock.format_ms(clock.SystemClock().now_ms() + ms)


def table(someone: Someone) -> licence.LicenceTable:
    """What a licence says."""
    return licence.parse(someone.toml).license


def plain(value: msgspec.Struct) -> object:
    """A Struct as JSON values."""
    return msgspec.to_builtins(value)
