"""Places for requests that are being answered: who may take one while others have none.

Invariants:

- one caller (a licence, by any of its sessions, or an address without a good one) has at most half of the places, and all strangers
  together have at most half: slow strangers keep no session out, and no caller keeps all others out;
- `reserve` places beyond them are for braking and quorum commands alone, a quarter of them for any one caller. Those that need no
  permit, and so any stranger may send, have half of them;
- nobody waits for a place: without one the answer is BUSY at once.
"""

import collections
import contextlib
from collections.abc import Iterator

import msgspec

from sigilcore.refusals import Code, Refused


class Asking(msgspec.Struct, frozen=True, kw_only=True):
    """Who wants a place, and for what."""

    caller: str  # the licence's name, or the address
    good: bool  # a session that the gate took
    reserved: bool  # a command with room of its own
    permit: bool  # the gate admits it


class Room:
    """The places of one process."""

    def __init__(self, places: int, reserve: int) -> None:
        """So many, and so many more for what has room of its own."""
        self._places = places
        self._reserve = reserve
        self._taken = 0
        self._strangers = 0
        self._held: collections.Counter[str] = collections.Counter()
        self._reserve_taken = 0
        self._reserve_held: collections.Counter[str] = collections.Counter()

    @contextlib.contextmanager
    def place(self, asking: Asking) -> Iterator[bool]:
        """A place for as long as the block runs; True if it is one of the reserve. Raises `Refused`: BUSY."""
        if self._ordinary(asking):
            with self._one(asking):
                yield False
            return
        if not self._spare(asking):
            raise Refused(Code.BUSY, f"{self._taken + self._reserve_taken} requests are being answered")
        self._reserve_taken += 1
        self._reserve_held[asking.caller] += 1
        try:
            yield True
        finally:
            self._reserve_taken -= 1
            _release(self._reserve_held, asking.caller)

    @contextlib.contextmanager
    def _one(self, asking: Asking) -> Iterator[None]:
        self._taken += 1
        self._strangers += not asking.good
        self._held[asking.caller] += 1
        try:
            yield
        finally:
            self._taken -= 1
            self._strangers -= not asking.good
            _release(self._held, asking.caller)

    def _ordinary(self, asking: Asking) -> bool:
        half = max(1, self._places // 2)
        if self._taken >= self._places or self._held[asking.caller] >= half:
            return False
        return asking.good or self._strangers < half

    def _spare(self, asking: Asking) -> bool:
        if not asking.reserved or (asking.permit and not asking.good):
            return False
        room = self._reserve if asking.permit else self._reserve // 2
        return self._reserve_taken < room and self._reserve_held[asking.caller] < max(1, self._reserve // 4)


def _release(held: collections.Counter[str], caller: str) -> None:
    held[caller] -= 1
    if not held[caller]:
        del held[caller]
