"""How many of k may be personas, and which quorums can exist at all: every case of small registries."""

import itertools

import pytest

from sigilcore import admission, record, signing
from sigilcore.access import Loa
from sigilcore.refusals import Code, Refused
from tests import oracle
from tests.simulator import House, Person


def registry(people, personas):
    """So many people, and so many personas, all witnesses; not sealed yet."""
    house = House()
    house.voices = house.mentors(people)
    for number in range(1, personas + 1):
        house.voices.append(house.enrol(f"persona-{number}", house.voices, persona=True))
    return house


def seal(house, k, cap, kinds=None):
    policy = house.quorum_policy(k, persona_cap=cap, kinds=kinds or {})
    return house.place(house.attested(house.proposal("quorum_policy", policy), *house.voices))


def refusal(house, signed):
    """Why the writer would refuse; None if it wouldn't."""
    try:
        admission.check_system(house.state, record.check(signed), house.now_ms)
    except Refused as refused:
        return refused.code
    return None


@pytest.mark.parametrize("cap", [1, 2])
def test_no_more_personas_count_than_the_policy_lets(cap):
    """Every subset of three people and two personas: people and at most `cap` personas make k, or the record is refused."""
    house = registry(3, 2)
    seal(house, 3, cap)
    change = house.proposal("model_config", house.new_model())
    for voices in itertools.chain.from_iterable(itertools.combinations(house.voices, size) for size in range(6)):
        personas = sum(voice.owner_id.startswith("persona") for voice in voices)
        enough = len(voices) - personas + min(personas, cap) >= 3
        expected = None if enough else Code.QUORUM_NOT_SATISFIED
        assert refusal(house, house.attested(change, *voices)) is expected, [voice.owner_id for voice in voices]
    oracle.check(house.placed(), house.checkpoint(), house.state.genesis_hash)


@pytest.mark.parametrize(("people", "personas"), [(1, 0), (2, 0), (3, 0), (4, 0), (2, 1), (1, 2), (2, 2)])
def test_only_a_quorum_that_can_meet_and_be_reached_is_taken(people, personas):
    """Every k and cap: more than half of all witnesses, and no more than may count; else the policy is refused."""
    house = registry(people, personas)
    n = people + personas
    for k, cap in itertools.product(range(1, n + 2), range(personas + 1)):
        reached = people + min(personas, cap)
        expected = None if 2 * k > n and k <= reached else Code.THRESHOLD_INVALID
        policy = house.quorum_policy(k, persona_cap=cap)
        assert refusal(house, house.attested(house.proposal("quorum_policy", policy), *house.voices)) is expected, (
            k,
            cap,
        )


def test_an_override_beyond_what_may_count():
    """A kind's own k must be reachable too."""
    house = registry(3, 1)
    with pytest.raises(Refused) as caught:
        seal(house, 3, 0, {"model_config": 4})
    assert (caught.value.code, caught.value.detail) == (Code.THRESHOLD_INVALID, {"k": 4, "n": 4, "personas": 1})


def test_the_last_people_are_not_removed():
    """A revocation that leaves too many personas for k to be reached is refused, though n itself would do."""
    house = registry(3, 1)
    seal(house, 3, 0)
    gone = house.enrolment(house.voices[0], house.voices[0].signer, action="revoke")
    change = house.attested(house.proposal("trusted_witness", gone), *house.voices)
    assert refusal(house, change) is Code.THRESHOLD_INVALID
    persona = house.enrolment(house.voices[3], house.voices[3].signer, action="revoke")
    assert refusal(house, house.attested(house.proposal("trusted_witness", persona), *house.voices)) is None


def test_a_set_that_outgrows_its_quorum_is_refused():
    """Adding a witness so that two quorums could miss each other needs a higher k first."""
    house = registry(3, 0)
    seal(house, 2, 0)
    ora = house.issue(Person("ora"), Loa.MENTOR)
    voice = Person("ora")
    enrol = house.enrolment(ora, voice.signer)
    change = house.attested(house.proposal("trusted_witness", enrol), *house.voices, voice)
    assert refusal(house, change) is Code.THRESHOLD_INVALID
    raised = house.proposal("quorum_policy", house.quorum_policy(3))
    house.place(house.attested(raised, *house.voices))
    again = house.attested(house.proposal("trusted_witness", enrol), *house.voices, voice)
    assert refusal(house, again) is None


def test_a_persona_stays_one():
    """A rotation changes the key and not who it is, in neither direction."""
    house = registry(2, 1)
    seal(house, 2, 1)
    for voice, claimed in ((house.voices[2], False), (house.voices[0], True)):
        fresh = Person(voice.owner_id)
        change = house.enrolment(voice, fresh.signer, action="rotate", persona=claimed)
        signed = house.attested(house.proposal("trusted_witness", change), *house.voices, fresh)
        assert refusal(house, signed) is Code.RECORD_INVALID
    fresh = signing.Ed25519Signer.generate()
    voice = Person("persona-1")
    voice.signer = fresh
    kept = house.enrolment(house.voices[2], fresh, action="rotate", persona=True)
    house.place(house.attested(house.proposal("trusted_witness", kept), *house.voices, voice))
    assert house.state.witnesses["persona-1"].persona
    oracle.check(house.placed(), house.checkpoint(), house.state.genesis_hash)


def test_before_the_seal_and_without_root_everyone_agrees():
    """A cap says how many of k; where all must agree, personas must too, and their voices are not left out."""
    house = registry(2, 1)
    seal(house, 2, 0)
    zoe = Person("zoe")
    change = house.proposal("root_key", house.root_change(zoe), zoe.signer)
    assert refusal(house, house.attested(change, *house.voices[:2])) is Code.QUORUM_NOT_SATISFIED
    assert refusal(house, house.attested(change, *house.voices)) is None
