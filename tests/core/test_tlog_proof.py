"""The offline proof: the golden file, each step's own failure, and hostile bytes."""

from hashlib import sha256
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sigilcore import checkpoint, merkle, note, signing, tlog_proof

VECTORS = Path(__file__).parent.parent / "vectors" / "tlog"
GOLDEN = (VECTORS / "index-5.tlog-proof").read_bytes()
COSIGNED = (VECTORS / "checkpoint").read_bytes()
ENTRIES = [bytes.fromhex(line) for line in (VECTORS / "leaves.hex").read_text().split("\n")[:-1]]
LEAVES = [merkle.leaf_hash(entry) for entry in ENTRIES]
PATH = merkle.inclusion_path(5, LEAVES)
LOG_KEY, *WITNESSES = (note.VerifierKey.parse(vkey) for vkey in (VECTORS / "vkeys").read_text().split())

LOG = signing.Ed25519Signer(bytes(32))
OWN_KEY = note.VerifierKey.of("log.example", note.ED25519, LOG.public_key)


def own_proof(index: int, size: int, *lines: str) -> tlog_proof.TlogProof:
    """A proof in a log of our own over the first leaves."""
    head = checkpoint.Checkpoint("log.example", size, merkle.root(LEAVES[:size]))
    signed = checkpoint.sign(head, LOG) + "".join(lines).encode()
    return tlog_proof.parse(tlog_proof.format(index, merkle.inclusion_path(index, LEAVES[:size]), signed))


def results(verification: tlog_proof.Verification) -> list[bool | None]:
    assert [step.number for step in verification.steps] == [1, 2, 3, 4]
    return [step.ok for step in verification.steps]


def test_the_golden_proof_is_made_and_read_byte_for_byte():
    """Index 5 of the reference leaves."""
    assert tlog_proof.format(5, PATH, COSIGNED) == GOLDEN
    assert sha256(GOLDEN).hexdigest() == "c896497787e787e27419205e33cb393eb4643d9c8c82ababb3f33ad794c48d43"
    read = tlog_proof.parse(GOLDEN)
    assert read == tlog_proof.TlogProof(index=5, path=tuple(PATH), checkpoint=COSIGNED, extra=None)


def test_the_golden_proof_verifies_step_by_step():
    """Leaf, log, two of two witnesses, inclusion: each step says what it saw."""
    verification = tlog_proof.verify(tlog_proof.parse(GOLDEN), LEAVES[5], LOG_KEY, WITNESSES, needed=2)
    assert verification.verified
    assert verification.failed is None
    assert results(verification) == [True] * 4
    assert verification.checkpoint.size == 8
    assert [one.timestamp for one in verification.cosignatures] == [1679315147, 1679315148]
    assert "canon.example/log, size 8" in verification.steps[1].detail
    assert "witness.example/w1 at 1679315147" in verification.steps[2].detail
    assert verification.steps[3].detail == "index 5 of 8, 3 hashes"


@given(st.integers(1, 8).flatmap(lambda size: st.tuples(st.integers(0, size - 1), st.just(size))))
@settings(deadline=None)
def test_every_leaf_of_every_small_log_is_proven(place):
    """And no other leaf at its place."""
    index, size = place
    proof = own_proof(index, size)
    assert tlog_proof.verify(proof, LEAVES[index], OWN_KEY).verified
    for other in range(8):
        if other != index:
            assert results(tlog_proof.verify(proof, LEAVES[other], OWN_KEY)) == [True, True, True, False]


def test_what_is_no_leaf_hash_fails_the_first_step():
    """The entry itself in place of its hash; nothing after it is taken."""
    verification = tlog_proof.verify(tlog_proof.parse(GOLDEN), ENTRIES[5], LOG_KEY)
    assert results(verification) == [False, None, None, None]
    assert verification.failed.number == 1
    assert verification.checkpoint is None
    assert verification.steps[3].detail == "not taken"


def test_another_log_s_checkpoint_fails_the_second_step():
    """A good proof in a log that wasn't asked about."""
    verification = tlog_proof.verify(tlog_proof.parse(GOLDEN), LEAVES[5], OWN_KEY)
    assert results(verification) == [True, False, None, None]
    assert verification.failed.detail == "no signature by a known key"


def test_too_few_witnesses_fail_the_third_step():
    """Two cosigned; with one of them unknown, or three needed, it isn't enough."""
    proof = tlog_proof.parse(GOLDEN)
    one = tlog_proof.verify(proof, LEAVES[5], LOG_KEY, WITNESSES[:1], needed=2)
    assert results(one) == [True, True, False, None]
    assert one.failed.detail == "1 of the 2 needed"
    assert tlog_proof.verify(proof, LEAVES[5], LOG_KEY, WITNESSES, needed=3).failed.detail == "2 of the 3 needed"
    assert tlog_proof.verify(proof, LEAVES[5], LOG_KEY, (), needed=1).failed.number == 3


def test_one_key_under_two_names_is_one_witness():
    """A cosignature doesn't commit to its name, so keys are counted, not names."""
    text = checkpoint.Checkpoint("log.example", 8, merkle.root(LEAVES)).text()
    witness = signing.Ed25519Signer(bytes([7]) * 32)
    keys = [note.VerifierKey.of(name, note.COSIGNATURE, witness.public_key) for name in ("a", "b")]
    proof = own_proof(5, 8, *(checkpoint.cosign(text, key.name, witness, 9) for key in keys))
    assert tlog_proof.verify(proof, LEAVES[5], OWN_KEY, keys, needed=1).verified
    assert tlog_proof.verify(proof, LEAVES[5], OWN_KEY, keys, needed=2).failed.detail == "1 of the 2 needed"


