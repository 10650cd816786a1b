"""Where the gate itself breaks: a denial that says so and nothing else, in the log, on nobody's account; and every lie about it.

Each lie is tried twice: on the writer by a gatekeeper that tells it, and on the replay by a writer that was in on it.
"""

import msgspec
import pytest

from sigilcore import decision, digest, gate, record, replay, trust
from sigilcore.access import Loa
from sigilcore.decision import Step, Verdict
from sigilcore.refusals import Code, Refused
from tests import oracle
from tests.core.test_approvals import judged
from tests.gridworld import Grid, Node
from tests.reviewing import Reviewed, alone, batch
from tests.simulator import House, Person

BROKE = Step(check="gate", passed=False, detail="FAULT")
FINE = Step(check="licence", passed=True, detail="valid")


@pytest.fixture
def house():
    """Ada and Bob are operators, Mia a mentor."""
    return Reviewed()


def fault(house, person=None, command="memory/read", **changes):
    """What the gate records of a call that it couldn't judge."""
    return gate.faulted(house.facts(person or house.ada, command, **changes))


def holds(house):
    assert isinstance(judged(house), replay.Report)


def test_a_fault_is_a_denial_that_says_so(house):
    """One step, no trust, no scope, no effect; the refusal names the record."""
    chain = fault(house)
    ref = decision.DecisionRef(record=house.put(batch(chain)).core.id, index=0)
    assert (chain.steps, chain.verdict, chain.trust, chain.scope, chain.effect) == (
        (BROKE,),
        Verdict.DENY,
        None,
        (),
        None,
    )
    refusal = gate.refusal_of(chain, ref)
    assert (refusal.code, refusal.detail) == (Code.GATE_FAULT, {"decision": ref.link()})
    assert chain.suggestion == Code.GATE_FAULT.next_step
    assert gate.recompute(house.state, chain, house.facts(house.ada, chain.command).command) == []
    holds(house)


def test_a_fault_moves_no_standing_and_counts_for_the_rate(house):
    """Neither at the gate nor in the replay is it the caller's; as a call it is one of this minute's."""
    house = House(rate_limit=trust.RATE_LIMIT)
    house.ada = house.issue(Person("ada"), Loa.OPERATOR)
    for _ in range(3):
        Reviewed.put(house, batch(fault(house)))
    assert house.standings.at("ada", house.now_ms) == trust.STANDING_START
    fourth = house.judge(house.ada, "memory/read")
    assert (fourth.trust.features.standing, fourth.trust.features.rate) == (500_000, trust.rate(4))
    Reviewed.put(house, batch(fourth))
    holds(house)


def test_who_leaves_faults_out_of_the_rate_is_found(house):
    """The replay counts them."""
    house = House(rate_limit=trust.RATE_LIMIT)
    house.ada = house.issue(Person("ada"), Loa.OPERATOR)
    for _ in range(3):
        Reviewed.put(house, batch(fault(house)))
    Reviewed.put(house, batch(house.judge(house.ada, "memory/read", calls_last_minute=1)))
    assert judged(house) == (len(house.log) - 1, Code.RECORD_INVALID)


def test_a_fault_spends_no_approval(house):
    """The call that was approved can be repeated: the approval is as good as before."""
    review = house.approved(house.ada)
    house.put(batch(fault(house, command="memory/write", approval=review)))
    assert house.state.approvals[review].used_seq is None
    house.put(alone(house.asked(house.ada, approval=review)))
    holds(house)


def test_a_fault_on_somebodys_behalf_names_for_whom(house):
    """Of a child its parent is told, and asked about as any child's is."""
    parent, session = house.explaining(house.ada)
    house.put(batch(fault(house, command="canon/get", parent=parent, session_id=session)))
    holds(house)
    with pytest.raises(Refused, match="DECISION_UNKNOWN"):
        house.put(batch(fault(house, command="canon/get", parent="0" * 36 + ".0", session_id=session)))


def test_a_fault_on_a_peers_call():
    """A peer's too, whatever grant it showed."""
    house = Grid()
    node = house.enrol_peer(Node("library"))
    asked = house.facts(
        house.root, "ping", licence_id=node.enrolment, owner_id=node.owner_id, loa=Loa.OBSERVER, proof="session"
    )
    Reviewed.put(house, batch(gate.faulted(asked)))
    oracle.check(house.placed(), house.checkpoint(), house.state.genesis_hash)


def test_a_fault_admits_nothing(house):
    """No effect stands on it: it brings no decision that could be used."""
    bare = fault(house, command="memory/write")
    placed = house.put(batch(bare))
    assert (placed.core.id, 0) not in house.rows
    ref = decision.DecisionRef(record=placed.core.id, index=0)
    granted = msgspec.structs.replace(house.granted(house.mia, "memory/list"), command="memory/write", decision=ref)
    with pytest.raises(Refused, match="DECISION_UNKNOWN"):
        house.place(house.memory(granted, owner="ada"))


