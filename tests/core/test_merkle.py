"""The tree against the RFC's own recursive definition, against another package, and against forged proofs."""

from functools import cache
from hashlib import sha256
from pathlib import Path
from random import Random

import msgspec
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tlog_scales.tlog import ConsistencyProof, ConsistencyProofInvalid, InclusionProof, InclusionProofInvalid

from sigilcore import merkle

VECTORS = Path(__file__).parent.parent / "vectors" / "tlog"
LEAVES = [merkle.leaf_hash(b"entry %d" % number) for number in range(2000)]
ODD = sha256(b"no part of the tree").digest()


@cache
def mth(start: int, end: int) -> bytes:
    """MTH(D[start:end]) as RFC 6962 section 2.1 defines it, written without a look at our code."""
    if start == end:
        return sha256(b"").digest()
    if end - start == 1:
        return LEAVES[start]
    k = 1
    while 2 * k < end - start:
        k *= 2
    return sha256(b"\x01" + mth(start, start + k) + mth(start + k, end)).digest()


def rfc_range(a: int, b: int, start: int, end: int) -> list[bytes]:
    """RANGE(a, b, D[start:end]) by its definition, with positions relative to `start`."""
    n = end - start
    if a == 0 and b == n:
        return []
    k = 1
    while 2 * k < n:
        k *= 2
    if b <= k:
        return [*rfc_range(a, b, start, start + k), mth(start + k, end)]
    if a >= k:
        return [*rfc_range(a - k, b - k, start + k, end), mth(start, start + k)]
    return rfc_range(a, k, start, start + k) + rfc_range(0, b - k, start + k, end)


def other_accepts_inclusion(leaf, index, size, path, root) -> bool:
    try:
        InclusionProof(index, size, list(path)).check(leaf, root)
    except InclusionProofInvalid:
        return False
    return True


def other_accepts_consistency(old, old_root, new, new_root, path) -> bool:
    try:
        ConsistencyProof(old, new, list(path)).check(old_root, new_root)
    except ConsistencyProofInvalid:
        return False
    return True


@st.composite
def runs(draw):
    """A tree's size and a run of leaves in it: (first, count, size)."""
    size = draw(st.integers(1, 300))
    first = draw(st.integers(0, size - 1))
    return first, draw(st.integers(1, size - first)), size


def test_the_reference_leaves_have_the_reference_roots():
    """Sizes 0 to 8 of the RFC's reference leaves give the published roots."""
    entries = [bytes.fromhex(line) for line in (VECTORS / "leaves.hex").read_text().split("\n")[:-1]]
    roots = [bytes.fromhex(line) for line in (VECTORS / "roots.hex").read_text().split()]
    leaves = [merkle.leaf_hash(entry) for entry in entries]
    assert [merkle.root(leaves[:size]) for size in range(9)] == roots
    assert roots[0] == merkle.EMPTY_ROOT


def test_a_leaf_that_looks_like_a_node_hashes_otherwise():
    """An entry made of two hashes doesn't get the hash of their parent."""
    assert merkle.leaf_hash(LEAVES[0] + LEAVES[1]) != merkle.node_hash(LEAVES[0], LEAVES[1])


def test_the_frontier_has_the_root_of_the_definition_at_every_size():
    """Appended one by one, and all at once, every size to 2000 has the RFC's root."""
    frontier = merkle.EMPTY
    for size in range(len(LEAVES) + 1):
        assert frontier.root() == mth(0, size)
        if size % 37 == 0:
            assert merkle.root(LEAVES[:size]) == mth(0, size)
        if size < len(LEAVES):
            frontier = frontier.append(LEAVES[size])


@given(st.lists(st.integers(0, 300), max_size=6))
@settings(deadline=None)
def test_batches_don_t_show_in_the_frontier(batches):
    """However the leaves are batched, the frontier is the same value."""
    frontier = merkle.EMPTY
    for batch in batches:
        frontier = frontier.extend(LEAVES[frontier.size : frontier.size + batch])
    assert frontier == merkle.EMPTY.extend(LEAVES[: sum(batches)])
    assert frontier.peaks == tuple(mth(*span) for span in merkle.peak_spans(0, frontier.size))


def test_appending_leaves_the_old_frontier_as_it_was():
    """A frontier is a value."""
    before = merkle.EMPTY.extend(LEAVES[:7])
    copy = merkle.Frontier(before.size, before.peaks)
    before.extend(LEAVES[7:100])
    assert before == copy


