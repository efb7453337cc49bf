"""Whether CUDA can be had, and if not, why not, in words."""

import functools
import importlib.util
from typing import Any

from numbadense.errors import DeviceError

EXTRAS = 'pip install "numbadense[cuda13]", or "numbadense[cuda12]" for a driver older than 580'


@functools.cache
def simulated() -> bool:
    """Say whether numba's CUDA simulator stands in for a device (``NUMBA_ENABLE_CUDASIM=1``)."""
    from numba import config

    return bool(config.ENABLE_CUDASIM)


@functools.cache
def why_not() -> str | None:
    """Return what keeps CUDA from being used on this machine, or None if nothing does."""
    if simulated():
        return None
    # numba's own copy of the target is no longer maintained: numba-cuda takes its place when it is installed.
    if importlib.util.find_spec("numba_cuda") is None:
        return f"the package numba-cuda is not installed; {EXTRAS}"
    try:
        from numba import cuda

        if cuda.is_available():
            return None
        failure = cuda.cuda_error()
    except Exception as error:  # whatever a broken installation raises, the CPU can still be used
        return f"numba-cuda cannot be loaded ({_line(error)}); {EXTRAS}"
    if failure is None:
        return f"the CUDA toolkit's NVVM is not installed; {EXTRAS}"
    said = _line(failure)
    if "library cannot be found" in said:
        return "no NVIDIA driver is installed; install one, or call the CPU functions of numbadense"
    if "CUDA_ERROR_NO_DEVICE" in said:
        return "the NVIDIA driver finds no GPU; call the CPU functions of numbadense"
    return f"the CUDA driver does not start ({said}); call the CPU functions of numbadense"


def require() -> None:
    """Raise `DeviceError` unless CUDA can be used."""
    reason = why_not()
    if reason is not None:
        raise DeviceError(f"CUDA cannot be used: {reason}.")


def engine() -> Any:
    """Return the module that runs kernels, which imports numba's CUDA target; `DeviceError` if it cannot be used."""
    require()
    from numbadense._engine.cuda import run

    return run


def _line(error) -> str:
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__
