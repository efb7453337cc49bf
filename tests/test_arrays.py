"""Arrays and frames of other libraries: PyTorch, JAX, array API namespaces, pandas, polars."""

import doctest
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
import strategies as draw
from libraries import library

import numbadense as nd

RNG = np.random.default_rng(0)
NAMES = ("age", "mass", "speed", "turn", "wind")
X = draw.numbers(RNG, (13, 5), np.float32)
LAYERS = [
    nd.Dense(draw.weights(RNG, 5, 17, np.float32), draw.numbers(RNG, 17, np.float32), "tanh"),
    nd.Dense(draw.weights(RNG, 17, 3, np.float32), None, "softmax"),
]
NET = nd.Sequential(LAYERS, {"feature_names": json.dumps(NAMES)})
EXPECTED = NET(X)
CALLS = {
    "network": lambda x, **out: NET(x, **out),
    "predict": lambda x, **out: NET.predict(x, 5, **out),
    "dense": lambda x, **out: nd.dense(x, LAYERS[0].w, LAYERS[0].b, "relu", **out),
    "layer": lambda x, **out: LAYERS[0](x, **out),
    "activation": lambda x, **out: nd.sigmoid(x, **out),
    "rowwise": lambda x, **out: nd.softmax(x, **out),
    "population": lambda x, **out: nd.stack([NET, NET])(x, **out),
    "jacobian": lambda x, **out: NET.jacobian(x, **out),
    "which": lambda x, **out: nd.stack([NET, NET])(x, which=np.zeros(len(x), int), **out),
}


@pytest.fixture
def torch():
    return library("torch")


@pytest.fixture(params=["pandas", "polars"])
def frames(request):
    return library(request.param)


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_a_tensor_in_gives_a_tensor_with_the_same_bits(torch, call):
    expected = call(X)
    tensor = torch.from_numpy(X.copy())
    result = call(tensor)
    assert type(result) is torch.Tensor and np.array_equal(result.numpy(), expected)
    out = torch.empty(expected.shape)
    assert call(tensor, out=out) is out and torch.equal(out, result)
    assert call(X, out=out) is out
    array = np.empty(expected.shape, np.float32)
    assert call(tensor, out=array) is array and np.array_equal(array, expected)


def test_derivatives_are_of_the_kind_of_x(torch):
    tensor, v = torch.from_numpy(X.copy()), np.ones_like(X)
    expected = NET.jvp(X, v)
    out = torch.empty(13, 3), torch.empty(3, 13).T
    for found in (NET.jvp(tensor, v), NET.jvp(tensor, torch.from_numpy(v), out=out)):
        assert all(torch.equal(part, torch.from_numpy(wanted)) for part, wanted in zip(found, expected, strict=True))
    assert NET.jvp(tensor, v, out=out)[0] is out[0]


def test_a_tensor_is_read_where_it_lies_and_may_be_overwritten(torch):
    from numbadense._engine import validate

    tensor = torch.from_numpy(X.copy())
    for view in (tensor, tensor.T, tensor[::2, 1:]):
        array = validate.as_array("x", view)
        assert array.ctypes.data == view.data_ptr() and np.array_equal(array, view.numpy())
    expected = nd.tanh(X)
    assert nd.tanh(tensor, out=tensor) is tensor and np.array_equal(tensor.numpy(), expected)


def test_other_dtypes_of_tensors_are_those_of_numpy(torch):
    tensor = torch.arange(10).reshape(2, 5)
    assert torch.equal(NET(tensor), torch.from_numpy(NET(tensor.numpy())))
    assert NET.astype("float64")(tensor).dtype == torch.float64
    single = nd.sigmoid(torch.tensor(0.0))
    assert type(single) is torch.Tensor and single.shape == () and single == 0.5


