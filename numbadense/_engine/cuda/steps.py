"""What a network is on the device: steps, each from one matrix to the next."""

import functools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from numbadense import activations
from numbadense._engine import validate
from numbadense._engine.cuda import compile as compiler
from numbadense._engine.cuda import failures, memory, split, tensor_step, tiles, whole
from numbadense._engine.cuda.primitives import CHUNK
from numbadense._engine.cuda.tensor_tiles import HALVES

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
    """A dense layer: `w` ``(n_in, n_out)`` and `b` ``(n_out,)``, C-contiguous, of one dtype.

    `split_k` is the number of parts its sums have, or "auto".
    """

    w: Any
    b: Any
    activation: activations.Activation
    split_k: int | str = 1

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
        kernel, blocks, threads, parts = planned
        sums = memory.empty((parts * out.shape[0], out.shape[1]), out.dtype, stream) if parts else out
        compiler.launch(kernel, blocks, threads, stream, x, self.w, self.b, sums)
        if parts:
            compiler.launch_one_dimensional(compiler.gather(self.activation), out.size, stream, sums, self.b, out)
        if self.activation.rowwise:
            compiler.launch_one_dimensional(compiler.rowwise(self.activation), out.shape[0], stream, out, out)

    def _plan(self, x, out) -> tuple:
        """Return kernel, blocks and threads for these matrices, and how many parts of sums are to be added then."""
        (m, n), chunk, pipelined = out.shape, CHUNK // out.dtype.itemsize, compiler.target().pipelined
        plan = self.divided(m)
        in_chunks = memory.in_chunks(x), memory.in_chunks(self.w, self.b, out)
        if plan.parts == 1:
            kernel = compiler.dense(self.activation, out.dtype, plan.tile, in_chunks, pipelined)
            return kernel, plan.tile.blocks(m, n), plan.tile.size, 0
        if plan.tile is None:
            across = split.across(n, chunk, compiler.multiprocessors())
            kernel = compiler.few(self.activation, out.dtype, 1 << (m - 1).bit_length(), across, in_chunks)
            return kernel, -(-n // (across * chunk)), plan.parts * across, 0
        identity = activations.REGISTRY["identity"]
        kernel = compiler.dense(identity, out.dtype, plan.tile, in_chunks, pipelined, True)
        return kernel, (plan.tile.blocks(m, n), plan.parts), plan.tile.size, plan.parts

    def divided(self, m: int) -> split.Plan:
        """Return the tile that `m` rows get, and in how many parts they are summed."""
        shapes, processors = compiler.target().dense[self.w.dtype.itemsize], compiler.multiprocessors()
        return split.choose(shapes, (m, self.n_in, self.n_out), self.split_k, processors)

    def explain(self, m: int) -> str:
        """Say which kernel `m` rows take."""
        rows = f", then {self.activation.name} of each row" if self.activation.rowwise else ""
        return f"dense {self.n_in} -> {self.n_out}, {self.activation.name}{rows}: {self._tiles(m)}"

    def _tiles(self, m: int) -> str:
        if not m * self.n_out:
            return "no work"
        plan = self.divided(m)
        if plan.tile is None:
            return f"{plan.parts} parts of the features side by side in each block"
        how = tiles.explain(plan.tile, m, self.n_out, compiler.multiprocessors())
        return (
            how if plan.parts == 1 else f"{plan.parts} parts of the features, added by another launch; of each, {how}"
        )


@failures.owner("Sequential.to")
def of_network(
    layers: Iterable, dtype: np.dtype, precision: str | None = None, split_k: int | str = 1
) -> tuple[Step, ...]:
    """Upload layers, anything with ``w``, ``b`` and ``activation``: as one step where they fit one launch.

    Sums in parts are those of layers.  With a `precision` they are on tensor cores; those of 16 bits have kernels for
    whole networks.
    """
    split.check(split_k, precision)
    tensor_step.check(precision, dtype)
    layers = tuple(layers)
    if split_k == 1 and (precision is None or precision in HALVES):
        weights = [np.asarray(layer.w)[None] for layer in layers]
        biases = [None if layer.b is None else np.asarray(layer.b)[None] for layer in layers]
        fits = whole.of_stacked(weights, biases, [layer.activation for layer in layers], dtype, precision)
        if fits is not None:
            return (fits,)
    if precision is not None:
        steps = tensor_step.of_network(layers, precision)
    else:
        steps = tuple(upload(layer, dtype, split_k) for layer in layers)
    memory.wait_for(0)  # weights are there for whatever stream reads them
    return steps


def upload(layer, dtype: np.dtype, split_k: int | str = 1) -> Layer:
    """Return a copy of a layer on the device."""
    b = validate.zeros(layer.w.shape[1], dtype) if layer.b is None else layer.b
    return Layer(
        memory.upload(layer.w, dtype, 0), memory.upload(b, dtype, 0), activations.get(layer.activation), split_k
    )
