"""Hopper's dense kernel, simulated: any shape, and that twins notice what a kernel leaves out."""

import ctypes
import sys
import time
import types

import numpy as np
import pytest
from device_needs import absent
from hypothesis import given, settings
from hypothesis import strategies as st

import numbadense as nd
from numbadense._engine import half
from numbadense._engine.cuda import device
from numbadense.activations import REGISTRY
from numbadense.errors import DeviceError

PRECISIONS = ("bf16", "fp16", "tf32")
UNIT = {"bf16": 2.0**-8, "fp16": 2.0**-11, "tf32": 2.0**-10}  # the largest relative error of one operand; tf32 is cut
KINDS = {"bf16": "bfloat16", "fp16": "float16"}
GUARD = 16
ELEMENTWISE = sorted(name for name, entry in REGISTRY.items() if not entry.rowwise)


@pytest.fixture(autouse=True)
def simulator(gpu):
    """The tiles of these tests are for the simulator, whose threads wait for each other: they have to change often."""
    if not device.simulated():
        absent("simulator", "the tiles are the simulator's")
    before = sys.getswitchinterval()
    sys.setswitchinterval(2e-5)
    yield
    sys.setswitchinterval(before)


@pytest.fixture
def impatient(monkeypatch):
    """Give up soon on threads that nobody wakes."""
    from numbadense._engine.cuda.twin import boxes

    monkeypatch.setattr(boxes, "PATIENCE", 1)


def tiles():
    """Return tiles of one warpgroup of 16 threads, and of 32, whose stages and parts differ."""
    from numbadense._engine.cuda.hopper import Tile

    return (
        Tile(high=2, columns=16, apart=True, stages=3, group=2, part=8, lanes=4),
        Tile(high=1, columns=32, apart=False, stages=2, group=2, part=16, lanes=4),
        Tile(high=1, columns=16, apart=True, stages=2, group=3, part=16, lanes=4),
        Tile(high=1, columns=16, apart=False, stages=3, group=2, part=16, lanes=8),
        Tile(high=2, columns=16, apart=True, stages=3, group=2, part=8, lanes=4, cluster=2),
        Tile(high=1, columns=32, apart=False, stages=2, group=2, part=16, lanes=4, cluster=2),
    )


def on_device(array, aligned=64):
    """Return a device array of a copy whose memory is aligned."""
    from numbadense._engine.cuda import memory

    room = np.empty(array.nbytes + aligned, np.uint8)
    first = -room.ctypes.data % aligned
    held = room[first : first + array.nbytes].view(array.dtype).reshape(array.shape)
    held[...] = array
    return memory.from_interface(held.__array_interface__, held), held


def layer_of(w, b, name, precision, tile=None):
    from numbadense._engine.cuda import hopper_step, memory

    return hopper_step.pack(*(memory.upload(a, a.dtype, 0) for a in (w, b)), name, precision, 0, tile=tile)


def narrowed(x, precision):
    from numbadense._engine.cuda import hopper_step, memory
    from numbadense._engine.cuda import room as rooms

    if precision == "tf32" and memory.in_chunks(x):
        return x
    kind = hopper_step.element(precision)
    shape = x.shape[0], hopper_step.padded(x.shape[1], kind.itemsize)
    return hopper_step.narrow(x, rooms.made(rooms.bytes_of(shape, kind), 0).part(0, shape, kind), precision, 0)


def operands(m, k, n, seed=0):
    rng = np.random.default_rng([m, k, n, seed])
    return tuple(rng.normal(size=shape).astype(np.float32) for shape in ((m, k), (k, n), (n,)))


def widened(narrow, columns, precision):
    """Return narrowed numbers in float64, as the hardware takes them."""
    from numbadense._engine.cuda import borrowed

    narrow = borrowed.simulated_array(narrow) if type(narrow) is borrowed.Borrowed else narrow
    bits = narrow.copy_to_host()[:, :columns]
    if precision == "fp16":
        return bits.view(np.float16).astype(np.float64)
    bits = bits.astype(np.uint32) << 16 if precision == "bf16" else np.ascontiguousarray(bits).view(np.uint32)
    return (bits & np.uint32(0xFFFFE000)).view(np.float32).astype(np.float64)


