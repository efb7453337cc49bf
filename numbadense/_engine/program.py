"""A network as the kernels see it: one buffer of packed weights, and int64 code: a header and one table.

::

    header  kernel | row kernel | layers | width | array type | dtype | features | outputs | most rows | block | ...
             0x..       0x..        2       48       0x..       0x..      64        10         217       192

    table   k | n | vectors | weights | bias | strides of row, panel, out | pass | its columns | row-wise | layer
            64  48     3       0x..00   0x..40   48      3072   48           0x..       48           0      0x..
            48  10     1       0x..80   0x..c0   16       768   16           0x..       10           1      0x..

    buffer  [panels of layer 0][its bias][panels of layer 1][its bias]         each 64-byte aligned, zero padded

Weights may be kept in 16 bits each: then the header has other kernels, and all else is the same.

The code holds addresses, of weights, compiled kernels and passes, so it belongs to one process and is built again in
another.  Loading another network compiles nothing.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from numbadense._engine import compile as compiler
from numbadense._engine import half, machine, plan
from numbadense._engine.cpu import forward, pack
from numbadense._engine.cpu.tiles import TABLE, panel_width


class Layer(NamedTuple):
    """What a program needs to know of a layer."""

    w: np.ndarray | half.Half
    b: np.ndarray | None
    activation: object


@dataclass(frozen=True, slots=True)
class Program:
    """A packed network that computes in one dtype, its weights kept in one form.

    `shapes` holds ``(n_in, n_out)`` of each layer and `panels` in how many its weights are packed; `width` is the
    widest hidden row in elements (0 for a single layer); `address` is that of `code`, `table` the part behind its
    header, `kept` what keeps the addresses in it alive, and `nbytes` the size of the packed weights.  `plans`,
    `scratch` and `pieces` are the memory of `numbadense._engine.run`.
    """

    code: np.ndarray
    table: np.ndarray
    address: int
    kept: object
    dtype: np.dtype
    form: int
    n_in: int
    n_out: int
    shapes: tuple[tuple[int, int], ...]
    panels: tuple[int, ...]
    width: int
    nbytes: int
    plans: dict = field(default_factory=dict)
    scratch: dict = field(default_factory=dict)
    pieces: dict = field(default_factory=dict)


def blank(layers: int, dtype: np.dtype, form: int = half.FULL) -> tuple[np.ndarray, np.ndarray]:
    """Return code for so many layers with nothing but the kernels filled in, and the table in it."""
    code = np.zeros(forward.HEADER + layers * forward.COLUMNS, np.int64)
    code[[forward.KERNEL, forward.ROW_KERNEL]] = compiler.kernels(dtype, form)
    code[forward.LAYERS] = layers
    return code, code[forward.HEADER :].reshape(layers, forward.COLUMNS)


def _program(code: np.ndarray, table: np.ndarray, buffer: np.ndarray, dtype: np.dtype, form: int) -> Program:
    shapes = tuple((int(k), int(n)) for k, n in table[:, [forward.N_IN, forward.N_OUT]])
    width = int(table[:-1, forward.OUT_ROW].max(initial=0))
    widths = table[:, forward.VECTORS] * TABLE[machine.host().isa].lanes(dtype.itemsize)
    panels = tuple(int(count) for count in -(-table[:, forward.N_OUT] // widths))
    n_in, n_out = shapes[0][0], shapes[-1][1]
    block = plan.block_rows(shapes, width, dtype.itemsize)
    scratch = np.empty(2 * block * width, dtype)
    kept = buffer, scratch
    address, nbytes = code.ctypes.data, buffer.nbytes
    program = Program(code, table, address, kept, dtype, form, n_in, n_out, shapes, panels, width, nbytes)
    code[[forward.WIDTH, forward.BLOCK, forward.MOST_ROWS]] = width, block, plan.most_serial_rows(shapes)
    code[[forward.ARRAY_TYPE, forward.DTYPE, forward.SCRATCH]] = id(np.ndarray), id(dtype), scratch.ctypes.data
    code[[forward.FEATURES, forward.OUTPUTS]] = program.n_in, program.n_out
    return program


def vectors_and_columns(n: int, dtype: np.dtype) -> tuple[int, int]:
    tiles = TABLE[machine.host().isa]
    vectors = panel_width(n, dtype.itemsize, tiles)
    return vectors, vectors * tiles.lanes(dtype.itemsize)


def build(layers: Sequence, dtype: np.dtype) -> Program:
    """Pack `layers`, each with its ``w``, ``b`` and ``activation``, for the CPU kernels of `dtype`.

    Weights are packed at half size where all of them come so, of one kind, and in `dtype` otherwise.
    """
    form = half.form_of(layer.w for layer in layers)
    stored = dtype if form == half.FULL else half.BITS
    code, table = blank(len(layers), dtype, form)
    plans = [vectors_and_columns(layer.w.shape[1], dtype) for layer in layers]
    sizes = [
        pack.packed_bytes(*layer.w.shape, nr, stored.itemsize, dtype.itemsize)
        for layer, (_, nr) in zip(layers, plans, strict=True)
    ]
    buffer = pack.aligned_empty(sum(map(sum, sizes)), np.dtype(np.uint8))
    offset = 0
    for index, (layer, (vectors, nr), size) in enumerate(zip(layers, plans, sizes, strict=True)):
        row = table[index]
        k, n = layer.w.shape
        padded = pack.panels(n, nr) * nr
        bias = offset + size[0]
        body = pack.pack_weights(buffer[offset:bias].view(stored), half.packable(layer.w, form), nr)
        if form == half.BFLOAT16:
            pack.pair(body, nr // vectors)
        pack.pack_bias(buffer[bias : bias + size[1]].view(dtype), layer.b, n)
        row[[forward.N_IN, forward.N_OUT, forward.VECTORS]] = k, n, vectors
        row[[forward.WEIGHTS, forward.BIAS]] = buffer.ctypes.data + offset, buffer.ctypes.data + bias
        row[[forward.W_ROW, forward.W_PANEL, forward.OUT_ROW]] = nr, max(k, 1) * nr, padded
        row[forward.PASS] = pass_of(layer.activation, dtype)
        # Padding is swept along, in whole vectors; a row-wise activation must not see it.
        row[[forward.ROWWISE, forward.LAYER]] = layer.activation.rowwise, compiler.layer(dtype, form, vectors)
        row[forward.PASS_COLUMNS] = n if layer.activation.rowwise else padded
        offset = bias + size[1]
    return _program(code, table, buffer, dtype, form)


def pieces(program: Program, threads: int) -> np.ndarray:
    """Return code for each layer and thread: the layer's share of panels, as a network of its own.

    A row-wise activation is left to whoever has the whole row.
    """
    lanes = TABLE[machine.host().isa].lanes(program.dtype.itemsize)
    w_bytes = half.weight_bytes(program.dtype.itemsize, program.form)
    found = np.zeros((len(program.table), threads, forward.HEADER + forward.COLUMNS), np.int64)
    found[:, :, : forward.HEADER] = program.code[: forward.HEADER]
    found[:, :, forward.LAYERS] = 1
    for index, (row, count) in enumerate(zip(program.table, program.panels, strict=True)):
        nr = int(row[forward.VECTORS]) * lanes
        columns = row[forward.N_OUT] if index == len(program.table) - 1 else row[forward.OUT_ROW]
        for t in range(threads):
            first, last = (min(share * count // threads * nr, int(columns)) for share in (t, t + 1))
            found[index, t, forward.FIRST_COLUMN] = first
            piece = found[index, t, forward.HEADER :]
            piece[:] = row
            piece[forward.WEIGHTS] += first // nr * row[forward.W_PANEL] * w_bytes
            piece[forward.BIAS] += first * program.dtype.itemsize
            piece[forward.N_OUT] = last - first
            piece[[forward.OUT_ROW, forward.PASS_COLUMNS]] = -(-(last - first) // nr) * nr
            if row[forward.ROWWISE]:
                piece[forward.PASS] = 0
    return found


def readable(w: np.ndarray, b: np.ndarray) -> bool:
    """Say whether kernels can read native weights where they lie: rows contiguous and a vector long at least."""
    itemsize = w.dtype.itemsize
    row, column = w.strides
    lanes = TABLE[machine.host().isa].lanes(itemsize)
    return column == itemsize and w.shape[1] >= lanes and row % itemsize == 0 and b.strides[0] == itemsize


@functools.lru_cache(maxsize=256)
def unpacked(shape: tuple[int, int], w_row: int, activation, dtype: np.dtype, one_row: bool) -> np.ndarray:
    """Return the code of a layer whose weights are not packed, but for their addresses; copy it to fill them in."""
    tiles = TABLE[machine.host().isa]
    code, table = blank(1, dtype)
    vectors = shape[1] // tiles.lanes(dtype.itemsize)
    vectors = tiles.wide if one_row and vectors >= tiles.wide else min(vectors, max(tiles.rows))
    table[0, [forward.N_IN, forward.N_OUT, forward.VECTORS]] = *shape, vectors
    table[0, [forward.W_ROW, forward.OUT_ROW]] = w_row, shape[1]
    table[0, [forward.PASS, forward.PASS_COLUMNS]] = pass_of(activation, dtype), shape[1]
    table[0, forward.LAYER] = 0 if one_row else compiler.layer(dtype, half.FULL, vectors)
    return code


def pass_of(activation, dtype: np.dtype) -> int:
    """Return the address of the pass after a layer: 0, none, for identity."""
    return 0 if activation.name == "identity" else compiler.activation_pass(activation, dtype)
