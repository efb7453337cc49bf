"""Sums over parts of the features: the dense kernel for few rows, and what adds the parts that blocks have summed."""

from numba import cuda

from numbadense._engine.cuda.primitives import (
    CHUNK,
    block_number,
    fma,
    load1,
    load16,
    make_shared,
    store16,
    thread,
)
from numbadense._engine.cuda.split import MOST_PARTS, make_length

FOUR = 4  # rows whose features are on their way at once


def resident(rows):
    """Return how many blocks share a multiprocessor: with 4 rows or more a thread needs more than 64 registers."""
    return 1 if rows >= FOUR else 2


def make_few(rows, across, dtype, scalar, jit, x_in_chunks, w_in_chunks):
    """Return the kernel ``out = scalar(b + sum of x @ w over each part of the features)``, the parts in order.

    Expects C-contiguous x (m, k), w (k, n) and out (m, n), and b (n,), all of `dtype`, with m no larger than `rows`;
    a block of ``parts * across`` threads for each ``across`` chunks of 16 bytes of columns.  `x_in_chunks` and
    `w_in_chunks` are as in the dense kernel for many rows.

    ::

        thread   part 0   [ across threads, side by side ]    reads its features of w, row after row, 16 bytes a thread,
                 part 1   [                              ]    and of x, which no other part of the block reads
                 ...

    Each element of w is read once, and nothing is read twice by a block: x needs no shared memory, through which only
    the sums of the parts go, row by row.  Threads beyond the last column read it again, rows
    beyond the last are it once more, and neither is stored.
    """
    element = dtype.type
    chunk = CHUNK // dtype.itemsize
    deep = 1 if rows > FOUR else 2
    step = deep * chunk  # features whose rows of w are on their way at once
    columns = across * chunk
    shared_memory = make_shared(jit, MOST_PARTS * columns, element)
    length_of = jit(make_length())
    none = element(-0.0)  # which leaves any sum as it is
    size, w_size = rows * chunk, step * chunk
    read_w = jit(_make_row(chunk, w_in_chunks))
    add_rows = jit(_make_add(min(rows, FOUR), chunk, deep, jit(_make_read(chunk, x_in_chunks))))

    def few(x, w, b, out):
        shared = shared_memory()
        total = cuda.local.array(size, element)
        x_part = cuda.local.array(chunk, element)
        w_part = cuda.local.array(w_size, element)
        m, k = x.shape
        n = w.shape[1]
        me = int(thread())
        part = me // across
        left = int(block_number()) * columns
        parts = int(cuda.blockDim.x) // across
        length = length_of(k, parts)
        p = part * length
        stop = min(k, p + length)
        column = left + (me - part * across) * chunk
        for e in range(size):
            total[e] = none
        while p + step <= stop:
            for q in range(step):
                read_w(w_part, q * chunk, w, (p + q) * n, column, n)
            at = add_rows(total, 0, x, p, k, m, x_part, w_part)
            if rows > FOUR:
                add_rows(total, FOUR, x, at, k, m, x_part, w_part)
            p += step
        while p < stop:
            read_w(w_part, 0, w, p * n, column, n)
            at = p
            for i in range(rows):
                feature = load1(x, at)
                at += k if i + 1 < m else 0
                for j in range(chunk):
                    total[i * chunk + j] = fma(feature, w_part[j], total[i * chunk + j])
            p += 1
        for i in range(m):  # the first row of the sums, and then the others move up
            store16(shared, me * chunk, total, 0)
            cuda.syncthreads()
            for j in range(me, columns, cuda.blockDim.x):
                if left + j < n:
                    value = b[left + j]
                    for s in range(parts):
                        value += shared[s * columns + j]
                    out[i, left + j] = scalar(value)
            cuda.syncthreads()
            for e in range(size - chunk):
                total[e] = total[e + chunk]

    return few


def _make_add(count, chunk, deep, read_x):
    """Return the function that adds the products of `count` rows, of which `first` is the first, to their sums.

    It takes and returns where in x the next row's features are, and is as long a loop as every compiler unrolls.
    """

    def add_rows(total, first, x, at, k, m, x_part, w_part):
        for i in range(count):
            for h in range(deep):
                read_x(x_part, x, at + h * chunk)
                for e in range(chunk * chunk):
                    place = (first + i) * chunk + e % chunk
                    total[place] = fma(x_part[e // chunk], w_part[h * chunk * chunk + e], total[place])
            at += k if first + i + 1 < m else 0
        return at

    return add_rows


def _make_read(chunk, in_chunks):
    """Return the function that reads a chunk of features of a row."""

    def read(x_part, x, at):
        load16(x_part, 0, x, at)

    def read_elements(x_part, x, at):
        for e in range(chunk):
            x_part[e] = load1(x, at + e)

    return read if in_chunks else read_elements


def _make_row(chunk, in_chunks):
    """Return the function that reads a chunk of a row of weights, or its last columns again."""

    def read(w_part, place, w, row, column, n):
        load16(w_part, place, w, row + min(column, n - chunk))

    def read_elements(w_part, place, w, row, column, n):
        for e in range(chunk):
            w_part[place + e] = load1(w, row + min(column + e, n - 1))

    return read if in_chunks else read_elements


def make_gather(scalar):
    """Return the kernel ``out = scalar(b + sums[0] + sums[1] + ...)``, in that order.

    Expects C-contiguous sums (parts * m, n), a matrix below the other, b (n,) and out (m, n).  Any grid will do.
    """

    def gather(sums, b, out):
        m, n = out.shape
        parts = sums.shape[0] // m
        for q in range(cuda.grid(1), m * n, cuda.gridsize(1)):
            i = q // n
            j = q - i * n
            value = b[j]
            for part in range(parts):
                value += sums[part * m + i, j]
            out[i, j] = scalar(value)

    return gather