def check(tile, precision, shape, half=False, blocks=2):
    """Compare with exact sums of the narrowed operands; nothing else may be written."""
    from numbadense._engine.cuda import compile as compiler
    from numbadense._engine.cuda import memory
    from numbadense._engine.cuda import room as rooms

    m, k, n = shape
    x, w, b = operands(*shape)
    layer = layer_of(w, b, "identity", precision, tile)
    given_x = narrowed(memory.upload(x, x.dtype, 0), precision)
    exact = widened(given_x, k, precision) @ widened(layer.w, k, precision).T + b
    poison = np.uint16(0xABCD) if half else np.float32(np.nan)
    room, held = on_device(np.full(m * n + 2 * GUARD, poison))
    out = room[GUARD : GUARD + m * n].reshape(m, n)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compiler, "multiprocessors", lambda: blocks)
        layer.multiply(given_x, out, rooms.made(layer.room(given_x), 0), 0)
    found = held[GUARD : GUARD + m * n].reshape(m, n)
    if half:
        found = found.view(np.float16) if precision == "fp16" else (found.astype(np.uint32) << 16).view(np.float32)
    unit = UNIT[precision] if half else 4e-7 * (2 + k / 16)
    np.testing.assert_allclose(found, exact, rtol=unit, atol=unit)
    edges = np.r_[held[:GUARD], held[-GUARD:]]
    assert np.array_equal(edges, np.full(2 * GUARD, poison), equal_nan=not half)


@st.composite
def cases(draw):
    """Return a tile, a precision, a shape around the edges of tile and step, and what is written by how many blocks."""
    from numbadense._engine.cuda.hopper import DEPTH

    tile, precision = draw(st.sampled_from(tiles())), draw(st.sampled_from(PRECISIONS))
    m = draw(st.sampled_from([1, tile.rows - 1, tile.rows, tile.rows + 1, 3 * tile.rows - 2]))
    n = draw(st.sampled_from([1, 4, tile.columns - 1, tile.columns, tile.columns + 4]))
    depth = DEPTH[precision]
    k = draw(st.sampled_from([1, depth - 1, depth, depth + 1, (tile.stages + 1) * depth + 3]))
    half = precision != "tf32" and draw(st.booleans())
    return tile, precision, (m, k, n), half, tile.cluster * draw(st.integers(1, 3))


@settings(max_examples=15, deadline=None)
@given(cases())
def test_any_shape_gives_the_sums_of_exact_products_and_writes_nothing_else(case):
    check(*case)


@pytest.mark.parametrize("apart", [True, False])
def test_warps_of_32_threads_have_the_fragments_that_the_kernel_takes_them_for(apart):
    from numbadense._engine.cuda.hopper import Tile

    tile = Tile(high=1, columns=32, apart=apart, stages=2)
    check(tile, "bf16", (tile.rows - 3, 70, 29), blocks=1)


