"""Device memory for the time of a call: bytes, taken and given back in the order of the call's stream.

To allocate by CUDA's own call costs more than a small kernel, and to give that back waits for the device.  PyTorch and
CuPy keep what they have had for the next time, and note it in the graphs that they capture; for arrays that are
neither's, a pool of the driver's does.
"""

import contextlib
import functools
import math

import numpy as np

from numbadense._engine.cuda import current, failures, memory
from numbadense._engine.cuda.borrowed import Borrowed, borrow, current_stream, library_of
from numbadense._engine.cuda.device import simulated

BYTE, BOUNDARY = np.dtype("uint8"), 256
KEPT = 1 << 28  # bytes that a pool keeps, when all is given back, for the next time


def padded(nbytes: int) -> int:
    """Return the bytes up to where another array may begin."""
    return -(-nbytes // BOUNDARY) * BOUNDARY


def bytes_of(shape: tuple[int, ...], dtype: np.dtype) -> int:
    """Return what an array takes, up to where another may begin."""
    return padded(math.prod(shape) * dtype.itemsize)


def made(nbytes: int, stream) -> Borrowed | None:
    """Return so many bytes, which live as long as what is returned; None for none."""
    if not nbytes:
        return None
    if not simulated():
        return borrow(memory.empty((nbytes,), BYTE, stream))
    found = borrow(memory.empty((nbytes + BOUNDARY,), BYTE, stream))
    found.owner[:] = 0xFF  # which is NaN
    return found.part(-found.address % BOUNDARY, (nbytes,), BYTE)


@contextlib.contextmanager
def taken(nbytes: int, stream, like=None):
    """Give so many bytes of whoever manages the memory of the device array `like`, if there is one."""
    library = library_of(like)
    if library == "torch" or (library == "cupy" and int(stream or 0) == current_stream(like)):
        yield borrow(memory.new(like, (nbytes,), BYTE, stream))
        return
    pool = None if simulated() else _pool(current.number())
    if pool is None:
        yield made(nbytes, stream)
        return
    pointer, queue = _allocate(nbytes, stream, pool)
    try:
        yield Borrowed(int(pointer), (nbytes,), BYTE, None, nbytes)
    finally:
        _driver().cuMemFreeAsync(pointer, queue)  # if it fails, so has what was queued before


def _driver():
    from cuda.bindings import driver

    return driver


@functools.cache
def _pool(device: int):
    """Return a pool of a device's memory, or None where the driver has none."""
    from numba.cuda.cudadrv.driver import driver

    binding = _driver()
    if not driver.cuDeviceGetAttribute(binding.CUdevice_attribute.CU_DEVICE_ATTRIBUTE_MEMORY_POOLS_SUPPORTED, device):
        return None
    facts = binding.CUmemPoolProps()
    facts.allocType = binding.CUmemAllocationType.CU_MEM_ALLOCATION_TYPE_PINNED
    facts.location.type = binding.CUmemLocationType.CU_MEM_LOCATION_TYPE_DEVICE
    facts.location.id = device
    pool = driver.cuMemPoolCreate(facts)
    threshold = binding.CUmemPool_attribute.CU_MEMPOOL_ATTR_RELEASE_THRESHOLD
    driver.cuMemPoolSetAttribute(pool, threshold, binding.cuuint64_t(KEPT))
    return pool


def _allocate(nbytes: int, stream, pool):
    from numba.cuda.cudadrv.driver import CudaAPIError

    binding = _driver()
    queue = stream.handle if stream else binding.CUstream(0)
    code, pointer = binding.cuMemAllocFromPoolAsync(nbytes, pool, queue)
    if code:
        error = CudaAPIError(code, f"Call to cuMemAllocFromPoolAsync results in {code.name}")
        failures.asked(error, nbytes)
        raise error
    return pointer, queue
