"""The only module that calls ``numba.njit``: flags, kernels, their cache and their addresses."""

import builtins
import functools
import hashlib
import itertools
import math
import time
import types as python_types
import uuid

import numba
import numpy as np
from numba import types
from numba.core.compiler_lock import global_compiler_lock
from numba.core.registry import cpu_target

from numbadense import activations, scalar_math
from numbadense._engine import cache, half, machine
from numbadense._engine.cpu import direct, inside, operand, passes, softmax, twin, vmath
from numbadense._engine.cpu import forward as forward_module
from numbadense._engine.cpu import population as population_module
from numbadense._engine.cpu.primitives import make_borrow
from numbadense._engine.cpu.tile import View
from numbadense._engine.cpu.tiles import TABLE

# `contract` lets a product and a sum fuse.  `True` would break the range reduction of exp; `reassoc` is for row-wise
# reductions alone, where no order is promised within a row.
FLAGS = {"error_model": "numpy", "nogil": True}
HELPER = FLAGS | {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}  # for what only kernels call
ELEMENTWISE = frozenset({"contract"})
ROWWISE = frozenset({"contract", "reassoc", "nsz"})

C_FUNCTIONS = {"rows": inside.make_rows, "number": inside.make_number, "numbers": inside.make_numbers}
DIRECT_SIGNATURE = types.intp(types.intp, operand.operand, operand.operand)
DIRECT = operand.readable()  # whether kernels can read the fields of arrays

_lock = global_compiler_lock  # numba's own: with one of ours, two threads could wait for each other's


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
    """Compile `function`, which `tags` tell from others of its name, when it is called from another kernel.

    Unless it says otherwise it would take over the fast-math flags of whoever calls it first, and keep them for all.
    """
    return numba.njit(fastmath=False, **HELPER)(named(function, *tags))


def inline(function, *tags):
    """Compile `function` into the code of each kernel that calls it: a loop around a call is not vectorised."""
    return numba.njit(forceinline=True, fastmath=False, **HELPER)(named(function, *tags))


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


def _compiled(make, signature, key, cached=True):
    """Return the compile result, for one signature, of what `make` makes: from the cache, or else made and compiled.

    It has the addresses of the code, and goes without numba's dispatch, which would type the arguments of each call.
    """
    key = (*key, machine.host().isa)
    kept = cache.KernelCache(key)
    result = kept.load_overload(signature, cpu_target.target_context) if cached else None
    if result is None:
        dispatcher = numba.njit(**FLAGS)(named(make(), key))
        dispatcher.compile(signature)
        (result,) = dispatcher.overloads.values()
        if cached:
            kept.save_overload(signature, result)
    _alive.append(result)
    return result


def _address(make, signature, key, cached=True) -> int:
    """Return the address of the function that `make` makes: by numba's convention, see `addresses`."""
    if numba.config.DISABLE_JIT:
        address = next(_python_addresses)
        twin.KERNELS[address] = make()
        return address
    result = _compiled(make, signature, key, cached)
    return result.library.get_pointer_to_function(result.fndesc.llvm_func_name)


def _array(dtype, ndim, layout, readonly=False):
    return types.Array(numba.from_dtype(dtype), ndim, layout, readonly=readonly)


@_once
def kernels(dtype: np.dtype, form: int) -> tuple[int, int]:
    """Return the addresses of the network kernels of a dtype, for many rows and for one.

    `form` is how the weights are kept: see `numbadense._engine.half`.
    """
    view, integer = View(numba.from_dtype(dtype)), types.intp
    signature = types.void(integer, integer, view, integer, view, view, integer)

    def one():
        tiles = TABLE[machine.host().isa]
        return forward_module.make_row_kernel(inline, tiles, dtype.itemsize, _widened(form))

    many = _address(lambda: forward_module.kernel, signature, ("kernel", dtype.str))
    return many, _address(one, signature, ("row kernel", dtype.str, _widened(form)))


@_once
def layer(dtype: np.dtype, form: int, vectors: int) -> int:
    """Return the address of the kernel of a layer over many rows, for weights in panels so many vectors wide."""
    view, integer = View(numba.from_dtype(dtype)), types.intp

    def make():
        tiles, itemsize = TABLE[machine.host().isa], dtype.itemsize
        height, lanes = tiles.rows[vectors], tiles.lanes(itemsize)
        return forward_module.make_layer(jit, height, vectors, lanes, itemsize, _widened(form))

    return _address(make, types.void(view, *[integer] * 7, view), ("layer", dtype.str, _widened(form), vectors))


def _widened(form: int) -> int:
    """Return the form for what the host can do: without instructions for float16 its bits are taken apart."""
    return half.FLOAT16_BY_BITS if form == half.FLOAT16 and not machine.host().widens_float16 else form


