"""Every door that takes bytes from strangers, in one table: whatever comes, the answer is a value or the door's own refusal.

Half of what comes is noise; the other half was a valid example, and was changed by somebody who knows its form: bytes flipped, cut,
doubled, lines exchanged, words of other formats put in, and where it is JSON, one value replaced by a strange one. What a door takes and
can write again must be the very bytes that it took (`again`), so nothing has two spellings.
"""

import base64
import copy
import functools
import json
import random
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cli import ledger
from cli.refusal import Refusal
from sigilcore import (
    canonical,
    checkpoint,
    envelope,
    licence,
    merkle,
    note,
    permit,
    record,
    replay,
    signing,
    tiles,
    tlog_policy,
    tlog_proof,
    verify,
    vouch,
    witness,
)
from sigilcore.access import Loa
from sigilcore.contracts import canon
from sigilcore.refusals import Refused
from sigilrun import key_faults, key_format, receipt, service
from tests.simulator import House, Person

COSIGNER = signing.Ed25519Signer(bytes([5]) * 32)
COSIGNER_KEY = note.VerifierKey.of("w.example", note.COSIGNATURE, COSIGNER.public_key)
NOW_S = 1_800_000_000
EXAMPLES = 60  # of each kind for each door

# Words that break parsers: other formats' separators, numbers that Python reads and we don't, ends of what a field holds.
WORDS = [
    *(
        "",
        "\x00",
        "\n",
        "\n\n",
        "\r\n",
        "\t",
        " ",
        "\u2014 ",
        "\u2028",
        "\ufeff",
        "\ud800",
        "\u0663",
        "\u00df",
        "\U0001f600",
    ),
    *(
        "1_000",
        "+1",
        "-1",
        "-0",
        "00",
        "1e400",
        "1.0",
        "NaN",
        "Infinity",
        "null",
        "true",
        "9" * 25,
        "9" * 5000,
        str(2**53),
        str(2**64),
    ),
    *(
        "[" * 3000,
        "{" * 3000,
        '{"a":' * 500,
        "[]",
        "{}",
        '""',
        '"\\ud800"',
        '{"a":1,"a":2}',
        "= 1\n",
        "[[license]]\n",
        "'''",
        '"""',
    ),
    *(
        "log ",
        "witness ",
        "group ",
        "quorum none\n",
        "old 0\n",
        "index 0\n",
        "c2sp.org/tlog-proof@v1\n",
        "extra ",
        "tile/8/x001",
        "../",
    ),
    *("AAAA", "A" * 43 + "=", "=", "====", "%00", "x" * 70_000),
]
VALUES: list[Any] = [
    *(None, True, False, 0, 1, -1, 2**53, 2**63, 2**64, -(2**63), 10**30, 0.5, 1e300),
    *(
        "",
        "\x00",
        "x",
        "x" * 70_000,
        "0" * 64,
        "f" * 128,
        "\ud800",
        "2026-01-01T00:00:00.000Z",
        "9999-99-99T99:99:99.999Z",
        "../../etc",
    ),
    *(
        [],
        {},
        [[]],
        {"": None},
        [None] * 1000,
        {"a": {"b": {"c": []}}},
        functools.reduce(lambda inner, _: [inner], range(300), []),
    ),
]


class Door:
    """One parser: what it takes, what it may refuse with, and how it writes what it took."""

    def __init__(
        self,
        name: str,
        takes: Callable[[bytes], Any],
        refuses: tuple[type[Exception], ...],
        examples: list[bytes],
        again: Callable[[Any], bytes] | None = None,
    ) -> None:
        self.name = name
        self.takes = takes
        self.refuses = refuses
        self.examples = examples
        self.again = again

    def meets(self, data: bytes) -> bool:
        """Whether it took this; any other exception than its own refusals is raised."""
        try:
            taken = self.takes(data)
        except self.refuses:
            return False
        if self.again is not None:
            assert self.again(taken) == data
        return True


def on_text(takes: Callable[[str], Any]) -> Callable[[bytes], Any]:
    """For doors that take text: any text at all, lone surrogates too, as a JSON string can hold them."""

    def read(data: bytes) -> Any:
        return takes(data.decode("utf-8", "surrogateescape"))

    return read


