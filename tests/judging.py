"""A ledger judged in every way there is, record by record and in runs of several lengths: all must say the same."""

import msgspec

from sigilcore import replay, vouch

RUNS = (1, 3, 16, 1_000)


def in_runs(records, signed_checkpoint, pins, length):
    """The ledger as the workers of `sigil audit replay` judge it: vouched for in runs, each record's place asked in order."""
    machine, voucher = replay.Replay(pins), vouch.Voucher()
    lines = [msgspec.json.encode(placed) for placed in records]
    for first in range(0, len(lines), length):
        run = lines[first : first + length]
        machine.absorb(voucher.vouch(first, run), run)
    return machine.finish(signed_checkpoint)


def outcome(judge, *arguments):
    """A report, or where and why the ledger stopped agreeing."""
    try:
        return judge(*arguments)
    except replay.Diverged as diverged:
        return diverged.seq, diverged.code, diverged.reason


def judged(records, signed_checkpoint, **pins):
    """What every way of judging says."""
    records, pinned = list(records), replay.Pins(**pins)
    said = outcome(replay.replay, records, signed_checkpoint, None, pinned)
    for length in RUNS:
        assert outcome(in_runs, records, signed_checkpoint, pinned, length) == said
    return said


def agrees(records, signed_checkpoint, **pins):
    """The ledger is judged good."""
    said = judged(records, signed_checkpoint, **pins)
    assert isinstance(said, replay.Report), said
    return said


def diverges(records, signed_checkpoint, **pins):
    """Replay must stop, and say where and why."""
    said = judged(records, signed_checkpoint, **pins)
    assert not isinstance(said, replay.Report)
    return said