def test_weights_may_be_tensors(torch):
    linear = torch.nn.Linear(5, 4)
    layer = nd.Dense(linear.weight.detach().T, linear.bias.detach())
    assert np.array_equal(layer.w, linear.weight.detach().numpy().T)
    with pytest.raises(
        nd.DTypeError, match=r"^w is a torch Tensor that requires a gradient, which .* pass w\.detach\("
    ):
        nd.Dense(linear.weight.T, linear.bias)


def test_what_a_tensor_cannot_give_is_said(torch):
    tensor = torch.from_numpy(X.copy())
    with pytest.raises(nd.DTypeError, match=r"^x is a torch Tensor that requires a gradient, .* pass x\.detach\(\)\.$"):
        NET(tensor.requires_grad_())
    with pytest.raises(nd.OutputError, match=r"^out is a torch Tensor that requires a gradient.* pass out\.detach\(\)"):
        NET(X, out=torch.empty(13, 3, requires_grad=True))
    with pytest.raises(nd.OutputError, match=r"^out has shape \(2, 3\) but the result has shape \(13, 3\)"):
        NET(X, out=torch.empty(2, 3))
    with pytest.raises(nd.OutputError, match=r"^out is a list but must be a NumPy array of shape \(13, 3\)"):
        NET(tensor.detach(), out=[])
    for made in (torch.ones(2, 5).bfloat16(), torch.ones(2, 5).to_sparse(), torch.ones(2, 5, device="meta")):
        with pytest.raises(
            nd.DTypeError, match=r"^x is a torch Tensor of torch\.\w+ that NumPy cannot read \(.*float32 o"
        ):
            NET(made)


def test_an_array_of_jax_gives_one_of_jax_and_is_no_out():
    jax = library("jax")
    result = NET(jax.numpy.asarray(X))
    assert isinstance(result, jax.Array) and np.array_equal(np.asarray(result), EXPECTED)
    narrow = jax.numpy.asarray(X, dtype="bfloat16")
    assert np.array_equal(np.asarray(NET(narrow)), NET(np.asarray(narrow)))
    with pytest.raises(nd.OutputError, match=r"^out is read-only but must take the result"):
        NET(X, out=jax.numpy.zeros((13, 3)))
    with pytest.raises(nd.DTypeError, match=r"^x is a jax\w* \w+Tracer of float32 that NumPy cannot read"):
        jax.jit(NET)(X)


@pytest.mark.parametrize("name", ["numpy", "torch", "cupy"])
def test_functions_over_array_api_namespaces_take_networks(name):
    library("array_api_compat")
    library(name)
    if name == "cupy" and not nd.cuda.is_available():
        pytest.skip("there is no device")
    compat = library(f"array_api_compat.{name}")
    namespace = library("array_api_compat").array_namespace(compat.asarray(X))
    net = NET.to("cuda") if name == "cupy" else NET

    def logits(x):
        return namespace.log(net(namespace.abs(x)))

    result = logits(compat.asarray(X))
    assert type(result) is type(compat.asarray(X)) and tuple(result.shape) == (13, 3)


class Exporter:
    """An array of a library that speaks DLPack, has a namespace, and nothing else of NumPy's."""

    def __init__(self, array, device=(1, 0)):
        self.array, self.device = array, device

    def __array_namespace__(self):
        return type("namespace", (), {"from_dlpack": Exporter})

    def __dlpack__(self, **options):
        if self.device[0] != 1:
            raise BufferError("not on this device")
        return self.array.__dlpack__()

    def __dlpack_device__(self):
        return self.device


def test_any_library_that_speaks_dlpack_is_served():
    result = NET(Exporter(X))
    assert type(result) is Exporter and np.array_equal(result.array, EXPECTED)
    out = Exporter(np.empty_like(EXPECTED))
    if np.from_dlpack(out).flags.writeable:  # from NumPy 2.1 on
        assert NET(X, out=out) is out and np.array_equal(out.array, EXPECTED)


def test_an_array_on_a_device_is_sent_to_the_network_on_the_device():
    with pytest.raises(nd.DTypeError, match=r"^x is on a CUDA device; call net\.to\('cuda'\) or"):
        NET(Exporter(X, (2, 0)))


