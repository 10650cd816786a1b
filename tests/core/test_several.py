"""Several changes in one record: each admitted as if it stood alone, on what those before it left; all of them, or none."""

import msgspec
import pytest

from cli import governed
from sigilcore import (
    canonical,
    checkpoint,
    difference,
    drafts,
    note,
    policy,
    record,
    replay,
    signing,
    trust,
    verify,
    voices,
)
from sigilcore.access import Loa
from sigilcore.governance import Governance
from sigilcore.records import REGISTRY, audit, system
from sigilcore.refusals import Code, Refused
from tests import oracle
from tests.core.test_attacks import refused, written
from tests.simulator import House, Person, plain


@pytest.fixture
def house():
    """Three witnesses who must all agree; its ledger is re-verified after whatever was tried."""
    built = House()
    built.voices = built.mentors(3)
    built.seal(built.voices, 3)
    yield built
    oracle.check(built.placed(), built.checkpoint(), built.state.genesis_hash)


def joining(house, name):
    """A mentor who is no witness yet, and their voice."""
    mentor, voice = house.issue(Person(name), Loa.MENTOR), Person(name)
    voice.table = mentor.table
    return mentor, voice


def revoking(house, voice):
    entry = house.state.active_witnesses()[voice.owner_id]
    return house.enrolment(voice, voice.signer, action="revoke", name=entry.name)


def proposed(house, *payloads, **changes):
    return house.proposal("changes", house.several(*payloads, **changes))


def agreed(house, *payloads, proofs=()):
    """All witnesses agree, and these keys prove themselves."""
    return house.place(house.attested(proposed(house, *payloads), *house.voices, *proofs))


def service_key(house, service="knowledge", key=None):
    public = (key or signing.Ed25519Signer.generate()).public_key.hex()
    return system.ServiceKey(service=service, key=public, expires_at=house.later())


# The kind


def test_what_may_stand_among_several():
    """All that governs but genesis, Root's own key, orders to erase, and several changes again; each under its own kind's name."""
    parts = {REGISTRY[part.__struct_config__.tag]: part for part in system.Part.__subclasses__()}
    assert all(part.__annotations__["payload"] is kind.payload for kind, part in parts.items())
    left_out = {kind.tag for kind in system.KINDS} - {kind.tag for kind in parts}
    assert left_out == {"genesis", "root_key", "erasure_order", "changes"}


@pytest.mark.parametrize("count", [0, 1, 17])
def test_two_to_sixteen(house, count):
    """One alone is a record of its own kind; more than sixteen nobody reads."""
    one = {"kind": "model_config", "payload": msgspec.to_builtins(house.new_model())}
    body = {"changes": [one] * count, "expires_at": house.later()}
    caught = refused(Code.RECORD_INVALID, house.place, written(house, "changes", body))
    assert caught.field.startswith("$.payload.changes")


@pytest.mark.parametrize(
    "kind", ["genesis", "root_key", "erasure_order", "changes", "license_issued", "nonsense", None]
)
def test_kinds_that_never_stand_there(house, kind):
    """What isn't for this list is no record at all, whoever signed it."""
    fine = {"kind": "model_config", "payload": msgspec.to_builtins(house.new_model())}
    body = {"changes": [fine, {"kind": kind, "payload": fine["payload"]}], "expires_at": house.later()}
    signed = written(house, "changes", body)
    caught = refused(Code.RECORD_INVALID, house.place, house.attested(signed, *house.voices))
    assert caught.field == "$.payload.changes[1].kind"


def test_a_part_with_more_than_it_says(house):
    """No unknown field, neither beside the payload nor in it, and no payload of another kind."""
    fine = {"kind": "model_config", "payload": msgspec.to_builtins(house.new_model())}
    policy_ = msgspec.to_builtins(house.quorum_policy(3))
    for bad in ({**fine, "x": 1}, {**fine, "payload": {**fine["payload"], "x": 1}}, {**fine, "payload": policy_}):
        body = {"changes": [fine, bad], "expires_at": house.later()}
        caught = refused(Code.RECORD_INVALID, house.place, written(house, "changes", body))
        assert caught.field.startswith("$.payload.changes[1]")


# Order


