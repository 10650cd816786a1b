"""Peers at the gate and in the log: what a tier gives, what a grant lifts, and every way past them."""

import msgspec
import pytest

from sigilcore import decision, gate, peers, policy, replay, signing
from sigilcore.access import Loa
from sigilcore.contracts import catalogue
from sigilcore.decision import Verdict
from sigilcore.grant import Outcome
from sigilcore.peers import Tier
from sigilcore.records import audit
from sigilcore.refusals import Code, Refused
from tests import oracle
from tests.gridworld import Grid, Node, forged
from tests.simulator import DAY_MS, Person

SMALL_ORDER = "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a"


@pytest.fixture
def world():
    house = Grid()
    yield house
    oracle.check(house.placed(), house.checkpoint(), house.state.genesis_hash)


@pytest.fixture
def lib(world) -> Node:
    return world.enrol_peer(Node("library"))


def refused(code: Code):
    return pytest.raises(Refused, match=f"^{code}:")


def code(chain: decision.ReasoningChain) -> Code:
    assert chain.verdict is Verdict.DENY
    return gate.refusal_of(chain).code


def checks(chain: decision.ReasoningChain) -> list[str]:
    return [step.check for step in chain.steps]


# Tiers


def test_a_tier_is_a_rung_and_no_more(world):
    """Provisional may what a guest may, trusted what an observer may; neither writes."""
    near, far = world.enrol_peer(Node("near")), world.enrol_peer(Node("far"), Tier.PROVISIONAL)
    assert world.call(near, "memory/list").verdict is Verdict.ALLOW
    assert world.call(far, "ping").verdict is Verdict.ALLOW
    assert code(world.call(far, "memory/list")) is Code.LOA_TOO_LOW
    assert code(world.call(near, "memory/write")) is Code.LOA_TOO_LOW


def test_a_peer_passes_its_own_checks_in_order(world, lib):
    """With a grant that confers: peer, grant, level, proof, owner, score; the score has the level that the grant lifts to."""
    chain = world.call(lib, "memory/write", world.lend(lib, "memory/write"))
    assert chain.verdict is Verdict.ALLOW
    assert checks(chain) == ["peer", "grant", "loa", "proof", "owner", "trust"]
    assert (chain.audit.loa, chain.audit.owner, chain.audit.licence) == (Loa.OPERATOR, lib.owner_id, lib.enrolment)
    assert chain.trust.features.loa == 500_000
    assert chain.grant.outcome is Outcome.AUTHORIZED
    world.decide(chain)


def test_a_blocked_peer_gets_nothing_whatever_it_shows(world, lib):
    """Neither its tier nor the best of grants helps, and its grant isn't even looked at."""
    token = world.lend(lib, "memory/write")
    world.call(lib, "memory/write", token)
    world.block(lib)
    for command in ("ping", "memory/write"):
        chain = world.call(lib, command, token, mark=False)
        assert gate.refusal_of(chain).detail == {"reasons": ["BLOCKED"]}
        assert chain.grant is None
        world.decide(chain)


def test_another_enrolment_ends_what_stood_on_the_first(world, lib):
    """A peer that was enrolled anew opens its sessions anew; a session of the old enrolment judges nothing."""
    old = lib.enrolment
    world.enrol_peer(lib, Tier.PROVISIONAL)
    assert gate.refusal_of(world.call(lib, "ping", licence_id=old)).detail == {"reasons": ["ENROLLED_ANEW"]}
    assert world.call(lib, "ping").verdict is Verdict.ALLOW


def test_another_peer_s_session_is_nobody(world, lib):
    """An enrolment speaks for its own key."""
    eve = world.enrol_peer(Node("eve"))
    chain = world.call(lib, "ping", owner_id=eve.owner_id)
    assert gate.refusal_of(chain).detail == {"reasons": ["OTHER_KEY"]}


@pytest.mark.parametrize("proof", ["bearer", "owner"])
def test_a_peer_speaks_by_its_session_s_proof_alone(world, lib, proof):
    """A token without a proof is nothing, and the owner's word is never a peer's."""
    assert code(world.call(lib, "ping", proof=proof)) is Code.PROOF_MISSING


