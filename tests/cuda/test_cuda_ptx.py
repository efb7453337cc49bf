"""The PTX of every kernel, compiled for compute capability 9.0 with no GPU and no driver."""

import re

import numpy as np
import pytest
from device_needs import CAPABILITY

from numbadense._engine.cuda.tiles import target
from numbadense.activations import REGISTRY

FLOATS = {"float32": "f32", "float64": "f64"}
DENSE = {}  # what was compiled before


def dense_ptx(compile_ptx, entry, dtype, place=0, in_chunks=(True, True)):
    from numbadense._engine.cuda import compile as compiler

    tile = target(CAPABILITY).dense[np.dtype(dtype).itemsize][place]
    key = entry.name, dtype, place, in_chunks
    if key not in DENSE:
        kernel = compiler.dense(entry, np.dtype(dtype), tile, in_chunks, pipelined=True).py_func
        DENSE[key] = compile_ptx(kernel, (dtype, 2), (dtype, 2), (dtype, 1), (dtype, 2))
    return tile, DENSE[key]


def array_ptx(compile_ptx, entry, dtype):
    from numbadense._engine.cuda import compile as compiler

    if entry.rowwise:
        return compile_ptx(compiler.rowwise(entry).py_func, (dtype, 2), (dtype, 2))
    return compile_ptx(compiler.elementwise(entry, np.dtype(dtype)).py_func, (dtype, 1), (dtype, 1))


def test_the_code_is_for_the_capability_that_was_asked_for(compile_ptx):
    assert ".target sm_90" in array_ptx(compile_ptx, REGISTRY["relu"], "float32")


@pytest.mark.parametrize("name", REGISTRY)
def test_a_float32_kernel_never_computes_in_float64(compile_ptx, name):
    entry = REGISTRY[name]
    assert ".f64" not in array_ptx(compile_ptx, entry, "float32")
    assert ".f64" not in dense_ptx(compile_ptx, entry, "float32", place=-1)[1]


@pytest.mark.parametrize("name", ["identity", "gelu", "softmax"])
def test_a_float64_kernel_never_computes_in_float32(compile_ptx, name):
    entry = REGISTRY[name]
    assert not re.search(r"(fma|mul|add|div)\.\w+\.f32", dense_ptx(compile_ptx, entry, "float64")[1])
    assert ".f64" in array_ptx(compile_ptx, entry, "float64")


def test_the_search_for_float64_finds_an_uncast_literal(compile_ptx):
    def careless(x, out):
        out[0] = x[0] * 0.1

    assert ".f64" in compile_ptx(careless, ("float32", 1), ("float32", 1))


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("in_chunks", [(True, True), (False, False)], ids=["chunks", "elements"])
def test_dense_multiplies_and_adds_at_once_from_shared_memory_in_registers(compile_ptx, dtype, in_chunks):
    tile, ptx = dense_ptx(compile_ptx, REGISTRY["identity"], dtype, in_chunks=in_chunks)
    kind, count, size = {"float32": ("f32", 4, 4), "float64": ("f64", 2, 8)}[dtype]
    outputs = tile.outputs[0] * tile.outputs[1]
    fused = ptx.count(f"fma.rn.{kind}")
    assert fused and fused % outputs == 0
    assert f"mul.{kind}" not in ptx and f"add.{kind}" not in ptx
    assert f"ld.shared.v{count}.{kind}" in ptx
    assert (f"st.global.v{count}.{kind}" in ptx) is in_chunks[1]
    copied = {int(size) for size in re.findall(r"cp\.async\.c[ag]\.shared\.global \[%r\d+\], \[%rd\d+\], (\d+)", ptx)}
    assert copied == {16 if in_chunks[0] else size}
    assert f"cp.async.wait_group {tile.stages - 2};" in ptx
    assert "bar.sync" in ptx
    assert ".local" not in ptx, "the accumulators are not in registers"


def test_offsets_are_64_bits_wide(compile_ptx):
    _, ptx = dense_ptx(compile_ptx, REGISTRY["identity"], "float32")
    assert set(re.findall(r"ld\.param\.(\w+)", ptx)) == {"u64"}
    assert re.search(r"(mul|mad)\.lo\.s64", ptx)
    # Where a thread is in its block takes no more than 32 bits, and nothing else is multiplied in so few.
    assert len(re.findall(r"(mul|mad)\.lo\.s32", ptx)) <= 1


def test_devices_before_8_0_copy_through_registers(compile_ptx):
    from numbadense._engine.cuda import compile as compiler

    row = target((7, 5))
    kernel = compiler.dense(REGISTRY["identity"], np.dtype("float32"), row.dense[4][0], (True, True), row.pipelined)
    ptx = compile_ptx(kernel.py_func, *(("float32", ndim) for ndim in (2, 2, 1, 2)), capability=(7, 5))
    assert "cp.async" not in ptx and "st.shared.v4.f32" in ptx and ".local" not in ptx


@pytest.mark.parametrize("dtype", FLOATS)
def test_elementwise_reads_two_chunks_before_it_writes_one(compile_ptx, dtype):
    ptx = array_ptx(compile_ptx, REGISTRY["relu"], dtype)
    count = {"float32": 4, "float64": 2}[dtype]
    accesses = re.findall(rf"(ld|st)\.global\.v{count}\.{FLOATS[dtype]}", ptx)
    assert "".join(accesses).count("ldld") == 1 and sorted(accesses) == ["ld"] * 3 + ["st"] * 3
    assert ".local" not in ptx


def test_nothing_is_called(compile_ptx):
    for name in REGISTRY:
        assert "call." not in dense_ptx(compile_ptx, REGISTRY[name], "float32", place=-1)[1]


def test_the_gathering_copy_compiles_for_every_real_dtype(compile_ptx):
    from numbadense._engine.cuda import compile as compiler

    for given in ("float32", "float64", "int8", "uint64", "bool"):
        assert "st.global" in compile_ptx(compiler.copy().py_func, (given, 2), ("float32", 2))


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_the_copy_casts_floats_of_16_bits_on_every_device(compile_ptx, precision):
    from numbadense._engine.cuda import compile as compiler

    for reads, writes, given, taken in (
        (precision, None, "uint16", "float32"),
        (precision, None, "uint16", "float64"),
        (None, precision, "float32", "uint16"),
        (None, precision, "float64", "uint16"),
    ):
        kernel = compiler.copy(reads, writes, np.dtype(given).itemsize).py_func
        ptx = compile_ptx(kernel, (given, 2), (taken, 2), capability=(7, 5))
        assert ("cvt.f32.f16" in ptx) is (reads == "fp16") and ("cvt.rn.f16.f32" in ptx) is (writes == "fp16")
        assert (".f64" in ptx) is ("float64" in (given, taken))


def test_activations_of_halves_move_sixteen_bytes_at_a_time(compile_ptx):
    from numbadense._engine.cuda import compile as compiler

    for reads, writes in (("bf16", "bf16"), ("fp16", None), (None, "bf16")):
        kernel = compiler.elementwise_halves(REGISTRY["relu"], reads, writes, True).py_func
        arrays = ("uint16" if precision else "float32" for precision in (reads, writes))
        ptx = compile_ptx(kernel, *((array, 1) for array in arrays))
        counts = tuple(len(re.findall(rf"{way}\.global\.v4\.\w+", ptx)) for way in ("ld", "st"))
        assert counts in {(1 if reads else 2, 1 if writes else 2), (3 if reads else 6, 3 if writes else 6)}
        assert ".f64" not in ptx and ".local" not in ptx
