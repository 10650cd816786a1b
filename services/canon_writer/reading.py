"""What the canon shows, to whom, and how it knows that it is true.

Invariants:

- Nothing is shown unproven: the record's own bytes must agree (`record.check`), they must be what the row says, and its leaf must stand
  at its place in the tree of a checkpoint that the log's key signed. Where a neighbour's damage keeps the tree from telling, the
  signatures of author and witnesses must. What fails is reported at its position, never skipped.
- Nobody below root reads another person's `user` records, and `audit` needs a mentor, except what is about the reader. What may not be
  seen is answered exactly like what isn't there.
- A history is whole: each version names the one before it, and where that one isn't, the page says so.
- One answer has a bound: rows, bytes, and rows looked at.

`events` is the exception to the first: it serves folds, which check every record, and the tree of each batch, themselves.
"""

import itertools
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from services.canon_writer import cosigning, tree
from services.canon_writer.laws import Head, Query, Row, Shelf, thing_named
from sigilcore import (
    canonical,
    checkpoint,
    clock,
    difference,
    merkle,
    note,
    record,
    signing,
    tiles,
    tlog_proof,
    witnessed,
)
from sigilcore.access import Loa
from sigilcore.contracts import canon
from sigilcore.decision import parse_ref
from sigilcore.governance import Governance, IssuedLicence
from sigilcore.note import encode_base64
from sigilcore.records import REGISTRY, audit, system
from sigilcore.refusals import Code, Refused

ANSWER_BYTES = 4 * 1024 * 1024  # half of what the bus carries
LOOK_AT = 200_000  # rows that one page without an index looks at; a third of a second
PROVEN_TILES = 1_024  # of 8 KiB: the leaves of a quarter million records
MOST_HOLES = 500
SEVERAL = "changes"
_NOWHERE = Refused(Code.NOT_FOUND, "no such record")
_NO_CURSOR = Refused(Code.BAD_INPUT, "not a cursor of ours", field="$.cursor")


class Viewer(msgspec.Struct, frozen=True, kw_only=True):
    """Who reads: the permit's owner and level."""

    owner: str
    loa: Loa


