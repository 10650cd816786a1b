"""What thinking costs: bytes, signatures, the pure decision, admission, the tree. No I/O."""

import os

import msgspec
import rfc8785

from bench.figures import Figure, micro, rate, seconds
from sigilcore import admission, canonical, digest, gate, merkle, record, replay, signing
from sigilcore.access import Loa
from tests.simulator import House, Person


def run() -> list[Figure]:
    """All figures of the core."""
    house = House()
    operator = house.issue(Person("ada", keyed=False), Loa.OPERATOR)
    granted = house.granted(operator, "memory/write", os.urandom(300).hex().encode().join([b'{"text":"', b'"}']))
    signed = house.memory(granted, text="a memory of ordinary length " * 12)
    checked = record.check(signed)
    sign_s, verify_s = _signatures(checked)
    return [
        *_bytes(signed),
        Figure(what="Ed25519 sign", value=micro(sign_s)),
        Figure(what="Ed25519 verify", value=micro(verify_s)),
        *_records(house, checked, signed, verify_s),
        *_gate(house, operator),
        *_tree(),
        *_replay(verify_s),
    ]


def _signatures(checked: record.Checked) -> tuple[float, float]:
    signer = signing.Ed25519Signer.generate()
    body = checked.core_bytes
    sig = signing.sign_typed(signer, signing.RECORD, body)
    return (
        seconds(lambda: signing.sign_typed(signer, signing.RECORD, body)),
        seconds(lambda: signing.verify_typed(signer.public_key, signing.RECORD, body, sig)),
    )


def _bytes(signed: record.SignedRecord) -> list[Figure]:
    value = msgspec.json.decode(signed.header)
    ours, reference = seconds(lambda: canonical.encode(value)), seconds(lambda: rfc8785.dumps(value))
    return [
        Figure(
            what=f"canonical bytes of a sealed header ({len(bytes(signed.header))} B)",
            value=micro(ours),
            limit=f"rfc8785 {micro(reference)}",
            ratio=f"{reference / ours:.1f}× faster",
            bound="the walk that keeps JSON to I-JSON",
        )
    ]


def _records(house: House, checked: record.Checked, signed: record.SignedRecord, verify_s: float) -> list[Figure]:
    check_s = seconds(lambda: record.check(signed))
    row = next(iter(reversed(house.rows.values())))
    admit_s = seconds(lambda: admission.admit(house.state, checked, now_ms=house.now_ms, decided=row))
    return [
        Figure(what="a record's own bytes checked", value=micro(check_s)),
        Figure(
            what="a user record admitted, with its signature",
            value=micro(admit_s),
            limit=f"one verify {micro(verify_s)}",
            ratio=f"{admit_s / verify_s:.2f}×",
            bound="the signature",
        ),
        Figure(
            what="both, by one core",
            value=rate(1 / (check_s + admit_s)),
            limit=f"signature checks {rate(1 / verify_s)}",
            ratio=f"{verify_s / (check_s + admit_s):.0%}",
            bound="the signature, then parsing",
        ),
    ]


def _gate(house: House, operator: Person) -> list[Figure]:
    facts = house.facts(operator, "memory/write")
    judged = seconds(lambda: gate.judge(house.state, facts))
    parameters = os.urandom(200).hex().join(['{"key":"a","text":"', '"}']).encode()
    observed = seconds(lambda: gate.observe(facts.command, parameters, bytes(digest.SALT_BYTES)))
    return [
        Figure(what="the pure decision", value=micro(judged), limit="aim 10 µs", ratio=f"{judged * 1e6 / 10:.2f}×"),
        Figure(
            what=f"what the gate keeps of {len(parameters)} B of parameters", value=micro(observed), bound="entropy"
        ),
    ]


def _tree() -> list[Figure]:
    leaves = [digest.sha256(number.to_bytes(4, "big")) for number in range(500)]
    frontier = merkle.Frontier(0, ()).extend([digest.sha256(bytes([number])) for number in range(255)])
    grow = seconds(lambda: frontier.extend(leaves)) / len(leaves)
    hashing = seconds(lambda: merkle.node_hash(leaves[0], leaves[1]))
    return [
        Figure(
            what="a leaf appended to the tree, 500 at once",
            value=micro(grow),
            limit=f"one node hash {micro(hashing)}",
            ratio=f"{grow / hashing:.2f}×",
        )
    ]


def _replay(verify_s: float) -> list[Figure]:
    house = House()
    operator = house.issue(Person("ada", keyed=False), Loa.OPERATOR)
    for number in range(100):
        house.remember(operator, f"note-{number}")
    placed, signed = house.placed(), house.checkpoint()
    spent = seconds(lambda: replay.replay(placed, signed), rounds=3) / len(placed)
    return [
        Figure(
            what="a record replayed, decisions judged again",
            value=rate(1 / spent),
            limit=f"signature checks {rate(1 / verify_s)}",
            ratio=f"{verify_s / spent:.0%} of one core's",
            bound="the signature, then judging decisions again",
        )
    ]
