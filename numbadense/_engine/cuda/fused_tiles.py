"""Block shapes of the kernel that runs whole networks, per device.  A new architecture is a row of these tables."""

from dataclasses import dataclass

KB = 1024
COPY = 16  # rows that take as long as a copy of the weights: 128 multiply-adds and 32 bytes from the cache, each cycle
RESERVED = 1 * KB  # bytes of shared memory that a block takes besides its own


@dataclass(frozen=True)
class FusedTile:
    """The shape of the work of `fused`, for networks no wider than `width`.

    A block is `warps` warps of `lanes` threads, each of which keeps ``outputs[0] x outputs[1]`` of a layer's outputs in
    registers: a warp has all the columns of its rows.  Registers are rationed so that `resident` blocks share a
    multiprocessor.  Where weights are streamed, `stages` pieces of `depth` features are on their way or in use.

    `share` is the part of the instructions of the loop over features that multiply and add, as compiled for compute
    capability 9.0; the tests count it.
    """

    width: int
    outputs: tuple[int, int]
    warps: int
    resident: int
    share: float
    depth: int = 32
    stages: int = 2
    lanes: int = 32

    @property
    def across(self) -> int:
        """Threads across the columns."""
        return self.width // self.outputs[1]

    @property
    def down(self) -> int:
        """Threads down the rows of a warp."""
        return self.lanes // self.across

    @property
    def rows(self) -> int:
        """Rows of a warp."""
        return self.down * self.outputs[0]

    @property
    def size(self) -> int:
        """Threads in a block."""
        return self.warps * self.lanes

    @property
    def block_rows(self) -> int:
        """Rows of a block."""
        return self.warps * self.rows

    def pitch(self, chunk: int) -> int:
        """Return how far apart rows are in shared memory, in elements."""
        return self.width + chunk

    def shared(self, itemsize: int, numbers: int, streamed: bool) -> int:
        """Return the bytes of shared memory of a block, for a program of so many numbers."""
        weights = self.stages * self.depth * self.width if streamed else numbers
        return (weights + self.warps * self.rows * self.pitch(16 // itemsize)) * itemsize


@dataclass(frozen=True)
class TensorTile:
    """The shape of the work of `fused_tensor`, for networks no wider than `width`.

    A block is `warps` warps, each of which has ``16 parts`` rows in registers, rationed so that `resident` blocks share
    a multiprocessor.  `share` is what it takes to load weights and multiply, relative to a part's of two.
    """

    width: int
    parts: int
    warps: int
    resident: int
    share: float = 1.0

    @property
    def block_rows(self) -> int:
        """Rows of a block."""
        return self.warps * self.parts * 16

    @property
    def size(self) -> int:
        """Threads in a block."""
        return self.warps * 32

    def shared(self, words: int, layer: int, streamed: bool, rowwise: bool) -> int:
        """Return the bytes of shared memory of a block, for a program of so many words, `layer` of them a layer."""
        scratch = self.block_rows * (self.width + 4) if rowwise else 0
        return 4 * ((2 * layer if streamed else words) + scratch)


# By the size of an element, from large tiles, which multiply most for what they load, to small ones, for few rows.  The
# simulator's blocks are tiny; other keys are the least compute capability of their row.
TABLE = {
    "simulator": {
        4: (
            FusedTile(8, (2, 4), 2, 1, 0.5, depth=8),
            FusedTile(8, (1, 4), 1, 1, 0.4, depth=4),
            FusedTile(16, (2, 8), 1, 2, 0.5, depth=8, stages=3),
        ),
        8: (FusedTile(8, (2, 4), 2, 1, 0.5, depth=8), FusedTile(16, (1, 4), 1, 1, 0.5, depth=4)),
    },
    (8, 0): {
        4: (
            FusedTile(16, (8, 8), 4, 3, 0.91),
            FusedTile(16, (8, 8), 1, 12, 0.91),
            FusedTile(16, (1, 4), 4, 4, 0.57),
            FusedTile(32, (8, 8), 4, 3, 0.91),
            FusedTile(32, (8, 8), 1, 12, 0.91),
            FusedTile(32, (2, 4), 1, 16, 0.71),
            FusedTile(64, (16, 8), 4, 2, 0.94),
            FusedTile(64, (8, 8), 1, 12, 0.91),
            FusedTile(64, (1, 4), 4, 4, 0.57),
            FusedTile(128, (16, 8), 4, 2, 0.94),
            FusedTile(128, (1, 4), 8, 2, 0.57),
            FusedTile(256, (16, 8), 4, 2, 0.94, depth=16),
            FusedTile(256, (1, 8), 8, 2, 0.64, depth=16),
        ),
        8: (
            FusedTile(16, (4, 4), 4, 3, 0.68, depth=16),
            FusedTile(32, (4, 4), 4, 3, 0.68, depth=16),
            FusedTile(64, (4, 4), 4, 3, 0.68, depth=16),
            FusedTile(128, (4, 4), 4, 3, 0.68, depth=16),
        ),
    },
}
TENSOR_TABLE = {
    "simulator": (TensorTile(16, 2, 2, 1), TensorTile(16, 1, 1, 1, 0.8), TensorTile(32, 1, 1, 1)),
    (8, 0): (
        TensorTile(16, 2, 4, 6),
        TensorTile(16, 1, 1, 16, 0.8),
        TensorTile(32, 2, 4, 4),
        TensorTile(32, 2, 2, 8),
        TensorTile(32, 1, 1, 16, 0.8),
        TensorTile(64, 1, 4, 3),
        TensorTile(64, 1, 1, 12),
        TensorTile(128, 1, 4, 2),
        TensorTile(128, 1, 1, 12),
    ),
}
SHARED = {  # KB of a multiprocessor; a block can have one less
    "simulator": 8,
    (8, 0): 164,
    (8, 6): 100,
    (8, 7): 164,
    (8, 9): 100,
    (9, 0): 228,
    (12, 0): 100,
}


def _row(table, capability):
    if capability is None:
        return table["simulator"]
    rows = [least for least in table if least != "simulator" and least <= capability]
    return table[max(rows)] if rows else None


def shared_memory(capability: tuple[int, int] | None) -> int:
    """Return the bytes of shared memory of a multiprocessor."""
    return _row(SHARED, capability) * KB


def _narrowest(tiles, width: int) -> tuple:
    fitting = [tile for tile in tiles if tile.width >= width]
    return tuple(tile for tile in fitting if tile.width == min(each.width for each in fitting))


def tiles_of(capability: tuple[int, int] | None, itemsize: int, width: int) -> tuple[FusedTile, ...]:
    """Return the tiles for networks so wide, all of one width: none for networks that are too wide for any."""
    return _narrowest((_row(TABLE, capability) or {itemsize: ()})[itemsize], width)


def tensor_tiles_of(capability: tuple[int, int] | None, width: int) -> tuple[TensorTile, ...]:
    """Return the tiles for networks so wide on tensor cores."""
    return _narrowest(_row(TENSOR_TABLE, capability) or (), width)


def widest(capability: tuple[int, int] | None, itemsize: int, precision: str | None) -> int:
    """Return how wide networks may be; 0 for devices on which none fits."""
    if precision is None:
        tiles = (_row(TABLE, capability) or {itemsize: ()})[itemsize]
    else:
        tiles = _row(TENSOR_TABLE, capability) or ()
    return max((tile.width for tile in tiles), default=0)


def blocks(tile, m: int) -> int:
    """Return how many blocks it takes for the rows of a network to be worked on at once."""
    return -(-m // tile.block_rows)


def has_to_stream(tile, resident: int, available: int) -> bool:
    """Say whether `resident` bytes, with all weights, are too many for all blocks to have room on a multiprocessor."""
    return (resident + RESERVED) * tile.resident > available


def blocks_for_each(tile, m: int, networks: int, multiprocessors: int) -> int:
    """Return how many blocks there are for each network: no more than fit the device, but one at least."""
    return max(1, min(blocks(tile, m), multiprocessors * tile.resident // networks))


def cost(tile, m: int, networks: int, multiprocessors: int) -> float:
    """Return what the busiest multiprocessor does, in rows: those that are not there too, and the copies of weights."""
    turns = -(-blocks(tile, m) * networks // multiprocessors)
    copies = -(-blocks_for_each(tile, m, networks, multiprocessors) * networks // multiprocessors)
    return turns * tile.block_rows / tile.share + copies * COPY


def choose(tiles: tuple, m: int, networks: int, multiprocessors: int):
    """Return the tile of the least cost.  All give the same bits."""
    return min(tiles, key=lambda tile: cost(tile, m, networks, multiprocessors))
