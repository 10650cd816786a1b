"""The quorum: who may change the rules, with whose voices, and what never counts as one."""

import os
from typing import Any

import msgspec
import pytest

from services.quorum import proposals, rules
from sigilcore import admission, canonical, clock, decision, drafts, ids, record, records, signing, trust
from sigilcore.access import Loa
from sigilcore.contracts import quorum as wire
from sigilcore.records import audit, system
from sigilcore.refusals import Code, Refused
from tests import simulator
from tests.simulator import DAY_MS, NOW_MS, Person

LATER = clock.format_ms(NOW_MS + DAY_MS)
REQUEST = decision.Request(command="quorum/propose", salt="00" * 16, digest="11" * 32, parameters="22" * 32)
SMALL_ORDER = "01" + "00" * 31


class House(simulator.House):
    """A house whose log also folds into a book of proposals."""

    def __init__(self, mentors: int = 0, *, sealed: bool = False) -> None:
        self.book = proposals.Book()
        super().__init__()
        self.mentors: dict[str, Person] = {}
        for name in ("mia", "ned", "ora", "pam", "quy")[:mentors]:
            self.join(name)
        if sealed:
            self.pass_(self.propose(self.quorum(k=mentors // 2 + 1)))

    def _commit(self, signed: record.SignedRecord, checked: record.Checked) -> None:
        super()._commit(signed, checked)
        self.book.apply(len(self.log) - 1, checked)

    # What Root does

    def draft(self, payload: msgspec.Struct) -> Any:
        return rules.draft(self.state, payload, record_id=ids.new(), now_ms=self.now_ms, salt=os.urandom(16))

    def signed(self, payload: msgspec.Struct) -> wire.RootSigned:
        return drafts.signed(self.draft(payload), self.root.signer)

    def propose(self, payload: msgspec.Struct) -> str:
        return self.open(rules.proposable(self.state, self.signed(payload), self.now_ms))

    def open(self, checked: record.Checked) -> str:
        """Write the opening as the service does; by a decision of the gate."""
        body = msgspec.json.encode({"record": drafts.parts_of(checked)})
        request, link = self._permission("quorum/propose", body)
        name = ids.new()
        payload = audit.ProposalOpened(
            proposal_id=name,
            record=proposals.carried(checked),
            record_hash=checked.header.hash,
            request=request,
        )
        self.append("proposal_opened", payload, self.instances["quorum"], links=[link])
        return name

    def commit(self, name: str) -> record.Checked:
        return self.place(rules.committable(self.state, self.book, self.book.proposals[name], self.now_ms))

    def close(self, name: str, outcome: Any) -> None:
        payload = rules.ending(self.book.proposals[name], outcome)
        self.append("proposal_closed", payload, self.instances["quorum"])

    # What witnesses do

    def attest(self, name: str, witness_id: str, signer: signing.Signer | None = None) -> audit.ProposalAttested:
        proposal = self.book.proposals[name]
        key = signer or self.mentors[witness_id].signer
        payload = rules.attestation(self.state, self.book, proposal, asked(proposal, witness_id, key), self.now_ms)
        self.append("proposal_attested", payload, self.instances["quorum"])
        return payload

    def pass_(self, name: str) -> record.Checked:
        """Everyone whose voice is missing attests; it is committed and closed."""
        for witness_id in rules.tally(self.state, self.book.proposals[name]).missing:
            self.attest(name, witness_id)
        placed = self.commit(name)
        self.close(name, "committed")
        return placed

    def mentor(self, name: str) -> Person:
        return self.issue(Person(name), Loa.MENTOR)

    def join(self, name: str) -> Person:
        """A mentor becomes a witness by everyone's voice and the proof of its own key."""
        person = self.mentor(name)
        proposal = self.propose(self.adding(person))
        self.attest(proposal, name, person.signer)
        self.pass_(proposal)
        self.mentors[name] = person
        return person

    # Changes

    def adding(self, person: Person, **changes: Any) -> system.TrustedWitness:
        payload = rules.witness_payload(
            self.state, "add", wire.WitnessChange(witness_id=person.owner_id), expires_at=LATER, now_ms=self.now_ms
        )
        return msgspec.structs.replace(payload, **changes)

    def quorum(self, k: int, **changes: Any) -> system.QuorumPolicy:
        fields: dict[str, Any] = {
            "k": k,
            "kinds": {},
            "proposal_ttl_s": 3600,
            "checkpoint_witnesses": system.CheckpointWitnesses(c=0, cosigners=()),
            "persona_cap": 0,
            "expires_at": LATER,
        }
        return system.QuorumPolicy(**(fields | changes))

    def model(self, bias: int = 1) -> system.ModelConfig:
        return system.ModelConfig(model=msgspec.structs.replace(trust.DEFAULT_MODEL, bias=bias), expires_at=LATER)

    def standing(self, name: str) -> rules.Standing:
        return rules.standing(self.state, self.book, self.book.proposals[name], self.now_ms)


def asked(proposal: proposals.Proposal, witness_id: str, signer: signing.Signer) -> wire.Attest:
    """A witness's request, as its own tools make it from the proposal."""
    voice = record.witness(proposal.record.signed(), witness_id, signer)
    return wire.Attest(proposal_id=proposal.proposal_id, witness_id=witness_id, signature=voice.sig)


@pytest.fixture
def house() -> House:
    """Three witnesses, sealed with k = 2."""
    return House(3, sealed=True)


def refusal(code: Code) -> Any:
    """Expect this refusal."""
    return pytest.raises(Refused, match=f"^{code}: ")


# The story


def test_the_first_witness_joins_by_root_and_its_own_proof() -> None:
    """Before there are witnesses nobody else need agree, but the joining key proves itself."""
    house = House()
    mia = house.mentor("mia")
    name = house.propose(house.adding(mia))
    assert house.standing(name) == rules.Standing(state="open", reason="mia has not proven its new key")
    with refusal(Code.QUORUM_NOT_SATISFIED) as info:
        house.commit(name)
    assert info.value.detail == {"have": 0, "need": 0, "missing": [], "possession": "mia"}
    assert not house.attest(name, "mia", mia.signer).counted
    assert house.standing(name).state == "ready"
    house.commit(name)
    assert house.state.active_witnesses().keys() == {"mia"}


def test_before_the_seal_every_witness_so_far_agrees() -> None:
    """The second witness joins by the first one's voice; need grows with the set."""
    house = House(2)
    ora = house.mentor("ora")
    name = house.propose(house.adding(ora))
    house.attest(name, "ora", ora.signer)
    house.attest(name, "mia")
    with refusal(Code.QUORUM_NOT_SATISFIED) as info:
        house.commit(name)
    assert info.value.detail == {"have": 1, "need": 2, "missing": ["ned"]}
    house.attest(name, "ned")
    house.commit(name)
    assert len(house.state.active_witnesses()) == 3


def test_a_change_is_committed_by_k_voices(house: House) -> None:
    """Two of three suffice; the record carries them and the writer's own check of the quorum passes."""
    name = house.propose(house.model())
    house.attest(name, "ora")
    assert house.standing(name).state == "open"
    house.attest(name, "mia")
    assert house.standing(name).state == "ready"
    placed = house.commit(name)
    assert [witness.witness_id for witness in placed.header.witnesses] == ["mia", "ora"]
    assert house.state.model is not None
    assert house.state.model.bias == 1
    assert house.standing(name).state == "committed"
    admission.check_genesis(record.check(house.log[0]))


def test_more_voices_than_needed_all_stand_in_the_record(house: House) -> None:
    """Nobody's agreement is dropped once given."""
    name = house.propose(house.model())
    placed = house.pass_(name)
    assert {witness.witness_id for witness in placed.header.witnesses} == {"mia", "ned", "ora"}


def test_a_higher_k_for_a_kind_is_needed() -> None:
    """The policy may ask more voices for one kind; the record's kind decides."""
    house = House(3)
    house.pass_(house.propose(house.quorum(k=2, kinds={"model_config": 3})))
    name = house.propose(house.model())
    house.attest(name, "mia")
    house.attest(name, "ned")
    tally = rules.tally(house.state, house.book.proposals[name])
    assert (tally.need, tally.have, tally.missing, tally.complete) == (3, ("mia", "ned"), ("ora",), False)


def test_rotation_takes_the_old_voice_and_the_new_keys_proof(house: House) -> None:
    """A rotating witness may agree with its old key and must prove its new one; both stand in the record, one counts."""
    key = signing.Ed25519Signer.generate()
    change = wire.WitnessChange(witness_id="mia", key=key.public_key.hex())
    payload = rules.witness_payload(house.state, "rotate", change, expires_at=LATER, now_ms=house.now_ms)
    name = house.propose(payload)
    assert house.attest(name, "mia").counted
    house.attest(name, "ned")
    assert house.standing(name).state == "open"
    assert not house.attest(name, "mia", key).counted
    placed = house.commit(name)
    assert [witness.witness_id for witness in placed.header.witnesses] == ["mia", "mia", "ned"]
    assert house.state.witnesses["mia"].key == key.public_key


def test_a_lost_key_is_rotated_by_the_others(house: House) -> None:
    """Without the old key the quorum itself lets the new one in."""
    key = signing.Ed25519Signer.generate()
    change = wire.WitnessChange(witness_id="mia", key=key.public_key.hex())
    name = house.propose(rules.witness_payload(house.state, "rotate", change, expires_at=LATER, now_ms=house.now_ms))
    house.attest(name, "mia", key)
    tally = rules.tally(house.state, house.book.proposals[name])
    assert (tally.have, tally.unproven) == ((), ())
    house.attest(name, "ned")
    house.attest(name, "ora")
    house.commit(name)
    assert house.state.witnesses["mia"].key == key.public_key


def test_voices_leave_room_for_proofs(monkeypatch: pytest.MonkeyPatch) -> None:
    """A header has a bound: voices beyond what is needed don't take the place of a joining key's proof."""
    monkeypatch.setattr(rules, "MAX_VOICES", 4)
    house = House(3)
    house.pass_(house.propose(house.quorum(k=3)))
    joining = {name: house.mentor(name) for name in ("pam", "quy")}
    name = house.propose(house.several(*(house.adding(person) for person in joining.values())))
    house.attest(name, "mia")
    house.attest(name, "ned")
    with refusal(Code.PROPOSAL_CLOSED):
        house.attest(name, "ora")
    for person in joining.values():
        assert not house.attest(name, person.owner_id, person.signer).counted


# Who is no voice


def test_root_is_no_witness(house: House) -> None:
    """Root's key never counts: under its own name, under a witness's name, or by its signature on the proposal itself."""
    name = house.propose(house.model())
    proposal = house.book.proposals[name]
    for witness_id in ("root", "mia", "nobody"):
        with refusal(Code.ROOT_IS_NO_WITNESS):
            house.attest(name, witness_id, house.root.signer)
        replay = wire.Attest(proposal_id=name, witness_id=witness_id, signature=proposal.record.header.sig)
        with refusal(Code.ROOT_IS_NO_WITNESS):
            rules.attestation(house.state, house.book, proposal, replay, house.now_ms)


def test_root_cant_be_enrolled(house: House) -> None:
    """Neither Root's name nor Root's key joins the registry."""
    mentor = house.mentor("pam")
    for changes in ({"key": house.root.signer.public_key.hex()}, {"witness_id": "root"}):
        with refusal(Code.ROOT_IS_NO_WITNESS):
            house.propose(house.adding(mentor, **changes))


def test_strangers_and_the_revoked_have_no_voice() -> None:
    """Not in the registry, and no longer in it, are told apart."""
    house = House(2, sealed=True)
    ora = house.join("ora")
    name = house.propose(house.model())
    with pytest.raises(Refused, match="WITNESS_UNKNOWN: eve: it is not in the registry"):
        house.attest(name, "eve", signing.Ed25519Signer.generate())
    gone = rules.witness_payload(
        house.state, "revoke", wire.WitnessChange(witness_id="ora"), expires_at=LATER, now_ms=house.now_ms
    )
    house.pass_(house.propose(gone))
    again = house.propose(house.model(2))
    with pytest.raises(Refused, match="WITNESS_UNKNOWN: ora: its voice was revoked"):
        house.attest(again, "ora", ora.signer)


def test_one_voice_a_principal(house: House) -> None:
    """A second attestation by the same witness adds nothing."""
    name = house.propose(house.model())
    house.attest(name, "mia")
    with refusal(Code.ALREADY_ATTESTED):
        house.attest(name, "mia")
    assert rules.tally(house.state, house.book.proposals[name]).have == ("mia",)


def test_a_second_key_is_no_second_voice(house: House) -> None:
    """Neither an unregistered key of the same principal nor the mentor licence's own key counts beside the registered one."""
    name = house.propose(house.model())
    house.attest(name, "mia")
    with refusal(Code.SIGNATURE_INVALID):
        house.attest(name, "mia", signing.Ed25519Signer.generate())
    with refusal(Code.SIGNATURE_INVALID):
        house.attest(name, "ned", house.mentors["mia"].signer)


def test_an_old_key_has_no_voice_after_rotation(house: House) -> None:
    """What was rotated out signs nothing more."""
    old = house.mentors["mia"].signer
    key = signing.Ed25519Signer.generate()
    change = wire.WitnessChange(witness_id="mia", key=key.public_key.hex())
    name = house.propose(rules.witness_payload(house.state, "rotate", change, expires_at=LATER, now_ms=house.now_ms))
    house.attest(name, "mia", key)
    house.pass_(name)
    again = house.propose(house.model())
    with refusal(Code.SIGNATURE_INVALID):
        house.attest(again, "mia", old)
    assert house.attest(again, "mia", key).counted


def test_a_signature_is_for_one_proposal_only(house: House) -> None:
    """An attestation of one record is none of another, and none of the same bytes as another type of document."""
    first, second = house.propose(house.model(1)), house.propose(house.model(2))
    mia = house.mentors["mia"].signer
    other = asked(house.book.proposals[first], "mia", mia)
    proposal = house.book.proposals[second]
    with refusal(Code.SIGNATURE_INVALID):
        rules.attestation(house.state, house.book, proposal, other, house.now_ms)
    licence_like = signing.sign_typed(mia, signing.LICENSE_ROOT, proposal.record.core_bytes)
    wrong_type = msgspec.structs.replace(other, signature=signing.signature_text(licence_like))
    with refusal(Code.SIGNATURE_INVALID):
        rules.attestation(house.state, house.book, proposal, wrong_type, house.now_ms)
    for text in ("A" * 88, "=" * 88, "!" * 88):
        with refusal(Code.SIGNATURE_INVALID):
            rules.attestation(
                house.state,
                house.book,
                proposal,
                msgspec.structs.replace(other, signature=text),
                house.now_ms,
            )


def test_an_expired_licence_silences_no_witness(house: House) -> None:
    """Once enrolled, a voice stays until the registry says otherwise; nobody takes it by revoking a licence."""
    house.revoke(house.mentors["mia"])
    name = house.propose(house.model())
    assert house.attest(name, "mia").counted


# What can't be proposed


def test_a_witness_needs_a_valid_mentor_licence(house: House) -> None:
    """No licence, an operator's, another's, a revoked one: none of them makes a witness."""
    operator = house.issue(Person("oli"), Loa.OPERATOR)
    revoked = house.mentor("rex")
    payload = house.adding(revoked)
    house.revoke(revoked)
    for change in (
        payload,
        msgspec.structs.replace(payload, witness_id="oli", licence_id=operator.licence_id),
        msgspec.structs.replace(payload, witness_id="eve", licence_id=house.mentors["mia"].licence_id),
        msgspec.structs.replace(payload, licence_id=ids.new()),
    ):
        with refusal(Code.LICENSE_INVALID):
            house.propose(change)
    with refusal(Code.LICENSE_INVALID):
        house.adding(operator)


def test_a_witness_needs_a_licence_that_has_not_expired(house: House) -> None:
    """What was valid when it was drafted is asked again when it is committed."""
    pam = house.issue(Person("pam"), Loa.MENTOR, days=1)
    payload = house.adding(pam, expires_at=clock.format_ms(NOW_MS + 3 * DAY_MS))
    house.clock.advance(DAY_MS)
    with refusal(Code.LICENSE_INVALID):
        house.propose(payload)
    with refusal(Code.LICENSE_INVALID):
        house.adding(pam)


def test_one_key_one_name_one_principal(house: House) -> None:
    """A key that has a role, a name that is taken and a principal that is enrolled are refused."""
    pam = house.mentor("pam")
    mia = house.mentors["mia"]
    for changes in (
        {"key": mia.signer.public_key.hex()},
        {"key": house.services["quorum"].public_key.hex()},
        {"name": house.state.witnesses["mia"].name},
        {"witness_id": "mia", "licence_id": mia.licence_id, "name": "Other", "key": pam.signer.public_key.hex()},
    ):
        with refusal(Code.WITNESS_TAKEN):
            house.propose(house.adding(pam, **changes))
    with refusal(Code.WEAK_KEY):
        house.propose(house.adding(pam, key=SMALL_ORDER))


@pytest.mark.parametrize("k", [0, -1])
def test_a_threshold_below_one_cant_be_expressed(house: House, k: int) -> None:
    """Neither drafted nor signed by hand."""
    plain = msgspec.to_builtins(house.quorum(k=2)) | {"k": k}
    with refusal(Code.BAD_INPUT) as info:
        rules.payload_of("quorum_policy", plain, LATER)
    assert info.value.field == "$.payload.k"
    forged = house.draft(house.quorum(k=2))
    core = canonical.convert(forged.core.encode(), record.Core)
    payload = canonical.encode(plain)
    from sigilcore import digest

    core = msgspec.structs.replace(core, payload_hash=digest.payload_hash(bytes.fromhex(forged.salt), payload))
    changed = msgspec.structs.replace(forged, core=canonical.of(core).decode(), payload=payload.decode())
    with refusal(Code.RECORD_INVALID):
        rules.proposable(house.state, drafts.signed(changed, house.root.signer), house.now_ms)


@pytest.mark.parametrize(("k", "kinds"), [(1, {}), (4, {}), (2, {"model_config": 1}), (2, {"model_config": 4})])
def test_no_two_quorums_may_be_disjoint(house: House, k: int, kinds: dict[str, int]) -> None:
    """k is more than half of the active witnesses and no more than all; a kind may only ask more."""
    with refusal(Code.THRESHOLD_INVALID):
        house.propose(house.quorum(k=k, kinds=kinds))


def test_removing_witnesses_below_k_is_refused() -> None:
    """A quorum that nobody could reach again is not made."""
    house = House(2, sealed=True)
    gone = rules.witness_payload(
        house.state, "revoke", wire.WitnessChange(witness_id="mia"), expires_at=LATER, now_ms=house.now_ms
    )
    with refusal(Code.THRESHOLD_INVALID):
        house.propose(gone)


def test_before_the_seal_only_witnesses_and_the_seal() -> None:
    """Nothing else is changed until a quorum stands."""
    house = House(1)
    with refusal(Code.NOT_SEALED):
        house.propose(house.model())


def test_a_proposal_stands_on_the_head(house: House) -> None:
    """What was drafted before another change is refused with the head to rebuild on."""
    parts = house.signed(house.model())
    house.pass_(house.propose(house.model(2)))
    with refusal(Code.STALE_PREV) as info:
        rules.proposable(house.state, parts, house.now_ms)
    assert info.value.detail == {"head": house.state.system_head}


def test_only_root_proposes(house: House) -> None:
    """A mentor's signature over a draft is not Root's."""
    draft = house.draft(house.model())
    with refusal(Code.SIGNATURE_INVALID):
        rules.proposable(house.state, drafts.signed(draft, house.mentors["mia"].signer), house.now_ms)


def test_what_expired_is_not_proposed(house: House) -> None:
    """The payload's own end is checked before anyone is asked to sign."""
    with refusal(Code.PROPOSAL_EXPIRED):
        house.propose(msgspec.structs.replace(house.model(), expires_at=clock.format_ms(NOW_MS)))


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        ("nonsense", Code.KIND_UNKNOWN),
        ("genesis", Code.KIND_NOT_ALLOWED),
        ("memory_block", Code.KIND_NOT_ALLOWED),
        ("license_issued", Code.KIND_NOT_ALLOWED),
    ],
)
def test_only_system_kinds_are_drafted(kind: str, code: Code) -> None:
    """There is one genesis, and other spaces have other roads."""
    with refusal(code):
        rules.payload_of(kind, {}, LATER)


def test_a_second_genesis_is_not_proposed(house: House) -> None:
    """Record 0 can't be carried in as a change."""
    draft = drafts.made(
        "genesis",
        house.state.genesis,
        id=ids.new(),
        tenant="default",
        ts=clock.format_ms(NOW_MS),
        prev=house.state.system_head,
        salt=bytes(16),
    )
    with refusal(Code.KIND_NOT_ALLOWED):
        rules.proposable(house.state, drafts.signed(draft, house.root.signer), house.now_ms)


def test_a_draft_fills_in_its_end_and_nothing_else() -> None:
    """`expires_at` is given when missing and kept when there; any other gap is bad input that names its field."""
    plain = {"model": msgspec.to_builtins(trust.DEFAULT_MODEL)}
    assert rules.payload_of("model_config", plain, LATER).expires_at == LATER
    sooner = clock.format_ms(NOW_MS + 1)
    assert rules.payload_of("model_config", plain | {"expires_at": sooner}, LATER).expires_at == sooner
    for broken in ({}, plain | {"extra": 1}, {"model": {"version": "x"}}, plain | {"expires_at": float("nan")}):
        with refusal(Code.BAD_INPUT):
            rules.payload_of("model_config", broken, LATER)


# What comes back must be what was asked


def test_a_signed_record_holds_exactly_the_asked_change() -> None:
    """witness/add with a record that adds another witness, or changes a model, is refused at the field that differs."""
    house = House(2, sealed=True)
    pam, rex = house.mentor("pam"), house.mentor("rex")
    wanted = house.adding(pam)
    later = msgspec.structs.replace(wanted, expires_at=clock.format_ms(NOW_MS + 2 * DAY_MS))
    rules.check_asked(wanted, rules.proposable(house.state, house.signed(later), house.now_ms))
    with pytest.raises(Refused) as info:
        rules.check_asked(wanted, rules.proposable(house.state, house.signed(house.adding(rex)), house.now_ms))
    assert (info.value.code, info.value.field) == (Code.RECORD_INVALID, "$.record.payload.key")
    with refusal(Code.RECORD_INVALID):
        rules.check_asked(wanted, rules.proposable(house.state, house.signed(house.model()), house.now_ms))


def test_a_models_weights_keep_their_signs() -> None:
    """An uploaded model whose risk weighs for the caller is bad input, not a proposal."""
    upload = wire.UploadModel(version="v2", weights=trust.DEFAULT_MODEL.weights, bias=0, threshold=0)
    assert rules.model_payload(upload, expires_at=LATER).model.version == "v2"
    for changes in ({"version": "V 2"}, {"bias": 10**9}, {"threshold": 2**60}):
        with refusal(Code.BAD_INPUT):
            rules.model_payload(msgspec.structs.replace(upload, **changes), expires_at=LATER)


# Endings


def test_another_change_makes_the_rest_stale(house: House) -> None:
    """Two proposals on one head: the second loses, says so, and takes no more voices."""
    first, second = house.propose(house.model(1)), house.propose(house.model(2))
    for name in ("mia", "ned"):
        house.attest(second, name)
    house.pass_(first)
    assert house.standing(second).state == "stale"
    with refusal(Code.PROPOSAL_CLOSED):
        house.attest(second, "ora")
    with refusal(Code.STALE_PREV) as info:
        house.commit(second)
    assert info.value.detail == {"head": house.state.system_head}
    assert rules.outcome_of(info.value) == "stale"


def test_time_ends_a_proposal(house: House) -> None:
    """The policy's time to live ends it before the payload's own end; nobody attests or commits after."""
    name = house.propose(house.model())
    house.attest(name, "mia")
    house.attest(name, "ned")
    house.clock.advance(3_600_000 - 1)
    assert house.standing(name).state == "ready"
    house.clock.advance(1)
    assert house.standing(name).state == "expired"
    with refusal(Code.PROPOSAL_EXPIRED):
        house.attest(name, "ora")
    with refusal(Code.PROPOSAL_EXPIRED):
        house.commit(name)


def test_the_payloads_own_end_comes_first(house: House) -> None:
    """Whichever end is sooner ends the proposal, so what is ready here is what the writer would take."""
    name = house.propose(msgspec.structs.replace(house.model(), expires_at=clock.format_ms(NOW_MS + 1000)))
    house.clock.advance(1000)
    assert house.standing(name).state == "expired"


def test_before_the_seal_a_proposal_lives_a_day() -> None:
    """Without a policy the time to live is a day."""
    house = House()
    far = clock.format_ms(NOW_MS + 30 * DAY_MS)
    name = house.propose(house.adding(house.mentor("mia"), expires_at=far))
    house.clock.advance(DAY_MS - 1)
    assert house.standing(name).state == "open"
    house.clock.advance(1)
    assert house.standing(name).state == "expired"


@pytest.mark.parametrize("outcome", ["withdrawn", "refused", "stale", "expired"])
def test_what_is_closed_stays_closed(house: House, outcome: Any) -> None:
    """After an ending no voice, no commit and no second ending."""
    name = house.propose(house.model())
    house.attest(name, "mia")
    house.attest(name, "ned")
    house.close(name, outcome)
    house.close(name, "withdrawn")
    assert house.standing(name).state == outcome
    assert name not in house.book.open
    for act in (lambda: house.attest(name, "ora"), lambda: house.commit(name)):
        with pytest.raises(Refused) as info:
            act()
        assert info.value.code in {Code.PROPOSAL_CLOSED, Code.PROPOSAL_EXPIRED, Code.STALE_PREV}


def test_the_sweep_tells_each_ending_once(house: House) -> None:
    """Committed before a crash, expired and stale proposals are closed as what they are; running ones are left alone."""
    done, lost = house.propose(house.model(1)), house.propose(house.model(2))
    house.attest(done, "mia")
    house.attest(done, "ned")
    house.commit(done)
    running = house.propose(house.model(3))
    endings = {ending.proposal_id: ending for ending in rules.overdue(house.state, house.book, house.now_ms)}
    assert {name: ending.outcome for name, ending in endings.items()} == {done: "committed", lost: "stale"}
    assert endings[done].record_hash == house.book.proposals[done].hash
    for ending in endings.values():
        house.append("proposal_closed", ending, house.instances["quorum"])
    assert rules.overdue(house.state, house.book, house.now_ms) == []
    house.clock.advance(3_600_000)
    assert [
        (ending.proposal_id, ending.outcome) for ending in rules.overdue(house.state, house.book, house.now_ms)
    ] == [(running, "expired")]


@pytest.mark.parametrize(
    ("code", "outcome"),
    [
        (Code.BUSY, None),
        (Code.UNAVAILABLE, None),
        (Code.READ_ONLY, None),
        (Code.QUORUM_NOT_SATISFIED, None),
        (Code.STALE_PREV, "stale"),
        (Code.PROPOSAL_EXPIRED, "expired"),
        (Code.THRESHOLD_INVALID, "refused"),
        (Code.ID_TAKEN, "refused"),
        (Code.WITNESS_TAKEN, "refused"),
    ],
)
def test_only_what_cant_heal_ends_a_proposal(code: Code, outcome: str | None) -> None:
    """A full queue is no verdict on the change."""
    assert rules.outcome_of(Refused(code, "")) == outcome


def test_a_licence_revoked_after_proposing_stops_the_commit() -> None:
    """What held when it was proposed is held again when it is committed."""
    house = House(2, sealed=True)
    pam = house.mentor("pam")
    name = house.propose(house.adding(pam))
    house.attest(name, "pam", pam.signer)
    house.attest(name, "mia")
    house.attest(name, "ned")
    house.revoke(pam)
    with refusal(Code.LICENSE_INVALID) as info:
        house.commit(name)
    assert rules.outcome_of(info.value) == "refused"


# The fold


def test_the_book_survives_everything(house: House) -> None:
    """Folded again from the log alone, the book is the same; a record that comes twice changes nothing."""
    first, second = house.propose(house.model(1)), house.propose(house.model(2))
    house.attest(first, "mia")
    house.attest(second, "ned")
    house.pass_(second)
    house.close(first, "stale")
    again = proposals.Book()
    for seq, signed in enumerate(house.log):
        for _ in range(2):
            again.apply(seq, record.check(signed))
    assert again.proposals == house.book.proposals
    assert again.committed == house.book.committed
    assert again.open == house.book.open
    assert again.size == house.book.size


def test_a_book_of_its_kinds_alone_is_the_same_book(house: House) -> None:
    """The filtered stream is enough: records of other kinds move nothing."""
    house.attest(house.propose(house.model()), "mia")
    again = proposals.Book()
    for seq, signed in enumerate(house.log):
        checked = record.check(signed)
        if checked.core.kind in proposals.KINDS:
            again.apply(seq, checked)
    assert again.proposals == house.book.proposals
    assert again.committed == house.book.committed


def test_a_false_claim_of_commit_is_not_believed(house: House) -> None:
    """Only the system space says that a record was committed."""
    name = house.propose(house.model())
    house.close(name, "committed")
    assert house.standing(name).state == "open"
    assert house.book.place(house.book.proposals[name]) is None


def test_a_forged_voice_in_the_log_is_no_voice(house: House) -> None:
    """Even if the service itself wrote a voice that nobody gave, the writer's check refuses the record."""
    name = house.propose(house.model())
    house.attest(name, "mia")
    forged = audit.ProposalAttested(
        proposal_id=name,
        witness_id="ned",
        key_id=house.mentors["ned"].signer.key_id,
        sig=signing.signature_text(bytes(64)),
        counted=True,
    )
    house.append("proposal_attested", forged, house.instances["quorum"])
    with refusal(Code.SIGNATURE_INVALID):
        house.commit(name)


def test_a_voice_by_a_key_that_doesnt_count_is_left_out(house: House) -> None:
    """A written voice whose key is not the registry's adds nothing to the tally."""
    name = house.propose(house.model())
    house.attest(name, "mia")
    stray = audit.ProposalAttested(
        proposal_id=name, witness_id="ned", key_id="0" * 32, sig=signing.signature_text(bytes(64)), counted=True
    )
    house.append("proposal_attested", stray, house.instances["quorum"])
    assert rules.tally(house.state, house.book.proposals[name]).have == ("mia",)


def test_an_opening_that_carries_rubbish_opens_nothing(house: House) -> None:
    """A record whose bytes don't hold together is no proposal, and the fold goes on."""
    good = rules.proposable(house.state, house.signed(house.model()), house.now_ms)
    carried = proposals.carried(good)
    before = set(house.book.proposals)
    for spoiled in (
        msgspec.structs.replace(carried, header="{}"),
        msgspec.structs.replace(carried, payload=carried.payload + " "),
        msgspec.structs.replace(carried, salt="00" * 16),
    ):
        request, link = house._permission("quorum/propose")
        payload = audit.ProposalOpened(
            proposal_id=ids.new(), record=spoiled, record_hash=good.header.hash, request=request
        )
        house.append("proposal_opened", payload, house.instances["quorum"], links=[link])
    assert house.book.proposals.keys() == before
    name = house.propose(house.model())
    assert house.standing(name).state == "open"


def test_a_proposal_is_found_by_its_record(house: House) -> None:
    """The same record proposed again is the same proposal while it runs."""
    name = house.propose(house.model())
    proposal = house.book.proposals[name]
    assert house.book.pending(proposal.hash) is proposal
    house.close(name, "withdrawn")
    assert house.book.pending(proposal.hash) is None


def test_an_ended_proposals_need_is_what_it_was_at_its_end():
    """A later policy changes what running proposals need, and nothing of those that were committed or withdrawn."""
    house = House(mentors=3, sealed=True)
    done, gone = house.propose(house.model(1)), house.propose(house.model(2))
    house.close(gone, "withdrawn")
    house.pass_(done)
    running = house.propose(house.model(3))
    stricter = house.propose(house.quorum(k=3))
    house.pass_(stricter)

    def need(name):
        return rules.tally(house.state, house.book.proposals[name]).need

    assert [need(name) for name in (done, gone, stricter, running)] == [2, 2, 2, 3]


def test_every_system_kind_closes_its_proposal():
    """A change of the log's key, like any other, is seen as committed by the book that proposals are read from."""
    assert {kind.tag for kind in records.REGISTRY.values() if kind.space == "system"} <= set(proposals.KINDS)
