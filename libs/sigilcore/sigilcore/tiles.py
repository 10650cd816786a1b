"""The log as files that never change (C2SP tlog-tiles): where each lies, what is in it, proofs from it.

Decides: the path and width of every tile and entry bundle, the bytes of a bundle, and how to read a Merkle
tree from tiles alone.

Invariants:

1. Hash i of tile (level, index) is the hash of the complete subtree over 256^level leaves that begins at leaf
   (index * 256 + i) * 256^level. So a level above 0 hashes full tiles of the level below only.
2. A full tile has 256 hashes. At a given size each level has at most one partial tile, the last, never empty.
3. A path has one spelling; any other is refused, for a path is also a cache key.
4. An entry bundle is entries in order, each after its length as u16 big-endian, and nothing else.

    assert tiles.path(0, 1234067) == "tile/0/x001/x234/067"
    tree = tiles.TileTree(read, checkpoint.size)
    assert tree.root(checkpoint.size) == checkpoint.root
"""

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Literal

from sigilcore import merkle

WIDTH = 256
MAX_ENTRY = 65535  # bytes; what a u16 can tell
MAX_LEVEL = 63  # as the specification; a tree of 2^63 leaves ends at level 7
MAX_INDEX = merkle.MAX_SIZE // WIDTH

ENTRIES: Literal["entries"] = "entries"
Level = int | Literal["entries"]
"""A level of hash tiles, or the entry bundles below level 0."""

Tile = tuple[int, int, int]
"""A hash tile: its level, its index, and how many hashes it has."""

Read = Callable[[int, int, int], bytes]
"""Gives the bytes of the hash tile (level, index, width)."""

_PATH = re.compile(r"tile/(entries|[0-9]{1,2})/((?:x[0-9]{3}/){0,6}[0-9]{3})(?:\.p/([1-9][0-9]{0,2}))?", re.ASCII)


class TileError(ValueError):
    """Not a tile's path, not a bundle's bytes, or not a tile of this tree."""


def path(level: Level, index: int, width: int = WIDTH) -> str:
    """Where a tile or bundle lies below the log's prefix; raises `TileError` for one that can't exist."""
    if isinstance(level, int) and not 0 <= level <= MAX_LEVEL:
        raise TileError(f"levels are 0 to {MAX_LEVEL}, not {level}")
    if not 0 <= index <= MAX_INDEX:
        raise TileError(f"indices are 0 to {MAX_INDEX}, not {index}")
    if not 1 <= width <= WIDTH:
        raise TileError(f"widths are 1 to {WIDTH}, not {width}")
    groups = [f"{index % 1000:03}"]
    while index := index // 1000:
        groups.insert(0, f"x{index % 1000:03}")
    partial = "" if width == WIDTH else f".p/{width}"
    return f"tile/{level}/{'/'.join(groups)}{partial}"


def parse_path(text: str) -> tuple[Level, int, int]:
    """The level, index and width that `path` wrote; raises `TileError` for any other text."""
    match = _PATH.fullmatch(text)
    if match is None:
        raise TileError(f"not a tile's path: {text[:80]!r}")
    level: Level = ENTRIES if match[1] == ENTRIES else int(match[1])
    index = int(match[2].replace("x", "").replace("/", ""))
    width = int(match[3] or WIDTH)
    if path(level, index, width) != text:
        raise TileError(f"another spelling of a tile's path: {text!r}")
    return level, index, width


def width_at(level: int, index: int, size: int) -> int:
    """How many hashes this tile has in a tree of `size` leaves; 0 when there is no such tile."""
    return max(0, min(WIDTH, (size >> (8 * level)) - index * WIDTH))


def tiles_of(size: int) -> Iterator[Tile]:
    """Every full and partial hash tile that a tree of this size implies, level by level.

    The entry bundles have the indices and widths of level 0.
    """
    return new_tiles(0, size)


