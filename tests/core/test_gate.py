"""The gate's judgement: its order, its reasons, and that a recorded chain can be judged again."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sigilcore import decision, digest, gate, ids, trust
from sigilcore.access import Loa
from sigilcore.contracts import catalogue
from sigilcore.decision import Verdict
from sigilcore.refusals import Code, Refused
from tests.simulator import DAY_MS, House, Person

WRITE = catalogue.COMMANDS["memory/write"]


@pytest.fixture
def world() -> House:
    return House(rate_limit=trust.RATE_LIMIT)


@pytest.fixture
def ada(world: House) -> Person:
    return world.issue(Person("ada"), Loa.OPERATOR)


def code(chain: decision.ReasoningChain) -> Code:
    assert chain.verdict is Verdict.DENY
    return gate.refusal_of(chain).code


def checks(chain: decision.ReasoningChain) -> list[str]:
    return [step.check for step in chain.steps]


def test_an_ordinary_write_passes_every_check_in_order(world, ada):
    """An operator writes memory: six checks, all passed, and an exact score."""
    chain = world.judge(ada, "memory/write")
    assert chain.verdict is Verdict.ALLOW
    assert checks(chain) == ["licence", "loa", "scope", "proof", "owner", "trust"]
    assert chain.trust is not None
    assert chain.trust.logit == trust.logit(trust.DEFAULT_MODEL, chain.trust.features)


def test_licence_that_the_log_never_issued(world, ada):
    """A licence id that isn't in the log denies, whatever else holds."""
    chain = world.judge(ada, "memory/write", licence_id=ids.new())
    assert code(chain) is Code.LICENSE_INVALID
    assert gate.refusal_of(chain).detail == {"reasons": ["NEVER_ISSUED"]}
    assert chain.scope == ()


def test_revoked_licence(world, ada):
    """A revocation is a reason of its own."""
    world.revoke(ada)
    chain = world.judge(ada, "memory/write")
    assert chain.steps == (decision.Step(check="licence", passed=False, detail="REVOKED"),)


def test_expired_licence_at_its_very_millisecond(world, ada):
    """A licence ends at its end, not after it."""
    last = world.now_ms + 30 * DAY_MS - 1
    assert world.judge(ada, "memory/list", now_ms=last).verdict is Verdict.ALLOW
    assert gate.refusal_of(world.judge(ada, "memory/list", now_ms=last + 1)).detail == {"reasons": ["EXPIRED"]}


def test_level_comes_from_the_log_not_from_the_session(world, ada):
    """A session that says `root` judges nothing; the record names the licence's level."""
    chain = world.judge(ada, "license/create", loa=Loa.ROOT, proof="owner")
    assert code(chain) is Code.LOA_TOO_LOW
    assert gate.refusal_of(chain).detail == {"need": "root"}
    assert chain.audit.loa is Loa.OPERATOR


def test_policy_raises_a_rung(world, ada):
    """A rung that a policy raised is needed from then on."""
    world.change_policy(rungs={"memory/write": Loa.MENTOR})
    chain = world.judge(ada, "memory/write")
    assert gate.refusal_of(chain).detail == {"need": "mentor"}


def test_out_of_scope(world):
    """A scope names what may be asked, and nothing beside it."""
    eve = world.issue(Person("eve"), Loa.OPERATOR, scope=("memory/*",))
    assert world.judge(eve, "memory/write").verdict is Verdict.ALLOW
    chain = world.judge(eve, "canon/user/write")
    assert code(chain) is Code.OUT_OF_SCOPE
    assert gate.refusal_of(chain).detail == {"scope": ["memory/*"]}


def test_empty_scope_names_nothing(world):
    """A licence without scope can call nothing, not even ping."""
    eve = world.issue(Person("eve"), Loa.OPERATOR, scope=())
    assert code(world.judge(eve, "ping")) is Code.OUT_OF_SCOPE


def test_key_bound_licence_without_a_proof(world, ada):
    """A key-bound caller is never believed on its token alone."""
    assert code(world.judge(ada, "memory/list", proof="bearer")) is Code.PROOF_MISSING


def test_bearer_with_a_session_key_must_use_it(world):
    """A session that has a key speaks by it, although the licence has none."""
    bob = world.issue(Person("bob", keyed=False), Loa.OPERATOR)
    assert world.judge(bob, "memory/list").verdict is Verdict.ALLOW
    assert code(world.judge(bob, "memory/list", keyed=True)) is Code.PROOF_MISSING
    assert world.judge(bob, "memory/list", keyed=True, proof="session").verdict is Verdict.ALLOW


