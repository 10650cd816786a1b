"""Kill anything, at any moment: what was promised is kept, and nothing is left running that nobody owns."""

import asyncio
import contextlib
import fcntl
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Awaitable, Callable, Generator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from sigilrun.embedded import binaries, child, folder, postgres, spawn, stack, supervisor
from sigilrun.embedded.errors import EmbeddedError, StartFailed
from tests.waiting import until

# A program as a user would write one: a stack, and one process that outlives everything it is asked.
PROGRAM = textwrap.dedent("""
    import asyncio, sys
    from pathlib import Path
    from sigilrun.embedded import errors, nats, stack, supervisor

    def users(held):
        return [nats.BusUser(name="one", public_nkey=nats.kept_nkey(held.keys / "bus_one"))]

    def processes(addresses):
        return [supervisor.ProcessSpec(
            name="sleeper", argv=("/bin/sh", "-c", sys.argv[2]), env={"PATH": "/usr/bin:/bin"},
            cwd=addresses.folder, log=addresses.folder / "logs/sleeper.log",
            after=("nats", "postgres"), stop_timeout_s=60.0,
        )]

    plan = stack.Plan(bus_users=users, roles=("sigil_owner",), make_processes=processes)
    try:
        asyncio.run(stack.run_stack(
            Path(sys.argv[1]), plan, lambda running: print("ready", running.addresses.address, flush=True)))
    except errors.EmbeddedError as error:
        sys.exit(f"refused: {error}")
""")
OBEDIENT = "exec sleep 1000"
STUBBORN = "trap '' TERM INT; echo deaf; while :; do sleep 1; done"

PLAN = stack.Plan(bus_users=lambda _: (), roles=("sigil_owner",), make_processes=lambda _: ())


def lives(pid: int) -> bool:
    """True if the process runs; one that has ended and waits to be reaped doesn't."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return status.rpartition(")")[2].split()[0] != "Z"


def is_held(data: Path) -> bool:
    """True if any process of a run is alive: each of them holds the folder's lock."""
    with (data / "lock").open("rb") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def holders(data: Path) -> set[int]:
    """Every process that has the folder's lock open."""
    found = set()
    for fds in Path("/proc").glob("[0-9]*/fd"):
        with contextlib.suppress(OSError):
            if any(fd.readlink() == data / "lock" for fd in fds.iterdir()):
                found.add(int(fds.parent.name))
    return found


async def killed(kept: supervisor.Supervisor, name: str) -> None:
    """Kill a process and wait until it was started again."""
    starts = kept.starts(name)
    os.kill(kept.pids()[name], signal.SIGKILL)
    await until(lambda: kept.starts(name) > starts and name in kept.pids())


def sh(name: str, script: str, place: Path, **more: Any) -> supervisor.ProcessSpec:
    """A small process with its log and folder in `place`."""
    return supervisor.ProcessSpec(
        name=name,
        argv=("/bin/sh", "-c", script),
        env={"PATH": "/usr/bin:/bin"},
        log=place / f"{name}.log",
        cwd=place,
        **more,
    )


def written(path: Path) -> Callable[[], Awaitable[bool]]:
    """A readiness question: has the process written its file?"""

    async def ask() -> bool:
        return path.exists()

    return ask


@contextlib.contextmanager
def program(data: Path, script: str = OBEDIENT) -> Generator[subprocess.Popen[str]]:
    """The program above as a process of its own, killed at the end if the test left it running."""
    running = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(data), script],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        yield running
    finally:
        running.kill()
        running.communicate()


def await_ready(running: subprocess.Popen[str]) -> None:
    """Block until the program has said that it is ready."""
    assert running.stdout is not None
    for line in running.stdout:
        if line.startswith("ready "):
            return
    assert running.stderr is not None
    pytest.fail(running.stderr.read())


async def answers(ask: Callable[[str], Awaitable[object]]) -> bool:
    """True once Postgres takes questions again."""
    try:
        return await ask("select 1") == 1
    except (asyncpg.PostgresError, OSError):
        return False


# One process after another, without servers.


