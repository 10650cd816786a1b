"""Attacks on the bytes and the ledger, each as its author would try it on the house in memory.

Attacks that need a bus, a stream or a database are in tests/faults; those on the gate's doors in tests/services/test_gatekeeper.py.
"""

import os

import msgspec
import pytest

from sigilcore import (
    admission,
    authorship,
    canonical,
    checkpoint,
    clock,
    decision,
    digest,
    ids,
    licence,
    note,
    permit,
    record,
    replay,
    signing,
    verify,
)
from sigilcore.access import Loa
from sigilcore.records import audit, system, user
from sigilcore.refusals import Code, Refused
from tests import oracle
from tests.simulator import DAY_MS, TENANT, House, Person, plain


@pytest.fixture
def house():
    """A house with one operator; its ledger is re-verified after the attack, whatever the attack did."""
    built = House()
    built.operator = built.issue(Person("ada", keyed=False), Loa.OPERATOR)
    yield built
    oracle.check(built.placed(), built.checkpoint(), built.state.genesis_hash)


def refused(code, action, *arguments, **named):
    """The action is refused with exactly this code, and the log doesn't grow."""
    with pytest.raises(Refused) as caught:
        action(*arguments, **named)
    assert caught.value.code is code, caught.value
    return caught.value


def refused_only(code, action, *arguments, **named):
    """The action is refused with exactly this code, whatever was recorded on the way to it."""
    with pytest.raises(Refused) as caught:
        action(*arguments, **named)
    assert caught.value.code is code, caught.value


# Permits


def test_forged_permit(house):
    """A permit sealed by anyone but the gatekeeper opens nothing."""
    granted = house.granted(house.operator, "memory/write")
    refused(Code.PERMIT_INVALID, house.bound, granted, signer=signing.Ed25519Signer.generate())


def test_permit_for_other_parameters(house):
    """A permit is bound to the very bytes: one space more is another call."""
    granted = house.granted(house.operator, "memory/write", b'{"key":"a","text":"b"}')
    assert house.bound(granted, b'{"key":"a","text":"b"}').permit == granted
    refused(Code.PERMIT_MISMATCH, house.bound, granted, b'{"key":"a", "text":"b"}')


def test_permit_stretched_in_time(house):
    """A permit is good for five seconds, and one that claims more is no permit."""
    granted = house.granted(house.operator, "memory/write")
    forever = msgspec.structs.replace(granted, not_after_ms=house.now_ms + 3_600_000)
    refused(Code.PERMIT_INVALID, house.bound, forever)
    house.clock.advance(permit.START_WINDOW_MS + 1)
    refused(Code.PERMIT_EXPIRED, house.bound, granted)


def test_permit_moved_to_another_deployment(house):
    """A permit of another deployment, even with this gatekeeper's key, says nothing here."""
    granted = house.granted(house.operator, "memory/write")
    refused(Code.PERMIT_INVALID, house.bound, msgspec.structs.replace(granted, runtime_id=ids.new()))
    refused(Code.PERMIT_INVALID, house.bound, msgspec.structs.replace(granted, tenant="other"))


# Decisions and effects


def test_one_decision_for_two_effects(house):
    """A decision admits one append."""
    granted = house.granted(house.operator, "memory/write")
    house.place(house.memory(granted, "first"))
    refused(Code.DECISION_USED, house.place, house.memory(granted, "second"))


def test_effect_without_decision(house):
    """An effect that links nothing, or a decision that was never committed, is no effect."""
    granted = house.granted(house.operator, "memory/write")
    refused(Code.DECISION_UNKNOWN, house.place, house.memory(granted, links=()))
    invented = record.Link(label="decision", target=f"{ids.new()}.0")
    refused(Code.DECISION_UNKNOWN, house.place, house.memory(granted, links=(invented,)))


def test_effect_by_a_denial(house):
    """A committed Deny admits nothing."""
    guest = house.issue(Person("gus", keyed=False), Loa.GUEST)
    granted = house.granted(house.operator, "memory/write")
    denied = refused(Code.LOA_TOO_LOW, house.granted, guest, "memory/write")
    link = record.Link(label="decision", target=denied.detail["decision"])
    refused(Code.DECISION_UNKNOWN, house.place, house.memory(granted, links=(link,)))


def test_effect_of_a_kind_its_command_does_not_write(house):
    """memory/write writes memory, not licences: the license service can't borrow an operator's decision."""
    granted = house.granted(house.operator, "memory/write")
    table = msgspec.structs.replace(house.operator.table, id=ids.new(), loa=Loa.MENTOR)
    request = decision.Request(command="memory/write", salt=granted.salt, digest=granted.digest, parameters="0" * 64)
    payload = audit.LicenceIssued(
        license=table,
        content_hash=licence.content_hash(table),
        seal_key_id=house.services["license"].key_id,
        root_signature=None,
        request=request,
    )
    link = record.Link(label="decision", target=granted.decision.link())
    refused(Code.KIND_NOT_ALLOWED, house.append, "license_issued", payload, house.instances["license"], links=[link])


def test_effect_for_another_owner(house):
    """A decision for Ada writes nothing of Bob's."""
    granted = house.granted(house.operator, "memory/write")
    refused(Code.DECISION_MISMATCH, house.place, house.memory(granted, owner="bob"))


def test_effect_with_another_digest(house):
    """The effect must carry the digest that was decided on."""
    granted = house.granted(house.operator, "memory/write")
    request = decision.Request(
        command="memory/write", salt=granted.salt, digest=digest.sha256_hex(b"else"), parameters="0" * 64
    )
    refused(Code.DECISION_MISMATCH, house.place, house.memory(granted, request=request))


def test_effect_by_another_service(house):
    """Only the service that owns the command writes for it."""
    granted = house.granted(house.operator, "memory/write")
    refused(Code.KEY_NOT_ALLOWED, house.place, house.memory(granted, signer=house.instances["quorum"]))


