"""The 128 bytes that tell the unit which copies boxes where a matrix is: encoded by the driver, kept on the device.

A kernel of numba has no parameter of 128 bytes by value, so that a map lies in global memory; kernels make it visible
to the unit by a fence.  A map holds an address and a shape, nothing else: it may be kept for as long as it is needed
again, whoever owns the memory.
"""

import ctypes
import functools

import numpy as np
from numba import cuda

from numbadense._engine.cuda import memory
from numbadense._engine.cuda.device import simulated
from numbadense._engine.cuda.twin import boxes
from numbadense.errors import DeviceError

ALIGNED, WORDS = 64, 16  # bytes; uint64
KEPT = 8192  # maps, by address and shape: two a layer, and a graph finds again all that its first run made
ROW = 128  # bytes of a row of a box
# Of CUDA's enumerations (cuda.h).  Halves go as integers, whose bits nothing changes; float32 is rounded to tf32 by
# the copy, as in CUTLASS, where the multiplication would cut it off.
UINT16, TFLOAT32 = 1, 11
NOT_INTERLEAVED, SWIZZLE_128, PROMOTE_256, FILL_ZEROS = 0, 3, 3, 0
SUCCESS = 0
_kept: dict = {}
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


def of(matrix, columns: int, high: int, stream):
    """Return the map, on the device, of the first `columns` of a C-contiguous 2-D device array."""
    itemsize, rows = matrix.dtype.itemsize, int(matrix.shape[0])
    facts = memory.address(matrix), itemsize, columns, rows, int(matrix.shape[1]) * itemsize, high
    # What was copied on a stream is there for what runs on it later, not for other streams.
    key = (0, 0, facts) if simulated() else (cuda.get_current_device().id, int(stream), facts)
    found = _kept.get(key)
    if found is None:
        found = _kept[key] = _upload(facts, stream)
        while len(_kept) > KEPT:
            _kept.pop(next(iter(_kept)), None)
    return memory.keep(found)


def _upload(facts, stream):
    words = boxes.encode(*facts) if simulated() else encode(*facts)
    room = memory.empty((2 * WORDS,), words.dtype, stream)
    at = -memory.address(room) % ALIGNED // words.itemsize
    placed = room[at : at + WORDS]
    memory.send(placed, words, stream)
    return placed
