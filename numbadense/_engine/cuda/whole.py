"""Whole networks in one launch: which fit, their programs on the device, and how a call is divided into blocks."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from numbadense import activations
from numbadense._engine.cuda import compile as compiler
from numbadense._engine.cuda import fused_program, fused_tiles, memory
from numbadense._engine.cuda.primitives import CHUNK


@dataclass(frozen=True, eq=False, repr=False)
class Whole:
    """Networks of one shape, all of whose layers run in one launch.

    `layers` are ``w``, ``(networks, k, n)``, ``b``, ``(networks, n)`` or None, and an activation.  There is a program
    on the device for each way in which the weights are laid out, made when it is first needed.
    """

    layers: tuple[tuple[np.ndarray, Any, activations.Activation], ...]
    dtype: np.dtype
    tiles: tuple[fused_tiles.FusedTile, ...]
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
    def arrays(self) -> tuple[Any, ...]:
        """The programs there are."""
        return tuple(self._programs.values())

    def program(self, width: int, depth: int):
        """Return the networks on the device, for a kernel so wide whose weights come in pieces so deep."""
        if (width, depth) not in self._programs:
            parts = zip(*self.layers, strict=True)
            packed = fused_program.pack(*parts, self.dtype, width, depth)
            self._programs[width, depth] = memory.upload(packed, self.dtype, 0)
        return self._programs[width, depth]

    def run(self, x, out, stream) -> None:
        """Take every row of x through the network, or its own through each network."""
        self.run_each(x, out, out.shape[0] // self.networks, False, stream)

    def run_each(self, x, out, m: int, shares: bool, stream) -> None:
        """Fill out, ``(networks * m, n_out)``, from x, which has as many rows, or m if the networks share them."""
        processors, itemsize = compiler.multiprocessors(), self.dtype.itemsize
        tile = fused_tiles.choose(self.tiles, m, self.networks, processors)
        available = fused_tiles.shared_memory(compiler.capability())
        shapes = [w.shape[1:] for w, _, _ in self.layers]
        numbers = fused_program.size_of(shapes, tile.width, CHUNK // itemsize)
        streamed = tile.streamed(itemsize, numbers, available)
        programs = self.program(tile.width, tile.depth if streamed else CHUNK // itemsize)
        chosen = tuple(dict.fromkeys((activations.REGISTRY["identity"], *(entry for _, _, entry in self.layers))))
        in_chunks = memory.in_chunks(x), memory.in_chunks(out)
        kernel = compiler.fused(tile, self.dtype, chosen, streamed, in_chunks)
        per = max(1, min(tile.blocks(m), processors * tile.resident // self.networks))
        compiler.launch(
            kernel,
            per * self.networks,
            tile.size,
            stream,
            programs,
            x,
            out,
            m,
            per,
            shares,
            shared=tile.shared(itemsize, programs.shape[1], streamed),
        )


def of_stacked(weights, biases, chosen, dtype: np.dtype) -> Whole | None:
    """Return networks of one shape, or None where they do not fit: too wide, a layer of no width, an older device."""
    shapes = [w.shape[1:] for w in weights]
    tiles = fused_tiles.tiles_of(compiler.capability(), dtype.itemsize, max(max(shape) for shape in shapes))
    if not tiles or min(min(shape) for shape in shapes) == 0:
        return None
    layers = tuple(
        (np.asarray(w, dtype), None if b is None else np.asarray(b, dtype), activations.get(entry))
        for w, b, entry in zip(weights, biases, chosen, strict=True)
    )
    return Whole(layers, dtype, tiles, {})


def room(dtype: np.dtype) -> str:
    """Say in words what fits."""
    widest = fused_tiles.widest(compiler.capability(), dtype.itemsize)
    return f"widths from 1 to {widest} in {dtype}" if widest else "no networks on devices before compute capability 8.0"
