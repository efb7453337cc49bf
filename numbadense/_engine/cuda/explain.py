"""A call on a device in words."""

from itertools import pairwise
from math import prod

import numpy as np

from numbadense._engine.cuda import compile as compiler
from numbadense._engine.cuda import failures
from numbadense._engine.cuda.device import simulated
from numbadense._engine.cuda.steps import Step


@failures.owner("explain")
def network(steps: tuple[Step, ...], widths: tuple[int, ...], m: int, dtype: np.dtype) -> str:
    """Return how `m` rows would go through the steps of a network of these widths, one fact a line."""
    n_in, n_out, itemsize = widths[0], widths[-1], dtype.itemsize
    between = [step.n_out for step in steps[:-1]]
    scratch = m * itemsize * (max(between[::2], default=0) + max(between[1::2], default=0))
    held = sum(prod(array.shape) * array.dtype.itemsize for step in steps for array in step.arrays)
    work = sum(k * n for k, n in pairwise(widths))
    lines = [
        f"kernels  {len(steps)} step{'s' * (len(steps) != 1)} of {dtype}; a graph from bind() is one launch",
        f"device   {_device()}, {compiler.multiprocessors()} multiprocessors",
        f"work     {2 * m * work:,} flops, {m * (n_in + n_out) * itemsize:,} bytes in and out, {held:,} bytes of "
        f"weights, {scratch:,} bytes between the steps",
    ]
    lines += [f"step {index}   {_step(step, m)}" for index, step in enumerate(steps)]
    return "\n".join(lines)


def _step(step: Step, m: int) -> str:
    said = getattr(step, "explain", None)
    return said(m) if said else f"{type(step).__name__} {step.n_in} -> {step.n_out}"


def _device() -> str:
    if simulated():
        return "numba's simulator"
    from numba import cuda

    device = cuda.get_current_device()
    major, minor = device.compute_capability
    return f"{device.name}, compute capability {major}.{minor}"