def test_two_join_and_the_threshold_rises(house):
    """In this order each step is a quorum: 3 of 3, 3 of 4, 3 of 5, 4 of 5. It takes the voices from before, and both keys' proofs."""
    (dee, dee_voice), (eve, eve_voice) = joining(house, "dee"), joining(house, "eve")
    enrol = [house.enrolment(dee, dee_voice.signer), house.enrolment(eve, eve_voice.signer)]
    placed = agreed(house, *enrol, house.quorum_policy(4), proofs=(dee_voice, eve_voice))
    seq = len(house.log) - 1
    assert (house.state.quorum.k, house.state.quorum_seq, len(house.state.active_witnesses())) == (4, seq, 5)
    assert {entry.since_seq for name, entry in house.state.witnesses.items() if name in {"dee", "eve"}} == {seq}
    assert house.state.system_head == placed.header.hash
    change = house.attested(house.proposal("model_config", house.new_model()), *house.voices, dee_voice)
    house.place(change)


def test_each_stands_on_what_those_before_it_left(house):
    """The same changes in another order: k = 4 of the three there are is no quorum, and the refusal names the entry."""
    dee, voice = joining(house, "dee")
    enrol = house.enrolment(dee, voice.signer)
    signed = house.attested(proposed(house, house.quorum_policy(4), enrol), *house.voices, voice)
    caught = refused(Code.THRESHOLD_INVALID, house.place, signed)
    assert (caught.field, caught.detail) == ("$.payload.changes[0].payload.k", {"k": 4, "n": 3, "personas": 0})
    agreed(house, enrol, house.quorum_policy(4), proofs=(voice,))


def test_all_or_nothing(house):
    """The second entry removes below k: refused in its own words, and the first changed nothing either."""
    before = house.state.model
    signed = proposed(house, house.new_model(), revoking(house, house.voices[0]))
    caught = refused(Code.THRESHOLD_INVALID, house.place, house.attested(signed, *house.voices))
    assert caught.field == "$.payload.changes[1].payload.k"
    assert house.state.model is before
    assert len(house.state.active_witnesses()) == 3


def test_lowered_and_removed_together(house):
    """k falls to 2, then one of the three leaves: its own voice still counts, since it was there before."""
    leaving = house.voices[0]
    agreed(house, house.quorum_policy(2), revoking(house, leaving))
    assert house.state.witnesses[leaving.owner_id].until_seq == len(house.log) - 1
    change = house.proposal("model_config", house.new_model())
    refused(Code.WITNESS_UNKNOWN, house.place, house.attested(change, leaving, house.voices[1]))
    house.place(house.attested(change, *house.voices[1:]))


def test_every_kind_at_once(house):
    """All that may stand there in one record: each is in force from its position on, and all of them verify afterwards."""
    fresh, gate = signing.Ed25519Signer.generate(), signing.Ed25519Signer.generate()
    vkey = note.VerifierKey.of(house.origin, note.ED25519, fresh.public_key).format()
    mia, voice = joining(house, "mia")
    agreed(
        house,
        house.new_model("together"),
        system.AccessPolicyChange(policy=policy.AccessPolicy(version="together"), expires_at=house.later()),
        service_key(house, "gatekeeper", gate),
        system.LogKey(vkey=vkey, expires_at=house.later()),
        house.enrolment(mia, voice.signer),
        house.quorum_policy(3, proposal_ttl_s=60),
        proofs=(voice,),
    )
    seq, state = len(house.log) - 1, house.state
    house.writer, house.services["gatekeeper"] = fresh, gate
    house.introduce("gatekeeper")
    assert (state.model.version, state.policy.version, state.quorum.proposal_ttl_s) == ("together", "together", 60)
    assert (state.model_seq, state.policy_seq, state.quorum_seq, max(state.log_keys)) == (seq,) * 4
    assert state.service_key("gatekeeper") == gate.public_key
    bundle = house.bundle(record.check(house.log[seq]).core.id)
    assert verify.verified(verify.verify(bundle, state.genesis_hash))


# Who must agree


def test_the_most_voices_of_any_kind_in_it(house):
    """A model needs two, the registry three: together they need three, and the record's own kind may ask for more."""
    house.place(
        house.attested(house.proposal("quorum_policy", house.quorum_policy(2, kinds={"service_key": 3})), *house.voices)
    )
    policy_ = system.AccessPolicyChange(policy=house.state.policy, expires_at=house.later())
    house.place(house.attested(proposed(house, house.new_model(), policy_), *house.voices[:2]))
    change = proposed(house, house.new_model("third"), service_key(house))
    short = refused(Code.QUORUM_NOT_SATISFIED, house.place, house.attested(change, *house.voices[:2]))
    assert (short.detail["have"], short.detail["need"]) == (2, 3)
    house.place(house.attested(change, *house.voices))
    stricter = house.quorum_policy(2, kinds={"changes": 3})
    house.place(house.attested(house.proposal("quorum_policy", stricter), *house.voices))
    change = proposed(house, house.new_model("fourth"), policy_)
    refused(Code.QUORUM_NOT_SATISFIED, house.place, house.attested(change, *house.voices[1:]))
    house.place(house.attested(change, *house.voices))


