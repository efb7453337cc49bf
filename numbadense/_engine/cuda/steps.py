"""What a network is on the device: steps, each from one matrix to the next."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from numbadense import activations
from numbadense._engine import validate
from numbadense._engine.cuda import compile as compiler
from numbadense._engine.cuda import memory, split, tiles
from numbadense._engine.cuda.primitives import CHUNK


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
    """A dense layer: `w` ``(n_in, n_out)`` and `b` ``(n_out,)``, C-contiguous, of one dtype.

    `split` is the number of parts its sums have, or "auto".
    """

    w: Any
    b: Any
    activation: activations.Activation
    split: int | str = 1

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
        shapes, processors = target.dense[out.dtype.itemsize], compiler.multiprocessors()
        plan = split.choose(shapes, (m, self.n_in, n), self.split, processors)
        in_chunks = memory.in_chunks(x), memory.in_chunks(self.w, self.b, out)
        if plan.parts == 1:
            tile = tiles.choose(shapes, m, n, processors)
            kernel = compiler.dense(self.activation, out.dtype, tile, in_chunks, target.pipelined)
            compiler.launch(kernel, tile.blocks(m, n), tile.size, stream, x, self.w, self.b, out)
        elif plan.tile is None:
            chunk = CHUNK // out.dtype.itemsize
            across = split.across(n, chunk, processors)
            rows = 1 << (m - 1).bit_length()
            kernel = compiler.few(self.activation, out.dtype, rows, across, in_chunks)
            blocks = -(-n // (across * chunk))
            compiler.launch(kernel, blocks, plan.parts * across, stream, x, self.w, self.b, out)
        else:
            sums = memory.empty((plan.parts * m, n), out.dtype, stream)
            identity = activations.REGISTRY["identity"]
            kernel = compiler.dense(identity, out.dtype, plan.tile, in_chunks, target.pipelined, True)
            compiler.launch(
                kernel, (plan.tile.blocks(m, n), plan.parts), plan.tile.size, stream, x, self.w, self.b, sums
            )
            compiler.launch_one_dimensional(compiler.gather(self.activation), m * n, stream, sums, self.b, out)
        if self.activation.rowwise:
            compiler.launch_one_dimensional(compiler.rowwise(self.activation), m, stream, out, out)


def of_network(layers: Iterable, dtype: np.dtype, split_k: int | str = 1) -> tuple[Step, ...]:
    """Upload layers, anything with ``w``, ``b`` and ``activation``."""
    split.check(split_k)
    return tuple(upload(layer, dtype, split_k) for layer in layers)


def upload(layer, dtype: np.dtype, split_k: int | str = 1) -> Layer:
    """Return a copy of a layer on the device."""
    b = validate.zeros(layer.w.shape[1], dtype) if layer.b is None else layer.b
    return Layer(
        memory.upload(layer.w, dtype, 0), memory.upload(b, dtype, 0), activations.get(layer.activation), split_k
    )
