"""Whole networks in one launch, simulated: every tile and way of weights, against the CPU and the loops in order."""

import functools
import itertools
import pickle

import device_oracle
import numpy as np
import pytest
from device_needs import absent
from hypothesis import given, settings
from hypothesis import strategies as st

import numbadense as nd
from numbadense import scalar_math
from numbadense._engine.cuda import device
from numbadense._engine.cuda.fused_tiles import TABLE, choose, cost, tiles_of
from numbadense.activations import REGISTRY

TILES = {np.dtype(name): TABLE["simulator"][np.dtype(name).itemsize] for name in ("float32", "float64")}
KNOWN = tuple(REGISTRY[name] for name in ("identity", "relu", "tanh", "softmax"))
GUARD = 4  # chunks of numbers on each side of an output
POISON = -1.0 / 3


@pytest.fixture(autouse=True)
def simulator(gpu):
    """These tests call kernels with tiles that only the simulator has."""
    if not device.simulated():
        absent("simulator", "the tiles are the simulator's")


def placed(array, offset):
    """Return a copy that begins `offset` elements after a multiple of 16 bytes."""
    room = np.empty(array.size + 16, array.dtype)
    first = -room.ctypes.data % 16 // array.itemsize + offset
    held = room[first : first + array.size].reshape(array.shape)
    held[...] = array
    return held


def layers_of(widths, names, dtype, networks=1, seed=0):
    """Return stacked weights, biases and the names of their activations."""
    rng = np.random.default_rng([*widths, networks, seed])
    weights = [rng.normal(size=(networks, k, n)).astype(dtype) for k, n in itertools.pairwise(widths)]
    biases = [rng.normal(size=(networks, n)).astype(dtype) for n in widths[1:]]
    return weights, biases, list(names)


def in_order(x, weights, biases, names):
    """Bias first, then the products in the order of the features, one fused multiply-add at a time."""
    for w, b, name in zip(weights, biases, names, strict=True):
        out = np.empty((len(x), len(b)), x.dtype)
        for i, j in np.ndindex(out.shape):
            total = b[j]
            for p in range(len(w)):
                total = scalar_math.fma(x[i, p], w[p, j], total)
            out[i, j] = total
        entry = REGISTRY[name]
        if entry.rowwise:
            for row in out:
                entry.function(row)
        else:
            out = np.array([entry.function(z) for z in out.flat], x.dtype).reshape(out.shape)
        x = out
    return x


@functools.cache
def kernel_of(tile, dtype, streamed, in_chunks):
    from numbadense._engine.cuda import compile as compiler

    return compiler.fused(tile, dtype, KNOWN, streamed, in_chunks)


def run(tile, dtype, layers, x, m, *, streamed=False, in_chunks=(False, False), per=1, shares=False, offset=0):
    """Return what the kernel gives, after checking that it wrote nothing else."""
    from numbadense._engine.cuda import compile as compiler
    from numbadense._engine.cuda import fused_program

    weights, biases, names = layers
    networks, chunk = len(weights[0]), 16 // dtype.itemsize
    chosen = [REGISTRY[name] for name in names]
    depth = tile.depth if streamed else chunk
    programs = placed(fused_program.pack(weights, biases, chosen, dtype, tile.width, depth), 0)
    shape = networks * m, weights[-1].shape[2]
    size = int(np.prod(shape))
    room = placed(np.full(size + 2 * GUARD * chunk, POISON, dtype), offset)
    out = room[GUARD * chunk : GUARD * chunk + size].reshape(shape)
    kernel, shared = (
        kernel_of(tile, dtype, streamed, in_chunks),
        tile.shared(dtype.itemsize, programs.shape[1], streamed),
    )
    arguments = programs, placed(x, offset), out, m, per, shares
    compiler.launch(kernel, networks * per, tile.size, 0, *arguments, shared=shared)
    begin = GUARD * chunk
    guards = np.r_[room[:begin], room[begin + size :][:begin]]
    assert (guards == dtype.type(POISON)).all()
    return out