def test_no_peer_is_ever_the_owner(world, lib):
    """Every command that needs the owner's word, and every other of the house's own rungs, is out of reach with any grant."""
    names = [name for name, command in catalogue.COMMANDS.items() if command.rung.includes(Loa.MENTOR)]
    assert "license/create" in names
    for name in names:
        token = world.grant(lib, name)
        chain = world.call(lib, name, token, mandated=True)
        assert code(chain) is Code.LOA_TOO_LOW, name
        assert chain.grant.outcome is Outcome.AUTHORIZED


def test_a_grant_confers_nothing_of_the_grid_itself(world, lib):
    """A peer that could call on from here would use what others lent to us."""
    chain = world.call(lib, "grid/call", world.lend(lib, "grid/call"))
    assert code(chain) is Code.LOA_TOO_LOW


def test_a_policy_that_raises_a_rung_raises_it_for_grants_too(world, lib):
    """A command that was raised to mentor is beyond every grant."""
    token = world.lend(lib, "memory/write")
    world.change_policy(rungs={"memory/write": Loa.MENTOR})
    assert code(world.call(lib, "memory/write", token)) is Code.LOA_TOO_LOW


def test_a_grant_lifts_its_own_commands_only(world, lib):
    """Beside them the tier speaks, and the chain says that it wasn't granted."""
    token = world.lend(lib, "memory/write")
    assert world.call(lib, "memory/list", token).audit.loa is Loa.OBSERVER
    chain = world.call(lib, "canon/user/write", token)
    assert code(chain) is Code.GRANT_REFUSED
    assert gate.refusal_of(chain).detail == {"grant": "NotGranted"}


def test_the_score_still_judges_a_granted_call(world, lib):
    """At the rate limit a granted write is denied, as an operator's is."""
    world = Grid(rate_limit=120)
    lib = world.enrol_peer(Node("library"))
    chain = world.call(lib, "memory/write", world.lend(lib, "memory/write"), calls_last_minute=120)
    assert code(chain) is Code.DENIED_BY_TRUST


def test_a_policy_may_ask_for_a_mentor_s_word_on_a_peer_s_call(world, lib):
    """A granted call that the policy reviews waits as an operator's would; the grant doesn't pass it by."""
    token = world.lend(lib, "memory/write")
    world.change_policy(reviews={"memory/write": policy.Review(within_s=60)})
    chain = world.call(lib, "memory/write", token)
    assert chain.verdict is Verdict.MANUAL_REVIEW
    assert checks(chain)[-2:] == ["trust", "review"]
    world.decide(chain)


# Grants that don't count


@pytest.mark.parametrize(
    ("changes", "outcome"),
    [
        ({"granted_in": "city"}, Outcome.WRONG_MESH),
        ({"expires_at_ms": 1}, Outcome.EXPIRED),
        ({"grantee_key": Node("x").key}, Outcome.KEY_MISMATCH),
    ],
)
def test_a_grant_that_isn_t_for_this_call_lifts_nothing(world, lib, changes, outcome):
    """It is named in the decision, which stands in the log and is judged again."""
    chain = world.call(lib, "memory/write", world.grant(lib, "memory/write", **changes))
    assert code(chain) is Code.GRANT_REFUSED
    assert chain.grant.outcome is outcome
    world.decide(chain)


def test_a_grant_that_the_owner_did_not_sign(world, lib):
    """By a stranger, by a mentor, by a stranger in Root's name: nothing moves, not even the mark."""
    mallory = signing.Ed25519Signer.generate()
    body, _, _ = world.grant(lib, "memory/write").partition(".")
    _, _, sig = world.grant(lib, "memory/write", signer=mallory).partition(".")
    for token, outcome in (
        (world.grant(lib, "memory/write", signer=mallory), Outcome.UNTRUSTED_ISSUER),
        (f"{body}.{sig}", Outcome.BAD_SIGNATURE),
    ):
        chain = world.call(lib, "memory/write", token)
        assert (code(chain), chain.grant.outcome) == (Code.GRANT_REFUSED, outcome)
        assert world.state.grant_marks == {}


