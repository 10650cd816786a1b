"""Many processes under one: order, readiness, restarts, an orderly end.

Invariants:

- a process starts once everything in its `after` is ready, also when it is started again;
- what dies is started again, for ever, after 0.1 s growing to 5 s; ten seconds of life make it 0.1 s again;
- what says of itself that only a new start helps (`sound`) is ended, and so started again;
- the end runs backwards: a process is asked to stop only when all that come after it have ended, and nothing
  is left running when `stop` returns;
- when the supervisor itself is killed, the kernel sends every process its `death_signal` (see `child`).

`critical` decides about the start alone: a critical process must be ready for `start` to return, and a start
with one that keeps dying fails. Afterwards both kinds are restarted alike.
"""

import asyncio
import contextlib
import signal
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from sigilrun import telemetry
from sigilrun.embedded import spawn
from sigilrun.embedded.errors import EmbeddedError, StartFailed

BACKOFF_FIRST_S = 0.1
BACKOFF_MOST_S = 5.0
# A process that lived this long didn't fail at starting.
SETTLED_S = 10.0
# Deaths before a first readiness after which a start is given up: more would repeat the same message.
DEATHS_AT_START = 4
# One question "are you ready" may take this long; a hanging answer is a no.
PROBE_TIMEOUT_S = 2.0
PROBE_FIRST_S = 0.015
PROBE_MOST_S = 0.5
# Between two questions whether a process that runs is sound.
SOUND_S = 2.0
# A log that a crashing process has grown beyond this is set aside at the next restart.
LOG_MOST_BYTES = 16 * 1024 * 1024


class ProcessSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What to run and how to treat it. `env` is the whole environment: nothing else is inherited."""

    name: str
    argv: tuple[str, ...]
    env: dict[str, str]
    log: Path
    cwd: Path
    ready: Callable[[], Awaitable[bool]] | None = None
    ready_timeout_s: float = 30.0
    # Asked now and then while it runs: a clear no ends it, so that it is started anew. No answer is no such no.
    sound: Callable[[], Awaitable[bool]] | None = None
    stop_signal: int = signal.SIGTERM
    stop_timeout_s: float = 10.0
    # Sent when the first was not enough, before the kill that always comes last.
    second_signal: int | None = None
    second_timeout_s: float = 3.0
    # What the kernel sends when the supervisor dies. SIGKILL, unless the process has children to end.
    death_signal: int = signal.SIGKILL
    user: int | None = None
    # Lets `user` reach binaries below folders it may not search.
    keep_search: bool = False
    after: tuple[str, ...] = ()
    critical: bool = True
    keep_fds: tuple[int, ...] = ()


class _Kept:
    """One process over all its lives. Owned by the supervisor."""

    def __init__(self, spec: ProcessSpec) -> None:
        self.spec = spec
        self.process: spawn.Process | None = None
        self.ready = asyncio.Event()
        self.was_ready = False
        self.last_answer = "none"
        self.starts = 0
        self.started = asyncio.Event()
        self.given_up = asyncio.Event()
        self.task: asyncio.Task[None] | None = None
        self.ended = asyncio.Event()


class Supervisor:
    """Starts, keeps and stops processes; `report` hears of every change of process ids."""

    def __init__(
        self,
        *,
        report: Callable[[dict[str, int]], None] = lambda _: None,
        keep_fds: Sequence[int] = (),
    ) -> None:
        """`keep_fds` are handed to every process, such as the lock that says the data is in use."""
        self._kept: dict[str, _Kept] = {}
        self._report = report
        self._keep_fds = tuple(keep_fds)
        self._hurry = asyncio.Event()

    async def __aenter__(self) -> Self:
        """Nothing runs yet."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Whatever happened, nothing stays behind."""
        await self.stop()

    def pids(self) -> dict[str, int]:
        """Process ids of what runs at this moment, by name."""
        running = ((name, kept.process) for name, kept in self._kept.items())
        return {name: process.pid for name, process in running if process and not process.exited.is_set()}

    def starts(self, name: str) -> int:
        """How often a process was started; 1 when it never died."""
        return self._kept[name].starts

    async def wait_ready(self, name: str, timeout_s: float) -> bool:
        """True once the process is ready, at once if it is."""
        ready = self._kept[name].ready
        await spawn.any_of((ready,), timeout_s)
        return ready.is_set()

    async def start(self, specs: Sequence[ProcessSpec]) -> None:
        """Add processes and return when the critical ones are ready; may be called again with more.

        Raises:
            StartFailed: a critical one kept dying or wasn't ready in its time. The rest still runs: stop it.

        """
        _refuse_bad_order(specs, known=self._kept)
        added = [_Kept(spec) for spec in specs]
        self._kept.update((kept.spec.name, kept) for kept in added)
        for kept in added:
            rotate(kept.spec.log)
            kept.task = asyncio.create_task(self._keep(kept), name=f"keep {kept.spec.name}")
        waits = [asyncio.create_task(_first_ready(kept)) for kept in added if kept.spec.critical]
        try:
            await asyncio.gather(*waits)
        finally:
            for wait in waits:
                wait.cancel()

    def hurry_when(self, hurry: asyncio.Event) -> None:
        """Once this is set, stopping waits no longer: whoever is asked to end is killed."""
        self._hurry = hurry

    async def stop(self) -> None:
        """End everything, last first, as parallel as `after` allows. Safe to call twice."""
        await asyncio.gather(*(self._end(kept) for kept in self._kept.values()))

    async def _end(self, kept: _Kept) -> None:
        name = kept.spec.name
        followers = [other for other in self._kept.values() if name in other.spec.after]
        await asyncio.gather(*(other.ended.wait() for other in followers))
        if kept.task is not None:
            kept.task.cancel()
            await asyncio.gather(kept.task, return_exceptions=True)
        if kept.process is not None:
            await kept.process.end(_stop_steps(kept.spec), self._hurry)
        kept.ready.clear()
        kept.ended.set()
        self._report_pids()

    async def _keep(self, kept: _Kept) -> None:
        """One process for ever: wait for what it needs, start it, watch it die, wait, again."""
        loop = asyncio.get_running_loop()
        spec, delay_s = kept.spec, BACKOFF_FIRST_S
        while True:
            for name in spec.after:
                await self._kept[name].ready.wait()
            began = loop.time()
            kept.starts += 1
            kept.started.set()
            try:
                if _size(spec.log) > LOG_MOST_BYTES:
                    rotate(spec.log)
                # Nothing may await inside this: a process without an owner couldn't be stopped.
                process = kept.process = self._spawn(spec)
            except OSError as error:
                _tell("process_not_started", process=spec.name, error=str(error))
            else:
                await self._live(kept, process)
            lived_s = loop.time() - began
            if not kept.was_ready and kept.starts >= DEATHS_AT_START:
                kept.given_up.set()
            delay_s = BACKOFF_FIRST_S if lived_s >= SETTLED_S else delay_s
            await asyncio.sleep(delay_s)
            delay_s = min(delay_s * 2, BACKOFF_MOST_S)

    async def _live(self, kept: _Kept, process: spawn.Process) -> None:
        """From its start to its death."""
        self._report_pids()
        if await _until_ready(kept, process):
            kept.ready.set()
            kept.was_ready = True
            await self._watch(kept, process)
        kept.ready.clear()
        self._report_pids()
        _tell("process_died", process=kept.spec.name, code=process.returncode, starts=kept.starts)

    async def _watch(self, kept: _Kept, process: spawn.Process) -> None:
        """Until its death, or until it says of itself that only a new start helps."""
        if kept.spec.sound is None:
            await process.exited.wait()
            return
        while not await process.wait(SOUND_S):
            if not await _is_sound(kept.spec.sound):
                _tell("process_unsound", process=kept.spec.name)
                kept.ready.clear()
                await process.end(_stop_steps(kept.spec), self._hurry)

    def _report_pids(self) -> None:
        """A full disk must not end the supervision: the report is one change late, then."""
        try:
            self._report(self.pids())
        except OSError as error:
            _tell("report_failed", error=str(error))

    def _spawn(self, spec: ProcessSpec) -> spawn.Process:
        return spawn.Process(
            spec.argv,
            env=spec.env,
            log=spec.log,
            cwd=spec.cwd,
            uid=spec.user,
            keep_search=spec.keep_search,
            death_signal=spec.death_signal,
            keep_fds=(*self._keep_fds, *spec.keep_fds),
        )


