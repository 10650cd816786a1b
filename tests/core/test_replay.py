"""A ledger is judged again from its records alone: the true one agrees, and a bent one is named where it bends.

Every ledger here is judged in each way there is, record by record and in runs of several lengths, and all must say the same.
"""

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sigilcore import (
    canonical,
    checkpoint,
    clock,
    decision,
    digest,
    ids,
    merkle,
    minute,
    note,
    places,
    record,
    replay,
    signing,
    standing,
    vouch,
)
from sigilcore.access import Loa
from sigilcore.contracts import catalogue
from sigilcore.records import audit, system
from sigilcore.refusals import Code, Refused
from tests.judging import agrees, diverges
from tests.simulator import House, Person


@pytest.fixture(scope="module")
def house():
    """A house with a seal, a committed model, and a few memories."""
    built = Beating()
    built.operator = built.issue(Person("ada", keyed=False), Loa.OPERATOR)
    built.remember(built.operator, "one")
    built.voices = built.mentors(3)
    built.seal(built.voices, 2)
    built.place(built.attested(built.proposal("model_config", built.new_model()), *built.voices[:2]))
    built.remember(built.operator, "one", "again")
    built.remember(built.operator, "two")
    built.beat()
    built.remember(built.operator, "one", "a third time")
    return built


class Beating(House):
    """A house whose gatekeeper beats."""

    def beat(self, *, off=0, closing=False):
        """The gatekeeper says how many records it wrote before; `off` is how far that is from the truth."""
        signer = self.instances["gatekeeper"]
        count = sum(record.check(signed).header.key_id == signer.key_id for signed in self.log)
        return self.append("instance_beat", audit.InstanceBeat(records=count + off, closing=closing), signer)


def bend(house, seq, **header):
    """The ledger with one header changed at `seq`, its hash made to fit, as a careful forger would."""
    records = house.placed()
    opened, _ = record.open_header(bytes(records[seq].header))
    core = msgspec.structs.replace(opened.core, **header)
    fitting = digest.sha256_hex(canonical.of(core))
    bent = canonical.of(msgspec.structs.replace(opened, core=core, hash=fitting))
    records[seq] = msgspec.structs.replace(records[seq], header=msgspec.Raw(bent))
    return records


def last(house, kind):
    """The seq of the newest record of a kind."""
    return max(seq for seq, signed in enumerate(house.log) if record.check(signed).core.kind == kind)


def signed_over(house, records):
    """A checkpoint that the true log key signed over whatever is there: the log's owner as the attacker."""
    root = merkle.root([merkle.leaf_hash(bytes(placed.header)) for placed in records])
    return checkpoint.sign(checkpoint.Checkpoint(house.origin, len(records), root), house.writer)


def replaced(records, seq, **fields):
    """The ledger with one line changed."""
    return [msgspec.structs.replace(one, **fields) if one.seq == seq else one for one in records]


def renumbered(records):
    """Consecutive again, as a forger would leave them."""
    return [msgspec.structs.replace(placed, seq=number) for number, placed in enumerate(records)]


def smuggle(house, signed):
    """A writer that is in on it: the record stands in the log, whatever admission says."""
    house.log.append(signed)
    return len(house.log) - 1


def erase(records, seq):
    """The payload at `seq` is gone, and its salt."""
    return replaced(records, seq, payload=msgspec.Raw(b"null"), salt=None)


# The true ledger


def test_true_ledger_agrees(house):
    """Everything recomputes, the report counts it, and says what can't be recomputed."""
    report = agrees(house.placed(), house.checkpoint(), genesis=house.state.genesis_hash)
    assert report.records == len(house.log)
    assert report.genesis == house.state.genesis_hash
    assert report.effects == report.decisions == sum(1 for row in house.rows.values() if row.used_by)
    assert report.pinned == ("genesis",)
    assert {"time", "entropy and length of parameters"} <= set(report.asserted)


def test_most_records_are_vouched_for(house):
    """What runs are for: only governing records, and effects whose decision is in another run, are left to the one who asks."""
    lines = [msgspec.json.encode(placed) for placed in house.placed()]
    run = vouch.Voucher().vouch(0, lines)
    for entry, line in zip(run.entries, lines, strict=True):
        assert (entry is None) == vouch.governs(line)


