"""Every activation: accuracy against mpmath, special values, its stated facts, and the registry around it."""

import functools
import inspect
import json
import math
import pickle
import platform
from fractions import Fraction
from pathlib import Path

import numba
import numpy as np
import pytest
import scripts

import numbadense as nd
from numbadense import activations, scalar_math
from numbadense._engine import machine
from numbadense.activations import HIGH, REGISTRY, Activation, activation, get, names
from numbadense.errors import ActivationError
from numbadense.scalar_math import exp, expm1
from numbadense.scalar_math import exp as renamed_exp

mpmath = pytest.importorskip("mpmath")

JIT = not numba.config.DISABLE_JIT
X86 = platform.machine() in ("x86_64", "AMD64")
FMA = JIT and (not X86 or "fma" in machine.host().features)
DTYPES = (np.float32, np.float64)
ELEMENTWISE = [name for name, entry in REGISTRY.items() if not entry.rowwise]
ROWWISE = [name for name, entry in REGISTRY.items() if entry.rowwise]
# In CPython the words are NumPy's, and a CPU without FMA cannot tell what a product has lost: a few ULP more
# everywhere, and hundreds deep in the tails of what squares its argument.
PLAIN_MORE = 3
PLAIN_ULP = {("gelu", "float64"): 1500, ("gelu", "float32"): 200}
PLAIN_ULP |= {("gelu_tanh", "float64"): 1600, ("gelu_tanh", "float32"): 200}
CERTIFICATE = Path(__file__).parent.parent / "benchmarks" / "results" / "accuracy.json"
SCALARS = {np.float32: numba.float32, np.float64: numba.float64}

each_elementwise = pytest.mark.parametrize("name", ELEMENTWISE)
each_rowwise = pytest.mark.parametrize("name", ROWWISE)
each_way = pytest.mark.parametrize("way", ["function", "pass"])
each_dtype = pytest.mark.parametrize("dtype", DTYPES)


@functools.cache
def compiled(name):
    """Return a function of one array: the activation with the CPU's words, in a vectorised loop or row by row."""
    entry = REGISTRY[name]
    if not JIT:
        return _plain(entry)
    from numbadense._engine import compile as engine

    function = engine.scalar(entry)

    @numba.njit(error_model="numpy")
    def elementwise(x, out):
        for i in range(x.size):
            out[i] = function(x[i])

    @numba.njit(error_model="numpy")
    def rowwise(x, out):
        out[:] = x
        function(out)

    return _with_output(rowwise if entry.rowwise else elementwise)


def _plain(entry):
    def elementwise(x, out):
        out[:] = [entry.function(value) for value in x]

    def rowwise(x, out):
        out[:] = x
        entry.function(out)

    return _with_output(rowwise if entry.rowwise else elementwise)


def _with_output(loop):
    def run(x):
        out = np.empty_like(x)
        with np.errstate(all="ignore"):
            loop(x, out)
        return out

    run.loop = loop
    return run


def rowwise(name, way):
    """Return a function of one row: the row function itself, or the pass that the public function runs."""
    return compiled(name) if way == "function" else getattr(nd, name)


