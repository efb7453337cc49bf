"""ONNX files of exporters give the outputs of the frameworks; what is no straight line of dense layers is refused."""

import json
import random
import sys
from pathlib import Path

import numpy as np
import pytest
from mutations import COUNT, mutated

import numbadense as nd
from numbadense.testing import error_bound

onnx = pytest.importorskip("onnx", minversion="1.21")
import onnx_conformance  # noqa: E402
from onnx import TensorProto, helper, numpy_helper  # noqa: E402
from onnx.reference import ReferenceEvaluator  # noqa: E402

GOLDEN = Path(__file__).parent / "golden" / "onnx"
SMOOTH = ("Gemm", "gelu", "silu", "mish", "gelu_tanh", "softsign")
BENT = ("Gemm", "leaky_relu", "prelu", "relu6", "hardtanh", "softshrink")
CASES = [
    ("torch_dynamo_relu", ("Gemm", "BatchNormalization", "relu", "tanh", "sigmoid")),
    ("torch_dynamo_smooth", (*SMOOTH, "log_sigmoid")),
    ("torch_dynamo_bent", BENT),
    ("torch_dynamo_more", ("Gemm", "elu", "celu", "softplus", "hardshrink", "threshold")),
    ("torch_dynamo_hard", ("Gemm", "hard_swish", "hard_sigmoid", "selu", "Dropout")),
    ("torch_dynamo_double", (*SMOOTH, "softplus")),
    ("torch_legacy_relu", ("Gemm", "BatchNormalization", "relu", "tanh", "sigmoid")),
    ("torch_legacy_smooth", (*SMOOTH, "log_sigmoid")),
    ("torch_legacy_bent", BENT),
    ("torch_legacy_hard", ("Gemm", "hard_swish", "hard_sigmoid", "selu", "Dropout")),
    ("torch_legacy_double", (*SMOOTH, "softplus")),
    ("torch_legacy_opset_9", ("Gemm", "Clip", "Dropout", "softmax")),
    ("torch_legacy_flatten", ("Flatten", "Gemm", "MatMul", "relu", "log_softmax")),
    ("torch_legacy_unfolded", ("Gemm", "BatchNormalization", "tanh")),
    ("skl2onnx_regressor", ("Scaler", "MatMul", "Add", "tanh", "Reshape")),
    ("skl2onnx_double", ("Sub", "Div", "MatMul", "Add", "relu", "Reshape")),
    ("skl2onnx_classifier", ("MatMul", "Add", "sigmoid", "softmax")),
    ("keras_mlp", ("MatMul", "Add", "relu", "gelu", "silu", "softplus", "hard_sigmoid", "elu", "softmax")),
    ("made_transposed", ("Constant", "Sub", "Transpose", "MatMul", "Add", "softmax")),
    ("made_arithmetic", ("Gemm", "Mul", "Div", "Sub", "Max", "Min", "Neg")),
    ("made_normalised", ("BatchNormalization", "ThresholdedRelu", "Shrink")),
    ("made_swish", ("MatMul", "Swish")),
]
W = np.random.default_rng(0).standard_normal((3, 2)).astype(np.float32)


def make(nodes, *, tensors=None, shape=("batch", 3), inputs=1, outputs=("y",), opset=17, element=TensorProto.FLOAT):
    """Return a model of nodes from x to y, with w of shape (3, 2) and `tensors` at hand."""
    nodes = [helper.make_node(*each[:3], **(each[3] if len(each) > 3 else {})) for each in nodes]
    constants = [
        numpy_helper.from_array(np.asarray(value), name) for name, value in {"w": W, **(tensors or {})}.items()
    ]
    names = ["x", "x2", "x3"][:inputs]
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info(name, element, shape) for name in names],
        [helper.make_tensor_value_info(name, element, None) for name in outputs],
        constants,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def line(*operators, **options):
    """Return a model of operators one after the other: (operator, attributes, constants)."""
    nodes, tensors, value = [], options.pop("tensors", {}), "x"
    for index, (op, attributes, constants) in enumerate(operators):
        names = [f"c{index}.{i}" if constant is not None else "" for i, constant in enumerate(constants)]
        tensors |= {name: value for name, value in zip(names, constants, strict=True) if name}
        output = "y" if index == len(operators) - 1 else f"v{index}"
        nodes.append((op, [value, *names], [output], attributes))
        value = output
    return make(nodes, tensors=tensors, **options)


