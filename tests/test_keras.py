"""Files of Keras 2 and 3: what Keras itself gave for them, and what is refused."""

import functools
import io
import json
import random
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import mutations
import numpy as np
import pytest

import numbadense as nd
from numbadense.testing import error_bound

try:
    import h5py
except ImportError:
    h5py = None

needs_h5py = pytest.mark.skipif(h5py is None, reason="makes bad files with h5py")


def opened(buffer):
    """Open an HDF5 file to change it, or skip where there is no h5py."""
    if h5py is None:
        pytest.skip("makes bad files with h5py")
    return h5py.File(buffer, "r+")


HERE = Path(__file__).parent / "golden" / "keras"
MLP = ("Normalization", "Dense", "relu", "BatchNormalization", "Dropout", "tanh", "softmax")
NESTED = ("Sequential", "Functional", "Dense", "LeakyReLU", "BatchNormalization", "sigmoid", "tanh")
LAYERS = ("LeakyReLU", "ELU", "PReLU", "Softmax")
CASES_OF_BOTH = [
    ("mlp_float32.keras", MLP),
    ("mlp_float64.keras", MLP),
    ("mlp_float32.h5", MLP),
    ("mlp_float64.h5", MLP),
    ("functional.keras", MLP),
    ("functional.h5", MLP),
    ("nested.keras", NESTED),
    ("nested.h5", NESTED),
    ("nested_functional.keras", NESTED),
    ("nested_functional.h5", NESTED),
    ("activation_layers.keras", LAYERS),
    ("activation_layers.h5", LAYERS),
    ("relu_layers.keras", ("ReLU",)),
    ("dropped.keras", ("GaussianNoise", "GaussianDropout", "AlphaDropout", "ActivityRegularization", "Activation")),
    ("image.keras", ("Rescaling", "Reshape", "Flatten")),
    ("normalizations.h5", ("Normalization",)),
    ("mixed_float16.h5", ("Dense", "mixed_float16")),
    ("float16.keras", ("Dense", "float16")),
    ("functions_bounded.keras", ("tanh", "sigmoid", "softsign", "relu6", "softmax", "hard_sigmoid")),
    ("functions_linear_unit.keras", ("elu", "selu", "leaky_relu", "relu", "linear")),
    ("functions_smooth.keras", ("gelu", "mish", "silu", "swish", "softplus", "exponential")),
]
CASES = [
    *((f"2/{name}", kinds) for name, kinds in CASES_OF_BOTH),
    ("2/thresholded.keras", ("ThresholdedReLU",)),
    *((f"3/{name}", kinds) for name, kinds in CASES_OF_BOTH),
    ("3/bfloat16.keras", ("Dense", "bfloat16")),
    ("3/functions_hard.keras", ("hard_silu", "hard_swish", "hard_tanh", "soft_shrink", "hard_shrink")),
    ("3/functions_more.keras", ("celu", "log_sigmoid", "log_softmax")),
    ("3/operations.keras", ("gelu approximate", "operations", "threshold")),
]
# TensorFlow rounds the slope of leaky_relu and the root of 2 in gelu to float32, in float64 too.
ROUGH = ("2/functions_linear_unit.keras", "2/functions_smooth.keras")


@functools.cache
def files():
    """The files as Keras wrote them, by major version and name."""
    found = {}
    for major in "23":
        with tarfile.open(HERE / f"keras{major}.tar.xz") as archive:
            found |= {f"{major}/{member.name}": archive.extractfile(member).read() for member in archive}
    return found


@functools.cache
def outputs():
    with np.load(HERE / "outputs.npz") as arrays:
        return dict(arrays)


@pytest.fixture
def load(tmp_path):
    """Load a golden file, or one of other content under its suffix."""

    def load(name, content=None, **options):
        path = tmp_path / ("net" + Path(name).suffix)
        path.write_bytes(files()[name] if content is None else content)
        return nd.load(path, **options)

    return load


@pytest.fixture
def refused(load):
    def refused(name, text, content=None):
        with pytest.raises(nd.ModelFormatError) as caught:
            load(name, content)
        assert text in str(caught.value)
        assert "\n" not in str(caught.value) and "net." in str(caught.value)

    return refused


def assert_within(actual, expected, bound):
    distance = abs(actual.astype(np.longdouble) - expected)
    assert (distance <= bound).all(), f"{distance.max():.3g} where {bound.flat[distance.argmax()]:.3g} is allowed"


