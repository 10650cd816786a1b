"""What the quorum service wrote of a proposal is held to the signatures of those who spoke, though nothing was committed."""

import msgspec
import pytest

from sigilcore import ids, record, signing
from sigilcore.access import Loa
from sigilcore.records import audit
from tests.judging import agrees, diverges
from tests.simulator import House, Person


def proposing(checked):
    """The parameters of a call that proposes a record."""
    parts = {"core": checked.core_bytes.decode(), "payload": checked.payload_bytes.decode()}
    return msgspec.json.encode({"record": parts})


class Proposing(House):
    """A sealed house whose quorum service writes whatever it is told."""

    def __init__(self):
        super().__init__()
        self.voices = self.mentors(3)
        self.seal(self.voices, 2)

    def open(self, change, **said):
        """The opening of a proposal; `said` is what the service says otherwise."""
        checked = record.check(change)
        request, link = self._permission("quorum/propose", proposing(checked))
        carried = audit.CarriedRecord(
            header=checked.leaf.decode(), payload=checked.payload_bytes.decode(), salt=checked.salt.hex()
        )
        fields = {"proposal_id": ids.new(), "record": carried, "record_hash": checked.header.hash, "request": request}
        payload = audit.ProposalOpened(**(fields | said))
        self.append("proposal_opened", payload, self.instances["quorum"], links=[link])
        return payload.proposal_id

    def hear(self, name, change, voice, *, counted=True, **said):
        """The attestation of a person; where it stands."""
        spoken = record.witness(change, voice.owner_id, voice.signer)
        fields = msgspec.structs.asdict(spoken) | {"proposal_id": name, "counted": counted}
        self.append("proposal_attested", audit.ProposalAttested(**(fields | said)), self.instances["quorum"])
        return len(self.log) - 1

    def judged(self):
        """What replay says of the whole ledger."""
        return self.placed(), self.checkpoint()


@pytest.fixture
def house():
    """Three witnesses, and a change of the model that is never committed."""
    built = Proposing()
    built.wanted = built.proposal("model_config", built.new_model())
    built.name = built.open(built.wanted)
    return built


def joining(house):
    """A proposal that makes one more mentor a witness; its change, its id and the newcomer with their witness key."""
    mentor = house.issue(Person("new"), Loa.MENTOR)
    newcomer = Person("new")
    change = house.proposal("trusted_witness", house.enrolment(mentor, newcomer.signer))
    return change, house.open(change), newcomer


def test_honest_voices_agree(house):
    """Counted voices, a proof of possession, and a proposal that nobody heard of again."""
    house.hear(house.name, house.wanted, house.voices[0])
    house.hear(house.name, house.wanted, house.voices[1])
    change, name, newcomer = joining(house)
    house.hear(name, change, newcomer, counted=False)
    house.hear(name, change, house.voices[2])
    assert agrees(*house.judged()).records == len(house.log)


def test_attestation_that_nobody_signed(house):
    """The quorum service makes a voice up: never committed, and found."""
    seq = house.hear(house.name, house.wanted, house.voices[0], sig=signing.signature_text(bytes(64)))
    assert diverges(*house.judged())[:2] == (seq, "SIGNATURE_INVALID")


def test_attestation_of_another_proposal(house):
    """A true signature over one proposal doesn't speak for another."""
    other = house.proposal("model_config", house.new_model("third"))
    seq = house.hear(house.open(other), house.wanted, house.voices[0])
    assert diverges(*house.judged())[:2] == (seq, "SIGNATURE_INVALID")


def test_attestation_under_another_name(house):
    """One witness's signature as another's voice."""
    seq = house.hear(house.name, house.wanted, house.voices[0], witness_id=house.voices[1].owner_id)
    assert diverges(*house.judged())[:2] == (seq, "WITNESS_UNKNOWN")


@pytest.mark.parametrize("stranger", ["root", "eve"])
def test_attestation_by_no_witness(house, stranger):
    """Root, or somebody with a key of their own."""
    voice = house.root if stranger == "root" else Person("eve")
    seq = house.hear(house.name, house.wanted, voice)
    assert diverges(*house.judged())[:2] == (seq, "WITNESS_UNKNOWN")


def test_joining_key_that_proves_nothing(house):
    """A proof of possession over other bytes; or by a key that the proposal doesn't name; or for a change that no key joins by."""
    change, name, newcomer = joining(house)
    seq = house.hear(name, house.wanted, newcomer, counted=False)
    assert diverges(*house.judged())[:2] == (seq, "SIGNATURE_INVALID")
    for unproven in (Person("new"), house.voices[0]):
        again = Proposing()
        change, name, newcomer = joining(again)
        seq = again.hear(name, change, unproven, counted=False)
        assert diverges(*again.judged())[:2] == (seq, "WITNESS_UNKNOWN")


def test_joining_key_counted_as_a_voice(house):
    """Who isn't a witness yet has no voice, and a voice is no proof."""
    change, name, newcomer = joining(house)
    seq = house.hear(name, change, newcomer, counted=True)
    assert diverges(*house.judged())[:2] == (seq, "WITNESS_UNKNOWN")


def test_voice_heard_while_the_registry_moved(house):
    """A witness leaves between the signature and its record: the voice was one when the proposal was open. Later it isn't."""
    leaver = house.voices[2]
    change = house.enrolment(leaver, leaver.signer, action="revoke")
    house.place(house.attested(house.proposal("trusted_witness", change), *house.voices[:2]))
    house.hear(house.name, house.wanted, leaver)
    agrees(*house.judged())
    later = house.proposal("model_config", house.new_model("fourth"))
    seq = house.hear(house.open(later), later, leaver)
    assert diverges(*house.judged())[:2] == (seq, "WITNESS_UNKNOWN")


def test_attestation_of_nothing(house):
    """A voice for a proposal that was never opened."""
    seq = house.hear(ids.new(), house.wanted, house.voices[0])
    assert diverges(*house.judged())[:2] == (seq, "RECORD_INVALID")


def test_second_opening_under_one_id(house):
    """The first stands: voices can't be moved to another change by opening it anew."""
    other = house.proposal("model_config", house.new_model("third"))
    house.open(other, proposal_id=house.name)
    house.hear(house.name, house.wanted, house.voices[0])
    agrees(*house.judged())
    seq = house.hear(house.name, other, house.voices[1])
    assert diverges(*house.judged())[:2] == (seq, "SIGNATURE_INVALID")


def test_opening_that_root_didnt_sign(house):
    """A change that carries somebody else's signature; one whose hash is another's; one that isn't a system record."""
    stranger = house.proposal("model_config", house.new_model(), signer=signing.Ed25519Signer.generate())
    house.open(stranger)
    assert diverges(*house.judged())[:2] == (len(house.log) - 1, "KEY_NOT_ALLOWED")
    other = Proposing()
    other.open(other.proposal("model_config", other.new_model()), record_hash="0" * 64)
    assert diverges(*other.judged())[:2] == (len(other.log) - 1, "RECORD_INVALID")
    third = Proposing()
    third.open(third.log[0])
    assert diverges(*third.judged())[:2] == (len(third.log) - 1, "RECORD_INVALID")
