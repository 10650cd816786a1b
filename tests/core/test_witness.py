"""The witness's decision: every status by its step, the golden request, histories that no order of requests can split, hostile bytes."""

from hashlib import sha256
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sigilcore import checkpoint, merkle, note, signing, witness

VECTORS = Path(__file__).parent.parent / "vectors" / "tlog"
GOLDEN = (VECTORS / "add-checkpoint").read_bytes()
COSIGNED = (VECTORS / "checkpoint").read_text()
ENTRIES = [bytes.fromhex(line) for line in (VECTORS / "leaves.hex").read_text().split("\n")[:-1]]
LEAVES = [merkle.leaf_hash(entry) for entry in ENTRIES]
GOLDEN_LOG, *_ = (VECTORS / "vkeys").read_text().split()
# RFC 8032's tests 2 and 3: the witnesses of the vectors.
W1 = signing.Ed25519Signer(bytes.fromhex("4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb"))
W2 = signing.Ed25519Signer(bytes.fromhex("c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7"))

LOG = signing.Ed25519Signer(bytes(32))
STRANGER = signing.Ed25519Signer(bytes([7]) * 32)
ORIGIN = "log.example"
KEY = note.VerifierKey.of(ORIGIN, note.ED25519, LOG.public_key)
KNOWN = witness.logs([KEY.format(), GOLDEN_LOG])
FORK = [merkle.leaf_hash(b"fork %d" % n) for n in range(20)]


def held(size, leaves=LEAVES):
    return witness.Held(size=size, root=merkle.root(leaves[:size]))


def request(old, new, *, leaves=LEAVES, root=None, proof=None, origin=ORIGIN, signer=LOG, lines=b""):
    """A request for the first `new` of the leaves, well formed unless told otherwise."""
    head = checkpoint.Checkpoint(origin, new, merkle.root(leaves[:new]) if root is None else root)
    if proof is None:
        proof = merkle.consistency_path(old, leaves[:new]) if old <= new else []
    return checkpoint.AddCheckpoint(old, tuple(proof), checkpoint.sign(head, signer) + lines).encode()


def answer(data, stored):
    """Step and status; 200 is step 8."""
    found = witness.decide(data, KNOWN, stored)
    return (8, 200) if isinstance(found, witness.Accepted) else (found.step, found.status)


BAD_LINE = note.Signature(ORIGIN, KEY.key_id, bytes(64)).line().encode()
UNKNOWN_LINE = note.Signature("stranger.example", 1, bytes(64)).line().encode()
FULL = request(3, 8)

TABLE = {
    "no empty line": (b"old 0", None, (1, 400)),
    "no old line": (FULL.removeprefix(b"old 3\n"), held(3), (1, 400)),
    "a plus sign before the size": (FULL.replace(b"old 3", b"old +3"), held(3), (1, 400)),
    "a leading zero": (FULL.replace(b"old 3", b"old 03"), held(3), (1, 400)),
    "a size above 2^63": (FULL.replace(b"old 3", b"old 9223372036854775808"), held(3), (1, 400)),
    "an underscore in a size": (FULL.replace(b"old 3", b"old 1_0"), held(3), (1, 400)),
    "an Arabic digit": (FULL.replace(b"old 3", "old ٣".encode()), held(3), (1, 400)),
    "64 hashes": (request(3, 8, proof=[bytes(32)] * 64), held(3), (1, 400)),
    "a short hash": (request(3, 8, proof=[bytes(31)]), held(3), (1, 400)),
    "base64 without padding": (FULL.replace(b"=\n", b"\n", 1), held(3), (1, 400)),
    "a carriage return": (FULL.replace(b"old 3\n", b"old 3\r\n"), held(3), (1, 400)),
    "no signature line": (FULL.rpartition(b"\n\n")[0] + b"\n\n", held(3), (1, 400)),
    "an unknown origin": (request(3, 8, origin="other.example"), held(3), (2, 404)),
    "nobody's signature": (request(3, 8, signer=STRANGER), held(3), (3, 403)),
    "a bad line by the log after a good one": (request(3, 8, lines=BAD_LINE), held(3), (3, 403)),
    "a line by a stranger after a good one": (request(3, 8, lines=UNKNOWN_LINE), held(3), (8, 200)),
    "an old size above the new one": (request(8, 3), held(8), (4, 400)),
    "an old size that was never": (request(3, 8), None, (5, 409)),
    "an old size that has passed": (request(3, 8), held(5), (5, 409)),
    "old 0 asks for the size": (request(0, 8), held(5), (5, 409)),
    "another empty tree": (request(0, 0, root=bytes(32)), None, (6, 422)),
    "a proof from nothing": (request(0, 8, proof=[bytes(32)]), None, (7, 422)),
    "a proof from the empty tree that was cosigned": (request(0, 8, proof=[bytes(32)]), held(0), (7, 422)),
    "another root for the same size": (request(5, 5, leaves=FORK), held(5), (7, 422)),
    "a proof between equal sizes": (request(5, 5, proof=[bytes(32)]), held(5), (7, 422)),
    "another history": (request(3, 8, leaves=FORK), held(3), (7, 422)),
    "no proof": (request(3, 8, proof=[]), held(3), (7, 422)),
    "a hash too many": (request(3, 8, proof=[*merkle.consistency_path(3, LEAVES), bytes(32)]), held(3), (7, 422)),
    "the hashes turned round": (request(3, 8, proof=merkle.consistency_path(3, LEAVES)[::-1]), held(3), (7, 422)),
    "the first checkpoint": (request(0, 8), None, (8, 200)),
    "the first checkpoint, of nothing": (request(0, 0), None, (8, 200)),
    "nothing, again": (request(0, 0), held(0), (8, 200)),
    "something after nothing": (request(0, 8), held(0), (8, 200)),
    "a continuation": (request(3, 8), held(3), (8, 200)),
    "the same again": (request(8, 8), held(8), (8, 200)),
}


