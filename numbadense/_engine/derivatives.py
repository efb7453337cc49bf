"""Derivatives of a network by its inputs: what is packed for them, and the life of a call.

Tangents go through a second program over the packed weights of the first.  A Jacobian goes backward, through weights
that are packed once more, transposed, where that is less work.  Either is built, and what it needs compiled, when it is
first asked for.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from numbadense import activations
from numbadense._engine import foreign, slopes, validate
from numbadense._engine import plan as planner
from numbadense._engine import program as build_program
from numbadense._engine import threads as threading
from numbadense._engine.cpu import differential, forward, pack
from numbadense._engine.program import Program
from numbadense.errors import ActivationError

SCRATCH_KEPT = 4  # idle scratch buffers of one size that a network keeps for its next calls


@dataclass(frozen=True, slots=True)
class Differential:
    """The derivatives of a program, one way, as kernels see them: see `numbadense._engine.cpu.differential`.

    `address` is that of `code`, `kept` what keeps the addresses in it alive, `width` the elements of the widest row,
    and `slopes` those of the slopes of a row in all layers.  `jvp` and `jacobian` are the short ways of plain arrays.
    """

    code: np.ndarray
    address: int
    program: Program
    kept: object
    width: int
    slopes: int
    backward: bool
    jvp: Callable[..., int]
    jacobian: Callable[..., int]
    scratch: dict = field(default_factory=dict)


def goes_backward(program: Program, layers: Sequence) -> bool:
    """Say whether a Jacobian is less work backward; what is row-wise has a derivative forward only."""
    if any(layer.activation.rowwise for layer in layers):
        return False
    padded = program.table[:, forward.OUT_ROW].tolist()
    before = [build_program.vectors_and_columns(program.n_in, program.dtype)[1], *padded[:-1]]
    before[0] *= pack.panels(program.n_in, before[0])
    ahead = program.n_in * sum(k * n for (k, _), n in zip(program.shapes[1:], padded[1:], strict=True))
    back = program.n_out * sum(n * k for (_, n), k in zip(program.shapes[:-1], before[:-1], strict=True))
    return back < ahead


def build(program: Program, layers: Sequence, backward: bool) -> Differential:
    """Return the differential of `program`, which `layers`, with their ``w`` and ``activation``, were packed for."""
    for index, layer in enumerate(layers):
        if layer.activation.derivative is None:
            raise ActivationError(
                f"activation {layer.activation.name!r} of layer {index} has no derivative, and so the network has "
                "none: register it with @numbadense.activation(derivative=...)."
            )
    dtype, count = program.dtype, len(layers)
    padded = program.table[:, forward.OUT_ROW]
    before = np.cumsum(padded) - padded
    through = _transposed(layers, dtype) if backward else program
    width = int(max(padded.max(), through.table[:, forward.OUT_ROW].max()))
    code = np.zeros(differential.HEADER + 2 * count * differential.LAYER, np.int64)
    rows, tangents = code[differential.HEADER :].reshape(2, count, differential.LAYER)
    for record, row, layer in zip(rows, program.table, layers, strict=True):
        _piece(record, program, row)
        record[differential.PASS] = build_program.pass_of(layer.activation, dtype)
        record[differential.SLOPE] = slopes.slope_pass(layer.activation, dtype)
        record[differential.KEEP] = layer.activation.rowwise
    nothing = pack.aligned_empty(width, dtype)
    nothing[:] = 0
    for record, row in zip(tangents, through.table, strict=True):
        _piece(record, through, row)
        record[differential.RECORD + forward.HEADER + forward.BIAS] = nothing.ctypes.data
    chains = [slopes.chain(layer.activation, dtype) for layer in layers]
    links = [*zip(chains, before, padded, strict=True)]
    chained = tangents[:, differential.CHAIN : differential.CHAIN + 3]
    if backward:
        chained[: count - 1] = links[-2::-1]
        scaled = slopes.scale(dtype) if chains[-1] else 0
        tangents[0, differential.SCALE : differential.SCALE + 3] = scaled, before[-1], padded[-1]
    else:
        chained[:] = links
    first = layers[-1].w.T if backward else layers[0].w
    shape = len(first), int(tangents[0, differential.OUT_ROW])
    units = pack.aligned_empty(shape[0] * shape[1], dtype).reshape(shape)
    units[:, : first.shape[1]], units[:, first.shape[1] :] = first, 0
    kept = int(padded.sum())
    room = planner.room_of_derivatives(program.shapes, width, kept, dtype.itemsize)
    scratch = np.empty(max(1, room), dtype)
    code[[differential.KERNEL, differential.LAYERS]] = slopes.kernel(dtype), count
    code[[differential.WIDTH, differential.KEPT, differential.UNITS]] = width, kept, units.ctypes.data
    code[[differential.FEATURES, differential.OUTPUTS]] = program.n_in, program.n_out
    code[[differential.RESULTS, differential.BACKWARD]] = program.n_in if backward else program.n_out, backward
    code[[differential.ARRAY_TYPE, differential.DTYPE]] = id(np.ndarray), id(dtype)
    code[[differential.SCRATCH, differential.ROOM]] = scratch.ctypes.data, room
    code[differential.MOST_ROWS] = planner.most_serial_rows(program.shapes)
    direct = slopes.direct_jvp(dtype) or never, slopes.direct_jacobian(dtype) or never
    held = nothing, units, scratch, through
    return Differential(code, code.ctypes.data, program, held, width, kept, backward, *direct)


def for_tangents(program: Program, layers: Sequence) -> Differential:
    """Return the differential of a network forward, and let its code know it."""
    found = build(program, layers, False)
    program.code[forward.TANGENTS] = found.address
    return found


def for_jacobian(program: Program, layers: Sequence, tangents: Callable[[], Differential]) -> Differential:
    """Return the differential for Jacobians, backward or that of `tangents`, and let the network's code know it."""
    found = build(program, layers, True) if goes_backward(program, layers) else tangents()
    program.code[forward.JACOBIAN] = found.address
    return found