@pytest.mark.parametrize(("name", "kinds"), CASES, ids=[name for name, _ in CASES])
def test_golden(name, kinds, load):
    net, x, y = load(name), outputs()[f"{name}/x"], outputs()[f"{name}/y"]
    assert net.metadata["source"].startswith(f"keras {name[0]}.")
    assert net.dtype == y.dtype and net.n_in == x.shape[1]
    bound = error_bound(x, net.layers, y.dtype)
    if y.dtype == np.float64:  # Keras' own roundings are bounded alike, with one more each for what is folded here
        assert_within(net(x.astype(np.float64)), y, 4 * bound)
        return
    exact = outputs()[f"{name}/exact"]
    assert_within(net(x), exact, bound)
    wide = load(name, dtype="float64")
    known = np.float32 if name in ROUGH else np.float64
    assert_within(wide(x.astype(np.float64)), exact, 4 * error_bound(x, wide.layers, known))
    if "float16" not in name:
        assert_within(net(x), y, 4 * bound)


def test_the_cases_are_all_the_files():
    assert {name for name, _ in CASES} == {name for name in files() if "refused" not in name}


KNOWN = "is of a kind that cannot be read: known are Activation, "


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("2/refused_axis.keras", "(Dense 'dense_2') takes examples of shape (2, 4): only flat ones can be read"),
        ("2/refused_branch.keras", "'input_1' branches, into layer 1 (Dense 'left') and layer 2 (Dense 'right')"),
        ("2/refused_custom.keras", "layer 0 is of the class 'mine>Dense', not Keras' own"),
        ("2/refused_custom_function.keras", "has the activation 'mine>doubled', which cannot be read: known are celu,"),
        ("2/refused_lambda.keras", f"layer 0 (Lambda 'lambda') {KNOWN}"),
        ("2/refused_layer_norm.keras", f"layer 1 (LayerNormalization 'layer_normalization') {KNOWN}"),
        ("2/refused_merge.keras", "layer 2 (Add 'add') merges 2 inputs: only models that are a line can be read"),
        ("2/refused_prelu.keras", "has 4 slopes that differ, and only one for all can be read: give it shared_axes"),
        ("2/refused_shared.keras", "layer 1 (Dense 'dense') is called 2 times, and layers have to be called once"),
        ("2/refused_training.keras", "(Dropout 'dropout') is called with training=True, which cannot be read"),
        ("3/refused_axis.keras", "(Dense 'dense_2') takes examples of shape (2, 4): only flat ones can be read"),
        ("3/refused_branch.h5", "'input_layer' branches, into layer 1 (Dense 'left') and layer 2 (Dense 'right')"),
        ("3/refused_branch.keras", "'input_layer' branches, into layer 1 (Dense 'left') and layer 2 (Dense 'right')"),
        ("3/refused_custom.h5", f"layer 0 (mine>Dense 'dense_5') {KNOWN}"),
        ("3/refused_custom.keras", "layer 0 is of the class 'mine>Dense', not Keras' own"),
        ("3/refused_custom_function.keras", "has the activation 'mine>doubled', which cannot be read: known are celu,"),
        ("3/refused_int8.keras", "layer 0 (Dense 'dense_7') has the dtype policy 'QuantizedDTypePolicy' but float16,"),
        ("3/refused_lambda.keras", f"layer 0 (Lambda 'lambda') {KNOWN}"),
        ("3/refused_layer_norm.keras", f"layer 1 (LayerNormalization 'layer_normalization') {KNOWN}"),
        ("3/refused_lora.keras", "layer 0 (Dense 'dense') has lora_rank, and only plain weights can be read"),
        ("3/refused_merge.h5", "layer 2 (Add 'add') merges 2 inputs: only models that are a line can be read"),
        ("3/refused_merge.keras", "layer 2 (Add 'add') merges 2 inputs: only models that are a line can be read"),
        ("3/refused_multiply.keras", "layer 2 (Multiply 'multiply') is called on more than another layer"),
        ("3/refused_prelu.keras", "has 4 slopes that differ, and only one for all can be read: give it shared_axes"),
        ("3/refused_shared.keras", "layer 1 (Dense 'dense') is called 2 times, and layers have to be called once"),
        ("3/refused_training.keras", "(Dropout 'dropout') is called with training=True, which cannot be read"),
    ],
)
def test_models_that_are_no_line_of_known_layers_are_refused_by_name(name, text, refused):
    refused(name, text)


# Files made of others: `change` has the description, which it may replace, and then `damage` the weights.


