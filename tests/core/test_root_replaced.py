"""Root is replaced: by itself and the quorum, or by all witnesses without it; and what the old key tries afterwards."""

import msgspec
import pytest

from sigilcore import admission, gate, governance, ids, licence, note, record, replay, signing, verify
from sigilcore.access import Loa
from sigilcore.decision import Verdict
from sigilcore.records import audit, system
from sigilcore.refusals import Code, Refused
from tests import oracle
from tests.simulator import House, Person


@pytest.fixture
def house():
    """Three witnesses, sealed with k = 2; its ledger is replayed at the end against the two fingerprints."""
    made = House()
    made.operator = made.issue(Person("ada", keyed=False), Loa.OPERATOR)
    made.voices = made.mentors(3)
    made.seal(made.voices, 2)
    made.old = made.root
    made.pins = replay.Pins(genesis=made.state.genesis_hash, seal=made.state.system_head)
    yield made
    oracle.check(made.placed(), made.checkpoint(), made.state.genesis_hash)
    replay.replay(made.placed(), made.checkpoint(), pins=made.pins)


def refused(code, action, *arguments, **named):
    with pytest.raises(Refused) as caught:
        action(*arguments, **named)
    assert caught.value.code is code, caught.value
    return caught.value


# The two roads


@pytest.mark.parametrize("without_root", [False, True], ids=["by the old Root and k", "by all witnesses"])
def test_root_is_replaced(house, without_root):
    """The new Root governs and issues; the old one's key and licence end at that very position, and keep their past."""
    zoe = Person("zoe")
    voices = house.voices if without_root else house.voices[:2]
    house.replace_root(zoe, *voices, without_root=without_root)
    seq = len(house.log) - 1
    house.root_licence_follows()
    assert house.state.root.owner_id == "zoe"
    assert house.state.key(house.old.signer.key_id).until_seq == seq
    assert house.state.issued(house.old.licence_id).revoked_seq == seq
    ann = house.issue(Person("ann"), Loa.MENTOR)
    assert house.state.issued(ann.licence_id).revoked_seq is None
    house.place(house.attested(house.proposal("model_config", house.new_model()), *house.voices[:2]))
    assert house.state.model.version == "second"


def test_roots_own_new_key(house):
    """The same owner may get another key: a name is no witness because it is Root's."""
    again = Person("root")
    house.replace_root(again, *house.voices[:2])
    house.root_licence_follows()
    assert house.state.root.key == again.signer.public_key.hex()
    house.issue(Person("bea"), Loa.GUEST)


def test_root_is_replaced_twice(house):
    """Each successor in turn; only the last one's licence counts, and both ended ones stay ended."""
    for name in ("yan", "zoe"):
        house.replace_root(Person(name), *house.voices, without_root=name == "zoe")
        house.root_licence_follows()
    roots = [one for one in house.state.licences.values() if one.table.loa is Loa.ROOT]
    assert [(one.table.owner.id, one.revoked_seq is None) for one in roots] == [
        ("root", False),
        ("yan", False),
        ("zoe", True),
    ]


def test_an_override_holds_for_root_too(house):
    """The policy may want every voice for another Root."""
    strict = house.quorum_policy(2, kinds={"root_key": 3})
    house.place(house.attested(house.proposal("quorum_policy", strict), *house.voices))
    short = refused(Code.QUORUM_NOT_SATISFIED, house.replace_root, Person("zoe"), *house.voices[:2])
    assert (short.detail["have"], short.detail["need"]) == (2, 3)
    house.replace_root(Person("zoe"), *house.voices)


# What is not enough


def test_one_witness_short_of_all(house):
    """Without Root every active witness must agree, whatever k is."""
    short = refused(Code.QUORUM_NOT_SATISFIED, house.replace_root, Person("zoe"), *house.voices[:2], without_root=True)
    assert (short.detail["have"], short.detail["need"]) == (2, 3)


def test_nobody_replaces_root_before_the_seal():
    """With no witnesses all of them is nobody; neither the writer nor who verifies offline takes that for everybody."""
    house = House()
    eve = Person("eve")
    alone = record.check(house.proposal("root_key", house.root_change(eve), eve.signer))
    refused(Code.NOT_SEALED, admission.check_system, house.state, alone, None)
    refused(Code.NOT_SEALED, verify.check_quorum, house.state, alone)
    by_root = record.check(house.attested(house.proposal("root_key", house.root_change(eve)), eve))
    refused(Code.NOT_SEALED, admission.check_system, house.state, by_root, None)


