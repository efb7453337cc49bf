"""From operands to kernels: check, upload, launch, bring back."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from numbadense import activations
from numbadense._engine import validate
from numbadense._engine.cuda import compile as compiler
from numbadense._engine.cuda import memory, tiles
from numbadense._engine.cuda import program as program_module
from numbadense._engine.cuda.primitives import CHUNK
from numbadense.errors import ActivationError, OptionError, ShapeError

WIDEST = 64  # numbers that a thread's registers can hold twice, in float32


@dataclass(frozen=True)
class Layer:
    """A dense layer on the device: `w` ``(n_in, n_out)`` and `b` ``(n_out,)``, C-contiguous, of one dtype."""

    w: Any
    b: Any
    activation: activations.Activation


def upload(layer, dtype: np.dtype) -> Layer:
    """Return a copy of a layer, anything with ``w``, ``b`` and ``activation``, on the device."""
    b = validate.zeros(layer.w.shape[1], dtype) if layer.b is None else layer.b
    return Layer(memory.upload(layer.w, dtype, 0), memory.upload(b, dtype, 0), activations.get(layer.activation))


def dense(x, w, b, activation, out, stream):
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
    bias = bias or memory.operand("b", validate.zeros(n_out, dtype))
    weights = memory.matrix(w, n_in, n_out, dtype, stream)
    biases = memory.matrix(bias, 1, n_out, dtype, stream).reshape(n_out)
    return forward((Layer(weights, biases, chosen),), x, out, dtype, stream)


def network(layers: tuple[Layer, ...], x, out, dtype: np.dtype, owner, stream):
    """Return the output of a network of at least one layer; `owner` is what `x` must fit, for the error."""
    x = memory.operand("x", x)
    validate.compute_dtype("x", x.like)
    if x.like.ndim == 0 or x.shape[-1] != owner.n_in:
        raise validate.features_error(x.like, owner)
    return forward(layers, x, out, dtype, memory.stream_of(stream))


def forward(layers: tuple[Layer, ...], x: memory.Operand, out, dtype: np.dtype, stream):
    """Propagate validated `x` through `layers`, one after the other."""
    n_in, n_out = layers[0].w.shape[0], layers[-1].w.shape[1]
    shape = (*x.shape[:-1], n_out)
    result = memory.Result(x, out, shape, dtype, stream)
    m = int(np.prod(shape[:-1], dtype=np.int64))
    if not m * n_out:
        return result.given
    a = memory.matrix(x, m, n_in, dtype, stream)
    for layer in layers[:-1]:
        a = _layer(layer, a, memory.empty((m, layer.w.shape[1]), dtype, stream), dtype, stream)
    last = layers[-1]
    inputs = tuple(array for layer in layers for array in (layer.w, layer.b))
    buffer = result.buffer(m, n_out, (a, *inputs))
    return result.deliver(_layer(last, a, buffer, dtype, stream))


def _layer(layer: Layer, x, out, dtype: np.dtype, stream):
    """Run one layer from `x` to `out`, C-contiguous matrices of rows, and return `out`."""
    if not out.size:
        return out
    m, n = out.shape[0], out.shape[1]
    target = compiler.target()
    tile = tiles.choose(target.dense[dtype.itemsize], m, n, compiler.multiprocessors())
    in_chunks = memory.in_chunks(x), memory.in_chunks(layer.w, layer.b, out)
    kernel = compiler.dense(layer.activation, dtype, tile, in_chunks, target.pipelined)
    compiler.launch(kernel, tile.blocks(m, n), tile.size, stream, x, layer.w, layer.b, out)
    if layer.activation.rowwise:
        _one_dimensional(compiler.rowwise(layer.activation), m, stream, out, out)
    return out


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
            _one_dimensional(compiler.rowwise(activation), rows, stream, source, buffer)
        else:
            flat = source.reshape(x.like.size), buffer.reshape(x.like.size)
            chunks = -(-x.like.nbytes // CHUNK)
            _one_dimensional(compiler.elementwise(activation, dtype), chunks, stream, *flat)
        result.deliver(buffer)
    if out is None and isinstance(result.given, np.ndarray) and not x.like.ndim and not isinstance(x.given, np.ndarray):
        return result.given[()]
    return result.given


def _one_dimensional(kernel, work: int, stream, *arguments) -> None:
    """Launch a kernel that walks its work in strides of the grid."""
    target = compiler.target()
    compiler.launch(kernel, min(target.blocks, -(-work // target.threads)), target.threads, stream, *arguments)


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
