"""A population whose weights are on a device."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from numbadense._engine.cuda import device
from numbadense.errors import OptionError

if TYPE_CHECKING:
    from numbadense._engine.cuda.whole import Whole
    from numbadense.population import Population

PRECISIONS = ("bf16", "fp16")


def known_precision(precision: str | None) -> str | None:
    """Return `precision` if there is such a one, None among them."""
    if precision is not None and precision not in PRECISIONS:
        raise OptionError(
            f"precision is {precision!r} but must be one of {', '.join(map(repr, PRECISIONS))}, or None for that of "
            "the weights."
        )
    return precision


@dataclass(frozen=True, eq=False, repr=False)
class DevicePopulation:
    """Many networks of one shape on a CUDA device: what :meth:`numbadense.Population.to` returns.

    Attributes
    ----------
    n_in, n_out : int
        Features in and out.
    dtype : dtype
        float32 or float64: what the networks compute in, and the dtype of their results.
    device : int
        Where the weights are: the number of the device that was current when they were sent there, and has to be
        whenever they are called.

    Notes
    -----
    A call is one launch.  Each network has blocks of its own, one where its rows fit one: its weights are copied to
    shared memory once, or pass through it where they are too many, and between the layers its activations do not leave
    the multiprocessor.  Each row has the bits that its network alone gives it.  It cannot be pickled: send the
    population itself and call its ``to("cuda")`` in the other process.

    Examples
    --------
    >>> import numbadense as nd
    >>> population = nd.stack([nd.Sequential([nd.Dense([[slope]])]) for slope in (1.0, 2.0, 3.0)])
    >>> population.to("cuda")([[10.0]]).tolist()  # doctest: +SKIP
    [[[10.0]], [[20.0]], [[30.0]]]
    """

    _networks: Whole
    _text: str
    device: int = 0

    @classmethod
    def from_population(cls, population: Population, precision: str | None = None) -> DevicePopulation:
        """Upload the weights of a population.

        Parameters
        ----------
        population : Population
            It can be dropped afterwards.
        precision : {"bf16", "fp16"}, optional
            As for :meth:`numbadense.Population.to`.

        Returns
        -------
        DevicePopulation

        Raises
        ------
        DeviceError
            If CUDA cannot be used.
        ShapeError
            If the networks are wider than one launch has room for.
        """
        engine = device.engine()
        dtype = population.dtype
        known_precision(precision)
        parts = population.weights, population.biases, population.activations
        text = repr(population).removeprefix("Population")
        if precision is not None:
            text = f"{text.rpartition(', ')[0]}, {precision})"
        return cls(engine.of_population(*parts, dtype, precision), text, engine.number())

    @property
    def n_in(self) -> int:
        """Features in."""
        return self._networks.n_in

    @property
    def n_out(self) -> int:
        """Features out."""
        return self._networks.n_out

    @property
    def dtype(self) -> np.dtype[Any]:
        """float32 or float64."""
        return self._networks.dtype

    def __len__(self) -> int:
        return self._networks.networks

    def __call__(self, x: Any, out: Any = None, *, stream: Any = None) -> Any:
        """Propagate examples forward through all networks on the device.

        Parameters
        ----------
        x : array_like or device array, shape (m, n_in) or (n_networks, m, n_in)
            Examples in rows: the same for every network, or each network's own.  Of any real dtype, bfloat16 among
            them; they are cast to the networks'.
        out : ndarray or device array, shape (n_networks, m, n_out), optional
            Where to write the result, on either side, rounded once if it has 16 bits.  It may overlap `x`.
        stream : numba stream or int, optional
            Where to queue the work, as in :func:`numbadense.cuda.dense`.

        Returns
        -------
        array of the kind of `x`, shape (n_networks, m, n_out), of the networks' dtype
            `out`, if given.

        Raises
        ------
        ShapeError, DTypeError, OutputError
            If an argument does not fit.
        """
        return device.engine().population(self._networks, x, out, self, stream)

    def __reduce__(self) -> tuple[Any, ...]:
        raise TypeError(
            "a DevicePopulation cannot be pickled: its weights are in the memory of this process's device; "
            "send the Population and call its to('cuda') there."
        )

    def __repr__(self) -> str:
        return f"DevicePopulation{self._text}"