def test_lowering_k_for_oneself(house):
    """Attack: the record lowers k first and shows as many voices as it leaves. The policy before it counts."""
    change = proposed(house, house.quorum_policy(2), house.new_model())
    short = refused(Code.QUORUM_NOT_SATISFIED, house.place, house.attested(change, *house.voices[:2]))
    assert (short.detail["have"], short.detail["need"]) == (2, 3)


def test_voices_that_the_record_itself_enrols(house):
    """Attack: Root brings witnesses of its own, who agree to their own enrolment. Their signatures are proofs and no voices."""
    own = [joining(house, name) for name in ("pat", "pia")]
    enrol = [house.enrolment(mentor, voice.signer) for mentor, voice in own]
    change = proposed(house, *enrol)
    signed = house.attested(change, *(voice for _, voice in own), house.voices[0])
    short = refused(Code.QUORUM_NOT_SATISFIED, house.place, signed)
    assert (short.detail["have"], short.detail["by"]) == (1, ["mentor-1"])


def test_each_joining_key_proves_itself(house):
    """Two join and a third rotates: whichever proof is missing is named; another's proof is nobody's."""
    (dee, dee_voice), (eve, eve_voice) = joining(house, "dee"), joining(house, "eve")
    rotated = Person("mentor-1")
    turn = house.enrolment(house.voices[0], rotated.signer, action="rotate")
    change = proposed(house, house.enrolment(dee, dee_voice.signer), house.enrolment(eve, eve_voice.signer), turn)
    proofs = [dee_voice, eve_voice, rotated]
    for missing in proofs:
        given = [proof for proof in proofs if proof is not missing]
        short = refused(Code.QUORUM_NOT_SATISFIED, house.place, house.attested(change, *house.voices, *given))
        assert short.detail["possession"] == missing.owner_id
    swapped = Person("dee")
    swapped.signer = eve_voice.signer
    refused(Code.WITNESS_UNKNOWN, house.place, house.attested(change, *house.voices, swapped, eve_voice, rotated))
    house.place(house.attested(change, *house.voices, *proofs))
    assert house.state.witnesses["mentor-1"].key == rotated.signer.public_key


def test_root_enrolled_among_others(house):
    """Attack: Root's own key in the second entry is no witness's, however harmless the first looks."""
    dee, _ = joining(house, "dee")
    enrol = house.enrolment(dee, house.root.signer)
    caught = refused(Code.ROOT_IS_NO_WITNESS, house.place, proposed(house, house.new_model(), enrol))
    assert caught.field == "$.payload.changes[1].payload.witness_id"


# One thing once


def test_one_principal_in_two_entries(house):
    """Attack: revoked and enrolled again under a second key in one record, so that nobody sees it go. One thing changes once."""
    voice = house.voices[0]
    second = Person(voice.owner_id)
    again = house.enrolment(voice, second.signer)
    signed = house.attested(
        proposed(house, house.quorum_policy(2), revoking(house, voice), again), *house.voices, second
    )
    caught = refused(Code.RECORD_INVALID, house.place, signed)
    assert caught.field == "$.payload.changes[2].payload"


@pytest.mark.parametrize("of", ["new_model", "quorum", "service", "log"])
def test_one_thing_in_two_entries(house, of):
    """Attack: the second model hides the first from who reads only that. Two services are two things."""

    def change(number):
        vkey = note.VerifierKey.of(house.origin, note.ED25519, signing.Ed25519Signer.generate().public_key).format()
        return {
            "new_model": house.new_model(f"model-{number}"),
            "quorum": house.quorum_policy(3, proposal_ttl_s=60 + number),
            "service": service_key(house),
            "log": system.LogKey(vkey=vkey, expires_at=house.later()),
        }[of]

    signed = house.attested(proposed(house, change(1), change(2)), *house.voices)
    caught = refused(Code.RECORD_INVALID, house.place, signed)
    assert caught.field == "$.payload.changes[1].payload"
    agreed(house, service_key(house, "grid"), service_key(house, "knowledge"))


def test_one_key_in_two_entries(house):
    """Attack: the key that one entry gives a service is a witness's in the next."""
    dee, voice = joining(house, "dee")
    change = proposed(house, service_key(house, key=voice.signer), house.enrolment(dee, voice.signer))
    caught = refused(Code.WITNESS_TAKEN, house.place, house.attested(change, *house.voices, voice))
    assert caught.field == "$.payload.changes[1].payload.key"


# Time and the seal


