"""Activation passes: an activation over a matrix in place, behind one address that any kernel can call.

A pass is ``void (T *y, int64 rows, int64 columns, int64 ld)``.  Element-wise activations see every element, row-wise
ones (softmax) a row at a time.
"""

from numba import prange

from numbadense._engine.cpu.tile import call_pass, row_at, rows_of

BLOCK = 2048  # elements: a block and its source stay in a 32 KiB L1 cache in float64


def make_elementwise(scalar):
    """Return the pass ``y[i, j] = scalar(y[i, j])``."""

    def elementwise(y, rows, columns, ld):
        if ld == columns:
            columns *= rows
            rows = min(rows, 1)
        for i in range(rows):
            row = row_at(y, i * ld, columns)
            for j in range(row.size):
                row[j] = scalar(row[j])

    return elementwise


def make_rowwise(function):
    """Return the pass ``function(y[i])``, which changes the row it is given."""

    def rowwise(y, rows, columns, ld):
        if columns > 0:
            for i in range(rows):
                function(row_at(y, i * ld, columns))

    return rowwise


def apply(address, x, y, n, in_place, threads):
    """Write the activation whose pass is at `address`, of x, to y; both are flat, in rows of n elements.

    Each block is copied to y and transformed there while it is in L1, so that one pass serves layers and arrays.
    """
    step = max(n, BLOCK // n * n)
    blocks = (x.size + step - 1) // step
    for t in prange(threads):
        for b in range(t * blocks // threads, (t + 1) * blocks // threads):
            lo = b * step
            source, target = x[lo : lo + step], y[lo : lo + step]
            if not in_place:
                for j in range(source.size):
                    target[j] = source[j]
            if address != 0:
                call_pass(address, rows_of(y, lo, n), source.size // n, n)