class Reading:
    """The readers' commands over a shelf. `state` is the fold of what governs, `log_key` the one that genesis will name."""

    def __init__(self, shelf: Shelf, state: Callable[[], Governance], log_key: note.VerifierKey) -> None:
        self._shelf = shelf
        self._state = state
        self._tiles = tree.Tiles(shelf)
        self._proven = _Proven(
            shelf, self._tiles, lambda size: state().log_key_at(size) if state().bootstrapped else log_key
        )
        self._cosigned = cosigning.Shown(shelf, state)

    # One record.

    async def get(self, viewer: Viewer, request: canon.Get) -> canon.RecordView:
        """`canon/get`."""
        asked = [one for one in (request.id, request.hash, request.seq) if one is not None]
        if len(asked) != 1:
            raise Refused(Code.BAD_INPUT, "ask by exactly one of id, hash and seq", field="$")
        head = await self._reached(request.wait_for)
        if request.seq is not None and request.seq >= head.size:
            raise Refused(Code.BEYOND_HEAD, f"the log has {head.size} records", field="$.seq")
        row = await self._find(request)
        if row is None or not _sees(viewer, row):
            raise _NOWHERE
        return await self._shown(row)

    async def audit_get(self, viewer: Viewer, request: canon.AuditGet) -> canon.RecordView:
        """`audit/get`: an audit record, or one decision of a batch."""
        await self._reached(request.wait_for)
        ref = parse_ref(request.id)
        name = request.id if ref is None else ref.record
        row = await self._by_id(name)
        if row is None or row.space != "audit":
            raise _NOWHERE
        if ref is None:
            if not (_sees(viewer, row) or row.subject == viewer.owner):
                raise _NOWHERE
            return await self._shown(row)
        return await self._decision(viewer, row, ref.index)

    async def _decision(self, viewer: Viewer, row: Row, index: int) -> canon.RecordView:
        """One decision, under its batch's header; without salt, since it isn't the whole payload."""
        if row.kind not in audit.OF_DECISIONS:
            raise _NOWHERE
        try:
            decisions = audit.decisions_in((await self._checked(row)).payload)
        except Refused:
            # Whom it is about can't be told any more: who may see them all hears that it is corrupt, others that there is none.
            if viewer.loa.includes(Loa.MENTOR):
                raise
            raise _NOWHERE from None
        if index >= len(decisions):
            raise _NOWHERE
        frozen = decisions[index]
        if not (viewer.loa.includes(Loa.MENTOR) or frozen.chain.audit.owner == viewer.owner):
            raise _NOWHERE
        shown = await self._shown(row)
        payload = shown.payload["decisions"][index] if "decisions" in shown.payload else shown.payload["decision"]
        return msgspec.structs.replace(shown, payload=payload, salt=None)

    async def proof(self, viewer: Viewer, request: canon.Prove) -> canon.Bundle:
        """`canon/proof`: all that an offline verifier needs, under the newest witnessed checkpoint if that covers the record."""
        row = await self._by_id(request.id)
        about_viewer = row is not None and row.space == "audit" and row.subject == viewer.owner
        if row is None or not (_sees(viewer, row) or about_viewer):
            raise _NOWHERE
        checked = await self._checked(row)
        cosigned = await self._cosigned.newest()
        covered = row.seq < cosigned.size
        head = Head(size=cosigned.size, note=cosigned.note) if covered else await self._shelf.head()
        path = await self._tiles.range_path(row.seq, 1, head.size)
        genesis = await self._at(0)
        evidence = [await self._at(seq) for seq in await self._introductions(row)]
        return canon.Bundle(
            format="sigil-bundle/1",
            record=_plain(row, checked),
            proof=tlog_proof.format(row.seq, path, head.note).decode(),
            genesis=_plain(genesis, await self._checked(genesis)),
            evidence=tuple([_plain(one, await self._checked(one)) for one in evidence]),
            log=tuple([_plain(one, await self._checked(one)) for one in await self._log_rotations(head.size)]),
            witnessed=self._cosigned.standing(cosigned, row.seq),
        )

    async def _introductions(self, row: Row) -> list[int]:
        """The positions that let the row's author speak there, in order: instance, service, witnesses, licence."""
        if row.seq == 0:
            return []
        if row.space == "system":
            return await self._system_before(row.seq)
        entry = self._state().key(row.author)
        if entry is None or (
            row.space == "user" and entry.role != "instance"
        ):  # a person, perhaps a witness or Root besides
            issued = [one.issued_seq for one in _licences_of(self._state(), row.author) if one.issued_seq < row.seq]
            if not issued:
                return []
            licence = await self._at(max(issued))
            # A mentor's licence carries the signature of the Root of its time.
            named = max(seq for seq in self._state().roots if seq < licence.seq)
            told = await self._system_before(licence.seq) if named else []
            return [*sorted({*told, *await self._introductions(licence)}), licence.seq]
        if entry.since_seq == 0:
            return []
        if entry.role == "service":
            return await self._system_before(row.seq)
        opened = await self._at(entry.since_seq)
        return [*await self._introductions(opened), opened.seq]

    async def _log_rotations(self, size: int) -> list[Row]:
        """The system records up to the one that names the key of a checkpoint of this size; none while it is genesis's."""
        named = max((seq for seq in self._state().log_keys if seq < size), default=0)
        return [await self._at(seq) for seq in await self._system_before(named + 1)] if named else []

    async def _system_before(self, end: int) -> list[int]:
        rows = await self._shelf.rows(Query(first=1, end=end, limit=10_000, spaces=("system",)))
        return [row.seq for row in rows]

    # Versions.

    async def history(self, viewer: Viewer, request: canon.History) -> canon.RecordPage:
        """`canon/history`. A cursor is the seq of the last version shown, so that new versions move nothing on the pages after it."""
        head = await self._reached(request.wait_for)
        of = await self._versioned(viewer, request)
        below = head.size if request.cursor is None else _cursor(request.cursor) + 1
        if below > head.size:
            raise _NO_CURSOR
        most = request.limit + (1 if request.cursor is None else 2)  # one to know whether there are more, and an anchor
        rows = [] if of is None else await self._versions(of, below, most)
        if not rows and request.cursor is None:
            raise _NOWHERE
        # The last version of the page before comes again, to be held to its successor here.
        anchors = 1 if request.cursor is not None and rows and rows[0].seq == below - 1 else 0
        shown = rows[anchors:][: request.limit]
        ends = _ends(rows, anchors + request.limit)
        cosigned = await self._cosigned.newest()
        items, corrupt = [], []
        for at, row in enumerate(rows[: anchors + len(shown)]):
            older = rows[at + 1] if at + 1 < anchors + len(shown) else None
            try:
                checked = await self._checked(row)
            except Refused as refused:
                if at >= anchors:
                    corrupt.append(canon.CorruptAt(seq=row.seq, reason=refused.message))
                continue
            if at >= anchors:
                items.append(_view(row, checked, self._cosigned.standing(cosigned, row.seq)))
            if (older is not None or ends) and not _follows(checked, older):
                corrupt.append(canon.CorruptAt(seq=row.seq, reason="the version before it isn't there"))
        cursor = None if not shown or ends else str(shown[-1].seq)
        return canon.RecordPage(items=tuple(items), corrupt=tuple(corrupt), cursor=cursor)

    async def diff(self, viewer: Viewer, request: canon.Diff) -> canon.Difference:
        """`canon/diff`, from verified records; who signs on it computes the same lines on their own side."""
        await self._reached(request.wait_for)
        new = await self._seen(viewer, request.new)
        of = _version_of(new, "$.new")
        if request.old is None:
            rows = await self._versions(of, new.seq, 1)
            old = rows[0] if rows else None
        else:
            old = await self._seen(viewer, request.old)
            if _version_of(old, "$.old") != of:
                raise Refused(Code.BAD_INPUT, "not a version of the same thing", field="$.old")
        after = await self._checked(new)
        if request.old is None and not _follows(after, old):
            raise _corrupt(new.seq, "the version before it isn't there")
        before = None if old is None else _payload_of(await self._checked(old), of)
        lines = difference.between(before, after.payload)
        return canon.Difference(
            old_seq=None if old is None else old.seq,
            new_seq=new.seq,
            lines=tuple(canon.Differs(path=line.path, old=line.old, new=line.new) for line in lines),
        )

    async def _versions(self, of: bytes | str, below: int, most: int) -> list[Row]:
        """Versions, newest first. A system kind's are also among the several changes of one record."""
        if isinstance(of, bytes):
            return list(await self._shelf.versions(of, below, most, ANSWER_BYTES))
        found: list[Row] = []
        while True:
            page = await self._shelf.versions((of, SEVERAL), below, most, ANSWER_BYTES)
            found += [row for row in page if row.kind == of or _carries(row, of)]
            if _ends(page, most - 1) or not _ends(found, most - 1):
                return found[:most]
            below = page[-1].seq

    async def _versioned(self, viewer: Viewer, request: canon.History) -> bytes | str | None:
        """The thing or system kind that is asked for; None if the viewer may not know of it."""
        if request.id is not None:
            if (request.kind, request.key, request.owner) != (None, None, None):
                raise Refused(Code.BAD_INPUT, "ask by id, or by kind and key", field="$")
            return _version_of(await self._seen(viewer, request.id), "$.id")
        kind = REGISTRY.get(request.kind or "")
        if kind is None or kind.space == "audit":
            raise Refused(Code.BAD_INPUT, "ask by id, or by a kind that has versions", field="$.kind")
        if (request.key is None) is (kind.space == "user") or (kind.space == "system" and request.owner is not None):
            raise Refused(Code.BAD_INPUT, "a thing in user is named by its key, a system kind by itself", field="$.key")
        if request.key is None:
            return kind.tag
        owner = request.owner or viewer.owner
        if owner != viewer.owner and viewer.loa is not Loa.ROOT:
            return None
        return thing_named(self._state().tenant, owner, kind.tag, request.key)

    async def _seen(self, viewer: Viewer, name: str) -> Row:
        row = await self._by_id(name)
        if row is None or not _sees(viewer, row):
            raise _NOWHERE
        return row

    # Pages.

    async def records(self, viewer: Viewer, request: canon.ListRecords) -> canon.RecordPage:
        """`canon/list`: an observer sees the system's records and its own; a mentor audit too; root everything."""
        spaces = ("user", "system", "audit") if viewer.loa.includes(Loa.MENTOR) else ("user", "system")
        return await self._page(viewer, request, spaces)

    async def audits(self, viewer: Viewer, request: canon.ListRecords) -> canon.RecordPage:
        """`audit/list`."""
        return await self._page(viewer, request, ("audit",))

    async def _page(self, viewer: Viewer, request: canon.ListRecords, spaces: tuple[str, ...]) -> canon.RecordPage:
        head = await self._reached(request.wait_for)
        wanted = tuple(space for space in spaces if request.space in {None, space})
        first = _cursor(request.cursor)
        indexed = request.kind is not None or request.subject is not None
        query = Query(
            first=first,
            end=head.size if indexed else min(head.size, first + LOOK_AT),
            limit=request.limit,
            max_bytes=ANSWER_BYTES,
            kinds=() if request.kind is None else (request.kind,),
            spaces=wanted,
            subject=request.subject,
            owner=None if viewer.loa is Loa.ROOT else viewer.owner,
            since_ms=_moment(request.since, "$.since"),
            until_ms=_moment(request.until, "$.until"),
        )
        rows = await self._shelf.rows(query) if wanted else []
        cosigned = await self._cosigned.newest()
        items, corrupt = [], []
        for row in rows:
            try:
                standing = self._cosigned.standing(cosigned, row.seq)
                items.append(_view(row, await self._checked(row), standing))
            except Refused as refused:
                corrupt.append(canon.CorruptAt(seq=row.seq, reason=refused.message))
        after = _after(query, rows) if wanted else head.size
        if query == Query(first=first, end=query.end, limit=query.limit, max_bytes=ANSWER_BYTES, spaces=record.SPACES):
            corrupt += [
                canon.CorruptAt(seq=seq, reason="there is no record here") for seq in _holes(first, after, rows)
            ]
        cursor = None if after >= head.size else str(after)
        return canon.RecordPage(items=tuple(items), corrupt=tuple(corrupt), cursor=cursor)

    async def events(self, request: canon.Events) -> canon.EventPage:
        """`canon/events`: the very records of the change stream."""
        head = await self._shelf.head()
        if request.first > head.size:
            raise Refused(Code.BEYOND_HEAD, f"the log has {head.size} records", field="$.first")
        query = Query(
            first=request.first,
            end=head.size,
            limit=request.limit,
            max_bytes=ANSWER_BYTES,
            kinds=request.kinds,
        )
        rows = await self._shelf.rows(query)
        newest = await self._newest_note(request.first + 1, rows[-1].seq + 1) if rows and not request.kinds else None
        return canon.EventPage(
            items=tuple(row.placed() for row in rows),
            head=head.size,
            next=_after(query, rows),
            checkpoint=None if newest is None else newest.decode(),
        )

    async def _newest_note(self, first: int, last: int) -> bytes | None:
        """The newest checkpoint of a size in [first, last]; looked for from the end, where a busy log has one every few records."""
        width = 16
        while last >= first:
            notes = await self._shelf.notes(max(first, last - width + 1), last)
            if notes:
                return notes[max(notes)]
            last, width = last - width, width * 8
        return None

    # The log.

    async def checkpoint(self) -> canon.Checkpoint:
        """`log/checkpoint`."""
        head, state = await self._shelf.head(), self._state()
        cosigned = await self._cosigned.newest()
        return canon.Checkpoint(
            note=head.note.decode(),
            sealed=state.sealed,
            bootstrapped=head.size > 0,
            witnessed=cosigned.note.decode() or None,
        )

    async def consistency(self, request: canon.Consistency) -> canon.ConsistencyProof:
        """`canon/consistency`."""
        new, path = await self._continued(request)
        return canon.ConsistencyProof(old=request.old, new=new, hashes=tuple(map(encode_base64, path)))

    async def grown(self, request: canon.Consistency) -> canon.Grown:
        """`log/consistency`: the same, with the roots."""
        new, path = await self._continued(request)
        return canon.Grown(
            old=request.old,
            old_root=encode_base64(await self._tiles.root(request.old)),
            new=new,
            new_root=encode_base64(await self._tiles.root(new)),
            hashes=tuple(map(encode_base64, path)),
        )

    async def _continued(self, request: canon.Consistency) -> tuple[int, list[bytes]]:
        head = await self._shelf.head()
        new = head.size if request.new is None else request.new
        if new > head.size or request.old > new:
            raise Refused(
                Code.BEYOND_HEAD,
                f"sizes go up to {head.size}, the old one up to the new one",
                field="$.new" if new > head.size else "$.old",
            )
        return new, await self._tiles.consistency(request.old, new)

    async def tile(self, request: canon.LogPart) -> canon.LogBytes:
        """`log/tile`: a hash tile of any size up to the head."""
        level, index, width = _parse(request.path)
        head = await self._shelf.head()
        if not isinstance(level, int) or width > tiles.width_at(level, index, head.size):
            raise Refused(Code.NOT_FOUND, "the log has no such tile")
        return canon.LogBytes(body=await self._tiles.read(level, index, width))

    async def entries(self, request: canon.LogPart) -> canon.LogBytes:
        """`log/entries`: a bundle of sealed headers."""
        level, index, width = _parse(request.path)
        head = await self._shelf.head()
        if level != tiles.ENTRIES or width > tiles.width_at(0, index, head.size):
            raise Refused(Code.NOT_FOUND, "the log has no such entry bundle")
        headers = await self._shelf.headers(index * tiles.WIDTH, index * tiles.WIDTH + width)
        return canon.LogBytes(body=tiles.entry_bundle(headers))

    # Shared.

    async def _reached(self, wait_for: int | None) -> Head:
        """The head; a reader of Postgres has what its caller wrote, so there is nothing to wait for."""
        head = await self._shelf.head()
        if wait_for is not None and wait_for >= head.size:
            raise Refused(Code.BEYOND_HEAD, f"the log has {head.size} records", field="$.wait_for")
        return head

    async def _shown(self, row: Row) -> canon.RecordView:
        checked = await self._checked(row)
        return _view(row, checked, self._cosigned.standing(await self._cosigned.newest(), row.seq))

    async def _find(self, request: canon.Get) -> Row | None:
        if request.id is not None:
            return await self._by_id(request.id)
        if request.hash is not None:
            return await self._shelf.by_hash(bytes.fromhex(request.hash))
        assert request.seq is not None
        return await self._at(request.seq)

    async def _by_id(self, name: str) -> Row | None:
        rows = await self._shelf.by_ids({name})
        return rows[0] if rows else None

    async def _at(self, seq: int) -> Row:
        rows = await self._shelf.rows(Query(first=seq, end=seq + 1, limit=1))
        if not rows:
            raise Refused(Code.CORRUPT_RECORD, f"there is no record at {seq}", detail={"seq": seq})
        return rows[0]

    async def _checked(self, row: Row) -> record.Checked:
        """The record, proven; raises `Refused` with `CORRUPT_RECORD`."""
        try:
            checked = record.check_placed(row.placed())
        except Refused as refused:
            raise _corrupt(row.seq, f"its bytes don't agree: {refused.message}") from refused
        core = checked.core
        if (core.id, core.kind, core.space, checked.header.hash) != (row.id, row.kind, row.space, row.hash.hex()):
            raise _corrupt(row.seq, "its bytes are another record's")
        standing = await self._proven.standing(row.seq, merkle.leaf_hash(row.header))
        if standing is False or (standing is None and not self._signed(checked)):
            raise _corrupt(row.seq, "its leaf is not in the signed tree")
        return checked

    def _signed(self, checked: record.Checked) -> bool:
        """Whether all that signed it did so with keys of theirs. Asked when a neighbour's damage hides what the tree says of it."""
        state = self._state()
        entry = state.key(checked.header.key_id)
        public = entry.public if entry is not None else _person_key(state, checked.header.key_id)
        try:
            record.verify_author(checked.header, checked.core_bytes, public or b"")
        except Refused:
            return False
        witnesses = [(one, state.key(one.key_id)) for one in checked.header.witnesses]
        return all(
            key is not None and record.verify_witness(one, checked.core_bytes, key.public) for one, key in witnesses
        )