@pytest.mark.parametrize(("name", "kinds"), CASES, ids=[name for name, _ in CASES])
def test_golden(name, kinds):
    golden = np.load(GOLDEN / "golden.npz")
    x, y = golden[f"{name}.x"], golden[f"{name}.y"]
    net = nd.load(GOLDEN / f"{name}.onnx")
    assert net.dtype == y.dtype == x.dtype
    assert net(x).shape == y.shape
    # One bound for each side, and one for what either folds.
    assert (abs(net(x) - y) <= 3 * error_bound(x, net.layers, y.dtype)).all()


def test_scikit_learns_two_outputs_are_refused_with_the_line_that_keeps_one():
    with pytest.raises(nd.ModelFormatError, match=r"2 outputs, 'label', 'probabilities'.*extract_model\(.*\['X'\]"):
        nd.load(GOLDEN / "skl2onnx_two_outputs.onnx")


def test_notes_say_where_a_network_comes_from():
    assert nd.load(GOLDEN / "torch_legacy_relu.onnx").metadata["source"].startswith("pytorch 2.")
    model = line(("Relu", {}, []))
    model.doc_string = "a line"
    helper.set_model_props(model, {"trained": "never"})
    assert dict(nd.load(model).metadata) == {"doc": "a line", "trained": "never"}


def test_weights_keep_their_bits_where_nothing_is_folded():
    b = np.float32([1, 2])
    net = nd.load(make([("MatMul", ["x", "w"], ["z"]), ("Add", ["b", "z"], ["y"])], tensors={"b": b[None]}))
    assert len(net.layers) == 1 and np.array_equal(net.layers[0].w, W) and np.array_equal(net.layers[0].b, b)
    net = nd.load(make([("Gemm", ["x", "v", "b"], ["y"], {"transB": 1})], tensors={"v": W.T.copy(), "b": b}))
    assert np.array_equal(net.layers[0].w, W) and np.array_equal(net.layers[0].b, b)


@pytest.mark.parametrize(
    ("operators", "names"),
    [
        ([("LeakyRelu", {}, [])], ["leaky_relu"]),
        ([("LeakyRelu", {"alpha": 0.5}, [])], ["leaky_relu(alpha=0.5)"]),
        ([("PRelu", {}, [np.float32([[0.5, 0.5, 0.5]])])], ["leaky_relu(alpha=0.5)"]),
        ([("Elu", {}, [])], ["elu"]),
        ([("Celu", {}, [])], ["elu"]),
        ([("HardSigmoid", {}, [])], ["hard_sigmoid(alpha=0.20000000298023224, beta=0.5)"]),
        ([("Selu", {"alpha": 1.0, "gamma": 2.0}, [])], ["elu(alpha=1.0)", "identity"]),
        ([("Clip", {}, [])], ["identity"]),
        ([("Clip", {}, [np.float32(0)])], ["relu"]),
        ([("Clip", {}, [None, np.float32(-1)])], ["threshold(threshold=1.0, value=1.0)", "identity"]),
        ([("Clip", {}, [np.float32(-1), np.float32(1)])], ["clip(low=-1.0, high=1.0)"]),
        ([("Softmax", {}, []), ("Log", {}, [])], ["log_softmax"]),
        ([("Sigmoid", {}, []), ("Log", {}, [])], ["softplus", "identity"]),
        ([("Mul", {}, [np.float32(2)]), ("Mul", {}, [np.float32(0.5)]), ("Relu", {}, [])], ["relu"]),
        ([("Cast", {"to": 1}, []), ("Identity", {}, []), ("Dropout", {}, []), ("Flatten", {}, [])], ["identity"]),
        ([("Reshape", {}, [np.int64([-1, 3])]), ("Relu", {}, [])], ["relu"]),
        ([("Reshape", {}, [np.int64([0, -1])]), ("Relu", {}, [])], ["relu"]),
    ],
    ids=lambda value: "-".join(each[0] for each in value) if isinstance(value[0], tuple) else None,
)
def test_operators_become_activations(operators, names):
    net = nd.load(line(*operators))
    assert [layer.activation.name for layer in net.layers] == names
    x = np.random.default_rng(0).standard_normal((5, 3)).astype(np.float32)
    (expected,) = ReferenceEvaluator(line(*operators)).run(None, {"x": x})
    np.testing.assert_allclose(net(x), expected, rtol=1e-6, atol=1e-6)