async def test_what_dies_is_started_again_and_again(tmp_path: Path) -> None:
    """Three deaths, three new starts, each with its process id reported."""
    reports: list[dict[str, int]] = []
    async with supervisor.Supervisor(report=reports.append) as kept:
        await kept.start([sh("one", "exec sleep 1000", tmp_path)])
        for _ in range(3):
            await killed(kept, "one")
        assert reports[-1] == kept.pids()
        pids = {report["one"] for report in reports if report}
        assert len(pids) == 4
    assert not any(map(lives, pids))
    assert reports[-1] == {}


async def test_a_crash_loop_slows_down(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each death without ten seconds of life doubles the pause, up to the bound."""
    pauses: list[float] = []
    sleep = asyncio.sleep

    async def note(seconds: float) -> None:
        pauses.append(seconds)
        await sleep(0)

    async with supervisor.Supervisor() as kept:
        with monkeypatch.context() as patched:
            patched.setattr(asyncio, "sleep", note)
            await kept.start([sh("one", "exit 1", tmp_path, critical=False)])
            async with asyncio.timeout(15):
                while len(pauses) < 8:
                    await sleep(0.01)
    assert pauses[:8] == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0]


async def test_order_up_and_down(tmp_path: Path) -> None:
    """A process starts when what it needs is ready, and ends before what it needs."""
    diary = tmp_path / "diary"
    live = "echo up-{0} >> diary; trap 'echo down-{0} >> diary; exit 0' TERM; : > ready-{0}; "
    live += "while :; do sleep 0.02; done"
    names = ("base", "middle", "top")
    async with supervisor.Supervisor() as kept:
        await kept.start(
            [
                sh(
                    name,
                    f"sleep 0.1; {live.format(name)}",
                    tmp_path,
                    after=names[:index],
                    ready=written(tmp_path / f"ready-{name}"),
                )
                for index, name in enumerate(names)
            ]
        )
        assert diary.read_text().split() == ["up-base", "up-middle", "up-top"]
    assert diary.read_text().split()[3:] == ["down-top", "down-middle", "down-base"]


async def test_a_process_waits_again_for_what_it_needs(tmp_path: Path) -> None:
    """If both die, the second isn't started before the first is ready again."""
    gate = tmp_path / "gate"
    gate.touch()
    async with supervisor.Supervisor() as kept:
        await kept.start(
            [
                sh("first", "exec sleep 1000", tmp_path, ready=written(gate)),
                sh("second", "exec sleep 1000", tmp_path, after=("first",)),
            ]
        )
        gate.unlink()
        pids = kept.pids()
        for pid in pids.values():
            os.kill(pid, signal.SIGKILL)
        await until(lambda: kept.starts("first") == 2)
        assert not await kept.wait_ready("second", 0.5)
        assert kept.starts("second") == 1
        gate.touch()
        assert await kept.wait_ready("second", 10)


async def test_one_that_does_not_listen_is_killed_with_its_children(tmp_path: Path) -> None:
    """A deaf process and what it started are gone when stop returns."""
    async with supervisor.Supervisor() as kept:
        await kept.start([sh("deaf", "sleep 1000 & echo $! > child; " + STUBBORN, tmp_path, stop_timeout_s=0.2)])
        log = tmp_path / "deaf.log"
        await until(lambda: log.exists() and "deaf" in log.read_text())
        pid, child = kept.pids()["deaf"], int((tmp_path / "child").read_text())
        assert lives(pid)
        assert lives(child)
    await until(lambda: not lives(pid) and not lives(child), 2)


async def test_children_of_a_dead_process_do_not_meet_the_next_one(tmp_path: Path) -> None:
    """When a leader is killed, its group goes with it before it is started again."""
    async with supervisor.Supervisor() as kept:
        await kept.start([sh("one", "sleep 1000 & echo $! > child.$$; exec sleep 1000", tmp_path)])
        pid = kept.pids()["one"]
        await until(
            lambda: (tmp_path / f"child.{pid}").exists() and (tmp_path / f"child.{pid}").read_text().strip() != ""
        )
        child = int((tmp_path / f"child.{pid}").read_text())
        os.kill(pid, signal.SIGKILL)
        await until(lambda: kept.starts("one") == 2)
        assert not lives(child)


async def test_a_start_that_cannot_succeed_says_why(tmp_path: Path) -> None:
    """A critical process that keeps dying ends the start with the last words of its log."""
    async with supervisor.Supervisor() as kept:
        with pytest.raises(StartFailed, match=r"(?s)one: died 4 times.*no such table"):
            await kept.start([sh("one", "echo no such table; exit 2", tmp_path, ready=written(tmp_path / "never"))])


async def test_a_start_that_hangs_is_bounded(tmp_path: Path) -> None:
    """A process that lives and is never ready fails the start in its time, telling its last answer."""

    async def broken() -> bool:
        raise ConnectionRefusedError("nobody there")

    async with supervisor.Supervisor() as kept:
        with pytest.raises(StartFailed, match=r"not ready in 0\.3 s.*nobody there"):
            await kept.start([sh("one", "exec sleep 1000", tmp_path, ready=broken, ready_timeout_s=0.3)])
        pid = kept.pids()["one"]
    assert not lives(pid)


async def test_an_uncritical_process_delays_nobody(tmp_path: Path) -> None:
    """The start is done without it, and it is still being tried."""
    async with supervisor.Supervisor() as kept:
        async with asyncio.timeout(5):
            await kept.start(
                [
                    sh("poor", "exit 1", tmp_path, critical=False, ready=written(tmp_path / "never")),
                    sh("good", "exec sleep 1000", tmp_path),
                ]
            )
        await until(lambda: kept.starts("poor") >= 3)


async def test_a_program_that_is_not_there_is_named_in_its_log(tmp_path: Path) -> None:
    """The wrapper's own failure is told in the log of the process it should have become."""
    spec = supervisor.ProcessSpec(
        name="ghost",
        argv=("/no/such/program",),
        env={},
        log=tmp_path / "ghost.log",
        cwd=tmp_path,
        ready=written(tmp_path / "never"),
    )
    async with supervisor.Supervisor() as kept:
        with pytest.raises(StartFailed, match=r"could not start /no/such/program: .*No such file"):
            await kept.start([spec])


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ((("a", ()), ("a", ())), "two processes are named a"),
        ((("a", ("b",)), ("b", ("a",))), "a comes after b, which isn't listed before it"),
        ((("weak", ()), ("a", ("weak",))), "a is critical and comes after weak"),
    ],
)
async def test_an_impossible_order_is_refused_before_anything_starts(
    names: tuple[tuple[str, tuple[str, ...]], ...], message: str, tmp_path: Path
) -> None:
    """Doubles, circles, and waiting for what may never come."""
    specs = [sh(name, "exec sleep 1000", tmp_path, after=after, critical=name != "weak") for name, after in names]
    async with supervisor.Supervisor() as kept:
        with pytest.raises(EmbeddedError, match=message):
            await kept.start(specs)
        assert kept.pids() == {}


