"""The dense kernel on tensor cores, simulated: every tile, form and precision, against sums of what was rounded."""

import functools

import numpy as np
import pytest
from device_needs import absent
from hypothesis import given, settings
from hypothesis import strategies as st

import numbadense as nd
from numbadense._engine import half
from numbadense._engine.cuda import device
from numbadense.activations import REGISTRY

PRECISIONS = ("bf16", "fp16", "tf32", "3xtf32")
NAMES = {"bf16": "bfloat16", "fp16": "float16"}
# The largest relative error of rounding a normal number of x and one of w; see tensor_products on tf32.
UNITS = {"bf16": (2.0**-8, 2.0**-8), "fp16": (2.0**-11, 2.0**-11), "tf32": (2.0**-10 * 2 / 3, 2.0**-11)}
FROBENIUS = {"bf16": 1e-2, "fp16": 1e-2, "tf32": 1e-3, "3xtf32": 1e-6}
GUARD = 16  # numbers on each side of an output
POISON = -1.0 / 3


@pytest.fixture(autouse=True)
def simulator(gpu):
    """These tests call kernels with tiles that only the simulator has."""
    if not device.simulated():
        absent("simulator", "the tiles are the simulator's")


@functools.cache
def kernel_of(precision, place, x_form="elements", out_form="elements", name="identity"):
    from numbadense._engine.cuda import compile as compiler
    from numbadense._engine.cuda import tensor_tiles

    tile = tensor_tiles.row(None)[precision][place]
    return tile, compiler.tensor_dense(REGISTRY[name], tile, precision, x_form, out_form)


def placed(array, offset):
    """Return a copy that begins `offset` numbers after a multiple of 16 bytes."""
    room = np.empty(array.size + 16, array.dtype)
    first = -room.ctypes.data % 16 // array.itemsize + offset
    held = room[first : first + array.size].reshape(array.shape)
    held[...] = array
    return held


def operands(m, k, n, seed=0):
    rng = np.random.default_rng([m, k, n, seed])
    return tuple(rng.normal(size=shape).astype(np.float32) for shape in ((m, k), (k, n), (n,)))


def rounded(array, precision):
    """Return float32 numbers rounded to a precision of 16 bits, in float64."""
    return np.asarray(half.rounded(array, NAMES[precision])).astype(np.float64)


def words(array, precision):
    """Return a float32 matrix as the words of its rows in 16 bits."""
    return np.ascontiguousarray(half.rounded(array, NAMES[precision]).bits).view(np.uint32)


