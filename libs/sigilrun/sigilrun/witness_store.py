"""What a witness must never forget: for each log, the checkpoint that it cosigned last. One SQLite file.

The laws of this file:

1. *Durable before it is said.* `settle` returns a cosignature only after its checkpoint is on the disk (WAL, `synchronous=FULL`, the
   folder synced when the file is made). A crash before the commit leaves what was; a crash after it, before the answer, leaves what is
   new, and the log asks again with the size that the 409 tells it.
2. *Compare and persist.* One transaction reads what is held, judges, and replaces exactly that, proven by the row count; `begin
   immediate` lets one in at a time, threads and processes alike. So of two requests on one old size, one is cosigned.
3. *Never begun anew.* A damaged file, or one of another schema, is refused and left as it is: a witness that forgot would cosign the
   other history too. Whoever deletes the file must also retire the key.
4. *Evidence stays.* Checkpoints that a log signed and that couldn't be cosigned are kept, each once, up to a bound for each log.

One connection, used by one thread.
"""

import contextlib
import os
import secrets
import sqlite3
from collections.abc import Callable
from pathlib import Path

import msgspec

from sigilcore import digest, witness
from sigilcore.witness import Accepted, Held, Rejected, Submitted
from sigilrun import private_files

FILE = "witness.sqlite"
VERSION = 1
BUSY_MS = 5_000
MAX_CONVICTIONS = 1_000  # kept of one log; ten would do for any court
MAX_DOUBTS = 100  # anybody can send a good checkpoint with a bad proof, so these are few

_SCHEMA = f"""
begin;
create table cosigned (
    origin_hash blob primary key check (length(origin_hash) = 32),
    origin text not null unique,
    size integer not null check (size >= 0),
    root blob not null check (length(root) = 32),
    note blob not null -- signed by the log and by us
) strict, without rowid;
create table evidence (
    id blob primary key check (length(id) = 32), -- SHA-256 of the note's text
    origin text not null,
    convicts integer not null check (convicts in (0, 1)),
    reason text not null,
    note blob not null, -- signed by the log
    held blob, -- what we had cosigned of it then
    kept_at integer not null -- POSIX seconds
) strict, without rowid;
create index evidence_of on evidence (origin, convicts);
pragma user_version = {VERSION};
commit;
"""


class Unreadable(Exception):  # noqa: N818 - what is found
    """The state can't be trusted as it is; nothing was changed."""


class Evidence(msgspec.Struct, frozen=True, kw_only=True):
    """A checkpoint that its log signed and that was not cosigned. `convicts`: no honest log could have signed it after `held`."""

    origin: str
    convicts: bool
    reason: str
    note: str
    held: str | None
    kept_at: int