def test_governing_records_outside_a_run_are_followed(house):
    """A voucher that is told the governing records only vouches for a run in the middle as one that saw everything."""
    lines = [msgspec.json.encode(placed) for placed in house.placed()]
    first = len(lines) - 6
    alone = vouch.Voucher()
    for seq, line in enumerate(lines[:first]):
        if vouch.governs(line):
            alone.follow(seq, line)
    assert any(entry is not None for entry in alone.vouch(first, lines[first:]).entries)
    machine = replay.Replay()
    for placed in house.placed()[:first]:
        machine.step(placed)
    whole = vouch.Voucher()
    whole.vouch(0, lines[:first])
    assert alone.vouch(first, lines[first:]) == whole.vouch(first, lines[first:])


# Pins


def test_genesis_of_another_house(house):
    """A ledger that is whole in itself but not the pinned one fails at its first record."""
    seq, _, reason = diverges(house.placed(), house.checkpoint(), genesis="f" * 64)
    assert seq == 0
    assert "pinned" in reason


def test_genesis_forged():
    """Genesis written anew by somebody else's Root, with a whole ledger after it: every signature is good, the pin tells."""
    true, forged = House(), House()
    seq, _, reason = diverges(forged.placed(), forged.checkpoint(), genesis=true.state.genesis_hash)
    assert (seq, reason) == (0, "genesis is not the pinned one")


def test_seal_is_reported_and_pinned(house):
    """The seal is the first quorum policy; a later one doesn't move it."""
    seal = house.by_id[record.check(house.log[last(house, "quorum_policy")]).core.id].header.hash
    assert agrees(house.placed(), house.checkpoint(), seal=seal).seal == seal


def test_seal_refounded_with_other_witnesses():
    """Root re-founds the past: the same genesis, witnesses of its own, a seal by them. Whole in itself; the pin of the seal tells."""
    house = House()
    fork = len(house.log)
    house.seal(house.mentors(3), 2)
    true_seal = record.check(house.log[-1]).header.hash
    other = refounded(house, fork)
    genesis = house.state.genesis_hash
    assert agrees(other.placed(), other.checkpoint(), genesis=genesis).genesis == genesis
    seq, _, reason = diverges(other.placed(), other.checkpoint(), genesis=genesis, seal=true_seal)
    assert (seq, reason) == (last(other, "quorum_policy"), "the seal is not the pinned one")


def refounded(house, fork):
    """The same keys and the same first records, and another history from `fork` on."""
    other = House()
    for name in ("writer", "services", "instances", "root", "runtime_id", "origin", "calls"):
        setattr(other, name, getattr(house, name))
    other.state, other.log, other.heads, other.by_id, other.rows = type(house.state)(), [], {}, {}, {}
    for signed in house.log[:fork]:
        other.place(signed)
    other.seal([*other.mentors(2)], 2)
    return other


def test_never_sealed_although_a_seal_is_pinned():
    """A ledger that ends before its seal isn't the sealed one."""
    house = House()
    assert "never sealed" in diverges(house.placed(), house.checkpoint(), seal="0" * 64)[2]


def test_tail_cut_against_a_pinned_checkpoint(house):
    """Cut, and signed again by the true log key: the checkpoint that somebody kept tells, and so does a size."""
    records = house.placed()[:-1]
    shorter = signed_over(house, records)
    assert "when it was pinned" in diverges(records, shorter, checkpoint=house.checkpoint())[2]
    assert diverges(records, shorter, size=len(house.log))[0] == len(records)
    assert agrees(house.placed(), house.checkpoint(), checkpoint=shorter, size=len(records)).records == len(house.log)


def test_history_that_left_a_pinned_checkpoint():
    """Another history of the same log, longer than the pinned checkpoint: the tree at that size tells, and names it."""
    house = House()
    house.issue(Person("ada"), Loa.OPERATOR)
    other = refounded(house, len(house.log) - 1)
    seq, code, reason = diverges(other.placed(), other.checkpoint(), checkpoint=house.checkpoint())
    assert (seq, code) == (len(house.log), "REPLAY")
    assert "pinned checkpoint" in reason


def test_pinned_checkpoint_of_another_log(house):
    """What somebody else's log signed pins nothing here."""
    assert "pinned checkpoint" in diverges(house.placed(), house.checkpoint(), checkpoint=House().checkpoint())[2]


# A byte


def test_byte_changed_in_a_payload(house):
    """One letter of a memory, found at its seq."""
    records, seq = house.placed(), last(house, "memory_block")
    bent = bytes(records[seq].payload).replace(b'"text":"a', b'"text":"b', 1)
    records = replaced(records, seq, payload=msgspec.Raw(bent))
    assert diverges(records, house.checkpoint())[:2] == (seq, "RECORD_INVALID")


def test_byte_changed_in_a_header(house):
    """The hash of the core tells."""
    records, seq = house.placed(), last(house, "memory_block")
    bent = bytes(records[seq].header).replace(b'"ts":"2', b'"ts":"3', 1)
    found = diverges(replaced(records, seq, header=msgspec.Raw(bent)), house.checkpoint())
    assert found == (seq, "RECORD_INVALID", "hash doesn't match the core")


