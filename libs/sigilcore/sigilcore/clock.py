"""Time: RFC 3339 in UTC with milliseconds and `Z`, one spelling; integers of milliseconds inside."""

import datetime as dt
import re
import time
from typing import Protocol

_FORM = re.compile(r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}\.\d{3}Z", re.ASCII)
_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_MS = dt.timedelta(milliseconds=1)


def format_ms(ms: int) -> str:
    """Milliseconds since 1970 as text."""
    moment = _EPOCH + ms * _MS
    return moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{ms % 1000:03d}Z"


def parse_ms(text: str) -> int:
    """Text as milliseconds since 1970; raises ValueError for any other spelling or a day that doesn't exist."""
    if _FORM.fullmatch(text) is None:
        raise ValueError("not RFC 3339 UTC with milliseconds and Z")
    moment = dt.datetime.fromisoformat(text)
    return (moment - _EPOCH) // _MS


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
