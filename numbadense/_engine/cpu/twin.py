"""NumPy twins of the tile primitives, for ``NUMBA_DISABLE_JIT=1``: a `View` is a 2-D array, a `Tile` too.

The kernels of `numbadense._engine.cpu.forward` then run as plain Python, line by line, for coverage and for readable
failures.  Products are rounded once, as by a fused multiply-add, in float32, through float64.  In float64 it is twice,
through what NumPy has beyond it, so that no product overflows that a sum brings back.
"""

import ctypes
import threading

import numpy as np

from numbadense._engine import half
from numbadense._engine.cpu import pack

PASSES = {}  # address -> the activation pass that it stands for
_swapping = threading.Lock()
KERNELS = {}  # address -> the kernel, of a network, a layer or derivatives, that it stands for
CHAINS = {}  # address -> the chain rule of an activation that it stands for


def matrix(array):
    """A 2-D array is its own view."""
    return array


def rows_of(buffer, offset, ld):
    """Rows of `ld` elements of a flat buffer, from `offset` on."""
    rows = (buffer.size - offset) // max(ld, 1)
    return buffer[offset : offset + rows * ld].reshape(rows, ld)


def matrix_at(like, address, rows, columns, ld):
    """A `rows x columns` matrix at a memory address."""
    return _matrix_at(like.dtype, address, rows, columns, ld)


def _matrix_at(dtype, address, rows, columns, ld):
    size = max(0, int((rows - 1) * ld + columns)) if rows and columns else 0
    raw = (ctypes.c_char * (size * dtype.itemsize)).from_address(int(address))
    flat = np.frombuffer(raw, dtype)
    return np.lib.stride_tricks.as_strided(flat, (rows, columns), (ld * dtype.itemsize, dtype.itemsize))


def weights_at(like, address, rows, vectors, lanes, ld, form):
    """The same for weights that are kept in a form: widened at once."""
    if form == half.FULL:
        return matrix_at(like, address, rows, vectors * lanes, ld)
    bits = _matrix_at(half.BITS, address, rows, vectors * lanes, ld)
    if form == half.BFLOAT16:
        bits = pack.unpaired(bits, lanes)
    return half.widened(bits, form)


def address_of(array):
    """The address of the first element."""
    return array.ctypes.data


def part(view, i, j):
    """``view[i:, j:]``."""
    return view[i:, j:]


def start(mr, nv, lanes, bias):
    """The bias in every row."""
    return np.tile(bias[0, : nv * lanes], (mr, 1))


def resume(mr, nv, lanes, y):
    """What an earlier tile has stored."""
    return y[:mr, : nv * lanes].copy()


def rank1(tile, x, w, p):
    """``tile + outer(x[:, p], w[p, :])``, rounded once in float32."""
    mr, columns = tile.shape
    wide = np.float64 if tile.dtype == np.float32 else np.longdouble
    a, b = x[:mr, p, None].astype(wide), w[p, None, :columns].astype(wide)
    with np.errstate(all="ignore"):
        return (a * b + tile).astype(tile.dtype)


def store(tile, y, columns):
    """The columns inside the matrix only."""
    columns = min(columns, tile.shape[1])
    y[: tile.shape[0], :columns] = tile[:, :columns]


def call_pass(address, x, y, rows, columns):
    """Copy ``x[:rows, :columns]`` to y and run the registered Python pass there."""
    target = y[:rows, :columns]
    target[:] = x[:rows, :columns]
    PASSES[int(address)](target)


def word(address, index):
    """The int64 that lies `index` words after an address."""
    return ctypes.c_int64.from_address(int(address) + 8 * int(index)).value


def swap(address, index, value):
    """Put a value where a word is, and return what was there."""
    place = ctypes.c_int64.from_address(int(address) + 8 * int(index))
    with _swapping:
        found, place.value = place.value, int(value)
    return found


def address(operand):
    """The address of an object."""
    return id(operand)


def make_borrow(dtype):
    """Memory at an address, in rows of `ld` elements."""
    like = np.empty(0, dtype)
    return lambda address, rows, ld: matrix_at(like, address, rows, ld, ld)


def rows_at(view, offset, ld):
    """The memory of a flat buffer, from `offset` on, in rows of `ld` elements."""
    return rows_of(view.reshape(-1), offset, ld)


def view_of(pointer, columns):
    """One row of `columns` elements."""
    return pointer[None, :columns]


def copy_row(source, target, n):
    """``target[0, :n] = source[0, :n]``."""
    target[0, :n] = source[0, :n]


def copy_matrix(source, target, m, n):
    """``target[:m, :n] = source[:m, :n]``."""
    target[:m, :n] = source[:m, :n]


def moved(view, offset):
    """Other memory, `offset` elements further, with the strides of a view."""
    place = view.__array_interface__["data"][0] + int(offset) * view.itemsize
    first = np.frombuffer((ctypes.c_char * view.itemsize).from_address(place), view.dtype)
    return np.lib.stride_tricks.as_strided(first, view.shape, view.strides)


def transposed(view):
    """Rows and columns exchanged."""
    return view.T


def call_chain(address, slopes, tangents, rows, each, columns):
    """Run the registered Python chain rule on rows of slopes, and on their tangents."""
    CHAINS[int(address)](slopes[:rows], tangents[: rows * each, :columns], each)


def call_differential(address, *arguments):
    """Run the registered Python kernel of derivatives."""
    KERNELS[int(address)](*arguments)


def call_layer(address, *arguments):
    """Run the registered Python kernel of one layer."""
    KERNELS[int(address)](*arguments)


def call_kernel(address, code, base, x, m, y, scratch, half):
    """Run the registered Python kernel."""
    KERNELS[int(address)](code, base, x, m, y, scratch, half)


def pointer(array):
    """An array is its own pointer."""
    return array


def row_at(pointer, offset, size):
    """``pointer[offset:offset + size]``."""
    return pointer[offset : offset + size]


def stack(like, size):
    """A new array."""
    return np.empty(size, like.dtype)


def allocate(like, size):
    """A new array."""
    return np.empty(size, like.dtype)


def is_null(pointer):
    """An array is always there."""
    return False


def release(pointer):
    """Nothing: Python counts references."""


def load(nv, lanes, pointer, offset, count, fill):
    """The elements that are there, and `fill` after them."""
    tile = np.full(nv * lanes, fill, pointer.dtype)
    tile[:count] = pointer[offset : offset + count]
    return tile


def stream(tile, pointer, offset):
    """The whole tile, which begins a cache line."""
    assert pointer[offset:].ctypes.data % 64 == 0
    pointer[offset : offset + tile.size] = tile


def fence():
    """Nothing: there is one thread."""
