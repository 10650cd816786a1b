"""What judging a whole ledger again costs, beside the bare signature checks that it can't do without: from a file, on one core and on all,
as `sigil audit replay` does it, and where the time of one record goes."""

import functools
import getpass
import itertools
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from bench.figures import Figure, micro, rate
from cli import ledger, replaying
from cli.refusal import Refusal
from sigilcore import record, replay, signing, vouch
from sigilcore.access import Loa
from tests.simulator import House, Person

RECORDS = 20_000
SAMPLE = 4_000  # records whose time is taken apart
GAP_MS = 900  # between two calls of one caller, so that the clock moves as in a house
BOUND = "the signature; then JSON and hashes, read strictly, and decisions judged again"


def run(records: int = RECORDS) -> list[Figure]:
    """The figures of replay; the ledger is made once and kept in the temporary folder."""
    file = _ledger(records)
    parts = _Parts(_sample(file))
    verify = _best(parts.check, len(parts.signed))
    cores = replaying.cores()
    alone, alone_cpu_s = _timed(file, 1)
    figures = [
        Figure(
            what="Ed25519 checks of a ledger's own signatures, one core",
            value=rate(1 / verify.wall_s),
            limit=f"{micro(verify.cpu_s)} of processor time each",
        ),
        _figure("a ledger judged again on one core", alone, verify.wall_s),
        _processor("processor time of one record, one process", alone_cpu_s, verify.cpu_s),
    ]
    if cores > 1:
        together = parts.together(cores)
        every, every_cpu_s = _timed(file, cores)
        figures += [
            Figure(
                what=f"the same checks on {cores} cores at once",
                value=rate(1 / together),
                limit=f"one core × {cores} {rate(cores / verify.wall_s)}",
                ratio=f"{verify.wall_s / cores / together:.0%}",
                bound="what the machine's cores share",
            ),
            _figure(f"the ledger judged again on {cores} cores, worker start included", every, together),
            _processor(f"processor time of one record, {cores} workers and who asks them", every_cpu_s, verify.cpu_s),
        ]
    return [*figures, *parts.figures(verify.cpu_s)]


def _figure(what: str, record_s: float, verify_s: float) -> Figure:
    return Figure(
        what=what,
        value=rate(1 / record_s),
        limit=f"the bare checks on as many cores {rate(1 / verify_s)}; aim 80 %",
        ratio=f"{verify_s / record_s:.0%}",
        bound=BOUND,
    )


def _processor(what: str, record_cpu_s: float, verify_cpu_s: float) -> Figure:
    """Other work on the machine blurs this less than the rate."""
    return Figure(
        what=what,
        value=micro(record_cpu_s),
        limit=f"one verify {micro(verify_cpu_s)}",
        ratio=f"{verify_cpu_s / record_cpu_s:.0%}",
        bound=BOUND,
    )


def _timed(file: Path, workers: int) -> tuple[float, float]:
    """Seconds of one record, by the wall and by all processors; the best of two."""
    best = []
    for _ in range(2):
        began, spent = time.perf_counter(), _processors()
        count = ledger.replay(file, workers=workers).records
        best.append(((time.perf_counter() - began) / count, (_processors() - spent) / count))
    return min(wall for wall, _ in best), min(cpu for _, cpu in best)


