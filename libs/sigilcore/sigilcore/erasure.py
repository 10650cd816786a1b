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

from sigilcore import digest
from sigilcore.record import Checked
from sigilcore.records import user
from sigilcore.refusals import Code, Refused


class Version(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What a `user` record says of its place. `kind` is its thing's; `thing` is empty where the payload is missing; `erases` are the ids
    that an erasure lists, None for what is none."""

    id: bytes
    hash: str
    prev: str | None
    kind: str
    thing: bytes
    erases: tuple[bytes, ...] | None


def version_of(checked: Checked) -> Version | None:
    """The version that a record is; None for what is none."""
    core, payload = checked.core, checked.payload
    if core.space != "user":
        return None
    name = None if checked.erased else checked.kind.thing_name(payload)
    if name is None and not checked.erased:
        return None
    erases = tuple(_id(one) for one in payload.records) if isinstance(payload, user.Erasure) else None
    thing = b"" if name is None else thing_named(name)
    return Version(_id(core.id), checked.header.hash, core.prev, core.kind if name is None else name[0], thing, erases)


def thing_named(name: tuple[str, str, str]) -> bytes:
    """A thing by its kind, owner and key, in sixteen bytes."""
    return digest.sha256("\x00".join(name).encode())[:16]


class _Chain(msgspec.Struct):
    """The versions of a thing since it was last erased; `thing` is empty while all that is known of them is that they are missing."""

    head: str
    kind: str
    thing: bytes
    ids: list[bytes]
    missing_since: int | None = None


class Chains:
    """Feed it every version in order: `check` before it is admitted, `put` after."""

    def __init__(self) -> None:
        """Nothing was written yet."""
        self._by_thing: dict[bytes, _Chain] = {}
        self._by_head: dict[str, _Chain] = {}

    def head(self, said: Version) -> str | None:
        """The newest version of the record's thing; for an erased one, and for the erasure of what is missing, of what it continues."""
        own = self._by_thing.get(said.thing) if said.thing else None
        continued = None if said.prev is None else self._by_head.get(said.prev)
        if not said.thing or (said.erases is not None and own is None and continued and not continued.thing):
            return None if continued is None else continued.head
        return None if own is None else own.head

    def lacks(self, said: Version) -> str | None:
        """Why payloads are missing here, or are there, that can't be so; None if all is in order. `prev` is held to `head` before."""
        chain = None if said.prev is None else self._by_head.get(said.prev)
        ids = [] if chain is None else chain.ids
        if chain is not None and chain.kind != said.kind:
            return f"it continues a {chain.kind}"
        if said.erases is not None:
            return None if ids and list(said.erases) == ids else "it doesn't list what it erases"
        if chain is None or not ids or (not said.thing) == (chain.missing_since is not None):
            return None
        return "a thing is erased whole: of its versions some are missing and some are there"

    def check(self, said: Version) -> None:
        """Raises `Refused`: RECORD_INVALID, for the reason that `lacks` gives."""
        reason = self.lacks(said)
        if reason is not None:
            raise Refused(Code.RECORD_INVALID, reason, field="$.payload")

    def put(self, seq: int, said: Version) -> None:
        """The record stands."""
        chain = None if said.prev is None else self._by_head.pop(said.prev, None)
        if chain is None:
            chain = _Chain(head="", kind=said.kind, thing=said.thing, ids=[])
        chain.head = said.hash
        self._by_head[chain.head] = chain
        if said.thing:
            chain.thing = said.thing
            self._by_thing[said.thing] = chain
        if said.erases is not None:
            chain.ids, chain.missing_since = [], None
            return
        chain.ids.append(said.id)
        if not said.thing and chain.missing_since is None:
            chain.missing_since = seq

    def unexplained(self) -> int | None:
        """The first seq whose payload is missing without an erasure; None if there is none."""
        missing = [chain.missing_since for chain in self._by_head.values() if chain.missing_since is not None]
        return min(missing, default=None)


def _id(text: str) -> bytes:
    return bytes.fromhex(text.replace("-", ""))
