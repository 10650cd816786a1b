"""What SQLite files do on a disk that is full: `python on_small_disk.py view|witness|counts FOLDER`, where the folder is a small disk."""

import sqlite3
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from services.gateway import kept
from services.projections import store as projections
from sigilcore import checkpoint, merkle, note, signing, witness
from sigilrun import witness_store
from tests import smalldisk
from tests.stores import views

LOG = signing.Ed25519Signer(bytes(32))
KEY = note.VerifierKey.of("log.example", note.ED25519, LOG.public_key)
LEAVES = [merkle.leaf_hash(b"entry %d" % n) for n in range(400)]


def view(disk: smalldisk.SmallDisk) -> None:
    """Stopped at a batch, it stands at the batch before; then it goes on to the same content."""
    events = views.events_of(views.house_with_memories(300))
    store = projections.Store(disk.folder / "view.sqlite")
    views.feed(store, events, end=100)
    disk.fill()
    at, content = store.at, store.content()
    while True:
        end = min(at.next_seq + 7, len(events))
        assert end > at.next_seq, "the disk was never full"
        try:
            store.apply(events[at.next_seq : end], views.position_at(events, end))
        except sqlite3.OperationalError as error:
            assert error.sqlite_errorcode == sqlite3.SQLITE_FULL, error
            break
        at, content = store.at, store.content()
    assert (store.at, store.content()) == (at, content)
    disk.make_room()
    views.feed(store, events, start=at.next_seq)
    assert store.at.next_seq == len(events)
    assert store.recomputed() == store.content()
    store.close()


def submitted(old: int, size: int) -> witness.Submitted:
    """A request that its log signed."""
    proof = tuple(merkle.consistency_path(old, LEAVES[:size]))
    signed = checkpoint.sign(checkpoint.Checkpoint(KEY.name, size, merkle.root(LEAVES[:size])), LOG)
    opened = witness.open_request(checkpoint.AddCheckpoint(old, proof, signed).encode(), witness.logs([KEY.format()]))
    assert isinstance(opened, witness.Submitted)
    return opened


def cosigner(disk: smalldisk.SmallDisk) -> None:
    """At the request that finds no room it stands where it stood."""
    store = witness_store.Store(disk.folder / "state")
    size = 1
    assert store.settle(submitted(0, 1), lambda _: "line\n", 1).line
    disk.fill()
    while True:
        assert size < len(LEAVES) - 1, "the disk was never full"
        try:
            store.settle(submitted(size, size + 1), lambda _: "line\n", 1)
        except sqlite3.OperationalError as error:
            assert error.sqlite_errorcode == sqlite3.SQLITE_FULL, error
            break
        size += 1
    assert store.sizes() == {KEY.name: size}
    disk.make_room()
    assert store.settle(submitted(size, 399), lambda _: "line\n", 1).line == "line\n"
    assert store.sizes() == {KEY.name: 399}
    store.close()


def counts(disk: smalldisk.SmallDisk) -> None:
    """A gateway that starts while the disk is full starts, and resets nobody's counts for later."""
    before = kept.Kept(disk.folder)
    before.put("address", before.name("a"), (1, 2, 3))
    before.close()
    data = (disk.folder / kept.FILE).read_bytes()
    disk.fill()
    full = kept.Kept(disk.folder)
    full.put("address", full.name("b"), (4, 5, 6))
    full.settle()
    assert full.get("address", full.name("b")) == (4, 5, 6)
    full.close()
    assert (disk.folder / kept.FILE).read_bytes() == data
    disk.make_room()
    after = kept.Kept(disk.folder)
    assert after.get("address", after.name("a")) == (1, 2, 3)
    after.close()


if __name__ == "__main__":
    {"view": view, "witness": cosigner, "counts": counts}[sys.argv[1]](smalldisk.SmallDisk(Path(sys.argv[2])))
