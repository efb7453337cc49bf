"""Networks as exporters write them, with the outputs of the framework that exported them.

Needs keras, onnxruntime, onnxscript, scikit-learn, skl2onnx and torch; ``golden.npz`` says which versions wrote them.
"""

import importlib.metadata
import os
import tempfile
import warnings
from pathlib import Path

os.environ["KERAS_BACKEND"] = "torch"

import keras
import numpy as np
import onnx
import onnxruntime
import sklearn.datasets
import torch
from onnx import TensorProto, helper, numpy_helper
from skl2onnx import to_onnx
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

FOLDER = Path(__file__).parent
PACKAGES = ("keras", "onnx", "onnxruntime", "onnxscript", "scikit-learn", "skl2onnx", "torch")
arrays = {}
rng = np.random.default_rng(0)


def keep(name, model, x, y):
    """Keep a model, an input and its output."""
    if isinstance(model, onnx.ModelProto):
        model.doc_string = ""
        del model.graph.value_info[:]
        for node in model.graph.node:
            del node.metadata_props[:]
            node.doc_string = ""
        onnx.checker.check_model(model)
        (FOLDER / f"{name}.onnx").write_bytes(model.SerializeToString())
    arrays[f"{name}.x"], arrays[f"{name}.y"] = x, np.asarray(y)


def torch_network(*activations, dtype=torch.float32, norm=False):
    torch.manual_seed(1)
    layers = []
    for n_in, activation in zip((4, *[6] * 9), activations, strict=False):
        layers += [nn.Linear(n_in, 6), *([nn.BatchNorm1d(6)] if norm else []), activation]
    net = nn.Sequential(*layers, nn.Linear(6, 3)).to(dtype)
    for module in net:
        if isinstance(module, nn.BatchNorm1d):
            nn.init.uniform_(module.running_mean, -1, 1)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 2)
    return net.eval()


def from_torch(name, net, dynamo, shape=(5, 4), **options):
    dtype = next(net.parameters()).dtype
    x = torch.from_numpy(rng.standard_normal(shape) * 2).to(dtype)
    if dynamo:
        options = {"external_data": False, "verbose": False, **options}
    else:
        options = {"dynamic_axes": {"x": {0: "batch"}}, **options}
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        file = f"{folder}/net.onnx"
        torch.onnx.export(net, (x,), file, input_names=["x"], dynamo=dynamo, **options)
        model = onnx.load(file)
    keep(name, model, x.numpy(), net(x).detach().numpy())


SMOOTH = (nn.GELU(), nn.SiLU(), nn.Mish(), nn.GELU(approximate="tanh"), nn.Softsign(), nn.LogSigmoid())
BENT = (nn.LeakyReLU(0.25), nn.PReLU(init=0.125), nn.ReLU6(), nn.Hardtanh(-0.5, 2), nn.Softshrink(0.25))
MORE = (nn.ELU(0.5), nn.CELU(2.0), nn.Softplus(), nn.Hardshrink(0.25), nn.Threshold(-0.5, 0.25))

for dynamo, exporter in ((False, "legacy"), (True, "dynamo")):
    from_torch(f"torch_{exporter}_relu", torch_network(nn.ReLU(), nn.Tanh(), nn.Sigmoid(), norm=True), dynamo)
    from_torch(f"torch_{exporter}_smooth", torch_network(*SMOOTH), dynamo, opset_version=18)
    from_torch(f"torch_{exporter}_bent", torch_network(*BENT), dynamo)
    from_torch(
        f"torch_{exporter}_hard", torch_network(nn.Hardswish(), nn.Hardsigmoid(), nn.SELU(), nn.Dropout()), dynamo
    )
    double = torch_network(*SMOOTH[:5], nn.Softplus(2.0), dtype=torch.float64)
    from_torch(f"torch_{exporter}_double", double, dynamo)
from_torch("torch_dynamo_more", torch_network(*MORE), True)
from_torch("torch_legacy_opset_9", torch_network(nn.ReLU6(), nn.Dropout(), nn.Softmax(1)), False, opset_version=9,
           keep_initializers_as_inputs=True)  # fmt: skip
image = nn.Sequential(nn.Flatten(), nn.Linear(12, 6), nn.ReLU(), nn.Linear(6, 3, bias=False), nn.LogSoftmax(-1)).eval()
from_torch("torch_legacy_flatten", image, False, shape=(5, 1, 3, 4))
arrays["torch_legacy_flatten.x"] = arrays["torch_legacy_flatten.x"].reshape(5, 12)
from_torch("torch_legacy_unfolded", torch_network(nn.Tanh(), norm=True), False, do_constant_folding=False,
           training=torch.onnx.TrainingMode.PRESERVE, opset_version=13)  # fmt: skip

