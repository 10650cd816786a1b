"""Replay: a whole ledger judged again from its records alone, against pinned fingerprints.

For every record in order: gap-free seq, its own bytes, its tenant, whether its key could speak there, its signature, the quorum and
witness set of that position, the chain of its key or thing, the decision that admits it and that this decision admitted nothing else; for
every decision the licence, the logit, the verdict, the standing of whom it counts, and that its rate is at least what the decisions before
it show; for every proposal that its decision counted those whom it enrols; for every beat the count of its instance's records; for every
attestation of a proposal the witness's signature. At the end the tree's root against the signed checkpoint. The code that admits is the
code that replays, so the two can't drift apart; what a reader must remember to say the rest is in `places` and `voices`.

What is pinned (`Pins`) comes from elsewhere: two fingerprints, genesis and the seal, so that neither the founding nor the first quorum
can be put in place of another; and how far the log had come, so that a tail can't be cut unseen.

`step` judges one record by itself and is the reference. `absorb` takes what a `vouch.Voucher` found of a run and asks each record's place
only; wherever anything is not in order, that record is judged by `step`, so both ways stop at the same record for the same reason.

Asserted, not recomputed (`ASSERTED`): time, since a record's own `ts` stands for the writer's clock, and what the gate saw of a call and
didn't keep. Erased payloads keep their place, hash, signature and proof; what stood in them is not judged again.
"""

import contextlib
from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

from sigilcore import (
    admission,
    antecedents,
    checkpoint,
    governance,
    merkle,
    note,
    places,
    record,
    voices,
    vouch,
    witnessed,
)
from sigilcore.records import system
from sigilcore.refusals import Code, Refused

ASSERTED: Final = (
    "time",
    "entropy and length of parameters",
    "how a session was proven",
    "whom a call proposed that opened no proposal",
)
_LEAVES: Final = 256  # leaf hashes held before the tree takes them together


class Diverged(Exception):  # noqa: N818 - an answer: the ledger stops agreeing here
    """The first position at which the ledger does not follow from what came before, and why."""

    def __init__(self, seq: int, code: str, reason: str) -> None:
        """`seq` is the position; `code` the refusal that admission gives there, or `REPLAY`."""
        super().__init__(f"seq {seq}: {code}: {reason}")
        self.seq = seq
        self.code = code
        self.reason = reason


