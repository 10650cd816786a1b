"""What a store of the canon is: its values, its errors, and the laws that every store keeps.

A store holds one tenant's log. The laws, tested on memory and on Postgres alike:

1. *One writer.* `open` returns only to the writer that may commit. Whoever opens later ends the earlier one's right: its next commit
   raises `Fenced` and writes nothing, and so does its next `open`.
2. *Whole or not at all.* After `commit` returned, all of the batch is durable: rows, marks of use, tiles, checkpoint. After it
   raised anything but `Lost`, nothing of it is.
3. *Unknown is said.* `Lost` means that nobody knows. The writer opens again and looks. Of a commit, `Full` says more: nothing of it is.
4. *Gap-free.* A batch begins at the head or is refused with `Moved`.
5. *Ids are unique, decisions are used once.* Else `Moved`: the writer's memory was wrong, not the caller.
6. *Nothing changes* but by an erasure: with its commit the payloads of the thing's rows so far are gone, from this store and from whatever
   it left on the disk in readable form, and everything else of these rows stays. There is no way to change or remove anything else.
7. *Read your writes.* What `commit` or `cosign` made is seen by every read that begins after it.
8. *What stands is never written over.* `put_back` adds what is missing of a commit of the past, or raises `Moved` and adds nothing.
9. *First lines stay.* `cosign` adds lines to a checkpoint that is there, and ignores a key's second line for one size.
"""

from collections.abc import AsyncIterator, Collection, Sequence
from typing import Protocol

import msgspec

from sigilcore import admission, clock, digest, ids, record, records
from sigilcore.admission import DecisionRow
from sigilcore.records import audit

Ref = tuple[str, int]
"""A decision: its batch record's id and its index there."""

DECISIONS = frozenset({*audit.OF_DECISIONS, "erasure_order"})
"""The kinds that carry decisions, which `003_commit.sql` knows too."""

TileKey = tuple[int, int]
"""A hash tile's level and index."""


class StoreError(Exception):
    """A store could not do as asked."""


class Fenced(StoreError):  # noqa: N818 - names what happened
    """Another writer has taken over; this one never writes again."""


class Moved(StoreError):  # noqa: N818 - names what happened
    """The store isn't where the writer thought; nothing was written."""


class Lost(StoreError):  # noqa: N818 - names what happened
    """The connection was lost; whether the batch was committed is unknown."""


class Full(Lost):
    """There was no room on the disk: nothing was written, and nothing can be for now."""


class Broken(StoreError):  # noqa: N818 - names what is found
    """The stored log doesn't agree with itself: evidence, to be looked at and not written to."""


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """A record as it is stored: its bytes, and what it is found by."""

    seq: int
    ts_ms: int
    id: str
    author: str
    thing: bytes | None
    governs: bool
    space: str
    kind: str
    subject: str
    hash: bytes
    salt: bytes
    header: bytes
    payload: bytes
    erased_bytes: int = 0  # of the payload that was here, which still count where pages are bounded

    @property
    def erased(self) -> bool:
        """True if only the header is left."""
        return not self.salt

    @property
    def weight(self) -> int:
        """What the row counts where answers are bounded in bytes."""
        return len(self.header) + len(self.payload) + self.erased_bytes

    def placed(self) -> record.PlacedRecord:
        """The record as a change event carries it."""
        return record.PlacedRecord(
            seq=self.seq,
            header=msgspec.Raw(self.header),
            payload=msgspec.Raw(b"null" if self.erased else self.payload),
            salt=None if self.erased else self.salt.hex(),
        )

    def signed(self) -> record.SignedRecord:
        """The record as its author sent it. Raises `Refused`: NOT_FOUND once erased."""
        return self.placed().signed()


class Use(msgspec.Struct, frozen=True, kw_only=True):
    """That a decision, whose batch stands at `seq`, admitted this record's call."""

    ref: Ref
    seq: int
    by: str


class Tile(msgspec.Struct, frozen=True, kw_only=True):
    """A full hash tile."""

    level: int
    index: int
    hashes: bytes


class Cosignature(msgspec.Struct, frozen=True, kw_only=True):
    """A cosigner's signature line for a checkpoint, and the public key that made it."""

    key: bytes
    line: bytes


