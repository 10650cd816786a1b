"""Who is proposed as a witness is scored on their own standing: nobody else's, whoever says otherwise."""

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sigilcore import candidates, canonical, decision, gate, ids, record, standing, trust
from sigilcore.access import Loa
from sigilcore.contracts import catalogue
from sigilcore.decision import Verdict
from sigilcore.records import audit
from sigilcore.refusals import Code, Refused
from tests.core.test_attacks import refused
from tests.core.test_voices import proposing
from tests.judging import agrees, diverges
from tests.simulator import House, Person

SALT = bytes(16)
THRESHOLD = 7_500_000  # of these commands: at a low rate Root passes with a candidate's standing from 325 000 on
COMMANDS = ("witness/add", "quorum/propose", "quorum/rebase")


class Proposing(House):
    """A sealed house whose policy asks something of candidates: `good` has no history, `bad` ten denials, `worse` eleven."""

    def __init__(self):
        super().__init__()
        self.voices = self.mentors(2)
        self.seal(self.voices, 2)
        policy = {"version": "second", "rate_limit": self.rate_limit, "thresholds": dict.fromkeys(COMMANDS, THRESHOLD)}
        law = {"policy": policy, "expires_at": self.later()}
        kind = record.records.REGISTRY["access_policy"].payload
        self.place(self.attested(self.proposal("access_policy", msgspec.convert(law, kind)), *self.voices))
        self.people = {name: self.issue(Person(name), Loa.MENTOR) for name in ("good", "fine", "bad", "worse")}
        self.denied(self.people["bad"], 10)
        self.denied(self.people["worse"], 11)

    def denied(self, person, times):
        """So many denials of this person's that stand in the log."""
        for _ in range(times):
            self.decide(self.judge(person, "license/create"))

    def decide(self, chain):
        """Commit a decision, whoever made it up; where it stands."""
        batch = audit.DecisionBatch(decisions=(decision.freeze(chain),))
        self.append("decision_batch", batch, self.instances["gatekeeper"])
        return len(self.log) - 1

    def enrolling(self, *names):
        """The record that makes these people witnesses, signed by Root."""
        enrolments = [self.enrolment(self.people[name], self.people[name].signer) for name in names]
        one = len(enrolments) == 1
        return self.proposal(
            "trusted_witness" if one else "changes", enrolments[0] if one else self.several(*enrolments)
        )

    def asks(self, command, parameters):
        """Root's call, judged as an honest gate would."""
        observed = gate.observe(catalogue.COMMANDS[command], parameters, SALT)
        return self.judge(self.root, command, proof="owner", observed=observed)

    def opening(self, change, command="quorum/propose", parameters=None, **lies):
        """The record that opens a proposal, by a decision of which `lies` are the gate's."""
        checked = record.check(change)
        request, link = self._permission(command, parameters or proposing(checked), **lies)
        carried = audit.CarriedRecord(
            header=checked.leaf.decode(), payload=checked.payload_bytes.decode(), salt=checked.salt.hex()
        )
        payload = audit.ProposalOpened(
            proposal_id=ids.new(), record=carried, record_hash=checked.header.hash, request=request
        )
        return self.signed_by(self.instances["quorum"], "proposal_opened", payload, links=[link])

    def counting(self, command, parameters, *names):
        """What a gate says that counts these people, with their true standing."""
        honest = gate.observe(catalogue.COMMANDS[command], parameters, SALT)
        observed = msgspec.structs.replace(honest, candidates=names)
        return {"observed": observed, "standing": self.standings.lowest(names or ("root",), self.now_ms)}

    def judged(self):
        return self.placed(), self.checkpoint()


@pytest.fixture
def house():
    return Proposing()


def adding(name):
    return msgspec.json.encode({"witness_id": name})


# Whom a call proposes


