"""The only CUDA module that calls ``cuda.jit``: kernels by activation and dtype, and their launch."""

import functools
import types
import warnings

import numpy as np
from numba import cuda

from numbadense import activations, scalar_math
from numbadense._engine.cuda import dynamic, hopper, narrowing, quick, simt, tensor, tensor_pack, tiles, words
from numbadense._engine.cuda import elementwise as elementwise_module
from numbadense._engine.cuda import forward as forward_module
from numbadense._engine.cuda import fused as fused_module
from numbadense._engine.cuda import fused_tensor as fused_tensor_module
from numbadense._engine.cuda import rowwise as rowwise_module
from numbadense._engine.cuda.device import simulated
from numbadense._engine.cuda.program import FOUR, code_of


@functools.cache
def target() -> tiles.Target:
    """Return the shapes for the current device, or for the simulator."""
    return tiles.target(capability())


def capability() -> tuple[int, int] | None:
    """Return the compute capability of the current device, or None in the simulator."""
    return None if simulated() else tuple(cuda.get_current_device().compute_capability)


def _device(function):
    # Inlined before types are inferred, it needs no device to be compiled for: kernels become PTX on any machine.
    return cuda.jit(device=True, inline="always")(function)


def _inlined(function):
    return function if simulated() else _device(function)


@functools.cache
def _vocabulary() -> dict:
    return words.vocabulary(_device)


@functools.cache
def scalar(activation):
    """Return the activation as a device function: ``f(x)``, or ``f(row)`` in place for a row-wise one.

    In the simulator that is the Python function itself, in CPython's own words.
    """
    if simulated():
        return activation.function
    return _device(scalar_math.bind(activation.function, _vocabulary()))


@functools.cache
def quick_scalar(activation):
    """Return an activation of one number in float32 as a device function in few instructions: see `quick`."""
    jit = (lambda function: function) if simulated() else _device
    found = quick.vocabulary(jit, hopper.primitives.power_of_two, hopper.primitives.reciprocal)
    others = dict.fromkeys(found) if simulated() else _vocabulary()
    return jit(scalar_math.bind(activation.function, others | found))


def _kernel(function, threads, resident):
    """Compile a kernel whose blocks have `threads` threads, with registers for `resident` on a multiprocessor."""
    return cuda.jit(function) if simulated() else cuda.jit(function, launch_bounds=(threads, resident))


@functools.cache
def multiprocessors() -> int:
    """Return how many multiprocessors the device has; the simulator claims two."""
    return 2 if simulated() else cuda.get_current_device().MULTIPROCESSOR_COUNT


@functools.cache
def elementwise(activation, dtype: np.dtype):
    """Return the kernel of an element-wise activation: ``elementwise(x, out)``."""
    return cuda.jit(elementwise_module.make_elementwise(dtype, scalar(activation)))


@functools.cache
def rowwise(activation):
    """Return the kernel of a row-wise activation: ``rowwise(x, out)``."""
    return cuda.jit(rowwise_module.make_rowwise(scalar(activation)))


@functools.cache
def dense(activation, dtype: np.dtype, tile: tiles.DenseTile, in_chunks: tuple[bool, bool], pipelined: bool):
    """Return the dense kernel ``dense(x, w, b, out)``; a row-wise activation is left to its own kernel.

    `in_chunks` says whether x, and w, b and out, are read and written 16 bytes at a time.
    """
    fused = activations.REGISTRY["identity"] if activation.rowwise else activation
    copies = simt.asynchronous() if pipelined else simt.synchronous(dtype, _inlined)
    kernel = simt.make_dense(tile, dtype, scalar(fused), _inlined, copies, *in_chunks)
    return _kernel(kernel, tile.size, tile.resident)


@functools.cache
def hopper_dense(activation, tile: hopper.Tile, precision: str, half: bool, in_fours: bool):
    """Return Hopper's dense kernel ``dense(x_map, w_map, b, out, k)``; `half` says that out has 16 bits."""
    fused = activations.REGISTRY["identity"] if activation.rowwise else activation
    narrow = hopper.primitives.make_narrow(precision) if half else None
    kernel = hopper.make_dense(tile, precision, narrow, quick_scalar(fused), _inlined, in_fours)
    return _kernel(kernel, tile.size, 1)


@functools.cache
def tensor_dense(activation, tile, precision: str, x_form: str, out_form: str):
    """Return the dense kernel on tensor cores, ``dense(x, w, b, out)``; forms are those of `tensor`."""
    fused = activations.REGISTRY["identity"] if activation.rowwise else activation
    chosen = scalar(fused) if precision == "3xtf32" else quick_scalar(fused)
    return _kernel(tensor.make_dense(tile, precision, chosen, _inlined, x_form, out_form), tile.size, tile.resident)


