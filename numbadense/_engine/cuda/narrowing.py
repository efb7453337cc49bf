"""Operands of tensor cores from float32: rows of 16-bit numbers, or weights in columns, padded to whole chunks."""

from numba import cuda, float32

from numbadense._engine.cuda.hopper import primitives
from numbadense._engine.cuda.primitives import CHUNK, load1, load16, store16

FOUR = 4  # float32 in a chunk


def padded(size: int, itemsize: int) -> int:
    """Return how many elements whole chunks of `size` have."""
    each = CHUNK // itemsize
    return -(-size // each) * each


def make_store(element, jit):
    """Return the function that stores a chunk: ``store(array, index, registers)``."""

    def store(array, index, registers):
        store16(array, index, registers, 0)

    return primitives.store_halves if element().itemsize == 2 else jit(store)


def make_rows(element, narrow, jit, in_chunks):
    """Return the kernel ``out[i, p] = narrow(x[i, p])``, zero for p beyond the columns of x.

    Expects C-contiguous float32 x and `element` out, whose rows begin at multiples of 16 bytes; x likewise if
    `in_chunks`.  Any grid.  A thread has a chunk of out at a time: 16 bytes for 32 of x, or 16.
    """
    count, store = CHUNK // element().itemsize, make_store(element, jit)

    def rows(x, out):
        held, result = cuda.local.array(count, float32), cuda.local.array(count, element)
        k, pitch = x.shape[1], out.shape[1]
        pieces = pitch // count
        for piece in range(cuda.grid(1), x.shape[0] * pieces, cuda.gridsize(1)):
            row = piece // pieces
            column = (piece - row * pieces) * count
            for q in range(count // FOUR):
                at = column + q * FOUR
                if in_chunks:
                    if at < k:
                        load16(held, q * FOUR, x, row * k + at)
                    else:
                        for e in range(FOUR):
                            held[q * FOUR + e] = 0
                else:
                    for e in range(FOUR):
                        held[q * FOUR + e] = load1(x, row * k + at + e) if at + e < k else 0
            for e in range(count):
                result[e] = narrow(held[e])
            store(out, row * pitch + column, result)

    return rows


def make_columns(element, narrow, jit):
    """Return the kernel ``out[j, p] = narrow(w[p, j])``, zero for p beyond the rows of w.

    Expects C-contiguous float32 w and `element` out, whose rows begin at multiples of 16 bytes.  Any grid.  Threads
    side by side read columns side by side.
    """
    count, store = CHUNK // element().itemsize, make_store(element, jit)

    def columns(w, out):
        result = cuda.local.array(count, element)
        k, n = w.shape
        pitch = out.shape[1]
        for piece in range(cuda.grid(1), n * (pitch // count), cuda.gridsize(1)):
            first = piece // n
            column = piece - first * n
            for e in range(count):
                p = first * count + e
                result[e] = narrow(load1(w, p * n + column) if p < k else 0)
            store(out, column * pitch + first * count, result)

    return columns