def test_somebody_else_s_grant(world, lib):
    """A peer that shows what was lent to another is told that its key isn't the grantee's."""
    eve = world.enrol_peer(Node("eve"))
    token = world.lend(lib, "memory/write")
    assert world.call(eve, "memory/write", token).grant.outcome is Outcome.KEY_MISMATCH


def test_an_old_grant_never_comes_back(world, lib):
    """A higher epoch supersedes, whatever it confers; a revocation does too."""
    first, second = world.lend(lib, "memory/write"), world.lend(lib)
    assert world.call(lib, "memory/write", first).verdict is Verdict.ALLOW
    chain = world.call(lib, "memory/write", second)
    assert chain.grant.outcome is Outcome.NOT_GRANTED
    assert world.call(lib, "memory/write", first).grant.outcome is Outcome.SUPERSEDED
    third = world.lend(lib, "memory/write")
    assert world.call(lib, "memory/write", third).verdict is Verdict.ALLOW
    world.revoke_grants(lib)
    chain = world.call(lib, "memory/write", third)
    assert chain.grant.outcome is Outcome.SUPERSEDED
    world.decide(chain)


def test_a_block_and_a_new_enrolment_forget_no_mark(world, lib):
    """Marks belong to the key: neither a block nor a new tier brings an old grant back."""
    first = world.lend(lib, "memory/write")
    world.call(lib, "memory/write", world.lend(lib))
    world.block(lib)
    world.enrol_peer(lib)
    assert world.call(lib, "memory/write", first).grant.outcome is Outcome.SUPERSEDED


def test_without_its_mark_a_grant_denies(world, lib):
    """What the log doesn't hold as the mark can't be told from what is old: not even the tier speaks then."""
    chain = world.call(lib, "ping", world.lend(lib, "ping"), mark=False)
    assert code(chain) is Code.GRANT_REFUSED
    assert gate.refusal_of(chain).detail == {"grant": "WatermarkUnavailable"}
    world.decide(chain)


def test_no_room_for_a_mark_denies(world, lib):
    """The mark is never forgotten for another: a full house denies, and who has a mark already goes on."""
    eve = world.enrol_peer(Node("eve"))
    token = world.lend(lib, "memory/write")
    world.call(lib, "memory/write", token)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(peers, "MOST", 1)
        assert world.call(eve, "ping", world.grant(eve, "ping")).grant.outcome is Outcome.WATERMARK_UNAVAILABLE
        assert world.call(lib, "memory/write", token).verdict is Verdict.ALLOW
        with refused(Code.GRANTS_FULL):
            world.mark(world.grant(eve, "ping"))
        with refused(Code.GRANTS_FULL):
            world.enrol_peer(Node("third"))


# What may be recorded


@pytest.mark.parametrize("key", [SMALL_ORDER, "00" * 32, "ff" * 32])
def test_weak_keys_are_no_peer_s(world, key):
    """Small-order and malformed points are refused where they would be enrolled, as mesh keys too."""
    with refused(Code.WEAK_KEY):
        world.enrol_peer(Node("weak"), key=key)
    with refused(Code.WEAK_KEY):
        world.enrol_peer(Node("weak"), mesh_key=key)


def test_one_key_one_peer(world, lib):
    """Neither Root's key, nor a service's, nor another peer's, nor one that ended is a peer's."""
    old = world.enrol_peer(Node("old"))
    former = old.key
    world.enrol_peer(old, key=Node("new").key)
    taken = (world.root.signer.public_key.hex(), world.services["grid"].public_key.hex(), lib.key, former)
    for key in taken:
        with refused(Code.PEER_TAKEN):
            world.enrol_peer(Node("eve"), key=key)


