"""A call on a device in words."""

from itertools import pairwise
from math import prod

import numpy as np

from numbadense._engine.cuda import compile as compiler
from numbadense._engine.cuda import current, failures
from numbadense._engine.cuda.borrowed import Borrowed
from numbadense._engine.cuda.device import simulated
from numbadense._engine.cuda.steps import Step


@failures.owner("explain")
def network(step: Step, widths: tuple[int, ...], m: int, dtype: np.dtype, where: int) -> str:
    """Return how `m` rows would go through a network of these widths, one fact a line."""
    current.stay(where, "the network")
    n_in, n_out, itemsize = widths[0], widths[-1], dtype.itemsize
    steps = step.explain(m).splitlines()
    beside = step.room(Borrowed(0, (m, n_in), dtype, None, m * n_in)) if m else 0
    held = sum(prod(array.shape) * array.dtype.itemsize for array in step.arrays)
    work = sum(k * n for k, n in pairwise(widths))
    lines = [
        f"kernels  {len(steps)} step{'s' * (len(steps) != 1)} of {dtype}; a graph from bind() is one launch",
        f"device   {_device()}, {compiler.multiprocessors()} multiprocessors",
        f"work     {2 * m * work:,} flops, {m * (n_in + n_out) * itemsize:,} bytes in and out, {held:,} bytes of "
        f"weights, {beside:,} bytes besides",
    ]
    lines += [f"step {index}   {said}" for index, said in enumerate(steps)]
    return "\n".join(lines)


def _device() -> str:
    if simulated():
        return "numba's simulator"
    from numba import cuda

    device = cuda.get_current_device()
    major, minor = device.compute_capability
    return f"{device.name}, compute capability {major}.{minor}"