def test_effect_long_after_its_decision(house):
    """A decision that lies around goes stale."""
    granted = house.granted(house.operator, "memory/write")
    house.clock.advance(60_001)
    refused(Code.DECISION_UNKNOWN, house.place, house.memory(granted))


def finished(house, person, key="k"):
    """A value that its owner signed, and the call that a moment ago was let in to write it."""
    signed = record.build(
        "user_value",
        user.UserValue(owner=person.owner_id, key=f"val::{person.owner_id}::{key}", value=1, request=None),
        id=ids.new(),
        tenant=TENANT,
        ts=clock.format_ms(house.now_ms),
        space="user",
        signer=person.signer,
        salt=os.urandom(16),
    )
    sent = msgspec.json.encode({"record": plain(signed)})
    return signed, house.granted(person, "canon/user/write", sent).decision


def test_a_revoked_owners_own_signature(house):
    """A key whose licence was revoked signs nothing more, whatever the gate allowed before: who reads this with the governing records
    alone (`authorship`) would stop there for ever."""
    eve = house.issue(Person("eve"), Loa.OPERATOR)
    signed, named = finished(house, eve)
    house.place(signed, named=named)
    signed, named = finished(house, house.issue(Person("eva"), Loa.OPERATOR))
    other, late = finished(house, eve, "other")
    house.revoke(eve)
    refused(Code.KEY_NOT_ALLOWED, house.place, other, named=late)
    house.place(signed, named=named)
    for seq, placed in enumerate(house.log):
        one = record.check(placed)
        authorship.check(house.state, seq, one.header, one.core_bytes, one.kind.subject(one.payload))


def test_decision_back_dated_past_a_revocation(house):
    """An Allow judged before a revocation can't be committed after it."""
    chain = house.judge(house.operator, "memory/write")
    house.revoke(house.operator)
    batch = audit.DecisionBatch(decisions=(decision.freeze(chain),))
    refused(Code.STALE_DECISION, house.append, "decision_batch", batch, house.instances["gatekeeper"])


def test_decision_changed_after_it_was_frozen(house):
    """One changed word in a chain is found by its content hash."""
    frozen = decision.freeze(house.judge(house.operator, "memory/write"))
    bent = msgspec.structs.replace(frozen, chain=msgspec.structs.replace(frozen.chain, target="module"))
    batch = audit.DecisionBatch(decisions=(bent,))
    refused(Code.RECORD_INVALID, house.append, "decision_batch", batch, house.instances["gatekeeper"])


def test_decision_by_a_service_that_is_not_the_gate(house):
    """No other service decides."""
    batch = audit.DecisionBatch(decisions=(decision.freeze(house.judge(house.operator, "memory/write")),))
    refused(Code.KIND_NOT_ALLOWED, house.append, "decision_batch", batch, house.instances["knowledge"])


# Licences


def test_licence_signed_by_a_stranger(house):
    """A seal by a key that the log doesn't know is no seal."""
    document = licence.seal(house.operator.table, signing.Ed25519Signer.generate())
    validation = licence.validate(licence.to_toml(document), house.state, house.now_ms)
    assert validation.reasons == (licence.Reason.SEAL_KEY_UNKNOWN,)


def test_licence_signed_by_the_true_seal_key_but_never_issued(house):
    """A stolen seal key mints nothing that counts: the log never issued it."""
    table = msgspec.structs.replace(house.operator.table, id=ids.new(), loa=Loa.MENTOR)
    document = licence.seal(table, house.services["license"])
    validation = licence.validate(licence.to_toml(document), house.state, house.now_ms)
    assert validation.reasons == (licence.Reason.NEVER_ISSUED,)


def test_licence_raised_under_an_issued_id(house):
    """The true seal key and a true id, but another level: other content, so never issued."""
    document = licence.seal(msgspec.structs.replace(house.operator.table, loa=Loa.MENTOR), house.services["license"])
    validation = licence.validate(licence.to_toml(document), house.state, house.now_ms)
    assert validation.reasons == (licence.Reason.NEVER_ISSUED,)


def test_licence_with_one_changed_byte(house):
    """The signature covers the content, not the TOML: a changed name breaks the seal, a comment doesn't."""
    text = house.operator.toml
    assert licence.validate("# hello\n" + text, house.state, house.now_ms).valid
    bent = text.replace('name = "Ada"', 'name = "Eve"')
    assert licence.validate(bent, house.state, house.now_ms).reasons == (licence.Reason.SEAL_BROKEN,)


def test_mentor_licence_without_roots_own_signature(house):
    """The license service alone can't make a mentor."""
    person = Person("mallory")
    request, link = house._permission("license/create")
    table = msgspec.structs.replace(
        house.operator.table,
        id=ids.new(),
        loa=Loa.MENTOR,
        owner=licence.Owner(id="mallory", name="M", key=person.signer.public_key.hex()),
    )
    payload = audit.LicenceIssued(
        license=table,
        content_hash=licence.content_hash(table),
        seal_key_id=house.services["license"].key_id,
        root_signature=licence.root_sign(table, person.signer),
        request=request,
    )
    refused(Code.SIGNATURE_INVALID, house.append, "license_issued", payload, house.instances["license"], links=[link])


@pytest.mark.parametrize("field", ["issued_at", "expires_at"])
def test_licence_that_ends_at_no_time(house, field):
    """A moment that doesn't exist would stop everybody who asks whether the licence counts."""
    request, link = house._permission("license/create")
    table = msgspec.structs.replace(house.operator.table, **{"id": ids.new(), field: "2026-02-30T00:00:00.000Z"})
    payload = audit.LicenceIssued(
        license=table,
        content_hash=licence.content_hash(table),
        seal_key_id=house.services["license"].key_id,
        root_signature=None,
        request=request,
    )
    refused(Code.RECORD_INVALID, house.append, "license_issued", payload, house.instances["license"], links=[link])


