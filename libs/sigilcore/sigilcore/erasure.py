"""Which payloads may be missing from a ledger, and by whose word: for whoever reads a whole ledger again.

An erased record is a header without a payload. It names no thing any more, but its `prev` does: versions of a thing form a chain, which an
`erasure` record ends and names. From one erasure to the next all versions of a thing are sealed by one data key, so they are erased
together or not at all. `Chains` follows these chains and holds every missing payload to that:

- an erased record begins a chain or continues the newest version of one;
- a chain is missing whole, from the erasure before it on: nothing readable stands between missing payloads and their erasure;
- the erasure continues the chain, lists exactly its records, in order, and names the one thing that this can be;
- at the end no missing payload is without its erasure.

What isn't told apart: of a chain that was erased from the start on nobody but the erasure says whose thing it was.
"""

import msgspec

from sigilcore.record import Checked
from sigilcore.records import user
from sigilcore.refusals import Code, Refused

ThingName = tuple[str, str, str]


class _Chain(msgspec.Struct):
    """The versions of a thing since it was last erased; `thing` is None while all that is known of them is that they are missing."""

    head: str
    kind: str
    thing: ThingName | None
    ids: list[str]
    missing_since: int | None = None


class Chains:
    """Feed it every `user` record in order: `head_of` before it is admitted, `follow` after."""

    def __init__(self) -> None:
        """Nothing was written yet."""
        self._by_thing: dict[ThingName, _Chain] = {}
        self._by_head: dict[str, _Chain] = {}

    def head_of(self, checked: Checked) -> str | None:
        """The hash that the record's `prev` must be. Raises `Refused`: RECORD_INVALID where payloads are missing that can't be."""
        thing = None if checked.erased else checked.kind.thing_name(checked.payload)
        if checked.erased or isinstance(checked.payload, user.Erasure):
            chain = None if checked.core.prev is None else self._by_head.get(checked.core.prev)
        else:
            chain = None if thing is None else self._by_thing.get(thing)
        if checked.erased:
            if chain is not None and chain.ids and chain.missing_since is None:
                raise Refused(Code.RECORD_INVALID, "a version before it is there: a thing is erased whole")
            if chain is not None and chain.kind != checked.core.kind:
                raise Refused(Code.RECORD_INVALID, f"a {chain.kind} stands before it", field="$.header.core.prev")
        elif isinstance(checked.payload, user.Erasure):
            assert thing is not None
            return self._ended(checked.payload, thing, chain)
        elif chain is not None and chain.missing_since is not None:
            raise Refused(Code.RECORD_INVALID, "a version before it is missing: a thing is erased whole")
        return None if chain is None else chain.head

    def follow(self, seq: int, checked: Checked) -> None:
        """The record stands."""
        if checked.core.space != "user":
            return
        thing = None if checked.erased else checked.kind.thing_name(checked.payload)
        if not checked.erased and thing is None:
            return
        prev = checked.core.prev
        chain = None if prev is None else self._by_head.pop(prev, None)
        if chain is None:
            chain = _Chain(head="", kind=checked.core.kind, thing=thing, ids=[])
        chain.head = checked.header.hash
        self._by_head[chain.head] = chain
        if thing is not None:
            chain.thing = thing
            self._by_thing[thing] = chain
        if isinstance(checked.payload, user.Erasure):
            chain.ids, chain.missing_since = [], None
            return
        chain.ids.append(checked.core.id)
        if checked.erased and chain.missing_since is None:
            chain.missing_since = seq

    def unexplained(self) -> int | None:
        """The first seq whose payload is missing without an erasure; None if there is none."""
        missing = [chain.missing_since for chain in self._by_head.values() if chain.missing_since is not None]
        return min(missing, default=None)

    def _ended(self, payload: user.Erasure, thing: ThingName, chain: _Chain | None) -> str | None:
        """The head of the chain that an erasure ends: its thing's own."""
        own = self._by_thing.get(thing)
        if chain is None or chain.kind != thing[0] or (chain is not own and (own or chain.thing) is not None):
            return None if own is None else own.head
        if not chain.ids or list(payload.records) != chain.ids:
            raise Refused(Code.RECORD_INVALID, "it doesn't list what it erases", field="$.payload.records")
        return chain.head
