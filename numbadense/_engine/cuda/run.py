"""From operands to kernels: check, upload, launch, bring back."""

from collections.abc import Iterable

import numpy as np

from numbadense import activations
from numbadense._engine import validate
from numbadense._engine.cuda import compile as compiler
from numbadense._engine.cuda import memory, tensor_step, whole
from numbadense._engine.cuda import program as program_module
from numbadense._engine.cuda.primitives import CHUNK
from numbadense._engine.cuda.steps import Layer, Step, of_network
from numbadense._engine.cuda.tensor_step import TensorLayer
from numbadense.errors import ActivationError, OptionError, ShapeError

__all__ = ["activate", "dense", "forward_of", "network", "of_network", "of_population", "population", "program"]

WIDEST = 64  # numbers that a thread's registers can hold twice, in float32


def dense(x, w, b, activation, out, stream, precision=None):
    """Return ``activation(x @ w + b)``, checking all arguments."""
    chosen = activations.get(activation)
    stream = memory.stream_of(stream)
    x, w = memory.operand("x", x), memory.operand("w", w)
    n_in, n_out = validate.weights(w.like).shape
    bias = None if b is None else memory.operand("b", b)
    like = validate.bias(None if bias is None else bias.like, w.like)
    if x.like.ndim == 0 or x.shape[-1] != n_in:
        raise validate.features_error(x.like, w.like)
    dtype = validate.operands_dtype(x.like, w.like, like)
    tensor_step.check(precision, dtype)
    bias = bias or memory.operand("b", validate.zeros(n_out, dtype))
    weights = memory.matrix(w, n_in, n_out, dtype, stream)
    biases = memory.matrix(bias, 1, n_out, dtype, stream).reshape(n_out)
    if precision is None:
        layer = Layer(weights, biases, chosen)
    else:
        m = int(np.prod(x.shape[:-1], dtype=np.int64))
        layer = tensor_step.prepare(weights, biases, chosen, precision, stream, m)
    return forward((layer,), x, out, dtype, stream)


def network(steps: tuple[Step, ...], x, out, dtype: np.dtype, owner, stream):
    """Return the output of a network of at least one step; `owner` is what `x` must fit, for the error."""
    x = memory.operand("x", x)
    validate.compute_dtype("x", x.like)
    if x.like.ndim == 0 or x.shape[-1] != owner.n_in:
        raise validate.features_error(x.like, owner)
    return forward(steps, x, out, dtype, memory.stream_of(stream))


def forward(steps: tuple[Step, ...], x: memory.Operand, out, dtype: np.dtype, stream):
    """Propagate validated `x` through `steps`, one after the other."""
    n_in, n_out = steps[0].n_in, steps[-1].n_out
    shape = (*x.shape[:-1], n_out)
    result = memory.Result(x, out, shape, dtype, stream)
    m = int(np.prod(shape[:-1], dtype=np.int64))
    if not m * n_out:
        return result.given
    a = memory.matrix(x, m, n_in, dtype, stream)
    for step in steps[:-1]:
        between = (
            step.empty(m, stream) if isinstance(step, TensorLayer) else memory.empty((m, step.n_out), dtype, stream)
        )
        step.run(a, between, stream)
        a = between
    buffer = result.buffer(m, n_out, (a, *(array for step in steps for array in step.arrays)))
    steps[-1].run(a, buffer, stream)
    return result.deliver(buffer)


def of_population(weights, biases, chosen, dtype: np.dtype, precision: str | None) -> whole.Whole:
    """Upload networks of one shape."""
    tensor_step.check(precision, dtype)
    networks = whole.of_stacked(weights, biases, chosen, dtype, precision)
    if networks is None:
        widths = "-".join(str(n) for n in (weights[0].shape[1], *(w.shape[2] for w in weights)))
        raise ShapeError(
            f"the networks of the population are {widths} but one launch takes {whole.room(dtype, precision)}; "
            "call to('cuda') of each: [network.to('cuda') for network in population]."
        )
    return networks


