"""A network as the kernel of `fused_tensor` reads it: one buffer of uint32.

::

    layer   k | n | activation | row-wise     0 for none; the other is identity where there is one
            b[0] b[1] ... 0 0                 float32, as many as the kernel is wide
            weights                           for each 16 features, for each 16 outputs, for each lane: 4 words

    word w of lane 4 g + t has, of these 16 by 16, the features 4 t + 2 (w % 2) and the next, in its low and its high
    half, and the output 4 (g // 2) + 2 (w // 2) + g % 2

That is in the order of fragments, as `fused_tensor` draws it: two products of 8 outputs each, both with features 4 t to
4 t + 3 in lane t.  All that a layer lacks to the width of the kernel is 0.
"""

from collections.abc import Sequence

import numpy as np

from numbadense._engine import half
from numbadense._engine.cuda.fused_tensor import FACTS, TILE, words
from numbadense._engine.cuda.program import code_of

KINDS = {"bf16": "bfloat16", "fp16": "float16"}
_LANE, _WORD, _PART = np.indices((32, 4, 2))
FEATURE = 4 * (_LANE % 4) + 2 * (_WORD % 2) + _PART
OUTPUT = 4 * (_LANE // 4 // 2) + 2 * (_WORD // 2) + _LANE // 4 % 2


def size_of(shapes: Sequence[tuple[int, int]], width: int) -> int:
    """Return how many words the program of a network has."""
    return len(shapes) * words(width)


def pack(weights: Sequence, biases: Sequence, chosen: Sequence, precision: str, width: int) -> np.ndarray:
    """Return the programs, a row each, of networks of one shape, for a kernel so wide.

    For each layer there are ``w``, ``(networks, k, n)``, ``b``, ``(networks, n)`` or None, and its activation.
    """
    count, groups = len(weights[0]), width // TILE
    programs = np.zeros((count, len(weights), words(width)), np.uint32)
    for layer, w, b, activation in zip(programs.swapaxes(0, 1), weights, biases, chosen, strict=True):
        k, n = w.shape[1:]
        code = code_of(activation)
        layer[:, :FACTS] = (k, n, 0, code) if activation.rowwise else (k, n, code, 0)
        if b is not None:
            layer[:, FACTS : FACTS + n] = np.ascontiguousarray(b, np.float32).view(np.uint32)
        square = np.zeros((count, width, width), np.uint16)
        square[:, :k, :n] = half.rounded(np.ascontiguousarray(w, np.float32), KINDS[precision]).bits
        tiles = square.reshape(count, groups, TILE, groups, TILE).swapaxes(2, 3)
        fragments = np.ascontiguousarray(tiles[:, :, :, FEATURE, OUTPUT])
        layer[:, FACTS + width :] = fragments.view("<u4").reshape(count, -1)
    return programs.reshape(count, -1)
