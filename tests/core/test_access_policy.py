"""What an access policy can do: raise, never lower; for its own tenant; from its own position on; and when it can't be read, deny."""

import msgspec
import pytest

from services.gatekeeper import rules
from sigilcore import decision, digest, gate, policy, record, replay, trust, wayback
from sigilcore.access import Loa
from sigilcore.contracts import catalogue, common
from sigilcore.contracts import gatekeeper as contract
from sigilcore.decision import Verdict
from sigilcore.records import audit, system
from sigilcore.refusals import Code, Refused
from sigilrun import service as run
from tests import oracle, simulator
from tests.gridworld import Grid, Node
from tests.levels import LADDER, PERMITTED, refusal
from tests.services import test_gatekeeper
from tests.simulator import Person

NAMES = {command.name: command.rung for command in PERMITTED}


def verdict(chain):
    return None if chain.verdict is Verdict.ALLOW else gate.refusal_of(chain).code


def people(house):
    return {level: house.issue(Person(level), Loa(level)) for level in LADDER[:-1]} | {"root": house.root}


# Rungs


@pytest.mark.parametrize("raised", LADDER)
def test_a_raised_rung_is_needed_and_a_lower_one_is_read_as_the_floor(raised):
    """The whole matrix under a policy that names every command at one rung; the state is made to hold what no writer would admit."""
    house = simulator.House()
    by_level = people(house)
    house.state.policy = policy.AccessPolicy(
        version="one rung", rungs=dict.fromkeys(NAMES, Loa(raised)), rate_limit=10**6
    )
    for command in PERMITTED:
        for level, person in by_level.items():
            said = verdict(house.judge(person, command.name, proof="owner"))
            expected = refusal(command, level, "owner", raised=raised)
            assert said is expected, (command.name, level)


@pytest.mark.parametrize("raised", LADDER[1:])
def test_a_policy_that_raises_is_admitted_and_one_that_lowers_is_not(raised):
    """By the quorum: each rung above a command's floor is law from then on; each below it is no policy at all."""
    house = simulator.House()
    above = {name: Loa(raised) for name, floor in NAMES.items() if Loa(raised).includes(floor)}
    below = [name for name, floor in NAMES.items() if not Loa(raised).includes(floor)]
    house.change_policy(rungs=above)
    assert house.state.policy.rungs == above
    for name in below:
        with pytest.raises(Refused) as caught:
            house.change_policy(rungs={name: Loa(raised)})
        assert (caught.value.code, caught.value.field) == (Code.RECORD_INVALID, f"$.payload.policy.rungs.{name}")
    assert house.state.policy.rungs == above


def test_what_is_listed_follows_a_raised_rung():
    """A raised command leaves the list of those it was raised above, and shows its new rung to the rest."""
    house = simulator.House()
    ada, mia = house.issue(Person("ada"), Loa.OPERATOR), house.issue(Person("mia"), Loa.MENTOR)
    house.change_policy(rungs={"memory/write": Loa.MENTOR})
    hers = {view.name for view in rules.listed(house.state, ada.licence_id, house.now_ms).items}
    mias = {view.name: view.rung for view in rules.listed(house.state, mia.licence_id, house.now_ms).items}
    assert hers == {name for name, rung in NAMES.items() if Loa.OPERATOR.includes(rung)} - {"memory/write"}
    assert mias["memory/write"] is Loa.MENTOR


# The owner's word


@pytest.fixture(name="raised")
def _raised():
    """A house whose policy raised writing memory to mentor; Mia is one. Its ledger is re-verified at the end."""
    house = Grid()
    house.mia = house.issue(Person("mia"), Loa.MENTOR)
    house.change_policy(rungs={"memory/write": Loa.MENTOR})
    yield house
    oracle.check(house.placed(), house.checkpoint(), house.state.genesis_hash)


def recorded(house, chain):
    """The chain, committed by the house's own gatekeeper."""
    batch = audit.DecisionBatch(decisions=(decision.freeze(chain),))
    house.append("decision_batch", batch, house.instances["gatekeeper"])
    return chain