def test_what_proposes_whom(house):
    """A name, one enrolment, several; a rotation, a revocation and any other change propose nobody."""
    mentor, voice = house.people["good"], house.voices[0]
    model = house.proposal("model_config", house.new_model())
    several = house.proposal(
        "changes", house.several(house.new_model(), house.enrolment(mentor, mentor.signer), house.quorum_policy(2))
    )
    calls = [
        ("witness/add", adding("good"), ("good",)),
        ("quorum/propose", proposing(record.check(house.enrolling("worse", "bad"))), ("bad", "worse")),
        ("quorum/rebase", proposing(record.check(house.enrolling("good"))), ("good",)),
        ("quorum/propose", proposing(record.check(several)), ("good",)),
        ("quorum/propose", proposing(record.check(model)), ()),
        ("witness/rotate", adding("good"), ()),
        ("witness/revoke", adding("good"), ()),
        ("quorum/attest", adding("good"), ()),
    ]
    for action in ("rotate", "revoke"):
        change = house.proposal("trusted_witness", house.enrolment(voice, voice.signer, action=action))
        calls.append(("quorum/propose", proposing(record.check(change)), ()))
    for name, parameters, expected in calls:
        assert gate.observe(catalogue.COMMANDS[name], parameters, SALT).candidates == expected, name


def test_every_declared_field_is_one():
    """A declaration names a field of its own request; every way to open a proposal with a record of one's own has one."""
    declared = {one.name: one for one in catalogue.COMMANDS.values() if one.candidate_field is not None}
    assert set(declared) == set(COMMANDS)
    assert all(one.candidate_field in one.request.__struct_fields__ for one in declared.values())


@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"witness_id": None, "record": None},
        {"witness_id": "", "record": ""},
        {"witness_id": "no such\nname", "record": "x" * 65},
        {"witness_id": ["good"], "record": ["good"]},
        {"witness_id": {"core": "{}"}, "record": {"core": "{}", "payload": "{}"}},
        {"record": {"core": '{"kind":"trusted_witness"}', "payload": '{"action":"add","witness_id":"good"}'}},
        {"record": {"core": '{"kind":"nonsense"}', "payload": "{}"}},
        {"record": {"core": '{"kind":"memory_block"}', "payload": "{}"}},
        {"record": {"core": '{"kind":["changes"]}', "payload": "{}"}},
        {"record": {"core": '{"kind":"changes"}', "payload": "["}},
        {"record": {"core": '{"kind":"changes"}', "payload": "[" * 50_000}},
        {"record": {"core": "[" * 50_000, "payload": "{}"}},
        {"record": {"core": '{"kind":"\\ud800"}', "payload": "{}"}},
    ],
)
def test_what_is_no_candidate_is_none(parameters):
    """Whatever stands where a name or a record should: nobody, and no fault."""
    for name in ("witness/add", "quorum/propose"):
        assert gate.observe(catalogue.COMMANDS[name], msgspec.json.encode(parameters), SALT).candidates == ()


@pytest.mark.parametrize("rest", [b'"x":1e999', b'"x":"\\ud800"', b'"x":"\xff"', b'"x":' + b"[" * 5_000 + b"]" * 5_000])
def test_what_stands_beside_is_no_fault(rest):
    """What the gate reads past and its service refuses: an answer, never a fault of the gate."""
    for name in ("witness/add", "quorum/propose"):
        try:
            seen = gate.observe(catalogue.COMMANDS[name], b'{"witness_id":"good",' + rest + b"}", SALT)
        except Refused as refusal:
            assert refusal.code is Code.BAD_INPUT
        else:
            assert seen.candidates == ()


@given(st.binary(max_size=200), st.text(max_size=50), st.text(max_size=50))
def test_no_bytes_break_it(raw, core, payload):
    """Any parameters, and any record in them or in an opening."""
    parts = msgspec.json.encode({"record": {"core": core, "payload": payload}})
    for parameters in (raw, parts):
        try:
            gate.observe(catalogue.COMMANDS["quorum/propose"], parameters, SALT)
        except Refused as refusal:
            assert refusal.code is Code.BAD_INPUT
    carried = audit.CarriedRecord(header=core, payload=payload, salt="00" * 16)
    request = decision.Request(command="", salt="00" * 16, digest="0" * 64, parameters="0" * 64)
    opening = audit.ProposalOpened(proposal_id="", record=carried, record_hash="0" * 64, request=request)
    assert candidates.in_opening(opening) == ()