def changed(name, change=lambda config: None, damage=None, metadata=None):
    content = files()[name]
    if name.endswith(".h5"):
        with opened(buffer := io.BytesIO(content)) as file:
            config = json.loads(file.attrs["model_config"])
            config = change(config) or config
            file.attrs["model_config"] = json.dumps(config)
            if damage is not None:
                damage(file)
        return buffer.getvalue()
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    config = json.loads(members["config.json"])
    members["config.json"] = json.dumps(change(config) or config)
    if metadata is not None:
        members["metadata.json"] = json.dumps(metadata)
    if damage is not None:
        with opened(buffer := io.BytesIO(members["model.weights.h5"])) as file:
            damage(file)
        members["model.weights.h5"] = buffer.getvalue()
    return zipped(members)


def zipped(members, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(buffer := io.BytesIO(), "w", compression) as archive:
        for name, member in members.items():
            archive.writestr(name, member)
    return buffer.getvalue()


def members(name="3/float16.keras"):
    with zipfile.ZipFile(io.BytesIO(files()[name])) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def with_weights(content):
    return zipped({**members(), "model.weights.h5": content})


def layer(index, **entries):
    """A change of one layer's configuration."""
    return lambda config: config["config"]["layers"][index]["config"].update(entries)


def activated(load, given, name="3/dropped.keras", metadata=None):
    """The activation of the golden network's Activation layer, once that is `given`."""
    content = changed(name, layer(6, activation=given), metadata=metadata)
    return [each.activation.name for each in load(name, content).layers]


def own(kind, **config):
    return {"module": "keras.layers", "class_name": kind, "config": config, "registered_name": None}


@pytest.mark.parametrize(
    ("given", "name"),
    [
        (None, "identity"),
        ("exp", "exp"),
        ({"module": "builtins", "class_name": "function", "config": "relu6"}, "clip(low=0.0, high=6.0)"),
        (own("LeakyReLU"), "leaky_relu(alpha=0.3)"),
        (own("LeakyReLU", alpha=0.25), "leaky_relu(alpha=0.25)"),
        (own("ELU"), "elu(alpha=1.0)"),
        (own("Softmax", axis=[-1]), "softmax"),
        (own("ReLU", threshold=0.5), "threshold(threshold=0.5, value=0.0)"),
        (own("ThresholdedReLU"), "threshold(threshold=1.0, value=0.0)"),
    ],
)
def test_an_activation_may_be_a_function_or_a_layer_of_default_parameters(given, name, load):
    assert name in activated(load, given)[:1] + activated(load, given, "2/dropped.keras")[:1]


def test_a_hard_sigmoid_is_that_of_the_version(load, refused):
    assert activated(load, "hard_sigmoid")[0] == "hard_sigmoid"
    assert activated(load, "hard_sigmoid", "2/dropped.keras")[0] == "hard_sigmoid(alpha=0.2, beta=0.5)"
    content = changed("3/dropped.keras", layer(6, activation="hard_sigmoid"), metadata={})
    refused("3/dropped.keras", "is a hard_sigmoid, and the file does not say of which version of Keras", content)


@pytest.mark.parametrize(
    ("index", "entries", "text"),
    [
        (1, {"units": 5}, "has a kernel of shape (4, 4) but 5 units: the description and the weights are not of the s"),
        (1, {"use_bias": False}, "has 2 weights but should have 1, kernel first"),
        (1, {"use_bias": "no"}, "has no as its use_bias, and should have true or false"),
        (1, {"activation": "squareplus"}, "has the activation 'squareplus', which cannot be read: known are celu, "),
        (1, {"activation": {"class_name": "function", "config": "f", "module": "mine"}}, "the activation 'mine.f', "),
        (1, {"activation": own("PReLU")}, "has a PReLU as its activation: make it a layer of its own"),
        (1, {"activation": own("Softmax", axis=0)}, "is along axis 0, and only that of features can be read"),
        (1, {"activation": own("LeakyReLU", alpha="x")}, "has x in its alpha, and should have finite numbers"),
        (1, {"activation": own("LeakyReLU", alpha=[1, 2])}, "has 2 numbers as its alpha, and should have one"),
        (1, {"activation": own("ELU", alpha=1e999)}, "has inf in its alpha, and should have finite numbers"),
        (
            1,
            {"activation": own("ReLU", max_value=1, threshold=2)},
            "has an activation that cannot be had: activation b",
        ),
        (1, {"dtype": {"class_name": "DTypePolicyMap", "config": {}}}, "has the dtype policy 'DTypePolicyMap' but f"),
        (1, {"name": 3}, "layer 0 has no name: the description is damaged"),
        (0, {"batch_shape": [None, 5]}, "takes 4 features but gets 5"),
        (0, {"batch_shape": [None, 2, 2]}, "takes examples of shape (2, 2): only flat ones can be read"),
        (0, {"batch_shape": [None, "4"]}, "has the input shape [None, '4'], and should have a list of sizes"),
        (0, {"batch_shape": [None, 10**30]}, "and should have a list of sizes"),
    ],
)
def test_configurations_that_make_no_sense_are_refused(index, entries, text, refused):
    def change(config):
        if "batch_shape" in entries:
            del config["config"]["build_input_shape"]
        layer(index, **entries)(config)

    refused("3/dropped.keras", text, changed("3/dropped.keras", change))


@pytest.mark.parametrize(
    ("name", "index", "entries", "text"),
    [
        ("mlp_float32.keras", 3, {"axis": 0}, "is along axis 0, and only that of features can be read"),
        ("mlp_float32.keras", 3, {"scale": False}, "has 4 weights but should have 3, beta, moving_mean, moving_var"),
        ("mlp_float32.keras", 3, {"epsilon": -9.0}, "has a negative variance"),
        ("image.keras", 1, {"scale": [1, 2, 3]}, "takes examples of shape (2, 3): only flat ones can be read"),
        ("image.keras", 2, {"target_shape": [-1, -1]}, "has the target shape [-1, -1], which cannot be read"),
        ("image.keras", 2, {"target_shape": [4, -1]}, "makes [4, -1] of examples of shape (2, 3), which cannot be"),
        ("image.keras", 2, {"target_shape": [7]}, "makes [7] of examples of shape (2, 3), which cannot be"),
        ("image.keras", 4, {"data_format": "channels_first"}, "moves channels to the end: only channels_last"),
        ("image.keras", 6, {"target_shape": [3, 1, 1]}, None),
        ("image.keras", 7, {"axis": 0}, None),
        ("normalizations.h5", 1, {"mean": [1.0]}, "has means of shape (1,) but variances of (4,)"),
        ("normalizations.h5", 1, {"mean": [[1], 2]}, "has [1] in its mean, and should have finite numbers"),
        ("normalizations.h5", 1, {"mean": [[1, 0.5, 2, -1]], "variance": [[1, 4, 0.25, 0.0625]]}, None),
        ("normalizations.h5", 1, {"invert": None}, "has None as its invert, and should have true or false"),
    ],
)
def test_layers_of_other_shapes_are_followed_or_refused(name, index, entries, text, load, refused):
    content = changed(f"3/{name}", layer(index, **entries))
    if text is None:
        x = outputs()[f"3/{name}/x"]
        assert np.array_equal(load(name, content)(x), load(f"3/{name}")(x))
    else:
        refused(name, text, content)


def test_outputs_that_are_not_flat_are_refused(refused):
    def change(config):
        del config["config"]["layers"][4:]

    refused(
        "3/image.keras",
        "its outputs have the shape (3, 2), but those of a network are flat",
        changed("3/image.keras", change),
    )


def test_an_input_shape_may_be_unknown(load):
    def change(config):
        del config["config"]["layers"][0]
        config["config"].pop("build_input_shape", None)

    for name in ("3/mlp_float32.keras", "2/mlp_float32.h5"):
        x = outputs()[f"{name}/x"]
        assert np.array_equal(load(name, changed(name, change))(x), load(name)(x))


def test_an_input_of_integers_is_refused(refused):
    name, text = "3/mlp_float32.keras", "takes numbers of 'int32', to which Keras casts them"
    refused(name, text, changed(name, lambda config: config["config"]["layers"][0]["config"].update(dtype="int32")))


def test_a_graph_that_is_damaged_is_refused(refused):
    def nodes(index, given):
        return lambda config: config["config"]["layers"][index].update(inbound_nodes=given)

    def tensor(name, at=0):
        return {"class_name": "__keras_tensor__", "config": {"keras_history": [name, 0, at]}}

    first = [{"args": [tensor("normalization")], "kwargs": {}}]
    for change, text in [
        (nodes(1, None), "has no inbound_nodes: the description is damaged"),
        (nodes(1, []), "is called 0 times"),
        (nodes(1, first), "'normalization' branches, into layer 1 (Normalization"),
        (nodes(2, [{"args": [tensor("nothing")], "kwargs": {}}]), "has no way from its input to 'nothing'"),
        (nodes(1, [{"args": [tensor("x", 1)], "kwargs": {}}]), "the calls of its layers cannot be read"),
        (nodes(1, [[["x"]]]), "the calls of its layers cannot be read"),
        (lambda config: config["config"].update(output_layers=[]), "has 1 inputs and 0 outputs"),
        (lambda config: config["config"].update(output_layers=["dropout", 0, 0]), "is no line from its input to its"),
        (layer(2, name="normalization"), "names; save it again"),
    ]:
        refused("3/functional.keras", text, changed("3/functional.keras", change))


# Weights that are not plain arrays in the file.

KERNEL = "layers/dense/vars/0"
IN_PARTS = "is compressed, in other files or none at all"
NOT_WHOLE = "is not in one piece, as Keras writes arrays"
NO_FLOATS = "is not of float16, float32, float64 or bfloat16"


def in_place_of(path, make):
    """Put something else where a weight was."""

    def damage(file):
        group, name = path.rsplit("/", 1)
        del file[path]
        make(file[group], name)

    return damage


def dataset(**options):
    return lambda group, name: group.create_dataset(name, **options)


def virtual(group, name):
    layout = h5py.VirtualLayout((4, 4), "f4")
    layout[:] = h5py.VirtualSource("elsewhere.h5", "w", (4, 4))
    group.create_virtual_dataset(name, layout)


@needs_h5py
@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda g, n: g.__setitem__(n, h5py.ExternalLink("elsewhere", "w")), "is of a kind that Keras does not write"),
        (lambda g, n: g.__setitem__(n, h5py.SoftLink("/layers/dense/vars/1")), "is a link to elsewhere"),
        (dataset(shape=(4, 4), dtype="f4", external=[("/etc/passwd", 0, 64)]), IN_PARTS),
        (virtual, NOT_WHOLE),
        (dataset(data=np.zeros((4, 4), "f4"), chunks=(2, 2)), NOT_WHOLE),
        (dataset(data=np.zeros((4, 4), "f4"), compression="gzip"), IN_PARTS),
        (dataset(shape=(1 << 20, 1 << 20), dtype="f4"), "it says more than a file of its size can"),
        (dataset(shape=(1 << 20, 1 << 20), dtype="f4", chunks=(8, 8)), NOT_WHOLE),
        (lambda g, n: g.create_dataset(n, data=h5py.Empty("f4")), "has no shape that can be read"),
        (dataset(data=np.zeros((4, 4), "i4")), NO_FLOATS),
        (dataset(data=np.zeros((4, 4), "c8")), NO_FLOATS),
        (dataset(data=np.zeros((4, 4), [("a", "f4")])), NO_FLOATS),
        (dataset(data=np.zeros((4, 4), "V2")), NO_FLOATS),
        (lambda g, n: g.create_dataset(n, data=["text"], dtype=h5py.string_dtype()), NO_FLOATS),
        (dataset(data=np.zeros((4, 4, 1), "f4")), "has a kernel of shape (4, 4, 1) but 4 units"),
        (dataset(data=np.zeros(4, "f4")), "has a kernel of shape (4,) but 4 units"),
        (dataset(data=np.zeros((5, 4), "f4")), "takes 5 features but gets 4"),
        (lambda g, n: g.create_group(n), IN_PARTS),
        (lambda g, n: g.__setitem__("x", np.zeros((4, 4), "f4")), "has no '0'"),
    ],
)  # fmt: skip
def test_arrays_that_are_not_plain_are_refused(make, text, refused):
    refused("3/float16.keras", text, changed("3/float16.keras", damage=in_place_of(KERNEL, make)))