def test_byte_changed_in_a_signature(house):
    """A signature covers what its author signed, and nothing else has it."""
    records, seq = house.placed(), last(house, "decision_batch")
    header, _ = record.open_header(bytes(records[seq].header))
    raw = bytearray(signing.signature_bytes(header.sig))
    raw[40] ^= 1
    bent = canonical.of(msgspec.structs.replace(header, sig=signing.signature_text(bytes(raw))))
    found = diverges(replaced(records, seq, header=msgspec.Raw(bent)), house.checkpoint())
    assert found[:2] == (seq, "SIGNATURE_INVALID")


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_no_byte_of_a_record_can_be_changed(house, data):
    """Any bit of any header or payload: the replay stops at that record, in every way of judging."""
    records = house.placed()
    placed = data.draw(st.sampled_from(records))
    field = data.draw(st.sampled_from(("header", "payload")))
    raw = bytearray(bytes(getattr(placed, field)))
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= 1 << data.draw(st.integers(0, 6))
    bent = replaced(records, placed.seq, **{field: msgspec.Raw(bytes(raw))})
    try:
        bent = [msgspec.json.decode(msgspec.json.encode(one), type=record.PlacedRecord) for one in bent]
    except (msgspec.DecodeError, UnicodeDecodeError):
        return  # no line of an export any more
    assert diverges(bent, house.checkpoint())[0] == placed.seq


@pytest.mark.parametrize(
    "spoil", [str.upper, lambda salt: salt[2:], lambda salt: "zz" + salt[2:], lambda salt: salt + " "]
)
def test_salt_that_is_none(house, spoil):
    """A salt is in no hash but its payload's, and has one spelling: any other is named, and stops no worker."""
    seq = last(house, "memory_block")
    spoiled = replaced(house.placed(), seq, salt=spoil(house.placed()[seq].salt))
    assert diverges(spoiled, house.checkpoint())[:2] == (seq, "RECORD_INVALID")


def test_header_changed_and_hash_made_to_fit(house):
    """The author's signature still tells."""
    seq = last(house, "memory_block")
    found = diverges(bend(house, seq, ts=house.later(-1_000)), house.checkpoint())
    assert found[:2] == (seq, "SIGNATURE_INVALID")


# Cuts and swaps


def test_tail_cut(house):
    """A shorter ledger doesn't fit the checkpoint."""
    records = house.placed()[:-1]
    assert diverges(records, house.checkpoint())[0] == len(records)


def test_tail_cut_by_the_log_itself(house):
    """Cut and signed again by the true log key: whole in itself, which is why checkpoints are witnessed and heads remembered."""
    records = house.placed()[:-1]
    assert agrees(records, signed_over(house, records)).records == len(records)


def test_middle_cut(house):
    """A missing record leaves a hole in seq; renumbered and signed anew, in a chain."""
    seq = last(house, "decision_batch")
    cut = house.placed()[:seq] + house.placed()[seq + 1 :]
    assert diverges(cut, house.checkpoint())[0] == seq + 1
    again = renumbered(cut)
    assert diverges(again, signed_over(house, again))[:2] == (seq, "DECISION_UNKNOWN")


def test_one_services_audit_record_removed():
    """A decision that admitted nothing is taken out, all else renumbered and signed anew: the next of that key's chain tells."""
    house = House()
    operator = house.issue(Person("ada", keyed=False), Loa.OPERATOR)
    house.granted(operator, "memory/read")
    gone = len(house.log) - 1
    house.remember(operator, "one")
    left = renumbered(house.placed()[:gone] + house.placed()[gone + 1 :])
    assert diverges(left, signed_over(house, left))[:2] == (gone, "STALE_PREV")


def refused(house, service, **changes):
    """A record that says only that something was refused: it governs nothing, and no decision looks back at it."""
    signer = house.instances[service]
    fields = {
        "id": ids.new(),
        "tenant": "default",
        "ts": clock.format_ms(house.now_ms),
        "space": "audit",
        "signer": signer,
        "salt": bytes(16),
        "prev": house.state.chains.get(signer.key_id),
    }
    payload = audit.AppendRefused(code=Code.BUSY, kind="decision_batch", record_id=ids.new())
    return record.build("append_refused", payload, **(fields | changes))