@pytest.mark.parametrize(
    ("spoken", "word", "code"),
    [
        ({}, "missing", Code.OWNER_PROOF_NEEDED),
        ({"proof": "owner"}, "proof", None),
        ({"mandated": True}, "certificate", None),
    ],
    ids=["session", "owner", "certificate"],
)
def test_a_raised_mutation_needs_the_owner_s_word(raised, spoken, word, code):
    """A session's proof isn't enough any more; the owner's own is, and so is a certificate that names the command."""
    chain = recorded(raised, raised.judge(raised.mia, "memory/write", **spoken))
    assert verdict(chain) is code
    assert next(step.detail for step in chain.steps if step.check == "owner") == word


def test_a_raised_read_needs_no_owner_s_word(raised):
    """Only what changes something does."""
    raised.change_policy(rungs={"memory/read": Loa.ROOT})
    assert verdict(recorded(raised, raised.judge(raised.root, "memory/read"))) is None


def test_a_raised_mutation_is_no_peer_s_and_nobody_s_behalf(raised):
    """A grant confers it as little as a tier does, and a service can't lend the owner's word; nor does either list it."""
    node = raised.enrol_peer(Node("library"))
    token = raised.lend(node, "memory/write")
    assert verdict(raised.call(node, "memory/write", token, mandated=True)) is Code.LOA_TOO_LOW
    assert "memory/write" not in {view.name for view in rules.listed(raised.state, node.enrolment, raised.now_ms).items}
    child = raised.judge(raised.mia, "memory/write", proof="owner", mandated=True, parent="0" * 36 + ".0")
    assert verdict(child) is Code.OWNER_PROOF_NEEDED


def test_a_gatekeeper_that_forgets_the_raise_is_found():
    """It says `not needed` of a mutation that the policy in force raised: the writer judges by that policy, and the replay does."""
    house = simulator.House()
    mia = house.issue(Person("mia"), Loa.MENTOR)
    lie = house.judge(mia, "memory/write")
    house.change_policy(rungs={"memory/write": Loa.MENTOR})
    loa = msgspec.structs.replace(lie.steps[1], detail="mentor")
    lie = msgspec.structs.replace(lie, steps=(lie.steps[0], loa, *lie.steps[2:]), as_of=house.head())
    with pytest.raises(Refused, match="steps: recorded"):
        recorded(house, lie)
    batch = audit.DecisionBatch(decisions=(decision.freeze(lie),))
    house.smuggle("decision_batch", batch, house.instances["gatekeeper"])
    with pytest.raises(replay.Diverged, match="steps: recorded"):
        oracle.check(house.placed(), house.checkpoint(), house.state.genesis_hash)


@pytest.mark.parametrize("raised", LADDER[1:])
def test_what_the_list_says_of_the_owner_is_what_the_gate_asks(raised):
    """Every command, every raise that a policy can make, a mentor and Root: `needs_owner` exactly where a session's proof isn't enough."""
    house = simulator.House()
    house.change_policy(rungs={name: Loa(raised) for name, floor in NAMES.items() if Loa(raised).includes(floor)})
    for person in (house.issue(Person("mia"), Loa.MENTOR), house.root):
        for view in rules.listed(house.state, person.licence_id, house.now_ms).items:
            asked = verdict(house.judge(person, view.name))
            assert asked is (Code.OWNER_PROOF_NEEDED if view.needs_owner else None), view.name
            assert verdict(house.judge(person, view.name, proof="owner")) is None, view.name


# Thresholds


def test_a_threshold_moves_its_own_command_alone():
    """One command's threshold out of reach denies that one, for every level, and leaves every other cell as it was."""
    house = simulator.House()
    by_level = people(house)
    house.change_policy(thresholds={"memory/list": 10**9}, rate_limit=10**6)
    for command in PERMITTED:
        for level, person in by_level.items():
            expected = refusal(command, level, "owner")
            if command.name == "memory/list" and expected is None:
                expected = Code.DENIED_BY_TRUST
            assert verdict(house.judge(person, command.name, proof="owner")) is expected, (command.name, level)


