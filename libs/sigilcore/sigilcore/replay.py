"""Replay: a whole ledger judged again from its records alone, against pinned fingerprints.

For every record in order: gap-free seq, its own bytes, its tenant, whether its key could speak there, its signature, the quorum and
witness set of that position, the chain of its key or thing, the decision that admits it and that this decision admitted nothing else,
and for every decision the licence, the logit and the verdict. At the end the tree's root against the signed checkpoint. The code that
admits is the code that replays, so the two can't drift apart; what is added here is what the writer knows and a reader must find
again: decisions used, things' heads, positions.

Asserted, not recomputed: time (a record's own `ts` stands for the writer's clock) and what came of the erased or unrecorded parameters
(entropy, length). Erased payloads keep their place, hash, signature and proof, and each must be named by an erasure (`erasure.Chains`);
what stood in them is not judged again.
"""

from collections.abc import Iterable

import msgspec

from sigilcore import admission, checkpoint, clock, decision, erasure, gate, governance, merkle, note, record
from sigilcore.admission import DecisionRow
from sigilcore.contracts import catalogue
from sigilcore.records import audit
from sigilcore.refusals import Code, Refused


class Diverged(Exception):  # noqa: N818 - an answer: the ledger stops agreeing here
    """The first position at which the ledger does not follow from what came before, and why."""

    def __init__(self, seq: int, code: str, reason: str) -> None:
        """`seq` is the position; `code` the refusal that admission gives there, or `REPLAY`."""
        super().__init__(f"seq {seq}: {code}: {reason}")
        self.seq = seq
        self.code = code
        self.reason = reason


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What was recomputed."""

    records: int
    decisions: int
    effects: int
    genesis: str
    root: str
    origin: str


class _Use(msgspec.Struct):
    """Where a decision was used: one call's records stand together."""

    row: DecisionRow
    last_seq: int


class Replay:
    """Feed it every record in order, then the checkpoint."""

    def __init__(self, pinned_genesis: str | None = None) -> None:
        """Without a pin, the first genesis found is taken on trust."""
        self.state = governance.Governance()
        self._pinned = pinned_genesis
        self._size = 0
        self._decisions = 0
        self._effects = 0
        self._frontier = merkle.Frontier(0, ())
        self._ids: dict[str, int] = {}
        self._chains = erasure.Chains()
        self._rows: dict[tuple[str, int], DecisionRow] = {}
        self._by_effect: dict[str, tuple[str, int]] = {}
        self._used: dict[tuple[str, int], _Use] = {}

    def step(self, placed: record.PlacedRecord) -> record.Checked:
        """Judge one record; raises `Diverged`."""
        seq = placed.seq
        if seq != self._size:
            raise Diverged(seq, "REPLAY", f"expected seq {self._size}")
        try:
            checked = record.check_placed(placed)
            self._admit(seq, checked)
        except Refused as refusal:
            raise Diverged(seq, refusal.code, refusal.message) from refusal
        self._frontier = self._frontier.append(merkle.leaf_hash(checked.leaf))
        self._size += 1
        return checked

    def finish(self, signed_checkpoint: bytes) -> Report:
        """Hold the recomputed tree to the signed checkpoint, and every missing payload to its erasure; raises `Diverged`."""
        missing = self._chains.unexplained()
        if missing is not None:
            raise Diverged(missing, "REPLAY", "its payload is missing, and no erasure names it")
        try:
            opened = checkpoint.open_signed(signed_checkpoint, note.VerifierKey.parse(self.state.log_key))
        except note.NoteError as error:
            raise Diverged(self._size, "REPLAY", f"checkpoint: {error}") from error
        if opened.size != self._size:
            raise Diverged(self._size, "REPLAY", f"the checkpoint has size {opened.size}, the records {self._size}")
        if opened.root != self._frontier.root():
            raise Diverged(self._size, "REPLAY", "the checkpoint's root is not these records' root")
        return Report(
            records=self._size,
            decisions=self._decisions,
            effects=self._effects,
            genesis=self.state.genesis_hash,
            root=opened.root.hex(),
            origin=opened.origin,
        )

    def _admit(self, seq: int, checked: record.Checked) -> None:
        core, version = checked.core, erasure.version_of(checked)
        if core.id in self._ids:
            raise Refused(Code.ID_TAKEN, f"the id stands at seq {self._ids[core.id]} already")
        if seq == 0:
            admission.check_genesis(checked)
            if self._pinned is not None and checked.header.hash != self._pinned:
                raise Refused(Code.RECORD_INVALID, "genesis is not the pinned one")
        else:
            admission.admit(
                self.state,
                checked,
                now_ms=clock.parse_ms(core.ts),
                decided=self._decided(seq, checked),
                thing_head=None if version is None else self._chains.head(version),
            )
        if version is not None:
            self._chains.check(version)
        self._recompute(checked)
        self.state.apply(seq, checked)
        self._remember(seq, checked)
        if version is not None:
            self._chains.put(seq, version)

    def _decided(self, seq: int, checked: record.Checked) -> DecisionRow | None:
        """The row of this record's decision; marked used unless it is the same call's next record."""
        place = self._place(checked)
        row = None if place is None else self._rows.get(place)
        if row is None or place is None:
            return None
        use = self._used.get(place)
        if use is not None and use.last_seq != seq - 1:
            return msgspec.structs.replace(row, used_by=use.row.used_by)
        first = checked.core.id if use is None else use.row.used_by
        self._used[place] = _Use(row=msgspec.structs.replace(row, used_by=first), last_seq=seq)
        self._effects += 1
        return row

    def _place(self, checked: record.Checked) -> tuple[str, int] | None:
        if not checked.kind.effect:
            return None
        ref = admission.decision_ref(checked)
        if ref is not None:
            return ref.record, ref.index
        return self._by_effect.get(checked.core.id)

    def _recompute(self, checked: record.Checked) -> None:
        if not isinstance(checked.payload, audit.DecisionBatch):
            return
        for index, frozen in enumerate(checked.payload.decisions):
            if not decision.intact(frozen):
                raise Refused(Code.RECORD_INVALID, f"decision {index} was changed after it was frozen")
            differences = gate.recompute(self.state, frozen.chain, catalogue.COMMANDS.get(frozen.chain.command))
            if differences:
                raise Refused(Code.RECORD_INVALID, f"decision {index}: {differences[0]}")
            self._decisions += 1

    def _remember(self, seq: int, checked: record.Checked) -> None:
        self._ids[checked.core.id] = seq
        for row in admission.decisions_of(checked, seq):
            self._rows[row.record, row.index] = row
            if row.effect is not None:
                self._by_effect[row.effect] = (row.record, row.index)


def replay(
    records: Iterable[record.PlacedRecord], signed_checkpoint: bytes, pinned_genesis: str | None = None
) -> Report:
    """Judge a whole ledger again; raises `Diverged` at the first position that doesn't follow."""
    machine = Replay(pinned_genesis)
    for placed in records:
        machine.step(placed)
    return machine.finish(signed_checkpoint)