def packed_weights(w, precision, halves_in=False):
    from numbadense._engine.cuda import compile as compiler
    from numbadense._engine.cuda import tensor_pack

    out = np.full(tensor_pack.shape(*w.shape, precision), 0xFFFFFFFF, np.uint32)
    if out.size:
        compiler.launch_one_dimensional(compiler.tensor_weights(precision, halves_in), out.size // 4, 0, w, out)
    return out


def run(precision, place, x, w, b, x_form, out_form, offset=0, name="identity"):
    """Return the output of the kernel in float32, of which nothing else than the output was written."""
    from numbadense._engine.cuda import compile as compiler
    from numbadense._engine.cuda import tensor

    if isinstance(place, int):
        tile, kernel = kernel_of(precision, place, x_form, out_form, name)
    else:
        tile, kernel = place, compiler.tensor_dense(REGISTRY[name], place, precision, x_form, out_form)
    m, n = len(x), len(b)
    given = words(x, precision) if x_form == "half" else x
    width, kind, poison = (n // 2, np.uint32, 0x7FC17FC1) if out_form == "half" else (n, np.float32, POISON)
    room = placed(np.full(m * width + 2 * GUARD, poison, kind), offset)
    out = room[GUARD : GUARD + m * width].reshape(m, width)
    shared = tile.shared(precision, tensor.x_words(x_form)) * 4
    work = placed(given, offset), packed_weights(w, precision, x_form == "half"), placed(b, offset), out
    compiler.launch(kernel, tile.blocks(m, n), tile.size, 0, *work, shared=shared)
    assert (room[:GUARD] == kind(poison)).all() and (room[-GUARD:] == kind(poison)).all()
    if out_form == "half":
        assert not (out == poison).any()
        return np.asarray(half.Half(NAMES[precision], out.view(np.uint16)))
    return out


def assert_sums(actual, x, w, b, precision, halved=False):
    """Fail unless outputs are the sums of the operands, rounded, up to what rounding sums in float32 may do."""
    k = len(w)
    size = np.abs(x).astype(np.float64) @ np.abs(w).astype(np.float64) + np.abs(b)
    bound = (k / 8 + 3) * 2.0**-24 * size
    if precision in NAMES:
        exact = rounded(x, precision) @ rounded(w, precision) + b
        if halved:
            bound += UNITS[precision][0] * np.abs(exact) + 2.0**-24
    else:
        exact = x.astype(np.float64) @ w.astype(np.float64) + b
        units = UNITS["tf32"] if precision == "tf32" else (2.0**-20, 2.0**-20)
        bound += sum(units) * 1.001 * size
    assert (np.abs(actual - exact) <= bound).all()


@st.composite
def cases(draw):
    """Return a precision, the place of its tile, a shape around the tile's edges, and how x and out lie in memory."""
    precision, place = draw(st.sampled_from(PRECISIONS)), draw(st.sampled_from([0, 1]))
    forms = ["elements", "chunks"] + (["half"] if precision in NAMES else [])
    x_form, out_form = draw(st.sampled_from(forms)), draw(st.sampled_from(forms))
    tile, _ = kernel_of(precision, place)
    multiple = {"elements": 1, "chunks": 4, "half": 8}
    m = draw(st.sampled_from([1, tile.rows - 1, tile.rows, 2 * tile.rows + 1]))
    n = draw(st.sampled_from([1, tile.columns - 1, tile.columns, tile.columns + 1]))
    k = draw(st.sampled_from([0, 1, 7, 31, 32, 33, 70, 100]))
    n, k = (-(-size // each) * each for size, each in ((n, multiple[out_form]), (k, multiple[x_form])))
    aligned = (x_form, out_form) != ("elements", "elements")
    return precision, place, (m, k, n), x_form, out_form, 0 if aligned else draw(st.integers(0, 3))


@settings(max_examples=20, deadline=None)
@given(cases())
def test_any_shape_and_form_gives_the_sums_and_writes_nothing_else(case):
    precision, place, shape, x_form, out_form, offset = case
    x, w, b = operands(*shape)
    out = run(precision, place, x, w, b, x_form, out_form, offset)
    assert_sums(out, x, w, b, precision, out_form == "half")


def test_outputs_leave_in_turns_where_there_is_no_room_for_all():
    from numbadense._engine.cuda.tensor_tiles import TensorTile

    tile = TensorTile((1, 1), (4, 8), 2, 1, 0.5)
    fragments = tile.rows // 16
    assert tile.shared("bf16", 16) < fragments * 16 * tile.pitch, "all would fit"
    x, w, b = operands(tile.rows, 8, tile.columns)
    assert_sums(run("bf16", tile, x, w, b, "half", "half"), x, w, b, "bf16", True)


def test_no_two_lanes_of_a_load_meet_in_a_bank_of_shared_memory():
    from numbadense._engine.cuda import tensor_products

    banks = 32
    float32_at, half_at = (
        make(lambda f: f) for make in (tensor_products.make_float32_at, tensor_products.make_half_at)
    )
    for part in range(2):
        for first in range(0, 32, 8):  # a load of 16 bytes is done for eight lanes at a time
            for at in (float32_at, half_at):
                lanes = [at(lane, part) for lane in range(first, first + 8)]
                assert all(word % 4 == 0 for word in lanes)
                assert len({word % banks for word in lanes}) == 8


def test_tf32_is_rounded_nearly_to_the_nearest_and_what_is_one_stays():
    from numbadense._engine.cuda.tensor_products import nearly

    def rounded(numbers):
        return np.array([nearly(number) for number in numbers], np.uint32).view(np.float32)

    x = (np.random.default_rng(7).normal(size=2000) * 10.0 ** np.linspace(-30, 30, 2000)).astype(np.float32)
    error = rounded(x).astype(np.float64) / x - 1
    assert not (rounded(x).view(np.uint32) & 0x1FFF).any()
    assert np.abs(error).max() <= UNITS["tf32"][0] * (1 + 1e-3) and abs(error.mean()) <= 2.0**-14
    np.testing.assert_array_equal(rounded(rounded(x)), rounded(x))
    special = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, 3.4e38, 1.0, -3.5], np.float32)
    np.testing.assert_allclose(rounded(special), special, rtol=1e-3)
    assert np.signbit(rounded(special))[1]


@pytest.mark.parametrize("precision", PRECISIONS)
def test_small_integers_are_exact(precision):
    rng = np.random.default_rng(3)
    x, w, b = (rng.integers(-8, 9, shape).astype(np.float32) for shape in ((19, 41), (41, 10), (10,)))
    np.testing.assert_array_equal(run(precision, 0, x, w, b, "elements", "elements"), x @ w + b)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_errors_are_within_what_rounding_the_operands_allows(gpu, precision):
    x, w, b = operands(17, 64, 9)
    y = nd.cuda.dense(x, w, b, precision=precision)
    exact = x.astype(np.float64) @ w + b
    assert y.dtype == np.float32
    assert np.linalg.norm(y - exact) <= FROBENIUS[precision] * np.linalg.norm(exact)
    size = np.abs(x).astype(np.float64) @ np.abs(w)
    if precision in UNITS:
        one, other = UNITS[precision]
        small = 2.0**-24 * (np.abs(x).sum(axis=1)[:, None] + np.abs(w).sum(axis=0)) if precision == "fp16" else 0
        allowed = (one + other + one * other) * size + small + 2.0**-20 * (size + np.abs(b))
        assert (np.abs(y - exact) <= allowed).all()


def test_three_products_of_tf32_are_as_good_as_float32(gpu):
    x, w, b = operands(16, 256, 8, seed=1)
    exact = x.astype(np.float64) @ w + b
    split, single = (
        np.linalg.norm(nd.cuda.dense(x, w, b, precision=precision) - exact) for precision in ("3xtf32", None)
    )
    assert split <= 2 * single and split <= 1e-6 * np.linalg.norm(exact)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_what_is_not_finite_stays_in_its_row_and_is_what_float32_makes_of_it(precision):
    rng = np.random.default_rng(4)
    x, w, b = (rng.integers(-3, 4, shape).astype(np.float32) for shape in ((18, 35), (35, 9), (9,)))
    x[1, 3], x[2, 34], x[4, 0], x[5, 5] = np.nan, np.inf, -np.inf, np.inf
    x[5, 6], w[5, 2], w[7, 4], w[6, 3], b[8] = -np.inf, np.inf, np.nan, -np.inf, np.inf
    x.view(np.uint32)[7, 2], x.view(np.uint32)[8, 2] = 0x7FFFFFFF, 0xFFFFFFFF  # NaN as a device makes it
    w[0] = np.float32(2.5)  # not a whole number, but exact
    with np.errstate(invalid="ignore"):
        expected = x.astype(np.float64) @ w.astype(np.float64) + b
    np.testing.assert_array_equal(run(precision, 0, x, w, b, "elements", "elements"), expected)


def test_infinity_by_any_number_is_infinity_when_it_is_split():
    rng = np.random.default_rng(5)
    w = rng.normal(size=(1, 40)).astype(np.float32)
    w[0, :4] = 1.0, -0.75, np.inf, -np.inf
    for x in (np.full((1, 1), np.inf, np.float32), np.full((1, 1), -np.inf, np.float32)):
        out = run("3xtf32", 1, x, w, np.zeros(40, np.float32), "elements", "elements")
        np.testing.assert_array_equal(out, x @ w)
        np.testing.assert_array_equal(
            run("3xtf32", 1, w.reshape(40, 1), x, np.zeros(1, np.float32), "elements", "elements"), w.T @ x
        )


def test_large_numbers_become_infinite_where_the_format_ends(gpu):
    x = np.array([[1e5], [3.4e38]], np.float32)
    w = np.array([[0.5]], np.float32)
    with np.errstate(over="ignore"):
        assert np.isinf(nd.cuda.dense(x, w, precision="fp16")).all()
        assert np.isinf(nd.cuda.dense(x, w, precision="bf16")[:, 0]).tolist() == [False, True]
        for precision in ("tf32", "3xtf32"):
            np.testing.assert_allclose(nd.cuda.dense(x, w, precision=precision), x @ w, rtol=1e-3)


@pytest.mark.parametrize(("precision", "name"), [("bf16", "gelu"), ("tf32", "sigmoid"), ("3xtf32", "tanh")])
def test_an_epilogue_is_applied_to_every_output_once(precision, name):
    x, w, b = operands(18, 9, 12)
    plain, out = (run(precision, 0, x, w, b, "elements", "chunks", name=each) for each in ("identity", name))
    expected = getattr(nd, name)(plain.astype(np.float64))
    np.testing.assert_allclose(out, expected, rtol=1e-6 if precision == "3xtf32" else 2e-4, atol=1e-6)


def network(widths, names, seed=0):
    rng = np.random.default_rng(seed)
    layers = [
        nd.Dense((rng.normal(size=(k, n)) / np.sqrt(k)).astype("f4"), rng.normal(size=n).astype("f4"), name)
        for k, n, name in zip(widths[:-1], widths[1:], names, strict=True)
    ]
    return nd.Sequential(layers)


@pytest.mark.parametrize("precision", ["tf32", "3xtf32"])
def test_a_network_is_near_its_own_in_float32(gpu, launches, precision, rng):
    net = network((6, 16, 9, 3), ("tanh", "relu", "softmax"))
    on_device = net.to("cuda", precision=precision)
    launches.clear()
    x = rng.normal(size=(5, 6)).astype(np.float32)
    y = on_device(x)
    assert y.dtype == np.float32 and len(launches) == 4  # softmax is one of its own
    assert np.linalg.norm(y - net(x)) <= FROBENIUS[precision] * np.linalg.norm(y)
    np.testing.assert_allclose(y.sum(axis=1), 1, rtol=1e-5)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_activations_between_layers_in_16_bits_change_nothing(gpu, precision):
    from numbadense._engine.cuda import memory, tensor_step
    from numbadense._engine.cuda import run as run_module
    from numbadense._engine.cuda.chain import Chain

    rng = np.random.default_rng(6)  # whole numbers, so that sums are exact, and large enough to be rounded
    shapes = (6, 16), (16, 8), (8, 3)
    net = nd.Sequential([nd.Dense(rng.integers(-20, 21, shape).astype("f4"), None, "relu") for shape in shapes])
    steps = tensor_step.of_network(net.layers, precision)  # such as a wider network would get
    assert [step.halves_in for step in steps] == [False, True, True]
    chain = Chain(steps, np.dtype(np.float32))
    assert chain.room(memory.operand("x", np.zeros((5, 6), np.float32)).like) == 256 + 256  # 5 x 16, and 5 x 8, halves
    x = rng.integers(-3, 4, (5, 6)).astype(np.float32)
    y = x
    for layer in net.layers:
        y = nd.cuda.dense(y, layer.w, layer.b, layer.activation, precision=precision)
    assert np.isfinite(y).all()
    operand = memory.operand("x", x)
    np.testing.assert_array_equal(run_module.forward(chain, operand, None, chain.dtype, 0), y)


def test_empty_layers_and_batches(gpu):
    ones = [np.ones(shape, np.float32) for shape in ((3, 8), (8, 0), (0, 2))]
    net = nd.Sequential([*map(nd.Dense, ones[:2]), nd.Dense(ones[2], np.array([1.5, -2], np.float32), "relu")])
    for precision in PRECISIONS:
        np.testing.assert_array_equal(net.to("cuda", precision=precision)(np.ones((2, 3), "f4")), [[1.5, 0], [1.5, 0]])
        assert net.to("cuda", precision=precision)(np.ones((0, 3), "f4")).shape == (0, 2)
        assert nd.cuda.dense(np.ones(3, "f4"), np.ones((3, 0), "f4"), precision=precision).shape == (0,)


def test_operands_on_the_device_stay_there_and_out_is_filled(gpu, rng):
    x, w = rng.normal(size=(4, 8)).astype("f4"), rng.normal(size=(8, 8)).astype("f4")
    expected = nd.cuda.dense(x, w, precision="tf32")
    on_device = gpu.to_device(x)
    assert nd.cuda.dense(on_device, gpu.to_device(w), out=on_device[:, :8], precision="tf32") is not None
    np.testing.assert_array_equal(on_device.copy_to_host(), expected)


def test_the_bits_of_a_row_do_not_depend_on_the_batch(gpu):
    x, w, b = operands(33, 40, 10)
    for precision in ("fp16",):
        whole = nd.cuda.dense(x, w, b, "gelu", precision=precision)
        for i in (0, 32):
            np.testing.assert_array_equal(nd.cuda.dense(x[i], w, b, "gelu", precision=precision), whole[i])


def test_precisions_that_there_are_not_are_refused_in_one_sentence(gpu, launches, monkeypatch):
    x, w = np.zeros((2, 3), "f4"), np.zeros((3, 4), "f4")
    with pytest.raises(nd.errors.OptionError) as caught:
        nd.cuda.dense(x, w, precision="int8")
    assert str(caught.value) == (
        "precision is 'int8' but must be one of 'bf16', 'fp16', 'tf32', '3xtf32', or None for that of the operands."
    )
    with pytest.raises(nd.errors.OptionError, match="precision is 'tf32' but the operands are float64, which tensor"):
        nd.cuda.dense(x.astype("f8"), w, precision="tf32")
    with pytest.raises(nd.errors.OptionError, match="precision is 'bf16' but the operands are float64"):
        nd.Sequential([nd.Dense(w.astype("f8"))]).to("cuda", precision="bf16")
    from numbadense._engine.cuda import compile as compiler

    monkeypatch.setattr(compiler, "capability", lambda: (7, 5))
    with pytest.raises(nd.DeviceError, match=r"precision is 'fp16' but the device has compute capability 7\.5"):
        nd.cuda.dense(x, w, precision="fp16")
    assert not launches


def test_hopper_gets_its_own_kernel_for_layers_that_are_large_enough(gpu, monkeypatch):
    from numbadense._engine.cuda import compile as compiler
    from numbadense._engine.cuda import hopper_step, tensor_step

    packed = []
    monkeypatch.setattr(hopper_step, "pack", lambda *arguments: packed.append(arguments[3]))
    w, b = np.zeros((64, 64), np.float32), np.zeros(64, np.float32)
    for capability, precision, small, expected in (
        ((9, 0), "bf16", False, ["bf16"]),
        ((9, 0), "bf16", True, []),
        ((9, 0), "3xtf32", False, []),
        ((8, 0), "bf16", False, []),
        (None, "bf16", False, []),
    ):
        monkeypatch.setattr(compiler, "capability", lambda capability=capability: capability)
        monkeypatch.setattr(compiler, "written", lambda: hopper_step.PTX)
        tensor_step.prepare(w, b, "relu", precision, 0, m=1 if small else 64)
        assert packed == expected
        packed.clear()


def test_a_compiler_that_is_too_old_for_hopper_leaves_layers_to_the_other_kernel(gpu, monkeypatch):
    from numbadense._engine.cuda import compile as compiler
    from numbadense._engine.cuda import tensor_step

    w, b = np.zeros((64, 64), np.float32), np.zeros(64, np.float32)
    layer = tensor_step.prepare(gpu.to_device(w), gpu.to_device(b), "relu", "bf16", 0)
    monkeypatch.setattr(compiler, "capability", lambda: (9, 0))
    monkeypatch.setattr(compiler, "written", lambda: (8, 2))
    monkeypatch.setattr(compiler, "tensor_weights", lambda *arguments: None)
    monkeypatch.setattr(compiler, "launch_one_dimensional", lambda *arguments: None)
    assert type(tensor_step.prepare(w, b, "relu", "bf16", 0)) is type(layer)
    said = "; Hopper's own kernel takes PTX 8.3, of CUDA 12.3, and the compiler writes 8.2"
    assert layer.explain(64).endswith(said) and said not in layer.explain(63)
    monkeypatch.setattr(compiler, "written", lambda: (8, 3))
    assert said[:30] not in layer.explain(64)


@pytest.mark.parametrize(("m", "n"), [(1, 1), (100, 9), (16, 80), (97, 41), (64, 16)])
def test_every_tile_of_the_output_has_one_block(monkeypatch, m, n):
    from numbadense._engine.cuda import tensor

    for place in (0, 1):
        tile, _ = kernel_of("bf16", place)
        where = tensor.make_place(tile)
        monkeypatch.setattr(tensor, "thread", lambda: 0)
        seen = []
        for block in range(tile.blocks(m, n)):
            monkeypatch.setattr(tensor, "block_number", lambda block=block: block)
            seen.append(where(m, n)[3:])
        assert sorted(seen) == [(i, j) for i in range(0, m, tile.rows) for j in range(0, n, tile.columns)]
