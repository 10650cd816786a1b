"""Tiles against brute force, against the files another package writes, and against hostile bytes."""

from collections import Counter
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tlog_scales.reader import TilesReader
from tlog_scales.signing import DummySigner
from tlog_scales.writer import TilesWriter

from sigilcore import merkle, tiles

VECTORS = Path(__file__).parent.parent / "vectors" / "tlog"
ENTRIES = [bytes.fromhex(line) for line in (VECTORS / "leaves.hex").read_text().split("\n")[:-1]]
LEAVES = [merkle.leaf_hash(b"%d" % number) for number in range(70_000)]
BORDERS = (1, 2, 255, 256, 257, 511, 512, 513, 65_535, 65_536, 65_537, 65_793, 70_000)


def _complete_nodes() -> list[list[bytes]]:
    """The complete nodes over LEAVES, by height: what every tile is cut from."""
    heights = [LEAVES]
    while len(heights[-1]) > 1:
        row = heights[-1]
        heights.append([merkle.node_hash(row[at], row[at + 1]) for at in range(0, len(row) - 1, 2)])
    return heights


NODES = _complete_nodes()


def tile_bytes(level: int, index: int, width: int) -> bytes:
    """A tile by the specification's words, whatever the tree's size."""
    hashes = NODES[8 * level][index * 256 : index * 256 + width]
    assert len(hashes) == width
    return b"".join(hashes)


class Shelf:
    """The tiles that a log of this size serves, and no others; counts what is read."""

    def __init__(self, size: int) -> None:
        self.served = set(tiles.tiles_of(size))
        self.reads: Counter[tuple[int, int, int]] = Counter()

    def read(self, level: int, index: int, width: int) -> bytes:
        assert (level, index, width) in self.served
        self.reads[level, index, width] += 1
        return tile_bytes(level, index, width)


def test_the_golden_tile_and_bundle():
    """The reference leaves give the published tile and entry bundle, under the published paths."""
    tile = b"".join(map(merkle.leaf_hash, ENTRIES))
    assert sha256(tile).hexdigest() == "aea2f1bbb5140fd5f8eacb503fdf54c00c3d860c72588e40233addd416bc8f10"
    assert list(tiles.tiles_of(8)) == [(0, 0, 8)]
    assert tiles.path(0, 0, 8) == "tile/0/000.p/8"
    bundle = tiles.entry_bundle(ENTRIES)
    assert bundle.hex() == (
        "00000001000001100002202100023031000440414243000850515253545556570010606162636465666768696a6b6c6d6e6f"
    )
    assert tiles.parse_bundle(bundle, 8) == ENTRIES
    assert tiles.path(tiles.ENTRIES, 0, 8) == "tile/entries/000.p/8"


@pytest.mark.parametrize(
    ("place", "text"),
    [
        ((0, 0, 256), "tile/0/000"),
        ((0, 999, 256), "tile/0/999"),
        ((1, 1000, 255), "tile/1/x001/000.p/255"),
        ((0, 1234067, 256), "tile/0/x001/x234/067"),
        (("entries", 1234067, 1), "tile/entries/x001/x234/067.p/1"),
        ((63, 1_000_000, 256), "tile/63/x001/x000/000"),
        ((7, tiles.MAX_INDEX, 256), "tile/7/x036/x028/x797/x018/x963/967"),
    ],
)
def test_a_path_is_read_as_it_is_written(place, text):
    """Examples of the specification and the extremes, both ways."""
    assert tiles.path(*place) == text
    assert tiles.parse_path(text) == place


@given(st.one_of(st.integers(0, 63), st.just("entries")), st.integers(0, tiles.MAX_INDEX), st.integers(1, 256))
@settings(deadline=None)
def test_every_path_goes_round(level, index, width):
    """Any place has a path that leads back to it."""
    assert tiles.parse_path(tiles.path(level, index, width)) == (level, index, width)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "tile/0/0",
        "tile/0/00",
        "tile/0/0000",
        "tile/00/000",
        "tile/64/000",
        "tile/-1/000",
        "tile/0/x000/001",
        "tile/0/001/002",
        "tile/0/x001",
        "tile/0/X001/002",
        "tile/0/000.p/0",
        "tile/0/000.p/256",
        "tile/0/000.p/007",
        "tile/0/000.p/",
        "tile/0/000.p/1_0",
        "tile/0/000/",
        "tile/0/000\n",
        "/tile/0/000",
        "tile/0/../000",
        "tile/0/٣٣٣",
        "tile/٣/000",
        "tile/data/000",
        "tile/ENTRIES/000",
        "tile/0/" + "x999/" * 6 + "999",
        "tile/0/" + "x999/" * 5000 + "999",
    ],
)
def test_another_spelling_of_a_path_is_refused(text):
    """One place, one path: the rest is refused with TileError."""
    with pytest.raises(tiles.TileError):
        tiles.parse_path(text)


