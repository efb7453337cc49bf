"""Kernels bound to their parameters: what a launch is, between Numba's compiler and the driver.

Numba's own launch looks at every argument anew, for a microsecond and a half each.  Here a kernel is compiled once for
the types of its arguments; a launch then writes one block of words and makes one call of the driver:

::

    words      0  0  size  itemsize  address  shape ...  strides ...  |  the next argument ...
               |  |
               |  parent, and meminfo: null outside Numba's own heap
    pointers   one to each word, which is what cuLaunchKernel takes

Every word has 8 bytes; a number has one, a tuple of whole numbers as many as they are.  That is Numba's layout, by
`_Kernel._prepare_args`, and the tests hold it to that.  What is none of these goes to Numba.
"""

import contextlib
import ctypes
import functools
import struct
import warnings

import numpy as np
from cuda.bindings import driver as binding
from numba import cuda
from numba.cuda.cudadrv import driver
from numba.cuda.cudadrv.devicearray import DeviceNDArray
from numba.cuda.typing.typeof import Purpose, typeof

from numbadense._engine.cuda import current
from numbadense._engine.cuda.borrowed import Borrowed, type_of
from numbadense.errors import DeviceError

FREE = 48 * 1024  # bytes of dynamic shared memory that a kernel may have without asking
DEFAULT = binding.CUstream(0)
WORDS = "_numbadense_words"

# The kernel is there, but not for the context that is current; or none is, in a thread that is new to CUDA.
ELSEWHERE = {
    binding.CUresult.CUDA_ERROR_INVALID_CONTEXT,
    binding.CUresult.CUDA_ERROR_CONTEXT_IS_DESTROYED,
    binding.CUresult.CUDA_ERROR_INVALID_HANDLE,
}
MORE = binding.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES


class Block:
    """A block of parameters."""

    __slots__ = ("address", "pointers", "words")

    def __init__(self, count: int):
        self.words = (ctypes.c_int64 * count)()
        begin = ctypes.addressof(self.words)
        self.pointers = (ctypes.c_void_p * count)(*range(begin, begin + 8 * count, 8))
        self.address = ctypes.addressof(self.pointers)


class Bound:
    """A kernel compiled for the types of its arguments, in `count` words."""

    def __init__(self, definition, count: int):
        self.definition = definition
        self.fill = struct.Struct(f"{count}q").pack_into
        self.count = count
        self.blocks: list[Block] = []  # those not in use: a thread takes one, and gives it back
        self.placed: dict[int, Placed] = {}  # by device
        self.last = self.here()  # where it ran last, and mostly does again: the driver refuses it if that is not here

    def here(self) -> "Placed":
        """Return the kernel on the current device; Numba loads it, and makes a context where there is none."""
        cuda.current_context()
        number = current.number()
        if number not in self.placed:
            kernel = self.definition.library.get_cufunc().handle
            self.placed[number] = Placed(driver.driver.cuKernelGetFunction(kernel))
        return self.placed[number]

    def __call__(self, grid: tuple[int, int, int], block: tuple[int, int, int], stream, shared: int, words) -> None:
        """Launch it; the driver copies the words before this returns."""
        try:
            parameters = self.blocks.pop()
        except IndexError:
            parameters = Block(self.count)
        self.fill(parameters.words, 0, *words)
        code = self._launch(self.last, grid, block, stream, shared, parameters.address)
        if code:
            if code in ELSEWHERE:
                self.last = placed = self.here()  # which another thread may replace by its own before it is read again
                code = self._launch(placed, grid, block, stream, shared, parameters.address)
            if code:
                raise driver.CudaAPIError(code, f"Call to cuLaunchKernel results in {code.name}")
        self.blocks.append(parameters)

    def _launch(self, placed: "Placed", grid, block, stream, shared: int, parameters: int):
        if shared > placed.allowed:
            placed = self._allow(shared)
        return binding.cuLaunchKernel(placed.function, *grid, *block, shared, stream, parameters, 0)[0]

    def _allow(self, shared: int) -> "Placed":
        """Return the kernel on the current device, where so much shared memory is asked for first."""
        self.last = placed = self.here()
        if shared > placed.allowed:
            with _asking(shared, self.definition):
                driver.driver.cuFuncSetAttribute(placed.function, MORE, shared)
            placed.allowed = shared
        return placed


