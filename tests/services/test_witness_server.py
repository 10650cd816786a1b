"""The witness as a server: its statuses over HTTP, what survives kill -9, racers, bounds, and what it keeps against a log."""

import asyncio
import contextlib
import hashlib
import io
import os
import signal
import sqlite3
import sys
import textwrap
from pathlib import Path

import aiohttp
import pytest
from tlog_scales.signing import Vkey
from tlog_scales.tlog import Checkpoint as OtherCheckpoint
from typer.testing import CliRunner

from cli import main, seam
from cli.refusal import Refusal
from sigilcore import checkpoint, merkle, note, signing
from sigilrun import keys, witness, witness_store

LOG = signing.Ed25519Signer(bytes(32))
ORIGIN = "log.example"
KEY = note.VerifierKey.of(ORIGIN, note.ED25519, LOG.public_key)
COSIGNER = signing.Ed25519Signer(bytes([9]) * 32)
NAME = "witness.example/w"
VKEY = note.VerifierKey.of(NAME, note.COSIGNATURE, COSIGNER.public_key)
LEAVES = [merkle.leaf_hash(b"entry %d" % n) for n in range(300)]
FORK = [*LEAVES[:4], *(merkle.leaf_hash(b"fork %d" % n) for n in range(300))]
START_S = 20.0


def head(size, leaves=LEAVES):
    return checkpoint.sign(checkpoint.Checkpoint(ORIGIN, size, merkle.root(leaves[:size])), LOG)


def body(old, size, leaves=LEAVES, proof=None):
    found = merkle.consistency_path(old, leaves[:size]) if proof is None else proof
    return checkpoint.AddCheckpoint(old, tuple(found), head(size, leaves)).encode()


PROGRAM = """
import asyncio, os, signal, sys
from pathlib import Path
from sigilcore import signing
from sigilrun import witness, witness_store

class Store(witness_store.Store):
    pass

witness_store.Store = Store

async def main(name, vkey, state):
    signer = signing.Ed25519Signer(bytes([9]) * 32)
    with witness.opened(name=name, signer=signer, vkeys=[vkey], state=Path(state)) as one:
        async with witness.serving(one, host="127.0.0.1", port=0) as address:
            print(address, flush=True)
            await asyncio.Event().wait()

asyncio.run(main(*sys.argv[1:]))
"""


class Asking:
    """A log that asks one witness."""

    def __init__(self, address, session):
        self.address = address
        self.session = session

    async def add(self, data):
        async with self.session.post(f"{self.address}/add-checkpoint", data=io.BytesIO(data)) as answer:
            return answer.status, await answer.text(), answer.headers["Content-Type"]

    async def get(self, path):
        async with self.session.get(f"{self.address}{path}") as answer:
            return answer.status, await answer.text()

    async def newest(self):
        return await self.get(f"/{hashlib.sha256(ORIGIN.encode()).hexdigest()}/checkpoint")


@contextlib.asynccontextmanager
async def witnessing(state):
    """A witness in this process, and a log that asks it."""
    with witness.opened(name=NAME, signer=COSIGNER, vkeys=[KEY.format()], state=state) as one:
        async with witness.serving(one, host="127.0.0.1", port=0) as address, aiohttp.ClientSession() as session:
            yield Asking(address, session)


@contextlib.asynccontextmanager
async def process(state, *, dies=""):
    """A witness in a process of its own. `dies`: lines that make its store kill it at a point of `settle`."""
    program = PROGRAM.replace("    pass", textwrap.indent(textwrap.dedent(dies), "    ") or "    pass")
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        program,
        NAME,
        KEY.format(),
        str(state),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        async with asyncio.timeout(START_S), aiohttp.ClientSession() as session:
            yield Asking((await child.stdout.readline()).decode().strip(), session), child
    finally:
        if child.returncode is None:
            child.kill()
        await child.wait()


