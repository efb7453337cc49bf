"""The only CUDA module that calls ``cuda.jit``: kernels by activation and dtype, and their launch."""

import functools
import re
import types
import warnings

import numpy as np
from numba import cuda

from numbadense import activations, scalar_math
from numbadense._engine.cuda import borrowed, hopper, narrowing, quick, simt, split, tensor, tensor_pack, tiles, words
from numbadense._engine.cuda import elementwise as elementwise_module
from numbadense._engine.cuda import few as few_module
from numbadense._engine.cuda import forward as forward_module
from numbadense._engine.cuda import forward_warp as forward_warp_module
from numbadense._engine.cuda import fused as fused_module
from numbadense._engine.cuda import fused_tensor as fused_tensor_module
from numbadense._engine.cuda import rowwise as rowwise_module
from numbadense._engine.cuda import softmax as softmax_module
from numbadense._engine.cuda.current import capability, multiprocessors, target
from numbadense._engine.cuda.device import simulated
from numbadense._engine.cuda.primitives import WARP, widen_fp16
from numbadense._engine.cuda.program import FOUR, code_of
from numbadense._engine.cuda.twin import clusters

__all__ = ["capability", "multiprocessors", "target"]  # of the device that is current: see `current`

NO_CODE = -1  # of an activation
ROW_WARPS = 2 if simulated() else 8  # of a block of the kernels of softmax


@functools.cache
def written() -> tuple[int, int]:
    """Return the version of PTX that the installed compiler writes, which says what instructions it may have."""

    def nothing():
        """Do nothing."""

    ptx, _ = cuda.compile_ptx(nothing, (), cc=(8, 0))
    major, minor = re.search(r"^\.version (\d+)\.(\d+)", ptx, re.MULTILINE).groups()
    return int(major), int(minor)


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


@functools.cache
def quick_pair(activation):
    """Return an activation of two numbers in float32, ``f((x, y))``, as a device function in few instructions."""
    jit = (lambda function: function) if simulated() else _device
    primitives = hopper.primitives
    found = quick.pairs(jit, primitives.power_of_two, primitives.reciprocal, primitives.larger)
    if quick.consists_of(activation.function, found):
        return jit(scalar_math.bind(activation.function, found))
    scalar = quick_scalar(activation)

    def pair(both):
        return scalar(both[0]), scalar(both[1])

    return jit(pair)


def _kernel(function, threads=None, resident=None, cluster=None):
    """Compile a kernel whose blocks have `threads` threads, with registers for `resident` on a multiprocessor.

    A compiled kernel says itself how many blocks a `cluster` has (see `make_rank`); the simulator has to be told.

    It is assembled from PTX, as in the tests, and not optimised once more when it is linked, as numba-cuda does by
    itself where nvJitLink is installed.
    """
    if simulated():
        return clusters.Together(cuda.jit(function), cluster) if cluster else cuda.jit(function)
    return cuda.jit(function, lto=False, **({"launch_bounds": (threads, resident)} if threads else {}))


@functools.cache
def elementwise(activation, dtype: np.dtype):
    """Return the kernel of an element-wise activation: ``elementwise(x, out)``."""
    return _kernel(elementwise_module.make_elementwise(dtype, scalar(activation)))


@functools.cache
def elementwise_halves(activation, reads: str | None, writes: str | None, hardware: bool):
    """Return the same where x or out has 16 bits, in a precision; `hardware` says that the device rounds to bf16."""
    make = elementwise_module.make_through_halves
    return _kernel(make(scalar(activation), *_ends(reads, writes, hardware), reads is not None, writes is not None))


def _ends(reads: str | None, writes: str | None, hardware: bool):
    """Return the functions that widen numbers of one precision, and round to another; None is neither's."""
    narrow = hopper.primitives.make_narrow(writes) if writes and hardware else _rounding(writes)
    return _widening(reads), narrow


