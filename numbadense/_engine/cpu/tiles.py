"""The shapes of the register tile, per instruction set.  A new ISA is a row of this table."""

from dataclasses import dataclass


@dataclass(frozen=True)
class TileRow:
    """The tiles of one instruction set.

    `vector_bytes` is the width of a SIMD register.  `rows[nv]` is the height of the tile that is `nv` vectors wide:
    the accumulators, one row of weights and a broadcast value must fit the register file together.  `wide` is the
    width, in vectors, of the one-row tile for weights that are not packed: the wider, the longer the contiguous runs
    in which it reads them.
    """

    requires: frozenset[str]
    vector_bytes: int
    rows: dict[int, int]
    wide: int

    def lanes(self, itemsize: int) -> int:
        """Return how many elements of `itemsize` bytes a vector holds."""
        return self.vector_bytes // itemsize


# Widest first: the first row whose features the host has is used.  32 registers hold 4x4 or 8x3 accumulators and their
# operands; 16 registers hold 4x3 or 6x2.  12x2 on 32 registers and 4x4 on 16 spill.
TABLE = {
    "avx512": TileRow(frozenset({"avx512f"}), 64, {1: 8, 2: 8, 3: 8, 4: 4}, 16),
    "avx2": TileRow(frozenset({"avx2", "fma"}), 32, {1: 6, 2: 6, 3: 4}, 8),
    "neon": TileRow(frozenset({"neon"}), 16, {1: 8, 2: 8, 3: 8, 4: 4}, 16),
    "generic": TileRow(frozenset(), 16, {1: 4, 2: 4, 3: 4}, 8),
}


def panel_width(n: int, itemsize: int, row: TileRow) -> int:
    """Return how many vectors wide the panels of an `n`-column weight matrix should be.

    The fewest padded columns win; among equals the wider panel, which reads each value of x for more columns.  Narrow
    tiles load x more often per multiplication, which the weights below stand for.
    """
    lanes = row.lanes(itemsize)
    penalty = {1: 1.15, 2: 1.04}

    def cost(nv: int) -> tuple[float, int]:
        padded = -(-n // (nv * lanes)) * nv * lanes
        return padded * penalty.get(nv, 1.0), -nv

    return min(row.rows, key=cost)