async def test_a_log_grows_under_its_eyes(tmp_path):
    """First contact, the size by 409, growth, the same again, and what monitors see; another program verifies the line."""
    async with witnessing(tmp_path / "state") as log:
        assert await log.newest() == (404, "never cosigned\n")
        status, line, _ = await log.add(body(0, 5))
        assert status == 200
        checkpoint.verify_cosignature(head(5).decode().partition("\n\n")[0] + "\n", line, VKEY)
        other = OtherCheckpoint.from_text(head(5).decode() + line)
        for key in (KEY, VKEY):
            other.verify(Vkey.from_string(key.format()))
        assert await log.add(body(0, 9)) == (409, "5\n", "text/x.tlog.size")
        status, line, _ = await log.add(body(5, 300))
        assert status == 200
        status, again, _ = await log.add(body(300, 300))
        assert status == 200
        seen_status, seen = await log.newest()
        assert (seen_status, seen) == (200, head(300).decode() + again)


async def test_it_is_served_what_it_says(tmp_path):
    """Unknown logs, strange paths and methods, and its own name."""
    async with witnessing(tmp_path / "state") as log:
        other = checkpoint.sign(checkpoint.Checkpoint("other.example", 1, LEAVES[0]), LOG)
        assert (await log.add(checkpoint.AddCheckpoint(0, (), other).encode()))[0] == 404
        assert (await log.add(b"nonsense"))[0] == 400
        assert (await log.get("/add-checkpoint"))[0] == 405
        assert (await log.get("/" + "0" * 64 + "/checkpoint"))[0] == 404
        assert (await log.get("/../healthz"))[0] == 200
        assert (await log.get("/nothing"))[0] == 404
        status, health = await log.get("/healthz")
        assert status == 200
        assert VKEY.format() in health


async def test_a_body_beyond_the_bound_is_not_read(tmp_path):
    """Size comes before everything."""
    async with witnessing(tmp_path / "state") as log:
        assert (await log.add(b"x" * (checkpoint.MAX_REQUEST_BYTES + 1)))[0] == 413


async def test_a_body_that_does_not_arrive_is_let_go(tmp_path, monkeypatch):
    """A caller who sends half a request holds a place for a bounded time."""
    monkeypatch.setattr(witness, "ARRIVE_S", 0.05)
    async with witnessing(tmp_path / "state") as log:
        host, port = log.address.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"POST /add-checkpoint HTTP/1.1\r\nHost: w\r\nContent-Length: 100\r\n\r\nold 0\n")
        async with asyncio.timeout(START_S):
            assert b" 408 " in await reader.readline()
        writer.close()


async def test_a_body_that_is_not_what_its_head_says(tmp_path, capsys):
    """A packed body that can't be unpacked is a bad request; a caller who hangs up in the middle is nobody's fault. No alarm for either."""
    async with witnessing(tmp_path / "state") as log:
        headers = {"Content-Encoding": "gzip"}
        async with log.session.post(f"{log.address}/add-checkpoint", data=b"no gzip", headers=headers) as answer:
            assert answer.status == 400
        host, port = log.address.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        head_line = b"POST /add-checkpoint HTTP/1.1\r\nHost: w\r\nExpect: 100-continue\r\nContent-Length: 100\r\n\r\n"
        writer.write(head_line)
        async with asyncio.timeout(START_S):
            assert b" 100 " in await reader.readline()
        writer.write(b"old 0\n")
        writer.close()
        await writer.wait_closed()
        assert (await log.add(body(0, 5)))[0] == 200
    assert not [line for line in capsys.readouterr().out.splitlines() if "fault" in line or "state_failed" in line]


async def test_beyond_what_is_in_flight_it_is_busy(tmp_path, monkeypatch):
    """No queue without a bound."""
    monkeypatch.setattr(witness, "MAX_IN_FLIGHT", 0)
    async with witnessing(tmp_path / "state") as log:
        assert (await log.add(body(0, 5)))[0] == 503


