import itertools

import numpy as np
import pytest
import strategies as draw
from numba import config, njit, prange

import numbadense as nd
from numbadense import activations
from numbadense.jit import forward


def network(dtype, widths=(6, 20, 3)):
    rng = np.random.default_rng(0)
    return nd.Sequential(
        [
            nd.Dense(draw.weights(rng, k, n, dtype), draw.numbers(rng, n, dtype), "tanh")
            for k, n in itertools.pairwise(widths)
        ]
    )


@njit
def rows_one_by_one(program, x, out, scratch):
    for i in range(x.shape[0]):
        forward(program, x[i : i + 1], out[i : i + 1], scratch)


@njit(parallel=True)
def rows_in_parallel(program, x, out, scratch):
    for i in prange(x.shape[0]):
        forward(program, x[i : i + 1], out[i : i + 1], scratch[i])


@pytest.mark.parametrize("dtype", draw.DTYPES)
def test_a_network_inside_njit_gives_the_bits_of_a_call(dtype):
    net = network(dtype)
    program, scratch = nd.jit.arguments(net)
    x = draw.numbers(np.random.default_rng(1), (50, 6), dtype)
    expected = net(x)
    out = np.empty_like(expected)
    rows_one_by_one(program, x, out, scratch)
    assert np.array_equal(out, expected)
    for rows in (1, 7, 50):
        out[:] = 0
        forward(program, x, out, np.empty(scratch.size * rows, dtype))
        assert np.array_equal(out, expected)
    out[:] = 0
    rows_in_parallel(program, x, out, np.empty((50, scratch.size), dtype))
    assert np.array_equal(out, expected)


@pytest.mark.skipif(config.DISABLE_JIT, reason="nothing is compiled at all")
def test_another_network_compiles_nothing():
    for widths in ((6, 20, 3), (6, 3), (6, 70, 40, 30, 3)):
        net = network(np.float64, widths)
        x = np.ones((4, 6))
        out = np.empty((4, 3))
        program, scratch = nd.jit.arguments(net)
        rows_one_by_one(program, x, out, scratch)
        assert np.array_equal(out, net(x))
    assert len([s for s in rows_one_by_one.signatures if s[1].dtype.name == "float64"]) == 1


def test_scratch_without_room_for_a_row_is_refused():
    program, scratch = nd.jit.arguments(network(np.float64))
    with pytest.raises(ValueError, match=r"^scratch is too small for one row: take it from numbadense\.jit\.arguments"):
        forward(program, np.ones((1, 6)), np.empty((1, 3)), scratch[:-2])


@pytest.mark.parametrize("name", sorted(set(activations.REGISTRY) - {"softmax", "log_softmax"}))
def test_an_activation_inside_njit_gives_the_bits_of_a_call(name):
    scalar = getattr(nd.jit, name)

    @njit
    def caller(x, out):
        for i in range(x.size):
            out[i] = scalar(x[i])

    for dtype in draw.DTYPES:
        x = np.linspace(-6, 6, 101).astype(dtype)
        out = np.empty_like(x)
        caller(x, out)
        assert np.array_equal(out, getattr(nd, name)(x))


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match=r"module 'numbadense\.jit' has no attribute 'sigmod'"):
        nd.jit.sigmod  # noqa: B018