def test_a_frame_is_a_matrix_with_names(frames):
    frame = frames.DataFrame(dict(zip(NAMES, X.T, strict=True)))
    result = NET(frame)
    assert type(result) is np.ndarray and np.array_equal(result, EXPECTED)
    assert np.array_equal(NET.predict(frame, 4), EXPECTED)
    out = np.empty_like(EXPECTED)
    assert NET(frame, out=out) is out and np.array_equal(out, EXPECTED)
    assert np.array_equal(nd.softmax(frame), nd.softmax(X))
    assert NET(frame[:0]).shape == (0, 3)


def test_a_frame_over_a_matrix_is_not_copied():
    from numbadense._engine import foreign

    frame = library("pandas").DataFrame(X, columns=NAMES)
    assert np.shares_memory(foreign.array("x", frame, NET), frame.to_numpy())


def test_columns_of_several_kinds_of_numbers_are_taken(frames):
    columns = {
        "age": np.arange(13, dtype=np.int8),
        "mass": X[:, 1],
        "speed": X[:, 2] > 0,
        "turn": np.arange(13),
        "wind": X[:, 4].astype(np.float64),
    }
    expected = NET(np.column_stack([column.astype(np.float64) for column in columns.values()]))
    assert np.array_equal(NET(frames.DataFrame(columns)), expected)


@pytest.mark.parametrize("kind", ["Float64", "boolean", "Int8", "Sparse[float64]", "double[pyarrow]"])
def test_nullable_and_sparse_columns_of_pandas_are_numbers(kind):
    pandas = library("pandas")
    if "pyarrow" in kind:
        library("pyarrow")
    frame = pandas.DataFrame(X > 0, columns=NAMES).astype("float64").astype({"mass": kind})
    assert np.array_equal(NET(frame), NET(X > 0))


def frame_of(library, **columns):
    return library.DataFrame(dict(zip(NAMES, X.T, strict=True)) | columns)


def test_columns_are_held_to_the_names_of_the_features(frames):
    frame = frame_of(frames)
    turned = frame[[*NAMES[:2], "wind", "speed", "turn"]]
    with pytest.raises(
        nd.ShapeError,
        match=r"^x has the features of the network in another order: column 2 is 'wind' but feature 2 is 'speed'; "
        r"pass x\[list\(net\.feature_names\)\]\.$",
    ):
        NET(turned)
    assert np.array_equal(NET(turned[list(NET.feature_names)]), EXPECTED)
    with pytest.raises(
        nd.ShapeError, match=r"^x lacks the columns 'speed', 'turn', 'wind', but .*; add what is missing"
    ):
        NET.predict(frame[["age", "mass"]])
    with pytest.raises(
        nd.ShapeError, match=r"^x has the columns 'id' besides, but .*; pass x\[list\(net\.feature_names"
    ):
        NET(frame_of(frames, id=np.arange(13)))
    with pytest.raises(
        nd.ShapeError, match=r"^x lacks the columns 'age' and has the columns 'Age' besides, but the netw"
    ):
        NET(
            frame.rename(
                **({"columns": {"age": "Age"}} if frames.__name__ == "pandas" else {"mapping": {"age": "Age"}})
            )
        )


def test_a_column_twice_is_named():
    frame = frame_of(library("pandas"))
    with pytest.raises(nd.ShapeError, match=r"^x has the columns 'age' more than once"):
        NET(frame[["age", *NAMES]])


def test_columns_without_names_and_networks_without_names_are_not_held_to_them(frames):
    bare = nd.Sequential(LAYERS)
    assert bare.feature_names is None
    assert np.array_equal(bare(frame_of(frames)[list(reversed(NAMES))]), bare(X[:, ::-1]))
    if frames.__name__ == "pandas":
        assert np.array_equal(NET(frames.DataFrame(X)), EXPECTED)


