"""A proposal in a file: signed without a server, and never when the file says anything but the truth."""

import msgspec
import pytest

from cli import governed, owner, packet
from cli.refusal import Refusal
from sigilcore import admission, drafts, governance, record, signing
from sigilcore.contracts import quorum
from sigilcore.refusals import Code, Refused
from tests.simulator import DAY_MS, House, Person, plain


@pytest.fixture(scope="module")
def house():
    """Three witnesses, sealed with k = 2, and one change of the model since."""
    made = House()
    made.voices = made.mentors(3)
    made.seal_hash = made.seal(made.voices, 2).header.hash
    made.place(made.attested(made.proposal("model_config", made.new_model("first")), *made.voices[:2]))
    return made


def history(house, log=None):
    """Every system record, as the house shows them."""
    return [
        {"seq": seq, **plain(signed)}
        for seq, signed in enumerate(house.log if log is None else log)
        if record.check(signed).core.space == "system"
    ]


def packed(house, signed, records=None):
    """The file that `proposal show --out` writes for this record."""
    return packet.Packet(
        format="sigil-proposal/1",
        proposal_id=record.check(signed).core.id,
        record=drafts.parts_of(record.check(signed)),
        records=tuple(history(house) if records is None else records),
    )


def opened(house, held, genesis=None, seal=None, now_ms=None):
    return packet.Opened(held, genesis or house.state.genesis_hash, seal, now_ms or house.now_ms)


@pytest.fixture
def change(house):
    return house.proposal("model_config", house.new_model(bias=7))


def test_a_witness_signs_what_it_reads(house, change, tmp_path):
    """The difference comes from the file's own verified records; the signature is one that the writer takes."""
    file = tmp_path / "proposal.json"
    packet.write(file, packed(house, change))
    for voice in house.voices[:2]:
        read = opened(house, packet.read(file), seal=house.seal_hash)
        assert {line.path for line in read.lines} == {"$.expires_at", "$.model.bias", "$.model.version"}
        packet.write(file, read.signed(voice.owner_id, voice.signer))
    witnesses = [
        record.WitnessSignature(
            witness_id=voice.witness_id,
            key_id=signing.key_id(house.state.witnesses[voice.witness_id].key),
            sig=voice.signature,
        )
        for voice in packet.read(file).voices
    ]
    admission.check_system(house.state, record.check(record.witnessed(change, witnesses)), house.now_ms)


def test_signing_twice_is_one_voice(house, change):
    """The same key signs the same bytes alike; the file holds it once."""
    voice = house.voices[0]
    once = opened(house, packed(house, change)).signed(voice.owner_id, voice.signer)
    assert opened(house, once).signed(voice.owner_id, voice.signer) == once


def test_a_joining_key_signs_too(house):
    """A new witness, or a new Root, proves its key from a file like any voice."""
    zoe = Person("zoe")
    held = packed(house, house.proposal("root_key", house.root_change(zoe)))
    assert [voice.witness_id for voice in opened(house, held).signed("zoe", zoe.signer).voices] == ["zoe"]


def refused(match, action, *arguments, **named):
    with pytest.raises(Refusal, match=match):
        action(*arguments, **named)


def test_shown_one_thing_signed_another(house, change):
    """A payload that was put under another record's core doesn't hash to it; a core that was changed isn't Root's."""
    other = house.proposal("model_config", house.new_model(bias=8))
    good, bad = packed(house, change), packed(house, other)
    swapped = msgspec.structs.replace(good.record, payload=bad.record.payload)
    refused("payload_hash", opened, house, msgspec.structs.replace(good, record=swapped))
    grafted = msgspec.structs.replace(bad.record, sig=good.record.sig)
    refused("SIGNATURE_INVALID", opened, house, msgspec.structs.replace(good, record=grafted))


def test_a_change_that_root_never_signed(house):
    """Made by a witness, in Root's name."""
    forged = house.proposal("model_config", house.new_model(bias=9), house.voices[0].signer)
    refused("SIGNATURE_INVALID", opened, house, packed(house, forged))


def test_a_history_that_was_cut_short(house, change):
    """Without the newest system record the value in force would look older: the proposed record names the head it stands on."""
    refused("newest system record", opened, house, packed(house, change, history(house)[:-1]))


def test_a_history_with_a_hole(house, change):
    """A record left out breaks the chain."""
    records = history(house)
    refused("chain of system records", opened, house, packed(house, change, [*records[:-2], records[-1]]))


def test_a_history_that_was_rewritten(house, change):
    """Another model in force, so that a change looks harmless: its record's voices don't verify."""
    records = history(house)
    records[-1] = {**records[-1], "payload": {**records[-1]["payload"], "expires_at": "2035-01-01T00:00:00.000Z"}}
    refused("payload_hash", opened, house, packed(house, change, records))


