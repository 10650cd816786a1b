"""One process: started through `child`, watched through a pidfd, ended with its whole group.

Invariants:

- the parent of every process is the thread that runs the event loop, because the death signal is tied to it;
- a process leads its own session: Ctrl-C in a terminal reaches the supervisor only;
- nothing of our environment is inherited that the caller didn't name;
- when a leader ends, what is left of its group is killed before the leader is reaped, so that the group's
  number can't have passed to a stranger.
"""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from sigilrun.embedded import child

_INHERITED = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR")


def base_env() -> dict[str, str]:
    """The part of our environment that any program may see: where things are, never a secret."""
    return {name: os.environ[name] for name in _INHERITED if name in os.environ}


class Process:
    """A running or ended process. `exited` is set once it has ended and was reaped."""

    def __init__(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str],
        log: Path,
        cwd: Path,
        uid: int | None = None,
        keep_search: bool = False,
        death_signal: int = signal.SIGKILL,
        keep_fds: Sequence[int] = (),
    ) -> None:
        """Start it now; must be called on the event loop's thread.

        Raises:
            OSError: the machine has no room for another process, or the log can't be opened.

        """
        promises = (os.getpid(), int(death_signal), "-" if uid is None else uid, int(keep_search), cwd)
        command = [sys.executable, "-I", "-S", child.__file__, *map(str, promises), *argv]
        output = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            self._popen = subprocess.Popen(  # noqa: S603 - argv comes from the stack's own wiring
                command,
                env=dict(env),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                pass_fds=tuple(keep_fds),
            )
        finally:
            os.close(output)
        self.pid = self._popen.pid
        self.exited = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        try:
            self._pidfd = os.pidfd_open(self.pid)
        except OSError:
            self._popen.kill()
            self._popen.wait()
            raise
        self._loop.add_reader(self._pidfd, self._reap)

    @property
    def returncode(self) -> int | None:
        """None while it runs; negative when a signal ended it."""
        return self._popen.returncode

    def _reap(self) -> None:
        self._loop.remove_reader(self._pidfd)
        os.close(self._pidfd)
        self.signal_group(signal.SIGKILL)
        self._popen.wait()
        self.exited.set()

    def signal(self, number: int) -> None:
        """Send a signal to the process itself; one that has ended hears nothing."""
        if not self.exited.is_set():
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def signal_group(self, number: int) -> None:
        """Send a signal to everything the process has started in its group, and to itself."""
        if not self.exited.is_set():
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, number)

    async def wait(self, timeout_s: float) -> bool:
        """True if it has ended within the time."""
        await any_of((self.exited,), timeout_s)
        return self.exited.is_set()

    async def end(self, steps: Sequence[tuple[int, float]], hurry: asyncio.Event | None = None) -> None:
        """Ask by each signal in turn, wait its seconds, then kill; a set `hurry` skips the waiting."""
        for number, seconds in steps:
            if hurry is not None and hurry.is_set():
                break
            self.signal(number)
            await any_of((self.exited,) if hurry is None else (self.exited, hurry), seconds)
            if self.exited.is_set():
                return
        self.signal_group(signal.SIGKILL)
        await self.exited.wait()


async def any_of(events: Sequence[asyncio.Event], timeout_s: float | None = None) -> None:
    """Return when one of the events is set or the time is over; ask the events which it was."""
    waits = [asyncio.ensure_future(event.wait()) for event in events]
    try:
        await asyncio.wait(waits, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()


async def run(
    argv: Sequence[str],
    *,
    env: Mapping[str, str],
    log: Path,
    cwd: Path,
    uid: int | None = None,
    keep_search: bool = False,
    timeout_s: float,
) -> int:
    """Run a program to its end; killed, and -9 returned, when the time is over or the caller is cancelled."""
    process = Process(argv, env=env, log=log, cwd=cwd, uid=uid, keep_search=keep_search)
    try:
        await process.wait(timeout_s)
    finally:
        await process.end(())
    return process.returncode if process.returncode is not None else -signal.SIGKILL
