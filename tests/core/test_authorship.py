"""Whose signature may stand where, told by the fold of what governs alone."""

import os

import msgspec
import pytest

from sigilcore import authorship, canonical, governance, ids, record, records, signing
from sigilcore.access import Loa
from sigilcore.records import audit, user
from sigilcore.refusals import Code, Refused
from tests.simulator import HASH, TENANT, House, Person


def judged(house, seq, signed, *, erased=False):
    """Check a record at a place, with the fold of what governs only."""
    state = governance.Governance()
    for at, one in enumerate(house.log):
        checked = record.check(one)
        if checked.kind.governs:
            state.apply(at, checked)
    header, core_bytes = record.open_header(bytes(signed.header))
    kind = records.REGISTRY.get(header.core.kind)
    subject = None if erased or kind is None else kind.subject(record.check(signed).payload)
    authorship.check(state, seq, header, core_bytes, subject)


def refusal(house, seq, signed):
    with pytest.raises(Refused) as refused:
        judged(house, seq, signed)
    return refused.value.code


@pytest.fixture
def house():
    """A few memories of ada's, sealed, with a licence revoked on the way."""
    made = House()
    ada = made.issue(Person("ada"), Loa.OPERATOR)
    bob = made.issue(Person("bob"), Loa.OPERATOR)
    made.remember(ada, "one")
    made.revoke(bob)
    made.remember(ada, "two")
    made.voices = made.mentors(2)
    made.seal(made.voices, 2)
    made.ada = ada
    return made


def memory_of(house, **changes):
    return house.memory(house.granted(house.ada, "memory/write"), **changes)


def test_every_record_of_an_honest_log_is_its_authors(house):
    """From genesis to seal, at its own place, erased or not."""
    for seq, signed in enumerate(house.log):
        judged(house, seq, signed)
        judged(house, seq, signed, erased=True)


def test_a_signature_over_other_bytes_is_refused(house):
    """The core changed after it was signed."""
    header, _ = record.open_header(bytes(house.log[-1].header))
    core = msgspec.structs.replace(header.core, ts="2031-01-01T00:00:00.000Z")
    lie = msgspec.structs.replace(header, core=core, hash=record.digest.sha256_hex(canonical.of(core)))
    signed = msgspec.structs.replace(house.log[-1], header=msgspec.Raw(canonical.of(lie)))
    assert refusal(house, len(house.log) - 1, signed) is Code.SIGNATURE_INVALID


def test_a_service_writes_its_own_kinds_only(house):
    """A memory by the gatekeeper's instance, by knowledge's service key, and a system record by an instance."""
    for signer in (house.instances["gatekeeper"], house.services["knowledge"], house.root.signer):
        assert refusal(house, len(house.log), memory_of(house, signer=signer)) is Code.KEY_NOT_ALLOWED
    change = house.proposal("model_config", house.new_model(), house.instances["quorum"])
    assert refusal(house, len(house.log), change) is Code.KEY_NOT_ALLOWED


def test_a_key_speaks_between_its_introduction_and_its_end_only(house):
    """An instance that was replaced said what it said; after its end it says nothing, and before its introduction nothing either."""
    old, place = memory_of(house), len(house.log)
    house.place(old)
    key = signing.Ed25519Signer.generate()
    service = house.services["knowledge"]
    opened = audit.InstanceOpened(service="knowledge", instance="1", key=key.public_key.hex(), settings_digest=HASH)
    house.append("instance_opened", opened, service)
    judged(house, place, old)
    new = memory_of(house, signer=key)
    judged(house, len(house.log), new)
    assert refusal(house, len(house.log), old) is Code.KEY_NOT_ALLOWED
    assert refusal(house, place, new) is Code.KEY_NOT_ALLOWED


def value_of(house, person, owner):
    """A finished record that a person signed."""
    payload = user.UserValue(owner=owner, key="k", value=1, request=None)
    return record.build(
        "user_value",
        payload,
        id=ids.new(),
        tenant=TENANT,
        ts=house.later(0),
        space="user",
        signer=person.signer,
        salt=os.urandom(16),
    )


def test_a_person_signs_what_is_theirs_while_their_licence_stands(house):
    """Ada's own value counts; one of Root's by ada doesn't, nor one before her licence, nor one after it was revoked."""
    place = len(house.log)
    judged(house, place, value_of(house, house.ada, "ada"))
    assert refusal(house, place, value_of(house, house.ada, "root")) is Code.KEY_NOT_ALLOWED
    assert refusal(house, 3, value_of(house, house.ada, "ada")) is Code.KEY_NOT_ALLOWED
    house.revoke(house.ada)
    judged(house, place, value_of(house, house.ada, "ada"))
    assert refusal(house, len(house.log), value_of(house, house.ada, "ada")) is Code.KEY_NOT_ALLOWED
    assert refusal(house, place, value_of(house, Person("mallory"), "mallory")) is Code.KEY_NOT_ALLOWED


def test_a_person_may_be_a_witness_or_root_besides(house):
    """What their licence's key signs is theirs, though the log knows the key in another role."""
    mia = house.issue(Person("mia"), Loa.MENTOR)
    enrolled = house.proposal("trusted_witness", house.enrolment(mia, mia.signer))
    house.place(house.attested(enrolled, *house.voices, mia))
    for person in (mia, house.root):
        judged(house, len(house.log), value_of(house, person, person.owner_id))
        assert refusal(house, len(house.log), value_of(house, person, "ada")) is Code.KEY_NOT_ALLOWED
    house.revoke(mia)
    assert refusal(house, len(house.log), value_of(house, mia, "mia")) is Code.KEY_NOT_ALLOWED


def test_another_tenants_record_is_nobodys(house):
    """A good signature over another tenant's name."""
    assert refusal(house, len(house.log), memory_of(house, tenant="other")) is Code.RECORD_INVALID
