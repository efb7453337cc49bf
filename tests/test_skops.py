"""Networks of scikit-learn itself, live and in the files of skops: its own outputs are the oracle."""

import copy
import io
import itertools
import json
import random
import sys
import warnings
import zipfile
from pathlib import Path

import mutations
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import numbadense as nd

sklearn = pytest.importorskip("sklearn")
skops_io = pytest.importorskip("skops.io")

from sklearn.compose import TransformedTargetRegressor  # noqa: E402
from sklearn.exceptions import ConvergenceWarning  # noqa: E402
from sklearn.model_selection import GridSearchCV  # noqa: E402
from sklearn.neural_network import MLPClassifier, MLPRegressor  # noqa: E402
from sklearn.pipeline import make_pipeline  # noqa: E402
from sklearn.preprocessing import (  # noqa: E402
    FunctionTransformer,
    MaxAbsScaler,
    MinMaxScaler,
    RobustScaler,
    StandardScaler,
)

GOLDEN = Path(__file__).parent / "golden" / "sklearn"
CASES = [
    ("binary_logistic", ("MLPClassifier", "logistic", "binary")),
    ("binary_relu_float32", ("MLPClassifier", "relu", "binary", "float32")),
    ("multiclass_relu", ("MLPClassifier", "relu", "multiclass")),
    ("multilabel_tanh", ("MLPClassifier", "tanh", "multilabel")),
    ("regressor_several", ("MLPRegressor", "relu", "several targets")),
    ("regressor_poisson", ("MLPRegressor", "tanh", "poisson")),
    ("standard_scaler_float32", ("Pipeline", "StandardScaler", "MLPClassifier", "float32")),
    ("min_max_scaler", ("Pipeline", "MinMaxScaler", "MLPRegressor", "identity")),
    ("min_max_scaler_clip", ("Pipeline", "MinMaxScaler(clip=True)", "MLPClassifier")),
    ("max_abs_robust_scaler", ("Pipeline", "RobustScaler", "MaxAbsScaler", "MLPClassifier", "multilabel")),
    ("nested", ("Pipeline in Pipeline", "passthrough", "None", "FunctionTransformer()", "MLPClassifier")),
    ("target_scaler", ("TransformedTargetRegressor", "StandardScaler", "MLPRegressor")),
]
OUTPUTS = np.load(GOLDEN / "outputs.npz")
rng = np.random.default_rng(0)


def golden(name):
    return GOLDEN / f"{name}.skops"


def affine(apply, n):
    """The layer that an affine function of `n` features is, near enough for a bound."""
    shift = apply(np.zeros((1, n)))[0]
    return nd.Dense(np.diag(apply(np.ones((1, n)))[0] - shift), shift)


def plain_layers(estimator):
    """The layers that an estimator computes one after the other, scalers among them: what a bound is derived from."""
    if hasattr(estimator, "steps"):
        return [layer for _, step in estimator.steps for layer in plain_layers(step)]
    if hasattr(estimator, "regressor_"):
        before = plain_layers(estimator.regressor_)
        return [*before, affine(estimator.transformer_.inverse_transform, before[-1].n_out)]
    if hasattr(estimator, "coefs_"):
        names = [estimator.activation] * (len(estimator.coefs_) - 1) + [estimator.out_activation_]
        return [nd.Dense(*each) for each in zip(estimator.coefs_, estimator.intercepts_, names, strict=True)]
    if hasattr(estimator, "transform") and not isinstance(estimator, FunctionTransformer):
        scaler = copy.copy(estimator)
        scaler.clip = False
        layer = affine(scaler.transform, estimator.n_features_in_)
        clips = getattr(estimator, "clip", False)
        return [nd.Dense(layer.w, layer.b, "clip({}, {})".format(*estimator.feature_range)) if clips else layer]
    return []


