"""Packed weights: the layout that the register tile streams through.

::

      w (k, n)                          packed: ceil(n / nr) panels, each (k, nr), rows one after another
      +--------+--------+----+          +--------+ +--------+ +--------+
    k | a      | b      | c  |   -->    | a      | | b      | | c  0000|      nr = vectors * lanes
      +--------+--------+----+          +--------+ +--------+ +--------+
        nr       nr       rest

The k loop of a tile reads one panel from its first byte to its last, and never looks at an edge: the zeros stand in.

Weights in bfloat16 lie in pairs, but for the last vector of an odd number: a 32-bit word has the weights of two
neighbouring vectors in the same lane.  A shift widens the one and a mask the other, where widening 16 bits to 32 first
takes twice the time of the multiply-add.

::

      a row of a panel, two vectors of lanes            words, the low half first
      | a0 a1 a2 a3 ... | b0 b1 b2 b3 ... |   -->       | a0 b0 | a1 b1 | a2 b2 | a3 b3 | ...
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


def packed_bytes(k: int, n: int, nr: int, w_bytes: int, b_bytes: int) -> tuple[int, int]:
    """Return the bytes that a layer's packed weights and bias take, each up to a whole `ALIGNMENT`."""
    padded = panels(n, nr) * nr
    sizes = k * padded * w_bytes, padded * b_bytes
    return tuple(-(-size // ALIGNMENT) * ALIGNMENT for size in sizes)


def pack_weights(buffer: np.ndarray, w: np.ndarray, nr: int) -> np.ndarray:
    """Fill the beginning of `buffer` with the panels of `w`, of any strides and dtype; return it in its shape."""
    k, n = w.shape
    count = panels(n, nr)
    body = buffer[: k * count * nr].reshape(count, k, nr)
    whole = n // nr
    body[:whole] = w[:, : whole * nr].reshape(k, whole, nr).transpose(1, 0, 2)
    if whole < count:
        rest = n - whole * nr
        body[whole, :, :rest] = w[:, whole * nr :]
        body[whole, :, rest:] = 0
    return body


def pair(body: np.ndarray, lanes: int) -> None:
    """Pair the neighbouring vectors of packed uint16 weights, ``(panels, k, nr)``, in place."""
    k, pairs = body.shape[1], body.shape[2] // (2 * lanes)
    for panel in body[:, :, : pairs * 2 * lanes]:
        low, high = panel.reshape(k, pairs, 2, lanes).transpose(2, 0, 1, 3).astype(np.uint32)
        panel[:] = (low | high << 16).reshape(k, pairs * lanes).view(np.uint16)


def unpaired(rows: np.ndarray, lanes: int) -> np.ndarray:
    """Return contiguous rows of packed uint16 weights, ``(k, nr)``, with each weight in its own column again."""
    k, pairs = len(rows), rows.shape[1] // (2 * lanes)
    columns = rows.copy()
    words = rows.view(np.uint32)[:, : pairs * lanes].reshape(k, pairs, lanes)
    columns[:, : pairs * 2 * lanes] = np.stack([words & 0xFFFF, words >> 16], axis=2).reshape(k, pairs * 2 * lanes)
    return columns


def pack_bias(buffer: np.ndarray, b: np.ndarray | None, n: int) -> None:
    """Fill `buffer` with a bias of `n` elements, padded."""
    buffer[:n] = 0 if b is None else b
    buffer[n:] = 0