@st.composite
def cases(draw):
    """Return a tile, a network that fits it, rows around its edges, and how they and the weights are copied."""
    dtype = np.dtype(draw(st.sampled_from(["float32", "float32", "float64"])))
    tile, chunk = draw(st.sampled_from(TILES[dtype])), 16 // dtype.itemsize
    in_chunks = draw(st.tuples(st.booleans(), st.booleans()))

    def width(whole):
        return draw(st.sampled_from([chunk, tile.width])) if whole else draw(st.integers(1, tile.width))

    inner = [width(False) for _ in range(draw(st.integers(0, 3)))]
    widths = width(in_chunks[0]), *inner, width(in_chunks[1])
    names = draw(
        st.lists(
            st.sampled_from(["identity", "relu", "relu", "softmax"]), min_size=len(widths) - 1, max_size=len(widths) - 1
        )
    )
    block = tile.warps * tile.rows
    m = draw(st.sampled_from([1, tile.rows - 1, tile.rows, tile.rows + 1, block + 1, 2 * block + tile.rows]))
    offset = 0 if any(in_chunks) else draw(st.integers(0, chunk - 1))
    return dtype, tile, widths, names, max(m, 1), draw(st.booleans()), in_chunks, draw(st.integers(1, 2)), offset


@settings(max_examples=25, deadline=None)
@given(cases())
def test_any_network_gives_the_bits_of_the_sums_in_order_and_writes_nothing_else(case):
    dtype, tile, widths, names, m, streamed, in_chunks, per, offset = case
    layers = layers_of(widths, names, dtype)
    x = np.random.default_rng(m).normal(size=(m, widths[0])).astype(dtype)
    out = run(tile, dtype, layers, x, m, streamed=streamed, in_chunks=in_chunks, per=per, offset=offset)
    expected = in_order(x, [w[0] for w in layers[0]], [b[0] for b in layers[1]], names)
    np.testing.assert_array_equal(out, expected)


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("shares", [False, True])
def test_each_network_takes_its_own_rows_or_those_of_all(dtype, streamed, shares):
    tile, m, networks = TILES[dtype][0], TILES[dtype][0].warps * TILES[dtype][0].rows + 1, 3
    layers = layers_of((3, 5, 2), ("relu", "identity"), dtype, networks)
    x = np.random.default_rng(1).normal(size=(m if shares else networks * m, 3)).astype(dtype)
    out = run(tile, dtype, layers, x, m, streamed=streamed, shares=shares, per=2).reshape(networks, m, 2)
    for number in range(networks):
        rows = x if shares else x[number * m : (number + 1) * m]
        alone = in_order(rows, [w[number] for w in layers[0]], [b[number] for b in layers[1]], layers[2])
        np.testing.assert_array_equal(out[number], alone)


@pytest.mark.parametrize("streamed", [False, True])
def test_features_beyond_the_last_add_nothing_not_even_a_zero(dtype, streamed):
    tile = TILES[dtype][0]
    weights = [np.ones((1, 3, 3), dtype), np.ones((1, 3, 3), dtype)]
    biases = [np.full((1, 3), -0.0, dtype)] * 2
    x = np.full((2, 3), -0.0, dtype)
    out = run(tile, dtype, (weights, biases, ["identity"] * 2), x, 2, streamed=streamed)
    assert (out == 0).all() and np.signbit(out).all()


def test_what_is_not_finite_stays_in_its_row(dtype):
    tile = TILES[dtype][0]
    layers = layers_of((3, 5, 3), ("relu", "identity"), dtype)
    x = np.random.default_rng(2).normal(size=(tile.rows + 2, 3)).astype(dtype)
    finite = run(tile, dtype, layers, x, len(x)).copy()
    x[1, 0], x[3, 2] = np.nan, np.inf
    out = run(tile, dtype, layers, x, len(x))
    others = np.setdiff1d(np.arange(len(x)), [1, 3])
    np.testing.assert_array_equal(out[others], finite[others])
    assert np.isnan(out[1]).all() and not np.isfinite(out[3]).any()


def network(widths, dtype, names, seed=0):
    weights, biases, names = layers_of(widths, names, dtype, seed=seed)
    return nd.Sequential([nd.Dense(w[0], b[0], name) for w, b, name in zip(weights, biases, names, strict=True)])


def test_a_network_is_one_launch_with_the_bits_of_the_cpu(gpu, launches):
    from numbadense._engine.machine import host

    if host().isa == "generic":
        pytest.skip("this CPU has no fused multiply-add")
    for widths, m in (((5, 8, 8, 3), 1), ((16, 9, 4), 40)):
        net = network(widths, np.float32, ["relu"] * (len(widths) - 2) + ["identity"])
        x = np.random.default_rng(m).normal(size=(m, widths[0])).astype(np.float32)
        on_device = net.to("cuda")
        launches.clear()
        np.testing.assert_array_equal(on_device(x), net(x))
        assert len(launches) == 1