@needs_h5py
def test_arrays_of_the_other_byte_order_are_read(load):
    def swap(group, name):
        group.create_dataset(name, data=np.arange(16.0).reshape(4, 4), dtype=">f4")

    net = load("3/float16.keras", changed("3/float16.keras", damage=in_place_of(KERNEL, swap)))
    assert net.layers[0].w.tolist() == np.arange(16.0).reshape(4, 4).tolist()


@needs_h5py
def test_many_names_for_one_array_are_no_more_than_the_file(refused):
    count = 400

    def repeat(config):
        dense = config["config"]["layers"][1]
        config["config"]["layers"] = [config["config"]["layers"][0]] + [dense] * count
        config["config"].pop("build_input_shape")
        layer(0, batch_shape=[None, 64])(config)
        layer(1, units=64)(config)

    def link(file):
        vars = file["layers/dense/vars"]
        del vars["0"], vars["1"]
        vars["0"], vars["1"] = np.zeros((64, 64), "f4"), np.zeros(64, "f4")
        del file["layers/dense_1"]
        for index in range(1, count):
            file[f"layers/dense_{index}"] = file["layers/dense"]

    refused("3/float16.keras", "it says more than a file of its size can", changed("3/float16.keras", repeat, link))


@needs_h5py
@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("model_config", 3.0, "the attribute model_config of the file is not text"),
        ("model_config", np.array(["{}", "{}"], "S2"), "the attribute model_config of the file is 2 texts, not"),
        ("model_config", np.zeros(9), "the attribute model_config of the file is not text"),
        ("model_config", "[" * 100_000, "is not a whole Keras file (RecursionError"),
        ("model_config", "[]", "its description is a JSON list but must be an object"),
        ("model_config", "{}", "the model has no class_name"),
        ("model_config", '{"class_name": "Sequential"}', "the model has no config"),
        ("model_config", '{"class_name": "Sequential", "config": {}}', "the model has no list of layers"),
        ("model_config", '{"class_name": "Net", "config": {}}', "its model is of the class 'Net', but only Sequential"),
        ("model_config", b"\xff", "is not a whole Keras file (UnicodeDecodeError"),
        ("keras_version", 3, "the attribute keras_version of the file is not text"),
    ],
)
def test_attributes_that_are_no_description_are_refused(name, value, text, refused):
    def damage(file):
        file.attrs[name] = value

    refused("3/mlp_float32.h5", text, changed("3/mlp_float32.h5", damage=damage))