class _Proven:
    """Leaves by their tile, each tile proven once against a signed checkpoint. A proven leaf never changes."""

    def __init__(self, shelf: Shelf, tiles_of: tree.Tiles, log_key_at: Callable[[int], note.VerifierKey]) -> None:
        self._shelf = shelf
        self._tiles = tiles_of
        self._log_key_at = log_key_at
        self._leaves: OrderedDict[int, tuple[bytes, ...]] = OrderedDict()

    async def standing(self, seq: int, leaf: bytes) -> bool | None:
        """Whether this leaf stands at this place of the signed tree; None if damage near it keeps the tree from telling."""
        index, at = divmod(seq, tiles.WIDTH)
        if at >= len(self._leaves.get(index, ())):
            proven = await self._prove(index)
            if proven is None:
                return None
            self._leaves[index] = proven
        self._leaves.move_to_end(index)
        while len(self._leaves) > PROVEN_TILES:
            self._leaves.popitem(last=False)
        leaves = self._leaves[index]
        return at < len(leaves) and leaves[at] == leaf

    async def _prove(self, index: int) -> tuple[bytes, ...] | None:
        """The tile's leaves at the newest checkpoint, if they lead to its root."""
        head = await self._shelf.head()
        first = index * tiles.WIDTH
        width = tiles.width_at(0, index, head.size)
        try:
            signed = checkpoint.open_by_size(head.note, self._log_key_at)
            leaves = await self._tiles.leaf_hashes(first, width, head.size)
            path = await self._tiles.range_path(first, width, head.size)
        except (note.NoteError, ValueError):
            return None
        if signed.size != head.size or not merkle.verify_range(leaves, first, head.size, path, signed.root):
            return None
        return tuple(leaves)


