"""Estimators of scikit-learn, read by their attributes alone: stand-ins of the same names and attributes."""

import itertools
import json
import subprocess
import sys
import warnings
from types import SimpleNamespace

import numpy as np
import pytest

import numbadense as nd

rng = np.random.default_rng(0)
X = rng.standard_normal((7, 3))


def named(kind, **attributes):
    """Return an object of a class of that name, in a module of scikit-learn."""
    made = type(kind, (), {"__module__": "sklearn.stand_in"})()
    vars(made).update(attributes)
    return made


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def weights(*widths, dtype=np.float64):
    pairs = list(itertools.pairwise(widths))
    return {
        "coefs_": [rng.standard_normal(pair).astype(dtype) for pair in pairs],
        "intercepts_": [rng.standard_normal(pair[1]).astype(dtype) for pair in pairs],
    }


def classifier(outputs=1, out="logistic", activation="relu", **attributes):
    given = {"activation": activation, "out_activation_": out, "classes_": np.array(["no", "yes"])}
    return named("MLPClassifier", **{**weights(3, 4, outputs), **given, **attributes})


def regressor(outputs=1, out="identity", activation="tanh", **attributes):
    given = {"activation": activation, "out_activation_": out}
    return named("MLPRegressor", **{**weights(3, 4, outputs), **given, **attributes})


def pipeline(*steps):
    return named("Pipeline", steps=[(f"step {index}", step) for index, step in enumerate(steps)])


def standard(with_mean=True, with_std=True, n=3):
    return named(
        "StandardScaler",
        with_mean=with_mean,
        with_std=with_std,
        mean_=np.arange(1.0, n + 1),
        scale_=np.arange(2.0, n + 2) if with_std else None,
    )


def hidden(estimator, x, g):
    return g(x @ estimator.coefs_[0] + estimator.intercepts_[0]) @ estimator.coefs_[1] + estimator.intercepts_[1]


def refused(source, text, **options):
    with pytest.raises(nd.ModelFormatError) as caught:
        nd.load(source, **options)
    assert text in str(caught.value) and "\n" not in str(caught.value)


def test_a_binary_classifier_gives_both_probabilities():
    estimator = classifier()
    p = sigmoid(hidden(estimator, X, lambda z: np.maximum(z, 0)))
    np.testing.assert_allclose(nd.load(estimator)(X), np.hstack([1 - p, p]), rtol=1e-13)


def test_both_probabilities_keep_their_digits():
    far = classifier(coefs_=[np.ones((1, 1)), np.ones((1, 1))], intercepts_=[np.zeros(1), np.zeros(1)])
    [[no, yes]] = nd.load(far)([[100.0]])
    assert yes == 1 and no == pytest.approx(np.exp(-100), rel=1e-15)


@pytest.mark.parametrize("out", ["softmax", "logistic"])
def test_a_classifier_of_several_outputs_gives_what_each_says(out):
    estimator = classifier(3, out, "identity")
    z = hidden(estimator, X, lambda z: z)
    expected = sigmoid(z) if out == "logistic" else np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(nd.load(estimator)(X), expected, rtol=1e-12)


@pytest.mark.parametrize("outputs", [1, 2])
@pytest.mark.parametrize("out", ["identity", "exp"])
def test_a_regressor_gives_a_column_for_each_target(outputs, out):
    estimator = regressor(outputs, out, "logistic")
    z = hidden(estimator, X, sigmoid)
    assert z.shape == (7, outputs)
    np.testing.assert_allclose(nd.load(estimator)(X), np.exp(z) if out == "exp" else z, rtol=1e-12, atol=1e-12)


def test_weights_keep_their_bits_and_their_dtype():
    estimator = regressor(**weights(3, 4, 2, dtype=np.float32))
    net = nd.load(estimator)
    assert net.dtype == np.float32
    for layer, w, b in zip(net.layers, estimator.coefs_, estimator.intercepts_, strict=True):
        assert np.array_equal(layer.w, w) and np.array_equal(layer.b, b)
    assert nd.load(estimator, dtype="float64").dtype == np.float64


def test_what_has_the_attributes_of_a_network_is_one():
    estimator = SimpleNamespace(**vars(regressor()))
    np.testing.assert_allclose(nd.load(estimator)(X), hidden(estimator, X, np.tanh), rtol=1e-13)


def no_function():
    return named("FunctionTransformer", func=None, inverse_func=None)