def test_bf16_and_fp16_are_rounded_to_nearest_even():
    from numbadense._engine.cuda.twin import hopper as twin_hopper

    rng = np.random.default_rng(3)
    numbers = np.r_[rng.normal(size=50), 1 + 2.0**-8, 1 + 3 * 2.0**-8, -np.inf, 3.4e38, 1e-7, 65520, 0]
    with np.errstate(over="ignore"):
        halves = numbers.astype(np.float32).astype(np.float16).view(np.uint16)
    for x, bits in zip(numbers.astype(np.float32), halves, strict=True):
        assert twin_hopper.make_narrow("fp16")(x) == bits
        above = np.float32(x).view(np.uint32) & 0xFFFF0000
        near = [np.uint32(above).view(np.float32), np.uint32(above + 0x10000).view(np.float32)]
        got = np.uint32(int(twin_hopper.make_narrow("bf16")(x)) << 16).view(np.float32)
        assert got in near and (np.isinf(got) or abs(got - x) <= abs(near[1] - near[0]) / 2)
    assert twin_hopper.make_narrow("bf16")(np.float32(np.nan)) == 0x7FFF


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", ["gelu", "softmax"])
def test_a_layer_is_as_close_as_its_operands_are(precision, name):
    from numbadense._engine.cuda import direct, memory

    x, w, b = operands(9, 75, 21)
    w /= np.sqrt(len(w))
    out, held = on_device(np.full((9, 21), np.nan, np.float32))
    layer = layer_of(w, b, name, precision)
    assert (layer.n_in, layer.n_out) == (75, 21)
    direct.run(layer, memory.upload(x, x.dtype, 0), out, 0)
    exact = getattr(nd, name)(x.astype(np.float64) @ w + b)
    assert np.linalg.norm(held - exact) <= 2 * UNIT[precision] * np.linalg.norm(exact)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_halves_are_read_and_written_as_they_lie(precision, monkeypatch):
    from numbadense._engine.cuda import halves, hopper_step
    from numbadense._engine.cuda import room as rooms
    from numbadense._engine.cuda.borrowed import Borrowed

    x, w, b = operands(9, 24, 12)
    kind = halves.OF_PRECISION[precision]
    bits, held = half.rounded(x, KINDS[precision]).bits, on_device(np.zeros((9, 12), np.uint16))[1]
    matrix, out = (Borrowed(a.ctypes.data, a.shape, kind, a, a.size) for a in (on_device(bits)[1], held))
    layer, (floats, exact) = layer_of(w, b, "gelu", precision), on_device(np.zeros((9, 12), np.float32))
    layer.run(on_device(x)[0], floats, rooms.made(layer.room(on_device(x)[0]), 0), 0)
    assert layer.reads(matrix) and layer.writes(out)
    assert layer.room(matrix) < layer.room(on_device(x)[0])
    monkeypatch.setattr(hopper_step, "narrow", None)
    layer.run(matrix, out, rooms.made(layer.room(matrix), 0), 0)
    np.testing.assert_array_equal(held, half.rounded(exact, KINDS[precision]).bits)
    assert not layer_of(w, b, "softmax", precision).writes(out) and not layer_of(w, b, "gelu", "tf32").reads(matrix)
    odd = Borrowed(matrix.address, (9, 20), kind, matrix, 180)
    assert not layer.reads(odd) and layer.writes(odd), "rows of x have to begin at multiples of 16 bytes"
    other = Borrowed(matrix.address, (9, 24), halves.OF_PRECISION["fp16" if precision == "bf16" else "bf16"], None, 216)
    assert not layer.reads(other)


def test_layers_hand_on_what_the_next_would_round_in_16_bits(monkeypatch):
    from numbadense._engine.cuda import halves, run, tensor_step
    from numbadense._engine.cuda.chain import Chain

    rng, dtype = np.random.default_rng(6), np.dtype(np.float32)  # whole numbers, large enough to be rounded
    shapes = (7, 16), (16, 12), (12, 8), (8, 3)
    net = nd.Sequential([nd.Dense(rng.integers(-20, 21, shape).astype("f4"), None, "relu") for shape in shapes])
    x = rng.integers(-3, 4, (5, 7)).astype(np.float32)
    expected = Chain(tensor_step.of_network(net.layers, "bf16"), dtype)
    monkeypatch.setattr(tensor_step, "_has_hopper", lambda *arguments: True)
    chain = Chain(tensor_step.of_network(net.layers, "bf16"), dtype)
    assert [output.dtype for output in chain._plan(5)[0]] == [halves.BFLOAT16, dtype, halves.BFLOAT16]
    owner = net.to("cuda")
    outputs = [run.network(step, x, None, dtype, owner, 0) for step in (expected, chain)]
    np.testing.assert_array_equal(*outputs)


def test_deep_layers_share_a_tile():
    from numbadense._engine.cuda import hopper_step

    assert hopper_step.choose(hopper_step.DEEP - 1).apart
    assert not hopper_step.choose(hopper_step.DEEP).apart


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_quick_words_have_16_bits_or_are_right_in_the_end(name):
    from numbadense._engine.cuda import compile as compiler

    rng = np.random.default_rng(5)
    x = np.r_[rng.normal(size=60) * 3, rng.normal(size=20) * 30, np.linspace(-9, 9, 37), 0.0].astype(np.float32)
    entry, quick = REGISTRY[name], compiler.quick_scalar(REGISTRY[name])
    with np.errstate(all="ignore"):
        found = np.array([quick(value) for value in x], np.float64)
        exact = np.array([entry.function(value) for value in x.astype(np.float64)])
        fits = np.abs(exact) < np.finfo(np.float32).max
        np.testing.assert_allclose(found[fits], exact[fits], rtol=6e-5, atol=1e-6)
        for value in (np.inf, -np.inf, np.nan):
            close, right = quick(np.float32(value)), entry.function(np.float64(value))
            assert np.isnan(close) == np.isnan(right) and np.isinf(close) == np.isinf(right), value