def test_second_root(house):
    """Root is single for ever, whoever asks."""
    request, link = house._permission("license/create")
    table = msgspec.structs.replace(house.root.table, id=ids.new())
    payload = audit.LicenceIssued(
        license=table,
        content_hash=licence.content_hash(table),
        seal_key_id=house.services["license"].key_id,
        root_signature=None,
        request=request,
    )
    links = [link, record.Link(label="genesis", target=house.state.genesis_hash)]
    refused(Code.ROOT_IS_SINGLE, house.append, "license_issued", payload, house.instances["license"], links=links)


# The quorum


def test_system_write_without_a_quorum(house):
    """Law 4: Root alone changes nothing once there are witnesses, and one voice short is short."""
    mentors = house.mentors(4)
    house.seal(mentors, 3)
    change = house.proposal("model_config", house.new_model())
    short = refused(Code.QUORUM_NOT_SATISFIED, house.place, change)
    assert (short.detail["have"], short.detail["need"]) == (0, 3)
    refused(Code.QUORUM_NOT_SATISFIED, house.place, house.attested(change, *mentors[:2]))
    house.place(house.attested(change, *mentors[:3]))


def test_same_key_under_two_names(house):
    """One key has one name: under a second it is nobody's voice."""
    mentors = house.mentors(3)
    house.seal(mentors, 2)
    change = house.proposal("model_config", house.new_model())
    twice = Person("mentor-2-again")
    twice.signer = mentors[0].signer
    refused(Code.WITNESS_UNKNOWN, house.place, house.attested(change, mentors[0], twice))


def test_same_key_twice(house):
    """The same voice twice is one voice, and a list that says otherwise is refused."""
    mentors = house.mentors(3)
    house.seal(mentors, 2)
    change = house.proposal("model_config", house.new_model())
    refused(Code.RECORD_INVALID, house.place, house.attested(change, mentors[0], mentors[0]))


def test_witness_under_another_witness_name(house):
    """A voice counts with its own key only."""
    mentors = house.mentors(3)
    house.seal(mentors, 2)
    impostor = Person(mentors[1].owner_id)
    refused(
        Code.WITNESS_UNKNOWN,
        house.place,
        house.attested(house.proposal("model_config", house.new_model()), mentors[0], impostor),
    )


def test_approval_replayed_to_another_body(house):
    """A signature moved from another proposal doesn't verify, nor does the record when its payload is another's."""
    mentors = house.mentors(3)
    house.seal(mentors, 2)
    other = house.proposal("model_config", house.new_model("other"))
    change = house.proposal("model_config", house.new_model())
    moved = [record.witness(other, mentor.owner_id, mentor.signer) for mentor in mentors[:2]]
    refused(Code.SIGNATURE_INVALID, house.place, record.witnessed(change, moved))
    approved = house.attested(other, *mentors[:2])
    another_body = msgspec.structs.replace(approved, payload=change.payload, salt=change.salt)
    refused(Code.RECORD_INVALID, house.place, another_body)


def test_root_attesting_its_own_proposal(house):
    """Root's key never counts: not as a voice, not enrolled, not under another name."""
    mentors = house.mentors(3)
    house.seal(mentors, 2)
    change = house.proposal("model_config", house.new_model())
    refused(Code.ROOT_IS_NO_WITNESS, house.place, house.attested(change, mentors[0], house.root))
    borrowed = Person(mentors[1].owner_id)
    borrowed.signer = house.root.signer
    refused(Code.ROOT_IS_NO_WITNESS, house.place, house.attested(change, mentors[0], borrowed))
    enrol = house.enrolment(mentors[0], house.root.signer, witness_id="zoe", action="add")
    refused(Code.ROOT_IS_NO_WITNESS, house.place, house.attested(house.proposal("trusted_witness", enrol), *mentors))


def test_same_principal_under_two_keys(house):
    """A witness that is enrolled can't be enrolled again with a second key."""
    mentors = house.mentors(3)
    second = Person(mentors[0].owner_id)
    enrol = house.enrolment(mentors[0], second.signer)
    change = house.attested(house.proposal("trusted_witness", enrol), *mentors, second)
    refused(Code.WITNESS_TAKEN, house.place, change)


def test_one_key_for_two_principals(house):
    """A key that has a role can't get another."""
    mentors = house.mentors(2)
    third = house.issue(Person("mentor-3"), Loa.MENTOR)
    enrol = house.enrolment(third, mentors[0].signer)
    refused(Code.WITNESS_TAKEN, house.place, house.attested(house.proposal("trusted_witness", enrol), *mentors))


def named(house, owner_id, signer, loa=Loa.OPERATOR):
    """Root issues a licence that names this key."""
    person = Person(owner_id)
    person.signer = signer
    return house.issue(person, loa)


def test_one_key_under_two_owners(house):
    """A key is one person's: not an operator's and, under another name, the mentor's who approves their calls; nor a witness's, a
    service's or Root's besides. Once the licence that was a mistake is revoked, the key is free for its right name."""
    ada = house.issue(Person("ada-2"), Loa.OPERATOR)
    voice = house.mentors(1)[0]
    for taken in (ada.signer, voice.signer, house.services["license"], house.instances["knowledge"], house.root.signer):
        for loa in (Loa.GUEST, Loa.OPERATOR):
            refused_only(Code.WITNESS_TAKEN, named, house, "zoe", taken, loa)
    refused_only(Code.WITNESS_TAKEN, named, house, "knowledge", house.instances["knowledge"])
    refused_only(Code.WITNESS_TAKEN, named, house, "ada-mentor", ada.signer, Loa.MENTOR)
    named(house, "ada-2", ada.signer, Loa.MENTOR)
    named(house, voice.owner_id, voice.signer)
    house.revoke(house.issue(ada, Loa.GUEST))
    refused_only(Code.WITNESS_TAKEN, named, house, "zoe", ada.signer)
    typo = house.issue(Person("mai"), Loa.OPERATOR)
    house.revoke(typo)
    named(house, "mia", typo.signer)