@given(st.integers(0, 2000))
@settings(deadline=None)
def test_a_frontier_goes_round(size):
    """Bytes and JSON give back the same frontier."""
    frontier = merkle.EMPTY.extend(LEAVES[:size])
    assert merkle.Frontier.from_bytes(frontier.to_bytes()) == frontier
    assert msgspec.json.decode(msgspec.json.encode(frontier), type=merkle.Frontier) == frontier


@given(st.one_of(st.binary(max_size=200), st.binary(min_size=32, max_size=32).map(lambda b: bytes(7) + b"\1" + b)))
@settings(deadline=None)
def test_hostile_bytes_are_a_frontier_or_an_error(data):
    """What reads as a frontier writes the same bytes; anything else raises MerkleError."""
    try:
        frontier = merkle.Frontier.from_bytes(data)
    except merkle.MerkleError:
        return
    assert frontier.to_bytes() == data


@pytest.mark.parametrize(
    ("size", "peaks"),
    [(0, (ODD,)), (1, ()), (3, (ODD,)), (1, (ODD[:31],)), (-1, ()), (2**63, (ODD,))],
)
def test_a_frontier_whose_peaks_don_t_fit_its_size_is_refused(size, peaks):
    """One peak of 32 bytes for each bit of a size that can be."""
    with pytest.raises(merkle.MerkleError):
        merkle.Frontier(size, peaks)


def test_a_leaf_hash_of_another_length_is_refused():
    """A hash of 31 bytes beside one of 33 would hash to the same node."""
    with pytest.raises(merkle.MerkleError):
        merkle.EMPTY.extend([LEAVES[0], LEAVES[1][:31]])
    with pytest.raises(merkle.MerkleError):
        merkle.Appender(merkle.EMPTY).extend([LEAVES[0] + b"\0"])


def test_every_leaf_of_every_tree_to_256_is_included():
    """Exhaustive: the audit path verifies, and is the run of one leaf of the definition."""
    for size in range(1, 257):
        for index in range(size):
            path = merkle.range_path(index, 1, size, mth)
            assert merkle.verify_inclusion(LEAVES[index], index, size, path, mth(0, size))
            if (index + size) % 11 == 0:
                assert path == rfc_range(index, index + 1, 0, size)


def test_inclusion_at_every_size_to_2000():
    """One leaf at each size: our path convinces the other package, and a wrong index convinces neither."""
    chance = Random(6962)
    for size in range(1, 2001):
        index = chance.randrange(size)
        path = merkle.range_path(index, 1, size, mth)
        assert other_accepts_inclusion(LEAVES[index], index, size, path, mth(0, size))
        assert merkle.verify_inclusion(LEAVES[index], index, size, path, mth(0, size))
        assert not merkle.verify_inclusion(LEAVES[index], (index + 1) % (size + 1), size, path, mth(0, size))


def test_a_path_from_the_leaves_alone_is_the_same():
    """`inclusion_path` and `consistency_path` compute what the spans over the definition give."""
    for size in range(1, 70):
        for index in range(0, size, 3):
            assert merkle.inclusion_path(index, LEAVES[:size]) == merkle.range_path(index, 1, size, mth)
            spans = merkle.consistency_spans(index, size)
            assert merkle.consistency_path(index, LEAVES[:size]) == [mth(*span) for span in spans]


def test_every_tree_to_128_is_consistent_with_every_smaller_one():
    """Exhaustive over both sizes, 0 and equality included."""
    for new in range(129):
        for old in range(new + 1):
            path = [mth(*span) for span in merkle.consistency_spans(old, new)]
            assert merkle.verify_consistency(old, mth(0, old), new, mth(0, new), path)


def test_consistency_at_every_size_to_2000():
    """One old size for each new one: our proof convinces the other package, and not of a wrong root."""
    chance = Random(9162)
    for new in range(1, 2001):
        old = chance.randrange(new + 1)
        path = [mth(*span) for span in merkle.consistency_spans(old, new)]
        roots = mth(0, old), mth(0, new)
        assert merkle.verify_consistency(old, roots[0], new, roots[1], path)
        assert other_accepts_consistency(old, roots[0], new, roots[1], path)
        assert not merkle.verify_consistency(old, ODD, new, roots[1], path)
        assert merkle.verify_consistency(old, roots[0], new, ODD, path) == (old == 0)  # nothing to contradict


def test_the_consistency_proof_of_the_vectors():
    """3 to 8 over the reference leaves has exactly the published hashes."""
    entries = [bytes.fromhex(line) for line in (VECTORS / "leaves.hex").read_text().split("\n")[:-1]]
    leaves = [merkle.leaf_hash(entry) for entry in entries]
    assert [one.hex()[:8] for one in merkle.consistency_path(3, leaves)] == [
        "0298d122",
        "07506a85",
        "fac54203",
        "6b47aaf2",
    ]


