"""What the property tests draw: shapes around tile edges, layouts, values."""

import numpy as np
from hypothesis import strategies as st
from numba import config

from numbadense._engine import machine
from numbadense._engine.cpu.tiles import TABLE

TILES = TABLE[machine.host().isa]
DTYPES = (np.float32, np.float64)
LARGEST = 40 if config.DISABLE_JIT else 200


def edges(*tiles):
    """Sizes at, just under and just over multiples of the tile's sides, and a few others."""
    around = {size + step for tile in tiles for size in (tile, 2 * tile) for step in (-1, 0, 1)}
    return sorted(size for size in {0, 1, 2, 3, 7, 13} | around if size <= LARGEST)


rows = st.sampled_from(edges(*TILES.rows.values()))
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


def read_only(a):
    a = a.copy()
    a.flags.writeable = False
    return a


def unaligned(a):
    raw = np.empty(a.nbytes + 1, np.uint8)
    moved = raw[1:].view(a.dtype).reshape(a.shape)
    moved[...] = a
    return moved


def big_endian(a):
    return a.astype(a.dtype.newbyteorder(">"))


def a_slice(a):
    wide = np.full([n + 3 for n in a.shape], np.nan, a.dtype)
    inner = tuple(slice(1, n + 1) for n in a.shape)
    wide[inner] = a
    return wide[inner]


LAYOUTS = (contiguous, fortran, every_second, backwards, read_only, unaligned, big_endian, a_slice)
layouts = st.sampled_from(LAYOUTS)


def numbers(rng, shape, dtype):
    return rng.standard_normal(shape).astype(dtype)


def weights(rng, k, n, dtype):
    return (rng.standard_normal((k, n)) / max(1, k) ** 0.5).astype(dtype)
