"""What the notary decides, without asking anybody: what a cosigner's answer means, and what convicts our own log.

- A request carries a proof that this side verified between roots that this side compared: a reader that lies is found out here.
- A cosignature is believed only if it verifies over the very checkpoint that was sent.
- *Proven* means that two notes by the log's own key can't both be true. All else is a cosigner's word, and is told as such.
"""

from collections.abc import Callable

import msgspec

from sigilcore import checkpoint, digest, merkle, note, witness
from sigilcore.checkpoint import AddCheckpoint, Checkpoint
from sigilcore.contracts import canon
from sigilcore.records import audit

LogKeyAt = Callable[[int], note.VerifierKey]

MAX_TEXT = 500  # of what a cosigner says, in the log


class Liar(Exception):  # noqa: N818 - names what is found
    """A reader's proof doesn't lead from the root it names to the signed one: nothing can be concluded from it."""


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """A checkpoint of ours, with the log's signature on it and nobody else's."""

    checkpoint: Checkpoint
    text: str
    note: bytes

    @property
    def size(self) -> int:
        """Its size."""
        return self.checkpoint.size


class Signed(msgspec.Struct, frozen=True, kw_only=True):
    """200: the cosigner's own line, verified."""

    line: str


class Stands(msgspec.Struct, frozen=True, kw_only=True):
    """409: the size that it cosigned last."""

    size: int


class Unproven(msgspec.Struct, frozen=True, kw_only=True):
    """422: our proof, which we verified, doesn't lead on from what it cosigned."""


class Useless(msgspec.Struct, frozen=True, kw_only=True):
    """Anything else: it doesn't know our log or our key, is out of order, or speaks another protocol."""

    reason: str


Meaning = Signed | Stands | Unproven | Useless


class Contradiction(msgspec.Struct, frozen=True, kw_only=True):
    """Another history: what to record, and a label that is the same for the same evidence, so that it is recorded once."""

    label: str
    payload: audit.LogContradiction


def target(data: bytes, log_key_at: LogKeyAt) -> Target:
    """A checkpoint that the log signed by the key of that size, without anybody else's lines. Raises `note.NoteError`."""
    opened, signed = checkpoint.open_by_size(data, log_key_at), note.parse(data)
    log_key = log_key_at(opened.size)
    lines = (one.line() for one in signed.signatures if (one.name, one.key_id) == (log_key.name, log_key.key_id))
    own = f"{signed.text}\n{''.join(dict.fromkeys(lines))}"
    return Target(checkpoint=opened, text=signed.text, note=own.encode())


def proven(grown: canon.Grown, old: int, new: Checkpoint) -> tuple[bytes, tuple[bytes, ...]]:
    """The root at `old` that the signed checkpoint implies, and the proof. Raises `Liar`, `note.NoteError`."""
    old_root = note.parse_hash(grown.old_root)
    path = tuple(note.parse_hash(text) for text in grown.hashes)
    if (grown.old, grown.new) != (old, new.size):
        raise Liar(f"asked for {old} to {new.size}, answered {grown.old} to {grown.new}")
    if not merkle.verify_consistency(old, old_root, new.size, new.root, path):
        raise Liar(f"the proof from {old} doesn't lead to the signed root of {new.size}")
    return old_root, path


def request(one: Target, old: int, path: tuple[bytes, ...]) -> AddCheckpoint:
    """What a cosigner is sent."""
    return AddCheckpoint(old, path, one.note)


def meaning(one: Target, key: note.VerifierKey, status: int, content_type: str, body: bytes) -> Meaning:
    """What a cosigner's answer to `request` means."""
    if status == 200:
        return _signed(one, key, body)
    if status == 409 and content_type == witness.SIZE_TYPE:
        try:
            return Stands(size=note.parse_decimal(body.decode("ascii").removesuffix("\n")))
        except (note.NoteError, UnicodeDecodeError):
            return Useless(reason="409 without a size")
    if status == witness.UNPROVEN:
        return Unproven()
    return Useless(reason=f"{status}: {body[:MAX_TEXT].decode('ascii', 'replace').strip()}")


def _signed(one: Target, key: note.VerifierKey, body: bytes) -> Signed | Useless:
    """Lines by unknown keys are ignored, as the protocol asks."""
    try:
        for line in note.parse_signatures(body):
            if (line.name, line.key_id) == (key.name, key.key_id):
                checkpoint.verify_cosignature(one.text, line, key)
                return Signed(line=line.line())
    except note.NoteError as error:
        return Useless(reason=f"200: {error}")
    return Useless(reason=f"200, and no line by {key.name}")


def shown(data: bytes | None, log_key_at: LogKeyAt) -> Target | None:
    """The checkpoint of ours that a cosigner shows to monitors; None if it shows none that our log's key of that size signed."""
    try:
        return None if data is None else target(data, log_key_at)
    except note.NoteError:
        return None


def beyond(key: note.VerifierKey, head: Target, size: int, other: Target | None) -> Contradiction:
    """A cosigner stands at a size that our log hasn't reached. `other` is what it shows, if our key signed that."""
    if other is not None and other.size > head.size:
        return _contradiction(key, head, f"the log's key signed size {other.size}, and the log has {head.size}", other)
    return _contradiction(key, head, f"says that it cosigned size {size}, and the log has {head.size}", None)


def forked(key: note.VerifierKey, head: Target, other: Target, our_root: bytes) -> Contradiction | None:
    """Whether what a cosigner shows, signed by our key, has another root than our log had at that size."""
    if other.checkpoint.root == our_root:
        return None
    return _contradiction(key, head, f"the log's key signed another root for size {other.size}", other)


def refused(key: note.VerifierKey, head: Target) -> Contradiction:
    """A cosigner says that our proof doesn't hold, and shows no note that says why."""
    return _contradiction(key, head, "says that a proof doesn't hold that holds here", None)


def _contradiction(key: note.VerifierKey, head: Target, reason: str, other: Target | None) -> Contradiction:
    """One record for each note that convicts us; of a cosigner's mere word one for ever, or it could fill the log with its words."""
    what = "word" if other is None else digest.sha256_hex(other.text.encode())
    return Contradiction(
        label=f"log_contradiction {key.format()} {what}",
        payload=audit.LogContradiction(
            cosigner=key.format(),
            proven=other is not None,
            reason=reason,
            note=head.note.decode(),
            evidence="" if other is None else other.note.decode(),
        ),
    )
