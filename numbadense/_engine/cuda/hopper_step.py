"""A dense layer on Hopper's tensor cores: operands narrowed and mapped, the tile chosen, the kernel launched."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from numbadense import activations
from numbadense._engine import validate
from numbadense._engine.cuda import compile as compiler
from numbadense._engine.cuda import memory, tensor_map
from numbadense._engine.cuda.device import simulated
from numbadense._engine.cuda.hopper import WIDTH, Tile
from numbadense._engine.cuda.narrowing import FOUR, padded
from numbadense._engine.cuda.primitives import CHUNK

HOPPER = 9  # the major compute capability whose tensor cores these are
LEAST = 64  # rows, columns, features: below, most of a tile would lie beyond the edges
MOST = 2**31 - 2**10  # rows, columns, features: coordinates of boxes have 32 bits
DEEP = 4096  # features from which on the operands of one large tile, fewer bytes, count for more than turns do

# Both have 192 KB of operands on their way, and as many sums in registers.  Not timed yet: `benchmarks/gpu.py` does.
APART = Tile(high=2, columns=128, apart=True, stages=6)
TOGETHER = Tile(high=1, columns=256, apart=False, stages=4)
SMALL = Tile(high=2, columns=16, apart=True, stages=3, group=2, part=8, lanes=4)
SMALL_TOGETHER = Tile(high=1, columns=32, apart=False, stages=2, group=2, part=16, lanes=4)


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
    """A dense layer: `w` transposed, ``(n_out, padded n_in)``, narrowed; `b` ``(n_out,)`` in float32."""

    w: Any
    b: Any
    activation: activations.Activation
    n_in: int
    precision: str

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
        tile = choose(self.n_in)
        count = tile.tiles(m, self.n_out)
        blocks = min(count, compiler.multiprocessors())
        how = "two warpgroups in turns" if tile.apart else "two warpgroups together"
        return (
            f"dense {self.n_in} -> {self.n_out}, {self.activation.name}, {self.precision} on Hopper, {how}: "
            f"{count} tiles of {tile.rows} x {tile.columns} outputs by {blocks} blocks, rows of x narrowed before"
        )

    def run(self, x, out, stream) -> None:
        """Fill out, float32, with ``activation(x @ w + b)``; x is float32."""
        if not out.size:
            return
        self.multiply(narrowed(x, self.precision, stream), out, stream)

    def multiply(self, x, out, stream, tile: Tile | None = None) -> None:
        """Fill out from x as `narrowed` returns it; out is float32, or 16 bits of this precision if it has as many.

        A row-wise activation needs a float32 out.
        """
        m, n = out.shape
        tile = tile or choose(self.n_in)
        in_fours = n % FOUR == 0 and memory.address(out) % CHUNK == 0
        half = out.dtype.itemsize == 2
        kernel = compiler.hopper_dense(self.activation, tile, self.precision, half, in_fours)
        maps = (tensor_map.of(a, self.n_in, high, stream) for a, high in ((x, tile.rows), (self.w, tile.columns)))
        blocks = min(tile.tiles(m, n), compiler.multiprocessors())
        compiler.launch(kernel, blocks, tile.size, stream, *maps, self.b, out, self.n_in, shared=tile.shared)
        if self.activation.rowwise:
            compiler.launch_one_dimensional(compiler.rowwise(self.activation), m, stream, out, out)


def narrowed(x, precision: str, stream):
    """Return a float32 matrix as the kernel reads it: itself if tf32 and rows allow it, else narrowed and padded."""
    if precision == "tf32" and memory.in_chunks(x):
        return x
    m, k = x.shape
    kind = element(precision)
    pitch = padded(k, kind.itemsize)
    out = memory.empty((m, pitch), kind, stream)
    work = m * pitch * kind.itemsize // CHUNK
    compiler.launch_one_dimensional(compiler.narrow_rows(precision, memory.in_chunks(x)), work, stream, x, out)
    return out


def pack(w, b, activation, precision: str, stream) -> HopperLayer:
    """Return a layer of float32 device arrays `w` ``(n_in, n_out)`` and `b`."""
    k, n = w.shape
    kind = element(precision)
    pitch = padded(k, kind.itemsize)
    packed = memory.empty((n, pitch), kind, stream)
    work = n * pitch * kind.itemsize // CHUNK
    compiler.launch_one_dimensional(compiler.narrow_columns(precision), work, stream, w, packed)
    return HopperLayer(packed, b, activations.get(activation), int(k), precision)


def upload(layer, precision: str) -> HopperLayer:
    """Return a copy of a layer, anything with ``w``, ``b`` and ``activation``, on the device."""
    dtype = np.dtype(np.float32)
    b = validate.zeros(layer.w.shape[1], dtype) if layer.b is None else layer.b
    return pack(memory.upload(layer.w, dtype, 0), memory.upload(b, dtype, 0), layer.activation, precision, 0)
