"""The writer's end of the Merkle tree, and tiles as readers need them.

`Edge` is all that must be kept to append: the frontier, and the hashes of the last, partial tile of each level. It is a value: a commit
that fails leaves the old one as it was.

`Tiles` reads any tile of any published size. Full ones are stored; a partial one is the beginning of a full one, or is derived: level 0
from the sealed headers, a higher level from the full tiles below it.
"""

import functools
from collections import OrderedDict
from collections.abc import Iterable, Sequence

import msgspec

from services.canon_writer.laws import Shelf, Tile, TileKey
from sigilcore import merkle, tiles
from sigilcore.contracts import canon
from sigilcore.note import encode_base64

KEPT_TILES = 512  # of 8 KiB
KEPT_ROOTS = 65_536  # of 32 bytes


class Edge(msgspec.Struct, frozen=True, kw_only=True):
    """The right edge of the tree: `partial[level]` are the hashes of that level's unfinished tile."""

    frontier: merkle.Frontier = merkle.EMPTY
    partial: tuple[tuple[bytes, ...], ...] = ((),)

    @property
    def size(self) -> int:
        """How many leaves there are."""
        return self.frontier.size

    def grow(self, leaves: Sequence[bytes]) -> "Growth":
        """The edge after these leaves, and what the growth made."""
        appender = merkle.Appender(self.frontier)
        appender.extend(leaves)
        partial, full = [], []
        rising = list(leaves)
        level = 0
        while rising or level < len(self.partial):
            before = self.partial[level] if level < len(self.partial) else ()
            index = (self.size >> (8 * level)) // tiles.WIDTH
            hashes = [*before, *rising]
            rising = []
            while len(hashes) >= tiles.WIDTH:
                done, hashes = hashes[: tiles.WIDTH], hashes[tiles.WIDTH :]
                full.append(Tile(level=level, index=index, hashes=b"".join(done)))
                rising.append(merkle.root(done))
                index += 1
            partial.append(tuple(hashes))
            level += 1
        edge = Edge(frontier=appender.frontier(), partial=tuple(partial))
        return Growth(base=self.size, edge=edge, tiles=tuple(full), appender=appender)


class Growth(msgspec.Struct, frozen=True, kw_only=True):
    """An edge, the tiles filled on the way to it, and range proofs over its new leaves."""

    base: int  # the size before
    edge: Edge
    tiles: tuple[Tile, ...]
    appender: merkle.Appender