async def test_a_process_gets_its_own_session_and_only_the_environment_it_was_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C in the terminal doesn't reach it, and our secrets don't either."""
    monkeypatch.setenv("LLM_API_KEY", "CANARY-of-the-environment")
    async with supervisor.Supervisor() as kept:
        await kept.start([sh("one", "exec sleep 1000", tmp_path)])
        pid = kept.pids()["one"]
        await until(lambda: b"sleep" in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0])
        assert os.getsid(pid) == pid != os.getsid(0)
        assert b"CANARY" not in Path(f"/proc/{pid}/environ").read_bytes()
        assert "LLM_API_KEY" not in spawn.base_env()


async def test_a_process_interrupts_nobody_who_works(tmp_path: Path) -> None:
    """What is started is scheduled as a batch, and so is what it starts; the supervisor itself isn't."""
    async with supervisor.Supervisor() as kept:
        await kept.start([sh("one", f"sleep 1000 & echo $! > {tmp_path}/child; wait", tmp_path)])
        await until(lambda: (tmp_path / "child").exists() and (tmp_path / "child").read_text() != "")
        started = (kept.pids()["one"], int((tmp_path / "child").read_text()))
        assert [os.sched_getscheduler(pid) for pid in (*started, 0)] == [os.SCHED_BATCH, os.SCHED_BATCH, os.SCHED_OTHER]


