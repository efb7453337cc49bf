"""The short way of a call: a network on device arrays that are as kernels want them."""

import numpy as np

from numbadense._engine import validate
from numbadense._engine.cuda import halves, memory
from numbadense._engine.cuda import room as rooms
from numbadense._engine.cuda.borrowed import Borrowed, borrow
from numbadense._engine.cuda.chain import between
from numbadense._engine.cuda.steps import Step


def network(step: Step, x, out, dtype: np.dtype, stream, where: int):
    """Run the step, and return `out` or a new array; or return None, having done nothing, for the long way.

    That is for whatever has to be copied, cast, checked by a sentence or brought from the host, and for arrays of
    another device than `where`, which is current.
    """
    a = borrow(x)
    n_in, n_out = step.n_in, step.n_out
    if a is None or not fits(a.dtype, dtype) or not a.shape or a.shape[-1] != n_in or not n_out:
        return None
    if a.device is not None and a.device != where:
        return None
    if stream is not None and type(x).__module__ == "cupy":
        return None  # what CuPy has queued elsewhere has to be waited for
    if out is not None and type(out) is not type(x):
        return None
    shape = a.shape if n_in == n_out else (*a.shape[:-1], n_out)
    stream = memory.stream_of(stream, x, out)
    given = memory.new(x, shape, dtype, stream) if out is None else out
    b = borrow(given)
    if b is None or not fits(b.dtype, dtype) or b.shape != shape or overlap(a, b):
        return None
    if b.device is not None and b.device != where:
        return None
    if len(shape) != 2:
        m = a.size // n_in
        a, b = a.reshape(m, n_in), b.reshape(m, n_out)
    run(step if a.dtype is b.dtype is dtype else between(step, a, b, dtype), a, b, stream, x)
    return given


def fits(dtype: np.dtype, computed: np.dtype) -> bool:
    """Say whether an array has the dtype that a network computes in, or half precision, which counts as float32."""
    return dtype == computed or (halves.precision(dtype) is not None and computed == validate.FLOAT32)


def overlap(a: Borrowed, b: Borrowed) -> bool:
    """Say whether two arrays share a byte."""
    return a.address < b.address + b.nbytes and b.address < a.address + a.nbytes


def run(step: Step, a, b, stream, like=None) -> None:
    """Run a step from one matrix to another, in memory of the kind of `like` for what it needs besides."""
    needed = step.room(a)
    if not needed:
        step.run(a, b, None, stream)
        return
    with rooms.taken(needed, stream, like) as room:
        step.run(a, b, room, stream)
