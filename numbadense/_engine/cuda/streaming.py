"""Rows that live elsewhere: taken through a network in batches, copied while others are computed.

Two lanes take turns.  Each has a stream, a pinned buffer and device memory of its own, so that what one lane copies in
either direction overlaps with what the other computes, and both with what the host reads and writes::

    lane 0   read | copy in | compute | copy out |         write, read | copy in | ...
    lane 1                  read | copy in | compute | copy out |          write, read | ...

Within a lane, the stream keeps the order; the host waits for it before it touches the pinned buffer again.
"""

import contextlib
import math
from typing import Any

import numpy as np
from numba import cuda

from numbadense._engine import validate
from numbadense._engine.cuda import current, failures, memory
from numbadense._engine.cuda import room as rooms
from numbadense._engine.cuda.borrowed import Borrowed, borrow
from numbadense._engine.cuda.steps import Step
from numbadense.errors import OptionError, ShapeError

BATCH_BYTES = 1 << 24  # of input and output in a lane: two such pinned buffers are kept for the next time
LARGE_BYTES = 4 * BATCH_BYTES  # of input and output, from which a call with NumPy arrays is worth two lanes
SHARE = 4  # a lane takes at most one part of so many of the memory that is free
SAMPLE = 1024  # rows by which memory for what a step needs besides is reckoned

_idle: dict[int, list[tuple[Any, np.ndarray]]] = {}  # streams and pinned buffers of BATCH_BYTES, by device


class Lane:
    """A stream, and buffers for `rows` rows in the host's pinned memory and on the device."""

    def __init__(self, step: Step, rows: int, dtype: np.dtype):
        n_in, n_out, itemsize = step.n_in, step.n_out, dtype.itemsize
        self.step = step
        within = rooms.bytes_of((rows, n_in), dtype)
        nbytes = within + rows * n_out * itemsize
        self.standard = nbytes <= BATCH_BYTES
        self.stream, self.pinned = (self.standard and _taken()) or (cuda.stream(), _pinned(nbytes, self.standard))
        self.x = _matrix(self.pinned[:within], rows, n_in, dtype)
        self.y = _matrix(self.pinned[within:], rows, n_out, dtype)
        self.a, self.b = (memory.empty((max(1, rows * n),), dtype, self.stream) for n in (n_in, n_out))
        self.room: Borrowed | None = None
        self.target: np.ndarray | None = None

    def start(self, rows: np.ndarray, target: np.ndarray) -> None:
        """Read rows, and queue all that leads to their results, which go to `target` at the end."""
        m, n_in = rows.shape
        n_out, dtype = target.shape[1], self.x.dtype
        np.copyto(self.x[:m], rows, casting="unsafe")
        a, b = borrow(self.a).part(0, (m, n_in), dtype), borrow(self.b).part(0, (m, n_out), dtype)
        self.target = target  # from here on the stream has work
        if n_in:
            self.a[: m * n_in].copy_to_device(self.x[:m].reshape(m * n_in), stream=self.stream)
        needed = self.step.room(a)
        if needed > (self.room.size if self.room else 0):
            self.room = rooms.made(needed, self.stream)
        self.step.run(a, b, self.room, self.stream)
        self.b[: m * n_out].copy_to_host(self.y[:m].reshape(m * n_out), stream=self.stream)

    def finish(self) -> None:
        """Wait, and write the results where they belong."""
        if self.target is not None:
            self.stream.synchronize()
            np.copyto(self.target, self.y[: len(self.target)], casting="same_kind")
            self.target = None

    def leave(self) -> None:
        """Wait whatever has happened, and keep the buffer for others; the pinned memory must outlive the copies."""
        with contextlib.suppress(Exception):  # what failed has been said where it failed
            self.stream.synchronize()
            idle = _idle.setdefault(current.number(), [])
            if self.standard and len(idle) < 2:
                idle.append((self.stream, self.pinned))


def _taken():
    try:
        return _idle[current.number()].pop()
    except LookupError:
        return None


