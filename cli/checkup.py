"""`sigil doctor`: what is wrong with a house, judged from facts. Pure; `looking` gathers the facts.

One rule a thing, each from the facts alone; a fact that nobody could look at (None) is never called good or bad here, `unseen` names it.
Every finding says what to do next, in words that can be typed.
"""

from collections.abc import Callable, Iterator
from typing import Final, Literal

import msgspec

from sigilcore import clock
from sigilcore.access import Loa

DAY_MS: Final = 86_400_000
SKEW_MS: Final = 2_000
"""The gate's own bound: a proof or a decision that is further off is refused."""
DISK_LOW_BYTES: Final = 1 << 30
"""A gibibyte: a day of ordinary writing, and room for a database that cleans up behind itself."""


class _Fact(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of all facts."""


class Entry(_Fact, frozen=True, kw_only=True):
    """A file or folder that others mustn't reach."""

    path: str
    kind: Literal["file", "folder", "other"]
    mode: int
    mine: bool


class Held(_Fact, frozen=True, kw_only=True):
    """A licence that counts or counted; `own` is the profile's."""

    license_id: str
    owner_id: str
    loa: Loa
    expires_at: str
    own: bool
    ended: bool = False
    renewed: bool = False


class Facts(_Fact, frozen=True, kw_only=True):
    """What was seen. None and empty: not there, or not to be seen from here."""

    now_ms: int
    soon_days: int = 30
    entries: tuple[Entry, ...] = ()
    settings: tuple[str, ...] = ()
    disk_free_bytes: int | None = None
    disk_reserve_bytes: int = 0  # below which the writer takes no ordinary record
    lost: int | None = None  # the process that holds the data folder, where no run.json says so
    ready: bool | None = None
    wrong: tuple[str, ...] = ()
    bootstrapped: bool | None = None
    sealed: bool | None = None
    witnesses: int | None = None
    needs: dict[str, int] = {}  # k, and what kinds need more
    licences: tuple[Held, ...] = ()
    skew_ms: int | None = None  # the server's clock less ours, as little as explains what was seen
    newest_ms: int | None = None  # what the newest record says of its time
    size: int | None = None  # of the log, at the first look
    cosigners: int | None = None  # cosignatures that a checkpoint needs
    witnessed_size: int = 0  # at the last look, seconds later
    stream_last: int | None = None  # at the last look
    sync_always: bool | None = None
    encrypted: bool | None = None
    unseen: tuple[str, ...] = ()


class Finding(_Fact, frozen=True, kw_only=True):
    """One thing that is wrong, and what to do."""

    code: str
    what: str
    next_step: str


class Examined(_Fact, frozen=True, kw_only=True):
    """The answer."""

    findings: tuple[Finding, ...]
    unseen: tuple[str, ...]

    @property
    def exit_code(self) -> int:
        """0 clean, 1 findings, 2 when something couldn't be looked at and nothing else was found."""
        return 1 if self.findings else 2 if self.unseen else 0


def examine(facts: Facts) -> Examined:
    """Every finding, in the order of the rules."""
    found = tuple(finding for rule in RULES for finding in rule(facts))
    return Examined(findings=found, unseen=facts.unseen)


def permissions(facts: Facts) -> Iterator[Finding]:
    """Private means: ours, a plain file or folder, and nobody else's bits."""
    for entry in facts.entries:
        mode = "700" if entry.kind == "folder" else "600"
        if entry.kind == "other":
            yield Finding(
                code="PERMISSIONS",
                what=f"{entry.path} is a link, a pipe or a device",
                next_step="Put the file itself there; ask how this came to be.",
            )
        elif not entry.mine:
            yield Finding(
                code="PERMISSIONS",
                what=f"{entry.path} belongs to somebody else",
                next_step=f"chown it to the user that runs the house, then chmod {mode} {entry.path}",
            )
        elif entry.mode & 0o077:
            yield Finding(
                code="PERMISSIONS",
                what=f"{entry.path} has mode {entry.mode:04o}: others can reach it",
                next_step=f"chmod {mode} {entry.path}; if it holds a secret, think of it as read",
            )


def settings(facts: Facts) -> Iterator[Finding]:
    """Settings that no process would start with."""
    for problem in facts.settings:
        yield Finding(
            code="SETTINGS", what=problem, next_step="Correct config.toml or the environment; sigil config show."
        )


def disk(facts: Facts) -> Iterator[Finding]:
    """Room for the next day, and for more than the writer keeps for itself."""
    least = max(DISK_LOW_BYTES, facts.disk_reserve_bytes)
    if facts.disk_free_bytes is not None and facts.disk_free_bytes < least:
        mebibytes = facts.disk_free_bytes >> 20
        yield Finding(
            code="DISK_LOW",
            what=f"{mebibytes} MiB are free where the data is",
            next_step="Make room before Postgres stops: old logs first; never a file of postgres/ or nats/.",
        )


def health(facts: Facts) -> Iterator[Finding]:
    """What the face says of everyone, and whether programs find it."""
    if facts.lost is not None:
        yield Finding(
            code="RUN_FILE",
            what=f"process {facts.lost} holds the data folder, and run.json isn't there or can't be read",
            next_step="sigil down, then sigil up",
        )
    for wrong in facts.wrong:
        name = wrong.partition(":")[0]
        yield Finding(
            code="UNHEALTHY",
            what=wrong,
            next_step=f"Read the end of logs/{name}.log; sigil status tells the processes.",
        )
    if facts.ready is False and not facts.wrong:
        yield Finding(code="UNHEALTHY", what="the house is not ready", next_step="Wait a moment; then read logs/.")


def founding(facts: Facts) -> Iterator[Finding]:
    """A house without a Root, or without a seal."""
    if facts.bootstrapped is False:
        yield Finding(
            code="NO_ROOT", what="nobody is Root yet; whoever has the token can be", next_step="sigil init --key FILE"
        )
    elif facts.sealed is False:
        yield Finding(
            code="UNSEALED",
            what="the system isn't sealed: models, policies and keys can't change yet",
            next_step="Register witnesses with sigil witness add, then sigil seal --k K.",
        )


def margin(facts: Facts) -> Iterator[Finding]:
    """Losing one key must not stop every change for ever."""
    if facts.witnesses is None:
        return
    for what, need in facts.needs.items():
        spare = facts.witnesses - need
        if spare < 1:
            yield Finding(
                code="WITNESS_MARGIN",
                what=f"{what} needs {need} of {facts.witnesses} witnesses: "
                + ("it can't be reached any more" if spare < 0 else "one lost key stops it for ever"),
                next_step="Add a witness with sigil witness add while the present ones can still agree to it.",
            )


def licences(facts: Facts) -> Iterator[Finding]:
    """Licences that end soon and that nothing follows; one's own also when it has ended."""
    for held in facts.licences:
        left_ms = clock.parse_ms(held.expires_at) - facts.now_ms
        whose = f"your licence as {held.owner_id}" if held.own else f"{held.owner_id}'s {held.loa} licence"
        if held.own and (held.ended or left_ms <= 0):
            ended = "was revoked" if held.ended else f"ended at {held.expires_at}"
            yield Finding(code="LICENCE_ENDED", what=f"{whose} {ended}", next_step="Ask Root for another one.")
        elif not held.ended and not held.renewed and 0 < left_ms <= facts.soon_days * DAY_MS:
            renew = (
                "Root's can't be renewed" if held.loa is Loa.ROOT else f"sigil license renew {held.license_id} (Root)"
            )
            yield Finding(
                code="LICENCE_EXPIRING",
                what=f"{whose} ends in {left_ms // DAY_MS} days, at {held.expires_at}",
                next_step=renew,
            )


def clocks(facts: Facts) -> Iterator[Finding]:
    """Three clocks: this machine's, the server's, and what the log was told."""
    if facts.skew_ms is not None and abs(facts.skew_ms) > SKEW_MS:
        ahead = "ahead of" if facts.skew_ms > 0 else "behind"
        yield Finding(
            code="CLOCK_SKEW",
            what=f"the server's clock is at least {abs(facts.skew_ms)} ms {ahead} this machine's",
            next_step="Have both follow the same time servers (chrony, systemd-timesyncd).",
        )
    if facts.newest_ms is not None and facts.newest_ms - facts.now_ms > SKEW_MS:
        yield Finding(
            code="CLOCK_SKEW",
            what=f"the newest record is from {facts.newest_ms - facts.now_ms} ms after now",
            next_step="A clock ran ahead when it was written, or this one is behind: compare with a time server.",
        )


def witnessing(facts: Facts) -> Iterator[Finding]:
    """The checkpoint of the first look must have its cosignatures by the last."""
    if facts.cosigners and facts.size is not None and facts.witnessed_size < facts.size:
        yield Finding(
            code="UNWITNESSED",
            what=f"the log has {facts.size} records, checkpoints with {facts.cosigners} cosignatures cover {facts.witnessed_size}",
            next_step="See that enough cosigners answer (logs/notary.log); sigil witness policy tells which.",
        )


def bus(facts: Facts) -> Iterator[Finding]:
    """What the stream promises: written through, sealed at rest, and no shorter than the canon."""
    if facts.sync_always is False:
        yield Finding(
            code="BUS_NOT_DURABLE",
            what="JetStream acknowledges before it writes through",
            next_step="Set sync_interval: always in nats-server's jetstream section, and restart it.",
        )
    if facts.encrypted is False:
        yield Finding(
            code="BUS_NOT_ENCRYPTED",
            what="the change stream isn't encrypted at rest",
            next_step="Set cipher and key in nats-server's jetstream section; then remove the stream and sigil canon refill.",
        )
    if facts.stream_last is not None and facts.size is not None and facts.stream_last < facts.size:
        yield Finding(
            code="STREAM_BEHIND",
            what=f"the change stream ends at {facts.stream_last} of {facts.size} records",
            next_step="sigil canon refill",
        )


RULES: Final[tuple[Callable[[Facts], Iterator[Finding]], ...]] = (
    permissions,
    settings,
    disk,
    health,
    founding,
    margin,
    licences,
    clocks,
    witnessing,
    bus,
)
