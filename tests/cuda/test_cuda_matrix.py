"""Tensor cores' primitives: the fragments of the PTX ISA, in the simulator; their instructions, assembled."""

import re

import numpy as np
import pytest
from device_code import assemble
from device_needs import absent

from numbadense._engine.cuda import device

cuda = None  # numba's module, which a kernel below finds among its globals
HALVES = {"bf16": 2, "fp16": 2, "tf32": 1}
CAPABILITIES = [(8, 0), (9, 0), (12, 0)]
LANES = np.arange(32)
G, T = LANES >> 2, LANES & 3


@pytest.fixture(autouse=True)
def module(monkeypatch):
    """numba's module, where there is one."""
    monkeypatch.setitem(globals(), "cuda", pytest.importorskip("numba.cuda"))


def kernel_of(kind):
    """Return the kernel that brings fragments from global memory to tensor cores, and their sums back."""
    from numba import float32, uint32

    from numbadense._engine.cuda import primitives

    mma, lane = getattr(primitives, f"mma_{kind}"), primitives.lane

    def product(a, b, c):
        left, right = cuda.local.array(4, uint32), cuda.local.array(2, uint32)
        sums = cuda.local.array(4, float32)
        me = lane()
        for q in range(4):
            left[q] = a[me, q]
            sums[q] = c[me, q]
        for q in range(2):
            right[q] = b[me, q]
        mma(sums, 0, left, 0, right, 0)
        for q in range(4):
            c[me, q] = sums[q]

    return product


@pytest.fixture
def simulated(gpu):
    """The simulator, where the twins are."""
    if not device.simulated():
        absent("simulator", "the twins are the simulator's")
    return gpu


def words(numbers, kind):
    """Return float32 numbers, exact in `kind`, as its uint32 words: along the last axis, the first in the low half."""
    numbers = np.ascontiguousarray(numbers, np.float32)
    if kind == "tf32":
        return numbers.view(np.uint32)
    if kind == "fp16":
        return np.ascontiguousarray(numbers.astype(np.float16)).view(np.uint32)
    return np.ascontiguousarray((numbers.view(np.uint32) >> 16).astype(np.uint16)).view(np.uint32)


def fragments(a, b, kind):
    """Return what each lane holds of a (16, k) and b (k, 8), element by element as the PTX ISA has it.

    For 16 bits, element i of a is at row g, for 0 <= i < 2 or 4 <= i < 6, else g + 8, and column 2t + (i & 1), and 8
    more for i >= 4; that of b at row 2t + (i & 1), and 8 more for i >= 2, and column g.  For tf32, a is at row g for i
    of 0 or 2, else g + 8, and column t for i < 2, else t + 4; b at row t for i = 0, else t + 4, and column g.
    """
    if kind == "tf32":
        left = [a[G if i in (0, 2) else G + 8, T if i < 2 else T + 4] for i in range(4)]
        right = [b[T if i == 0 else T + 4, G] for i in range(2)]
    else:
        row = [G if i < 2 or 4 <= i < 6 else G + 8 for i in range(8)]
        left = [a[row[i], T * 2 + (i & 1) + (8 if i >= 4 else 0)] for i in range(8)]
        right = [b[T * 2 + (i & 1) + (8 if i >= 2 else 0), G] for i in range(4)]
    return (words(np.stack(part, axis=1), kind) for part in (left, right))


def sums_of(c):
    """Return what each lane holds of c (16, 8): element i at row g for i < 2, else g + 8, and column 2t + (i & 1)."""
    return np.stack([c[G if i < 2 else G + 8, T * 2 + (i & 1)] for i in range(4)], axis=1)


@pytest.mark.parametrize("kind", HALVES)
def test_a_product_of_fragments_is_that_of_the_matrices(simulated, rng, kind):
    k = 8 * HALVES[kind]
    a, b, c = (rng.integers(-8, 8, shape).astype(np.float32) for shape in ((16, k), (k, 8), (16, 8)))
    left, right = fragments(a, b, kind)
    held = simulated.to_device(np.ascontiguousarray(sums_of(c)))
    kernel = simulated.jit(kernel_of(kind))
    kernel[1, 32](simulated.to_device(left), simulated.to_device(right), held)
    np.testing.assert_array_equal(held.copy_to_host(), sums_of(a @ b + c))


def test_a_tf32_operand_that_was_not_rounded_fails(simulated):
    a = np.full((32, 4), np.float32(0.1).view(np.uint32))
    given = a, a[:, :2].copy(), np.zeros((32, 4), np.float32)
    kernel = simulated.jit(kernel_of("tf32"))
    with pytest.raises(Exception, match="bits that tensor cores drop"):
        kernel[1, 32](*map(simulated.to_device, given))


def loader():
    """Return the kernel that takes four matrices through shared memory to fragments."""
    from numba import uint32

    from numbadense._engine.cuda import primitives

    load, lane = primitives.ldmatrix, primitives.lane
    inlined = (lambda f: f) if device.simulated() else cuda.jit(device=True, inline="always")
    shared_memory = primitives.make_shared(inlined, 256, np.uint16)

    def load_four(matrices, out):
        shared = shared_memory()
        registers = cuda.local.array(4, uint32)
        me = lane()
        for q in range(8):
            shared[me * 8 + q] = matrices[me * 8 + q]
        cuda.syncthreads()
        load(registers, 0, shared, me * 8)
        for q in range(4):
            out[me, q] = registers[q]

    return load_four


