"""Activations on the device: every one, every layout, NumPy and device arrays."""

import sys
from types import SimpleNamespace

import device_oracle
import numpy as np
import pytest

import numbadense as nd
from numbadense import activations
from numbadense._engine.cuda import device
from numbadense.activations import REGISTRY

cuda = None  # numba's module where a kernel below is run: the simulator looks for it among the globals of a kernel
BUILT_IN = list(REGISTRY)
SPECIAL = [-np.inf, -1e30, -90.0, -20.0, -4.5, -1.0, -1e-20, -0.0, 0.0, 0.3, 1.0, 4.5, 20.0, 80.0, 1e30, np.inf, np.nan]


@pytest.mark.parametrize("name", BUILT_IN)
def test_every_activation_agrees_with_its_formula(gpu, launches, name, dtype, rng):
    x = rng.normal(0, 3, (3, 9)).astype(dtype)
    y = getattr(nd.cuda, name)(x)
    assert type(y) is np.ndarray and y.dtype == dtype
    assert launches
    device_oracle.assert_close(name, y, x)


@pytest.mark.parametrize("name", [name for name in BUILT_IN if not REGISTRY[name].rowwise])
def test_limits_tails_zeros_and_nan_are_right(gpu, name, dtype):
    with np.errstate(over="ignore"):
        x = np.array(SPECIAL).astype(dtype)
    y = getattr(nd.cuda, name)(x)
    np.testing.assert_array_equal(y[[0, -2]], np.array(REGISTRY[name].limits, dtype))
    assert np.isnan(y[-1]) and not np.isnan(y[:-1]).any()
    device_oracle.assert_close(name, y[1:-2], x[1:-2])


def test_a_small_array_spans_several_blocks_and_their_threads_walk_on(gpu, launches, rng):
    x = rng.normal(size=30)
    np.testing.assert_array_equal(nd.cuda.relu(x), np.maximum(x, 0))
    [(blocks, threads)] = launches
    if device.simulated():
        assert blocks > 1 and blocks * threads < x.size


@pytest.mark.parametrize(
    "layout", ["reversed", "every second", "transposed", "broadcast", "big-endian", "read-only", "3-D"]
)
def test_numpy_arrays_of_any_layout_are_read_right(gpu, layout, rng):
    base = rng.normal(size=(6, 5)).astype(np.float32)
    x = {
        "reversed": base[::-1, ::-1],
        "every second": base[::2, ::2],
        "transposed": base.T,
        "broadcast": np.broadcast_to(base[0], (4, 5)),
        "big-endian": base.astype(">f4"),
        "read-only": base.view(),
        "3-D": base.reshape(2, 3, 5)[:, ::2],
    }[layout]
    if layout == "read-only":
        x.flags.writeable = False
    kept = x.copy()
    np.testing.assert_array_equal(nd.cuda.relu(x), np.maximum(kept, 0).astype(np.float32))
    np.testing.assert_array_equal(x, kept)


def test_integers_count_as_float64_and_half_precision_as_float32(gpu):
    for given, computed in ((np.int32, np.float64), (np.bool_, np.float64), (np.float16, np.float32)):
        y = nd.cuda.sigmoid(np.array([0, 1, 1], given))
        assert y.dtype == computed
        np.testing.assert_allclose(y, [0.5, 0.731058578630005, 0.731058578630005], rtol=1e-6)


def test_shapes_without_rows_or_dimensions(gpu, launches):
    assert nd.cuda.sigmoid(np.zeros((0, 3), np.float32)).shape == (0, 3)
    assert nd.cuda.softmax(np.zeros((2, 0))).shape == (2, 0)
    assert not launches
    one = nd.cuda.sigmoid(0.0)
    assert one == 0.5 and np.isscalar(one)
    assert nd.cuda.sigmoid(np.array(0.0)).shape == ()


def test_out_takes_the_result_and_may_be_x(gpu, rng):
    x = rng.normal(size=(3, 4))
    expected = np.maximum(x, 0)
    out = np.empty((3, 4))
    assert nd.cuda.relu(x, out) is out
    np.testing.assert_array_equal(out, expected)
    strided = np.zeros((3, 8), np.float32)[:, ::2]
    assert nd.cuda.relu(x, strided) is strided
    np.testing.assert_array_equal(strided, expected.astype(np.float32))
    assert nd.cuda.relu(x, x) is x
    np.testing.assert_array_equal(x, expected)


@pytest.mark.parametrize("from_x", range(4))
@pytest.mark.parametrize("from_out", range(4))
def test_arrays_that_begin_anywhere_are_read_and_written_right(gpu, rng, dtype, from_x, from_out):
    for size in (1, 2, 3, 5, 16, 17, 61):
        x, out = rng.normal(size=size + 8).astype(dtype), np.full(size + 8, -7, dtype)
        given, taken = gpu.to_device(x), gpu.to_device(out)
        nd.cuda.relu(given[from_x : from_x + size], taken[from_out : from_out + size])
        out[from_out : from_out + size] = np.maximum(x[from_x : from_x + size], 0)
        np.testing.assert_array_equal(taken.copy_to_host(), out)
        nd.cuda.relu(given[from_x : from_x + size], given[from_x : from_x + size])
        x[from_x : from_x + size] = np.maximum(x[from_x : from_x + size], 0)
        np.testing.assert_array_equal(given.copy_to_host(), x)


