"""Weights by name: trees of Flax, Haiku and Equinox, kept beside their outputs, and what is refused of a tree."""

import functools
import json
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import numbadense as nd

GOLDEN = Path(__file__).parent / "golden" / "trees"
CASES = [
    ("flax_linen", ("linen.Dense", "tanh")),
    ("flax_nnx", ("nnx.Linear", "silu")),
    ("haiku", ("haiku.Linear", "relu", "sigmoid")),
    ("equinox_mlp", ("equinox.MLP", "gelu", "log_sigmoid")),
    ("equinox_default", ("equinox.MLP", "relu")),
    ("equinox_sequential", ("equinox.Sequential", "Linear", "Lambda", "Dropout", "Identity", "hard_silu", "softmax")),
]
ACTIVATIONS = {"flax_linen": ["tanh"] * 11 + [None], "flax_nnx": ["silu", None], "haiku": ["relu", "sigmoid", None]}


@functools.cache
def golden():
    with np.load(GOLDEN / "trees.npz") as arrays:
        named = {name.replace("|", "/"): array for name, array in arrays.items()}
    return named, json.loads(named.pop("trees").item())["trees"]


@functools.cache
def equinox_class(module, name):
    """A class that looks like one of Equinox's."""
    base = object if name == "Module" else equinox_class("equinox._module._module", "Module")
    return type(name, (base,), {"__module__": module})


def module(kind, **attributes):
    made = equinox_class("equinox.nn._made", kind)()
    vars(made).update(attributes)
    return made


def function(module, name):
    """A function that looks like one of JAX's, and is not to run."""

    def made(x):
        pytest.fail("a function is not to run")

    made.__module__, made.__name__ = module, name
    return made


def tree_like(node):
    """What a description in the golden file describes."""
    if isinstance(node, str):
        return golden()[0][node]
    if isinstance(node, list):
        return tuple(map(tree_like, node))
    if "plain" in node:
        return node["plain"]
    if "function" in node:
        return function(*node["function"])
    if "class" in node:
        made = equinox_class(*node["class"])()
        vars(made).update({name: tree_like(part) for name, part in node["attributes"].items()})
        return made
    return {name: tree_like(part) for name, part in node.items()}


@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize(("name", "kinds"), CASES, ids=[name for name, _ in CASES])
def test_golden(name, kinds, bits):
    arrays, trees = golden()
    net = nd.load(tree_like(trees[name]), activations=ACTIVATIONS.get(name), dtype=f"float{bits}")
    expected = arrays[f"{name}:{bits}"]
    x = arrays["x"].astype(expected.dtype)
    bound = 4 * nd.testing.error_bound(x, net.layers, expected.dtype)
    assert (abs(net(x) - expected.astype(np.longdouble)) <= bound).all()
    assert all(kind in json.dumps(trees[name]) for kind in kinds if kind in ("Lambda", "Dropout", "softmax"))


def layer(k, n, name="kernel", seed=0):
    rng = np.random.default_rng(seed)
    return {name: rng.standard_normal((k, n)), ("b" if name == "w" else "bias"): rng.standard_normal(n)}


def widths(net):
    return [net.n_in, *(each.n_out for each in net.layers)]


def test_layers_are_in_the_order_of_their_numbers():
    names = ["Dense_0", "Dense_1", "Dense_10", "Dense_11", *(f"Dense_{i}" for i in range(2, 10))]
    tree = {"params": {name: layer(3, 3, seed=int(name[6:])) for name in names}}
    net = nd.load(tree, activations=[None] * 12)
    for index in range(12):
        assert np.array_equal(net.layers[index].w, tree["params"][f"Dense_{index}"]["kernel"])
    flat = {"linear_1": layer(3, 3, "w", 1), "linear_2": layer(3, 3, "w", 2), "linear": layer(3, 3, "w", 0)}
    net = nd.load(MappingProxyType(flat), activations=[None] * 3)
    assert np.array_equal(net.layers[0].w, flat["linear"]["w"]) and np.array_equal(
        net.layers[2].b, flat["linear_2"]["b"]
    )


