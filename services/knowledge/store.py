"""Things and their versions in a SQLite file, folded from the change stream; the laws are `sigilrun.sqlite`'s.

Only `user` records are kept, and the quorum's orders to erase until they are carried out; all others move nothing but the position. An
erased record names no thing any more and isn't kept either, and an erasure drops whatever of its thing was kept: so a file that saw the
versions equals one that came too late for them.
"""

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from services.knowledge.things import Order, Thing, Version, slug_of
from sigilcore import clock, decision
from sigilcore.records import system, user
from sigilrun import consume, sql, sqlite

VERSION = 3
_SQL = sql.queries(Path(__file__).with_name("queries.sql"))


class Store(sqlite.ViewFile):
    """What this deployment's people keep."""

    def __init__(self, path: Path) -> None:
        """Open the file, or make it anew."""
        super().__init__(path, schema=_SQL["schema"], version=VERSION)

    def fold(self, events: Sequence[consume.Event]) -> None:
        """Each `user` record is one more version of its thing."""
        for event in events:
            if event.kind == "erasure":
                self._erase(event, event.typed())
                continue
            if event.kind == "erasure_order":
                self._order(event, event.typed())
                continue
            if event.kind in user.FAMILIES and event.payload is not None:
                self._add(event, event.payload, event.typed())

    def _add(
        self, event: consume.Event, data: bytes, payload: user.MemoryBlock | user.Document | user.UserValue
    ) -> None:
        core, db = event.header.core, self.db
        slug = slug_of(event.kind, payload.owner, payload.key)
        (thing, number) = db.execute(_SQL["add_version"], (payload.owner, event.kind, slug, event.seq)).fetchone()
        row = (event.seq, thing, number, core.id, event.header.hash, core.ts, data)
        db.execute(_SQL["add_record"], row)
        if isinstance(payload, user.MemoryBlock):
            db.execute(_SQL["clear_tags"], (thing,))
            db.executemany(_SQL["add_tag"], ((thing, tag) for tag in payload.tags))

    def _erase(self, event: consume.Event, payload: user.Erasure) -> None:
        """Drop the thing, and with the transaction the bytes that it left in the file."""
        name = (payload.owner, slug_of(payload.kind, payload.owner, payload.key), payload.kind)
        row = self.db.execute(_SQL["find"], name).fetchone()
        if row is not None:
            for query in ("clear_tags", "forget_versions", "forget_thing"):
                self.db.execute(_SQL[query], row)
            self.scrub = True
        owner, slug, kind = name
        core = event.header.core
        added = (event.seq, core.id, owner, kind, slug, event.header.hash, len(payload.records))
        self.db.execute(_SQL["add_erasure"], added)
        ref = decision.parse_ref(core.link("decision") or "")
        if ref is not None:
            self.db.execute(_SQL["end_order"], (ref.record,))

    def _order(self, event: consume.Event, payload: system.ErasureOrder) -> None:
        slug = slug_of(payload.kind, payload.owner, payload.key)
        until_ms = clock.parse_ms(payload.expires_at)
        self.db.execute(
            _SQL["add_order"], (event.seq, event.header.core.id, payload.owner, payload.kind, slug, until_ms)
        )

    # What writers ask.

    def head(self, thing: Thing) -> str | None:
        """The hash of the thing's newest version."""
        row = self.db.execute(_SQL["head"], thing._asdict()).fetchone()
        return None if row is None else str(row[0])

    def versions(self, thing: Thing) -> tuple[str, ...]:
        """The record ids of all its versions, in order."""
        found = self.db.execute(_SQL["versions"], (thing.owner, thing.slug, thing.kind))
        return tuple(str(row[0]) for row in found)

    def knows(self, record_id: str) -> bool:
        """True if a version is held by the record of this id."""
        return self.db.execute(_SQL["known"], {"id": record_id}).fetchone() is not None

    def orders(self, now_ms: int) -> list[tuple[str, Thing]]:
        """The orders to erase that weren't carried out and haven't ended, by record id, with their things."""
        return [(row[0], Thing(*row[1:])) for row in self.db.execute(_SQL["orders"], (now_ms,)).fetchall()]

    def erasure(self, record_id: str) -> tuple[Thing, int] | None:
        """The thing that the erasure of this id ended, and how many versions."""
        row = self.db.execute(_SQL["erasure"], (record_id,)).fetchone()
        return None if row is None else (Thing(*row[:3]), row[3])

    # What readers ask.

    def by_id(self, record_id: str) -> Version | None:
        """The version that this record holds."""
        return next(self._versions("by_id", id=record_id), None)

    def version(self, thing: Thing, number: int | None) -> Version | None:
        """A version of a thing by its number from 1; the newest for None."""
        named = {"owner": thing.owner, "slug": thing.slug, "kind": thing.kind}
        return next(self._versions("by_number", number=number, **named), None)

    def newest(self, owner: str, order: Order) -> Iterator[Version]:
        """The newest versions of an owner's things, lazily, in order of slug and kind."""
        return self._versions("newest", owner=owner, **msgspec.structs.asdict(order))

    def digest(self) -> str:
        """SHA-256 over all content in order of seq: equal for every file folded from the same records."""
        whole = hashlib.sha256()
        for version in self._versions("content"):
            whole.update(msgspec.json.encode(version) + b"\n")
        return whole.hexdigest()

    def _versions(self, query: str, **given: object) -> Iterator[Version]:
        return (Version(*row) for row in sqlite.rows(self.db, _SQL[query], given))
