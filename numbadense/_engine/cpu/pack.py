"""Packed weights: the layout that the register tile streams through.

::

      w (k, n)                          packed: ceil(n / nr) panels, each (k, nr), rows one after another
      +--------+--------+----+          +--------+ +--------+ +--------+
    k | a      | b      | c  |   -->    | a      | | b      | | c  0000|      nr = vectors * lanes
      +--------+--------+----+          +--------+ +--------+ +--------+
        nr       nr       rest

The k loop of a tile reads one panel from its first byte to its last, and never looks at an edge: the zeros stand in.
"""

import numpy as np

ALIGNMENT = 64  # bytes: a cache line, and the widest vector


def aligned_empty(size: int, dtype: np.dtype) -> np.ndarray:
    """Return an uninitialised 1-D array whose first element lies on an `ALIGNMENT` boundary."""
    raw = np.empty(size * dtype.itemsize + ALIGNMENT, np.uint8)
    offset = -raw.ctypes.data % ALIGNMENT
    return raw[offset : offset + size * dtype.itemsize].view(dtype)


def panels(n: int, nr: int) -> int:
    """Return how many panels of `nr` columns hold `n` columns."""
    return -(-n // nr)


def packed_size(k: int, n: int, nr: int) -> int:
    """Return how many elements a packed layer takes, its bias included."""
    return (k + 1) * panels(n, nr) * nr


def pack_into(buffer: np.ndarray, w: np.ndarray, b: np.ndarray | None, nr: int) -> None:
    """Fill `buffer` with the panels of `w`, of any strides and dtype, and then with the padded bias."""
    k, n = w.shape
    count = panels(n, nr)
    body = buffer[: k * count * nr].reshape(count, k, nr)
    whole = n // nr
    body[:whole] = w[:, : whole * nr].reshape(k, whole, nr).transpose(1, 0, 2)
    if whole < count:
        rest = n - whole * nr
        body[whole, :, :rest] = w[:, whole * nr :]
        body[whole, :, rest:] = 0
    bias = buffer[k * count * nr :]
    bias[:n] = 0 if b is None else b
    bias[n:] = 0
