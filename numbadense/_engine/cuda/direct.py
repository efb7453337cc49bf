"""The short way of a call: a network on device arrays that are as kernels want them."""

import numpy as np

from numbadense._engine.cuda import memory
from numbadense._engine.cuda.borrowed import Borrowed, borrow
from numbadense._engine.cuda.steps import Step

BYTE, WORD, BOUNDARY = np.dtype("uint8"), np.dtype("uint32"), 256


def network(steps: tuple[Step, ...], x, out, dtype: np.dtype, stream):
    """Run the steps, and return `out` or a new array; or return None, having done nothing, for the long way.

    That is for whatever has to be copied, cast, checked by a sentence or brought from the host.
    """
    a = borrow(x)
    n_in, n_out = steps[0].n_in, steps[-1].n_out
    if a is None or a.dtype != dtype or not a.shape or a.shape[-1] != n_in or not n_out:
        return None
    if stream is not None and type(x).__module__ == "cupy":
        return None  # what CuPy has queued elsewhere has to be waited for
    if out is not None and type(out) is not type(x):
        return None
    shape = a.shape if n_in == n_out else (*a.shape[:-1], n_out)
    like = x if stream is None else None
    stream = memory.stream_of(stream, x, out)
    given = memory.new(x, shape, dtype, stream) if out is None else out
    b = borrow(given)
    if b is None or b.dtype != dtype or b.shape != shape or overlap(a, b):
        return None
    if len(shape) != 2:
        m = a.size // n_in
        a, b = a.reshape(m, n_in), b.reshape(m, n_out)
    if len(steps) > 1:
        a = through(steps[:-1], a, scratch(steps[:-1], a.shape[0], dtype, stream, like), stream)
    steps[-1].run(a, b, stream)
    return given


def overlap(a: Borrowed, b: Borrowed) -> bool:
    """Say whether two arrays share a byte."""
    return a.address < b.address + b.nbytes and b.address < a.address + a.nbytes


def scratch(steps: tuple[Step, ...], m: int, dtype: np.dtype, stream, like=None) -> list[Borrowed]:
    """Return a matrix for the output of each step, all in one allocation, of the kind of `like` if there is one.

    Every other one begins at the same place: when a step writes, the input of the step before is of no use any more.
    """
    forms = [_form(step, m, dtype) for step in steps]
    sizes = [rows * columns * kind.itemsize for (rows, columns), kind in forms]
    odd = -(-max(sizes[::2]) // BOUNDARY) * BOUNDARY
    shape = (max(1, odd + max(sizes[1::2], default=0)),)
    room = memory.empty(shape, BYTE, stream) if like is None else memory.new(like, shape, BYTE, stream)
    begin = borrow(room).address
    return [
        Borrowed(begin + index % 2 * odd, shape, kind, room, shape[0] * shape[1])
        for index, (shape, kind) in enumerate(forms)
    ]


def _form(step: Step, m: int, dtype: np.dtype) -> tuple[tuple[int, int], np.dtype]:
    """Return shape and dtype of what a step hands to the next: some in half the bits, two numbers to a word."""
    halves = getattr(step, "halves_out", False)
    return ((m, step.n_out // 2), WORD) if halves else ((m, step.n_out), dtype)


def through(steps: tuple[Step, ...], a, outputs: list, stream):
    """Take matrix `a` through the steps, each to its output, and return the last one."""
    for step, output in zip(steps, outputs, strict=True):
        step.run(a, output, stream)
        a = output
    return a
