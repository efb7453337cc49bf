"""The fused dense layer on the device, against the lesson's loops."""

import device_oracle
import numpy as np
import pytest

import numbadense as nd
from numbadense._engine.cuda import device
from numbadense._engine.cuda.tiles import choose, target
from numbadense.activations import REGISTRY

SHAPES = [(1, 1, 1), (6, 3, 8), (7, 4, 9), (5, 2, 7), (13, 7, 17), (1, 10, 5), (9, 1, 1), (3, 0, 4)]
LARGE = [(64, 16, 64), (65, 17, 63), (200, 300, 130), (1, 1000, 1)]


def operands(m, k, n, dtype, seed=0):
    rng = np.random.default_rng([m, k, n, seed])
    return tuple(rng.normal(size=shape).astype(dtype) for shape in ((m, k), (k, n), (n,)))


@pytest.mark.parametrize("shape", SHAPES + LARGE, ids=str)
def test_dense_is_within_the_bound_of_the_loops(gpu, launches, shape, dtype):
    if shape in LARGE and device.simulated():
        pytest.skip("too slow for the simulator")
    x, w, b = operands(*shape, dtype)
    y = nd.cuda.dense(x, w, b)
    assert type(y) is np.ndarray and y.dtype == dtype
    assert len(launches) == 1
    layers = [nd.Dense(w, b)]
    nd.testing.assert_forward_close(y, device_oracle.forward(x, layers), x, layers)


