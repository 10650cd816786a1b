"""The Merkle tree of RFC 6962 section 2.1 over SHA-256, and every proof we make or check about it.

Decides: what a tree's root is, and whether a path proves what it is said to prove.

Invariants:

1. A leaf and a node can't be confused: leaf = SHA-256(0x00 || entry), node = SHA-256(0x01 || left || right).
2. A tree of n > 1 leaves splits at the largest power of two strictly below n.
3. Which hashes a path holds, and in which order, is a function of the sizes alone (`range_spans`,
   `consistency_spans`). A path of any other length, or with a hash that isn't 32 bytes, proves nothing.
4. `verify_*` answer False for hostile input; functions that build raise `MerkleError` when asked for
   something that doesn't exist.

A range proof generalises the audit path to a contiguous run of leaves: the subtrees that hang off the run,
those below a node before its sibling. For a run of one leaf it is exactly the RFC's audit path.

    frontier = merkle.EMPTY.extend([merkle.leaf_hash(entry) for entry in entries])
    path = merkle.inclusion_path(1, leaves)
    assert merkle.verify_inclusion(leaves[1], 1, len(leaves), path, frontier.root())
"""

from collections.abc import Callable, Iterator, Sequence
from hashlib import sha256
from typing import Self

import msgspec

HASH_BYTES = 32
MAX_SIZE = 2**63 - 1  # leaves; so that a size fits a signed 64-bit column, and a path has at most 63 hashes
MAX_PATH = 63
EMPTY_ROOT = sha256(b"").digest()

Span = tuple[int, int]
"""The leaves [start, end)."""

Subtree = Callable[[int, int], bytes]
"""Gives the hash of the subtree over the leaves [start, end)."""


class MerkleError(ValueError):
    """A question about leaves or sizes that the tree doesn't have, or a frontier that can't be one."""


def leaf_hash(entry: bytes) -> bytes:
    """The hash of one log entry."""
    return sha256(b"\x00" + entry).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """The hash of two sibling hashes."""
    return sha256(b"\x01" + left + right).digest()


def root(leaf_hashes: Sequence[bytes]) -> bytes:
    """The root over these leaf hashes; `EMPTY_ROOT` of none."""
    return EMPTY.extend(leaf_hashes).root()


def fold(peaks: Sequence[bytes]) -> bytes:
    """The hash of a subtree from its complete subtrees, largest (leftmost) first."""
    whole = peaks[-1]
    for peak in reversed(peaks[:-1]):
        whole = node_hash(peak, whole)
    return whole


def subtrees(first: int, leaf_hashes: Sequence[bytes]) -> list[tuple[int, bytes]]:
    """Width and hash of the complete subtrees, in order, that these leaves from `first` on make up; for `Frontier.graft`."""
    found = []
    at = 0
    while at < len(leaf_hashes):
        start = first + at
        width = 1 << ((len(leaf_hashes) - at).bit_length() - 1)
        if start:
            width = min(width, start & -start)
        found.append((width, root(leaf_hashes[at : at + width])))
        at += width
    return found


def peak_spans(start: int, end: int) -> list[Span]:
    """The complete subtrees, largest first, that make up the subtree over [start, end)."""
    spans = []
    while start < end:
        width = 1 << ((end - start).bit_length() - 1)
        spans.append((start, start + width))
        start += width
    return spans


def _all_hashes(hashes: Sequence[bytes]) -> bool:
    return set(map(len, hashes)) <= {HASH_BYTES}