def test_a_threshold_gives_what_the_score_refuses_and_nothing_that_a_level_does():
    """A threshold at the bottom lets a bad score pass; it lifts nobody over a rung."""
    house = simulator.House(rate_limit=trust.RATE_LIMIT)
    ada = house.issue(Person("ada"), Loa.OPERATOR)
    busy = {"calls_last_minute": 120}
    assert verdict(house.judge(ada, "memory/write", **busy)) is Code.DENIED_BY_TRUST
    house.change_policy(thresholds={"memory/write": -(10**9), "license/list": -(10**9)})
    assert verdict(house.judge(ada, "memory/write", **busy)) is None
    assert verdict(house.judge(ada, "license/list")) is Code.LOA_TOO_LOW


@pytest.mark.parametrize(
    ("law", "code"),
    [
        ({"thresholds": {"memory/write:poet": 10**9}}, Code.DENIED_BY_TRUST),
        ({"rungs": {"memory/write:poet": Loa.ROOT}}, Code.LOA_TOO_LOW),
    ],
    ids=["threshold", "rung"],
)
def test_an_entry_of_one_module_moves_that_module_alone(law, code):
    """The gate reads the entry of the module that the call names; other modules, and calls that name none, are as before."""
    house = simulator.House()
    ada = house.issue(Person("ada"), Loa.OPERATOR)
    house.state.policy = policy.AccessPolicy(version="one module", rate_limit=10**6, **law)
    seen = house.facts(ada, "memory/write").observed
    for module, expected in (("poet", code), ("lamb", None), ("poe", None), (None, None)):
        asked = msgspec.structs.replace(seen, module=module)
        assert verdict(house.judge(ada, "memory/write", observed=asked)) is expected, module
    assert verdict(house.judge(ada, "memory/read", observed=msgspec.structs.replace(seen, module="poet"))) is None


def test_a_braking_command_has_no_threshold():
    """No policy can put revoking out of reach by its score."""
    house = simulator.House()
    house.change_policy(thresholds=dict.fromkeys(NAMES.keys() - {command.name for command in wayback.WAY}, 10**9))
    braking = [command.name for command in PERMITTED if not command.scored]
    assert "license/revoke" in braking
    for name in braking:
        assert verdict(house.judge(house.root, name, proof="owner")) is None, name


LOCKS = {
    "a threshold beyond every score": {"thresholds": {"quorum/commit": 10**9}},
    "a draft that can't be asked for": {"thresholds": {"quorum/draft": 19_000_000}},
    "a review that nobody's score lets approve": {
        "reviews": {"quorum/propose": policy.Review(within_s=60)},
        "thresholds": {"approval/approve": 10**9},
    },
    "a review that Root alone could approve": {
        "reviews": {"quorum/commit": policy.Review(within_s=60)},
        "rungs": {"approval/approve": Loa.ROOT},
    },
    "a band that doesn't reach": {
        "reviews": {"quorum/commit": policy.Review(within_s=60, band=1_000_000)},
        "thresholds": {"quorum/commit": 20_000_000},
    },
}
KEYS = {
    "a high threshold": {"thresholds": {"quorum/propose": 7_500_000}},
    "a review": {"reviews": {"quorum/commit": policy.Review(within_s=60)}},
    "a band that reaches": {
        "reviews": {"quorum/commit": policy.Review(within_s=60, band=20_000_000)},
        "thresholds": {"quorum/commit": 20_000_000},
    },
    "a band that nobody falls into": {
        "reviews": {"quorum/commit": policy.Review(within_s=60, band=1)},
        "rungs": {"approval/approve": Loa.ROOT},
    },
}