class Settled(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a request: the judgement, our line if it was accepted, and the evidence if some was new."""

    outcome: Accepted | Rejected
    line: str = ""
    evidence: Evidence | None = None


class Store:
    """The state in this folder; raises `Unreadable`."""

    def __init__(self, folder: Path) -> None:
        """Open the file, or make it."""
        private_files.make_folder(folder)
        self._db = _open(folder / FILE)

    def settle(self, submitted: Submitted, cosign: Callable[[str], str], now_s: int) -> Settled:
        """Judge a request that its log signed, and persist what follows; `cosign` makes our line for a checkpoint's text."""
        origin = submitted.checkpoint.origin
        try:
            self._db.execute("begin immediate")
            row = self._db.execute("select size, root, note from cosigned where origin = ?", (origin,)).fetchone()
            held = None if row is None else Held(size=row[0], root=row[1])
            outcome = witness.judge(submitted, held)
            if isinstance(outcome, Rejected):
                note = None if row is None else row[2].decode()
                settled = Settled(outcome=outcome, evidence=self._keep(submitted, outcome, held, note, now_s))
            else:
                # Made before the commit, so that the note that monitors see has it; it leaves this process only after.
                line = cosign(submitted.text)
                self._persist(outcome, submitted.signed + line.encode())
                settled = Settled(outcome=outcome, line=line)
            # The commit point. A crash before it: nothing happened. After it: this is the largest checkpoint for ever.
            self._db.execute("commit")
        except BaseException:
            if self._db.in_transaction:
                self._db.execute("rollback")
            raise
        return settled

    def newest(self, origin_hash: bytes) -> bytes | None:
        """The newest checkpoint of a log, with its signatures and ours."""
        row = self._db.execute("select note from cosigned where origin_hash = ?", (origin_hash,)).fetchone()
        return None if row is None else bytes(row[0])

    def sizes(self) -> dict[str, int]:
        """How large each log was when it was cosigned last."""
        return dict(self._db.execute("select origin, size from cosigned order by origin").fetchall())

    def evidence(self) -> list[Evidence]:
        """All that is kept, oldest first."""
        rows = self._db.execute(
            "select origin, convicts, reason, note, held, kept_at from evidence order by kept_at, origin"
        ).fetchall()
        return [
            Evidence(
                origin=origin,
                convicts=bool(convicts),
                reason=reason,
                note=note.decode(),
                held=None if held is None else held.decode(),
                kept_at=kept_at,
            )
            for origin, convicts, reason, note, held, kept_at in rows
        ]

    def close(self) -> None:
        """Let go of the file."""
        self._db.close()

    def _persist(self, accepted: Accepted, note: bytes) -> None:
        """Replace exactly what was judged; raises if something else is held."""
        origin, new, held = accepted.submitted.checkpoint.origin, accepted.advanced, accepted.held
        if held is None:
            changed = self._db.execute(
                "insert into cosigned (origin_hash, origin, size, root, note) values (?, ?, ?, ?, ?) on conflict do nothing",
                (origin_hash(origin), origin, new.size, new.root, note),
            )
        else:
            changed = self._db.execute(
                "update cosigned set size = ?, root = ?, note = ? where origin = ? and size = ? and root = ?",
                (new.size, new.root, note, origin, held.size, held.root),
            )
        if changed.rowcount != 1:
            raise sqlite3.IntegrityError(f"{origin} moved inside a transaction")

    def _keep(
        self, submitted: Submitted, rejected: Rejected, held: Held | None, note: str | None, now_s: int
    ) -> Evidence | None:
        """Keep what convicts the log, and what was signed but not proven; None if it isn't evidence, or no news."""
        against = witness.contradiction(submitted, held)
        if against is None and rejected.status != witness.UNPROVEN:
            return None
        found = Evidence(
            origin=submitted.checkpoint.origin,
            convicts=against is not None,
            reason=against or rejected.reason,
            note=submitted.signed.decode(),
            held=note,
            kept_at=now_s,
        )
        most = MAX_CONVICTIONS if found.convicts else MAX_DOUBTS
        (count,) = self._db.execute(
            "select count(*) from evidence where origin = ? and convicts = ?", (found.origin, found.convicts)
        ).fetchone()
        if count >= most:
            return None
        added = self._db.execute(
            """insert into evidence (id, origin, convicts, reason, note, held, kept_at) values (?, ?, ?, ?, ?, ?, ?)
            on conflict (id) do update set convicts = 1, reason = excluded.reason, held = excluded.held
            where excluded.convicts > evidence.convicts""",
            (
                digest.sha256(submitted.text.encode()),
                found.origin,
                found.convicts,
                found.reason,
                submitted.signed,
                None if note is None else note.encode(),
                now_s,
            ),
        )
        return found if added.rowcount == 1 else None


def origin_hash(origin: str) -> bytes:
    """What a log is found by for monitors."""
    return digest.sha256(origin.encode())


def _open(path: Path) -> sqlite3.Connection:
    if not path.exists():
        _make(path)
    db = sqlite3.connect(path, isolation_level=None, timeout=BUSY_MS / 1000, check_same_thread=False)
    try:
        db.execute("pragma trusted_schema = off")
        (found,) = db.execute("pragma user_version").fetchone()
        (sound,) = db.execute("pragma quick_check(1)").fetchone()
        if found == VERSION and sound == "ok":  # else not even the journal mode is touched
            db.execute("pragma journal_mode = wal")
            db.execute("pragma synchronous = full")
    except sqlite3.DatabaseError as error:
        db.close()
        raise Unreadable(f"{path}: {error}") from error
    if found != VERSION or sound != "ok":
        db.close()
        raise Unreadable(f"{path}: schema {found}, {sound}")
    return db


def _make(path: Path) -> None:
    """The file appears whole or not at all, so that an empty one is always damage and never a first start."""
    scratch = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    # Made private before SQLite opens it; the files beside it take its mode.
    os.close(os.open(scratch, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))
    try:
        db = sqlite3.connect(scratch, isolation_level=None)
        db.execute("pragma synchronous = full")
        db.executescript(_SCHEMA)
        db.close()
        with contextlib.suppress(FileExistsError):  # another process was faster, with the same
            os.link(scratch, path)
    finally:
        scratch.unlink()
    private_files.sync_folder(path.parent)