def test_softmax_between_and_behind_is_in_the_same_launch(gpu, launches, rng):
    net = network((4, 6, 5, 3), np.float32, ("softmax", "sigmoid", "softmax"))
    x = rng.normal(size=(5, 4)).astype(np.float32)
    y = net.to("cuda")(x)
    assert len(launches) == 1
    nd.testing.assert_forward_close(y, device_oracle.forward(x, net.layers), x, net.layers)


def test_a_network_that_is_too_wide_runs_layer_by_layer(gpu, launches, rng):
    net = network((4, 17, 3), np.float32, ("relu", "identity"))
    x = rng.normal(size=(2, 4)).astype(np.float32)
    np.testing.assert_allclose(net.to("cuda")(x), net(x), rtol=1e-5)
    assert len(launches) == 2


def population(dtype, networks=3, widths=(3, 6, 2)):
    weights, biases, _ = layers_of(widths, ("tanh", None), dtype, networks)
    return nd.Population(weights, [biases[0], None], ["tanh", None])


def test_a_population_agrees_with_its_networks(gpu, launches, dtype, rng):
    networks = population(dtype)
    on_device = networks.to("cuda")
    assert repr(on_device) == f"DevicePopulation(3 x 3-6-2, tanh, identity, {dtype})"
    assert (len(on_device), on_device.n_in, on_device.n_out, on_device.dtype) == (3, 3, 2, dtype)
    for shape in ((3, 5, 3), (3, 0, 3), (2, 3)):
        x = rng.normal(size=shape).astype(dtype)
        expected = networks(x)
        for argument in (x, gpu.to_device(x)) if x.ndim == 2 else (x,):
            launches.clear()
            y = on_device(argument)
            y = y if isinstance(y, np.ndarray) else y.copy_to_host()
            assert y.shape == expected.shape and y.dtype == dtype
            np.testing.assert_allclose(y, expected, rtol=0, atol=1e-5 if dtype == np.float32 else 1e-13)
            assert len(launches) == bool(x.size)
    for index, each in enumerate(networks):
        np.testing.assert_array_equal(on_device(x)[index], each.to("cuda")(x))


def test_the_output_of_a_population_may_be_given_and_overlap_x(gpu, rng):
    networks = population(np.float32, widths=(3, 6, 3))
    x = rng.normal(size=(3, 5, 3)).astype(np.float32)
    on_device = networks.to("cuda")
    expected = on_device(x)
    out = np.empty((3, 5, 3), np.float32)
    assert on_device(x, out) is out
    np.testing.assert_array_equal(out, expected)
    y = gpu.to_device(x)
    assert on_device(y, out=y) is y
    np.testing.assert_array_equal(y.copy_to_host(), expected)


def test_a_population_says_what_does_not_fit(gpu):
    networks = population(np.float32)
    on_device = networks.to("cuda")
    with pytest.raises(nd.ShapeError, match=r"x has rows for 2 networks but the population has 3"):
        on_device(np.zeros((2, 5, 3)))
    with pytest.raises(nd.ShapeError, match="x has 4 features but the network expects 3"):
        on_device(np.zeros((5, 4)))
    with pytest.raises(nd.ShapeError, match="x has 1 dimension but a population takes 2"):
        on_device(np.zeros(3))
    with pytest.raises(nd.OutputError, match=r"out has shape \(3, 5, 3\) but the result has shape \(3, 5, 2\)"):
        on_device(np.zeros((5, 3)), np.zeros((3, 5, 3)))
    with pytest.raises(nd.DeviceError, match="device is 'cpu' but must be 'cuda'; the population itself"):
        networks.to("cpu")
    with pytest.raises(nd.ShapeError, match="are 3-17-2 but one launch takes widths from 1 to 16 in float32"):
        population(np.float32, widths=(3, 17, 2)).to("cuda")
    with pytest.raises(TypeError, match="a DevicePopulation cannot be pickled"):
        pickle.dumps(on_device)


@pytest.mark.parametrize("widest", [1, 16, 17, 100, 256])
def test_rows_choose_the_tile_but_not_the_bits(widest):
    tiles = tiles_of((9, 0), 4, widest)
    assert len({tile.width for tile in tiles}) == 1 and tiles[0].width >= widest
    many, few = choose(tiles, 2**20, 1, 132), choose(tiles, 1, 1, 132)
    assert many.outputs == tiles[0].outputs and few.rows < many.rows
    for m in (1, 2, 64, 1024, 2**20):
        assert cost(choose(tiles, m, 1, 132), m, 1, 132) == min(cost(tile, m, 1, 132) for tile in tiles)
    assert tiles_of((9, 0), 4, 257) == () == tiles_of((7, 5), 4, 8)