def _transposed(layers: Sequence, dtype: np.dtype) -> Program:
    """Return the program of the layers' transposed weights, last to first."""
    identity = activations.get(None)
    return build_program.build([build_program.Layer(layer.w.T, None, identity) for layer in reversed(layers)], dtype)


def _piece(record: np.ndarray, program: Program, row: np.ndarray) -> None:
    """Fill in a record with a layer of a program: a network of its own, without a pass, in whole vectors."""
    record[[differential.OUT_ROW, differential.COLUMNS]] = row[[forward.OUT_ROW, forward.PASS_COLUMNS]]
    piece = record[differential.RECORD :]
    piece[: forward.HEADER] = program.code[: forward.HEADER]
    piece[forward.LAYERS] = 1
    piece[forward.HEADER :] = row
    piece[forward.HEADER + forward.N_OUT] = row[forward.OUT_ROW]
    piece[forward.HEADER + forward.PASS] = 0


def never(*arguments) -> int:
    """Leave everything to the long way."""
    return 0


def plan(of: Differential, m: int, each: int, threads: int | None) -> planner.Plan:
    """Return the plan for `m` rows and their tangents; settings matter only where the work could pay for threads."""
    program, limit, layer = of.program, 1, "omp"
    if threads is not None or planner.work(program.shapes, m * (1 + each)) >= planner.FEWEST_PARALLEL:
        limit, layer = threading.limit(threads), threading.expected_layer()
    return planner.derivatives(program.shapes, of.width, of.slopes, program.dtype.itemsize, m, each, limit, layer)


