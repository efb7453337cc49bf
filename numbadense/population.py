"""Populations: many networks of one shape, called together."""

from __future__ import annotations

import operator
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from numbadense import activations as known
from numbadense.errors import DeviceError, DTypeError, NonFiniteWarning, OptionError, ShapeError
from numbadense.model import Dense, Sequential

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from numbadense._engine.population import Packed
    from numbadense.cuda import DevicePopulation

__all__ = ["Population", "stack"]


@dataclass(frozen=True, eq=False, repr=False)
class Population:
    """Many networks of one shape, such as those of an evolution strategy or an ensemble.

    Parameters
    ----------
    weights : list of array_like, each of shape (n_networks, n_in, n_out)
        For each layer, the weights of all networks.  Copied.
    biases : list of array_like, each of shape (n_networks, n_out), or None, optional
        For each layer, the biases of all networks; None, for a layer or altogether, for none.
    activations : list of str, Activation or function, optional
        For each layer, as for :class:`Dense`; none by default.

    Attributes
    ----------
    weights : tuple of ndarray, each of shape (n_networks, n_in, n_out), float32 or float64
        Read-only.
    biases : tuple of ndarray, each of shape (n_networks, n_out), of the dtype of the weights, or None
        Read-only.
    activations : tuple of Activation

    Raises
    ------
    ShapeError
        If there is no layer, or the arrays do not fit each other.
    DTypeError
        If they are not real numbers.
    ActivationError
        If there is no such activation.
    OptionError
        If there is not one array and one activation for each layer.

    Warns
    -----
    NonFiniteWarning
        If a weight or a bias is NaN or infinite.

    See Also
    --------
    stack : make a population of networks.

    Notes
    -----
    All weights lie in one buffer, a network after the other, and nothing is padded to whole vectors: one row through
    each of many networks is bound by the speed at which memory is read.  A call with `out` allocates nothing.  Each row
    has the bits that its network alone gives it.

    ``population[i]`` is network i, whose weights are views of the buffer, and iterating gives them in turn.

    Examples
    --------
    >>> import numpy as np
    >>> import numbadense as nd
    >>> rng = np.random.default_rng(0)
    >>> policies = nd.Population(
    ...     weights=[rng.standard_normal((1000, 8, 32)), rng.standard_normal((1000, 32, 2))],
    ...     biases=[rng.standard_normal((1000, 32)), rng.standard_normal((1000, 2))],
    ...     activations=["tanh", None],
    ... )
    >>> policies
    Population(1000 x 8-32-2, tanh, identity, float64)
    >>> observations = rng.standard_normal((1000, 1, 8))
    >>> policies(observations).shape
    (1000, 1, 2)
    >>> policies(observations[0]).shape  # the same row for every network
    (1000, 1, 2)
    >>> policies(observations[:3, 0], which=[7, 7, 400]).shape  # row i through network which[i]
    (3, 2)
    """

    weights: tuple[NDArray[Any], ...]
    biases: tuple[NDArray[Any] | None, ...]
    activations: tuple[known.Activation, ...]
    _packed: Packed

    def __init__(
        self,
        weights: Sequence[ArrayLike],
        biases: Sequence[ArrayLike | None] | None = None,
        activations: Sequence[Any] | None = None,
    ) -> None:
        from numbadense._engine import validate

        w, b, dtype = validate.stacked(weights, biases)
        if activations is None:
            activations = [None] * len(w)
        if isinstance(activations, str) or not isinstance(activations, Sequence) or len(activations) != len(w):
            raise OptionError(
                f"activations is {activations!r} but must be a list with one for each of {len(w)} layers; "
                f"pass {['relu'] * (len(w) - 1) + [None]}, for example."
            )
        self._build(w, b, [known.get(activation) for activation in activations], dtype)
        for index, arrays in enumerate(zip(w, b, strict=True)):
            if not all(a is None or np.isfinite(a).all() for a in arrays):
                bad = [~np.isfinite(a).reshape(len(self), -1).all(axis=1) for a in arrays if a is not None]
                networks = np.flatnonzero(np.logical_or.reduce(bad))
                warnings.warn(
                    f"the weights of layer {index} hold NaN or infinity in {networks.size} of {len(self)} networks, "
                    f"first in network {networks[0]}, and so will their outputs: check how they were trained or made.",
                    NonFiniteWarning,
                    stacklevel=2,
                )
                break

    @classmethod
    def from_vectors(
        cls,
        vectors: ArrayLike,
        layer_sizes: Sequence[int],
        activations: Sequence[Any] | None = None,
        *,
        layout: str = "w, b",
    ) -> Population:
        """Return the population of flat vectors of parameters, such as an evolution strategy has.

        Parameters
        ----------
        vectors : array_like, shape (n_networks, parameters)
            A network in each row.
        layer_sizes : sequence of int
            The number of features, and of the outputs of each layer.
        activations : list of str, Activation or function, optional
            One for each layer, None for none; none by default.
        layout : {"w, b", "b, w", "w", "w.T, b", "b, w.T", "w.T"}, optional
            As for :meth:`numbadense.Sequential.from_vector`.

        Returns
        -------
        Population

        Raises
        ------
        ShapeError, DTypeError, ActivationError, OptionError
            If an argument does not fit.

        Examples
        --------
        >>> import numpy as np
        >>> import numbadense as nd
        >>> nd.Population.from_vectors(np.zeros((100, 354)), [8, 32, 2], ["tanh", None])
        Population(100 x 8-32-2, tanh, identity, float64)
        """
        from numbadense import vectors as flat

        return cls(*flat.split(vectors, layer_sizes, layout, networks=True), activations)

    def to_vectors(self, *, layout: str = "w, b") -> NDArray[Any]:
        """Return all weights and biases as a matrix, a network in each row.

        Parameters
        ----------
        layout : {"w, b", "b, w", "w", "w.T, b", "b, w.T", "w.T"}, optional
            As for :meth:`numbadense.Sequential.to_vector`.

        Returns
        -------
        ndarray, shape (n_networks, parameters), of the networks' dtype

        Raises
        ------
        OptionError
            If there is no such layout, or it has no place for biases that the networks have.
        """
        from numbadense import vectors as flat

        return flat.join(self.weights, self.biases, layout, self.dtype)

    def _build(self, weights: list[Any], biases: list[Any], activations: list[Any], dtype: np.dtype[Any]) -> None:
        from numbadense._engine import population as engine

        packed = engine.build(weights, biases, activations, dtype)
        given = [None if b is None else view for b, view in zip(biases, packed.biases, strict=True)]
        for name, value in {
            "weights": packed.weights,
            "biases": tuple(given),
            "activations": tuple(activations),
            "_packed": packed,
        }.items():
            object.__setattr__(self, name, value)

    @property
    def n_in(self) -> int:
        """Features in."""
        return self._packed.n_in

    @property
    def n_out(self) -> int:
        """Features out."""
        return self._packed.n_out

    @property
    def dtype(self) -> np.dtype[Any]:
        """float32 or float64: what the networks compute in, and the dtype of their results."""
        return self._packed.dtype

    def __len__(self) -> int:
        return self._packed.count

    def __getitem__(self, index: int) -> Sequential:
        from numbadense._engine import validate

        try:
            number = operator.index(index)
        except TypeError:
            raise OptionError(
                f"index is {index!r} but must be the number of a network; for several of them, pass their arrays, "
                "such as weights[0][3:7], to numbadense.Population."
            ) from None
        if not -len(self) <= number < len(self):
            raise validate.network_error("index", number, len(self))
        layers = []
        for w, b, activation in zip(self.weights, self.biases, self.activations, strict=True):
            layer = object.__new__(Dense)  # its arrays have been checked, and warned of
            for name in ("w", "_kept"):
                object.__setattr__(layer, name, w[number])
            object.__setattr__(layer, "b", None if b is None else b[number])
            object.__setattr__(layer, "activation", activation)
            layers.append(layer)
        return Sequential(layers)

    def __iter__(self) -> Iterator[Sequential]:
        return (self[index] for index in range(len(self)))

    def __call__(
        self,
        x: ArrayLike,
        *,
        which: ArrayLike | None = None,
        out: NDArray[Any] | None = None,
        threads: int | None = None,
    ) -> NDArray[Any]:
        """Propagate examples forward, through all networks or, with `which`, each through one.

        Parameters
        ----------
        x : array_like, shape (m, n_in) or (n_networks, m, n_in)
            Examples in rows: the same for every network, or each network's own.  With `which`, shape (m, n_in).  Of any
            real dtype; they are cast to the networks'.
        which : array_like, shape (m,), integer, optional
            The network that each row goes through, in any order.
        out : ndarray, optional
            Where to write the result, of its shape.  It may overlap `x`.
        threads : int, optional
            The most threads to use; by default as many as pay for the amount of work.

        Returns
        -------
        ndarray, shape (n_networks, m, n_out), of the networks' dtype
            Or with `which`, shape (m, n_out).  `out`, if given.

        Raises
        ------
        ShapeError, DTypeError, OutputError, OptionError
            If an argument does not fit.
        NetworkIndexError
            If `which` names a network that is not there.
        """
        from numbadense._engine import population as engine

        if which is None:
            return engine.each(self._packed, x, out, threads, self)
        return engine.routed(self._packed, x, which, out, threads, self)

    def to(self, device: str, *, precision: str | None = None) -> DevicePopulation:
        """Return the population on a CUDA device, its weights uploaded once.

        Parameters
        ----------
        device : {"cuda"}
            Where to.
        precision : {"bf16", "fp16"}, optional
            Tensor cores instead of the dtype of the weights, for networks no wider than 128: weights, x and what
            the hidden layers give are rounded to bfloat16 or float16, products are summed in float32, and the result is
            float32.  float16 has three more bits, and becomes infinite above 65504.

        Returns
        -------
        numbadense.cuda.DevicePopulation

        Raises
        ------
        DeviceError
            If CUDA cannot be had, or there is no such device.
        OptionError
            If there is no such precision.
        ShapeError
            If the networks are wider than one launch has room for: 256 in float32, 128 in float64.
        """
        if device != "cuda":
            raise DeviceError(f"device is {device!r} but must be 'cuda'; the population itself runs on the CPU.")
        from numbadense import cuda

        return cuda.DevicePopulation.from_population(self, precision)

    def summary(self) -> str:
        """Return the layers as a table of text: shapes, activations, parameters of one network and of all.

        Returns
        -------
        str
        """
        lines = [f"{'layer':>5}  {'shape':<16}{'activation':<14}{'parameters':>12}{'of all':>16}"]
        total = 0
        for index, (w, b, activation) in enumerate(zip(self.weights, self.biases, self.activations, strict=True)):
            k, n = w.shape[1:]
            parameters = k * n + (0 if b is None else n)
            total += parameters
            shape = f"{k} -> {n}"
            lines.append(f"{index:>5}  {shape:<16}{activation.name:<14}{parameters:>12,}{parameters * len(self):>16,}")
        size = total * len(self) * self.dtype.itemsize
        lines.append(f"total  {len(self):,} networks of {total:,} parameters, {size:,} bytes in {self.dtype}")
        return "\n".join(lines)

    def explain(self, m: int = 1, *, which: bool = False, threads: int | None = None) -> str:
        """Say how a call would run: which kernel and threads, how much arithmetic and memory.

        Parameters
        ----------
        m : int, optional
            The number of rows, for each network or, with `which`, altogether.
        which : bool, optional
            Whether the call says which network each row goes through.
        threads : int, optional
            As for a call.

        Returns
        -------
        str
        """
        from numbadense._engine import explain

        if not isinstance(m, int) or isinstance(m, bool) or m < 0:
            raise OptionError(f"m is {m!r} but must be a number of rows; pass a non-negative integer.")
        return explain.population(self._packed, m, which, threads)

    def __reduce__(self) -> tuple[Any, ...]:
        return Population, (self.weights, self.biases, self.activations)

    def __repr__(self) -> str:
        widths = "-".join(str(width) for width in (self.n_in, *(w.shape[2] for w in self.weights)))
        names = ", ".join(activation.name for activation in self.activations)
        return f"Population({len(self)} x {widths}, {names}, {self.dtype})"