def sample(dtype, count, seed=0):
    """Return numbers from everywhere it hurts: the tails, around 0, subnormals, corners, the largest."""
    rng = np.random.default_rng(seed)
    limits = np.finfo(dtype)
    edge = 110 if dtype is np.float32 else 760
    largest = min(float(limits.max), 1e100)  # mpmath's erfc takes no larger ones
    corners = np.array([0, 0.5, 1, 3, 41, 64, 87, 88.7, 103.9, 709.7, 745, 1e10, 1e30, largest])
    near = np.concatenate([np.nextafter(dtype(c), dtype(d)) for c in corners[:-1] for d in (-1e3, 1e3)], axis=None)
    parts = [
        rng.uniform(-edge, edge, count),
        rng.uniform(-8, 8, count),
        rng.uniform(-40, 0, count),
        rng.standard_normal(count) * 10.0 ** rng.uniform(-10, 0, count),
        rng.uniform(-1, 1, count // 4) * float(limits.tiny),
        rng.standard_normal(count // 4) * 10.0 ** rng.uniform(0, math.log10(largest) - 1, count // 4),
        *(corners, -corners, near, -near),
    ]
    with np.errstate(over="ignore"):
        x = np.concatenate(parts).astype(dtype)
    return x[np.isfinite(x)]


def ulp_error(got, exact, dtype):
    """Return ``|got - exact|`` in units of the last place that a result of exact's size has in `dtype`."""
    limits = np.finfo(dtype)
    last = mpmath.mpf(2) ** -limits.nmant
    if abs(exact) >= mpmath.mpf(2) ** limits.maxexp * (1 - last / 4):  # what rounds to infinity
        return 0.0 if got == math.copysign(math.inf, exact) else math.inf
    if not math.isfinite(got):
        return math.inf
    size = max(mpmath.frexp(exact)[1] - 1, limits.minexp) if exact else limits.minexp
    return float(abs(mpmath.mpf(got) - exact) / mpmath.ldexp(last, int(size)))


def largest_error(name, dtype, x):
    """Return the largest error of an element-wise activation over x, in ULP, and the x where it is."""
    entry = REGISTRY[name]
    with mpmath.workprec(140):
        errors = [
            ulp_error(got, mpmath.mpf(entry.exact(mpmath.mp, mpmath.mpf(value))), dtype)
            for got, value in zip(compiled(name)(x).tolist(), x.tolist(), strict=True)
        ]
    worst = int(np.argmax(errors))
    return errors[worst], x[worst]


@each_dtype
@each_elementwise
def test_elementwise_is_within_its_stated_ulp(name, dtype):
    stated = REGISTRY[name].max_ulp[dtype.__name__]
    bound = stated if FMA else PLAIN_ULP.get((name, dtype.__name__), stated + PLAIN_MORE)
    error, where = largest_error(name, dtype, sample(dtype, 300))
    assert error <= bound, f"{name}({where!r}) is {error:.2f} ULP off, {bound} are stated"


@pytest.fixture(scope="module")
def certificate():
    """What ``benchmarks/sweep.py`` found."""
    if not CERTIFICATE.exists():
        pytest.skip("an installed package comes without its benchmarks")
    return json.loads(CERTIFICATE.read_text())["activations"]


def test_every_stated_ulp_is_the_certified_one_rounded_up(certificate):
    assert list(certificate) == ELEMENTWISE
    for name, by_dtype in certificate.items():
        for dtype, found in by_dtype.items():
            stated = REGISTRY[name].max_ulp[dtype]
            assert stated == math.ceil(found["max_ulp"] * 10) / 10, f"{name}, {dtype}: {found['max_ulp']} is certified"
            assert found["inputs"] >= (2**32 if dtype == "float32" else 50_000)


def test_no_activation_is_certified_beyond_its_bar(certificate):
    for name, by_dtype in certificate.items():
        bar = HIGH if name.endswith("_high") else 2.5
        assert all(found["max_ulp"] <= bar for found in by_dtype.values()), name


@pytest.mark.skipif(not FMA, reason="certified with FMA")
@each_dtype
@each_elementwise
def test_the_worst_points_are_as_bad_as_certified(certificate, name, dtype):
    found = certificate[name][dtype.__name__]
    error, _ = largest_error(name, dtype, np.array([found["x"]] * 17, dtype))
    assert error == pytest.approx(found["max_ulp"], abs=1e-6)


@each_dtype
@pytest.mark.parametrize(
    "name",
    ["identity", "tanh", "leaky_relu", "elu", "selu", "silu", "gelu", "gelu_tanh", "softsign", "hard_swish", "mish"],
)
def test_what_goes_through_zero_keeps_its_sign(name, dtype):
    zeros = getattr(nd, name)(np.array([0.0, -0.0] * 20, dtype))
    assert (zeros == 0).all() and np.array_equal(np.signbit(zeros), [False, True] * 20)


@each_dtype
@each_rowwise
@each_way
@pytest.mark.parametrize("size", [1, 2, 3, 16, 33, 100])
def test_rowwise_is_within_its_stated_ulp(name, way, dtype, size):
    entry = REGISTRY[name]
    rng = np.random.default_rng(size)
    for spread in (0.01, 3, 30):
        row = (spread * rng.standard_normal(size)).astype(dtype)
        with mpmath.workprec(140):
            exact = entry.exact(mpmath.mp, [mpmath.mpf(value) for value in row.tolist()])
            errors = [ulp_error(a, b, dtype) for a, b in zip(rowwise(name, way)(row).tolist(), exact, strict=True)]
        # the distance to the largest entry is rounded to its own last place, and exp makes a relative error of it
        slack = float(np.ptp(row)) if name == "softmax" else 0.0
        assert max(errors) <= entry.max_ulp[dtype.__name__] + slack


@each_dtype
@each_elementwise
def test_nan_stays_nan(name, dtype):
    x = np.full(33, np.nan, dtype)
    x[::2] = 1
    assert np.array_equal(np.isnan(compiled(name)(x)), np.isnan(x))


@each_dtype
@each_elementwise
def test_infinities_give_the_limits(name, dtype):
    entry = REGISTRY[name]
    got = compiled(name)(np.array([-np.inf, np.inf] * 16, dtype))
    expected = np.array(entry.limits * 16, dtype)
    np.testing.assert_allclose(got, expected, rtol=4 * np.finfo(dtype).eps)


@each_dtype
@pytest.mark.parametrize("name", ["silu", "gelu", "gelu_tanh", "mish", "hard_swish"])
def test_self_gated_units_vanish_at_minus_infinity(name, dtype):
    assert (compiled(name)(np.full(33, -np.inf, dtype)) == 0).all()


@each_dtype
@pytest.mark.parametrize(
    "name", ["tanh", "tanh_high", "softsign", "identity", "elu", "leaky_relu", "selu", "silu", "gelu", "gelu_tanh"]
)
def test_zero_keeps_its_sign(name, dtype):
    got = compiled(name)(np.array([0.0, -0.0] * 16, dtype))
    assert (got == 0).all()
    assert np.array_equal(np.signbit(got), [False, True] * 16)


@each_dtype
@each_elementwise
def test_lipschitz_constant_holds_and_is_tight(name, dtype):
    entry = REGISTRY[name]
    x = np.linspace(-8, 8, 1601)
    slopes = np.abs(np.diff(compiled(name)(x)) / np.diff(x))
    assert slopes.max() <= entry.lipschitz * (1 + 1e-9)
    assert math.isinf(entry.lipschitz) or slopes.max() >= entry.lipschitz * 0.98


@each_elementwise
def test_python_floats_stay_python_floats(name):
    with np.errstate(all="ignore"):
        assert type(REGISTRY[name](0.25)) is float
        assert type(REGISTRY[name](np.float32(0.25))) is np.float32


@pytest.mark.skipif(not JIT or not X86, reason="reads x86 assembly")
@each_dtype
@each_elementwise
def test_the_loop_is_vectorised(name, dtype):
    features = machine.host().features
    if "avx" not in features:
        pytest.skip("no AVX")
    run = compiled(name)
    run(np.ones(3, dtype))
    array = numba.types.Array(SCALARS[dtype], 1, "C")
    assembly = run.loop.inspect_asm((array, array))
    assert "zmm" in assembly if "avx512f" in features else "ymm" in assembly


@each_dtype
@each_way
def test_softmax_is_a_distribution(way, dtype):
    rng = np.random.default_rng(3)
    for size in (1, 2, 7, 64, 1000):
        p = rowwise("softmax", way)((20 * rng.standard_normal(size)).astype(dtype))
        assert (p >= 0).all()
        assert abs(p.astype(float).sum() - 1) <= 8 * np.finfo(dtype).eps


@each_dtype
@each_rowwise
@each_way
def test_a_shift_of_the_row_shifts_nothing_but_the_logits(name, way, dtype):
    row = np.random.default_rng(4).integers(-64, 64, 50).astype(dtype) / dtype(8)
    assert np.array_equal(rowwise(name, way)(row), rowwise(name, way)(row + dtype(1024)))


@each_dtype
@each_rowwise
@each_way
def test_large_logits_do_not_overflow(name, way, dtype):
    row = np.array([np.finfo(dtype).max, 0, -np.finfo(dtype).max / 2], dtype)
    got = rowwise(name, way)(row)
    assert got[0] == (1 if name == "softmax" else 0)
    assert not np.isnan(got).any()


@each_dtype
@each_rowwise
@each_way
def test_masked_logits_get_no_probability(name, way, dtype):
    got = rowwise(name, way)(np.array([0.5, -np.inf, 0.5], dtype))
    half, none = (0.5, 0.0) if name == "softmax" else (math.log(0.5), -math.inf)
    np.testing.assert_allclose(got, [half, none, half], rtol=4 * np.finfo(dtype).eps)


@each_dtype
@each_rowwise
@each_way
@pytest.mark.parametrize("where", [0, 1, 20, 32])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_nan_or_an_infinity_spoils_the_row(name, way, dtype, where, bad):
    row = np.linspace(-1, 1, 33).astype(dtype)
    row[where] = bad
    assert np.isnan(rowwise(name, way)(row)).all()


@each_dtype
@each_rowwise
@each_way
def test_a_row_of_minus_infinities_is_nan(name, way, dtype):
    assert np.isnan(rowwise(name, way)(np.full(5, -np.inf, dtype))).all()


@each_way
def test_log_softmax_keeps_the_digits_of_a_near_certainty(way):
    got = rowwise("log_softmax", way)(np.array([30.0, 0.0], np.float32))
    assert got[0] == pytest.approx(-math.exp(-30), rel=1e-6)


# The words themselves, where no activation takes them.


@functools.cache
def word(name):
    """Return a CPU word over arrays."""
    if not JIT:
        function = getattr(scalar_math, name)
        return lambda x: np.array([function(value) for value in x], x.dtype)
    from numbadense._engine import compile as engine

    function = engine.words()[name]

    @numba.njit(error_model="numpy")
    def loop(x, out):
        for i in range(x.size):
            out[i] = function(x[i])

    return _with_output(loop)


def normal_distribution(x):
    """Return Phi(x) in mpmath."""
    return mpmath.erfc(-x / mpmath.sqrt(2)) / 2


EXACT_WORDS = {
    "exp": (mpmath.exp, 1.5),
    "expm1": (mpmath.expm1, 2),
    "log1p": (mpmath.log1p, 2),
    "tanh": (mpmath.tanh, 3),
    "tanh_high": (mpmath.tanh, 1.05),
    "logistic": (lambda x: 1 / (1 + mpmath.exp(-x)), 2.5),
    "logistic_high": (lambda x: 1 / (1 + mpmath.exp(-x)), 1.05),
    "weighted_tail": (lambda t: t * normal_distribution(-t), 2.5),
    "ndtr": (normal_distribution, 5),
}


@each_dtype
@pytest.mark.parametrize("name", EXACT_WORDS)
def test_words_are_right_everywhere(name, dtype):
    exact, bound = EXACT_WORDS[name]
    if not FMA:
        bound = 1500 if name in ("ndtr", "weighted_tail") else bound + PLAIN_MORE
    x = sample(dtype, 300, seed=1)
    if name == "weighted_tail":
        x = abs(x)
    if name == "log1p":
        nearly = -1 + np.geomspace(np.finfo(dtype).eps, 0.5, 200).astype(dtype)
        large = np.geomspace(1, float(np.finfo(dtype).max) / 2, 200).astype(dtype)
        x = np.concatenate([x[x > -1], nearly, large])
    with mpmath.workprec(140):
        for value, got in zip(x.tolist(), word(name)(x).tolist(), strict=True):
            error = ulp_error(got, exact(mpmath.mpf(value)), dtype)
            assert error <= bound, f"{name}({value!r}) is {error:.2f} ULP off"


@each_dtype
def test_words_keep_to_ieee_at_the_ends(dtype):
    x = np.array([-np.inf, np.inf, np.nan, -1, -2], dtype)
    expected = {
        "exp": [0, np.inf, np.nan, math.exp(-1), math.exp(-2)],
        "expm1": [-1, np.inf, np.nan, math.expm1(-1), math.expm1(-2)],
        "log1p": [np.nan, np.inf, np.nan, -np.inf, np.nan],
        "tanh": [-1, 1, np.nan, math.tanh(-1), math.tanh(-2)],
        "ndtr": [0, 1, np.nan, 0.15865525393145707, 0.022750131948179212],
    }
    for name, values in expected.items():
        np.testing.assert_allclose(word(name)(x), np.array(values, dtype), rtol=4 * np.finfo(dtype).eps, err_msg=name)


@pytest.mark.skipif(not JIT, reason="is about compiler flags")
def test_words_do_not_take_over_the_flags_of_whoever_compiles_them_first():
    scripts.run(
        """
        import numba
        import numpy as np
        from numbadense import activations
        from numbadense._engine import compile as engine

        log_softmax = engine.scalar(activations.get("log_softmax"))  # its sums may be reordered, log1p's may not

        @numba.njit
        def run(row):
            log_softmax(row)

        row = np.array([54.0, 34.3], np.float32)
        run(row)
        assert -4e-9 < row[0] < -2e-9, row
        """
    )


@functools.cache
def word_of_more(name):
    """Return a CPU word of several numbers over arrays."""
    function = getattr(scalar_math, name)
    if not JIT:
        return lambda *x: np.array([function(*values) for values in zip(*x, strict=True)], x[0].dtype)
    from numbadense._engine import compile as engine

    compiled_word = engine.words()[name]

    if name == "scaled_exp":

        @numba.njit(error_model="numpy")
        def loop(a, x, out):
            for i in range(x.size):
                out[i] = compiled_word(a[i], x[i])
    else:

        @numba.njit(error_model="numpy")
        def loop(a, x, y, out):
            for i in range(x.size):
                out[i] = compiled_word(a[i], x[i], y[i])

    def run(*x):
        out = np.empty_like(x[0])
        loop(*x, out)
        return out

    return run


@pytest.mark.skipif(JIT and not FMA, reason="no FMA")
@each_dtype
def test_fma_rounds_once(dtype):
    rng = np.random.default_rng(6)
    a, b = (rng.standard_normal(500).astype(dtype) for _ in range(2))
    lost = word_of_more("fma")(a, b, -(a * b))
    for x, y, product, rest in zip(a.tolist(), b.tolist(), (a * b).tolist(), lost.tolist(), strict=True):
        assert Fraction(x) * Fraction(y) == Fraction(product) + Fraction(rest)


def test_plain_fma_keeps_to_ieee_at_the_ends():
    fma = scalar_math.fma
    assert fma(math.inf, 2.0, -1.0) == math.inf
    assert math.isnan(fma(math.inf, 0.0, 1.0))
    assert math.copysign(1, fma(-1.0, 0.0, -0.0)) == -1
    assert math.copysign(1, fma(1.0, 1.0, -1.0)) == 1
    assert fma(1e200, 1e200, -math.inf) == -math.inf
    assert fma(1e200, -1e200, 1.0) == -math.inf
    assert fma(1e200, 1e200, 1e200) == math.inf


@each_dtype
def test_scaled_exp_is_right_where_exp_underflows(dtype):
    rng = np.random.default_rng(7)
    edge = 108 if dtype is np.float32 else 750
    x = np.concatenate([rng.uniform(-edge, edge, 300), rng.uniform(-edge, -edge * 0.9, 100)]).astype(dtype)
    a = np.where(x < 0, rng.uniform(-1000, 1000, x.size), rng.uniform(-1, 1, x.size) * 1e-20).astype(dtype)
    with mpmath.workprec(140):
        for left, right, got in zip(a.tolist(), x.tolist(), word_of_more("scaled_exp")(a, x).tolist(), strict=True):
            error = ulp_error(got, mpmath.mpf(left) * mpmath.exp(right), dtype)
            assert error <= (2 if FMA else 2 + PLAIN_MORE), f"{left!r} exp({right!r}) is {error:.2f} ULP off"


@each_dtype
def test_scaled_logistic_takes_an_argument_in_two_words(dtype):
    rng = np.random.default_rng(8)
    edge = 100 if dtype is np.float32 else 740
    x = np.concatenate([rng.uniform(-edge, 99, 300), rng.uniform(-8, 8, 200)]).astype(dtype)
    dx = (x * np.finfo(dtype).eps / 2 * rng.uniform(-1, 1, x.size)).astype(dtype)
    a = rng.uniform(-100, 100, x.size).astype(dtype)
    results = word_of_more("scaled_logistic")(a, x, dx).tolist()
    with mpmath.workprec(140):
        for scale, high, low, got in zip(a.tolist(), x.tolist(), dx.tolist(), results, strict=True):
            exact = scale / (1 + mpmath.exp(-(mpmath.mpf(high) + mpmath.mpf(low))))
            error = ulp_error(got, exact, dtype)
            assert error <= (2.5 if FMA else 2.5 + PLAIN_MORE), f"{scale!r}, {high!r}, {low!r}: {error:.2f} ULP off"


def test_plain_words_keep_the_type_and_do_not_warn(recwarn):
    for function in scalar_math.WORDS:
        arity = len(inspect.signature(function).parameters)
        for kind in (float, np.float32, np.float64):
            for value in (0.5, 1e30, -1e30, math.inf, -math.inf, math.nan):
                assert type(function(*[kind(value)] * arity)) is kind
    assert not recwarn.list


def test_bind_replaces_words_under_any_name_and_leaves_the_function_alone():
    offset = 5

    def original(x, y=2, *, z=3):
        """Doc."""
        return exp(x), renamed_exp(x), expm1(x), y, z, offset

    bound = scalar_math.bind(original, {"exp": lambda x: "swapped"})
    assert bound(0.0) == ("swapped", "swapped", 0.0, 2, 3, 5)
    assert original(0.0) == (1.0, 1.0, 0.0, 2, 3, 5)
    assert (bound.__name__, bound.__doc__, bound.__module__) == ("original", "Doc.", __name__)


# The registry.


@pytest.fixture
def registry():
    """Forget what a test registers."""
    from numbadense import activations

    before = dict(activations.REGISTRY), dict(activations._NAMES)
    yield
    for table, saved in zip((activations.REGISTRY, activations._NAMES), before, strict=True):
        table.clear()
        table.update(saved)


def test_every_entry_states_its_facts():
    for name in ELEMENTWISE + ROWWISE:
        entry = REGISTRY[name]
        assert entry.name == name
        assert entry.exact is not None
        assert entry.tex
        assert entry.function.__doc__ == entry.__doc__
        assert set(entry.max_ulp) == {"float32", "float64"}
        assert repr(entry) == f"<activation {name}>"


def test_get_understands_none_names_aliases_and_activations():
    sigmoid = REGISTRY["sigmoid"]
    assert get(None) is REGISTRY["identity"]
    assert get("sigmoid") is get("logistic") is get("expit") is get(sigmoid) is sigmoid
    assert get("swish") is get("silu")


def test_get_understands_a_public_function():
    def public():
        """Stand for numbadense.sigmoid."""

    public.activation = REGISTRY["sigmoid"]
    assert get(public) is REGISTRY["sigmoid"]


def test_get_finds_the_twin_of_high_accuracy():
    for name in ("sigmoid", "tanh"):
        twin = get(name, accuracy="high")
        assert twin.name == f"{name}_high"
        assert get(twin, accuracy="high") is twin
        assert max(twin.max_ulp.values()) <= HIGH
    assert get("relu", accuracy="high") is get("relu")
    assert get("sigmoid", accuracy=None) is get("sigmoid")


def test_high_accuracy_is_refused_where_there_is_no_twin():
    with pytest.raises(ActivationError) as caught:
        get("gelu", accuracy="high")
    assert str(caught.value) == (
        "activation 'gelu' has no twin of high accuracy: those that do are sigmoid, tanh. Leave accuracy out."
    )


def test_another_accuracy_is_refused():
    with pytest.raises(ActivationError, match="accuracy is 'low' but must be \"high\", or left out"):
        get("sigmoid", accuracy="low")


@each_dtype
@pytest.mark.parametrize("name", ["sigmoid", "tanh"])
def test_public_functions_and_layers_take_the_twin(name, dtype, tmp_path):
    x = np.linspace(-9, 9, 48).astype(dtype)
    y = np.empty_like(x)
    function = getattr(nd, name)
    assert function(x, out=y, accuracy="high") is y
    assert np.array_equal(y, getattr(nd, f"{name}_high")(x))
    with pytest.raises(ActivationError, match="must be"):
        function(x, accuracy="higher")
    layer = nd.Dense(np.eye(48, dtype=dtype), None, get(name, accuracy="high"))
    assert np.array_equal(layer(x), y)
    nd.save(nd.Sequential([layer]), tmp_path / "net.safetensors")
    loaded = nd.load(tmp_path / "net.safetensors")
    assert loaded.layers[0].activation is get(name, accuracy="high")
    assert np.array_equal(loaded(x), y)


def test_an_unknown_name_is_met_with_the_closest_and_the_list():
    with pytest.raises(ActivationError) as caught:
        get("Sigmod")
    assert str(caught.value).startswith(
        f"no activation is called 'Sigmod': did you mean 'sigmoid'? known are {', '.join(names())}, and the families "
    )


def test_a_name_like_nothing_is_met_with_the_list():
    with pytest.raises(ActivationError, match=r"no activation is called 'zzzz': known are elu, exp, gelu"):
        get("zzzz")


@pytest.mark.parametrize("spec", [3, math.tanh, ["relu"]])
def test_anything_else_is_refused_with_the_remedy(spec):
    with pytest.raises(ActivationError, match=r"must be None, a name, or an activation: .* @numbadense\.activation"):
        get(spec)


FAMILY = [
    "leaky_relu(0.2)", "leaky_relu(-0.5)", "elu(0.3)", "celu(2)", "clip(0, 6)", "clip(-1, 1)", "threshold(1, 0)",
    "threshold(0.1, 20)", "bounded_relu(0.1, 0.5, 6)", "hard_sigmoid(0.2, 0.5)", "shrink(0.5, 0)", "shrink(0.5, 0.5)",
]  # fmt: skip
each_member = pytest.mark.parametrize("name", FAMILY)


@each_dtype
@each_member
def test_a_member_of_a_family_is_within_its_stated_ulp(name, dtype):
    entry = get(name)
    x = sample(dtype, 100)
    with np.errstate(all="ignore"):
        y = nd.dense(x[:, None], np.ones((1, 1), dtype), activation=name)[:, 0]
    stated = entry.max_ulp.get(dtype.__name__)
    with mpmath.workprec(140):
        for value, got in zip(x.tolist(), y.tolist(), strict=True):
            exact = mpmath.mpf(entry.exact(mpmath.mp, mpmath.mpf(value)))
            if stated is None:  # a line that meets 0: absolutely, of what goes in
                assert abs(got - exact) <= 2 * np.finfo(dtype).eps * max(1.0, min(abs(value), abs(exact) + 1))
            else:
                assert ulp_error(got, exact, dtype) <= stated + (0 if FMA else PLAIN_MORE), f"{name} at {value!r}"


@each_dtype
@each_member
def test_a_member_of_a_family_keeps_nan_and_reaches_its_limits(name, dtype):
    entry = get(name)
    y = nd.dense(np.array([[-np.inf], [np.inf], [np.nan]], dtype), np.ones((1, 1), dtype), activation=name)[:, 0]
    assert np.array_equal(y[:2], np.array(entry.limits, dtype)) and np.isnan(y[2])


@each_member
def test_a_member_of_a_family_is_found_saved_and_pickled_by_its_name(name, tmp_path):
    entry = get(name)
    assert get(entry.name) is entry and pickle.loads(pickle.dumps(entry)) is entry
    net = nd.Sequential([nd.Dense([[1.0, -2.0]], activation=name)])
    net.save(tmp_path / "net.safetensors")
    assert nd.load(tmp_path / "net.safetensors").layers[0].activation is entry


def test_parameters_may_be_named_and_are_finite_numbers():
    assert get("clip(high=6, low=0)") is activations.member("clip", 0, 6.0) is get(" clip(0.0, 6e0) ")
    assert repr(get("clip(0, 6)")) == "<activation clip(low=0.0, high=6.0)>"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("clip", "activation 'clip' needs its parameters: it is clip(low, high)."),
        ("clip(1)", "activation clip(1) cannot be had, missing a required argument: 'high': it is clip(low, high)."),
        ("clip(3, 1)", "activation clip(3, 1) cannot be had, low is above high: it is clip(low, high)."),
        ("clip(0, 1e999)", "activation clip(0, inf) cannot be had, a parameter is not finite: it is clip(low, high)."),
        ("bounded_relu(0, 2, 1)", "threshold is above high"),
        ("celu(0)", "alpha must be positive"),
        ("shrink(-1, 0)", "lambd is negative"),
        ("leaky_relu('a')", "could not convert string to float"),
        ("leaky(1)", "no family of activations is called 'leaky': known are leaky_relu, elu"),
        *((text, "cannot be read: a member of a family is named like") for text in (
            "clip(", "os.system('ls')", "clip(*[1, 2])", "(1)", "leaky_relu(" + "1" * 9000 + ")", "(" * 9000,
        )),
        ("leaky_relu(**{'alpha': 1})", "missing a required argument: 'alpha'"),
    ],
)  # fmt: skip
def test_a_member_that_cannot_be_is_refused(name, message):
    with pytest.raises(ActivationError) as caught:
        get(name)
    assert message in str(caught.value)


