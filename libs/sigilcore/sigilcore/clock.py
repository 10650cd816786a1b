"""Time: RFC 3339 in UTC with milliseconds and `Z`, one spelling; integers of milliseconds inside.

`format_ms` and `parse_ms` are each other's inverse on the years 1970 to 9999 and refuse all else. Leap seconds (`:60`) have no place in
a count of milliseconds and are refused too.
"""

import datetime as dt
import functools
import re
import time
from typing import Protocol

# Hours end at 23, because later Pythons read 24:00 as the next day; the other ranges are fromisoformat's to refuse.
_FORM = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T(?:[01][0-9]|2[0-3]):[0-9]{2}:[0-9]{2}\.[0-9]{3}Z")
_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_MS = dt.timedelta(milliseconds=1)
_ZERO = dt.timedelta(0)

LAST_MS = (dt.datetime(9999, 12, 31, 23, 59, 59, 999000, tzinfo=dt.UTC) - _EPOCH) // _MS


@functools.lru_cache(maxsize=4096)  # what is written together bears few moments
def format_ms(ms: int) -> str:
    """Milliseconds since 1970 as text; raises ValueError outside the years 1970 to 9999."""
    if not 0 <= ms <= LAST_MS:
        raise ValueError("a time outside the years 1970 to 9999")
    seconds, rest = divmod(ms, 1000)
    return f"{_second(seconds)}.{rest:03d}Z"


@functools.lru_cache(maxsize=64)  # each decision has a millisecond of its own, and a thousand of them one second
def _second(seconds: int) -> str:
    return (_EPOCH + dt.timedelta(seconds=seconds)).replace(tzinfo=None).isoformat(timespec="seconds")


@functools.lru_cache(maxsize=4096)  # a record's moments are asked several times, a licence's by every decision
def parse_ms(text: str) -> int:
    """Text as milliseconds since 1970; raises ValueError for any other spelling or a moment that doesn't exist."""
    if _FORM.fullmatch(text) is None:
        raise ValueError("not RFC 3339 UTC with milliseconds and Z")
    try:
        since = dt.datetime.fromisoformat(text) - _EPOCH
    except ValueError:
        raise ValueError("no such day or time of day") from None
    if since < _ZERO:
        raise ValueError("a time outside the years 1970 to 9999")
    return since.days * 86_400_000 + since.seconds * 1000 + since.microseconds // 1000


class Clock(Protocol):
    """Where now comes from."""

    def now_ms(self) -> int:
        """Milliseconds since 1970."""


class SystemClock:
    """The machine's clock."""

    def now_ms(self) -> int:
        """Milliseconds since 1970."""
        return time.time_ns() // 1_000_000


class FixedClock:
    """A clock that moves when told."""

    def __init__(self, ms: int) -> None:
        """Start at `ms`."""
        self.ms = ms

    def now_ms(self) -> int:
        """Milliseconds since 1970."""
        return self.ms

    def advance(self, ms: int) -> None:
        """Move on (or, with a negative number, back)."""
        self.ms += ms
