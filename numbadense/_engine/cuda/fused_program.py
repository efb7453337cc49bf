"""A network as the kernel of `fused` reads it: one buffer of the network's dtype.

::

    header    where the weights begin | 0 | 0 | 0             whole numbers, which float32 holds exactly below 2**24

    layer 0   k | n | activation | row-wise                0 for none; the other is identity where there is one
              b[0] b[1] ... 0 0                            as many as the kernel is wide
    layer 1   ...

    weights   w[0, 0] w[0, 1] ... 0 0                      of layer 0
              ...
              w[k - 1, 0] ...
              -0 -0 ...                                    in as many rows as k lacks to a multiple of `depth`
              w[0, 0] w[0, 1] ...                          of layer 1

The outputs beyond the last are not used.  The features beyond the last are +0, and -0 times +0 leaves any sum as it is.
Where weights are copied in pieces, `depth` is the features of a piece; else it is a chunk.
"""

from collections.abc import Sequence

import numpy as np

from numbadense._engine.cuda.program import FOUR, code_of


def padded(k: int, depth: int) -> int:
    """Return the number of features as a multiple of `depth`."""
    return -(-k // depth) * depth


def size_of(shapes: Sequence[tuple[int, int]], width: int, depth: int) -> int:
    """Return how many numbers the program of a network has."""
    return FOUR + sum(FOUR + width * (1 + padded(k, depth)) for k, _ in shapes)


def pack(weights: Sequence, biases: Sequence, chosen: Sequence, dtype: np.dtype, width: int, depth: int) -> np.ndarray:
    """Return the programs, a row each, of networks of one shape, for a kernel so wide.

    For each layer there are ``w``, ``(networks, k, n)``, ``b``, ``(networks, n)`` or None, and its activation.
    """
    count, shapes = len(weights[0]), [w.shape[1:] for w in weights]
    programs = np.zeros((count, size_of(shapes, width, depth)), dtype)
    at, row = FOUR, FOUR + len(shapes) * (FOUR + width)
    programs[:, 0] = row
    for w, b, activation in zip(weights, biases, chosen, strict=True):
        k, n = w.shape[1:]
        code, end = code_of(activation), row + padded(k, depth) * width
        programs[:, at : at + FOUR] = (k, n, 0, code) if activation.rowwise else (k, n, code, 0)
        programs[:, at + FOUR : at + FOUR + n] = 0 if b is None else b
        rows = programs[:, row:end].reshape(count, -1, width)
        rows[:, :k, :n], rows[:, k:] = w, -0.0
        at, row = at + FOUR + width, end
    return programs
