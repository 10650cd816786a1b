"""Checkpoints of a log (C2SP tlog-checkpoint), their cosignatures and the request that asks for one.

Decides: which text states a tree's size and root, who signed it, and what a witness is asked.

Invariants:

1. A checkpoint's text is origin, size, root and any extension lines, one spelling for each value.
2. The log signs with Ed25519 under its origin as key name; `open_signed` verifies the received bytes before
   it reads them, and refuses a text of another origin.
3. A cosignature says: at that time this was the largest consistent tree that the cosigner had seen for this
   origin. It covers the whole text, extension lines and final line feed included, and no signature.

Absent on purpose: whether a root belongs to a size. Nobody can tell from a checkpoint alone; ask `merkle`.
So a size of 0 with another root than the empty tree's parses here, and a witness refuses it in its own step.
"""

from collections.abc import Callable, Iterable
from typing import Self

import msgspec

from sigilcore import merkle, note, signing

MAX_EXTENSIONS = 16  # lines; C2SP advises against any
MAX_LINE_BYTES = 1024
MAX_REQUEST_BYTES = note.MAX_NOTE_BYTES + 4096  # the note, 63 lines of 45 bytes, and the old size


class Checkpoint(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The size and root of the log with this origin. Raises `note.NoteError` for what no text can state."""

    origin: str
    size: int
    root: bytes
    extensions: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not 0 <= self.size <= merkle.MAX_SIZE:
            raise note.NoteError(f"a log has 0 to {merkle.MAX_SIZE} entries, not {self.size}")
        if len(self.root) != merkle.HASH_BYTES:
            raise note.NoteError(f"a root is {merkle.HASH_BYTES} bytes, not {len(self.root)}")
        if len(self.extensions) > MAX_EXTENSIONS:
            raise note.NoteError(f"more than {MAX_EXTENSIONS} extension lines")
        for line in (self.origin, *self.extensions):
            _check_line(line)

    def text(self) -> str:
        """The text that the log and its witnesses sign."""
        lines = (self.origin, str(self.size), note.encode_base64(self.root), *self.extensions)
        return "".join(f"{line}\n" for line in lines)


class Cosignature(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """That this key vouched for a checkpoint at this time, in POSIX seconds."""

    key: note.VerifierKey
    timestamp: int


class AddCheckpoint(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A request to a witness: this signed note, and the proof that it extends the tree of `old_size`."""

    old_size: int
    proof: tuple[bytes, ...]
    note: bytes

    def encode(self) -> bytes:
        """The body of `POST /add-checkpoint`."""
        lines = [f"old {self.old_size}", *map(note.encode_base64, self.proof)]
        return "".join(f"{line}\n" for line in lines).encode() + b"\n" + self.note

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read a request down to the checkpoint's text and believe nothing; raises `note.NoteError`."""
        if len(data) > MAX_REQUEST_BYTES:
            raise note.NoteError(f"a request has at most {MAX_REQUEST_BYTES} bytes")
        head, gap, signed = data.partition(b"\n\n")
        if not gap:
            raise note.NoteError("no empty line before the checkpoint")
        try:
            old, *hashes = head.decode("ascii").split("\n")
        except UnicodeDecodeError:
            raise note.NoteError("the lines before the checkpoint are not ASCII") from None
        if not old.startswith("old "):
            raise note.NoteError("the request doesn't begin with the old size")
        old_size = note.parse_decimal(old.removeprefix("old "))
        if len(hashes) > merkle.MAX_PATH:
            raise note.NoteError(f"more than {merkle.MAX_PATH} hashes in the proof")
        proof = tuple(note.parse_hash(line) for line in hashes)
        parse_text(note.parse(signed).text)
        return cls(old_size, proof, signed)


def parse_text(text: str) -> Checkpoint:
    """Read a checkpoint's text; raises `note.NoteError`."""
    note.check_text(text)
    lines = text[:-1].split("\n")
    if len(lines) < 3:
        raise note.NoteError("a checkpoint has an origin, a size and a root")
    origin, size, root, *extensions = lines
    return Checkpoint(origin, note.parse_decimal(size), note.parse_hash(root), tuple(extensions))


def sign(checkpoint: Checkpoint, signer: signing.Signer) -> bytes:
    """The checkpoint as a note with the log's Ed25519 signature under its origin."""
    text = checkpoint.text()
    return f"{text}\n{note.sign(text, checkpoint.origin, signer)}".encode()


def open_signed(data: bytes, log_key: note.VerifierKey) -> Checkpoint:
    """The checkpoint in these bytes, signed by this log.

    Raises `note.SignatureError` if the log didn't sign it or it is another origin's, `note.NoteError` if it
    can't be read.
    """
    if log_key.type != note.ED25519:
        raise note.SignatureError("a log's key is an Ed25519 signing key, not a cosigner's")
    signed = note.parse(data)
    note.verify(signed, [log_key])
    checkpoint = parse_text(signed.text)
    if checkpoint.origin != log_key.name:
        raise note.SignatureError(f"the checkpoint is of {checkpoint.origin}, not of {log_key.name}")
    return checkpoint


def open_by_size(data: bytes, log_key_at: Callable[[int], note.VerifierKey]) -> Checkpoint:
    """As `open_signed`, by the key that signs checkpoints of this one's size: an older key signs nothing that covers its successor."""
    return open_signed(data, log_key_at(parse_text(note.parse(data).text).size))


def cosign(checkpoint_text: str, name: str, signer: signing.Signer, timestamp: int) -> str:
    """The cosignature line, with its line feed; who calls has checked consistency and stored the new size."""
    if not 0 < timestamp <= note.MAX_DECIMAL:
        raise note.NoteError(f"a cosigner's time is in POSIX seconds after 0, not {timestamp}")
    parse_text(checkpoint_text)
    key = note.VerifierKey.of(name, note.COSIGNATURE, signer.public_key)
    signature = signer.sign(note.cosignature_message(checkpoint_text, timestamp))
    return note.Signature(name, key.key_id, timestamp.to_bytes(8) + signature).line()


def verify_cosignature(checkpoint_text: str, signature: note.Signature | str, key: note.VerifierKey) -> Cosignature:
    """What this cosigner's line says of the checkpoint; raises `note.NoteError` if it says nothing."""
    if isinstance(signature, str):
        signature = _only(note.parse_signatures(signature.encode(errors="replace")))
    if key.type != note.COSIGNATURE:
        raise note.SignatureError(f"{key.name} isn't a cosigner's key")
    if (signature.name, signature.key_id) != (key.name, key.key_id):
        raise note.SignatureError(f"the line is not by {key.name}")
    if not key.verifies(checkpoint_text, signature.value):
        raise note.SignatureError(f"bad cosignature by {key.name}")
    return Cosignature(key=key, timestamp=int.from_bytes(signature.value[:8]))


def cosignatures(signed: note.Note, keys: Iterable[note.VerifierKey]) -> list[Cosignature]:
    """The latest cosignature by each of these keys on the note, in the keys' order; other lines are ignored.

    Raises `note.SignatureError` when a line by one of these keys doesn't verify.
    """
    found = []
    for key in dict.fromkeys(keys):
        mine = [one for one in signed.signatures if (one.name, one.key_id) == (key.name, key.key_id)]
        made = [verify_cosignature(signed.text, one, key) for one in mine]
        if made:
            found.append(max(made, key=lambda one: one.timestamp))
    return found


def add_signatures(data: bytes, lines: bytes) -> bytes:
    """The note with a witness's answer appended, line for line; raises `note.NoteError` for anything else."""
    note.parse_signatures(lines)
    return note.parse(data + lines).encode()


def _check_line(line: str) -> None:
    if not line or "\n" in line:
        raise note.NoteError("an origin or extension is one line that isn't empty")
    note.check_text(line + "\n")
    if len(line.encode()) > MAX_LINE_BYTES:
        raise note.NoteError(f"an origin or extension has at most {MAX_LINE_BYTES} bytes")


def _only(signatures: tuple[note.Signature, ...]) -> note.Signature:
    if len(signatures) != 1:
        raise note.NoteError("more than one signature line")
    return signatures[0]