@given(runs(), st.integers(0, 300), st.sampled_from(["flip", "drop", "add", "swap", "short"]), st.data())
@settings(deadline=None)
def test_both_packages_judge_a_mutated_proof_alike(run, old, how, data):
    """Inclusion and consistency: what we accept or refuse, the literal RFC 9162 algorithm does too."""
    index, _, size = run
    old = min(old, size)
    for path, ours, theirs in (
        (
            merkle.range_path(index, 1, size, mth),
            lambda path: merkle.verify_inclusion(LEAVES[index], index, size, path, mth(0, size)),
            lambda path: other_accepts_inclusion(LEAVES[index], index, size, path, mth(0, size)),
        ),
        (
            [mth(*span) for span in merkle.consistency_spans(old, size)],
            lambda path: merkle.verify_consistency(old, mth(0, old), size, mth(0, size), path),
            lambda path: other_accepts_consistency(old, mth(0, old), size, mth(0, size), path),
        ),
    ):
        mutated = mutate(path, how, data)
        assert ours(mutated) == theirs(mutated) == (mutated == path)


@given(runs())
@settings(deadline=None)
def test_a_range_proof_is_the_definition_s_and_verifies(run):
    """Any run of any tree to 300 leaves."""
    first, count, size = run
    path = merkle.range_path(first, count, size, mth)
    assert path == rfc_range(first, first + count, 0, size)
    assert merkle.verify_range(LEAVES[first : first + count], first, size, path, mth(0, size))


@given(runs(), st.sampled_from(["flip", "drop", "add", "swap", "short"]), st.data())
@settings(deadline=None, max_examples=200)
def test_a_mutated_range_proof_is_refused(run, how, data):
    """A changed path, changed leaves, or another place or size doesn't verify."""
    first, count, size = run
    leaves = LEAVES[first : first + count]
    path = merkle.range_path(first, count, size, mth)
    forged = mutate(path, how, data)
    if forged != path:
        assert not merkle.verify_range(leaves, first, size, forged, mth(0, size))
    other = mutate(leaves, how, data)
    if other != leaves:
        assert not merkle.verify_range(other, first, size, path, mth(0, size))
    assert not merkle.verify_range(leaves, first + 1, size, path, mth(0, size))
    assert not merkle.verify_range(leaves, first, size, path, ODD)


@given(runs(), st.integers(0, 2**63))
@settings(deadline=None)
def test_a_range_proof_for_one_size_fails_at_a_size_of_another_shape(run, size):
    """The size is part of what is proven wherever it changes the path."""
    first, count, true_size = run
    path = merkle.range_path(first, count, true_size, mth)
    assume(first + count <= size <= merkle.MAX_SIZE)
    assume(len(merkle.range_spans(first, count, size)) != len(path))
    assert not merkle.verify_range(LEAVES[first : first + count], first, size, path, mth(0, true_size))


@pytest.mark.parametrize(
    ("leaves", "first", "size"), [([], 0, 1), (LEAVES[:1], 0, 0), (LEAVES[:1], -1, 1), (LEAVES[:2], 0, 2**63)]
)
def test_a_run_that_can_t_be_is_refused_and_not_an_error(leaves, first, size):
    """No leaves, an empty tree, a negative place, an impossible size: False."""
    assert not merkle.verify_range(leaves, first, size, [], mth(0, 1))
    with pytest.raises(merkle.MerkleError):
        merkle.range_spans(first, len(leaves), size)


def test_trivial_consistency_is_checked_too():
    """The empty tree and the tree itself need no proof, bear none, and their roots still count."""
    assert merkle.verify_consistency(0, merkle.EMPTY_ROOT, 0, merkle.EMPTY_ROOT, [])
    assert not merkle.verify_consistency(0, merkle.EMPTY_ROOT, 0, ODD, [])
    assert not merkle.verify_consistency(0, ODD, 5, mth(0, 5), [])
    assert not merkle.verify_consistency(0, merkle.EMPTY_ROOT, 5, mth(0, 5), [ODD])
    assert not merkle.verify_consistency(5, mth(0, 5), 5, ODD, [])
    assert not merkle.verify_consistency(5, mth(0, 5), 5, mth(0, 5), [ODD])
    assert not merkle.verify_consistency(6, mth(0, 6), 5, mth(0, 5), [])
    assert not merkle.verify_consistency(-1, mth(0, 6), 5, mth(0, 5), [])


