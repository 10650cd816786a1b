"""`make run` as a person runs it, with every real process: where it is told to, again on the same data, and gone when it is gone."""

import asyncio
import contextlib
import os
import signal
import stat
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from sigilcore.contracts import house
from sigilrun.embedded import folder, ports

REPOSITORY = Path(__file__).parents[2]
START_S = 90.0
GONE_S = 30.0


class Run:
    """One `make run`, in a session of its own like a terminal's."""

    def __init__(self, data: Path, port: int) -> None:
        """Started now."""
        self.data = data
        self.process = subprocess.Popen(
            ["make", "--no-print-directory", "run", f"DATA={data}", f"PORT={port}"],
            cwd=REPOSITORY,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def ready(self) -> folder.RunInfo:
        """Block until it says so; what run.json says then."""
        assert self.process.stdout is not None
        said = []
        for line in self.process.stdout:
            said.append(line)
            if line.startswith("ready "):
                found = folder.running(self.data)
                assert found is not None
                assert line.split() == ["ready", found.address]
                return found
        raise AssertionError("".join(said))

    def press_ctrl_c(self) -> None:
        """What a terminal does: the whole foreground group hears it."""
        os.killpg(self.process.pid, signal.SIGINT)


@contextlib.contextmanager
def run(data: Path, port: int) -> Iterator[Run]:
    """Ended with all that belongs to it, should the test leave it running."""
    one = Run(data, port)
    try:
        yield one
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(one.process.pid, signal.SIGKILL)
        one.process.communicate()


def alive(pids: list[int]) -> list[int]:
    """Those of these processes that run."""
    return [pid for pid in pids if Path(f"/proc/{pid}").exists()]


async def gone(pids: list[int]) -> None:
    """Return once none of them runs."""
    async with asyncio.timeout(GONE_S):
        while alive(pids):
            await asyncio.sleep(0.02)


def test_make_run_goes_where_it_is_told_and_leaves_nothing(tmp_path: Path) -> None:
    """Ready at its port; run.json is private and names all of it; a second run is refused; Ctrl-C ends it, and it runs again."""
    data, port = tmp_path / "house", ports.free_port()
    with run(data, port) as first:
        told = first.ready()
        assert told.address == f"http://127.0.0.1:{port}"
        with urllib.request.urlopen(f"{told.address}/readyz", timeout=10) as answer:
            assert answer.status == 200
        assert stat.S_IMODE((data / "run.json").stat().st_mode) == 0o600
        assert told.bootstrap_token == (data / "bootstrap.token").read_text().strip()
        assert told.nats is not None
        assert Path(told.logs).is_dir()
        services = {name for name, one in house.RESIDENTS.items() if one.module}
        assert set(told.processes) == {*services, "nats", "postgres"}
        pids = [told.supervisor, *told.processes.values()]
        assert alive(pids) == pids
        with run(data, port) as second:
            assert second.process.stdout is not None
            assert "in use" in second.process.stdout.read()
            assert second.process.wait() != 0
        first.press_ctrl_c()
        assert first.process.wait(GONE_S) in {0, -signal.SIGINT, 130}
        assert alive(pids) == []
        assert not (data / "run.json").exists()
    with run(data, 0) as again:
        assert again.ready().address == told.address


async def test_kill_9_of_the_supervisor_leaves_no_service(tmp_path: Path) -> None:
    """Every service and both servers end with it, and the data is free for the next run."""
    with run(tmp_path / "house", 0) as first:
        told = first.ready()
        pids = [told.supervisor, *told.processes.values()]
        os.kill(told.supervisor, signal.SIGKILL)
        await gone(pids)
    with run(tmp_path / "house", 0) as again:
        again.ready()