def test_each_entry_has_an_end(house):
    """The first end of all ends the record, wherever it stands."""
    short = msgspec.structs.replace(house.new_model(), expires_at=house.later(1000))
    change = proposed(house, service_key(house), short)
    assert system.ends_at(record.check(change).payload) == short.expires_at
    outer = proposed(house, service_key(house), house.new_model(), expires_at=house.later(1000))
    house.clock.advance(1000)
    caught = refused(Code.PROPOSAL_EXPIRED, house.place, house.attested(change, *house.voices))
    assert caught.field == "$.payload.changes[1].payload.expires_at"
    caught = refused(Code.PROPOSAL_EXPIRED, house.place, house.attested(outer, *house.voices))
    assert caught.field == "$.payload.expires_at"


def test_before_the_seal():
    """Witnesses may join together, by every witness so far and each one's proof; nothing else, and the seal is a record of its own."""
    house = House()
    people = [joining(house, name) for name in ("dee", "eve", "fay")]
    enrol = [house.enrolment(mentor, voice.signer) for mentor, voice in people]
    proofs = [voice for _, voice in people]
    sealing = proposed(house, *enrol, house.quorum_policy(2))
    caught = refused(Code.NOT_SEALED, house.place, house.attested(sealing, *proofs))
    assert caught.field == "$.payload.changes[3].payload"
    other = proposed(house, enrol[0], house.new_model())
    assert refused(Code.NOT_SEALED, house.place, other).field == "$.payload.changes[1].payload"
    house.place(house.attested(proposed(house, *enrol[:2]), *proofs[:2]))
    more, last = proposed(house, enrol[2], revoking(house, proofs[0])), proofs[2]
    short = refused(Code.QUORUM_NOT_SATISFIED, house.place, house.attested(more, proofs[0], last))
    assert (short.detail["have"], short.detail["need"]) == (1, 2)
    house.place(house.attested(more, *proofs))
    sealed = house.seal(proofs[1:], 2)
    report = oracle.check(house.placed(), house.checkpoint(), house.state.genesis_hash)
    assert report.seal == sealed.header.hash


def test_a_pinned_seal_isnt_passed_by(house):
    """Attack: a history that Root made alone seals among other changes, so that no quorum_policy of its own is held to the pin."""
    forged = House()
    people = [joining(forged, name) for name in ("pat", "pia", "pip")]
    enrol = [forged.enrolment(mentor, voice.signer) for mentor, voice in people]
    proofs = [voice for _, voice in people]
    sealing = forged.attested(proposed(forged, *enrol, forged.quorum_policy(2)), *proofs)
    shown = [{"seq": 0, **plain(forged.log[0])}, {"seq": 1, **plain(sealing)}]
    for pin in (None, house.state.system_head):
        with pytest.raises(governed.Unverified, match="the seal is a record of its own"):
            governed.folded(shown, forged.state.genesis_hash, pin)


# What others make of it


def test_what_a_mentor_reads(house):
    """Every entry's difference, each against what those before it leave, under its own path; and nothing of the state moves."""
    dee, voice = joining(house, "dee")
    rename = msgspec.structs.replace(revoking(house, house.voices[0]), name="Gone")
    payload = house.several(house.enrolment(dee, voice.signer), house.quorum_policy(4), rename)
    lines = {path: (old, new) for path, old, new in difference.of_change(house.state, payload)}
    assert lines["$.changes[0].kind"] == (None, "trusted_witness")
    assert lines["$.changes[0].payload.witness_id"] == (None, "dee")
    assert lines["$.changes[1].payload.k"] == (3, 4)
    assert "$.changes[1].payload.proposal_ttl_s" not in lines
    assert lines["$.changes[2].payload.name"] == ("Mentor-1", "Gone")
    assert lines["$.expires_at"] == (None, payload.expires_at)
    assert (house.state.quorum.k, "dee" in house.state.witnesses) == (3, False)


def test_a_difference_counts_from_the_entry_before(house):
    """Two entries that speak of the same table: the second is told against what the first leaves."""
    dee, voice = joining(house, "dee")
    payload = house.several(house.enrolment(dee, voice.signer), house.quorum_policy(4))
    states = [sorted(state.active_witnesses()) for state, _ in house.state.along(payload)]
    assert states == [["mentor-1", "mentor-2", "mentor-3"], ["dee", "mentor-1", "mentor-2", "mentor-3"]]