def test_device_arrays_stay_on_the_device(gpu, rng, dtype):
    x = rng.normal(size=(3, 5)).astype(dtype)
    on_device = gpu.to_device(x)
    y = nd.cuda.relu(on_device)
    assert type(y) is type(on_device)
    assert y.shape == (3, 5) and y.dtype == dtype
    np.testing.assert_array_equal(y.copy_to_host(), np.maximum(x, 0))
    np.testing.assert_array_equal(on_device.copy_to_host(), x)
    assert nd.cuda.relu(on_device, on_device) is on_device
    np.testing.assert_array_equal(on_device.copy_to_host(), np.maximum(x, 0))


def test_out_may_be_on_the_other_side(gpu, rng):
    x = rng.normal(size=7)
    expected = np.maximum(x, 0)
    on_host, on_device = np.empty(7), gpu.device_array(7, np.float64)
    assert nd.cuda.relu(gpu.to_device(x), on_host) is on_host
    np.testing.assert_array_equal(on_host, expected)
    assert nd.cuda.relu(x, on_device) is on_device
    np.testing.assert_array_equal(on_device.copy_to_host(), expected)


def test_strided_device_arrays_are_gathered(gpu, rng):
    x = rng.normal(size=(6, 8)).astype(np.float32)
    on_device = gpu.to_device(x)
    expected = np.maximum(x, 0)
    np.testing.assert_array_equal(nd.cuda.relu(on_device[::2, 1::3]).copy_to_host(), expected[::2, 1::3])
    np.testing.assert_array_equal(nd.cuda.relu(on_device[2, ::3]).copy_to_host(), expected[2, ::3])
    part = on_device[1:5:2, ::2]
    assert nd.cuda.relu(gpu.to_device(x[1:5:2, ::2].copy()), part) is part
    x[1:5:2, ::2] = expected[1:5:2, ::2]
    np.testing.assert_array_equal(on_device.copy_to_host(), x)


def test_overlapping_device_arrays_give_the_right_answer(gpu, rng):
    x = rng.normal(size=40)
    on_device = gpu.to_device(x)
    nd.cuda.relu(on_device[:-1], on_device[1:])
    np.testing.assert_array_equal(on_device.copy_to_host(), np.r_[x[0], np.maximum(x[:-1], 0)])


def test_any_cuda_array_interface_is_read_and_gives_a_numba_array(gpu, foreign, rng):
    x = rng.normal(size=(2, 6)).astype(np.float32)
    y = nd.cuda.softmax(foreign(x))
    assert type(y) is type(gpu.to_device(x))
    np.testing.assert_allclose(y.copy_to_host(), np.exp(x) / np.exp(x).sum(axis=1, keepdims=True), rtol=1e-5)


@pytest.mark.parametrize("library", ["cupy", "torch"])
def test_the_result_is_made_by_the_library_of_x(foreign, to_host, library, rng, monkeypatch):
    made = []

    def empty(shape, dtype):
        array = foreign(np.empty(shape, dtype))
        made.append(array)
        return array

    x = rng.normal(size=5).astype(np.float32)
    given = foreign(x)
    given.__class__ = type("Array", (type(given),), {"__module__": f"{library}._core"})
    given.new_empty = lambda shape, *, dtype: empty(shape, dtype)
    monkeypatch.setitem(sys.modules, library, SimpleNamespace(empty=empty, float32=np.float32))
    y = nd.cuda.relu(given)
    assert [y] == made
    np.testing.assert_array_equal(to_host(y), np.maximum(x, 0))


def test_a_stream_is_used_and_waited_for(gpu, rng):
    x = rng.normal(size=9)
    stream = gpu.stream()
    np.testing.assert_array_equal(nd.cuda.relu(x, stream=stream), np.maximum(x, 0))


def test_no_floating_point_warning_is_given(gpu, recwarn):
    nd.cuda.exp(np.array([1e4, -1e4, np.inf, np.nan], np.float32))
    nd.cuda.dense(np.full((1, 2), 1e38, np.float32), np.full((2, 1), 1e38, np.float32))
    assert not [str(warning.message) for warning in recwarn]


def test_a_device_function_serves_a_kernel_of_the_users(gpu, dtype, monkeypatch):
    monkeypatch.setitem(globals(), "cuda", gpu)
    gate = nd.cuda.device_function("sigmoid")
    soften = nd.cuda.device_function(nd.softmax)

    @gpu.jit
    def kernel(x, out, rows):
        i = cuda.grid(1)
        if i < x.size:
            out[i] = x[i] * gate(x[i])
        if i == 0:
            soften(rows[0])

    x, out, rows = np.linspace(-3, 3, 7).astype(dtype), np.empty(7, dtype), np.array([[1.0, 2.0, 3.0]], dtype)
    kernel[2, 4](x, out, rows)
    np.testing.assert_allclose(out, x / (1 + np.exp(-x)), rtol=1e-5)
    np.testing.assert_allclose(rows, np.exp([[1, 2, 3]]) / np.exp([1, 2, 3]).sum(), rtol=1e-5)


def test_a_registered_activation_is_an_equal(gpu):
    registry, names = dict(activations.REGISTRY), dict(activations._NAMES)
    try:

        @nd.activation
        def cubed_on_the_device(x):
            return x * x * x

        x = np.array([-2.0, 0.5, 3.0], np.float32)
        np.testing.assert_array_equal(nd.cuda.cubed_on_the_device(x), x**3)
        np.testing.assert_array_equal(nd.cuda.dense(x, np.eye(3, dtype=np.float32), None, "cubed_on_the_device"), x**3)
    finally:
        for held, kept in ((activations.REGISTRY, registry), (activations._NAMES, names)):
            held.clear()
            held.update(kept)
