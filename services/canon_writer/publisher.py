"""Change events: after each commit, in order, to the tenant's stream, whose sequence is seq + 1.

Postgres is the truth and the stream a copy. The publisher's only position is the stream's own last sequence: at the start, and after
anything strange, it asks for it and goes on from there, from memory if it has what comes next, else from Postgres. So a stream that was
deleted is filled again, and a bus that was away is caught up with, by the ordinary code. Commits never wait for it.

A stream that holds more than Postgres, or something else, means that Postgres was set back: nothing is published over that evidence, and
the writer writes no more. Nor is anything published while the writer is read-only for another reason: a stream is never rebuilt from a
shorter Postgres.

What comes to a stream at rest is published at once. After a few records the publisher gathers for a moment (`GATHER_S`) before it goes on:
under load a server that syncs, a message to every view and a transaction of each of them are then paid for many records, not for each.

After an erasure is published, the messages of what it erased leave the stream, overwritten. Nothing remembers that this was done but the
stream itself: at the start it is asked for all erasures, so a crash between the commit and here heals. A stream that is filled again gets
these records without their payloads.
"""

import asyncio
import collections
from collections.abc import Callable, Mapping, Sequence

import msgspec

from services.canon_writer.committer import Committed
from services.canon_writer.laws import Head, Lost, Query, Row, Shelf, erases
from sigilcore import clock, faults, note, record
from sigilcore.contracts import canon, house
from sigilcore.refusals import Code, Refused
from sigilrun import stream, telemetry
from sigilrun.bus import Bus

KEPT_ROWS = 4_000  # of recent commits in memory; who falls further behind reads Postgres
BATCH_BYTES = 4 * 1024 * 1024
# A reader of its own write waits so much longer at most. Fewer records than one atomic batch are a few.
GATHER_S = 0.02
RETRY_FIRST_S = 0.05
RETRY_MOST_S = 2.0


class _Version(msgspec.Struct, frozen=True):
    schema_version: int


class _Header(msgspec.Struct, frozen=True):
    core: _Version