def stack(networks: Sequence[Sequential]) -> Population:
    """Return the population of networks of one shape.

    Parameters
    ----------
    networks : sequence of Sequential
        At least one; all of the same layer shapes, activations and dtype.

    Returns
    -------
    Population

    Raises
    ------
    ShapeError, DTypeError, OptionError
        If there is no network, or they differ: the first network and layer that does is named.

    Examples
    --------
    >>> import numbadense as nd
    >>> population = nd.stack([nd.Sequential([nd.Dense([[slope]])]) for slope in (1.0, 2.0, 3.0)])
    >>> population([[10.0]]).tolist()
    [[[10.0]], [[20.0]], [[30.0]]]
    >>> population([[10.0], [1.0]], which=[2, 0]).tolist()
    [[30.0], [1.0]]
    """
    try:
        networks = list(networks)
    except TypeError:
        raise OptionError(
            f"networks is a {type(networks).__name__} but must be a sequence of networks; pass [network, ...]."
        ) from None
    if not networks:
        raise ShapeError("there are 0 networks to stack but a population needs 1 at least; pass [network, ...].")
    for index, network in enumerate(networks):
        if not isinstance(network, Sequential):
            raise OptionError(
                f"network {index} is a {type(network).__name__} but must be a numbadense.Sequential; "
                "pass Sequential([layer, ...])."
            )
        if network.layers is not networks[0].layers:
            _check_alike(networks[0], index, network)
    weights, biases = [], []
    for parts in zip(*(network.layers for network in networks), strict=True):
        weights.append(np.stack([layer.w for layer in parts]))
        bare = all(layer.b is None for layer in parts)
        zeros = np.zeros(parts[0].n_out, parts[0].dtype)
        biases.append(None if bare else np.stack([zeros if layer.b is None else layer.b for layer in parts]))
    population = object.__new__(Population)  # what is not finite has been warned of
    population._build(weights, biases, [layer.activation for layer in networks[0].layers], networks[0].dtype)
    return population


def _check_alike(first: Sequential, index: int, network: Sequential) -> None:
    """Raise the error for network `index` if it differs from the first."""
    remedy = "stack networks of one shape only."
    if len(network.layers) != len(first.layers):
        raise ShapeError(
            f"network {index} has {len(network.layers)} layer{'s' * (len(network.layers) != 1)} "
            f"but network 0 has {len(first.layers)}; {remedy}"
        )
    for i, (layer, wanted) in enumerate(zip(network.layers, first.layers, strict=True)):
        if layer.w.shape != wanted.w.shape:
            raise ShapeError(
                f"layer {i} of network {index} is {layer.n_in} -> {layer.n_out} "
                f"but that of network 0 is {wanted.n_in} -> {wanted.n_out}; {remedy}"
            )
        if layer.activation is not wanted.activation:
            raise OptionError(
                f"layer {i} of network {index} has the activation {layer.activation.name} "
                f"but that of network 0 has {wanted.activation.name}; stack networks of the same activations only."
            )
        if layer.dtype != wanted.dtype:
            raise DTypeError(
                f"layer {i} of network {index} is {layer.dtype} but that of network 0 is {wanted.dtype}; "
                f"pass network.astype('{first.dtype}')."
            )
