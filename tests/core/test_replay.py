"""A ledger is judged again from its records alone: the true one agrees, and a bent one is named where it bends."""

import msgspec
import pytest

from sigilcore import canonical, checkpoint, decision, digest, merkle, record, replay, signing
from sigilcore.access import Loa
from sigilcore.records import audit
from tests.simulator import House, Person


@pytest.fixture(scope="module")
def house():
    """A house with a seal, a committed model, and a few memories."""
    built = House()
    built.operator = built.issue(Person("ada", keyed=False), Loa.OPERATOR)
    built.remember(built.operator, "one")
    built.voices = built.mentors(3)
    built.seal(built.voices, 2)
    built.place(built.attested(built.proposal("model_config", built.new_model()), *built.voices[:2]))
    built.remember(built.operator, "one", "again")
    built.remember(built.operator, "two")
    return built


def diverges(records, signed_checkpoint, genesis=None):
    """Replay must stop, and say where."""
    with pytest.raises(replay.Diverged) as caught:
        replay.replay(records, signed_checkpoint, genesis)
    return caught.value


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


def test_true_ledger_agrees(house):
    """Everything recomputes, and the report counts it."""
    report = replay.replay(house.placed(), house.checkpoint(), house.state.genesis_hash)
    assert report.records == len(house.log)
    assert report.genesis == house.state.genesis_hash
    assert report.effects == report.decisions == sum(1 for row in house.rows.values() if row.used_by)


def test_genesis_of_another_house(house):
    """A ledger that is whole in itself but not the pinned one fails at its first record."""
    found = diverges(house.placed(), house.checkpoint(), "f" * 64)
    assert found.seq == 0
    assert "pinned" in found.reason


def test_byte_changed_in_a_payload(house):
    """One letter of a memory, found at its seq."""
    records, seq = house.placed(), last(house, "memory_block")
    bent = bytes(records[seq].payload).replace(b'"text"', b'"texT"', 1)
    records[seq] = msgspec.structs.replace(records[seq], payload=msgspec.Raw(bent))
    assert diverges(records, house.checkpoint()).seq == seq


def test_header_changed_and_hash_made_to_fit(house):
    """The author's signature still tells."""
    seq = last(house, "memory_block")
    found = diverges(bend(house, seq, ts="2020-01-01T00:00:00.000Z"), house.checkpoint())
    assert (found.seq, found.code) == (seq, "SIGNATURE_INVALID")


def test_tail_cut(house):
    """A shorter ledger doesn't fit the checkpoint."""
    records = house.placed()[:-1]
    assert diverges(records, house.checkpoint()).seq == len(records)


def test_tail_cut_by_the_log_itself(house):
    """Cut and signed again by the true log key: whole in itself, which is why checkpoints are witnessed and heads remembered."""
    records = house.placed()[:-1]
    assert replay.replay(records, signed_over(house, records)).records == len(records)


def test_middle_cut(house):
    """A missing record leaves a hole in seq; renumbered and signed anew, in a chain."""
    seq = last(house, "decision_batch")
    cut = house.placed()[:seq] + house.placed()[seq + 1 :]
    assert diverges(cut, house.checkpoint()).seq == seq + 1
    renumbered = [msgspec.structs.replace(placed, seq=number) for number, placed in enumerate(cut)]
    found = diverges(renumbered, signed_over(house, renumbered))
    assert (found.seq, found.code) == (seq, "DECISION_UNKNOWN")


def test_order_swapped(house):
    """An effect before its decision is an effect without one."""
    seq = last(house, "memory_block")
    records = house.placed()
    records[seq - 1], records[seq] = (
        msgspec.structs.replace(records[seq], seq=seq - 1),
        msgspec.structs.replace(records[seq - 1], seq=seq),
    )
    found = diverges(records, signed_over(house, records))
    assert (found.seq, found.code) == (seq - 1, "DECISION_UNKNOWN")


def test_record_doubled(house):
    """The same record twice is one too many."""
    records = house.placed()
    records.append(msgspec.structs.replace(records[-1], seq=len(records)))
    assert diverges(records, signed_over(house, records)).code == "ID_TAKEN"


def test_quorum_record_with_one_voice_less(house):
    """Take a witness's signature away, and the change it carried falls."""
    seq = last(house, "model_config")
    records = house.placed()
    opened, _ = record.open_header(bytes(records[seq].header))
    short = canonical.of(msgspec.structs.replace(opened, witnesses=opened.witnesses[:1]))
    records[seq] = msgspec.structs.replace(records[seq], header=msgspec.Raw(short))
    found = diverges(records, signed_over(house, records))
    assert (found.seq, found.code) == (seq, "QUORUM_NOT_SATISFIED")


def test_weights_altered_in_a_decision():
    """A gate that scored otherwise than the model says is found, though every signature is good."""
    house = House()
    operator = house.issue(Person("ada", keyed=False), Loa.OPERATOR)
    chain = house.judge(operator, "memory/write")
    kinder = msgspec.structs.replace(chain, trust=msgspec.structs.replace(chain.trust, logit=chain.trust.logit + 1))
    batch = audit.DecisionBatch(decisions=(decision.freeze(kinder),))
    house.append("decision_batch", batch, house.instances["gatekeeper"])
    found = diverges(house.placed(), house.checkpoint())
    assert found.seq == len(house.log) - 1
    assert "trust" in found.reason


def test_checkpoint_of_another_key(house):
    """A checkpoint that the log's key didn't sign."""
    root = merkle.root([merkle.leaf_hash(bytes(signed.header)) for signed in house.log])
    other = checkpoint.sign(checkpoint.Checkpoint(house.origin, len(house.log), root), signing.Ed25519Signer.generate())
    assert "checkpoint" in diverges(house.placed(), other).reason
