"""A network as the kernels see it: one buffer of packed weights and one int64 table.

::

    table   k | n | vectors | weights | bias | row stride | panel stride | out stride | pass | pass columns
            64  48     3       0x..00   0x..40      48           3072            48      0x..    48         layer 0
            48  10     1       0x..80   0x..c0      16            768            16      0x..    10         layer 1

    buffer  [panels of layer 0][its bias][panels of layer 1][its bias]         64-byte aligned, zero padded

The table holds addresses, of weights and of compiled activation passes, so it belongs to one process and is built
again in another.  Loading another network compiles nothing.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from numbadense._engine import compile as compiler
from numbadense._engine import machine
from numbadense._engine.cpu import forward, pack
from numbadense._engine.cpu.tiles import TABLE, panel_width


class Layer(NamedTuple):
    """What a program needs to know of a layer."""

    w: np.ndarray
    b: np.ndarray | None
    activation: object


@dataclass(frozen=True, slots=True)
class Program:
    """A packed network of one dtype.

    `shapes` holds ``(n_in, n_out)`` of each layer, `width` is the widest hidden row in elements (0 for a single
    layer), and `buffer` is what keeps the addresses in `table` alive.  `plans` and `scratch` are the memory of
    `numbadense._engine.run`.
    """

    table: np.ndarray
    buffer: object
    dtype: np.dtype
    n_in: int
    n_out: int
    shapes: tuple[tuple[int, int], ...]
    width: int
    plans: dict = field(default_factory=dict)
    scratch: dict = field(default_factory=dict)


def _program(table: np.ndarray, buffer: object, dtype: np.dtype) -> Program:
    shapes = tuple((int(k), int(n)) for k, n in table[:, [forward.N_IN, forward.N_OUT]])
    width = int(table[:-1, forward.OUT_ROW].max(initial=0))
    return Program(table, buffer, dtype, shapes[0][0], shapes[-1][1], shapes, width)


def vectors_and_columns(n: int, dtype: np.dtype) -> tuple[int, int]:
    tiles = TABLE[machine.host().isa]
    vectors = panel_width(n, dtype.itemsize, tiles)
    return vectors, vectors * tiles.lanes(dtype.itemsize)


def build(layers: Sequence, dtype: np.dtype) -> Program:
    """Pack `layers`, each with its ``w``, ``b`` and ``activation``, for the CPU kernels of `dtype`."""
    table = np.zeros((len(layers), forward.COLUMNS), np.int64)
    plans = [vectors_and_columns(layer.w.shape[1], dtype) for layer in layers]
    sizes = [pack.packed_size(*layer.w.shape, nr) for layer, (_, nr) in zip(layers, plans, strict=True)]
    buffer = pack.aligned_empty(sum(sizes), dtype)
    offset = 0
    for index, (layer, (vectors, nr), size) in enumerate(zip(layers, plans, sizes, strict=True)):
        row = table[index]
        k, n = layer.w.shape
        part = buffer[offset : offset + size]
        pack.pack_into(part, layer.w, layer.b, nr)
        padded = pack.panels(n, nr) * nr
        address = buffer.ctypes.data + offset * dtype.itemsize
        row[[forward.N_IN, forward.N_OUT, forward.VECTORS]] = k, n, vectors
        row[[forward.WEIGHTS, forward.BIAS]] = address, address + k * padded * dtype.itemsize
        row[[forward.W_ROW, forward.W_PANEL, forward.OUT_ROW]] = nr, max(k, 1) * nr, padded
        row[forward.PASS] = pass_of(layer.activation, dtype)
        # A hidden layer's padding is swept along, in whole vectors; a row-wise activation must not see it.
        hidden = index < len(layers) - 1
        row[forward.PASS_COLUMNS] = padded if hidden and not layer.activation.rowwise else n
        offset += size
    return _program(table, buffer, dtype)


def readable(w: np.ndarray, b: np.ndarray) -> bool:
    """Say whether kernels can read native weights where they lie: rows contiguous and a vector long at least."""
    itemsize = w.dtype.itemsize
    row, column = w.strides
    lanes = TABLE[machine.host().isa].lanes(itemsize)
    return column == itemsize and w.shape[1] >= lanes and row % itemsize == 0 and b.strides[0] == itemsize


@functools.lru_cache(maxsize=256)
def unpacked(shape: tuple[int, int], w_row: int, activation, dtype: np.dtype, one_row: bool) -> np.ndarray:
    """Return the table of a layer whose weights are not packed, but for their addresses."""
    tiles = TABLE[machine.host().isa]
    table = np.zeros((1, forward.COLUMNS), np.int64)
    vectors = shape[1] // tiles.lanes(dtype.itemsize)
    vectors = tiles.wide if one_row and vectors >= tiles.wide else min(vectors, max(tiles.rows))
    table[0, [forward.N_IN, forward.N_OUT, forward.VECTORS]] = *shape, vectors
    table[0, [forward.W_ROW, forward.OUT_ROW]] = w_row, shape[1]
    table[0, [forward.PASS, forward.PASS_COLUMNS]] = pass_of(activation, dtype), shape[1]
    return table


def pass_of(activation, dtype: np.dtype) -> int:
    """Return the address of the pass after a layer: 0, none, for identity."""
    return 0 if activation.name == "identity" else compiler.activation_pass(activation, dtype)
