"""Block shapes of the kernels that run whole networks, per device.  A new architecture is a row of this table."""

from dataclasses import dataclass

FOUR = 4


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

    def pitch(self, chunk: int) -> int:
        """Return how far apart rows are in shared memory, in elements."""
        return self.width + chunk

    def shared(self, itemsize: int, numbers: int, streamed: bool) -> int:
        """Return the bytes of shared memory of a block, for a program of so many numbers."""
        weights = self.stages * self.depth * self.width if streamed else numbers
        return (weights + self.warps * self.rows * self.pitch(16 // itemsize)) * itemsize