def _run(of: Differential, x, v, y, dy, units: bool, threads: int | None) -> None:
    """Run the parallel kernel, or its serial twin, over validated rows: ``dy[i, j]`` is for tangent j of row i."""
    todo = plan(of, len(x), dy.shape[1], threads)
    if not y.size:
        return
    pool = of.scratch.setdefault(todo.scratch, [])
    try:
        scratch = pool.pop()
    except IndexError:
        scratch = np.empty(todo.scratch, of.program.dtype)
    arguments = of.address, x, v, y, dy, scratch, todo.block, todo.half, units
    parallel = todo.parallel and threading.launch(slopes.run(of.program.dtype, True), *arguments, todo.threads)
    if not parallel:
        slopes.run(of.program.dtype, False)(*arguments, 1)
    if len(pool) < SCRATCH_KEPT:
        pool.append(scratch)


def _target(out, shape, flat, dtype, others):
    """Return what a kernel may write for an `out` of `shape`, in the shape `flat`, and whether it is `out` itself."""
    if out is not None:
        found = validate.strided_output(validate.check_output(out, shape, dtype), flat, dtype, others)
        if found is not None:
            return found, True
    return np.empty(flat, dtype), False


def _result(given, found, direct: bool, out, shape):
    if out is None:
        return foreign.like(given, found.reshape(shape))
    if not direct:
        validate.deliver(found, validate.check_output(out, shape, found.dtype))
    return out


def jvp(of: Differential, x, v, out, threads: int | None, owner) -> tuple[np.ndarray, np.ndarray]:
    """Return the network at x, and how it changes there in the directions v.

    The first lines are a short cut for the arrays of a tight loop: plain, native, contiguous, of the right shape.
    """
    program = of.program
    dtype, n_in, n_out = program.dtype, program.n_in, program.n_out
    if threads is None and type(x) is np.ndarray and x.shape[-1:] == (n_in,):
        shape = (*x.shape[:-1], n_out)
        y, dy = (None, None) if out is None else validate.output_pair(out)
        y, dy = np.empty(shape, dtype) if y is None else y, np.empty(shape, dtype) if dy is None else dy
        if of.jvp(of.address, x, v, y, dy):
            return y, dy
    given, x = x, validate.as_array("x", x, owner)
    validate.compute_dtype("x", x)
    rows = validate.matrix(x, n_in, dtype, owner)
    directions, each = validate.tangents(v, x, dtype)
    m, (out_y, out_dy) = len(rows), validate.output_pair(out)
    shape = (*x.shape[:-1], n_out)
    several = (*x.shape[:-1], each, n_out) if np.ndim(v) > x.ndim else shape
    y, y_direct = _target(out_y, shape, (m, n_out), dtype, (rows, directions))
    dy, dy_direct = _target(out_dy, several, (m, each, n_out), dtype, (rows, directions, y))
    _run(of, rows, directions, y, dy, False, threads)
    return _result(given, y, y_direct, out_y, shape), _result(given, dy, dy_direct, out_dy, several)


def jacobian(of: Differential, x, out, threads: int | None, owner) -> np.ndarray:
    """Return the Jacobian of the network at x; the first lines are a short cut, as in `jvp`."""
    program = of.program
    dtype, n_in, n_out = program.dtype, program.n_in, program.n_out
    if threads is None and type(x) is np.ndarray and x.shape[-1:] == (n_in,):
        y = np.empty((*x.shape[:-1], n_out), dtype)
        jac = np.empty((*y.shape, n_in), dtype) if out is None else out
        if of.jacobian(of.address, x, y, jac):
            return jac
    given, x = x, validate.as_array("x", x, owner)
    validate.compute_dtype("x", x)
    rows = validate.matrix(x, n_in, dtype, owner)
    shape = (*x.shape[:-1], n_out, n_in)
    jac, direct = _target(out, shape, (len(rows), n_out, n_in), dtype, (rows,))
    dy = jac if of.backward else jac.transpose(0, 2, 1)
    _run(of, rows, rows, np.empty((len(rows), n_out), dtype), dy, True, threads)
    return _result(given, jac, direct, out, shape)