def test_a_person_s_key_is_no_peer_s(world):
    """Whoever signs with it here would be another node from then on."""
    mia = world.issue(Person("mia"), Loa.MENTOR)
    node = Node("mias")
    node.signer = mia.signer
    with refused(Code.PEER_TAKEN):
        world.enrol_peer(node)
    world.revoke(mia)
    world.enrol_peer(node)


def test_only_root_s_own_signature_is_issued(world, lib):
    """A stolen grid service can't mint: the writer verifies the grant itself."""
    mallory = signing.Ed25519Signer.generate()
    with refused(Code.GRANT_INVALID):
        world.issue_grant(world.grant(lib, "memory/write", signer=mallory))
    with refused(Code.RECORD_INVALID):
        world.issue_grant(world.grant(lib, "memory/write"), epoch=9)
    with refused(Code.GRANT_INVALID):
        world.issue_grant(world.grant(lib, "memory/write", granted_in="city"))
    with refused(Code.PEER_UNKNOWN):
        world.issue_grant(world.grant(Node("stranger"), "memory/write"))


def test_an_epoch_is_issued_once(world, lib):
    """Issuing goes above the mark and all that was issued; so does revoking."""
    token = world.lend(lib, "memory/write")
    with refused(Code.GRANT_STALE) as caught:
        world.issue_grant(world.grant(lib, "ping", epoch=1))
    assert caught.value.detail == {"epoch": 1, "next_epoch": 2}
    with refused(Code.GRANT_STALE):
        world.revoke_grants(lib, epoch=1)
    world.call(lib, "memory/write", world.grant(lib, "memory/write", epoch=7))
    assert world.state.next_epoch(lib.signer.key_id) == 8
    assert world.call(lib, "memory/write", token).grant.outcome is Outcome.SUPERSEDED


def test_a_mark_moves_upward_only(world, lib):
    """Compare and set: neither the same mark again, nor a lower one, nor one that its grant doesn't carry."""
    first, second = world.lend(lib, "ping"), world.lend(lib, "ping")
    world.mark(second)
    for token in (first, second):
        with refused(Code.GRANT_STALE):
            world.mark(token)
    third = world.lend(lib, "ping")
    for lie in ({"epoch": 99}, {"grant_hash": "0" * 64}):
        with refused(Code.RECORD_INVALID):
            world.mark(third, **lie)
    with refused(Code.PEER_UNKNOWN):
        world.mark(third, grantee_key=Node("x").key)


def test_only_the_gate_keeps_marks_and_only_the_grid_enrols(world, lib):
    """Another service's instance key writes neither."""
    token = world.lend(lib, "ping")
    with refused(Code.KIND_NOT_ALLOWED):
        world.mark(token, signer=world.instances["grid"])
    world.instances["grid"], grid = world.instances["knowledge"], world.instances["grid"]
    with refused(Code.KIND_NOT_ALLOWED):
        world.block(lib)
    world.instances["grid"] = grid


def test_no_licence_is_issued_in_a_peer_s_name(world, lib):
    """So what a peer wrote is never a licensee's, nor the other way round."""
    with refused(Code.RECORD_INVALID):
        world.issue(Person(lib.owner_id), Loa.OPERATOR)


# The writer and the replay


def test_the_writer_refuses_an_allow_that_the_log_does_not_give(world, lib):
    """A gate that lies about tier, grant, level or owner is caught by the record that it writes."""
    token = world.lend(lib, "memory/write")
    good = world.call(lib, "memory/write", token)
    low = world.call(lib, "memory/list")
    shown = good.grant
    lies = [
        forged(good, grant=None),
        forged(good, grant=msgspec.structs.replace(shown, hash="0" * 64)),
        forged(good, grant=msgspec.structs.replace(shown, epoch=9)),
        forged(good, grant=msgspec.structs.replace(shown, outcome=Outcome.NOT_GRANTED)),
        forged(good, audit=msgspec.structs.replace(good.audit, loa=Loa.ROOT)),
        forged(good, audit=msgspec.structs.replace(good.audit, owner="root")),
        forged(good, command="canon/user/write"),
        forged(good, proof="owner"),
        forged(low, audit=msgspec.structs.replace(low.audit, loa=Loa.OPERATOR)),
        forged(low, grant=shown),
    ]
    for lie in lies:
        with refused(Code.RECORD_INVALID):
            world.decide(lie)
    world.decide(good)


