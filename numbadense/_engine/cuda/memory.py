"""What array is this, and where: views of device memory, uploads, and results of the caller's own kind."""

import math
import sys
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
from numba import cuda

from numbadense._engine import validate
from numbadense._engine.cuda import compile as compiler
from numbadense._engine.cuda import current, failures, halves
from numbadense._engine.cuda.borrowed import Borrowed, current_stream, device_of, library_of
from numbadense._engine.cuda.device import simulated
from numbadense._engine.cuda.primitives import CHUNK
from numbadense.errors import DeviceError, DTypeError, OptionError, OutputError, ShapeError


@dataclass(frozen=True)
class Operand:
    """An array argument.

    `view` is a numba device array of its memory, or None where it is a NumPy array.  `like` is that NumPy array, or one
    of no memory that has the shape and dtype of `view`, by which it can be checked.  `dtype` is that of the memory; of
    floats of 16 bits `view` has the bits, as uint16, and `like` is of float16.
    """

    name: str
    given: Any
    like: np.ndarray
    view: Any
    dtype: np.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape."""
        return self.like.shape

    @property
    def owner(self) -> Any:
        """What the caller has given, if that is on the device, or None."""
        return None if self.view is None else self.given


def operand(name: str, value) -> Operand:
    """Return the argument `value`: whatever has a ``__cuda_array_interface__`` is on the device, the rest in NumPy."""
    view = _view(name, value)
    if view is None:
        like = validate.as_array(name, value)
        return Operand(name, value, like, None, like.dtype)
    return _viewed(name, value, view)


def _viewed(name: str, value, view) -> Operand:
    """Return the argument of which `view` is the memory."""
    dtype = halves.known(view.dtype)
    if not dtype.isnative:
        raise DTypeError(f"{name} has dtype {view.dtype} but a device computes in native byte order; convert it first.")
    shape = tuple(view.shape)
    like = np.lib.stride_tricks.as_strided(np.empty(1, halves.checked_as(dtype)), shape, (0,) * len(shape))
    if halves.precision(dtype):
        view = strided(address(view), shape, tuple(view.strides), halves.BITS, view)
    return Operand(name, value, like, view, dtype)


def on_device(value) -> bool:
    """Say whether an array is on the device, as far as its class tells."""
    return getattr(type(value), "__cuda_ndarray__", False) or hasattr(type(value), "__cuda_array_interface__")


def _view(name: str, value):
    """Return a numba device array of the memory of `value`, or None if that is not on the device."""
    if getattr(value, "__cuda_ndarray__", False):
        _check_device(name, device_of(value))
        return value
    if not simulated() and (library := library_of(value)):
        _check_device(name, value.get_device() if library == "torch" else value.device.id)
        if library == "torch" and value.is_neg():  # a sign that its memory does not have
            value = value.resolve_neg()
    interface, owner = _interface(name, value)
    return None if interface is None else from_interface(interface, owner)


def _interface(name: str, value) -> tuple[dict | None, Any]:
    """Return the interface of an array, and the owner of the memory that it describes."""
    try:
        return halves.interface(value)
    except (KeyError, RuntimeError, TypeError, ValueError) as error:
        said = str(error).strip().split("\n")[0].rstrip(".")
        raise DTypeError(f"{name} is a {type(value).__name__} whose device memory cannot be read: {said}.") from error


def _check_device(name: str, where: int | None) -> None:
    """Refuse an array of another device than the current one, whose memory a kernel cannot reach."""
    here = current.number()
    if where not in (None, -1, here):
        raise DeviceError(
            f"{name} is on device {where} but device {here} is current; select the one where weights and arrays are."
        )


def from_interface(interface: dict, owner):
    """Return a numba device array of the memory that `interface` describes; it keeps `owner` alive."""
    if not simulated():
        return cuda.from_cuda_array_interface(interface, owner=owner)
    # The simulator has no such function: its device memory is the host's.
    described = {key: value for key, value in interface.items() if key != "stream"}
    return cuda.cudadrv.devicearray.FakeCUDAArray(np.asarray(SimpleNamespace(__array_interface__=described, of=owner)))


def strided(begin: int, shape: tuple[int, ...], strides: tuple[int, ...], dtype: np.dtype, owner):
    """Return a numba device array of memory of `owner`."""
    interface = {"shape": shape, "typestr": dtype.str, "strides": strides, "version": 3}
    return from_interface(interface | {"data": (begin, False)}, owner)


def empty(shape: tuple[int, ...], dtype: np.dtype, stream):
    """Return a new device array."""
    try:
        return cuda.device_array(shape, dtype, stream=stream)
    except Exception as error:
        failures.asked(error, math.prod(shape) * np.dtype(dtype).itemsize)
        raise


def upload(array: np.ndarray, dtype: np.dtype, stream):
    """Return a device copy of `array`, cast to `dtype`, C-contiguous."""
    host = np.ascontiguousarray(array, dtype)
    try:
        return cuda.to_device(host, stream=stream)
    except Exception as error:
        failures.asked(error, host.nbytes)
        raise


def matrix(x: Operand, rows: int, columns: int, dtype: np.dtype, stream, reads=None):
    """Return `x` as a C-contiguous 2-D device array of `dtype`: its own memory where that will do.

    `reads` says of a matrix of 16-bit floats whether that will do too.
    """
    shape = (rows, columns)
    if not x.like.size:
        return empty(shape, dtype, stream)
    if x.view is None:
        return upload(x.like.reshape(shape), dtype, stream)
    view = as_matrix(x, rows, columns)
    if contiguous(view):
        if x.dtype == dtype:
            return view
        if reads is not None and halves.precision(x.dtype) and reads(found := lent(x, shape)):
            return found
    gathered = empty(shape, dtype, stream)
    copy(view, x.dtype, gathered, dtype, stream)
    return gathered


def lent(x: Operand, shape: tuple[int, ...]) -> Borrowed:
    """Return the contiguous memory of `x` as kernels are lent it, in this shape."""
    return Borrowed(address(x.view), shape, x.dtype, x.view, math.prod(shape))


def as_matrix(x: Operand, rows: int, columns: int):
    """Return the device memory of `x` as a 2-D array, strided if x is."""
    view = x.view
    if contiguous(view):
        return view.reshape(rows, columns)
    if view.ndim > 2:
        raise ShapeError(
            f"{x.name} has {view.ndim} dimensions that are not contiguous on the device: {x.name}.shape={x.shape}, "
            f"strides {tuple(view.strides)}; pass a contiguous copy."
        )
    if view.ndim == 2:
        return view
    return strided(address(view), (rows, columns), (0, *view.strides), view.dtype, view)


def contiguous(view) -> bool:
    """Say whether the elements of `view` follow each other in C order."""
    step = view.dtype.itemsize
    for size, stride in zip(reversed(tuple(view.shape)), reversed(tuple(view.strides)), strict=True):
        if size != 1:
            if stride != step:
                return False
            step *= size
    return True


def copy(x, dtype: np.dtype, out, out_dtype: np.dtype, stream) -> None:
    """Copy between 2-D device arrays of one shape, which may differ in strides and dtype.

    Those are given beside them, for floats of 16 bits are there as bits.
    """
    kernel = compiler.copy(halves.precision(dtype), halves.precision(out_dtype), dtype.itemsize)
    compiler.launch_one_dimensional(kernel, x.size, stream, x, out)


def address(view) -> int:
    """Return where a device array begins."""
    if type(view) is Borrowed:
        return view.address
    pointer = getattr(view, "device_ctypes_pointer", None)
    return view.ctypes.data if pointer is None else pointer.value or 0


def in_chunks(*views, size: int = CHUNK) -> bool:
    """Say whether C-contiguous device arrays, and each of their rows, begin at a multiple of `size` bytes."""
    return all((address(view) | tuple(view.shape)[-1] * view.dtype.itemsize) % size == 0 for view in views)


def overlap(one, other) -> bool:
    """Say whether the extents of two device arrays share a byte."""
    (a, b), (c, d) = _extent(one), _extent(other)
    return a < d and c < b


def _extent(view) -> tuple[int, int]:
    begin = end = address(view)
    for size, stride in zip(tuple(view.shape), tuple(view.strides), strict=True):
        if size == 0:
            return begin, begin
        begin, end = begin + min(0, (size - 1) * stride), end + max(0, (size - 1) * stride)
    return begin, end + view.dtype.itemsize


class Result:
    """Where a result of `shape` goes: `out`, or a new array of the kind of `x`.

    A kernel writes to the C-contiguous 2-D device array that :meth:`buffer` returns; :meth:`deliver` then takes it to
    the caller.
    """

    def __init__(self, x: Operand, out, shape: tuple[int, ...], dtype: np.dtype, stream):
        self.dtype, self.stream = dtype, stream
        if out is None and x.view is None:
            self.given = np.empty(shape, dtype)
            self.target = Operand("out", self.given, self.given, None, dtype)
            return
        self.given = new(x.given, shape, dtype, stream) if out is None else out
        view = _view("out", self.given)
        if view is None:
            like = validate.check_output(out, shape, dtype)
            self.target = Operand("out", out, like, None, like.dtype)
            return
        self.target = _viewed("out", self.given, view)
        if out is not None:
            validate.check_output(self.target.like, shape, dtype)
            interface, owner = _interface("out", out)
            copied = owner is not out and library_of(out) != "torch"  # a view of bits that may be memory of its own
            if copied or (interface is not None and interface["data"][1]):
                raise OutputError(f"out is read-only but must take the result of shape {shape}; pass another array.")

    def buffer(self, rows: int, columns: int, inputs: tuple, writes=None):
        """Return a device array for a kernel to write: apart from all `inputs`, device arrays.

        `writes` says of a matrix of 16-bit floats whether the kernel writes that too.
        """
        target, shape = self.target, (rows, columns)
        if target.view is not None and contiguous(target.view):
            direct = target.view.reshape(rows, columns) if target.dtype == self.dtype else lent(target, shape)
            taken = target.dtype == self.dtype or (
                writes is not None and halves.precision(target.dtype) is not None and writes(direct)
            )
            if taken and not any(overlap(direct, other) for other in inputs):
                return direct
        return empty(shape, self.dtype, self.stream)

    def deliver(self, buffer):
        """Take what a kernel has written to `buffer` to the caller's array, and return that."""
        view, like = self.target.view, self.target.like
        if view is not None:
            if address(view) != address(buffer):
                rows = as_matrix(self.target, *buffer.shape)
                copy(buffer, self.dtype, rows, self.target.dtype, self.stream)
            return self.given
        host = like if like.dtype == self.dtype and like.flags.carray else np.empty(like.shape, self.dtype)
        buffer.copy_to_host(host.reshape(buffer.shape), stream=self.stream)
        if self.stream:
            self.stream.synchronize()
        if host is not like:
            np.copyto(like, host, casting="same_kind")
        return self.given


