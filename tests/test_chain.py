"""The steps that a file describes become layers: folded in float64, rounded once, or refused with their origin."""

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

import numbadense as nd
from numbadense.errors import ModelFormatError
from numbadense.io.chain import Activate, Linear, Scale, Step, build


def reference(steps, x):
    """Take the steps one after the other, in float64."""
    y = x.astype(np.float64)
    for step in steps:
        if isinstance(step, Linear):
            y = y @ step.w.astype(np.float64) + (0 if step.b is None else step.b)
        elif isinstance(step, Scale):
            y = y * step.scale + step.shift
        else:
            y = nd.dense(y, np.eye(y.shape[1]), activation=step.activation)
    return y


@st.composite
def chains(draw):
    """Return steps of any kind in any order, and their number of features in."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    width = n_in = draw(st.integers(1, 5))
    steps = []
    for kind in draw(st.lists(st.sampled_from(["linear", "plain", "scale", "number", "tanh", "relu"]), max_size=7)):
        if kind in ("linear", "plain"):
            n = draw(st.integers(1, 5))
            b = rng.uniform(-1, 1, n) if kind == "linear" else None
            steps.append(Linear(kind, rng.uniform(-1, 1, (width, n)), b))
            width = n
        elif kind == "scale":
            steps.append(Scale(kind, rng.uniform(-2, 2, width), rng.uniform(-1, 1, width)))
        elif kind == "number":
            steps.append(Scale(kind, float(rng.uniform(-2, 2)), np.array([rng.uniform(-1, 1)])))
        else:
            steps.append(Activate(kind, kind))
    return steps, n_in


@given(chains())
def test_a_network_does_what_its_steps_do(chain):
    steps, n_in = chain
    x = np.random.default_rng(0).uniform(-1, 1, (3, n_in))
    net = build(steps, n_in=n_in, dtype="float64")
    assert net.n_in == n_in
    np.testing.assert_allclose(net(x), reference(steps, x), rtol=1e-12, atol=1e-12)


def test_what_is_beside_nothing_keeps_its_bits_and_its_dtype():
    rng = np.random.default_rng(0)
    w, b = rng.standard_normal((3, 4)).astype(np.float32), rng.standard_normal(4).astype(np.float32)
    net = build([Linear("one", w, b), Activate("two", "relu"), Linear("three", w.T)])
    assert net.dtype == np.float32 and len(net.layers) == 2
    assert np.array_equal(net.layers[0].w, w) and np.array_equal(net.layers[0].b, b) and net.layers[1].b is None


def test_scales_are_folded_in_float64_and_rounded_once():
    w = np.array([[1 / 3], [3.0]], np.float32)
    net = build([Scale("norm", np.array([1 / 3, 7.0]), 0.1), Linear("dense", w, np.ones(1, np.float32))])
    assert len(net.layers) == 1 and net.dtype == np.float32
    exact = w.astype(np.float64)
    assert np.array_equal(net.layers[0].w, (exact * [[1 / 3], [7.0]]).astype(np.float32))
    assert np.array_equal(net.layers[0].b, (0.1 * exact.sum(axis=0) + 1).astype(np.float32))


def test_batch_normalisation_between_dense_and_activation_makes_no_layer():
    first = [Linear("a", np.eye(2)), Scale("bn", 2.0, 1.0), Activate("r", "relu")]
    net = build([*first, Scale("bn", 3.0), Linear("b", np.eye(2))])
    assert [layer.activation.name for layer in net.layers] == ["relu", "identity"]
    np.testing.assert_array_equal(net([[1.0, -4.0]]), [[9.0, 0.0]])


def test_an_activation_after_another_has_a_layer_of_its_own():
    net = build([Linear("a", np.eye(2)), Activate("r", "relu"), Activate("c", "clip(0, 1)")])
    np.testing.assert_array_equal(net([[5.0, -5.0]]), [[1.0, 0.0]])


@pytest.mark.parametrize(
    ("steps", "n_in", "text"),
    [
        ([Activate("layer 0 (ReLU)", "relu")], None, "layer 0 (ReLU) comes before any dense layer"),
        ([], None, "the network comes before any dense layer"),
        ([Linear("layer 1", np.ones(3))], None, "layer 1 has weights of shape (3,)"),
        ([Linear("layer 1", np.ones((3, 2)))], 4, "layer 1 takes 3 features but gets 4"),
        ([Linear("layer 1", np.ones((3, 2)), np.ones(3))], None, "layer 1 has biases of shape (3,)"),
        ([Linear("a", np.ones((3, 2))), Scale("bn", np.ones(3))], None, "bn is for (3,) features but gets 2"),
        ([Linear("a", np.ones((3, 2))), Scale("bn", np.ones((1, 2)))], None, "bn is for (1, 2) features but gets 2"),
        ([Linear("a", np.ones((3, 2))), Linear("b", np.ones((3, 2)))], None, "b takes 3 features but gets 2"),
        ([Linear("a", np.ones((3, 2))), Activate("b", "no")], None, "b has an activation that cannot be had"),
        ([Activate("act", "relu")], 10**9, "act has no dense layer to go into, and 1000000000 features"),
    ],
)  # fmt: skip
def test_steps_that_do_not_fit_are_refused_by_their_origin(steps, n_in, text):
    with pytest.raises(ModelFormatError) as caught:
        build(steps, n_in=n_in)
    assert text in str(caught.value)


def test_a_few_bytes_do_not_ask_for_many_wide_matrices():
    with pytest.raises(
        ModelFormatError, match=r"act 4 has no dense layer to go into, and 4096 features: .* be number 5"
    ):
        build([Activate(f"act {i}", "relu") for i in range(1000)], n_in=4096)


def test_steps_say_where_they_come_from():
    assert Step("layer 3 (Dropout)").origin == "layer 3 (Dropout)"
