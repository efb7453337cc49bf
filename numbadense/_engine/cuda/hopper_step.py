"""A dense layer on Hopper's tensor cores: operands narrowed and mapped, the tile chosen, the kernel launched."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from numbadense import activations
from numbadense._engine.cuda import compile as compiler
from numbadense._engine.cuda import halves, memory, tensor_map
from numbadense._engine.cuda import room as rooms
from numbadense._engine.cuda.device import simulated
from numbadense._engine.cuda.hopper import MAPS, WIDTH, Tile
from numbadense._engine.cuda.narrowing import FOUR, padded
from numbadense._engine.cuda.primitives import CHUNK

INT64 = np.dtype(np.int64)
HOPPER = 9  # the major compute capability whose tensor cores these are
PTX = 8, 3  # which has `fence.proxy.tensormap`; wgmma and all else came with 8.0.  CUDA 12.3 is the first to write it.
LEAST = 64  # rows, columns, features: below, most of a tile would lie beyond the edges
MOST = 2**31 - 2**10  # rows, columns, features: coordinates of boxes have 32 bits
DEEP = 4096  # features from which on the operands of one large tile, fewer bytes, count for more than turns do

# Both have 192 KB of operands on their way, and as many sums in registers.  Not timed yet: `benchmarks/gpu.py` does.
APART = Tile(high=2, columns=128, apart=True, stages=6)
TOGETHER = Tile(high=1, columns=256, apart=False, stages=4)
SMALL = Tile(high=2, columns=16, apart=True, stages=3, group=2, part=8, lanes=4)
SMALL_TOGETHER = Tile(high=1, columns=32, apart=False, stages=2, group=2, part=16, lanes=4)


def paired(tile: Tile) -> Tile:
    """Return a tile for clusters of two blocks, which read a quarter less of operands, or a third: not timed yet."""
    return replace(tile, cluster=2, group=tile.group // 2)


APART_PAIRED, TOGETHER_PAIRED = paired(APART), paired(TOGETHER)


def supported(m: int, n: int, k: int, precision: str, capability: tuple[int, int] | None) -> bool:
    """Say whether this kernel computes such a layer; `capability` is None for the simulator."""
    if precision not in WIDTH or min(m, n, k) < 1 or max(m, n, k) > MOST:
        return False
    return capability is None or (capability[0] == HOPPER and min(m, n, k) >= LEAST)


def choose(k: int) -> Tile:
    """Return the tile for `k` features."""
    small, large = (SMALL, SMALL_TOGETHER) if simulated() else (APART, TOGETHER)
    return small if k < DEEP else large


def element(precision: str) -> np.dtype:
    """Return the dtype in which operands of this precision lie in memory."""
    return np.dtype(np.float32 if precision == "tf32" else np.uint16)


@dataclass(frozen=True)
class HopperLayer:
    """A dense layer: `w` transposed, ``(n_out, padded n_in)``, narrowed; `b` ``(n_out,)`` in float32.

    x and out are float32, or have the 16 bits of `precision`.

    ::

        room   maps of the blocks  |  rows of x, narrowed, where they have to be
    """

    w: Any
    b: Any
    activation: activations.Activation
    n_in: int
    precision: str
    tile: Tile

    @property
    def n_out(self) -> int:
        """Features out."""
        return int(self.w.shape[0])

    @property
    def arrays(self) -> tuple[Any, ...]:
        """Weights and biases."""
        return self.w, self.b

    def explain(self, m: int) -> str:
        """Say which kernel `m` rows take."""
        tile = self.tile
        count, blocks = tile.tiles(m, self.n_out), tile.blocks(m, self.n_out, compiler.multiprocessors())
        how = "two warpgroups in turns" if tile.apart else "two warpgroups together"
        how += f", clusters of {tile.cluster}" if tile.cluster > 1 else ""
        return (
            f"dense {self.n_in} -> {self.n_out}, {self.activation.name}, {self.precision} on Hopper, {how}: "
            f"{count} tiles of {tile.rows} x {tile.columns} outputs by {blocks} blocks, float32 rows of x narrowed"
        )

    @property
    def _narrow(self) -> tuple[int, np.dtype]:
        """Features, and dtype, of the rows that the kernel reads."""
        kind = element(self.precision)
        return padded(self.n_in, kind.itemsize), kind

    def _ready(self, x) -> bool:
        """Say whether the kernel reads a matrix as it lies."""
        return x.dtype.itemsize == WIDTH[self.precision] and memory.in_chunks(x)

    def room(self, x) -> int:
        """Return the bytes of maps and narrowed rows."""
        columns, kind = self._narrow
        return _maps() + (0 if self._ready(x) else rooms.bytes_of((x.shape[0], columns), kind))

    def reads(self, x) -> bool:
        """Say whether it takes a matrix of 16-bit floats as it lies: of its precision, rows in whole chunks."""
        return halves.precision(x.dtype) == self.precision and memory.in_chunks(x)

    def writes(self, out) -> bool:
        """Say the same of out, anywhere; a row-wise activation needs float32."""
        return halves.precision(out.dtype) == self.precision and not self.activation.rowwise

    def run(self, x, out, room, stream) -> None:
        """Fill out with ``activation(x @ w + b)``."""
        if not out.size:
            return
        if not self._ready(x):
            columns, kind = self._narrow
            x = narrow(x, room.part(_maps(), (x.shape[0], columns), kind), self.precision, stream)
        self.multiply(x, out, room, stream)

    def multiply(self, x, out, room, stream) -> None:
        """Fill out from x in rows as `narrow` fills them; out is float32, or 16 bits of this precision if it has them.

        A row-wise activation needs a float32 out.  Of the room, the maps are used.
        """
        (m, n), tile = out.shape, self.tile
        in_fours = memory.in_chunks(out, size=FOUR * out.dtype.itemsize)
        half = out.dtype.itemsize == 2
        kernel = compiler.hopper_dense(self.activation, tile, self.precision, half, in_fours)
        blocks = tile.blocks(m, n, compiler.multiprocessors())
        operands = (tensor_map.of(a, self.n_in, high) for a, high in ((x, tile.rows), (self.w, tile.share)))
        maps = room.part(0, (blocks * MAPS,), INT64)
        compiler.launch(kernel, blocks, tile.size, stream, *operands, maps, self.b, out, self.n_in, shared=tile.shared)
        if self.activation.rowwise:
            compiler.launch_rowwise(self.activation, stream, out, out)


def _maps() -> int:
    """Return the bytes of the maps of all blocks."""
    return rooms.bytes_of((compiler.multiprocessors() * MAPS,), INT64)


def narrow(x, out, precision: str, stream):
    """Return `out`, filled with the rows of a float32 matrix as the kernel reads them: rounded and padded."""
    work = out.nbytes // CHUNK
    compiler.launch_one_dimensional(compiler.narrow_rows(precision, memory.in_chunks(x)), work, stream, x, out)
    return out


def pack(w, b, activation, precision: str, stream, make=rooms.made, tile: Tile | None = None) -> HopperLayer:
    """Return a layer of float32 device arrays `w` ``(n_in, n_out)`` and `b`; ``make(nbytes, stream)`` gives memory."""
    k, n = (int(size) for size in w.shape)
    kind = element(precision)
    shape = n, padded(k, kind.itemsize)
    packed = make(rooms.bytes_of(shape, kind), stream).part(0, shape, kind)
    compiler.launch_one_dimensional(compiler.narrow_columns(precision), packed.nbytes // CHUNK, stream, w, packed)
    return HopperLayer(packed, b, activations.get(activation), k, precision, tile or choose(k))
