"""What the dense kernel on tensor cores is once assembled: registers, spills, what of the loop is products."""

import numpy as np
import pytest
from device_code import assemble, refusal

from numbadense._engine.cuda import device
from numbadense.activations import REGISTRY

CAPABILITIES = [(8, 0), (9, 0), (12, 0)]
MEASURED = (9, 0)  # where the shares of the table were counted
REGISTERS = 64 * 1024  # of a multiprocessor
PRECISIONS = ("bf16", "tf32", "3xtf32")  # fp16 is bf16 with two other instructions
PRODUCTS = {"bf16": 2, "fp16": 2, "tf32": 4, "3xtf32": 12}  # of a fragment, in a step
LARGEST = [(capability, precision, 0, "chunks") for capability in CAPABILITIES for precision in PRECISIONS]
EVERY = [(MEASURED, precision, place, "chunks") for precision in PRECISIONS for place in (1, 2)]
HALVES = [(capability, "bf16", 0, "half") for capability in CAPABILITIES]
CASES = [*LARGEST, *EVERY, *HALVES, (MEASURED, "fp16", 0, "chunks"), (MEASURED, "bf16", 0, "elements")]


@pytest.fixture(scope="session")
def tensor_code(compile_ptx, tmp_path_factory):
    """A function that returns the tile, the PTX and the code of a kernel; each is compiled once, with gelu."""
    from numbadense._engine.cuda import compile as compiler
    from numbadense._engine.cuda import tensor_tiles

    held = {}

    def compiled(capability, precision, place, form):
        key = capability, precision, place, form
        if key not in held:
            tile = tensor_tiles.row(capability)[precision][place]
            kernel = compiler.tensor_dense(REGISTRY["gelu"], tile, precision, form, form).py_func
            matrix = "uint32" if form == "half" else "float32", 2
            arrays = matrix, ("uint32", 4), ("float32", 1), matrix
            bounds = (tile.size, tile.resident)
            ptx = compile_ptx(kernel, *arrays, capability=capability, launch_bounds=bounds)
            held[key] = tile, ptx, assemble(ptx, tmp_path_factory.mktemp("tensor"))
        return held[key]

    return compiled


@pytest.mark.parametrize("case", CASES, ids=str)
def test_sums_stay_in_registers_and_16_bytes_move_at_a_time(tensor_code, case):
    _, precision, _, form = case
    tile, ptx, code = tensor_code(*case)
    assert code.local == 0 and ".local" not in ptx, "registers are spilled, or an array is not in registers"
    assert ".f64" not in ptx
    assert code.registers * tile.size * tile.resident <= REGISTERS
    names = set(code.instructions)
    kind = {"bf16": "16816.F32.BF16", "fp16": "16816.F32"}.get(precision, "1688.F32.TF32")
    assert {name for name in names if name.startswith("HMMA")} == {f"HMMA.{kind}"}
    assert "LDS.128" in names and ("LDSM.16.M88.4" in names) is (form == "half")
    copies = {name for name in names if name.startswith("LDGSTS")}
    assert any(name.endswith(".128") for name in copies)
    assert all(name.endswith(".128") for name in copies) is (form != "elements")
    assert any(name.startswith("STG") and name.endswith(".128") for name in names) is (form != "elements")


def step(tile, precision, code):
    """Return how often each instruction is issued in a step, and how many products there are."""
    products = tile.fragments[0] * tile.fragments[1] * PRODUCTS[precision]
    return code.step("HMMA", products), products


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("place", [0, 1, 2])
def test_as_much_of_the_loop_is_products_as_the_table_says(tensor_code, precision, place):
    tile, _, code = tensor_code(MEASURED, precision, place, "chunks")
    issued, products = step(tile, precision, code)
    assert issued["HMMA"] == products and issued["BAR"] == 1
    assert issued["LDL"] == issued["STL"] == 0
    assert products / issued.total() == pytest.approx(tile.share, abs=0.03)


@pytest.mark.parametrize(
    ("precision", "form", "loads"), [("bf16", "half", 16), ("bf16", "chunks", 24), ("tf32", "chunks", 32)]
)
def test_a_load_from_shared_memory_feeds_many_products(tensor_code, precision, form, loads):
    tile, _, code = tensor_code(MEASURED, precision, 0, form)
    issued, _ = step(tile, precision, code)
    idle = 3  # loads of nothing, by a false predicate, that the assembler puts before copies
    assert issued["LDS"] + issued["LDSM"] - idle <= loads
    assert issued["F2FP"] == (32 if form == "chunks" and precision == "bf16" else 0)
    assert issued["MOV"] <= 2 and issued.total() <= {16: 175, 24: 225, 32: 350}[loads]


@pytest.mark.parametrize("precision", ["bf16", "fp16", "tf32", "3xtf32"])
def test_weights_are_laid_out_16_bytes_at_a_time_in_few_registers(compile_ptx, tmp_path, precision):
    from numbadense._engine.cuda import compile as compiler

    assert not device.simulated()
    kernel = compiler.tensor_weights(precision, False).py_func
    code = assemble(compile_ptx(kernel, (np.float32, 2), (np.uint32, 4)), tmp_path)
    assert code.local == 0 and code.registers <= 64 and "STG.E.128" in code.instructions


@pytest.mark.parametrize("case", [(MEASURED, "bf16", 2, "chunks"), (MEASURED, "3xtf32", 2, "chunks")], ids=str)
def test_an_older_compiler_than_hoppers_kernel_takes_will_do(tensor_code, case, tmp_path):
    assert refusal(tensor_code(*case)[1], "8.0", tmp_path) is None
