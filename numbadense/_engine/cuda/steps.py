"""What a network is on the device: steps, each from one matrix to the next."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from numbadense import activations
from numbadense._engine import validate
from numbadense._engine.cuda import compile as compiler
from numbadense._engine.cuda import memory, tensor_step, tiles, whole
from numbadense._engine.cuda.tensor_tiles import HALVES


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

    @property
    def n_in(self) -> int:
        """Features in."""
        return int(self.w.shape[0])

    @property
    def n_out(self) -> int:
        """Features out."""
        return int(self.w.shape[1])

    @property
    def arrays(self) -> tuple[Any, ...]:
        """Weights and biases."""
        return self.w, self.b

    def run(self, x, out, stream) -> None:
        """Fill out with ``activation(x @ w + b)``."""
        if not out.size:
            return
        m, n = out.shape
        target = compiler.target()
        tile = tiles.choose(target.dense[out.dtype.itemsize], m, n, compiler.multiprocessors())
        in_chunks = memory.in_chunks(x), memory.in_chunks(self.w, self.b, out)
        kernel = compiler.dense(self.activation, out.dtype, tile, in_chunks, target.pipelined)
        compiler.launch(kernel, tile.blocks(m, n), tile.size, stream, x, self.w, self.b, out)
        if self.activation.rowwise:
            compiler.launch_one_dimensional(compiler.rowwise(self.activation), m, stream, out, out)


def of_network(layers: Iterable, dtype: np.dtype, precision: str | None = None) -> tuple[Step, ...]:
    """Upload layers, anything with ``w``, ``b`` and ``activation``: as one step where they fit one launch.

    With a `precision` they are on tensor cores; those of 16 bits have kernels for whole networks.
    """
    layers = tuple(layers)
    tensor_step.check(precision, dtype)
    fits = None
    if precision is None or precision in HALVES:
        weights = [np.asarray(layer.w)[None] for layer in layers]
        biases = [None if layer.b is None else np.asarray(layer.b)[None] for layer in layers]
        fits = whole.of_stacked(weights, biases, [layer.activation for layer in layers], dtype, precision)
    if fits is not None:
        return (fits,)
    if precision is not None:
        return tensor_step.of_network(layers, precision)
    return tuple(upload(layer, dtype) for layer in layers)


def upload(layer, dtype: np.dtype) -> Layer:
    """Return a copy of a layer on the device."""
    b = validate.zeros(layer.w.shape[1], dtype) if layer.b is None else layer.b
    return Layer(memory.upload(layer.w, dtype, 0), memory.upload(b, dtype, 0), activations.get(layer.activation))