def test_a_record_removed_that_nothing_looks_back_at(young):
    """Its key's chain tells, and nothing else does."""
    gone = len(young.log)
    for _ in range(2):
        young.place(refused(young, "license"))
    left = renumbered(young.placed()[:gone] + young.placed()[gone + 1 :])
    assert diverges(left, signed_over(young, left))[:2] == (gone, "STALE_PREV")


def test_one_id_for_two_records(young):
    """Of two instances, each in its own chain."""
    first = refused(young, "license")
    young.place(first)
    seq = smuggle(young, refused(young, "gatekeeper", id=record.check(first).core.id))
    assert diverges(young.placed(), young.checkpoint())[:2] == (seq, "ID_TAKEN")


def test_order_swapped(house):
    """An effect before its decision is an effect without one."""
    seq = last(house, "memory_block")
    records = house.placed()
    records[seq - 1], records[seq] = records[seq], records[seq - 1]
    records = renumbered(records)
    assert diverges(records, signed_over(house, records))[:2] == (seq - 1, "DECISION_UNKNOWN")


@pytest.mark.parametrize("off", [-1, 1, 1_000])
def test_a_record_that_says_another_place(young, off):
    """No signature covers where it stands in a file; everything else about it is good."""
    young.place(refused(young, "license"))
    seq = len(young.log) - 1
    records = young.placed()
    records[seq] = msgspec.structs.replace(records[seq], seq=seq + off)
    assert diverges(records, young.checkpoint()) == (seq + off, "REPLAY", f"expected seq {seq}")


def test_record_doubled(house):
    """The same record twice is one too many."""
    records = house.placed()
    records.append(msgspec.structs.replace(records[-1], seq=len(records)))
    assert diverges(records, signed_over(house, records))[1] == "ID_TAKEN"


def test_version_of_a_thing_removed(house):
    """A memory is taken out: what was judged after it had seen more records than there are."""
    versions = [seq for seq, signed in enumerate(house.log) if record.check(signed).core.kind == "memory_block"]
    left = renumbered([one for one in house.placed() if one.seq != versions[1]])
    seq, code, reason = diverges(left, signed_over(house, left))
    assert (seq, code) == (versions[1], "RECORD_INVALID")
    assert "ahead of the log" in reason


# The quorum


def test_quorum_record_with_one_voice_less(house):
    """Take a witness's signature away, and the change it carried falls."""
    seq = last(house, "model_config")
    opened, _ = record.open_header(bytes(house.log[seq].header))
    short = canonical.of(msgspec.structs.replace(opened, witnesses=opened.witnesses[:1]))
    records = replaced(house.placed(), seq, header=msgspec.Raw(short))
    assert diverges(records, signed_over(house, records))[:2] == (seq, "QUORUM_NOT_SATISFIED")


def test_weights_altered(house):
    """Other weights in a committed model: the payload's hash tells, and made to fit, Root's signature."""
    seq = last(house, "model_config")
    bent = bytes(house.log[seq].payload).replace(b'"rate":-', b'"rate":-1', 1)
    records = replaced(house.placed(), seq, payload=msgspec.Raw(bent))
    assert diverges(records, house.checkpoint())[:2] == (seq, "RECORD_INVALID")
    fitting = digest.payload_hash(bytes.fromhex(house.log[seq].salt), bent)
    records = replaced(bend(house, seq, payload_hash=fitting), seq, payload=msgspec.Raw(bent))
    assert diverges(records, house.checkpoint())[:2] == (seq, "SIGNATURE_INVALID")


# Decisions


@pytest.fixture
def young():
    """A house with one operator."""
    built = Beating()
    built.operator = built.issue(Person("ada", keyed=False), Loa.OPERATOR)
    return built


def decided(house, chain, ts=None, record_id=None):
    """The gate commits this chain, whatever it says, and its writer takes it; where. The record's own time is the chain's unless told."""
    signer = house.instances["gatekeeper"]
    signed = record.build(
        "decision_batch",
        audit.DecisionBatch(decisions=(decision.freeze(chain),)),
        id=record_id or ids.new(),
        tenant="default",
        ts=ts or chain.audit.ts,
        space="audit",
        signer=signer,
        salt=bytes(16),
        prev=house.state.chains[signer.key_id],
    )
    return smuggle(house, signed)


def test_score_altered_in_a_decision(young):
    """A gate that scored otherwise than the model says is found, though every signature is good."""
    chain = young.judge(young.operator, "memory/write")
    kinder = msgspec.structs.replace(chain, trust=msgspec.structs.replace(chain.trust, logit=chain.trust.logit + 1))
    seq = decided(young, kinder)
    found = diverges(young.placed(), young.checkpoint())
    assert found[:2] == (seq, "RECORD_INVALID")
    assert "trust" in found[2]