async def test_logs_keep_this_run_and_the_one_before(tmp_path: Path) -> None:
    """Restarts append; a new run sets the old log aside; a third forgets the first."""
    log, previous = tmp_path / "one.log", tmp_path / "one.log.1"
    for run in ("first", "second", "third"):
        async with supervisor.Supervisor() as kept:
            await kept.start([sh("one", f"echo {run} $$; exec sleep 1000", tmp_path)])
            await until(lambda: log.exists() and log.read_text().count("\n") == 1)
            os.kill(kept.pids()["one"], signal.SIGKILL)
            await until(lambda: log.read_text().count("\n") == 2)
        assert log.stat().st_mode & 0o777 == 0o600
    assert log.read_text().count("third") == 2
    assert previous.read_text().count("second") == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.log", "one.log.1"]


async def test_a_full_disk_does_not_end_the_supervision(tmp_path: Path) -> None:
    """If the report can't be written, what dies is restarted all the same."""

    def full(_: dict[str, int]) -> None:
        raise OSError(28, "No space left on device")

    async with supervisor.Supervisor(report=full) as kept:
        await kept.start([sh("one", "exec sleep 1000", tmp_path)])
        await killed(kept, "one")


def test_an_orphan_never_becomes_the_program(tmp_path: Path) -> None:
    """If the supervisor died between fork and the death signal's arming, the child leaves by itself."""
    touched = tmp_path / "touched"
    wrapper = [sys.executable, "-I", "-S", child.__file__]
    wanted = ["/bin/sh", "-c", f"echo > {touched}"]
    for parent, happens in ((os.getpid() + 1, False), (os.getpid(), True)):
        subprocess.run([*wrapper, str(parent), "9", "-", "0", str(tmp_path), *wanted], check=True)
        assert touched.exists() is happens


# The whole stack.


async def test_kill_9_of_either_server_loses_nothing(tmp_path: Path) -> None:
    """nats-server, the postmaster and one backend are killed in turn; all come back at the same address."""
    async with stack.holding(tmp_path / "data") as held:
        await held.start(PLAN)

        async def ask(question: str) -> object:
            connection = await asyncpg.connect(held.addresses.dsn("sigil_owner"), ssl=False, timeout=5)
            try:
                return await connection.fetchval(question)
            finally:
                await connection.close(timeout=5)

        await ask("create table kept (n int)")
        for number in range(1, 4):
            await ask(f"insert into kept values ({number})")
            await killed(held.supervisor, "postgres")
            assert await held.supervisor.wait_ready("postgres", 20)
            assert await ask("select count(*) from kept") == number

        # One backend dies: Postgres itself ends the others, recovers, and the postmaster lives on.
        postmaster = held.supervisor.pids()["postgres"]
        connection = await asyncpg.connect(held.addresses.dsn("sigil_owner"), ssl=False, timeout=5)
        backend = await connection.fetchval("select pg_backend_pid()")
        os.kill(backend, signal.SIGKILL)
        await until(connection.is_closed)
        async with asyncio.timeout(20):
            while not await answers(ask):
                await asyncio.sleep(0.02)
        assert await ask("select count(*) from kept") == 3
        assert held.supervisor.pids()["postgres"] == postmaster

        nats_pid = held.supervisor.pids()["nats"]
        os.kill(nats_pid, signal.SIGKILL)
        await until(lambda: held.supervisor.starts("nats") == 2)
        assert await held.supervisor.wait_ready("nats", 20)
        info = folder.running(held.folder.path)
        assert info is not None
        assert info.processes == held.supervisor.pids()
        assert info.processes["nats"] != nats_pid
    assert folder.running(tmp_path / "data") is None
    assert not is_held(tmp_path / "data")