def test_layers_without_numbers_are_in_the_only_order_that_fits():
    tree = {"decoder": layer(2, 4), "encoder": layer(4, 2), "head": layer(4, 1)}
    assert widths(nd.load(tree, activations=[None] * 3)) == [4, 2, 4, 1]
    tree = {"body_1": layer(3, 3, seed=1), "body_0": layer(3, 3, seed=0), "a": layer(2, 3), "z": layer(3, 1)}
    net = nd.load(tree, activations=[None] * 4)
    assert widths(net) == [2, 3, 3, 3, 1] and np.array_equal(net.layers[1].w, tree["body_0"]["kernel"])


def test_an_order_that_nothing_tells_is_the_mappings_unless_that_is_the_alphabets():
    tree = {"first": layer(3, 3, seed=1), "body": layer(3, 3, seed=2), "last": layer(3, 3, seed=3)}
    net = nd.load(tree, activations=[None] * 3)
    assert all(np.array_equal(net.layers[i].w, each["kernel"]) for i, each in enumerate(tree.values()))
    as_jax_has_it = {name: dict(sorted(each.items())) for name, each in sorted(tree.items())}
    with pytest.raises(
        nd.ModelFormatError, match=r"order, and their shapes fit in several orders: body \(3, 3\), first"
    ):
        nd.load(as_jax_has_it, activations=[None] * 3)
    net = nd.load([tree["first"], tree["body"], tree["last"]], activations=[None] * 3)
    assert np.array_equal(net.layers[2].w, tree["last"]["kernel"])


def test_what_a_weight_is_its_name_says():
    w = np.arange(9.0).reshape(3, 3)
    for name, expected in (("kernel", w), ("w", w), ("weight", w.T)):
        assert np.array_equal(nd.load({name: w}, activations=[None]).layers[0].w, expected)


def test_none_is_no_bias_and_halves_are_widened():
    ml_dtypes = pytest.importorskip("ml_dtypes")
    w = np.array([[1.5, 2.0]])
    assert nd.load({"w": w, "b": None}, activations=[None]).layers[0].b is None
    for dtype in (np.float16, ml_dtypes.bfloat16):
        net = nd.load({"w": w.astype(dtype)}, activations=[None])
        assert net.dtype == np.float32 and net.layers[0].w.tolist() == [[1.5, 2.0]]


@pytest.mark.parametrize(
    ("tree", "text"),
    [
        ({}, "the dict holds no weights"),
        ({"a": {}}, "the dict holds no weights"),
        (
            {"params": {"Dense_0": layer(2, 2), "LayerNorm_0": {"scale": np.ones(2)}}},
            r"params/LayerNorm_0/scale, which",
        ),
        ({"batch_stats": {"BatchNorm_0": {"mean": np.ones(2)}}}, r"batch_stats/BatchNorm_0/mean, .*whose epsilon"),
        ({"Conv_0": {"kernel": np.ones((3, 3, 1, 8))}}, r"Conv_0/kernel of shape \(3, 3, 1, 8\)"),
        ({"Embed_0": {"embedding": np.ones((3, 3))}}, r"Embed_0/embedding, which is of an embedding"),
        ({"rngs": {"count": np.ones(())}}, r"rngs/count, which is the state of random numbers: .* nnx\.Param"),
        ({"a": {"W": np.ones((3, 3))}}, r"a/W, which is not the name of weights or biases"),
        ({"a": {"bias": np.ones(3)}}, r"a/bias but no weights beside it"),
        ({"a": {"kernel": np.eye(3), "weight": np.eye(3)}}, r"a/kernel and a/weight, but a layer has one of them"),
        ({"a": {"w": np.ones((3, 3), int)}}, r"has a/w, which is a ndarray of dtype int64"),
        ({"a": {"w": "no"}}, r"has a/w, which is a str of dtype"),
        ({"a": {"w": [[1.0], [2.0, 3.0]]}}, r"a/w/0/0, which is not the name"),
        ({"a": {"w": np.ma.masked_array(np.eye(3))}}, r"has a/w, which cannot be read as an array"),
        ({"a_0": layer(3, 2), "a_1": layer(3, 2)}, r"layer a_1 takes 3 features but gets 2"),
        ({"a": layer(3, 2), "b": layer(3, 2)}, r"order, and no order was found in which their shapes fit"),
        ({f"{'x' * i}y": layer(3, 3) for i in range(40)}, r"and no order was found"),
    ],
)
def test_what_is_no_dense_layer_is_refused_by_its_path(tree, text):
    with pytest.raises(nd.ModelFormatError, match=text) as caught:
        nd.load(tree, activations=[None] * max(1, len(tree)))
    assert "\n" not in str(caught.value)