def doors() -> list[Door]:
    """Built on one small house with a sealed quorum, a memory and licences."""
    house = House()
    ada = house.issue(Person("ada"), Loa.OPERATOR)
    voices = house.mentors(2)
    house.seal(voices, 2)
    remembered = house.remember(ada, "note", "text")
    placed = house.placed()
    signed_note = house.checkpoint()
    log_key = note.VerifierKey.of(house.origin, note.ED25519, house.writer.public_key)
    text = note.parse(signed_note).text
    cosigned = signed_note + checkpoint.cosign(text, COSIGNER_KEY.name, COSIGNER, NOW_S).encode()
    leaves = [merkle.leaf_hash(bytes(one.header)) for one in house.log]
    request = checkpoint.AddCheckpoint(3, tuple(merkle.consistency_path(3, leaves)), signed_note)
    policy = tlog_policy.Policy.of_cosigners(log_key, ((COSIGNER_KEY, "https://w.example"),), 1)
    proof = tlog_proof.format(2, merkle.inclusion_path(2, leaves), cosigned)
    bundle = msgspec.json.encode(house.bundle(remembered.core.id))
    granted = house.granted(ada, "memory/write")
    gatekeeper = house.services["gatekeeper"]
    token = permit.seal(gatekeeper, granted)
    exported = b"".join(
        [
            msgspec.json.encode(ledger.Head(checkpoint=signed_note.decode())) + b"\n",
            *(msgspec.json.encode(one) + b"\n" for one in placed),
        ]
    )
    kdf = key_format.new_kdf(key_format.CHEAPEST)
    kek = key_format.derive(b"passphrase", kdf)
    keystore = key_format.to_bytes(key_format.keystore_document(kdf, kek))
    toml = licence.to_toml(licence.seal(ada.table, house.services["license"]))
    dsse = envelope.export("application/vnd.example", b"body", [("k", bytes(64))])
    logs = witness.logs([log_key.format()])
    last = len(placed) - 1
    sent = receipt.Sent(
        id=remembered.core.id, hash=remembered.header.hash, leaf_hash=merkle.leaf_hash(bytes(placed[last].header))
    )
    appended = canon.Appended(
        results=(canon.AppendResult(id=sent.id, seq=last, hash=sent.hash),),
        checkpoint=signed_note.decode(),
        proofs=(
            canon.RangeProof(
                first=last,
                count=1,
                size=len(leaves),
                hashes=tuple(map(note.encode_base64, merkle.inclusion_path(last, leaves))),
            ),
        ),
    )
    return [
        Door(
            "receipt",
            lambda data: receipt.verify([sent], msgspec.json.decode(data, type=canon.Appended), log_key, {}),
            (receipt.BadReceipt, msgspec.DecodeError, UnicodeDecodeError),
            [msgspec.json.encode(appended)],
        ),
        Door("note", note.parse, (note.NoteError,), [signed_note, cosigned]),
        Door("verifier key", on_text(note.VerifierKey.parse), (note.NoteError,), [log_key.format().encode()]),
        Door("signature lines", note.parse_signatures, (note.NoteError,), [cosigned.partition(b"\n\n")[2]]),
        Door(
            "checkpoint",
            on_text(checkpoint.parse_text),
            (note.NoteError,),
            [text.encode()],
            again=lambda taken: taken.text().encode("utf-8", "surrogateescape"),
        ),
        Door(
            "signed checkpoint",
            lambda data: checkpoint.open_signed(data, log_key),
            (note.NoteError,),
            [signed_note, cosigned],
        ),
        Door(
            "add-checkpoint request",
            checkpoint.AddCheckpoint.parse,
            (note.NoteError,),
            [request.encode()],
            again=checkpoint.AddCheckpoint.encode,
        ),
        Door("witness", lambda data: witness.decide(data, logs, None), (), [request.encode()]),
        Door("policy", tlog_policy.parse, (tlog_policy.PolicyError,), [tlog_policy.format(policy)]),
        Door(
            "judged by a policy",
            lambda data: tlog_policy.judge(policy, data),
            (note.NoteError,),
            [signed_note, cosigned],
        ),
        Door("tlog-proof", tlog_proof.parse, (tlog_proof.TlogProofError,), [proof]),
        Door("tile path", on_text(tiles.parse_path), (tiles.TileError,), [b"tile/0/x001/234.p/7", b"tile/entries/000"]),
        Door(
            "entry bundle",
            tiles.parse_bundle,
            (tiles.TileError,),
            [tiles.entry_bundle([bytes(one.header) for one in house.log[:20]])],
            again=tiles.entry_bundle,
        ),
        Door(
            "frontier",
            merkle.Frontier.from_bytes,
            (merkle.MerkleError,),
            [merkle.EMPTY.extend(leaves).to_bytes()],
            again=merkle.Frontier.to_bytes,
        ),
        Door("sealed header", record.open_header, (Refused,), [bytes(one.header) for one in house.log[:4]]),
        Door(
            "placed record",
            _placed,
            (Refused, msgspec.DecodeError, UnicodeDecodeError),
            [msgspec.json.encode(one) for one in placed[-3:]],
        ),
        Door(
            "token",
            on_text(lambda one: envelope.unseal(one, signing.PERMIT, permit.Permit, gatekeeper.public_key)),
            (envelope.BadToken,),
            [token.encode()],
        ),
        Door(
            "token, unverified",
            on_text(lambda one: envelope.peek_unverified(one, permit.Permit)),
            (envelope.BadToken,),
            [token.encode()],
        ),
        Door(
            "signed content of a token",
            functools.partial(_resealed, gatekeeper),
            (envelope.BadToken,),
            [_content(token)],
        ),
        Door(
            "permit",
            on_text(lambda one: _bound(house, granted, one)),
            (Refused,),
            [token.encode()],
        ),
        Door("DSSE envelope", envelope.parse, (envelope.BadToken,), [dsse]),
        Door("licence", on_text(licence.parse), (ValueError,), [toml.encode()]),
        Door(
            "licence, validated",
            on_text(lambda one: licence.validate(one, house.state, house.now_ms)),
            (),
            [toml.encode()],
        ),
        Door(
            "canonical JSON",
            canonical.decode,
            (canonical.NotCanonical,),
            [bytes(house.log[1].header), b'{"a":[1,"x",null]}'],
            again=canonical.encode,
        ),
        Door("I-JSON", canonical.parse, (canonical.NotCanonical,), [bytes(house.log[1].header)]),
        Door(
            "typed JSON",
            lambda data: canonical.convert(data, record.Header),
            (canonical.NotCanonical,),
            [bytes(house.log[1].header)],
        ),
        Door(
            "a call's body",
            lambda data: service.parse(data, canon.Append),
            (Refused,),
            [msgspec.json.encode(canon.Append(records=tuple(house.log[1:3])))],
        ),
        Door(
            "a call with records",
            lambda data: service.parse_records(data, canon.Append),
            (Refused,),
            [msgspec.json.encode(canon.Append(records=tuple(house.log[1:3])))],
        ),
        Door(
            "bundle, verified",
            lambda data: verify.verify(verify.read(data), house.state.genesis_hash, policy),
            (verify.Unreadable,),
            [bundle],
        ),
        Door("export", _replayed, (Refusal, replay.Diverged), [exported]),
        Door("export's size", _sized, (), [exported]),
        Door(
            "a line of an export",
            vouch.governs,
            (),
            [msgspec.json.encode(one) for one in placed[:4]],
        ),
        Door(
            "keystore file",
            lambda data: key_format.parse_keystore(data, "file"),
            (key_faults.KeystoreError,),
            [keystore],
        ),
        Door(
            "key file",
            lambda data: key_format.parse_key(data, "file"),
            (key_faults.KeystoreError,),
            [_key_file(kek, kdf)],
        ),
    ]


