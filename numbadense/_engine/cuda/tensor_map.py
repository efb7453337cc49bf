"""The 128 bytes that tell the unit which copies boxes where a matrix is: encoded by the driver.

A map holds an address and a shape, nothing else.  A kernel takes one as sixteen numbers and writes it to global memory,
where the unit reads it, for a kernel of numba has no parameter of 128 bytes by value: no map is kept on the device, and
a graph has its own among the parameters of its launches.
"""

import ctypes
import functools

import numpy as np

from numbadense._engine.cuda import memory
from numbadense._engine.cuda.device import simulated
from numbadense._engine.cuda.twin import boxes
from numbadense.errors import DeviceError

ALIGNED, WORDS = 64, 16  # bytes; uint64
KEPT = 8192  # maps, by address and shape
ROW = 128  # bytes of a row of a box
# Of CUDA's enumerations (cuda.h).  Halves go as integers, whose bits nothing changes; float32 is rounded to tf32 by
# the copy, as in CUTLASS, where the multiplication would cut it off.
UINT16, TFLOAT32 = 1, 11
NOT_INTERLEAVED, SWIZZLE_128, PROMOTE_256, FILL_ZEROS = 0, 3, 3, 0
SUCCESS = 0
LEAST_DRIVER = 12000


@functools.cache
def encoder():
    """Return the driver's ``cuTensorMapEncodeTiled``.

    That of cuda.bindings writes to memory that Python aligns to 16 bytes, where the driver expects 64.
    """
    from cuda.bindings import driver

    status, pointer, _ = driver.cuGetProcAddress(b"cuTensorMapEncodeTiled", LEAST_DRIVER, 0)
    if int(status) != SUCCESS or not pointer:
        raise DeviceError(
            f"the driver has no cuTensorMapEncodeTiled ({getattr(status, 'name', status)}) but Hopper's kernels need "
            "it; install a driver of CUDA 12 or later."
        )
    number, size, word = ctypes.c_int, ctypes.c_uint64, ctypes.c_uint32
    sizes, words = ctypes.POINTER(size), ctypes.POINTER(word)
    operands = (ctypes.c_void_p, number, word, ctypes.c_void_p, sizes, sizes, words, words, *(number,) * 4)
    return ctypes.CFUNCTYPE(number, *operands)(int(pointer))


def encode(address: int, itemsize: int, columns: int, rows: int, pitch: int, high: int) -> np.ndarray:
    """Return the map of a matrix at `address` whose rows are `pitch` bytes apart, for boxes `high` rows high."""
    room = np.zeros(2 * WORDS, np.uint64)
    at = -room.ctypes.data % ALIGNED // room.itemsize
    words = room[at : at + WORDS]
    two, one = ctypes.c_uint64 * 2, ctypes.c_uint64 * 1
    pair = ctypes.c_uint32 * 2
    box = ROW // itemsize, high
    status = encoder()(
        words.ctypes.data,
        UINT16 if itemsize == 2 else TFLOAT32,
        2,
        address,
        two(columns, rows),
        one(pitch),
        pair(*box),
        pair(1, 1),
        NOT_INTERLEAVED,
        SWIZZLE_128,
        PROMOTE_256,
        FILL_ZEROS,
    )
    if status != SUCCESS:
        raise DeviceError(
            f"cuTensorMapEncodeTiled failed with error {status} for a matrix of {rows} x {columns} elements of "
            f"{itemsize} bytes, at {address:#x}, rows {pitch} bytes apart, in boxes of {high} x {box[0]}; the address "
            "and the distance of rows have to be multiples of 16."
        )
    return words


@functools.lru_cache(maxsize=KEPT)
def parameters(address: int, itemsize: int, columns: int, rows: int, pitch: int, high: int) -> tuple[int, ...]:
    """Return the same map as numbers with a sign, which a kernel takes."""
    words = (boxes.encode if simulated() else encode)(address, itemsize, columns, rows, pitch, high)
    return tuple(int(word) for word in words.view(np.int64))


def of(matrix, columns: int, high: int) -> tuple[int, ...]:
    """Return the map of the first `columns` of a C-contiguous 2-D device array."""
    itemsize, rows = matrix.dtype.itemsize, int(matrix.shape[0])
    return parameters(memory.address(matrix), itemsize, columns, rows, int(matrix.shape[1]) * itemsize, high)
