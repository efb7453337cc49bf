"""Activations and networks as functions to call inside your own ``@cuda.jit`` kernels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from numbadense import activations
from numbadense._engine.cuda import device

if TYPE_CHECKING:
    from numbadense.model import Sequential
    from numbadense.population import Population

KNOWN = ("relu", "tanh", "sigmoid")  # to a device function by default: each more takes code, and time to compile


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
    function: Callable[..., None] = device.engine().forward_of(width, activations)
    return function


def forward_warp_of(width: int = 256, activations: Sequence[Any] = KNOWN, *, rows: int = 1) -> Callable[..., None]:
    """Return forward propagation by a whole warp as a function to call in your own ``@cuda.jit`` kernels.

    The 32 threads of a warp take an example, or a few, through a network that is too wide for the registers of one.

    Parameters
    ----------
    width : int, optional
        The widest layer it has room for, its inputs too: a multiple of 128, at most 512.
    activations : list of str, Activation or function, optional
        Those it knows, besides identity.  Of the row-wise ones it can know softmax and log_softmax.
    rows : int, optional
        How many examples a warp takes at once, each weight being read once for all: up to ``1024 // width``.

    Returns
    -------
    callable
        ``forward(program, x, out)``.  All lanes of a warp call it together, with the same arguments.  `program` comes
        from ``program(network, warp=True)``; x, of shape (n_in,), and out, (n_out,), are arrays in global or shared
        memory, and one array may be both.  With `rows` above 1 they are 2-D, examples in rows: of fewer rows than that
        all are taken, so that ``x[i : i + rows]`` and ``out[i : i + rows]`` will do at the end of an array too.

    Raises
    ------
    DeviceError
        If CUDA cannot be used.
    OptionError
        If the width, or the number of rows, is none of those.
    ActivationError
        If there is no such activation, or it is a row-wise one of yours.

    Notes
    -----
    What any lane of the warp stored to x before the call, all of them see; and after it all see out, without a barrier
    of yours.  Other warps need one.  The threads of a block are as many as its warps have, a multiple of 32 in one
    dimension, and all lanes take the same branches to the call.

    Each output is the bias plus the products in the order of the features, one fused multiply-add at a time, as in
    :func:`forward_of` and on the CPU, whatever `rows` is and however your kernel is compiled; softmax and log_softmax
    add up each lane's part of a row first.  It computes in the dtype of the program.  Shapes are not checked: what x
    lacks counts as 0 and what out has no room for is dropped.  A network that does not fit the function, or a program
    that was not made for a warp, gives NaN.

    Lanes have four outputs each, so that layers of up to 128 outputs take as long as those of 128: where 64 are enough,
    and there are examples for every thread, :func:`forward_of` does less.  Compilers for compute capability 8.0, 9.0
    and 12.0 keep all that is between x and out in registers in float32, and for one row in float64, and the tests hold
    them to that.  How fast this is has not been measured: no device was at hand.

    Examples
    --------
    A warp to an example, in blocks of four warps:

    >>> import numbadense as nd
    >>> from numba import cuda  # doctest: +SKIP
    >>> forward = nd.cuda.forward_warp_of(width=256, activations=["relu"])  # doctest: +SKIP
    >>> @cuda.jit  # doctest: +SKIP
    ... def evaluate(program, x, out):
    ...     i = cuda.grid(1) // 32
    ...     if i < x.shape[0]:
    ...         forward(program, x[i], out[i])
    >>> net = nd.load("critic.safetensors")  # doctest: +SKIP
    >>> program = nd.cuda.program(net, activations=["relu"], warp=True)  # doctest: +SKIP
    >>> evaluate[(len(x) + 3) // 4, 128](program, x, out)  # doctest: +SKIP
    """
    function: Callable[..., None] = device.engine().forward_warp_of(width, activations, rows)
    return function


def program(
    network: Sequential | Population,
    *,
    width: int | None = None,
    activations: Sequence[Any] = KNOWN,
    warp: bool = False,
) -> Any:
    """Upload a network for the functions that :func:`forward_of` and :func:`forward_warp_of` return.

    Parameters
    ----------
    network : Sequential or Population
        It can be dropped afterwards.
    width, activations
        What :func:`forward_of`, or :func:`forward_warp_of`, was called with; the network is checked to fit.  The width
        is 32, or 256 for a warp, by default.
    warp : bool, optional
        Whether it is for functions of :func:`forward_warp_of`, which read the weights in another order.

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
    engine = device.engine()
    from numbadense.population import Population

    if isinstance(network, Population):
        weights, biases, chosen = network.weights, network.biases, network.activations
        return engine.program(weights, biases, chosen, network.dtype, width, activations, warp)
    layers = network.layers
    dtype = np.result_type(*(layer.w.dtype for layer in layers))
    parts = [layer.w[None] for layer in layers], [layer.b for layer in layers], [layer.activation for layer in layers]
    return engine.program(*parts, dtype, width, activations, warp)[0]