def test_activations_pickle_by_name():
    assert pickle.loads(pickle.dumps(REGISTRY["gelu"])) is REGISTRY["gelu"]


def test_a_user_registers_bare(registry):
    @activation
    def cube(x):
        """Cube."""
        return x * x * x

    assert isinstance(cube, Activation)
    assert get("cube") is cube
    assert cube(2.0) == 8.0
    assert cube.__doc__ == "Cube."
    assert math.isnan(cube.limits[0]) and math.isinf(cube.lipschitz)
    assert np.array_equal(compiled.__wrapped__("cube")(np.arange(4, dtype=np.float32)), [0, 1, 8, 27])


def test_a_user_registers_with_facts_and_words(registry):
    @activation(
        "bell", exact=lambda m, x: m.exp(-x * x), limits=(0.0, 0.0), aliases=("gaussian",), max_ulp={"float32": 9}
    )
    def _(x):
        return renamed_exp(-x * x)

    assert get("gaussian") is get("bell")
    x = np.linspace(-2, 2, 33)
    np.testing.assert_allclose(compiled.__wrapped__("bell")(x), np.exp(-x * x), rtol=1e-15)


def test_a_user_registers_a_rowwise_function(registry):
    @activation(rowwise=True)
    def halved(row):
        for j in range(row.size):
            row[j] *= row.dtype.type(0.5)

    assert np.array_equal(compiled.__wrapped__("halved")(np.ones(5)), np.full(5, 0.5))


