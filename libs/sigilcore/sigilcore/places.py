"""Where records stand among each other: what a reader must remember of a whole log to judge its next record.

Admission judges a record by what governs; it is told the rest: the decision that the record links, the newest version of its thing. The
writer asks its store for that. Here a reader of the whole log remembers it, in a fixed small number of bytes a record, never the records:

- an id stands once;
- an audit record continues its key's chain, and a beat says how many records that chain had before it;
- a `user` record continues its thing; an erased one says no thing, so it is known by its own hash, and nothing may pass it by;
- a decision admits one call: records one after the other without anything between, once;
- an effect that links no decision, since its author signed it before there was one, stands on one that names its id. Anybody's call may
  name any id, so several may; it stands on the newest that admits it;
- a decision on somebody's behalf names the one that it was made for, an approval the review that it answers (`antecedents`);
- the rate that the gate recorded for a call is at least what this gate's own committed decisions show (`minute.Shown`): those of the
  licence, by the same instance, in the minute before by their own times, what lies ahead of a clock that was set back included, and those
  before it in its record. Another instance's don't count: each gate counts for itself, from its own start;
- the standing that a decision records is what the committed decisions of its owner give, up to the position that it names; or of those whom
  the call proposed as witnesses, the lowest. Who they were is asked where the proposal stands (`candidates`).

What a record says of its place is its `Entry`. `fits` asks, `put` remembers; neither needs the record.
"""

import collections
from typing import Final

import msgspec

from sigilcore import admission, antecedents, clock, decision, erasure, gate, ids, minute, standing, trust
from sigilcore.admission import DecisionRow
from sigilcore.decision import Verdict
from sigilcore.governance import Governance
from sigilcore.record import Checked
from sigilcore.records import audit
from sigilcore.refusals import Code, Refused

_ROW_ENCODER: Final = msgspec.msgpack.Encoder()
_ROW_DECODER: Final = msgspec.msgpack.Decoder(DecisionRow)
_NAMED_DECODER: Final = msgspec.msgpack.Decoder(antecedents.Decided)