def test_every_primitive_has_a_twin():
    from numbadense._engine.cuda.twin import hopper as twin

    try:
        from numbadense._engine.cuda.ptx import hopper as ptx
    except ImportError as error:  # numba's own simulator has no code generators
        pytest.skip(str(error))
    assert sorted(ptx.__all__) == sorted(twin.__all__)


def test_every_tile_of_an_output_is_computed_once():
    from numbadense._engine.cuda.hopper import make_place

    place = make_place(4, 3, 2)
    for m, n in ((1, 1), (4, 3), (9, 7), (21, 10), (33, 2)):
        down, across = -(-m // 4), -(-n // 3)
        found = [place(number, m, n) for number in range(down * across)]
        assert sorted(found) == [(4 * i, 3 * j) for i in range(down) for j in range(across)]


def without(name):
    """Replace a primitive by nothing, or what makes one by what makes nothing."""

    def nothing(*operands):
        return (lambda *operands: None) if name.startswith("make_") else None

    return name, nothing


def leave_stages_early(primitives):
    """Tell of an empty stage one step too soon: wait for two groups at most."""
    make = primitives.make_multiply_wait
    return "make_multiply_wait", lambda pending, lanes: make(pending + 1, lanes)


def other_bits(bits):
    """Change bits of descriptors."""
    return lambda primitives: ("descriptor", lambda address, plain=primitives.descriptor: plain(address) ^ bits)


FAULTS = {
    "no fence before multiplications": lambda _: without("make_multiply_fence"),
    "no barrier between the threads of a warp": lambda _: without("make_sync_warp"),
    "no block-wide barrier": lambda _: without("make_meet"),
    "barriers not shown to copies": lambda _: without("barrier_init_fence"),
    "maps not let go of": lambda _: without("map_release"),
    "maps not shown to copies": lambda _: without("map_acquire"),
    "full stages not waited for": lambda _: without("barrier_wait"),
    "nobody told that a stage is empty": lambda _: without("make_arrive_at"),
    "stages empty too soon": leave_stages_early,
    "tiles not swizzled": other_bits(1 << 62),
    "another layout": other_bits(3 << 62),
    "another step of eight rows": other_bits(3 << 38),
    "another address": other_bits(2),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_twins_notice(fault, monkeypatch, impatient):
    from numbadense._engine.cuda import compile as compiler
    from numbadense._engine.cuda import hopper

    monkeypatch.setattr(hopper.primitives, *FAULTS[fault](hopper.primitives))
    compiler.hopper_dense.cache_clear()
    try:
        with pytest.raises((AssertionError, RuntimeError)):
            check(tiles()[0], "bf16", (33, 260, 12), blocks=1)
    finally:
        compiler.hopper_dense.cache_clear()


@pytest.mark.parametrize("in_turn", [True, False])
def test_a_warpgroup_waits_for_its_turn_while_the_other_is_slow(in_turn, monkeypatch, request):
    """Without, it takes a phase of a stage for the one after the next, which has the same parity."""
    if not in_turn:
        request.getfixturevalue("impatient")
    from numbadense._engine.cuda import compile as compiler
    from numbadense._engine.cuda import hopper

    tile, primitives = tiles()[0], hopper.primitives
    turns = tile.shared - 8 * hopper.CONSUMERS  # where their barriers are, in memory that begins at the first 1024
    make, wait = primitives.make_multiply_wait, primitives.barrier_wait

    def slow(pending, lanes):
        wait_for_others = make(pending, lanes)

        def waiting():
            if primitives.number_of_thread() == 2 * tile.warpgroup:
                time.sleep(0.03)
            wait_for_others()

        return waiting

    monkeypatch.setattr(primitives, "make_multiply_wait", slow)
    if not in_turn:
        monkeypatch.setattr(
            primitives, "barrier_wait", lambda address, parity: wait(address, parity) if address < turns else None
        )
    compiler.hopper_dense.cache_clear()
    try:
        if in_turn:
            check(tile, "bf16", (40, 500, 12), blocks=1)
        else:
            with pytest.raises((AssertionError, RuntimeError)):
                check(tile, "bf16", (40, 500, 12), blocks=1)
    finally:
        compiler.hopper_dense.cache_clear()


@pytest.fixture
def driver(monkeypatch):
    """The calls of a function that stands in for the driver's, which returns what `status` says."""
    from numbadense._engine.cuda import tensor_map

    calls = types.SimpleNamespace(seen=[], status=0)

    def encode(words, kind, rank, address, extents, pitches, box, strides, *rest):
        lengths = ((extents, rank), (pitches, rank - 1), (box, rank), (strides, rank))
        calls.seen.append((words % 64, kind, rank, address, *([p[q] for q in range(r)] for p, r in lengths), rest))
        return calls.status

    number, size, word = ctypes.c_int, ctypes.c_uint64, ctypes.c_uint32
    pointers = [ctypes.POINTER(size)] * 2 + [ctypes.POINTER(word)] * 2
    kind = ctypes.CFUNCTYPE(number, ctypes.c_void_p, number, word, ctypes.c_void_p, *pointers, *(number,) * 4)
    monkeypatch.setattr(tensor_map, "encoder", lambda: kind(encode))
    return calls


def test_the_driver_is_told_of_a_matrix_in_rows_of_128_bytes_swizzled(driver):
    from numbadense._engine.cuda import tensor_map

    for itemsize, kind in ((2, 1), (4, 11)):
        words = tensor_map.encode(2**20, itemsize, 70, 300, 160 * itemsize, 128)
        assert words.shape == (16,) and words.dtype == np.uint64
        seen = driver.seen.pop()
        assert seen == (0, kind, 2, 2**20, [70, 300], [160 * itemsize], [128 // itemsize, 128], [1, 1], (0, 3, 3, 0))


def test_an_error_of_the_driver_names_the_matrix(driver):
    from numbadense._engine.cuda import tensor_map

    driver.status = 1
    with pytest.raises(DeviceError, match="failed with error 1 for a matrix of 300 x 70 elements of 2 bytes"):
        tensor_map.encode(2**20, 2, 70, 300, 160, 128)


def test_a_map_is_encoded_once_for_a_matrix_and_is_sixteen_numbers():
    from numbadense._engine.cuda import tensor_map

    matrix, _ = on_device(np.zeros((5, 64), np.uint16))
    first = tensor_map.of(matrix, 60, 8)
    assert tensor_map.of(matrix, 60, 8) is first and len(first) == 16 and {type(word) for word in first} == {int}
    assert tensor_map.of(matrix, 61, 8) != first


def test_small_layers_and_other_devices_are_left_to_other_kernels():
    from numbadense._engine.cuda.hopper_step import supported

    assert supported(64, 64, 64, "bf16", (9, 0)) and supported(8192, 8192, 8192, "tf32", (9, 0))
    assert not supported(63, 64, 64, "bf16", (9, 0)) and not supported(64, 64, 64, "float32", (9, 0))
    assert not supported(64, 64, 64, "bf16", (8, 0)) and not supported(64, 64, 64, "bf16", (10, 0))
    assert not supported(2**31, 64, 64, "bf16", (9, 0))
    assert supported(1, 1, 1, "fp16", None) and not supported(1, 0, 1, "fp16", None)


def test_tiles_fit_a_multiprocessor():
    from numbadense._engine.cuda import hopper_step

    for tile in (getattr(hopper_step, name) for name in ("APART", "TOGETHER", "APART_PAIRED", "TOGETHER_PAIRED")):
        assert tile.shared <= 227 * 1024
        given = tile.producer_registers + 2 * tile.consumer_registers
        assert given <= 3 * (65536 // tile.size // 8 * 8)
        assert tile.high * tile.columns // 2 == 128  # sums a thread
        assert tile.share * 128 % 1024 == 0  # where the swizzle of eight rows begins