@pytest.mark.parametrize("law", LOCKS)
def test_a_policy_that_locks_everybody_out(law):
    """Root and the whole quorum agree on it, and it is no policy: nobody could ever propose another."""
    house = simulator.House()
    house.change_policy()
    with pytest.raises(Refused) as caught:
        house.change_policy(**LOCKS[law])
    assert (caught.value.code, caught.value.field) == (Code.RECORD_INVALID, "$.payload.policy")


@pytest.mark.parametrize("law", KEYS)
def test_a_policy_that_is_hard_to_change_can_be_changed(law):
    """What is only high, or asks a mentor besides, is a policy, and Root passes by it."""
    house = simulator.House()
    house.change_policy(**KEYS[law], rate_limit=10**6)
    for command in wayback.WAY:
        assert verdict(house.judge(house.root, command.name, proof="owner")) in {None, Code.REVIEW_NEEDED}


def test_a_model_that_locks_everybody_out():
    """The same of a model, by itself and under the policy that comes with it: the two together must leave a way back."""
    house = simulator.House()
    house.change_policy()
    with pytest.raises(Refused) as caught:
        house.change_model(bias=-trust.BOUND)
    assert (caught.value.code, caught.value.field) == (Code.RECORD_INVALID, "$.payload.model")
    low = dict.fromkeys((command.name for command in wayback.WAY), -(10**9))
    opened = system.AccessPolicyChange(
        policy=policy.AccessPolicy(version="low", thresholds=low), expires_at=house.later()
    )
    high = house.new_model(bias=-trust.BOUND)
    house.change("changes", house.several(high, opened))
    with pytest.raises(Refused) as caught:
        house.change_policy()
    assert (caught.value.code, caught.value.field) == (Code.RECORD_INVALID, "$.payload.policy")


# Whose policy


def test_a_policy_of_one_tenant_moves_nothing_in_another():
    """Two deployments side by side: one's policy changes no verdict of the other, and its record is no record there."""
    here, there = simulator.House(), simulator.House()
    ada, eve = here.issue(Person("ada"), Loa.OPERATOR), there.issue(Person("eve"), Loa.OPERATOR)
    before = there.state.policy
    here.change_policy(rungs={"memory/write": Loa.ROOT})
    foreign = here.log[-1]
    assert verdict(here.judge(ada, "memory/write")) is Code.LOA_TOO_LOW
    assert verdict(there.judge(eve, "memory/write")) is None
    with pytest.raises(Refused) as caught:
        there.place(foreign)
    assert caught.value.code is Code.KEY_NOT_ALLOWED
    assert there.state.policy is before


def test_a_policy_that_names_another_tenant():
    """This house's own Root and witness, over a record that says it is of another tenant: refused."""
    house = simulator.House()
    mentors = house.mentors(1)
    house.seal(mentors, 1)
    change = system.AccessPolicyChange(policy=policy.AccessPolicy(version="theirs"), expires_at=house.later())
    with pytest.raises(Refused) as caught:
        house.place(house.attested(house.proposal("access_policy", change, tenant="other"), *mentors))
    assert caught.value.code is Code.RECORD_INVALID


# From when, and what if not


async def test_policy_swapped_in_without_restart():
    """One running gate, a raised rung, and back: each call is judged by the policy in force, and nothing was started anew."""
    house = test_gatekeeper.House()
    ada = await house.login(house.ada)
    await house.authorize(ada, "memory/list")
    house.world.change_policy(rungs={"memory/list": Loa.MENTOR})
    with pytest.raises(Refused) as caught:
        await house.authorize(ada, "memory/list")
    assert caught.value.code is Code.LOA_TOO_LOW
    house.world.change_policy(rungs={})
    await house.authorize(ada, "memory/list")