def check(net, estimator, x, expected):
    """Assert that a network and its estimator agree: each is within the bound of the exact result."""
    expected = expected[:, None] if expected.ndim == 1 else expected
    with np.errstate(all="ignore"):  # exp overflows, to infinity on both sides
        bound = nd.testing.error_bound(x, plain_layers(estimator), net.dtype)
    if bound.shape[1] == 1 < expected.shape[1]:  # the second column is p, and the first was computed as 1 - p
        bound = np.hstack([bound + np.finfo(net.dtype).eps, bound])
    actual = net(x)
    assert actual.shape == expected.shape and actual.dtype == net.dtype
    with np.errstate(invalid="ignore"):
        near = abs(actual.astype(np.longdouble) - expected) <= 2 * bound
    assert (near | (actual == expected)).all()


def fitted(estimator, x, y):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return estimator.fit(x, y)


@pytest.mark.parametrize(("name", "kinds"), CASES, ids=[name for name, _ in CASES])
def test_golden(name, kinds):
    net = nd.load(golden(name))
    assert net.dtype == ("float32" if "float32" in kinds else "float64")
    x = OUTPUTS["x"].astype(net.dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        estimator = skops_io.load(golden(name), trusted=skops_io.get_untrusted_types(file=golden(name)))
    check(net, estimator, x, OUTPUTS[name])
    assert net.metadata["source"] in OUTPUTS["versions"]
    if f"{name}.predict" in OUTPUTS:
        classes, predicted = np.array(json.loads(net.metadata["classes"])), OUTPUTS[f"{name}.predict"]
        says = net(x) > 0.5 if predicted.ndim == 2 else classes[net(x).argmax(axis=1)]
        assert np.array_equal(says, predicted)


def test_a_file_is_what_its_estimator_is():
    for name, _ in CASES:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            estimator = skops_io.load(golden(name), trusted=skops_io.get_untrusted_types(file=golden(name)))
        from_file, live = nd.load(golden(name)), nd.load(estimator)
        for one, other in zip(from_file.layers, live.layers, strict=True):
            assert np.array_equal(one.w, other.w) and np.array_equal(one.b, other.b)
            assert one.activation is other.activation
        assert live.metadata["source"] == f"scikit-learn {sklearn.__version__}"


SCALERS = [
    StandardScaler(),
    StandardScaler(with_mean=False),
    StandardScaler(with_std=False),
    MinMaxScaler((-2, 0.5)),
    MinMaxScaler((0, 1), clip=True),
    MaxAbsScaler(),
    RobustScaler(),
    RobustScaler(with_centering=False),
    RobustScaler(with_scaling=False, quantile_range=(10, 90)),
    FunctionTransformer(),
    "passthrough",
]
KINDS = ["binary", "multiclass", "multilabel", "regressor", "several", "poisson"]


def of_random_weights(kind, widths, activation, dtype, rng):
    """An estimator that was never fitted but has all that one is known by."""
    outputs = {"binary": 1, "regressor": 1}.get(kind, 3)
    kinds = MLPRegressor if kind in ("regressor", "several", "poisson") else MLPClassifier
    estimator = kinds(hidden_layer_sizes=widths[1:], activation=activation)
    widths = (*widths, outputs)
    size = 10 ** rng.uniform(-2, 1)
    estimator.coefs_ = [(size * rng.standard_normal(pair)).astype(dtype) for pair in itertools.pairwise(widths)]
    estimator.intercepts_ = [rng.standard_normal(n).astype(dtype) for n in widths[1:]]
    estimator.n_outputs_, estimator.n_layers_, estimator.n_features_in_ = outputs, len(widths), widths[0]
    out = {"multiclass": "softmax", "poisson": "exp", "binary": "logistic", "multilabel": "logistic"}
    estimator.out_activation_ = out.get(kind, "identity")
    if kinds is MLPClassifier:
        estimator.classes_ = np.arange(max(2, outputs))
    return estimator


@given(
    st.sampled_from(KINDS),
    st.lists(st.integers(1, 9), min_size=1, max_size=4),
    st.sampled_from(["identity", "logistic", "tanh", "relu"]),
    st.sampled_from([np.float32, np.float64]),
    st.lists(st.sampled_from(SCALERS), max_size=3),
    st.integers(0, 2**32 - 1),
)
def test_any_network_behind_any_scalers_gives_what_scikit_learn_gives(kind, widths, activation, dtype, scalers, seed):
    rng = np.random.default_rng(seed)
    estimator = of_random_weights(kind, tuple(widths), activation, dtype, rng)
    x = (rng.standard_normal((11, widths[0])) * 10 ** rng.uniform(-2, 2, widths[0]) + rng.uniform(-3, 3)).astype(dtype)
    if rng.integers(2):
        x[:, 0] = x[0, 0]  # no variance
    scalers = [step if isinstance(step, str) else sklearn.clone(step) for step in scalers]
    whole = make_pipeline(*scalers, estimator) if scalers else estimator
    if scalers:
        make_pipeline(*scalers, "passthrough").fit(x)
    with np.errstate(over="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of pipelines that were never fitted as a whole
        expected = whole.predict_proba(x) if hasattr(whole, "predict_proba") else whole.predict(x)
    check(nd.load(whole), whole, x, expected)


def test_targets_are_scaled_back():
    x, y = rng.standard_normal((20, 3)), 50 + 10 * rng.standard_normal(20)
    for scaler in (StandardScaler(), MinMaxScaler(), make_pipeline(RobustScaler(), MinMaxScaler()), None):
        network = MLPRegressor(hidden_layer_sizes=(4,), max_iter=3)
        estimator = fitted(TransformedTargetRegressor(network, transformer=scaler), x, y)
        check(nd.load(estimator), estimator, x, estimator.predict(x))


def test_the_best_of_a_search_is_read(tmp_path):
    x, y = rng.standard_normal((20, 3)), np.arange(20) % 2
    network = make_pipeline(StandardScaler(), MLPClassifier((4,), max_iter=3))
    search = fitted(GridSearchCV(network, {"mlpclassifier__alpha": [0.1, 1]}, cv=2), x, y)
    check(nd.load(search), search.best_estimator_, x, search.predict_proba(x))
    skops_io.dump(search, tmp_path / "search.skops")
    skops_io.dump(search.best_estimator_, tmp_path / "best.skops")
    with pytest.raises(nd.ModelFormatError, match=r"trusted=\['sklearn\.metrics\._scorer\._PassthroughScorer', "):
        nd.load(tmp_path / "search.skops")
    types = skops_io.get_untrusted_types(file=tmp_path / "search.skops")
    for net in (nd.load(tmp_path / "search.skops", trusted=types), nd.load(tmp_path / "best.skops")):
        assert np.array_equal(net(x), nd.load(search)(x))


class Ours(MLPClassifier):
    pass


def test_types_that_skops_does_not_trust_are_named_and_can_be_trusted(tmp_path):
    path = tmp_path / "ours.skops"
    estimator = fitted(Ours((2,), max_iter=2), rng.standard_normal((9, 3)), np.arange(9) % 2)
    skops_io.dump(estimator, path)
    name = f"{__name__}.Ours"
    text = (
        f"holds objects of types that skops does not trust; if you do, and have reviewed them, pass trusted=['{name}']"
    )
    for trusted in (None, [], ["another.Class"]):
        with pytest.raises(nd.ModelFormatError) as caught:
            nd.load(path, trusted=trusted)
        assert text in str(caught.value) and str(path) in str(caught.value)
    for kind in (name, Ours):
        assert np.array_equal(nd.load(path, trusted=(kind,))(np.ones(3)), nd.load(estimator)(np.ones(3)))


@pytest.mark.parametrize("trusted", [True, "a.B", b"a.B", 3, [3], [None]])
def test_trusted_is_a_sequence_of_names_of_types(trusted):
    with pytest.raises(nd.OptionError, match=r"trusted (is|holds) .* but must (be|hold) .*names of types"):
        nd.load(golden("binary_logistic"), trusted=trusted)


def test_a_missing_library_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "skops.io", None)
    with pytest.raises(nd.MissingDependencyError, match=r'skops needs the library skops\.io.*"numbadense\[sklearn\]"'):
        nd.load(golden("binary_logistic"))


def test_a_file_that_is_not_there_is_an_os_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        nd.load(tmp_path / "net.skops")


def state(kind, loader, **fields):
    module, _, name = kind.rpartition(".")
    return {"__class__": name, "__module__": module, "__loader__": loader, **fields}


def a_list(*items, **fields):
    return state("builtins.list", "ListNode", content=list(items), **fields)


def an_array(kind="numpy.ndarray"):
    return state(kind, "NdArrayNode", type="numpy", file="a.npy")


def npy(array, **claims):
    """The array as a file, whose header says other things of it."""
    written = io.BytesIO()
    np.lib.format.write_array_header_1_0(written, {**np.lib.format.header_data_from_array_1_0(array), **claims})
    return written.getvalue() + array.tobytes()


def twice_the_one_before():
    """A list of lists ..., each with the one before and a reference to it: 2 ** 60 of them to who follows."""
    made = a_list(__id__=1)
    for each in range(2, 60):
        made = a_list(made, {"__id__": each - 1}, __id__=each)
    return made


HOSTILE = {
    "not an estimator": (a_list(), b"", "the estimator (list) is not a network"),
    "longer than it is": (
        an_array(),
        npy(np.ones(8), shape=(80000000000000,)),
        "of 64 bytes that says it is (80000000000000,) of float64",
    ),
    "more rows than bytes": (
        an_array(),
        npy(np.ones(0), shape=(10**9, 0)),
        "of 0 bytes that says it is (1000000000, 0)",
    ),
    "an archive within": (an_array(), b"PK\3\4", "holds an archive within it, 'a.npy'"),
    "a pickle": (an_array(), b"\x80\4.", "is not a whole skops file (ValueError: "),
    "unpacks to much": (an_array(), bytes(40 << 20), "its arrays have 41943040: at most 33554432 are unpacked"),
    "many times": (a_list(*[an_array()] * 40), npy(np.ones(1 << 17)), "are unpacked; save it without compression"),
    "as many bytes as a number says": (an_array("numpy.void"), npy(np.array(2**31 - 1)), "holds a numpy.void"),
    "many parts": (a_list(*[[]] * 50_000), b"", "describes more than 40000 parts of objects"),
    "a long schema": (a_list("x" * (9 << 20)), b"", "bytes but at most 8388608 are read"),
    "references without end": (twice_the_one_before(), b"", "is not a whole skops file (KeyError: "),
    "a function": (state("os.system", "FunctionNode"), b"", "pass trusted=['os.system']"),
    "no schema": (None, b"", "There is no item named 'schema.json'"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_are_refused_before_they_cost_anything(name, tmp_path):
    schema, member, text = HOSTILE[name]
    path = tmp_path / "net.skops"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.npy", member)
        if schema is not None:
            archive.writestr("schema.json", json.dumps({"protocol": 2, **schema}))
    with pytest.raises(nd.ModelFormatError) as caught:
        nd.load(path)
    assert text in str(caught.value) and str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_deep_schemas_and_other_compressions_are_refused(tmp_path):
    path = tmp_path / "net.skops"
    for text, compression in (("[" * 100_000, zipfile.ZIP_STORED), ("{}", zipfile.ZIP_BZIP2)):
        with zipfile.ZipFile(path, "w", compression) as archive:
            archive.writestr("schema.json", text)
        with pytest.raises(nd.ModelFormatError, match=r"RecursionError|is compressed by method 12 but what is read"):
            nd.load(path)


def test_a_file_of_another_version_is_read_without_a_word(tmp_path):
    path = tmp_path / "net.skops"
    with zipfile.ZipFile(golden("binary_logistic")) as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            new.writestr(name, old.read(name).replace(sklearn.__version__.encode(), b"1.2.3"))
    assert nd.load(path).metadata["source"] == "scikit-learn 1.2.3"


def test_mutated_files_are_refused_or_are_networks(tmp_path):
    contents = [golden(name).read_bytes() for name, _ in CASES]
    path = tmp_path / "net.skops"
    for seed in range(mutations.COUNT):
        rng = random.Random(seed)
        path.write_bytes(mutations.mutated_zip(rng.choice(contents), rng))
        try:
            net = nd.load(path)
        except nd.ModelFormatError as error:
            assert str(error).startswith(str(path)) and "\n" not in str(error), seed
        except nd.NonFiniteWarning:
            pass
        else:
            assert net(np.ones((2, net.n_in))).shape == (2, net.n_out), seed