@pytest.mark.parametrize("leaves", [LEAVES, FORK], ids=["one history", "two histories"])
async def test_of_two_racers_on_one_old_size_one_is_cosigned(tmp_path, leaves):
    """Two processes on one state, eight requests at once from the same old size to different sizes: one 200, seven 409."""
    async with process(tmp_path / "state") as (first, _), process(tmp_path / "state") as (second, _):
        assert (await first.add(body(0, 4)))[0] == 200
        asked = [(one, body(4, 10 + n, leaves if n % 2 else LEAVES)) for n in range(4) for one in (first, second)]
        answers = await asyncio.gather(*(one.add(data) for one, data in asked))
        assert sorted(status for status, *_ in answers) == [200, *[409] * 7]
        (won,) = [data for (_, data), (status, *_) in zip(asked, answers, strict=True) if status == 200]
        size = int(won.partition(b"\n\n")[2].split(b"\n")[1])
        assert {text for status, text, _ in answers if status == 409} == {f"{size}\n"}
        assert (await second.newest())[1] == (await first.newest())[1]


async def test_killed_after_the_commit_and_before_the_answer(tmp_path):
    """What was persisted stands: the log learns the new size by 409 and is cosigned again, and the other history never is."""
    dies = """
        def settle(self, *given):
            super().settle(*given)
            os.kill(os.getpid(), signal.SIGKILL)
    """
    async with process(tmp_path / "state", dies=dies) as (log, child):
        with pytest.raises(aiohttp.ClientError):
            await log.add(body(0, 10))
        assert await child.wait() == -signal.SIGKILL
    async with process(tmp_path / "state") as (log, _):
        assert await log.add(body(0, 12, FORK)) == (409, "10\n", "text/x.tlog.size")
        assert (await log.add(body(10, 12, FORK)))[0] == 422
        assert (await log.add(body(10, 10)))[0] == 200
        assert (await log.add(body(10, 12)))[0] == 200


async def test_killed_before_the_commit(tmp_path):
    """Nothing happened, though a line had been made: it never left, and the log may go on either way."""
    dies = """
        def _persist(self, *given):
            super()._persist(*given)
            os.kill(os.getpid(), signal.SIGKILL)
    """
    async with process(tmp_path / "state", dies=dies) as (log, child):
        with pytest.raises(aiohttp.ClientError):
            await log.add(body(0, 10))
        assert await child.wait() == -signal.SIGKILL
    async with process(tmp_path / "state") as (log, _):
        assert (await log.newest())[0] == 404
        assert (await log.add(body(0, 12, FORK)))[0] == 200


async def test_what_a_log_signed_against_itself_is_kept(tmp_path, capsys):
    """Two roots for one size: 422 or 409, the note kept with what was cosigned before, once, loudly."""
    async with witnessing(tmp_path / "state") as log:
        assert (await log.add(body(0, 8)))[0] == 200
        cosigned = (await log.newest())[1]
        assert (await log.add(body(8, 8, FORK)))[0] == 422
        assert (await log.add(body(0, 8, FORK)))[0] == 409
        assert (await log.add(body(8, 9, proof=[bytes(32)])))[0] == 422
        assert (await log.add(body(3, 5)))[0] == 409
        assert (await log.newest())[1] == cosigned
    with contextlib.closing(witness_store.Store(tmp_path / "state")) as store:
        kept = {one.note: one for one in store.evidence()}
    assert set(kept) == {head(8, FORK).decode(), head(9).decode()}
    convicting, doubt = kept[head(8, FORK).decode()], kept[head(9).decode()]
    assert convicting.convicts
    assert "two roots for size 8" in convicting.reason
    assert convicting.held == cosigned
    assert not doubt.convicts


async def test_a_doubt_becomes_a_conviction(tmp_path):
    """A checkpoint that was only not proven when it came convicts its log once another one of its size was cosigned."""
    async with witnessing(tmp_path / "state") as log:
        assert (await log.add(body(0, 5)))[0] == 200
        assert (await log.add(body(5, 9, FORK, proof=())))[0] == 422
        assert (await log.add(body(5, 9)))[0] == 200
        assert (await log.add(body(9, 9, FORK, proof=())))[0] == 422
    with contextlib.closing(witness_store.Store(tmp_path / "state")) as store:
        (found,) = store.evidence()
    assert (found.convicts, found.note, found.held is not None) == (True, head(9, FORK).decode(), True)


