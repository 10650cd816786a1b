"""Judging one record of a ledger by all but its place: what can be done for many records at once, by whoever has the governing ones.

`judge` is the whole judgement, given what stands around the record. A `Voucher` follows the governing records alone, and vouches for each
other record that its place is all that is left to ask: bytes, key, signature, witnesses, the licence, logit and verdict of decisions, and
that an effect is what its decision allows. Where it can't tell, because the decision stands outside its run, because the record is about
a proposal, or because it is bad, it says nothing, and the record is judged by who knows the whole log (`replay`).

A Voucher believes the governing records before its run unseen. That is safe because its word counts only if everything before was judged
good, in order, by the one who asks.
"""

import contextlib
import itertools
from collections.abc import Iterable, Iterator, Sequence

import msgspec

from sigilcore import admission, clock, merkle, places, record, voices
from sigilcore.admission import DecisionRow
from sigilcore.governance import Governance
from sigilcore.places import Entry
from sigilcore.record import AuthorCheck, Checked, Header, PlacedRecord, verify_author
from sigilcore.records import REGISTRY
from sigilcore.refusals import Refused

_LINE = msgspec.json.Decoder(PlacedRecord)
_Seen = tuple[int, Checked]  # a record, at its seq
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
    header: msgspec.Raw


_PEEK = msgspec.json.Decoder(_Peek)
_PEEK_HEADER = msgspec.json.Decoder(_PeekHeader)


def governs(line: bytes) -> bool:
    """Whether this line's record is of a kind that governs; read as far as that takes, and no further. A line that holds two headers has
    the second, as `read` has it."""
    try:
        return _PEEK_HEADER.decode(_PEEK.decode(line).header).core.kind in _GOVERNING
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
        self._effects: dict[bytes, list[str]] = {}
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
        """Judge a run as far as it can be judged by itself.

        Each step is taken for many records before the next is: between other work the processor has it in none of its caches, and it takes
        half as long again.
        """
        self._rows, self._effects, self._owed = {}, {}, []
        placed = [_read(line) for line in lines]
        leaves = [merkle.leaf_hash(bytes(one.header)) for one in placed if one is not None]
        entries = self._entries(list(_seen(first, placed)))
        signed = self._signed()
        sure = tuple(entries.get(seq) if seq in signed else None for seq in range(first, first + len(lines)))
        if len(leaves) < len(lines):
            return Run(first, sure, (), ())
        others = tuple(leaf for leaf, entry in zip(leaves, sure, strict=True) if entry is None)
        return Run(first, sure, others, tuple(merkle.subtrees(first, leaves)))

    def _entries(self, run: list[_Seen]) -> dict[int, Entry]:
        """What records say of their place, by seq, where all but that and the signature is good."""
        entries: dict[int, Entry] = {}
        for governs, stretch in itertools.groupby(run, lambda seen: seen[1].kind.governs):
            if governs:
                for seq, checked in stretch:
                    self._fold(seq, checked)
            elif not self._lost:
                entries.update(self._between(list(stretch)))
        return entries

    def _between(self, stretch: list[_Seen]) -> Iterator[tuple[int, Entry]]:
        """Judge records between which nothing governs: first what effects may stand on, then the effects."""
        for effects in (False, True):
            alike = [seen for seen in stretch if seen[1].kind.effect == effects]
            asked = [(seq, checked, self._link(checked)) for seq, checked in alike]
            good = [one for one in asked if self._admits(*one)]
            for seq, checked, link in good:
                entry = self._entry(seq, checked, link)
                if entry is not None:
                    yield seq, entry

    def _link(self, checked: Checked) -> str | None:
        """The decision of this run that an effect stands on, as far as it alone can tell."""
        links = places.links_of(checked, self._effects)
        return links[0] if len(links) == 1 else None

    def _admits(self, seq: int, checked: Checked, link: str | None) -> bool:
        """Whether a record is good but for its place and its signature, which is owed."""
        decided = self._decided(seq, link)
        if (checked.kind.effect and decided is None) or isinstance(checked.payload, voices.Spoken):
            return False
        core = checked.core
        if core.space == "audit" and core.prev is not None:
            self._state.continue_chain(checked.header.key_id, core.prev)

        def owe(header: Header, core_bytes: bytes, public: bytes) -> None:
            self._owed.append((seq, header, core_bytes, public))

        try:
            judge(self._state, seq, checked, decided=decided, thing_head=core.prev, author=owe)
        except Exception:
            return False  # who judges it again says why
        return True

    def _decided(self, seq: int, link: str | None) -> DecisionRow | None:
        """The decision of this run that an effect links. One after it is none: the link may name another, before the run."""
        packed = None if link is None else self._rows.get(link)
        row = None if packed is None else places.unpacked(packed)
        return row if row is not None and row.seq < seq else None

    def _entry(self, seq: int, checked: Checked, link: str | None) -> Entry | None:
        try:
            entry = places.entry(self._state, checked, seq, link)
        except Exception:
            return None
        for row in entry.rows:
            self._rows[row.link] = row.packed
            if row.effect is not None:
                self._effects.setdefault(row.effect, []).append(row.link)
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


def _seen(first: int, run: Iterable[PlacedRecord | None]) -> Iterator[_Seen]:
    """The records that stand where they say, and whose own bytes agree with each other."""
    for seq, placed in enumerate(run, first):
        if placed is None or placed.seq != seq:
            continue
        try:
            checked = record.check_placed(placed)
        except Exception:  # noqa: S112 - who judges it again says why
            continue
        yield seq, checked


def _read(line: bytes) -> PlacedRecord | None:
    try:
        return read(line)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
