"""A ledger judged again on all cores: workers vouch for runs of records, this process asks each record's place, in order.

The file is read in runs of bounded length and size. Which bytes a run has is told to the workers in turn, with the governing records that
its worker hasn't seen; the worker reads them itself, so no other record crosses a pipe, and what comes back is a few hundred bytes for
each. At most `AHEAD` runs a worker are in memory. What a worker says counts only for records whose whole past was judged good here;
whatever it can't vouch for is judged here by the reference (`sigilcore.replay`). So more workers change how long it takes, and nothing
else; nor does a file that changes under them: what is judged here is held to the leaf that the worker read.

Workers talk over a pipe of their own and end with this process: a pipe that closes is the end of their work. They are forked where that
is safe, since importing a program again costs as much as thousands of records; all that they do is read, compute and answer.
"""

import collections
import contextlib
import gc
import itertools
import multiprocessing
import os
import queue
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import BinaryIO, Final

import msgspec

from sigilcore import replay, vouch

RUN_RECORDS: Final = 512
RUN_BYTES: Final = 4 * 1024 * 1024  # a run ends after the record that reaches it
LINE_BYTES: Final = 2 * 1024 * 1024  # a header of 16 KiB and a payload of 1 MiB, the largest there are, and room
AHEAD: Final = 2  # runs a worker has at once: one in work, one waiting

Progress = Callable[[int], None]


class Run(msgspec.Struct, frozen=True):
    """Consecutive records of the file: the seq of the first, where its line begins, and the lines."""

    first: int
    at: int
    lines: tuple[bytes, ...]


class Job(msgspec.Struct, frozen=True, array_like=True):
    """One run for one worker, as a place in the file, and the governing lines before it that this worker hasn't seen."""

    earlier: tuple[tuple[int, bytes], ...]
    first: int
    at: int
    size: int


_JOB = msgspec.msgpack.Decoder(Job)
_VOUCHED = msgspec.msgpack.Decoder(vouch.Run)


class WorkerDied(Exception):  # noqa: N818 - names what happened
    """A worker ended without an answer."""


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def replay_file(
    file: BinaryIO,
    signed_checkpoint: bytes,
    pins: replay.Pins,
    *,
    workers: int,
    progress: Progress = lambda _: None,
) -> replay.Report:
    """Judge the records of a file from where it stands, a line each; `progress` hears how many were judged.

    Raises:
        replay.Diverged: at the first record that doesn't follow.
        msgspec.DecodeError: a line can't be read.
        WorkerDied: something killed a worker.

    """
    machine = replay.Replay(pins)
    runs = _runs(file)
    begun = list(itertools.islice(runs, 2))
    with _no_collector():
        if workers < 2 or len(begun) < 2:
            voucher = vouch.Voucher()
            for run in itertools.chain(begun, runs):
                machine.absorb(voucher.vouch(run.first, run.lines), run.lines)
                progress(machine.size)
        else:
            with _team(workers, Path(file.name)) as team:
                _drive(machine, itertools.chain(begun, runs), team, progress)
    return machine.finish(signed_checkpoint)


@contextlib.contextmanager
def _no_collector() -> Iterator[None]:
    """Values here hold no cycles and reference counts free them, but the collector would walk all that is remembered, again and again."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def _runs(file: BinaryIO) -> Iterator[Run]:
    first, at, lines, size = 0, file.tell(), [], 0
    # What is too long for a line comes in pieces, and no piece is a record.
    while line := file.readline(LINE_BYTES):
        lines.append(line)
        size += len(line)
        if len(lines) >= RUN_RECORDS or size >= RUN_BYTES:
            yield Run(first, at, tuple(lines))
            first, at, lines, size = first + len(lines), at + size, [], 0
    if lines:
        yield Run(first, at, tuple(lines))


class _Worker:
    """One process, and what it has yet to be told."""

    def __init__(self, file: Path) -> None:
        linux = sys.platform == "linux"
        context = multiprocessing.get_context("fork") if linux else multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_work, args=(file, theirs, self.pipe), daemon=True)
        self.process.start()
        theirs.close()
        self.earlier: list[tuple[int, bytes]] = []

    def send(self, run: Run) -> None:
        job = Job(tuple(self.earlier), run.first, run.at, sum(map(len, run.lines)))
        self.earlier = []
        self.pipe.send_bytes(msgspec.msgpack.encode(job))

    def receive(self) -> vouch.Run:
        try:
            return _VOUCHED.decode(self.pipe.recv_bytes())
        except EOFError:
            raise WorkerDied("a worker ended without an answer; is there too little memory?") from None


@contextlib.contextmanager
def _team(count: int, file: Path) -> Iterator[list[_Worker]]:
    team = [_Worker(file) for _ in range(count)]
    try:
        yield team
    finally:
        for worker in team:
            worker.pipe.close()
            worker.process.terminate()
        for worker in team:
            worker.process.join()


def _drive(machine: replay.Replay, runs: Iterable[Run], team: list[_Worker], progress: Progress) -> None:
    """Give each run to the next worker, and take the answers in the same order."""
    sent: collections.deque[tuple[_Worker, Run]] = collections.deque()
    for worker, run in zip(itertools.cycle(team), runs):
        if len(sent) >= AHEAD * len(team):
            _take(machine, *sent.popleft(), progress)
        worker.send(run)
        governing = [(seq, line) for seq, line in enumerate(run.lines, run.first) if vouch.governs(line)]
        for other in team:
            if other is not worker:
                other.earlier += governing
        sent.append((worker, run))
    while sent:
        _take(machine, *sent.popleft(), progress)


def _take(machine: replay.Replay, worker: _Worker, run: Run, progress: Progress) -> None:
    machine.absorb(worker.receive(), run.lines)
    progress(machine.size)


def _work(file: Path, pipe: Connection, parents: Connection) -> None:
    """A worker's life."""
    parents.close()  # else this end would keep open what tells that the parent is gone
    gc.disable()  # as in `_no_collector`
    jobs: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(pipe, jobs), daemon=True).start()
    voucher = vouch.Voucher()
    with file.open("rb", buffering=0) as opened, contextlib.suppress(BrokenPipeError, KeyboardInterrupt):
        while (asked := jobs.get()) is not None:
            job = _JOB.decode(asked)
            for seq, line in job.earlier:
                voucher.follow(seq, line)
            lines = os.pread(opened.fileno(), job.size, job.at).splitlines(keepends=True)
            pipe.send_bytes(msgspec.msgpack.encode(voucher.vouch(job.first, lines)))


def _listen(pipe: Connection, jobs: queue.SimpleQueue[bytes | None]) -> None:
    """Take jobs off the pipe as they come: if both sides waited for the other to read, neither ever would."""
    with contextlib.suppress(OSError, EOFError):
        while True:
            jobs.put(pipe.recv_bytes())
    jobs.put(None)
