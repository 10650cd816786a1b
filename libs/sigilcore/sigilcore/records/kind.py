"""What a kind declares."""

from collections.abc import Callable
from typing import Any

import msgspec


class Kind(msgspec.Struct, frozen=True, kw_only=True):
    """One permanent tag.

    `authors`: services whose instances may sign it in `user` and `audit`; empty in `system` (Root signs). `service_signed`: signed
    by the service's own key instead of an instance's. `effect`: must link the committed decision that admits it. `governs`: moves
    the writer's fold. `subject` and `thing` name whose record it is and of which thing it is a version; both from the payload. `erases`:
    ends the versions of a thing of another kind, which the payload names; such a record is never erased itself.
    """

    tag: str
    payload: type[msgspec.Struct]
    space: str
    summary: str
    version: int = 1
    authors: tuple[str, ...] = ()
    service_signed: bool = False
    effect: bool = False
    governs: bool = False
    max_bytes: int = 64 * 1024
    subject: Callable[[Any], str] = lambda _: ""
    thing: Callable[[Any], str | None] = lambda _: None
    erases: bool = False

    @property
    def erasable(self) -> bool:
        """True if the payload may be erased: versions of things in `user`, and nothing else."""
        return self.space == "user" and not self.erases

    def thing_name(self, payload: Any) -> tuple[str, str, str] | None:
        """Kind, owner and key of the thing that a record continues; None if it continues none."""
        key = self.thing(payload)
        if self.space != "user" or key is None:
            return None
        return payload.kind if self.erases else self.tag, self.subject(payload), key
