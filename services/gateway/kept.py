"""What the gateway remembers of callers across its own end: counts by name, in one SQLite file in its state folder.

Decides nothing. Invariants:

- a count that is `SETTLED_S` old is on disk: a process that is killed forgets at most that, so restarting the gateway gains nobody more
  than a second's requests; an orderly stop forgets nothing;
- names are keyed hashes (`name`), under a key that lives in the same file, so it tells neither tokens nor, at a glance, addresses;
- at most `KEYS` names of each kind are kept, in memory and on disk; the one that was counted least lately goes first;
- a file that is damaged or of another shape is thrown away, loudly: counts of a minute are no evidence;
- one that only can't be opened now, because the disk is full, stays as it is, and this process counts in memory, as loudly: a full disk
  keeps nobody from revoking.
"""

import collections
import contextlib
import hashlib
import secrets
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from sigilrun import private_files, telemetry

KEYS = 4096
SETTLED_S = 1.0
FILE = "counts.sqlite"
_SCHEMA = """
create table if not exists secret_1 (only_row integer primary key check (only_row = 1), key blob not null) strict;
create table if not exists kept_1 (
    kind text not null, name text not null, at integer not null, now integer not null, before integer not null,
    primary key (kind, name)
) strict, without rowid;
"""

# What SQLite says of a file that isn't at fault itself.
_NO_ROOM = frozenset(
    {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_BUSY}
)

Count = tuple[int, int, int]
"""When (in the kind's own unit), what counts now, what counted before."""


class Kept:
    """The counts of all kinds. One connection, used by one thread."""

    def __init__(self, folder: Path) -> None:
        """Open the file, or make it; what it holds is in memory from here on."""
        self._path = folder / FILE
        self._counts: dict[str, collections.OrderedDict[str, Count]] = collections.defaultdict(collections.OrderedDict)
        self._changed: set[tuple[str, str]] = set()
        try:
            self._db = self._open_whole()
        except (sqlite3.DatabaseError, OSError) as error:
            telemetry.log.error("counts_in_memory", reason=type(error).__name__)
            self._counts.clear()
            self._db = self._read(sqlite3.connect(":memory:", isolation_level=None))

    def name(self, text: str) -> str:
        """What a caller is called here."""
        return hashlib.blake2s(text.encode("utf-8", "surrogateescape"), key=self._key, digest_size=16).hexdigest()

    def get(self, kind: str, name: str) -> Count | None:
        """A name's count."""
        return self._counts[kind].get(name)

    def put(self, kind: str, name: str, count: Count) -> None:
        """A name's new count; the name that was counted least lately makes room."""
        counts = self._counts[kind]
        counts[name] = count
        counts.move_to_end(name)
        self._changed.add((kind, name))
        if len(counts) > KEYS:
            gone, _ = counts.popitem(last=False)
            self._changed.add((kind, gone))

    def drop(self, kind: str, name: str) -> None:
        """A name that needs no count any more."""
        if self._counts[kind].pop(name, None) is not None:
            self._changed.add((kind, name))

    def size(self, kind: str) -> int:
        """How many names are held."""
        return len(self._counts[kind])

    def settle(self) -> None:
        """Write what changed since the last time: the commit point. What can't be written is told, and tried again with the next."""
        if not self._changed:
            return
        changed, self._changed = self._changed, set()
        try:
            with self._transaction():
                for kind, name in changed:
                    count = self._counts[kind].get(name)
                    if count is None:
                        self._db.execute("delete from kept_1 where kind = ? and name = ?", (kind, name))
                    else:
                        self._db.execute("insert or replace into kept_1 values (?, ?, ?, ?, ?)", (kind, name, *count))
        except sqlite3.Error as error:
            self._changed |= changed
            telemetry.log.warning("counts_unsettled", reason=type(error).__name__)

    def close(self) -> None:
        """Write everything and let go of the file."""
        self.settle()
        self._db.close()

    def _open_whole(self) -> sqlite3.Connection:
        """The file; a new one in its place if it is damaged."""
        try:
            return self._open()
        except sqlite3.DatabaseError as error:
            if error.sqlite_errorcode & 0xFF in _NO_ROOM:
                raise
            telemetry.log.error("counts_dropped", reason=type(error).__name__)
        self._counts.clear()
        for path in (self._path, *self._path.parent.glob(f"{FILE}-*")):
            path.unlink(missing_ok=True)
        return self._open()

    def _open(self) -> sqlite3.Connection:
        if not self._path.exists():
            private_files.write_new(self._path, b"")
        return self._read(sqlite3.connect(self._path, isolation_level=None, timeout=2.0))

    def _read(self, db: sqlite3.Connection) -> sqlite3.Connection:
        try:
            db.execute("pragma journal_mode = wal")
            db.execute("pragma synchronous = normal")
            # The tables' names carry their version, so another version's file begins anew.
            db.executescript(_SCHEMA)
            db.execute("insert or ignore into secret_1 values (1, ?)", (secrets.token_bytes(32),))
            (self._key,) = db.execute("select key from secret_1").fetchone()
            for kind, name, at, now, before in db.execute("select kind, name, at, now, before from kept_1 order by at"):
                self._counts[kind][name] = (at, now, before)
        except BaseException:
            db.close()
            raise
        return db

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("begin immediate")
        try:
            yield
            self._db.execute("commit")
        except BaseException:
            if self._db.in_transaction:
                self._db.execute("rollback")
            raise
