"""NumPy twins of `numbadense._engine.cuda.ptx.matrix`: tensor cores for numba's simulator.

Products are exact, and each sum of them is rounded once; a device may keep fewer bits in between.  A lane, ``l = 4 g +
t``, holds of the product of a 16 x 16 and a 16 x 8 matrix (for tf32, in parentheses, 16 x 8 and 8 x 8)::

    a[0]  row g,      columns 2t, 2t + 1  (row g,     column t)      b[0]  rows 2t, 2t + 1,  column g  (row t)
    a[1]  row g + 8,  columns 2t, 2t + 1  (row g + 8, column t)      b[1]  rows 2t + 8, + 9, column g  (row t + 4)
    a[2]  row g,      columns 2t + 8, + 9 (row g,     column t + 4)
    a[3]  row g + 8,  columns 2t + 8, + 9 (row g + 8, column t + 4)  sums  row g, columns 2t, 2t + 1; row g + 8

The number in the low half of a uint32 comes first.
"""

import numpy as np

from numbadense._engine.cuda.twin.memory import CHUNK, part
from numbadense._engine.cuda.twin.warp import collective

__all__ = [
    "as_bits",
    "as_float32",
    "ldmatrix",
    "mma_bf16",
    "mma_fp16",
    "mma_tf32",
    "pack_bf16",
    "pack_fp16",
    "to_tf32",
    "widen_fp16",
]

TF32_DROPPED = np.uint32((1 << 13) - 1)
LANES = np.arange(32)
ROW, TWO = LANES // 4, LANES % 4 * 2


def _from_bf16(words):
    halves = np.ascontiguousarray(words, np.uint32).view(np.uint16)
    return (halves.astype(np.uint32) << np.uint32(16)).view(np.float32).astype(np.float64)


def _from_fp16(words):
    return np.ascontiguousarray(words, np.uint32).view(np.float16).astype(np.float64)


def _from_tf32(words):
    words = np.ascontiguousarray(words, np.uint32)
    assert not (words & TF32_DROPPED).any(), "an operand of a tf32 product has bits that tensor cores drop: round it"
    return words.view(np.float32).astype(np.float64)


def _make_mma(widen, per_word):
    """Return the function that adds the product of two fragments to four sums; `widen` gives the numbers of uint32s."""
    k = 8 * per_word
    columns = per_word * (LANES % 4)

    def multiply(given):
        a, b, total = (np.array([lane[q] for lane in given]) for q in range(3))
        a, b = (widen(words).reshape(32, -1, per_word) for words in (a, b))
        left, right, sums = np.empty((16, k)), np.empty((k, 8)), np.empty((16, 8))
        for e in range(per_word):
            for q in range(4):
                left[ROW + q % 2 * 8, columns + e + q // 2 * (k // 2)] = a[:, q, e]
            for q in range(2):
                right[columns + e + q * (k // 2), ROW] = b[:, q, e]
        for q in range(4):
            sums[ROW + q // 2 * 8, TWO + q % 2] = total[:, q]
        found = (left @ right + sums).astype(np.float32)
        return list(np.stack([found[ROW + q // 2 * 8, TWO + q % 2] for q in range(4)], axis=1))

    def mma(total, total_at, a, a_at, b, b_at):
        sums = part(total, total_at, 4)
        given = part(a, a_at, 4).copy(), part(b, b_at, 2).copy(), sums.copy()
        sums[:] = collective(given, multiply)

    return mma


mma_bf16 = _make_mma(_from_bf16, 2)
mma_fp16 = _make_mma(_from_fp16, 2)
mma_tf32 = _make_mma(_from_tf32, 1)


def ldmatrix(registers, at, shared, index):
    """Load four matrices of 8 by 8 numbers of 16 bits; each lane says where one row begins."""
    row = part(shared, index, CHUNK // shared.itemsize)
    assert row.ctypes.data % CHUNK == 0, f"element {index} is not aligned for a row of a matrix"
    part(registers, at, 4)[:] = collective(row.view(np.uint16).copy(), _exchange)


def _exchange(rows):
    return list(np.array(rows).reshape(4, 8, 8).view(np.uint32).transpose(1, 2, 0).reshape(32, 4))


def pack_bf16(low, high):
    """Return two float32, each rounded to the nearest bfloat16, ties to even, in one uint32."""
    bits = np.array([low, high], np.float32).view(np.uint32)
    rounded = (bits + np.uint32(0x7FFF) + (bits >> np.uint32(16) & np.uint32(1))) >> np.uint32(16)
    rounded[np.isnan([low, high])] = 0x7FFF  # as the instruction does
    return rounded[0] | rounded[1] << np.uint32(16)


def pack_fp16(low, high):
    """Return two float32, each rounded to the nearest float16, ties to even, in one uint32."""
    with np.errstate(over="ignore"):
        return np.array([low, high], np.float32).astype(np.float16).view(np.uint32)[0]


def to_tf32(number):
    """Return a float32 rounded to ten bits after the point, ties away from zero, as the bits of a float32."""
    bits = as_bits(number)
    if not np.isfinite(np.float32(number)):
        return bits & ~TF32_DROPPED if np.isinf(number) else np.uint32(0x7FFFE000)
    return np.uint32((int(bits) + 0x1000) & ~0x1FFF)


def widen_fp16(bits):
    """Return the float32 that the bits of a float16 stand for."""
    with np.errstate(invalid="ignore"):
        return np.uint16(bits).view(np.float16).astype(np.float32)


def as_float32(bits):
    """Return the float32 of these bits."""
    return np.uint32(bits).view(np.float32)


def as_bits(number):
    """Return the bits of a float32."""
    return np.float32(number).view(np.uint32)
