"""Dense layers and activations on a CUDA device: arrays in, arrays of the same kind out.

Besides :func:`dense`, every registered activation is a function of this module: ``numbadense.cuda.sigmoid(x)``.
NumPy arrays are uploaded and the result is brought back.  Anything with a ``__cuda_array_interface__``, such as an
array of Numba, CuPy or PyTorch, is read where it is, and the result is a new array of that kind on the device; other
libraries get a Numba device array.

Inside your own ``@cuda.jit`` kernels, :func:`device_function` returns an activation and :func:`forward_of` a whole
network, for each thread; ``numbadense.cuda.forward`` is what ``forward_of()`` returns.

It needs the package ``numba-cuda``, an NVIDIA driver and a GPU, or, for tests, the environment variable
``NUMBA_ENABLE_CUDASIM=1``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from numbadense import activations
from numbadense._engine.cuda import device

if TYPE_CHECKING:
    from numbadense._engine.cuda.run import Layer
    from numbadense.model import Sequential
    from numbadense.population import Population

__all__ = ["DeviceSequential", "dense", "device_function", "forward_of", "is_available", "program"]

KNOWN = ("relu", "tanh", "sigmoid")  # to a device function by default: each more takes code, and time to compile


class DeviceActivationFunction(Protocol):
    """An activation over arrays on a device, such as ``numbadense.cuda.sigmoid``."""

    activation: activations.Activation

    def __call__(self, x: Any, out: Any = None, *, stream: Any = 0) -> Any: ...


def is_available() -> bool:
    """Say whether CUDA can be used; with the simulator it can.

    Returns
    -------
    bool
        Never an exception: what is missing is said by the :class:`numbadense.DeviceError` of the other functions.

    Examples
    --------
    >>> import numbadense as nd
    >>> nd.cuda.is_available() in (True, False)
    True
    """
    return device.why_not() is None


def dense(x: Any, w: Any, b: Any = None, activation: Any = None, *, out: Any = None, stream: Any = 0) -> Any:
    """Forward propagation through one dense layer on a CUDA device: ``activation(x @ w + b)``.

    Parameters
    ----------
    x : array_like or device array, shape (..., n_in)
        Examples in rows.  A 1-D `x` is one example and gives a 1-D result.
    w : array_like or device array, shape (n_in, n_out)
        Weights, a column for each neuron.  PyTorch keeps the transpose: pass ``weight.T``.
    b : array_like or device array, shape (n_out,) or (1, n_out), optional
        Biases; zero by default.
    activation : str, Activation or function, optional
        A name such as ``"sigmoid"``, or a function such as :func:`numbadense.sigmoid`; none by default.
    out : ndarray or device array, shape (..., n_out), optional
        Where to write the result, on either side.  It may overlap the operands.
    stream : numba stream or int, optional
        Where to queue the work: a stream of Numba's, or the handle of another library's.  Work that ends in a NumPy
        array is waited for.

    Returns
    -------
    array of the kind of `x`, shape (..., n_out), float32 or float64
        `out`, if given.  The dtype is what NumPy promotes the operands to; integers count as float64, half precision
        as float32.

    Raises
    ------
    DeviceError
        If CUDA cannot be used.
    ShapeError
        If the shapes do not fit each other, or a device array of three dimensions or more is not contiguous.
    DTypeError
        If an operand is complex, an object, a string or a masked array.
    ActivationError
        If there is no such activation.
    OutputError
        If `out` cannot take the result.

    Notes
    -----
    Each output is the bias plus the products in the order of the features, one fused multiply-add at a time, as on the
    CPU, in true float32 or float64: tensor cores are not used.  Device arrays that are not C-contiguous, such as
    ``weight.T``, are copied first.  Rows that begin at multiples of 16 bytes (the features and outputs multiples of
    four in float32, of two in float64) are moved 16 bytes at a time, others element by element.  The kernels have been
    compiled, and run in the simulator; how fast they are on a device has not been measured.

    Examples
    --------
    >>> import numbadense as nd
    >>> nd.cuda.dense([[200, 17]], [[1, -3, 5], [-2, 4, -6]], [[-1, 1, 2]], "relu")  # doctest: +SKIP
    array([[165.,   0., 900.]])
    """
    return _engine().dense(x, w, b, activation, out, stream)


def device_function(activation: Any) -> Callable[..., Any]:
    """Return an activation as a function to call in your own ``@cuda.jit`` kernels.

    Parameters
    ----------
    activation : str, Activation or function
        A name such as ``"sigmoid"``, or a function such as :func:`numbadense.sigmoid`.

    Returns
    -------
    callable
        ``f(x)``, a number of the type of `x`; for a row-wise activation ``f(row)``, which changes a 1-D array in place.
        In the simulator it is the plain Python function.

    Raises
    ------
    DeviceError
        If CUDA cannot be used.
    ActivationError
        If there is no such activation.

    Examples
    --------
    >>> import numbadense as nd
    >>> from numba import cuda  # doctest: +SKIP
    >>> sigmoid = nd.cuda.device_function("sigmoid")  # doctest: +SKIP
    >>> @cuda.jit  # doctest: +SKIP
    ... def gate(x, out):
    ...     i = cuda.grid(1)
    ...     if i < x.size:
    ...         out[i] = x[i] * sigmoid(x[i])
    """
    chosen = activations.get(activation)
    device.require()
    from numbadense._engine.cuda import compile as compiler

    function: Callable[..., Any] = compiler.scalar(chosen)
    return function


def forward_of(width: int = 32, activations: Sequence[Any] = KNOWN) -> Callable[..., None]:
    """Return forward propagation through a network as a function to call in your own ``@cuda.jit`` kernels.

    Each thread takes an example of its own through the network, in its registers.

    Parameters
    ----------
    width : int, optional
        The widest layer it has room for, its inputs too: a multiple of 4, at most 64.  Its registers are twice as many.
    activations : list of str, Activation or function, optional
        Those it knows, besides identity.  Of the row-wise ones it can know softmax and log_softmax.

    Returns
    -------
    callable
        ``forward(program, x, out)``.  `program` comes from :func:`program`, as an argument of your kernel; x, of shape
        (n_in,), and out, (n_out,), are 1-D arrays, such as a ``cuda.local.array`` or a row of an array in global or
        shared memory, and one array may be both.  In the simulator it is a plain Python function.

    Raises
    ------
    DeviceError
        If CUDA cannot be used.
    OptionError
        If the width is none of those.
    ActivationError
        If there is no such activation, or it is a row-wise one of yours.

    Notes
    -----
    Another network does not recompile your kernel.  Each activation lengthens the kernel and its compilation: with the
    default ones that takes a few seconds, with all that there are more than ten.

    Each output is the bias plus the products in the order of the features, one fused multiply-add at a time, as on the
    CPU, whatever options your kernel is compiled with; but ``fastmath=True`` takes subnormal numbers for zero, and
    digits from the activations.  It computes in the dtype of the program.  Shapes are not checked: what x lacks counts
    as 0 and what out has no room for is dropped.  A network that does not fit the function, by its width or an
    activation, gives NaN; :func:`program` refuses it.

    No memory is used between x and out: up to a width of 32, in both dtypes, compilers for compute capability 8.0, 9.0
    and 12.0 keep everything in registers, and the tests hold them to that.  At 64 this is so in float32; in float64
    there are not enough registers, and some of the work goes through local memory.  If x and out are local arrays of
    constant length they are registers as well.  All threads of a warp should run networks of one shape.  Weights are
    read four at a time, by all threads of a warp at once, and for a network that many blocks share they stay in the
    first-level cache; a kernel may also copy the program to shared memory, into a ``cuda.shared.array`` whose
    ``alignment`` is 16, and pass that.  How fast this is has not been measured: no device was at hand.

    Examples
    --------
    A policy that steps an environment in each thread:

    >>> import numpy as np
    >>> import numbadense as nd
    >>> from numba import cuda, float32  # doctest: +SKIP
    >>> forward = nd.cuda.forward_of(width=32, activations=["tanh"])  # doctest: +SKIP
    >>> @cuda.jit  # doctest: +SKIP
    ... def roll_out(program, states, steps):
    ...     i = cuda.grid(1)
    ...     if i < states.shape[0]:
    ...         state = cuda.local.array(2, float32)
    ...         force = cuda.local.array(1, float32)
    ...         state[0], state[1] = states[i, 0], states[i, 1]
    ...         for _ in range(steps):
    ...             forward(program, state, force)
    ...             state[1] += float32(0.05) * (force[0] - state[0])
    ...             state[0] += float32(0.05) * state[1]
    ...         states[i, 0], states[i, 1] = state[0], state[1]
    >>> policy = nd.load("policy.safetensors")  # doctest: +SKIP
    >>> states = cuda.to_device(np.random.rand(100_000, 2).astype(np.float32))  # doctest: +SKIP
    >>> roll_out[782, 128](nd.cuda.program(policy), states, 200)  # doctest: +SKIP

    A network of its own for each thread, from a :class:`numbadense.Population`: the kernel calls
    ``forward(programs[i], state, force)``, with ``programs = nd.cuda.program(population)``.
    """
    function: Callable[..., None] = _engine().forward_of(width, activations)
    return function


def program(network: Sequential | Population, *, width: int = 32, activations: Sequence[Any] = KNOWN) -> Any:
    """Upload a network for the functions that :func:`forward_of` returns.

    Parameters
    ----------
    network : Sequential or Population
        It can be dropped afterwards.
    width, activations
        What :func:`forward_of` was called with; the network is checked to fit.

    Returns
    -------
    numba device array, 1-D, float32 or float64
        Table, weights and biases in one buffer of the network's dtype.  For a population, 2-D: a row for each network.
        Good for functions made in this process only.

    Raises
    ------
    DeviceError
        If CUDA cannot be used.
    ShapeError
        If a layer is wider than `width`.
    ActivationError
        If an activation is not one of `activations`.

    Notes
    -----
    Programs of networks of one shape may be stacked, or a population's overwritten row by row, by a kernel too: the
    layout is in ``numbadense/_engine/cuda/program.py``.

    Examples
    --------
    >>> import numbadense as nd
    >>> net = nd.Sequential([nd.Dense([[2.0], [3.0]], [1.0])])
    >>> nd.cuda.program(net).shape  # doctest: +SKIP
    (28,)
    """
    engine = _engine()
    from numbadense.population import Population

    if isinstance(network, Population):
        weights, biases, chosen = network.weights, network.biases, network.activations
        return engine.program(weights, biases, chosen, network.dtype, width, activations)
    layers = network.layers
    dtype = np.result_type(*(layer.w.dtype for layer in layers))
    parts = [layer.w[None] for layer in layers], [layer.b for layer in layers], [layer.activation for layer in layers]
    return engine.program(*parts, dtype, width, activations)[0]


@dataclass(frozen=True, eq=False, repr=False)
class DeviceSequential:
    """A network whose weights are on a CUDA device: what :meth:`numbadense.Sequential.to` returns.

    Attributes
    ----------
    n_in, n_out : int
        Features in and out.
    dtype : dtype
        float32 or float64: what the network computes in, and the dtype of its results.

    Notes
    -----
    The layers run one after the other; between them the activations stay on the device.  It cannot be pickled: send the
    network itself and call its ``to("cuda")`` in the other process.

    Examples
    --------
    >>> import numbadense as nd
    >>> net = nd.Sequential([nd.Dense([[1.0], [1.0]], [-1.0], "relu")])
    >>> net.to("cuda")([[2.0, 3.0]])  # doctest: +SKIP
    array([[4.]])
    """

    _layers: tuple[Layer, ...]
    dtype: np.dtype[Any]

    @classmethod
    def from_network(cls, network: Sequential) -> DeviceSequential:
        """Upload the weights of a network.

        Parameters
        ----------
        network : Sequential
            It can be dropped afterwards.

        Returns
        -------
        DeviceSequential

        Raises
        ------
        DeviceError
            If CUDA cannot be used.
        """
        engine = _engine()
        dtype = np.result_type(*(layer.w.dtype for layer in network.layers))
        return cls(tuple(engine.upload(layer, dtype) for layer in network.layers), dtype)

    @property
    def n_in(self) -> int:
        """Features in."""
        return int(self._layers[0].w.shape[0])

    @property
    def n_out(self) -> int:
        """Features out."""
        return int(self._layers[-1].w.shape[1])

    def __call__(self, x: Any, out: Any = None, *, stream: Any = 0) -> Any:
        """Propagate examples forward on the device.

        Parameters
        ----------
        x : array_like or device array, shape (..., n_in)
            Examples in rows, of any real dtype; they are cast to the network's.
        out : ndarray or device array, shape (..., n_out), optional
            Where to write the result, on either side.  It may overlap `x`.
        stream : numba stream or int, optional
            Where to queue the work, as in :func:`numbadense.cuda.dense`.

        Returns
        -------
        array of the kind of `x`, shape (..., n_out), of the network's dtype
            `out`, if given.

        Raises
        ------
        ShapeError, DTypeError, OutputError
            If an argument does not fit.
        """
        return _engine().network(self._layers, x, out, self.dtype, self, stream)

    def __reduce__(self) -> tuple[Any, ...]:
        raise TypeError(
            "a DeviceSequential cannot be pickled: its weights are in the memory of this process's device; "
            "send the Sequential and call its to('cuda') there."
        )

    def __repr__(self) -> str:
        widths = "-".join(str(n) for n in (self.n_in, *(int(layer.w.shape[1]) for layer in self._layers)))
        names = ", ".join(layer.activation.name for layer in self._layers)
        return f"DeviceSequential({widths}, {names}, {self.dtype})"


def _engine() -> Any:
    """Return the module that runs kernels, which imports numba's CUDA target; `DeviceError` if it cannot be used."""
    device.require()
    from numbadense._engine.cuda import run

    return run