def test_licence_never_issued(young):
    """An Allow for a licence that the log doesn't know."""
    chain = young.judge(young.operator, "memory/write")
    other = msgspec.structs.replace(chain.audit, licence=ids.new())
    seq = decided(young, msgspec.structs.replace(chain, audit=other))
    found = diverges(young.placed(), young.checkpoint())
    assert found == (seq, "RECORD_INVALID", "an Allow for a licence that the log doesn't know so")


def test_licence_back_dated(young):
    """A licence doesn't bless what was judged before the log had it; made older in place, its bytes tell."""
    before = len(young.log)
    late = young.issue(Person("eve", keyed=False), Loa.OPERATOR)
    chain = young.judge(late, "memory/write")
    seq = decided(young, msgspec.structs.replace(chain, as_of=before))
    assert diverges(young.placed(), young.checkpoint())[:2] == (seq, "STALE_DECISION")
    issued = last(young, "license_issued")
    bent = bytes(young.log[issued].payload).replace(b'"issued_at":"2', b'"issued_at":"1', 1)
    records = replaced(young.placed(), issued, payload=msgspec.Raw(bent))
    assert diverges(records, young.checkpoint())[:2] == (issued, "RECORD_INVALID")


def test_judged_before_the_licence_began(young):
    """A decision whose own time lies before its licence's begin."""
    chain = young.judge(young.operator, "memory/write", now_ms=young.now_ms - 1)
    allowed = young.judge(young.operator, "memory/write")
    seq = decided(young, msgspec.structs.replace(allowed, audit=chain.audit))
    found = diverges(young.placed(), young.checkpoint())
    assert found[:2] == (seq, "RECORD_INVALID")
    assert "NOT_YET_VALID" in found[2]


@pytest.mark.parametrize("ts", ["", "soon", "2026-02-30T00:00:00.000Z", "2026-01-01T00:00:00Z"])
def test_denied_at_no_time(young, ts):
    """A denial needs no licence that counts, but a time, which whoever folds decisions reads: the writer refuses what is none, and replay
    names it."""
    chain = young.judge(young.operator, "license/create")
    assert chain.verdict is decision.Verdict.DENY
    timeless = msgspec.structs.replace(chain, audit=msgspec.structs.replace(chain.audit, ts=ts))
    with pytest.raises(Refused) as caught:
        young.append(
            "decision_batch", audit.DecisionBatch(decisions=(decision.freeze(timeless),)), young.instances["gatekeeper"]
        )
    assert caught.value.code is Code.RECORD_INVALID
    seq = decided(young, timeless, ts=chain.audit.ts)
    assert diverges(young.placed(), young.checkpoint())[:2] == (seq, "RECORD_INVALID")


def test_judged_ahead_of_the_log(young):
    """A position that the gate can't have seen would hide that the law had moved."""
    seq = decided(young, young.judge(young.operator, "memory/write", as_of=len(young.log) + 1))
    assert diverges(young.placed(), young.checkpoint())[:2] == (seq, "RECORD_INVALID")


def test_rate_below_what_the_log_shows():
    """A gate that forgets calls in a caller's favour: its own committed decisions tell, a minute later they don't."""
    house = Beating(rate_limit=120)
    ada = house.issue(Person("ada", keyed=False), Loa.OPERATOR)
    for _ in range(3):
        house.granted(ada, "memory/read")
    agrees(house.placed(), house.checkpoint())
    house.clock.advance(minute.MINUTE_MS)
    decided(house, house.judge(ada, "memory/read", calls_last_minute=1))
    agrees(house.placed(), house.checkpoint())
    other = Beating(rate_limit=120)
    ada = other.issue(Person("ada", keyed=False), Loa.OPERATOR)
    other.granted(ada, "memory/read")
    seq = decided(other, other.judge(ada, "memory/read", calls_last_minute=1))
    found = diverges(other.placed(), other.checkpoint())
    assert found[:2] == (seq, "RECORD_INVALID")
    assert "the rate 8333 is below 16666" in found[2]


def test_standing_that_the_log_does_not_give():
    """A gate that forgives somebody, or looks back further than it must, so as not to see what it denied itself."""
    for favour in ({"standing": 500_000}, {"standing": 500_000, "standing_as_of": 0}):
        house = Beating()
        ada = house.issue(Person("ada", keyed=False), Loa.OPERATOR)
        for _ in range(3):
            denied = audit.DecisionBatch(decisions=(decision.freeze(house.judge(ada, "license/list")),))
            house.append("decision_batch", denied, house.instances["gatekeeper"])
        agrees(house.placed(), house.checkpoint())
        honest = house.judge(ada, "memory/write")
        assert honest.trust.features.standing == 500_000 - 3 * standing.LOSS
        seq = decided(house, house.judge(ada, "memory/write", **favour))
        found = diverges(house.placed(), house.checkpoint())
        assert found[:2] == (seq, "RECORD_INVALID")
        assert "the standing 500000 isn't" in found[2]


