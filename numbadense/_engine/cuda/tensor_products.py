"""The inner part of the dense kernel on tensor cores: a step of 32 features, from shared memory to the sums."""

import math

import numpy as np

from numbadense._engine.cuda.primitives import (
    as_bits,
    as_float32,
    lane,
    ldmatrix,
    load16,
    mma_bf16,
    mma_fp16,
    mma_tf32,
    pack_bf16,
    pack_fp16,
)
from numbadense._engine.cuda.tensor_tiles import COLUMN, DEPTH, FRAGMENT, HALVES

KEPT = np.uint32(0xFFFFE000)  # the bits of a float32 that tf32 has
# A third of the last place of tf32, on top of a number that is then cut: errors are two thirds of it at most, and next
# to nothing on average.  The conversion of the hardware, half at most, is two instructions that want their results
# where x was loaded, and copies of them for every product: 894 in the loop of the largest tile instead of 349.
THIRD = np.float32(1 + 2**-10 / 3)
INFINITY, ONE = np.float32(np.inf), np.float32(1)


def nearly(x):
    """Return a float32 rounded to tf32, nearly to the nearest, as bits; what is one stays, infinity and NaN too."""
    return as_bits(x * THIRD) & KEPT


def big_part(rounded, x):
    """Return the first part of x, which is `rounded` unless that is infinite: then it is 1 of its sign.

    The products of parts, small by big, big by small and big by big, are then finite but for those of the small part,
    which is x.  With infinity for the big part, zeros in the other's small part would make NaN of it.
    """
    return math.copysign(ONE, x) if abs(rounded) == INFINITY else rounded


def small_part(rounded, x):
    """Return the other part of x: what rounding took, or all of what is infinite."""
    return x if abs(rounded) == INFINITY else x - rounded


def make_multiply(tile, precision, x_is_half, jit):
    """Return the function that adds the products of a step: ``multiply(shared, x_at, w_at, total, a, held, sums)``.

    `x_at` is where the first row of the warp begins, `w_at` the lane's first chunk of weights.  The last three
    are registers: 16 words for each fragment of x, 8 words for one of w, and 4 sums for each fragment of x.
    """
    if precision in HALVES:
        return jit(make_halves(tile, precision, x_is_half, jit))
    return jit(make_tf32(tile, jit) if precision == "tf32" else make_split(tile, jit))


def swapped_float32(row):
    """Return which bits of the place of a word in a row of x, in float32, are turned over in shared memory."""
    return (row & 1) * 4