def test_a_tree_that_contains_itself_is_refused():
    tree = {}
    tree["again"] = tree
    with pytest.raises(nd.ModelFormatError, match="is more than 32 deep"):
        nd.load(tree, activations=[])


def test_a_tree_needs_an_activation_for_each_layer():
    tree = {f"a_{i}": layer(3, 3) for i in range(12)}
    with pytest.raises(nd.ModelFormatError, match=r"12 dense layers \(a_0, .*a_6, \.\.\., a_11\) and does not say"):
        nd.load(tree)
    with pytest.raises(nd.OptionError, match=r"12 dense layers .* but activations has 1: \['relu'\]"):
        nd.load(tree, activations=["relu"])


NAMES = st.sampled_from(["w", "b", "kernel", "bias", "weight", "a_0", "a_1", "a", "mean", "", "/", "9" * 5000])
LEAVES = st.sampled_from([np.eye(3), np.ones(3), None, "x", 1, np.ones((3, 2), np.float32), np.ones(()), object()])


@given(st.recursive(LEAVES, lambda part: st.dictionaries(NAMES, part, max_size=5), max_leaves=12))
def test_any_tree_is_refused_in_a_sentence_or_is_a_network(tree):
    try:
        nd.load({"params": tree}, activations=[None])
    except nd.NumbadenseError as error:
        assert "\n" not in str(error)


def linear(k, n):
    return module("Linear", weight=np.ones((n, k)), bias=None)


def mlp(**attributes):
    relu, none = function("jax.nn", "relu"), function("jax.nn", "identity")
    layers = (linear(3, 2), linear(2, 1))
    return module("MLP", **{"layers": layers, "activation": relu, "final_activation": none, **attributes})


def test_functions_that_are_not_known_by_name_need_activations():
    net = mlp(activation=lambda x: x * x)
    text = (
        r"the activation of layers\[0\] of the MLP is <lambda> of \S*test_trees, which is not known by name: known are"
    )
    with pytest.raises(nd.ModelFormatError, match=text):
        nd.load(net)
    loaded = nd.load(net, activations=["tanh", None])
    assert [each.activation.name for each in loaded.layers] == ["tanh", "identity"]
    with pytest.raises(
        nd.OptionError, match=r"the MLP has 2 dense layers \(layers\[0\], layers\[1\]\) but activations"
    ):
        nd.load(net, activations=["tanh"])
    sequential = module("Sequential", layers=(linear(3, 2), module("Lambda", fn=abs), linear(2, 1)))
    with pytest.raises(nd.ModelFormatError, match=r"layers\[1\] is abs of builtins, which is not known by name"):
        nd.load(sequential)
    assert nd.load(sequential, activations=["relu", None])([1.0, 1.0, 1.0]).tolist() == [6.0]


@pytest.mark.parametrize(
    ("source", "text"),
    [
        (mlp(scan=True), r"scan=True"),
        (mlp(final_activation=function("jax.nn", "softmax")), r"final_activation of the MLP is softmax of jax\.nn"),
        (mlp(layers=(linear(3, 2), module("Conv2d"))), r"layers\[1\] of the MLP is a Conv2d but must be an"),
        (module("LayerNorm"), r"the module, a LayerNorm, is not supported: supported are MLP, Sequential"),
        (module("Sequential", layers=(module("GRUCell"),)), r"layers\[0\], a GRUCell, is not supported"),
        (mlp(layers=(linear(3, 2), linear(3, 1))), r"layers\[1\] of the MLP takes 3 features but gets 2"),
    ],
)
def test_what_equinox_has_and_we_have_not_is_refused(source, text):
    with pytest.raises(nd.ModelFormatError, match=text):
        nd.load(source)


def test_a_subclass_of_an_equinox_module_is_refused():
    own = type("Own", (equinox_class("equinox.nn._mlp", "MLP"),), {"__module__": "mine"})()
    with pytest.raises(nd.ModelFormatError, match=r"the module, a mine\.Own, is not supported"):
        nd.load(own)
