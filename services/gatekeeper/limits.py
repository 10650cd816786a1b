"""The gate's bounds, each with its unit and reason: those that an operator may set, and those that follow from them."""

from typing import Self

import msgspec

from sigilrun import settings


class Limits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One frozen object, built once at start."""

    calls_per_minute: int = 600  # of one licence, whatever its level; the score bites long before, this ends it
    # Of parameters, each further so many weigh as a call: their entropy takes 30 ms of the gate a MiB.
    bulk_bytes: int = 65_536
    braking_reserve: int = 60  # further calls a minute for commands that revoke, withdraw or close, or carry a quorum: braking always works
    sessions_per_minute: int = 60  # opened with one licence; each is a record
    recorded_denials: int = 10  # of one licence a minute; further ones are counted only, so denials can't fill the log
    batch: int = 256  # decisions of one record; the kind's own bound
    waiting: int = 2_048  # calls that wait for their decision; beyond it the gate says no at once
    waiting_reserve: int = 64  # further calls, before those: they brake or carry a quorum, by callers of the level
    callers: int = 65_536  # licences whose calls of the last minute are held; 8 bytes a call
    proofs: int = 400_000  # nonces of proofs, held for two windows: over 6 000 calls a second; full means no
    nonces: int = 65_536  # nonces of opened sessions, held likewise
    sessions: int = 100_000  # tokens that needn't be verified anew, some 1 KiB each; and shared read decisions
    closed: int = 65_536  # sessions closed here whose record wasn't seen yet; full means no
    reviews: int = 1_024  # calls that wait for a mentor
    reviews_of_caller: int = 16  # of one licence, so that nobody fills the table for others
    review_bytes: int = 2 * 1024 * 1024  # parameters that wait, all together: one answer of approval/list holds them
    review_caller_bytes: int = 512 * 1024  # of one licence, and so of one call
    share_ms: int = 60_000  # reads share one decision for so long
    answer_s: float = 5.0  # a call that isn't decided by then is a fault: as long as a permit's own start window
    catch_up_s: float = 1.0  # a revocation is felt at every gate within a second
    mark_s: float = 2.0  # a grant's mark that isn't kept by then denies, while there is time left to record the denial
    summary_s: float = 60.0  # counts of refusals become a record this often

    @classmethod
    def of(cls, gate: settings.Gate) -> Self:
        """The bounds that the operator set; the others stand."""
        return cls(
            calls_per_minute=gate.rate_limit_per_minute,
            recorded_denials=gate.recorded_denials_per_minute,
            batch=gate.batch,
            waiting=gate.max_queue,
            sessions=gate.max_sessions,
            share_ms=gate.read_share_s * 1000,
            summary_s=float(gate.summary_interval_s),
        )
