"""More dynamic shared memory than a kernel has unasked: 48 KB, where a block of Hopper may have 227."""

from numbadense.errors import DeviceError

UNASKED = 48 * 1024  # bytes
_allowed: dict = {}  # the most that a compiled kernel was allowed on a device


def allow(kernel, arguments, size: int) -> None:
    """Let a kernel have `size` bytes when it is called with these arguments: numba does not ask the driver.

    It is compiled for them as numba would, so that the call finds what was allowed.  The driver is
    asked only for more than a compiled kernel has on a device: to allow less would take it from other calls.
    """
    if size <= UNASKED:
        return
    from cuda.bindings.driver import CUfunction_attribute
    from numba.cuda.cudadrv.driver import CudaAPIError, driver

    function = kernel._compile_for_args(*arguments).library.get_cufunc()
    key = int(function.handle), int(function.device.id)
    if _allowed.get(key, UNASKED) >= size:
        return
    attribute = CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
    try:
        driver.cuKernelSetAttribute(attribute, size, function.handle, function.device.id)
    except CudaAPIError as error:
        raise DeviceError(
            f"the device does not give a block the {size} bytes of shared memory that {function.name} needs ({error})."
        ) from error
    _allowed[key] = size
