"""The largest size that this log ever had, in a file outside of Postgres, so that a database set back shows.

Invariants:

- the file may lag behind by a second and never runs ahead: it is written after the commit;
- it only grows, whoever writes it: two writers share it, and one that was paused, or found a shorter database, takes nothing back;
- what can't be read is a reason not to write, and stays as it is: it is evidence.
"""

import asyncio
import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from services.canon_writer.laws import Head
from sigilcore import note
from sigilrun import key_faults, private_files, telemetry

EVERY_S = 1.0
_UNREADABLE = (OSError, ValueError, key_faults.KeystoreError)


class HighWater:
    """One tenant's file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._size = 0
        self._written = 0

    async def floor(self, head: Head) -> str | None:
        """Why this head can't be the log's: it was longer once."""
        try:
            known = self._read()
        except _UNREADABLE as error:
            return f"the high-water file {self._path} can't be read: {error}"
        if head.size < known:
            return f"the store holds {head.size} records; the high-water file knows of {known}"
        return None

    def reached(self, size: int) -> None:
        """A commit reached this size."""
        self._size = max(self._size, size)

    async def run(self) -> None:
        """Write once a second what was reached, until cancelled."""
        while True:
            await asyncio.sleep(EVERY_S)
            self.write()

    def write(self) -> None:
        """Replace the file, whole, if it knows of less."""
        if self._size <= self._written:
            return
        try:
            with self._alone():
                if self._read() < self._size:
                    self._replace()
                self._written = self._size
        except _UNREADABLE as error:
            telemetry.log.error("high_water_unwritten", reason=str(error))

    def _replace(self) -> None:
        draft = self._path.with_name(self._path.name + ".new")
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            os.write(descriptor, b"%d\n" % self._size)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        draft.replace(self._path)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Between reading and writing nobody else writes. Raises OSError if somebody is about to: a second later is soon enough."""
        lock = os.open(self._path.with_name(self._path.name + ".lock"), os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield
        finally:
            os.close(lock)

    def _read(self) -> int:
        """The size in the file; 0 if there is none. Raises one of `_UNREADABLE`."""
        try:
            data = private_files.read(self._path, 32)
        except FileNotFoundError:
            return 0
        if data is None:
            raise ValueError("too long")
        return note.parse_decimal(data.decode("ascii").removesuffix("\n"))
