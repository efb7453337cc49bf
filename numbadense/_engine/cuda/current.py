"""Which device is current, what it has, and whether it is the one that is meant.

A network lives on the device that was current when it was sent there.  Its kernels, their shapes and its memory are
that device's: called while another one is current, a kernel would read where nothing is, which ends the process.
"""

import contextlib
import functools

from numba import cuda

from numbadense._engine.cuda import tiles
from numbadense._engine.cuda.device import simulated
from numbadense.errors import DeviceError

with contextlib.suppress(ImportError):  # the simulator does without
    from cuda.bindings.driver import cuCtxGetDevice


def _asked() -> int:
    code, found = cuCtxGetDevice()  # a twentieth of what Numba's own way to it takes
    return cuda.get_current_device().id if code else int(found)


def _simulated() -> int:
    return 0


# Return the number of the device that is current in this thread; the simulator's only one is 0.
number = _simulated if simulated() else _asked


def stay(where: int, what: str) -> None:
    """Raise an error unless the device `where` is current, which `what` is on."""
    here = number()
    if here != where:
        raise DeviceError(
            f"{what} is on device {where} but device {here} is current; select device {where}, as in `with "
            f"numba.cuda.gpus[{where}]:` or `with torch.cuda.device({where}):`, or send it to device {here} as well."
        )


def capability() -> tuple[int, int] | None:
    """Return the compute capability of the current device, or None in the simulator."""
    return _facts(number())[0]


def multiprocessors() -> int:
    """Return how many multiprocessors the current device has; the simulator claims two."""
    return _facts(number())[1]


def target() -> tiles.Target:
    """Return the shapes for the current device, or for the simulator."""
    return _facts(number())[2]


@functools.cache
def _facts(number: int) -> tuple:
    """Return what is known of a device, which is current."""
    if simulated():
        return None, 2, tiles.target(None)
    device = cuda.get_current_device()
    capability = tuple(device.compute_capability)
    return capability, device.MULTIPROCESSOR_COUNT, tiles.target(capability)