@functools.cache
def tensor_weights(precision: str, halves_in: bool):
    """Return the kernel ``pack(w, out)`` that lays out weights for it; `halves_in` says that x has 16 bits."""
    return cuda.jit(tensor_pack.make_pack(precision, halves_in, _inlined))


def _narrow(precision):
    if precision == "tf32":  # the copy of boxes rounds it
        return np.dtype(np.float32).type, _inlined(hopper.keep)
    return np.dtype(np.uint16).type, hopper.primitives.make_narrow(precision)


@functools.cache
def narrow_rows(precision: str, in_chunks: bool):
    """Return the kernel ``rows(x, out)`` that narrows and pads rows."""
    return cuda.jit(narrowing.make_rows(*_narrow(precision), _inlined, in_chunks))


@functools.cache
def narrow_columns(precision: str):
    """Return the kernel ``columns(w, out)`` that narrows, transposes and pads weights."""
    return cuda.jit(narrowing.make_columns(*_narrow(precision), _inlined))


@functools.cache
def copy():
    """Return the kernel that gathers and casts: ``copy(x, out)``."""
    return cuda.jit(elementwise_module.copy)


@functools.cache
def forward(width: int, chosen: tuple):
    """Return the device function ``forward(program, x, out)`` for networks of these activations, identity among them.

    In the simulator it is a Python function whose registers are NumPy arrays: a thread of its own would find the module
    of another in `cuda`.
    """
    if simulated():
        device, load, fma = (lambda function: function), _load_four, scalar_math.fma
        module = types.SimpleNamespace(local=types.SimpleNamespace(array=np.empty))
    else:
        device, load, fma, module = _device, words.load_four(), words.fused(), cuda
    return device(forward_module.make_forward(width, module, load, fma, *_choices(device, chosen)))


@functools.cache
def fused(tile, dtype: np.dtype, chosen: tuple, streamed: bool, in_chunks: tuple[bool, bool]):
    """Return the kernel ``fused(programs, x, out, m, per, shares)`` for networks of these activations.

    Identity is among them.  `in_chunks` says whether x, and out, is read and written 16 bytes at a time.
    """
    choices = _choices(_inlined, chosen)
    return _kernel(
        fused_module.make_fused(tile, dtype, _inlined, *choices, streamed, *in_chunks), tile.size, tile.resident
    )


@functools.cache
def fused_tensor(tile, precision: str, chosen: tuple, streamed: bool, in_chunks: tuple[bool, bool]):
    """Return the kernel ``fused(programs, x, out, m, per, shares)`` on tensor cores, as `fused`."""
    sums = tile.parts * fused_tensor_module.TILE * tile.width // 32

    def make_each(entry):
        return fused_tensor_module.make_each(_inlined, quick_scalar(entry), 0, sums)

    each, whole = _choices(_inlined, chosen, make_each)
    make = fused_tensor_module.make_fused
    mma, pack = fused_tensor_module.HALVES[precision]
    whole = whole if any(entry.rowwise for entry in chosen) else None
    return _kernel(make(tile, mma, pack, _inlined, each, whole, streamed, *in_chunks), tile.size, tile.resident)


def _choices(device, chosen: tuple, make_each=None):
    """Return what applies an element-wise activation to registers, and a row-wise one to a row, by its code."""
    make_each = make_each or (lambda entry: device(forward_module.make_each(scalar(entry))))
    each = [(code_of(entry), make_each(entry)) for entry in chosen if not entry.rowwise]
    whole = [(code_of(entry), scalar(entry)) for entry in chosen if entry.rowwise] or each[:1]
    return [forward_module.make_choice(device, sorted(part, key=lambda pair: pair[0])) for part in (each, whole)]


def _load_four(array, index):
    return tuple(array[j] for j in range(index, index + FOUR))


def launch(kernel, blocks: int, threads, stream, *arguments, shared: int = 0) -> None:
    """Run a kernel with `shared` bytes of dynamic shared memory.

    Numba's advice on small grids, and NumPy's on what the simulator computes, are for others.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Grid size .* low occupancy")
        if simulated():
            warnings.simplefilter("ignore", RuntimeWarning)
        else:
            dynamic.allow(kernel, arguments, shared)
        kernel[blocks, threads, stream, shared](*arguments)


def launch_one_dimensional(kernel, work: int, stream, *arguments) -> None:
    """Run a kernel that walks its work in strides of the grid."""
    launch(kernel, min(target().blocks, -(-work // target().threads)), target().threads, stream, *arguments)