@pytest.mark.parametrize("move", ["block", "revoke", "supersede", "tier"])
def test_an_allow_that_was_overtaken_is_stale(world, lib, move):
    """Whatever moves between judgement and commit, the writer has the gate judge again."""
    token, newer = world.lend(lib, "memory/write"), world.grant(lib, "ping", epoch=9)
    chain = world.call(lib, "memory/write", token)
    {
        "block": lambda: world.block(lib),
        "revoke": lambda: world.revoke_grants(lib),
        "supersede": lambda: world.mark(newer),
        "tier": lambda: world.tier(lib, world.member(lib, Tier.PROVISIONAL)),
    }[move]()
    with refused(Code.STALE_DECISION):
        world.decide(chain)


def test_a_replay_finds_a_grant_that_was_not_in_the_log(world, lib):
    """An Allow by a grant whose mark never stood can't be told from an invented one."""
    chain = world.call(lib, "memory/write", world.lend(lib, "memory/write"))
    twin = Grid()
    other = twin.enrol_peer(Node("library"))
    moved = forged(chain, audit=msgspec.structs.replace(chain.audit, licence=other.enrolment, owner=other.owner_id))
    assert gate.recompute(twin.state, moved, catalogue.COMMANDS["memory/write"]) != []


def test_a_peer_s_write_stands_in_the_canon_under_its_own_name(world, lib):
    """From the grant to the memory: decided, admitted once, replayed."""
    chain = world.call(lib, "memory/write", world.lend(lib, "memory/write"))
    batch = world.decide(chain)
    granted = _permit(world, chain, decision.DecisionRef(record=batch.core.id, index=0))
    placed = world.place(world.memory(granted))
    assert placed.payload.owner == lib.owner_id
    with refused(Code.DECISION_USED):
        world.place(world.memory(granted, key="again"))


def _permit(world, chain, ref):
    operator = world.issue(Person("ada"), Loa.OPERATOR)
    ordinary = world.granted(operator, chain.command)
    return msgspec.structs.replace(
        ordinary,
        owner_id=chain.audit.owner,
        licence_id=chain.audit.licence,
        decision=ref,
        digest=chain.digest,
        salt=bytes(16).hex(),
    )


def test_chains_without_a_grant_have_the_bytes_that_they_always_had(world):
    """The field that most decisions don't need isn't in their bytes, so their hashes stand."""
    chain = world.judge(world.root, "ping")
    assert b'"grant"' not in msgspec.json.encode(chain)


def test_a_new_root_ends_what_the_old_one_lent(world, lib):
    """Grants end with the key that signed them; what was judged under it before is overtaken, and history stands."""
    voices = world.mentors(2)
    world.seal(voices, 2)
    token = world.lend(lib, "memory/write")
    chain = world.call(lib, "memory/write", token)
    denial = world.call(lib, "canon/user/write", token)
    world.replace_root(Person("zoe"), *voices)
    with refused(Code.STALE_DECISION):
        world.decide(chain)
    world.decide(denial)
    world.root_licence_follows()
    assert world.call(lib, "memory/write", token, mark=False).grant.outcome is Outcome.UNTRUSTED_ISSUER
    assert world.call(lib, "memory/write", world.lend(lib, "memory/write")).verdict is Verdict.ALLOW


# The mesh


def test_a_mesh_sets_its_member_s_tier_for_as_long_as_it_says(world):
    """By the key that the enrolment pinned; afterwards the enrolment's own tier counts again."""
    lib = world.enrol_peer(Node("library"), Tier.PROVISIONAL)
    world.tier(lib, world.member(lib, Tier.TRUSTED, expires_at_ms=world.now_ms + DAY_MS))
    assert world.call(lib, "memory/list").verdict is Verdict.ALLOW
    assert code(world.call(lib, "memory/list", now_ms=world.now_ms + DAY_MS)) is Code.LOA_TOO_LOW


