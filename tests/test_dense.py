import functools
import warnings

import naive
import numpy as np
import pytest
import strategies as draw
from hypothesis import example, given
from hypothesis import strategies as st
from numba import config

import numbadense as nd
from numbadense import activations
from numbadense._engine import machine, run

FUSES = config.DISABLE_JIT or machine.host().isa != "generic"  # whether a product and a sum are rounded once, together
elementwise = st.sampled_from(sorted(naive.ACTIVATIONS))


def test_the_lesson_of_three_neurons():
    a = nd.dense([[200, 17]], [[1, -3, 5], [-2, 4, -6]], [[-1, 1, 2]], activation="sigmoid")
    assert (a >= 0.5).astype(int).tolist() == [[1, 0, 1]]
    assert a.dtype == np.float64


@given(draw.rows, draw.inputs, draw.outputs, draw.dtypes, elementwise, st.booleans(), draw.seeds)
@example(9, 1, 64, np.float32, "sigmoid", True, 0)
@example(1, 31, 200, np.float64, "gelu", False, 0)
def test_dense_is_within_its_error_bound_of_the_loop(m, k, n, dtype, activation, with_bias, seed):
    rng = np.random.default_rng(seed)
    x, w = draw.numbers(rng, (m, k), dtype), draw.weights(rng, k, n, dtype)
    b = draw.numbers(rng, n, dtype) if with_bias else None
    layer = nd.Dense(w, b, activation)
    expected = naive.forward(x, [(w, np.zeros(n) if b is None else b, activation)])
    actual = nd.dense(x, w, b, activation)
    assert actual.dtype == dtype and actual.shape == (m, n)
    nd.testing.assert_forward_close(actual, expected, x, [layer])
    assert np.array_equal(layer(x), actual)


@given(
    draw.layouts,
    draw.layouts,
    draw.layouts,
    draw.out_layouts,
    draw.dtypes,
    st.sampled_from([1, 2, 5, 9, 60]),
    draw.seeds,
)
def test_layouts_do_not_change_a_bit(x_layout, w_layout, b_layout, out_layout, dtype, m, seed):
    rng = np.random.default_rng(seed)
    x, w, b = draw.numbers(rng, (m, 6), dtype), draw.weights(rng, 6, 37, dtype), draw.numbers(rng, 37, dtype)
    arranged = x_layout(x), w_layout(w), b_layout(b)
    plain = nd.dense(*(np.array(a, dtype, order="C", subok=False) for a in arranged), "tanh")
    assert np.array_equal(nd.dense(*arranged, "tanh"), plain)
    assert np.array_equal(nd.Sequential([nd.Dense(*arranged[1:], "tanh")])(arranged[0]), plain)
    out = out_layout(np.full((m, 37), np.nan, dtype))
    assert nd.dense(*arranged, "tanh", out=out) is out
    assert np.array_equal(out, plain)