def test_a_history_out_of_order(house, change):
    """Places only grow."""
    records = history(house)
    records[-1] = {**records[-1], "seq": 0}
    refused("not in order", opened, house, packed(house, change, records))
    refused("not in order", opened, house, packed(house, change, [{**records[0], "seq": "0"}]))


def test_a_whole_other_house(house, change):
    """An attacker's own log is flawless, and isn't the one that the witness pinned: by genesis, or by the seal."""
    theirs = House()
    voices = theirs.mentors(3)
    theirs.seal(voices, 2)
    held = packed(theirs, theirs.proposal("model_config", theirs.new_model()))
    refused("genesis is not the one", opened, house, held)
    refused("seal is not the pinned one", opened, house, packed(house, change), seal="0" * 64)


def test_nothing_at_all(house, change):
    """A file without records pins nothing."""
    refused("no genesis", opened, house, packed(house, change, []))


def test_what_expired_is_not_signed(house, change):
    """A voice that could serve nobody is not given."""
    refused("it expired", opened, house, packed(house, change), now_ms=house.now_ms + DAY_MS)


def test_a_key_without_a_voice(house, change):
    """Neither a stranger's, nor another witness's, nor Root's own."""
    read = opened(house, packed(house, change))
    name = house.voices[0].owner_id
    for key in (signing.Ed25519Signer.generate(), house.voices[1].signer, house.root.signer):
        refused("doesn't speak with this key", read.signed, name, key)


def test_a_proposal_by_a_root_who_was_replaced():
    """It can still be shown, as history; it is not signed."""
    house = House()
    voices = house.mentors(1)
    house.seal(voices, 1)
    change = house.proposal("model_config", house.new_model())
    house.replace_root(Person("zoe"), *voices, without_root=True)
    held = packed(house, change)
    shown = governed.proposed(governed.folded(held.records, house.state.genesis_hash), held.record)
    assert shown.header.key_id == record.check(change).header.key_id
    refused("a Root that was replaced", opened, house, held)


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"format": "sigil-proposal/2"}', '{"format": NaN}', "\udcff", '{"a": 1, "a": 1}']
)
def test_a_file_that_is_no_proposal(tmp_path, text):
    """Whatever it is, it is refused and not guessed at."""
    file = tmp_path / "x"
    file.write_bytes(text.encode("utf-8", "surrogateescape"))
    refused("is no proposal", packet.read, file)


def view_of(house, change, state, lines):
    """A proposal as the house shows it."""
    checked = record.check(change)
    return quorum.ProposalView(
        proposal_id=checked.core.id,
        state=state,
        kind=checked.core.kind,
        record=drafts.parts_of(checked),
        record_hash=checked.header.hash,
        difference=tuple(quorum.Change(path=line.path, old=line.old, new=line.new) for line in lines),
        need=2,
        have=0,
        by=(),
        missing=(),
        expires_at=house.later(),
        opened_seq=1,
        reason="",
    )


@pytest.mark.parametrize("state", ["open", "expired", "withdrawn", "refused", "stale", "committed"])
def test_every_state_can_be_shown(house, change, state):
    """Once it has ended the house shows no difference of its own; what the record would have changed is still computed here."""
    found = governed.folded(history(house), house.state.genesis_hash)
    lines = governed.difference.of_change(found, record.check(change).payload)
    view = view_of(house, change, state, lines if state == "open" else ())
    assert governed.Read(found, view).shown()["difference"]
    if state == "open":
        with pytest.raises(governed.Unverified, match="another difference"):
            governed.Read(found, msgspec.structs.replace(view, difference=view.difference[:-1]))


async def test_a_house_that_hides_the_newest_rule(house, change):
    """Online too: a proposal that doesn't stand on the newest record shown would be read against older rules; nothing is signed or sent."""
    found = governed.folded(history(house)[:-1], house.state.genesis_hash)
    lines = governed.difference.of_change(found, record.check(change).payload)
    read = governed.Read(found, view_of(house, change, "open", lines))
    with pytest.raises(governed.Unverified, match="newest system record"):
        await owner.attest(None, read, house.voices[0].owner_id, house.voices[0].signer)


def test_the_fold_is_the_houses_own(house):
    """Folded from the file's records, witnesses, quorum, model and Root are what the writer has."""
    found = governed.folded(history(house), house.state.genesis_hash)
    assert isinstance(found, governance.Governance)
    for name in ("witnesses", "quorum", "model", "policy", "root", "system_head"):
        assert getattr(found, name) == getattr(house.state, name)
    with pytest.raises(Refused) as caught:
        governed.verify.check_quorum(found, record.check(house.proposal("model_config", house.new_model())))
    assert caught.value.code is Code.QUORUM_NOT_SATISFIED
