"""Networks as plain arrays: weights and biases by layer, or all of them in one vector, as optimisers keep them."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from numbadense._engine import validate
from numbadense.errors import OptionError, ShapeError
from numbadense.layer import Dense

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from numbadense.model import Sequential

__all__ = ["LAYOUTS", "from_arrays", "from_vector", "join", "split", "to_vector"]

LAYOUTS = ("w, b", "b, w", "w", "w.T, b", "b, w.T", "w.T")
"""What of each layer comes after what, in a vector: ``w`` is (n_in, n_out), row by row, ``w.T`` is (n_out, n_in)."""


def layers_of(
    weights: Sequence[ArrayLike], biases: Sequence[ArrayLike | None] | None, activations: Sequence[Any] | None
) -> list[Dense]:
    """Return layers of their weights, biases and activations."""
    w = validate.by_layer("weights", weights, "(n_in, n_out)")
    b = [None] * len(w) if biases is None else validate.by_layer("biases", biases, "(n_out,)")
    if len(b) != len(w):
        raise ShapeError(
            f"there are {len(b)} biases but {len(w)} weights; pass one for each layer, None where there is none."
        )
    return [Dense(*parts) for parts in zip(w, b, _each(activations, len(w)), strict=True)]


def _each(activations: Sequence[Any] | None, count: int) -> list[Any]:
    if activations is None:
        return [None] * count
    if isinstance(activations, str) or not isinstance(activations, Sequence) or len(activations) != count:
        raise OptionError(
            f"activations is {activations!r} but must be a list with one for each of {count} layers; "
            f"pass {['relu'] * (count - 1) + [None]}, for example."
        )
    return list(activations)


def _parts(layout: str) -> tuple[str, ...]:
    """Return the parts of a layout."""
    if layout not in LAYOUTS:
        raise OptionError(f"layout is {layout!r} but must be one of {', '.join(map(repr, LAYOUTS))}.")
    return tuple(layout.split(", "))


def split(
    vector: ArrayLike, layer_sizes: Sequence[int], layout: str, *, networks: bool = False
) -> tuple[list[NDArray[Any]], list[NDArray[Any]] | None]:
    """Return weights and biases as views of a vector, or with `networks` of a matrix with a vector in each row."""
    parts = _parts(layout)
    sizes = _sizes(layer_sizes)
    name = "vectors" if networks else "vector"
    array = validate.as_array(name, vector)
    if array.ndim != 1 + networks:
        shape = "(networks, parameters)" if networks else "(parameters,)"
        raise ShapeError(
            f"{name} has {array.ndim} dimension{'s' * (array.ndim != 1)} but must have {1 + networks}, {shape}: "
            f"{name}.shape={array.shape}."
        )
    expected = sum(k * n + n * (len(parts) == 2) for k, n in itertools.pairwise(sizes))
    if array.shape[-1] != expected:
        raise ShapeError(
            f"{name} has {array.shape[-1]} parameters but layers of {'-'.join(map(str, sizes))} have {expected} in "
            f"the layout {layout!r}: {name}.shape={array.shape}; check layer_sizes and layout."
        )
    weights, biases, begin = [], [], 0
    for k, n in itertools.pairwise(sizes):
        for part in parts:
            end = begin + (n if part == "b" else k * n)
            piece = array[..., begin:end]
            begin = end
            if part == "b":
                biases.append(piece)
            elif part == "w":
                weights.append(piece.reshape(*array.shape[:-1], k, n))
            else:
                weights.append(piece.reshape(*array.shape[:-1], n, k).swapaxes(-1, -2))
    return weights, biases if "b" in parts else None


def _sizes(layer_sizes: Sequence[int]) -> list[int]:
    try:
        sizes = [int(size) for size in layer_sizes if size == int(size)]
        right = len(sizes) == len(layer_sizes) and len(sizes) > 1 and min(sizes) >= 0
    except (TypeError, ValueError, OverflowError):
        right = False
    if not right:
        raise OptionError(
            f"layer_sizes is {layer_sizes!r} but must be the number of features and of the outputs of each layer; "
            "pass [8, 32, 2], for example."
        )
    return sizes


def join(
    weights: Sequence[NDArray[Any]], biases: Sequence[NDArray[Any] | None], layout: str, dtype: np.dtype[Any]
) -> NDArray[Any]:
    """Return the inverse of `split`: a vector, or of weights with an axis of networks a matrix with one in each row."""
    parts = _parts(layout)
    pieces = []
    for index, (w, b) in enumerate(zip(weights, biases, strict=True)):
        lead = w.shape[:-2]
        if b is not None and "b" not in parts:
            raise OptionError(
                f"layout is {layout!r}, which has no biases, but layer {index} has them; pass '{layout}, b'."
            )
        found = np.zeros((*lead, w.shape[-1])) if b is None else b
        for part in parts:
            piece = found if part == "b" else w if part == "w" else w.swapaxes(-1, -2)
            pieces.append(piece.reshape(*lead, -1) if piece.size else piece.reshape(*lead, 0))
    return np.concatenate(pieces, axis=-1, dtype=dtype)


def from_arrays(
    cls: type[Sequential],
    weights: Sequence[ArrayLike],
    biases: Sequence[ArrayLike | None] | None = None,
    activations: Sequence[Any] | None = None,
) -> Sequential:
    """Return the network of arrays by layer.

    Parameters
    ----------
    weights : list of array_like, each of shape (n_in, n_out)
        A column for each neuron; those of PyTorch are transposed, pass ``w.T``.
    biases : list of array_like, each of shape (n_out,), or None, optional
        None, for a layer or altogether, for none.
    activations : list of str, Activation or function, optional
        One for each layer, None for none; none by default.

    Returns
    -------
    Sequential

    Raises
    ------
    ShapeError, DTypeError, ActivationError, OptionError
        If an argument does not fit.

    Examples
    --------
    >>> import numbadense as nd
    >>> nd.Sequential.from_arrays([[[1.0, -1.0]], [[1.0], [1.0]]], [[0.5, 0.5], None], ["relu", None])
    Sequential(1-2-1, relu, identity, float64)
    """
    return cls(layers_of(weights, biases, activations))


def from_vector(
    cls: type[Sequential],
    vector: ArrayLike,
    layer_sizes: Sequence[int],
    activations: Sequence[Any] | None = None,
    *,
    layout: str = "w, b",
) -> Sequential:
    """Return the network of a flat vector of parameters, such as an evolution strategy has.

    Parameters
    ----------
    vector : array_like, shape (parameters,)
        The layers, one after the other.
    layer_sizes : sequence of int
        The number of features, and of the outputs of each layer.
    activations : list of str, Activation or function, optional
        One for each layer, None for none; none by default.
    layout : {"w, b", "b, w", "w", "w.T, b", "b, w.T", "w.T"}, optional
        What each layer's part of the vector holds: its weights (n_in, n_out), row by row, or transposed; its
        biases, after them or before them, or none.

    Returns
    -------
    Sequential

    Raises
    ------
    ShapeError, DTypeError, ActivationError, OptionError
        If an argument does not fit.

    See Also
    --------
    to_vector : the inverse.
    numbadense.Population.from_vectors : many networks at once.

    Notes
    -----
    ``torch.nn.utils.parameters_to_vector`` makes ``"w.T, b"``, and so does ``jax.flatten_util.ravel_pytree`` of
    Equinox; of Flax and Haiku it makes ``"b, w"``, layers in alphabetical order.

    Examples
    --------
    >>> import numpy as np
    >>> import numbadense as nd
    >>> nd.Sequential.from_vector(np.zeros(354), [8, 32, 2], ["tanh", None])
    Sequential(8-32-2, tanh, identity, float64)
    """
    return cls.from_arrays(*split(vector, layer_sizes, layout), activations)


def to_vector(network: Sequential, *, layout: str = "w, b") -> NDArray[Any]:
    """Return all weights and biases as one vector.

    Parameters
    ----------
    layout : {"w, b", "b, w", "w", "w.T, b", "b, w.T", "w.T"}, optional
        As for :meth:`from_vector`; where a layer has no biases, and the layout has, they are zeros.

    Returns
    -------
    ndarray, shape (parameters,), of the network's dtype

    Raises
    ------
    OptionError
        If there is no such layout, or it has no place for biases that the network has.

    Examples
    --------
    >>> import numbadense as nd
    >>> nd.Sequential([nd.Dense([[1.0, 2.0], [3.0, 4.0]], [5.0, 6.0])]).to_vector(layout="w.T, b")
    array([1., 3., 2., 4., 5., 6.])
    """
    return join([each.w for each in network.layers], [each.b for each in network.layers], layout, network.dtype)
