"""Tile shapes of the dense kernel on tensor cores, per device and precision, and which of them a shape gets."""

from dataclasses import dataclass

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
    multiprocessor.  `group` rows of tiles are computed by columns, so that blocks that run at once share what they
    read.

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
    def depth(self) -> int:
        """Features in a step."""
        return DEPTH

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
        """Return the words of shared memory of a block: its steps, and then, in their place, outputs.

        There is room for two fragments below each other of a warp: the compiler keeps sums in registers only where
        few turns take them out.
        """
        outputs = self.warps[0] * self.warps[1] * min(2, self.fragments[0]) * FRAGMENT[0] * self.pitch
        return max(self.stages * self.stage(precision, x_words), outputs)

    def blocks(self, m: int, n: int) -> int:
        """Return how many blocks an output of `m` rows and `n` columns takes."""
        return -(-m // self.rows) * -(-n // self.columns)


# Warps, fragments and shares, from large tiles, which multiply most for what they load, to small ones, for outputs too
# small to fill the device with large ones and for few rows.  Chosen by what they assemble to: not one has been timed.
_HALVES = (((2, 2), (4, 8), 0.29), ((2, 2), (2, 4), 0.15), ((1, 2), (1, 2), 0.05))
_TF32 = (((2, 2), (4, 8), 0.38), ((2, 2), (2, 4), 0.21), ((1, 2), (1, 2), 0.08))
_SPLIT = (((4, 2), (2, 8), 0.26), ((2, 2), (2, 4), 0.17), ((1, 2), (1, 2), 0.1))

_SPLIT_SMALL = (((4, 2), (2, 4), 0.17), *_SPLIT[1:])


def _row(halves, tf32, split, split_shapes=_SPLIT) -> dict[str, tuple[TensorTile, ...]]:
    """Return the tiles of a device by precision, from their stages and residents."""
    halves, tf32, split = (
        tuple(TensorTile(*shape[:2], *memory, shape[2]) for shape, memory in zip(shapes, given, strict=True))
        for shapes, given in ((_HALVES, halves), (_TF32, tf32), (split_shapes, split))
    )
    return {"bf16": halves, "fp16": halves, "tf32": tf32, "3xtf32": split}


_LARGE = ((3, 2), (4, 3), (6, 6)), ((2, 2), (3, 3), (6, 4)), ((3, 1), (2, 3), (4, 3))  # 164 KB of shared memory
_SMALL = ((2, 2), (3, 2), (6, 4)), ((3, 1), (2, 3), (6, 2)), ((3, 1), (2, 2), (4, 2)), _SPLIT_SMALL  # 100 KB
_SIMULATED = (
    TensorTile((1, 1), (2, 1), 3, 1, 0.5, group=2),
    TensorTile((1, 2), (1, 1), 2, 1, 0.25, group=2),
)

# The keys are the least compute capability of their row.
TABLE = {
    "simulator": dict.fromkeys(PARTS, _SIMULATED),
    (8, 0): _row(*_LARGE),
    (8, 6): _row(*_SMALL),
    (9, 0): _row(*_LARGE),
    (12, 0): _row(*_SMALL),
}
LEAST = (8, 0)  # the first devices whose tensor cores take these formats, and that copy while they compute


def row(capability: tuple[int, int] | None) -> dict[str, tuple[TensorTile, ...]]:
    """Return the tiles by precision for a compute capability from 8.0 on, or the simulator's for None."""
    if capability is None:
        return TABLE["simulator"]
    return TABLE[max(least for least in TABLE if least != "simulator" and least <= capability)]
