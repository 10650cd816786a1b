"""Calls that wait for a mentor: their very parameters, in this process's memory and nowhere else.

Invariants:

1. Bounded in count, bytes and time, as a whole and for each caller, so that nobody fills it for others. A full table answers a refusal;
   nothing that still waits is dropped for it.
2. What is shown is what will be executed: the digest is of exactly this text under this salt, and it stands in the log's decision.
3. A restart forgets everything. Then who called asks again; what was approved before counts all the same, since the log has it.
"""

from collections.abc import Iterable

import msgspec

from services.gatekeeper.limits import Limits
from sigilcore import clock
from sigilcore.contracts import gatekeeper
from sigilcore.refusals import Code, Refused


class Waiting(msgspec.Struct, frozen=True, kw_only=True):
    """One call under review; `review` is the link of the decision that asked for it."""

    review: str
    owner: str
    licence: str
    command: str
    parameters: str
    salt: str
    digest: str
    until_ms: int

    @property
    def size(self) -> int:
        """What it takes of the bound."""
        return len(self.parameters.encode())


class Reviews:
    """The table."""

    def __init__(self, limits: Limits) -> None:
        """Nothing waits."""
        self._limits = limits
        self._waiting: dict[str, Waiting] = {}

    def keep(self, one: Waiting, now_ms: int) -> None:
        """Let a call wait. Raises `Refused`: BODY_TOO_LARGE for one that never fits, BUSY for one that doesn't fit now."""
        self._forget(now_ms)
        if one.size > self._limits.review_caller_bytes:
            raise Refused(
                Code.BODY_TOO_LARGE, f"a call under review has at most {self._limits.review_caller_bytes} bytes"
            )
        own = [other for other in self._waiting.values() if other.licence == one.licence]
        full = (
            len(own) >= self._limits.reviews_of_caller
            or _bytes(own) + one.size > self._limits.review_caller_bytes
            or len(self._waiting) >= self._limits.reviews
            or _bytes(self._waiting.values()) + one.size > self._limits.review_bytes
        )
        if full:
            raise Refused(Code.BUSY, "too many calls wait for their review")
        self._waiting[one.review] = one

    def shown(self, owner: str | None, now_ms: int) -> gatekeeper.ReviewList:
        """What waits, oldest first: of one owner, or of everybody."""
        self._forget(now_ms)
        waiting = (one for one in self._waiting.values() if owner in {None, one.owner})
        return gatekeeper.ReviewList(items=tuple(_view(one) for one in waiting))

    def find(self, review: str, now_ms: int) -> Waiting:
        """A call that waits. Raises `Refused`: REVIEW_UNKNOWN, APPROVAL_EXPIRED."""
        one = self._waiting.get(review)
        if one is None:
            raise Refused(Code.REVIEW_UNKNOWN, "no call waits for this review here", field="$.review")
        if now_ms >= one.until_ms:
            raise Refused(Code.APPROVAL_EXPIRED, f"it waited until {clock.format_ms(one.until_ms)}", field="$.review")
        return one

    def drop(self, review: str) -> None:
        """It was decided."""
        self._waiting.pop(review, None)

    def _forget(self, now_ms: int) -> None:
        for review in [name for name, one in self._waiting.items() if now_ms >= one.until_ms]:
            del self._waiting[review]


def _bytes(waiting: Iterable[Waiting]) -> int:
    return sum(one.size for one in waiting)


def _view(one: Waiting) -> gatekeeper.ReviewView:
    return gatekeeper.ReviewView(
        review=one.review,
        owner=one.owner,
        command=one.command,
        parameters=one.parameters,
        salt=one.salt,
        digest=one.digest,
        until=clock.format_ms(one.until_ms),
    )