@needs_h5py
def test_names_of_weights_that_are_not_there_are_refused(refused):
    def named(value):
        return lambda file: file["model_weights/dense_1"].attrs.__setitem__("weight_names", value)

    content = files()["3/mlp_float32.h5"]
    with h5py.File(io.BytesIO(content)) as file:
        name = next(name for name in file["model_weights"] if name.startswith("dense"))
        kernel, bias = file["model_weights"][name].attrs["weight_names"]
    for value, text in [
        (3, "the attribute weight_names of /model_weights/"),
        ([1.0, 2.0], "the attribute weight_names of /model_weights/"),
        ([kernel], "has 0 weights called bias but should have one"),
        ([kernel, kernel, bias], "has 2 weights called kernel but should have one"),
        ([kernel, bias, "other"], "has 3 weights but should have 2, kernel, bias first"),
        (["../kernel", "bias"], "has no '..'"),
        (np.array([]), "has 0 weights called kernel but should have one"),
        ([kernel, bias, ""], "has 3 weights but should have 2, kernel, bias first"),
        (["elsewhere/kernel", "bias"], "has no 'elsewhere'"),
        ([f"{kernel}/kernel", "bias"], "is no group of names"),
    ]:
        damage = lambda file, value=value: file["model_weights"][name].attrs.__setitem__("weight_names", value)  # noqa: E731
        refused("3/mlp_float32.h5", text, changed("3/mlp_float32.h5", damage=damage))