def population(networks: whole.Whole, x, out, owner, stream):
    """Return the outputs of all networks: of ``(m, n_in)`` rows for each, or of ``(networks, m, n_in)``."""
    x, stream, dtype = memory.operand("x", x), memory.stream_of(stream), networks.dtype
    validate.compute_dtype("x", x.like)
    shares = validate.shared(x.like, owner)
    if x.shape[-1] != owner.n_in:
        raise validate.features_error(x.like, owner)
    m, count = x.shape[-2], networks.networks
    result = memory.Result(x, out, (count, m, networks.n_out), dtype, stream)
    if not m:
        return result.given
    rows = memory.matrix(x, m if shares else count * m, networks.n_in, dtype, stream)
    buffer = result.buffer(count * m, networks.n_out, (rows, *networks.arrays))
    networks.run_each(rows, buffer, m, shares, stream)
    return result.deliver(buffer)


def activate(activation: activations.Activation, x, out, stream):
    """Return the activation of every element of `x`, or of every row for a row-wise one."""
    stream = memory.stream_of(stream)
    x = memory.operand("x", x)
    dtype = validate.compute_dtype("x", x.like)
    if activation.rowwise and not x.like.ndim:
        raise ShapeError(
            f"x is a single number but {activation.name} works on the last axis: x.shape=(); pass an array of rows."
        )
    result = memory.Result(x, out, x.shape, dtype, stream)
    if x.like.size:
        columns = x.shape[-1] if x.like.ndim else 1
        rows = x.like.size // columns
        source = memory.matrix(x, rows, columns, dtype, stream)
        if x.view is None:
            buffer = source  # a copy of our own: in place
        else:
            same = result.target.view is not None and memory.address(result.target.view) == memory.address(source)
            buffer = result.buffer(rows, columns, () if same else (source,))
        if activation.rowwise:
            compiler.launch_one_dimensional(compiler.rowwise(activation), rows, stream, source, buffer)
        else:
            flat = source.reshape(x.like.size), buffer.reshape(x.like.size)
            chunks = -(-x.like.nbytes // CHUNK)
            compiler.launch_one_dimensional(compiler.elementwise(activation, dtype), chunks, stream, *flat)
        result.deliver(buffer)
    if out is None and isinstance(result.given, np.ndarray) and not x.like.ndim and not isinstance(x.given, np.ndarray):
        return result.given[()]
    return result.given


def program(weights, biases, chosen, dtype: np.dtype, width: int, known):
    """Return device programs, a row each, of networks of one shape, for the device function of these arguments."""
    chosen = [activations.get(spec) for spec in chosen]
    held = [entry.name for entry in _in_registers(width, known)]
    for index, (w, entry) in enumerate(zip(weights, chosen, strict=True)):
        k, n = w.shape[1:]
        if max(k, n) > width:
            need = program_module.padded(max(k, n))
            remedy = (
                f"pass width={need} here and to forward_of" if need <= WIDEST else "call network.to('cuda') instead"
            )
            raise ShapeError(f"layer {index} is {k} -> {n} but the device function has room for {width}; {remedy}.")
        if entry.name not in held:
            _check_in_registers(entry)
            raise ActivationError(
                f"layer {index} has the activation {entry.name!r} but the device function knows {', '.join(held)}; "
                "add it to activations, here and in forward_of."
            )
    return memory.upload(program_module.pack(weights, biases, chosen, dtype), dtype, 0)


def forward_of(width: int, known):
    """Return the device function that runs programs of networks this wide, with these activations."""
    return compiler.forward(width, _in_registers(width, known))


def _in_registers(width: int, known) -> tuple:
    """Return the activations of a device function, identity among them, after checking its arguments."""
    if not isinstance(width, int) or width % program_module.FOUR or not 0 < width <= WIDEST:
        raise OptionError(f"width is {width!r} but must be a multiple of 4, from 4 to {WIDEST}; pass width=32.")
    if isinstance(known, str) or not isinstance(known, Iterable):
        raise OptionError(f"activations is {known!r} but must be a list of them; pass ['relu'], for example.")
    entries = [activations.get(spec) for spec in known]
    for entry in entries:
        _check_in_registers(entry)
    return tuple(dict.fromkeys((activations.REGISTRY["identity"], *entries)))


def _check_in_registers(entry) -> None:
    """Refuse a row-wise activation of the user's: the package's own pass over minus infinity, and so any padding."""
    if entry.rowwise and entry.function.__module__ != activations.__name__:
        raise ActivationError(
            f"activation {entry.name!r} takes a row of any length, which registers are not; leave it out, and apply "
            f"numbadense.cuda.device_function({entry.name!r}) to out in your kernel."
        )
