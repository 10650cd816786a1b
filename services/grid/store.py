"""Grants that others gave to us: the newest of each owner, kept in a file of its own before anybody hears that it is kept.

Laws: *Newest wins*: a grant takes a place only above the epoch that holds it, compared and set in one statement. *Durable*: what was
answered survives a power cut (`synchronous=FULL`, one connection). A grant is no secret: only this node's key can use it. A file that
is damaged is put aside, loudly, and begun anew: its owners can give their grants again, and nothing here decides what counts.
"""

import os
import sqlite3
from pathlib import Path

from sigilcore import grant
from sigilcore.refusals import Code, Refused
from sigilrun import sql, telemetry

_QUERIES = sql.queries(Path(__file__).with_name("queries.sql"))
_DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


class Held:
    """The newest grant of each owner."""

    def __init__(self, path: Path) -> None:
        """Open the file, or make it."""
        self._path = path
        try:
            self._db = _open(path)
        except sqlite3.DatabaseError as error:
            if error.sqlite_errorcode not in _DAMAGED:
                raise
            telemetry.log.critical("held_grants_damaged", file=path.name, reason=str(error))
            path.replace(path.with_suffix(".damaged"))
            self._db = _open(path)

    def keep(self, shown: grant.SignedCapabilityGrant, now_ms: int) -> None:
        """Keep a grant if it is the newest of its issuer's, or the very one that is kept. Raises GRANT_STALE."""
        said = shown.grant
        row = {
            "issuer": said.issuer,
            "epoch": said.epoch,
            "grant_hash": shown.grant_hash,
            "token": shown.token,
            "held_ms": now_ms,
        }
        if self._db.execute(_QUERIES["keep"], row).rowcount == 1:
            return
        kept = self.newest(said.issuer)
        if kept is None or kept.grant_hash != shown.grant_hash:
            newest = None if kept is None else kept.grant.epoch
            raise Refused(Code.GRANT_STALE, "a newer grant of this owner is kept", detail={"epoch": newest})

    def newest(self, issuer: str) -> grant.SignedCapabilityGrant | None:
        """The grant that this owner gave last."""
        row = self._db.execute(_QUERIES["newest"], {"issuer": issuer}).fetchone()
        return None if row is None else grant.read(row[0])

    def close(self) -> None:
        """Let go of the file."""
        self._db.close()


def _open(path: Path) -> sqlite3.Connection:
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))
    db = sqlite3.connect(path, isolation_level=None)
    try:
        db.execute("pragma synchronous = full")
        db.execute("pragma trusted_schema = off")
        db.execute(_QUERIES["table"])
        db.execute(_QUERIES["newest"], {"issuer": ""}).fetchall()
    except sqlite3.DatabaseError:
        db.close()
        raise
    return db
