"""Processor time by process: what a figure costs, however the machine's two cores were shared while it was taken."""

import contextlib
import os
import resource
from pathlib import Path


class Spent:
    """Processor time of this process and of others with their children, from one moment to another."""

    def __init__(self, **pids: int) -> None:
        self._pids = pids
        self._since = self._now()

    def each(self, count: int, *, least_us: float = 0) -> str:
        """Microseconds of one of so many, by name."""
        spent = {name: seconds / count * 1e6 for name, seconds in self._so_far().items()}
        return ", ".join(f"{name} {micros:.0f} µs" for name, micros in spent.items() if micros >= least_us)

    def all(self, count: int) -> float:
        """Seconds of one of so many, of all processes together."""
        return sum(self._so_far().values()) / count

    def _so_far(self) -> dict[str, float]:
        return {name: now - self._since[name] for name, now in self._now().items()}

    def _now(self) -> dict[str, float]:
        own = resource.getrusage(resource.RUSAGE_SELF)
        others = {name: family_s(pid) for name, pid in self._pids.items()}
        return {"here": own.ru_utime + own.ru_stime} | others


def family_s(pid: int) -> float:
    """Seconds of processor time: what a process has used so far, with its children: those that live, and those that it has seen end."""
    ticks = 0
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = path.read_text().rsplit(")", 1)[1].split()
            if int(path.parent.name) == pid:
                ticks += sum(map(int, fields[11:15]))
            elif int(fields[1]) == pid:
                ticks += sum(map(int, fields[11:13]))
    return ticks / os.sysconf("SC_CLK_TCK")