class Pins(msgspec.Struct, frozen=True, kw_only=True):
    """What the reader knows beforehand. Without a fingerprint the one found is taken on trust.

    `genesis`: the hash of record 0. `seal`: the hash of the first `quorum_policy`. `checkpoint`: a signed checkpoint seen earlier, which
    the log must continue. `size`: how many records the log has at least.
    """

    genesis: str | None = None
    seal: str | None = None
    checkpoint: bytes | None = None
    size: int = 0


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What was recomputed; `pinned` names the fingerprints that were given, `asserted` what nobody can recompute."""

    records: int
    decisions: int
    effects: int
    erased: int
    genesis: str
    seal: str | None
    pinned: tuple[str, ...]
    root: str
    origin: str
    cosigned: witnessed.Standing
    asserted: tuple[str, ...] = ASSERTED


class Replay:
    """Feed it every record in order, one by one or in runs, then the checkpoint."""

    def __init__(self, pins: Pins | None = None) -> None:
        """Nothing is known before genesis."""
        self.state = governance.Governance()
        self.size = 0
        self.link: str | None = None  # the decision that admitted the newest record, if it took one
        self._pins = pins or Pins()
        self._places = places.Places()
        self._voices = voices.Voices()
        self._seal: str | None = None
        self._decisions = 0
        self._effects = 0
        self._erased = 0
        self._frontier = merkle.EMPTY
        self._leaves: list[bytes] = []
        self._pinned: checkpoint.Checkpoint | None = None

    def step(self, placed: record.PlacedRecord) -> record.Checked:
        """Judge one record; raises `Diverged`."""
        checked = self._judge(placed)
        self._leaves.append(merkle.leaf_hash(checked.leaf))
        if len(self._leaves) >= _LEAVES or self._at_pinned_size():
            self._grow()
        return checked

    def absorb(self, run: vouch.Run, lines: Sequence[bytes]) -> None:
        """Judge a run of records: those vouched for by their place, the others by `step`.

        Raises:
            Diverged: as `step` would.
            msgspec.DecodeError: a line can't be read.

        """
        whole = run.first == self.size and len(run.entries) == len(lines)
        if not whole or not run.subtrees or self._pinned_within(len(lines)):
            for line in lines:
                self.step(vouch.read(line))
            return
        self._grow()
        others = iter(run.others)
        for entry, line in zip(run.entries, lines, strict=True):
            leaf = next(others) if entry is None else None
            if entry is not None and self._places.fits(self.size, entry, self.state.chains):
                self._remember(entry)
                continue
            checked = self._judge(vouch.read(line))
            if leaf is not None and leaf != merkle.leaf_hash(checked.leaf):
                raise Diverged(self.size - 1, "REPLAY", "the record changed while it was read")
            # Else vouchers elsewhere would have judged without it.
            assert vouch.governs(line) == checked.kind.governs, "a governing record was read in two ways"
        for width, peak in run.subtrees:
            self._frontier = self._frontier.graft(width, peak)
        self._at_pinned_size()

    def finish(self, signed_checkpoint: bytes) -> Report:
        """Hold the recomputed tree to the signed checkpoint, and both to what was pinned; raises `Diverged`."""
        self._grow()
        if not self.state.bootstrapped:
            raise Diverged(0, "REPLAY", "there is no record, and no genesis")
        opened = self._open(signed_checkpoint, "checkpoint")
        if opened.size != self.size:
            raise Diverged(self.size, "REPLAY", f"the checkpoint has size {opened.size}, the records {self.size}")
        if opened.root != self._frontier.root():
            raise Diverged(self.size, "REPLAY", "the checkpoint's root is not these records' root")
        missing = self._places.unexplained()
        if missing is not None:
            raise Diverged(missing, "REPLAY", "its payload is missing, and no erasure names it")
        least = max(self._pins.size, 0 if self._pinned is None else self._pinned.size)
        if self.size < least:
            raise Diverged(self.size, "REPLAY", f"the log had {least} records when it was pinned, here are {self.size}")
        if self._pins.seal is not None and self._seal is None:
            raise Diverged(self.size, "REPLAY", "a seal is pinned, and this log was never sealed")
        return self._report(opened, signed_checkpoint)

    def _report(self, opened: checkpoint.Checkpoint, signed_checkpoint: bytes) -> Report:
        key = note.VerifierKey.parse(self.state.log_key)
        try:
            covered = witnessed.opened(signed_checkpoint, self.state.quorum, key)
        except note.NoteError as error:
            raise Diverged(self.size, "REPLAY", f"checkpoint: {error}") from error
        return Report(
            records=self.size,
            decisions=self._decisions,
            effects=self._effects,
            erased=self._erased,
            genesis=self.state.genesis_hash,
            seal=self._seal,
            pinned=tuple(name for name in ("genesis", "seal") if getattr(self._pins, name) is not None),
            root=opened.root.hex(),
            origin=opened.origin,
            cosigned=witnessed.standing(self.state.quorum, 0 if covered is None else covered.size, self.size - 1),
        )

    def _judge(self, placed: record.PlacedRecord) -> record.Checked:
        seq = placed.seq
        if seq != self.size:
            raise Diverged(seq, "REPLAY", f"expected seq {self.size}")
        try:
            checked = record.check_placed(placed)
            self._places.check_id(checked.core.id)
            link = self._admit(seq, checked)
            entry = places.entry(self.state, checked, seq, link)
            self._places.check(seq, entry)
            self._voices.hear(self.state, seq, checked)
        except Refused as refusal:
            raise Diverged(seq, refusal.code, refusal.message) from refusal
        self.state.apply(seq, checked)
        self._remember(entry)
        if seq == 0:
            self._open_pinned()
        return checked

    def _admit(self, seq: int, checked: record.Checked) -> str | None:
        """Judge a record against the log; returns the decision that admits it, if it takes one. Raises `Refused`."""
        if seq == 0:
            admission.check_genesis(checked)
            if self._pins.genesis not in {None, checked.header.hash}:
                raise Refused(Code.RECORD_INVALID, "genesis is not the pinned one")
            return None
        link = self._admitted_by(seq, checked)
        antecedents.check(self.state, checked, self._places.named)
        if isinstance(checked.payload, system.QuorumPolicy) and self._seal is None:
            if self._pins.seal not in {None, checked.header.hash}:
                raise Refused(Code.RECORD_INVALID, "the seal is not the pinned one")
            self._seal = checked.header.hash
        return link

    def _admitted_by(self, seq: int, checked: record.Checked) -> str | None:
        """The first of the decisions that it may stand on by which a record is admitted. Raises `Refused`, as by the last of them."""
        head = self._places.head(checked) if checked.core.space == "user" else None
        links = self._places.links(checked)
        for link in links[:-1]:
            with contextlib.suppress(Refused):
                vouch.judge(self.state, seq, checked, decided=self._places.decided(seq, link), thing_head=head)
                return link
        decided = self._places.decided(seq, links[-1]) if links else None
        vouch.judge(self.state, seq, checked, decided=decided, thing_head=head)
        return None if decided is None else links[-1]

    def _remember(self, entry: places.Entry) -> None:
        self._places.put(self.size, entry)
        self.link = entry.link
        if entry.key is not None:
            self.state.continue_chain(entry.key, entry.hash)
        self._decisions += len(entry.calls)
        self._effects += entry.link is not None
        self._erased += entry.thing == b""
        self.size += 1

    # The tree.

    def _grow(self) -> None:
        self._frontier = self._frontier.extend(self._leaves)
        self._leaves.clear()

    def _open(self, signed: bytes, what: str) -> checkpoint.Checkpoint:
        try:
            return checkpoint.open_by_size(signed, self.state.log_key_at)
        except note.NoteError as error:
            raise Diverged(self.size, "REPLAY", f"{what}: {error}") from error

    def _open_pinned(self) -> None:
        """Read it; who signed it is asked where it stood, since only then is the log's key of that size known."""
        if self._pins.checkpoint is None:
            return
        try:
            self._pinned = checkpoint.parse_text(note.parse(self._pins.checkpoint).text)
        except note.NoteError as error:
            raise Diverged(self.size, "REPLAY", f"the pinned checkpoint: {error}") from error

    def _pinned_within(self, count: int) -> bool:
        """True if the pinned root must be looked at before the end of these records; at genesis it isn't known yet."""
        if self._pinned is None:
            return self.size == 0 and self._pins.checkpoint is not None
        return self.size < self._pinned.size < self.size + count

    def _at_pinned_size(self) -> bool:
        """Hold the tree to the pinned checkpoint where that stood; raises `Diverged`."""
        if self._pinned is None or self.size != self._pinned.size:
            return False
        assert self._pins.checkpoint is not None, "it was read"
        self._open(self._pins.checkpoint, "the pinned checkpoint")
        self._grow()
        if self._frontier.root() != self._pinned.root:
            raise Diverged(self.size, "REPLAY", "these records are not the ones that the pinned checkpoint covers")
        return True


def replay(
    records: Iterable[record.PlacedRecord],
    signed_checkpoint: bytes,
    pinned_genesis: str | None = None,
    pins: Pins | None = None,
) -> Report:
    """Judge a whole ledger again, one record after the other; raises `Diverged` at the first position that doesn't follow."""
    machine = Replay(pins or Pins(genesis=pinned_genesis))
    for placed in records:
        machine.step(placed)
    return machine.finish(signed_checkpoint)