@given(st.one_of(st.text(), st.from_regex(r"tile/[0-9]{1,2}/(x[0-9]{3}/)*[0-9]{1,4}(\.p/[0-9]+)?", fullmatch=True)))
@settings(deadline=None)
def test_a_hostile_path_is_canonical_or_an_error(text):
    """What parses is what `path` writes."""
    try:
        place = tiles.parse_path(text)
    except tiles.TileError:
        return
    assert tiles.path(*place) == text


@pytest.mark.parametrize("place", [(-1, 0), (64, 0), (0, -1), (0, tiles.MAX_INDEX + 1), (0, 0, 0), (0, 0, 257)])
def test_a_tile_that_can_t_exist_has_no_path(place):
    """Zero-width tiles in particular are never served."""
    with pytest.raises(tiles.TileError):
        tiles.path(*place)


def test_the_specification_s_own_examples_of_sizes():
    """256 leaves fill a tile and begin another level; 70,000 have 273 full tiles and three partial ones."""
    assert list(tiles.tiles_of(0)) == []
    assert list(tiles.tiles_of(256)) == [(0, 0, 256), (1, 0, 1)]
    of_70_000 = list(tiles.tiles_of(70_000))
    assert [tile for tile in of_70_000 if tile[0] == 0 and tile[2] == 256] == [(0, i, 256) for i in range(273)]
    assert of_70_000[273:] == [(0, 273, 112), (1, 0, 256), (1, 1, 17), (2, 0, 1)]


def test_new_tiles_are_the_difference():
    """Between any two sizes, around the borders too: what the new size implies and the old one doesn't."""
    chance = Random(256)
    sizes = sorted({*range(0, 600, 7), 254, 255, 256, 257, 258, *BORDERS})
    for old in sizes:
        for new in [old, *chance.sample(sizes, 3)]:
            if new >= old:
                before = set(tiles.tiles_of(old))
                expected = [tile for tile in tiles.tiles_of(new) if tile not in before]
                assert list(tiles.new_tiles(old, new)) == expected


@pytest.mark.parametrize("sizes", [(8,), (0, 255, 256, 257), (1, 300, 513, 1025), (65_535, 65_536, 65_537)])
def test_another_package_writes_the_same_tiles(tmp_path, sizes):
    """Its files after each commit include exactly ours, by name and bytes, hashes and entries."""
    shelf = tmp_path / "log"
    writer = TilesWriter.create(shelf, "canon.example/log")
    for old, new in pairwise((0, *sizes)):
        for number in range(old, new):
            writer.add_leaf(b"%d" % number)
        writer.commit([DummySigner()], gc=False)
        for level, index, width in tiles.new_tiles(old, new):
            assert (shelf / tiles.path(level, index, width)).read_bytes() == tile_bytes(level, index, width)
            if level == 0:
                entries = [b"%d" % number for number in range(index * 256, index * 256 + width)]
                written = (shelf / tiles.path(tiles.ENTRIES, index, width)).read_bytes()
                assert written == tiles.entry_bundle(entries)
                assert tiles.parse_bundle(written, width) == entries
    ours = {tiles.path(*tile) for old, new in pairwise((0, *sizes)) for tile in tiles.new_tiles(old, new)}
    hash_files = (file for file in shelf.rglob("*") if file.is_file() and "entries" not in file.parts)
    theirs = {str(file.relative_to(shelf)) for file in hash_files} - {"checkpoint"}
    assert theirs == ours