def test_somebodys_key_taken_by_a_service(house):
    """A service that went wrong introduces a person's key as its instance's: what that person signs would be nobody's."""
    mia, voices = house.issue(Person("mia"), Loa.MENTOR), house.mentors(2)
    house.seal(voices, 2)
    refused(Code.WITNESS_TAKEN, house.introduce, "notary", key=mia.signer)
    change = system.ServiceKey(service="notary", key=mia.signer.public_key.hex(), expires_at=house.later())
    refused(Code.WITNESS_TAKEN, house.place, house.attested(house.proposal("service_key", change), *voices))
    house.place(house.attested(house.proposal("trusted_witness", house.enrolment(mia, mia.signer)), *voices, mia))


def test_another_persons_key_for_a_witness(house):
    """Mia's key, which her licence names, can't be Max's voice: she would be two."""
    mia, voices = house.issue(Person("mia"), Loa.MENTOR), house.mentors(2)
    enrol = house.enrolment(house.issue(Person("max"), Loa.MENTOR), mia.signer)
    borrowed = Person("max")
    borrowed.signer = mia.signer
    change = house.attested(house.proposal("trusted_witness", enrol), *voices, borrowed)
    refused(Code.WITNESS_TAKEN, house.place, change)
    own = house.attested(house.proposal("trusted_witness", house.enrolment(mia, mia.signer)), *voices, mia)
    house.place(own)


def test_witness_without_proof_of_possession(house):
    """A joining key proves itself by a signature, or doesn't join."""
    third = house.issue(Person("mentor-1"), Loa.MENTOR)
    enrol = house.enrolment(third, signing.Ed25519Signer.generate())
    refused(Code.QUORUM_NOT_SATISFIED, house.place, house.proposal("trusted_witness", enrol))


def test_witness_by_a_licence_that_counts_for_nothing(house):
    """Another mentor's licence, one that is over and one that was revoked make nobody a witness."""
    voices = house.mentors(2)
    house.seal(voices, 2)
    mia, late, gone = (house.issue(Person(name), Loa.MENTOR) for name in ("mia", "late", "gone"))
    house.revoke(gone)

    def enrolled(person, **changes):
        voice = Person(person.owner_id)
        change = house.proposal("trusted_witness", house.enrolment(person, voice.signer, **changes))
        return house.attested(change, *voices, voice)

    refused(Code.LICENSE_INVALID, house.place, enrolled(mia, licence_id=late.licence_id))
    refused(Code.LICENSE_INVALID, house.place, enrolled(gone))
    house.clock.advance(31 * DAY_MS)
    refused(Code.LICENSE_INVALID, house.place, enrolled(late, expires_at=house.later()))


def test_witnesses_that_the_registry_can_not_have(house):
    """A name that is taken, a key that cosigns checkpoints, and the end or another key of a witness that there isn't."""
    voices = house.mentors(2)
    cosigner = Person("mia")
    vkey = note.VerifierKey.of("cosigner.example", note.COSIGNATURE, cosigner.signer.public_key).format()
    wanted = system.CheckpointWitnesses(c=1, cosigners=(system.Cosigner(vkey=vkey, url=None),))
    sealed = house.proposal("quorum_policy", house.quorum_policy(2, checkpoint_witnesses=wanted))
    house.place(house.attested(sealed, *voices))
    mia = house.issue(Person("mia"), Loa.MENTOR)
    voice = Person("mia")
    same_name = house.enrolment(mia, voice.signer, name=voices[0].owner_id.title())
    change = house.proposal("trusted_witness", same_name)
    assert refused(Code.WITNESS_TAKEN, house.place, house.attested(change, *voices, voice)).field == "$.payload.name"
    change = house.proposal("trusted_witness", house.enrolment(mia, cosigner.signer))
    assert refused(Code.WITNESS_TAKEN, house.place, house.attested(change, *voices, cosigner)).field == "$.payload.key"
    for action in ("rotate", "revoke"):
        change = house.proposal("trusted_witness", house.enrolment(mia, voice.signer, action=action))
        nobody = house.attested(change, *voices, *((voice,) if action == "rotate" else ()))
        refused(Code.WITNESS_UNKNOWN, house.place, nobody)


def test_genesis_that_founds_nothing(house):
    """With a past, links or witnesses; for another tenant; a key in two roles, or that anybody can sign with; signed by somebody else; and
    what is no genesis."""
    genesis = record.check(house.log[0]).payload
    services = dict(genesis.services)
    neutral = (1).to_bytes(32, "little").hex()
    root = house.root.signer.public_key
    as_log = note.VerifierKey.of(house.origin, note.ED25519, root).format()
    link = record.Link(label="genesis", target="x")

    def found(code, *, field=None, signer=None, wrap=lambda signed: signed, core=None, **changes):
        payload = msgspec.structs.replace(genesis, **changes)
        signed = wrap(house.proposal("genesis", payload, signer, **({"prev": None} | (core or {}))))
        caught = refused(code, admission.check_genesis, record.check(signed))
        assert field in {None, caught.field}

    found(Code.RECORD_INVALID, field="$.header.core", core={"prev": house.state.genesis_hash})
    found(Code.RECORD_INVALID, field="$.header.core", core={"links": (link,)})
    found(Code.RECORD_INVALID, field="$.header.core", wrap=lambda signed: house.attested(signed, Person("mia")))
    found(Code.RECORD_INVALID, field="$.payload.tenant", tenant="other")
    found(Code.RECORD_INVALID, field="$.payload.services", services=services | {"notary": services["license"]})
    found(Code.RECORD_INVALID, field="$.payload.services", services=services | {"notary": root.hex()})
    found(Code.RECORD_INVALID, field="$.payload.services", log=as_log)
    found(Code.WEAK_KEY, services=services | {"notary": neutral})
    found(Code.KEY_NOT_ALLOWED, signer=Person("mallory").signer)
    other = house.proposal("model_config", house.new_model(), prev=None)
    refused(Code.NOT_BOOTSTRAPPED, admission.check_genesis, record.check(other))


