"""Derivatives: of every activation against mpmath, of networks against the chain rule and PyTorch's."""

import itertools
import pickle

import numba
import numpy as np
import pytest
import strategies as draw
from hypothesis import given
from hypothesis import strategies as st

import numbadense as nd
from numbadense._engine import plan, run, slopes
from numbadense.activations import REGISTRY, get
from numbadense.errors import ActivationError, DTypeError, OptionError, OutputError, ShapeError
from numbadense.scalar_math import exp, log1p

mpmath = pytest.importorskip("mpmath")

from test_activations import FMA, PLAIN_MORE, PLAIN_ULP, sample, ulp_error  # noqa: E402

JIT = not numba.config.DISABLE_JIT
ELEMENTWISE = [name for name, entry in REGISTRY.items() if not entry.rowwise]
ROWWISE = [name for name, entry in REGISTRY.items() if entry.rowwise]
MEMBERS = [
    *("leaky_relu(0.2)", "elu(1.5)", "celu(2.0)", "clip(0, 6)", "threshold(0.5, 0)", "shrink(0.5, 0)"),
    *("shrink(0.5, 0.5)", "bounded_relu(0.25, 0, 6)", "hard_sigmoid(0.2, 0.5)"),
]
# All derivatives are within so many units in the last place; those of gated units, between -3 and 0, where they have a
# zero, within so many of 1/8.
DERIVATIVE_ULP = 6.5
GATED = ("silu", "gelu", "gelu_tanh", "mish", "hard_swish")


def logistic(m, x):
    return 1 / (1 + m.exp(-x))


def _gelu_tanh(m, x):
    u, du = 2 * m.sqrt(2 / m.pi) * (x + x**3 * m.mpf(44715) / 10**6), 1 + 3 * x**2 * m.mpf(44715) / 10**6
    s, t = logistic(m, u), logistic(m, -u)
    return s + x * s * t * 2 * m.sqrt(2 / m.pi) * du


def _mish(m, x):
    s = m.log1p(m.exp(x))
    return m.tanh(s) + x * m.sech(s) ** 2 * logistic(m, x)


def selu_scales(m):
    return (REGISTRY["selu"].exact(m, m.mpf(1)), REGISTRY["selu"].exact(m, -m.mpf(1)) / m.expm1(-1))


EXACT = {
    "identity": lambda m, x: 1,
    "sigmoid": lambda m, x: logistic(m, x) * logistic(m, -x),
    "relu": lambda m, x: int(x > 0),
    "tanh": lambda m, x: m.sech(x) ** 2,
    "leaky_relu": lambda m, x: 1 if x > 0 else m.mpf(1) / 100,
    "elu": lambda m, x: 1 if x > 0 else m.exp(x),
    "selu": lambda m, x: selu_scales(m)[0] if x > 0 else selu_scales(m)[1] * m.exp(x),
    "silu": lambda m, x: logistic(m, x) * (1 + x * logistic(m, -x)),
    "gelu": lambda m, x: m.erfc(-x / m.sqrt(2)) / 2 + x * m.exp(-x * x / 2) / m.sqrt(2 * m.pi),
    "gelu_tanh": _gelu_tanh,
    "softplus": logistic,
    "softsign": lambda m, x: 1 / (1 + abs(x)) ** 2,
    "exp": lambda m, x: m.exp(x),
    "hard_sigmoid": lambda m, x: m.mpf(1) / 6 if abs(x) < 3 else 0,
    "hard_swish": lambda m, x: 0 if x < -3 else (1 if x > 3 else (2 * x + 3) / m.mpf(6)),
    "mish": _mish,
}
EXACT |= {f"{name}_high": EXACT[name] for name in ("sigmoid", "tanh")}


def derivative(name, x):
    """Return the derivative of an activation at the elements of x, by its compiled pass."""
    return run._activate(slopes.derivative(get(name)), x, None, None)


