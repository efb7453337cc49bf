"""The short way to the memory of an array: where it begins and what shape it has, and nothing else.

A view by ``__cuda_array_interface__`` costs ten microseconds and more, which is what a small network takes on the
device.  Libraries say what is needed for less, each in its own words.
"""

import functools
import math
import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
from numba import cuda

from numbadense._engine.cuda import halves
from numbadense._engine.cuda.device import simulated


class Borrowed:
    """C-contiguous device memory of some owner, which it keeps alive: an array as kernels see it.

    Floats of 16 bits have the dtypes of `halves`; kernels see their bits.

    `device` is the number of the device that has to be current, where nobody has looked whether it is.
    """

    __slots__ = ("_words", "address", "device", "dtype", "owner", "shape", "size")

    def __init__(self, address: int, shape: tuple[int, ...], dtype: np.dtype, owner: Any, size: int, device=None):
        self.address, self.shape, self.dtype, self.owner, self.size = address, shape, dtype, owner, size
        self._words, self.device = None, device

    @property
    def ndim(self) -> int:
        """Dimensions."""
        return len(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes."""
        return self.size * self.dtype.itemsize

    @property
    def strides(self) -> tuple[int, ...]:
        """Bytes from one element to the next, by dimension."""
        step, strides = self.dtype.itemsize, []
        for extent in reversed(self.shape):
            strides.append(step)
            step *= extent
        return tuple(reversed(strides))

    @property
    def words(self) -> tuple[int, ...]:
        """What Numba passes to a kernel for this array: see `launch`."""
        if self._words is None:
            itemsize = self.dtype.itemsize
            if len(self.shape) == 2:
                rows, columns = self.shape
                self._words = (0, 0, self.size, itemsize, self.address, rows, columns, columns * itemsize, itemsize)
            else:
                self._words = (0, 0, self.size, itemsize, self.address, *self.shape, *self.strides)
        return self._words

    @property
    def _numba_type_(self):
        return type_of(self.dtype, len(self.shape))

    @property
    def __cuda_array_interface__(self) -> dict:
        interface = {"shape": self.shape, "typestr": self.dtype.str, "strides": None, "version": 3}
        return interface | {"data": (self.address, False)}

    def reshape(self, *shape) -> "Borrowed":
        """Return the same memory in another shape of as many elements."""
        shape = shape[0] if len(shape) == 1 and isinstance(shape[0], tuple) else shape
        return Borrowed(self.address, shape, self.dtype, self.owner, self.size)

    def words32(self) -> "Borrowed":
        """Return numbers of 16 bits as words of 32, half as many in a row."""
        *outer, columns = self.shape
        return self.part(0, (*outer, columns // 2), WORD)

    def part(self, begin: int, shape: tuple[int, ...], dtype: np.dtype) -> "Borrowed":
        """Return an array in this memory, from a byte on."""
        return Borrowed(self.address + begin, shape, dtype, self.owner, math.prod(shape))


WORD = np.dtype(np.uint32)
_types: dict[tuple[np.dtype, int], Any] = {}


def type_of(dtype: np.dtype, ndim: int):
    """Return numba-cuda's type of a C-contiguous array: the same object every time."""
    try:
        return _types[dtype, ndim]
    except KeyError:
        from numba.cuda import types  # not numba's own, and not in the simulator of old
        from numba.cuda.np.numpy_support import from_dtype

        return _types.setdefault((dtype, ndim), types.Array(from_dtype(halves.in_memory(dtype)), ndim, "C"))


def library_of(value) -> str:
    """Return "torch" or "cupy" where an array is one of theirs, of a class derived from it too, and else ""."""
    return _library_of(type(value))


@functools.lru_cache
def _library_of(kind: type) -> str:
    names = (base.__module__.partition(".")[0] for base in kind.__mro__)
    return next((name for name in names if name in ("torch", "cupy")), "")


def current_stream(value) -> int:
    """Return the handle of the stream on which the library of `value` works now; 0 is the default one."""
    library = "" if simulated() else library_of(value)
    if library == "torch" and value.is_cuda:
        torch = sys.modules["torch"]
        quick = getattr(torch._C, "_cuda_getCurrentRawStream", None)
        return quick(value.get_device()) if quick else torch.cuda.current_stream(value.device).cuda_stream
    if library == "cupy":
        return sys.modules["cupy"].cuda.get_current_stream().ptr
    return 0


_readers: dict[type, Any] = {}
DEVICE = "_numbadense_device"


def borrow(value) -> Borrowed | None:
    """Return the memory of a device array that is C-contiguous, and None for whatever is out of the ordinary."""
    kind = type(value)
    reader = _readers.get(kind)
    if reader is None:
        reader = _readers[kind] = _reader(kind)
    return reader(value)


def _reader(kind: type):
    if issubclass(kind, cuda.cudadrv.devicearray.FakeCUDAArray if simulated() else _device_arrays()):
        return _simulated if simulated() else _numba
    library = kind.__module__.partition(".")[0]
    if library == "cupy" and issubclass(kind, sys.modules["cupy"].ndarray):
        return _cupy
    if "torch" in sys.modules and issubclass(kind, sys.modules["torch"].Tensor):
        return _torch_reader(sys.modules["torch"])
    return _nothing


def _device_arrays() -> type:
    from numba.cuda.cudadrv.devicearray import DeviceNDArray

    return DeviceNDArray


def _nothing(value) -> None:
    return None


def _numba(value) -> Borrowed | None:
    if not value.is_c_contiguous() or not value.size:
        return None
    try:
        where = value.__dict__[DEVICE]
    except KeyError:
        where = value.__dict__[DEVICE] = device_of(value)
    return Borrowed(value.device_ctypes_pointer.value, value.shape, halves.known(value.dtype), value, value.size, where)


def device_of(value) -> int | None:
    """Return the number of the device that an array of Numba's is on, or None where it does not say.

    Memory that is mapped or managed is everywhere, and that of others was not allocated by Numba.
    """
    pointer = getattr(value, "gpu_data", None)
    return pointer.context.device.id if type(pointer).__name__ == "OwnedPointer" else None


def _simulated(value) -> Borrowed | None:
    if not value.is_c_contiguous() or not value.size:
        return None
    dtype = halves.known(value.dtype)
    return Borrowed(value.ctypes.data, tuple(value.shape), dtype, value, value.size)


def _cupy(value) -> Borrowed | None:
    if not value.flags.c_contiguous or not value.size:
        return None
    if value.device.id != sys.modules["cupy"].cuda.runtime.getDevice():
        return None
    return Borrowed(value.data.ptr, value.shape, halves.known(value.dtype), value, value.size)


def _torch_reader(torch):
    dtypes = {getattr(torch, name): np.dtype(name) for name in ("float32", "float64", "uint8")}
    dtypes |= {torch.float16: halves.FLOAT16, torch.bfloat16: halves.BFLOAT16}

    def read(value) -> Borrowed | None:
        dtype = dtypes.get(value.dtype)
        if dtype is None or not value.is_cuda or value.requires_grad or not value.is_contiguous():
            return None
        if value.is_neg() or value.get_device() != torch.cuda.current_device():
            return None
        size = value.numel()
        return Borrowed(value.data_ptr(), tuple(value.shape), dtype, value, size) if size else None

    return read


def simulated_array(array: Borrowed):
    """Return an array of the simulator's on the memory, which is the host's."""
    kind = halves.in_memory(array.dtype)
    memory = {"shape": array.shape, "typestr": kind.str, "data": (array.address, False), "version": 3}
    view = np.asarray(SimpleNamespace(__array_interface__=memory, of=array.owner))
    return cuda.cudadrv.devicearray.FakeCUDAArray(view)