def test_standing_told_by_another_gate():
    """Two gates: what the other decided in between needn't have been seen yet, and is counted by position."""
    house = Beating()
    ada = house.issue(Person("ada", keyed=False), Loa.OPERATOR)
    as_of = house.standings.size
    denied = audit.DecisionBatch(decisions=(decision.freeze(house.judge(ada, "license/list")),))
    house.append("decision_batch", denied, house.instances["gatekeeper"])
    late = house.judge(ada, "memory/write", standing=500_000, standing_as_of=as_of)
    second = signing.Ed25519Signer.generate()
    opened = audit.InstanceOpened(
        service="gatekeeper", instance="2", key=second.public_key.hex(), settings_digest="0" * 64
    )
    house.append("instance_opened", opened, house.services["gatekeeper"])
    house.append("decision_batch", audit.DecisionBatch(decisions=(decision.freeze(late),)), second)
    agrees(house.placed(), house.checkpoint())


def test_standing_as_of_what_is_yet_to_come(young):
    """A gate can't have counted decisions that aren't in the log."""
    chain = young.judge(young.operator, "memory/write", standing_as_of=len(young.log) + 1)
    seq = decided(young, chain)
    found = diverges(young.placed(), young.checkpoint())
    assert found[:2] == (seq, "RECORD_INVALID")
    assert "standing" in found[2]


def test_rate_within_one_batch():
    """Decisions of one batch count for each other, in their order: the second of these forgot the first."""
    house = Beating(rate_limit=120)
    ada = house.issue(Person("ada", keyed=False), Loa.OPERATOR)
    chains = [house.judge(ada, "memory/read", calls_last_minute=calls) for calls in (1, 2, 2)]
    house.append(
        "decision_batch", audit.DecisionBatch(decisions=(decision.freeze(chains[0]),)), house.instances["gatekeeper"]
    )
    agrees(house.placed(), house.checkpoint())
    batch = audit.DecisionBatch(decisions=tuple(decision.freeze(chain) for chain in chains[1:]))
    house.append("decision_batch", batch, house.instances["gatekeeper"])
    assert diverges(house.placed(), house.checkpoint())[2].startswith("decision 1: the rate")


# Effects


def test_effect_without_decision(young):
    """A memory that links a decision which was never committed."""
    granted = young.granted(young.operator, "memory/write")
    never = msgspec.structs.replace(granted, decision=decision.DecisionRef(record=ids.new(), index=0))
    seq = smuggle(young, young.memory(never))
    assert diverges(young.placed(), young.checkpoint())[:2] == (seq, "DECISION_UNKNOWN")


@pytest.mark.parametrize("between", ["another call", "no call"])
def test_decision_used_twice(young, between):
    """A second effect on a used decision, with another record between, however far back it was used."""
    granted = young.granted(young.operator, "memory/write")
    young.place(young.memory(granted, "first"))
    if between == "another call":
        young.remember(young.operator, "another")
    else:
        young.place(refused(young, "license"))
    seq = smuggle(young, young.memory(granted, "second"))
    assert diverges(young.placed(), young.checkpoint())[:2] == (seq, "DECISION_USED")


@pytest.mark.parametrize("between", range(3))
def test_effect_before_the_decision_that_it_fits(young, between):
    """A decision under an id that is taken lends nothing to the effect before it, in whichever run the id's own decision stands."""
    granted = young.granted(young.operator, "memory/write")
    for number in range(between):
        young.remember(young.operator, f"between-{number}")
    fits = young.judge(young.operator, "memory/write", as_of=len(young.log) + 1)
    seq = smuggle(young, young.memory(msgspec.structs.replace(granted, digest=fits.digest)))
    decided(young, fits, record_id=granted.decision.record)
    assert diverges(young.placed(), young.checkpoint())[:2] == (seq, "DECISION_MISMATCH")


def test_one_call_of_several_records(young):
    """Records of one call stand together under one decision."""
    granted = young.granted(young.operator, "memory/write")
    young.place(*(young.memory(granted, f"key-{number}") for number in range(3)))
    assert agrees(young.placed(), young.checkpoint()).effects == 4


