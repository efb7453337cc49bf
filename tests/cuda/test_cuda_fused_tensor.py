"""Whole networks on tensor cores, simulated: every tile and way of weights, against float64 within derived bounds."""

import functools
import itertools

import numpy as np
import pytest
from device_needs import absent
from hypothesis import given, settings
from hypothesis import strategies as st

import numbadense as nd
from numbadense._engine.cuda import device
from numbadense._engine.cuda.fused_tiles import TENSOR_TABLE, choose, tensor_tiles_of
from numbadense.activations import REGISTRY

TILES = TENSOR_TABLE["simulator"]
NAMES = ("identity", "relu", "sigmoid", "tanh", "softmax")
KNOWN = tuple(REGISTRY[name] for name in NAMES)
UNIT = {"bf16": 2.0**-8, "fp16": 2.0**-11}  # half the spacing of the numbers around 1, relative to the smaller of them
QUICK, MIDDLE = 6e-5, 1e-6  # the errors of an activation in few instructions, relative and near a zero in the middle
POISON = np.float32(-1 / 3)
GUARD = 16


@pytest.fixture(autouse=True)
def simulator(gpu):
    """These tests call kernels with tiles that only the simulator has."""
    if not device.simulated():
        absent("simulator", "the tiles are the simulator's")


def layers_of(widths, networks=1, seed=0):
    rng = np.random.default_rng([*widths, networks, seed])
    shapes = list(itertools.pairwise(widths))
    weights = [(rng.normal(size=(networks, k, n)) / np.sqrt(k)).astype(np.float32) for k, n in shapes]
    return weights, [rng.normal(size=(networks, n)).astype(np.float32) for n in widths[1:]]


def bounded(x, weights, biases, names, precision):
    """Return the outputs in float64, and how far those of the kernel may be from them.

    An input of a layer with an error of `far` is rounded, and so is its weight; the sum rounds each time, in float32.
    """
    unit, fine = UNIT[precision], 2.0**-24
    exact, far = x.astype(np.float64), np.zeros(x.shape)
    for w, b, name in zip(weights, biases, names, strict=True):
        w, b = w.astype(np.float64), b.astype(np.float64)
        off = far + unit * (np.abs(exact) + far)
        products = (np.abs(exact) + off) @ np.abs(w)
        wrong = off @ np.abs(w) + unit * products + (len(w) + 2) * fine * (products * (1 + unit) + np.abs(b))
        z, entry = exact @ w + b, REGISTRY[name]
        exact = getattr(nd, name)(z)
        if entry.rowwise:  # in the maximum norm, and for the rounding of a sum
            far = np.repeat(wrong.max(axis=1, keepdims=True), z.shape[1], axis=1) * entry.lipschitz + 1e-6
        else:
            far = wrong * entry.lipschitz + QUICK * np.abs(exact) + MIDDLE
    return exact, far


@functools.cache
def kernel_of(tile, precision, streamed, in_chunks):
    from numbadense._engine.cuda import compile as compiler

    return compiler.fused_tensor(tile, precision, KNOWN, streamed, in_chunks)


def placed(array, offset):
    """Return a copy that begins `offset` elements after a multiple of 16 bytes."""
    room = np.empty(array.size + 16, array.dtype)
    first = -room.ctypes.data % 16 // array.itemsize + offset
    held = room[first : first + array.size].reshape(array.shape)
    held[...] = array
    return held


def run(tile, precision, layers, names, x, m, *, streamed=False, in_chunks=(False, False), per=1, shares=False, at=0):
    """Return what the kernel gives, after checking that it wrote nothing else."""
    from numbadense._engine.cuda import compile as compiler
    from numbadense._engine.cuda import fused_tensor, tensor_program

    weights, biases = layers
    networks, n_out = len(weights[0]), weights[-1].shape[2]
    chosen = [REGISTRY[name] for name in names]
    programs = placed(tensor_program.pack(weights, biases, chosen, precision, tile.width), 0)
    room = placed(np.full(networks * m * n_out + 2 * GUARD, POISON), at)
    out = room[GUARD:-GUARD].reshape(networks * m, n_out)
    shared = tile.shared(programs.shape[1], fused_tensor.words(tile.width), streamed, True)
    arguments = programs, placed(x, at), out, m, per, shares
    kernel = kernel_of(tile, precision, streamed, in_chunks)
    compiler.launch(kernel, networks * per, tile.size, 0, *arguments, shared=shared)
    assert (room[:GUARD] == POISON).all() and (room[-GUARD:] == POISON).all()
    return out


