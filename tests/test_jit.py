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


@pytest.mark.parametrize("dtype", draw.DTYPES)
def test_the_short_way_is_taken_by_plain_arrays_alone(dtype):
    net = network(dtype)
    x = draw.numbers(np.random.default_rng(1), (5, 6), dtype)
    expected = net(x)
    for m, rows in ((5, slice(None)), (1, slice(2, 3)), (None, 2), (0, slice(0))):
        out = np.full(expected[rows].shape, np.nan, dtype)
        assert net._direct(net._address, x[rows].copy(), out) == 1, m
        assert np.array_equal(out, expected[rows])

    other = np.float32 if dtype is np.float64 else np.float64
    out = np.full((5, 3), 7, dtype)
    wide = np.full((5, 30), 7, dtype)
    frozen = np.full((5, 3), 7, dtype)
    frozen.flags.writeable = False
    memory = np.zeros(60, dtype)
    overlapping = memory[:30].reshape(5, 6), memory[29:44].reshape(5, 3)
    refused = [
        ([[1.0] * 6] * 5, out), (x, None), (x, 7), (None, out), (x, [out]), (x.astype(other), out),
        (x, np.full((5, 3), 7, other)), (x.astype(x.dtype.newbyteorder()), out), (x[:, :5].copy(), out),
        (x, np.full((4, 3), 7, dtype)), (x, np.full((5, 4), 7, dtype)), (np.asfortranarray(x), out), (x[::2], out[::2]),
        (x, wide[:, :3]), (x, frozen), (x[None], out[None]), (x[0, 0], out), (np.asmatrix(x), out), overlapping,
        (np.ma.masked_array(x), out), (draw.unaligned(x), out), (x, draw.unaligned(out)), (draw.annotated(x), out),
    ]  # fmt: skip
    for a, y in refused:
        assert net._direct(net._address, a, y) == 0, (type(a), type(y))
    assert (out == 7).all() and (wide == 7).all() and (frozen == 7).all() and not memory.any()


def test_the_short_way_of_an_activation_is_taken_by_plain_arrays_alone():
    from numbadense._engine import run

    direct, code, call = run.bind_activation(activations.get("softplus"))
    row_direct, row_code, row_call = run.bind_activation(activations.get("softmax"))
    for dtype in draw.DTYPES:
        x = draw.numbers(np.random.default_rng(1), (4, 3, 5), dtype)
        assert direct(code, x, np.empty_like(x)) == 0  # not compiled yet
        expected, row_expected = call(x, None, None), row_call(x, None, None)
        for part in (slice(None), 2, (1, 1)):
            y = np.full(x[part].shape, np.nan, dtype)
            assert direct(code, x[part].copy(), y) == 1 and np.array_equal(y, expected[part])
            assert row_direct(row_code, x[part].copy(), y) == 1 and np.array_equal(y, row_expected[part])
        same = x.copy()
        assert direct(code, same, same) == 1 and np.array_equal(same, expected)
        y = np.full_like(x, 7)
        memory = np.zeros(30, dtype)
        frozen = np.full_like(x, 7)
        frozen.flags.writeable = False
        empty = np.empty((3, 0), dtype)
        refused = [
            (x, None), (list(x), y), (x, y[:3]), (x, y.astype(np.float16)), (x[::2], y[::2]), (x, frozen),
            (x[0, 0, 0], y), (memory[:20], memory[10:]), (x.reshape(12, 5), y), (x.reshape(4, 5, 3), y), (empty, empty),
            (np.array(1, dtype), np.array(1, dtype)), (np.zeros(200_000, dtype), np.empty(200_000, dtype)),
            (x.astype(x.dtype.newbyteorder()), y), (x.astype(int), y.astype(int)),
        ]  # fmt: skip
        for a, target in refused:
            assert direct(code, a, target) == 0
        assert (y == 7).all() and (frozen == 7).all() and not memory.any()