def test_hashes_of_odd_lengths_can_t_be_shifted_into_a_proof():
    """A leaf one byte longer and a sibling one byte shorter concatenate alike; the lengths are checked."""
    left, right = LEAVES[0], LEAVES[1]
    assert merkle.node_hash(left + right[:1], right[1:]) == mth(0, 2)
    assert not merkle.verify_inclusion(left + right[:1], 0, 2, [right[1:]], mth(0, 2))


@given(st.integers(0, 300), st.lists(st.integers(0, 120), min_size=1, max_size=4), st.data())
@settings(deadline=None)
def test_the_appender_is_the_whole_tree(base, batches, data):
    """From a frontier and the new leaves alone: the same frontier, root and proofs after every batch."""
    appender = merkle.Appender(merkle.EMPTY.extend(LEAVES[:base]))
    size = base
    for batch in batches:
        appender.extend(LEAVES[size : size + batch])
        size += batch
        assert appender.size == size
        assert appender.frontier() == merkle.EMPTY.extend(LEAVES[:size])
        assert appender.root() == mth(0, size)
        if size > base:
            first = data.draw(st.integers(base, size - 1))
            count = data.draw(st.integers(1, size - first))
            assert appender.range_path(first, count) == rfc_range(first, first + count, 0, size)


def test_the_appender_at_the_borders_of_tiles():
    """Full trees and one off, around 255, 256 and 257 and powers of two: every new leaf's path."""
    for base in (0, 1, 127, 128, 254, 255, 256, 257, 511, 512, 1023, 1024):
        appender = merkle.Appender(merkle.EMPTY.extend(LEAVES[:base]))
        appender.extend(LEAVES[base : base + 5])
        for index in range(base, base + 5):
            path = appender.range_path(index, 1)
            assert merkle.verify_inclusion(LEAVES[index], index, base + 5, path, mth(0, base + 5))


def test_the_appender_hashes_each_node_once(monkeypatch):
    """500 new leaves and a proof for each cost about one hash a leaf, not one a question."""
    appender = merkle.Appender(merkle.EMPTY.extend(LEAVES[:1000]))
    hashes = 0

    def counting(data: bytes = b""):
        nonlocal hashes
        hashes += 1
        return sha256(data)

    monkeypatch.setattr(merkle, "sha256", counting)
    appender.extend(LEAVES[1000:1500])
    for index in range(1000, 1500):
        appender.range_path(index, 1)
    assert hashes < 600


def test_the_appender_answers_for_its_own_leaves_only():
    """An older leaf would need hashes it doesn't have; a later one doesn't exist."""
    appender = merkle.Appender(merkle.EMPTY.extend(LEAVES[:10]))
    appender.extend(LEAVES[10:15])
    with pytest.raises(merkle.MerkleError):
        appender.range_path(9, 2)
    with pytest.raises(merkle.MerkleError):
        appender.range_path(14, 2)


def mutate(hashes: list[bytes], how: str, data) -> list[bytes]:
    """The hashes with one thing wrong; with none to change, one too many."""
    if how == "add" or not hashes:
        at = data.draw(st.integers(0, len(hashes)))
        return [*hashes[:at], ODD, *hashes[at:]]
    at = data.draw(st.integers(0, len(hashes) - 1))
    if how == "flip":
        bit = data.draw(st.integers(0, 255))
        flipped = (int.from_bytes(hashes[at]) ^ (1 << bit)).to_bytes(32)
        return [*hashes[:at], flipped, *hashes[at + 1 :]]
    if how == "drop":
        return [*hashes[:at], *hashes[at + 1 :]]
    if how == "short":
        return [*hashes[:at], hashes[at][:-1], *hashes[at + 1 :]]
    with_other = data.draw(st.integers(0, len(hashes) - 1))
    swapped = list(hashes)
    swapped[at], swapped[with_other] = hashes[with_other], hashes[at]
    return swapped


@given(runs())
def test_subtrees_grafted_are_the_leaves_appended(run):
    """A run's complete subtrees, made by somebody who knows only where it begins, grow the same frontier as its leaves."""
    first, count, _ = run
    frontier = merkle.EMPTY.extend(LEAVES[:first])
    grown = frontier.extend(LEAVES[first : first + count])
    for width, peak in merkle.subtrees(first, LEAVES[first : first + count]):
        frontier = frontier.graft(width, peak)
    assert frontier == grown


@pytest.mark.parametrize(("size", "width"), [(1, 2), (4, 8), (0, 3), (0, 0), (6, 4), (0, -1)])
def test_a_subtree_that_stands_askew_is_refused(size, width):
    """A complete subtree stands at a multiple of its width, and its width is a power of two."""
    with pytest.raises(merkle.MerkleError):
        merkle.EMPTY.extend(LEAVES[:size]).graft(width, ODD)
