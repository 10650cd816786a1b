"""Which checkpoints count as witnessed, by the quorum policy in the log itself.

Attestations say "we agree to this change"; they don't prevent two histories. Cosignatures of checkpoints do: a cosigner signs only what
continues the tree that it signed before. So a record is *committed, not yet witnessed* until a checkpoint that covers it carries `c`
cosignatures of the policy's cosigners. Two views can both reach c of m only if 2c - m of the cosigners are dishonest.

One function for the reader that shows it, the writer that stores the lines, the notary that collects them, and whoever checks.
"""

from collections.abc import Callable
from typing import Literal

from sigilcore import note, tlog_policy
from sigilcore.checkpoint import Checkpoint, parse_text
from sigilcore.records import system

Standing = Literal["not required", "not yet", "witnessed"]


def needed(quorum: system.QuorumPolicy | None) -> int:
    """How many cosignatures a checkpoint needs; 0 before the seal."""
    return 0 if quorum is None else quorum.checkpoint_witnesses.c


def cosigners(quorum: system.QuorumPolicy | None) -> tuple[tuple[note.VerifierKey, str | None], ...]:
    """Who may cosign: keys that admission has checked, and where each is asked."""
    return () if quorum is None else cosigners_of(quorum.checkpoint_witnesses)


def cosigners_of(wanted: system.CheckpointWitnesses) -> tuple[tuple[note.VerifierKey, str | None], ...]:
    """The same of a part of a policy."""
    return tuple((note.VerifierKey.parse(one.vkey), one.url) for one in wanted.cosigners)


def policy(quorum: system.QuorumPolicy | None, log_key: note.VerifierKey) -> tlog_policy.Policy:
    """The same as a C2SP policy, for anybody's verifier."""
    return tlog_policy.Policy.of_cosigners(log_key, cosigners(quorum), needed(quorum))


def opened(data: bytes, quorum: system.QuorumPolicy | None, log_key: note.VerifierKey) -> Checkpoint | None:
    """The checkpoint in a note if the log and enough cosigners signed it; None if not. Raises `note.NoteError` for a malformed note, and
    where the policy can't be one, which admission never lets in."""
    try:
        asked = policy(quorum, log_key)
    except tlog_policy.PolicyError as error:
        raise note.NoteError(f"the log's cosigners: {error}") from error
    verdict = tlog_policy.judge(asked, data)
    return verdict.checkpoint if verdict.satisfied else None


def opened_by_size(
    data: bytes, quorum: system.QuorumPolicy | None, log_key_at: Callable[[int], note.VerifierKey]
) -> Checkpoint | None:
    """The same, by the key that signs checkpoints of this one's size."""
    return opened(data, quorum, log_key_at(parse_text(note.parse(data).text).size))


def standing(quorum: system.QuorumPolicy | None, witnessed_size: int, seq: int) -> Standing:
    """What to say of the record at `seq`, when the largest witnessed checkpoint has this size."""
    if needed(quorum) == 0:
        return "not required"
    return "witnessed" if seq < witnessed_size else "not yet"