def test_a_taken_name_is_refused(registry):
    message = (
        r"the name 'relu' is taken by the activation 'relu' from numbadense\.activations\.relu: give yours another"
    )
    with pytest.raises(ActivationError, match=message):
        activation("relu")(lambda x: x)
    with pytest.raises(ActivationError, match="the name 'logistic' is taken by the activation 'sigmoid'"):
        activation("mine", aliases=("logistic",))(lambda x: x)
    assert "mine" not in REGISTRY


def test_the_same_function_may_be_registered_again(registry):
    def make(aliases):
        @activation(aliases=aliases)
        def again(x):
            return x

        return again

    make(("first",))
    second = make(("second",))
    assert get("again") is get("second") is second
    with pytest.raises(ActivationError, match="no activation is called 'first'"):
        get("first")


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda x: x * 0.5, r"mixes its argument with the uncast number 0\.5, which turns float32 into float64: write"),
        (lambda x: 1 - x, r"mixes its argument with the uncast number 1, which"),
        (lambda x: x if x > 0 else -x, r"mixes its argument with the uncast number 0, which"),
        (lambda x: 2.0, r"turns float32 into float: write T = type\(x\), cast each literal as in T\(0\.5\)"),
        (lambda x: np.float64(x), r"turns float32 into float64: write"),
        (lambda x: x.nothing, r"fails on a float32: 'numpy\.float32' object has no attribute 'nothing'\."),
    ],
)
def test_a_function_that_loses_the_type_is_refused(registry, function, message):
    with pytest.raises(ActivationError, match=r"activation 'mine' " + message):
        activation("mine")(function)
    assert "mine" not in REGISTRY


def test_a_rowwise_function_must_work_in_place(registry):
    with pytest.raises(ActivationError, match="activation 'mine' returns a value, but a row-wise one must"):
        activation("mine", rowwise=True)(lambda row: row * 2)
    with pytest.raises(ActivationError, match="activation 'mine' fails on a row of float32: "):
        activation("mine", rowwise=True)(lambda row: row.nothing)
