"""What the property tests draw: shapes around tile edges, layouts, values."""

import tempfile

import numpy as np
from hypothesis import strategies as st
from numba import config

from numbadense._engine import machine
from numbadense._engine.cpu.tiles import TABLE
from numbadense._engine.run import PACK_FROM_ROWS

TILES = TABLE[machine.host().isa]
DTYPES = (np.float32, np.float64)
LARGEST = 40 if config.DISABLE_JIT else 200  # without the JIT the kernels run at the speed of Python


def edges(*tiles):
    """Sizes at, just under and just over multiples of the tile's sides, and a few others."""
    around = {size + step for tile in tiles for size in (tile, 2 * tile) for step in (-1, 0, 1)}
    return sorted(size for size in {0, 1, 2, 3, 7, 13} | around if size <= LARGEST)


rows = st.sampled_from(edges(*TILES.rows.values()))
rows_around_packing = st.sampled_from([1, 2, 9, PACK_FROM_ROWS - 1, PACK_FROM_ROWS, PACK_FROM_ROWS + 1])
inputs = st.sampled_from([0, 1, 2, 3, 5, 8, 17, 31])
outputs = st.sampled_from(edges(TILES.lanes(8), TILES.lanes(4), max(TILES.rows) * TILES.lanes(4)))
dtypes = st.sampled_from(DTYPES)
seeds = st.integers(0, 2**32 - 1)


def contiguous(a):
    return np.ascontiguousarray(a)


def fortran(a):
    return np.asfortranarray(a)


def every_second(a):
    wide = np.full([2 * n for n in a.shape], np.nan, a.dtype)
    wide[tuple(slice(None, None, 2) for _ in a.shape)] = a
    return wide[tuple(slice(None, None, 2) for _ in a.shape)]


def backwards(a):
    flip = tuple(slice(None, None, -1) for _ in a.shape)
    return np.ascontiguousarray(a[flip])[flip]


def upside_down(a):
    return np.ascontiguousarray(a[::-1])[::-1]


def a_slice(a):
    wide = np.full([n + 3 for n in a.shape], np.nan, a.dtype)
    inner = tuple(slice(1, n + 1) for n in a.shape)
    wide[inner] = a
    return wide[inner]


def unaligned(a):
    raw = np.empty(a.nbytes + 1, np.uint8)
    moved = raw[1:].view(a.dtype).reshape(a.shape)
    moved[...] = a
    return moved


def field(a):
    """One field of records: strides that no number of elements makes up."""
    records = np.zeros(a.shape, [("flag", "u1"), ("value", a.dtype)])
    records["value"] = a
    return records["value"]


def big_endian(a):
    return a.astype(a.dtype.newbyteorder(">"))


def annotated(a):
    """A dtype that equals the native one, and is not the same object."""
    return a.astype(np.dtype(a.dtype, metadata={"unit": "1"}))


def matrix(a):
    return np.asmatrix(a.copy()) if a.ndim == 2 else a.copy()


def memory_mapped(a):
    if not a.size:
        return a.copy()
    with tempfile.TemporaryFile() as file:
        mapped = np.memmap(file, a.dtype, "w+", shape=a.shape)
    mapped[...] = a
    return mapped


def read_only(a):
    a = a.copy()
    a.flags.writeable = False
    return a


def one_row_again_and_again(a):
    """The first row, or the first element, in place of all: a stride of 0."""
    return np.broadcast_to(a[:1].copy(), a.shape) if a.size else a.copy()


def one_column_again_and_again(a):
    return np.broadcast_to(a[..., :1].copy(), a.shape) if a.size else a.copy()


OUT_LAYOUTS = (
    contiguous,
    fortran,
    every_second,
    backwards,
    upside_down,
    a_slice,
    unaligned,
    field,
    big_endian,
    annotated,
    matrix,
    memory_mapped,
)
KEEPING_VALUES = (*OUT_LAYOUTS, read_only)
LAYOUTS = (*KEEPING_VALUES, one_row_again_and_again, one_column_again_and_again)
layouts, out_layouts = st.sampled_from(LAYOUTS), st.sampled_from(OUT_LAYOUTS)


def numbers(rng, shape, dtype):
    return rng.standard_normal(shape).astype(dtype)


def weights(rng, k, n, dtype):
    return (rng.standard_normal((k, n)) / max(1, k) ** 0.5).astype(dtype)


def special(dtype):
    """Values at which arithmetic is different."""
    info = np.finfo(dtype)
    tiny, huge = float(info.smallest_subnormal), float(info.max)
    return [np.nan, np.inf, -np.inf, 0.0, -0.0, tiny, -tiny, float(info.tiny), huge, -huge, huge / 2, 1.0]


# Where to put which special value: (operand, index of an element modulo its size, index of the value).
grains = st.lists(st.tuples(st.sampled_from("xwb"), st.integers(0, 400), st.integers(0, 11)), max_size=8)


def salted(grains, **operands):
    """Put special values into the operands, in place."""
    for name, where, which in grains:
        array = operands[name]
        if array.size:
            array.flat[where % array.size] = special(array.dtype)[which]