@pytest.mark.parametrize("name", TABLE)
def test_every_status_by_its_step(name):
    """The table of the protocol, with the first true reason."""
    data, stored, expected = TABLE[name]
    assert answer(data, stored) == expected


def test_a_conflict_tells_the_size_in_its_own_type():
    """Old 0 is the documented way to learn where the witness stands."""
    found = witness.decide(request(0, 8), KNOWN, held(5))
    assert (found.body, found.content_type) == ("5\n", "text/x.tlog.size")
    assert witness.decide(request(3, 8), KNOWN, None).body == "0\n"


def test_the_order_of_the_steps():
    """A request that is wrong in every way is refused for the first one, and repairing it shows the next."""
    wrong = request(9, 0, root=bytes(32), origin="other.example", signer=STRANGER, proof=[bytes(32)])
    assert answer(wrong[:-1], held(5)) == (1, 400)
    assert answer(wrong, held(5)) == (2, 404)
    assert answer(request(9, 0, root=bytes(32), signer=STRANGER, proof=[bytes(32)]), held(5)) == (3, 403)
    assert answer(request(9, 0, root=bytes(32), proof=[bytes(32)]), held(5)) == (4, 400)
    assert answer(request(0, 0, root=bytes(32), proof=[bytes(32)]), held(5)) == (5, 409)
    assert answer(request(0, 0, root=bytes(32), proof=[bytes(32)]), held(0)) == (6, 422)
    assert answer(request(0, 0, proof=[bytes(32)]), held(0)) == (7, 422)
    assert answer(request(0, 0), held(0)) == (8, 200)


def test_the_golden_request_is_made_judged_and_cosigned_byte_for_byte():
    """The request, its acceptance, and both witnesses' lines as two other programs made them."""
    assert sha256(GOLDEN).hexdigest() == "31fe669ba6490268cdc5346eb3de16e92fa308c32e85d17b97120412cf6d55e4"
    found = witness.decide(GOLDEN, KNOWN, held(3))
    assert isinstance(found, witness.Accepted)
    submitted = found.submitted
    again = checkpoint.AddCheckpoint(3, tuple(merkle.consistency_path(3, LEAVES)), submitted.signed)
    assert again.encode() == GOLDEN
    lines = checkpoint.cosign(submitted.text, "witness.example/w1", W1, 1679315147)
    lines += checkpoint.cosign(submitted.text, "witness.example/w2", W2, 1679315148)
    assert submitted.signed.decode() + lines == COSIGNED
    assert found.advanced == held(8)


