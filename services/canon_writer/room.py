"""Room on the disk, and for whom the last of it is kept.

A Postgres whose write-ahead log finds no room stops, and with it every revocation. So the writer stops before: below a mark of free space
it takes no more ordinary records (`DISK_LOW`), and what is left is for what ends or brakes something, for the quorum, and for what lets a
process speak at all. Nobody needs to be told when there is room again.

Watched is the file system of one folder, that of an embedded database. A database elsewhere has its own watch: where no folder is named,
the disk's end is what Postgres says of it, and then all calls are refused alike.
"""

import os
import time
from collections.abc import Callable
from pathlib import Path

from sigilcore import record
from sigilcore.contracts import catalogue, quorum
from sigilcore.decision import Verdict
from sigilcore.records import audit
from sigilrun import telemetry

LOOK_S = 0.25  # between two looks; what can be written meanwhile is far less than any mark

RESERVED_COMMANDS = frozenset(
    command.name for command in catalogue.COMMANDS.values() if command.reserved or command.service == quorum.SERVICE
)
"""Braking commands, and all of the quorum's."""

RESERVED_KINDS = frozenset(
    {kind for name in RESERVED_COMMANDS for kind in catalogue.COMMANDS[name].writes}
    | {
        "session_closed",
        "proposal_attested",
        "proposal_closed",
        "log_contradiction",
        "instance_opened",
        "instance_beat",
    }
)


def is_reserved(checked: record.Checked) -> bool:
    """True for what is written into the last room. A batch of decisions is, if it allows a reserved command; a denial asks for no room."""
    if checked.core.space == "system" or checked.core.kind in RESERVED_KINDS:
        return True
    payload = checked.payload
    if isinstance(payload, audit.SessionOpened):
        return payload.key is not None  # who may revoke has a key, and needs a session for it
    return any(
        one.chain.command in RESERVED_COMMANDS and one.chain.verdict is Verdict.ALLOW
        for one in audit.decisions_in(payload)
    )


class Room:
    """The free space below which the rest is reserved."""

    def __init__(self, folder: Path, reserve_bytes: int, *, now: Callable[[], float] = time.monotonic) -> None:
        """`folder` lies on the file system that is watched."""
        self._folder = folder
        self._reserve = reserve_bytes
        self._now = now
        self._looked = -LOOK_S
        self._low = False

    def low(self) -> bool:
        """True while only reserved records are taken. A disk that can't be asked is a full one."""
        if self._now() - self._looked >= LOOK_S:
            self._looked = self._now()
            free = self._free()
            low = free < self._reserve
            if low is not self._low:
                tell = telemetry.log.critical if low else telemetry.log.warning
                tell("disk_low" if low else "disk_has_room", free_bytes=free, reserve_bytes=self._reserve)
            self._low = low
        return self._low

    def _free(self) -> int:
        try:
            found = os.statvfs(self._folder)
        except OSError as error:
            telemetry.log.error("disk_unasked", reason=str(error))
            return -1
        return found.f_bavail * found.f_frsize
