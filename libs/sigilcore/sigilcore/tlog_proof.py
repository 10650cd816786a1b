"""Offline proofs that an entry is in a log (C2SP tlog-proof): index, path and cosigned checkpoint in a file.

Decides: which bytes are such a proof, and what holds of it, step by step.

Invariants:

1. Reading and believing are apart: `parse` refuses what can't be read, down to the checkpoint's text, and
   `verify` of what was read only answers.
2. The steps go in the specification's order; the first that fails is the reason, and none is taken after it.
3. `extra` is nobody's word: no signature covers it.

    proof = tlog_proof.parse(data)
    result = tlog_proof.verify(proof, merkle.leaf_hash(entry), log_key, witness_keys, needed=2)
    assert result.verified, result.failed
"""

from collections.abc import Sequence

import msgspec

from sigilcore import checkpoint, merkle, note
from sigilcore.checkpoint import Checkpoint, Cosignature  # by name: fields below are called after the module

HEADER = "c2sp.org/tlog-proof@v1"
MAX_EXTRA_BYTES = 1 << 16
MAX_PROOF_BYTES = note.MAX_NOTE_BYTES + 2 * MAX_EXTRA_BYTES  # the note, the extra in base64, 63 hashes

STEPS = (
    "the leaf hash is the application's",
    "the log signed the checkpoint",
    "enough witnesses cosigned it",
    "the entry is in the tree",
)


class TlogProofError(ValueError):
    """These bytes aren't a tlog-proof."""


class TlogProof(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A proof as it was read; `checkpoint` is the note's bytes, verbatim."""

    index: int
    path: tuple[bytes, ...]
    checkpoint: bytes
    extra: bytes | None = None


class Step(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One step of the verification; `ok` is None when an earlier step failed and this one wasn't taken."""

    number: int
    name: str
    ok: bool | None
    detail: str


class Verification(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Every step with its result, and who vouched; `checkpoint` is there once the log's signature held."""

    steps: tuple[Step, ...]
    checkpoint: Checkpoint | None = None
    cosignatures: tuple[Cosignature, ...] = ()

    @property
    def verified(self) -> bool:
        """Whether every step was taken and held."""
        return all(step.ok for step in self.steps)

    @property
    def failed(self) -> Step | None:
        """The step that failed, if one did."""
        return next((step for step in self.steps if step.ok is False), None)


def format(  # noqa: A001 - the pair of `parse`; called as tlog_proof.format
    index: int, path: Sequence[bytes], checkpoint_note: bytes, extra: bytes | None = None
) -> bytes:
    """The proof's bytes."""
    lines = [HEADER]
    if extra is not None:
        lines.append(f"extra {note.encode_base64(extra)}")
    lines.append(f"index {index}")
    lines.extend(map(note.encode_base64, path))
    return "".join(f"{line}\n" for line in lines).encode() + b"\n" + checkpoint_note


def parse(data: bytes) -> TlogProof:
    """Read a proof and believe nothing of it; raises `TlogProofError`."""
    if len(data) > MAX_PROOF_BYTES:
        raise TlogProofError(f"a proof has at most {MAX_PROOF_BYTES} bytes")
    head, gap, signed = data.partition(b"\n\n")
    if not gap:
        raise TlogProofError("no empty line before the checkpoint")
    try:
        header, *lines = head.decode("ascii").split("\n")
    except UnicodeDecodeError:
        raise TlogProofError("the lines before the checkpoint are not ASCII") from None
    if header != HEADER:
        raise TlogProofError(f"a proof begins with {HEADER}")
    try:
        return _parse_body(lines, signed)
    except note.NoteError as error:
        raise TlogProofError(str(error)) from None


def verify(
    proof: TlogProof,
    leaf_hash: bytes,
    log_key: note.VerifierKey,
    witnesses: Sequence[note.VerifierKey] = (),
    needed: int = 0,
) -> Verification:
    """Whether this log, vouched for by `needed` of the witnesses, holds this leaf at the proof's index.

    The caller computes the leaf hash from what it means to prove, and judges the cosignatures' times if they
    matter to it. Several keys with one public key count once.
    """
    opened: Checkpoint | None = None
    cosigned: list[Cosignature] = []
    held: list[str] = []
    try:
        held.append(_check_leaf(leaf_hash))
        opened = checkpoint.open_signed(proof.checkpoint, log_key)
        held.append(f"{opened.origin}, size {opened.size}, root {opened.root.hex()}")
        cosigned = checkpoint.cosignatures(note.parse(proof.checkpoint), witnesses)
        held.append(_check_witnesses(cosigned, needed))
        held.append(_check_inclusion(proof, leaf_hash, opened))
        reason = ""
    except (note.NoteError, TlogProofError) as error:
        reason = str(error)
    return Verification(steps=taken(STEPS, held, reason), checkpoint=opened, cosignatures=tuple(cosigned))


def taken(steps: Sequence[str], held: Sequence[str], reason: str) -> tuple[Step, ...]:
    """The steps that held and why, then the one that failed and why, then those not taken."""
    results: list[tuple[bool | None, str]] = [(True, detail) for detail in held]
    if reason:
        results.append((False, reason))
    results.extend([(None, "not taken")] * (len(steps) - len(results)))
    return tuple(
        Step(number=number, name=name, ok=ok, detail=detail)
        for number, (name, (ok, detail)) in enumerate(zip(steps, results, strict=True), 1)
    )


def _parse_body(lines: list[str], signed: bytes) -> TlogProof:
    extra = None
    if lines and lines[0].startswith("extra "):
        extra = note.parse_base64(lines.pop(0).removeprefix("extra "))
        if len(extra) > MAX_EXTRA_BYTES:
            raise TlogProofError(f"the extra has at most {MAX_EXTRA_BYTES} bytes")
    if not lines or not lines[0].startswith("index "):
        raise TlogProofError("no index line")
    index = note.parse_decimal(lines.pop(0).removeprefix("index "))
    if len(lines) > merkle.MAX_PATH:
        raise TlogProofError(f"more than {merkle.MAX_PATH} hashes in the path")
    path = tuple(note.parse_hash(line) for line in lines)
    checkpoint.parse_text(note.parse(signed).text)
    return TlogProof(index=index, path=path, checkpoint=signed, extra=extra)


def _check_leaf(leaf_hash: bytes) -> str:
    if len(leaf_hash) != merkle.HASH_BYTES:
        raise TlogProofError(f"a leaf hash is {merkle.HASH_BYTES} bytes, not {len(leaf_hash)}")
    return leaf_hash.hex()


def _check_witnesses(cosigned: Sequence[Cosignature], needed: int) -> str:
    have = len({one.key.public_key for one in cosigned})
    if have < needed:
        raise TlogProofError(f"{have} of the {needed} needed")
    names = ", ".join(f"{one.key.name} at {one.timestamp}" for one in cosigned)
    return f"{have} of the {needed} needed" + (f": {names}" if names else "")


def _check_inclusion(proof: TlogProof, leaf_hash: bytes, opened: Checkpoint) -> str:
    if proof.index >= opened.size:
        raise TlogProofError(f"no index {proof.index} in a tree of {opened.size}")
    if not merkle.verify_inclusion(leaf_hash, proof.index, opened.size, proof.path, opened.root):
        raise TlogProofError("the path from this leaf at this index doesn't lead to the checkpoint's root")
    return f"index {proof.index} of {opened.size}, {len(proof.path)} hashes"