def test_effect_after_a_decision_long_before(young):
    """An effect whose decision stands in another run is judged like any other; one that comes too late isn't let in."""
    granted = young.granted(young.operator, "memory/write")
    for number in range(20):
        young.remember(young.operator, f"between-{number}")
    young.place(young.memory(granted, "late"))
    agrees(young.placed(), young.checkpoint())
    stale = young.granted(young.operator, "memory/write")
    longest_ms = catalogue.COMMANDS["memory/write"].longest_run_s * 1000
    young.clock.advance(max(60_000, longest_ms) + 1)
    seq = smuggle(young, young.memory(stale, "too late"))
    assert diverges(young.placed(), young.checkpoint())[:2] == (seq, "DECISION_UNKNOWN")


@pytest.mark.parametrize("between", [0, 20])
def test_a_record_whose_id_others_call_by(young, between):
    """A person's record links no decision. While it waits for its turn anybody's calls may name its id, its owner's too: it stands on the
    one that admits it, and the ledger replays."""
    ada, eve = young.issue(Person("ann"), Loa.OPERATOR), young.issue(Person("eve"), Loa.OPERATOR)
    value, asks = young.finished(ada)
    name = record.check(value).core.id
    brings = msgspec.json.encode({"record": {"header": {"core": {"id": name}}}})
    young.granted(eve, "canon/user/write", brings)
    mine = young.granted(ada, "canon/user/write", brings)
    for person, command, parameters in ((eve, "canon/user/write", brings), (ada, "memory/write", asks)):
        young.granted(person, command, parameters)
    for number in range(between):
        young.remember(young.operator, f"between-{number}")
    young.place(value, named=mine.decision)
    young.remember(young.operator, "after")
    assert agrees(young.placed(), young.checkpoint()).effects == between + 5


def test_nobodys_decision_admits_a_record_that_it_names(young):
    """A record that is named by calls which can't admit it: another's, and one of another command."""
    ada, eve = young.issue(Person("ann"), Loa.OPERATOR), young.issue(Person("eve"), Loa.OPERATOR)
    value, asks = young.finished(ada)
    name = record.check(value).core.id
    brings = msgspec.json.encode({"record": {"header": {"core": {"id": name}}}})
    young.granted(eve, "canon/user/write", brings)
    young.granted(ada, "memory/write", asks)
    seq = smuggle(young, value)
    assert diverges(young.placed(), young.checkpoint())[:2] == (seq, "KEY_NOT_ALLOWED")


def test_of_several_decisions_no_run_chooses():
    """A run may see one of those that name a record where there are more: then the record is judged by the reference."""
    memory, name = places.Places(), bytes(16)
    links = [f"{ids.new()}.0" for _ in range(2)]
    effect = places.Entry(id=name, hash="", prev=None, key=None, thing=None, link=links[0])
    for seq, link in enumerate(links):
        row = places.Row(link=link, effect=name, packed=b"")
        memory.put(seq, places.Entry(bytes([seq + 1]) * 16, "", None, None, None, None, rows=(row,)))
        assert memory.fits(seq + 1, effect, {}) is (seq == 0)


# Beats


def test_beats_count(young):
    """A beat states how many records its instance wrote before it; one that states less, or more, is found."""
    young.remember(young.operator, "one")
    young.beat()
    agrees(young.placed(), young.checkpoint())
    young.beat()
    young.beat(closing=True)
    agrees(young.placed(), young.checkpoint())


@pytest.mark.parametrize("off", [-1, 1])
def test_beat_that_miscounts(young, off):
    """One record more or less than the log has of this instance."""
    young.remember(young.operator, "one")
    young.beat(off=off)
    found = diverges(young.placed(), young.checkpoint())
    assert found[:2] == (len(young.log) - 1, "RECORD_INVALID")
    assert "the beat counts" in found[2]


# Erasure


@pytest.fixture
def versions():
    """A house with three versions of one thing, and another thing; the seqs of its memories."""
    built = Beating()
    ada = built.issue(Person("ada", keyed=False), Loa.OPERATOR)
    for key in ("one", "one", "two", "one"):
        built.remember(ada, key)
    built.operator = ada
    built.seqs = [seq for seq, signed in enumerate(built.log) if record.check(signed).core.kind == "memory_block"]
    return built


@pytest.mark.parametrize("gone", [(0,), (1,), (3,), (0, 1), (1, 3), (0, 1, 3), (0, 1, 2, 3)])
def test_payloads_that_no_erasure_names_are_missed(versions, gone):
    """Whichever payloads are dropped without an erasure, the ledger diverges; `test_erasure` tells of those that are erased."""
    records = versions.placed()
    for number in gone:
        records = erase(records, versions.seqs[number])
    assert diverges(records, versions.checkpoint())[1] in {"RECORD_INVALID", "STALE_PREV", "REPLAY"}