@pytest.mark.parametrize("size", BORDERS)
def test_a_tree_of_tiles_is_the_tree(size):
    """Root, frontier, inclusion, range and consistency from tiles alone, at the borders of levels."""
    chance = Random(size)
    shelf = Shelf(size)
    tree = tiles.TileTree(shelf.read, size)
    frontier = merkle.EMPTY.extend(LEAVES[:size])
    assert tree.root(size) == frontier.root()
    assert tree.frontier(size) == frontier
    for index in {0, size - 1, size // 2, chance.randrange(size)}:
        assert tree.leaf_hash(index) == LEAVES[index]
        path = tree.inclusion_path(index, size)
        assert merkle.verify_inclusion(LEAVES[index], index, size, path, frontier.root())
    for old in {1, size, size - size % 256 or size, chance.randint(1, size)}:
        old_root = merkle.root(LEAVES[:old])
        assert tree.root(old) == old_root
        path = tree.consistency_path(old, size)
        assert merkle.verify_consistency(old, old_root, size, frontier.root(), path)
    first = chance.randrange(size)
    run = LEAVES[first : first + 300][: size - first]
    path = tree.range_path(first, len(run), size)
    assert merkle.verify_range(run, first, size, path, frontier.root())
    assert set(shelf.reads.values()) == {1}


def test_a_tree_of_tiles_is_brute_force_at_every_small_size():
    """Each size to 600, one index and one old size each: the very hashes of the leaves' own paths."""
    chance = Random(600)
    for size in range(1, 601):
        tree = tiles.TileTree(Shelf(size).read, size)
        index = chance.randrange(size)
        assert tree.inclusion_path(index, size) == merkle.inclusion_path(index, LEAVES[:size])
        assert tree.consistency_path(index, size) == merkle.consistency_path(index, LEAVES[:size])
        assert tree.root(index) == merkle.root(LEAVES[:index])


def test_another_package_reads_the_same_proofs():
    """From the same tiles, the other reader makes the same paths."""

    class Backend:
        def get(self, *parts):
            place = tiles.parse_path("/".join(parts))
            return tile_bytes(*place) if place in shelf.served else None

    for size in (255, 256, 257, 1000, 65_537, 70_000):
        shelf = Shelf(size)
        tree = tiles.TileTree(shelf.read, size)
        other = TilesReader(Backend())
        other.set_size(size)
        assert other.calculate_root_hash() == tree.root(size)
        for index in (0, size // 3, size - 1):
            assert other.get_inclusion_proof(index, size).node_hashes == tree.inclusion_path(index, size)
            if index:
                theirs = other.get_consistency_proof(index, size).node_hashes
                assert theirs == tree.consistency_path(index, size)


def test_an_old_size_is_answered_from_the_full_tiles_of_the_new_one():
    """Partial tiles of a past size may be gone; only those of the tree's own size are asked for."""
    shelf = Shelf(1000)
    tree = tiles.TileTree(shelf.read, 1000)
    assert tree.inclusion_path(200, 300) == merkle.inclusion_path(200, LEAVES[:300])
    assert set(shelf.reads) <= {(0, 0, 256), (0, 1, 256), (1, 0, 3)}


def test_a_root_is_read_from_few_tiles():
    """The root of 70,000 leaves takes one tile a level."""
    shelf = Shelf(70_000)
    tiles.TileTree(shelf.read, 70_000).root(70_000)
    assert shelf.reads.total() == 3


def test_what_the_tiles_don_t_hold_is_refused():
    """A larger size, a missing leaf, a tile of the wrong length."""
    tree = tiles.TileTree(Shelf(300).read, 300)
    assert tree.root(0) == merkle.EMPTY_ROOT
    for ask in (
        lambda: tree.root(301),
        lambda: tree.frontier(301),
        lambda: tree.inclusion_path(0, 301),
        lambda: tree.consistency_path(1, 301),
        lambda: tree.leaf_hash(300),
        lambda: tree.leaf_hash(-1),
    ):
        with pytest.raises(tiles.TileError):
            ask()
    with pytest.raises(merkle.MerkleError):
        tree.inclusion_path(300, 300)
    with pytest.raises(tiles.TileError):
        tiles.TileTree(lambda *tile: tile_bytes(*tile)[:-1], 300).root(300)


@given(st.lists(st.binary(max_size=300), min_size=1, max_size=256))
@settings(deadline=None)
def test_every_bundle_goes_round(entries):
    """Entries of any bytes, the empty one too."""
    assert tiles.parse_bundle(tiles.entry_bundle(entries), len(entries)) == entries


@given(st.one_of(st.binary(), st.binary(max_size=20).map(lambda tail: b"\0\1a" + tail)))
@settings(deadline=None)
def test_a_hostile_bundle_is_canonical_or_an_error(data):
    """What parses is what `entry_bundle` writes."""
    try:
        entries = tiles.parse_bundle(data)
    except tiles.TileError:
        return
    assert tiles.entry_bundle(entries) == data


@pytest.mark.parametrize(
    "data",
    [b"", b"\0", b"\0\1", b"\0\0\0", b"\0\2a", b"\0\1ab", b"\0\0" * 257],
    ids=lambda data: data[:6].hex(),
)
def test_a_bundle_that_ends_early_or_late_is_refused(data):
    """Empty, cut within a length or an entry, trailing bytes, one entry too many."""
    with pytest.raises(tiles.TileError):
        tiles.parse_bundle(data)


def test_the_bounds_of_a_bundle():
    """An entry may be 65,535 bytes and not one more; a bundle has 1 to 256 entries, and as many as asked."""
    largest = bytes(tiles.MAX_ENTRY)
    assert tiles.parse_bundle(tiles.entry_bundle([largest])) == [largest]
    for entries in ([largest + b"\0"], [], [b""] * 257):
        with pytest.raises(tiles.TileError):
            tiles.entry_bundle(entries)
    with pytest.raises(tiles.TileError):
        tiles.parse_bundle(b"\0\0", 2)