@pytest.mark.parametrize("dtype", draw.DTYPES)
@pytest.mark.parametrize("name", ELEMENTWISE)
def test_derivatives_are_within_a_few_units_in_the_last_place(name, dtype):
    x = sample(dtype, 120)
    x = x[~((abs(x) == 3) & (name == "hard_swish"))]  # where the one side and the other disagree
    bound = DERIVATIVE_ULP if FMA else PLAIN_ULP.get((name, dtype.__name__), DERIVATIVE_ULP + PLAIN_MORE)
    with mpmath.workprec(140):
        for got, at in zip(derivative(name, x).tolist(), x.tolist(), strict=True):
            exact = mpmath.mpf(EXACT[name](mpmath.mp, mpmath.mpf(at)))
            error = ulp_error(got, exact, dtype)
            if name in GATED and -3 < at < 0 and abs(exact) < 1 / 8:
                error *= max(float(abs(exact)), float(np.finfo(dtype).tiny)) * 8
            assert error <= bound, f"{name}'({at!r}) is {got!r}, {error:.2f} ULP off"


@pytest.mark.parametrize("name", [*ELEMENTWISE, *MEMBERS])
def test_derivatives_are_those_of_the_exact_formulas(name):
    x = np.array([-4.2, -1.7, -0.3, 0.4, 1.1, 2.9, 7.5])
    with mpmath.workprec(200):
        exact = [float(mpmath.diff(lambda t: get(name).exact(mpmath.mp, t), at)) for at in map(mpmath.mpf, x.tolist())]
    np.testing.assert_allclose(derivative(name, x), exact, rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("dtype", draw.DTYPES)
@pytest.mark.parametrize("name", [*ELEMENTWISE, *MEMBERS])
def test_nan_has_no_derivative_and_infinity_has_one(name, dtype):
    found = derivative(name, np.array([np.nan, -np.inf, np.inf] * 11, dtype))
    assert found.dtype == dtype
    assert np.isnan(found[::3]).all()
    assert not np.isnan(found[1::3]).any() and not np.isnan(found[2::3]).any()
    assert np.isfinite(found[1::3]).all() and (np.isfinite(found[2::3]).all() or name == "exp")


@pytest.mark.parametrize("name", ROWWISE)
@pytest.mark.parametrize("size", [1, 2, 5, 33])
def test_differentials_of_rows_are_those_of_the_exact_formulas(name, size):
    rng = np.random.default_rng(size)
    z, dz = 3 * rng.standard_normal(size), rng.standard_normal(size)
    net = nd.Sequential([nd.Dense(np.eye(size), None, name)])
    _, got = net.jvp(z, dz)
    with mpmath.workprec(140):
        exact = get(name).exact
        h = mpmath.mpf(2) ** -40
        at = [[mpmath.mpf(a) + sign * h * mpmath.mpf(b) for a, b in zip(z, dz, strict=True)] for sign in (1, -1)]
        above, below = (exact(mpmath.mp, row) for row in at)
        expected = [float((a - b) / (2 * h)) for a, b in zip(above, below, strict=True)]
    np.testing.assert_allclose(got, expected, rtol=1e-11, atol=1e-14)


def network(widths, dtype=np.float64, activations=("tanh", "silu"), last=None, seed=0):
    """Return a network with the activations in turn, and what `last` says at its end."""
    rng = np.random.default_rng(seed)
    pairs = list(itertools.pairwise(widths))
    layers = []
    for index, (k, n) in enumerate(pairs):
        name = last if index == len(pairs) - 1 else activations[index % len(activations)]
        layers.append(nd.Dense(draw.weights(rng, k, n, dtype), draw.numbers(rng, n, dtype), name))
    return nd.Sequential(layers)


def chain_rule(net, x, v):
    """Return what tangents v, ``(m, t, n_in)``, of rows x become, in extended precision, slopes but for rounding."""
    a, d = np.asarray(x, np.longdouble), np.asarray(v, np.longdouble)
    for layer in net.layers:
        w = layer.w.astype(np.longdouble)
        z, d = a @ w + (0 if layer.b is None else layer.b), d @ w
        entry = layer.activation
        with np.errstate(all="ignore"):
            if entry.rowwise:
                a = z.astype(float)
                for y, dy in zip(a, d, strict=True):
                    entry.function(y)
                    for row in dy:
                        entry.derivative(y, row)
                a = a.astype(np.longdouble)
            else:
                s = np.array([entry.derivative(value) for value in z.astype(float).flat]).reshape(z.shape)
                a = np.array([entry.function(value) for value in z.astype(float).flat]).reshape(z.shape)
                a, d = a.astype(np.longdouble), d * s[:, None]
    return d


def close(got, expected, dtype=np.float64):
    """Assert that derivatives are close, relative to the largest of them."""
    assert got.shape == expected.shape and got.dtype == dtype
    if expected.size:
        tolerance = (2e-12 if dtype == np.float64 else 2e-4) * max(1e-3, float(abs(expected).max()))
        np.testing.assert_allclose(got, np.asarray(expected, float), rtol=0, atol=tolerance)


EVERY = [*REGISTRY, *MEMBERS]


@pytest.mark.parametrize("dtype", draw.DTYPES)
@pytest.mark.parametrize("name", EVERY)
def test_every_activation_anywhere_in_a_network(name, dtype):
    rng = np.random.default_rng(1)
    for widths in ((5, 7, 3), (3, 9, 6)):  # a Jacobian forward, and backward
        net = network(widths, dtype, (name,), last=name)
        x, v = draw.numbers(rng, (4, widths[0]), dtype), draw.numbers(rng, (4, 2, widths[0]), dtype)
        y, dy = net.jvp(x, v)
        assert np.array_equal(y, net(x))
        close(dy, chain_rule(net, x, v), dtype)
        jac = net.jacobian(x)
        unit = np.broadcast_to(np.eye(widths[0]), (4, widths[0], widths[0]))
        close(jac, chain_rule(net, x, unit).transpose(0, 2, 1), dtype)


def test_derivatives_and_kinks_are_those_of_pytorch():
    torch = pytest.importorskip("torch")
    f = torch.nn.functional
    same = {
        "identity": lambda z: z, "sigmoid": torch.sigmoid, "sigmoid_high": torch.sigmoid, "relu": torch.relu,
        "tanh": torch.tanh, "tanh_high": torch.tanh, "leaky_relu": f.leaky_relu, "elu": f.elu, "selu": f.selu,
        "silu": f.silu, "gelu": f.gelu, "gelu_tanh": lambda z: f.gelu(z, approximate="tanh"), "softsign": f.softsign,
        "softplus": lambda z: f.softplus(z, threshold=1000), "exp": torch.exp, "hard_sigmoid": f.hardsigmoid,
        "hard_swish": f.hardswish, "mish": f.mish, "softmax": lambda z: f.softmax(z, -1),
        "log_softmax": lambda z: f.log_softmax(z, -1), "leaky_relu(0.2)": lambda z: f.leaky_relu(z, 0.2),
        "elu(1.5)": lambda z: f.elu(z, 1.5), "celu(2.0)": lambda z: f.celu(z, 2.0), "clip(0, 6)": f.relu6,
        "clip(-1, 1)": f.hardtanh, "threshold(0.5, 0)": lambda z: f.threshold(z, 0.5, 0.0),
        "shrink(0.5, 0)": f.hardshrink, "shrink(0.5, 0.5)": f.softshrink,
    }  # fmt: skip
    built_in = {name for name, entry in REGISTRY.items() if entry.function.__module__ == "numbadense.activations"}
    assert built_in <= set(same), "PyTorch has all of them"
    for name, peer in same.items():
        rtol = 1e-7 if name == "hard_sigmoid" else 1e-12  # whose slope PyTorch rounds to float32
        if name not in ROWWISE:
            x = np.concatenate([np.arange(-48, 49) / 8, [20.0, -20.0, 0.0, -0.0]])
            z = torch.tensor(x, requires_grad=True)
            peer(z).sum().backward()
            np.testing.assert_allclose(derivative(name, x), z.grad.numpy(), rtol=rtol, atol=1e-14, err_msg=name)
        net = network((6, 9, 5), np.float64, (name,), last=name)
        layers = [(torch.tensor(layer.w), torch.tensor(layer.b)) for layer in net.layers]

        def forward(a, layers=layers, peer=peer):
            for w, b in layers:
                a = peer(a @ w + b)
            return a

        rows = draw.numbers(np.random.default_rng(2), (3, 6), np.float64)
        expected = torch.stack([torch.autograd.functional.jacobian(forward, torch.tensor(row)) for row in rows])
        np.testing.assert_allclose(net.jacobian(rows), expected.numpy(), rtol=100 * rtol, atol=1e-13, err_msg=name)


widths = st.lists(st.sampled_from([1, 2, 3, 5, 8, 17, 33]), min_size=2, max_size=5)
counts = st.integers(0, 12) if not JIT else st.sampled_from([0, 1, 2, 3, 7, 47, 48, 49, 97, 130])


@given(widths=widths, m=counts, each=st.integers(0, 5), dtype=draw.dtypes, seed=draw.seeds, layout=draw.layouts)
def test_networks_of_any_shape_and_rows_in_any_layout(widths, m, each, dtype, seed, layout):
    rng = np.random.default_rng(seed)
    net = network(widths, dtype, seed=seed)
    x = layout(draw.numbers(rng, (m, widths[0]), dtype))
    v = layout(draw.numbers(rng, (m, each, widths[0]), dtype))
    y, dy = net.jvp(x, v)
    assert np.array_equal(y, net(x))
    close(dy, chain_rule(net, x, v), dtype)
    unit = np.broadcast_to(np.eye(widths[0]), (m, widths[0], widths[0]))
    jac = net.jacobian(x)
    close(jac, chain_rule(net, x, unit).transpose(0, 2, 1), dtype)


@given(m=counts, widths=widths, dtype=draw.dtypes, seed=draw.seeds, layout=draw.out_layouts)
def test_results_go_to_outputs_in_any_layout(m, widths, dtype, seed, layout):
    rng = np.random.default_rng(seed)
    net = network(widths, dtype, seed=seed)
    x, v = draw.numbers(rng, (m, widths[0]), dtype), draw.numbers(rng, (m, widths[0]), dtype)
    y, dy = net.jvp(x, v)
    outs = [layout(np.full((m, widths[-1]), 7, dtype)) for _ in range(2)]
    found = net.jvp(x, v, out=tuple(outs))
    assert found[0] is outs[0] and found[1] is outs[1]
    assert np.array_equal(outs[0], y) and np.array_equal(outs[1], dy)
    jac = layout(np.full((m, widths[-1], widths[0]), 7, dtype))
    assert net.jacobian(x, out=jac) is jac
    assert np.array_equal(jac, net.jacobian(x))


@pytest.mark.parametrize("dtype", draw.DTYPES)
def test_leading_axes_stay(dtype):
    net = network((4, 6, 3), dtype)
    x = draw.numbers(np.random.default_rng(0), (2, 3, 4), dtype)
    y, dy = net.jvp(x, x)
    assert y.shape == dy.shape == (2, 3, 3)
    several = net.jvp(x, np.stack([x, 2 * x], axis=-2))[1]
    assert several.shape == (2, 3, 2, 3)
    assert np.array_equal(several[..., 0, :], dy) and np.array_equal(several[..., 1, :], 2 * dy)
    jac = net.jacobian(x)
    assert jac.shape == (2, 3, 3, 4)
    for i, j in np.ndindex(2, 3):
        assert np.array_equal(net.jacobian(x[i, j]), jac[i, j])
        one = net.jvp(x[i, j], x[i, j])
        assert np.array_equal(one[0], y[i, j]) and np.array_equal(one[1], dy[i, j])


def test_what_is_empty_stays_empty():
    for widths in ((3, 0), (0, 3), (0, 0), (3, 0, 2), (0, 4, 2), (2, 4, 0)):
        net = network(widths)
        for m in (0, 1, 5):
            x = np.ones((m, widths[0]))
            y, dy = net.jvp(x, x)
            assert np.array_equal(y, net(x)) and dy.shape == (m, widths[-1])
            jac = net.jacobian(x)
            assert jac.shape == (m, widths[-1], widths[0])
            assert not (dy.any() or jac.any()) or min(widths) > 0 or 0 not in widths[1:-1]
            y, dy = net.jvp(x, np.ones((m, 0, widths[0])))
            assert np.array_equal(y, net(x)) and dy.shape == (m, 0, widths[-1])


@pytest.mark.parametrize("dtype", draw.DTYPES)
def test_the_bits_depend_on_the_row_and_the_tangent_alone(dtype):
    for widths in ((7, 20, 5), (20, 18, 3)):
        net = network(widths, dtype)
        rng = np.random.default_rng(3)
        m = 60 if JIT else 7
        x, v = draw.numbers(rng, (m, widths[0]), dtype), draw.numbers(rng, (m, 4, widths[0]), dtype)
        y, dy = net.jvp(x, v)
        jac = net.jacobian(x)
        for i in (0, 3, m - 1):
            for some in (slice(i, i + 1), slice(i, i + 2)):
                assert np.array_equal(net.jvp(x[some], v[some])[1], dy[some])
                assert np.array_equal(net.jacobian(x[some]), jac[some])
            for t in range(4):
                one = net.jvp(x[i], v[i, t])
                assert np.array_equal(one[0], y[i]) and np.array_equal(one[1], dy[i, t])


def test_wide_and_deep_layers():
    k = 2500 if JIT else 40
    for widths in ((k, 40, 3), (3, 40, k), (k, 30, 30)):
        net = network(widths)
        x = draw.numbers(np.random.default_rng(4), (2, widths[0]), np.float64)
        jac = net.jacobian(x)
        y, dy = net.jvp(x, x)
        assert np.array_equal(y, net(x))
        close(dy, chain_rule(net, x, x[:, None])[:, 0])
        close(np.einsum("mji,mi->mj", jac, x), chain_rule(net, x, x[:, None])[:, 0])
    net, rows = network((k, 70, 4)), 60 if JIT else 3
    x = draw.numbers(np.random.default_rng(4), (rows, k), np.float64)
    close(net.jvp(x, x)[1], chain_rule(net, x, x[:, None])[:, 0])


def test_tangents_that_do_not_fit_into_scratch_go_one_group_after_the_other():
    k = 300 if JIT else 200
    net = network((k, 40, 40, 70))
    x = draw.numbers(np.random.default_rng(5), (3, k), np.float64)
    unit = np.broadcast_to(np.eye(k), (3, k, k))
    expected = chain_rule(net, x, unit)
    close(net.jvp(x, unit)[1], expected)
    close(net.jacobian(x), expected.transpose(0, 2, 1))
    of = net._forward_derivatives
    todo = plan.derivatives(of.program.shapes, of.width, of.slopes, 8, 3, k, 1, "omp")
    assert todo.block == 1 and todo.half < k


@pytest.mark.skipif(not JIT, reason="without the JIT there is one thread")
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_threads_change_nothing(threads):
    for widths in ((40, 64, 50), (64, 64, 3)):
        net = network(widths)
        x = draw.numbers(np.random.default_rng(6), (301, widths[0]), np.float64)
        one, many = net.jvp(x, x, threads=1), net.jvp(x, x, threads=threads)
        assert np.array_equal(one[0], many[0]) and np.array_equal(one[1], many[1])
        assert np.array_equal(net.jacobian(x, threads=1), net.jacobian(x, threads=threads))


def test_few_rows_are_not_shared_and_many_are():
    shapes = ((64, 64), (64, 64))
    assert plan.derivatives(shapes, 64, 128, 4, 3, 1, 2, "omp").threads == 1
    todo = plan.derivatives(shapes, 64, 128, 4, 1000, 1, 2, "omp")
    assert todo.threads == 2 and todo.block <= 48 and todo.scratch == 2 * todo.block * (4 * 64 + 128)
    assert plan.derivatives(shapes, 64, 128, 4, 1, 1000, 2, "omp").threads == 1, "a row is not shared"
    assert plan.derivatives(shapes, 64, 128, 4, 0, 1, 2, "omp").threads == 1


@pytest.mark.parametrize("kind", ["float16", "bfloat16"])
def test_weights_at_half_size_have_the_derivatives_of_the_rounded_weights(kind):
    for widths in ((9, 33, 6), (33, 20, 2)):
        net = network(widths, np.float32).astype(kind)
        plain = nd.Sequential([nd.Dense(layer.w, layer.b, layer.activation) for layer in net.layers])
        x = draw.numbers(np.random.default_rng(7), (5, widths[0]), np.float32)
        for got, expected in zip(net.jvp(x, x), plain.jvp(x, x), strict=True):
            assert np.array_equal(got, expected)
        assert np.array_equal(net.jacobian(x), plain.jacobian(x))


def test_outputs_may_overlap_inputs():
    net = network((4, 6, 4))
    x, v = (draw.numbers(np.random.default_rng(seed), (5, 4), np.float64) for seed in (8, 9))
    y, dy = net.jvp(x, v)
    a, b = x.copy(), v.copy()
    net.jvp(a, b, out=(a, b))
    assert np.array_equal(a, y) and np.array_equal(b, dy)
    a, b = x.copy(), v.copy()
    net.jvp(a, b, out=(b, a))
    assert np.array_equal(b, y) and np.array_equal(a, dy)
    memory = np.empty((5, 4, 4))
    memory[:, 0] = x
    expected = net.jacobian(x)
    assert np.array_equal(net.jacobian(memory[:, 0], out=memory), expected)
    for out in ((None, np.empty((5, 4))), (np.empty((5, 4)), None), (None, None), [None, None]):
        found = net.jvp(x, v, out=out)
        assert np.array_equal(found[0], y) and np.array_equal(found[1], dy)


def test_other_dtypes_are_cast():
    net = network((4, 6, 3), np.float32)
    x = np.arange(8).reshape(2, 4) / 8
    y, dy = net.jvp(x, [[1, 0, 0, 2]] * 2)
    assert y.dtype == dy.dtype == np.float32
    expected = net.jvp(x.astype(np.float32), np.array([[1, 0, 0, 2]] * 2, np.float32))
    assert np.array_equal(y, expected[0]) and np.array_equal(dy, expected[1])
    half = np.empty((2, 3, 4), np.float16)
    assert np.array_equal(net.jacobian(x.tolist(), out=half), net.jacobian(x).astype(np.float16))


def test_arguments_that_do_not_fit_are_refused():
    net = network((4, 6, 3))
    x = np.ones((2, 4))
    with pytest.raises(ShapeError, match=r"^x has 3 features but the network expects 4"):
        net.jacobian(np.ones((2, 3)))
    with pytest.raises(
        ShapeError, match=r"^v has shape \(4,\) but x has shape \(2, 4\): .* of shape \(2, t, 4\); one "
    ):
        net.jvp(x, np.ones(4))
    with pytest.raises(ShapeError, match=r"^v has shape \(3, 2, 4\) but x has shape \(2, 4\)"):
        net.jvp(x, np.ones((3, 2, 4)))
    with pytest.raises(DTypeError, match=r"^v has dtype complex128"):
        net.jvp(x, x * 1j)
    with pytest.raises(DTypeError, match=r"^x has dtype complex128"):
        net.jacobian(x * 1j)
    with pytest.raises(OutputError, match=r"^out is a ndarray but jvp has two results; pass out=\(y, dy\)"):
        net.jvp(x, x, out=np.empty((2, 3)))
    with pytest.raises(OutputError, match=r"^out has shape \(2, 4\) but the result has shape \(2, 3\)"):
        net.jvp(x, x, out=(None, np.empty((2, 4))))
    with pytest.raises(OutputError, match=r"^out has shape \(2, 4, 3\) but the result has shape \(2, 3, 4\)"):
        net.jacobian(x, out=np.empty((2, 4, 3)))
    with pytest.raises(OptionError, match=r"^threads is 0 but must be a positive integer"):
        net.jvp(x, x, threads=0)


def a_slope(x):
    T = type(x)
    return T(2) * (T(0) if x < T(0) else x)


def test_an_activation_of_the_users_own():
    @nd.activation(derivative=a_slope)
    def derived_square(x):
        T = type(x)
        positive = T(0) if x < T(0) else x
        return positive * positive

    net = network((5, 7, 3), activations=("derived_square",))
    x = draw.numbers(np.random.default_rng(1), (4, 5), np.float64)
    close(net.jvp(x, x)[1], chain_rule(net, x, x[:, None])[:, 0])
    assert np.array_equal(pickle.loads(pickle.dumps(net)).jacobian(x), net.jacobian(x))


def test_a_derivative_may_be_another_activation():
    @nd.activation(derivative=nd.sigmoid)
    def derived_softplus(x):
        T = type(x)
        return (T(0) if x < T(0) else x) + log1p(exp(-abs(x)))

    net, same = (network((5, 7, 3), activations=(name,)) for name in ("derived_softplus", "softplus"))
    x = draw.numbers(np.random.default_rng(1), (4, 5), np.float64)
    assert np.array_equal(net.jacobian(x), same.jacobian(x))
    with pytest.raises(ActivationError, match=r"^the derivative is the word exp itself: write a function of your own"):
        nd.activation(derivative=exp)


def test_an_activation_without_a_derivative_is_refused_by_name():
    @nd.activation
    def underived(x):
        T = type(x)
        return x * T(0.5)

    net = network((5, 7, 3), activations=("underived",))
    x = np.ones((2, 5))
    message = r"^activation 'underived' of layer 0 has no derivative, .*: register it with @numbadense\.activation\("
    with pytest.raises(ActivationError, match=message):
        net.jvp(x, x)
    with pytest.raises(ActivationError, match=message):
        net.jacobian(x)
    assert net(x).shape == (2, 3)


def test_a_derivative_outside_the_scalar_language_is_refused():
    with pytest.raises(
        ActivationError, match=r"^the derivative of activation 'doubled' mixes its argument with the unc"
    ):

        @nd.activation(derivative=lambda x: x * 2)
        def doubled(x):
            return x + x

    with pytest.raises(ActivationError, match=r"^the derivative of activation 'rows' returns a value"):

        @nd.activation(derivative=lambda y, dy: dy, rowwise=True)
        def rows(row):
            for j in range(row.size):
                row[j] += row[j]


def test_the_short_way_is_taken_by_plain_arrays_alone():
    for widths in ((6, 9, 3), (3, 9, 6)):
        net = network(widths)
        n_in, n_out = widths[0], widths[-1]
        x, v = (draw.numbers(np.random.default_rng(seed), (5, n_in), np.float64) for seed in (1, 2))
        (y, dy), jac = net.jvp(x, v), net.jacobian(x)
        of, ob = net._forward_derivatives, net._jacobian_derivatives
        for rows in (slice(None), slice(2, 3), 2, slice(0)):
            a, b = np.full(y[rows].shape, np.nan), np.full(y[rows].shape, np.nan)
            assert of.jvp(of.address, x[rows].copy(), v[rows].copy(), a, b) == 1
            assert np.array_equal(a, y[rows]) and np.array_equal(b, dy[rows])
            a, b = np.full(y[rows].shape, np.nan), np.full(jac[rows].shape, np.nan)
            assert ob.jacobian(ob.address, x[rows].copy(), a, b) == 1
            assert np.array_equal(a, y[rows]) and np.array_equal(b, jac[rows])

        a, b, memory = np.full((5, n_out), 7.0), np.full((5, n_out), 7.0), np.zeros(200)
        frozen = b.copy()
        frozen.flags.writeable = False
        inside = memory[: 5 * n_in].reshape(5, n_in), memory[n_in:][: 5 * n_out].reshape(5, n_out)
        assert of.jvp(of.address, x, v, b, b) == 0
        for p, q, r, s in [
            (x, v, a, None), (x, None, a, b), (None, v, a, b), (x, v[:4], a, b), (x[:4], v, a, b), (x, v, a[:4], b),
            (x, v, a, b[:4]), (x[::-1], v, a, b), (x, v[::-1], a, b), (x, v, a[::-1], b), (x, v, a, b[::-1]),
            (x, v, a, frozen), (x.astype(np.float32), v, a, b), (x, v.astype(np.float32), a, b), (x[0], v, a, b),
            (x, v[None], a, b), (x[:1], v[0], a[:1], b[:1]), (x[0], v[0], a[:1], b[0]), (x[0], v[0], a[0], b[:1]),
            (inside[0], v, inside[1], b), (inside[0], v, a, inside[1]), (x, inside[0], inside[1], b),
            (x, inside[0], a, inside[1]), (x.tolist(), v, a, b), (x[:, :2].copy(), v, a, b),
        ]:  # fmt: skip
            assert of.jvp(of.address, p, q, r, s) == 0
        c = np.full((5, n_out, n_in), 7.0)
        frozen = c.copy()
        frozen.flags.writeable = False
        inside = memory[: 5 * n_in].reshape(5, n_in), memory[n_in:][: 5 * n_in * n_out].reshape(5, n_out, n_in)
        for p, q, r in [
            (x, a, None), (None, a, c), (x, None, c), (x[:4], a, c), (x, a[:4], c), (x, a, c[:4]), (x, a, c[::-1]),
            (x, a, frozen), (x, a, c.astype(np.float32)), (x, a, c[0]), (x[0], a[0], c), (x[0], a[:1], c[0]),
            (x[:1], a[0], c[:1]), (*inside[:1], a, inside[1]), (x, c[:, 0, :n_out], c), (x, a, c.transpose(0, 2, 1)),
        ]:  # fmt: skip
            assert ob.jacobian(ob.address, p, q, r) == 0
        assert (a == 7).all() and (b == 7).all() and (c == 7).all() and not memory.any()


@numba.njit
def one_by_one(f, x, v, out, dout, jac):
    for i in range(x.shape[0]):
        f.jvp(x[i], v[i], out[i], dout[i])
        f.jacobian(x[i], out[i], jac[i])


@numba.njit
def together(f, x, v, out, dout, jac):
    f.jvp(x, v, out, dout)
    out[:] = 0
    f.jacobian(x, out, jac)


@numba.njit
def in_scratch(f, x, v, out, dout, jac, scratch):
    f.jvp(x, v, out, dout, scratch)
    f.jacobian(x, out, jac, scratch=scratch)


@pytest.mark.parametrize("dtype", draw.DTYPES)
@pytest.mark.parametrize("widths", [(6, 20, 3), (3, 20, 6), (40, 64, 50), (4, 3), (3, 4)])
def test_derivatives_inside_compiled_functions_have_the_bits_of_a_call(dtype, widths):
    net = network(widths, dtype)
    rng = np.random.default_rng(1)
    x, v = (draw.numbers(rng, (9, widths[0]), dtype) for _ in range(2))
    (y, dy), jac = net.jvp(x, v), net.jacobian(x)
    f = net.jit.differentiable()
    assert f is net.jit or isinstance(f, nd.jit.Network)
    for run_all, order in ((one_by_one, draw.every_second), (together, np.ascontiguousarray)):
        if run_all is together and dtype is np.float32 and JIT:  # it would take its time to compile
            continue
        found = [order(np.full(a.shape, np.nan, dtype)) for a in (y, dy, jac)]
        run_all(f, order(x), order(v), *found)
        assert all(np.array_equal(a, b) for a, b in zip(found, (y, dy, jac), strict=True))
    for rows in (1, 3, None) if dtype is np.float64 else ():
        found = [np.full(a.shape, np.nan, dtype) for a in (y, dy, jac)]
        in_scratch(pickle.loads(pickle.dumps(f)), x, v, *found, f.scratch(rows, derivatives=True))
        assert all(np.array_equal(a, b) for a, b in zip(found, (y, dy, jac), strict=True))
    none = [a[:0].copy() for a in (x, v, y, dy, jac)]
    if dtype is np.float64:
        together(f, *none)


def test_compiled_functions_refuse_what_does_not_fit():
    net = network((6, 20, 3))
    x, y, jac = np.ones((2, 6)), np.ones((2, 3)), np.ones((2, 3, 6))
    if JIT:
        with pytest.raises(OptionError, match=r"^the network's derivatives are not built: pass f\.differentiable\(\)"):
            together(net.jit, x, x, y, y.copy(), jac)
    f = net.jit.differentiable()
    for p, v, q, dq, j in [
        (x, x[:1], y, y, jac), (x, x, y, y[:1], jac), (x, x, y, y, jac[:1]), (x, x, y[:1], y[:1], jac),
        (x[:, :5], x[:, :5], y, y, jac), (x, x, y, y, jac[:, :, :5]), (x, x, y, y, np.ones((2, 6, 3))),
    ]:  # fmt: skip
        with pytest.raises(ShapeError):
            together(f, p.copy(), v.copy(), q.copy(), dq.copy(), j.copy())
    for p, v, q, dq, j in [
        (x[:, :5], x[:, :5], y, y, jac), (x, x, y[:, :2], y[:, :2], jac), (x, x, y, y, jac[:, :, :5]),
        (x, x[:, :5], y, y, jac), (x, x, y, y[:, :2], jac),
    ]:  # fmt: skip
        with pytest.raises(ShapeError):
            one_by_one(f, *map(draw.every_second, (p, v, q, dq, j)))


@pytest.mark.skipif(not JIT, reason="nothing is compiled at all")
def test_wide_networks_take_scratch_of_the_caller():
    net = network((6, 1200, 3))
    x, y, jac = np.ones((2, 6)), np.ones((2, 3)), np.ones((2, 3, 6))
    f = net.jit.differentiable()
    with pytest.raises(OptionError, match=r"^derivatives of this network need more than 16384 bytes of scratch"):
        together(f, x, x, y, y.copy(), jac)
    in_scratch(f, x, x, y, y.copy(), jac, f.scratch(derivatives=True))
    assert np.array_equal(jac, net.jacobian(x))
