"""Reviews: what waits for a mentor, whose word counts, and for what; and calls on somebody's behalf.

Each attack is tried twice: on the writer by a gatekeeper that lies, and on the replay by a writer that was in on it.
"""

import dataclasses

import msgspec
import pytest

from sigilcore import decision, gate, policy, record, replay, vouch
from sigilcore.access import Loa
from sigilcore.contracts import catalogue
from sigilcore.decision import Verdict
from sigilcore.records import system
from sigilcore.refusals import Code, Refused
from tests import oracle
from tests.reviewing import BODY, OTHER, SALT, WITHIN_S, Lie, Reviewed, alone, batch, waved_through
from tests.simulator import Person


@pytest.fixture
def house():
    """A house in which `memory/write` is reviewed."""
    return Reviewed()


def judged(house):
    """What the replay says, record by record and in runs: a report, or where and why the ledger stops agreeing."""
    said = _outcome(lambda: oracle.check(house.placed(), house.checkpoint(), house.state.genesis_hash))
    for length in (1, 7, 1_000):
        assert _outcome(lambda length=length: _in_runs(house, length)) == said
    return said


def _in_runs(house, length):
    machine, voucher = replay.Replay(replay.Pins(genesis=house.state.genesis_hash)), vouch.Voucher()
    lines = [msgspec.json.encode(placed) for placed in house.placed()]
    for first in range(0, len(lines), length):
        run = lines[first : first + length]
        machine.absorb(voucher.vouch(first, run), run)
    return machine.finish(house.checkpoint())


def _outcome(work):
    try:
        return work()
    except replay.Diverged as diverged:
        return diverged.seq, diverged.code


def holds(house):
    """The ledger agrees with itself."""
    said = judged(house)
    assert isinstance(said, replay.Report), said


# The ordinary way


def test_a_reviewed_call_waits_then_passes_once(house):
    """Needed, approved, allowed, used: four records, and the whole ledger is judged again."""
    review = house.review(house.ada)
    house.put(house.word(review, house.mia))
    chain = house.asked(house.ada, approval=review)
    assert (chain.verdict, chain.approval, chain.steps[-1].detail) == (Verdict.ALLOW, review, "approved")
    placed = house.put(alone(chain))
    assert house.state.approvals[review].used_seq == len(house.log) - 1
    row = house.rows[placed.core.id, 0]
    assert (row.command, row.owner, row.digest) == ("memory/write", "ada", chain.digest)
    holds(house)


def test_an_ordinary_decision_did_not_grow(house):
    """Who needs no review and calls for nobody has neither in the bytes of the decision."""
    plain = msgspec.json.encode(house.judge(house.ada, "memory/list"))
    assert b"approval" not in plain
    assert b"parent" not in plain
    assert b"module" not in plain


def test_the_step_is_last_and_the_refusal_says_what_to_do(house):
    """The review comes after the score, and its refusal names the recorded decision."""
    chain = house.asked(house.ada)
    assert [step.check for step in chain.steps][-2:] == ["trust", "review"]
    ref = decision.DecisionRef(record="0" * 36, index=3)
    refusal = gate.refusal_of(chain, ref)
    assert (refusal.code, refusal.detail) == (
        Code.REVIEW_NEEDED,
        {"decision": ref.link(), "review": ref.link()},
    )


def test_what_trust_denies_is_not_saved_by_a_review(house):
    """Without a band a review asks more of what would pass, and nothing for what wouldn't."""
    house.change_policy(
        thresholds={"memory/write": 1_000_000_000}, reviews={"memory/write": policy.Review(within_s=60)}
    )
    assert gate.refusal_of(house.asked(house.ada)).code is Code.DENIED_BY_TRUST


