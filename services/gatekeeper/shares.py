"""Reads share: one Allow decision a session, command, target, module and way of proving, for a bounded time.

It ends at once when anything that it stands on moves: the licence, the policy, the model, or the session.
"""

import collections
from typing import Any

import msgspec

from sigilcore import clock, session
from sigilcore.contracts.command import Command
from sigilcore.decision import DecisionRef, ProofKind, ReasoningChain, Verdict
from sigilcore.governance import Governance


class Share(msgspec.Struct, frozen=True, kw_only=True):
    """A committed Allow, and what must not have moved since."""

    chain: ReasoningChain
    ref: DecisionRef
    until_ms: int
    since_ms: int
    licence_until_ms: int
    marks: tuple[int, int, int]


Key = tuple[str, str, str, str, str | None]


class Shares:
    """The decisions that reads may share now."""

    def __init__(self, *, limit: int, longest_ms: int) -> None:
        """`limit` bounds what is held, the oldest goes first and costs a decision; `longest_ms` how long one is shared."""
        self._limit = limit
        self._longest_ms = longest_ms
        self._held: collections.OrderedDict[Key, Share] = collections.OrderedDict()

    def find(
        self,
        state: Governance,
        said: session.SessionToken,
        command: Command[Any, Any],
        proof: ProofKind,
        now_ms: int,
        *,
        module: str | None = None,
    ) -> Share | None:
        """A decision that still holds for this call."""
        key = (said.session_id, command.name, command.target.value, proof, module)
        share = self._held.get(key)
        if share is None:
            return None
        timely = share.since_ms <= now_ms < min(share.until_ms, share.licence_until_ms)
        if timely and share.marks == _marks(state, said.licence_id):
            return share
        del self._held[key]
        return None

    def keep(self, state: Governance, command: Command[Any, Any], chain: ReasoningChain, ref: DecisionRef) -> None:
        """Keep a committed Allow of a read, if what it stands on hasn't moved meanwhile. One that was approved is for its own parameters,
        one that was made on somebody's behalf for that call."""
        audit = chain.audit
        entry = state.issued(audit.licence)
        if not shareable(command) or chain.verdict is not Verdict.ALLOW or entry is None:
            return
        if chain.approval is not None or chain.parent is not None:
            return
        marks = _marks(state, audit.licence)
        if max(marks) >= chain.as_of:
            return
        since_ms = clock.parse_ms(audit.ts)
        self._held[audit.session, command.name, command.target.value, chain.proof, chain.module] = Share(
            chain=chain,
            ref=ref,
            since_ms=since_ms,
            until_ms=since_ms + self._longest_ms,
            licence_until_ms=clock.parse_ms(entry.table.expires_at),
            marks=marks,
        )
        if len(self._held) > self._limit:
            self._held.popitem(last=False)


def shareable(command: Command[Any, Any]) -> bool:
    """True for what changes nothing and writes nothing."""
    return not command.mutates and not command.writes


def _marks(state: Governance, licence_id: str) -> tuple[int, int, int]:
    entry = state.issued(licence_id)
    return (state.model_seq, state.policy_seq, -1 if entry is None else entry.changed_seq)
