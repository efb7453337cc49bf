"""Block and tile shapes, per device.  A new architecture is a row of this table."""

from dataclasses import dataclass


@dataclass(frozen=True)
class DenseTile:
    """The shape of the dense kernel's work.

    A block is ``threads[0] x threads[1]`` threads, down and across, those of a warp in the shape `warp`.  Each keeps
    ``outputs[0] x outputs[1]`` of the block's outputs in registers; `depth` features at a time pass through shared
    memory, `stages` of them at once.  Registers are rationed so that `resident` blocks share a multiprocessor.

    Outputs across, and half the depth, are whole chunks of 16 bytes, and every thread copies as much as any other.

    `share` is the part of the instructions of the loop over features that multiply and add, as compiled for compute
    capability 9.0; the tests count it.  No kernel comes closer than that to the peak of a device.
    """

    threads: tuple[int, int]
    outputs: tuple[int, int]
    depth: int
    stages: int
    resident: int
    share: float
    warp: tuple[int, int] = (4, 8)

    @property
    def size(self) -> int:
        """Threads in a block."""
        return self.threads[0] * self.threads[1]

    @property
    def rows(self) -> int:
        """Rows of the output that a block computes."""
        return self.threads[0] * self.outputs[0]

    @property
    def columns(self) -> int:
        """Columns of the output that a block computes."""
        return self.threads[1] * self.outputs[1]

    @property
    def shared(self) -> int:
        """Elements of shared memory that a block has."""
        return self.stages * self.depth * (self.rows + self.columns)

    def blocks(self, m: int, n: int) -> int:
        """Return how many blocks an output of `m` rows and `n` columns takes."""
        return -(-m // self.rows) * -(-n // self.columns)


@dataclass(frozen=True)
class Target:
    """The shapes for one kind of device; `dense` is by the size of an element in bytes, from large tiles to small ones.

    One-dimensional kernels run `threads` a block, in at most `blocks` blocks that walk the rest in strides.
    `pipelined` devices copy to shared memory while they compute: those from compute capability 8.0 on.
    """

    dense: dict[int, tuple[DenseTile, ...]]
    threads: int
    blocks: int
    pipelined: bool


# The simulator runs each CUDA thread as a Python thread.  Its blocks are tiny, so that small arrays span several,
# and lopsided, so that a row taken for a column shows.  Other keys are the least compute capability of their row.
TABLE = {
    "simulator": Target(
        {
            4: (
                DenseTile((4, 2), (3, 4), 8, 3, 1, 0.5, warp=(2, 1)),
                DenseTile((4, 4), (1, 4), 16, 2, 1, 0.25, warp=(2, 2)),
            ),
            8: (
                DenseTile((4, 2), (1, 4), 4, 2, 1, 0.5, warp=(2, 1)),
                DenseTile((2, 4), (2, 2), 8, 4, 1, 0.25, warp=(1, 2)),
            ),
        },
        threads=4,
        blocks=3,
        pipelined=True,
    ),
    (5, 0): Target(
        {4: (DenseTile((16, 16), (4, 4), 16, 2, 2, 0.67),), 8: (DenseTile((16, 16), (4, 4), 8, 2, 2, 0.57),)},
        threads=256,
        blocks=4096,
        pipelined=False,
    ),
    # From large tiles, which multiply most for what they load, to small ones, for outputs too small to fill the device
    # with large ones and for few rows.  Chosen by what they assemble to: not one has been timed yet.  The largest has
    # 8 warps on a multiprocessor and 16 x 8 outputs a thread; with 8 x 8 there are 12 or 16, and 83 to 87 % of the loop
    # multiplies and adds (`benchmarks/gpu.py` times those too).
    (8, 0): Target(
        {
            4: (
                DenseTile((8, 16), (16, 8), 8, 4, 2, 0.91),
                DenseTile((8, 8), (8, 8), 8, 4, 6, 0.87),
                DenseTile((8, 8), (4, 4), 16, 4, 6, 0.7),
                DenseTile((8, 4), (1, 4), 32, 4, 7, 0.45, warp=(8, 4)),
            ),
            8: (
                DenseTile((16, 16), (4, 4), 8, 4, 2, 0.63),
                DenseTile((16, 8), (2, 2), 16, 3, 4, 0.45),
                DenseTile((8, 4), (1, 2), 16, 4, 7, 0.3, warp=(8, 4)),
            ),
        },
        threads=256,
        blocks=4096,
        pipelined=True,
    ),
}


def target(capability: tuple[int, int] | None) -> Target:
    """Return the row for a compute capability, or the simulator's for None."""
    if capability is None:
        return TABLE["simulator"]
    rows = [least for least in TABLE if least != "simulator" and least <= capability]
    return TABLE[max(rows)]


def busiest(tile: DenseTile, m: int, n: int, multiprocessors: int) -> int:
    """Return how many blocks the busiest multiprocessor computes."""
    return -(-tile.blocks(m, n) // multiprocessors)


def cost(tile: DenseTile, m: int, n: int, multiprocessors: int) -> float:
    """Return what the busiest multiprocessor does for a feature: products, those beyond the edges too, over `share`."""
    return busiest(tile, m, n, multiprocessors) * tile.rows * tile.columns / tile.share


def choose(tiles: tuple[DenseTile, ...], m: int, n: int, multiprocessors: int) -> DenseTile:
    """Return the tile of the least cost.  All give the same bits."""
    return min(tiles, key=lambda tile: cost(tile, m, n, multiprocessors))


def explain(tile: DenseTile, m: int, n: int, multiprocessors: int) -> str:
    """Say which tile computes an output of `m` rows and `n` columns, and why it is that one."""
    blocks = tile.blocks(m, n)
    wasted = 1 - m * n / (blocks * tile.rows * tile.columns)
    return (
        f"{blocks} tiles of {tile.rows} x {tile.columns} outputs, {tile.stages} x {tile.depth} features on their way, "
        f"on {multiprocessors} multiprocessors: {busiest(tile, m, n, multiprocessors)} for the busiest; "
        f"{wasted:.0%} beyond the edges, {tile.share:.0%} of the inner loop multiplies and adds"
    )
