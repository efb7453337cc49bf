"""Arrays of 16-bit floats on the device, for the sections of ``benchmarks/gpu.py``, without PyTorch."""

import numpy as np
from numba import cuda

from numbadense._engine import half
from numbadense._engine.cuda import halves

KINDS = {"bf16": "bfloat16", "fp16": "float16"}
ENGINE = "ours, 16-bit arrays"


def of(array, precision):
    """Return a float32 array of the device, rounded."""
    return _sent(half.rounded(array.copy_to_host(), KINDS[precision]).bits, precision)


def poisoned(shape, precision):
    """Return an output full of NaN."""
    return _sent(np.full(shape, 0xFFFF, np.uint16), precision)


def _sent(bits, precision):
    return cuda.to_device(np.ascontiguousarray(bits).view(halves.OF_PRECISION[precision]))


def to_host(array, precision):
    """Return the numbers of such an array, or of one of bits, in float32."""
    return np.asarray(half.Half(KINDS[precision], array.copy_to_host().view(np.uint16)))