def _sees(viewer: Viewer, row: Row) -> bool:
    """Whether this row exists for this reader."""
    if viewer.loa is Loa.ROOT:
        return True
    if row.space == "user":
        return row.subject == viewer.owner
    return row.space == "system" or viewer.loa.includes(Loa.MENTOR)


def _version_of(row: Row, field: str) -> bytes | str:
    """The thing that a record is a version of; for a system record, its kind."""
    if row.thing is None and row.space != "system":
        raise Refused(Code.BAD_INPUT, f"{row.kind} is a version of nothing", field=field)
    return row.kind if row.thing is None else row.thing


def _carries(row: Row, kind: str) -> bool:
    """Whether one of several changes is of this kind. What can't be read is shown, since who proves it then says so."""
    try:
        payload = msgspec.json.decode(row.payload, type=system.Changes)
    except msgspec.DecodeError:
        return True
    return any(change.kind == kind for change in system.changes_in(payload))


def _payload_of(checked: record.Checked, of: bytes | str) -> Any:
    """A version's payload: the record's own, or the last of this kind that it carries."""
    carried = [change.payload for change in system.changes_in(checked.payload) if change.kind == of]
    return carried[-1] if carried else checked.payload


def _follows(checked: record.Checked, older: Row | None) -> bool:
    """Whether a version of a thing names the one before it. A system record names the newest of all kinds: that isn't asked here."""
    return checked.core.space == "system" or checked.core.prev == (None if older is None else older.hash.hex())


