"""What CUDA says when something fails, in our words: the one place where its errors become `DeviceError`."""

import functools

from numbadense.errors import DeviceError

OUT_OF_MEMORY = "CUDA_ERROR_OUT_OF_MEMORY"

# By the name that the driver gives.  After those of LOST every later call of the process fails with the same error.
SAID = {
    OUT_OF_MEMORY: "the device has no memory left",
    "CUDA_ERROR_INVALID_VALUE": "the driver refused an argument",
    "CUDA_ERROR_INVALID_CONTEXT": "no device is current in this thread",
    "CUDA_ERROR_INVALID_HANDLE": "a stream or kernel belongs to another device, or is gone",
    "CUDA_ERROR_NO_BINARY_FOR_GPU": "the kernel was compiled for another kind of device",
    "CUDA_ERROR_INVALID_PTX": "the driver cannot read the kernel",
    "CUDA_ERROR_UNSUPPORTED_PTX_VERSION": "the driver is older than the compiler",
    "CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES": "a block needs more registers or shared memory than the device has",
    "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED": "a step cannot be part of a graph",
    "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED": "a step cannot be part of a graph",
}
LOST = {
    "CUDA_ERROR_ILLEGAL_ADDRESS": "a kernel read or wrote outside the arrays",
    "CUDA_ERROR_MISALIGNED_ADDRESS": "a kernel read or wrote at an address that is not aligned",
    "CUDA_ERROR_INVALID_ADDRESS_SPACE": "a kernel read or wrote in the wrong kind of memory",
    "CUDA_ERROR_INVALID_PC": "a kernel jumped out of its code",
    "CUDA_ERROR_ILLEGAL_INSTRUCTION": "a kernel had an instruction that the device does not know",
    "CUDA_ERROR_HARDWARE_STACK_ERROR": "a kernel's stack overflowed",
    "CUDA_ERROR_ASSERT": "an assertion in a kernel failed",
    "CUDA_ERROR_LAUNCH_FAILED": "a kernel failed",
    "CUDA_ERROR_LAUNCH_TIMEOUT": "a kernel took longer than the display allows",
    "CUDA_ERROR_ECC_UNCORRECTABLE": "the device's memory is damaged",
}
REMEDIES = {
    "CUDA_ERROR_UNSUPPORTED_PTX_VERSION": 'update the driver, or install "numbadense[cuda12]"',
    "CUDA_ERROR_INVALID_HANDLE": "pass arrays and a stream of the device that the network is on",
}
AFTER_LOSS = (
    "the fault is in this call or in work queued before it, and no CUDA call of this process will work again: start a "
    "new one, under compute-sanitizer to see which kernel it is"
)
LESS = "pass fewer rows, or call a network's predict, with batch_size= if need be"


def owner(call):
    """Return a decorator: the CUDA errors of the function become `DeviceError`, as those of `call`.

    `call` is a name, or returns one for the function's arguments.
    """

    def owned(function):
        @functools.wraps(function)
        def called(*args, **kwargs):
            try:
                return function(*args, **kwargs)
            except Exception as error:
                said = sentence(error, call if isinstance(call, str) else call(*args, **kwargs))
                if said is None:
                    raise
                raise DeviceError(said) from error

        return called

    return owned


def asked(error: Exception, nbytes: int) -> None:
    """Remember, in an error about memory, how much was asked for."""
    if name_of(error) == OUT_OF_MEMORY:
        error.asked_nbytes = nbytes  # type: ignore[attr-defined]


def sentence(error: Exception, call: str) -> str | None:
    """Return what is to be said of an error in a call, or None if CUDA did not raise it."""
    name = name_of(error)
    if name is None:
        return None
    if name == OUT_OF_MEMORY:
        return f"{call} failed: {SAID[name]}{_memory(error)}; {LESS}."
    why = LOST.get(name) or SAID.get(name) or "the driver reports an error"
    remedy = AFTER_LOSS if name in LOST else REMEDIES.get(name, "if it is not the arrays or the stream, report it")
    return f"{call} failed: {why} ({_said(error)}); {remedy}."


def name_of(error: Exception) -> str | None:
    """Return the driver's name for an error, or None if the driver did not raise it.

    Numba's errors have a code with that name, those of cuda.core begin with it.
    """
    kind = type(error)
    if kind.__name__ == "CudaAPIError":
        name = getattr(getattr(error, "code", None), "name", None)
        return name or next((word.strip(".,:()") for word in str(error).split() if word.startswith("CUDA_")), "")
    if kind.__name__ == "CUDAError" and kind.__module__.startswith("cuda."):
        return str(error).partition(":")[0].strip()
    return None


def _said(error: Exception) -> str:
    said = getattr(error, "msg", None) or str(error)
    return " ".join(str(said).split()).rstrip(".")


def _memory(error: Exception) -> str:
    """Say how much was asked for and how much is free, as far as it is known."""
    wanted, known = getattr(error, "asked_nbytes", None), None
    try:
        from numba import cuda

        known = cuda.current_context().get_memory_info()
    except Exception:  # the device says nothing any more: then there is less to say
        known = None
    parts = [] if wanted is None else [f"asked for {size(wanted)}"]
    if known is not None:
        parts.append(f"{size(known[0])} of {size(known[1])} are free")
    return f": {', '.join(parts)}" if parts else ""


def size(nbytes: float) -> str:
    """Return a number of bytes in words."""
    for unit in ("bytes", "KiB", "MiB"):
        if nbytes < 1024:
            return f"{nbytes:.4g} {unit}"
        nbytes /= 1024
    return f"{nbytes:.4g} GiB"