@functools.cache
def rowwise(activation):
    """Return the kernel of a row-wise activation: ``rowwise(x, out)``."""
    return _kernel(rowwise_module.make_rowwise(scalar(activation)))


@functools.cache
def softmax(logarithm: bool, dtype: np.dtype, count: int, *forms):
    """Return the kernel of softmax, or its logarithm, for rows of so many numbers a thread, or 0 for longer ones.

    `forms` are those of `elementwise_halves`, where x or out has 16 bits: of rows that are not longer.
    """
    ends = _ends(*forms or (None, None, False))
    make, size = (softmax_module.make_held, count) if count else (softmax_module.make_walked, ROW_WARPS)
    kernel = make(size, logarithm, dtype, _inlined, *_logarithmic(), *ends if count else ())
    return _kernel(kernel, ROW_WARPS * WARP, softmax_module.RESIDENT[dtype.itemsize])


def _logarithmic():
    """Return exp and log1p."""
    return (scalar_math.exp, scalar_math.log1p) if simulated() else map(_vocabulary().get, ("exp", "log1p"))


@functools.cache
def dense(activation, dtype: np.dtype, tile: tiles.DenseTile, in_chunks: tuple[bool, bool], pipelined, parts=False):
    """Return the dense kernel ``dense(x, w, b, out)``; a row-wise activation is left to its own kernel.

    `in_chunks` says whether x, and w, b and out, are read and written 16 bytes at a time, `parts` whether out gets the
    sums of parts of the features.
    """
    copies = simt.asynchronous() if pipelined else simt.synchronous(dtype, _inlined)
    kernel = simt.make_dense(tile, dtype, _epilogue(activation), _inlined, copies, *in_chunks, parts)
    return _kernel(kernel, tile.size, tile.resident)


def _epilogue(activation):
    return scalar(activations.REGISTRY["identity"] if activation.rowwise else activation)


@functools.cache
def few(activation, dtype: np.dtype, rows: int, across: int, in_chunks: tuple[bool, bool]):
    """Return the dense kernel for few rows, ``few(x, w, b, out)``, of sums in parts."""
    kernel = few_module.make_few(rows, across, dtype, _epilogue(activation), _inlined, *in_chunks)
    return _kernel(kernel, split.MOST_PARTS * across, few_module.resident(rows))


@functools.cache
def gather(activation):
    """Return the kernel ``gather(sums, b, out)`` that adds the parts."""
    return _kernel(few_module.make_gather(_epilogue(activation)))


@functools.cache
def hopper_dense(activation, tile: hopper.Tile, precision: str, half: bool, in_fours: bool):
    """Return Hopper's dense kernel ``dense(x_map, w_map, b, out, k)``; `half` says that out has 16 bits."""
    fused = activations.REGISTRY["identity"] if activation.rowwise else activation
    narrow = hopper.primitives.make_narrow(precision) if half else None
    kernel = hopper.make_dense(tile, precision, narrow, quick_scalar(fused), _inlined, in_fours)
    return _kernel(kernel, tile.size, 1, tile.cluster)


@functools.cache
def tensor_dense(activation, tile, precision: str, x_form: str, out_form: str):
    """Return the dense kernel on tensor cores, ``dense(x, w, b, out)``; forms are those of `tensor`."""
    fused = activations.REGISTRY["identity"] if activation.rowwise else activation
    chosen = scalar(fused) if precision == "3xtf32" else quick_scalar(fused)
    return _kernel(tensor.make_dense(tile, precision, chosen, _inlined, x_form, out_form), tile.size, tile.resident)


@functools.cache
def tensor_weights(precision: str, halves_in: bool):
    """Return the kernel ``pack(w, out)`` that lays out weights for it; `halves_in` says that x has 16 bits."""
    return _kernel(tensor_pack.make_pack(precision, halves_in, _inlined))


