"""Estimators of scikit-learn: `MLPClassifier` and `MLPRegressor`, alone or where a linear pipeline ends.

They are read by their attributes, and scikit-learn is not imported.  The network gives what says most: `predict_proba`
of a classifier, `predict` of a regressor.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from numbadense.errors import ModelFormatError
from numbadense.io.chain import Activate, Linear, Scale, Step, build

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from numbadense.model import Sequential

OPTIONS: tuple[str, ...] = ()
NETWORKS = ("MLPClassifier", "MLPRegressor")
METHODS = ("predict", "predict_proba", "transform", "inverse_transform", "_predict", "_forward_pass_fast")
HIDDEN = {"identity": "identity", "logistic": "sigmoid", "relu": "relu", "tanh": "tanh"}
OUTPUT = {"exp": "exp", "identity": "identity", "logistic": "sigmoid", "softmax": "softmax"}


def recognises(source: Any) -> bool:
    """Whether `source` is an estimator of scikit-learn, or has the attributes of a network."""
    ours = (kind.__module__.startswith("sklearn.") for kind in type(source).__mro__)
    return any(ours) or (hasattr(source, "coefs_") and hasattr(source, "intercepts_"))


def read(source: Any, dtype: str | None = None) -> Sequential:
    """Make a network of a fitted estimator."""
    return network(source, dtype, getattr(sys.modules.get("sklearn"), "__version__", None))


def network(estimator: Any, dtype: str | None = None, version: str | None = None) -> Sequential:
    """Make a network of an estimator that `version` of scikit-learn has fitted."""
    with np.errstate(all="ignore"):  # weights that come out infinite are warned of when layers are made
        steps = list(_predictions(estimator, ""))
        first = next(step for step in steps if isinstance(step, Linear))
        notes = {
            "source": None if version is None else f"scikit-learn {version}",
            "feature_names": _names(estimator, "feature_names_in_", 0),
            "classes": _names(estimator, "classes_", -1),
        }
        metadata = {name: note for name, note in notes.items() if note is not None}
        return build(steps, n_in=first.w.shape[0], dtype=dtype, metadata=metadata)


def _predictions(estimator: Any, origin: str) -> Iterator[Step]:
    """Yield what an estimator does to a row when it predicts."""
    _check_methods(estimator, origin)
    inner = _inner(estimator)
    if inner is not None:
        yield from _predictions(inner, origin)
    elif hasattr(estimator, "coefs_"):
        yield from _layers(estimator, origin)
    elif hasattr(estimator, "steps"):
        *before, (where, last) = _steps(estimator, origin)
        for each, transformer in before:
            yield from _transforms(transformer, each)
        yield from _predictions(last, where)
    elif hasattr(estimator, "regressor_"):
        yield from _predictions(estimator.regressor_, _within(origin, "the regressor", estimator.regressor_))
        yield from _untransforms(estimator.transformer_, _within(origin, "the transformer", estimator.transformer_))
    else:
        kind = type(estimator).__name__
        said = origin or f"the estimator ({kind})"
        names = {each.__name__ for each in type(estimator).__mro__}
        if not names.isdisjoint((*NETWORKS, "TransformedTargetRegressor")):
            raise ModelFormatError(f"{said} is not fitted: call its fit(X, y) before it is loaded.")
        if kind.endswith("SearchCV"):
            raise ModelFormatError(
                f"{said} has no best_estimator_: call its fit(X, y), with refit=True, before it is loaded."
            )
        raise ModelFormatError(
            f"{said} is not a network: {' and '.join(NETWORKS)} can be read, alone or as the last step of a Pipeline, "
            "in a GridSearchCV or a TransformedTargetRegressor."
        )


def _check_methods(estimator: Any, origin: str) -> None:
    """Refuse a class that is derived from one of scikit-learn's and does something else."""
    bases = type(estimator).__mro__
    if not any(base.__module__.startswith("sklearn.") for base in bases):
        return
    for method in METHODS:
        owner = next((base for base in bases if method in vars(base)), None)
        if owner is not None and not owner.__module__.startswith("sklearn."):
            raise ModelFormatError(
                f"{origin or 'the estimator'} ({type(estimator).__name__}) has a {method} of its own, which cannot be "
                "read: pass an estimator of scikit-learn's own class."
            )


def _inner(estimator: Any) -> Any:
    """Return the best estimator that a search over parameters has found."""
    return getattr(estimator, "best_estimator_", None)


def _within(origin: str, said: str, estimator: Any) -> str:
    return ", ".join(filter(None, (origin, f"{said} ({type(estimator).__name__})")))


def _steps(pipeline: Any, origin: str) -> list[tuple[str, Any]]:
    """Return the steps of a pipeline, each with its origin."""
    found = []
    for index, (name, step) in enumerate(pipeline.steps):
        kind = "passthrough" if _passes(step) else type(step).__name__
        found.append((", ".join(filter(None, (origin, f"step {index} ({kind} {name!r:.80})"))), step))
    if not found:
        raise ModelFormatError(f"{origin or 'the Pipeline'} has no steps; the last must be {' or '.join(NETWORKS)}.")
    return found