@given(draw.rows_around_packing, draw.inputs, draw.outputs, draw.dtypes, st.booleans(), draw.grains, draw.seeds)
@example(9, 5, 13, np.float64, False, [("x", 293, 9), ("x", 335, 2)], 1)  # a product that overflows beside -inf
def test_products_are_summed_in_order_whatever_the_values(m, k, n, dtype, with_bias, grains, seed):
    rng = np.random.default_rng(seed)
    x, w = draw.numbers(rng, (m, k), dtype), draw.weights(rng, k, n, dtype)
    b = draw.numbers(rng, n, dtype)
    draw.salted(grains, x=x, w=w, b=b)
    some = sorted({0, m // 2, m - 1})
    expected = [naive.fused(x[i], w, b if with_bias else None, dtype) for i in some]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", nd.NonFiniteWarning)
        layer = nd.Dense(w, b if with_bias else None)
    for actual in (layer(x)[some], nd.dense(x, w, b if with_bias else None)[some]):
        if dtype is np.float32 and FUSES:
            assert np.array_equal(actual, expected, equal_nan=True)
        else:
            with np.errstate(all="ignore"):
                scale = np.abs(x[some].astype(naive.LONG)) @ np.abs(w.astype(naive.LONG)) + np.abs(b.astype(naive.LONG))
                tame = scale < np.finfo(dtype).max / 2
                error = np.abs(np.subtract(actual, expected, dtype=naive.LONG))
                assert (error <= (2 * k + 2) * np.finfo(dtype).eps * scale)[tame].all()
            if FUSES:
                assert np.array_equal(np.isnan(actual), np.isnan(expected))


def test_a_strided_out_is_written_nowhere_else():
    wide = np.full((6, 90), 7.0)
    x, w = np.ones((4, 3)), np.ones((3, 40))
    nd.dense(x, w, None, "exp", out=wide[1:5, 10:50])
    assert (wide[1:5, 10:50] == np.exp(3)).all() or np.allclose(wide[1:5, 10:50], np.exp(3), rtol=1e-15)
    wide[1:5, 10:50] = 7
    assert (wide == 7).all()


@pytest.mark.parametrize("m", [1, 3, 47, 48, 49, 130])
@pytest.mark.parametrize("n", [1, 15, 16, 17, 64, 257, 300])
@pytest.mark.parametrize("dtype", draw.DTYPES)
def test_packed_and_unpacked_weights_give_the_same_bits(m, n, dtype):
    rng = np.random.default_rng(m * 1000 + n)
    k = 3 if draw.LARGEST < 100 else 19
    x, w, b = draw.numbers(rng, (m, k), dtype), draw.weights(rng, k, n, dtype), draw.numbers(rng, n, dtype)
    packed = nd.Dense(w, b, "sigmoid")(x)
    assert np.array_equal(nd.dense(x, w, b, "sigmoid"), packed)
    for i in {0, m // 2, m - 1}:
        assert np.array_equal(nd.dense(x[i], w, b, "sigmoid"), packed[i])
    assert run.PACK_FROM_ROWS == 48  # the sizes above lie on both sides of it


@pytest.mark.parametrize("shape", [(6,), (1, 6), (2, 3, 6), (2, 0, 6), (0, 6), (1, 1, 1, 6)])
def test_leading_axes_are_kept(shape):
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal(shape), rng.standard_normal((6, 5))
    y = nd.dense(x, w)
    assert y.shape == (*shape[:-1], 5)
    assert np.allclose(y, x @ w, rtol=1e-13, atol=1e-13)
    out = np.empty(y.shape)
    assert nd.dense(x, w, out=out) is out and np.array_equal(out, y)


@pytest.mark.parametrize("k,n", [(0, 1), (0, 5), (0, 300), (5, 0), (5, 17), (5, 300), (0, 0)])
@pytest.mark.parametrize("m", [0, 1, 2, 60])
def test_empty_axes(m, k, n):
    y = nd.dense(np.ones((m, k)), np.ones((k, n)), np.full(n, 3.0), "relu")
    assert y.shape == (m, n) and (y == 3 + k).all()
    assert np.array_equal(nd.Dense(np.ones((k, n)), np.full(n, 3.0), "relu")(np.ones((m, k))), y)


@pytest.mark.parametrize(
    "x,w,b,expected",
    [
        ("f4", "f4", "f4", "f4"),
        ("f4", "f8", None, "f8"),
        ("f8", "f4", None, "f8"),
        ("f4", "f4", "f8", "f8"),
        ("i8", "f4", None, "f8"),
        ("i4", "i4", None, "f8"),
        ("?", "f4", None, "f4"),
        ("i2", "f4", None, "f4"),
        ("f2", "f2", None, "f4"),
        ("f2", "f8", None, "f8"),
        (">f4", "<f4", None, "f4"),
    ],
)
def test_dtypes_promote_as_in_numpy(x, w, b, expected):
    y = nd.dense(np.ones((2, 3), x), np.ones((3, 4), w), None if b is None else np.ones(4, b))
    assert y.dtype == np.dtype(expected) and (y == 3 + (b is not None)).all()


def test_out_may_overlap_the_operands():
    rng = np.random.default_rng(0)
    for m in (1, 5, 70):
        x, w, b = rng.standard_normal((m, 9)), rng.standard_normal((9, 9)), rng.standard_normal(9)
        expected = nd.dense(x, w, b, "tanh")
        same = x.copy()
        assert nd.dense(same, w, b, "tanh", out=same) is same and np.array_equal(same, expected)
        shifted = np.empty((m + 1, 9))
        shifted[:m] = x
        nd.dense(shifted[:m], w, b, "tanh", out=shifted[1:])
        assert np.array_equal(shifted[1:], expected)
        reverse = x.copy()
        nd.dense(reverse, w, b, "tanh", out=reverse[::-1])
        assert np.array_equal(reverse[::-1], expected)
    x, w = rng.standard_normal((9, 9)), rng.standard_normal((9, 9))
    expected = nd.dense(x, w)
    assert np.array_equal(nd.dense(x, w, out=w), expected)


def test_a_wider_out_takes_the_result_cast():
    out = np.empty((2, 4))
    x, w = np.ones((2, 3), np.float32) / 3, np.ones((3, 4), np.float32)
    nd.dense(x, w, out=out)
    assert np.array_equal(out, nd.dense(x, w).astype(float))


@pytest.mark.parametrize("dtype", draw.DTYPES)
@pytest.mark.parametrize("name", sorted(set(activations.REGISTRY) - {"softmax", "log_softmax"}))
def test_special_values_go_through_as_through_numpy(name, dtype):
    values = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, np.finfo(dtype).tiny / 4, np.finfo(dtype).max], dtype)
    x = np.tile(values[:, None], (10, 1))
    w = np.array([[1, 0, -1] * 12], dtype)
    with np.errstate(all="ignore"):
        z = x @ w
        expected = np.array([activations.get(name).function(value) for value in z.flat], dtype).reshape(z.shape)
    y = nd.dense(x, w, None, name)
    assert np.array_equal(np.isnan(y), np.isnan(expected))
    assert np.array_equal(np.isinf(y), np.isinf(expected))
    assert np.array_equal(np.signbit(y[np.isinf(y)]), np.signbit(expected[np.isinf(y)]))


def test_what_was_passed_before_does_not_matter():
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal((5, 6)), rng.standard_normal((6, 37))
    expected = nd.dense(x, w)
    calls = [functools.partial(nd.dense, a(x), b(w)) for a in draw.KEEPING_VALUES for b in draw.KEEPING_VALUES]
    for index in rng.permutation(len(calls)):
        assert np.array_equal(calls[index](), expected)
