"""From operands to a kernel: check, allocate, plan, launch the parallel kernel or its serial twin, copy back."""

import numpy as np

from numbadense._engine import compile as compiler
from numbadense._engine import plan as planner
from numbadense._engine import program as build
from numbadense._engine import threads as threading
from numbadense._engine import validate
from numbadense._engine.program import Program

PLANS_KEPT = 256  # batch sizes whose plan a network remembers
PACK_FROM_ROWS = 48  # a single call packs its weights from this many rows on
SCRATCH_KEPT = 4  # idle scratch buffers of one size that a network keeps for its next calls
ndarray = np.ndarray
COMPUTED = (validate.FLOAT32, validate.FLOAT64)
DIRECT = 0x1 | 0x100 | 0x400  # ndarray.flags.num: C-contiguous, aligned, writeable
OWNDATA = 0x4


def plan(program: Program, m: int, threads: int | None) -> planner.Plan:
    """Return the plan for `m` rows; settings are looked up only where the work could pay for threads."""
    limit, layer = 1, "omp"
    if threads is not None or planner.work(program.shapes, m) >= planner.FEWEST_PARALLEL:
        limit, layer = threading.limit(threads), threading.expected_layer()
    return planner.forward(program.shapes, program.width, program.dtype.itemsize, m, limit, layer)


def remembered(program: Program, m: int, threads: int | None) -> planner.Plan:
    """Return the plan for `m` rows, kept for the next call like it once the threading layer is known."""
    if len(program.plans) >= PLANS_KEPT:
        program.plans.clear()
    found = plan(program, m, threads)
    if not found.parallel or threading.settled():
        program.plans[m, threads] = found
    return found


def bind(program: Program, owner):
    """Return ``call(x, out, threads)``, which runs a program; `owner` is what x must fit, for the error.

    The first lines of `call` are a short cut for the arrays of a tight loop: plain, native, contiguous, of the right
    shape, apart from each other.
    """
    dtype, n_in, n_out = program.dtype, program.n_in, program.n_out
    serial = compiler.forward(dtype, False)
    table, plans, pools = program.table, program.plans, program.scratch
    no_scratch = np.empty(0, dtype)

    def rows(x: np.ndarray, y: np.ndarray, threads: int | None) -> None:
        """Run over the rows of `x` into `y`: 2-D, native, validated, apart from each other."""
        plain = threads is None or type(threads) is int  # True and 1.0 are equal to 1, but not a number of threads
        todo = (plans.get((len(x), threads)) if plain else None) or remembered(program, len(x), threads)
        size = todo.scratch
        scratch = no_scratch
        if size:
            pool = pools.setdefault(size, [])
            try:
                scratch = pool.pop()
            except IndexError:
                scratch = np.empty(size, dtype)
        if todo.threads == 1:
            serial(table, x, y, scratch, todo.block, todo.half, 1)
        else:
            _launch(todo, dtype, table, x, y, scratch)
        if size and len(pool) < SCRATCH_KEPT:
            pool.append(scratch)

    def call(x, out, threads: int | None) -> np.ndarray:
        if type(x) is ndarray and type(out) is ndarray and x.dtype is dtype and out.dtype is dtype:
            flags = x.flags.num & out.flags.num
            if flags & DIRECT == DIRECT and (flags & OWNDATA or not np.may_share_memory(x, out)) and x is not out:
                shape = x.shape
                if len(shape) == 2 and shape[1] == n_in and out.shape == (shape[0], n_out):
                    rows(x, out, threads)
                    return out
        return _call((dtype, n_in, n_out), rows, x, out, threads, owner, ())

    return call


def _launch(todo: planner.Plan, dtype: np.dtype, table, x, y, scratch) -> None:
    """Run the parallel kernel, or its serial twin where that is all that is safe."""
    if not todo.parallel or not threading.launch(
        compiler.forward(dtype, True), table, x, y, scratch, todo.block, todo.half, todo.threads
    ):
        compiler.forward(dtype, False)(table, x, y, scratch, todo.block, todo.half, 1)