features, target = sklearn.datasets.make_regression(80, 4, n_targets=2, random_state=0)
classes = (target[:, 0] > 0).astype(int) + (target[:, 1] > 0)
rows = features[:7].astype(np.float32)
options = {"max_iter": 30, "random_state": 0}
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    regressor = make_pipeline(StandardScaler(), MLPRegressor(hidden_layer_sizes=(6, 5), activation="tanh", **options))
    double = make_pipeline(StandardScaler(), MLPRegressor(hidden_layer_sizes=(6, 5), activation="relu", **options)).fit(
        features, target[:, 0]
    )
    regressor.fit(features.astype(np.float32), target[:, 0].astype(np.float32))
    classifier = MLPClassifier(hidden_layer_sizes=(6,), activation="logistic", **options).fit(
        features.astype(np.float32), classes
    )
keep("skl2onnx_regressor", to_onnx(regressor, rows), rows, regressor.predict(rows)[:, None])
keep("skl2onnx_double", to_onnx(double, features[:7]), features[:7], double.predict(features[:7])[:, None])
both = to_onnx(classifier, rows, options={"zipmap": False})
keep("skl2onnx_two_outputs", both, rows, classifier.predict_proba(rows))
with tempfile.TemporaryDirectory() as folder:
    onnx.save(both, f"{folder}/net.onnx")
    onnx.utils.extract_model(f"{folder}/net.onnx", f"{folder}/one.onnx", ["X"], ["probabilities"])
    keep("skl2onnx_classifier", onnx.load(f"{folder}/one.onnx"), rows, classifier.predict_proba(rows))

keras.utils.set_random_seed(0)
model = keras.Sequential([keras.Input((4,))])
for activation in ("relu", "gelu", "silu", "softplus", "hard_sigmoid", "elu"):
    model.add(keras.layers.Dense(6, activation))
model.add(keras.layers.Dense(3, "softmax"))
x = rng.standard_normal((5, 4)).astype(np.float32)
output = model.predict(x, verbose=0)
with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
    warnings.simplefilter("ignore")
    model(x)
    model.export(f"{folder}/net.onnx", format="onnx", verbose=False)
    keep("keras_mlp", onnx.load(f"{folder}/net.onnx"), x, output)


def tensor(name, array):
    return numpy_helper.from_array(np.asarray(array), name)


def made(name, nodes, tensors, n_in, n_out, element=TensorProto.FLOAT, opset=13):
    """Keep a graph from x to y, with the output of ONNX Runtime."""
    graph = helper.make_graph(
        nodes, name, [helper.make_tensor_value_info("x", element, ["batch", n_in])],
        [helper.make_tensor_value_info("y", element, ["batch", n_out])], tensors,
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    x = rng.standard_normal((6, n_in)).astype(helper.tensor_dtype_to_np_dtype(element))
    session = onnxruntime.InferenceSession(model.SerializeToString())
    keep(name, model, x, session.run(None, {"x": x})[0])


node = helper.make_node
w, b = rng.standard_normal((5, 4)).astype(np.float32), rng.standard_normal((1, 5)).astype(np.float32)
made("made_transposed", [
    node("Constant", [], ["mean"], value_floats=[0.5, -0.25, 1.0, 2.0]),
    node("Sub", ["x", "mean"], ["centred"]),
    node("Transpose", ["w"], ["wT"], perm=[1, 0]),
    node("MatMul", ["centred", "wT"], ["z"]),
    node("Add", ["b", "z"], ["a"]),
    node("Softmax", ["a"], ["y"]),
], [tensor("w", w), tensor("b", b)], 4, 5, opset=12)  # fmt: skip
made("made_arithmetic", [
    node("Gemm", ["x", "w", "b"], ["g"], alpha=0.5, beta=2.0, transB=1),
    node("Mul", ["two", "g"], ["m"]),
    node("Div", ["m", "s"], ["d"]),
    node("Sub", ["one", "d"], ["e"]),
    node("Max", ["e", "low"], ["f"]),
    node("Min", ["f", "two"], ["h"]),
    node("Neg", ["h"], ["y"]),
], [tensor("w", w), tensor("b", b), tensor("two", np.float32(2)), tensor("one", np.float32([1])),
    tensor("low", np.float32(-0.5)), tensor("s", np.float32([[1, 2, 3, 4, 5]]))], 4, 5)  # fmt: skip
made("made_normalised", [
    node("BatchNormalization", ["x", "gamma", "beta", "mean", "variance"], ["n"], epsilon=0.01),
    node("ThresholdedRelu", ["n"], ["t"], alpha=0.25),
    node("Shrink", ["t"], ["y"], lambd=0.5, bias=0.25),
], [tensor(name, np.float32(values)) for name, values in (
    ("gamma", [1, 2, 3]), ("beta", [0, 1, -1]), ("mean", [0.5, 0.25, 0]), ("variance", [1, 2, 3]))], 3, 3)  # fmt: skip
made("made_swish", [
    node("MatMul", ["x", "w"], ["z"]),
    node("Swish", ["z"], ["y"], alpha=1.5),
], [tensor("w", w.T)], 4, 5, opset=24)  # fmt: skip

for name in (*arrays,):
    arrays[name] = np.ascontiguousarray(arrays[name])
arrays["versions"] = np.array([f"{each} {importlib.metadata.version(each)}" for each in PACKAGES])
np.savez_compressed(FOLDER / "golden.npz", **arrays)
