"""Networks from plain arrays and flat vectors, and back."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import numbadense as nd
from numbadense import vectors


@given(
    st.lists(st.integers(0, 5), min_size=2, max_size=5),
    st.sampled_from(vectors.LAYOUTS),
    st.sampled_from([np.float32, np.float64]),
)
def test_a_vector_comes_back_as_it_was(sizes, layout, dtype):
    pairs = list(itertools.pairwise(sizes))
    count = sum(k * n + n * ("b" in layout) for k, n in pairs)
    vector = np.random.default_rng(0).standard_normal((2, count)).astype(dtype)
    net = nd.Sequential.from_vector(vector[0], sizes, layout=layout)
    assert net.dtype == dtype and [each.w.shape for each in net.layers] == pairs
    back = net.to_vector(layout=layout)
    assert back.dtype == dtype and np.array_equal(back, vector[0])
    population = nd.Population.from_vectors(vector, sizes, layout=layout)
    assert np.array_equal(population.to_vectors(layout=layout), vector)
    assert np.array_equal(population[0].layers[-1].w, net.layers[-1].w)


@pytest.mark.parametrize(
    ("layout", "w", "b"),
    [
        ("w, b", [[0, 1], [2, 3], [4, 5]], [6, 7]),
        ("b, w", [[2, 3], [4, 5], [6, 7]], [0, 1]),
        ("w.T, b", [[0, 3], [1, 4], [2, 5]], [6, 7]),
        ("b, w.T", [[2, 5], [3, 6], [4, 7]], [0, 1]),
        ("w", [[0, 1], [2, 3], [4, 5]], None),
        ("w.T", [[0, 3], [1, 4], [2, 5]], None),
    ],
)
def test_layouts_are_what_their_names_say(layout, w, b):
    layer = nd.Sequential.from_vector(np.arange(8 if "b" in layout else 6), (3, 2), ["relu"], layout=layout).layers[0]
    assert layer.w.tolist() == w and layer.activation.name == "relu"
    assert layer.b is None if b is None else layer.b.tolist() == b


def test_the_layout_of_torch_is_the_one_that_is_said():
    torch = pytest.importorskip("torch")
    module = torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.Tanh(), torch.nn.Linear(6, 2))
    vector = torch.nn.utils.parameters_to_vector(module.parameters()).detach().numpy()
    net = nd.Sequential.from_vector(vector, [4, 6, 2], ["tanh", None], layout="w.T, b")
    assert np.array_equal(net.layers[1].w, nd.load(module).layers[1].w)


def test_biases_that_a_layer_has_not_are_zeros_in_a_vector():
    net = nd.Sequential([nd.Dense([[1.0, 2.0]])])
    assert net.to_vector().tolist() == [1, 2, 0, 0] and net.to_vector(layout="w").tolist() == [1, 2]
    assert nd.stack([net, net]).to_vectors(layout="b, w").tolist() == [[0, 0, 1, 2]] * 2


def test_a_vector_is_copied():
    vector = np.zeros(2)
    net = nd.Sequential.from_vector(vector, [1, 1])
    vector[:] = 1
    assert net.to_vector().tolist() == [0, 0]


def test_networks_at_half_size_have_vectors_too():
    net = nd.Sequential.from_vector([1.0, 2.0, 3.0], [2, 1]).astype("float16")
    assert net.to_vector().dtype == np.float32 and net.to_vector().tolist() == [1, 2, 3]


def test_arrays_by_layer_make_a_network():
    net = nd.Sequential.from_arrays([np.eye(2), [[1.0], [1.0]]], [[1.0, -9.0], None], ["relu", None])
    assert net([1.0, 2.0]).tolist() == [2.0] and net.layers[1].b is None
    assert nd.Sequential.from_arrays([np.eye(2)]).layers[0].activation.name == "identity"
    assert isinstance(net, nd.Sequential)


ERRORS = [
    (
        lambda: nd.Sequential.from_vector(np.zeros(8), [2, 3, 1]),
        nd.ShapeError,
        r"vector has 8 parameters but layers of 2-3-1 have 13 in the layout 'w, b': vector\.shape=\(8,\); check layer_",
    ),
    (
        lambda: nd.Sequential.from_vector(np.zeros((1, 9)), [2, 3]),
        nd.ShapeError,
        r"vector has 2 dimensions but must have",
    ),
    (
        lambda: nd.Population.from_vectors(np.zeros(9), [2, 3]),
        nd.ShapeError,
        r"vectors has 1 dimension but must have 2, \(",
    ),
    (
        lambda: nd.Sequential.from_vector(np.zeros(9), [2]),
        nd.OptionError,
        r"layer_sizes is \[2\] but must be the number",
    ),
    (lambda: nd.Sequential.from_vector(np.zeros(9), [2, 1.5]), nd.OptionError, r"layer_sizes is \[2, 1\.5\]"),
    (lambda: nd.Sequential.from_vector(np.zeros(9), 3), nd.OptionError, r"layer_sizes is 3 but"),
    (
        lambda: nd.Sequential.from_vector(np.zeros(9), [2, 3], layout="W"),
        nd.OptionError,
        r"layout is 'W' but must be one",
    ),
    (lambda: nd.Sequential.from_vector(["a"] * 9, [2, 3]), nd.DTypeError, r"dtype"),
    (
        lambda: nd.Sequential.from_vector(np.zeros(9), [2, 3], "relu"),
        nd.OptionError,
        r"activations is 'relu' but must be a list with one for each of 1 layers; pass \[None\], for example",
    ),
    (lambda: nd.Sequential.from_arrays([np.eye(2)], [None, None]), nd.ShapeError, r"there are 2 biases but 1 weights"),
    (
        lambda: nd.Sequential.from_arrays(np.zeros((1, 2, 2))),
        nd.OptionError,
        r"weights is a ndarray but must be a list",
    ),
    (lambda: nd.Sequential.from_arrays([]), nd.ShapeError, r"a network has 0 layers"),
    (
        lambda: nd.Sequential.from_arrays([np.eye(2)], [np.ones(2)]).to_vector(layout="w.T"),
        nd.OptionError,
        r"layout is 'w\.T', which has no biases, but layer 0 has them; pass 'w\.T, b'",
    ),
]


@pytest.mark.parametrize(("call", "error", "text"), ERRORS)
def test_what_does_not_fit_is_refused_with_both_counts(call, error, text):
    with pytest.raises(error, match=text):
        call()
