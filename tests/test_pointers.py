import ctypes
import gc
import itertools
import pickle
import sys
import threading
import weakref

import numpy as np
import pytest
import strategies as draw
from numba import carray, cfunc, config, njit, types

import numbadense as nd

compiled = pytest.mark.skipif(config.DISABLE_JIT, reason="nothing is compiled at all")


def network(dtype, widths=(6, 20, 3), activation="tanh"):
    rng = np.random.default_rng(0)
    return nd.Sequential(
        [
            nd.Dense(draw.weights(rng, k, n, dtype), draw.numbers(rng, n, dtype), activation)
            for k, n in itertools.pairwise(widths)
        ]
    )


def call(function, x, out):
    kinds = function.argtypes
    return function(x.ctypes.data_as(kinds[0]), out.ctypes.data_as(kinds[1]), len(x))


@pytest.mark.parametrize("dtype", draw.DTYPES)
@pytest.mark.parametrize("widths", [(6, 3), (6, 20, 3), (6, 2100, 3)], ids=str)  # the last one allocates
def test_a_c_function_gives_the_bits_of_a_call(dtype, widths):
    net = network(dtype, widths)
    for m in (0, 1, 2, 41):
        x = draw.numbers(np.random.default_rng(m), (m, 6), dtype)
        guarded = np.full((m + 1, 3), 7, dtype)
        assert call(net.ctypes, x, guarded) == 0
        assert np.array_equal(guarded[:m], net(x)) and (guarded[m] == 7).all()


@pytest.mark.parametrize("widths", [(6, 20, 3), (6, 2100, 3)], ids=str)
def test_threads_call_at_once(widths):
    net = network(np.float32, widths)
    x = draw.numbers(np.random.default_rng(1), (8, 5, 6), np.float32)
    expected, found = net(x), np.zeros((8, 5, 3), np.float32)
    wrong = []

    def work(index):
        for _ in range(1 if config.DISABLE_JIT else 200):
            found[index] = 0
            call(net.ctypes, x[index], found[index])
            if not np.array_equal(found[index], expected[index]):
                wrong.append(index)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(len(x))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_whoever_holds_a_function_keeps_its_network_alive():
    net = network(np.float64, (1, 20, 1))
    x = np.linspace(-2, 2, 7).reshape(7, 1)
    expected, out = net(x), np.empty((7, 1))
    function, watched = net.ctypes, weakref.ref(net)
    assert function is net.ctypes and ctypes.cast(function, ctypes.c_void_p).value == net.address
    other = pickle.loads(pickle.dumps(net))
    assert other.address != net.address
    del net
    gc.collect()
    call(function, x, out)
    assert np.array_equal(out, expected)
    call(other.ctypes, x, out)
    assert np.array_equal(out, expected)
    del function
    gc.collect()
    assert watched() is None


@compiled
def test_compiled_code_calls_by_address():
    net = network(np.float64)
    x, out = draw.numbers(np.random.default_rng(1), (5, 6), np.float64), np.empty((5, 3))
    pointer = types.CPointer(types.float64)
    function = types.ExternalFunctionPointer(
        types.int64(pointer, pointer, types.int64), lambda function: ctypes.cast(function, ctypes.c_void_p).value
    )
    assert function.get_pointer(net.ctypes) == net.address
    direct = net.ctypes

    @njit
    def caller(x, out):
        return direct(x.ctypes, out.ctypes, x.shape[0])

    assert caller(x, out) == 0 and np.array_equal(out, net(x))

    @cfunc(types.float64(pointer))
    def first(row):
        result = np.empty((1, 3))
        direct(carray(row, (1, 6)).ctypes, result.ctypes, 1)
        return result[0, 0]

    assert first.ctypes(x[2].ctypes.data_as(first.ctypes.argtypes[0])) == net(x)[2, 0]


def exact(x):
    """The integral of the one-feature network below, from 0 to x, in mpmath."""
    mpmath = pytest.importorskip("mpmath")
    with mpmath.workdps(30):
        return float(mpmath.quad(lambda t: mpmath.tanh(2 * t - 1) * 3 + mpmath.tanh(t / 2 + 1) / 4 + 1, [0, 0.5, x]))


def curve(dtype=np.float64):
    w, b = np.array([[2.0, 0.5]], dtype), np.array([-1.0, 1.0], dtype)
    return nd.Sequential([nd.Dense(w, b, "tanh"), nd.Dense(np.array([[3.0], [0.25]], dtype), np.array([1.0], dtype))])


def test_scipy_integrates_a_network_of_one_feature():
    integrate = pytest.importorskip("scipy.integrate")
    function = curve().low_level_callable()
    gc.collect()
    value, error = integrate.quad(function, 0, 3, epsabs=1e-12, epsrel=1e-12)
    assert abs(value - exact(3)) < 1e-12 and error < 1e-11


def test_scipy_integrates_a_network_of_several_features():
    integrate = pytest.importorskip("scipy.integrate")
    wide = 20 if config.DISABLE_JIT else 1100  # more than the stack takes
    net = nd.Sequential([nd.Dense(np.ones((2, wide)), None, "relu"), nd.Dense(np.full((wide, 1), 1 / wide))])
    value, _ = integrate.nquad(net.low_level_callable(), [[0, 1], [0, 2]])
    assert abs(value - 3) < 1e-12  # of x + y
    given = net.low_level_callable()
    point = (ctypes.c_double * 3)(1, 2, 3)
    assert given.function(2, point, given.user_data) == net([1, 2])[0]
    assert np.isnan(given.function(3, point, given.user_data))


def test_networks_that_scipy_cannot_integrate_are_refused(monkeypatch):
    with pytest.raises(nd.DTypeError, match=r"^the network computes in float32 but .* use net\.astype\(float\)\.$"):
        curve(np.float32).low_level_callable()
    with pytest.raises(
        nd.ShapeError, match=r"^the network has 3 outputs but SciPy integrates functions that have 1\.$"
    ):
        network(np.float64).low_level_callable()
    monkeypatch.setitem(sys.modules, "scipy", None)
    with pytest.raises(nd.MissingDependencyError, match=r"^SciPy is not installed; run: python -m pip install scipy$"):
        curve().low_level_callable()
