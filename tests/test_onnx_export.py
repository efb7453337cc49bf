"""Networks written as ONNX do in other runtimes what they do here, and come back as they were."""

import math
import zlib

import numpy as np
import pytest

import numbadense as nd
from numbadense import activations
from numbadense.testing import error_bound

onnx = pytest.importorskip("onnx", minversion="1.21")
from onnx.reference import ReferenceEvaluator  # noqa: E402
from onnx.reference.op_run import OpRun  # noqa: E402

BUILT_IN = [
    name for name in activations.names() if activations.REGISTRY[name].function.__module__.startswith("numbadense")
]
MEMBERS = [
    "leaky_relu(0.2)",
    "elu(0.3)",
    "celu(0.7)",
    "clip(-1, 0.3)",
    "threshold(0.3, 0)",
    "threshold(0.3, 0.3)",
    "threshold(0.3, -1)",
    "bounded_relu(0.1, 0.2, 0.9)",
    "hard_sigmoid(0.2, 0.5)",
    "shrink(0.3, 0.1)",
    "shrink(0.3, 0.3)",
    "shrink(0.5, 0.25)",
]
# What ONNX Runtime has no float64 kernel for: the reference evaluator of ONNX runs it.
FLOAT32_ONLY = {"celu", "elu", "gelu", "mish", "selu", "softplus", "softsign"}


def network(activation, dtype=np.float32, metadata=None):
    rng = np.random.default_rng(zlib.crc32(activation.encode()))
    first = nd.Dense(rng.standard_normal((4, 5)).astype(dtype), rng.standard_normal(5).astype(dtype), activation)
    return nd.Sequential([first, nd.Dense(rng.standard_normal((5, 3)).astype(dtype) / 4, None, activation)], metadata)


def examples(activation, dtype):
    return np.random.default_rng(0).uniform(-2, 2, (40, 4)).astype(dtype) / (8 if activation == "exp" else 1)


class Erf(OpRun):
    """The error function in float64, where the reference has it in float32."""

    op_domain = ""

    def _run(self, x):
        return (np.vectorize(math.erf)(x).astype(x.dtype),)


def slack(activation, net, x, dtype):
    """Bound what a runtime may lose that takes an activation apart, or computes it absolutely and not relatively.

    A sum of parts such as ``x (1 + erf) / 2`` is within a few roundings of the largest of them, and so is a line that
    meets 0; the second layer passes that on.
    """
    first = net.layers[0]
    z = np.abs(x.astype(np.float64)) @ np.abs(first.w) + np.abs(first.b)
    parts = 8 * np.finfo(dtype).eps * (1 + z)
    lipschitz = activations.get(activation).lipschitz
    second = parts @ np.abs(net.layers[1].w) * (1 if math.isinf(lipschitz) else max(1, lipschitz))
    a = np.abs(first(x).astype(np.float64)) @ np.abs(net.layers[1].w)
    return second + 8 * np.finfo(dtype).eps * (1 + a)


def run(path, x, activation, dtype):
    ort = pytest.importorskip("onnxruntime")
    if dtype == np.float64 and activation.partition("(")[0] in FLOAT32_ONLY:
        return ReferenceEvaluator(onnx.load(path), new_ops=[Erf]).run(None, {"x": x})[0]
    return ort.InferenceSession(path).run(None, {"x": x})[0]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("activation", [*BUILT_IN, *MEMBERS])
def test_runtimes_compute_the_same(activation, dtype, tmp_path):
    net = network(activation, dtype)
    net.to_onnx(tmp_path / "net.onnx")
    onnx.checker.check_model(onnx.load(tmp_path / "net.onnx"), full_check=True)
    x = examples(activation, dtype)
    found, expected = net(x), run(tmp_path / "net.onnx", x, activation, dtype)
    assert expected.dtype == dtype and expected.shape == found.shape
    if activation.startswith(("threshold", "shrink")):  # where it jumps, the sides may differ in which they take
        z = x.astype(np.float64) @ net.layers[0].w + net.layers[0].b
        steady = (abs(abs(z) - 0.3) > 1e-5).all(axis=1)
        a = net.layers[0](x).astype(np.float64) @ net.layers[1].w
        steady &= (abs(abs(a) - 0.3) > 1e-5).all(axis=1) & (abs(abs(a) - 0.5) > 1e-5).all(axis=1)
        found, expected, x = found[steady], expected[steady], x[steady]
        assert len(x) > 20
    bound = 2 * error_bound(x, net.layers, dtype) + slack(activation, net, x, dtype)
    assert (abs(found - expected) <= bound).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64, "float16", "bfloat16"])