def _tell(event: str, **facts: object) -> None:
    """Log it; a closed terminal must not end the supervision."""
    with contextlib.suppress(OSError, ValueError):
        telemetry.log.warning(event, **facts)


def log_tail(path: Path) -> str:
    """The last lines of a log, for a message about why its process didn't start."""
    with contextlib.suppress(OSError), path.open("rb") as log:
        log.seek(max(0, _size(path) - 8192))
        return "\n".join(log.read().decode("utf-8", "replace").splitlines()[-12:])
    return ""


async def _first_ready(kept: _Kept) -> None:
    """Wait for a critical process as long as it may take, not counting what it waits for itself."""
    spec = kept.spec
    await kept.started.wait()
    await spawn.any_of((kept.ready, kept.given_up), spec.ready_timeout_s)
    if kept.ready.is_set():
        return
    gave_up = kept.given_up.is_set()
    what = f"died {kept.starts} times" if gave_up else f"not ready in {spec.ready_timeout_s:g} s"
    what += f" (its last answer: {kept.last_answer})"
    raise StartFailed(f"{spec.name}: {what}; its log {spec.log} ends:\n{log_tail(spec.log)}")


async def _until_ready(kept: _Kept, process: spawn.Process) -> bool:
    """Ask until it says yes (True) or has died (False); the questions become rarer."""
    delay_s = PROBE_FIRST_S
    while not process.exited.is_set():
        if await _says_ready(kept):
            # The answer may come from a process that died meanwhile.
            return not process.exited.is_set()
        await process.wait(delay_s)
        delay_s = min(delay_s * 1.5, PROBE_MOST_S)
    return False


async def _says_ready(kept: _Kept) -> bool:
    """One question. Whatever it stumbles over means "not yet", and is kept to be told."""
    if kept.spec.ready is None:
        return True
    try:
        async with asyncio.timeout(PROBE_TIMEOUT_S):
            is_ready = await kept.spec.ready()
    except Exception as error:
        kept.last_answer = f"{type(error).__name__}: {error}"
        return False
    kept.last_answer = "ready" if is_ready else "not ready"
    return is_ready


async def _is_sound(asks: Callable[[], Awaitable[bool]]) -> bool:
    """False only if it says so."""
    try:
        async with asyncio.timeout(PROBE_TIMEOUT_S):
            return await asks()
    except Exception:
        return True


def _stop_steps(spec: ProcessSpec) -> list[tuple[int, float]]:
    steps = [(spec.stop_signal, spec.stop_timeout_s)]
    if spec.second_signal is not None:
        steps.append((spec.second_signal, spec.second_timeout_s))
    return steps


def _refuse_bad_order(specs: Sequence[ProcessSpec], *, known: Mapping[str, _Kept]) -> None:
    """Every `after` must name a process listed before: a list read from the top can't have a circle."""
    critical = {name: kept.spec.critical for name, kept in known.items()}
    for spec in specs:
        if spec.name in critical:
            raise EmbeddedError(f"two processes are named {spec.name}")
        for name in spec.after:
            if name not in critical:
                raise EmbeddedError(f"{spec.name} comes after {name}, which isn't listed before it")
            if spec.critical and not critical[name]:
                raise EmbeddedError(f"{spec.name} is critical and comes after {name}, which isn't")
        critical[spec.name] = spec.critical


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def rotate(path: Path) -> None:
    """Set a log of an earlier run aside; one previous file is kept."""
    if _size(path) > 0:
        path.replace(path.with_name(path.name + ".1"))