@needs_h5py
def test_names_of_weights_may_be_divided(load):
    def divide(file):
        for group in file["model_weights"].values():
            names = group.attrs["weight_names"]
            if len(names):
                del group.attrs["weight_names"]
                for index, name in enumerate(names):
                    group.attrs[f"weight_names{index}"] = [name.encode()]

    name = "2/nested.h5"
    x = outputs()[f"{name}/x"]
    assert np.array_equal(load(name, changed(name, damage=divide))(x), load(name)(x))


@needs_h5py
def test_weights_without_a_description_are_refused(refused):
    damage = lambda file: file.attrs.__delitem__("model_config")  # noqa: E731
    with h5py.File(buffer := io.BytesIO(files()["3/mlp_float32.h5"]), "r+") as file:
        damage(file)
    refused(
        "3/mlp_float32.h5", "it holds weights but no description of a model; save the model whole", buffer.getvalue()
    )


@pytest.mark.parametrize("size", [0, 1, 2**64 - 16, 2**64 - 8, 10**6])
def test_texts_that_libhdf5_runs_for_ever_on_are_refused(size, refused):
    content = bytearray(files()["2/mlp_float32.h5"])
    heap = content.index(b"GCOL")
    content[heap + 16 : heap + 18] = b"\0\0"
    content[heap + 24 : heap + 32] = size.to_bytes(8, "little")
    refused("2/mlp_float32.h5", "is not in the file: it is damaged", content)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"", "it is empty; save or copy it again"),
        (b"not hdf5", "it does not begin as HDF5 does"),
        (b"\x89HDF\r\n\x1a\n\x04" + bytes(90), "it is HDF5 of a kind that Keras does not write, 4"),
        (
            b"\x89HDF\r\n\x1a\n\x00" + bytes(4) + b"\x04\x04" + bytes(90),
            "it is HDF5 of a kind that Keras does not write, 0",
        ),
    ],
)
def test_what_is_not_hdf5_is_refused(content, text, refused):
    refused("net.h5", text, content)
    refused("net.hdf5", text, content)
    refused("net.keras", "is not a whole Keras file", content)
    refused("net.keras", "it is HDF5" if len(content) > 90 else "it does not begin as HDF5", with_weights(content))