class Placed:
    """A kernel on a device, and the bytes of dynamic shared memory that it may have there."""

    __slots__ = ("allowed", "function")

    def __init__(self, function):
        self.function, self.allowed = function, FREE


_bound: dict[tuple[int, ...], tuple] = {}


def launch(kernel, blocks, threads, stream, arguments: tuple, shared: int = 0) -> None:
    """Run a kernel of Numba on arrays and numbers."""
    key, words = [id(kernel)], []
    for argument in arguments:
        kind = type(argument)
        if kind is Borrowed:
            key.append(id(type_of(argument.dtype, len(argument.shape))))
            words += argument.words
        elif kind is DeviceNDArray:
            known = argument.__dict__.get(WORDS)
            if known is None:
                known = argument.__dict__[WORDS] = id(argument._numba_type_), words_of(argument)
            key.append(known[0])
            words += known[1]
        elif kind is int:
            key.append(0)
            words.append(argument)
        elif kind is tuple:  # of int
            key.append(-len(argument))
            words += argument
        elif isinstance(argument, np.integer | np.floating):
            key.append(id(_type_of_number(kind)))
            words.append(int.from_bytes(argument.tobytes().ljust(8, b"\0"), "little", signed=True))
        else:
            _by_numba(kernel, blocks, threads, stream, arguments, shared)
            return
    entry = _bound.get(tuple(key))
    if entry is None:
        entry = _bound[tuple(key)] = _bind(kernel, arguments, len(words))
    bound = entry[0]
    if bound is None:
        _by_numba(kernel, blocks, threads, stream, arguments, shared)
        return
    grid = (blocks, 1, 1) if type(blocks) is int else (*blocks, 1, 1)[:3]
    block = (threads, 1, 1) if type(threads) is int else (*threads, 1, 1)[:3]
    bound(grid, block, stream.handle if stream else DEFAULT, shared, words)


def _bind(kernel, arguments: tuple, count: int) -> tuple:
    """Return the bound kernel, or None where Numba has more to do than to launch, and what must outlive its key."""
    signature = tuple(typeof(argument, Purpose.argument) for argument in arguments)
    definition = kernel.compile(signature)
    plain = not (definition.debug or definition.extensions or definition.cooperative)
    return Bound(definition, count) if plain else None, kernel, signature


def _by_numba(kernel, blocks, threads, stream, arguments: tuple, shared: int) -> None:
    if shared > FREE:
        definition = kernel.compile(tuple(typeof(argument, Purpose.argument) for argument in arguments))
        device = cuda.get_current_device().id
        with _asking(shared, definition):
            driver.driver.cuKernelSetAttribute(MORE, shared, definition.library.get_cufunc().handle, device)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Grid size .* low occupancy")  # numba's advice, which is for others
        kernel[blocks, threads, stream, shared](*arguments)


@contextlib.contextmanager
def _asking(shared: int, definition):
    """Say what was asked for if the driver refuses it."""
    try:
        yield
    except driver.CudaAPIError as error:
        if error.code != binding.CUresult.CUDA_ERROR_INVALID_VALUE:
            raise  # a fault of work before
        raise DeviceError(
            f"the device does not give a block the {shared} bytes of shared memory that {definition.entry_name} needs "
            f"({error})."
        ) from error


@functools.cache
def _type_of_number(kind: type):
    return typeof(kind(0), Purpose.argument)


def words_of(array: DeviceNDArray) -> tuple[int, ...]:
    """Return the words of an array of Numba's."""
    pointer = array.device_ctypes_pointer.value or 0
    return (0, 0, array.size, array.dtype.itemsize, pointer, *array.shape, *array.strides)


@functools.lru_cache(maxsize=64)
def external_stream(handle: int):
    """Return another library's stream as one of Numba's, which it says nothing to."""
    return driver.Stream(binding.CUstream(handle), external=True) if handle else 0
