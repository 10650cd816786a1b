"""Levels of access, and which commands a licence's scope names.

Five rungs, each including those below: guest < observer < operator < mentor < root. A scope is a list of command patterns:
a full name (`memory/write`), a family (`memory/*`), or `*`. An empty scope names nothing.
"""

import enum
from collections.abc import Collection


class Loa(enum.StrEnum):
    """A level of access; compare with `includes`, never by spelling. `rung` is the height on the ladder, guest 0 to root 4."""

    rung: int

    GUEST = "guest"
    OBSERVER = "observer"
    OPERATOR = "operator"
    MENTOR = "mentor"
    ROOT = "root"

    def includes(self, other: "Loa") -> bool:
        """True if a caller at this level may do what asks for `other`."""
        return self.rung >= other.rung


for _height, _loa in enumerate(Loa):
    _loa.rung = _height


def in_scope(scope: Collection[str], command: str) -> bool:
    """True if a pattern of the scope names the command; `ai/*` names `ai/generate`, never `aix/generate`."""
    if "*" in scope or command in scope:
        return True
    return any(pattern.endswith("/*") and command.startswith(pattern[:-1]) for pattern in scope)