def _processors() -> float:
    """Processor seconds of this process and of those that it has waited for."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


class _Spent(msgspec.Struct, frozen=True):
    """Seconds of one record, the least of several rounds."""

    wall_s: float
    cpu_s: float


class _Parts:
    """One process's work on the same records, step by step as `vouch` and `replay` take it."""

    def __init__(self, lines: list[bytes]) -> None:
        self.lines = lines
        self.runs = [lines[at : at + replaying.RUN_RECORDS] for at in range(0, len(lines), replaying.RUN_RECORDS)]

    @functools.cached_property
    def signed(self) -> list[tuple[bytes, bytes, bytes]]:
        """Key, message and signature of each record."""
        seen = [record.check_placed(vouch.read(line)) for line in self.lines]
        machine = replay.Replay()
        machine.absorb(vouch.Voucher().vouch(0, self.lines), self.lines)
        return [
            (entry.public, signing.pae(signing.RECORD, one.core_bytes), signing.signature_bytes(one.header.sig))
            for one in seen
            if (entry := machine.state.key(one.header.key_id)) is not None
        ]

    def check(self) -> None:
        """The bare checks, with nothing between them."""
        assert all(itertools.starmap(signing.verify, self.signed))

    def together(self, cores: int) -> float:
        """Seconds of one check while as many processes as there are cores do nothing else."""
        with multiprocessing.get_context("fork").Pool(cores) as pool:
            spent = pool.map(_checked, [self.signed] * cores, chunksize=1)
        return max(spent) / len(self.signed) / cores

    def figures(self, verify_cpu_s: float) -> list[Figure]:
        """Where the processor time of one record goes."""
        reading = _best(self._read, len(self.lines)).cpu_s
        vouching = _best(self._vouch, len(self.lines)).cpu_s
        both = _best(self._judge, len(self.lines)).cpu_s
        steps = {
            "its signature": verify_cpu_s,
            "read strictly: JSON, canonical form, hashes": reading,
            "judged by what governs, its decisions again, its leaf": vouching - reading - verify_cpu_s,
            "its place among the others": both - vouching,
        }
        return [
            Figure(what=f"of one record: {what}", value=micro(spent), ratio=f"{spent / both:.0%} of {micro(both)}")
            for what, spent in steps.items()
        ]

    def _read(self) -> None:
        for run in self.runs:
            _ = [record.check_placed(vouch.read(line)) for line in run]

    def _vouch(self) -> None:
        voucher, first = vouch.Voucher(), 0
        for run in self.runs:
            voucher.vouch(first, run)
            first += len(run)

    def _judge(self) -> None:
        voucher, machine = vouch.Voucher(), replay.Replay()
        for run in self.runs:
            machine.absorb(voucher.vouch(machine.size, run), run)


def _checked(signed: list[tuple[bytes, bytes, bytes]]) -> float:
    """Seconds of all these checks, the mean of three rounds."""
    began = time.perf_counter()
    for _ in range(3):
        assert all(itertools.starmap(signing.verify, signed))
    return (time.perf_counter() - began) / 3


def _best(work: Callable[[], None], count: int) -> _Spent:
    rounds = []
    for _ in range(3):
        began, spent = time.perf_counter(), time.process_time()
        with replaying._no_collector():
            work()
        rounds.append((time.perf_counter() - began, time.process_time() - spent))
    return _Spent(min(wall for wall, _ in rounds) / count, min(cpu for _, cpu in rounds) / count)


def _sample(file: Path) -> list[bytes]:
    with file.open("rb") as opened:
        return list(itertools.islice(opened, 1, SAMPLE + 1))


def _ledger(records: int) -> Path:
    """A ledger of at least so many records; made anew if the kept one doesn't hold any more."""
    folder = Path(tempfile.gettempdir()) / f"sigil-bench-{getpass.getuser()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    file = folder / f"ledger-{records}.jsonl"
    try:
        ledger.replay(file)
    except (OSError, Refusal, replay.Diverged):
        _write(file, records)
    return file


def _write(file: Path, records: int) -> None:
    """A sealed house, and memories of ordinary length: a decision and an effect each, one by one, the dearest shape there is."""
    house = House()
    operator = house.issue(Person("ada", keyed=False), Loa.OPERATOR)
    house.seal(house.mentors(3), 2)
    while len(house.log) < records:
        house.clock.advance(GAP_MS)
        house.remember(operator, f"note-{len(house.log)}", "a memory of ordinary length " * 12)
    with file.open("wb") as out:
        out.write(msgspec.json.encode(ledger.Head(checkpoint=house.checkpoint().decode())) + b"\n")
        out.writelines(msgspec.json.encode(placed) + b"\n" for placed in house.placed())


if __name__ == "__main__":
    for figure in run():
        print(f"{figure.what}: {figure.value}; {figure.limit}; {figure.ratio}")