def test_new_root_without_proof_of_its_key(house):
    """Root can't put a key in its place that nobody holds."""
    change = house.proposal("root_key", house.root_change(Person("zoe")))
    short = refused(Code.QUORUM_NOT_SATISFIED, house.place, house.attested(change, *house.voices))
    assert short.detail["possession"] == "zoe"


def test_new_root_signed_by_somebody_else(house):
    """All witnesses agree on Zoe; Eve's signature doesn't make the record Zoe's."""
    signed = house.proposal("root_key", house.root_change(Person("zoe")), Person("eve").signer)
    refused(Code.KEY_NOT_ALLOWED, house.place, house.attested(signed, *house.voices))


def test_the_new_roots_proof_is_no_voice(house):
    """Its signature proves its key; it isn't one of k."""
    zoe = Person("zoe")
    change = house.attested(house.proposal("root_key", house.root_change(zoe)), house.voices[0], zoe)
    short = refused(Code.QUORUM_NOT_SATISFIED, house.place, change)
    assert (short.detail["have"], short.detail["need"]) == (1, 2)


def test_a_key_with_a_role_is_no_roots(house):
    """A witness's, a service's, a licence owner's, a cosigner's and the old Root's own key are taken; a witness is no Root."""
    mentor = house.issue(Person("max"), Loa.MENTOR)
    cosigner = signing.Ed25519Signer.generate()
    vkey = note.VerifierKey.of("cosigner.example", note.COSIGNATURE, cosigner.public_key).format()
    wanted = system.CheckpointWitnesses(c=1, cosigners=(system.Cosigner(vkey=vkey, url=None),))
    policy = house.quorum_policy(2, checkpoint_witnesses=wanted)
    house.place(house.attested(house.proposal("quorum_policy", policy), *house.voices))
    house.pins = replay.Pins(genesis=house.state.genesis_hash)
    for taken in (house.voices[0].signer, house.services["quorum"], mentor.signer, cosigner, house.old.signer):
        zoe = Person("zoe")
        zoe.signer = taken
        refused(Code.WITNESS_TAKEN, house.place, house.proposal("root_key", house.root_change(zoe)))
    witness = Person(house.voices[0].owner_id)
    refused(Code.ROOT_IS_NO_WITNESS, house.place, house.proposal("root_key", house.root_change(witness)))
    neutral = house.root_change(witness, owner_id="zoe", key=(1).to_bytes(32, "little").hex())
    refused(Code.WEAK_KEY, house.place, house.proposal("root_key", neutral))


def test_a_root_that_is_called_like_a_peer(house):
    """No licence may name it, so it would be a Root without one, for ever: neither at the founding nor later."""
    peer = Person("peer:0f")
    for without_root in (False, True):
        with pytest.raises(Refused) as caught:
            house.replace_root(peer, *house.voices, without_root=without_root)
        assert (caught.value.code, caught.value.field) == (Code.RECORD_INVALID, "$.payload.owner_id")
    genesis = record.check(house.log[0])
    root = msgspec.structs.replace(genesis.payload.root, owner_id=peer.owner_id)
    founding = house.proposal("genesis", msgspec.structs.replace(genesis.payload, root=root), prev=None)
    with pytest.raises(Refused) as caught:
        admission.check_genesis(record.check(founding))
    assert (caught.value.code, caught.value.field) == (Code.RECORD_INVALID, "$.payload.root.owner_id")


def test_two_successors_on_one_head(house):
    """The second to be carried in is stale: it was agreed on before there was a first."""
    yan, zoe = Person("yan"), Person("zoe")
    late = house.attested(house.proposal("root_key", house.root_change(zoe), zoe.signer), *house.voices)
    house.replace_root(yan, *house.voices, without_root=True)
    refused(Code.STALE_PREV, house.place, late)


# What the old key tries


@pytest.fixture
def replaced(house):
    """Zoe is Root now, by all witnesses."""
    house.before = house._permission("license/create")
    house.replace_root(Person("zoe"), *house.voices, without_root=True)
    house.root_licence_follows()
    return house


def test_the_old_root_proposes(replaced):
    """What it signs now is nobody's, with every voice in the house under it."""
    change = replaced.proposal("model_config", replaced.new_model(), replaced.old.signer)
    refused(Code.KEY_NOT_ALLOWED, replaced.place, replaced.attested(change, *replaced.voices))


