"""Weights at half size: float16 and bfloat16 bits, rounded once and widened exactly.

::

    float32    s eeeeeeee mmmmmmmmmmmmmmmmmmmmmmm
    bfloat16   s eeeeeeee mmmmmmm                      the first half of a float32
    float16    s eeeee mmmmmmmmmm                      6e-8 to 65504; what is above becomes infinity

NumPy has no bfloat16, so both are kept as uint16.
"""

from dataclasses import dataclass

import numpy as np

# How a kernel finds the weights: in the dtype it computes in, or in one of these forms, 16 bits each.  The last is for
# CPUs that have no instruction that widens float16.
FULL, FLOAT16, BFLOAT16, FLOAT16_BY_BITS = range(4)
FORMS = {"float16": FLOAT16, "bfloat16": BFLOAT16}
BITS = np.dtype(np.uint16)


@dataclass(frozen=True, slots=True, eq=False)
class Half:
    """Weights of 16 bits each: `kind` is a name in `FORMS`, `bits` a native uint16 array."""

    kind: str
    bits: np.ndarray

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the weights."""
        return self.bits.shape

    @property
    def size(self) -> int:
        """How many weights there are."""
        return self.bits.size

    @property
    def nbytes(self) -> int:
        """The memory they take."""
        return self.bits.nbytes

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        """Return the weights in float32, or another dtype, always a new array."""
        return widened(self.bits, FORMS[self.kind]).astype(dtype or np.float32, copy=False)


def weight_bytes(itemsize: int, form: int) -> int:
    """Return the size of a weight that is kept in a form, and computed in `itemsize` bytes."""
    return itemsize if form == FULL else BITS.itemsize


def form_of(weights) -> int:
    """Return the form that all the weights of a network have in common: `FULL` unless all are of one `kind`."""
    kinds = {w.kind if isinstance(w, Half) else None for w in weights}
    return FORMS.get(kinds.pop(), FULL) if len(kinds) == 1 else FULL


def packable(w, form: int) -> np.ndarray:
    """Return what a program packs of weights: their bits, if that is its form, or their values."""
    return np.asarray(w) if form == FULL else w.bits


def widened(bits: np.ndarray, form: int) -> np.ndarray:
    """Return the float32 values of bits, exactly."""
    if form == BFLOAT16:
        return (bits.astype(np.uint32) << 16).view(np.float32)
    with np.errstate(invalid="ignore"):  # NaN stays NaN
        return bits.view(np.float16).astype(np.float32)


def rounded(w: np.ndarray, kind: str) -> Half:
    """Return native float32 or float64 weights in 16 bits each: to nearest, ties to even; NaN stays NaN."""
    if kind == "float16":
        with np.errstate(over="ignore", invalid="ignore"):
            return Half(kind, _read_only(w.astype(np.float16)).view(BITS))
    bits = _to_odd(w).view(np.uint32)
    nan = (bits & 0x7FFF_FFFF) > 0x7F80_0000
    even = (bits + (0x7FFF + (bits >> 16 & 1))) >> 16
    quiet = bits >> 16 | 0x40  # a payload that is all in the low half would leave infinity
    return Half(kind, _read_only(np.where(nan, quiet, even).astype(BITS)))


def _read_only(array: np.ndarray) -> np.ndarray:
    """Return a new array as one that nobody need copy."""
    array.flags.writeable = False
    return array


def _to_odd(w: np.ndarray) -> np.ndarray:
    """Return `w` in float32: what is not exact is cut short and gets an odd last bit, so that rounding again is right.

    Two roundings to nearest, to float32 and to bfloat16, would not give the nearest bfloat16.
    """
    if w.dtype == np.float32:
        return w
    with np.errstate(all="ignore"):
        nearest = w.astype(np.float32)
        bits = nearest.view(np.uint32) - (abs(nearest) > abs(w))
    return (bits | (nearest != w)).astype(np.uint32).view(np.float32)