def swapped_half(row):
    """Return which bits of the place of a word in a row of x, in 16 bits, are turned over in shared memory."""
    return (row // 2 & 3) * 4


def make_float32_at(jit):
    """Return the function that says where the half `h` of a lane's features begins, in its first row of x in float32.

    Counted from the first row of the warp.  A lane has two chunks side by side, and rows that are all odd or all even.
    """
    swapped = jit(swapped_float32)

    def at(me, h):
        row = me // 4
        return row * DEPTH + ((me % 4 * 2 + h) * 4 ^ swapped(row))

    return at


def make_half_at(jit):
    """Return the function that says where the row begins that a lane names to `ldmatrix`, for x in 16 bits.

    Counted from the first row of the warp; of features 16 s to 16 s + 15.
    """
    swapped = jit(swapped_half)

    def at(me, s):
        row = me % 16
        return row * (DEPTH // 2) + ((s * 2 + me // 16) * 4 ^ swapped(row))

    return at


def make_halves(tile, precision, x_is_half, jit):
    """Return `multiply` for 16 bits: x comes in 16 bits, or is rounded here, on its way from shared memory."""
    high, wide = tile.fragments
    mma, pack = (mma_bf16, pack_bf16) if precision == "bf16" else (mma_fp16, pack_fp16)
    down, across = FRAGMENT
    column, row_words = across * COLUMN, DEPTH
    float32_at, half_at = jit(make_float32_at(jit)), jit(make_half_at(jit))

    def from_float32(shared, x_at, a, held):
        me = lane()
        for h in range(2):
            at = x_at + float32_at(me, h)
            for i in range(high):
                for r in range(2):
                    load16(held, 0, shared, at + (i * down + r * 8) * row_words)
                    a[i * 8 + h * 4 + r] = pack(as_float32(held[0]), as_float32(held[1]))
                    a[i * 8 + h * 4 + 2 + r] = pack(as_float32(held[2]), as_float32(held[3]))

    def from_half(shared, x_at, a, held):
        me = lane()
        for s in range(2):
            at = x_at + half_at(me, s)
            for i in range(high):
                ldmatrix(a, i * 8 + s * 4, shared, at + i * down * (row_words // 2))

    load_x = jit(from_half if x_is_half else from_float32)

    def multiply(shared, x_at, w_at, total, a, held, sums):
        load_x(shared, x_at, a, held)
        for j in range(wide):
            load16(held, 0, shared, w_at + j * column)
            for s in range(2):
                for i in range(high):
                    mma(total, (i * wide + j) * 4, a, i * 8 + s * 4, held, s * 2)

    return multiply


def make_tf32(tile, jit):
    """Return `multiply` for tf32: x is rounded on its way from shared memory, half of the step at a time."""
    high, wide = tile.fragments
    down, across = FRAGMENT
    column, part, row_words = across * COLUMN, tile.columns * COLUMN, DEPTH
    float32_at = jit(make_float32_at(jit))
    round_x = jit(nearly)

    def half(h, shared, x_at, w_at, total, a, held):
        at = x_at + float32_at(lane(), h)
        for i in range(high):
            for r in range(2):
                load16(held, 0, shared, at + (i * down + r * 8) * row_words)
                for e in range(4):
                    a[i * 8 + e * 2 + r] = round_x(as_float32(held[e]))
        for j in range(wide):
            load16(held, 0, shared, w_at + h * part + j * column)
            for s in range(2):
                for i in range(high):
                    mma_tf32(total, (i * wide + j) * 4, a, i * 8 + s * 4, held, s * 2)

    half_of = jit(half)

    def multiply(shared, x_at, w_at, total, a, held, sums):
        half_of(0, shared, x_at, w_at, total, a, held)
        half_of(1, shared, x_at, w_at, total, a, held)

    return multiply


def make_split(tile, jit):
    """Return `multiply` for 3xtf32: of 16 features, small products first, in sums of their own."""
    high, wide = tile.fragments
    down, across = FRAGMENT
    column, part, row_words = across * COLUMN, tile.columns * COLUMN, DEPTH
    float32_at = jit(make_float32_at(jit))
    rest, sums_size = high * 8, high * 4
    big_of, small_of, round_x = jit(big_part), jit(small_part), jit(nearly)

    def half(h, shared, x_at, w_at, total, a, held, sums):
        at = x_at + float32_at(lane(), h)
        for i in range(high):
            for r in range(2):
                load16(held, 0, shared, at + (i * down + r * 8) * row_words)
                for e in range(4):
                    x = as_float32(held[e])
                    rounded = as_float32(round_x(x))
                    a[i * 8 + e * 2 + r] = as_bits(big_of(rounded, x))
                    a[rest + i * 8 + e * 2 + r] = round_x(small_of(rounded, x))
        for j in range(wide):
            load16(held, 0, shared, w_at + 2 * h * part + j * column)
            load16(held, 4, shared, w_at + (2 * h + 1) * part + j * column)
            for q in range(sums_size):
                sums[q] = 0
            for s in range(2):
                for i in range(high):
                    mma_tf32(sums, i * 4, a, rest + i * 8 + s * 4, held, s * 2)
            for s in range(2):
                for i in range(high):
                    mma_tf32(sums, i * 4, a, i * 8 + s * 4, held, 4 + s * 2)
            for s in range(2):
                for i in range(high):
                    mma_tf32(sums, i * 4, a, i * 8 + s * 4, held, s * 2)
            for i in range(high):
                for q in range(4):
                    total[(i * wide + j) * 4 + q] += sums[i * 4 + q]

    half_of = jit(half)

    def multiply(shared, x_at, w_at, total, a, held, sums):
        for h in range(2):
            half_of(h, shared, x_at, w_at, total, a, held, sums)

    return multiply