@st.composite
def cases(draw):
    """Return a tile, a network that fits it, rows around its edges, and how they and the weights are copied."""
    tile, precision = draw(st.sampled_from(TILES)), draw(st.sampled_from(["bf16", "fp16"]))
    in_chunks = draw(st.tuples(st.booleans(), st.booleans()))

    def width(whole):
        return draw(st.sampled_from([4, tile.width]) if whole else st.integers(1, tile.width))

    depth = draw(st.integers(1, 3))
    widths = width(in_chunks[0]), *(width(False) for _ in range(depth - 1)), width(in_chunks[1])
    names = draw(st.lists(st.sampled_from(NAMES), min_size=depth, max_size=depth))
    m = draw(st.sampled_from([1, 8, 9, 16, tile.block_rows + 1, 2 * tile.block_rows]))
    at = 0 if any(in_chunks) else draw(st.integers(0, 3))
    return tile, precision, widths, names, m, draw(st.booleans()), in_chunks, draw(st.integers(1, 2)), at


@settings(max_examples=15, deadline=None)
@given(cases())
def test_any_network_is_within_the_rounding_of_its_precision_and_writes_nothing_else(case):
    tile, precision, widths, names, m, streamed, in_chunks, per, at = case
    layers = layers_of(widths)
    x = np.random.default_rng(m).normal(size=(m, widths[0])).astype(np.float32)
    out = run(tile, precision, layers, names, x, m, streamed=streamed, in_chunks=in_chunks, per=per, at=at)
    exact, far = bounded(x, [w[0] for w in layers[0]], [b[0] for b in layers[1]], names, precision)
    assert (np.abs(out - exact) <= far).all()


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("tile", TILES, ids=str)
def test_whole_numbers_come_out_exactly_wherever_they_are(tile, precision):
    """No rounding hides a place that is taken for another."""
    rng, width = np.random.default_rng(4), tile.width
    x = rng.integers(-4, 5, (tile.block_rows + 3, width)).astype(np.float32)
    weights = [rng.integers(-1, 2, (1, width, width)).astype(np.float32) for _ in range(2)]
    weights[1] = np.eye(width, dtype=np.float32)[rng.permutation(width)][None]
    biases = [rng.integers(-3, 4, (1, width)).astype(np.float32) for _ in range(2)]
    for streamed in (False, True):
        chunks = streamed, not streamed
        out = run(
            tile, precision, (weights, biases), ("relu", "identity"), x, len(x), streamed=streamed, in_chunks=chunks
        )
        hidden = np.maximum(x @ weights[0][0] + biases[0], 0)
        assert np.abs(hidden).max() < 256, "bfloat16 holds no more whole numbers"
        np.testing.assert_array_equal(out, hidden @ weights[1][0] + biases[1])


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("shares", [False, True])
def test_each_network_takes_its_own_rows_or_those_of_all(streamed, shares):
    tile, networks = TILES[1], 3
    m, names = tile.block_rows + 2, ("relu", "identity")
    layers = layers_of((3, 5, 2), networks)
    x = np.random.default_rng(1).normal(size=(m if shares else networks * m, 3)).astype(np.float32)
    out = run(tile, "bf16", layers, names, x, m, streamed=streamed, shares=shares, per=2).reshape(networks, m, 2)
    for number in range(networks):
        rows = x if shares else x[number * m : (number + 1) * m]
        alone = [w[number : number + 1] for w in layers[0]], [b[number : number + 1] for b in layers[1]]
        np.testing.assert_array_equal(out[number], run(tile, "bf16", alone, names, rows, m, streamed=streamed))


def test_what_is_not_finite_stays_in_its_row_and_padding_makes_none_of_it():
    tile = TILES[0]
    weights, biases = layers_of((3, 5, 3))
    weights[0] = np.abs(weights[0])
    x = np.random.default_rng(2).normal(size=(12, 3)).astype(np.float32)
    finite = run(tile, "bf16", (weights, biases), ("relu", "identity"), x, 12).copy()
    x[1, 0], x[9, 2] = np.nan, -np.inf
    out = run(tile, "bf16", (weights, biases), ("relu", "identity"), x, 12)
    others = np.setdiff1d(np.arange(12), [1, 9])
    np.testing.assert_array_equal(out[others], finite[others])
    assert np.isnan(out[1]).all()
    np.testing.assert_array_equal(out[9], biases[1][0])  # relu of minus infinity


