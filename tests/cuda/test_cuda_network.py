"""Whole networks on the device."""

import pickle
from types import SimpleNamespace

import device_oracle
import numpy as np
import pytest

import numbadense as nd
from numbadense._engine.cuda import device

WIDE = 40 if device.simulated() else 300  # more than one launch takes


def network(widths, dtype, names, seed=0):
    rng = np.random.default_rng(seed)
    layers = [
        nd.Dense(rng.normal(size=(k, n)).astype(dtype), rng.normal(size=n).astype(dtype), name)
        for k, n, name in zip(widths[:-1], widths[1:], names, strict=True)
    ]
    return nd.Sequential(layers)


def test_a_network_agrees_with_the_loops_layer_by_layer(gpu, launches, dtype, rng):
    net = network((5, WIDE, 4, 3), dtype, ("sigmoid", "tanh", "identity"))
    x = rng.normal(size=(8, 5)).astype(dtype)
    y = net.to("cuda")(x)
    assert type(y) is np.ndarray and y.dtype == dtype and len(launches) == 3
    nd.testing.assert_forward_close(y, device_oracle.forward(x, net.layers), x, net.layers)


@pytest.mark.parametrize(
    ("widths", "expected"),
    [
        ((WIDE, 4, 6, 3), [1, 2]),
        ((5, 4, WIDE, 2), [1, 1, 1]),
        ((5, 4, 6, WIDE, 3, 7, 2, 4, WIDE), [2, 1, 1, 3, 1]),
        ((3, 2, 0, 4, 5, 2), [1, 1, 1, 2]),
        ((WIDE, WIDE, 4), [1, 1]),
        ((4, 5), [1]),
    ],
)
@pytest.mark.parametrize("precision", [None, "bf16"])
def test_layers_that_fit_one_launch_are_one_step_of_a_network_that_does_not(gpu, rng, widths, expected, precision):
    from numbadense._engine.cuda import whole

    net = network(widths, np.float32, [("tanh", "relu", "sigmoid")[i % 3] for i in range(len(widths) - 1)])
    there = net.to("cuda", precision=precision)
    steps = getattr(there._step, "steps", (there._step,))
    assert [len(step.layers) if isinstance(step, whole.Whole) else 1 for step in steps] == expected
    assert len(there.explain(3).splitlines()) == 3 + len(expected)
    x = rng.normal(size=(3, widths[0])).astype(np.float32)
    y = there(x)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(whole, "fits", lambda *arguments: False)
        apart = net.to("cuda", precision=precision)
    assert len(apart._step.steps if len(widths) > 2 else [1]) == len(widths) - 1
    if precision is None:
        np.testing.assert_array_equal(y, apart(x))
    else:
        np.testing.assert_allclose(y, apart(x), rtol=0.05, atol=0.05)


def test_a_network_ends_in_softmax(gpu, rng):
    net = network((4, 6, 3), np.float32, ("relu", "softmax"))
    x = rng.normal(size=(5, 4)).astype(np.float32)
    y = net.to("cuda")(x)
    np.testing.assert_allclose(y.sum(axis=1), 1, rtol=1e-6)
    nd.testing.assert_forward_close(y, device_oracle.forward(x, net.layers), x, net.layers)


def test_x_is_cast_to_the_dtype_of_the_network(gpu, rng):
    net = network((3, 2), np.float32, ("sigmoid",)).to("cuda")
    x = rng.normal(size=(4, 3))
    for given in (x, x.tolist(), gpu.to_device(x)):
        y = net(given)
        y = y if isinstance(y, np.ndarray) else y.copy_to_host()
        assert y.dtype == np.float32
        np.testing.assert_array_equal(y, net(x.astype(np.float32)))


def test_leading_axes_a_single_row_and_no_rows(gpu, rng):
    net = network((3, 4, 2), np.float64, ("relu", "identity"))
    on_device = net.to("cuda")
    x = rng.normal(size=(2, 2, 3))
    expected = device_oracle.forward(x.reshape(4, 3), net.layers).reshape(2, 2, 2)
    np.testing.assert_allclose(on_device(x), expected, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(on_device(x[0, 0]), expected[0, 0], rtol=1e-12, atol=1e-12)
    assert on_device(np.zeros((0, 3))).shape == (0, 2)


def test_out_is_filled_on_either_side_and_may_be_x(gpu, rng):
    net = network((3, 4, 3), np.float64, ("relu", "identity"))
    on_device = net.to("cuda")
    x = rng.normal(size=(4, 3))
    expected = device_oracle.forward(x, net.layers)
    out = np.empty((4, 3))
    assert on_device(x, out) is out
    np.testing.assert_allclose(out, expected, rtol=1e-12, atol=1e-12)
    y = gpu.to_device(x)
    assert on_device(y, out=y) is y
    np.testing.assert_allclose(y.copy_to_host(), expected, rtol=1e-12, atol=1e-12)


def test_a_layer_without_bias_and_a_layer_of_no_width(gpu):
    layers = [nd.Dense(np.ones((3, 2))), nd.Dense(np.ones((2, 0))), nd.Dense(np.ones((0, 2)), [1.5, -2.0], "relu")]
    np.testing.assert_array_equal(nd.Sequential(layers[:1]).to("cuda")(np.ones((2, 3))), np.full((2, 2), 3.0))
    np.testing.assert_array_equal(nd.Sequential(layers).to("cuda")(np.ones((2, 3))), [[1.5, 0.0], [1.5, 0.0]])


def test_whatever_has_layers_can_be_uploaded(gpu):
    layer = SimpleNamespace(w=np.array([[2.0], [1.0]]), b=None, activation="relu")
    net = nd.cuda.DeviceSequential.from_network(SimpleNamespace(layers=[layer]))
    np.testing.assert_array_equal(net([[3.0, -1.0]]), [[5.0]])


def test_it_says_what_it_is_and_refuses_to_be_pickled(gpu):
    net = network((3, 4, 2), np.float32, ("relu", "softmax")).to("cuda")
    assert repr(net) == "DeviceSequential(3-4-2, relu, softmax, float32)"
    assert (net.n_in, net.n_out, net.dtype) == (3, 2, np.float32)
    with pytest.raises(TypeError, match="cannot be pickled: its weights are in the memory of this process's device"):
        pickle.dumps(net)
