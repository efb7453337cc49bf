"""What networks inside a user's kernels compile to: PTX, and the registers and local memory that ptxas reports."""

import re

import device_code
import numpy as np
import pytest
from device_needs import CAPABILITY

from numbadense.cuda.inside import KNOWN as USUAL

cuda = None  # numba's module, which a kernel below finds among its globals
CAPABILITIES = [(8, 0), (9, 0), (12, 0)]
DTYPES = ["float32", "float64"]


@pytest.fixture(scope="session")
def assemble(tmp_path_factory):
    """A function that assembles PTX, and returns the registers, and the bytes of local memory, that a thread has."""

    def run(ptx):
        code = device_code.assemble(ptx, tmp_path_factory.mktemp("ptxas"))
        return code.registers, code.local

    return run


@pytest.fixture
def kernel_ptx(compile_ptx, monkeypatch):
    """A function that compiles a kernel with a network in it, of 8 inputs and 2 outputs, for a capability."""
    import numba.cuda

    monkeypatch.setitem(globals(), "cuda", numba.cuda)

    from numbadense._engine.cuda import run

    def compiled(width, names, dtype, capability=CAPABILITY, local=True, **options):
        forward = run.forward_of(width, names)

        def in_local_arrays(program, x, out):
            i = cuda.grid(1)
            if i < x.shape[0]:
                inputs = cuda.local.array(8, program.dtype)
                outputs = cuda.local.array(2, program.dtype)
                for p in range(8):
                    inputs[p] = x[i, p]
                forward(program, inputs, outputs)
                for j in range(2):
                    out[i, j] = outputs[j]

        def in_rows(program, x, out):
            i = cuda.grid(1)
            if i < x.shape[0]:
                forward(program, x[i], out[i])

        kernel = in_local_arrays if local else in_rows
        return compile_ptx(kernel, (dtype, 1), (dtype, 2), (dtype, 2), capability=capability, **options)

    return compiled


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("capability", CAPABILITIES, ids=str)
def test_a_network_up_to_32_wide_stays_in_registers(kernel_ptx, assemble, capability, dtype):
    ptx = kernel_ptx(32, USUAL if capability == CAPABILITY else ["tanh"], dtype, capability)
    assert f".target sm_{capability[0]}{capability[1]}" in ptx
    assert ".local" not in ptx and "call." not in ptx
    assert (".f64" in ptx) is (dtype == "float64")
    registers, local_bytes = assemble(ptx)
    assert local_bytes == 0
    held = 2 * 32 * {"float32": 1, "float64": 2}[dtype]
    assert held <= registers <= held + 48


@pytest.mark.parametrize("dtype", DTYPES)
def test_activations_of_whole_rows_and_heavy_ones_stay_in_registers(kernel_ptx, assemble, dtype):
    ptx = kernel_ptx(32, ["gelu", "softmax", "log_softmax"], dtype, local=False)
    assert ".local" not in ptx
    assert (".f64" in ptx) is (dtype == "float64")
    assert assemble(ptx)[1] == 0


def test_a_network_64_wide_stays_in_registers_in_float32(kernel_ptx, assemble):
    assert assemble(kernel_ptx(64, USUAL, "float32"))[1] == 0


@pytest.mark.parametrize("dtype", DTYPES)
def test_weights_are_read_16_bytes_at_a_time_and_multiplied_and_added_at_once(kernel_ptx, dtype):
    ptx = kernel_ptx(32, ["relu"], dtype)
    per_load, kind = {"float32": (4, "f32"), "float64": (2, "f64")}[dtype]
    assert ptx.count(f"fma.rn.{kind}") == 32 * 4  # four outputs, and all their inputs: the code is there once
    loads = len(re.findall(rf"ld\.global\.v{per_load}\.\w+", ptx))
    assert 32 * 4 // per_load < loads <= (32 + 3) * 4 // per_load  # a bias, the header and the facts of a layer
    assert f"mul.{kind}" not in ptx and f"mul.rn.{kind}" not in ptx and f"add.{kind}" not in ptx


def test_fast_mathematics_leaves_the_sums_in_order(kernel_ptx):
    ptx = kernel_ptx(8, ["relu"], "float32", fastmath=True)
    assert ptx.count("fma.rn.ftz.f32") == 8 * 4
    assert not re.search(r"(mul|add)\.[a-z.]*f32", ptx)


def test_a_program_may_be_a_row_of_a_population_or_lie_in_shared_memory(compile_ptx, monkeypatch):
    import numba.cuda

    from numbadense._engine.cuda import run

    monkeypatch.setitem(globals(), "cuda", numba.cuda)
    forward, element = run.forward_of(4, ["relu"]), np.float32

    def from_shared(programs, x, out):
        i = cuda.grid(1)
        shared = cuda.shared.array(64, element, alignment=16)
        shared[cuda.threadIdx.x] = programs[0, cuda.threadIdx.x]
        cuda.syncthreads()
        forward(shared, x[i], out[i])
        forward(programs[i], x[i], out[i])

    ptx = compile_ptx(from_shared, ("float32", 2), ("float32", 2), ("float32", 2))
    for space in ("shared", "global"):
        assert re.search(rf"ld\.{space}\.v4\.\w+", ptx)
    assert re.search(r"\.shared \.align 16", ptx)
    assert ptx.index("bar.sync") < ptx.index("ld.shared.v4")


def test_a_program_that_is_not_contiguous_is_refused(compile_ptx, monkeypatch):
    import numba
    import numba.cuda

    from numbadense._engine.cuda import run

    monkeypatch.setitem(globals(), "cuda", numba.cuda)
    forward = run.forward_of(4, ["relu"])

    def kernel(programs, x):
        forward(programs[:, 0], x, x)

    with pytest.raises(numba.core.errors.TypingError):
        compile_ptx(kernel, ("float32", 2), ("float32", 1))
