"""Each step of a witness's `add-checkpoint`, each way to fail there: it forgets nothing that it cosigned, and never cosigns two histories.

A row is a statement of `witness_store.settle`, before it or after it, an error or kill -9. Then the state is opened again, as the next
start does, and asked by the log: what was persisted is found out by the 409, what wasn't is cosigned at the second time of asking.
"""

import contextlib
import signal
import sqlite3
import subprocess
import sys

import pytest

from sigilcore import checkpoint, merkle, note, signing, witness
from sigilrun import witness_store

LOG = signing.Ed25519Signer(bytes(32))
KEY = note.VerifierKey.of("log.example", note.ED25519, LOG.public_key)
COSIGNER = signing.Ed25519Signer(bytes([9]) * 32)
WITNESS = note.VerifierKey.of("w.example", note.COSIGNATURE, COSIGNER.public_key)
LEAVES = [merkle.leaf_hash(b"entry %d" % n) for n in range(20)]
FORK = [*LEAVES[:3], *(merkle.leaf_hash(b"fork %d" % n) for n in range(20))]
NOW_S = 1_800_000_000

# The statements of one request, as its connection sees them.
FIRST = ["begin immediate", "select size", "insert into cosigned", "commit"]
GROWN = ["begin immediate", "select size", "update cosigned", "commit"]
REFUSED = ["begin immediate", "select count", "insert into evidence", "commit"]
COSIGNING = "cosigning"
ROWS = [
    (request, step, when)
    for request, steps in (("first", FIRST), ("grown", GROWN), ("another history", REFUSED))
    for step in (*steps[:2], COSIGNING, *steps[2:])
    for when in ("before", "after")
    if not (request == "another history" and step == COSIGNING)
]


class Failing:
    """A connection that does what it is told before or after one statement."""

    def __init__(self, db, step, when, fail):
        self._db = db
        self._step = step
        self._when = when
        self._fail = fail

    def execute(self, statement, *given):
        meant = statement.lstrip().startswith(self._step)
        if meant and self._when == "before":
            self._fail()
        done = self._db.execute(statement, *given)
        if meant:
            self._fail()
        return done

    def __getattr__(self, name):
        return getattr(self._db, name)


def error():
    raise sqlite3.OperationalError("disk I/O error")


def body(old, size, leaves=LEAVES):
    signed = checkpoint.sign(checkpoint.Checkpoint(KEY.name, size, merkle.root(leaves[:size])), LOG)
    return checkpoint.AddCheckpoint(old, tuple(merkle.consistency_path(old, leaves[:size])), signed).encode()


def cosign(text):
    return checkpoint.cosign(text, WITNESS.name, COSIGNER, NOW_S)


def asked(store, data, cosigning=cosign):
    opened = witness.open_request(data, witness.logs([KEY.format()]))
    assert isinstance(opened, witness.Submitted), opened
    return store.settle(opened, cosigning, NOW_S)


def prepare(request, state):
    """What stood before, and the request; the size that it is about, and the one before."""
    with contextlib.closing(witness_store.Store(state)) as store:
        if request == "first":
            return body(0, 5), 0, 5
        assert asked(store, body(0, 5)).line
    return (body(5, 9), 5, 9) if request == "grown" else (body(5, 9, FORK), 5, 5)


def fails_at(store, step, when, fail):
    """A store that fails there; how it cosigns."""
    store._db = Failing(store._db, step, when, fail)
    if step != COSIGNING:
        return cosign

    def cosigning(text):
        if when == "before":
            fail()
        line = cosign(text)
        fail()
        return line

    return cosigning


def judged(state, request, data, old, new):
    """The next start: what stands is what was or what was asked for, it verifies, and the log goes on from it with one history only."""
    with contextlib.closing(witness_store.Store(state)) as store:
        held = store.sizes().get(KEY.name, 0)
        assert held in {old, new}
        if request == "another history":
            assert isinstance(asked(store, data).outcome, witness.Rejected)
            (kept,) = store.evidence()
            assert checkpoint.open_signed(kept.note.encode(), KEY).root == merkle.root(FORK[:9])
        else:
            assert bool(asked(store, data).line) is (held == old)
            assert not asked(store, body(held, 12, FORK)).line if held > 3 else True
        now = store.sizes()[KEY.name]
        assert now == new
        assert asked(store, body(now, 15)).line
        assert not asked(store, body(now, 16, FORK)).line
        found = note.parse(store.newest(witness_store.origin_hash(KEY.name)))
        assert checkpoint.parse_text(found.text) == checkpoint.Checkpoint(KEY.name, 15, merkle.root(LEAVES[:15]))
        assert set(note.verify(found, [KEY])) == {KEY}
        assert len(checkpoint.cosignatures(found, [WITNESS])) == 1
    return held


@pytest.mark.parametrize(("request_", "step", "when"), ROWS, ids=[" ".join(row[::-1]) for row in ROWS])
def test_an_error_at_a_step(tmp_path, request_, step, when):
    """No line leaves, whatever became of the statement; the same store goes on, and so does the next one."""
    state = tmp_path / "state"
    data, old, new = prepare(request_, state)
    with contextlib.closing(witness_store.Store(state)) as store:
        whole = store._db
        cosigning = fails_at(store, step, when, error)
        with pytest.raises(sqlite3.OperationalError):
            asked(store, data, cosigning)
        assert not whole.in_transaction
        store._db = whole
        assert store.sizes().get(KEY.name, 0) == (new if (step, when) == ("commit", "after") else old)
    held = judged(state, request_, data, old, new)
    assert held == (new if (step, when) == ("commit", "after") else old)


KILLED = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from sigilrun import witness_store
from tests.faults import test_witness_crash as row

state, request, step, when = sys.argv[2:]
data, _, _ = row.prepare(request, Path(state))
store = witness_store.Store(Path(state))
cosigning = row.fails_at(store, step, when, lambda: os.kill(os.getpid(), signal.SIGKILL))
row.asked(store, data, cosigning)
"""


@pytest.mark.parametrize(("request_", "step", "when"), ROWS, ids=[" ".join(row[::-1]) for row in ROWS])
def test_killed_at_a_step(tmp_path, request_, step, when, pytestconfig):
    """kill -9: before the commit nothing happened, after it the request stands, and nobody was told."""
    state = tmp_path / "state"
    argv = [sys.executable, "-c", KILLED, str(pytestconfig.rootpath), str(state), request_, step, when]
    assert subprocess.run(argv, check=False, timeout=60).returncode == -signal.SIGKILL
    data, old, new = body(0, 5), 0, 5
    if request_ != "first":
        data, old, new = (body(5, 9), 5, 9) if request_ == "grown" else (body(5, 9, FORK), 5, 5)
    held = judged(state, request_, data, old, new)
    assert held == (new if (step, when) == ("commit", "after") else old)