@functools.cache
def turned_weights():
    """Return the kernel ``turn(w, out)`` that lays out such weights for x of the other size."""
    return _kernel(tensor_pack.turn)


def _narrow(precision):
    if precision == "tf32":  # the copy of boxes rounds it
        return np.dtype(np.float32).type, _inlined(hopper.keep)
    return np.dtype(np.uint16).type, hopper.primitives.make_narrow(precision)


@functools.cache
def narrow_rows(precision: str, in_chunks: bool):
    """Return the kernel ``rows(x, out)`` that narrows and pads rows."""
    return _kernel(narrowing.make_rows(*_narrow(precision), _inlined, in_chunks))


@functools.cache
def narrow_columns(precision: str):
    """Return the kernel ``columns(w, out)`` that narrows, transposes and pads weights."""
    return _kernel(narrowing.make_columns(*_narrow(precision), _inlined))


@functools.cache
def copy(reads: str | None = None, writes: str | None = None, itemsize: int = 4):
    """Return the kernel that gathers and casts: ``copy(x, out)``.

    `reads` and `writes` are the precisions of 16-bit floats where x, of `itemsize` bytes, and out are such.
    """
    return _kernel(elementwise_module.make_copy(_widening(reads), _rounding(writes, itemsize > 4)))


def _widening(precision: str | None):
    """Return the function that makes a float32 of the bits of a precision; None has no bits."""
    if precision == "fp16":
        return widen_fp16
    return _inlined(elementwise_module.keep if precision is None else elementwise_module.widened_bf16)


def _rounding(precision: str | None, double: bool = False):
    """Return the function that rounds a float32, or a float64, to the bits of a precision, once; None rounds nothing.

    It is for any device: before compute capability 8.0 there is no instruction for bf16.
    """
    if precision is None:
        return _inlined(elementwise_module.keep)
    to_bf16 = _inlined(elementwise_module.rounded_bf16)
    rounded = hopper.primitives.make_narrow(precision) if precision == "fp16" else to_bf16
    to_odd = _inlined(elementwise_module.to_odd)
    return _inlined(lambda x: rounded(to_odd(x))) if double else rounded


@functools.cache
def forward(width: int, chosen: tuple):
    """Return the device function ``forward(program, x, out)`` for networks of these activations, identity among them.

    In the simulator it is a Python function.
    """
    return _inlined(forward_module.make_forward(width, *_registers(), *_choices(chosen)))


@functools.cache
def forward_warp(width: int, rows: int, chosen: tuple):
    """Return the device function ``forward(program, x, out)`` that a warp calls together, for `rows` rows at once."""
    codes = {entry.name: code_of(entry) for entry in chosen}
    registers = _registers()
    row = registers[0], codes.get("softmax", NO_CODE), codes.get("log_softmax", NO_CODE), *_logarithmic()
    parts = (
        forward_module.make_choice(_inlined, _by_code(_each(chosen))),
        _inlined(forward_warp_module.make_rowwise(width, rows, *row)),
        *map(_inlined, forward_warp_module.make_access(rows)),
    )
    return _inlined(forward_warp_module.make_forward(width, rows, *registers, *parts))


def _each(chosen, make=None):
    make = make or (lambda entry: _inlined(forward_module.make_each(scalar(entry))))
    return [(code_of(entry), make(entry)) for entry in chosen if not entry.rowwise]


def _by_code(functions):
    return sorted(functions, key=lambda pair: pair[0])


def _registers():
    """Return where local arrays come from, how to load four numbers, and the multiply-add.

    In the simulator registers are NumPy arrays: a thread of its own would find the module of another in `cuda`.
    """
    if simulated():
        return types.SimpleNamespace(local=types.SimpleNamespace(array=np.empty)), _load_four, scalar_math.fma
    return cuda, words.load_four(), words.fused()