def test_the_old_root_comes_back(replaced):
    """A key that ended never speaks again: not as Root, not as a witness, not as a mentor."""
    old = Person("root")
    old.signer = replaced.old.signer
    refused(Code.WITNESS_TAKEN, replaced.place, replaced.proposal("root_key", replaced.root_change(old)))
    mentor = replaced.issue(Person("max"), Loa.MENTOR)
    enrol = replaced.proposal("trusted_witness", replaced.enrolment(mentor, old.signer))
    refused(Code.ROOT_IS_NO_WITNESS, replaced.place, replaced.attested(enrol, *replaced.voices))
    refused(Code.RECORD_INVALID, replaced.issue, old, Loa.MENTOR)


def test_the_old_root_calls(replaced):
    """Its licence counts nowhere: the gate denies, and its document validates no more."""
    chain = gate.judge(replaced.state, replaced.facts(replaced.old, "license/create", proof="owner"))
    assert (chain.verdict, chain.steps[-1].check, chain.steps[-1].detail) == (Verdict.DENY, "licence", "REVOKED")
    found = licence.validate(replaced.old.toml, replaced.state, replaced.now_ms)
    assert found.reasons == (licence.Reason.REVOKED,)


def test_the_old_root_finishes_what_was_allowed_before(replaced):
    """A decision from before the change admits nothing after it."""
    request, link = replaced.before
    table = msgspec.structs.replace(replaced.operator.table, id=ids.new())
    payload = audit.LicenceIssued(
        license=table,
        content_hash=licence.content_hash(table),
        seal_key_id=replaced.services["license"].key_id,
        root_signature=None,
        request=request,
    )
    issue = (replaced.append, "license_issued", payload, replaced.instances["license"])
    refused(Code.DECISION_UNKNOWN, *issue, links=[link])


def test_the_old_root_signs_a_mentors_licence(replaced):
    """Only the Root of now makes mentors."""
    max_ = Person("max")
    new, replaced.root.signer = replaced.root.signer, replaced.old.signer
    refused(Code.SIGNATURE_INVALID, replaced.issue, max_, Loa.MENTOR)
    replaced.root.signer = new


def test_a_second_licence_for_root(replaced):
    """One each: not again for the new Root, not for the old one, and not standing on genesis."""
    refused(Code.ROOT_IS_SINGLE, replaced.root_licence_follows)
    new, replaced.root = replaced.root, replaced.old
    refused(Code.ROOT_IS_SINGLE, replaced.root_licence_follows)
    replaced.root = new


def test_roots_licence_stands_on_the_record_that_names_it(house):
    """The successor's links the `root_key`; genesis named somebody else."""
    house.replace_root(Person("zoe"), *house.voices, without_root=True)
    genesis = record.Link(label="genesis", target=house.state.genesis_hash)
    refused(Code.RECORD_INVALID, house._issue, house.root, Loa.ROOT, None, [genesis])
    house.root_licence_follows()


# What others see


@pytest.mark.parametrize("without_root", [False, True])
def test_a_bundle_of_the_change_verifies(house, without_root):
    """Who pinned genesis alone sees from the bundle that another is Root, and by whose voices; a bundle without one voice says no."""
    placed = house.replace_root(Person("zoe"), *house.voices, without_root=without_root)
    later = house.place(house.attested(house.proposal("model_config", house.new_model()), *house.voices[:2]))
    for checked in (placed, later):
        bundle = house.bundle(checked.core.id)
        assert verify.verified(verify.verify(bundle, house.state.genesis_hash))
    cut = msgspec.structs.replace(bundle, evidence=bundle.evidence[:-1])
    assert not verify.verified(verify.verify(cut, house.state.genesis_hash))


def test_a_follower_and_the_log_itself_agree(house):
    """Folded from governing records alone, as services do, Root is the same; what it forgets nobody remembers."""
    house.replace_root(Person("zoe"), *house.voices, without_root=True)
    house.root_licence_follows()
    state = governance.Governance()
    for seq, signed in enumerate(house.log):
        checked = record.check(signed)
        if checked.kind.governs:
            admission.admit_governing(state, checked)
            state.apply(seq, checked)
    assert (state.root, state.keys, state.licences) == (house.state.root, house.state.keys, house.state.licences)
