"""The fold of the log: what it remembers, and that a tentative step can be undone exactly."""

import copy

import pytest

from sigilcore import governance, record, signing
from sigilcore.access import Loa
from sigilcore.records import audit
from tests.simulator import House, Person


def snapshot(state):
    """Everything that the fold holds, by value."""
    return copy.deepcopy({name: value for name, value in vars(state).items() if name != "_journal"})


def folded(house):
    """The fold made anew from the log."""
    state = governance.Governance()
    for seq, signed in enumerate(house.log):
        state.apply(seq, record.check(signed))
    return state


@pytest.fixture
def house():
    """A sealed house with some life in it."""
    built = House()
    built.operator = built.issue(Person("ada", keyed=False), Loa.OPERATOR)
    built.voices = built.mentors(3)
    built.seal(built.voices, 3)
    built.revoke(built.operator)
    return built


def test_fold_of_the_log_is_the_running_state(house):
    """Law 10 for the fold itself: made anew from seq 0, it is equal."""
    assert snapshot(folded(house)) == snapshot(house.state)


def test_tentative_application_is_undone_exactly(house):
    """Whatever a record moved (keys, instances, witnesses, licences, heads), an undone application leaves no trace."""
    before = snapshot(house.state)
    for signed in house.log[1:]:
        checked = record.check(signed)
        with pytest.raises(ZeroDivisionError), house.state.tentative():  # noqa: PT012 - the fold moves, then fails
            house.state.apply(len(house.log), checked)
            raise ZeroDivisionError
        assert snapshot(house.state) == before, checked.core.kind


def test_tentative_application_that_succeeds_stays(house):
    """Without an exception the step is taken."""
    payload = audit.SessionClosed(session_id="s", owner_id="ada")
    with house.state.tentative():
        house.append("session_closed", payload, house.instances["gatekeeper"])
    assert house.state.session_closed("s")


def test_a_rotated_service_key_ends_its_instances(house):
    """The old key and everything it introduced lose their voice at that position, and keep their past."""
    old_instance = house.instances["knowledge"].key_id
    fresh = signing.Ed25519Signer.generate()
    payload = record.records.system.ServiceKey(
        service="knowledge", key=fresh.public_key.hex(), expires_at=house.later()
    )
    placed = len(house.log)
    house.place(house.attested(house.proposal("service_key", payload), *house.voices))
    assert house.state.service_key("knowledge") == fresh.public_key
    assert house.state.keys[old_instance].until_seq == placed
    assert house.state.keys[house.services["knowledge"].key_id].until_seq == placed


def test_a_witness_that_left_keeps_its_history(house):
    """Revoked at a position, still named before it."""
    fourth = house.enrol("mentor-4", house.voices)
    gone = house.enrolment(fourth, fourth.signer, action="revoke")
    house.place(house.attested(house.proposal("trusted_witness", gone), *house.voices))
    assert "mentor-4" not in house.state.active_witnesses()
    entries = [entry for entry in house.state.witness_history.values() if entry.witness_id == "mentor-4"]
    assert [entry.until_seq for entry in entries] == [len(house.log) - 1]
