"""What a kind declares."""

from collections.abc import Callable
from typing import Any

import msgspec


class Kind(msgspec.Struct, frozen=True, kw_only=True):
    """One permanent tag.

    `authors`: services whose instances may sign it in `user` and `audit`; empty in `system` (Root signs). `service_signed`: signed
    by the service's own key instead of an instance's. `effect`: must link the committed decision that admits it. `governs`: moves
    the writer's fold. `subject` and `thing` name whose record it is and of which thing it is a version; both from the payload.
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

    @property
    def spaces(self) -> tuple[str, ...]:
        """The spaces it may stand in."""
        return (self.space,)
