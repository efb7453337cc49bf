"""What the kernels of whole networks are once assembled: registers, spills, what of their loops multiplies and adds."""

from collections import Counter

import numpy as np
import pytest
from device_code import assemble

from numbadense._engine.cuda import fused_tiles
from numbadense._engine.cuda.fused_tiles import SHARED, TABLE, TENSOR_TABLE
from numbadense.activations import REGISTRY

CAPABILITIES = [(8, 0), (9, 0), (12, 0)]
MEASURED = (9, 0)  # where the shares of the table were counted
REGISTERS = 64 * 1024  # of a multiprocessor
USUAL, HEAVY = ("identity", "relu", "sigmoid"), ("identity", "tanh", "gelu", "softmax")
TILES = [(np.dtype(name), tile) for name in ("float32", "float64") for tile in TABLE[8, 0][np.dtype(name).itemsize]]
LARGEST = next(tile for _, tile in TILES if tile.width == 64)
ONES = [(dtype, tile) for dtype, tile in TILES if tile is not LARGEST and (tile.width in (64, 256) or tile.warps == 1)]
WIDE = TENSOR_TABLE[8, 0]


@pytest.fixture(scope="session")
def code_of(compile_ptx, tmp_path_factory):
    """A function that returns the PTX and the code of a kernel of whole networks; each is compiled once."""
    from numbadense._engine.cuda import compile as compiler

    held = {}

    def compiled(capability, tile, kind, names, streamed, in_chunks=(True, True)):
        key = capability, tile, kind, names, streamed, in_chunks
        if key not in held:
            chosen = tuple(REGISTRY[name] for name in names)
            if kind in ("bf16", "fp16"):
                kernel, arrays = (
                    compiler.fused_tensor(tile, kind, chosen, streamed, in_chunks),
                    ["uint32"] + ["float32"] * 2,
                )
            else:
                kernel, arrays = compiler.fused(tile, kind, chosen, streamed, in_chunks), [kind] * 3
            scalars = np.dtype("int64"), np.dtype("int64"), np.dtype("bool")
            ptx = compile_ptx(
                kernel.py_func,
                *((array, 2) for array in arrays),
                *scalars,
                capability=capability,
                launch_bounds=(tile.size, tile.resident),
            )
            held[key] = ptx, assemble(ptx, tmp_path_factory.mktemp("fused"))
        return held[key]

    return compiled


def head(name):
    return name.split(".")[0]


def assert_in_registers(tile, code):
    assert code.local == 0, "registers are spilled, or an array is not in registers"
    assert code.registers * tile.size * tile.resident <= REGISTERS
    assert not any(name.startswith(("LDL", "STL")) for name in code.instructions)


def step(code, multiply, products):
    """Return how often each instruction is in the shortest loop that adds so many products."""
    loops = [Counter(head(name) for name in loop) for loop in code.loops]
    return min((loop for loop in loops if loop[multiply] >= products), key=Counter.total)


@pytest.mark.parametrize(("dtype", "tile"), ONES, ids=str)
def test_as_much_of_the_loop_multiplies_and_adds_as_the_table_says(code_of, dtype, tile):
    assert_loop(code_of, MEASURED, dtype, tile, streamed=tile.warps > 1)


@pytest.mark.parametrize(
    ("capability", "streamed"), [(MEASURED, False), *((capability, True) for capability in CAPABILITIES)], ids=str
)
def test_the_largest_tile_is_as_good_everywhere(code_of, capability, streamed):
    assert_loop(code_of, capability, np.dtype("float32"), LARGEST, streamed)


def assert_loop(code_of, capability, dtype, tile, streamed):
    ptx, code = code_of(capability, tile, dtype, USUAL, streamed)
    assert (".f64" in ptx) is (dtype == "float64")
    assert_in_registers(tile, code)
    multiply, chunk = {4: "FFMA", 8: "DFMA"}[dtype.itemsize], 16 // dtype.itemsize
    products = tile.outputs[0] * tile.outputs[1] * chunk
    loop = step(code, multiply, products)
    steps, left = divmod(loop[multiply], products)
    assert not left and loop["LDS"] == steps * (tile.outputs[0] + tile.outputs[1]) and not loop["BAR"]
    assert loop[multiply] / loop.total() == pytest.approx(tile.share, abs=0.03)
    names = set(code.instructions)
    assert {"LDS.128", "STS.128"} <= names
    assert any(name.startswith("LDGSTS") and name.endswith(".128") for name in names)
    assert any(name.startswith("STG") and name.endswith(".128") for name in names)


@pytest.mark.parametrize("capability", CAPABILITIES, ids=str)
def test_heavy_activations_cost_the_largest_tile_no_register(code_of, capability):
    ptx, code = code_of(capability, LARGEST, np.dtype("float32"), HEAVY, True)
    assert ".f64" not in ptx
    assert_in_registers(LARGEST, code)


@pytest.mark.parametrize("tile", [tile for tile in WIDE if tile.warps > 1], ids=str)
def test_a_layer_on_tensor_cores_is_its_products_and_activations_and_little_else(code_of, tile):
    _, code = code_of(MEASURED, tile, "bf16", ("identity", "sigmoid", "tanh"), False)
    groups = tile.width // 16
    products, sums = 2 * tile.parts * groups**2, 8 * tile.parts * groups
    layer = step(code, "HMMA", products)
    assert layer["HMMA"] == products
    assert layer["MUFU"] == 2 * (3 * sums // 2), "two sigmoids are two powers and one reciprocal, two tanh as well"
    assert layer["FMNMX"] == (2 + 1) * sums, "what keeps NaN and infinity from the other of the two"
    assert layer["FFMA"] == 2 * sums and not layer["FSETP"]
    assert layer["F2FP"] == sums // 2, "two numbers are rounded at once"
    assert layer["LDS"] <= groups**2 + groups + 6, "weights come 16 bytes at a time, the biases too"


@pytest.mark.parametrize(
    ("capability", "tile"),
    [((8, 0), WIDE[-2]), *(((12, 0), tile) for tile in WIDE if tile.warps == 4)],  # whose compiler unrolls less
    ids=str,
)
def test_fragments_stay_in_registers_everywhere(code_of, capability, tile):
    assert_fragments(tile, *code_of(capability, tile, "fp16", ("identity", "sigmoid"), True), "f16")


@pytest.mark.parametrize("capability", CAPABILITIES, ids=str)
def test_heavy_activations_stay_in_registers_too(code_of, capability):
    tile = next(tile for tile in WIDE if tile.width == 64)
    names = "identity", "gelu", "softmax"
    assert_fragments(tile, *code_of(capability, tile, "bf16", names, False, (False, False)), "bf16", False)


def assert_fragments(tile, ptx, code, kind, in_chunks=True):
    assert ".f64" not in ptx and f"m16n8k16.row.col.f32.{kind}" in ptx
    assert_in_registers(tile, code)
    assert sum(head(name) == "HMMA" for name in code.instructions) == 2 * tile.parts * (tile.width // 16) ** 2
    names = set(code.instructions)
    assert "LDS.128" in names and ("LDG.E.128" in names and "STG.E.128" in names) is in_chunks


@pytest.mark.parametrize("capability", [key for key in SHARED if key != "simulator"], ids=str)
def test_streamed_weights_leave_room_for_a_block_on_every_device(capability):
    available = fused_tiles.shared_memory(capability) - fused_tiles.RESERVED
    for dtype, tile in TILES:
        assert tile.shared(dtype.itemsize, 0, True) <= available
    for tile in WIDE:
        layer = 4 + tile.width + tile.width**2 // 2
        assert tile.shared(0, layer, True, True) <= available