def test_a_small_product_spans_several_blocks_in_both_directions(gpu, launches, dtype):
    if not device.simulated():
        pytest.skip("blocks are tiny in the simulator only")
    nd.cuda.dense(*operands(13, 19, 17, dtype))
    tile = choose(target(None).dense[dtype.itemsize], 13, 17, 2)
    assert tile.rows < 13 and tile.columns < 17 and tile.depth < 19 and 19 % tile.depth
    assert launches == [(-(-13 // tile.rows) * -(-17 // tile.columns), tile.size)]


@pytest.mark.parametrize("name", REGISTRY)
def test_every_activation_is_an_epilogue(gpu, name, dtype):
    x, w, b = operands(7, 4, 9, dtype)
    layers = [nd.Dense(w, b, name)]
    nd.testing.assert_forward_close(nd.cuda.dense(x, w, b, name), device_oracle.forward(x, layers), x, layers)


def test_the_lesson(gpu):
    x, w, b = np.array([[200, 17]]), np.array([[1, -3, 5], [-2, 4, -6]]), np.array([[-1, 1, 2]])
    a = nd.cuda.dense(x, w, b, "sigmoid")
    np.testing.assert_array_equal((a >= 0.5).astype(int), [[1, 0, 1]])
    assert a.dtype == np.float64


def test_leading_axes_a_single_row_and_no_bias(gpu, rng):
    w = rng.normal(size=(3, 2))
    x = rng.normal(size=(2, 2, 3))
    np.testing.assert_allclose(nd.cuda.dense(x, w), x @ w, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(nd.cuda.dense(x[0, 0], w), x[0, 0] @ w, rtol=1e-12, atol=1e-12)
    assert nd.cuda.dense(np.zeros((0, 3)), w).shape == (0, 2)
    assert nd.cuda.dense(x, np.zeros((3, 0))).shape == (2, 2, 0)


def test_operands_of_any_layout_are_read_right(gpu, rng):
    x, w, b = rng.normal(size=(8, 6))[::-2, ::2], rng.normal(size=(4, 3)).T, rng.normal(size=8)[::2]
    expected = x @ w + b
    np.testing.assert_allclose(nd.cuda.dense(x, w, b), expected, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(
        nd.cuda.dense(x.astype(">f8"), np.asfortranarray(w), b[None]), expected, rtol=1e-12, atol=1e-12
    )


def test_device_operands_of_any_layout_are_read_right(gpu, foreign, rng):
    x, w, b = rng.normal(size=(8, 6)), rng.normal(size=(3, 8)), rng.normal(size=8)
    dx, dw, db = (gpu.to_device(array) for array in (x, w, b))
    y = nd.cuda.dense(dx[::2, ::2], dw[:, ::2], db[::2])
    assert type(y) is type(dx)
    np.testing.assert_allclose(y.copy_to_host(), x[::2, ::2] @ w[:, ::2] + b[::2], rtol=1e-12, atol=1e-12)
    y = nd.cuda.dense(foreign(x[:, :3]), foreign(w), foreign(b[None]))
    np.testing.assert_allclose(y.copy_to_host(), x[:, :3] @ w + b, rtol=1e-12, atol=1e-12)


def test_the_result_is_of_the_kind_of_x_wherever_the_weights_are(gpu, rng):
    x, w = rng.normal(size=(2, 3)), rng.normal(size=(3, 4))
    on_device = gpu.to_device(x)
    assert type(nd.cuda.dense(on_device, w)) is type(on_device)
    assert type(nd.cuda.dense(x, gpu.to_device(w))) is np.ndarray


def test_dtypes_promote_as_on_the_cpu(gpu, rng):
    x, w = rng.normal(size=(2, 3)), rng.normal(size=(3, 4))
    for given, computed in (("f4", "f4"), ("f8", "f8"), ("i4", "f8"), ("f2", "f4")):
        on_host = nd.cuda.dense(x.astype(given), w.astype("f4"))
        on_device = nd.cuda.dense(gpu.to_device(x.astype(given)), gpu.to_device(w.astype("f4")))
        assert on_host.dtype == on_device.dtype == computed
        np.testing.assert_array_equal(on_host, on_device.copy_to_host())


def test_out_may_overlap_the_operands_on_either_side(gpu, rng):
    w, b = rng.normal(size=(8, 8)), rng.normal(size=8)
    x = rng.normal(size=(9, 8))
    expected = x @ w + b
    on_device = gpu.to_device(x)
    assert nd.cuda.dense(on_device, w, b, out=on_device) is on_device
    np.testing.assert_allclose(on_device.copy_to_host(), expected, rtol=1e-12, atol=1e-12)
    weights = gpu.to_device(w)
    nd.cuda.dense(x[:8], weights, b, out=weights)
    np.testing.assert_allclose(weights.copy_to_host(), expected[:8], rtol=1e-12, atol=1e-12)
    assert nd.cuda.dense(x, w, b, out=x) is x
    np.testing.assert_allclose(x, expected, rtol=1e-12, atol=1e-12)


def test_out_may_be_strided_or_of_another_float(gpu, rng):
    x, w = rng.normal(size=(4, 3)), rng.normal(size=(3, 2))
    for out in (np.zeros((4, 4), np.float32)[:, ::2], gpu.to_device(np.zeros((4, 4), np.float32))[:, ::2]):
        assert nd.cuda.dense(x, w, out=out) is out
        got = out if isinstance(out, np.ndarray) else np.array([[out[i, j] for j in range(2)] for i in range(4)])
        np.testing.assert_allclose(got, x @ w, rtol=1e-6)


def test_a_nan_or_infinity_stays_in_its_row(gpu, dtype):
    x, w, b = operands(8, 5, 9, dtype)
    expected = nd.cuda.dense(x, w, b)
    x[3, 2], x[5, 4] = np.nan, np.inf
    y = nd.cuda.dense(x, w, b)
    assert np.isnan(y[3]).all() and np.isinf(y[5]).all()
    for i in (0, 1, 2, 4, 6, 7):
        np.testing.assert_array_equal(y[i], expected[i])


def test_the_bits_of_a_row_do_not_depend_on_the_batch(gpu, dtype):
    x, w, b = operands(9, 7, 10, dtype)
    whole = nd.cuda.dense(x, w, b, "sigmoid")
    for i in (0, 4, 8):
        np.testing.assert_array_equal(nd.cuda.dense(x[i], w, b, "sigmoid"), whole[i])