async def test_kill_9_of_the_supervisor_leaves_no_process(tmp_path: Path) -> None:
    """The servers, Postgres's children and a deaf process are gone within seconds; the data starts again."""
    data = tmp_path / "data"
    with program(data, STUBBORN) as running:
        await_ready(running)
        info = folder.running(data)
        assert info is not None
        pids = holders(data)
        assert {running.pid, *info.processes.values()} < pids
        assert len(pids) > 6
        running.kill()
        await until(lambda: not any(map(lives, pids)), 5)
        assert folder.running(data) is None
    with program(data) as running:
        await_ready(running)
        running.terminate()
        assert running.wait(20) == 0
    assert not is_held(data)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
async def test_a_signal_stops_everything_in_order(number: signal.Signals, tmp_path: Path) -> None:
    """Asked to stop, the stack leaves no process and no run.json, and Postgres shut down cleanly."""
    data = tmp_path / "data"
    with program(data) as running:
        await_ready(running)
        pids = holders(data)
        running.send_signal(number)
        assert running.wait(20) == 0
    assert not any(map(lives, pids))
    assert not (data / "run.json").exists()
    assert "database system is shut down" in (data / "logs/postgres.log").read_text()


async def test_a_signal_during_the_start_stops_it(tmp_path: Path) -> None:
    """Ctrl-C while the first cluster is being made: everything ends, and the next start succeeds."""
    data = tmp_path / "data"
    with program(data) as running:
        await until((data / "postgres/new").exists)
        pids = holders(data)
        running.send_signal(signal.SIGINT)
        assert running.wait(20) == 0
        assert running.stdout is not None
        assert "ready" not in running.stdout.read()
        assert not any(map(lives, pids))
    async with stack.holding(data) as held:
        await held.start(PLAN)


async def test_a_second_signal_does_not_wait_for_the_deaf(tmp_path: Path) -> None:
    """The first Ctrl-C waits a minute for a process that ignores it; the second doesn't."""
    data = tmp_path / "data"
    with program(data, STUBBORN) as running:
        await_ready(running)
        log = data / "logs/sleeper.log"
        await until(lambda: log.exists() and "deaf" in log.read_text())
        pids = holders(data)
        running.send_signal(signal.SIGINT)
        with pytest.raises(subprocess.TimeoutExpired):
            running.wait(0.7)
        running.send_signal(signal.SIGINT)
        assert running.wait(10) == 0
    assert not any(map(lives, pids))


async def test_a_second_run_on_data_in_use_is_refused(tmp_path: Path) -> None:
    """The second hears who holds the folder; the first doesn't notice."""
    data = tmp_path / "data"
    with program(data) as first:
        await_ready(first)
        before = (data / "run.json").read_bytes()
        with program(data) as second:
            assert second.wait(20) == 1
            assert second.stderr is not None
            assert f"refused: {data} is in use by process {first.pid}" in second.stderr.read()
        assert (data / "run.json").read_bytes() == before
        assert is_held(data)


async def test_the_same_data_keeps_ports_passwords_and_rows(tmp_path: Path) -> None:
    """Two runs, one after the other, one address, one set of secrets, one table."""
    async with stack.holding(tmp_path / "data") as held:
        await held.start(PLAN)
        first = held.addresses
        connection = await asyncpg.connect(first.dsn("sigil_owner"), ssl=False)
        await connection.execute("create table kept as select 7 as n")
        await connection.close()
    async with stack.holding(tmp_path / "data") as held:
        await held.start(PLAN)
        assert held.addresses == first
        connection = await asyncpg.connect(first.dsn("sigil_owner"), ssl=False)
        assert await connection.fetchval("select n from kept") == 7
        await connection.close()


async def test_a_stale_postmaster_pid_that_names_a_stranger_is_no_obstacle(tmp_path: Path) -> None:
    """After a crash of the machine the number in postmaster.pid may belong to anybody, even of the same user."""
    data = tmp_path / "data"
    async with stack.holding(data) as held:
        await held.start(PLAN)
        lines = (data / "postgres/data/postmaster.pid").read_text().splitlines()
    uid = postgres.SERVER_UID if os.geteuid() == 0 else None
    with subprocess.Popen(["sleep", "1000"], user=uid) as stranger:
        try:
            stale = "\n".join([str(stranger.pid), *lines[1:]]) + "\n"
            (data / "postgres/data/postmaster.pid").write_text(stale)
            async with stack.holding(data) as held:
                await held.start(PLAN)
                assert held.supervisor.starts("postgres") == 1
        finally:
            stranger.kill()


