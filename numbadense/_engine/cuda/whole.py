"""Whole networks in one launch: which fit, their programs on the device, and how a call is divided into blocks."""

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np

from numbadense import activations
from numbadense._engine.cuda import compile as compiler
from numbadense._engine.cuda import fused_program, fused_tensor, fused_tiles, memory, tensor_program
from numbadense._engine.cuda.primitives import CHUNK
from numbadense._engine.cuda.remembered import recall


@dataclass(frozen=True, eq=False, repr=False)
class Whole:
    """Networks of one shape, all of whose layers run in one launch.

    There are `layers` of ``w``, ``(networks, k, n)``, ``b``, ``(networks, n)`` or None, and an activation.  A program
    on the device is made when it is first needed: there are two, for weights that stay in shared memory and for those
    that are streamed.
    """

    layers: tuple[tuple[np.ndarray, Any, activations.Activation], ...]
    dtype: np.dtype
    tiles: tuple
    _programs: dict

    @property
    def networks(self) -> int:
        """How many."""
        return len(self.layers[0][0])

    @property
    def n_in(self) -> int:
        """Features in."""
        return int(self.layers[0][0].shape[1])

    @property
    def n_out(self) -> int:
        """Features out."""
        return int(self.layers[-1][0].shape[2])

    @property
    def shapes(self) -> list[tuple[int, int]]:
        """Features in and out of each layer."""
        return [w.shape[1:] for w, _, _ in self.layers]

    @property
    def chosen(self) -> tuple[activations.Activation, ...]:
        """The activations in use, identity among them."""
        return tuple(dict.fromkeys((activations.REGISTRY["identity"], *(entry for _, _, entry in self.layers))))

    @property
    def arrays(self) -> tuple[Any, ...]:
        """The programs there are."""
        return tuple(self._programs.values())

    def room(self, x) -> int:
        """None is needed."""
        return 0

    def run(self, x, out, room, stream) -> None:
        """Fill out, ``(rows, n_out)``, from x: each network has as many of the rows."""
        self.run_each(x, out, out.shape[0] // self.networks, False, stream)

    def run_each(self, x, out, m: int, shares: bool, stream) -> None:
        """Fill out, ``(networks * m, n_out)``, from x, which has as many rows, or m if the networks share them."""
        key = m, memory.address(x) % CHUNK, memory.address(out) % CHUNK
        kernel, blocks, threads, shared, program, per = recall(self._launches, key, self._plan)
        compiler.launch(kernel, blocks, threads, stream, program, x, out, m, per, int(shares), shared=shared)

    @functools.cached_property
    def _launches(self) -> dict:
        return {}  # by rows, and where in 16 bytes x and out begin

    def _plan(self, m: int, x_at: int, out_at: int) -> tuple:
        """Return kernel, blocks, threads and shared memory for so many rows, the program, blocks a network.

        `x_at` and `out_at` are where in 16 bytes the matrices begin.
        """
        processors = compiler.multiprocessors()
        tile = fused_tiles.choose(self.tiles, m, self.networks, processors)
        streams, shared = self.divide(tile)
        layout = self.layout(tile, streams)
        if layout not in self._programs:
            self._programs[layout] = self.program(*layout)
        chunk = CHUNK // self.dtype.itemsize
        in_chunks = x_at + self.n_in % chunk == 0, out_at + self.n_out % chunk == 0
        kernel = self.kernel(tile, streams, in_chunks)
        per = fused_tiles.blocks_for_each(tile, m, self.networks, processors)
        return kernel, per * self.networks, tile.size, shared, self._programs[layout], per

    def explain(self, m: int) -> str:
        """Say how the launch of `m` rows for each network is divided."""
        if not m:
            return "no work"
        processors = compiler.multiprocessors()
        tile = fused_tiles.choose(self.tiles, m, self.networks, processors)
        streams, shared = self.divide(tile)
        blocks = self.networks * fused_tiles.blocks_for_each(tile, m, self.networks, processors)
        widths = "-".join(str(n) for n in (self.n_in, *(n for _, n in self.shapes)))
        count = f"{self.networks} networks" if self.networks > 1 else "the network"
        return (
            f"{count} {widths} in one launch: {blocks} blocks of {tile.size} threads, {tile.block_rows} rows at a "
            f"time, {shared:,} bytes of shared memory, {'weights ' + ('through' if streams else 'in') + ' it'}"
        )

    def divide(self, tile) -> tuple[bool, int]:
        """Say whether weights are streamed with this tile, and how many bytes of shared memory a block has."""
        itemsize = self.dtype.itemsize
        numbers = fused_program.size_of(self.shapes, tile.width, CHUNK // itemsize)
        streams = fused_tiles.has_to_stream(tile, tile.shared(itemsize, numbers, False), _available())
        return streams, tile.shared(itemsize, numbers, streams)

    def layout(self, tile, streams: bool) -> tuple[int, ...]:
        """Return what says how a program is laid out: the width of the kernel, the features of a piece."""
        return tile.width, tile.depth if streams else CHUNK // self.dtype.itemsize

    def program(self, width: int, depth: int):
        """Return the networks on the device."""
        return _upload(fused_program.pack(*zip(*self.layers, strict=True), self.dtype, width, depth))

    def kernel(self, tile, streams: bool, in_chunks: tuple[bool, bool]):
        """Return the kernel."""
        return compiler.fused(tile, self.dtype, self.chosen, streams, in_chunks)


@dataclass(frozen=True, eq=False, repr=False)
class TensorWhole(Whole):
    """Networks of one shape on tensor cores, in `precision`, from float32 to float32."""

    precision: str

    def divide(self, tile) -> tuple[bool, int]:
        """As above."""
        words, layer = tensor_program.size_of(self.shapes, tile.width), fused_tensor.words(tile.width)
        rowwise = any(entry.rowwise for entry in self.chosen)
        streams = fused_tiles.has_to_stream(tile, tile.shared(words, layer, False, rowwise), _available())
        return streams, tile.shared(words, layer, streams, rowwise)

    def layout(self, tile, streams: bool) -> tuple[int, ...]:
        """Return the width of the kernel: all weights are laid out alike."""
        return (tile.width,)

    def program(self, width: int):
        """As above."""
        return _upload(tensor_program.pack(*zip(*self.layers, strict=True), self.precision, width))

    def kernel(self, tile, streams: bool, in_chunks: tuple[bool, bool]):
        """As above."""
        return compiler.fused_tensor(tile, self.precision, self.chosen, streams, in_chunks)


def _available() -> int:
    return fused_tiles.shared_memory(compiler.capability())


def _upload(packed: np.ndarray):
    program = memory.upload(packed, packed.dtype, 0)
    memory.wait_for(0)  # it is there for whatever stream reads it
    return program


def fits(widths, dtype: np.dtype, precision: str | None = None) -> bool:
    """Say whether networks of these widths, that of x too, have a kernel: on older devices none do."""
    return min(widths) > 0 and max(widths) <= fused_tiles.widest(compiler.capability(), dtype.itemsize, precision)


def of_stacked(weights, biases, chosen, dtype: np.dtype, precision: str | None = None) -> Whole:
    """Return networks of one shape, which fit."""
    width, capability = max(max(w.shape[1:]) for w in weights), compiler.capability()
    layers = tuple(
        (np.asarray(w, dtype), None if b is None else np.asarray(b, dtype), activations.get(entry))
        for w, b, entry in zip(weights, biases, chosen, strict=True)
    )
    if precision is None:
        return Whole(layers, dtype, fused_tiles.tiles_of(capability, dtype.itemsize, width), {})
    return TensorWhole(layers, dtype, fused_tiles.tensor_tiles_of(capability, width), {}, precision)


def room(dtype: np.dtype, precision: str | None = None) -> str:
    """Say in words what fits."""
    widest = fused_tiles.widest(compiler.capability(), dtype.itemsize, precision)
    if not widest:
        return "no networks on devices before compute capability 8.0"
    return f"widths from 1 to {widest} in {precision or dtype}"