def test_parameters_of_float64_networks_are_those_of_the_file():
    net = nd.load(line(("LeakyRelu", {}, []), element=TensorProto.DOUBLE))
    assert net.dtype == np.float64 and net.layers[0].activation.name == "leaky_relu(alpha=0.009999999776482582)"
    net = nd.load(line(("Selu", {}, []), element=TensorProto.DOUBLE))
    assert [layer.activation.name for layer in net.layers] == ["elu(alpha=1.6732631921768188)", "identity"]


def test_whole_numbers_are_taken_if_the_graph_casts_them():
    net = nd.load(line(("Cast", {"to": 11}, []), ("Relu", {}, []), element=TensorProto.INT64))
    assert net.dtype == np.float64 and net([-1, 2, 3]).tolist() == [0, 2, 3]


def test_halves_are_widened_exactly():
    for element, dtype in ((TensorProto.FLOAT16, np.float16), (TensorProto.BFLOAT16, None)):
        model = make([("MatMul", ["x", "h"], ["y"])], element=element)
        raw = [0.5, 1.0, -2.0, 0.25, 3.0, 7.0]
        model.graph.initializer.append(helper.make_tensor("h", element, (3, 2), raw))
        assert np.array_equal(nd.load(model).layers[0].w.ravel(), raw), dtype


def test_initialisers_may_be_inputs_too_and_what_is_not_needed_may_be_anything():
    nodes = [("MatMul", ["x", "w"], ["y"]), ("Nonsense", ["x"], ["unused"]), ("Sqrt", ["w"], ["also unused"])]
    model = make(nodes)
    model.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, (3, 2)))
    assert np.array_equal(nd.load(model).layers[0].w, W)


def test_images_are_flattened_first():
    tensors = {"v": np.ones((12, 1), np.float32)}
    nodes = [("Relu", ["x"], ["r"]), ("Flatten", ["r"], ["f"]), ("MatMul", ["f", "v"], ["y"])]
    assert nd.load(make(nodes, tensors=tensors, shape=("batch", 3, 4))).n_in == 12


GELU = [("Div", ["x", "c"], ["d"]), ("Erf", ["d"], ["e"]), ("Add", ["e", "one"], ["a"]), ("Mul", ["x", "a"], ["y"])]


