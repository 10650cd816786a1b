"""Receipts: what canon_writer answered, verified before anyone acts on it.

A receipt is believed only if the log's key signed its checkpoint, and range proofs show each placed record's own leaf under that
checkpoint's root. So a compromised bus, or a writer's impostor, can delay an append and not forge one.
"""

from collections.abc import Mapping, Sequence

import msgspec

from sigilcore import checkpoint, merkle, note
from sigilcore.contracts import canon


class BadReceipt(Exception):  # noqa: N818 - names what is wrong
    """The answer doesn't prove what it says."""


class Sent(msgspec.Struct, frozen=True, kw_only=True):
    """What we know of a record that we sent."""

    id: str
    hash: str
    leaf_hash: bytes


def rebuilt(sent: Sequence[Sent], appended: canon.Appended) -> list[int]:
    """The places of results that name an earlier record with other bytes than ours: their leaves must be fetched to be proven."""
    _check_order(sent, appended)
    return [
        result.seq
        for one, result in zip(sent, appended.results, strict=True)
        if result.seq is not None and result.existing and result.hash != one.hash
    ]


def verify(
    sent: Sequence[Sent], appended: canon.Appended, log_key: note.VerifierKey, earlier: Mapping[int, Sent]
) -> checkpoint.Checkpoint:
    """As `prove`, for who knows the key that signs the log's checkpoints of this size; returns the receipt's checkpoint."""
    try:
        signed = checkpoint.open_signed(appended.checkpoint.encode(), log_key)
    except note.NoteError as error:
        raise BadReceipt(str(error)) from error
    prove(sent, appended, signed, earlier)
    return signed


def prove(
    sent: Sequence[Sent], appended: canon.Appended, signed: checkpoint.Checkpoint, earlier: Mapping[int, Sent]
) -> None:
    """Each placed record stands in the tree of `signed`, the receipt's checkpoint; `earlier` are the records named by `rebuilt`, by seq.

    Raises:
        BadReceipt: with the first reason.

    """
    _check_order(sent, appended)
    leaves: dict[int, bytes] = {}
    for one, result in zip(sent, appended.results, strict=True):
        if result.seq is None:
            if result.refusal is None:
                raise BadReceipt(f"{one.id} is neither placed nor refused")
            continue
        stands = earlier.get(result.seq, one) if result.existing else one
        if (result.id, result.hash) != (stands.id, stands.hash):
            raise BadReceipt(f"the receipt names another record than {one.id}")
        if leaves.setdefault(result.seq, stands.leaf_hash) != stands.leaf_hash:
            raise BadReceipt(f"two records at {result.seq}")
    try:
        proven = {seq for proof in appended.proofs for seq in _prove(proof, leaves, signed)}
    except note.NoteError as error:
        raise BadReceipt(str(error)) from error
    if proven != set(leaves):
        raise BadReceipt(f"no proof for {sorted(set(leaves) - proven)}")


def _check_order(sent: Sequence[Sent], appended: canon.Appended) -> None:
    if [one.id for one in sent] != [result.id for result in appended.results]:
        raise BadReceipt("the results are not those of the records sent")


def _prove(proof: canon.RangeProof, leaves: Mapping[int, bytes], signed: checkpoint.Checkpoint) -> range:
    places = range(proof.first, proof.first + min(proof.count, len(leaves)))
    if proof.size != signed.size or proof.count > len(leaves) or any(seq not in leaves for seq in places):
        raise BadReceipt(f"a proof of [{proof.first}, +{proof.count}) in {proof.size} leaves proves nothing here")
    run = [leaves[seq] for seq in places]
    path = [note.parse_hash(text) for text in proof.hashes]
    if not merkle.verify_range(run, proof.first, proof.size, path, signed.root):
        raise BadReceipt(f"the proof of [{proof.first}, +{proof.count}) doesn't hold")
    return places
