"""Bringing back what a set-back database lacks, from the change stream, where every record survives as its author signed it.

Nothing is believed because it survives. The whole log, what stands and what is missing, is judged again from genesis by the code that
replays any ledger: form, admission, chains, decisions, tree. A commit is put back, each record at its own seq, only once the tree of
everything up to its end has the root that its own checkpoint signs.

Invariants:

- nothing is changed or removed: what stands must be exactly what belongs there, or the work ends at that position;
- no checkpoint is made: records after the last signed one can't be proven to have been committed, and are left where they are;
- each commit is put back whole, so between any two of them the log is a shorter, valid one; after a crash the same is asked again.
"""

import asyncio
import base64
import binascii
from collections.abc import Mapping, Sequence
from typing import Protocol

import msgspec

from services.canon_writer import rules, tree
from services.canon_writer.laws import Batch, Query, Ref, Row, Store, Use, row_of, thing_of
from sigilcore import admission, checkpoint, decision, merkle, note, record, replay
from sigilcore.contracts import canon, house
from sigilcore.records import system
from sigilcore.refusals import Code, Refused
from sigilrun.bus import Bus

PAGE = 256
YIELD_EVERY = 16  # records; each takes up to a millisecond to judge


class Survivor(msgspec.Struct, frozen=True, kw_only=True):
    """A record outside of the store, and the checkpoint that it bears if it was the last of its commit."""

    placed: record.PlacedRecord
    note: bytes | None


class Survivors(Protocol):
    """Where records survive."""

    async def size(self) -> int:
        """How far they go."""

    async def fetch(self, seqs: Sequence[int]) -> Mapping[int, Survivor]:
        """Those of these records that survive and can be read."""


class StreamSurvivors:
    """The change stream as a source. What it holds is as good as its signatures."""

    def __init__(self, bus: Bus, tenant: str) -> None:
        self._bus = bus
        self._tenant = tenant

    async def size(self) -> int:
        """The stream's last sequence is a size of the log. Raises `stream.StreamMissing`, `Refused`."""
        return await self._bus.stream_last(self._tenant)

    async def fetch(self, seqs: Sequence[int]) -> Mapping[int, Survivor]:
        """Message by message; one that can't be read isn't there."""
        found = await asyncio.gather(*(self._one(seq) for seq in seqs))
        return {seq: one for seq, one in zip(seqs, found, strict=True) if one is not None}

    async def _one(self, seq: int) -> Survivor | None:
        message = await self._bus.stream_message(self._tenant, seq + 1)
        if message is None:
            return None
        borne = message.headers.get("Sigil-Checkpoint")
        try:
            placed = msgspec.json.decode(message.data, type=record.PlacedRecord)
            signed = None if borne is None else base64.b64decode(borne, validate=True)
        except (msgspec.DecodeError, binascii.Error, UnicodeDecodeError):
            return None
        # An erased payload names no thing any more, so its row can't be made again.
        return None if placed.salt is None else Survivor(placed=placed, note=signed)