# Whose standing counts


@pytest.mark.parametrize("command", ["witness/add", "quorum/propose"])
def test_bad_standing_makes_no_witness(house, command):
    """Ten denials: refused by the score, and the refusal says whose standing it was. Who has no history starts in the middle."""

    def asked(name):
        parameters = adding(name) if command == "witness/add" else proposing(record.check(house.enrolling(name)))
        chain = house.asks(command, parameters)
        house.decide(chain)
        return chain

    good, bad = asked("good"), asked("bad")
    assert (good.verdict, bad.verdict) == (Verdict.ALLOW, Verdict.DENY)
    assert (good.trust.standing_of, good.trust.features.standing) == (("good",), trust.STANDING_START)
    assert (bad.trust.standing_of, bad.trust.features.standing) == (("bad",), 200_000)
    refusal = gate.refusal_of(bad)
    assert refusal.code is Code.DENIED_BY_TRUST
    assert refusal.detail["standing_of"] == ["bad"]
    agrees(*house.judged())


def test_of_several_the_lowest_counts(house):
    """One of two in bad standing is enough; the number is the lower one's."""
    together = house.asks("quorum/propose", proposing(record.check(house.enrolling("good", "bad"))))
    assert (together.verdict, together.trust.features.standing) == (Verdict.DENY, 200_000)
    worst = house.asks("quorum/propose", proposing(record.check(house.enrolling("worse", "bad"))))
    assert worst.trust.features.standing == 200_000 - standing.LOSS
    passed = house.asks("quorum/propose", proposing(record.check(house.enrolling("good", "fine"))))
    assert (passed.verdict, passed.trust.standing_of) == (Verdict.ALLOW, ("fine", "good"))


def test_roots_own_standing_is_left_out(house):
    """Root did a lot of harm: its candidate passes all the same, and what proposes nobody doesn't."""
    for _ in range(30):
        house.decide(house.judge(house.root, "license/create"))
    assert house.standings.at("root", house.now_ms) < 100_000
    assert house.asks("witness/add", adding("good")).verdict is Verdict.ALLOW
    model = house.asks("quorum/propose", proposing(record.check(house.proposal("model_config", house.new_model()))))
    assert (model.verdict, model.trust.standing_of) == (Verdict.DENY, ())


def test_a_proposal_by_either_way(house):
    """Both commands open one, of one candidate or several, and every way of judging agrees."""
    house.place(house.opening(house.enrolling("good"), "witness/add", adding("good")))
    house.place(house.opening(house.enrolling("good")))
    house.place(house.opening(house.enrolling("good", "fine")))
    house.place(house.opening(house.proposal("model_config", house.new_model())))
    agrees(*house.judged())


# Lies


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (("bad",), ("good",)),  # another's
        (("bad",), ()),  # Root's own
        (("bad", "good"), ("good",)),  # not the lowest's
        (("good",), ("fine", "good")),  # one too many
        ((), ("good",)),  # where nobody is proposed
    ],
)
def test_the_standing_of_somebody_else(house, names, said):
    """A gate that counts others than the record enrols, each with their true standing: the writer refuses the proposal, replay too."""
    change = house.enrolling(*names) if names else house.proposal("model_config", house.new_model())
    parameters = proposing(record.check(change))
    signed = house.opening(change, **house.counting("quorum/propose", parameters, *said))
    agrees(*house.judged())  # of the decision alone nobody can tell
    caught = refused(Code.DECISION_MISMATCH, house.place, signed)
    assert caught.field == "$.payload.record"
    house.log.append(signed)
    assert diverges(*house.judged())[:2] == (len(house.log) - 1, "DECISION_MISMATCH")


def test_the_standing_of_somebody_else_by_name(house):
    """`witness/add` says whom it proposes; a gate that counts another is found by the record that came with the call."""
    lie = house.counting("witness/add", adding("bad"), "good")
    signed = house.opening(house.enrolling("bad"), "witness/add", adding("bad"), **lie)
    refused(Code.DECISION_MISMATCH, house.place, signed)