def test_a_band_below_the_threshold(house):
    """With a band only what just fails is reviewed: at the band's edge yes, a millionth of a millionth below no, and what passes isn't."""
    scored = house.asked(house.ada, calls_last_minute=1).trust
    over = scored.logit // 1_000_000 + 1  # a threshold just above this call
    short = over * 1_000_000 - scored.logit

    def verdict(threshold, band):
        review = policy.Review(within_s=60, band=band)
        house.change_policy(thresholds={"memory/write": threshold}, reviews={"memory/write": review})
        return house.asked(house.ada, calls_last_minute=1).verdict

    assert 0 < short <= 1_000_000
    assert verdict(over, 1) is Verdict.MANUAL_REVIEW
    assert verdict(over + 1, 1) is Verdict.DENY
    assert verdict(over - 1, 1_000_000) is Verdict.ALLOW


def test_an_approval_lifts_a_call_of_the_band(house):
    """Approved, it is an Allow below the threshold: only there, and the replay agrees."""
    scored = house.asked(house.ada).trust
    threshold = scored.logit // 1_000_000 + 1
    house.change_policy(
        thresholds={"memory/write": threshold},
        reviews={"memory/write": policy.Review(within_s=WITHIN_S, band=1_000_000)},
    )
    review = house.approved(house.ada)
    chain = house.asked(house.ada, approval=review)
    assert (chain.verdict, chain.trust.allowed) == (Verdict.ALLOW, False)
    house.put(alone(chain))
    holds(house)


def test_braking_is_never_reviewed(house):
    """A policy can't put a mentor between anyone and the brake, nor between a mentor and approving."""
    for name in ("license/revoke", "session/close", "approval/refuse", "approval/approve"):
        with pytest.raises(Refused) as caught:
            house.change_policy(reviews={name: policy.Review(within_s=60)})
        assert caught.value.code is Code.RECORD_INVALID


def test_a_policy_speaks_of_one_module_only_where_modules_run(house):
    """`<command>:<module>` is an entry of a command that names modules, and of no other."""
    with pytest.raises(Refused) as caught:
        house.change_policy(thresholds={"memory/write:poet": 0})
    assert caught.value.field == "$.payload.policy.thresholds.memory/write:poet"


def test_the_entry_of_a_module_wins():
    """The narrower entry, then the command's, for rungs, thresholds and reviews alike; never below the floor."""
    law = policy.AccessPolicy(
        version="v",
        rungs={"run": Loa.ROOT, "run:poet": Loa.MENTOR, "run:lamb": Loa.GUEST},
        thresholds={"run": 5, "run:poet": 0},
        reviews={"run": policy.Review(within_s=1), "run:poet": policy.Review(within_s=2)},
    )
    assert [law.rung("run", Loa.OPERATOR, module) for module in ("poet", "lamb", "else", None)] == [
        Loa.MENTOR,
        Loa.OPERATOR,
        Loa.ROOT,
        Loa.ROOT,
    ]
    assert [law.threshold("run", 9, module) for module in ("poet", "else")] == [0, 5]
    assert [law.review("run", module).within_s for module in ("poet", "else")] == [2, 1]
    assert law.review("walk", "poet") is None


def test_a_module_is_read_from_the_parameters_and_kept(house):
    """The judged module stands in the chain, so the replay can look up its entry; what is no text names no module."""
    command = dataclasses.replace(catalogue.COMMANDS["memory/write"], module_field="key")
    observed = gate.observe(command, b'{"key":"poet","text":"x"}', SALT)
    facts = house.facts(house.ada, "memory/write", observed=observed)
    chain = gate.judge(house.state, msgspec.structs.replace(facts, command=command))
    assert chain.module == "poet"
    assert gate.recompute(house.state, chain, command) == []
    assert gate.observe(command, b'{"key":["poet"]}', SALT).module is None


# Attacks: a word that doesn't count, used all the same


def expired(house):
    review = house.approved(house.ada)
    house.clock.advance(WITHIN_S * 1000)
    return alone(waved_through(house.asked(house.ada, approval=review), review))


def replayed_on_other_parameters(house):
    review = house.approved(house.ada)
    return alone(waved_through(house.asked(house.ada, OTHER, approval=review), review))


def used_by_another(house):
    review = house.approved(house.ada)
    return alone(waved_through(house.asked(house.bob, approval=review), review))