class Tiles:
    """Tiles of one log, with a bounded memory of those that never change."""

    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf
        self._full: OrderedDict[TileKey, bytes] = OrderedDict()
        self._roots: OrderedDict[TileKey, bytes] = OrderedDict()

    async def read(self, level: int, index: int, width: int) -> bytes:
        """The first `width` hashes of a tile; `tiles.TileError` when the log doesn't have as many."""
        return (await self._read_all([(level, index, width)]))[level, index]

    async def edge(self, size: int) -> Edge:
        """The right edge of the tree at this size."""
        wanted = [(level, index, width) for level, index, width in tiles.tiles_of(size) if width < tiles.WIDTH]
        found = await self._read_all(wanted)
        depth = max(1, -(-size.bit_length() // 8))
        partial: list[tuple[bytes, ...]] = [()] * depth
        for level, index, width in wanted:
            partial[level] = _hashes(found[level, index], width)
        peaks = [peak for level in reversed(partial) for peak in merkle.EMPTY.extend(level).peaks]
        return Edge(frontier=merkle.Frontier(size, tuple(peaks)), partial=tuple(partial))

    async def tree(self, spans: Iterable[merkle.Span], size: int) -> tiles.TileTree:
        """A tree that can answer for these subtrees at this size."""
        wanted = {_tile_of(part) for span in spans for part in merkle.peak_spans(*span)}
        found = await self._read_all([(*key, tiles.width_at(*key, size)) for key in wanted])
        return tiles.TileTree(lambda level, index, _: found[level, index], size)

    async def range_path(self, first: int, count: int, size: int) -> list[bytes]:
        """The range proof of a run of leaves at a published size."""
        tree = await self.tree(merkle.range_spans(first, count, size), size)
        return tree.range_path(first, count, size)

    async def consistency(self, old: int, new: int) -> list[bytes]:
        """The consistency proof between two published sizes."""
        tree = await self.tree(merkle.consistency_spans(old, new), new)
        return tree.consistency_path(old, new)

    async def root(self, size: int) -> bytes:
        """The root at a published size."""
        return (await self.tree([(0, size)], size)).root(size)

    async def leaf_hashes(self, first: int, count: int, size: int) -> list[bytes]:
        """What the tree says about a run of leaves."""
        spans = [(at, at + 1) for at in range(first, first + count)]
        tree = await self.tree(spans, size)
        return [tree.leaf_hash(at) for at in range(first, first + count)]

    async def _read_all(self, wanted: Sequence[tiles.Tile]) -> dict[TileKey, bytes]:
        """Each wanted tile at its width."""
        full = await self._full_tiles([(level, index) for level, index, _ in wanted])
        answer = {}
        for level, index, width in wanted:
            stored = full.get((level, index))
            if stored is not None:
                answer[level, index] = stored[: width * merkle.HASH_BYTES]
            elif level == 0:
                answer[level, index] = await self._from_headers(index, width)
            else:
                answer[level, index] = await self._from_below(level, index, width)
        return answer

    async def _from_headers(self, index: int, width: int) -> bytes:
        first = index * tiles.WIDTH
        headers = await self._shelf.headers(first, first + width)
        if len(headers) != width:
            raise tiles.TileError(f"the log has no {width} leaves from {first}")
        return b"".join(map(merkle.leaf_hash, headers))

    async def _from_below(self, level: int, index: int, width: int) -> bytes:
        first = index * tiles.WIDTH
        keys = [(level - 1, below) for below in range(first, first + width)]
        missing = [key for key in keys if key not in self._roots]
        full = await self._full_tiles(missing)
        if len(full) != len(missing):
            raise tiles.TileError(f"the log has no tile of level {level} and index {index} as wide as {width}")
        for key, data in full.items():
            _keep(self._roots, key, merkle.root(_hashes(data, tiles.WIDTH)), KEPT_ROOTS)
        return b"".join(self._roots[key] for key in keys)

    async def _full_tiles(self, keys: Sequence[TileKey]) -> dict[TileKey, bytes]:
        found = {key: self._full[key] for key in keys if key in self._full}
        missing = [key for key in keys if key not in found]
        if missing:
            read = await self._shelf.tiles(missing)
            found.update(read)
            for key, data in read.items():
                _keep(self._full, key, data, KEPT_TILES)
        return found


def range_proof(first: int, count: int, size: int, path: Sequence[bytes]) -> canon.RangeProof:
    """A range proof as it crosses the bus."""
    return canon.RangeProof(first=first, count=count, size=size, hashes=tuple(map(_text, path)))


@functools.lru_cache(maxsize=1024)  # the proofs of one commit share most of their hashes
def _text(one: bytes) -> str:
    return encode_base64(one)


def runs(seqs: Iterable[int]) -> list[tuple[int, int]]:
    """These places as contiguous runs (first, count), in order, each place once."""
    found: list[tuple[int, int]] = []
    for seq in sorted(set(seqs)):
        if found and seq == sum(found[-1]):
            found[-1] = (found[-1][0], found[-1][1] + 1)
        else:
            found.append((seq, 1))
    return found


def _tile_of(span: merkle.Span) -> TileKey:
    """The tile that holds the hash of a complete subtree, or the hashes it folds from."""
    start, end = span
    level = ((end - start).bit_length() - 1) // 8
    return level, (start >> (8 * level)) // tiles.WIDTH


def _hashes(data: bytes, width: int) -> tuple[bytes, ...]:
    step = merkle.HASH_BYTES
    return tuple(data[at * step : (at + 1) * step] for at in range(width))


def _keep(memory: OrderedDict[TileKey, bytes], key: TileKey, value: bytes, most: int) -> None:
    memory[key] = value
    memory.move_to_end(key)
    while len(memory) > most:
        memory.popitem(last=False)