@pytest.mark.parametrize("activation", [*BUILT_IN, *MEMBERS])
def test_a_network_comes_back_as_it_was(activation, dtype, tmp_path):
    half = isinstance(dtype, str)
    net = network(activation, np.float32 if half else dtype, {"trained on": "nothing", "doc": "text"})
    net = net.astype(dtype)
    nd.save(net, tmp_path / "net.onnx")
    back = nd.load(tmp_path / "net.onnx")
    assert back.metadata == net.metadata and back.storage == net.storage and back.dtype == net.dtype
    for layer, before in zip(back.layers, net.layers, strict=True):
        assert layer.activation is before.activation and np.array_equal(layer.w, before.w)
        assert (layer.b is None and before.b is None) or np.array_equal(layer.b, before.b)
    nd.save(back, tmp_path / "again.onnx")
    assert (tmp_path / "again.onnx").read_bytes() == (tmp_path / "net.onnx").read_bytes()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("activation", [*BUILT_IN, *MEMBERS])
def test_the_graph_alone_says_what_is_computed(activation, dtype):
    from numbadense.io.onnx import writer

    net = network(activation, dtype)
    model = writer.model(net)
    del model.metadata_props[:]
    x = examples(activation, dtype)
    expected = net(x)
    bound = 2 * error_bound(x, net.layers, dtype) + slack(activation, net, x, dtype)
    assert (abs(nd.load(model)(x) - expected) <= bound).all()


@pytest.mark.parametrize("change", ["node", "opset", "output", "description", "name", "float16", "complex64"])
def test_a_file_that_was_changed_since_is_read_as_it_is_now(change, tmp_path):
    from numbadense.io.onnx import writer

    model = writer.model(network("sigmoid_high"))
    description = model.metadata_props[0].value
    if change == "node":
        model.graph.node[1].op_type = "Tanh"
    elif change == "opset":
        model.opset_import[0].version = 14
    elif change == "output":
        model.graph.output[0].name = model.graph.node[0].output[0]
    elif change == "description":
        description = "{"
    elif change == "name":
        description = description.replace("sigmoid_high", "relu")
    else:
        description = description.replace("float32", change)
    model.metadata_props[0].value = description
    net = nd.load(model)
    names = {"node": ["tanh", "sigmoid"], "output": ["identity"]}.get(change, ["sigmoid", "sigmoid"])
    assert [layer.activation.name for layer in net.layers] == names


def test_a_users_activation_is_refused_by_name(tmp_path):
    @nd.activation
    def not_in_onnx(x):
        return x + x

    net = nd.Sequential([nd.Dense(np.eye(2), None, not_in_onnx)])
    try:
        with pytest.raises(
            nd.ModelFormatError, match=r"layer 0 has the activation 'not_in_onnx'.*\.safetensors instead"
        ):
            net.to_onnx(tmp_path / "net.onnx")
    finally:
        del activations.REGISTRY["not_in_onnx"], activations._NAMES["not_in_onnx"]
    assert list(tmp_path.iterdir()) == []


def test_other_suffixes_and_notes_that_are_no_text_are_refused(tmp_path):
    with pytest.raises(nd.ModelFormatError, match=r"net\.safetensors has the suffix .* written as \.onnx; name it so"):
        network("relu").to_onnx(tmp_path / "net.safetensors")
    with pytest.raises(nd.ModelFormatError, match="has a note that is not text"):
        network("relu", metadata={"note": "\ud800"}).to_onnx(tmp_path / "net.onnx")
    assert list(tmp_path.iterdir()) == []


def test_what_is_too_large_is_refused(tmp_path, monkeypatch):
    from numbadense.io.onnx import writer

    monkeypatch.setattr(writer, "MOST_BYTES", 100)
    with pytest.raises(
        nd.ModelFormatError, match=r"has 160 bytes of weights in float32 .*safetensors, which has no limit"
    ):
        network("relu").to_onnx(tmp_path / "net.onnx")


def test_the_batch_is_open_and_the_names_are_plain():
    from numbadense.io.onnx import writer

    model = writer.model(network("relu"))
    dims = model.graph.input[0].type.tensor_type.shape.dim
    assert (dims[0].dim_param, dims[1].dim_value) == ("batch", 4)
    assert [each.name for each in model.graph.initializer] == ["layers.0.w", "layers.0.b", "layers.1.w"]
    assert [node.op_type for node in model.graph.node] == ["Gemm", "Relu"] * 2