def test_erased_records_header_still_tells(versions):
    """Header, signature and decision of an erased record are judged as before."""
    seq = versions.seqs[1]
    records = erase(versions.placed(), seq)
    bent = bytes(records[seq].header).replace(b'"ts":"2', b'"ts":"3', 1)
    assert diverges(replaced(records, seq, header=msgspec.Raw(bent)), versions.checkpoint())[:2] == (
        seq,
        "RECORD_INVALID",
    )
    forged = erase(bend(versions, seq, links=()), seq)
    assert diverges(forged, versions.checkpoint())[:2] == (seq, "DECISION_UNKNOWN")
    resigned = erase(bend(versions, seq, payload_hash="0" * 64), seq)
    assert diverges(resigned, versions.checkpoint())[:2] == (seq, "SIGNATURE_INVALID")


def test_only_people_s_payloads_are_erased(versions):
    """A decision without its payload is no decision."""
    seq = last(versions, "decision_batch")
    assert diverges(erase(versions.placed(), seq), versions.checkpoint())[:2] == (seq, "RECORD_INVALID")
    headless = replaced(versions.placed(), versions.seqs[0], salt=None)
    assert diverges(headless, versions.checkpoint())[:2] == (versions.seqs[0], "RECORD_INVALID")


def test_an_erased_version_can_t_be_passed_by(versions):
    """A version that continues what an erased one had continued before it forks the thing."""
    ghost = last(versions, "memory_block")
    prev = record.check(versions.log[ghost]).core.prev
    granted = versions.granted(versions.operator, "memory/write")
    seq = smuggle(versions, versions.memory(granted, "one", prev=prev))
    records = versions.placed()
    assert diverges(records, versions.checkpoint())[:2] == (seq, "STALE_PREV")
    # Its earlier versions are there, and a thing is erased whole: that is found before the fork is.
    assert diverges(erase(records, ghost), versions.checkpoint())[1] == "RECORD_INVALID"
    every = erase(erase(erase(records, ghost), versions.seqs[1]), versions.seqs[0])
    assert diverges(every, versions.checkpoint())[:2] == (seq, "STALE_PREV")


# The checkpoint


def test_checkpoint_of_another_key(house):
    """A checkpoint that the log's key didn't sign."""
    root = merkle.root([merkle.leaf_hash(bytes(signed.header)) for signed in house.log])
    other = checkpoint.sign(checkpoint.Checkpoint(house.origin, len(house.log), root), signing.Ed25519Signer.generate())
    assert "checkpoint" in diverges(house.placed(), other)[2]


def test_checkpoint_of_another_tree(house):
    """The log signed another root: found at the end, when the tree is known."""
    records = house.placed()
    other = checkpoint.sign(checkpoint.Checkpoint(house.origin, len(records), bytes(32)), house.writer)
    assert diverges(records, other)[0] == len(records)


@pytest.mark.parametrize("off", [-1, 1])
def test_checkpoint_that_counts_otherwise(house, off):
    """By the true key, over the true root, with another size."""
    root = merkle.root([merkle.leaf_hash(bytes(signed.header)) for signed in house.log])
    signed = checkpoint.sign(checkpoint.Checkpoint(house.origin, len(house.log) + off, root), house.writer)
    found = diverges(house.placed(), signed)
    assert found[:2] == (len(house.log), "REPLAY")
    assert "size" in found[2]


def test_nothing_is_no_ledger(house):
    """No record at all."""
    assert diverges([], house.checkpoint())[0] == 0


def test_cosignatures_are_counted():
    """Whether enough cosigners saw this tree, by the policy of the log itself."""
    house = House()
    keys = [signing.Ed25519Signer.generate() for _ in range(2)]
    named = [
        note.VerifierKey.of(f"cosigner-{number}", note.COSIGNATURE, key.public_key) for number, key in enumerate(keys)
    ]
    wanted = system.CheckpointWitnesses(
        c=2, cosigners=tuple(system.Cosigner(vkey=key.format(), url=None) for key in named)
    )
    voices = house.mentors(3)
    house.place(
        house.attested(house.proposal("quorum_policy", house.quorum_policy(2, checkpoint_witnesses=wanted)), *voices)
    )
    signed = house.checkpoint()
    assert agrees(house.placed(), signed).cosigned == "not yet"
    text = note.parse(signed).text
    for key, name in zip(keys, named, strict=True):
        signed = checkpoint.add_signatures(signed, checkpoint.cosign(text, name.name, key, 1_790_000_000).encode())
    assert agrees(house.placed(), signed).cosigned == "witnessed"
