"""Activation passes: an activation over a matrix, behind one address that any kernel can call.

A pass is ``void (T *x, T *y, int64 rows, int64 columns, int64 ld, int64 apart)`` and writes the activation of x to y.
Either y is x, or the two are `apart`.  Element-wise activations see every element, row-wise ones (softmax) a row at a
time.
"""

from numba import prange

from numbadense._engine.cpu.intrinsics import narrow_vectors, stand_alone
from numbadense._engine.cpu.primitives import (
    address_of,
    call_pass,
    fence,
    load,
    pointer,
    row_at,
    rows_of,
    stack,
    stream,
)

BLOCK = 8192  # elements that a thread takes at a time
STREAMED = 512  # elements computed in the first-level cache before they go to memory: more lost, decision 15
SHORT = 128  # bytes of a row that takes vectors of half the width, see `make_elementwise`
LINE = 64  # bytes that a streaming store should fill


def make_elementwise(jit, scalar, short):
    """Return the pass ``y[i, j] = scalar(x[i, j])``; rows of up to `short` elements are short.

    It has a loop for each case: in one loop over x and y, LLVM's test for overlap would find that they do in place,
    and run it element by element.  Each loop is a function of its own, because the constants of both, hoisted out of
    the loop over the rows, would not fit into the registers.

    A short row alone is what a layer has just stored and the next one waits for, and half as wide vectors get there
    sooner.  On a Zen 4 a row of 32-32-32-32 in float32 takes 176 ns with them and 184 without; one of 64-64-64-64-1
    would take 625 and takes 585: docs/decisions/0018.
    """

    def apart_row(x, y, offset, size):
        stand_alone()
        source, target = row_at(x, offset, size), row_at(y, offset, size)
        for j in range(target.size):
            target[j] = scalar(source[j])

    def same_row(y, offset, size):
        stand_alone()
        target = row_at(y, offset, size)
        for j in range(target.size):
            target[j] = scalar(target[j])

    def short_row(y, size):
        stand_alone()
        narrow_vectors()
        target = row_at(y, 0, size)
        for j in range(target.size):
            target[j] = scalar(target[j])

    copy, change, change_short = jit(apart_row), jit(same_row), jit(short_row)

    def elementwise(x, y, rows, columns, ld, apart):
        if rows == 1 and columns <= short and apart == 0:
            change_short(y, columns)
            return
        if ld == columns:
            columns *= rows
            rows = min(rows, 1)
        for i in range(rows):
            if apart:
                copy(x, y, i * ld, columns)
            else:
                change(y, i * ld, columns)

    return elementwise


def make_rowwise(jit, function):
    """Return the pass ``y[i] = x[i]; function(y[i])``: the function changes the row it is given."""

    def rowwise(x, y, rows, columns, ld, apart):
        if columns > 0:
            for i in range(rows):
                target = row_at(y, i * ld, columns)
                if apart:
                    source = row_at(x, i * ld, columns)
                    for j in range(target.size):
                        target[j] = source[j]
                function(target)

    return rowwise


def apply(address, x, y, n, threads):
    """Write the activation whose pass is at `address`, of x, to y: flat, in rows of n elements, the same or apart."""
    step = max(n, BLOCK // n * n)
    blocks = (x.size + step - 1) // step
    for t in prange(threads):
        lo = min(t * blocks // threads * step, x.size)
        hi = min((t + 1) * blocks // threads * step, x.size)
        call_pass(address, rows_of(x, lo, n), rows_of(y, lo, n), (hi - lo) // n, n)


def make_streamed(lanes):
    """Return the kernel that does what `apply` does for an element-wise activation, writing y past the caches.

    An ordinary store first reads the line that it changes.  Here a thread computes its elements piece by piece into a
    buffer on its stack, and copies them from there in whole lines, which are not read.  The elements before the first
    line and after the last are written the ordinary way, for a line that is written both ways costs more than it saves.
    """
    wide = 4 * lanes

    def streamed(address, x, y, threads):
        begin = min(y.size, -address_of(y) % LINE // y.itemsize)
        end = begin + (y.size - begin) // wide * wide
        call_pass(address, rows_of(x, 0, 1), rows_of(y, 0, 1), begin, 1)
        call_pass(address, rows_of(x, end, 1), rows_of(y, end, 1), y.size - end, 1)
        pieces = (end - begin + STREAMED - 1) // STREAMED
        for t in prange(threads):
            source, target = stack(y, STREAMED), pointer(y)
            buffer = row_at(source, 0, STREAMED)
            for p in range(t * pieces // threads, (t + 1) * pieces // threads):
                at = begin + p * STREAMED
                size = min(STREAMED, end - at)
                call_pass(address, rows_of(x, at, 1), rows_of(buffer, 0, 1), size, 1)
                for j in range(0, size, wide):
                    stream(load(4, lanes, source, j, wide, buffer[0]), target, at + j)
            fence()

    return streamed
