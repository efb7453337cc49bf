"""Dense layers and activations on a CUDA device: arrays in, arrays of the same kind out.

Besides :func:`dense`, every registered activation is a function of this module: ``numbadense.cuda.sigmoid(x)``.
NumPy arrays are uploaded and the result is brought back.  Anything with a ``__cuda_array_interface__``, such as an
array of Numba, CuPy or PyTorch, is read where it is, and the result is a new array of that kind on the device; other
libraries get a Numba device array.

Inside your own ``@cuda.jit`` kernels, :func:`device_function` returns an activation and :func:`forward_of` a whole
network, for each thread, or :func:`forward_warp_of` a wider one, for each warp; ``numbadense.cuda.forward`` and
``numbadense.cuda.forward_warp`` are what ``forward_of()`` and ``forward_warp_of()`` return.

It needs the package ``numba-cuda``, an NVIDIA driver and a GPU, or, for tests, the environment variable
``NUMBA_ENABLE_CUDASIM=1``.
"""

from __future__ import annotations

from typing import Any

from numbadense import activations
from numbadense._engine.cuda import device
from numbadense.cuda.functions import DeviceActivationFunction, dense, over_arrays
from numbadense.cuda.inside import device_function, forward_of, forward_warp_of, program
from numbadense.cuda.network import BoundNetwork, DeviceSequential
from numbadense.cuda.population import DevicePopulation

__all__ = [
    "BoundNetwork",
    "DevicePopulation",
    "DeviceSequential",
    "dense",
    "device_function",
    "forward_of",
    "forward_warp_of",
    "is_available",
    "program",
]

_functions: dict[activations.Activation, DeviceActivationFunction] = {}


def is_available() -> bool:
    """Say whether CUDA can be used; with the simulator it can.

    Returns
    -------
    bool
        Never an exception: what is missing is said by the :class:`numbadense.DeviceError` of the other functions.

    Examples
    --------
    >>> import numbadense as nd
    >>> nd.cuda.is_available() in (True, False)
    True
    """
    return device.why_not() is None


def __getattr__(name: str) -> Any:
    if name == "forward":
        return forward_of()
    if name == "forward_warp":
        return forward_warp_of()
    entry = activations.REGISTRY.get(name)
    if entry is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if entry not in _functions:
        _functions[entry] = over_arrays(entry)
    return _functions[entry]
