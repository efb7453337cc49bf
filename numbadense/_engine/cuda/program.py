"""A network as the device function of `forward` reads it: one buffer of the network's dtype.

::

    header   layers | n_in | widest | 0       whole numbers, which float32 holds exactly below 2**24

    layer    k | n | activation | row-wise    0 for none; the other is identity where there is one
             b[0:4]     w[0, 0:4]    w[1, 0:4]   ...   w[k - 1, 0:4]   padding to a multiple of 4 rows
             b[4:8]     w[0, 4:8]    w[1, 4:8]   ...                   padding
             ...                                                       in as many groups of 4 as n needs

So that a thread reads it from front to back, four numbers at a time, each four on a boundary of 16 bytes.  The padding
is -0: its product with an input of +0, added to any sum, leaves that sum as it is.

For the device function of `forward_warp`, whose lanes read four outputs each, side by side, the last of the header is 1
and a layer is by rows::

    layer    k | n | activation | row-wise
             b[0:n]        padding to a multiple of 4 columns
             w[0, 0:n]     padding
             ...
             w[k - 1, 0:n] padding to a multiple of 4 rows

which is as many numbers.
"""

from collections.abc import Sequence

import numpy as np

from numbadense import activations

FOUR = 4  # numbers that are read at once, and outputs that are summed at once


def code_of(activation) -> int:
    """Return the number of an activation: its place among those registered; 0 is identity."""
    return list(activations.REGISTRY).index(activation.name)


def padded(size: int) -> int:
    """Return `size` as the next multiple of four."""
    return -(-size // FOUR) * FOUR


def size_of(shapes: Sequence[tuple[int, int]]) -> int:
    """Return how many numbers the program of a network has."""
    return FOUR + sum(FOUR + padded(n) * (1 + padded(k)) for k, n in shapes)


def pack(weights: Sequence, biases: Sequence, chosen: Sequence, dtype: np.dtype, warp: bool = False) -> np.ndarray:
    """Return the programs, a row each, of networks of one shape, in the order for a thread or for a `warp`.

    For each layer there are ``w``, ``(networks, k, n)``, ``b``, ``(networks, n)`` or None, and its activation.
    """
    count = len(weights[0])
    shapes = [w.shape[1:] for w in weights]
    programs = np.full((count, size_of(shapes)), -0.0, dtype)
    widest = max(max(shape) for shape in shapes)
    programs[:, :FOUR] = len(shapes), shapes[0][0], widest, warp
    at = FOUR
    for w, b, activation in zip(weights, biases, chosen, strict=True):
        k, n = w.shape[1:]
        code, wide, deep = code_of(activation), padded(n), padded(k)
        programs[:, at : at + FOUR] = (k, n, 0, code) if activation.rowwise else (k, n, code, 0)
        at += FOUR
        by_rows = np.full((count, 1 + deep, wide), -0.0, dtype)
        by_rows[:, 0, :n] = 0 if b is None else b
        by_rows[:, 1 : 1 + k, :n] = w
        if not warp:
            by_rows = by_rows.reshape(count, 1 + deep, wide // FOUR, FOUR).swapaxes(1, 2)
        programs[:, at : at + wide * (1 + deep)] = by_rows.reshape(count, -1)
        at += wide * (1 + deep)
    return programs
