"""A ledger judged again on all cores: workers vouch for runs of records, this process asks each record's place, in order.

The file is read once, in runs of bounded length and size, and each run goes to the workers in turn with the governing records that its
worker hasn't seen; at most `AHEAD` runs a worker are in memory. What a worker says counts only for records whose whole past was judged
good here; whatever it can't vouch for is judged here by the reference (`sigilcore.replay`). So more workers change how long it takes, and
nothing else.

Workers are spawned, talk over a pipe of their own and end with this process: a pipe that closes is the end of their work.
"""

import collections
import contextlib
import gc
import itertools
import multiprocessing
import os
import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.connection import Connection
from typing import Final

import msgspec

from sigilcore import replay, vouch

RUN_RECORDS: Final = 1024
RUN_BYTES: Final = 4 * 1024 * 1024  # a run ends after the record that reaches it
AHEAD: Final = 2  # runs a worker has at once: one in work, one waiting

Progress = Callable[[int], None]


class Job(msgspec.Struct, frozen=True, array_like=True):
    """One run for one worker, and the governing lines before it that this worker hasn't seen."""

    earlier: tuple[tuple[int, bytes], ...]
    first: int
    lines: tuple[bytes, ...]


_JOB = msgspec.msgpack.Decoder(Job)
_RUN = msgspec.msgpack.Decoder(vouch.Run)


class WorkerDied(Exception):  # noqa: N818 - names what happened
    """A worker ended without an answer."""


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def replay_lines(
    lines: Iterable[bytes],
    signed_checkpoint: bytes,
    pins: replay.Pins,
    *,
    workers: int,
    progress: Progress = lambda _: None,
) -> replay.Report:
    """Judge a ledger's lines; `progress` hears how many records were judged.

    Raises:
        replay.Diverged: at the first record that doesn't follow.
        msgspec.DecodeError: a line can't be read.
        WorkerDied: something killed a worker.

    """
    machine = replay.Replay(pins)
    runs = _runs(lines)
    begun = list(itertools.islice(runs, 2))
    # A ledger of one run is judged sooner than a process starts.
    if workers < 2 or len(begun) < 2:
        for run in itertools.chain(begun, runs):
            for line in run:
                machine.step(vouch.LINE.decode(line))
            progress(machine.size)
    else:
        with _team(workers) as team:
            _drive(machine, itertools.chain(begun, runs), team, progress)
    return machine.finish(signed_checkpoint)


def _runs(lines: Iterable[bytes]) -> Iterator[tuple[bytes, ...]]:
    run: list[bytes] = []
    size = 0
    for line in lines:
        run.append(line)
        size += len(line)
        if len(run) >= RUN_RECORDS or size >= RUN_BYTES:
            yield tuple(run)
            run, size = [], 0
    if run:
        yield tuple(run)


class _Worker:
    """One process, and what it has yet to be told."""

    def __init__(self, context: multiprocessing.context.SpawnContext) -> None:
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_work, args=(theirs,), daemon=True)
        self.process.start()
        theirs.close()
        self.earlier: list[tuple[int, bytes]] = []

    def send(self, first: int, run: tuple[bytes, ...]) -> None:
        job = Job(earlier=tuple(self.earlier), first=first, lines=run)
        self.earlier = []
        self.pipe.send_bytes(msgspec.msgpack.encode(job))

    def receive(self) -> vouch.Run:
        try:
            return _RUN.decode(self.pipe.recv_bytes())
        except EOFError:
            raise WorkerDied("a worker ended without an answer; is there too little memory?") from None


@contextlib.contextmanager
def _team(count: int) -> Iterator[list[_Worker]]:
    context = multiprocessing.get_context("spawn")
    team = [_Worker(context) for _ in range(count)]
    try:
        yield team
    finally:
        for worker in team:
            worker.pipe.close()
            worker.process.terminate()
        for worker in team:
            worker.process.join()


def _drive(machine: replay.Replay, runs: Iterable[tuple[bytes, ...]], team: list[_Worker], progress: Progress) -> None:
    """Give each run to the next worker, and take the answers in the same order."""
    sent: collections.deque[tuple[_Worker, tuple[bytes, ...]]] = collections.deque()
    first = 0
    for worker, run in zip(itertools.cycle(team), runs):
        if len(sent) >= AHEAD * len(team):
            _take(machine, *sent.popleft(), progress)
        governing = [(seq, line) for seq, line in enumerate(run, first) if vouch.governs(line)]
        worker.send(first, run)
        for other in team:
            if other is not worker:
                other.earlier += governing
        sent.append((worker, run))
        first += len(run)
    while sent:
        _take(machine, *sent.popleft(), progress)


def _take(machine: replay.Replay, worker: _Worker, run: tuple[bytes, ...], progress: Progress) -> None:
    machine.absorb(worker.receive(), run)
    progress(machine.size)


def _work(pipe: Connection) -> None:
    """A worker's life."""
    gc.disable()  # values here hold no cycles; reference counts free them
    jobs: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(pipe, jobs), daemon=True).start()
    voucher = vouch.Voucher()
    with contextlib.suppress(BrokenPipeError, KeyboardInterrupt):
        while (asked := jobs.get()) is not None:
            job = _JOB.decode(asked)
            for seq, line in job.earlier:
                voucher.follow(seq, line)
            pipe.send_bytes(msgspec.msgpack.encode(voucher.vouch(job.first, job.lines)))


def _listen(pipe: Connection, jobs: queue.SimpleQueue[bytes | None]) -> None:
    """Take jobs off the pipe as they come: if both sides waited for the other to read, neither ever would."""
    with contextlib.suppress(OSError, EOFError):
        while True:
            jobs.put(pipe.recv_bytes())
    jobs.put(None)
