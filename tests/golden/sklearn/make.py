"""Write the golden files of this folder: estimators of scikit-learn as skops saves them, and what they predict.

Run ``python make.py`` with scikit-learn and skops installed.  ``outputs.npz`` holds the inputs `x`, of numbers that
float32 has too, the versions, and for each file what `predict_proba` or `predict` gives.
"""

import warnings
import zipfile
from pathlib import Path

import numpy as np
import sklearn
import skops
import skops.io
from sklearn.compose import TransformedTargetRegressor
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, MaxAbsScaler, MinMaxScaler, RobustScaler, StandardScaler

FOLDER = Path(__file__).parent
NETWORK = {"hidden_layer_sizes": (5,), "solver": "lbfgs", "max_iter": 30, "random_state": 0}

rng = np.random.default_rng(0)
X = (rng.standard_normal((24, 3)) * (1, 10, 0.1) + (0, 5, -1)).astype(np.float32).astype(np.float64)
X[:, 2] = X[0, 2]  # no variance
SPREAD = (X - X.mean(axis=0)) @ [1.0, 0.1, 0.0]
BINARY = np.where(SPREAD > 0, "yes", "no")
MULTICLASS = np.digitize(SPREAD, [-0.5, 0.5]) * 10
MULTILABEL = np.column_stack([SPREAD > 0, X[:, 0] > 0]).astype(int)
TARGETS = np.column_stack([100 + 30 * SPREAD, SPREAD**2])


def classifier(**options):
    return MLPClassifier(**{**NETWORK, **options})


def regressor(**options):
    return MLPRegressor(**{**NETWORK, **options})


MAKE = {
    "binary_logistic": (classifier(activation="logistic"), BINARY),
    "binary_relu_float32": (classifier(solver="adam", max_iter=4), BINARY),
    "multiclass_relu": (classifier(hidden_layer_sizes=(5, 4)), MULTICLASS),
    "multilabel_tanh": (classifier(activation="tanh"), MULTILABEL),
    "regressor_several": (regressor(), TARGETS / 100),
    "regressor_poisson": (regressor(loss="poisson", activation="tanh"), SPREAD**2),
    "standard_scaler_float32": (make_pipeline(StandardScaler(), classifier(solver="sgd", max_iter=4)), MULTICLASS),
    "min_max_scaler": (make_pipeline(MinMaxScaler((-1, 2)), regressor(activation="identity")), SPREAD),
    "min_max_scaler_clip": (make_pipeline(MinMaxScaler((0.25, 0.75), clip=True), classifier()), MULTICLASS),
    "max_abs_robust_scaler": (make_pipeline(RobustScaler(), MaxAbsScaler(), classifier()), MULTILABEL),
    "nested": (
        make_pipeline(
            make_pipeline("passthrough", StandardScaler(with_mean=False), FunctionTransformer()),
            RobustScaler(with_scaling=False),
            make_pipeline(None, StandardScaler(with_std=False), classifier()),
        ),
        BINARY,
    ),
    "target_scaler": (
        TransformedTargetRegressor(make_pipeline(StandardScaler(), regressor()), transformer=StandardScaler()),
        TARGETS,
    ),
}
STORED = ("binary_logistic",)  # as skops does by default; deflated the others are a fifth as large


def predicted(estimator, x):
    if not hasattr(estimator, "predict_proba"):
        return estimator.predict(x)
    return estimator.predict_proba(x)


def main():
    warnings.simplefilter("ignore", ConvergenceWarning)
    x = np.concatenate([X[::6], X[::-6] * 3])
    outputs = {"x": x, "versions": np.array([f"scikit-learn {sklearn.__version__}", f"skops {skops.__version__}"])}
    for name, (estimator, y) in MAKE.items():
        dtype = "float32" if name.endswith("float32") else "float64"
        estimator.fit(X.astype(dtype), y)
        compression = zipfile.ZIP_STORED if name in STORED else zipfile.ZIP_DEFLATED
        skops.io.dump(estimator, FOLDER / f"{name}.skops", compression=compression)
        outputs[name] = predicted(estimator, x.astype(dtype))
        assert outputs[name].dtype == dtype
        if hasattr(estimator, "classes_"):
            outputs[f"{name}.predict"] = estimator.predict(x.astype(dtype))
    np.savez_compressed(FOLDER / "outputs.npz", **outputs)


if __name__ == "__main__":
    main()