@pytest.mark.parametrize(
    ("model", "text"),
    [
        (make([("Conv", ["x", "w"], ["y"])]), "node 0 (Conv '') is not an operator that dense layers are made of"),
        (make([("Relu", ["x"], ["a"]), ("Tanh", ["x"], ["b"]), ("Add", ["a", "b"], ["y"])]),
         "'x' goes to several places, node 0 (Relu '') and node 1 (Tanh '')"),
        (make([("Mul", ["x", "x"], ["y"])]), "'x' goes to several places, node 0 (Mul '')"),
        (make(GELU, tensors={"c": np.float32(1.5), "one": np.float32(1)}), "'x' goes to several places"),
        (make([("Relu", ["x"], ["y"])], inputs=2), "2 inputs, 'x', 'x2'"),
        (make([("Relu", ["x"], ["y"])], outputs=("y", "z")), "2 outputs, 'y', 'z'"),
        (make([("Relu", ["w"], ["y"])]), "node 0 (Relu '') computes with constants"),
        (make([("Identity", ["w"], ["y"])]), "the output 'y' does not depend on the input 'x'"),
        (make([("MatMul", ["w", "x"], ["y"])]), "node 0 (MatMul '') takes a constant as its first input"),
        (make([("MatMul", ["x", "other"], ["y"])]), "takes 'other', which is not a constant, as its input 1"),
        (make([("Gemm", ["x", "w"], ["y"], {"transA": 1})]), "node 0 (Gemm '') has transA=1"),
        (make([("Gemm", ["x", "w"], ["y"], {"gamma": 1.0})]), "has an attribute 'gamma', which is not read"),
        (make([("Gemm", ["x", "w"], ["y"], {"alpha": 1})]), "has an attribute alpha of a wrong type, int"),
        (make([("Div", ["w", "x"], ["y"])]), "takes a constant of shape (3, 2)"),
        (line(("Add", {}, [np.ones((3, 1), np.float32)])), "takes a constant of shape (3, 1)"),
        (line(("Add", {}, [np.ones((1, 1, 3), np.float32)])), "takes a constant of shape (1, 1, 3)"),
        (line(("Add", {}, [np.int64(1)])), "takes a constant of int64"),
        (line(("Add", {}, [np.float32([1, 2])])), "node 0 (Add '') is for (2,) features but gets 3"),
        (line(("Max", {}, [np.float32([1, 2, 3])])), "takes numbers of shape (3,) but a single one is read"),
        (line(("PRelu", {}, [np.float32([1, 2, 3])])), "has 3 slopes but one for all features"),
        (line(("Clip", {}, [np.float32(2), np.float32(1)])), "cannot be had: activation clip(2.0, 1.0)"),
        (line(("Softmax", {"axis": 0}, [])), "goes along axis 0 of 2 but the features are the last axis"),
        (line(("Gelu", {"approximate": "well"}, []), opset=20), "has approximate='well'"),
        (line(("Log", {}, [])), "is read after Sigmoid and Softmax only"),
        (line(("Dropout", {}, [np.float32(0.5), np.bool_(True)])), "is in training mode"),
        (line(("Cast", {"to": TensorProto.INT64}, [])), "makes data type 7 of floats"),
        (line(("Reshape", {}, [np.int64([3, -1])])), "makes shape (3, -1)"),
        (line(("Flatten", {"axis": 0}, [])), "goes from axis 0 of 2 on"),
        (line(("Softmax", {}, []), ("Flatten", {}, []), shape=("b", 2, 3)), "comes after node 0 (Softmax '')"),
        (line(("BatchNormalization", {}, [np.float32([1, 1, 1])] * 3 + [np.float32([1, -1, 1])])), "variance that is"),
        (line(("Relu", {}, []), element=TensorProto.INT64), "takes int64, but only Cast does"),
        (line(("Relu", {}, []), element=TensorProto.STRING), "the input 'x' is of data type 8"),
        (line(("Relu", {}, []), shape=()), "is a single number"),
        (line(("Relu", {}, []), shape=("b", "n")), "nothing says how many features there are"),
        (line(("Relu", {}, []), opset=6), "has opset 6 of 'ai.onnx' but 7 to 28 are read"),
        (line(("Relu", {}, []), opset=29), "has opset 29 of 'ai.onnx' but 7 to 28 are read"),
        (onnx.ModelProto(), "does not say which opset it has"),
        (line(("Add", {}, [np.array("text")])), "is a tensor of data type 8"),
    ],
)  # fmt: skip
def test_what_is_no_line_of_dense_layers_is_refused_by_name(model, text):
    with pytest.raises(nd.ModelFormatError) as caught:
        nd.load(model)
    assert text in str(caught.value) and "\n" not in str(caught.value)


def test_other_domains_functions_and_sparse_tensors_are_refused():
    model = line(("Relu", {}, []))
    model.graph.node[0].domain = "com.microsoft"
    with pytest.raises(nd.ModelFormatError, match=r"com\.microsoft\.Relu .*is of the domain 'com\.microsoft'"):
        nd.load(model)
    model.functions.append(helper.make_function("com.microsoft", "Relu", ["a"], ["b"], [], []))
    with pytest.raises(nd.ModelFormatError, match=r"is a function of the model; inline it with onnx\.inliner"):
        nd.load(model)
    model = line(("Relu", {}, []))
    model.graph.sparse_initializer.add()
    with pytest.raises(nd.ModelFormatError, match=r"sparse initialisers"):
        nd.load(model)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda t: t.dims.__setitem__(0, 10**12), "2 bytes, but has 24|000 bytes, but has 24"),
        (lambda t: t.dims.__setitem__(0, -3), "which holds no numbers"),
        (lambda t: t.dims.extend([1] * 9), "which holds no numbers"),
        (lambda t: setattr(t, "raw_data", b""), "24 bytes, but has 0"),
        (lambda t: t.float_data.append(1.0), "in several places"),
        (lambda t: t.ClearField("raw_data"), "lists 0 numbers"),
        (lambda t: setattr(t, "data_type", 77), "of data type 77"),
        (lambda t: setattr(t, "data_location", 1), "in several places"),
    ],
)
def test_tensors_that_are_not_what_they_declare_are_refused(change, text):
    model = make([("MatMul", ["x", "w"], ["y"])])
    change(model.graph.initializer[0])
    with pytest.raises(nd.ModelFormatError, match=f"initialiser 'w' .*({text})"):
        nd.load(model)