async def test_evidence_has_a_bound_and_convictions_have_room(tmp_path, monkeypatch):
    """A hundred doubtful notes that anybody can make don't crowd out the one that convicts."""
    monkeypatch.setattr(witness_store, "MAX_DOUBTS", 3)
    async with witnessing(tmp_path / "state") as log:
        assert (await log.add(body(0, 8)))[0] == 200
        for size in range(9, 15):
            assert (await log.add(body(8, size, proof=[bytes(32)])))[0] == 422
        assert (await log.add(body(8, 8, FORK)))[0] == 422
    with contextlib.closing(witness_store.Store(tmp_path / "state")) as store:
        assert sorted(one.convicts for one in store.evidence()) == [False, False, False, True]


@pytest.mark.parametrize("damage", ["truncated to nothing", "overwritten", "of another schema", "open to others"])
async def test_damaged_state_is_refused_and_left_as_it_is(tmp_path, damage):
    """A witness that forgot would cosign the other history; it doesn't start."""
    state = tmp_path / "state"
    async with witnessing(state) as log:
        assert (await log.add(body(0, 8)))[0] == 200
    file = state / witness_store.FILE
    if damage == "truncated to nothing":
        file.write_bytes(b"")
    elif damage == "overwritten":
        file.write_bytes(b"not a database" * 1000)
    elif damage == "of another schema":
        with contextlib.closing(sqlite3.connect(file)) as db:
            db.execute("pragma user_version = 99")
    else:
        state.chmod(0o755)
    before = file.read_bytes()
    with pytest.raises(Exception, match=r"schema|malformed|not a database|others can reach"):
        witness_store.Store(state)
    assert file.read_bytes() == before


async def test_a_full_disk_cosigns_nothing(tmp_path, monkeypatch):
    """What can't be persisted isn't answered with a line."""
    state = tmp_path / "state"
    async with witnessing(state) as log:
        assert (await log.add(body(0, 8)))[0] == 200

        def full(*_):
            raise sqlite3.OperationalError("database or disk is full")

        with monkeypatch.context() as patched:
            patched.setattr(witness_store.Store, "_persist", full)
            status, text, _ = await log.add(body(8, 9))
            assert (status, "—" in text) == (500, False)
        assert (await log.add(body(0, 9)))[1] == "8\n"


def test_evidence_is_asked_of_a_state_that_is_there(tmp_path):
    """A mistyped folder has no evidence to show and isn't made: "none" would be a lie."""
    words = ["witness", "evidence", "--state", str(tmp_path / "sttae")]
    done = CliRunner().invoke(main.application(words), words, obj=seam.State())
    assert isinstance(done.exception, Refusal)
    assert not (tmp_path / "sttae").exists()
    witness_store.Store(tmp_path / "state").close()
    words[-1] = str(tmp_path / "state")
    assert CliRunner().invoke(main.application(words), words, obj=seam.State()).exit_code == 0


async def test_the_command_serves(tmp_path):
    """`sigil witness serve` as a person runs it: prints its vkey, cosigns, and stops on SIGTERM with 0."""
    password = tmp_path / "password"
    password.write_text("correct horse battery staple\n")
    password.chmod(0o600)
    secret = keys.passphrase_from(f"file:{password}")
    keys.write_key_file(tmp_path / "w.key", "w", secret)
    words = ["--key", tmp_path / "w.key", "--passphrase", f"file:{password}", "--name", NAME]
    words += ["--log", KEY.format(), "--state", tmp_path / "state"]
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "cli.main", "witness", "serve", *map(str, words)),
        stdout=asyncio.subprocess.PIPE,
        cwd=Path(__file__).parents[2],
        env={**os.environ, "HOME": str(tmp_path)},
    )
    try:
        async with asyncio.timeout(START_S), aiohttp.ClientSession() as session:
            vkey = (await child.stdout.readline()).decode().removeprefix("vkey ").strip()
            log = Asking((await child.stdout.readline()).decode().removeprefix("ready ").strip(), session)
            status, line, _ = await log.add(body(0, 5))
            assert status == 200
            text = head(5).decode().partition("\n\n")[0] + "\n"
            checkpoint.verify_cosignature(text, line, note.VerifierKey.parse(vkey))
            child.terminate()
            assert await child.wait() == 0
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()