class Restoring:
    """One pass over a log, from genesis to its end."""

    def __init__(self, store: Store, survivors: Survivors, deployment: rules.Deployment) -> None:
        """Nothing is read yet."""
        self._store = store
        self._survivors = survivors
        self._deployment = deployment
        self._replay = replay.Replay()
        self._edge = tree.Edge()
        self._open = _Commit()
        self._unused: dict[Ref, int] = {}  # decision → where it stands
        self._restored = 0

    async def run(self) -> canon.Restored:
        """Judge everything, put back what is missing.

        Raises:
            Refused: READ_ONLY where a record survives nowhere, or a checkpoint doesn't sign what survives; CORRUPT_RECORD where one doesn't
                follow from those before it. What was put back until then stands.
            StoreError: the store can't be written; ask again.

        """
        head = await self._store.head()
        end = max(head.size, await self._survivors.size())
        for first in range(0, end, PAGE):
            await self._page(first, min(end, first + PAGE), head.size)
        return canon.Restored(restored=self._restored, size=self._edge.size, left=end - self._edge.size)

    async def _page(self, first: int, end: int, head_size: int) -> None:
        standing = {row.seq: row for row in await self._store.rows(Query(first=first, end=end, limit=PAGE))}
        notes = await self._store.notes(first + 1, end)
        wanted = [seq for seq in range(first, end) if seq not in standing or seq >= head_size]
        surviving = await self._survivors.fetch(wanted)
        for seq in range(first, end):
            row, survivor = standing.get(seq), surviving.get(seq)
            if row is None and survivor is None:
                raise _stopped(Code.READ_ONLY, seq, "this record survives neither in the store nor in the stream")
            self._judge(seq, row, survivor)
            signed = notes.get(seq + 1) or (survivor and survivor.note)
            if signed:
                await self._close(seq, signed, stands=seq + 1 in notes)
            if seq % YIELD_EVERY == 0:
                await asyncio.sleep(0)

    def _judge(self, seq: int, row: Row | None, survivor: Survivor | None) -> None:
        """One record, from the store if it stands there; it joins the open commit."""
        placed = row.placed() if row is not None else survivor.placed if survivor is not None else None
        assert placed is not None
        try:
            checked = self._replay.step(placed)
            if isinstance(checked.payload, system.Genesis):
                rules.check_deployment(checked.payload, self._deployment)
        except replay.Diverged as diverged:
            raise _stopped(Code.CORRUPT_RECORD, seq, f"it doesn't follow: {diverged.reason}") from diverged
        except Refused as refused:
            raise _stopped(Code.CORRUPT_RECORD, seq, refused.message) from refused
        # Of an erased record the columns are all there is; a survivor is never erased.
        made = row if row is not None and row.erased else row_of(checked, seq, thing_of(checked))
        if row is not None and row != made:
            raise _stopped(Code.CORRUPT_RECORD, seq, "its columns aren't what its bytes say")
        self._open.rows.append(made)
        self._open.missing += row is None
        for decided in admission.decisions_of(checked, seq):
            self._unused[decided.record, decided.index] = seq
        self._use(checked)

    def _use(self, checked: record.Checked) -> None:
        """The first effect of a decision marks it as used."""
        linked = None if self._replay.link is None else decision.parse_ref(self._replay.link)
        ref = None if linked is None else (linked.record, linked.index)
        if ref is not None and (at := self._unused.pop(ref, None)) is not None:
            self._open.uses.append(Use(ref=ref, seq=at, by=checked.core.id))

    async def _close(self, seq: int, signed: bytes, *, stands: bool) -> None:
        """The open commit ends here: the checkpoint must sign the tree, then what is missing of it is put back."""
        commit, self._open = self._open, _Commit()
        growth = self._edge.grow([merkle.leaf_hash(row.header) for row in commit.rows])
        try:
            opened = checkpoint.open_by_size(signed, self._replay.state.log_key_at)
        except note.NoteError as error:
            raise _stopped(
                Code.READ_ONLY, seq, f"the checkpoint of its commit isn't one of this log: {error}"
            ) from error
        origin = house.origin(self._deployment.runtime_id, self._deployment.tenant)
        if (opened.origin, opened.size, opened.root) != (origin, growth.edge.size, growth.edge.frontier.root()):
            raise _stopped(Code.READ_ONLY, seq, "the checkpoint of its commit signs other records than these")
        whole = await self._store.tiles([(tile.level, tile.index) for tile in growth.tiles])
        if commit.missing or not stands or len(whole) < len(growth.tiles):
            await self._store.put_back(
                Batch(
                    size=self._edge.size,
                    rows=tuple(commit.rows),
                    uses=tuple(commit.uses),
                    tiles=growth.tiles,
                    note=signed,
                )
            )
        self._restored += commit.missing
        self._edge = growth.edge


class _Commit:
    """What has been judged since the last checkpoint."""

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self.uses: list[Use] = []
        self.missing = 0


def _stopped(code: Code, seq: int, reason: str) -> Refused:
    return Refused(code, f"at {seq}: {reason}", detail={"seq": seq})
