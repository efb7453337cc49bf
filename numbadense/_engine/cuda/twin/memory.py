"""NumPy twins of the primitives of `numbadense._engine.cuda.ptx.memory`, for numba's simulator.

They are stricter than a device: an access that is not aligned, or leaves its array, fails; shared memory is full of NaN
at first, in every block; a copy to it arrives when its thread waits for it, and no sooner, with NaN in its place until
then; and no thread may store to where a copy is under way.
"""

import threading

import numpy as np

from numbadense import scalar_math

__all__ = [
    "CHUNK",
    "address",
    "block_number",
    "commit",
    "copy1",
    "copy16",
    "fma",
    "int32",
    "load1",
    "load8",
    "load16",
    "make_dynamic_shared",
    "make_shared",
    "make_wait",
    "part_number",
    "store8",
    "store16",
    "thread",
]

CHUNK = 16
POISON = 0xFF  # each byte of what was never written: NaN in every format
fma = scalar_math.fma  # through float64 in float32, exactly in float64
SHARED, UNDER_WAY = "numbadense_shared", "numbadense_under_way"  # what a simulated block has
DYNAMIC = "dynamic"
_allocating = threading.Lock()


def _block():
    return threading.current_thread()._manager


class _Copies(threading.local):
    """The copies of one thread that are under way, in groups; the last is still open."""

    def __init__(self):
        self.groups = [[]]


_copies = _Copies()


def part(array, index, count):
    """Elements of an array in the order of memory; never from its end, as a negative index would."""
    flat = np.asarray(array).reshape(-1)
    assert 0 <= index <= flat.size - count, f"{count} elements from {index} on leave an array of {flat.size}"
    return flat[index : index + count]


def _chunk(array, index, size=CHUNK):
    chunk = part(array, index, size // array.dtype.itemsize)
    assert chunk.ctypes.data % size == 0, f"element {index} is not aligned for {size} bytes"
    return chunk


def load1(array, index):
    """Return an element."""
    return part(array, index, 1)[0]


def load16(registers, at, array, index):
    """Load a chunk."""
    _load(registers, at, _chunk(array, index))


def load8(registers, at, array, index):
    """Load half a chunk."""
    _load(registers, at, _chunk(array, index, CHUNK // 2))


def _load(registers, at, source):
    part(registers, at, source.nbytes // registers.itemsize)[:] = _as(registers.dtype, source)


def _as(dtype, chunk):
    """Return a chunk as elements of another dtype: words of halves, and the other way round."""
    assert chunk.dtype == dtype or (chunk.dtype.kind, dtype.kind) == ("u", "u"), f"{chunk.dtype} is no {dtype}"
    return chunk.view(dtype)


def store16(array, index, registers, at):
    """Store a chunk."""
    _store(_chunk(array, index), registers, at)


def store8(array, index, registers, at):
    """Store half a chunk."""
    _store(_chunk(array, index, CHUNK // 2), registers, at)


def _store(target, registers, at):
    for begin, end in list(vars(_block()).get(UNDER_WAY, {}).values()):
        apart = end <= target.ctypes.data or target.ctypes.data + target.nbytes <= begin
        assert apart, "a copy that is under way may overwrite what is stored to shared memory"
    target[:] = _as(target.dtype, part(registers, at, target.nbytes // registers.itemsize))


def copy16(shared, at, array, index, wanted):
    """Begin the copy of a chunk, or of zeros."""
    _begin(_chunk(shared, at), _chunk(array, index) if wanted else None)


def copy1(shared, at, array, index, wanted):
    """Begin the copy of an element, or of zero."""
    _begin(part(shared, at, 1), part(array, index, 1) if wanted else None)


def _begin(target, source):
    copy = target, np.zeros(target.size, target.dtype)
    if source is not None:
        copy[1][:] = source.view(target.dtype)  # bits, whatever they mean
    target.view(np.uint8).fill(POISON)  # what is there may be overwritten from now on
    _copies.groups[-1].append(copy)
    begin = target.ctypes.data
    vars(_block()).setdefault(UNDER_WAY, {})[id(copy)] = begin, begin + target.nbytes


def commit():
    """Close the group of the copies begun since the last one."""
    _copies.groups.append([])


def make_wait(pending):
    """Return the function that lets copies arrive until at most `pending` groups are under way."""

    def wait():
        while len(_copies.groups) - 1 > pending:
            for copy in _copies.groups.pop(0):
                copy[0][:] = copy[1]
                vars(_block())[UNDER_WAY].pop(id(copy))

    return wait


def int32(number):
    """Return a number, which has to fit 32 bits; its sums and products need not, as in compiled code."""
    assert -(2**31) <= number < 2**31, f"{number} does not fit 32 bits"
    return int(number)


def thread():
    """Return the number of the thread in its block."""
    return threading.current_thread().threadIdx.x


def block_number():
    """Return the number of the block."""
    return threading.current_thread().blockIdx.x


def part_number():
    """Return the number of the block in the second dimension of the grid."""
    return threading.current_thread().blockIdx.y


def address(array):
    """Return where an array begins."""
    return np.asarray(array).ctypes.data


def make_shared(jit, size, element):
    """Return the function that gives all threads of a block the same `size` elements of shared memory."""

    def shared():
        with _allocating:
            held = vars(_block()).setdefault(SHARED, {})
            if shared not in held:
                held[shared] = _poisoned(size, element)
        return held[shared]

    return shared


def make_dynamic_shared(jit, element):
    """Return the function that gives all threads of a block the shared memory that the launch asked for."""

    def shared():
        block = _block()
        with _allocating:
            held = vars(block).setdefault(SHARED, {})
            if DYNAMIC not in held:
                held[DYNAMIC] = _poisoned(block._f.__globals__["cuda"].shared._dynshared_size, np.uint8)
        return held[DYNAMIC][: held[DYNAMIC].size // element().itemsize * element().itemsize].view(element)

    return shared


def _poisoned(size, element):
    room = np.full(size * np.dtype(element).itemsize + CHUNK, POISON, np.uint8)
    aligned = room[-room.ctypes.data % CHUNK :]
    return aligned[: size * np.dtype(element).itemsize].view(element)