def test_columns_that_are_no_numbers_are_named(frames):
    frame = frame_of(frames, mass=["heavy"] * 13, wind=np.full(13, "2026-11-25", "datetime64[us]"))
    with pytest.raises(
        nd.DTypeError,
        match=r"^x has columns that are not real numbers, 'mass' \(\w+\), 'wind' \(.+\); drop them or enco",
    ):
        NET(frame)


def test_objects_in_a_column_of_pandas_are_refused():
    pandas = library("pandas")
    with pytest.raises(nd.DTypeError, match=r"real numbers, 'turn' \(object\)"):
        NET(frame_of(pandas, turn=pandas.Series([1.0] * 13, dtype=object)))
    with pytest.raises(nd.DTypeError, match=r"real numbers, 'turn' \(category\)"):
        NET(frame_of(pandas, turn=pandas.Categorical(["a"] * 13)))


def test_missing_values_are_named_and_nan_is_a_number(frames):
    holes = [1.0] * 12 + [None]
    if frames.__name__ == "pandas":
        frame = frame_of(frames, speed=frames.array(holes, dtype="Float64"))
        remedy = r"x\.dropna\(\) or x\.fillna\(0\)"
    else:
        frame = frame_of(frames, speed=holes)
        remedy = r"x\.drop_nulls\(\) or x\.fill_null\(0\)"
    with pytest.raises(nd.DTypeError, match=rf"^x has missing values in the columns 'speed'; .*{remedy}\.$"):
        NET(frame)
    result = NET(frame_of(frames, speed=np.where(np.arange(13) == 3, np.nan, 0.0)))
    assert np.isnan(result[3]).all() and not np.isnan(np.delete(result, 3, axis=0)).any()


def test_a_lazy_frame_is_to_be_collected():
    with pytest.raises(nd.DTypeError, match=r"^x is a polars LazyFrame, which .* pass x\.collect\(\)\.$"):
        NET(frame_of(library("polars")).lazy())


def test_names_are_kept_with_the_network(tmp_path):
    assert NET.feature_names == NAMES
    NET.save(tmp_path / "net.safetensors")
    assert nd.load(tmp_path / "net.safetensors").feature_names == NAMES
    assert NET.astype("float64").feature_names == NAMES


@pytest.mark.parametrize("text", ["age", '["age"]', '{"age": 1}', "[1, 2, 3, 4, 5]", "5"])
def test_names_that_do_not_fit_are_refused_where_they_are_needed(text):
    net = nd.Sequential(LAYERS, {"feature_names": text})
    assert np.array_equal(net(X), EXPECTED)
    with pytest.raises(
        nd.OptionError, match=r"^metadata\['feature_names'\] is .* must be a JSON list of 5 names, one for"
    ):
        net.feature_names  # noqa: B018 - the access is the test


def test_series_and_lists_are_what_numpy_makes_of_them():
    pandas = library("pandas")
    assert np.array_equal(NET(pandas.Series(X[0], index=NAMES)), EXPECTED[0])
    assert np.array_equal(NET(X.tolist()), EXPECTED)


PAGE = Path(__file__).parents[1] / "docs" / "arrays.rst"
SECTIONS = re.split(
    r"^\.\. needs: (.*)$", PAGE.read_text(encoding="utf-8") if PAGE.is_file() else "", flags=re.MULTILINE
)


@pytest.mark.skipif(not PAGE.is_file(), reason="the documentation is not beside the tests")
@pytest.mark.parametrize(
    ("needed", "section"), list(zip(SECTIONS[1::2], SECTIONS[2::2], strict=True)), ids=SECTIONS[1::2]
)
def test_the_examples_of_the_page_about_arrays_are_true(needed, section):
    for name in needed.split():
        library(name)
    found = doctest.DocTestParser().get_doctest(f"{SECTIONS[0]}\n{section}", {}, needed, str(PAGE), 0)
    printed = io.StringIO()
    failed, tried = doctest.DocTestRunner().run(found, out=printed.write)
    assert tried > 6 and not failed, printed.getvalue()
