"""Weights for the dense kernel on tensor cores: rounded or split, in the order in which lanes read them."""

import numpy as np
from numba import cuda

from numbadense._engine.cuda.primitives import as_bits, as_float32, load1, pack_bf16, pack_fp16, store16, to_tf32
from numbadense._engine.cuda.tensor_products import big_part, small_part
from numbadense._engine.cuda.tensor_tiles import COLUMN, DEPTH, FRAGMENT, PARTS

CHUNK = 4  # words


def shape(k: int, n: int, precision: str) -> tuple[int, int, int, int]:
    """Return the shape of packed weights, in words: steps, parts, columns up to a whole fragment, words."""
    return -(-k // DEPTH), PARTS[precision], -(-n // FRAGMENT[1]) * FRAGMENT[1], COLUMN


def make_pack(precision, halves_in, jit):
    """Return the kernel ``pack(w, out)``: float32 weights (k, n) to uint32 of the shape that `shape` says.

    Any grid.  Beyond k and n there are zeros.  A thread has a chunk of out at a time: of lane ``4 g + t``, eight
    features of a column, in a step of 32.  They are those from ``8 t`` on, or, for x in 16 bits, two of each eight:
    ``2 t``, ``2 t + 1``, ``2 t + 8`` and so on.

    ::

        bf16, fp16   8 features, two to a word, the first in the low half
        tf32         part 0: the first 4 features, part 1: the last 4
        3xtf32       parts 0 and 2: those, rounded to tf32; parts 1 and 3: what rounding took, rounded in turn
    """
    store = jit({"tf32": _make_tf32, "3xtf32": _make_split}.get(precision, _make_halves)(precision, jit))
    parts, pieces = PARTS[precision], COLUMN // CHUNK
    element, word, chunk, lane_features, depth = np.float32, np.uint32, CHUNK, DEPTH // 4, DEPTH
    of_lane, of_pair = (2, 8) if halves_in else (8, 2)

    def pack(w, out):
        numbers, words = cuda.local.array(lane_features, element), cuda.local.array(chunk, word)
        k, n = w.shape
        padded = out.shape[2]
        for piece in range(cuda.grid(1), out.size // chunk, cuda.gridsize(1)):
            before = piece // padded
            column = piece - before * padded
            before, t = before // pieces, before % pieces
            step, part = before // parts, before % parts
            for e in range(lane_features):
                p = step * depth + t * of_lane + e // 2 * of_pair + e % 2
                numbers[e] = load1(w, p * n + column) if p < k and column < n else element(0)
            store(part, numbers, words)
            store16(out, ((step * parts + part) * padded + column) * (pieces * chunk) + t * chunk, words, 0)

    return pack


def turn(w, out):
    """Lay out weights of 16 bits for x in float32 when they are for x in 16 bits, and the other way round.

    Expects uint32 as `make_pack` fills it, and out of the same shape, apart.  Any grid.  A column has a chunk of words
    for each lane of four: ``out[..., t, e] = w[..., e, t]``.
    """
    lines, columns = w.shape[0] * w.shape[1], w.shape[2]
    for q in range(cuda.grid(1), lines * columns, cuda.gridsize(1)):
        line = q // columns
        column = q - line * columns
        step = line // w.shape[1]
        part = line - step * w.shape[1]
        for e in range(COLUMN):
            out[step, part, column, e % CHUNK * CHUNK + e // CHUNK] = w[step, part, column, e]


def _make_halves(precision, jit):
    pack = pack_bf16 if precision == "bf16" else pack_fp16

    def halves(part, numbers, words):
        for e in range(4):
            words[e] = pack(numbers[2 * e], numbers[2 * e + 1])

    return halves


def _make_tf32(precision, jit):
    def tf32(part, numbers, words):
        for e in range(4):
            words[e] = to_tf32(numbers[4 + e] if part == 1 else numbers[e])

    return tf32


def _make_split(precision, jit):
    big_of, small_of = jit(big_part), jit(small_part)

    def split(part, numbers, words):
        for e in range(4):
            x = numbers[4 + e] if part >= 2 else numbers[e]
            rounded = as_float32(to_tf32(x))
            words[e] = to_tf32(small_of(rounded, x)) if part % 2 == 1 else as_bits(big_of(rounded, x))

    return split
