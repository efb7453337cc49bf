"""The only module that calls ``numba.njit`` and ``numba.cfunc``: flags, kernels, their cache and their addresses."""

import builtins
import functools
import hashlib
import itertools
import math
import threading
import time
import types as python_types
import uuid

import numba
import numpy as np
from numba import types
from numba.core.ccallback import CFunc

from numbadense import activations, scalar_math
from numbadense._engine import cache, machine
from numbadense._engine.cpu import forward as forward_module
from numbadense._engine.cpu import passes, twin, vmath
from numbadense._engine.cpu.tiles import TABLE

# `contract` lets a product and a sum fuse.  `True` would break the range reduction of exp; `reassoc` is for row-wise
# reductions alone, where no order is promised within a row.
FLAGS = {"error_model": "numpy", "nogil": True}
ELEMENTWISE = frozenset({"contract"})
ROWWISE = frozenset({"contract", "reassoc", "nsz"})

_lock = threading.RLock()


def _once(function):
    """Cache the results of `function`, computing each of them once even if many threads ask."""
    results = {}

    @functools.wraps(function)
    def found(*args):
        try:
            return results[args]
        except KeyError:
            with _lock:
                if args not in results:
                    results[args] = function(*args)
                return results[args]

    return found


def named(function, *tags):
    """Return a copy of `function` whose qualified name says all that its machine code depends on.

    numba names machine code after the function, its argument types and a counter of the process.  Two kernels from
    one factory, cached by two processes, would meet in a third under one name, and one would run the other's code.
    """
    copy = scalar_math.bind(function, {})
    digest = hashlib.blake2b(repr((tags, machine.host().isa)).encode() + cache.stamp(), digest_size=8)
    copy.__qualname__ = f"{function.__qualname__}_{digest.hexdigest()}"
    return copy


def jit(function, *tags):
    """Compile `function`, which `tags` tell from others of its name, when it is called from another kernel."""
    return numba.njit(fastmath=False, **FLAGS)(named(function, *tags))


def _dispatcher(function, signature, key, parallel):
    """Compile `function` for one signature, through the cache, or load it from there."""
    if numba.config.DISABLE_JIT:
        return function
    key = (*key, parallel, machine.host().isa)
    dispatcher = numba.njit(parallel=parallel, **FLAGS)(named(function, key))
    dispatcher._cache = cache.KernelCache(key)
    dispatcher.compile(signature)
    dispatcher.disable_compile()
    return dispatcher


def _array(dtype, ndim, layout, readonly=False):
    return types.Array(numba.from_dtype(dtype), ndim, layout, readonly=readonly)


@_once
def _one(dtype):
    return forward_module.make_one(jit, TABLE[machine.host().isa], dtype.itemsize)


@_once
def _rows(dtype):
    return forward_module.make_rows(jit, _one(dtype))


@_once
def forward(dtype: np.dtype, parallel: bool):
    """Return the compiled network kernel of a dtype: the parallel one, or its serial twin."""
    program = types.Array(types.int64, 2, "C", readonly=True)
    x, y, scratch = _array(dtype, 2, "A", readonly=True), _array(dtype, 2, "A"), _array(dtype, 1, "C")
    signature = types.void(program, x, y, scratch, types.intp, types.intp, types.intp)
    function = forward_module.make_forward(_rows(dtype))
    return _dispatcher(function, signature, ("forward", dtype.str), parallel)


@_once
def single(dtype: np.dtype):
    """Return the compiled kernel of one layer whose weights are not packed."""
    program = types.Array(types.int64, 2, "C", readonly=True)
    w, b = _array(dtype, 2, "A", readonly=True), _array(dtype, 1, "C", readonly=True)
    x, y = _array(dtype, 2, "A", readonly=True), _array(dtype, 2, "A")
    function = forward_module.make_single(_one(dtype))
    return _dispatcher(function, types.void(program, w, b, x, y), ("single", dtype.str), False)


@_once
def blocks(dtype: np.dtype):
    """Return the network kernel that other compiled code calls: ``forward(program, x, out, scratch)``."""
    return jit(forward_module.make_blocks(_rows(dtype)))


@_once
def apply(dtype: np.dtype, parallel: bool):
    """Return the compiled kernel that runs any activation pass over an array."""
    x, y = _array(dtype, 1, "C", readonly=True), _array(dtype, 1, "C")
    signature = types.void(types.intp, x, y, types.intp, types.intp)
    return _dispatcher(passes.apply, signature, ("apply", dtype.str), parallel)


