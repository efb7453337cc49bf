"""Hopper's dense kernel once assembled: nothing spilled or serialized, copies of boxes, shapes of multiplications."""

import re
import types
from collections import Counter

import numpy as np
import pytest
from device_code import assemble, refusal
from numba import types as numba_types

from numbadense.activations import REGISTRY

HOPPER = (9, 0, "a")
CASES = [
    (place, precision, half, in_fours, name)
    for place in ("APART", "TOGETHER")
    for precision, half, in_fours, name in (
        ("bf16", True, True, "gelu"),
        ("bf16", False, True, "identity"),
        ("fp16", False, False, "sigmoid"),
        ("tf32", False, True, "tanh"),
    )
] + [(place, "bf16", True, True, "gelu") for place in ("APART_PAIRED", "TOGETHER_PAIRED")]


@pytest.fixture(scope="session")
def hopper_code(compile_ptx, tmp_path_factory):
    """A function that returns the tile, the PTX and the code of a kernel; each is compiled once."""
    from numbadense._engine.cuda import compile as compiler
    from numbadense._engine.cuda import hopper, hopper_step

    held = {}

    def compiled(place, precision, half, in_fours, name):
        key = place, precision, half, in_fours, name
        if key not in held:
            tile = getattr(hopper_step, place)
            kernel = compiler.hopper_dense(REGISTRY[name], tile, precision, half, in_fours).py_func
            out = "uint16" if half else "float32"
            words = numba_types.UniTuple(numba_types.int64, hopper.MAP)
            kinds = words, words, ("int64", 1), ("float32", 1), (out, 2), np.dtype("int64")
            ptx = compile_ptx(kernel, *kinds, capability=HOPPER, launch_bounds=(tile.size, 1))
            held[key] = tile, ptx, assemble(ptx, tmp_path_factory.mktemp("hopper"))
        return held[key]

    return compiled


@pytest.mark.parametrize("case", CASES, ids=str)
def test_nothing_is_spilled_or_serialized_and_registers_change_hands(hopper_code, case):
    tile, ptx, code = hopper_code(*case)
    assert ".target sm_90a" in ptx and ".f64" not in ptx
    # The assembler says so, by a number from C7508 to C7519, where it waits after each multiplication by itself.
    assert not re.search(r"C75\d\d|serialized|setmaxnreg|[Ww]arning", code.said), code.said
    assert code.local == 0 and not any(name.startswith(("LDL", "STL")) for name in code.instructions)
    assert code.registers == 65536 // tile.size // 8 * 8
    assert {"USETMAXREG.DEALLOC.CTAPOOL", "USETMAXREG.TRY_ALLOC.CTAPOOL"} <= set(code.instructions)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_boxes_are_copied_by_hardware_and_multiplied_by_warpgroups(hopper_code, case):
    tile, _, code = hopper_code(*case)
    _, precision, half, in_fours, _ = case
    depth, kind = {"bf16": (16, "F32.BF16"), "fp16": (16, "F32"), "tf32": (8, "F32.TF32")}[precision]
    multiplications = [name for name in code.instructions if name.startswith("HGMMA")]
    assert set(multiplications) == {f"HGMMA.64x{tile.columns}x{depth}.{kind}"}
    assert len(multiplications) % (4 * tile.high) == 0
    assert "UTMALDG.2D" in code.instructions
    assert not any(name.startswith("LDGSTS") for name in code.instructions)
    assert "LDS.128" in code.instructions and "STS.64" in code.instructions
    stores = {name for name in code.instructions if name.startswith("STG")}
    assert stores == {("STG.E.64" if half else "STG.E.128") if in_fours else "STG.E", "STG.E.64"}


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_loop_over_features_does_little_but_multiply(hopper_code, case):
    """A step of a large tile takes its multiplications 1024 cycles, of one in turns 512, of each scheduler."""
    tile, _, code = hopper_code(*case)
    loops = [loop for loop in code.loops if any(name.startswith("HGMMA") for name in loop)]
    inner = min(loops, key=len)
    multiplications = sum(name.startswith("HGMMA") for name in inner)
    steps = multiplications // (4 * tile.high)
    assert multiplications == steps * 4 * tile.high > 0
    assert len(inner) <= 160 * steps
    assert sum(name == "WARPGROUP.DEPBAR.LE" for name in inner) == steps


