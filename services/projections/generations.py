"""Which file is the view's: generations with names of their own, and a pointer that says which one is served.

A file is never put under another's name, because SQLite finds a write-ahead log by name and would play the old one's into the new.
The commit point of an exchange is the pointer's rename. A crash before it leaves the old generation in service and a stray file, which the
next service start removes; after it, the new one is served.
"""

import re
from pathlib import Path

from sigilrun import sqlite

POINTER = "current"
_NAME = re.compile(r"records-([1-9][0-9]{0,8})\.db")


class Generations:
    """The files of a folder."""

    def __init__(self, folder: Path) -> None:
        """The folder is made when it isn't there."""
        folder.mkdir(mode=0o700, exist_ok=True)
        self._folder = folder

    def current(self) -> Path:
        """The generation that is served; its file may not be there yet."""
        return self._folder / f"records-{self._number()}.db"

    def scratch(self) -> Path:
        """Where the next generation is built; nothing is left of an earlier attempt."""
        path = self._folder / "building.db"
        sqlite.drop(path)
        return path

    def install(self, built: Path) -> Path:
        """Serve this closed file from now on."""
        path = self._folder / f"records-{self._number() + 1}.db"
        sqlite.drop(path)
        built.rename(path)
        pointer = self._folder / f".{POINTER}"
        pointer.write_text(path.name + "\n", "ascii")
        pointer.replace(self._folder / POINTER)
        return path

    def sweep(self) -> None:
        """Remove generations that are served no more. What is being built is left alone."""
        kept = self.current().name
        for path in self._folder.iterdir():
            if _NAME.fullmatch(path.name) and path.name != kept:
                sqlite.drop(path)

    def _number(self) -> int:
        try:
            named = _NAME.fullmatch((self._folder / POINTER).read_text("ascii").strip())
        except (FileNotFoundError, UnicodeDecodeError):
            named = None
        return 1 if named is None else int(named[1])