def used_for_another_command(house):
    review = house.approved(house.ada)
    chain = house.judge(
        house.ada,
        "canon/user/write",
        observed=gate.observe(catalogue.COMMANDS["canon/user/write"], BODY, SALT),
    )
    return alone(msgspec.structs.replace(chain, approval=review))


def used_twice(house):
    review = house.approved(house.ada)
    house.put(alone(house.asked(house.ada, approval=review)))
    return alone(waved_through(house.asked(house.ada, approval=review), review))


def refused_by_the_mentor(house):
    review = house.review(house.ada)
    house.put(house.word(review, house.mia, "refused"))
    return alone(waved_through(house.asked(house.ada, approval=review), review))


def never_decided(house):
    review = house.review(house.ada)
    return alone(waved_through(house.asked(house.ada, approval=review), review))


def approver_revoked_since(house):
    review = house.approved(house.ada)
    house.revoke(house.mia)
    return alone(waved_through(house.asked(house.ada, approval=review), review))


def judged_before_the_approver_was_revoked(house):
    review = house.approved(house.ada)
    chain = house.asked(house.ada, approval=review)
    house.revoke(house.mia)
    return alone(chain)


def judged_before_it_was_used(house):
    review = house.approved(house.ada)
    first, second = house.asked(house.ada, approval=review), house.asked(house.ada, approval=review)
    house.put(alone(first))
    return alone(second)


def among_others(house):
    review = house.approved(house.ada)
    return batch(house.asked(house.ada, approval=review), house.judge(house.ada, "ping"))


def without_naming_an_approval(house):
    return alone(house.judge(house.ada, "ping"))


# Attacks: a word that nobody may say


def self_approved(house):
    review = house.review(house.ada)
    double = house.issue(Person("ada"), Loa.MENTOR)
    return house.word(review, double)


def said_by_an_operator(house):
    review = house.review(house.ada)
    return house.word(review, house.mia, approver="bob", licence=house.bob.licence_id)


def said_by_a_revoked_mentor(house):
    review = house.review(house.ada)
    word = house.word(review, house.mia)
    house.revoke(house.mia)
    return word


def said_with_the_command_to_refuse(house):
    return house.word(house.review(house.ada), house.mia, command="approval/refuse")


def said_of_another_digest(house):
    other = house.named[house.review(house.ada, OTHER)]
    return house.word(house.review(house.ada), house.mia, digest=other.digest)


def said_of_another_caller(house):
    return house.word(house.review(house.ada), house.mia, owner="bob")


def said_of_no_review(house):
    allowed = house.batched(house.judge(house.ada, "memory/list"))[0]
    lie = house.word(house.review(house.ada), house.mia)
    return Lie(kind=lie.kind, payload=msgspec.structs.replace(lie.payload, review=allowed), links=lie.links)


def said_twice(house):
    review = house.review(house.ada)
    house.put(house.word(review, house.mia, "refused"))
    return house.word(review, house.max)


def said_for_longer_than_the_policy_lets(house):
    return house.word(house.review(house.ada), house.mia, not_after=house.later())


def said_too_late(house):
    review = house.review(house.ada)
    house.clock.advance(WITHIN_S * 1000)
    return house.word(review, house.mia)


def said_under_a_newer_policy(house):
    review = house.review(house.ada)
    house.change_policy(reviews={"memory/write": policy.Review(within_s=WITHIN_S)})
    return house.word(review, house.mia)