@pytest.mark.parametrize("case", CASES[-2:], ids=str)
def test_clusters_share_what_they_copy_and_a_step_waits_for_no_memory(hopper_code, case):
    """A release at the scope of a cluster would wait for all stores, an acquire would empty the cache."""
    tile, ptx, code = hopper_code(*case)
    assert tile.cluster == 2 and re.search(r"\.reqnctapercluster 2\b", ptx)
    names = Counter(code.instructions)
    assert names["UTMALDG.2D.MULTICAST"] == names["UTMALDG.2D"] > 0
    assert names["UCGABAR_ARV"] == names["UCGABAR_WAIT"] == 1
    assert any(name.startswith("SYNCS.ARRIVE.TRANS64.RED") for name in names)  # at a barrier of another block
    assert names["MEMBAR.ALL.GPU"] <= 1 and names["CCTL.IVALL"] <= 1  # for the maps; where the blocks meet


@pytest.mark.parametrize("case", CASES[:-2], ids=str)
def test_blocks_alone_have_nothing_of_clusters(hopper_code, case):
    _, ptx, code = hopper_code(*case)
    assert "cluster" not in re.sub(r"shared::cluster\.global|fence\.mbarrier_init\.release\.cluster", "", ptx)
    assert not any(name.startswith("UCGABAR") or name.endswith("MULTICAST") for name in code.instructions)


@pytest.mark.parametrize("place", ["APART", "TOGETHER"])
def test_gelu_is_applied_to_four_numbers_at_a_time_without_a_branch(hopper_code, place):
    _, _, code = hopper_code(place, "bf16", True, True, "gelu")
    names = code.instructions
    begin = names.index("LDS.128")
    part = names[begin : names.index("STG.E.64", begin)]
    assert [name for name in part if name.startswith("MUFU")].count("MUFU.EX2") == 4
    assert not any(name.startswith(("BSSY", "CALL")) for name in part) and len(part) <= 100


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_narrowing_reads_and_writes_16_bytes_at_a_time(compile_ptx, tmp_path, precision):
    from numbadense._engine.cuda import compile as compiler

    kernel = compiler.narrow_rows(precision, True).py_func
    code = assemble(compile_ptx(kernel, ("float32", 2), ("uint16", 2), capability=HOPPER), tmp_path)
    assert code.local == 0 and code.registers <= 64
    assert {"LDG.E.128", "STG.E.128"} <= set(code.instructions)
    assert any(name.startswith("F2FP") for name in code.instructions)


def test_a_launch_on_hopper_compiles_for_what_only_hopper_has(compile_ptx, monkeypatch):
    from numba.cuda import codegen

    context = types.SimpleNamespace(device=types.SimpleNamespace(compute_capability=(9, 0)))
    monkeypatch.setattr(codegen.devices, "get_context", lambda: context)
    assert codegen.CUDACodeLibrary._ensure_cc(None, None) == HOPPER


def test_the_kernel_takes_the_ptx_that_is_asked_for_and_no_newer(hopper_code, compile_ptx, tmp_path):
    from numbadense._engine.cuda import compile as compiler
    from numbadense._engine.cuda import hopper_step

    major, minor = hopper_step.PTX
    _, ptx, _ = hopper_code(*CASES[0])
    assert refusal(ptx, f"{major}.{minor}", tmp_path) is None
    assert f"requires PTX ISA .version {major}.{minor} or later" in refusal(ptx, f"{major}.{minor - 1}", tmp_path)
    assert ptx.startswith("//") and f"\n.version {'.'.join(map(str, compiler.written()))}\n" in ptx