ONES = np.ones(3)
SCALERS = {
    "standard": (standard(), lambda x: (x - [1, 2, 3]) / [2, 3, 4]),
    "standard without mean": (standard(with_mean=False), lambda x: x / [2, 3, 4]),
    "standard without scale": (standard(with_std=False), lambda x: x - [1, 2, 3]),
    "min max": (named("MinMaxScaler", scale_=2 * ONES, min_=ONES, clip=False), lambda x: 2 * x + 1),
    "max abs": (named("MaxAbsScaler", scale_=4 * ONES), lambda x: x / 4),
    "robust": (
        named("RobustScaler", with_centering=True, with_scaling=True, center_=ONES, scale_=5 * ONES),
        lambda x: (x - 1) / 5,
    ),
    "robust without either": (
        named("RobustScaler", with_centering=False, with_scaling=False, center_=None, scale_=None),
        lambda x: x,
    ),
    "passthrough": ("passthrough", lambda x: x),
    "None": (None, lambda x: x),
    "no function": (no_function(), lambda x: x),
    "pipeline": (pipeline(standard(), "passthrough", standard(False)), lambda x: (x - [1, 2, 3]) / [4, 9, 16]),
}


@pytest.mark.parametrize("name", SCALERS)
def test_scalers_before_the_network_are_folded_into_it(name):
    scaler, transform = SCALERS[name]
    estimator = regressor()
    net = nd.load(pipeline(scaler, estimator))
    assert len(net.layers) == 2
    np.testing.assert_allclose(net(X), hidden(estimator, transform(X), np.tanh), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", SCALERS)
def test_the_inverse_of_a_scaler_of_the_target_is_folded_into_the_last_layer(name):
    scaler, transform = SCALERS[name]
    estimator = regressor(3)
    net = nd.load(named("TransformedTargetRegressor", regressor_=estimator, transformer_=scaler))
    assert len(net.layers) == 2
    np.testing.assert_allclose(transform(net(X)), hidden(estimator, X, np.tanh), rtol=1e-12, atol=1e-12)


def test_a_scaler_that_clips_is_a_layer():
    scaler = named("MinMaxScaler", scale_=2 * ONES, min_=ONES, clip=True, feature_range=(np.float32(-0.5), 1))
    estimator = regressor()
    net = nd.load(pipeline(scaler, standard(), estimator))
    assert [layer.activation.name for layer in net.layers] == ["clip(low=-0.5, high=1.0)", "tanh", "identity"]
    x = (np.clip(2 * X + 1, -0.5, 1) - [1, 2, 3]) / [2, 3, 4]
    np.testing.assert_allclose(net(X), hidden(estimator, x, np.tanh), rtol=1e-12, atol=1e-12)
    target = named("TransformedTargetRegressor", regressor_=regressor(3), transformer_=scaler)
    assert len(nd.load(target).layers) == 2  # its inverse does not clip
    net = nd.load(pipeline(named("MaxAbsScaler", scale_=ONES, clip=True), estimator))
    np.testing.assert_allclose(net(X), hidden(estimator, np.clip(X, -1, 1), np.tanh), rtol=1e-12, atol=1e-12)


def test_the_best_estimator_of_a_search_is_read_wherever_it_is():
    estimator = regressor()
    best = named("GridSearchCV", best_estimator_=pipeline(standard(), estimator))
    outer = named("TransformedTargetRegressor", regressor_=best, transformer_=standard(n=1))
    expected = 2 * hidden(estimator, (X - [1, 2, 3]) / [2, 3, 4], np.tanh) + 1
    np.testing.assert_allclose(nd.load(pipeline("passthrough", outer))(X), expected, rtol=1e-12)


@pytest.mark.parametrize(
    ("classes", "noted"),
    [
        (np.array(["a", "b"]), ["a", "b"]),
        (np.array([1, 5]), [1, 5]),
        (np.array([0.5, 1.0], np.float32), [0.5, 1.0]),
        (np.array([False, True]), [False, True]),
        (np.array([np.int8(3), np.str_("x"), "y"], object), [3, "x", "y"]),
        (np.array(["2026-11-25"], "datetime64[D]"), ["2026-11-25"]),
        ([np.int64(1), np.int64(2)], [1, 2]),
    ],
)
def test_classes_are_noted_as_json(classes, noted):
    last = classifier(classes_=classes)
    assert json.loads(nd.load(pipeline(standard(), last)).metadata["classes"]) == noted


def test_feature_names_are_those_of_the_first_step():
    first = named("StandardScaler", **vars(standard()), feature_names_in_=np.array(["a", "b", "c"], object))
    net = nd.load(pipeline(None, pipeline("passthrough", first), regressor(feature_names_in_=np.array(["x"]))))
    assert json.loads(net.metadata["feature_names"]) == ["a", "b", "c"]
    assert "classes" not in net.metadata and "feature_names" not in nd.load(regressor()).metadata


def without(made, *names):
    for name in names:
        vars(made).pop(name)
    return made


@pytest.mark.parametrize(
    ("source", "text"),
    [
        (named("MLPClassifier"), "the estimator (MLPClassifier) is not fitted: call its fit(X, y) before it is loaded"),
        (pipeline(standard(), named("MLPRegressor")), "step 1 (MLPRegressor 'step 1') is not fitted: call its fit"),
        (named("TransformedTargetRegressor"), "the estimator (TransformedTargetRegressor) is not fitted"),
        (named("RandomizedSearchCV"), "the estimator (RandomizedSearchCV) has no best_estimator_: call its fit(X, y)"),
        (named("SVC"), "the estimator (SVC) is not a network: MLPClassifier and MLPRegressor can be read, alone or as"),
        (pipeline(standard()), "step 0 (StandardScaler 'step 0') is not a network"),
        (pipeline(standard(), "passthrough"), "step 1 (passthrough 'step 1') is not a network"),
        (pipeline(), "the Pipeline has no steps; the last must be MLPClassifier or MLPRegressor"),
        (pipeline(named("PCA"), regressor()), "step 0 (PCA 'step 0') is not linear, or not known to be: what can be"),
        (
            pipeline(pipeline(named("PolynomialFeatures")), regressor()),
            "step 0 (Pipeline 'step 0'), step 0 (PolynomialFeatures 'step 0') is not linear",
        ),
        (
            pipeline(named("FunctionTransformer", func=np.log, inverse_func=None), regressor()),
            "step 0 (FunctionTransformer 'step 0') is not linear, or not known to be",
        ),
        (
            named("TransformedTargetRegressor", regressor_=regressor(), transformer_=named("PowerTransformer")),
            "the transformer (PowerTransformer) is not linear",
        ),
        (pipeline("drop", regressor()), "step 0 (str 'step 0') is not linear"),
        (pipeline(without(standard(), "mean_"), regressor()), "step 0 (StandardScaler 'step 0') is not fitted ('Stan"),
        (pipeline(standard(n=2), regressor()), "step 0 (StandardScaler 'step 0') is for (2,) features but gets 3"),
        (regressor(activation="gelu"), "layer 0 has activation='gelu' but what can be read is identity, logistic"),
        (regressor(out="sinh"), "layer 1 has out_activation_='sinh' but what can be read is exp, identity, logi"),
        (without(regressor(), "out_activation_"), "layer 1 has out_activation_=None but"),
        (without(regressor(), "intercepts_"), "has coefs_ and intercepts_ that are not lists of arrays"),
        (regressor(coefs_=[]), "has coefs_ and intercepts_ that are not lists of arrays"),
        (regressor(intercepts_=[np.ones(4)]), "has 2 coefs_ but 1 intercepts_, and each layer has one of each"),
        (regressor(coefs_=[np.ones((3, 4)), np.full((4, 1), "a")]), "layer 1, coefs_ is of dtype <U1 but must be of"),
        (regressor(coefs_=[np.ones((3, 4)), np.ones((5, 1))]), "layer 1 takes 5 features but gets 4"),
        (
            pipeline(named("MinMaxScaler", scale_=ONES, min_=ONES, clip=True, feature_range=(1, 0)), regressor()),
            "step 0 (MinMaxScaler 'step 0') has an activation that cannot be had",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_named(source, text):
    refused(source, text)


def test_options_for_files_are_refused():
    for option in ("trusted", "activations"):
        with pytest.raises(nd.OptionError, match=f"{option} is given for a MLPRegressor, which .*; leave {option} out"):
            nd.load(regressor(), **{option: ["relu"]})


def test_reading_an_estimator_imports_no_scikit_learn():
    code = (
        "import sys, numbadense as nd, numpy as np; from types import SimpleNamespace as S\n"
        "nd.load(S(coefs_=[np.eye(2)], intercepts_=[np.ones(2)], activation='relu', out_activation_='softmax'))\n"
        "print('sklearn' in sys.modules, 'skops' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, text=True, capture_output=True)
    assert done.stdout.split() == ["False", "False"]


def test_a_class_that_does_something_else_is_refused():
    sklearn = pytest.importorskip("sklearn")
    from sklearn.neural_network import MLPRegressor
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    class Doubling(MLPRegressor):
        def predict(self, x):
            return 2 * super().predict(x)

    class Same(MLPRegressor):
        pass

    scaler = type("StandardScaler", (StandardScaler,), {"transform": lambda self, x: x})
    x = np.eye(4)
    with sklearn.config_context(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        doubling, same = (kind(max_iter=2, random_state=0).fit(x, x[:, 0]) for kind in (Doubling, Same))
        scaled = make_pipeline(scaler(), MLPRegressor(max_iter=2)).fit(x, x[:, 0])
    np.testing.assert_allclose(nd.load(same)(x)[:, 0], same.predict(x))
    with pytest.raises(nd.ModelFormatError, match=r"\(Doubling\) has a predict of its own, which cannot be read"):
        nd.load(doubling)
    with pytest.raises(
        nd.ModelFormatError, match=r"\(StandardScaler\) has a transform of its own, which cannot be read"
    ):
        nd.load(scaled)