def test_root_mutation_needs_the_owners_word(world):
    """A session key alone issues no licence; the owner's proof or a certificate that names the command does."""
    assert code(world.judge(world.root, "license/create")) is Code.OWNER_PROOF_NEEDED
    assert world.judge(world.root, "license/create", mandated=True).verdict is Verdict.ALLOW
    assert world.judge(world.root, "license/create", proof="owner").verdict is Verdict.ALLOW


def test_root_reads_without_the_owners_word(world):
    """What mutates nothing needs no owner's key."""
    assert world.judge(world.root, "audit/list").verdict is Verdict.ALLOW


def test_score_below_threshold_is_shown_whole(world, ada):
    """At the rate limit an operator's write is denied, and the refusal says by which numbers."""
    chain = world.judge(ada, "memory/write", calls_last_minute=120)
    refusal = gate.refusal_of(chain, decision.DecisionRef(record=ids.new(), index=3))
    assert refusal.code is Code.DENIED_BY_TRUST
    assert refusal.detail is not None
    assert refusal.detail["features"]["rate"] == trust.ONE
    assert refusal.detail["model"] == trust.DEFAULT_MODEL.version
    assert refusal.detail["decision"].endswith(".3")
    assert float(refusal.detail["score"]) < 0.5


def test_policy_threshold_replaces_the_models(world, ada):
    """A policy may ask more of one command; others keep the model's threshold."""
    world.change_policy(thresholds={"memory/write": 5_000_000})
    assert code(world.judge(ada, "memory/write")) is Code.DENIED_BY_TRUST
    assert world.judge(ada, "canon/user/write").verdict is Verdict.ALLOW


def test_braking_skips_the_score_and_nothing_else(world, ada):
    """Root revokes at any rate and under any model; an operator still doesn't."""
    world.state.model = msgspec.structs.replace(world.state.model, bias=-100_000_000)
    chain = world.judge(world.root, "license/revoke", proof="owner", calls_last_minute=10_000)
    assert chain.verdict is Verdict.ALLOW
    assert chain.trust is None
    assert code(world.judge(ada, "license/revoke", proof="owner")) is Code.LOA_TOO_LOW
    assert code(world.judge(world.root, "license/revoke")) is Code.OWNER_PROOF_NEEDED


def test_every_declared_command_is_judged(world):
    """No declaration makes the gate stumble, and Root with its own key is stopped by no step before the score."""
    for command in catalogue.COMMANDS.values():
        chain = world.judge(world.root, command.name, proof="owner")
        assert all(step.passed for step in chain.steps if step.check != "trust")


def test_what_is_kept_of_parameters():
    """Digest, length in bytes, and the id that the call names; never the parameters."""
    wanted, salt = ids.new(), bytes(range(16))
    body = msgspec.json.encode({"key": "a", "text": "é", "id": wanted})
    seen = gate.observe(WRITE, body, salt)
    assert seen == gate.Observed(
        digest=digest.parameter_digest(salt, body), length=len(body), entropy=trust.entropy(body), effect=wanted
    )


@pytest.mark.parametrize("body", [b"", b"[]", b"null", b"{", b'{"id":1', b"\xff", b"{}{}", b"[" * 5000])
def test_parameters_that_are_no_object(body):
    """What isn't one JSON object is refused as input, before any judgement."""
    with pytest.raises(Refused) as refusal:
        gate.observe(WRITE, body, bytes(16))
    assert refusal.value.code is Code.BAD_INPUT


@pytest.mark.parametrize("wanted", ["x", 7, None, ids.new().upper(), [], {"id": "a"}])
def test_an_id_that_is_none_names_no_effect(wanted):
    """Only a UUIDv7 in its one spelling names an effect."""
    assert gate.observe(WRITE, msgspec.json.encode({"id": wanted}), bytes(16)).effect is None


def test_a_finished_record_names_the_effect():
    """For a record that a person signed, the effect is that record, whatever else the call says."""
    inner, outer = ids.new(), ids.new()
    body = msgspec.json.encode({"id": outer, "record": {"header": {"core": {"id": inner}}, "salt": ""}})
    assert gate.observe(catalogue.COMMANDS["canon/user/write"], body, bytes(16)).effect == inner
    assert gate.observe(WRITE, body, bytes(16)).effect == outer


@given(st.binary(max_size=64))
def test_no_bytes_break_the_observer(body):
    """Whatever the bytes, the answer is an observation or BAD_INPUT."""
    try:
        length = gate.observe(WRITE, body, bytes(16)).length
    except Refused as refusal:
        told = refusal.code
    else:
        told = length
    assert told in {Code.BAD_INPUT, len(body)}


# Judged again