def test_witness_without_a_mentor_licence(house):
    """An operator is no witness."""
    voice = Person("ada")
    enrol = house.enrolment(house.operator, voice.signer)
    refused(Code.LICENSE_INVALID, house.place, house.attested(house.proposal("trusted_witness", enrol), voice))


@pytest.mark.parametrize(("k", "n"), [(2, 1), (4, 3), (5, 4), (32, 4)])
def test_threshold_above_n(house, k, n):
    """A quorum that nobody can reach is refused, in the policy and for a single kind."""
    mentors = house.mentors(n)
    for policy in (house.quorum_policy(k), house.quorum_policy(n, kinds={"model_config": k})):
        change = house.proposal("quorum_policy", policy)
        refused(Code.THRESHOLD_INVALID, house.place, house.attested(change, *mentors))


@pytest.mark.parametrize(("k", "n"), [(1, 2), (2, 4)])
def test_threshold_that_is_no_quorum(house, k, n):
    """Not more than half of n is refused: two quorums must meet."""
    mentors = house.mentors(n)
    change = house.proposal("quorum_policy", house.quorum_policy(k))
    refused(Code.THRESHOLD_INVALID, house.place, house.attested(change, *mentors))


def written(house, kind, plain):
    """A system record of Root's over any payload whatever, which the ordinary road wouldn't build."""
    signed = house.proposal("model_config", house.new_model())
    core = msgspec.structs.replace(record.check(signed).core, kind=kind)
    payload = plain if isinstance(plain, bytes) else canonical.encode(plain)
    salt = bytes.fromhex(signed.salt)
    core = msgspec.structs.replace(core, payload_hash=digest.payload_hash(salt, payload))
    return record.seal(core, payload, salt, house.root.signer)


@pytest.mark.parametrize("k", [0, -1], ids=["threshold 0", "threshold negative"])
def test_threshold_0_or_negative(house, k):
    """A threshold below one can't be expressed: the record itself is invalid, and so is an override below one."""
    mentors = house.mentors(1)
    for policy in (house.quorum_policy(k), house.quorum_policy(1, kinds={"model_config": k})):
        change = house.proposal("quorum_policy", policy)
        refused(Code.RECORD_INVALID, house.place, house.attested(change, *mentors))


@pytest.mark.parametrize("k", [None, "", "2", 1.5, True, [], 10**30], ids=repr)
def test_threshold_missing(house, k):
    """No threshold, or something that is no whole number, is no policy: nothing is read as a default."""
    mentors = house.mentors(1)
    plain = msgspec.to_builtins(house.quorum_policy(1))
    without = {name: value for name, value in plain.items() if name != "k"}
    bodies = (
        [without, {**plain, "k": k}] if k != 10**30 else [canonical.encode(without)[:-1] + b',"k":1' + b"0" * 30 + b"}"]
    )
    for body in bodies:
        refused(Code.RECORD_INVALID, house.place, house.attested(written(house, "quorum_policy", body), *mentors))
    assert not house.state.sealed


def test_policy_record_missing(house):
    """Without a quorum_policy nothing but witnesses and the policy itself is taken, with every voice in the house."""
    mentors = house.mentors(3)
    rules = system.AccessPolicyChange(policy=house.state.policy, expires_at=house.later())
    key = system.ServiceKey(
        service="quorum", key=signing.Ed25519Signer.generate().public_key.hex(), expires_at=house.later()
    )
    for kind, payload in (("model_config", house.new_model()), ("access_policy", rules), ("service_key", key)):
        refused(Code.NOT_SEALED, house.place, house.attested(house.proposal(kind, payload), *mentors))


@pytest.mark.parametrize("kind", ["quorum_policy", "access_policy"])
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b"null",
        b"[]",
        b"{",
        b"\xff",
        b'{"k":1}',
        b'{"k":1,"k":2}',
        b'{ "k":1}',
        b'{"policy":{}}',
        b'{"policy":null}',
    ],
    ids=repr,
)
def test_policy_record_empty_or_malformed(house, kind, body):
    """A policy that is empty, half, in another spelling or no JSON at all is refused as it stands, and what was in force stays."""
    mentors = house.mentors(3)
    house.seal(mentors, 2)
    before = (house.state.quorum, house.state.policy)
    refused(Code.RECORD_INVALID, house.place, house.attested(written(house, kind, body), *mentors))
    assert (house.state.quorum, house.state.policy) == before


@pytest.mark.parametrize("kind", ["quorum_policy", "access_policy"])
def test_policy_record_with_more_than_it_says(house, kind):
    """A field that this version doesn't know might change what the others mean: refused."""
    mentors = house.mentors(1)
    plain = msgspec.to_builtins(
        house.quorum_policy(1)
        if kind == "quorum_policy"
        else system.AccessPolicyChange(policy=house.state.policy, expires_at=house.later())
    )
    refused(Code.RECORD_INVALID, house.place, house.attested(written(house, kind, {**plain, "extra": 1}), *mentors))


def test_seal_with_no_witnesses(house):
    """Root alone can't seal the system with itself."""
    refused(Code.THRESHOLD_INVALID, house.place, house.proposal("quorum_policy", house.quorum_policy(1)))


def test_override_that_lowers_the_quorum(house):
    """A kind's own k only raises."""
    mentors = house.mentors(4)
    change = house.proposal("quorum_policy", house.quorum_policy(3, kinds={"model_config": 2}))
    refused(Code.THRESHOLD_INVALID, house.place, house.attested(change, *mentors))


