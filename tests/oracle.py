"""The oracle: re-verifies a whole ledger, whoever wrote it. Called at the end of every integration test.

It trusts nothing but the genesis hash it is given: every hash, signature, chain, quorum, decision and effect is recomputed, and the
tree is built again by the recursive definition of RFC 6962 (section 2.1), which shares no code with the writer's.
"""

import hashlib
from collections.abc import Sequence

from sigilcore import checkpoint, note, record, replay


def check(
    records: Sequence[record.PlacedRecord], signed_checkpoint: bytes, genesis: str | None = None
) -> replay.Report:
    """Recompute everything; raises `replay.Diverged` or AssertionError at the first thing that doesn't hold."""
    report = replay.replay(records, signed_checkpoint, genesis)
    opened = checkpoint.parse_text(note.parse(signed_checkpoint).text)
    leaves = [hashlib.sha256(b"\x00" + bytes(placed.header)).digest() for placed in records]
    assert opened.root == _root(leaves), "the checkpoint's root is not RFC 6962's"
    assert [placed.seq for placed in records] == list(range(opened.size)), "seq has gaps"
    return report


def _root(leaves: Sequence[bytes]) -> bytes:
    if not leaves:
        return hashlib.sha256(b"").digest()
    if len(leaves) == 1:
        return leaves[0]
    split = 1
    while split * 2 < len(leaves):
        split *= 2
    return hashlib.sha256(b"\x01" + _root(leaves[:split]) + _root(leaves[split:])).digest()
