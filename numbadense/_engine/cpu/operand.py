"""NumPy arrays as kernels borrow them: fields read where they lie, with no reference taken and nothing converted.

Numba's own way from an array argument to a kernel takes 35-125 nanoseconds an argument; on one row of a small network
that is more than the arithmetic.  An `Operand` is the address of any object.  A kernel has to compare its `KIND` with
the address of `numpy.ndarray` before it may read the words after it:

::

    word  0      1      2      3      4       5         6      7       8
          refs   KIND   DATA   NDIM   SHAPE   STRIDES   base   DTYPE   FLAGS      NDIM and FLAGS: the low half
"""

import ctypes
import struct

import numpy as np
from numba import types
from numba.extending import NativeValue, models, register_model, unbox

from numbadense._engine.cpu.tile import I64

# CPython's object header, then NumPy's C API: PyArrayObject_fields, the same since 1.7.
KIND, DATA, NDIM, SHAPE, STRIDES, DTYPE, FLAGS = 1, 2, 3, 4, 5, 7, 8
LOW_HALF = 0xFFFF_FFFF
C_CONTIGUOUS, ALIGNED, WRITEABLE = 0x1, 0x100, 0x400  # bits of FLAGS


class Operand(types.Type):
    """An argument of which a kernel gets the address."""

    def __init__(self):
        super().__init__("numbadense.Operand")


operand = Operand()
register_model(Operand)(models.IntegerModel)
Operand.bitwidth, Operand.signed = 64, True


@unbox(Operand)
def _unbox(kind, obj, c):
    return NativeValue(c.builder.ptrtoint(obj, I64))


def readable() -> bool:
    """Say whether arrays lie in memory as drawn above: checked on one, for no interpreter promises it."""
    if struct.calcsize("P") != 8 or object.__basicsize__ != 16 or struct.pack("=h", 1) != struct.pack("<h", 1):
        return False
    array = np.zeros((3, 5), np.float32)[:, ::2]
    words = (ctypes.c_int64 * (FLAGS + 1)).from_address(id(array))
    if (words[KIND], words[DATA], words[DTYPE]) != (id(np.ndarray), array.ctypes.data, id(array.dtype)):
        return False
    if (words[NDIM] & LOW_HALF, words[FLAGS] & LOW_HALF) != (array.ndim, array.flags.num):
        return False
    pair = ctypes.c_int64 * 2
    return tuple(pair.from_address(words[SHAPE])) == array.shape and tuple(pair.from_address(words[STRIDES])) == (
        array.strides
    )
