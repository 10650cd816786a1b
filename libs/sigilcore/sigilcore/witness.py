"""What a witness answers to `add-checkpoint` (C2SP tlog-witness v1.0.0): the whole decision, and none of the state.

A witness promises that, for each log, it never cosigns two checkpoints that don't continue each other. The steps go down the page in
the order of the specification's text; the first that fails is the answer, and none is taken after it:

1. the request can be read                                            else 400
2. the checkpoint's origin is a log that we know                      else 404
3. a key of that log signed it, and no line by such a key is bad      else 403
4. the old size isn't above the checkpoint's                          else 400
5. the old size is the one that we cosigned last (0 if never)         else 409, whose body is that size
6. a checkpoint of size 0 has the root of the empty tree              else 422
7. the proof leads from what we cosigned last to the checkpoint       else 422
8. persist, compared with what step 5 saw, then sign                  200

Steps 1 to 3 need no state (`open_request`), 4 to 7 need what is held of one log (`judge`). The caller takes step 8: it stores
`Accepted.checkpoint` only if the log still holds what `judge` was told, makes that durable, and signs `Accepted.text` after that.

Absent on purpose: a clock. The time is in the cosignature, and the cosigner names it when it signs.
"""

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType

import msgspec

from sigilcore import checkpoint as checkpoints
from sigilcore import merkle, note

SIZE_TYPE = "text/x.tlog.size"
TEXT_TYPE = "text/plain; charset=utf-8"
UNPROVEN = 422

Logs = Mapping[str, Sequence[note.VerifierKey]]
"""The logs that a witness knows: the keys it trusts, by origin."""


class Held(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The checkpoint of a log that was cosigned last."""

    size: int
    root: bytes


class Submitted(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A request after step 3: the log signed this checkpoint. `lines` are its verified signature lines, each once."""

    old_size: int
    proof: tuple[bytes, ...]
    checkpoint: checkpoints.Checkpoint
    text: str
    lines: str

    @property
    def signed(self) -> bytes:
        """The note with the log's own signatures and no stranger's line."""
        return f"{self.text}\n{self.lines}".encode()


class Rejected(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A request that isn't cosigned: the step that failed, and the answer."""

    step: int
    status: int
    reason: str
    body: str
    content_type: str = TEXT_TYPE


class Accepted(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A request to be persisted, then cosigned: `held` is what the store must still hold at that moment."""

    held: Held | None
    submitted: Submitted

    @property
    def advanced(self) -> Held:
        """What is held from now on."""
        return Held(size=self.submitted.checkpoint.size, root=self.submitted.checkpoint.root)


def logs(vkeys: Iterable[str]) -> Logs:
    """The logs of these verifier keys: a key's name is its log's origin. Raises `note.NoteError`."""
    known: dict[str, tuple[note.VerifierKey, ...]] = {}
    for vkey in vkeys:
        key = note.VerifierKey.parse(vkey)
        if key.type != note.ED25519:
            raise note.NoteError(f"{key.name}: a log's key is an Ed25519 signing key, not a cosigner's")
        if any(key.public_key == other.public_key for keys in known.values() for other in keys):
            raise note.NoteError(f"{key.name}: this key is there already")
        known[key.name] = (*known.get(key.name, ()), key)
    return MappingProxyType(known)


def decide(data: bytes, known: Logs, held: Held | None) -> Accepted | Rejected:
    """The steps 1 to 7 for a log of which this is held."""
    opened = open_request(data, known)
    return opened if isinstance(opened, Rejected) else judge(opened, held)


def open_request(data: bytes, known: Logs) -> Submitted | Rejected:
    """Steps 1 to 3: what a known log signed, whatever is held of it."""
    # 1. Parse: numbers in one spelling, at most 63 hashes, a note, a checkpoint.
    try:
        request = checkpoints.AddCheckpoint.parse(data)
        signed = note.parse(request.note)
        checkpoint = checkpoints.parse_text(signed.text)
    except note.NoteError as error:
        return _no(1, 400, str(error))
    # 2. The origin.
    keys = known.get(checkpoint.origin)
    if keys is None:
        return _no(2, 404, "not a log that this witness knows")
    # 3. The log's signature. Lines by unknown keys are ignored.
    try:
        note.verify(signed, keys)
    except note.SignatureError as error:
        return _no(3, 403, str(error))
    return Submitted(
        old_size=request.old_size,
        proof=request.proof,
        checkpoint=checkpoint,
        text=signed.text,
        lines=_lines_by(signed, keys),
    )


def judge(submitted: Submitted, held: Held | None) -> Accepted | Rejected:
    """Steps 4 to 7: whether the checkpoint continues what is held of its log."""
    checkpoint, old = submitted.checkpoint, submitted.old_size
    # 4. No log shrinks.
    if old > checkpoint.size:
        return _no(4, 400, f"the old size {old} is above the checkpoint's {checkpoint.size}")
    # 5. Start from where we stand.
    size = 0 if held is None else held.size
    if old != size:
        return Rejected(
            step=5,
            status=409,
            reason=f"the old size is {old}, and {size} was cosigned last",
            body=f"{size}\n",
            content_type=SIZE_TYPE,
        )
    # 6. There is one empty tree.
    if checkpoint.size == 0 and checkpoint.root != merkle.EMPTY_ROOT:
        return _no(6, UNPROVEN, "size 0, and not the root of the empty tree")
    # 7. The proof. From an empty tree there is nothing to prove, so nothing may be there.
    root = merkle.EMPTY_ROOT if held is None else held.root
    if old == 0 and submitted.proof:
        return _no(7, UNPROVEN, "a proof from the empty tree is empty")
    if old == checkpoint.size and root != checkpoint.root:
        return _no(7, UNPROVEN, f"another root than the one that was cosigned for size {old}")
    if not merkle.verify_consistency(old, root, checkpoint.size, checkpoint.root, submitted.proof):
        return _no(7, UNPROVEN, f"the proof doesn't lead from {old} to {checkpoint.size}")
    return Accepted(held=held, submitted=submitted)


def contradiction(submitted: Submitted, held: Held | None) -> str | None:
    """Why no honest log could have signed this, given what it signed before; None if one could.

    It is asked whatever the answer was: a log that signs two roots for one size is caught by the notes alone, also when the request
    named a wrong old size. A proof that doesn't verify is no contradiction: anybody can send a good checkpoint with a bad proof.
    """
    checkpoint = submitted.checkpoint
    if checkpoint.size == 0 and checkpoint.root != merkle.EMPTY_ROOT:
        return "the log signed a root of the empty tree that isn't its root"
    if held is not None and checkpoint.size == held.size and checkpoint.root != held.root:
        return f"the log signed two roots for size {held.size}"
    return None


def _no(step: int, status: int, reason: str) -> Rejected:
    return Rejected(step=step, status=status, reason=reason, body=f"{reason}\n")


def _lines_by(signed: note.Note, keys: Sequence[note.VerifierKey]) -> str:
    known = {(key.name, key.key_id) for key in keys}
    lines = (one.line() for one in signed.signatures if (one.name, one.key_id) in known)
    return "".join(dict.fromkeys(lines))