# Lies


def changed(**fields):
    return lambda house: msgspec.structs.replace(fault(house), **fields)


def a_score(house):
    """A fault that was scored all the same."""
    return msgspec.structs.replace(fault(house), trust=house.judge(house.ada, "memory/read").trust)


def a_step_among_good_ones(house):
    """An Allow with the gate as one more step that passed."""
    chain = house.judge(house.ada, "memory/read")
    return msgspec.structs.replace(chain, steps=(*chain.steps, Step(check="gate", passed=True, detail="FAULT")))


def another_level(house):
    """A level that the licence doesn't give."""
    chain = fault(house)
    return msgspec.structs.replace(chain, audit=msgspec.structs.replace(chain.audit, loa=Loa.ROOT))


def overtaken(house):
    """A denial that was overtaken, which is asked for little, with the gate's step after others."""
    chain = msgspec.structs.replace(fault(house), steps=(FINE, BROKE))
    house.change_policy()
    return chain


LIES = {
    "an Allow whose step failed": changed(verdict=Verdict.ALLOW),
    "an Allow whose step passed": changed(
        verdict=Verdict.ALLOW, steps=(Step(check="gate", passed=True, detail="FAULT"),)
    ),
    "an Allow after good steps": a_step_among_good_ones,
    "a review": changed(verdict=Verdict.MANUAL_REVIEW),
    "a step that passed": changed(steps=(Step(check="gate", passed=True, detail="FAULT"),)),
    "after another step": changed(steps=(FINE, BROKE)),
    "before another step": changed(steps=(BROKE, FINE)),
    "twice": changed(steps=(BROKE, BROKE)),
    "another detail": changed(steps=(Step(check="gate", passed=False, detail="fine"),)),
    "a score": a_score,
    "an effect": changed(effect="01a22723-2284-72da-8a60-2f4eb7abba80"),
    "an approval": changed(approval="01a22723-2284-72da-8a60-2f4eb7abba80.0"),
    "a module": changed(module="poet"),
    "a scope": changed(scope=("*",)),
    "a grant": changed(grant=decision.Grant(hash="0" * 64, epoch=1, outcome="Authorized")),
    "a promise": changed(suggestion=gate.GO_AHEAD),
    "another target": changed(target="module"),
    "no such command": changed(command="memory/burn"),
    "another level": another_level,
    "overtaken": overtaken,
}


@pytest.mark.parametrize("lie", LIES)
def test_the_writer_takes_no_other_fault(house, lie):
    """A chain that names the gate has one shape; by any other no record comes in."""
    chain = LIES[lie](house)
    before = len(house.log)
    with pytest.raises(Refused) as caught:
        house.put(batch(chain))
    assert caught.value.code is Code.RECORD_INVALID
    with pytest.raises(Refused):
        house.put(alone(chain))
    assert len(house.log) == before


@pytest.mark.parametrize("lie", LIES)
def test_the_replay_takes_no_other_fault(house, lie):
    """Nor is one believed that stands there all the same, judged record by record or in runs."""
    seq = house.smuggle_lie(batch(LIES[lie](house)))
    assert judged(house) == (seq, Code.RECORD_INVALID)


def test_a_true_fault_is_no_approved_decision(house):
    """Such a record holds an Allow."""
    with pytest.raises(Refused, match="RECORD_INVALID"):
        house.put(alone(fault(house)))


# How a model gets no further than its record


@pytest.mark.parametrize(
    "spoil",
    [
        lambda model: model["weights"].pop("standing"),
        lambda model: model["weights"].update(mood=1),
        lambda model: model["weights"].update(action=-0.5),
        lambda model: model["weights"].update(action=1),
        lambda model: model["weights"].update(loa=10**12),
        lambda model: model.pop("weights"),
        lambda model: model.pop("bias"),
        lambda model: model.clear(),
    ],
    ids=[
        "one too few",
        "one too many",
        "a float",
        "a wrong sign",
        "beyond the bound",
        "no weights",
        "no bias",
        "nothing",
    ],
)
@pytest.mark.parametrize("at", [0, -1], ids=["genesis", "model_config"])
def test_an_unreadable_model_is_no_record(house, at, spoil):
    """A model of five features or seven, or of other numbers, is refused where it is read: in genesis as in every later change."""
    house.change_model()
    placed = record.check(house.log[at])
    plain = msgspec.to_builtins(placed.payload)
    record.check(signed_again(house, placed, plain))
    spoil(plain["model"])
    with pytest.raises(Refused) as caught:
        record.check(signed_again(house, placed, plain))
    assert caught.value.code is Code.RECORD_INVALID


def signed_again(house, placed, plain):
    """The record over another payload, signed by Root."""
    body, salt = msgspec.json.encode(plain, order="deterministic"), bytes(16)
    core = msgspec.structs.replace(placed.core, payload_hash=digest.payload_hash(salt, body))
    return record.seal(core, body, salt, house.root.signer)