class Call(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """All that the sequential side hears of one decision, in the order of the log: what is folded over decisions, rate and standing, takes
    its facts from here.

    `verdict` is the one on the caller, None where the gate broke; `limit` is 0 where no rate was recorded, or one by a policy that isn't
    known any more; `standing` is -1 where none was, and `standing_of` says whose it is.
    """

    licence: str
    owner: str
    ts_ms: int
    verdict: Verdict | None
    rate: int
    limit: int
    standing: int
    standing_as_of: int
    standing_of: tuple[str, ...]


class Row(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """An Allow that may admit one call; packed, since a great many are remembered and few are read. `effect` is the id that it names."""

    link: str
    effect: bytes | None
    packed: bytes


class Entry(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What one record says of its place. `key` is set in `audit`, `thing` in `user`: empty when it was erased."""

    id: bytes
    hash: str
    prev: str | None
    key: str | None
    thing: bytes | None
    link: str | None
    rows: tuple[Row, ...] = ()
    calls: tuple[Call, ...] = ()
    beat: int | None = None
    version: erasure.Version | None = None
    named: tuple[tuple[str, bytes], ...] = ()  # decisions that later records may name, packed
    children: tuple[antecedents.Child, ...] = ()


def entry(state: Governance, checked: Checked, seq: int, link: str | None) -> Entry:
    """The entry of an admitted record; `link` is the decision that admits it, `state` the log before it."""
    core, payload = checked.core, checked.payload
    batch = audit.decisions_in(payload)
    version = erasure.version_of(checked)
    return Entry(
        id=_id_bytes(core.id) if version is None else version.id,
        hash=checked.header.hash,
        prev=core.prev,
        key=checked.header.key_id if core.space == "audit" else None,
        thing=None if core.space != "user" else thing_of(checked) if version is None else version.thing,
        link=link,
        rows=tuple(map(_row, admission.decisions_of(checked, seq))),
        calls=_calls(state, batch) if batch else (),
        beat=payload.records if isinstance(payload, audit.InstanceBeat) else None,
        version=version,
        named=tuple((link, _ROW_ENCODER.encode(said)) for link, said in antecedents.brought(checked)) if batch else (),
        children=antecedents.children(checked) if batch else (),
    )


def thing_of(checked: Checked) -> bytes:
    """Names the thing that a `user` record is a version of; empty when that was erased."""
    if checked.erased:
        return b""
    name = checked.kind.thing_name(checked.payload) or (checked.kind.tag, checked.kind.subject(checked.payload), "")
    return erasure.thing_named(name)


def unpacked(packed: bytes) -> DecisionRow:
    """A decision as it was packed."""
    return _ROW_DECODER.decode(packed)


def _row(row: DecisionRow) -> Row:
    effect = None if row.effect is None or not ids.is_id(row.effect) else _id_bytes(row.effect)
    return Row(link=f"{row.record}.{row.index}", effect=effect, packed=_ROW_ENCODER.encode(row))


def _calls(state: Governance, batch: tuple[decision.FrozenChain, ...]) -> tuple[Call, ...]:
    assert state.policy is not None, "genesis brings the first policy"
    limit = state.policy.rate_limit
    found = []
    for frozen in batch:
        chain = frozen.chain
        said, scored = chain.audit, chain.trust
        known = scored is not None and not gate.overtaken(state, chain)
        found.append(
            Call(
                said.licence,
                said.owner,
                clock.parse_ms(said.ts),
                standing.verdict_on(chain),
                0 if scored is None else scored.features.rate,
                limit if known else 0,
                -1 if scored is None else scored.features.standing,
                0 if scored is None else scored.standing_as_of,
                (said.owner,) if scored is None else scored.standing_of or (said.owner,),
            )
        )
    return tuple(found)


class Places:
    """The memory. `fits` changes nothing, so a record that doesn't fit can be judged again for the reason."""

    def __init__(self) -> None:
        """Before the first record."""
        self._ids: set[bytes] = set()
        self._counts: dict[str, int] = {}
        self._heads: dict[bytes, str] = {}
        self._erased: dict[str, str | None] = {}  # an erased version's hash → its prev
        self._passed: dict[str, str] = {}  # a version's hash → the newer one, where one of the two was erased
        self._rows: dict[str, bytes] = {}
        self._used: set[str] = set()
        self._effects: dict[bytes, list[str]] = {}  # id of a record to come → the decisions that name it
        # The decision that the newest call used, its last record's seq, and what the decision says.
        self._call: tuple[str, int, bytes] = ("", -1, b"")
        # By a gate's key.
        self._shown: collections.defaultdict[str, minute.Shown] = collections.defaultdict(minute.Shown)
        self._standings = standing.Standings()
        self._gates: dict[str, int] = {}  # a gate's key → the seq after its newest decisions
        self._chains = erasure.Chains()
        self._named: dict[str, bytes] = {}

    # What admission is told.

    def check_id(self, record_id: str) -> None:
        """Raise `Refused` if the id stands in the log."""
        if _id_bytes(record_id) in self._ids:
            raise Refused(Code.ID_TAKEN, "the id stands in the log already", field="$.header.core.id")

    def links(self, checked: Checked) -> list[str]:
        """The decisions that an effect may stand on."""
        return links_of(checked, self._effects)

    def decided(self, seq: int, link: str | None) -> DecisionRow | None:
        """The decision as the record at `seq` finds it: unused, or used by the record just before it in the same call."""
        if link is None:
            return None
        used_by, at, packed = self._call
        if link in self._rows or (link == used_by and at == seq - 1):
            return unpacked(self._rows.get(link, packed))
        return _spent(link) if link in self._used else None

    def named(self, link: str) -> antecedents.Decided | None:
        """An earlier decision that may be named so, if it is one."""
        packed = self._named.get(link)
        return None if packed is None else _NAMED_DECODER.decode(packed)

    def head(self, checked: Checked) -> str | None:
        """The newest version of a `user` record's thing; for an erased one, of whatever it continues."""
        return self._head(thing_of(checked), checked.core.prev)

    def _head(self, thing: bytes, prev: str | None) -> str | None:
        if prev is not None and prev in self._passed:
            return self._passed[prev]
        if not thing:
            return prev
        whole = prev
        while whole is not None and whole in self._erased:
            whole = self._erased[whole]
        head = self._heads.get(thing)
        return prev if whole == head else head

    # What admission isn't asked.

    def check(self, seq: int, said: Entry) -> None:
        """The rest of an admitted record's place, `seq`; raises `Refused`."""
        if said.beat is not None and said.beat != self._counts.get(said.key or "", 0):
            have = self._counts.get(said.key or "", 0)
            raise Refused(
                Code.RECORD_INVALID,
                f"the beat counts {said.beat} records of its instance, the log {have}",
                field="$.payload.records",
            )
        if said.version is not None:
            self._chains.check(said.version)
        lacking = self._lacking_rate(said)
        if lacking is not None:
            index, need = lacking
            raise Refused(
                Code.RECORD_INVALID,
                f"decision {index}: the rate {said.calls[index].rate} is below {need}, which committed decisions show",
                field=f"$.payload.decisions[{index}].chain.trust.features.rate",
            )
        wrong = self._wrong_standing(seq, said)
        if wrong is not None:
            index, should = wrong
            raise Refused(
                Code.RECORD_INVALID,
                f"decision {index}: the standing {said.calls[index].standing} isn't {should}, as committed decisions say",
                field=f"$.payload.decisions[{index}].chain.trust.features.standing",
            )

    def fits(self, seq: int, said: Entry, chains: dict[str, str]) -> bool:
        """True if a record of this entry, in order by itself, is in order here: what admission and `check` would say of its place."""
        if said.id in self._ids:
            return False
        if said.key is not None and chains.get(said.key) != said.prev:
            return False
        if said.thing is not None and self._head(said.thing, said.prev) != said.prev:
            return False
        if said.link is not None and said.link not in self._rows and self._call[:2] != (said.link, seq - 1):
            return False
        if said.link is not None and len(self._effects.get(said.id, ())) > 1:
            return False  # it may stand on another than the one that its run shows
        if said.beat is not None and said.beat != self._counts.get(said.key or "", 0):
            return False
        if said.version is not None and self._chains.lacks(said.version) is not None:
            return False
        if not said.calls:
            return True
        if not all(self._continues(child) for child in said.children):
            return False
        return self._lacking_rate(said) is None and self._wrong_standing(seq, said) is None

    def _wrong_standing(self, seq: int, said: Entry) -> tuple[int, int | None] | None:
        """The first decision whose recorded standing isn't theirs whom it counts, and what it should be; None there: too old to tell.

        A gate knows all that it decided itself before, so it can't choose how far back it looks.
        """
        least = self._gates.get(said.key or "", 0)
        for index, call in enumerate(said.calls):
            if call.standing < 0:
                continue
            known = least <= call.standing_as_of <= seq
            should = self._standings.lowest_as_of(call.standing_of, call.standing_as_of, call.ts_ms) if known else None
            if call.standing != should:
                return index, should
        return None

    def _continues(self, child: antecedents.Child) -> bool:
        try:
            antecedents.check_child(child, self.named(child.parent))
        except Refused:
            return False
        return True

    def _lacking_rate(self, said: Entry) -> tuple[int, int] | None:
        """The first decision whose recorded rate is too low, and what it must be at least."""
        shown = self._shown[said.key or ""]
        before: dict[str, int] = {}
        for index, call in enumerate(said.calls):
            before[call.licence] = before.get(call.licence, 0) + 1
            if call.limit:
                need = trust.rate(shown.count(call.licence, call.ts_ms) + before[call.licence], call.limit)
                if call.rate < need:
                    return index, need
        return None

    def unexplained(self) -> int | None:
        """The first seq whose payload is missing without an erasure; None if there is none."""
        return self._chains.unexplained()

    # How it moves.

    def put(self, seq: int, said: Entry) -> None:
        """Remember an admitted record."""
        self._ids.add(said.id)
        self._effects.pop(said.id, None)
        if said.key is not None:
            self._counts[said.key] = self._counts.get(said.key, 0) + 1
        if said.thing is not None:
            self._put_version(said)
        if said.version is not None:
            self._chains.put(seq, said.version)
        if said.link is not None:
            self._use(seq, said.link)
        self._named.update(said.named)
        for row in said.rows:
            self._rows[row.link] = row.packed
            if row.effect is not None:
                self._effects.setdefault(row.effect, []).append(row.link)
        for call in said.calls:
            self._shown[said.key or ""].fold(call.licence, call.ts_ms)
            self._standings.fold(seq, call.owner, call.ts_ms, call.verdict)
        if said.calls:
            self._gates[said.key or ""] = seq + 1

    def _put_version(self, said: Entry) -> None:
        if said.thing:
            self._heads[said.thing] = said.hash
        else:
            self._erased[said.hash] = said.prev
        if said.prev is not None and (not said.thing or said.prev in self._erased):
            self._passed[said.prev] = said.hash

    def _use(self, seq: int, link: str) -> None:
        packed = self._rows.pop(link, self._call[2])
        self._used.add(link)
        self._call = (link, seq, packed)


def links_of(checked: Checked, effects: dict[bytes, list[str]]) -> list[str]:
    """The decisions that an effect may stand on: the one it links, else those that name its id in `effects`, the newest first."""
    if not checked.kind.effect:
        return []
    target = checked.core.link("decision")
    if target is None:
        return effects.get(_id_bytes(checked.core.id), [])[::-1]
    return [] if decision.parse_ref(target) is None else [target]


def _id_bytes(record_id: str) -> bytes:
    return bytes.fromhex(record_id.replace("-", ""))


def _spent(link: str) -> DecisionRow:
    """A decision that was used: what it said is of no interest any more, and isn't remembered."""
    record_id, _, index = link.partition(".")
    return DecisionRow(
        record=record_id,
        index=int(index),
        seq=-1,
        ts_ms=0,
        command="",
        owner="",
        licence_id="",
        digest="",
        effect=None,
        used_by="",
    )
