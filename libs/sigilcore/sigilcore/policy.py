"""Access policy: what a system record may raise above the floor that the declarations set.

A policy can raise a command's rung and set trust thresholds; it can never lower a rung, and an entry below the floor is read as the
floor. A policy that can't be read denies (law 5): there is no default policy beside the one in genesis.
"""

from typing import Annotated

import msgspec

from sigilcore.access import Loa

CommandName = Annotated[str, msgspec.Meta(pattern=r"\A[a-z][a-z0-9_/.-]{0,63}\Z")]


class AccessPolicy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Raised rungs and thresholds (logits in millionths) by command name, and the rate limit that fills the rate feature."""

    version: Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
    rungs: Annotated[dict[CommandName, Loa], msgspec.Meta(max_length=512)] = {}
    thresholds: Annotated[
        dict[CommandName, Annotated[int, msgspec.Meta(ge=-1_000_000_000, le=1_000_000_000)]],
        msgspec.Meta(max_length=512),
    ] = {}
    rate_limit: Annotated[
        int, msgspec.Meta(ge=1, le=1_000_000, description="calls a minute that fill the rate feature")
    ] = 120

    def rung(self, command: str, floor: Loa) -> Loa:
        """The rung that a call needs: the floor, or higher if the policy says so."""
        raised = self.rungs.get(command, floor)
        return raised if raised.includes(floor) else floor


FIRST_POLICY = AccessPolicy(version="genesis")
