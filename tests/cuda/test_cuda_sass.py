"""What the kernels are once assembled: registers, spills, 16-byte accesses, what of a loop multiplies and adds."""

import numpy as np
import pytest
from device_code import assemble

from numbadense._engine.cuda.tiles import target
from numbadense.activations import REGISTRY

CAPABILITIES = [(8, 0), (9, 0), (12, 0)]
MEASURED = (9, 0)  # where the shares of the table were counted
REGISTERS = 64 * 1024  # of a multiprocessor
SHARED = {(8, 0): 164, (9, 0): 228, (12, 0): 100}  # KB of shared memory of a multiprocessor
RESERVED = 1024  # bytes of it that each block takes besides
CHUNKS, ELEMENTS = (True, True), (False, False)
TILES = [("float32", place) for place in range(4)] + [("float64", place) for place in range(3)]
EVERY = [(MEASURED, *tile, CHUNKS) for tile in TILES]
LARGEST = [(capability, "float32", 0, kind) for capability in CAPABILITIES for kind in (CHUNKS, ELEMENTS)]
CASES = list(dict.fromkeys([*EVERY, *LARGEST, (MEASURED, "float32", 3, ELEMENTS)]))


@pytest.fixture(scope="session")
def dense_code(compile_ptx, tmp_path_factory):
    """A function that returns the tile, the PTX and the code of a dense kernel; each is compiled once."""
    from numbadense._engine.cuda import compile as compiler

    held = {}

    def compiled(capability, dtype, place, in_chunks, name="identity"):
        key = capability, dtype, place, in_chunks, name
        if key not in held:
            row, dtype = target(capability), np.dtype(dtype)
            tile = row.dense[dtype.itemsize][place]
            kernel = compiler.dense(REGISTRY[name], dtype, tile, in_chunks, row.pipelined).py_func
            arrays = ((dtype, ndim) for ndim in (2, 2, 1, 2))
            bounds = (tile.size, tile.resident)
            ptx = compile_ptx(kernel, *arrays, capability=capability, launch_bounds=bounds)
            held[key] = tile, ptx, assemble(ptx, tmp_path_factory.mktemp("dense"))
        return held[key]

    return compiled


def assert_budget(tile, code, capability, itemsize):
    assert code.local == 0, "registers are spilled, or an array is not in registers"
    assert code.registers * tile.size * tile.resident <= REGISTERS
    assert code.shared == tile.shared * itemsize
    assert (code.shared + RESERVED) * tile.resident <= SHARED[capability] * 1024


@pytest.mark.parametrize("case", CASES, ids=str)
def test_dense_stays_in_its_budget_and_moves_16_bytes_at_a_time(dense_code, case):
    capability, dtype, _, in_chunks = case
    tile, ptx, code = dense_code(*case)
    assert f".target sm_{capability[0]}{capability[1]}" in ptx
    assert (".f64" in ptx) is (dtype == "float64")
    assert_budget(tile, code, capability, np.dtype(dtype).itemsize)
    names = set(code.instructions)
    assert "LDS.128" in names
    copies = {name for name in names if name.startswith("LDGSTS")}
    assert copies and all(name.endswith(".128") is in_chunks[0] for name in copies)
    assert any(name.startswith("STG") and name.endswith(".128") for name in names) is in_chunks[1]
    assert not any(name.startswith(("LDL", "STL")) for name in names)


@pytest.mark.parametrize("case", EVERY, ids=str)
def test_as_much_of_the_loop_multiplies_and_adds_as_the_table_says(dense_code, case):
    _, dtype, _, _ = case
    tile, _, code = dense_code(*case)
    multiply = {"float32": "FFMA", "float64": "DFMA"}[dtype]
    products = tile.outputs[0] * tile.outputs[1] * tile.depth
    issued = code.step(multiply, products)
    assert issued[multiply] == products
    assert issued["BAR"] == 1 and issued["LDL"] == issued["STL"] == 0
    assert issued[multiply] / issued.total() == pytest.approx(tile.share, abs=0.03)


@pytest.mark.parametrize("capability", CAPABILITIES, ids=str)
def test_a_heavy_activation_costs_the_largest_tile_no_register(dense_code, capability):
    tile, ptx, code = dense_code(capability, "float32", 0, CHUNKS, "gelu")
    assert ".f64" not in ptx
    assert_budget(tile, code, capability, 4)


@pytest.mark.parametrize("capability", CAPABILITIES, ids=str)
@pytest.mark.parametrize("name", ["sigmoid", "gelu"])
def test_elementwise_moves_16_bytes_at_a_time_in_few_registers(compile_ptx, tmp_path, capability, name):
    from numbadense._engine.cuda import compile as compiler

    kernel = compiler.elementwise(REGISTRY[name], np.dtype("float32")).py_func
    code = assemble(compile_ptx(kernel, ("float32", 1), ("float32", 1), capability=capability), tmp_path)
    assert code.local == 0
    assert code.registers <= 48, "fewer than 1280 threads would fit a multiprocessor"
    assert {"LDG.E.128", "STG.E.128"} <= set(code.instructions)