_functions: dict[activations.Activation, DeviceActivationFunction] = {}


def _over_arrays(entry: activations.Activation) -> DeviceActivationFunction:
    """Return the activation as a function of arrays."""

    def function(x: Any, out: Any = None, *, stream: Any = 0) -> Any:
        return _engine().activate(entry, x, out, stream)

    function.__name__ = function.__qualname__ = entry.name
    function.__module__ = __name__
    function.__doc__ = _docstring(entry)
    function.activation = entry  # type: ignore[attr-defined]
    return function  # type: ignore[return-value]


def _docstring(entry: activations.Activation) -> str:
    summary = (entry.function.__doc__ or f"The activation {entry.name}.").strip().partition("\n")[0]
    shape = "(..., n), its rows along the last axis" if entry.rowwise else "any"
    return f"""{summary}

    Parameters
    ----------
    x : array_like or device array, shape {shape}
        Integers count as float64, half precision as float32.
    out : ndarray or device array, of the shape of `x`, optional
        Where to write the result, on either side; `x` itself will do.
    stream : numba stream or int, optional
        Where to queue the work, as in :func:`numbadense.cuda.dense`.

    Returns
    -------
    array of the kind and shape of `x`, float32 or float64
        `out`, if given.

    Raises
    ------
    DeviceError
        If CUDA cannot be used.
    ShapeError, DTypeError, OutputError
        If an argument does not fit.

    See Also
    --------
    numbadense.{entry.name} : The same on the CPU.
"""


def __getattr__(name: str) -> Any:
    if name == "forward":
        return forward_of()
    entry = activations.REGISTRY.get(name)
    if entry is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if entry not in _functions:
        _functions[entry] = _over_arrays(entry)
    return _functions[entry]