def external(folder, location, **entries):
    """Write a model whose weights are in another file, and return its path."""
    model = make([("MatMul", ["x", "w"], ["y"])])
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, **entries}.items():
        tensor.external_data.add(key=key, value=value)
    (folder / "net.onnx").write_bytes(model.SerializeToString())
    return folder / "net.onnx"


def test_weights_in_a_file_beside_are_memory_mapped(tmp_path):
    (tmp_path / "w.bin").write_bytes(b"\0" * 8 + W.tobytes())
    w = nd.load(external(tmp_path, "w.bin", offset="8", length="24")).layers[0].w
    assert np.array_equal(w, W) and not w.flags.owndata and not w.flags.writeable
    base = w
    while base.base is not None and not isinstance(base, np.memmap):
        base = base.base
    assert isinstance(base, np.memmap)


@pytest.mark.parametrize(
    "location", ["", "..", "../w.bin", "/etc/passwd", "none.bin", "a\0b", ".", "C:w.bin", "link", "w/w"]
)
def test_weights_outside_the_folder_are_refused(location, tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    (tmp_path / "w.bin").write_bytes(W.tobytes())
    (folder / "link").symlink_to(tmp_path / "w.bin")
    with pytest.raises(nd.ModelFormatError, match="which is not a file in the folder of the model"):
        nd.load(external(folder, location))


@pytest.mark.parametrize(
    "entries", [{"offset": "8"}, {"length": "8"}, {"offset": "-1"}, {"offset": "9" * 30}, {"offset": "x"}]
)
def test_places_outside_a_file_are_refused(entries, tmp_path):
    (tmp_path / "w.bin").write_bytes(W.tobytes())
    with pytest.raises(nd.ModelFormatError, match=r"has its numbers at|needs 24 bytes"):
        nd.load(external(tmp_path, "w.bin", **entries))


def test_a_model_without_a_folder_has_no_files_beside_it(tmp_path):
    with pytest.raises(nd.ModelFormatError, match=r"pass the path of the \.onnx file instead"):
        nd.load(onnx.load(external(tmp_path, "w.bin"), load_external_data=False))


def test_long_and_intricate_graphs_take_no_time():
    nodes = [("Neg", [f"v{i}" if i else "x"], [f"v{i + 1}"]) for i in range(20_000)]
    assert nd.load(make([*nodes, ("MatMul", ["v20000", "w"], ["y"])])).n_out == 2
    nodes = [("Identity", [f"w{i}" if i else "w"], [f"w{i + 1}"]) for i in range(20_000)]
    assert nd.load(make([*nodes, ("MatMul", ["x", "w20000"], ["y"])])).n_out == 2
    powers = [("Pow", [f"v{i}" if i else "x", "three"], [f"v{i + 1}"]) for i in range(15)]
    with pytest.raises(nd.ModelFormatError, match="goes to several places"):
        nd.load(make([*powers, ("Mul", ["x", "v15"], ["y"])], tensors={"three": np.float32(3)}))


def test_a_missing_library_is_one_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(nd.MissingDependencyError, match=r'needs the library onnx, .*pip install "numbadense\[onnx\]"'):
        nd.load(GOLDEN / "keras_mlp.onnx")


def test_empty_truncated_and_other_files_are_refused(tmp_path):
    content = (GOLDEN / "made_arithmetic.onnx").read_bytes()
    for bad in (b"", content[:-1], content[: len(content) // 2], b"\xff" * 100, b"PK\3\4"):
        (tmp_path / "net.onnx").write_bytes(bad)
        with pytest.raises(
            nd.ModelFormatError, match=r"net\.onnx (has 0 bytes|is not a whole ONNX file|is not a network)"
        ):
            nd.load(tmp_path / "net.onnx")
    with pytest.raises(FileNotFoundError):
        nd.load(tmp_path / "none.onnx")


def messages(message):
    """Yield a message and all that are in it."""
    yield message
    for field, value in message.ListFields():
        if field.type == field.TYPE_MESSAGE:
            for each in value if hasattr(value, "add") else [value]:
                yield from messages(each)


def altered(content, rng):
    """Return a model with one to three fields of its messages changed, removed or repeated."""
    model = onnx.ModelProto.FromString(content)
    for _ in range(rng.choice((1, 1, 2, 3))):
        message = rng.choice(list(messages(model)))
        fields = message.ListFields()
        if not fields:
            continue
        field, value = rng.choice(fields)
        repeated = hasattr(value, "extend")
        if rng.randrange(4) == 0:
            message.ClearField(field.name)
        elif repeated:
            kind = rng.randrange(3)
            if kind == 0:
                del value[rng.randrange(len(value))]
            elif kind == 1 or field.type in (field.TYPE_MESSAGE, field.TYPE_STRING):
                value.extend([rng.choice(value)])
            else:
                value[rng.randrange(len(value))] = rng.choice((0, 1, 2, 3))
        elif field.type == field.TYPE_STRING:
            names = [each for n in model.graph.node for each in (*n.input, *n.output, n.op_type)]
            setattr(message, field.name, rng.choice(names or [""]))
        elif field.type in (field.TYPE_INT64, field.TYPE_INT32, field.TYPE_ENUM):
            setattr(message, field.name, rng.choice((0, 1, 2, 3, 7, 11)))
        elif field.type == field.TYPE_FLOAT:
            setattr(message, field.name, rng.choice((0.0, -1.0, float("nan"), float("inf"), 1e-45)))
        elif field.type == field.TYPE_BYTES:
            setattr(message, field.name, mutated(value, rng) if value else b"x")
    return model.SerializeToString()


@pytest.mark.filterwarnings("ignore::numbadense.NonFiniteWarning")
def test_a_damaged_file_is_refused_or_is_a_network(tmp_path):
    rng = random.Random(0)
    files = [path.read_bytes() for path in sorted(GOLDEN.glob("*.onnx"))]
    path = tmp_path / "net.onnx"
    networks = 0
    for count in range(COUNT):
        content = rng.choice(files)
        path.write_bytes((altered if count % 2 else mutated)(content, rng))
        try:
            net = nd.load(path)
        except nd.ModelFormatError as error:
            assert str(path) in str(error) and "\n" not in str(error)
        else:
            networks += 1
            assert net.n_in > 0
    assert 0 < networks < COUNT


def test_the_conformance_that_is_claimed_is_true():
    claimed = json.loads(onnx_conformance.RESULTS.read_text())
    found = onnx_conformance.results()
    for operator, outcomes in claimed["operators"].items():
        if onnx.__version__ == claimed["onnx"]:
            assert [set(each) for each in found["operators"][operator].values()] == [
                set(each) for each in outcomes.values()
            ]
        else:  # later versions have more cases
            assert set(outcomes["passed"]) & set(found["operators"][operator]["refused"]) == set()


def test_the_backend_runs_models_and_nodes():
    from onnx.backend.test.runner import BackendIsNotSupposedToImplementIt

    from numbadense.io.onnx import backend

    x = np.float32([[-1, 2, 3]])
    (y,) = backend.run_node(helper.make_node("Gemm", ["x", "w"], ["y"]), [x, W])
    np.testing.assert_allclose(y, x @ W, rtol=1e-6)
    assert backend.run_model(line(("Relu", {}, [])), [x])[0].tolist() == [[0, 2, 3]]
    assert backend.is_compatible(line(("Relu", {}, []))) and not backend.is_compatible(line(("Sin", {}, [])))
    assert backend.supports_device("CPU:0") and not backend.supports_device("CUDA")
    with pytest.raises(BackendIsNotSupposedToImplementIt, match="is not an operator"):
        backend.prepare(line(("Sin", {}, [])))