@functools.cache
def fused(tile, dtype: np.dtype, chosen: tuple, streamed: bool, in_chunks: tuple[bool, bool]):
    """Return the kernel ``fused(programs, x, out, m, per, shares)`` for networks of these activations.

    Identity is among them.  `in_chunks` says whether x, and out, is read and written 16 bytes at a time.
    """
    kernel = fused_module.make_fused(tile, dtype, _inlined, *_choices(chosen), streamed, *in_chunks)
    return _kernel(kernel, tile.size, tile.resident)


@functools.cache
def fused_tensor(tile, precision: str, chosen: tuple, streamed: bool, x_form, out_form):
    """Return the kernel ``fused(programs, x, out, m, per, shares)`` on tensor cores, for x and out of these forms."""
    sums = tile.parts * fused_tensor_module.TILE * tile.width // 32

    def make_each(entry):
        return fused_tensor_module.make_each(_inlined, quick_pair(entry), 0, sums)

    each, whole = _choices(chosen, make_each, known=True)
    make = fused_tensor_module.make_fused
    mma, pack = fused_tensor_module.HALVES[precision]
    whole = whole if any(entry.rowwise for entry in chosen) else None
    return _kernel(make(tile, mma, pack, _inlined, each, whole, streamed, x_form, out_form), tile.size, tile.resident)


def _choices(chosen: tuple, make_each=None, known=False):
    """Return what applies an element-wise activation to registers, and a row-wise one to a row, by its code."""
    each = _each(chosen, make_each)
    whole = [(code_of(entry), scalar(entry)) for entry in chosen if entry.rowwise] or each[:1]
    return [forward_module.make_choice(_inlined, _by_code(part), known) for part in (each, whole)]


def _load_four(array, index):
    return tuple(array[j] for j in range(index, index + FOUR))


def launch(kernel, blocks: int, threads, stream, *arguments, shared: int = 0) -> None:
    """Run a kernel with `shared` bytes of dynamic shared memory, more than 48 KiB if need be."""
    if simulated():
        with warnings.catch_warnings():  # NumPy's, about what is computed
            warnings.simplefilter("ignore", RuntimeWarning)
            kernel[blocks, threads, stream, shared](*map(_simulated, arguments))
        return
    _launcher()(kernel, blocks, threads, stream, arguments, shared)


def _simulated(argument):
    return borrowed.simulated_array(argument) if type(argument) is borrowed.Borrowed else argument


@functools.cache
def _launcher():
    from numbadense._engine.cuda import launch  # which the simulator has no driver for

    return launch.launch


def launch_one_dimensional(kernel, work: int, stream, *arguments) -> None:
    """Run a kernel that walks its work in strides of the grid."""
    launch(kernel, min(target().blocks, -(-work // target().threads)), target().threads, stream, *arguments)


def launch_rowwise(activation, stream, x, out, forms: tuple = ()) -> None:
    """Apply a row-wise activation to a C-contiguous matrix with a column at least, in place if out is x.

    `forms` are those of `elementwise_halves`, where x or out has 16 bits, and the activation `takes_halves`.
    """
    m, n = x.shape
    if not _is_softmax(activation):
        launch_one_dimensional(rowwise(activation), m, stream, x, out)
        return
    dtype = np.dtype(np.float32) if forms else x.dtype
    count = softmax_module.numbers(n, dtype)
    blocks = min(target().blocks, -(-m // ROW_WARPS) if count else m)
    kernel = softmax(activation.name == "log_softmax", dtype, count, *forms)
    launch(kernel, blocks, ROW_WARPS * WARP, stream, x, out)


def takes_halves(activation, columns: int) -> bool:
    """Say whether an activation in float32 has a kernel from and to 16-bit floats, for rows of so many columns."""
    held = _is_softmax(activation) and softmax_module.numbers(columns, np.dtype(np.float32)) > 0
    return held or not activation.rowwise


def _is_softmax(activation) -> bool:
    return activation in (activations.REGISTRY["softmax"], activations.REGISTRY["log_softmax"])
