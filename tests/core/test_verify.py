"""`sigil verify` offline: six steps, and the one that fails is named."""

import msgspec
import pytest

from sigilcore import canonical, record, verify
from sigilcore.access import Loa
from tests.simulator import House, Person


@pytest.fixture(scope="module")
def house():
    """A sealed house with one memory and one governed change."""
    built = House()
    operator = built.issue(Person("ada", keyed=False), Loa.OPERATOR)
    built.memory_id = built.remember(operator).core.id
    voices = built.mentors(3)
    built.seal(voices, 2)
    change = built.attested(built.proposal("model_config", built.new_model()), *voices[:2])
    built.change_id = built.place(change).core.id
    built.genesis_id = record.check(built.log[0]).core.id
    return built


def fails_at(bundle, number, pin=None):
    """The steps before hold, this one doesn't, and none is taken after it."""
    results = verify.verify(bundle, pin)
    assert [result.ok for result in results] == [True] * (number - 1) + [False] + [None] * (len(results) - number)
    return results[number - 1].detail


@pytest.mark.parametrize("which", ["memory_id", "change_id", "genesis_id"])
def test_true_bundle_verifies(house, which):
    """A user record, a system record and genesis itself, with the pin and through JSON."""
    bundle = verify.read(msgspec.json.encode(house.bundle(getattr(house, which))))
    assert verify.verified(verify.verify(bundle, house.state.genesis_hash))


def test_pin_of_another_genesis(house):
    """Step 2 holds the bundle to the pinned fingerprint."""
    assert "pinned" in fails_at(house.bundle(house.memory_id), 2, "0" * 64)


def test_genesis_signed_by_another_root(house):
    """A genesis whose signature isn't its own Root's."""
    bundle = house.bundle(house.memory_id)
    bent = msgspec.json.decode(msgspec.json.encode(bundle.genesis))
    bent["header"]["sig"] = bundle.record["header"]["sig"]
    fails_at(msgspec.structs.replace(bundle, genesis=bent), 2)


def test_payload_with_one_changed_letter(house):
    """Step 3: the payload hash doesn't match."""
    bundle = house.bundle(house.memory_id)
    bent = {**bundle.record, "payload": {**bundle.record["payload"], "text": "Text"}}
    assert "payload_hash" in fails_at(msgspec.structs.replace(bundle, record=bent), 3)


def test_proof_of_another_record(house):
    """Step 4: this record is not at that place."""
    bundle = msgspec.structs.replace(house.bundle(house.memory_id), proof=house.bundle(house.change_id).proof)
    fails_at(bundle, 4)


def test_checkpoint_signed_by_another_log(house):
    """Step 4: a checkpoint of a log that genesis doesn't name."""
    other = House()
    operator = other.issue(Person("ada", keyed=False), Loa.OPERATOR)
    strange = other.bundle(other.remember(operator).core.id)
    fails_at(msgspec.structs.replace(strange, genesis=house.bundle(house.memory_id).genesis), 4)


def test_author_that_nothing_introduces(house):
    """Step 5: without the introduction, a key is only a key."""
    fails_at(msgspec.structs.replace(house.bundle(house.memory_id), evidence=()), 5)


def test_system_record_with_evidence_left_out(house):
    """Step 5: without the seal, the change's witnesses are nobody's."""
    bundle = house.bundle(house.change_id)
    fails_at(msgspec.structs.replace(bundle, evidence=bundle.evidence[:-1]), 5)


@pytest.mark.parametrize(
    "data", [b"", b"{}", b"[1]", b"\xff", b'{"format":"sigil-bundle/2"}', b'{"format":1,"format":2}']
)
def test_what_is_no_bundle(data):
    """Unreadable is told apart from false."""
    with pytest.raises(verify.Unreadable):
        verify.read(data)


def test_canonical_form_is_made_again(house):
    """A bundle may come pretty-printed: what counts are the values, and their canonical bytes."""
    bundle = house.bundle(house.memory_id)
    pretty = msgspec.json.format(msgspec.json.encode(bundle), indent=4)
    assert canonical.parse(pretty) == canonical.parse(msgspec.json.encode(bundle))
    assert verify.verified(verify.verify(verify.read(pretty), house.state.genesis_hash))
