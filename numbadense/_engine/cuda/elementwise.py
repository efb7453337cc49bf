"""One-dimensional kernels: an activation over an array, and a copy that gathers and casts."""

import numpy as np
from numba import cuda

from numbadense._engine.cuda.primitives import CHUNK, address, as_bits, as_float32, load16, store16

# Of a float32, and of the half of it that bfloat16 is.
FINITE, INFINITY, LOW = np.uint32(0x7FFF_FFFF), np.uint32(0x7F80_0000), np.uint32(0xFFFF)
FOUR, EIGHT = 4, 8
TIE, QUIET, SIXTEEN, ONE, NONE = (np.uint32(number) for number in (0x8000, 0x40, 16, 1, 0))


def make_elementwise(dtype, scalar):
    """Return the kernel ``out[i] = scalar(x[i])``.

    Expects contiguous 1-D arrays of one size and of `dtype`: the same array, or two apart.  Any grid will do.  Arrays
    that begin at the same distance from a multiple of 16 bytes are read and written in chunks of 16, two of which a
    thread has on their way at once; what is before and behind the chunks goes one by one, as do other arrays.
    """
    element, itemsize = dtype.type, dtype.itemsize
    chunk = CHUNK // itemsize

    def elementwise(x, out):
        one, other = cuda.local.array(chunk, element), cuda.local.array(chunk, element)
        me, step = cuda.grid(1), cuda.gridsize(1)
        begin = address(x)
        before, chunks = 0, 0
        if begin % CHUNK == address(out) % CHUNK:
            before = min(-begin % CHUNK // itemsize, x.size)
            chunks = (x.size - before) // chunk
        q = me
        while q + step < chunks:
            at, next_at = before + q * chunk, before + (q + step) * chunk
            load16(one, 0, x, at)
            load16(other, 0, x, next_at)
            for e in range(chunk):
                one[e] = scalar(one[e])
            store16(out, at, one, 0)
            for e in range(chunk):
                other[e] = scalar(other[e])
            store16(out, next_at, other, 0)
            q += 2 * step
        if q < chunks:
            load16(one, 0, x, before + q * chunk)
            for e in range(chunk):
                one[e] = scalar(one[e])
            store16(out, before + q * chunk, one, 0)
        for i in range(me, x.size - chunks * chunk, step):
            at = i if i < before else i + chunks * chunk
            out[at] = scalar(x[at])

    return elementwise


def make_through_halves(scalar, widen, narrow, reads, writes):
    """Return the kernel ``out[i] = narrow(scalar(widen(x[i])))``.

    Expects contiguous 1-D arrays of one size, apart or the same array: x has the bits of 16-bit floats if it `reads`
    such, out if it `writes` them, and else float32.  Any grid will do.  A thread takes eight elements at a time, 16
    bytes of halves, where both arrays begin at multiples of 16 bytes.
    """

    def elementwise(x, out):
        held, words = cuda.local.array(EIGHT, np.float32), cuda.local.array(FOUR, np.uint32)
        me, step = cuda.grid(1), cuda.gridsize(1)
        pieces = x.size // EIGHT if (address(x) | address(out)) % CHUNK == 0 else 0
        for q in range(me, pieces, step):
            at = q * EIGHT
            if reads:
                load16(words, 0, x, at)
                for e in range(EIGHT):
                    held[e] = widen(np.uint16(words[e // 2] >> np.uint32(16 * (e % 2)) & LOW))
            else:
                load16(held, 0, x, at)
                load16(held, FOUR, x, at + FOUR)
            for e in range(EIGHT):
                held[e] = scalar(held[e])
            if writes:
                for e in range(FOUR):
                    high = np.uint32(np.uint32(narrow(held[2 * e + 1])) << SIXTEEN)
                    words[e] = np.uint32(narrow(held[2 * e])) | high
                store16(out, at, words, 0)
            else:
                store16(out, at, held, 0)
                store16(out, at + FOUR, held, FOUR)
        for i in range(me + pieces * EIGHT, x.size, step):
            out[i] = narrow(scalar(widen(x[i])))

    return elementwise


def make_copy(widen, narrow):
    """Return the kernel ``out[i, j] = narrow(widen(x[i, j]))``.

    Expects 2-D arrays of one shape, apart, of any strides and real dtypes, floats of 16 bits as their bits.  Any grid
    will do.
    """

    def copy(x, out):
        columns = x.shape[1]
        for q in range(cuda.grid(1), x.shape[0] * columns, cuda.gridsize(1)):
            i = q // columns
            j = q - i * columns
            out[i, j] = narrow(widen(x[i, j]))

    return copy


def keep(number):
    """Return a number."""
    return number


def widened_bf16(bits):
    """Return the float32 that the bits of a bfloat16 stand for."""
    return as_float32(np.uint32(np.uint32(bits) << SIXTEEN))


def rounded_bf16(x):
    """Return the bits of the bfloat16 nearest to a float32, ties to even: in integers, as every device can."""
    bits = as_bits(x)
    if bits & FINITE > INFINITY:
        return np.uint16(bits >> SIXTEEN | QUIET)
    # What is kept of the lower half decides, and the last bit of the upper one if that is just half.
    low = bits & LOW
    up = low > TIE or (low == TIE and bits >> SIXTEEN & ONE == ONE)
    return np.uint16((bits >> SIXTEEN) + (ONE if up else NONE))


def to_odd(x):
    """Return a float64 in float32, cut short, and with an odd last bit if that took anything.

    Rounded again, to 16 bits, it is what the float64 would be: to nearest twice need not be the nearest.
    """
    nearest = np.float32(x)
    if nearest == x or x != x:
        return nearest
    bits = as_bits(nearest)
    return as_float32(np.uint32((bits - ONE if abs(nearest) > abs(x) else bits) | ONE))