def new_tiles(old_size: int, new_size: int) -> Iterator[Tile]:
    """The hash tiles that the new size implies and the old one doesn't: those now filled, and the partial."""
    level = 0
    while new_hashes := new_size >> (8 * level):
        old_hashes = old_size >> (8 * level)
        if new_hashes > old_hashes:
            for index in range(old_hashes // WIDTH, -(-new_hashes // WIDTH)):
                yield level, index, width_at(level, index, new_size)
        level += 1


def entry_bundle(entries: Sequence[bytes]) -> bytes:
    """The bundle of 1 to 256 entries; raises `TileError` when there are others, or one is too long."""
    if not 1 <= len(entries) <= WIDTH:
        raise TileError(f"a bundle has 1 to {WIDTH} entries, not {len(entries)}")
    if any(len(entry) > MAX_ENTRY for entry in entries):
        raise TileError(f"an entry has at most {MAX_ENTRY} bytes")
    return b"".join(len(entry).to_bytes(2) + entry for entry in entries)


def parse_bundle(data: bytes, width: int | None = None) -> list[bytes]:
    """The entries of a bundle, exactly `width` of them if that is given; raises `TileError`."""
    entries: list[bytes] = []
    at = 0
    while at < len(data):
        start = at + 2
        at = start + int.from_bytes(data[at:start])
        if at > len(data):
            raise TileError("the bundle ends inside an entry")
        if len(entries) == WIDTH:
            raise TileError(f"a bundle has at most {WIDTH} entries")
        entries.append(data[start:at])
    if not entries:
        raise TileError("a bundle has at least one entry")
    if width is not None and len(entries) != width:
        raise TileError(f"the bundle has {len(entries)} entries, not {width}")
    return entries


class TileTree:
    """The tree of a verified checkpoint's size, read from its tiles, each read once and kept.

    `size` chooses the widths asked for, so no partial tile is asked for that the checkpoint doesn't require;
    questions may be about that size or any smaller. The hashes are as good as the reader: what is built from
    them proves itself against a signed root, or doesn't.

    Raises `TileError` when a tile has the wrong length or the tree is smaller than the question, and
    `merkle.MerkleError` for leaves that don't exist.
    """

    def __init__(self, read: Read, size: int) -> None:
        self._read = read
        self._size = size
        self._tiles: dict[tuple[int, int], bytes] = {}

    def subtree(self, start: int, end: int) -> bytes:
        """The hash of the subtree over the leaves [start, end)."""
        if not 0 <= start < end <= self._size:
            raise TileError(f"no leaves [{start}, {end}) in a tree of {self._size}")
        return merkle.fold([self._complete(*span) for span in merkle.peak_spans(start, end)])

    def root(self, size: int) -> bytes:
        """The root of the tree's first `size` leaves."""
        return self.subtree(0, size) if size else merkle.EMPTY_ROOT

    def frontier(self, size: int) -> merkle.Frontier:
        """The frontier of the tree's first `size` leaves."""
        return merkle.Frontier(size, tuple(self._complete(*span) for span in merkle.peak_spans(0, self._within(size))))

    def range_path(self, first: int, count: int, size: int) -> list[bytes]:
        """The range proof of [first, first + count) at `size`."""
        return merkle.range_path(first, count, self._within(size), self.subtree)

    def inclusion_path(self, index: int, size: int) -> list[bytes]:
        """The audit path of one leaf at `size`."""
        return self.range_path(index, 1, size)

    def consistency_path(self, old_size: int, size: int) -> list[bytes]:
        """The consistency proof from `old_size` to `size`."""
        return [self.subtree(*span) for span in merkle.consistency_spans(old_size, self._within(size))]

    def leaf_hash(self, index: int) -> bytes:
        """The hash of one leaf."""
        return self.subtree(index, index + 1)

    def _within(self, size: int) -> int:
        if size > self._size:
            raise TileError(f"these tiles hold {self._size} leaves, not {size}")
        return size

    def _complete(self, start: int, end: int) -> bytes:
        """A complete subtree: 1 to 128 neighbours in one tile, folded."""
        level, height = divmod((end - start).bit_length() - 1, 8)
        index, first = divmod(start >> (8 * level), WIDTH)
        tile = self._tile(level, index)
        return merkle.root([_hash_at(tile, at) for at in range(first, first + (1 << height))])

    def _tile(self, level: int, index: int) -> bytes:
        if (level, index) not in self._tiles:
            width = width_at(level, index, self._size)
            data = self._read(level, index, width)
            if len(data) != width * merkle.HASH_BYTES:
                raise TileError(f"{path(level, index, width)} has {len(data)} bytes")
            self._tiles[level, index] = data
        return self._tiles[level, index]


def _hash_at(tile: bytes, at: int) -> bytes:
    return tile[at * merkle.HASH_BYTES : (at + 1) * merkle.HASH_BYTES]
