"""Records and links in a SQLite file, folded from the change stream; the laws are `sigilrun.sqlite`'s.

The digest is a chain over records in order: SHA-256 of the digest before and the record's row. So it says of a position what stands there,
whatever the batches were, and `recomputed` finds it again from the tables alone. `subject` isn't part of it: it comes from the
payload, and a payload can be erased.
"""

import itertools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from services.projections.rules import Entry, Place, chained, entry_of
from sigilcore.contracts import projections as contract
from sigilrun import consume, sql, sqlite

VERSION = 2
_SQL = sql.queries(Path(__file__).with_name("queries.sql"))
_START = bytes(32)


class Content(msgspec.Struct, frozen=True, kw_only=True):
    """How much there is, and its digest."""

    records: int
    links: int
    digest: bytes


class Store(sqlite.ViewFile):
    """The records view."""

    def __init__(self, path: Path, *, owned: bool = True) -> None:
        """Open the file, or make it anew; see `sqlite.ViewFile`."""
        super().__init__(path, schema=_SQL["schema"], version=VERSION, owned=owned)

    def fold(self, events: Sequence[consume.Event]) -> None:
        """Every record of every space."""
        before = self.content()
        entries = [entry_of(event) for event in events]
        links = [
            (entry.seq, ordinal, label, target)
            for entry in entries
            for ordinal, (label, target) in enumerate(entry.links)
        ]
        self.db.executemany(_SQL["add_record"], [_row(entry) for entry in entries])
        self.db.executemany(_SQL["add_link"], links)
        for event in events:
            if event.kind == "erasure":
                self.db.executemany(_SQL["forget_subject"], ((name,) for name in event.typed().records))
                self.scrub = True
        tally = Counter((entry.space, entry.kind) for entry in entries)
        self.db.executemany(_SQL["add_tally"], [(*name, count) for name, count in tally.items()])
        after = (before.records + len(entries), before.links + len(links), chained(before.digest, entries))
        self.db.execute(_SQL["set_content"], after)

    def content(self) -> Content:
        """Counts and digest at the position."""
        row = self.db.execute(_SQL["content"]).fetchone() or (0, 0, _START)
        return Content(records=row[0], links=row[1], digest=row[2])

    def tally(self) -> Mapping[str, Mapping[str, int]]:
        """Records by space and kind."""
        counts: dict[str, dict[str, int]] = {}
        for space, kind, records in self.db.execute(_SQL["tally"]):
            counts.setdefault(space, {})[kind] = records
        return counts

    def links_to(self, target: str, after: Place, limit: int) -> list[tuple[Place, contract.LinkView]]:
        """Who links to a target, each with its place in the order."""
        given: dict[str, Any] = {
            "target": target,
            "after_seq": after.seq,
            "after_ordinal": after.ordinal,
            "limit": limit,
        }
        return [
            (
                Place(row["seq"], row["ordinal"]),
                contract.LinkView(
                    seq=row["seq"], id=row["id"], kind=row["kind"], label=row["label"], target=row["target"]
                ),
            )
            for row in sqlite.rows(self.db, _SQL["links_to"], given)
        ]

    def entries(self, end: int) -> Iterator[Entry]:
        """What the tables hold below a position, in order."""
        rows = self.db.execute(_SQL["everything"], {"end": end})
        for _, lines in itertools.groupby(rows, key=lambda row: row[0]):
            group = list(lines)
            links = tuple((row[8], row[9]) for row in group if row[8] is not None)
            yield Entry._make((*group[0][:8], links))

    def recomputed(self) -> Content:
        """Counts and digest again, from the tables alone: what a changed row would give away."""
        digest, records, links = _START, 0, 0
        for entry in self.entries(self.at.next_seq):
            digest = chained(digest, (entry,))
            records += 1
            links += len(entry.links)
        return Content(records=records, links=links, digest=digest)


def _row(entry: Entry) -> tuple[int, str, str, str, str, str, str, str]:
    return (
        entry.seq,
        entry.id,
        entry.space,
        entry.kind,
        entry.subject,
        entry.ts,
        entry.hash,
        entry.key_id,
    )
