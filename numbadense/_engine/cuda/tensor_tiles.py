"""Tile shapes of the dense kernel on tensor cores, per device and precision, and which of them a shape gets."""

from dataclasses import dataclass, replace

DEPTH = 32  # features in a step
COLUMN = 16  # words of 32 bits of a column of weights in a part of a step: a chunk for each lane of four
FRAGMENT = 16, 8  # rows and columns of a product
# How many parts a step of weights has: 32 features of 16 bits, or 16 in tf32, or both halves of a split.
PARTS = {"bf16": 1, "fp16": 1, "tf32": 2, "3xtf32": 4}
HALVES = ("bf16", "fp16")


@dataclass(frozen=True)
class TensorTile:
    """The shape of the work of a block: ``warps[0] x warps[1]`` warps, down and across.

    Each warp has ``fragments[0] x fragments[1]`` fragments of 16 x 8 outputs in registers.  Steps of 32 features pass
    through shared memory, `stages` of them at once.  Registers are rationed so that `resident` blocks share a
    multiprocessor.  `group` rows of tiles are computed by columns, so that blocks that run at once share what they read.

    `share` is the part of the instructions of the loop over steps that are products on tensor cores, for x in float32
    read in chunks, as compiled for compute capability 9.0; the tests count it.
    """

    warps: tuple[int, int]
    fragments: tuple[int, int]
    stages: int
    resident: int
    share: float
    group: int = 8

    @property
    def size(self) -> int:
        """Threads in a block."""
        return 32 * self.warps[0] * self.warps[1]

    @property
    def rows(self) -> int:
        """Rows of the output that a block computes."""
        return FRAGMENT[0] * self.warps[0] * self.fragments[0]

    @property
    def columns(self) -> int:
        """Columns of the output that a block computes."""
        return FRAGMENT[1] * self.warps[1] * self.fragments[1]

    @property
    def pitch(self) -> int:
        """Words from a row of a warp's outputs in shared memory to the next: rows in different banks."""
        return FRAGMENT[1] * self.fragments[1] + 8

    def stage(self, precision: str, x_words: int) -> int:
        """Return the words of shared memory of a step, whose x takes so many words a row."""
        return self.rows * x_words + PARTS[precision] * self.columns * COLUMN

    def shared(self, precision: str, x_words: int) -> int:
        """Return the words of shared memory of a block: its steps, and then, in their place, outputs."""
        outputs = self.warps[0] * self.warps[1] * FRAGMENT[0] * self.pitch
        return max(self.stages * self.stage(precision, x_words), outputs)

    def blocks(self, m: int, n: int) -> int:
        """Return how many blocks an output of `m` rows and `n` columns takes."""
        return -(-m // self.rows) * -(-n // self.columns)


_HALVES = (
    TensorTile((2, 2), (4, 8), 3, 2, 0.38),
    TensorTile((2, 2), (2, 4), 4, 3, 0.25),
    TensorTile((1, 2), (1, 2), 6, 6, 0.1),
)
_TF32 = (
    TensorTile((2, 2), (4, 8), 2, 2, 0.5),
    TensorTile((2, 2), (2, 4), 3, 3, 0.3),
    TensorTile((1, 2), (1, 2), 6, 6, 0.1),
)
_SPLIT = (
    TensorTile((4, 2), (2, 8), 3, 1, 0.4),
    TensorTile((2, 2), (2, 4), 2, 3, 0.3),
    TensorTile((1, 2), (1, 2), 4, 6, 0.1),
)


def _with(tiles: tuple[TensorTile, ...], stages: int, resident: int) -> tuple[TensorTile, ...]:
    """Return tiles whose first has other stages and residents."""
    return (replace(tiles[0], stages=stages, resident=resident), *tiles[1:])


def _row(halves, tf32, split) -> dict[str, tuple[TensorTile, ...]]:
    return {"bf16": halves, "fp16": halves, "tf32": tf32, "3xtf32": split}


_SIMULATED = (
    TensorTile((1, 1), (2, 1), 3, 1, 0.5, group=2),
    TensorTile((1, 2), (1, 1), 2, 1, 0.25, group=2),
)

# From large tiles to small ones, for each precision; the keys are the least compute capability of their row.  Those
# from 8.6 and from 12.0 on have 100 KB of shared memory in a multiprocessor, 8.0 and 9.0 have 164 and 228.
TABLE = {
    "simulator": _row(_SIMULATED, _SIMULATED, _SIMULATED),
    (8, 0): _row(_HALVES, _TF32, _SPLIT),
    (8, 6): _row(_with(_HALVES, 2, 2), _with(_TF32, 3, 1), _with(_SPLIT, 2, 1)),
    (9, 0): _row(_HALVES, _with(_TF32, 3, 2), _with(_SPLIT, 4, 1)),
    (12, 0): _row(_with(_HALVES, 2, 2), _with(_TF32, 3, 1), _with(_SPLIT, 2, 1)),
}
LEAST = (8, 0)  # the first devices whose tensor cores take these formats, and that copy while they compute


def row(capability: tuple[int, int] | None) -> dict[str, tuple[TensorTile, ...]]:
    """Return the tiles by precision for a compute capability from 8.0 on, or the simulator's for None."""
    if capability is None:
        return TABLE["simulator"]
    return TABLE[max(least for least in TABLE if least != "simulator" and least <= capability)]
