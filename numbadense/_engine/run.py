"""From validated operands to a kernel: allocate, plan, launch the parallel kernel or its serial twin, copy back."""

import numpy as np

from numbadense._engine import compile as compiler
from numbadense._engine import plan as planner
from numbadense._engine import threads as threading
from numbadense._engine import validate
from numbadense._engine.program import Program

PLANS_KEPT = 256  # batch sizes whose plan a program remembers
SCRATCH_KEPT = 4  # idle scratch buffers of one size that a program keeps for its next calls
NO_SCRATCH = {dtype: np.empty(0, dtype) for dtype in (validate.FLOAT32, validate.FLOAT64)}


def plan(program: Program, m: int, threads: int | None) -> planner.Plan:
    """Return the plan for `m` rows, remembered for the next call like it."""
    key = (m, threads)
    found = program.plans.get(key)
    if found is None:
        layer = threading.expected_layer()
        limit = threading.limit(threads)
        found = planner.forward(program.shapes, program.width, program.dtype.itemsize, m, limit, layer)
        if len(program.plans) >= PLANS_KEPT:
            program.plans.clear()
        program.plans[key] = found
    return found


def rows(program: Program, x: np.ndarray, y: np.ndarray, threads: int | None) -> None:
    """Run a program over the rows of `x` into `y`: 2-D, native, validated, apart from each other."""
    todo = plan(program, x.shape[0], threads)
    dtype = program.dtype
    pool = None
    scratch = NO_SCRATCH[dtype]
    if todo.half:
        pool = program.scratch.setdefault(todo.scratch, [])
        try:
            scratch = pool.pop()
        except IndexError:
            scratch = np.empty(todo.scratch, dtype)
    table, block, half = program.table, todo.block, todo.half
    ran = todo.parallel and threading.launch(
        compiler.forward(dtype, True), table, x, y, scratch, block, half, todo.threads
    )
    if not ran:
        compiler.forward(dtype, False)(table, x, y, scratch, block, half, 1)
    if pool is not None and len(pool) < SCRATCH_KEPT:
        pool.append(scratch)


def call(program: Program, x, out, threads: int | None, owner, operands: tuple = ()) -> np.ndarray:
    """Check `x` and `out`, run the program and return the result: `out`, or a new array of x's leading shape.

    `owner` is what x must fit, for the error; `operands` are the other arrays that `out` may overlap.
    """
    dtype = program.dtype
    if type(x) is np.ndarray and x.dtype is dtype and x.ndim == 2 and x.shape[1] == program.n_in and x.flags.aligned:
        x2 = x
    else:
        x = validate.as_array("x", x)
        if x.dtype is not dtype:
            validate.compute_dtype("x", x)
        x2 = validate.matrix(x, program.n_in, dtype, owner)
    shape = (*x.shape[:-1], program.n_out)
    if out is None:
        out = np.empty(shape, dtype)
        rows(program, x2, out if x.ndim == 2 else out.reshape(x2.shape[0], program.n_out), threads)
        return out
    target = validate.check_output(out, shape, dtype)
    y = validate.direct_output(target, dtype, (x, *operands))
    if y is not None:
        rows(program, x2, y, threads)
    else:
        y = np.empty((x2.shape[0], program.n_out), dtype)
        rows(program, x2, y, threads)
        np.copyto(target, y.reshape(shape), casting="same_kind")
    return out


def activate(activation, x, out, threads: int | None = None):
    """Return the activation of every element of `x`, or of every row for a row-wise one."""
    given = x
    x = validate.floats("x", x)
    dtype = x.dtype
    if activation.rowwise and x.ndim == 0:
        raise validate.ShapeError(
            f"x is a single number but {activation.name} works on the last axis: x.shape=(); pass an array of rows."
        )
    target = None if out is None else validate.check_output(out, x.shape, dtype)
    direct = target is not None and target.dtype is dtype and target.flags.c_contiguous and target.flags.aligned
    in_place = direct and target is x
    if direct and not in_place:
        direct = not np.may_share_memory(x, target)
    y = target if direct else np.empty(x.shape, dtype)
    if x.size:
        _apply(activation, x, y, in_place, threads)
    if out is None:
        return y if x.ndim or isinstance(given, np.ndarray) else y[()]
    if not direct:
        np.copyto(target, y, casting="same_kind")
    return out


def _apply(activation, x: np.ndarray, y: np.ndarray, in_place: bool, threads: int | None) -> None:
    """Run the activation's pass over contiguous `y`, after copying `x` there block by block."""
    dtype = y.dtype
    address = compiler.activation_pass(activation, dtype)
    n = x.shape[-1] if activation.rowwise else 1
    flat_x = x if x.ndim == 1 and x.flags.c_contiguous else np.ascontiguousarray(x).reshape(-1)
    flat_y = y if y.ndim == 1 else y.reshape(-1)
    count = planner.elementwise(x.size, threading.limit(threads), threading.expected_layer())
    if count == 1 or not threading.launch(
        compiler.apply(dtype, True), address, flat_x, flat_y, n, in_place, count
    ):
        compiler.apply(dtype, False)(address, flat_x, flat_y, n, in_place, 1)