def test_witnesses_removed_below_the_quorum(house):
    """A registry that can't reach k any more is refused."""
    mentors = house.mentors(3)
    house.seal(mentors, 3)
    gone = house.enrolment(mentors[0], mentors[0].signer, action="revoke")
    refused(Code.THRESHOLD_INVALID, house.place, house.attested(house.proposal("trusted_witness", gone), *mentors))


def test_policy_change_judged_by_the_set_after_it(house):
    """Lowering k needs the k before it."""
    mentors = house.mentors(3)
    house.seal(mentors, 3)
    change = house.proposal("quorum_policy", house.quorum_policy(2))
    refused(Code.QUORUM_NOT_SATISFIED, house.place, house.attested(change, *mentors[:2]))


def test_two_proposals_on_one_head(house):
    """The second to commit is stale: attestations don't carry over."""
    mentors = house.mentors(3)
    house.seal(mentors, 2)
    first = house.attested(house.proposal("model_config", house.new_model("first")), *mentors[:2])
    second = house.attested(house.proposal("model_config", house.new_model("second")), *mentors[:2])
    house.place(first)
    stale = refused(Code.STALE_PREV, house.place, second)
    assert stale.detail["head"] == house.state.system_head


def test_proposal_committed_after_it_expired(house):
    """Attested in time, committed too late: refused."""
    mentors = house.mentors(3)
    house.seal(mentors, 2)
    payload = msgspec.structs.replace(house.new_model(), expires_at=house.later(60_000))
    change = house.attested(house.proposal("model_config", payload), *mentors[:2])
    house.clock.advance(60_000)
    refused(Code.PROPOSAL_EXPIRED, house.place, change)


def test_model_before_the_seal(house):
    """Until sealed, the system takes witnesses and the quorum policy only."""
    refused(Code.NOT_SEALED, house.place, house.proposal("model_config", house.new_model()))


def test_policy_that_lowers_a_rung(house):
    """A policy may raise a rung and never lower it."""
    mentors = house.mentors(1)
    house.seal(mentors, 1)
    lowered = system.AccessPolicyChange(
        policy=msgspec.structs.replace(house.state.policy, version="low", rungs={"license/create": Loa.OPERATOR}),
        expires_at=house.later(),
    )
    change = house.attested(house.proposal("access_policy", lowered), *mentors)
    refused(Code.RECORD_INVALID, house.place, change)


# Records


def test_record_re_signed_with_a_key_of_its_own(house):
    """A key found in a record proves nothing: the log doesn't let it speak."""
    granted = house.granted(house.operator, "memory/write")
    refused(Code.KEY_NOT_ALLOWED, house.place, house.memory(granted, signer=signing.Ed25519Signer.generate()))


def test_service_key_where_an_instance_key_belongs(house):
    """A service's long-lived key signs introductions only."""
    granted = house.granted(house.operator, "memory/write")
    refused(Code.KEY_NOT_ALLOWED, house.place, house.memory(granted, signer=house.services["knowledge"]))


def test_instance_introduced_by_another_service(house):
    """knowledge can't introduce an instance of the gatekeeper."""
    payload = audit.InstanceOpened(
        service="gatekeeper",
        instance="x",
        key=signing.Ed25519Signer.generate().public_key.hex(),
        settings_digest="0" * 64,
    )
    refused(Code.KEY_NOT_ALLOWED, house.append, "instance_opened", payload, house.services["knowledge"])


def test_ended_instance_writes_nothing(house):
    """A key that was replaced has no voice after its end, and keeps its past."""
    old = house.instances["knowledge"]
    house.instances["knowledge"] = signing.Ed25519Signer.generate()
    payload = audit.InstanceOpened(
        service="knowledge",
        instance="1",
        key=house.instances["knowledge"].public_key.hex(),
        settings_digest="0" * 64,
    )
    house.append("instance_opened", payload, house.services["knowledge"])
    granted = house.granted(house.operator, "memory/write")
    refused(Code.KEY_NOT_ALLOWED, house.place, house.memory(granted, signer=old))
    house.place(house.memory(granted))


# Keys over time


def test_old_service_key_introduces_an_instance(house):
    """After its rotation a service's old key has no say, and neither have the instances it had introduced."""
    before = house.instances["knowledge"]
    old = house.rotate_service("knowledge")
    refused(Code.KEY_NOT_ALLOWED, house.introduce, "knowledge", old)
    granted = house.granted(house.operator, "memory/write")
    refused(Code.KEY_NOT_ALLOWED, house.place, house.memory(granted, signer=before))
    house.place(house.memory(granted))


def test_old_service_key_enrolled_again(house):
    """A key that ended never comes back, not even by the quorum."""
    old = house.rotate_service("knowledge")
    again = system.ServiceKey(service="knowledge", key=old.public_key.hex(), expires_at=house.later())
    refused(Code.WITNESS_TAKEN, house.change, "service_key", again)


def test_permit_of_a_gatekeeper_key_that_ended(house):
    """What the gatekeeper's old key sealed opens nothing after the rotation: sessions and permits are made anew."""
    granted = house.granted(house.operator, "memory/write")
    old = house.rotate_service("gatekeeper")
    assert house.bound(granted)
    refused(Code.PERMIT_INVALID, house.bound, granted, signer=old)


def test_stolen_instance_key_after_its_end(house):
    """Whoever holds a revoked instance's key writes nothing with it: no record of its kinds, and no farewell."""
    stolen = house.instances["knowledge"]
    granted = house.granted(house.operator, "memory/write")
    house.revoke_key(stolen)
    refused(Code.KEY_NOT_ALLOWED, house.place, house.memory(granted))
    beat = audit.InstanceBeat(records=1, closing=True)
    refused(Code.KEY_NOT_ALLOWED, house.append, "instance_beat", beat, stolen)
    refused(Code.WITNESS_TAKEN, house.introduce, "knowledge", None, stolen)
    house.introduce("knowledge")
    house.place(house.memory(granted))