def test_a_mesh_may_block_and_never_unblock(world, lib):
    """Its word blocks a member; Root's block stands above every word of the mesh."""
    world.tier(lib, world.member(lib, Tier.BLOCKED))
    assert code(world.call(lib, "ping")) is Code.PEER_INVALID
    world.enrol_peer(lib)
    world.block(lib)
    world.clock.advance(1)
    world.tier(lib, world.member(lib, Tier.TRUSTED))
    assert code(world.call(lib, "ping")) is Code.PEER_INVALID


def test_memberships_that_are_none(world, lib):
    """Another's signature, another mesh, another member, over, older than the last, or for a peer whose mesh isn't pinned."""
    world.tier(lib, world.member(lib, Tier.TRUSTED))
    newer = world.now_ms + 1
    bad = (
        world.member(lib, Tier.TRUSTED, signer=lib.signer, issued_at_ms=newer),
        world.member(lib, Tier.TRUSTED, mesh="city", issued_at_ms=newer),
        world.member(lib, Tier.TRUSTED, member_key=Node("x").key, issued_at_ms=newer),
        world.member(lib, Tier.TRUSTED, expires_at_ms=world.now_ms, issued_at_ms=newer),
        world.member(lib, Tier.TRUSTED, issued_at_ms=newer - 1),
        "nothing",
    )
    for membership in bad:
        with refused(Code.MEMBERSHIP_INVALID):
            world.tier(lib, membership)
    alone = world.enrol_peer(Node("alone"), mesh_key=None)
    with refused(Code.MEMBERSHIP_INVALID):
        world.tier(alone, world.member(alone, Tier.TRUSTED))


def test_a_word_that_the_mesh_took_back_before_another_enrolment(world, lib):
    """Root enrols a peer anew, for another address; the mesh has called it blocked since it trusted it, so the old word stays old. The
    newest may be brought again, once."""
    trusted = world.member(lib, Tier.TRUSTED)
    world.tier(lib, trusted)
    world.clock.advance(1)
    blocked = world.member(lib, Tier.BLOCKED)
    world.tier(lib, blocked)
    world.enrol_peer(lib, Tier.PROVISIONAL)
    assert world.call(lib, "ping").verdict is Verdict.ALLOW
    with refused(Code.MEMBERSHIP_INVALID):
        world.tier(lib, trusted)
    world.tier(lib, blocked)
    assert code(world.call(lib, "ping")) is Code.PEER_INVALID
    for word in (trusted, blocked):
        with refused(Code.MEMBERSHIP_INVALID):
            world.tier(lib, word)
    world.enrol_peer(lib, mesh_key=signing.Ed25519Signer.generate().public_key.hex())
    with refused(Code.MEMBERSHIP_INVALID):
        world.tier(lib, blocked)


def test_a_replay_of_it_all_and_of_each_lie(world, lib):
    """The whole ledger with peers, marks and denials is judged again; one changed outcome and the replay stops there."""
    token = world.lend(lib, "memory/write")
    for command in ("memory/write", "canon/user/write", "ping"):
        world.decide(world.call(lib, command, token))
    expired = world.grant(lib, "memory/write", expires_at_ms=1)
    denial = world.call(lib, "memory/write", expired)
    lie = forged(denial, grant=msgspec.structs.replace(denial.grant, outcome=Outcome.NOT_GRANTED))
    liar = Grid.__new__(Grid)
    liar.__dict__ = dict(world.__dict__, log=list(world.log))
    batch = audit.DecisionBatch(decisions=(decision.freeze(lie),))
    with pytest.raises(Refused, match="the log gives another decision"):
        world.append("decision_batch", batch, world.instances["gatekeeper"])
    liar.smuggle("decision_batch", batch, world.instances["gatekeeper"])
    with pytest.raises(replay.Diverged) as found:
        replay.replay(liar.placed(), liar.checkpoint())
    assert found.value.seq == len(liar.log) - 1
    world.log = liar.log[:-1]