@pytest.mark.parametrize("tile", TILES, ids=str)
@pytest.mark.parametrize("name", ["sigmoid", "tanh"])
def test_columns_that_are_activated_together_keep_their_own_infinities_and_nan(tile, name):
    """Beside the third column of three there is padding, which infinite inputs make NaN."""
    rng = np.random.default_rng(6)
    weights, biases = layers_of((3, 5, 3, 3))
    weights[0], weights[1] = np.abs(weights[0]), np.abs(weights[1]) * [1, -1, 1]
    weights, biases = [w.astype(np.float32) for w in weights], [np.zeros_like(b) for b in biases]
    x = rng.normal(size=(11, 3)).astype(np.float32)
    x[4] = np.inf
    steep = {"sigmoid": (1, 0, 1), "tanh": (1, -1, 1)}[name]
    out = run(tile, "fp16", (weights, biases), ("relu", name, "identity"), x, 11)
    np.testing.assert_allclose(out[4], steep @ weights[2][0].astype(np.float16).astype(np.float64), atol=1e-5)
    assert np.isfinite(out).all()
    weights[1][0, :, 1] = 1, -1, 0, 0, 0  # the second column is NaN now, and its neighbour is not
    last = run(tile, "fp16", (weights[:2], biases[:2]), ("relu", name), x, 11)
    np.testing.assert_array_equal(last[4], [1, np.nan, 1])
    hidden = run(tile, "fp16", (weights, biases), ("relu", name, "identity"), x, 11)
    assert np.isnan(hidden[4]).all() and np.isfinite(np.delete(hidden, 4, axis=0)).all()


def network(widths, names, dtype=np.float32):
    weights, biases = layers_of(widths)
    layers = zip(weights, biases, names, strict=True)
    return nd.Sequential([nd.Dense(w[0].astype(dtype), b[0].astype(dtype), name) for w, b, name in layers])


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_a_network_in_half_precision_is_one_launch_from_float32_to_float32(gpu, launches, rng, precision):
    net = network((5, 16, 9, 3), ("tanh", "sigmoid", "softmax"))
    x = rng.normal(size=(7, 5)).astype(np.float32)
    on_device = net.to("cuda", precision=precision)
    y = on_device(x)
    assert len(launches) == 1 and y.dtype == np.float32
    assert repr(on_device) == f"DeviceSequential(5-16-9-3, tanh, sigmoid, softmax, {precision})"
    error = np.linalg.norm(y - net(x)) / np.linalg.norm(net(x))
    assert 0 < error <= {"bf16": 1e-2, "fp16": 1e-3}[precision]


def test_weights_of_half_size_lose_nothing_on_the_way(gpu, rng):
    net = network((5, 16, 3), ("relu", "identity"))
    x = rng.normal(size=(4, 5)).astype(np.float32)
    half = net.astype("bfloat16")
    np.testing.assert_array_equal(half.to("cuda", precision="bf16")(x), net.to("cuda", precision="bf16")(x))
    np.testing.assert_allclose(half.to("cuda")(x), half(x), rtol=1e-5)


def test_a_population_in_half_precision(gpu, launches, rng):
    weights, biases = layers_of((3, 6, 2), 4)
    networks = nd.Population(weights, biases, ["relu", None])
    on_device = networks.to("cuda", precision="bf16")
    assert repr(on_device) == "DevicePopulation(4 x 3-6-2, relu, identity, bf16)"
    x = rng.normal(size=(4, 5, 3)).astype(np.float32)
    y = on_device(x)
    assert len(launches) == 1
    for index in range(4):
        exact, far = bounded(
            x[index], [w[index] for w in weights], [b[index] for b in biases], ("relu", "identity"), "bf16"
        )
        assert (np.abs(y[index] - exact) <= far).all()


def test_a_precision_that_is_not_there_is_refused_and_a_network_that_is_too_wide_runs_layer_by_layer(gpu, launches):
    with pytest.raises(nd.OptionError, match="precision is 'int4' but must be one of 'bf16', 'fp16', 'tf32', '3xtf32'"):
        network((3, 2), ("relu",)).to("cuda", precision="int4")
    with pytest.raises(nd.OptionError, match="precision is 'bf16' but the operands are float64"):
        network((3, 2), ("relu",), np.float64).to("cuda", precision="bf16")
    weights, biases = layers_of((3, 2), 2)
    with pytest.raises(nd.OptionError, match="precision is 'bf16' but the operands are float64"):
        nd.Population([w.astype("f8") for w in weights], biases, ["relu"]).to("cuda", precision="bf16")
    with pytest.raises(nd.OptionError, match="precision is 'tf32' but must be one of 'bf16', 'fp16', or None"):
        nd.Population(weights, biases, ["relu"]).to("cuda", precision="tf32")
    wide = network((3, 33, 2), ("relu", "identity")).to("cuda", precision="bf16")
    launches.clear()
    assert wide(np.ones((2, 3), np.float32)).shape == (2, 2) and len(launches) == 2


def test_tiles_for_few_rows_are_small():
    for width in (1, 16, 33, 64, 128):
        tiles = tensor_tiles_of((9, 0), width)
        assert choose(tiles, 2**20, 1, 132) is tiles[0]
        assert choose(tiles, 1, 1, 132).block_rows == 16 < tiles[0].block_rows
    assert tensor_tiles_of((9, 0), 129) == () == tensor_tiles_of((7, 5), 16)