def _ends(rows: Sequence[Row], limit: int) -> bool:
    """Whether there is nothing after these: neither their number nor their bytes cut them off."""
    return len(rows) <= limit and sum(row.weight for row in rows) < ANSWER_BYTES


def _holes(first: int, end: int, rows: Sequence[Row]) -> list[int]:
    """Places in [first, end) without a row, as many as a page may tell."""
    standing = {row.seq for row in rows}
    return list(itertools.islice((seq for seq in range(first, end) if seq not in standing), MOST_HOLES))


def _licences_of(state: Governance, key_id: str) -> list[IssuedLicence]:
    """The licences that name this key as their owner's."""
    keyed = [(one, one.table.owner.key) for one in state.licences.values()]
    return [one for one, key in keyed if key is not None and signing.key_id(bytes.fromhex(key)) == key_id]


def _person_key(state: Governance, key_id: str) -> bytes | None:
    """The public key of a person whom a licence names."""
    keys = [one.table.owner.key for one in _licences_of(state, key_id)]
    return bytes.fromhex(keys[0]) if keys and keys[0] is not None else None


def _view(row: Row, checked: record.Checked, standing: witnessed.Standing) -> canon.RecordView:
    plain = _plain(row, checked)
    return canon.RecordView(
        seq=row.seq, header=plain["header"], payload=plain["payload"], salt=plain["salt"], witnessed=standing
    )


