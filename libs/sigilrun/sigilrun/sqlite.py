"""SQLite files that hold views of the log. The laws of a view file, kept here once for every view and tested once:

1. *Together.* What events change and the position move in one transaction. A crash before its commit leaves both as they were; the
   events come again. A power cut may take back the newest transactions (WAL, `synchronous=NORMAL`), data and position alike.
2. *In order, each once.* Events before the position are ignored; a hole before or among them is `Gap`, and nothing of the batch stays.
3. *A function of the log.* Content at a position depends on the records before it and on nothing else, so a file that is
   missing, damaged or of another schema is dropped and folded again from the first record. There are no migrations.
4. *Gone is gone.* What `fold` deletes is overwritten (`secure_delete`); after a fold that says `scrub`, and at each start, the write-ahead
   log is put into the file and cut to nothing, so no byte of it stays in either.

A view is a subclass with a schema, a version of it, and `fold`. One connection, used by one thread.
"""

import abc
import os
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from sigilcore import faults
from sigilrun import consume, telemetry

Row = sqlite3.Row

BUSY_MS = 2_000  # for a reader of another process, such as a rebuild that compares
_DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
_POSITION = """
create table position (
    only_row integer primary key check (only_row = 1), next_seq integer not null, frontier blob not null
) strict;
"""


class Gap(Exception):  # noqa: N818 - what is found
    """The events don't follow on what the view holds; whoever feeds it reads again from its position."""


class Unreadable(Exception):  # noqa: N818 - what is found
    """Somebody else's file that isn't there, is damaged, or has another schema."""


class ViewFile(abc.ABC):
    """A view's file, and how far it has read."""

    def __init__(self, path: Path, *, schema: str, version: int, owned: bool = True) -> None:
        """Open it, or make it anew. `version` changes whenever schema or `fold` do. Who only looks at another's file doesn't own it:
        then nothing is ever made or dropped, and what can't be read raises `Unreadable`."""
        self.path = path
        self._schema = schema
        self._version = version
        self._owned = owned
        self.scrub = owned  # the write-ahead log may hold what was deleted
        self.db = self._open()
        self._clean()

    @abc.abstractmethod
    def fold(self, events: Sequence[consume.Event]) -> None:
        """Take these consecutive events, inside the transaction."""

    @property
    def at(self) -> consume.Position:
        """How far it has read; nowhere, if the file turns out to be damaged and begins anew."""
        try:
            return self._position()
        except sqlite3.DatabaseError as error:
            self._heal(error)
            return consume.START

    def apply(self, events: Sequence[consume.Event], position: consume.Position) -> None:
        """Take the events that stand right before `position`, or nothing.

        Raises:
            Gap: they don't follow on what it holds.
            Corrupt: the file is damaged; it was dropped, and begins anew.

        """
        try:
            self._apply(events, position)
        except sqlite3.DatabaseError as error:
            self._heal(error)
            raise faults.Corrupt(f"{self.path.name} was damaged and is folded again: {error}") from error
        self._clean()

    def close(self) -> None:
        """Let go of the file; all of it is in the file itself then, without a write-ahead log."""
        self.db.close()

    def _clean(self) -> None:
        """Let go of the write-ahead log. A reader of another process may keep it for a moment: then the next batch tries again."""
        if self.scrub:
            busy, _, _ = self.db.execute("pragma wal_checkpoint(truncate)").fetchone()
            self.scrub = bool(busy)

    def _position(self) -> consume.Position:
        row = self.db.execute("select next_seq, frontier from position").fetchone()
        return consume.START if row is None else consume.Position(next_seq=row[0], frontier=row[1])

    def _heal(self, error: sqlite3.DatabaseError) -> None:
        """Begin anew after damage; anything else is raised as it is."""
        if error.sqlite_errorcode not in _DAMAGED:
            raise error
        self.db.close()
        self.db = self._anew(str(error))

    def _apply(self, events: Sequence[consume.Event], position: consume.Position) -> None:
        try:
            self.db.execute("begin immediate")
            # Read inside the transaction: another process with this file could have moved it.
            at = self._position().next_seq
            if position.next_seq > at:
                fresh = [event for event in events if event.seq >= at]
                _check_follows(fresh, at, position.next_seq)
                self.fold(fresh)
                self.db.execute(
                    "insert or replace into position values (1, ?, ?)", (position.next_seq, position.frontier)
                )
            # The commit point. Before it: nothing happened. After it: data and position are both new.
            self.db.execute("commit")
        except BaseException:
            if self.db.in_transaction:
                self.db.execute("rollback")
            raise

    def _open(self) -> sqlite3.Connection:
        if not self._owned and not self.path.exists():
            raise Unreadable(f"{self.path.name} isn't there")
        try:
            db = _connect(self.path)
            (found,) = db.execute("pragma user_version").fetchone()
        except sqlite3.DatabaseError as error:
            if error.sqlite_errorcode not in _DAMAGED:
                raise
            return self._anew(str(error))
        if found == self._version:
            return db
        empty = not db.execute("select count(*) from sqlite_schema").fetchone()[0]
        if empty and self._owned:
            self._create(db)
            return db
        db.close()
        return self._anew(f"its schema is {found}, not {self._version}")

    def _anew(self, reason: str) -> sqlite3.Connection:
        if not self._owned:
            raise Unreadable(f"{self.path.name}: {reason}")
        telemetry.log.warning("view_dropped", file=self.path.name, reason=reason)
        drop(self.path)
        db = _connect(self.path)
        self._create(db)
        return db

    def _create(self, db: sqlite3.Connection) -> None:
        db.executescript(f"begin; {_POSITION} {self._schema}; pragma user_version = {self._version}; commit;")


def drop(path: Path) -> None:
    """Remove a view's file and what belongs to it."""
    for name in (f"{path.name}-wal", f"{path.name}-shm", path.name):
        path.with_name(name).unlink(missing_ok=True)


def rows(db: sqlite3.Connection, query: str, given: Mapping[str, object]) -> Iterator[Row]:
    """The rows of a query, one by one, by name."""
    cursor = db.execute(query, given)
    cursor.row_factory = sqlite3.Row
    return iter(cursor)


def _connect(path: Path) -> sqlite3.Connection:
    # Made private before SQLite opens it; the files beside it take its mode.
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))
    db = sqlite3.connect(path, isolation_level=None, timeout=BUSY_MS / 1000)
    db.execute("pragma journal_mode = wal")
    db.execute("pragma synchronous = normal")
    db.execute("pragma secure_delete = on")
    db.execute("pragma trusted_schema = off")
    db.execute("pragma cache_size = -16384")
    return db


def _check_follows(events: Sequence[consume.Event], at: int, end: int) -> None:
    if [event.seq for event in events] != list(range(at, end)):
        found = f"{events[0].seq} to {events[-1].seq}" if events else "nothing"
        raise Gap(f"{found} where {at} to {end - 1} was to come")
