"""Softmax and its logarithm over rows: the threads of a warp, or of a block, side by side through a row."""

import numpy as np
from numba import cuda

from numbadense._engine.cuda.primitives import (
    WARP,
    block_number,
    fma,
    lane,
    load1,
    make_shared,
    shuffle_xor,
    thread,
)

HELD = 4096  # bytes of the longest row that a warp keeps in registers, 32 numbers of float32 a thread
RESIDENT = {4: 4, 8: 1}  # blocks of 256 threads on a multiprocessor, by the size of a number
STEPS = tuple(WARP >> step for step in range(1, WARP.bit_length()))  # 16, 8 ... 1


def numbers(n, dtype):
    """Return how many numbers of a row of `n` a thread of a warp keeps, a power of two; 0 if that is too many."""
    each = max(1, -(-n // WARP))
    return 1 << (each - 1).bit_length() if n * dtype.itemsize <= HELD else 0


def make_held(count, logarithm, dtype, jit, exp, log1p, widen, narrow):
    """Return the kernel ``out[i] = softmax(x[i])``, or its logarithm, for rows of at most 32 `count` numbers.

    Expects C-contiguous 2-D arrays of one shape: the same array, or two apart; `widen` makes a number of `dtype` of one
    of x, and `narrow` one of out of that.  Any grid of whole warps, each of which reads a row once and keeps it in
    registers.  Special values are as in `numbadense.activations`.  The order of a sum is that of the numbers of each
    thread, then of pairs of threads: the same in every batch.
    """
    element = dtype.type
    none, zero, one, quotient = element(-np.inf), element(0), element(1), jit(divided)
    largest_of, sum_of = (jit(make_across_warp(jit(combine))) for combine in (larger, plus))

    def held(x, out):
        row = cuda.local.array(count, element)
        m, n = x.shape
        me = int(lane())
        for i in range(cuda.grid(1) // WARP, m, cuda.gridsize(1) // WARP):
            largest = none
            for e in range(count):
                j = e * WARP + me
                row[e] = widen(load1(x, i * n + j)) if j < n else none
                largest = row[e] if row[e] > largest else largest
            largest = largest_of(largest)
            total, ties = zero, zero
            for e in range(count):
                centred = row[e] - largest
                power = exp(centred)
                tie = logarithm and centred == zero
                row[e] = centred if logarithm else power
                total += zero if tie else power
                ties += one if tie else zero
            total = sum_of(total)
            if logarithm:
                total = log1p(sum_of(ties) - one + total)
            inverse = one / total
            for e in range(count):
                j = e * WARP + me
                if j < n:
                    out[i, j] = narrow(row[e] - total if logarithm else quotient(row[e], total, inverse))

    return held


def make_walked(warps, logarithm, dtype, jit, exp, log1p):
    """Return the same kernel for rows of any length, each walked three times by a block of so many warps."""
    element, size = dtype.type, warps * WARP
    none, zero, one, quotient = element(-np.inf), element(0), element(1), jit(divided)
    largest_of, sum_of = (
        jit(make_across_block(jit(combine), jit(make_across_warp(jit(combine))), warps)) for combine in (larger, plus)
    )
    shared_memory = make_shared(jit, warps, element)

    def walked(x, out):
        shared = shared_memory()
        m, n = x.shape
        me = int(thread())
        for i in range(int(block_number()), m, cuda.gridDim.x):
            largest = none
            for j in range(me, n, size):
                value = load1(x, i * n + j)
                largest = value if value > largest else largest
            largest = largest_of(largest, shared)
            total, ties = zero, zero
            for j in range(me, n, size):
                centred = load1(x, i * n + j) - largest
                power = exp(centred)
                tie = logarithm and centred == zero
                out[i, j] = centred if logarithm else power
                total += zero if tie else power
                ties += one if tie else zero
            total = sum_of(total, shared)
            if logarithm:
                total = log1p(sum_of(ties, shared) - one + total)
            inverse = one / total
            for j in range(me, n, size):
                value = load1(out, i * n + j)
                out[i, j] = value - total if logarithm else quotient(value, total, inverse)

    return walked


def divided(a, b, inverse):
    """Return ``a / b`` from ``1 / b``: the product, and its error once more."""
    near = a * inverse
    return fma(fma(-near, b, a), inverse, near)


def larger(a, b):
    """Return the larger of two numbers, neither of which is NaN."""
    return b if b > a else a


def plus(a, b):
    """Return a sum."""
    return a + b


def make_across_warp(combine):
    """Return ``across(value)``: what the threads of a warp have, combined; all of them come, and get it."""

    def across(value):
        for step in STEPS:
            value = combine(value, shuffle_xor(value, step))
        return value

    return across


def make_across_block(combine, across_warp, warps):
    """Return ``across(value, shared)``: the same for a block of so many warps, through as many shared numbers."""

    def across(value, shared):
        value = across_warp(value)
        cuda.syncthreads()  # what was in shared memory has been read
        if lane() == 0:
            shared[thread() // WARP] = value
        cuda.syncthreads()
        value = shared[0]
        for warp in range(1, warps):
            value = combine(value, shared[warp])
        return value

    return across