def _call(kind, rows, x, out, threads, owner, operands) -> np.ndarray:
    """Check `x` and `out`, run `rows` and return the result: `out`, or a new array of x's leading shape.

    `kind` is the dtype, the features in and the features out; `owner` is what x must fit; `operands` are the other
    arrays that `out` may overlap.
    """
    dtype, n_in, n_out = kind
    x = validate.as_array("x", x)
    if x.dtype is not dtype:
        validate.compute_dtype("x", x)
    x2 = validate.matrix(x, n_in, dtype, owner)
    shape = (*x.shape[:-1], n_out)
    if out is None:
        result = np.empty(shape, dtype)
        rows(x2, result if x.ndim == 2 else result.reshape(x2.shape[0], n_out), threads)
        return result
    target = validate.check_output(out, shape, dtype)
    y = validate.direct_output(target, dtype, (x, *operands))
    if y is not None:
        rows(x2, y, threads)
    else:
        y = np.empty((x2.shape[0], n_out), dtype)
        rows(x2, y, threads)
        np.copyto(target, y.reshape(shape), casting="same_kind")
    return out


def dense(x: np.ndarray, w: np.ndarray, b: np.ndarray, activation, out, threads: int | None) -> np.ndarray:
    """Run one layer once; `w` and `b` are native, of one dtype.

    Packing pays when each weight is used many times.  For few rows the weights are read where they lie.
    """
    dtype = w.dtype
    m = x.size // w.shape[0] if w.shape[0] else PACK_FROM_ROWS

    def in_place(x: np.ndarray, y: np.ndarray, threads: int | None) -> None:
        table = build.unpacked(w.shape, w.strides[0] // dtype.itemsize, activation, dtype, m == 1)
        compiler.single(dtype)(table, w, b, x, y)

    def packed(x: np.ndarray, y: np.ndarray, threads: int | None) -> None:
        program = build.build([build.Layer(w, b, activation)], dtype)
        todo = plan(program, len(x), threads)
        _launch(todo, dtype, program.table, x, y, np.empty(0, dtype))

    most = 1 if threads is None and m * w.size < planner.FEWEST_PARALLEL else threading.limit(threads)
    rows = in_place if m < PACK_FROM_ROWS and most == 1 and build.readable(w, b) else packed
    return _call((dtype, *w.shape), rows, x, out, threads, w, (w, b))


def bind_activation(activation):
    """Return ``call(x, out, threads)``: the activation of every element of x, or of every row for a row-wise one.

    Its first lines are a short cut for small, plain, contiguous 1-D arrays.
    """
    seen: dict[np.dtype, tuple] = {}  # the pass and the serial kernel of a dtype, once they are compiled

    def call(x, out, threads: int | None):
        if type(x) is ndarray and type(out) is ndarray and x.dtype is out.dtype and x.dtype in seen:
            shape = x.shape
            flags = x.flags.num & out.flags.num
            if (
                len(shape) == 1
                and out.shape == shape
                and flags & DIRECT == DIRECT
                and (x is out or flags & OWNDATA)
                and 0 < shape[0] < planner.FEWEST_PARALLEL_ELEMENTS
                and (threads is None or (type(threads) is int and threads > 0))
            ):
                address, serial = seen[x.dtype]
                serial(address, x, out, shape[0] if activation.rowwise else 1, 1)
                return out
        result = _activate(activation, x, out, threads)
        dtype = result.dtype
        if dtype in COMPUTED and dtype not in seen:
            seen[dtype] = compiler.activation_pass(activation, dtype), compiler.apply(dtype, False)
        return result

    return call


def _activate(activation, x, out, threads: int | None):
    given = x
    x = validate.floats("x", x)
    dtype = x.dtype
    if activation.rowwise and x.ndim == 0:
        raise validate.ShapeError(
            f"x is a single number but {activation.name} works on the last axis: x.shape=(); pass an array of rows."
        )
    target = None if out is None else validate.check_output(out, x.shape, dtype)
    direct = target is not None and target.dtype is dtype and target.flags.carray
    if direct and target is not x:
        direct = not np.may_share_memory(x, target)
    y = target if direct else np.empty(x.shape, dtype)
    if x.size:
        _apply(activation, x, y, threads)
    if out is None:
        return y if x.ndim or isinstance(given, np.ndarray) else y[()]
    if not direct:
        np.copyto(target, y, casting="same_kind")
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