def test_revoked_service_key_introduces_an_instance(house):
    """A revoked service's key ends its instances and introduces none; only the quorum gives the service a voice again."""
    stolen, instance = house.services["knowledge"], house.instances["knowledge"]
    granted = house.granted(house.operator, "memory/write")
    house.revoke_key(stolen, "service")
    assert house.state.service_key("knowledge") is None
    assert not house.state.key(instance.key_id).active
    refused(Code.KEY_NOT_ALLOWED, house.introduce, "knowledge")
    refused(Code.KEY_NOT_ALLOWED, house.introduce, "knowledge", house.services["quorum"])
    refused(Code.KEY_NOT_ALLOWED, house.place, house.memory(granted))
    house.rotate_service("knowledge")
    refused(Code.KEY_NOT_ALLOWED, house.introduce, "knowledge", stolen)
    house.place(house.memory(granted))


def test_revocation_backwards(house):
    """A revocation acts from its own position: what the key wrote before stands, and verifies for who replays the log."""
    before = house.remember(house.operator)
    house.revoke_key(house.instances["knowledge"])
    entry = house.state.key(before.header.key_id)
    assert (entry.active, entry.until_seq) == (False, len(house.log) - 1)
    oracle.check(house.placed(), house.checkpoint(), house.state.genesis_hash)
    assert verify.verified(verify.verify(house.bundle(before.core.id), house.state.genesis_hash))


def test_licences_of_a_seal_key_that_ended(house):
    """Licences sealed before the license service's key was revoked stay valid, and the stolen key seals nothing that counts."""
    stolen = house.services["license"]
    house.revoke_key(stolen, "service")
    assert licence.validate(house.operator.toml, house.state, house.now_ms).valid
    forged = licence.seal(msgspec.structs.replace(house.operator.table, id=ids.new()), stolen)
    validation = licence.validate(licence.to_toml(forged), house.state, house.now_ms)
    assert validation.reasons == (licence.Reason.NEVER_ISSUED,)


def renewal(house, old, by="license/renew", link=True, **changes):
    """Write the renewal of a licence, as a license service that went wrong might."""
    request, decided = house._permission(by)
    later = clock.format_ms(house.now_ms + 60 * 86_400_000)
    table = msgspec.structs.replace(old.table, **({"id": ids.new(), "expires_at": later} | changes))
    signature = licence.root_sign(old.table, house.root.signer)  # all of Root's that a thief can have
    payload = audit.LicenceIssued(
        license=table,
        content_hash=licence.content_hash(table),
        seal_key_id=house.services["license"].key_id,
        root_signature=signature,
        request=request,
    )
    links = [decided, record.Link(label="renews", target=old.table.id)] if link else [decided]
    return house.append("license_issued", payload, house.instances["license"], links=links)


def test_renewal_that_makes_somebody_more(house):
    """With Root's decision to renew, a license service that went wrong makes no other owner, key, level or scope of it."""
    guest = house.issue(Person("gus"), Loa.GUEST, scope=("trust/*",))
    key = signing.Ed25519Signer.generate().public_key.hex()
    for change in (
        {"loa": Loa.OPERATOR},
        {"scope": ("*",)},
        {"owner": msgspec.structs.replace(guest.table.owner, id="eve")},
        {"owner": msgspec.structs.replace(guest.table.owner, key=key)},
        {"expires_at": guest.table.expires_at},
    ):
        refused(Code.RECORD_INVALID, renewal, house, guest, **change)
    refused(Code.RECORD_INVALID, renewal, house, guest, link=False)
    refused(Code.RECORD_INVALID, renewal, house, guest, by="license/create")
    written = renewal(house, guest)
    assert house.state.issued(written.payload.license.id).renews == guest.licence_id


def test_renewal_of_what_ended_or_never_was(house):
    """Revoked is for good; Root's licence comes from genesis only; and a mentor's isn't renewed by its old signature."""
    gone, mentor = house.issue(Person("gone"), Loa.OBSERVER), house.issue(Person("mia"), Loa.MENTOR)
    house.revoke(gone)
    refused(Code.LICENSE_REVOKED, renewal, house, gone)
    refused(Code.ROOT_IS_SINGLE, renewal, house, house.root)
    refused(Code.SIGNATURE_INVALID, renewal, house, mentor)
    never = Person("never")
    never.table = msgspec.structs.replace(house.operator.table, id=ids.new())
    refused(Code.LICENSE_NOT_FOUND, renewal, house, never)


def test_keys_that_revocation_does_not_end(house):
    """Root's key is ended by nothing; a witness's voice isn't Root's to take alone; the log's key only makes way for another."""
    (mentor,) = house.mentors(1)
    for key, role in ((house.root.signer, "service"), (mentor.signer, "instance"), (house.writer, "service")):
        refused_only(Code.KEY_NOT_REVOCABLE, house.revoke_key, key, role)
    refused_only(Code.KEY_UNKNOWN, house.revoke_key, signing.Ed25519Signer.generate())
    refused_only(Code.RECORD_INVALID, house.revoke_key, house.instances["knowledge"], "service")
    house.revoke_key(house.instances["knowledge"])
    refused_only(Code.KEY_ENDED, house.revoke_key, house.instances["knowledge"])


def test_key_revoked_without_a_decision(house):
    """Nobody ends a key but by a decision of the gate for `keys/revoke`."""
    request, link = house._permission("license/revoke")
    payload = audit.KeyRevoked(key_id=house.instances["knowledge"].key_id, role="instance", reason="", request=request)
    refused(Code.DECISION_UNKNOWN, house.append, "key_revoked", payload, house.instances["license"])
    refused(Code.KIND_NOT_ALLOWED, house.append, "key_revoked", payload, house.instances["license"], links=[link])
    refused(Code.KIND_NOT_ALLOWED, house.append, "key_revoked", payload, house.instances["gatekeeper"], links=[link])