def test_a_lane_gets_its_two_numbers_of_each_matrix(simulated):
    matrices = np.arange(256, dtype=np.uint16).reshape(4, 8, 8)
    out = simulated.to_device(np.zeros((32, 4), np.uint32))
    simulated.jit(loader())[1, 32](simulated.to_device(matrices.ravel()), out)
    expected = np.stack([matrices[:, G, 2 * T], matrices[:, G, 2 * T + 1]], axis=-1).astype(np.uint32)
    np.testing.assert_array_equal(out.copy_to_host(), (expected[..., 0] | expected[..., 1] << 16).T)


def test_every_primitive_has_a_twin():
    from numbadense._engine.cuda import twin

    try:
        from numbadense._engine.cuda import ptx
    except ImportError as error:  # numba's own simulator has no code generators
        pytest.skip(str(error))
    assert sorted(ptx.__all__) == sorted(twin.__all__)


SPECIAL = [0.0, -0.0, np.inf, -np.inf, 1e-45, 6e-8, 1.00390625, 1.01171875, 3.4028235e38, 65519.0, 65520.0]


def test_packing_rounds_to_nearest_even(simulated, rng):
    ml_dtypes = pytest.importorskip("ml_dtypes")
    from numbadense._engine.cuda.primitives import pack_bf16, pack_fp16

    numbers = np.r_[SPECIAL, rng.standard_normal(200)].astype(np.float32)
    for pack, dtype in ((pack_bf16, ml_dtypes.bfloat16), (pack_fp16, np.float16)):
        with np.errstate(over="ignore"):
            expected = numbers.astype(dtype).view(np.uint16)
        got = np.array([pack(low, high) for low, high in zip(numbers, numbers[::-1], strict=True)])
        np.testing.assert_array_equal(got & 0xFFFF, expected)
        np.testing.assert_array_equal(got >> 16, expected[::-1])
        assert np.isnan(np.array([pack(np.float32(np.nan), 1)], np.uint32).view(np.uint16)[:1].view(dtype)[0])


def test_tf32_has_ten_bits_after_the_point_and_ties_go_away_from_zero(simulated, rng):
    from numbadense._engine.cuda.primitives import as_bits, as_float32, to_tf32

    numbers = rng.standard_normal(200).astype(np.float32)
    ulp = np.spacing(np.abs(numbers)) * 2.0**13
    got = np.array([as_float32(to_tf32(number)) for number in numbers])
    expected = np.sign(numbers) * np.floor(np.abs(numbers.astype(np.float64)) / ulp + 0.5) * ulp
    np.testing.assert_array_equal(got, expected.astype(np.float32))
    for tie in (1 + 2.0**-11, -1 - 2.0**-11):
        assert as_float32(to_tf32(np.float32(tie))) == np.sign(tie) * (1 + 2.0**-10)
    for kept in (0.0, -0.0, np.inf, -np.inf):
        assert as_bits(as_float32(to_tf32(np.float32(kept)))) == as_bits(np.float32(kept))
    assert np.isnan(as_float32(to_tf32(np.float32(np.nan)))) and as_float32(to_tf32(np.float32(3.4028235e38))) == np.inf


@pytest.mark.parametrize("capability", CAPABILITIES, ids=str)
@pytest.mark.parametrize(
    ("kind", "name"), [("bf16", "HMMA.16816.F32.BF16"), ("fp16", "HMMA.16816.F32"), ("tf32", "HMMA.1688.F32.TF32")]
)
def test_a_product_is_one_instruction(compile_ptx, tmp_path, capability, kind, name):
    kernel = kernel_of(kind)
    code = assemble(compile_ptx(kernel, ("uint32", 2), ("uint32", 2), ("float32", 2), capability=capability), tmp_path)
    assert [each for each in code.instructions if each.startswith("HMMA")] == [name]
    assert code.local == 0


@pytest.mark.parametrize(
    ("make", "arrays", "name"),
    [(lambda: kernel_of("bf16"), ("uint32", "uint32", "float32"), "mma"), (loader, ("uint16", "uint32"), "ldmatrix")],
    ids=["mma", "ldmatrix"],
)
def test_the_compiler_is_told_what_a_warp_does_together(compile_ptx, monkeypatch, make, arrays, name):
    """As it is of every kernel that `compile_ptx` compiles, in all tests: this one shows that it would notice."""
    from numbadense._engine.cuda.ptx import assembly

    given = [(array, 1 if array == "uint16" else 2) for array in arrays]
    compile_ptx(make(), *given)
    monkeypatch.setattr(assembly, "TOGETHER", re.compile("never"))
    with pytest.raises(AssertionError, match=f"not convergent: {name}.sync.aligned"):
        compile_ptx(make(), *given)


@pytest.mark.parametrize("capability", CAPABILITIES, ids=str)
def test_four_matrices_are_one_instruction(compile_ptx, tmp_path, capability):
    code = assemble(compile_ptx(loader(), ("uint16", 1), ("uint32", 2), capability=capability), tmp_path)
    assert [each for each in code.instructions if each.startswith("LDSM")] == ["LDSM.16.M88.4"]
    assert code.local == 0