class Publisher:
    """Keeps one tenant's stream equal to its log."""

    def __init__(
        self,
        bus: Bus,
        shelf: Shelf,
        *,
        tenant: str,
        origin: str,
        batch: int = stream.BATCH_MOST,
        alarm: Callable[[str], None] = lambda _: None,
        halted: Callable[[], str | None] = lambda: None,
    ) -> None:
        """`alarm` is told when the stream contradicts Postgres; while `halted` gives a reason, nothing is published."""
        self.position: int | None = None  # records in the stream; None: ask
        self.contradiction: str | None = None
        self._bus = bus
        self._shelf = shelf
        self._tenant = tenant
        self._origin = origin
        self._batch = batch
        self._alarm = alarm
        self._halted = halted
        self._recent: collections.deque[Committed] = collections.deque()
        self._recent_rows = 0
        self._newest = 0  # the log's size after the last commit heard of; 0 before
        self._erasing = 0  # the log's size after the last erasure heard of
        self._erased_before = 0  # what erasures below this seq erased is out of the stream; 0: the store knows of which
        self._wake = asyncio.Event()
        self._turn = asyncio.Lock()
        self._asked = False  # whether the stream was compared with the store at all

    def committed(self, commit: Committed) -> None:
        """Hear of a commit; never waits."""
        self._newest = commit.size
        if any(erases(row) for row in commit.rows):
            self._erasing = commit.size
            # What we remember isn't readable in Postgres any more, and won't be published from here either.
            self._recent.clear()
            self._recent_rows = 0
        else:
            self._recent.append(commit)
            self._recent_rows += len(commit.rows)
        while self._recent_rows > KEPT_ROWS:
            self._forget()
        self._wake.set()

    async def floor(self, head: Head) -> str | None:
        """Why this head can't be the log's: the stream holds more, or something else. Once it was asked, it may be silent: what was
        committed since is known without it. Raises `Lost` while it can't be asked for the first time."""
        try:
            reason = await self._compare(await self._bus.stream_last(self._tenant), head)
        except stream.StreamMissing:
            reason = None
        except Refused as refused:
            telemetry.log.warning("stream_unasked", reason=refused.message)
            if not self._asked:
                raise Lost(f"the stream can't be asked: {refused.message}") from refused
            return None
        self._asked = True
        return reason

    async def run(self) -> None:
        """Publish, until cancelled or contradicted."""
        delay_s = RETRY_FIRST_S
        while self._halted() is None and self.contradiction is None:
            try:
                await self._publish()
                delay_s = RETRY_FIRST_S
                await self._wake.wait()
                self._wake.clear()
            except (Refused, Lost) as error:
                telemetry.log.warning("publishing_waits", reason=str(error), retry_s=delay_s)
            except faults.Corrupt as corrupt:
                # Nothing is published past it; consumers read on from the canon, and come to it too.
                telemetry.log.critical("publishing_waits", reason=str(corrupt), retry_s=delay_s)
            else:
                continue
            self.position = None
            await asyncio.sleep(delay_s)
            delay_s = min(delay_s * 2, RETRY_MOST_S)

    async def catch_up(self) -> canon.Refill:
        """Publish all that the stream lacks. Raises `Refused`, `Lost`."""
        published = await self._publish()
        head = await self._shelf.head()
        return canon.Refill(published=published, stream_last=self.position or 0, head=head.size)

    async def _publish(self) -> int:
        async with self._turn:
            published = 0
            while self._halted() is None and self.contradiction is None:
                if self.position is None:
                    self.position = await self._begin()
                    continue
                rows, notes = await self._next(self.position)
                if not rows:
                    if await self._erase(self.position):
                        break
                    self.position = None
                    continue
                try:
                    self.position = await self._bus.publish_events(self._events(rows, notes), self.position)
                    published += len(rows)
                    if len(rows) < stream.BATCH_FROM:
                        await asyncio.sleep(GATHER_S)
                except (stream.StreamMissing, stream.StreamBehind, stream.StreamAhead) as found:
                    telemetry.log.warning("stream_elsewhere", position=self.position, found=str(found))
                    self.position = None
            reason = self.contradiction or self._halted()
            if reason is not None:
                raise Refused(Code.READ_ONLY, reason)
            return published

    async def _erase(self, position: int) -> bool:
        """Take out of the stream what was erased below this place. False if there is no stream any more."""
        wanted = min(position, self._erasing) if self._erased_before else position
        if self._erased_before >= wanted:
            return True
        erased = await self._shelf.erased(self._erased_before)
        places = [one.seq + 1 for one in erased if one.by < position]
        if places:
            try:
                gone = await self._bus.stream_gone(self._tenant)
                for place in places:
                    if place not in gone:
                        await self._bus.erase_message(self._tenant, place)
            except stream.StreamMissing:
                return False
            telemetry.log.info("erased_from_stream", records=len(places))
        self._erased_before = position
        return True

    async def refill(self) -> canon.Refill:
        """`canon/refill`: look at the stream again, publish what it lacks, and erase from it what it still holds."""
        self.position = None
        self._erased_before = 0
        return await self.catch_up()

    async def _begin(self) -> int | None:
        """Where the stream ends, made if it isn't there; None once it contradicts."""
        last = await self._bus.ensure_stream(self._tenant)
        reason = await self._compare(last, await self._shelf.head())
        if reason is None:
            return last
        self.contradiction = reason
        self._alarm(reason)
        return None

    async def _compare(self, last: int, head: Head) -> str | None:
        if last > head.size:
            return f"the stream holds {last} records, the store {head.size}: the store was set back"
        if last == 0:
            return None
        message = await self._bus.stream_message(self._tenant, last)
        rows = await self._shelf.rows(Query(first=last - 1, end=last, limit=1))
        if not rows:
            return f"the store has no record at {last - 1}, and the stream does"
        if message is None:
            return None
        try:
            published = msgspec.json.decode(message.data, type=record.PlacedRecord)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return f"what the stream holds at {last - 1} is no record"
        if bytes(published.header) != rows[0].header:
            return f"the stream and the store hold different records at {last - 1}"
        return None

    async def _next(self, position: int) -> tuple[Sequence[Row], Mapping[int, bytes]]:
        """What comes next, at most one batch, and the checkpoints in it. The store isn't asked for what isn't there yet."""
        if position == self._newest > 0:
            return (), {}
        while self._recent and self._recent[0].size <= position:
            self._forget()
        if self._recent and self._recent[0].rows[0].seq <= position:
            return self._from_memory(position)
        head = await self._shelf.head()
        query = Query(first=position, end=head.size, limit=self._batch, max_bytes=BATCH_BYTES)
        rows = await self._shelf.rows(query)
        if not rows:
            return (), {}
        return rows, await self._shelf.notes(position + 1, rows[-1].seq + 1)

    def _from_memory(self, position: int) -> tuple[Sequence[Row], Mapping[int, bytes]]:
        """Whole commits, as many as fit; the first may be partly published."""
        rows: list[Row] = []
        notes: dict[int, bytes] = {}
        size_bytes = 0
        for commit in self._recent:
            new = [row for row in commit.rows if row.seq >= position]
            size_bytes += sum(row.weight for row in new)
            if rows and (len(rows) + len(new) > self._batch or size_bytes > BATCH_BYTES):
                break
            rows += new
            notes[commit.size] = commit.note
        return rows[: self._batch], notes

    def _forget(self) -> None:
        self._recent_rows -= len(self._recent.popleft().rows)

    def _events(self, rows: Sequence[Row], notes: Mapping[int, bytes]) -> list[stream.Event]:
        return [event(row, notes.get(row.seq + 1), self._tenant, self._origin) for row in rows]


def event(row: Row, checkpoint_note: bytes | None, tenant: str, origin: str) -> stream.Event:
    """A record as its change event; the last one of a commit bears its checkpoint. Raises `faults.Corrupt`."""
    try:
        version = msgspec.json.decode(row.header, type=_Header).core.schema_version
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise faults.Corrupt(f"the header at {row.seq} can't be read: {error}") from error
    message_id = f"{tenant}:{row.seq}"
    headers = {
        "ce-specversion": "1.0",
        "ce-id": row.id,
        "ce-source": origin,
        "ce-type": f"sigil.{row.kind}.v{version}",
        "ce-time": clock.format_ms(row.ts_ms),
        "content-type": "application/json",
    }
    if checkpoint_note is not None:
        headers["Sigil-Checkpoint"] = note.encode_base64(checkpoint_note)
    return stream.Event(
        subject=house.event_subject(tenant, row.space, row.kind),
        message_id=message_id,
        body=msgspec.json.encode(row.placed()),
        headers=headers,
    )
