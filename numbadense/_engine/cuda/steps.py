"""What a network is on the device: steps, each from one matrix to the next."""

import functools
import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from numbadense import activations
from numbadense._engine import validate
from numbadense._engine.cuda import compile as compiler
from numbadense._engine.cuda import failures, memory, split, tensor_step, tiles, whole
from numbadense._engine.cuda import room as rooms
from numbadense._engine.cuda.chain import Chain
from numbadense._engine.cuda.primitives import CHUNK
from numbadense._engine.cuda.remembered import recall
from numbadense._engine.cuda.tensor_tiles import HALVES


class Step(Protocol):
    """A network, or a part of one.

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

    def room(self, x) -> int:
        """Return how many bytes of the device's memory it needs besides, for a matrix x."""

    def run(self, x, out, room, stream) -> None:
        """Fill out, ``(m, n_out)``, from x, ``(m, n_in)``: C-contiguous device matrices apart, of the step's dtype.

        `room` is a `Borrowed` of so many bytes or more, from a multiple of 256 on, and anything where none are needed.
        """

    def explain(self, m: int) -> str:
        """Say which kernels `m` rows take, a line each."""


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
        return {}  # by rows, and where in 16 bytes x and out begin

    @functools.cached_property
    def _divisions(self) -> dict:
        return {}  # by rows

    def room(self, x) -> int:
        """Return the bytes of the sums in parts that are added by another launch."""
        m = x.shape[0]
        if self.split_k == 1 or not m * self.n_out:
            return 0
        plan = self.divided(m)
        added = plan.parts > 1 and plan.tile is not None
        return rooms.bytes_of((plan.parts * m, self.n_out), self.w.dtype) if added else 0

    def run(self, x, out, room, stream) -> None:
        """Fill out with ``activation(x @ w + b)``."""
        if not out.size:
            return
        key = out.shape[0], memory.address(x) % CHUNK, memory.address(out) % CHUNK
        kernel, blocks, threads, parts = recall(self._launches, key, self._plan)
        sums = room.part(0, (parts * out.shape[0], out.shape[1]), out.dtype) if parts else out
        compiler.launch(kernel, blocks, threads, stream, x, self.w, self.b, sums)
        if parts:
            compiler.launch_one_dimensional(compiler.gather(self.activation), out.size, stream, sums, self.b, out)
        if self.activation.rowwise:
            compiler.launch_rowwise(self.activation, stream, out, out)

    def _plan(self, m: int, x_at: int, out_at: int) -> tuple:
        """Return kernel, blocks and threads for so many rows, and how many parts of sums are to be added then.

        `x_at` and `out_at` are where in 16 bytes the matrices begin.
        """
        n, dtype, pipelined = self.n_out, self.w.dtype, compiler.target().pipelined
        chunk, plan = CHUNK // dtype.itemsize, self.divided(m)
        whole_rows = self.n_in % chunk == 0, n % chunk == 0
        in_chunks = not x_at and whole_rows[0], not out_at and whole_rows[1] and memory.in_chunks(self.w, self.b)
        if plan.parts == 1:
            kernel = compiler.dense(self.activation, dtype, plan.tile, in_chunks, pipelined)
            return kernel, plan.tile.blocks(m, n), plan.tile.size, 0
        if plan.tile is None:
            across = split.across(n, chunk, compiler.multiprocessors())
            kernel = compiler.few(self.activation, dtype, 1 << (m - 1).bit_length(), across, in_chunks)
            return kernel, -(-n // (across * chunk)), plan.parts * across, 0
        identity = activations.REGISTRY["identity"]
        kernel = compiler.dense(identity, dtype, plan.tile, in_chunks, pipelined, True)
        return kernel, (plan.tile.blocks(m, n), plan.parts), plan.tile.size, plan.parts

    def divided(self, m: int) -> split.Plan:
        """Return the tile that `m` rows get, and in how many parts they are summed."""
        return recall(self._divisions, (m,), self._divide)

    def _divide(self, m: int) -> split.Plan:
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
def of_network(layers: Iterable, dtype: np.dtype, precision: str | None = None, split_k: int | str = 1) -> Step:
    """Upload layers, anything with ``w``, ``b`` and ``activation``.

    Two layers and more, one after the other, that fit one launch are one step, and so is a network of one layer that
    fits; all others are steps of their own.  Sums in parts are those of layers.  With a `precision` they are on tensor
    cores; those of 16 bits have kernels for whole networks.
    """
    split.check(split_k, precision)
    tensor_step.check(precision, dtype)
    layers, steps, apart = tuple(layers), [], []
    fused = split_k == 1 and (precision is None or precision in HALVES)
    for fits, group in itertools.groupby(layers, lambda layer: fused and whole.fits(layer.w.shape, dtype, precision)):
        run = list(group)
        if fits and (len(run) > 1 or len(layers) == 1):
            steps += _apart(apart, dtype, precision, split_k)
            apart = []
            steps.append(_together(run, dtype, precision))
        else:
            apart += run
    steps += _apart(apart, dtype, precision, split_k)
    memory.wait_for(0)  # weights are there for whatever stream reads them
    return steps[0] if len(steps) == 1 else Chain(tuple(steps), dtype)


def _together(layers: list, dtype: np.dtype, precision: str | None) -> Step:
    weights = [np.asarray(layer.w)[None] for layer in layers]
    biases = [None if layer.b is None else np.asarray(layer.b)[None] for layer in layers]
    return whole.of_stacked(weights, biases, [layer.activation for layer in layers], dtype, precision)


def _apart(layers: list, dtype: np.dtype, precision: str | None, split_k: int | str) -> tuple[Step, ...]:
    if layers and precision is not None:
        return tensor_step.of_network(layers, precision)
    return tuple(upload(layer, dtype, split_k) for layer in layers)


def upload(layer, dtype: np.dtype, split_k: int | str = 1) -> Layer:
    """Return a copy of a layer on the device."""
    b = validate.zeros(layer.w.shape[1], dtype) if layer.b is None else layer.b
    return Layer(
        memory.upload(layer.w, dtype, 0), memory.upload(b, dtype, 0), activations.get(layer.activation), split_k
    )