CASES = [
    ("memory/write", {}),
    ("memory/write", {"calls_last_minute": 120}),
    ("memory/write", {"proof": "bearer"}),
    ("license/create", {}),
    ("audit/list", {}),
]


@pytest.mark.parametrize(("command", "changes"), CASES)
def test_a_recorded_chain_is_judged_again_alike(world, ada, command, changes):
    """Whatever the verdict, the same state gives the same chain, byte for byte, from what the record holds."""
    chain = world.judge(ada, command, **changes)
    stored = msgspec.json.decode(msgspec.json.encode(chain), type=decision.ReasoningChain)
    assert gate.recompute(world.state, stored, catalogue.COMMANDS[command]) == []


def test_a_mandate_is_judged_again_alike(world):
    """A certificate's word is taken as the chain says."""
    for changes in ({"mandated": True}, {"proof": "owner"}, {}):
        chain = world.judge(world.root, "license/create", **changes)
        assert gate.recompute(world.state, chain, catalogue.COMMANDS["license/create"]) == []


def forged(chain: decision.ReasoningChain, **changes) -> decision.ReasoningChain:
    return msgspec.structs.replace(chain, **changes)


def differs(world: House, chain: decision.ReasoningChain) -> bool:
    return bool(gate.recompute(world.state, chain, catalogue.COMMANDS.get(chain.command)))


def test_a_denial_turned_into_an_allow_is_found(world, ada):
    """A changed verdict doesn't follow from its own steps."""
    chain = world.judge(ada, "license/create")
    assert differs(world, forged(chain, verdict=Verdict.ALLOW))


def test_a_flattering_score_is_found(world, ada):
    """A logit, a threshold, a level or an action that isn't the model's, the licence's or the declaration's own is found."""
    chain = world.judge(ada, "memory/write", calls_last_minute=120)
    honest = chain.trust
    assert honest is not None
    flattered = [
        msgspec.structs.replace(honest, logit=10**12),
        msgspec.structs.replace(honest, threshold=-(10**6)),
        msgspec.structs.replace(honest, allowed=True),
        msgspec.structs.replace(honest, features=msgspec.structs.replace(honest.features, loa=trust.ONE)),
        msgspec.structs.replace(honest, features=msgspec.structs.replace(honest.features, action=0)),
    ]
    for scored in flattered:
        assert differs(world, forged(chain, trust=scored))


@pytest.mark.parametrize("feature", ["action", "target", "loa"])
def test_a_consistent_lie_about_a_feature_is_found(world, ada, feature):
    """Features and logit that agree with each other, and not with the declaration or the licence, are found."""
    chain = world.judge(ada, "memory/write")
    features = msgspec.structs.replace(chain.trust.features, **{feature: 1})
    logit = trust.logit(trust.DEFAULT_MODEL, features)
    scored = msgspec.structs.replace(chain.trust, features=features, logit=logit, allowed=logit >= 0)
    verdict = Verdict.ALLOW if scored.allowed else Verdict.DENY
    differences = gate.recompute(world.state, forged(chain, trust=scored, verdict=verdict), WRITE)
    assert any(line.startswith(f"trust.features.{feature}") for line in differences)


def test_a_keyless_mentor_proves_nothing(world):
    """Even if the log held such a licence, a bearer would reach operator at most."""
    ivy = world.issue(Person("ivy"), Loa.MENTOR)
    entry = world.state.licences[ivy.licence_id]
    keyless = msgspec.structs.replace(entry.table, owner=msgspec.structs.replace(entry.table.owner, key=None))
    world.state.licences[ivy.licence_id] = msgspec.structs.replace(entry, table=keyless)
    assert code(world.judge(ivy, "audit/list", proof="bearer", keyed=False)) is Code.PROOF_MISSING


def test_an_allow_that_a_revocation_had_overtaken_is_found(world, ada):
    """The writer refuses such an Allow, so a log that holds one is wrong; a denial may stand."""
    allow, denial = world.judge(ada, "memory/write"), world.judge(ada, "license/create")
    world.revoke(ada)
    assert differs(world, allow)
    assert not differs(world, denial)


def test_an_undeclared_command_is_found(world, ada):
    """A chain for a command that doesn't exist can't be judged again."""
    assert differs(world, forged(world.judge(ada, "ping"), command="nothing/here"))


def test_equal_facts_give_equal_bytes(world, ada):
    """Same state and facts, same content hash."""
    facts = world.facts(ada, "memory/write")
    first, second = gate.judge(world.state, facts), gate.judge(world.state, facts)
    assert decision.freeze(first) == decision.freeze(second)
    assert decision.intact(decision.freeze(first))
