"""What judging a whole ledger again costs: one core record by record, and all cores from a file as `sigil audit replay` does it."""

import getpass
import os
import tempfile
import time
from pathlib import Path

import msgspec

from bench import limits
from bench.figures import Figure, micro, rate
from cli import ledger, replaying
from cli.refusal import Refusal
from sigilcore import replay, signing
from sigilcore.access import Loa
from tests.simulator import House, Person

RECORDS = 20_000
GAP_MS = 900  # between two calls of one caller, so that the clock moves as in a house


def run(records: int = RECORDS) -> list[Figure]:
    """The figures of replay; the ledger is made once and kept in the temporary folder."""
    file = _ledger(records)
    _, verify_s = limits.signatures()
    verify_cpu_s = _verify_processor_s()
    cores = replaying.cores()
    alone, alone_cpu_s = _timed(file, 1)
    figures = [_figure("a ledger judged again on one core", alone, verify_s, 1)]
    if cores > 1:
        all_s, all_cpu_s = _timed(file, cores)
        figures.append(_figure(f"the same on {cores} cores, worker start included", all_s, verify_s, cores))
        alone_cpu_s = min(alone_cpu_s, all_cpu_s)
    figures.append(
        Figure(
            what="processor time of one record, all processes",
            value=micro(alone_cpu_s),
            limit=f"one verify {micro(verify_cpu_s)}",
            ratio=f"{verify_cpu_s / alone_cpu_s:.0%}",
            bound="the signature, then reading strictly and judging decisions again",
        )
    )
    return figures


def _figure(what: str, record_s: float, verify_s: float, cores: int) -> Figure:
    return Figure(
        what=what,
        value=rate(1 / record_s),
        limit=f"signature checks × {cores} {rate(cores / verify_s)}; aim 80 %",
        ratio=f"{verify_s / cores / record_s:.0%}",
        bound="the signature, then reading strictly and judging decisions again",
    )


def _timed(file: Path, workers: int) -> tuple[float, float]:
    """Seconds of one record, by the wall and by all processors; the best of two."""
    best = []
    for _ in range(2):
        began, spent = time.perf_counter(), _processors()
        count = ledger.replay(file, workers=workers).records
        best.append(((time.perf_counter() - began) / count, (_processors() - spent) / count))
    return min(wall for wall, _ in best), min(cpu for _, cpu in best)


def _verify_processor_s() -> float:
    """Processor seconds of one signature check: the limit that other work on the machine doesn't blur."""
    signer, message = signing.Ed25519Signer.generate(), os.urandom(400)
    signed = signer.sign(message)
    rounds, count = [], 1_000
    for _ in range(5):
        began = time.process_time()
        for _ in range(count):
            signing.verify(signer.public_key, message, signed)
        rounds.append((time.process_time() - began) / count)
    return min(rounds)


def _processors() -> float:
    """Processor seconds of this process and of those that it has waited for."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


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