def _pinned(nbytes: int, standard: bool) -> np.ndarray:
    nbytes = BATCH_BYTES if standard else nbytes
    try:
        return cuda.pinned_array((nbytes,), np.uint8)
    except Exception as error:
        failures.asked(error, nbytes)
        raise


def _matrix(memory: np.ndarray, rows: int, columns: int, dtype: np.dtype) -> np.ndarray:
    return memory[: rows * columns * dtype.itemsize].view(dtype).reshape(rows, columns)


def row_bytes(step: Step, dtype: np.dtype) -> tuple[int, int]:
    """Return how many bytes a row takes in pinned memory, and on the device."""
    ends = (step.n_in + step.n_out) * dtype.itemsize
    beside = step.room(Borrowed(0, (SAMPLE, step.n_in), dtype, None, SAMPLE * step.n_in))
    return max(1, ends), max(1, ends + beside // SAMPLE)


def worthwhile(nbytes: int) -> bool:
    """Say whether a call with so much input and output is to go by batches."""
    return nbytes >= LARGE_BYTES


def batch_size(step: Step, dtype: np.dtype) -> int:
    """Return how many rows a lane takes at once, by what the device has free."""
    pinned, resident = row_bytes(step, dtype)
    free = cuda.current_context().get_memory_info()[0]
    rows = (BATCH_BYTES - rooms.BOUNDARY) // pinned
    return max(1, rows if math.isinf(free) else min(rows, int(free) // (SHARE * resident)))


def run(step: Step, x, out: np.ndarray, dtype: np.dtype, rows: int, starts=None) -> None:
    """Fill `out`, ``(m, n_out)``, from the rows of x, ``(m, n_in)``, taking `rows` at once."""
    m = out.shape[0]
    if not m * out.shape[1]:
        return
    starts = range(0, m, rows) if starts is None else starts
    lanes: list[Lane] = []
    try:
        for index, begin in enumerate(starts):
            if index < 2:
                lanes.append(Lane(step, min(rows, m), dtype))
            lane = lanes[index % 2]
            lane.finish()
            lane.start(np.asarray(x[begin : begin + rows]), out[begin : begin + rows])
        for lane in lanes:
            lane.finish()
    finally:
        for lane in lanes:
            lane.leave()


@failures.owner("predict")
def predict(step: Step, x, rows, out, progress: bool, dtype: np.dtype, owner):
    """Return the output for every row of x, checking all arguments."""
    current.stay(owner.device, "the network")
    if not isinstance(x, np.ndarray) and isinstance(getattr(x, "dtype", None), np.dtype) and not memory.on_device(x):
        source, like = x, np.broadcast_to(np.empty((), x.dtype), tuple(x.shape))  # rows are read as they are needed
    else:
        operand = memory.operand("x", x)
        if operand.view is not None:
            raise OptionError("x is on the device already, where predict would bring it to; call the network itself.")
        source = like = operand.like
    validate.compute_dtype("x", like)
    shape = like.shape
    if len(shape) != 2:
        raise ShapeError(
            f"x has {len(shape)} dimension{'s' * (len(shape) != 1)} but predict takes 2, (m, n_in): x.shape={shape}; "
            "call the network itself for other shapes."
        )
    if shape[1] != owner.n_in:
        raise validate.features_error(like, owner)
    if rows is None:
        rows = batch_size(step, dtype)
    elif not isinstance(rows, int) or isinstance(rows, bool) or rows < 1:
        raise OptionError(f"batch_size is {rows!r} but must be a positive integer, or None to choose one.")
    shape = (shape[0], owner.n_out)
    result = np.empty(shape, dtype) if out is None else validate.check_output(out, shape, dtype)
    if out is not None and isinstance(source, np.ndarray) and np.may_share_memory(source, result):
        source = source.copy()  # a batch must not overwrite the input of the next
    starts: Any = range(0, shape[0], rows)
    if progress:
        from rich.console import Console
        from rich.progress import track

        starts = track(starts, description="predict", console=Console(stderr=True), transient=True)
    run(step, source, result, dtype, rows, starts)
    return result if out is None else out