async def test_a_failing_start_leaves_nothing_behind(tmp_path: Path) -> None:
    """If a listed process can't start, the servers that could are stopped too."""
    data = tmp_path / "data"
    with program(data, "exit 0") as running:
        await_ready(running)
        pids = holders(data)
        running.terminate()
        assert running.wait(20) == 0
    assert not any(map(lives, pids))

    def failing(addresses: stack.Addresses) -> list[supervisor.ProcessSpec]:
        return [sh("one", "exit 1", addresses.folder / "logs", ready=written(tmp_path / "never"))]

    with pytest.raises(StartFailed, match="one: died"):
        async with stack.holding(data) as held:
            await held.start(stack.Plan(bus_users=lambda _: (), roles=("sigil_owner",), make_processes=failing))
    assert not is_held(data)


def test_an_ordinary_user_runs_it_all(tmp_path: Path) -> None:
    """Without root: started, ready, everything owned by that user, stopped, nothing left, twice."""
    account = pwd.getpwnam("nobody") if os.geteuid() == 0 else pwd.getpwuid(os.getuid())
    place = Path(tempfile.mkdtemp(prefix="sigil-user-"))
    become = []
    if os.geteuid() == 0:
        os.chown(place, account.pw_uid, account.pw_gid)
        become = ["setpriv", f"--reuid={account.pw_uid}", f"--regid={account.pw_gid}", "--clear-groups"]
        if binaries.needs_search(Path(sys.executable)) or binaries.needs_search(Path(folder.__file__)):
            # Only so that this interpreter and our own files can be read, wherever they were installed.
            become += ["--inh-caps=-all,+dac_read_search", "--ambient-caps=-all,+dac_read_search"]
        else:
            become += ["--inh-caps=-all"]
    try:
        for _ in range(2):
            run = subprocess.Popen(
                [*become, sys.executable, "-c", PROGRAM, str(place / "data"), OBEDIENT],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                cwd="/",
            )
            with run:
                try:
                    await_ready(run)
                    pids = holders(place / "data")
                    assert len(pids) > 6
                    owners = {Path(f"/proc/{pid}").stat().st_uid for pid in pids}
                    assert owners == {account.pw_uid}
                    run.terminate()
                    assert run.wait(20) == 0
                finally:
                    run.kill()
                    run.wait()
            assert not any(map(lives, pids))
        files = [place, *place.rglob("*")]
        assert {path.lstat().st_uid for path in files} == {account.pw_uid}
    finally:
        shutil.rmtree(place)


async def test_programs_below_a_closed_folder_are_reached_without_opening_it(tmp_path: Path) -> None:
    """As in /root: the server's user can't search the way to its own programs, and no mode is changed."""
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    wheel = binaries.postgres().postgres.parents[2]
    for part in (
        wheel.name + "/pginstall18/bin",
        wheel.name + "/pginstall18/lib",
        wheel.name + "/pginstall18/share",
    ):
        shutil.copytree(wheel.parent / part, closed / part)
    libraries = wheel.parent / f"{wheel.name}.libs"
    shutil.copytree(libraries, closed / libraries.name)
    plan = stack.Plan(
        bus_users=lambda _: (),
        roles=("sigil_owner",),
        make_processes=lambda _: (),
        postgres_bin=closed / wheel.name / "pginstall18/bin",
    )
    async with stack.holding(tmp_path / "data") as held:
        await held.start(plan)
        postmaster = held.supervisor.pids()["postgres"]
        assert Path(f"/proc/{postmaster}/exe").readlink().is_relative_to(closed)
        status = Path(f"/proc/{postmaster}/status").read_text()
        capabilities = int(status.split("CapEff:\t")[1].split()[0], 16)
        assert capabilities in {0, 1 << child.CAP_DAC_READ_SEARCH, 1 << child.CAP_DAC_OVERRIDE}
        assert "\nUid:\t0" not in status
    assert closed.stat().st_mode & 0o777 == 0o700
    assert tmp_path.stat().st_mode & 0o077 == 0