def edited(at, new, name="3/float16.keras"):
    """The weights of a golden file, with bytes replaced."""
    content = bytearray(members(name)["model.weights.h5"])
    content[at : at + len(new)] = new
    return bytes(content)


def test_addresses_and_sizes_that_cannot_be_are_refused(refused):
    content = members()["model.weights.h5"]
    layout = re.search(rb"\x03\x01.{8}\x20\0{7}", content, re.DOTALL).start()
    kind = re.search(rb"\x11.{3}\x02\0{3}", content, re.DOTALL).start()
    tree, heap, node = (content.index(signature) for signature in (b"TREE", b"HEAP", b"SNOD"))
    circle = bytearray(content[tree : tree + 40])
    circle[5], circle[32:] = 1, tree.to_bytes(8, "little")
    far = (2**64 - 1).to_bytes(8, "little")
    for at, new, text in [
        (layout + 10, b"\x1e", "has 30 bytes but the shape (4, 4) of 2 each"),
        (kind + 4, b"\x04", NO_FLOATS),
        (layout + 2, far, "it ends at byte"),
        (tree, circle, "has a B-tree at byte"),
        (tree, b"EERT", "it has no TREE at byte"),
        (heap + 24, far, "it ends at byte"),
        (node + 8, far, "is a link to elsewhere, or damaged"),
        (40, far, "bytes of 18446744073709551615; save or copy it again"),
        (64, far, "it ends at byte"),
    ]:
        refused("net.keras", text, with_weights(edited(at, new)))


def test_attributes_of_another_version_are_refused(refused):
    content = bytearray(files()["3/mlp_float32.h5"])
    content[content.index(b"model_config\0") - 8] = 9
    refused("3/mlp_float32.h5", "the attribute model_config of the file cannot be read", content)


@needs_h5py
def test_files_of_a_later_version_of_hdf5_are_refused(refused):
    with h5py.File(buffer := io.BytesIO(), "w", libver="latest") as file:
        file["layers/dense/vars/0"] = np.zeros((4, 4), "f4")
    refused("net.keras", "it is HDF5 of a kind that Keras does not write, 3", with_weights(buffer.getvalue()))


@needs_h5py
def test_an_array_in_its_header_is_read(load):
    def compact(group, name):
        options = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        options.set_layout(h5py.h5d.COMPACT)
        kind, space = h5py.h5t.IEEE_F32LE, h5py.h5s.create_simple((4, 4))
        data = h5py.h5d.create(group.id, name.encode(), kind, space, options)
        data.write(h5py.h5s.ALL, h5py.h5s.ALL, np.arange(16, dtype="f4").reshape(4, 4))

    net = load("3/float16.keras", changed("3/float16.keras", damage=in_place_of(KERNEL, compact)))
    assert net.layers[0].w.tolist() == np.arange(16.0).reshape(4, 4).tolist()


@needs_h5py
def test_weights_of_batch_normalisation_have_one_length(refused):
    path = "layers/batch_normalization/vars/1"
    damage = in_place_of(path, dataset(data=np.zeros(2, "f4")))
    text = "has weights of shapes (5,), (2,), (5,), (5,), and should have rows of one length"
    refused("3/mlp_float32.keras", text, changed("3/mlp_float32.keras", damage=damage))


@needs_h5py
def test_weights_that_are_not_finite_are_warned_of(load):
    damage = in_place_of(KERNEL, dataset(data=np.full((4, 4), np.nan, "f4")))
    with pytest.raises(nd.NonFiniteWarning):  # an error here, for tests make warnings errors
        load("3/float16.keras", changed("3/float16.keras", damage=damage))


def test_models_in_models_are_of_one_shape(refused):
    def change(config):
        config["config"]["layers"][2]["config"]["layers"][0]["config"]["batch_shape"] = [None, 7]

    refused("3/nested.keras", "takes examples of shape (7,) but gets (4,)", changed("3/nested.keras", change))


def test_an_image_of_unknown_shape_is_flat(load):
    def change(config):
        del config["config"]["layers"][:4], config["config"]["build_input_shape"]

    assert load("3/image.keras", changed("3/image.keras", change)).n_in == 6