def _layers(estimator: Any, origin: str) -> Iterator[Step]:
    """Yield the layers of a network."""
    kind = type(estimator).__name__
    said = origin or f"the estimator ({kind})"
    coefs, intercepts = estimator.coefs_, getattr(estimator, "intercepts_", None)
    if not isinstance(coefs, (list, tuple)) or not isinstance(intercepts, (list, tuple)) or not coefs:
        raise ModelFormatError(f"{said} has coefs_ and intercepts_ that are not lists of arrays; fit it again.")
    if len(coefs) != len(intercepts):
        raise ModelFormatError(
            f"{said} has {len(coefs)} coefs_ but {len(intercepts)} intercepts_, and each layer has one of each; "
            "fit it again."
        )
    for index, (w, b) in enumerate(zip(coefs, intercepts, strict=True)):
        where = f"{said}, layer {index}"
        last = index == len(coefs) - 1
        w, b = _numbers(w, f"{where}, coefs_"), _numbers(b, f"{where}, intercepts_")
        name = "out_activation_" if last else "activation"
        known = OUTPUT if last else HIDDEN
        given = getattr(estimator, name, None)
        if not isinstance(given, str) or given not in known:
            raise ModelFormatError(f"{where} has {name}={given!r:.80} but what can be read is {', '.join(known)}.")
        if last and given == "logistic" and w.shape[1:] == (1,) == b.shape and hasattr(estimator, "classes_"):
            # One output is p, the probability of the second class: that of the first, as 1 - p, would lose its digits.
            w, b = np.concatenate([-w, w], axis=1), np.concatenate([-b, b])
        yield Linear(where, w, b)
        if given != "identity":
            yield Activate(where, known[given])


def _numbers(array: Any, said: str) -> NDArray[Any]:
    found = np.asarray(array)
    if found.dtype.kind not in "fiu":
        raise ModelFormatError(f"{said} is of dtype {found.dtype} but must be of real numbers; fit it again.")
    return found


def _transforms(transformer: Any, origin: str) -> Iterator[Step]:
    """Yield what a step before the network does to a row."""
    if hasattr(transformer, "steps"):
        for where, step in _steps(transformer, origin):
            yield from _transforms(step, where)
    elif not _passes(transformer):
        (factor, shift), _ = _affine(transformer, origin)
        yield Scale(origin, factor, shift)
        if getattr(transformer, "clip", False):
            low, high = getattr(transformer, "feature_range", (-1.0, 1.0))
            yield Activate(origin, f"clip({float(low)!r}, {float(high)!r})")


def _untransforms(transformer: Any, origin: str) -> Iterator[Step]:
    """Yield the inverse of a transformer: what makes a prediction of what its regressor gives."""
    if hasattr(transformer, "steps"):
        for where, step in reversed(_steps(transformer, origin)):
            yield from _untransforms(step, where)
    elif not _passes(transformer):
        _, (factor, shift) = _affine(transformer, origin)
        yield Scale(origin, factor, shift)


def _passes(transformer: Any) -> bool:
    """Whether a step leaves rows as they are."""
    if transformer is None or isinstance(transformer, str):
        return transformer in (None, "passthrough")
    _check_methods(transformer, "a step")
    functions = [getattr(transformer, name, None) for name in ("func", "inverse_func")]
    return type(transformer).__name__ == "FunctionTransformer" and functions == [None, None]


def _affine(transformer: Any, origin: str) -> tuple[Affine, Affine]:
    """Return what a scaler does, and its inverse: each a factor, and what is added then."""
    kind = type(transformer).__name__
    _check_methods(transformer, origin)
    if kind not in SCALERS:
        raise ModelFormatError(
            f"{origin} is not linear, or not known to be: what can be read beside a network is {', '.join(SCALERS)}, "
            "a FunctionTransformer without a function, and 'passthrough'; apply the others to x yourself."
        )
    try:
        return SCALERS[kind](transformer)
    except AttributeError as error:
        raise ModelFormatError(f"{origin} is not fitted ({error}): call fit before it is loaded.") from None


def _standard(scaler: Any) -> tuple[Affine, Affine]:
    return _centred(scaler.mean_ if scaler.with_mean else None, scaler.scale_ if scaler.with_std else None)


def _robust(scaler: Any) -> tuple[Affine, Affine]:
    return _centred(scaler.center_ if scaler.with_centering else None, scaler.scale_ if scaler.with_scaling else None)


def _max_abs(scaler: Any) -> tuple[Affine, Affine]:
    return _centred(None, scaler.scale_)


def _min_max(scaler: Any) -> tuple[Affine, Affine]:
    factor, shift = np.asarray(scaler.scale_, np.float64), np.asarray(scaler.min_, np.float64)
    return (factor, shift), (1 / factor, -shift / factor)


def _centred(centre: Any, scale: Any) -> tuple[Affine, Affine]:
    """Return ``(x - centre) / scale`` and its inverse."""
    shift = np.asarray(0.0 if centre is None else centre, np.float64)
    factor = np.asarray(1.0 if scale is None else scale, np.float64)
    return (1 / factor, -shift / factor), (factor, shift)


Affine: TypeAlias = tuple["NDArray[np.float64]", "NDArray[np.float64]"]
SCALERS: dict[str, Callable[[Any], tuple[Affine, Affine]]] = {
    "MaxAbsScaler": _max_abs,
    "MinMaxScaler": _min_max,
    "RobustScaler": _robust,
    "StandardScaler": _standard,
}


def _names(estimator: Any, name: str, index: int) -> str | None:
    """Return names that an estimator has, or the step of that index in a pipeline, as JSON."""
    inner = _inner(estimator)
    if inner is None:
        inner = getattr(estimator, "regressor_", None)
    if inner is not None:
        return _names(inner, name, index)
    if hasattr(estimator, "steps"):
        steps = [step for _, step in estimator.steps if step is not None and not isinstance(step, str)]
        return _names(steps[index], name, index) if steps else None
    found = getattr(estimator, name, None)
    if found is None:
        return None
    values = [value.item() if isinstance(value, np.generic) else value for value in np.asarray(found).ravel().tolist()]
    return json.dumps(values, default=str)
