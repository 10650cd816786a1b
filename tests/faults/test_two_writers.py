"""Two writers on the real house: one writes, the other stands by; whatever becomes of the first, the log holds everything once."""

import asyncio
import contextlib
import os
import signal
import sys
import time
from pathlib import Path

import pytest_asyncio

from cli import ledger
from sigilcore import ids
from sigilcore.access import Loa
from sigilcore.contracts import knowledge
from sigilrun import http
from tests import machine as machines

ROOT = Path(__file__).parents[2]
TAKEN_OVER_S = 5.0
PATIENCE_S = 60.0


def documented():
    """How docs/CLI.md tells an operator to start a second one."""
    page = (ROOT / "docs/CLI.md").read_text()
    return page.partition("## A second writer")[2].partition("```bash\n")[2].partition("```")[0]


class Second:
    """A second writer beside the supervised one, started as the documentation says."""

    def __init__(self, house, folder):
        self.house = house
        self.log = folder / "second.log"
        self.folder = folder
        self.process = None

    async def start(self):
        command = documented().replace(".venv/bin/python", sys.executable)
        with self.log.open("wb") as out:
            self.process = await asyncio.create_subprocess_exec(
                "bash",
                "-ec",
                command,
                env=os.environ | {"DATA": str(self.house.data)},
                cwd=ROOT,
                stdout=out,
                stderr=out,
            )
        await self.says("standing_by")

    async def says(self, event, timeout_s=PATIENCE_S):
        """Wait until the log has this event."""
        async with asyncio.timeout(timeout_s):
            while f'"{event}"' not in self.log.read_text():
                assert self.process.returncode is None, self.log.read_text()
                await asyncio.sleep(0.02)

    async def stop(self):
        if self.process.returncode is None:
            self.process.terminate()
        return await self.process.wait()


class Writing:
    """People who write one memory after the other in turn, each asked again until it is answered; so many that nobody is in haste."""

    def __init__(self, people):
        self.people = people
        self.written = {}
        self.gaps = [0.0]
        self._task = None

    async def run(self):
        while True:
            name = ids.new()
            asked = knowledge.UserWrite(key=f"key-{len(self.written)}", value=len(self.written), id=name)
            someone = self.people[len(self.written) % len(self.people)]
            began = time.monotonic()
            done = await http.persistently(
                lambda asked=asked, someone=someone: someone.client.call(knowledge.USER_WRITE, asked),
                give_up_s=PATIENCE_S,
            )
            self.gaps.append(time.monotonic() - began)
            self.written[name] = done.seq

    async def more(self, count):
        """Wait until so many more were acknowledged."""
        wanted = len(self.written) + count
        async with asyncio.timeout(PATIENCE_S):
            while len(self.written) < wanted:
                if self._task.done():
                    self._task.result()
                await asyncio.sleep(0.02)

    @contextlib.asynccontextmanager
    async def going_on(self):
        self._task = asyncio.create_task(self.run())
        try:
            await self.more(3)
            yield
        finally:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def house(tmp_path_factory):
    """A founded house; at the end its whole ledger is re-verified."""
    async with machines.running(tmp_path_factory.mktemp("two") / "data") as built:
        yield built


@pytest_asyncio.fixture(loop_scope="session")
async def second(house, tmp_path):
    """Standing by; ended after the test, and the supervised one writes again."""
    one = Second(house, tmp_path)
    await one.start()
    yield one
    await one.stop()


@pytest_asyncio.fixture(loop_scope="session")
async def writing(house):
    """Someone who writes; everything that was acknowledged stands once, where it was said to stand."""
    one = Writing([await house.person(f"writer-{ids.new()[-12:]}", Loa.OPERATOR) for _ in range(8)])
    yield one
    assert len(one.written) > 5
    placed = {}
    for entry in await house.audit():
        name = ids_of(entry)
        assert name not in placed
        placed[name] = entry.seq
    assert {name: placed.get(name) for name in one.written} == one.written


def ids_of(placed):
    header, _ = machines.record.open_header(bytes(placed.header))
    return header.core.id


async def answering(house):
    """How many writers answer on the bus."""
    bus = await ledger.connect(house.data, "operator")
    heard = []

    try:
        inbox = bus.new_inbox()
        await bus.subscribe(inbox, heard.append)
        await bus.publish("$SRV.PING.canon_writer", b"", reply=inbox)
        await asyncio.sleep(0.5)
        return len(heard)
    finally:
        await bus.close()


async def test_a_stand_by_is_not_asked_and_can_be_told_to_stop(house, writing, second):
    """While the first writes, the second is on no subject: no call reaches it; SIGTERM ends it at once, with 0."""
    async with writing.going_on():
        assert await answering(house) == 1
        await writing.more(10)
        began = time.monotonic()
        assert await second.stop() == 0
        assert time.monotonic() - began < TAKEN_OVER_S
        await writing.more(3)
    assert '"writing"' not in second.log.read_text()


async def test_kill_9_of_the_first_is_followed_within_seconds(house, writing, second):
    """Under load: the stand-by takes over, the clients' own retries heal what was in flight, nothing is lost or doubled."""
    async with writing.going_on():
        pid = house.kill("canon_writer")
        began = time.monotonic()
        await second.says("writing")
        await second.says("ready")
        assert time.monotonic() - began < TAKEN_OVER_S
        await writing.more(10)
        await house.replaced("canon_writer", pid)
        await writing.more(10)
        assert await answering(house) == 1


async def test_a_rolling_restart_fails_no_write(house, writing, second):
    """The second stands by, the first gets SIGTERM, then the other way round: every write is answered, none waits for long."""
    async with writing.going_on():
        pid = house.kill("canon_writer", signal.SIGTERM)
        await second.says("ready")
        await writing.more(10)
        await house.replaced("canon_writer", pid)
        assert await second.stop() == 0
        await writing.more(10)
    assert max(writing.gaps) < TAKEN_OVER_S


async def test_a_paused_writer_that_wakes_can_not_commit(house, writing, second):
    """SIGSTOP: the stand-by sees no sign of life, ends its connection, raises the epoch and writes; woken, the old one ends itself."""
    async with writing.going_on():
        pid = house.kill("canon_writer", signal.SIGSTOP)
        try:
            began = time.monotonic()
            await second.says("taking_over")
            await second.says("ready")
            assert time.monotonic() - began < 3 * TAKEN_OVER_S
            # It still hears its calls, and takes none of them from the one that follows it.
            await writing.more(20)
        finally:
            os.kill(pid, signal.SIGCONT)
        await house.replaced("canon_writer", pid)
        await writing.more(10)
        assert await answering(house) == 1
    log = (house.data / "logs" / "canon_writer.log").read_text()
    assert '"fenced"' in log