def test_an_allow_under_the_old_policy_is_not_admitted_under_the_new():
    """Judged a moment before the policy moved, recorded a moment after: the writer refuses it."""
    house = simulator.House()
    ada = house.issue(Person("ada"), Loa.OPERATOR)
    house.change_policy()
    early = house.head()
    house.change_policy(rungs={"memory/write": Loa.MENTOR})
    stale = house.judge(ada, "memory/read", as_of=early)
    batch = simulator.audit.DecisionBatch(decisions=(simulator.decision.freeze(stale),))
    with pytest.raises(Refused) as caught:
        house.append("decision_batch", batch, house.instances["gatekeeper"])
    assert caught.value.code is Code.STALE_DECISION


UNREADABLE = [None, {}, "", object(), msgspec.UNSET]


@pytest.mark.parametrize("held", UNREADABLE, ids=["missing", "empty", "text", "nonsense", "unset"])
async def test_a_policy_that_cannot_be_read_denies(held):
    """Missing, empty or nonsense: no call is judged by a default; no permit, no list, a recorded fault; and all is well once it is back."""
    house = test_gatekeeper.House()
    ada = await house.login(house.ada)
    answer = await house.authorize(ada, "commands/list")
    bound = house.bound(answer, "commands/list")
    sound = house.log.state.policy
    house.log.state.policy = held
    for command in ("ping", "memory/write", "trust/status"):
        with pytest.raises(Refused) as caught:
            await house.authorize(ada, command)
        assert caught.value.code is Code.GATE_FAULT
    listing = run.Call(command=contract.COMMAND_LIST, body=b"{}", trace_id="0" * 32, deadline_ms=None, permitted=bound)
    with pytest.raises((AssertionError, AttributeError)):  # a fault: the caller hears a trace id
        await house.ask(contract.COMMAND_LIST, common.Empty(), call=listing)
    for command in ("ping", "memory/write", "trust/status"):
        (chain,) = house.log.judged(command)
        assert (chain.verdict, [step.check for step in chain.steps]) == (Verdict.DENY, ["gate"])
    house.log.state.policy = sound
    await house.authorize(ada, "ping")
    oracle.check(house.world.placed(), house.world.checkpoint(), house.world.state.genesis_hash)


@pytest.mark.parametrize(
    "given",
    [
        {},
        None,
        [],
        "open",
        {"version": ""},
        {"rungs": {}},
        {"version": "x", "rungs": {"memory/write": "king"}},
        {"version": "x", "rungs": {"memory/write": 0}},
        {"version": "x", "rungs": {"MEMORY": "root"}},
        {"version": "x", "thresholds": {"memory/write": 0.5}},
        {"version": "x", "thresholds": {"memory/write": 10**10}},
        {"version": "x", "thresholds": None},
        {"version": "x", "rate_limit": 0},
        {"version": "x", "allow_all": True},
    ],
    ids=repr,
)
def test_genesis_with_a_policy_that_is_none(given):
    """The first policy is read as strictly as any: without one there is no house."""
    house = simulator.House()
    record.check(_genesis_with(house, msgspec.to_builtins(house.state.policy)))
    with pytest.raises(Refused) as caught:
        record.check(_genesis_with(house, given))
    assert caught.value.code is Code.RECORD_INVALID


def _genesis_with(house, given):
    """The house's genesis, signed again by its Root over another policy."""
    genesis = record.check(house.log[0])
    plain = msgspec.to_builtins(genesis.payload) | {"policy": given}
    body, salt = msgspec.json.encode(plain, order="deterministic"), bytes(16)
    core = msgspec.structs.replace(genesis.core, payload_hash=digest.payload_hash(salt, body))
    return record.seal(core, body, salt, house.root.signer)


def test_a_policy_names_only_what_there_is():
    """A rung or a threshold for a command that doesn't exist would protect nothing: refused as it stands."""
    house = simulator.House()
    house.change_policy()
    for fields in ({"rungs": {"memory/writ": Loa.ROOT}}, {"thresholds": {"memory/writ": 0}}):
        with pytest.raises(Refused) as caught:
            house.change_policy(**fields)
        assert caught.value.code is Code.RECORD_INVALID
    assert "memory/writ" not in catalogue.COMMANDS