def test_descriptions_that_are_too_long_are_refused(refused, monkeypatch):
    monkeypatch.setattr("numbadense.io.keras.LARGEST_CONFIG", 100)
    refused("3/mlp_float32.h5", "characters, and at most 100 are read")
    refused("3/mlp_float32.keras", "its member config.json claims to unpack")


# Archives.


def encrypted(content):
    content = bytearray(content)
    for signature, flags in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        at = content.index(signature)
        while at >= 0:
            content[at + flags] |= 1
            at = content.find(signature, at + 1)
    return bytes(content)


@pytest.mark.filterwarnings("ignore:Duplicate name:UserWarning")
def test_archives_that_keras_does_not_write_are_refused(refused):
    whole = members()
    double = io.BytesIO()
    with zipfile.ZipFile(double, "w") as archive:
        for name in (*whole, "config.json"):
            archive.writestr(name, whole[name])
    bomb = {**whole, "config.json": b"{" + b" " * 30_000_000 + b"}"}
    weights = {**whole, "model.weights.h5": bytes(30_000_000)}
    rest = {name: member for name, member in whole.items() if name != "model.weights.h5"}
    for content, text in [
        (double.getvalue(), "it has 4 members of 3 names"),
        (zipped({**whole, "../evil": b""}), "it has a member '../evil', outside of itself"),
        (zipped({**whole, "/evil": b""}), "it has a member '/evil', outside of itself"),
        (zipped({**whole, "C:\\evil": b""}), "outside of itself"),
        (zipped(bomb, zipfile.ZIP_DEFLATED), "its member config.json claims to unpack"),
        (zipped(bomb), "its member config.json claims to unpack"),
        (zipped(weights, zipfile.ZIP_DEFLATED), "its member model.weights.h5 claims to unpack"),
        (zipped(whole, zipfile.ZIP_BZIP2), "is compressed in a way that Keras does not use"),
        (encrypted(zipped(whole)), "its member config.json is encrypted"),
        (zipped(rest), "it has no member model.weights.h5 but metadata.json, config.json; save the model whole"),
        (zipped({}), "it has no member model.weights.h5 but none at all"),
        (zipped({"model.weights.h5": b""}), "is not a whole Keras file (KeyError"),
        (zipped({**whole, "config.json": b"["}), "is not a whole Keras file (JSONDecodeError"),
        (zipped({**whole, "metadata.json": b"3"}), "its description is a JSON int but must be an object"),
    ]:
        refused("net.keras", text, content)


def test_an_archive_may_be_compressed(load):
    x = outputs()["3/float16.keras/x"]
    net = load("net.keras", zipped(members(), zipfile.ZIP_DEFLATED))
    assert np.array_equal(net(x), load("3/float16.keras")(x))


def test_models_in_models_in_models_are_refused_at_some_depth(refused):
    def nest(config):
        for _ in range(40):
            config = {"class_name": "Sequential", "config": {"name": "outer", "layers": [config]}}
        return config

    refused("3/float16.keras", "is in 21 models, one in the other", changed("3/float16.keras", nest))


def test_no_other_library_is_imported(tmp_path):
    path = tmp_path / "net.keras"
    path.write_bytes(files()["3/mlp_float32.keras"])
    script = (
        f"import sys, numbadense; numbadense.load({str(path)!r}); "
        "print(sorted({'keras', 'tensorflow', 'torch', 'jax', 'h5py'} & sys.modules.keys()))"
    )
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_a_file_that_is_not_there_is_an_os_error(tmp_path):
    for suffix in ("keras", "h5", "hdf5"):
        with pytest.raises(FileNotFoundError):
            nd.load(tmp_path / f"net.{suffix}")


@pytest.mark.parametrize("seed", range(0, mutations.COUNT, 20))
def test_mutated_files_are_refused_or_are_networks(seed, load):
    names = sorted(files())
    for each in range(seed, seed + 20):
        rng = random.Random(each)
        name = rng.choice(names)
        content = files()[name]
        kind = rng.randrange(3)
        if name.endswith(".h5"):
            change = (lambda config: mutations.mutated_json(config, rng)) if kind else lambda config: None
            content = changed(name, change) if kind == 1 else mutations.mutated(content, rng)
        elif kind:
            content = mutations.mutated_zip(content, rng)
        else:
            inside = members(name)
            inside["model.weights.h5"] = mutations.mutated(inside["model.weights.h5"], rng)
            content = zipped(inside)
        try:
            net = load(name, content)
        except nd.ModelFormatError as error:
            assert "net." in str(error) and "\n" not in str(error)
        except nd.NonFiniteWarning:
            continue
        else:
            assert net.n_out > 0
