"""Proposals against a model that a child could keep: who spoke, what stands, what has ended; in any order of anything.

The machine below does what Root, three witnesses and the clock may do, on the house in memory with the service's own rules. The model holds
sets of names and nothing else. Whatever is tried, both must say the same.
"""

import contextlib
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, precondition, rule

from sigilcore.refusals import Refused
from tests import oracle
from tests.services.test_quorum import House

WITNESSES = ("mia", "ned", "ora")
TTL_MS = 3_600_000
K = 2


class Expected:
    """What the model knows of one proposal."""

    def __init__(self, head: str, ends_ms: int) -> None:
        self.head = head
        self.ends_ms = ends_ms
        self.voices: set[str] = set()
        self.ended = ""


class Proposals(RuleBasedStateMachine):
    """Three witnesses, k = 2."""

    names: Bundle[str] = Bundle("names")

    def __init__(self) -> None:
        super().__init__()
        self.house = House(3, sealed=True)
        self.model: dict[str, Expected] = {}
        self.committed: list[str] = []
        self.last_ms = self.house.now_ms + 20 * TTL_MS  # before that no change ends by its own time

    def state(self, name: str) -> str:
        known = self.model[name]
        if known.ended:
            return known.ended
        if self.house.now_ms >= known.ends_ms:
            return "expired"
        if known.head != self.house.state.system_head:
            return "stale"
        return "ready" if len(known.voices) >= K else "open"

    def refuses(self, act: Any, *arguments: Any) -> bool:
        with contextlib.suppress(Refused):
            act(*arguments)
            return False
        return True

    @precondition(lambda self: len(self.model) < 12)
    @rule(target=names, bias=st.integers(1, 1_000))
    def propose(self, bias: int) -> str:
        """Root proposes on the head."""
        name = self.house.propose(self.house.model(bias))
        head = self.house.state.system_head
        assert head is not None
        self.model[name] = Expected(head, self.house.now_ms + TTL_MS)
        return name

    @rule(name=names, who=st.sampled_from(WITNESSES))
    def attest(self, name: str, who: str) -> None:
        """A voice is taken while the proposal runs, once."""
        known = self.model[name]
        expected = self.state(name) not in {"open", "ready"} or who in known.voices
        assert self.refuses(self.house.attest, name, who) is expected
        if not expected:
            known.voices.add(who)

    @rule(name=names, who=st.sampled_from(WITNESSES), other=st.sampled_from(WITNESSES))
    def impersonate(self, name: str, who: str, other: str) -> None:
        """Nobody speaks with another's key, and Root with none of theirs."""
        key = self.house.root.signer if who == other else self.house.mentors[other].signer
        assert self.refuses(self.house.attest, name, who, key)

    @rule(name=names)
    def commit(self, name: str) -> None:
        """The writer takes it exactly when the model says ready."""
        expected = self.state(name) != "ready"
        assert self.refuses(self.house.commit, name) is expected
        if not expected:
            self.model[name].ended = "committed"
            self.committed.append(name)
            self.house.close(name, "committed")

    @rule(name=names)
    def withdraw(self, name: str) -> None:
        """An ending counts once: what has ended stays ended as it did."""
        if self.state(name) in {"open", "ready"}:
            self.model[name].ended = "withdrawn"
            self.house.close(name, "withdrawn")

    @rule(ms=st.sampled_from((1, TTL_MS // 3, TTL_MS)))
    def wait(self, ms: int) -> None:
        """Time passes."""
        if self.house.now_ms + ms < self.last_ms:
            self.house.clock.advance(ms)

    @rule(name=consumes(names))
    def forget(self, name: str) -> None:
        """Some are never looked at again by anybody, but the invariant."""
        assert name in self.model

    @invariant()
    def both_say_the_same(self) -> None:
        for name, known in self.model.items():
            assert self.house.standing(name).state == self.state(name)
            spoken = {voice.witness_id for voice in self.house.book.proposals[name].voices}
            assert spoken == known.voices

    def teardown(self) -> None:
        """The log is a ledger like any other, and holds one change for each commit, by at least k."""
        oracle.check(self.house.placed(), self.house.checkpoint(), self.house.state.genesis_hash)
        places = [self.house.book.place(self.house.book.proposals[name]) for name in self.committed]
        assert all(place is not None for place in places)
        assert len({place.seq for place in places if place is not None}) == len(self.committed)


TestProposals = Proposals.TestCase
TestProposals.settings = settings(max_examples=25, stateful_step_count=25, deadline=None)
