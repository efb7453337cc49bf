"""From operands to a kernel: check, allocate, plan, launch the parallel kernel or its serial twin, copy back."""

import numpy as np

from numbadense._engine import compile as compiler
from numbadense._engine import foreign, lazy, machine, validate
from numbadense._engine import plan as planner
from numbadense._engine import program as build
from numbadense._engine import threads as threading
from numbadense._engine.cpu import direct
from numbadense._engine.program import Program

PLANS_KEPT = 256  # batch sizes whose plan a network remembers
PACK_FROM_ROWS = 48  # a single call packs its weights from this many rows on
SCRATCH_KEPT = 4  # idle scratch buffers of one size that a network keeps for its next calls
COMPUTED = (validate.FLOAT32, validate.FLOAT64)


def plan(program: Program, m: int, threads: int | None) -> planner.Plan:
    """Return the plan for `m` rows; settings are looked up only where the work could pay for threads."""
    limit, layer = 1, "omp"
    if threads is not None or planner.work(program.shapes, m) >= planner.FEWEST_PARALLEL:
        limit, layer = threading.limit(threads), threading.expected_layer()
    quantum = machine.host().row_quantum
    itemsize = program.dtype.itemsize
    return planner.forward(program.shapes, program.panels, program.width, itemsize, quantum, m, limit, layer)


def remembered(program: Program, m: int, threads: int | None) -> planner.Plan:
    """Return the plan for `m` rows, kept for the next call like it once the threading layer is known.

    In a task of Dask it is one for a single thread, for the other threads have tasks of their own.
    """
    if threads is None and threading.in_dask_task():
        threads = 1
    if len(program.plans) >= PLANS_KEPT:
        program.plans.clear()
    found = plan(program, m, threads)
    if not found.parallel or threading.settled():
        program.plans[m, threads] = found
    return found


def bind(program: Program, owner):
    """Return ``call(x, out, threads)``, which runs a program; `owner` is what x must fit, for the error."""
    kind = dtype, n_in, n_out = program.dtype, program.n_in, program.n_out
    direct, address = direct_network(program), program.address

    def rows(x: np.ndarray, y: np.ndarray, threads: int | None) -> None:
        """Run over the rows of `x` into `y`: 2-D, native, validated, apart from each other."""
        plain = threads is None or type(threads) is int  # True and 1.0 are equal to 1, but not a number of threads
        todo = (program.plans.get((len(x), threads)) if plain else None) or remembered(program, len(x), threads)
        pool = program.scratch.setdefault(todo.scratch, [])
        try:
            scratch = pool.pop()
        except IndexError:
            scratch = np.empty(todo.scratch, program.dtype)
        _launch(todo, program, x, y, scratch)
        if len(pool) < SCRATCH_KEPT:
            pool.append(scratch)

    def call(x, out, threads: int | None) -> np.ndarray:
        if out is None and threads is None and type(x) is np.ndarray and x.dtype is dtype and x.shape[-1:] == (n_in,):
            result = np.empty((*x.shape[:-1], n_out), dtype)
            if direct(address, x, result):
                return result
        if type(x) is np.ndarray and (out is None or type(out) is np.ndarray):
            return _call(kind, rows, x, out, threads, owner, ())
        if foreign.is_dask_array(x):
            return lazy.network(owner, x, out, threads)
        if foreign.shares(x) or foreign.shares(out):  # again, with arrays of their memory, which may go the short way
            source, target = validate.as_array("x", x, owner), foreign.target(out)
            if threads is None and target is not None and direct(address, source, target):
                return out
            result = call(source, out if target is None else target, threads)
            return foreign.like(x, result) if out is None else out
        return _call(kind, rows, x, out, threads, owner, ())

    return call


def direct_network(program: Program):
    """Return ``direct(address, x, out)``: run the program at an address and say 1, or 0 where the long way has to."""
    return compiler.direct_network(program.dtype) or never


def never(address, x, out) -> int:
    """Leave everything to the long way."""
    return 0


def _launch(todo: planner.Plan, program: Program, x, y, scratch) -> None:
    """Run the parallel kernel, or its serial twin where that is all that is safe."""
    dtype = program.dtype
    arguments = program.address, x, y, scratch, todo.block, todo.half
    if todo.by_columns:
        pieces = program.pieces.get(todo.threads)
        if pieces is None:
            pieces = program.pieces[todo.threads] = build.pieces(program, todo.threads)
        shares = program.address, pieces.ctypes.data, x, y, scratch, todo.half, todo.threads
        if threading.launch(compiler.columns(dtype, True), *shares):
            return
    elif todo.parallel and threading.launch(compiler.forward(dtype, True), *arguments, todo.threads):
        return
    compiler.forward(dtype, False)(*arguments, 1)


