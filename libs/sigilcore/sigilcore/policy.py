"""Access policy: what a system record may raise above the floor that the declarations set.

A policy can raise a command's rung, set trust thresholds, and ask that calls be reviewed by a mentor; it can never lower a rung, and an
entry below the floor is read as the floor. A policy that can't be read denies (law 5): there is no default policy beside the one in
genesis.

An entry's name is a command's, or `<command>:<module>` for one module of a command that runs modules; the narrower one wins.
"""

from collections.abc import Mapping
from typing import Annotated, TypeVar

import msgspec

from sigilcore.access import Loa

T = TypeVar("T")

CommandName = Annotated[str, msgspec.Meta(pattern=r"\A[a-z][a-z0-9_/.-]{0,63}(:[A-Za-z0-9][A-Za-z0-9_/.-]{0,63})?\Z")]


class Review(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Calls that wait for a mentor's word, and how long: those whose logit is at most `band` millionths below the threshold and would be
    denied; without a band all those that would be allowed."""

    within_s: Annotated[int, msgspec.Meta(ge=1, le=86_400)]
    band: Annotated[int, msgspec.Meta(ge=1, le=1_000_000_000)] | None = None


class AccessPolicy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Raised rungs, thresholds (logits in millionths) and reviews by command name, and the rate limit that fills the rate feature."""

    version: Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
    rungs: Annotated[dict[CommandName, Loa], msgspec.Meta(max_length=512)] = {}
    thresholds: Annotated[
        dict[CommandName, Annotated[int, msgspec.Meta(ge=-1_000_000_000, le=1_000_000_000)]],
        msgspec.Meta(max_length=512),
    ] = {}
    rate_limit: Annotated[
        int, msgspec.Meta(ge=1, le=1_000_000, description="calls a minute that fill the rate feature")
    ] = 120
    reviews: Annotated[dict[CommandName, Review], msgspec.Meta(max_length=512)] = {}

    def rung(self, command: str, floor: Loa, module: str | None = None) -> Loa:
        """The rung that a call needs: the floor, or higher if the policy says so."""
        raised = entry(self.rungs, command, module) or floor
        return raised if raised.includes(floor) else floor

    def threshold(self, command: str, default: int, module: str | None = None) -> int:
        """The logit that a call must reach."""
        own = entry(self.thresholds, command, module)
        return default if own is None else own

    def review(self, command: str, module: str | None = None) -> Review | None:
        """Which calls a mentor must approve, if any."""
        return entry(self.reviews, command, module)


def entry(table: Mapping[str, T], command: str, module: str | None) -> T | None:
    """What a table of a policy says of a call: the entry of its module, else of its command."""
    own = None if module is None else table.get(f"{command}:{module}")
    return table.get(command) if own is None else own


def command_of(name: str) -> tuple[str, str | None]:
    """The command and the module that an entry's name says."""
    command, _, module = name.partition(":")
    return command, module or None


FIRST_POLICY = AccessPolicy(version="genesis")