def _plain(row: Row, checked: record.Checked) -> dict[str, Any]:
    return {
        "seq": row.seq,
        "header": msgspec.json.decode(checked.leaf),
        "payload": None if checked.erased else canonical.loads(checked.payload_bytes),
        "salt": None if checked.erased else checked.salt.hex(),
    }


def _corrupt(seq: int, reason: str) -> Refused:
    return Refused(Code.CORRUPT_RECORD, reason, detail={"seq": seq})


def _after(query: Query, rows: Sequence[Row]) -> int:
    """Where the next page begins: after the last row, or after all that were looked at."""
    if not rows:
        return query.end
    if len(rows) == query.limit:
        return rows[-1].seq + 1
    taken = sum(row.weight for row in rows)
    return rows[-1].seq + 1 if query.max_bytes is not None and taken >= query.max_bytes else query.end


def _cursor(text: str | None) -> int:
    if text is None:
        return 0
    try:
        return note.parse_decimal(text)
    except note.NoteError:
        raise _NO_CURSOR from None


def _moment(text: str | None, field: str) -> int | None:
    if text is None:
        return None
    try:
        return clock.parse_ms(text)
    except ValueError as error:
        raise Refused(Code.BAD_INPUT, str(error), field=field) from error


def _parse(path: str) -> tuple[tiles.Level, int, int]:
    try:
        return tiles.parse_path(path)
    except tiles.TileError:
        raise Refused(Code.NOT_FOUND, "the log has no such part") from None
