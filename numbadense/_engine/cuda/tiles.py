"""Block and tile shapes, per device.  A new architecture is a row of this table."""

from dataclasses import dataclass


@dataclass(frozen=True)
class DenseTile:
    """The shape of the dense kernel's work.

    A block is ``threads[0] x threads[1]`` threads, down and across.  Each keeps ``outputs[0] x outputs[1]`` of the
    block's outputs in registers; `depth` features at a time pass through shared memory.
    """

    threads: tuple[int, int]
    outputs: tuple[int, int]
    depth: int

    @property
    def rows(self) -> int:
        """Rows of the output that a block computes."""
        return self.threads[0] * self.outputs[0]

    @property
    def columns(self) -> int:
        """Columns of the output that a block computes."""
        return self.threads[1] * self.outputs[1]


@dataclass(frozen=True)
class Target:
    """The shapes for one kind of device; `dense` is by the size of an element in bytes.

    One-dimensional kernels run `threads` a block, in at most `blocks` blocks that walk the rest in strides.
    """

    dense: dict[int, DenseTile]
    threads: int
    blocks: int


# The simulator runs each CUDA thread as a Python thread.  Its blocks are tiny, so that small arrays span several,
# and lopsided, so that a row taken for a column shows.  Other keys are the least compute capability of their row.
TABLE = {
    "simulator": Target({4: DenseTile((2, 4), (3, 2), 3), 8: DenseTile((4, 2), (1, 3), 4)}, 4, 3),
    (5, 0): Target({4: DenseTile((16, 16), (4, 4), 16), 8: DenseTile((16, 16), (4, 4), 8)}, 256, 4096),
}


def target(capability: tuple[int, int] | None) -> Target:
    """Return the row for a compute capability, or the simulator's for None."""
    if capability is None:
        return TABLE["simulator"]
    rows = [least for least in TABLE if least != "simulator" and least <= capability]
    return TABLE[max(rows)]