def test_only_the_logs_own_lines_are_kept():
    """What is stored and served carries no stranger's line, and each line of the log once."""
    own = checkpoint.sign(checkpoint.Checkpoint(ORIGIN, 8, merkle.root(LEAVES)), LOG)
    line = own.rpartition(b"\n\n")[2]
    found = witness.decide(request(3, 8, lines=UNKNOWN_LINE + line), KNOWN, held(3))
    assert found.submitted.signed == own


def test_either_of_a_logs_two_keys_is_enough():
    """A log that changes its key is known by both under one origin."""
    second = note.VerifierKey.of(ORIGIN, note.ED25519, STRANGER.public_key)
    known = witness.logs([KEY.format(), second.format()])
    assert isinstance(witness.decide(request(3, 8, signer=STRANGER), known, held(3)), witness.Accepted)
    assert witness.decide(request(3, 8, signer=STRANGER), KNOWN, held(3)).status == 403


def test_a_log_is_no_cosigner_and_no_key_stands_twice():
    """What a witness is told to trust is checked when it is told."""
    cosigner = note.VerifierKey.of(ORIGIN, note.COSIGNATURE, LOG.public_key)
    twin = note.VerifierKey.of("twin.example", note.ED25519, LOG.public_key)
    for vkeys in ([cosigner.format()], [KEY.format(), KEY.format()], [KEY.format(), twin.format()], ["nonsense"]):
        with pytest.raises(note.NoteError):
            witness.logs(vkeys)


CONTRADICTIONS = {
    "two roots for one size": (request(5, 5, leaves=FORK), held(5), True),
    "the same under a wrong old size": (request(0, 5, leaves=FORK), held(5), True),
    "another empty tree": (request(0, 0, root=bytes(32)), None, True),
    "the same checkpoint again": (request(5, 5), held(5), False),
    "a good checkpoint with a bad proof": (request(3, 8, proof=[bytes(32)]), held(3), False),
    "an old checkpoint": (request(0, 3), held(5), False),
    "the first one": (request(0, 3), None, False),
}


@pytest.mark.parametrize("name", CONTRADICTIONS)
def test_what_convicts_a_log(name):
    """Two roots for one size, whatever the request says; never what a stranger can make of good checkpoints."""
    data, stored, expected = CONTRADICTIONS[name]
    opened = witness.open_request(data, KNOWN)
    assert (witness.contradiction(opened, stored) is not None) is expected


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20), st.booleans()), max_size=12))
@settings(deadline=None)
def test_no_order_of_requests_splits_the_view(asked):
    """Whatever two histories are offered in whatever order, all that is accepted lies on one of them and never goes back."""
    mine = [merkle.leaf_hash(b"entry %d" % n) for n in range(20)]
    stored, accepted = None, []
    for old, new, forked in asked:
        found = witness.decide(request(old, new, leaves=FORK if forked else mine), KNOWN, stored)
        if isinstance(found, witness.Accepted):
            assert found.held == stored
            stored = found.advanced
            accepted.append(stored)
    assert [one.size for one in accepted] == sorted(one.size for one in accepted)
    assert any(all(one.root == merkle.root(leaves[: one.size]) for one in accepted) for leaves in (mine, FORK))


@given(st.binary(max_size=400))
def test_strange_bytes_are_answered_400(data):
    """Nothing a stranger sends makes it raise."""
    found = witness.decide(data, KNOWN, None)
    assert isinstance(found, witness.Rejected)


@given(st.integers(0, len(FULL) - 1), st.integers(0, 255), st.sampled_from(["change", "insert", "delete"]))
@settings(max_examples=500, deadline=None)
def test_no_changed_byte_is_cosigned(at, byte, how):
    """One byte changed, put in or taken out of a good request: refused, or the very same checkpoint is what is cosigned."""
    tail = FULL[at:] if how == "insert" else FULL[at + 1 :]
    data = FULL[:at] + (b"" if how == "delete" else bytes([byte])) + tail
    found = witness.decide(data, KNOWN, held(3))
    if isinstance(found, witness.Accepted):
        good = witness.decide(FULL, KNOWN, held(3))
        assert found.submitted.text == good.submitted.text
        assert found.submitted.lines == good.submitted.lines


def test_a_request_beyond_the_bound_is_not_read():
    """Size comes before sense."""
    found = witness.decide(b"x" * (checkpoint.MAX_REQUEST_BYTES + 1), KNOWN, None)
    assert (found.step, found.status) == (1, 400)
    assert msgspec.json.encode(found)