def _placed(data: bytes) -> record.Checked:
    return record.check_placed(vouch.read(data))


def _content(token: str) -> bytes:
    body = token.partition(".")[0]
    return base64.urlsafe_b64decode(body + "=" * (-len(body) % 4))


def _resealed(signer: signing.Signer, data: bytes) -> permit.Permit:
    """A token whose content is anything, signed by the true key: what a service that was taken over can send."""
    signature = signing.sign_typed(signer, signing.PERMIT, data)
    parts = (base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in (data, signature))
    return envelope.unseal(".".join(parts), signing.PERMIT, permit.Permit, signer.public_key)


def _bound(house: House, granted: permit.Permit, token: str) -> permit.Bound:
    return permit.check(
        token,
        b"{}",
        gatekeeper_key=house.services["gatekeeper"].public_key,
        runtime_id=house.runtime_id,
        tenant=granted.tenant,
        service=granted.service,
        command=granted.command,
        now_ms=house.now_ms,
    )


def _on_file(work: Callable[[Path], Any], data: bytes) -> Any:
    with tempfile.NamedTemporaryFile() as file:
        file.write(data)
        file.flush()
        return work(Path(file.name))


def _replayed(data: bytes) -> Any:
    return _on_file(lambda path: ledger.replay(path, workers=1), data)


def _sized(data: bytes) -> Any:
    return _on_file(ledger.size, data)


def _key_file(kek: key_format.Kek, kdf: key_format.Kdf) -> bytes:
    return key_format.to_bytes(key_format.seal(kek, kdf, "license", "ed25519", bytes(32), secret=bytes(32)))


