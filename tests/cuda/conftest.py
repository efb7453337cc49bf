"""The device, or the simulator with ``NUMBA_ENABLE_CUDASIM=1``, and what is put on it."""

import importlib.util
import os
import sys

import numpy as np
import pytest
from device_code import assert_together
from device_needs import CAPABILITY, NEEDED, absent

import numbadense as nd
from numbadense._engine.cuda import device


@pytest.fixture(scope="session", autouse=True)
def quick_turns():
    """Python's threads take turns quickly: in the simulator they are those of CUDA, and wait for each other."""
    usual = sys.getswitchinterval()
    sys.setswitchinterval(1e-4)
    yield
    sys.setswitchinterval(usual)


@pytest.fixture(scope="session")
def gpu():
    """numba's CUDA module, on a device or simulated: the one that was asked for, or no test passes."""
    asked = os.environ.get("NUMBA_ENABLE_CUDASIM", "0") not in ("", "0")
    if "simulator" in NEEDED and not asked:
        absent("simulator", "NUMBA_ENABLE_CUDASIM is not set")
    if (reason := device.why_not()) is not None:
        absent("cuda", reason)
    from numba import config, cuda

    assert bool(config.ENABLE_CUDASIM) is asked is device.simulated()
    assert nd.cuda.is_available()
    assert (type(cuda.jit(lambda: None)).__name__ == "FakeCUDAKernel") is asked
    return cuda


@pytest.fixture
def launches(gpu, monkeypatch):
    """The grids of the kernels launched by the test, as (blocks, threads)."""
    from numbadense._engine.cuda import compile as compiler

    seen, launch = [], compiler.launch

    def watched(kernel, blocks, threads, stream, *arguments, **options):
        seen.append((blocks, threads))
        launch(kernel, blocks, threads, stream, *arguments, **options)

    monkeypatch.setattr(compiler, "launch", watched)
    return seen


@pytest.fixture
def rng():
    """A seeded generator of numbers."""
    return np.random.default_rng(20)


@pytest.fixture(params=["float32", "float64"])
def dtype(request):
    """Both dtypes, in turn."""
    return np.dtype(request.param)


class Foreign:
    """An array of some library that only offers ``__cuda_array_interface__``."""

    def __init__(self, interface, owner):
        self.__cuda_array_interface__ = interface
        self.owner = owner


@pytest.fixture
def foreign(gpu):
    """A function that puts an array on the device, behind nothing but ``__cuda_array_interface__``."""

    def make(array):
        on_device = gpu.to_device(np.ascontiguousarray(array))
        if device.simulated():  # its device memory is the host's
            array = on_device.copy_to_host()
            return Foreign(array.__array_interface__, array)
        return Foreign(on_device.__cuda_array_interface__, on_device)

    return make


@pytest.fixture
def to_host(gpu):
    """A function that returns a device array of any library as a NumPy array."""
    from numbadense._engine.cuda import memory

    return lambda array: memory.operand("array", array).view.copy_to_host()


@pytest.fixture(scope="session")
def compile_ptx():
    """A function that compiles a Python kernel on no GPU; types are (dtype, dimensions), dtypes or numba's own."""
    if device.simulated():
        absent("ptx", "the simulator compiles nothing")
    if importlib.util.find_spec("numba_cuda") is None:
        absent("ptx", "numba-cuda is not installed")
    from numba import cuda, from_dtype, types
    from numba.cuda.cudadrv import nvvm

    compile_ir = nvvm.compile_ir

    def checked(codes, **options):
        assert_together("\n".join([codes] if isinstance(codes, str) else codes))
        return compile_ir(codes, **options)

    def compiled(kernel, *arrays, capability=CAPABILITY, **options):
        return cuda.compile_ptx(kernel, tuple(map(type_of, arrays)), cc=capability, **options)[0]

    def type_of(kind):
        if isinstance(kind, tuple):
            return types.Array(from_dtype(np.dtype(kind[0])), kind[1], "C")
        return from_dtype(kind) if isinstance(kind, np.dtype) else kind

    def nothing(x):
        x[0] = 1

    try:
        compiled(nothing, ("float32", 1))
    except Exception as error:
        absent("ptx", f"the CUDA compiler libraries NVVM and NVRTC cannot be used: {str(error).splitlines()[0]}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nvvm, "compile_ir", checked)
        yield compiled