ATTACKS = {
    expired: Code.APPROVAL_EXPIRED,
    replayed_on_other_parameters: Code.APPROVAL_MISMATCH,
    used_by_another: Code.APPROVAL_MISMATCH,
    used_for_another_command: Code.APPROVAL_MISMATCH,
    used_twice: Code.APPROVAL_USED,
    refused_by_the_mentor: Code.APPROVAL_REFUSED,
    never_decided: Code.APPROVAL_UNKNOWN,
    approver_revoked_since: Code.APPROVER_INVALID,
    judged_before_the_approver_was_revoked: Code.STALE_DECISION,
    judged_before_it_was_used: Code.STALE_DECISION,
    among_others: Code.RECORD_INVALID,
    without_naming_an_approval: Code.RECORD_INVALID,
    self_approved: Code.SELF_APPROVAL,
    said_by_an_operator: Code.DECISION_MISMATCH,
    said_by_a_revoked_mentor: Code.APPROVER_INVALID,
    said_with_the_command_to_refuse: Code.DECISION_MISMATCH,
    said_of_another_digest: Code.APPROVAL_MISMATCH,
    said_of_another_caller: Code.APPROVAL_MISMATCH,
    said_of_no_review: Code.REVIEW_UNKNOWN,
    said_twice: Code.REVIEW_UNKNOWN,
    said_for_longer_than_the_policy_lets: Code.RECORD_INVALID,
    said_too_late: Code.APPROVAL_EXPIRED,
    said_under_a_newer_policy: Code.REVIEW_UNKNOWN,
}


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.__name__)
def test_a_gatekeeper_that_lies_is_refused(house, attack):
    """The writer's fold says no, and the ledger stays whole."""
    lie: Lie = attack(house)
    with pytest.raises(Refused) as caught:
        house.put(lie)
    assert caught.value.code is ATTACKS[attack], caught.value
    holds(house)


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.__name__)
def test_a_writer_that_was_in_on_it_is_found(house, attack):
    """The replay stops at the very record, in every way of judging, for the same reason."""
    seq = house.smuggle_lie(attack(house))
    assert judged(house) == (seq, ATTACKS[attack])


def test_a_review_that_was_skipped_is_found(house):
    """A gate that leaves the step out: the writer judges again, and whoever replays the log does."""
    chain = house.asked(house.ada)
    skipped = msgspec.structs.replace(chain, steps=chain.steps[:-1], verdict=Verdict.ALLOW, suggestion=gate.GO_AHEAD)
    with pytest.raises(Refused) as caught:
        house.put(batch(skipped))
    assert caught.value.code is Code.RECORD_INVALID
    seq = house.smuggle_lie(batch(skipped))
    assert judged(house) == (seq, Code.RECORD_INVALID)


def test_a_denial_keeps_the_approval_that_was_shown(house):
    """Trying somebody else's approval is a recorded denial that names it, and uses nothing up."""
    review = house.approved(house.ada)
    chain = house.asked(house.bob, approval=review)
    assert (gate.refusal_of(chain).code, chain.approval) == (Code.APPROVAL_MISMATCH, review)
    house.batched(chain)
    assert house.state.approvals[review].used_seq is None
    holds(house)


def test_a_denial_overtaken_by_the_approval_still_replays(house):
    """Judged a moment before the mentor's word was seen: the denial stays true for its own position."""
    review = house.review(house.ada)
    word = house.word(review, house.mia)
    chain = house.asked(house.ada, approval=review)
    assert gate.refusal_of(chain).code is Code.APPROVAL_UNKNOWN
    house.put(word)
    house.batched(chain)
    holds(house)


def test_an_approval_lets_nothing_else_pass(house):
    """Level, scope and proof are asked before the review: no mentor's word makes up for them."""
    review = house.approved(house.ada)
    guest = house.issue(Person("gil", keyed=False), Loa.OBSERVER)
    assert gate.refusal_of(house.asked(guest, approval=review)).code is Code.LOA_TOO_LOW
    assert house.asked(guest, approval=review).approval is None


# Calls on somebody's behalf


def test_a_call_on_somebodys_behalf_names_the_call_it_was_made_for(house):
    """Parent and child stand in the log, and both are judged again."""
    parent, session = house.explaining(house.ada)
    lie = house.child(house.ada, parent, session)
    house.put(lie)
    chain = lie.payload.decisions[0].chain
    assert (chain.parent, chain.verdict) == (parent, Verdict.ALLOW)
    holds(house)


def undeclared(house):
    parent, session = house.explaining(house.ada)
    return house.child(house.ada, parent, session, "memory/list")


def of_a_call_that_never_was(house):
    _, session = house.explaining(house.ada)
    return house.child(house.ada, decision.DecisionRef(record="0" * 36, index=0).link(), session)