@_once
def forward(dtype: np.dtype, parallel: bool):
    """Return ``forward(code, x, y, scratch, block, half, threads)``: the parallel kernel, or its serial twin."""
    x, y, scratch = _array(dtype, 2, "A", readonly=True), _array(dtype, 2, "A"), _array(dtype, 1, "C")
    signature = types.void(types.intp, x, y, scratch, types.intp, types.intp, types.intp)
    return _dispatcher(forward_module.forward, signature, ("forward", dtype.str), parallel)


@_once
def columns(dtype: np.dtype, parallel: bool):
    """Return ``columns(code, pieces, x, y, scratch, half, threads)``: the parallel kernel, or its serial twin."""
    x, y, scratch = _array(dtype, 2, "A", readonly=True), _array(dtype, 2, "A"), _array(dtype, 1, "C")
    signature = types.void(types.intp, types.intp, x, y, scratch, types.intp, types.intp)
    return _dispatcher(forward_module.columns, signature, ("columns", dtype.str), parallel)


@_once
def single(dtype: np.dtype):
    """Return ``single(code, w, b, x, y)``: one layer whose weights are not packed."""
    code = types.Array(types.int64, 1, "C")
    w, b = _array(dtype, 2, "A", readonly=True), _array(dtype, 1, "C", readonly=True)
    x, y = _array(dtype, 2, "A", readonly=True), _array(dtype, 2, "A")
    return _dispatcher(forward_module.single, types.void(code, w, b, x, y), ("single", dtype.str), False)


@_once
def population(dtype: np.dtype, parallel: bool):
    """Return the compiled kernel of many networks of a dtype: the parallel one, or its serial twin."""
    ids = types.Array(types.int64, 1, "C", readonly=True)
    x, y, scratch = _array(dtype, 2, "A", readonly=True), _array(dtype, 2, "A"), _array(dtype, 1, "C")
    numbers = (types.intp, types.boolean, ids, ids, ids, scratch, *[types.intp] * 4)
    signature = types.void(types.intp, types.intp, x, y, *numbers)
    function = population_module.make_population(*map(jit, (population_module.each, population_module.routed)))
    return _dispatcher(function, signature, ("population", dtype.str), parallel)


@_once
def sort():
    """Return the compiled counting sort of rows by their networks."""
    given, found = types.Array(types.int64, 1, "C", readonly=True), types.Array(types.int64, 1, "C")
    return _dispatcher(population_module.sort, types.intp(given, found, found), ("sort",), False)


@_once
def propagate():
    """Return what other compiled code calls: ``propagate(code, x, m, y, scratch, size)``."""
    return jit(inside.propagate)