def test_checkpoint_by_the_logs_old_key(house):
    """From the rotation on the log's old key signs nothing that covers it, and the new one nothing that is older."""
    earlier = house.checkpoint()
    size = len(house.log)
    old = house.rotate_log()
    with pytest.raises(replay.Diverged, match="checkpoint"):
        oracle.check(house.placed(), house.checkpoint(old), house.state.genesis_hash)
    assert checkpoint.open_by_size(earlier, house.state.log_key_at).size == size
    backdated = checkpoint.sign(checkpoint.parse_text(note.parse(earlier).text), house.writer)
    with pytest.raises(note.SignatureError):
        checkpoint.open_by_size(backdated, house.state.log_key_at)


def test_bundle_under_the_logs_old_key(house):
    """A bundle after a rotation shows which records gave the log its key; without them, or by the old key, it doesn't verify."""
    kept = house.remember(house.operator)
    old = house.rotate_log()
    house.rotate_log()
    bundle = house.bundle(kept.core.id)
    pinned = house.state.genesis_hash
    assert verify.verified(verify.verify(bundle, pinned))
    assert not verify.verified(verify.verify(msgspec.structs.replace(bundle, log=()), pinned))
    assert not verify.verified(verify.verify(msgspec.structs.replace(bundle, log=bundle.log[:-1]), pinned))
    house.writer, newest = old, house.writer
    assert not verify.verified(verify.verify(house.bundle(kept.core.id), pinned))
    house.writer = newest


def test_log_key_of_another_log_or_role(house):
    """The log's key names this log, and speaks in no other role."""
    stranger = signing.Ed25519Signer.generate()
    keys = (
        (Code.RECORD_INVALID, note.VerifierKey.of("elsewhere.example", note.ED25519, stranger.public_key)),
        (Code.RECORD_INVALID, note.VerifierKey.of(house.origin, note.COSIGNATURE, stranger.public_key)),
        (Code.WITNESS_TAKEN, note.VerifierKey.of(house.origin, note.ED25519, house.services["quorum"].public_key)),
        (Code.WITNESS_TAKEN, note.VerifierKey.of(house.origin, note.ED25519, house.writer.public_key)),
    )
    for code, key in keys:
        payload = system.LogKey(vkey=key.format(), expires_at=house.later())
        refused_only(code, house.change, "log_key", payload)
    quorum = system.ServiceKey(service="quorum", key=house.writer.public_key.hex(), expires_at=house.later())
    refused_only(Code.WITNESS_TAKEN, house.change, "service_key", quorum)


def test_log_key_without_a_quorum(house):
    """Root alone doesn't change who signs the log."""
    mentors = house.mentors(2)
    house.seal(mentors, 2)
    vkey = note.VerifierKey.of(house.origin, note.ED25519, signing.Ed25519Signer.generate().public_key).format()
    change = house.proposal("log_key", system.LogKey(vkey=vkey, expires_at=house.later()))
    refused(Code.QUORUM_NOT_SATISFIED, house.place, house.attested(change, mentors[0]))


def test_small_order_key_enrolled(house):
    """A small-order public key, for which anyone can sign, is refused where it is enrolled."""
    mentor = house.issue(Person("mentor-1"), Loa.MENTOR)
    neutral = (1).to_bytes(32, "little").hex()
    enrol = msgspec.structs.replace(house.enrolment(mentor, mentor.signer), key=neutral)
    refused(Code.WEAK_KEY, house.place, house.proposal("trusted_witness", enrol))


def test_audit_chain_with_a_hole(house):
    """An instance's chain can't skip a record."""
    batch = audit.DecisionBatch(decisions=(decision.freeze(house.judge(house.operator, "ping")),))
    gatekeeper = house.instances["gatekeeper"]
    refused(Code.STALE_PREV, house.append, "decision_batch", batch, gatekeeper, prev=None)


def test_thing_with_a_forked_past(house):
    """A new version of a thing continues its newest version."""
    house.remember(house.operator)
    granted = house.granted(house.operator, "memory/write")
    refused(Code.STALE_PREV, house.place, house.memory(granted, prev=None))


def test_payload_swapped_under_its_header(house):
    """Another payload, or the same with another salt, is not what was signed."""
    signed = house.memory(house.granted(house.operator, "memory/write"))
    other = house.memory(house.granted(house.operator, "memory/write"), text="else")
    refused(Code.RECORD_INVALID, record.check, msgspec.structs.replace(signed, payload=other.payload))
    refused(Code.RECORD_INVALID, record.check, msgspec.structs.replace(signed, salt=os.urandom(16).hex()))


def test_header_in_another_spelling(house):
    """The same header with one space, or a key given twice, is not canonical and is refused."""
    signed = house.memory(house.granted(house.operator, "memory/write"))
    header = bytes(signed.header)
    spaced = header.replace(b'"core":', b'"core": ', 1)
    doubled = b'{"core":{},' + header[1:]
    for bent in (spaced, doubled):
        refused(Code.RECORD_INVALID, record.check, msgspec.structs.replace(signed, header=msgspec.Raw(bent)))


def test_signature_replayed_as_another_kind_of_document(house):
    """A signature over a record's bytes with another DSSE type is not the record's signature."""
    signed = house.memory(house.granted(house.operator, "memory/write"))
    header, core_bytes = record.open_header(bytes(signed.header))
    moved = signing.sign_typed(house.instances["knowledge"], signing.LICENSE, core_bytes)
    bent = msgspec.structs.replace(header, sig=signing.signature_text(moved))
    with pytest.raises(Refused) as caught:
        record.verify_author(bent, core_bytes, house.instances["knowledge"].public_key)
    assert caught.value.code is Code.SIGNATURE_INVALID
