"""The largest size that this writer ever committed, in a file outside of Postgres, so that a database set back shows.

The file may lag behind by a second and never runs ahead: it is written after the commit. What can't be read is a reason not to write.
"""

import asyncio
import os
from pathlib import Path

from services.canon_writer.laws import Head
from sigilcore import note
from sigilrun import private_files

EVERY_S = 1.0


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
        except (OSError, ValueError) as error:
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
        """Replace the file, whole."""
        if self._size <= self._written:
            return
        draft = self._path.with_name(self._path.name + ".new")
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            os.write(descriptor, b"%d\n" % self._size)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        draft.replace(self._path)
        self._written = self._size

    def _read(self) -> int:
        """The size in the file; 0 if there is none. Raises ValueError, OSError."""
        try:
            data = private_files.read(self._path, 32)
        except FileNotFoundError:
            return 0
        if data is None:
            raise ValueError("too long")
        return note.parse_decimal(data.decode("ascii").removesuffix("\n"))