def test_only_system_records_fold_to_the_same(house):
    """Who folds the system records alone, without licences and instances, comes to the same registry, policy, model and keys."""
    dee, voice = joining(house, "dee")
    agreed(house, house.enrolment(dee, voice.signer), house.new_model(), service_key(house), proofs=(voice,))
    found = Governance()
    for seq, signed in enumerate(house.log):
        checked = record.check(signed)
        if checked.core.space == "system":
            if seq:
                verify.check_quorum(found, checked)
            found.apply(seq, checked)
    for name in ("witness_history", "quorum", "model", "model_seq", "services", "system_head", "log_keys"):
        assert getattr(found, name) == getattr(house.state, name), name


def test_another_logs_key_among_others(house):
    """A bundle's verifier holds the log's key to this log too, wherever the change stands."""
    stranger = note.VerifierKey.of("other.example/log", note.ED25519, signing.Ed25519Signer.generate().public_key)
    change = proposed(house, house.new_model(), system.LogKey(vkey=stranger.format(), expires_at=house.later()))
    signed = house.attested(change, *house.voices)
    assert refused(Code.RECORD_INVALID, house.place, signed).field == "$.payload.changes[1].payload.vkey"
    with pytest.raises(Refused, match="another log"):
        verify.check_quorum(house.state, record.check(signed))


def test_voices_in_a_ledger_read_again(house):
    """A failed proposal's proofs: each by the key that its entry names, and by no other entry's."""
    people = [joining(house, name) for name in ("dee", "eve")]
    change = proposed(house, *(house.enrolment(mentor, voice.signer) for mentor, voice in people))
    checked, spoken = record.check(change), voices.Voices()
    request, _ = house._permission("quorum/propose")
    opening = audit.ProposalOpened(
        proposal_id="p",
        record=audit.CarriedRecord(
            header=checked.leaf.decode(), payload=checked.payload_bytes.decode(), salt=checked.salt.hex()
        ),
        record_hash=checked.header.hash,
        request=request,
    )

    def hear(payload):
        spoken.hear(house.state, len(house.log), msgspec.structs.replace(checked, payload=payload))

    def proof(name, signer):
        voice = record.witness(change, name, signer)
        return audit.ProposalAttested(
            proposal_id="p", witness_id=name, key_id=voice.key_id, sig=voice.sig, counted=False
        )

    hear(opening)
    for _, voice in people:
        hear(proof(voice.owner_id, voice.signer))
    with pytest.raises(Refused, match=Code.WITNESS_UNKNOWN):
        hear(proof("dee", people[1][1].signer))


def test_a_bent_entry_in_a_ledger(house):
    """A ledger whose second entry was changed afterwards diverges at that record."""
    agreed(house, house.new_model("first"), service_key(house))
    bent = house.placed()
    payload = msgspec.json.decode(bent[-1].payload)
    payload["changes"][1]["payload"]["service"] = "grid"
    bent[-1] = msgspec.structs.replace(bent[-1], payload=msgspec.Raw(canonical.encode(payload)))
    with pytest.raises(replay.Diverged) as caught:
        replay.replay(bent, house.checkpoint(), house.state.genesis_hash)
    assert caught.value.seq == len(bent) - 1


def test_written_down_and_ended():
    """An end where none was named, for the record and each entry; one that was named stays, and taking ends out goes the way back."""
    model = {"model": msgspec.to_builtins(trust.DEFAULT_MODEL)}
    mine = {"model": model["model"], "expires_at": "2030-01-01T00:00:00.000Z"}
    parts = [{"kind": "model_config", "payload": model}, {"kind": "model_config", "payload": mine}]
    later = "2031-01-01T00:00:00.000Z"
    ended = drafts.with_ends({"changes": parts}, later)
    assert [part["payload"]["expires_at"] for part in ended["changes"]] == [later, mine["expires_at"]]
    assert ended["expires_at"] == later
    assert "expires_at" not in model
    typed = canonical.typed(ended, system.Changes)
    assert drafts.without_ends(typed) == {"changes": (parts[0], parts[0])}
    for hostile in (None, "x", {}, [1, {"payload": 2}, {"payload": None}, {}]):
        assert drafts.with_ends({"changes": hostile}, later) == {"changes": hostile, "expires_at": later}


def test_a_checkpoint_by_the_key_that_an_entry_names(house):
    """Checkpoints over a log key's change are the new key's, and the old one signs none of them, as if it stood alone."""
    fresh = signing.Ed25519Signer.generate()
    vkey = note.VerifierKey.of(house.origin, note.ED25519, fresh.public_key).format()
    old, house.writer = house.writer, fresh
    agreed(house, system.LogKey(vkey=vkey, expires_at=house.later()), house.new_model())
    with pytest.raises(note.NoteError):
        checkpoint.open_by_size(house.checkpoint(old), house.state.log_key_at)