def test_a_bad_line_of_a_known_witness_fails_the_third_step():
    """Even where none is needed: somebody tampered."""
    bad = note.Signature(WITNESSES[0].name, WITNESSES[0].key_id, bytes(72)).line()
    proof = own_proof(5, 8, bad)
    assert tlog_proof.verify(proof, LEAVES[5], OWN_KEY).verified
    assert results(tlog_proof.verify(proof, LEAVES[5], OWN_KEY, WITNESSES)) == [True, True, False, None]


@pytest.mark.parametrize(
    ("index", "path"), [(8, PATH), (4, PATH), (5, PATH[:-1]), (5, [*PATH, PATH[0]]), (5, PATH[::-1]), (5, [])]
)
def test_another_index_or_path_fails_the_last_step(index, path):
    """Beyond the tree, beside the leaf, a hash less or more, out of order."""
    proof = tlog_proof.parse(tlog_proof.format(index, path, COSIGNED))
    verification = tlog_proof.verify(proof, LEAVES[5], LOG_KEY, WITNESSES, needed=2)
    assert results(verification) == [True, True, True, False]


@given(st.binary(max_size=200))
@settings(deadline=None)
def test_extra_goes_round_and_proves_nothing(extra):
    """Any bytes may ride along; the result is the same."""
    data = tlog_proof.format(5, PATH, COSIGNED, extra)
    proof = tlog_proof.parse(data)
    assert proof.extra == extra
    assert tlog_proof.verify(proof, LEAVES[5], LOG_KEY, WITNESSES, needed=2).verified


HASH = note.encode_base64(PATH[0]).encode()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        GOLDEN.replace(b"@v1", b"@v2"),
        GOLDEN.replace(b"c2sp.org", b"C2SP.org"),
        b"\n" + GOLDEN,
        GOLDEN[:-1],
        GOLDEN + b"\n",
        GOLDEN.replace(b"\n", b"\r\n"),
        GOLDEN.replace(b"index 5\n", b""),
        GOLDEN.replace(b"index 5\n", b"index 05\n"),
        GOLDEN.replace(b"index 5\n", b"index +5\n"),
        GOLDEN.replace(b"index 5\n", b"index 5 \n"),
        GOLDEN.replace(b"index 5\n", b"index 1_0\n"),
        GOLDEN.replace(b"index 5\n", "index ٣\n".encode()),
        GOLDEN.replace(b"index 5\n", b"index 5\nindex 5\n"),
        GOLDEN.replace(b"index 5\n", b"index 5\nextra AAAA\n"),
        GOLDEN.replace(b"index 5\n", b"extra AAAA\nextra AAAA\nindex 5\n"),
        GOLDEN.replace(b"index 5\n", b"extra AAA\nindex 5\n"),
        GOLDEN.replace(b"index 5\n", b"extra AAB=\nindex 5\n"),
        GOLDEN.replace(b"index 5\n", b"extra " + b"A" * 100_000 + b"\nindex 5\n"),
        GOLDEN.replace(b"index 5\n", b"index 5\nAAAA\n"),
        GOLDEN.replace(b"index 5\n", b"index 5\n" + (HASH + b"\n") * 61),
        GOLDEN.replace(b"index 5\n", b"index %d\n" % 2**63),
        GOLDEN.replace(b"\n\ncanon", b"\ncanon"),
        GOLDEN.replace(b"\n\ncanon", b"\n\n\ncanon"),
        GOLDEN.split(b"\n\n")[0] + b"\n\n",
        GOLDEN.replace(b"\n8\n", b"\n08\n"),
        GOLDEN + b"x" * tlog_proof.MAX_PROOF_BYTES,
    ],
    ids=lambda data: repr(data[:40]),
)
def test_a_proof_written_wrongly_is_refused(data):
    """Each is one defect away from the golden one: TlogProofError."""
    assert data != GOLDEN
    with pytest.raises(tlog_proof.TlogProofError):
        tlog_proof.parse(data)


@given(st.binary(max_size=200), st.data())
@settings(deadline=None, max_examples=300)
def test_hostile_bytes_are_a_proof_or_an_error(junk, data):
    """What parses is what `format` writes, and what verifies is the golden proof, whatever its extra says."""
    start = data.draw(st.integers(0, len(GOLDEN)))
    end = data.draw(st.integers(start, min(len(GOLDEN), start + 8)))
    for hostile in (junk, GOLDEN[:start] + junk[:6] + GOLDEN[end:], b"c2sp.org/tlog-proof@v1\n" + junk):
        try:
            proof = tlog_proof.parse(hostile)
        except tlog_proof.TlogProofError:
            continue
        assert tlog_proof.format(proof.index, proof.path, proof.checkpoint, proof.extra) == hostile
        if tlog_proof.verify(proof, LEAVES[5], LOG_KEY, WITNESSES, needed=2).verified:
            assert (proof.index, list(proof.path), proof.checkpoint) == (5, PATH, COSIGNED)