DOORS = {door.name: door for door in doors()}


# Mutations


def _bytes_changed(data: bytes, chance: random.Random, others: list[bytes]) -> bytes:
    """One change that needs no knowledge of the form but that it has lines and words."""
    at = chance.randrange(len(data) + 1)
    end = min(len(data), at + chance.choice((1, 1, 2, 8, 64, 1024)))
    word = chance.choice(WORDS).encode("utf-8", "surrogatepass")
    lines = data.split(b"\n")
    first, second = chance.randrange(len(lines)), chance.randrange(len(lines))
    kind = chance.randrange(8)
    if kind == 0 and data:
        at = min(at, len(data) - 1)
        return data[:at] + bytes([data[at] ^ (1 << chance.randrange(8))]) + data[at + 1 :]
    if kind == 1:
        return data[:at] + data[end:]
    if kind == 2:
        return data[:end] + data[at:end] + data[end:]
    if kind == 3:
        return data[:at] + word + data[at:]
    if kind == 4:
        return data[:at] + word + data[end:]
    if kind == 5:
        lines[first], lines[second] = lines[second], lines[first]
        return b"\n".join(lines)
    if kind == 6:
        lines[first] = word
        return b"\n".join(lines)
    other = chance.choice(others)
    return data[:at] + other[chance.randrange(len(other)) :]


def _json_changed(value: Any, chance: random.Random) -> bytes:
    """One value anywhere replaced, removed, doubled under another name, or given a strange member."""
    root = [copy.deepcopy(value)]
    inside: Any = root
    while True:
        keys = list(inside) if isinstance(inside, dict) else list(range(len(inside)))
        if not keys:
            break
        name = chance.choice(keys)
        below = inside[name]
        if not isinstance(below, dict | list) or not below or chance.random() < 0.15:
            break
        inside = below
    strange = chance.choice(VALUES)
    if not keys:
        return json.dumps(strange).encode()
    kind = chance.randrange(4)
    if kind == 0 and inside is not root:
        del inside[name]
    elif kind == 1 and isinstance(inside, dict):
        inside[chance.choice(("", "x", "__class__", "\ud800", name + " ", name.upper()))] = strange
    else:
        inside[name] = strange
    try:
        return json.dumps(root[0], sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return json.dumps(root[0], sort_keys=True, separators=(",", ":")).encode()


def mutant(door: Door, seed: int) -> bytes:
    """A valid example, changed once to three times."""
    chance = random.Random(seed)
    data = chance.choice(door.examples)
    if chance.random() < 0.5 and data[:1] == b"{" and b"\n" not in data:
        return _json_changed(json.loads(data), chance)
    others = [example for other in DOORS.values() for example in other.examples]
    for _ in range(chance.randrange(1, 4)):
        data = _bytes_changed(data, chance, others)
    return data


@pytest.mark.parametrize("name", DOORS)
def test_a_door_takes_its_own(name):
    """The examples are valid, so what is changed below was good before."""
    door = DOORS[name]
    assert all(door.meets(example) for example in door.examples)


@pytest.mark.parametrize("field", ["first", "count", "size"])
@pytest.mark.parametrize("number", [-1, 0, 2, 2**63 - 1, 2**63, 2**64 - 1])
def test_a_receipt_of_numbers_that_are_none(field, number):
    """Whoever answers in the writer's place can name any place and any count, and proves nothing by it."""
    door = DOORS["receipt"]
    plain = json.loads(door.examples[0])
    plain["proofs"][0][field] = number
    assert not door.meets(json.dumps(plain).encode())


@pytest.mark.parametrize("name", DOORS)
@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.binary(max_size=400) | st.text(max_size=200).map(lambda text: text.encode()))
def test_noise_is_refused_by_name(name, data):
    """Bytes without any form."""
    DOORS[name].meets(data)


@pytest.mark.parametrize("name", DOORS)
@settings(max_examples=4 * EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(seed=st.integers(0, 2**64))
def test_a_changed_example_is_taken_or_refused_by_name(name, seed):
    """Valid once, and changed by somebody who knows its form."""
    DOORS[name].meets(mutant(DOORS[name], seed))


@pytest.mark.parametrize("name", DOORS)
@pytest.mark.parametrize("word", range(len(WORDS)))
def test_a_strange_word_alone_is_refused_by_name(name, word):
    """Each of the words that break parsers, as all that comes, and as a line of its own."""
    data = WORDS[word].encode("utf-8", "surrogatepass")
    DOORS[name].meets(data)
    DOORS[name].meets(data + b"\n")