class Batch(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that one commit writes. `size` is the head it stands on."""

    size: int
    rows: tuple[Row, ...]
    uses: tuple[Use, ...]
    tiles: tuple[Tile, ...]
    note: bytes


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """What stands of what is about to be written."""

    ids: frozenset[str]
    heads: dict[bytes, str]


class Erased(msgspec.Struct, frozen=True, kw_only=True):
    """That the record at `seq` was erased by the one at `by`."""

    seq: int
    by: int


class Head(msgspec.Struct, frozen=True, kw_only=True):
    """How many records there are, and the checkpoint that says so."""

    size: int
    note: bytes


class Query(msgspec.Struct, frozen=True, kw_only=True):
    """Which rows: from `first` on, up to and without `end`, in order of seq, at most `limit` and, after the first row, at most about
    `max_bytes`. Only those of the named kinds, spaces, subject and times, if any are named; with `owner`, of `user` rows only its own."""

    first: int
    end: int
    limit: int
    max_bytes: int | None = None
    owner: str | None = None
    kinds: tuple[str, ...] = ()
    spaces: tuple[str, ...] = ()
    subject: str | None = None
    since_ms: int | None = None
    until_ms: int | None = None


class Shelf(Protocol):
    """Reading. Every method may raise `Lost`; asking again is safe."""

    async def head(self) -> Head:
        """The newest checkpoint and its size; size 0 and no note before genesis."""

    async def rows(self, query: Query) -> Sequence[Row]:
        """The chosen rows."""

    async def versions(self, of: bytes | tuple[str, ...], below: int, limit: int, max_bytes: int) -> Sequence[Row]:
        """The versions of a thing, or the system records of some kinds, below a seq, newest first, bounded as by a `Query`."""

    async def headers(self, first: int, end: int) -> Sequence[bytes]:
        """The sealed headers in [first, end), fewer if the log ends before."""

    async def by_ids(self, ids: Collection[str]) -> Sequence[Row]:
        """The rows that these ids name."""

    async def by_hash(self, digest: bytes) -> Row | None:
        """The row of this record hash."""

    async def tiles(self, keys: Collection[TileKey]) -> dict[TileKey, bytes]:
        """Those of these full tiles that there are."""

    async def notes(self, first: int, last: int) -> dict[int, bytes]:
        """Checkpoints by size, for sizes in [first, last]."""

    async def cosignatures(self, size: int) -> Sequence[Cosignature]:
        """The lines that are kept for the checkpoint of this size."""

    async def witnessed(self, most: int) -> Sequence[int]:
        """The largest sizes that were marked as witnessed, largest first, at most so many."""

    async def erased(self, since: int) -> Sequence[Erased]:
        """What the erasures from `since` on erased, in their order."""


class Store(Shelf, Protocol):
    """Writing: one connection, one statement in flight."""

    async def open(self) -> None:
        """Become the only writer; waits while another one is alive. Called again after `Lost`."""

    def governing(self) -> AsyncIterator[Row]:
        """Every row that moves the fold, in order of seq."""

    async def chain_heads(self, authors: Collection[str]) -> dict[str, str]:
        """The hash of each key's newest audit record."""

    async def decisions(self, refs: Collection[Ref]) -> Sequence[DecisionRow]:
        """These decisions, as their batches' own records tell them, and what used them."""

    async def standing(self, ids: Collection[str], things: Collection[bytes]) -> Standing:
        """Which of these ids stand, and the hash of each thing's newest version; asked between commits, and answered at once."""

    async def greatest_ids(self, most: int) -> Sequence[str]:
        """The greatest ids that stand, at most so many."""

    async def live(self, things: Collection[bytes]) -> dict[bytes, list[str]]:
        """The ids of each thing's versions since it was last erased, in order; without those that have none."""

    async def commit(self, batch: Batch) -> None:
        """Write all of it or nothing. Raises `Fenced`, `Moved`, `Lost`."""

    async def put_back(self, batch: Batch) -> None:
        """Write what is missing of a commit of the past, each row at its own seq; what stands must be the same. Raises as `commit`."""

    async def cosign(self, size: int, lines: Sequence[Cosignature]) -> None:
        """Keep these lines for the checkpoint of this size. Raises `Lost`; sending them again is safe."""

    async def mark_witnessed(self, size: int) -> None:
        """Say that the checkpoint of this size has enough lines. Raises `Lost`; again is safe."""

    async def close(self) -> None:
        """Let go of the right to write."""


def row_of(checked: record.Checked, seq: int, thing: bytes | None) -> Row:
    """The row that a checked record becomes at this place; `thing` is what `thing_of` says."""
    core, kind = checked.core, checked.kind
    return Row(
        seq=seq,
        ts_ms=clock.parse_ms(core.ts),
        id=core.id,
        author=checked.header.key_id,
        thing=thing,
        governs=kind.governs and not is_idle_beat(checked),
        space=core.space,
        kind=core.kind,
        subject=kind.subject(checked.payload),
        hash=bytes.fromhex(checked.header.hash),
        salt=checked.salt,
        header=checked.leaf,
        payload=checked.payload_bytes,
    )


def thing_of(checked: record.Checked) -> bytes | None:
    """Names the thing that a `user` record is a version of: 16 bytes of a digest over tenant, owner, kind and key."""
    name = checked.kind.thing_name(checked.payload)
    if name is None:
        return None
    kind, owner, key = name
    return thing_named(checked.core.tenant, owner, kind, key)


def thing_named(tenant: str, owner: str, kind: str, key: str) -> bytes:
    """The name of an owner's thing of this kind and key."""
    return digest.sha256(f"{tenant}\x00{owner}\x00{kind}\x00{key}".encode())[:16]


def decisions_of(row: Row) -> list[DecisionRow]:
    """The decisions that a row brings: its payload is the one place where they are kept. Raises `Refused` for one that was changed."""
    if row.kind not in DECISIONS:
        return []
    return [storable(made) for made in admission.decisions_of(record.check(row.signed()), row.seq)]


def storable(row: DecisionRow) -> DecisionRow:
    """An effect that no record's id can be names no record."""
    return row if row.effect is None or ids.is_id(row.effect) else msgspec.structs.replace(row, effect=None)


def erases(row: Row) -> bool:
    """True if the row ends its thing's versions so far."""
    return records.REGISTRY[row.kind].erases


def without_payload(row: Row) -> Row:
    """What an erasure leaves of a row."""
    return msgspec.structs.replace(row, payload=b"", salt=b"", erased_bytes=row.erased_bytes + len(row.payload))


def is_idle_beat(checked: record.Checked) -> bool:
    """A beat that closes nothing moves nothing: the fold is loaded without it, or a year's start would read millions."""
    return isinstance(checked.payload, audit.InstanceBeat) and not checked.payload.closing
