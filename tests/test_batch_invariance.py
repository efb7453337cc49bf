"""The bits of a row depend on that row and the weights alone."""

import itertools

import numpy as np
import pytest
import strategies as draw
from hypothesis import given
from hypothesis import strategies as st
from numba import config

import numbadense as nd
from numbadense import activations
from numbadense._engine import compile as compiler
from numbadense._engine import program as build
from numbadense._engine.cpu.forward import DEPTH

WIDTHS = (9, 33, 70, 5)


def network(dtype, activation, seed=0):
    rng = np.random.default_rng(seed)
    pairs = itertools.pairwise(WIDTHS)
    return nd.Sequential(
        [nd.Dense(draw.weights(rng, k, n, dtype), draw.numbers(rng, n, dtype), activation) for k, n in pairs]
    )


@pytest.mark.parametrize("activation", sorted(activations.REGISTRY))
@pytest.mark.parametrize("dtype", draw.DTYPES)
def test_a_row_is_the_same_in_every_company(activation, dtype):
    net = network(dtype, activation)
    m = 30 if config.DISABLE_JIT else 451
    x = draw.numbers(np.random.default_rng(1), (m, WIDTHS[0]), dtype)
    together = net(x)
    for i in {0, 1, 6, 7, 8, 15, 29, m // 2, m - 1}:
        assert np.array_equal(net(x[i]), together[i])
    assert np.array_equal(net.predict(x, batch_size=7), together)
    assert np.array_equal(net(x, threads=1), together)
    assert np.array_equal(net(x[::-1])[::-1], together)
    assert np.array_equal(net(x.T.copy().T), together)
    layer_by_layer = x
    for layer in net.layers:
        layer_by_layer = nd.dense(layer_by_layer, layer.w, layer.b, activation)
    assert np.array_equal(layer_by_layer, together)


@given(draw.seeds, draw.dtypes, st.sampled_from(["sigmoid", "gelu", "softmax"]), st.data())
def test_any_split_of_the_batch_gives_the_same_bits(seed, dtype, activation, data):
    net = network(dtype, activation)
    m = 12 if config.DISABLE_JIT else 250
    x = draw.numbers(np.random.default_rng(seed), (m, WIDTHS[0]), dtype)
    cuts = sorted(data.draw(st.lists(st.integers(0, m), max_size=4)))
    parts = [net(part) for part in np.split(x, cuts)]
    assert np.array_equal(np.concatenate(parts), net(x))


@pytest.mark.skipif(config.DISABLE_JIT, reason="there are no parallel kernels without the JIT")
@given(draw.seeds, draw.dtypes, st.integers(0, 400), st.integers(1, 3), st.sampled_from([1, 24, 48, 192]))
def test_the_parallel_kernel_and_its_serial_twin_give_the_same_bits(seed, dtype, m, threads, block):
    net = network(dtype, "sigmoid")
    program = net._program
    x = draw.numbers(np.random.default_rng(seed), (m, WIDTHS[0]), dtype)
    results = []
    for parallel in (False, True):
        y = np.full((m, WIDTHS[-1]), np.nan, dtype)
        half = block * program.width
        scratch = np.full(2 * half * threads, np.nan, dtype)
        compiler.forward(np.dtype(dtype), parallel)(program.address, x, y, scratch, block, half, threads)
        results.append(y)
    assert np.array_equal(*results)
    assert np.array_equal(results[0], net(x))


@pytest.mark.parametrize("k", [DEPTH - 1, DEPTH, DEPTH + 1, 2 * DEPTH + 3])
@pytest.mark.parametrize("dtype", draw.DTYPES)
def test_a_deep_layer_sums_in_order_across_its_blocks(k, dtype):
    rng = np.random.default_rng(k)
    n, m = (21, 35) if config.DISABLE_JIT else (150, 203)
    layer = nd.Dense(draw.weights(rng, k, n, dtype), draw.numbers(rng, n, dtype), "tanh")
    x = draw.numbers(rng, (m, k), dtype)
    together = layer(x)
    for i in (0, m // 2, m - 9, m - 1):
        assert np.array_equal(layer(x[i]), together[i])
    wide = np.full((m, n + 9), dtype(7), dtype)
    layer(x, out=wide[:, 4:-5])
    assert np.array_equal(wide[:, 4:-5], together) and (wide[:, :4] == 7).all() and (wide[:, -5:] == 7).all()
    assert np.array_equal(layer(x[:, ::-1][:, ::-1]), together)


@given(draw.seeds, draw.dtypes, st.integers(1, 20), st.integers(1, 5), st.sampled_from(["tanh", "softmax"]))
def test_threads_that_share_columns_give_the_same_bits(seed, dtype, m, threads, activation):
    net = network(dtype, activation)
    program = net._program
    x = draw.numbers(np.random.default_rng(seed), (m, WIDTHS[0]), dtype)
    half = m * program.width
    pieces = build.pieces(program, threads)
    for parallel in (False, True)[: 1 if config.DISABLE_JIT else 2]:
        y, scratch = np.full((m, WIDTHS[-1]), np.nan, dtype), np.full(2 * half, np.nan, dtype)
        kernel = compiler.columns(np.dtype(dtype), parallel)
        kernel(program.address, pieces.ctypes.data, x, y, scratch, half, threads)
        assert np.array_equal(y, net(x))


@pytest.mark.parametrize("name", sorted(activations.REGISTRY))
@pytest.mark.parametrize("dtype", draw.DTYPES)
def test_an_element_is_the_same_at_every_place(name, dtype):
    function = getattr(nd, name)
    values = draw.numbers(np.random.default_rng(0), 67 if config.DISABLE_JIT else 300_001, dtype) * dtype(4)
    if activations.get(name).rowwise:
        values = values[: len(values) // 3 * 3].reshape(-1, 3)
    together = function(values)
    assert np.array_equal(function(values, threads=1), together)
    for i in (0, 1, 15, 16, len(values) - 1):
        assert np.array_equal(function(values[i : i + 1])[0], together[i])
    in_place = values.copy()
    assert function(in_place, out=in_place) is in_place
    assert np.array_equal(in_place, together)
    out = np.empty_like(values)
    assert function(values[::-1], out=out[::-1]) is not out
    assert np.array_equal(out, together)


@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
@pytest.mark.parametrize("dtype", draw.DTYPES)
def test_a_row_of_any_length_is_the_same_among_others(name, dtype):
    function = getattr(nd, name)
    for n in (1, 2, 7, 8, 9, 16, 31, 33, 64, 65, 100, 511, 512, 513, 1024, 1025, 2500):
        m = 3 if config.DISABLE_JIT else max(5, 3000 // n)
        x = draw.numbers(np.random.default_rng(n), (m, n), dtype)
        together = function(x)
        for i in {0, 1, m // 2, m - 1}:
            assert np.array_equal(function(x[i]), together[i])
        assert np.array_equal(function(x, threads=2), together)
        around = np.empty(m * n + 1, dtype)
        assert np.array_equal(function(x, out=around[1:].reshape(m, n)), together)
        assert np.array_equal(function(x, out=x), together)