@_once
def c_function(dtype: np.dtype, kind: str):
    """Return the address of a C function, by what it takes: "rows", or a "number" or "numbers" for SciPy.

    Without the JIT it is the function itself.
    """
    make = C_FUNCTIONS[kind]
    integer, number = types.intp, numba.from_dtype(dtype)
    signature = {
        "rows": types.intp(integer, integer, integer, integer),
        "number": number(number, integer),
        "numbers": number(types.intc, integer, integer),
    }[kind]

    def made():
        return make(inside.make_run(jit, inside.STACK // dtype.itemsize), make_borrow(dtype))

    if numba.config.DISABLE_JIT:
        return made()
    result = _compiled(made, signature, ("c function", dtype.str, kind))
    return result.library.get_pointer_to_function(result.fndesc.llvm_cfunc_wrapper_name)


@_once
def direct_network(dtype: np.dtype):
    """Return ``network(code, x, out)``, for plain arrays, which leaves others alone; None where there is none."""
    if not DIRECT:
        return None

    def make():
        return direct.make_network(jit, make_borrow(dtype), dtype.itemsize)

    return (
        make()
        if numba.config.DISABLE_JIT
        else _compiled(make, DIRECT_SIGNATURE, ("direct network", dtype.str)).entry_point
    )


@_once
def direct_activation():
    """Return ``activation(code, x, out)``, for plain arrays, which leaves others alone; None where there is none."""
    if not DIRECT:
        return None

    def make():
        return direct.make_activation(jit, *map(make_borrow, (np.dtype(np.float32), np.dtype(np.float64))))

    return _entry_point(make, ("direct activation",))


def _entry_point(make, key):
    """Return what Python calls to run the function that `make` makes, of an address and two operands."""
    return make() if numba.config.DISABLE_JIT else _compiled(make, DIRECT_SIGNATURE, key).entry_point


@_once
def apply(dtype: np.dtype, parallel: bool):
    """Return the compiled kernel that runs any activation pass over an array."""
    x, y = _array(dtype, 1, "C", readonly=True), _array(dtype, 1, "C")
    signature = types.void(types.intp, x, y, types.intp, types.intp)
    return _dispatcher(passes.apply, signature, ("apply", dtype.str), parallel)


@_once
def streamed(dtype: np.dtype, parallel: bool):
    """Return the compiled kernel that does what `apply` does, element by element, past the caches."""
    x, y = _array(dtype, 1, "C", readonly=True), _array(dtype, 1, "C")
    signature = types.void(types.intp, x, y, types.intp)
    function = passes.make_streamed(TABLE[machine.host().isa].lanes(dtype.itemsize))
    return _dispatcher(function, signature, ("streamed", dtype.str), parallel)


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
    pointer = types.CPointer(numba.from_dtype(dtype))
    signature = types.void(pointer, pointer, *[types.int64] * 4)
    cached = fingerprint(activation.function) is not None
    key = ("pass", _identity(activation), dtype.str)
    return _address(lambda: _pass(activation, dtype), signature, key, cached)


def _pass(activation, dtype):
    """Return the body of an activation's pass: in stages for the package's own row-wise ones, else by its function."""
    staged = softmax.STAGED.get(activation.name) if activation.function.__module__ == activations.__name__ else None
    if staged is not None:
        exp, log1p = (inline(words()[word].py_func, "staged") for word in ("exp", "log1p"))
        return staged(jit, inline, TABLE[machine.host().isa].lanes(dtype.itemsize), exp, log1p)
    identity, function = _identity(activation), scalar(activation)
    if activation.rowwise:
        return passes.make_rowwise(lambda loop: jit(loop, identity), function)
    halved = TABLE[machine.host().isa].vector_bytes == passes.LINE  # vectors narrower than a line stay as they are
    short = passes.SHORT // dtype.itemsize if halved else 0
    return passes.make_elementwise(lambda loop: jit(loop, identity, short), function, short)


@_once
def _identity(activation) -> tuple:
    """Return what tells an activation from all others, of this process and of others."""
    return activation.name, fingerprint(activation.function) or uuid.uuid4().hex


_alive: list = []  # what has an address, or an entry point: its code must outlive every program that holds it
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


def light(activation) -> bool:
    """Say whether memory is slower than the activation: an element-wise formula that calls nothing but builtins.

    An exponential takes longer than its element takes to come and go.
    """
    function = activation.function
    calls = any(callable(function.__globals__.get(name)) for name in function.__code__.co_names)
    return not (activation.rowwise or calls or function.__closure__)


def warm(progress=None, further=()) -> list[tuple[str, float, bool]]:
    """Compile all kernels and every registered activation, in both dtypes, and the kernels for weights at half size.

    `further` are more jobs, each a name and a function.  Returns, and reports to `progress` as each is done, what it
    is, the seconds it took and whether it was there already, in the disk cache or in this process.
    """
    jobs = [("direct activation", direct_activation), ("sort", sort)]
    kept = [("float32", half.FULL), ("float64", half.FULL), *(("float32", form) for form in half.FORMS.values())]
    names = {form: f", {kind} weights" for kind, form in half.FORMS.items()}
    for dtype, form in ((np.dtype(name), form) for name, form in kept):
        what = f"{dtype}{names.get(form, '')}"
        jobs.append((f"kernels {what}", functools.partial(kernels, dtype, form)))
        for vectors in TABLE[machine.host().isa].rows:
            jobs.append((f"layer {vectors} vectors wide {what}", functools.partial(layer, dtype, form, vectors)))
    for dtype in (np.dtype(np.float32), np.dtype(np.float64)):
        jobs.append((f"single {dtype}", functools.partial(single, dtype)))
        jobs.append((f"direct network {dtype}", functools.partial(direct_network, dtype)))
        kinds = C_FUNCTIONS if dtype == np.float64 else ["rows"]  # SciPy calls float64 functions
        jobs += [(f"C function {kind} {dtype}", functools.partial(c_function, dtype, kind)) for kind in kinds]
        for parallel in (False, True):
            kind = "parallel" if parallel else "serial"
            jobs.append((f"forward {kind} {dtype}", functools.partial(forward, dtype, parallel)))
            jobs.append((f"columns {kind} {dtype}", functools.partial(columns, dtype, parallel)))
            jobs.append((f"apply {kind} {dtype}", functools.partial(apply, dtype, parallel)))
            jobs.append((f"population {kind} {dtype}", functools.partial(population, dtype, parallel)))
            jobs.append((f"streamed {kind} {dtype}", functools.partial(streamed, dtype, parallel)))
        for activation in activations.REGISTRY.values():
            jobs.append((f"{activation.name} {dtype}", functools.partial(activation_pass, activation, dtype)))
    done = []
    for name, job in (*jobs, *further):
        before = cache.misses
        begin = time.perf_counter()
        job()
        done.append((name, time.perf_counter() - begin, cache.misses == before))
        if progress is not None:
            progress(*done[-1])
    return done