def new(given, shape: tuple[int, ...], dtype: np.dtype, stream):
    """Return a new device array of the kind of `given`."""
    library = library_of(given)
    if library == "torch":
        torch = sys.modules["torch"]
        made = given.new_empty(shape, dtype=getattr(torch, dtype.name))
        if not simulated() and int(stream or 0) != current_stream(given):
            # The memory is that of what torch has freed, which its own stream may still be working on.
            other = torch.cuda.ExternalStream(int(stream or 0), device=given.device)
            other.wait_stream(torch.cuda.current_stream(given.device))
            made.record_stream(other)
        return made
    if library == "cupy":
        return sys.modules["cupy"].empty(shape, dtype)
    return empty(shape, dtype, stream)


def stream_of(stream, *given):
    """Return `stream` as numba's: one of numba's own, the handle of another library's, or 0 for the default.

    None is the stream on which the library of the first of the arrays `given` works now that has one.
    """
    handle = next(filter(None, map(current_stream, given)), 0) if stream is None else stream
    if type(handle) is int and not handle:
        return 0
    handle = getattr(handle, "cuda_stream", getattr(handle, "ptr", handle))  # as PyTorch and CuPy name it
    if isinstance(handle, np.integer):
        handle = int(handle)
    if not isinstance(handle, int) and not hasattr(handle, "synchronize"):
        raise OptionError(f"stream is {stream!r} but must be a stream of Numba's, or the handle of one; pass 0.")
    if isinstance(handle, int) and handle:
        if simulated():
            return cuda.external_stream(handle)
        from numbadense._engine.cuda import launch

        return launch.external_stream(handle)
    return handle


def wait_for(stream) -> None:
    """Wait for what a stream holds; instead of the default one, for all."""
    (stream or cuda).synchronize()
