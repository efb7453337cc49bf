"""Many networks of one shape: their weights in one buffer, and the life of a call.

::

    buffer   [w 0|b 0|w 1|b 1| ... of network 0][w 0|b 0|w 1|b 1| ... of network 1] ... [tail]
             <------------ stride ------------>

Each part begins on a 64-byte boundary, and ``w`` is ``(n_in, n_out)`` as NumPy keeps it: nothing is padded to whole
vectors, for it is the bytes of weights that bound the speed of a large population.  A tile that is wider than ``w``
reads on into whatever lies behind, and drops those columns; the tail is there to be read after the last weight.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from numbadense._engine import compile as compiler
from numbadense._engine import foreign, half, machine, validate
from numbadense._engine import plan as planner
from numbadense._engine import program as build_program
from numbadense._engine import threads as threading
from numbadense._engine.cpu import forward, pack

PLANS_KEPT = 256  # batch sizes whose plan a population remembers
SCRATCH_KEPT = 4  # idle scratch buffers of one size that a population keeps for its next calls
DIRECT = 0x1 | 0x100 | 0x400  # ndarray.flags.num: C-contiguous, aligned, writeable
ndarray = np.ndarray
NONE = np.empty(0, np.int64)


@dataclass(frozen=True, slots=True)
class Packed:
    """The networks of a population, all of one dtype.

    `code` is that of the first and lies at `address`, `stride` is the bytes from one network to the next, and `buffer`
    keeps the addresses in `code` alive.  `weights` and `biases` are views of the buffer by layer, with a leading axis
    of networks.
    """

    code: np.ndarray
    address: int
    stride: int
    buffer: np.ndarray
    dtype: np.dtype
    count: int
    shapes: tuple[tuple[int, int], ...]
    width: int
    weights: tuple[np.ndarray, ...]
    biases: tuple[np.ndarray, ...]
    plans: dict = field(default_factory=dict)
    scratch: dict = field(default_factory=dict)

    @property
    def n_in(self) -> int:
        """Features in."""
        return self.shapes[0][0]

    @property
    def n_out(self) -> int:
        """Features out."""
        return self.shapes[-1][1]


def _aligned(size: int, dtype: np.dtype) -> int:
    """Return `size` elements, rounded up to whole cache lines."""
    line = pack.ALIGNMENT // dtype.itemsize
    return -(-size // line) * line


def build(weights: Sequence, biases: Sequence, activations: Sequence, dtype: np.dtype) -> Packed:
    """Pack ``w``, ``(networks, n_in, n_out)``, and ``b``, ``(networks, n_out)`` or None, of each layer."""
    count = weights[0].shape[0]
    shapes = tuple((int(w.shape[1]), int(w.shape[2])) for w in weights)
    size = sum(_aligned(k * n, dtype) + _aligned(n, dtype) for k, n in shapes)
    panels = [build_program.vectors_and_columns(n, dtype) for _, n in shapes]
    buffer = pack.aligned_empty(count * size + max(nr for _, nr in panels), dtype)
    buffer[count * size :] = 0
    networks = buffer[: count * size].reshape(count, size)
    code, table = build_program.blank(len(shapes), dtype)
    places, width, begin = [], 0, 0
    for index, ((k, n), (vectors, nr), activation) in enumerate(zip(shapes, panels, activations, strict=True)):
        middle = begin + _aligned(k * n, dtype)
        end = middle + _aligned(n, dtype)
        networks[:, begin:middle], networks[:, middle:end] = 0, 0
        networks[:, begin : begin + k * n].reshape(count, k, n)[...] = weights[index]
        if biases[index] is not None:
            networks[:, middle : middle + n] = biases[index]
        padded = pack.panels(n, nr) * nr
        row = table[index]
        row[[forward.N_IN, forward.N_OUT, forward.VECTORS]] = k, n, vectors
        address = buffer.ctypes.data
        row[[forward.WEIGHTS, forward.BIAS]] = address + begin * dtype.itemsize, address + middle * dtype.itemsize
        row[[forward.W_ROW, forward.W_PANEL, forward.OUT_ROW]] = n, nr, padded
        row[forward.PASS] = build_program.pass_of(activation, dtype)
        row[[forward.ROWWISE, forward.PASS_COLUMNS]] = activation.rowwise, n if activation.rowwise else padded
        row[forward.LAYER] = compiler.layer(dtype, half.FULL, vectors)
        width = max(width, padded) if index < len(shapes) - 1 else width
        places.append((begin, middle))
        begin = end
    buffer.base.flags.writeable = buffer.flags.writeable = networks.flags.writeable = False
    w = [networks[:, at : at + k * n].reshape(count, k, n) for (at, _), (k, n) in zip(places, shapes, strict=True)]
    b = [networks[:, at : at + n] for (_, at), (_, n) in zip(places, shapes, strict=True)]
    code[forward.WIDTH] = width
    return Packed(
        code, code.ctypes.data, size * dtype.itemsize, buffer, dtype, count, shapes, width, tuple(w), tuple(b)
    )


def plan(packed: Packed, m: int, routed: bool, threads: int | None) -> planner.Plan:
    """Return the plan for `m` rows; settings are looked up only where the work could pay for threads."""
    limit, layer = 1, "omp"
    total = m if routed else m * packed.count
    if threads is not None or planner.work(packed.shapes, total) >= planner.FEWEST_PARALLEL:
        limit, layer = threading.limit(threads), threading.expected_layer()
    itemsize, quantum = packed.dtype.itemsize, machine.host().row_quantum
    return planner.population(packed.shapes, packed.width, itemsize, quantum, packed.count, m, routed, limit, layer)


def _remembered(packed: Packed, m: int, routed: bool, threads: int | None) -> planner.Plan:
    plain = threads is None or type(threads) is int  # True and 1.0 are equal to 1, but not a number of threads
    found = packed.plans.get((m, routed, threads)) if plain else None
    if found is None:
        found = plan(packed, m, routed, threads)
        if len(packed.plans) >= PLANS_KEPT:
            packed.plans.clear()
        if not found.parallel or threading.settled():
            packed.plans[m, routed, threads] = found
    return found


def _run(packed: Packed, todo: planner.Plan, x, y, m: int, shared: bool, sorted_rows, threads: int | None) -> None:
    """Run the parallel kernel, or its serial twin, over native, validated rows."""
    pool = packed.scratch.setdefault(todo.scratch, [])
    try:
        scratch = pool.pop()
    except IndexError:
        scratch = np.empty(todo.scratch, packed.dtype)
    room = todo.scratch // todo.threads
    arguments = packed.address, packed.stride, x, y, m, shared, *sorted_rows, scratch, todo.block, todo.half, room
    if not todo.parallel or not threading.launch(compiler.population(packed.dtype, True), *arguments, todo.threads):
        compiler.population(packed.dtype, False)(*arguments, 1)
    if len(pool) < SCRATCH_KEPT:
        pool.append(scratch)


def each(packed: Packed, x, out, threads: int | None, owner) -> np.ndarray:
    """Run ``(m, n_in)`` rows through every network, or ``(networks, m, n_in)`` through its own.

    The first lines are a short cut for the arrays of a tight loop: plain, native, contiguous, of the right shape.
    """
    dtype, n_in, n_out, count = packed.dtype, packed.n_in, packed.n_out, packed.count
    if type(x) is ndarray and type(out) is ndarray and x.dtype is dtype and out.dtype is dtype:
        shape = x.shape
        if (
            len(shape) == 3
            and x.flags.num & out.flags.num & DIRECT == DIRECT
            and shape[0] == count
            and shape[2] == n_in
            and out.shape == (count, shape[1], n_out)
            and x.size
            and out.size
            and not np.may_share_memory(x, out)
        ):
            rows = count * shape[1]
            todo = _remembered(packed, shape[1], False, threads)
            flat_x, flat_y = x.reshape(rows, n_in), out.reshape(rows, n_out)
            _run(packed, todo, flat_x, flat_y, shape[1], False, (NONE, NONE, NONE), threads)
            return out
    given, x = x, _rows(x, packed)
    shared = validate.shared(x, owner)
    m = x.shape[-2]

    def run(x: np.ndarray, y: np.ndarray) -> None:
        todo = _remembered(packed, m, False, threads)
        if len(y):
            _run(packed, todo, x, y, m, shared, (NONE, NONE, NONE), threads)

    result = _call(packed, run, (x,), (count, m, n_out), out, owner)
    return result if given is x or out is not None else foreign.like(given, result)


def routed(packed: Packed, x, which, out, threads: int | None, owner) -> np.ndarray:
    """Run row i of x, ``(m, n_in)``, through network ``which[i]``."""
    given, x = x, _rows(x, packed)
    named = validate.as_array("which", which)
    ids = validate.network_ids(named, x, owner)
    ends, order = np.empty(packed.count + 1, np.int64), np.empty(len(ids), np.int64)
    wrong = compiler.sort()(ids, ends, order)
    if wrong >= 0:
        raise validate.network_error(f"which[{wrong}]", int(named[wrong]), packed.count)

    def run(x: np.ndarray, y: np.ndarray) -> None:
        todo = _remembered(packed, len(ids), True, threads)
        if len(y):
            _run(packed, todo, x, y, 0, False, (ids, order, ends), threads)

    result = _call(packed, run, (x, ids), (len(ids), packed.n_out), out, owner)
    return result if given is x or out is not None else foreign.like(given, result)


def _rows(x, packed: Packed) -> np.ndarray:
    x = validate.as_array("x", x)
    if x.dtype is not packed.dtype:
        validate.compute_dtype("x", x)
    return x


def _call(packed: Packed, run, inputs: tuple, shape: tuple[int, ...], out, owner) -> np.ndarray:
    """Check the features and `out`, run over rows, and return the result: `out`, or a new array of `shape`.

    `inputs` are x and what else a kernel reads while it writes.
    """
    x = inputs[0]
    rows = validate.matrix(x, packed.n_in, packed.dtype, owner)
    flat = len(rows) if len(shape) == 2 else shape[0] * shape[1], packed.n_out
    if out is None:
        result = np.empty(shape, packed.dtype)
        run(rows, result.reshape(flat))
        return result
    target = validate.check_output(out, shape, packed.dtype)
    y = validate.direct_output(target, packed.dtype, inputs)
    if y is not None:
        run(rows, y)
    else:
        y = np.empty(flat, packed.dtype)
        run(rows, y)
        np.copyto(target, y.reshape(shape), casting="same_kind")
    return out