class Frontier(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All that must be known of a prefix to append to it: its size, and its complete subtrees' hashes.

    One peak for each bit set in the size, largest subtree first. A value: appending returns another.

    Raises `MerkleError` when the peaks can't belong to the size.
    """

    size: int
    peaks: tuple[bytes, ...]

    def __post_init__(self) -> None:
        if not 0 <= self.size <= MAX_SIZE:
            raise MerkleError(f"a tree has 0 to {MAX_SIZE} leaves, not {self.size}")
        if len(self.peaks) != self.size.bit_count():
            raise MerkleError(f"size {self.size} has {self.size.bit_count()} peaks, not {len(self.peaks)}")
        if not _all_hashes(self.peaks):
            raise MerkleError(f"a peak is {HASH_BYTES} bytes")

    def append(self, leaf: bytes) -> Self:
        """The frontier with one more leaf hash."""
        return self.extend((leaf,))

    def extend(self, leaf_hashes: Sequence[bytes]) -> Self:
        """The frontier with these leaf hashes after it; about one hash computed for each."""
        if not _all_hashes(leaf_hashes):
            raise MerkleError(f"a leaf hash is {HASH_BYTES} bytes")
        # Height by height: the old peak of this height, if any, is the left partner of the first new node.
        nodes = list(leaf_hashes)
        old = list(self.peaks)
        new: list[bytes] = []  # smallest first, as they are found
        height = 0
        while nodes:
            if self.size >> height & 1:
                nodes.insert(0, old.pop())
            if len(nodes) & 1:
                new.append(nodes[-1])
            nodes = _parents(nodes)
            height += 1
        return type(self)(self.size + len(leaf_hashes), (*old, *reversed(new)))

    def graft(self, width: int, peak: bytes) -> Self:
        """The frontier with one complete subtree of `width` leaves more, which must stand aligned here."""
        if width < 1 or width & (width - 1) or self.size % width:
            raise MerkleError(f"no complete subtree of {width} leaves stands at {self.size}")
        peaks = list(self.peaks)
        height = width
        while self.size & height:
            peak = node_hash(peaks.pop(), peak)
            height <<= 1
        return type(self)(self.size + width, (*peaks, peak))

    def root(self) -> bytes:
        """The root of the tree that ends here."""
        return fold(self.peaks) if self.peaks else EMPTY_ROOT

    def to_bytes(self) -> bytes:
        """The size as u64 big-endian, then the peaks."""
        return self.size.to_bytes(8) + b"".join(self.peaks)

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """The frontier that `to_bytes` wrote; raises `MerkleError` for anything else."""
        if len(data) < 8 or (len(data) - 8) % HASH_BYTES:
            raise MerkleError("a frontier is 8 bytes of size and whole hashes")
        peaks = tuple(data[at : at + HASH_BYTES] for at in range(8, len(data), HASH_BYTES))
        return cls(int.from_bytes(data[:8]), peaks)


EMPTY = Frontier(0, ())


def range_spans(first: int, count: int, size: int) -> list[Span]:
    """The subtrees whose hashes, in this order, prove the run [first, first + count) in a tree of `size`.

    Raises `MerkleError` when there is no such run.
    """
    if not 0 <= size <= MAX_SIZE:
        raise MerkleError(f"a tree has 0 to {MAX_SIZE} leaves, not {size}")
    if first < 0 or count < 1 or first + count > size:
        raise MerkleError(f"no {count} leaves from {first} in a tree of {size}")
    return _range_spans(first, first + count, 0, size)


def range_path(first: int, count: int, size: int, subtree: Subtree) -> list[bytes]:
    """The range proof of [first, first + count) in a tree of `size` leaves."""
    return [subtree(start, end) for start, end in range_spans(first, count, size)]


def verify_range(
    leaf_hashes: Sequence[bytes], first: int, size: int, path: Sequence[bytes], expected_root: bytes
) -> bool:
    """Whether exactly these leaf hashes stand from `first` in the tree of that size and root."""
    if len(leaf_hashes) == 1:
        return _stands(leaf_hashes[0], first, size, path, expected_root)
    try:
        spans = range_spans(first, len(leaf_hashes), size)
    except MerkleError:
        return False
    if len(path) != len(spans):
        return False
    if not _all_hashes(path) or not _all_hashes(leaf_hashes):
        return False
    return _rebuild(leaf_hashes, first, size, iter(path)) == expected_root


def _stands(leaf: bytes, index: int, size: int, path: Sequence[bytes], expected_root: bytes) -> bool:
    """The run of one leaf, which is most receipts: the same walk without making the spans."""
    if not 0 <= index < size <= MAX_SIZE or not _all_hashes((leaf, *path)):
        return False
    on_the_right: list[bool] = []  # from the root down to the leaf
    while size > 1:
        middle = _split(size)
        on_the_right.append(index >= middle)
        if index < middle:
            size = middle
        else:
            index, size = index - middle, size - middle
    if len(path) != len(on_the_right):
        return False
    whole = leaf
    for sibling, right in zip(path, reversed(on_the_right), strict=True):
        whole = node_hash(sibling, whole) if right else node_hash(whole, sibling)
    return whole == expected_root


def inclusion_path(index: int, leaf_hashes: Sequence[bytes]) -> list[bytes]:
    """The RFC's audit path, the leaf's sibling first: a range proof of one leaf."""
    return range_path(index, 1, len(leaf_hashes), _over(leaf_hashes))


def verify_inclusion(leaf: bytes, index: int, size: int, path: Sequence[bytes], expected_root: bytes) -> bool:
    """Whether this leaf hash stands at `index` in the tree of that size and root."""
    return verify_range((leaf,), index, size, path, expected_root)


def consistency_spans(old_size: int, new_size: int) -> list[Span]:
    """The subtrees whose hashes, in this order, prove that the old tree is a prefix of the new one.

    Nothing needs proof, so there are none, when the old tree is empty or the sizes are equal.
    """
    if not 0 <= old_size <= new_size <= MAX_SIZE:
        raise MerkleError(f"no tree of {old_size} leaves is a prefix of one of {new_size}")
    return _consistency_spans(old_size, 0, new_size, whole=True) if old_size else []


def consistency_path(old_size: int, leaf_hashes: Sequence[bytes]) -> list[bytes]:
    """The RFC's consistency proof from the first `old_size` of these leaves to all of them."""
    subtree = _over(leaf_hashes)
    return [subtree(start, end) for start, end in consistency_spans(old_size, len(leaf_hashes))]


def verify_consistency(old_size: int, old_root: bytes, new_size: int, new_root: bytes, path: Sequence[bytes]) -> bool:
    """Whether the tree of old size and root is a prefix of the tree of new size and root."""
    try:
        spans = consistency_spans(old_size, new_size)
    except MerkleError:
        return False
    if len(path) != len(spans):
        return False
    if not _all_hashes((old_root, new_root, *path)):
        return False
    if new_size == 0:
        return old_root == new_root == EMPTY_ROOT
    if old_size == 0:
        return old_root == EMPTY_ROOT
    return _rebuild_both(old_size, new_size, iter(path), old_root) == (old_root, new_root)


class Appender:
    """The tree as its one writer needs it: a frontier, the leaves added since, and range proofs over them.

    Keeps, for each height, the complete nodes that the new leaves touch, with the frontier's peak before them
    where it is their left partner. So each node is hashed once, whatever is asked, and nothing older is read.
    """

    def __init__(self, frontier: Frontier) -> None:
        self._base = frontier.size
        self._size = frontier.size
        self._levels: list[list[bytes]] = [[]]
        self._ragged: dict[Span, bytes] = {}  # subtrees at the right edge; of use at one size only
        self._edge: list[bytes] = []  # the last node of each height, ragged or not; of use at one size only
        for (start, end), peak in zip(peak_spans(0, frontier.size), frontier.peaks, strict=True):
            self._level((end - start).bit_length() - 1).append(peak)

    @property
    def size(self) -> int:
        """How many leaves the tree has now."""
        return self._size

    def extend(self, leaf_hashes: Sequence[bytes]) -> None:
        """Add these leaf hashes at the end; raises `MerkleError` and adds none if one isn't a hash."""
        if not _all_hashes(leaf_hashes):
            raise MerkleError(f"a leaf hash is {HASH_BYTES} bytes")
        if self._size + len(leaf_hashes) > MAX_SIZE:
            raise MerkleError(f"a tree has at most {MAX_SIZE} leaves")
        self._ragged.clear()
        self._edge.clear()
        self._levels[0].extend(leaf_hashes)
        self._size += len(leaf_hashes)
        height = 1
        while self._size >> height:
            parents = self._level(height)
            done = self._offset(height) + len(parents)
            children = self._levels[height - 1][2 * done - self._offset(height - 1) :]
            parents.extend(_parents(children))
            height += 1

    def subtree(self, start: int, end: int) -> bytes:
        """The hash of a subtree that reaches, or hangs off the path to, the new leaves."""
        if (end - start).bit_count() == 1:
            height = (end - start).bit_length() - 1
            return self._levels[height][(start >> height) - self._offset(height)]
        if (start, end) not in self._ragged:
            self._ragged[start, end] = fold([self.subtree(*span) for span in peak_spans(start, end)])
        return self._ragged[start, end]

    def range_path(self, first: int, count: int) -> list[bytes]:
        """The range proof, at the current size, of leaves added since this appender was made."""
        if first < self._base:
            raise MerkleError(f"leaf {first} is older than this appender, which begins at {self._base}")
        if count == 1 and first < self._size:
            return self._audit_path(first)
        return range_path(first, count, self._size, self.subtree)

    def _audit_path(self, index: int) -> list[bytes]:
        """The path of one leaf, climbed from it: at each height the sibling, where there is one. Equal to `range_path`, and quicker."""
        last, path = self._size - 1, list[bytes]()
        height = 0
        while last:
            sibling = index ^ 1
            if sibling == last:
                path.append(self._right_edge()[height])
            elif sibling < last:
                path.append(self._levels[height][sibling - self._offset(height)])
            index, last, height = index >> 1, last >> 1, height + 1
        return path

    def _right_edge(self) -> list[bytes]:
        """The last node of each height below the root: what lies under it up to the tree's end."""
        if not self._edge:
            end = self._size
            for height in range((end - 1).bit_length()):
                self._edge.append(self.subtree((end - 1) >> height << height, end))
        return self._edge

    def frontier(self) -> Frontier:
        """The frontier of the tree as it is now."""
        return Frontier(self._size, tuple(self.subtree(*span) for span in peak_spans(0, self._size)))

    def root(self) -> bytes:
        """The root of the tree as it is now."""
        return self.frontier().root()

    def _offset(self, height: int) -> int:
        """The index of the first node kept at this height, always a left child; the peak if there is one."""
        return self._base >> height & ~1

    def _level(self, height: int) -> list[bytes]:
        while len(self._levels) <= height:
            self._levels.append([])
        return self._levels[height]


def _parents(nodes: list[bytes]) -> list[bytes]:
    """The parents of the nodes two by two, an odd one at the end left out."""
    pairs = zip(nodes[::2], nodes[1::2], strict=False)
    return [sha256(b"\x01" + left + right).digest() for left, right in pairs]


def _over(leaf_hashes: Sequence[bytes]) -> Subtree:
    return lambda start, end: root(leaf_hashes[start:end])


def _split(size: int) -> int:
    """The largest power of two strictly below the size."""
    return 1 << ((size - 1).bit_length() - 1)


def _range_spans(first: int, last: int, start: int, end: int) -> list[Span]:
    if first == start and last == end:
        return []
    middle = start + _split(end - start)
    if last <= middle:
        return [*_range_spans(first, last, start, middle), (middle, end)]
    if first >= middle:
        return [*_range_spans(first, last, middle, end), (start, middle)]
    return _range_spans(first, middle, start, middle) + _range_spans(middle, last, middle, end)


def _rebuild(leaf_hashes: Sequence[bytes], first: int, size: int, path: Iterator[bytes]) -> bytes:
    """The root that the run and the path give; walks exactly as `_range_spans` does."""
    if len(leaf_hashes) == size:
        return root(leaf_hashes)
    middle = _split(size)
    if first + len(leaf_hashes) <= middle:
        return node_hash(_rebuild(leaf_hashes, first, middle, path), next(path))
    if first >= middle:
        right = _rebuild(leaf_hashes, first - middle, size - middle, path)
        return node_hash(next(path), right)
    left = _rebuild(leaf_hashes[: middle - first], first, middle, path)
    return node_hash(left, _rebuild(leaf_hashes[middle - first :], 0, size - middle, path))


def _consistency_spans(old_size: int, start: int, end: int, *, whole: bool) -> list[Span]:
    if old_size == end:
        return [] if whole else [(start, end)]
    middle = start + _split(end - start)
    if old_size <= middle:
        return [*_consistency_spans(old_size, start, middle, whole=whole), (middle, end)]
    return [*_consistency_spans(old_size, middle, end, whole=False), (start, middle)]


def _rebuild_both(old_size: int, new_size: int, path: Iterator[bytes], old_root: bytes | None) -> tuple[bytes, bytes]:
    """The old and the new root that the path gives.

    `old_root` is given as long as the old tree is one whole left subtree: then the verifier knows its hash
    already and the path leaves it out. It is still compared at the end.
    """
    if old_size == new_size:
        known = next(path) if old_root is None else old_root
        return known, known
    middle = _split(new_size)
    if old_size <= middle:
        old, new = _rebuild_both(old_size, middle, path, old_root)
        return old, node_hash(new, next(path))
    old, new = _rebuild_both(old_size - middle, new_size - middle, path, None)
    left = next(path)
    return node_hash(left, old), node_hash(left, new)
