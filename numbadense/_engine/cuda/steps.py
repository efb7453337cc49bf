"""What a network is on the device: steps, each from one matrix to the next."""

import functools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from numbadense import activations
from numbadense._engine import validate
from numbadense._engine.cuda import compile as compiler
from numbadense._engine.cuda import memory, tiles, whole
from numbadense._engine.cuda.primitives import CHUNK
from numbadense.errors import ShapeError

REMEMBERED = 256  # launches of a layer, by rows


class Step(Protocol):
    """A part of a network.

    `arrays` are the device arrays it reads besides its input, which what it writes must be apart from.
    """

    @property
    def n_in(self) -> int:
        """Features in."""

    @property
    def n_out(self) -> int:
        """Features out."""

    @property
    def arrays(self) -> tuple[Any, ...]:
        """Device arrays."""

    def run(self, x, out, stream) -> None:
        """Fill out, ``(m, n_out)``, from x, ``(m, n_in)``: C-contiguous device matrices apart, of the step's dtype."""


@dataclass(frozen=True)
class Layer:
    """A dense layer: `w` ``(n_in, n_out)`` and `b` ``(n_out,)``, C-contiguous, of one dtype."""

    w: Any
    b: Any
    activation: activations.Activation

    @functools.cached_property
    def n_in(self) -> int:
        """Features in."""
        return int(self.w.shape[0])

    @functools.cached_property
    def n_out(self) -> int:
        """Features out."""
        return int(self.w.shape[1])

    @property
    def arrays(self) -> tuple[Any, ...]:
        """Weights and biases."""
        return self.w, self.b

    @functools.cached_property
    def _launches(self) -> dict:
        return {}  # by rows, and whether x and out begin at a multiple of 16 bytes

    def run(self, x, out, stream) -> None:
        """Fill out with ``activation(x @ w + b)``."""
        if not out.size:
            return
        key = out.shape[0], memory.address(x) % CHUNK, memory.address(out) % CHUNK
        planned = self._launches.get(key)
        if planned is None:
            if len(self._launches) >= REMEMBERED:
                self._launches.clear()
            planned = self._launches[key] = self._plan(x, out)
        compiler.launch(*planned, stream, x, self.w, self.b, out)
        if self.activation.rowwise:
            compiler.launch_one_dimensional(compiler.rowwise(self.activation), out.shape[0], stream, out, out)

    def _plan(self, x, out) -> tuple:
        """Return kernel, blocks and threads for these matrices."""
        target = compiler.target()
        tile = self.tile(out.shape[0])
        in_chunks = memory.in_chunks(x), memory.in_chunks(self.w, self.b, out)
        kernel = compiler.dense(self.activation, out.dtype, tile, in_chunks, target.pipelined)
        return kernel, tile.blocks(*out.shape), tile.size

    def tile(self, m: int) -> tiles.DenseTile:
        """Return the tile that `m` rows get."""
        return tiles.choose(compiler.target().dense[self.w.dtype.itemsize], m, self.n_out, compiler.multiprocessors())

    def explain(self, m: int) -> str:
        """Say which kernel `m` rows take."""
        how = tiles.explain(self.tile(m), m, self.n_out, compiler.multiprocessors()) if m * self.n_out else "no work"
        rows = f", then {self.activation.name} of each row" if self.activation.rowwise else ""
        return f"dense {self.n_in} -> {self.n_out}, {self.activation.name}{rows}: {how}"


def of_network(layers: Iterable, dtype: np.dtype, precision: str | None = None) -> tuple[Step, ...]:
    """Upload layers, anything with ``w``, ``b`` and ``activation``: as one step where they fit one launch."""
    layers = tuple(layers)
    weights = [np.asarray(layer.w)[None] for layer in layers]
    biases = [None if layer.b is None else np.asarray(layer.b)[None] for layer in layers]
    fits = whole.of_stacked(weights, biases, [layer.activation for layer in layers], dtype, precision)
    if fits is not None:
        return (fits,)
    if precision is not None:
        widths = "-".join(str(n) for n in (weights[0].shape[1], *(w.shape[2] for w in weights)))
        raise ShapeError(
            f"the network is {widths} but precision {precision!r} takes {whole.room(dtype, precision)}; "
            "leave precision out."
        )
    return tuple(upload(layer, dtype) for layer in layers)


def upload(layer, dtype: np.dtype) -> Layer:
    """Return a copy of a layer on the device."""
    b = validate.zeros(layer.w.shape[1], dtype) if layer.b is None else layer.b
    return Layer(memory.upload(layer.w, dtype, 0), memory.upload(b, dtype, 0), activations.get(layer.activation))