@_once
def words() -> dict:
    """Return the CPU's vocabulary: what the words of `scalar_math` mean inside a kernel."""
    return vmath.words(jit, "avx512f" in machine.host().features)


@_once
def scalar(activation):
    """Return the activation as an njit function: ``f(x)``, or ``f(row)`` in place for a row-wise one."""
    if numba.config.DISABLE_JIT:
        return activation.function
    flags = ROWWISE if activation.rowwise else ELEMENTWISE
    # Left to itself LLVM does not inline the longer ones, and a loop around a call is not vectorised.
    bound = scalar_math.bind(activation.function, words())
    return numba.njit(fastmath=set(flags), forceinline=True, **FLAGS)(named(bound, _identity(activation)))


@_once
def activation_pass(activation, dtype: np.dtype) -> int:
    """Return the address of the activation's compiled pass over a matrix of `dtype`."""
    if numba.config.DISABLE_JIT:
        return _python_pass(activation)
    make = passes.make_rowwise if activation.rowwise else passes.make_elementwise
    pointer = types.CPointer(numba.from_dtype(dtype))
    signature = types.void(pointer, pointer, *[types.int64] * 4)
    function = named(make(lambda loop: jit(loop, _identity(activation)), scalar(activation)), _identity(activation))
    callback = CFunc(function, (signature.args, signature.return_type), {}, FLAGS)
    if fingerprint(activation.function) is not None:
        callback._cache = cache.KernelCache(("pass", _identity(activation), dtype.str, machine.host().isa))
    callback.compile()
    _alive.append(callback)
    return callback.address


@_once
def _identity(activation) -> tuple:
    """Return what tells an activation from all others, of this process and of others."""
    return activation.name, fingerprint(activation.function) or uuid.uuid4().hex


_alive: list = []  # compiled passes: their code must outlive every program that holds their address
_python_addresses = itertools.count(1)


def _python_pass(activation) -> int:
    """Register the activation's plain-Python pass with the twins, under an address of its own."""

    def run(y):
        with np.errstate(all="ignore"):
            for row in y:
                if activation.rowwise:
                    activation.function(row)
                else:
                    row[:] = [activation.function(value) for value in row]

    address = next(_python_addresses)
    twin.PASSES[address] = run
    return address


def fingerprint(function) -> str | None:
    """Return what a scalar function's machine code depends on, or None if that cannot be told.

    Its code, its constants, and the numbers and words it refers to.  A function that refers to anything else (another
    function of the user's, an array) is compiled anew in each process.
    """
    code = function.__code__
    used = {name: function.__globals__.get(name, getattr(builtins, name, None)) for name in code.co_names}
    used |= zip(code.co_freevars, (cell.cell_contents for cell in function.__closure__ or ()), strict=True)
    known = []
    for name, value in used.items():
        if isinstance(value, (int, float, bool, np.number, np.bool_)):
            known.append((name, repr(value)))
        elif value is getattr(scalar_math, name, None) or value is getattr(builtins, name, None):
            known.append((name, "word"))
        elif value is math or value is np:
            known.append((name, value.__name__))
        else:
            return None
    if any(isinstance(constant, python_types.CodeType) for constant in code.co_consts):
        return None
    return repr((code.co_code, code.co_consts, code.co_names, known))


def warm(progress=None) -> list[tuple[str, float, bool]]:
    """Compile all kernels and every registered activation, in both dtypes.

    Returns, and reports to `progress` as each is done, what it is, the seconds it took and whether it was there
    already, in the disk cache or in this process.
    """
    jobs = []
    for dtype in (np.dtype(np.float32), np.dtype(np.float64)):
        jobs.append((f"single {dtype}", functools.partial(single, dtype)))
        for parallel in (False, True):
            kind = "parallel" if parallel else "serial"
            jobs.append((f"forward {kind} {dtype}", functools.partial(forward, dtype, parallel)))
            jobs.append((f"apply {kind} {dtype}", functools.partial(apply, dtype, parallel)))
        for activation in activations.REGISTRY.values():
            jobs.append((f"{activation.name} {dtype}", functools.partial(activation_pass, activation, dtype)))
    done = []
    for name, job in jobs:
        before = cache.misses
        begin = time.perf_counter()
        job()
        done.append((name, time.perf_counter() - begin, cache.misses == before))
        if progress is not None:
            progress(*done[-1])
    return done
