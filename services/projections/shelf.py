"""The view that is served: the current generation, exchanged for another when a rebuild installs one."""

from collections.abc import Sequence
from pathlib import Path

from services.projections.generations import Generations
from services.projections.store import Store
from sigilcore.refusals import Code, Refused
from sigilrun import consume, telemetry


class Shelf:
    """Holds the store, and looks before each use whether it still is the one to serve."""

    def __init__(self, folder: Path) -> None:
        """Open the current generation; a file that is missing is begun anew."""
        self._generations = Generations(folder)
        self._generations.sweep()
        self._store = Store(self._generations.current())

    @property
    def store(self) -> Store:
        """The store now."""
        self._exchange()
        return self._store

    @property
    def at(self) -> consume.Position:
        """How far the store has read."""
        return self.store.at

    def apply(self, events: Sequence[consume.Event], position: consume.Position) -> None:
        """Into the store. After an exchange the feed begins again at the new one's own position, which this refusal makes it do."""
        if self._exchange():
            raise Refused(Code.NOT_YET, f"another generation is served, at {self._store.at.next_seq}")
        self._store.apply(events, position)

    def close(self) -> None:
        """Let go of the file."""
        self._store.close()

    def _exchange(self) -> bool:
        current = self._generations.current()
        if current == self._store.path:
            return False
        telemetry.log.info("view_exchanged", old=self._store.path.name, new=current.name)
        self._store.close()
        self._store = Store(current)
        self._generations.sweep()
        return True
