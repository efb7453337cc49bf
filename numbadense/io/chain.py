r"""From the steps that a file describes to a network: what every format is read into.

A reader says what happens to a row of features, step by step, in the terms of the framework that wrote the file.
:func:`build` makes layers of it: scales and shifts (normalisation, batch normalisation, arithmetic with constants) are
folded into the weights beside them, in float64, and rounded once; weights beside nothing keep their bits.

::

    Scale   Linear   Scale   Activate   Linear   Activate
      \______|________/________/          \________/
          one dense layer               one dense layer
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from numbadense import activations
from numbadense.errors import ModelFormatError, NumbadenseError
from numbadense.model import Dense, Sequential

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Activate", "Linear", "Scale", "Step", "build"]


@dataclass(frozen=True)
class Step:
    """What a row goes through; `origin` says what in the file it is, such as ``"layer 2 (Dropout 'drop')"``."""

    origin: str


@dataclass(frozen=True)
class Linear(Step):
    """``x @ w + b``: w of shape (n_in, n_out), b of shape (n_out,) or none."""

    w: NDArray[Any]
    b: NDArray[Any] | None = None


@dataclass(frozen=True)
class Scale(Step):
    """``x * scale + shift``: single numbers, or one for each feature."""

    scale: NDArray[Any] | float = 1.0
    shift: NDArray[Any] | float = 0.0


@dataclass(frozen=True)
class Activate(Step):
    """An activation: what :func:`numbadense.activations.get` takes."""

    activation: Any


class _Layer:
    """A dense layer in the making: weights in the file's precision until something is folded into them."""

    def __init__(self, w: NDArray[Any], b: NDArray[Any] | None) -> None:
        self.w, self.b = w, b
        self.activation: activations.Activation | None = None

    def scale(self, step: Scale) -> None:
        """Fold what follows: ``(x @ w + b) * scale + shift``."""
        n = self.w.shape[1]
        scale, shift = _features(step, step.scale, n), _features(step, step.shift, n)
        self.w = self.w.astype(np.float64) * scale
        self.b = (0.0 if self.b is None else self.b.astype(np.float64)) * scale + shift


def build(
    steps: Iterable[Step],
    *,
    n_in: int | None = None,
    dtype: str | None = None,
    metadata: Mapping[str, str] | None = None,
) -> Sequential:
    """Make a network of steps.

    Parameters
    ----------
    steps : iterable of Step
        In the order in which a row meets them.
    n_in : int, optional
        The number of features, where the file says it: needed if there is no `Linear` before an activation.
    dtype : str, optional
        What the weights are kept in, as for :meth:`numbadense.Sequential.astype`; by default what weights and biases of
        the `Linear` steps promote to, float32 for narrower ones.
    metadata : mapping of str to str, optional
        Notes for the network.

    Returns
    -------
    Sequential

    Raises
    ------
    ModelFormatError
        If a step does not fit the one before it; the message begins with its origin.

    Notes
    -----
    A `Scale` after an activation goes into the weights of the next layer; where no `Linear` follows, and for an
    activation that follows another, a layer of the identity matrix is made.  There 0 times an infinity is NaN, as in
    any product of matrices.
    """
    steps = list(steps)
    layers: list[_Layer] = []
    ahead: list[Scale] = []  # what has to go into the next layer
    made: list[int] = []  # widths of the identity matrices
    width = n_in
    given = [a.dtype for step in steps if isinstance(step, Linear) for a in (step.w, step.b) if a is not None]
    for step in steps:
        if isinstance(step, Linear):
            _check(step, width)
            layers.append(_folded(step, ahead))
            ahead = []
        elif isinstance(step, Scale) and layers and layers[-1].activation is None and not ahead:
            layers[-1].scale(step)
        elif isinstance(step, Scale):
            ahead.append(step)
        elif isinstance(step, Activate):
            if not layers or layers[-1].activation is not None or ahead:
                layers.append(_folded(_identity(step, width, made), ahead))
                ahead = []
            layers[-1].activation = _activation(step)
        width = layers[-1].w.shape[1] if layers else width
    if ahead or not layers:
        layers.append(_folded(_identity(ahead[-1] if ahead else Step("the network"), width, made), ahead))
    if dtype is None:
        dtype = np.result_type(np.float32, *given).name
    computed = np.dtype(dtype if dtype == "float64" else "float32")
    try:
        return Sequential([_dense(layer, computed) for layer in layers], metadata).astype(dtype)
    except NumbadenseError as error:
        raise ModelFormatError(f"this is not a network: {error}") from None


def _dense(layer: _Layer, dtype: np.dtype[Any]) -> Dense:
    w = layer.w.astype(dtype, copy=False)
    return Dense(w, None if layer.b is None else layer.b.astype(dtype, copy=False), layer.activation)


def _check(step: Linear, width: int | None) -> None:
    if step.w.ndim != 2:
        raise ModelFormatError(
            f"{step.origin} has weights of shape {step.w.shape} but a dense layer has (n_in, n_out)."
        )
    if width is not None and step.w.shape[0] != width:
        raise ModelFormatError(
            f"{step.origin} takes {step.w.shape[0]} features but gets {width}: its weights are {step.w.shape}."
        )
    if step.b is not None and step.b.shape != step.w.shape[1:]:
        raise ModelFormatError(
            f"{step.origin} has biases of shape {step.b.shape} but weights of shape {step.w.shape}: "
            f"they must be {step.w.shape[1:]}."
        )


def _folded(step: Linear, ahead: list[Scale]) -> _Layer:
    """Return the layer ``(x * scale + shift) @ w + b``, for all the scales ahead of it."""
    layer = _Layer(step.w, step.b)
    for scale in reversed(ahead):
        n = step.w.shape[0]
        factor, shift = _features(scale, scale.scale, n), _features(scale, scale.shift, n)
        w = layer.w.astype(np.float64)
        layer.b = shift @ w + (0.0 if layer.b is None else layer.b.astype(np.float64))
        layer.w = factor[:, None] * w
    return layer


def _features(step: Step, value: NDArray[Any] | float, n: int) -> NDArray[np.float64]:
    """Return one number for each of `n` features."""
    array = np.asarray(value, np.float64)
    if array.ndim > 1 or (array.ndim == 1 and array.size not in (1, n)):
        raise ModelFormatError(f"{step.origin} is for {array.shape} features but gets {n}.")
    return np.broadcast_to(array, (n,))


WIDEST_IDENTITY = 8192


def _identity(step: Step, width: int | None, made: list[int]) -> Linear:
    if width is None:
        raise ModelFormatError(
            f"{step.origin} comes before any dense layer, and nothing says how many features there are."
        )
    made.append(width)
    if sum(n * n for n in made) > WIDEST_IDENTITY**2:
        raise ModelFormatError(
            f"{step.origin} has no dense layer to go into, and {width} features: at most "
            f"{WIDEST_IDENTITY} are passed on by a layer of their own, fewer by several, and this would be number "
            f"{len(made)}."
        )
    return Linear(step.origin, np.eye(width, dtype=np.float32))


def _activation(step: Activate) -> activations.Activation:
    try:
        return activations.get(step.activation)
    except NumbadenseError as error:
        raise ModelFormatError(f"{step.origin} has an activation that cannot be had: {error}") from None