def of_a_call_that_was_denied(house):
    guest = house.issue(Person("gil", keyed=False), Loa.GUEST)
    parent, session = house.explaining(guest)
    return house.child(house.ada, parent, session)


def of_a_call_that_calls_nothing(house):
    chain = house.judge(house.ada, "memory/read")
    return house.child(house.ada, house.batched(chain)[0], chain.audit.session)


def in_another_session(house):
    parent, _ = house.explaining(house.ada)
    return house.child(house.ada, parent, "0" * 36)


def for_another_caller(house):
    parent, session = house.explaining(house.ada)
    return house.child(house.bob, parent, session)


def proven_better_than_its_parent(house):
    parent, session = house.explaining(house.mia)
    return house.child(house.mia, parent, session, proof="owner")


def long_after_its_parent(house):
    parent, session = house.explaining(house.ada)
    house.clock.advance(60_000 + 5_000 + 10_000 + 2_001)
    return house.child(house.ada, parent, session)


CHILDREN = {
    undeclared: Code.CALL_UNDECLARED,
    of_a_call_that_never_was: Code.DECISION_UNKNOWN,
    of_a_call_that_was_denied: Code.DECISION_UNKNOWN,
    of_a_call_that_calls_nothing: Code.DECISION_UNKNOWN,
    in_another_session: Code.DECISION_MISMATCH,
    for_another_caller: Code.DECISION_MISMATCH,
    proven_better_than_its_parent: Code.DECISION_MISMATCH,
    long_after_its_parent: Code.DECISION_MISMATCH,
}


@pytest.mark.parametrize("attack", CHILDREN, ids=lambda attack: attack.__name__)
def test_a_child_that_is_nobodys_is_refused(house, attack):
    """The writer holds it to the decision that it names."""
    lie = attack(house)
    with pytest.raises(Refused) as caught:
        house.put(lie)
    assert caught.value.code is CHILDREN[attack], caught.value
    holds(house)


@pytest.mark.parametrize("attack", CHILDREN, ids=lambda attack: attack.__name__)
def test_a_child_that_is_nobodys_is_found(house, attack):
    """So does the replay, in every way of judging."""
    seq = house.smuggle_lie(attack(house))
    assert judged(house) == (seq, CHILDREN[attack])


def test_rights_are_never_raised_by_a_parent(house):
    """The child is judged as its caller: level, scope and score, whatever the parent was allowed."""
    narrow = house.issue(Person("nan", keyed=False), Loa.OBSERVER, scope=("memory/*",))
    parent, session = house.explaining(narrow)
    chain = house.judge(narrow, "canon/get", parent=parent, session_id=session)
    assert gate.refusal_of(chain).code is Code.OUT_OF_SCOPE
    house.batched(chain)
    holds(house)


def test_the_owners_word_is_never_lent(house):
    """A mutation of rung mentor or root, declared or raised by a policy, is never done on anybody's behalf."""
    chain = house.judge(house.root, "license/create", proof="owner", parent="0" * 36 + ".0")
    assert gate.refusal_of(chain).code is Code.OWNER_PROOF_NEEDED
    house.change_policy(rungs={"memory/write": Loa.MENTOR})
    chain = house.judge(house.mia, "memory/write", parent="0" * 36 + ".0")
    assert gate.refusal_of(chain).code is Code.OWNER_PROOF_NEEDED


def test_a_reviewed_command_is_not_called_on_somebodys_behalf(house):
    """Nobody sees what they would approve, so it is denied and not left waiting."""
    chain = house.asked(house.ada, parent="0" * 36 + ".0")
    assert (chain.verdict, gate.refusal_of(chain).code) == (Verdict.DENY, Code.REVIEW_NEEDED)


def test_the_policy_in_genesis_reviews_nothing():
    """A new house asks no mentor for anything."""
    genesis = record.check(Reviewed().log[0]).payload
    assert isinstance(genesis, system.Genesis)
    assert genesis.policy.reviews == {}