def _call(kind, rows, x, out, threads, owner, operands):
    """Check `x` and `out`, run `rows` and return the result: `out`, or a new array of x's kind and leading shape.

    `kind` is the dtype, the features in and the features out; `owner` is what x must fit; `operands` are the other
    arrays that `out` may overlap.
    """
    dtype, n_in, n_out = kind
    given, x = x, validate.as_array("x", x, owner)
    if x.dtype is not dtype:
        validate.compute_dtype("x", x)
    x2 = validate.matrix(x, n_in, dtype, owner)
    shape = (*x.shape[:-1], n_out)
    if out is None:
        result = np.empty(shape, dtype)
        rows(x2, result if x.ndim == 2 else result.reshape(x2.shape[0], n_out), threads)
        return result if given is x else foreign.like(given, result)
    target = validate.check_output(out, shape, dtype)
    y = validate.direct_output(target, dtype, (x, *operands))
    if y is not None:
        rows(x2, y, threads)
    else:
        y = np.empty((x2.shape[0], n_out), dtype)
        rows(x2, y, threads)
        validate.deliver(y, target)
    return out


def dense(x: np.ndarray, w: np.ndarray, b: np.ndarray, activation, out, threads: int | None) -> np.ndarray:
    """Run one layer once; `w` and `b` are native, of one dtype.

    Packing pays when each weight is used many times.  For few rows the weights are read where they lie.
    """
    dtype = w.dtype
    m = x.size // w.shape[0] if w.shape[0] else PACK_FROM_ROWS

    def in_place(x: np.ndarray, y: np.ndarray, threads: int | None) -> None:
        code = build.unpacked(w.shape, w.strides[0] // dtype.itemsize, activation, dtype, m == 1)
        compiler.single(dtype)(code.copy(), w, b, x, y)

    def packed(x: np.ndarray, y: np.ndarray, threads: int | None) -> None:
        program = build.build([build.Layer(w, b, activation)], dtype)
        todo = plan(program, len(x), threads)
        _launch(todo, program, x, y, np.empty(0, dtype))

    most = 1 if threads is None and m * w.size < planner.FEWEST_PARALLEL else threading.limit(threads)
    rows = in_place if m < PACK_FROM_ROWS and most == 1 and build.readable(w, b) else packed
    return _call((dtype, *w.shape), rows, x, out, threads, w, (w, b))


def bind_activation(activation):
    """Return ``direct(address, x, out)``, its address, and ``call(x, out, threads)`` of an activation."""
    direct_call = compiler.direct_activation() or never
    code = np.zeros(direct.ACTIVATION_WORDS, np.int64)
    code[[direct.OF_FLOAT32, direct.OF_FLOAT64, direct.KIND]] = id(COMPUTED[0]), id(COMPUTED[1]), id(np.ndarray)
    code[[direct.ROWWISE, direct.MOST_ELEMENTS]] = activation.rowwise, planner.FEWEST_PARALLEL_ELEMENTS - 1
    passes = direct.PASS32, direct.PASS64

    address = code.ctypes.data

    def call(x, out, threads: int | None):
        if out is None and threads is None and type(x) is np.ndarray and x.dtype in COMPUTED:
            result = np.empty(x.shape, x.dtype)
            if direct_call(address, x, result):
                return result
        if foreign.is_dask_array(x):
            return lazy.activation(_activate, activation, x, out, threads)
        result = _activate(activation, x, out, threads)
        kept = getattr(result, "dtype", None)
        for dtype, index in zip(COMPUTED, passes, strict=True):
            if kept is dtype and code[index] == 0:
                code[index] = compiler.activation_pass(activation, dtype)
        return result

    call.code = code  # whose address the other one has
    return direct_call, address, call


def _activate(activation, x, out=None, threads: int | None = None):
    """Return the activation over `x`: `out`, or a new array."""
    given = x
    x = validate.floats("x", x)
    dtype = x.dtype
    if activation.rowwise and x.ndim == 0:
        raise validate.single_number_error(activation)
    target = None if out is None else validate.check_output(out, x.shape, dtype)
    direct = target is not None and target.dtype is dtype and target.flags.carray
    if direct and target is not x:
        direct = not np.may_share_memory(x, target)
    y = target if direct else np.empty(x.shape, dtype)
    if x.size:
        _apply(activation, x, y, threads)
    if out is None:
        result = foreign.like(given, y)
        return y[()] if result is y and not y.ndim and not isinstance(given, np.ndarray) else result
    if not direct:
        validate.deliver(y, target)
    return out


def _apply(activation, x: np.ndarray, y: np.ndarray, threads: int | None) -> None:
    """Run the activation's pass from `x` to contiguous `y`: the same array, or one apart from it."""
    dtype = y.dtype
    address = compiler.activation_pass(activation, dtype)
    n = x.shape[-1] if activation.rowwise else 1
    flat_x, flat_y = np.ascontiguousarray(x).reshape(-1), y.reshape(-1)
    count, kernel, operands = 1, compiler.apply, (address, flat_x, flat_y, n)
    if threads is not None or x.size >= planner.FEWEST_PARALLEL_ELEMENTS:
        count = planner.elementwise(x.size, threading.limit(threads), threading.expected_layer())
        if y.nbytes >= planner.STREAMED_FROM and x is not y and compiler.light(activation):
            kernel, operands = compiler.streamed, (address, flat_x, flat_y)
    if count == 1 or not threading.launch(kernel(dtype, True), *operands, count):
        kernel(dtype, False)(*operands, 1)