def test_a_rotation_that_enrols(house):
    """A quorum service that opens an enrolment by a decision on a command that proposes nobody."""
    signed = house.opening(house.enrolling("bad"), "witness/rotate", adding("bad"))
    refused(Code.DECISION_MISMATCH, house.place, signed)


@pytest.mark.parametrize(("name", "claimed"), [("bad", 500_000), ("good", 600_000), ("good", 0)])
def test_a_standing_that_isnt_the_candidates(house, name, claimed):
    """The right name with a number that the log doesn't give, to its favour or against it: replay counts."""
    honest = gate.observe(catalogue.COMMANDS["witness/add"], adding(name), SALT)
    seq = house.decide(house.judge(house.root, "witness/add", proof="owner", observed=honest, standing=claimed))
    found = diverges(*house.judged())
    assert found[:2] == (seq, "RECORD_INVALID")
    assert f"the standing {claimed} isn't" in found[2]


def test_looking_back_further_than_it_must(house):
    """A gate can't look away from what it denied a candidate by naming an older position."""
    observed = gate.observe(catalogue.COMMANDS["witness/add"], adding("bad"), SALT)
    old = {"standing": trust.STANDING_START, "standing_as_of": 0}
    seq = house.decide(house.judge(house.root, "witness/add", proof="owner", observed=observed, **old))
    assert diverges(*house.judged())[:2] == (seq, "RECORD_INVALID")


@pytest.mark.parametrize("command", ["memory/write", "quorum/commit", "witness/revoke"])
def test_a_candidate_where_a_command_proposes_nobody(house, command):
    """Somebody else's good standing lends nothing: the writer doesn't hear a decision that counts it."""
    lie = house.counting(command, b"{}", "good")
    caught = refused(Code.RECORD_INVALID, house.decide, house.judge(house.root, command, proof="owner", **lie))
    assert caught.field == "$.payload.decisions[0]"


# Chains


def test_what_proposes_nobody_says_nothing_of_it(house):
    """The caller's own standing isn't named: such chains have the bytes that they had before there were candidates."""
    assert "standing_of" not in canonical.of(house.judge(house.root, "memory/write")).decode()


@settings(max_examples=30, deadline=None)
@given(st.sets(st.from_regex(r"\A[a-z][a-z0-9:@._-]{0,8}\Z"), max_size=16))
def test_chains_go_round_and_hold(names):
    """Whoever is proposed: the chain's bytes are canonical and read back, and judged again it is the same."""
    house = _house()
    observed = gate.observe(catalogue.COMMANDS["quorum/propose"], b"{}", SALT)
    observed = msgspec.structs.replace(observed, candidates=tuple(sorted(names)))
    chain = house.judge(house.root, "quorum/propose", proof="owner", observed=observed)
    written = canonical.of(chain)
    assert canonical.typed(canonical.decode(written), decision.ReasoningChain) == chain
    assert decision.intact(decision.freeze(chain))
    assert gate.recompute(house.state, chain, catalogue.COMMANDS["quorum/propose"]) == []


_HOUSES: list[Proposing] = []


def _house():
    if not _HOUSES:
        _HOUSES.append(Proposing())
    return _HOUSES[0]


people = st.sampled_from(["good", "fine", "bad", "worse"])


@settings(max_examples=12, deadline=None)
@given(st.lists(st.tuples(st.sets(people, min_size=1, max_size=3), st.integers(0, 3)), max_size=4))
def test_any_history_of_proposals_is_judged_alike(told):
    """Whatever is denied and proposed in between: what the gate took at its position, every replay finds."""
    house = Proposing()
    for names, denials in told:
        house.denied(house.people[min(names)], denials)
        chain = house.asks("quorum/propose", proposing(record.check(house.enrolling(*sorted(names)))))
        assert chain.trust.features.standing == min(house.standings.at(name, house.now_ms) for name in names)
        house.decide(chain)
    agrees(*house.judged())
