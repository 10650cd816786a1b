"""Judging one record of a ledger by all but its place: what can be done for many records at once, by whoever has the governing ones.

`judge` is the whole judgement, given what stands around the record. A `Voucher` follows the governing records alone, and vouches for each
other record that its place is all that is left to ask: bytes, key, signature, witnesses, the licence, logit and verdict of decisions, and
that an effect is what its decision allows. Where it can't tell, because the decision stands outside its run, because the record is about
a proposal, or because it is bad, it says nothing, and the record is judged by who knows the whole log (`replay`).

A Voucher believes the governing records before its run unseen. That is safe because its word counts only if everything before was judged
good, in order, by the one who asks.
"""

import contextlib
from collections.abc import Sequence

import msgspec

from sigilcore import admission, clock, merkle, places, record, voices
from sigilcore.admission import DecisionRow
from sigilcore.governance import Governance
from sigilcore.places import Entry
from sigilcore.record import AuthorCheck, Checked, Header, PlacedRecord, verify_author
from sigilcore.records import REGISTRY
from sigilcore.refusals import Refused

_LINE = msgspec.json.Decoder(PlacedRecord)
_GOVERNING = frozenset(tag for tag, kind in REGISTRY.items() if kind.governs)


class Run(msgspec.Struct, frozen=True, array_like=True):
    """What was found of consecutive records: an entry for each that is vouched for, the leaf of each that isn't, and the subtrees that all
    their leaves make up.

    No leaves and no subtrees if a line couldn't be read.
    """

    first: int
    entries: tuple[Entry | None, ...]
    others: tuple[bytes, ...]
    subtrees: tuple[tuple[int, bytes], ...]


class _PeekCore(msgspec.Struct):
    kind: str


class _PeekHeader(msgspec.Struct):
    core: _PeekCore


class _Peek(msgspec.Struct):
    header: _PeekHeader


_PEEK = msgspec.json.Decoder(_Peek)


def governs(line: bytes) -> bool:
    """Whether this line's record is of a kind that governs; read as far as that takes, and no further."""
    try:
        return _PEEK.decode(line).header.core.kind in _GOVERNING
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False


def read(line: bytes) -> PlacedRecord:
    """A line of a ledger; raises `msgspec.DecodeError` or `UnicodeDecodeError` for what is none, however deep it is nested."""
    try:
        return _LINE.decode(line)
    except RecursionError as error:
        raise msgspec.DecodeError("nested too deep") from error


def judge(
    state: Governance,
    seq: int,
    checked: Checked,
    *,
    decided: DecisionRow | None,
    thing_head: str | None,
    author: AuthorCheck = verify_author,
) -> None:
    """Judge a record after genesis at `seq`: what the writer asked of it, and its decisions again. Raises `Refused`.

    A record's own `ts` stands for the writer's clock.
    """
    now_ms = clock.parse_ms(checked.core.ts)
    admission.admit(state, checked, now_ms=now_ms, decided=decided, thing_head=thing_head, author=author)
    admission.check_positions(checked, seq)


class Voucher:
    """Feed it the governing lines before a run, then the run; the runs in order of seq."""

    def __init__(self) -> None:
        """Before genesis."""
        self._state = Governance()
        self._lost = False  # the governing records don't fold: one of them is bad, and who asks will find it
        self._rows: dict[str, bytes] = {}
        self._effects: dict[str, str] = {}
        self._owed: list[tuple[int, Header, bytes, bytes]] = []

    def follow(self, seq: int, line: bytes) -> None:
        """Fold a governing record outside the runs."""
        placed = _read(line)
        try:
            if placed is not None:
                self._fold(seq, record.check_placed(placed))
                return
        except Refused:
            pass
        self._lost = True

    def vouch(self, first: int, lines: Sequence[bytes]) -> Run:
        """Judge a run as far as it can be judged by itself."""
        self._rows, self._effects, self._owed = {}, {}, []
        entries: list[Entry | None] = []
        leaves: list[bytes] = []
        for seq, line in enumerate(lines, start=first):
            placed = _read(line)
            if placed is not None:
                leaves.append(merkle.leaf_hash(bytes(placed.header)))
            entries.append(self._entry(seq, placed))
        signed = self._signed()
        sure = tuple(entry if seq in signed else None for seq, entry in enumerate(entries, start=first))
        if len(leaves) < len(lines):
            return Run(first, sure, (), ())
        others = tuple(leaf for leaf, entry in zip(leaves, sure, strict=True) if entry is None)
        return Run(first, sure, others, tuple(merkle.subtrees(first, leaves)))

    def _entry(self, seq: int, placed: PlacedRecord | None) -> Entry | None:
        if placed is None or placed.seq != seq or self._lost:
            return None
        try:
            checked = record.check_placed(placed)
            if checked.kind.governs:
                self._fold(seq, checked)
                return None
            return self._vouched(seq, checked)
        except Exception:
            return None  # who judges it again says why

    def _vouched(self, seq: int, checked: Checked) -> Entry | None:
        link = places.link_of(checked, self._effects)
        packed = None if link is None else self._rows.get(link)
        if (checked.kind.effect and packed is None) or isinstance(checked.payload, voices.Spoken):
            return None
        core = checked.core
        if core.space == "audit" and core.prev is not None:
            self._state.continue_chain(checked.header.key_id, core.prev)
        decided = None if packed is None else places.unpacked(packed)

        def owe(header: Header, core_bytes: bytes, public: bytes) -> None:
            self._owed.append((seq, header, core_bytes, public))

        judge(self._state, seq, checked, decided=decided, thing_head=core.prev, author=owe)
        entry = places.entry(self._state, checked, seq, link)
        for row in entry.rows:
            self._rows[row.link] = row.packed
            if row.effect is not None:
                self._effects[row.effect] = row.link
        return entry

    def _signed(self) -> set[int]:
        """Whose signatures hold. They are checked one after the other: between other work each takes a tenth longer."""
        good = set()
        for seq, header, core_bytes, public in self._owed:
            with contextlib.suppress(Refused):
                record.verify_author(header, core_bytes, public)
                good.add(seq)
        return good

    def _fold(self, seq: int, checked: Checked) -> None:
        try:
            self._state.apply(seq, checked)
        except Exception:
            self._lost = True


def _read(line: bytes) -> PlacedRecord | None:
    try:
        return read(line)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
