"""From operands to kernels: check, upload, launch, bring back."""

import contextlib
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from numbadense import activations
from numbadense._engine import validate
from numbadense._engine.cuda import compile as compiler
from numbadense._engine.cuda import (
    current,
    direct,
    failures,
    halves,
    memory,
    split,
    streaming,
    tensor_step,
    tensor_tiles,
    whole,
)
from numbadense._engine.cuda import program as program_module
from numbadense._engine.cuda import room as rooms
from numbadense._engine.cuda.current import number
from numbadense._engine.cuda.primitives import CHUNK, WARP
from numbadense._engine.cuda.steps import Layer, Step, of_network
from numbadense.errors import ActivationError, OptionError, ShapeError

__all__ = [
    "activate",
    "dense",
    "forward_of",
    "forward_warp_of",
    "network",
    "number",
    "of_network",
    "of_population",
    "population",
    "program",
]


class Room(NamedTuple):
    """How wide a network a device function takes: multiples of a number up to the widest; and what returns it."""

    multiple: int
    usual: int
    widest: int
    function: str


# What registers can hold twice, in float32.
THREAD_ROOM = Room(program_module.FOUR, 32, 64, "forward_of")
WARP_ROOM = Room(program_module.FOUR * WARP, 256, 512, "forward_warp_of")
MOST_IN_WARP = 1024  # numbers, of all rows: 32 a lane; with 64 the compiler gives up on some of the unrolling


@failures.owner("numbadense.cuda.dense")
def dense(x, w, b, activation, out, stream, split_k=1, precision=None):
    """Return ``activation(x @ w + b)``, checking all arguments."""
    chosen = activations.get(activation)
    split.check(split_k, precision)
    stream = memory.stream_of(stream, x, w, b, out)
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
        return forward(Layer(weights, biases, chosen, split_k), x, out, dtype, stream)
    m = int(np.prod(x.shape[:-1], dtype=np.int64))
    with contextlib.ExitStack() as held:

        def make(nbytes, stream):
            return held.enter_context(rooms.taken(nbytes, stream, x.owner))

        ready = x.view is not None and memory.contiguous(x.view) and memory.in_chunks(x.view)
        halves_in = ready and halves.precision(x.dtype) == precision
        layer = tensor_step.prepare(weights, biases, chosen, precision, stream, make, m, halves_in)
        return forward(layer, x, out, dtype, stream)


@failures.owner("the call of the network")
def network(step: Step, x, out, dtype: np.dtype, owner, stream):
    """Return the output of a network; `owner` is what `x` must fit, for the error."""
    current.stay(owner.device, "the network")
    done = direct.network(step, x, out, dtype, stream, owner.device)
    if done is not None:
        return done
    stream = memory.stream_of(stream, x, out)
    x = memory.operand("x", x)
    validate.compute_dtype("x", x.like)
    if x.like.ndim == 0 or x.shape[-1] != owner.n_in:
        raise validate.features_error(x.like, owner)
    return forward(step, x, out, dtype, stream)


def forward(step: Step, x: memory.Operand, out, dtype: np.dtype, stream):
    """Propagate validated `x` through a step."""
    n_in, n_out = step.n_in, step.n_out
    shape = (*x.shape[:-1], n_out)
    result = memory.Result(x, out, shape, dtype, stream)
    m = int(np.prod(shape[:-1], dtype=np.int64))
    if not m * n_out:
        return result.given
    if x.view is None and result.target.view is None and streaming.worthwhile(m * (n_in + n_out) * dtype.itemsize):
        if stream:
            stream.synchronize()  # what the step reads may still be on its way there
        return _in_batches(step, x.like.reshape(m, n_in), result, dtype)
    a = memory.matrix(x, m, n_in, dtype, stream, step.reads)
    buffer = result.buffer(m, n_out, (a, *step.arrays), step.writes)
    direct.run(step, a, buffer, stream, x.owner)
    return result.deliver(buffer)


@failures.owner("Population.to")
def of_population(weights, biases, chosen, dtype: np.dtype, precision: str | None) -> whole.Whole:
    """Upload networks of one shape."""
    tensor_step.check(precision, dtype)
    widths = (weights[0].shape[1], *(w.shape[2] for w in weights))
    if not whole.fits(widths, dtype, precision):
        raise ShapeError(
            f"the networks of the population are {'-'.join(map(str, widths))} but one launch takes "
            f"{whole.room(dtype, precision)}; "
            "call to('cuda') of each: [network.to('cuda') for network in population]."
        )
    return whole.of_stacked(weights, biases, chosen, dtype, precision)


@failures.owner("the call of the population")
def population(networks: whole.Whole, x, out, owner, stream):
    """Return the outputs of all networks: of ``(m, n_in)`` rows for each, or of ``(networks, m, n_in)``."""
    current.stay(owner.device, "the population")
    stream, dtype = memory.stream_of(stream, x, out), networks.dtype
    x = memory.operand("x", x)
    validate.compute_dtype("x", x.like)
    shares = validate.shared(x.like, owner)
    if x.shape[-1] != owner.n_in:
        raise validate.features_error(x.like, owner)
    m, count = x.shape[-2], networks.networks
    result = memory.Result(x, out, (count, m, networks.n_out), dtype, stream)
    if not m:
        return result.given
    rows = memory.matrix(x, m if shares else count * m, networks.n_in, dtype, stream, networks.reads)
    buffer = result.buffer(count * m, networks.n_out, (rows, *networks.arrays), networks.writes)
    networks.run_each(rows, buffer, m, shares, stream)
    return result.deliver(buffer)


def _in_batches(step: Step, x: np.ndarray, result: memory.Result, dtype: np.dtype):
    """Fill a result in the host's memory from x, there too, which is much."""
    like, shape = result.target.like, (x.shape[0], step.n_out)
    in_place = like.flags.c_contiguous and not np.may_share_memory(x, like)
    host = like.reshape(shape) if in_place else np.empty(shape, dtype)
    streaming.run(step, x, host, dtype, streaming.batch_size(step, dtype))
    if not in_place:
        np.copyto(like, host.reshape(like.shape), casting="same_kind")
    return result.given


@failures.owner(lambda activation, *_: f"numbadense.cuda.{activation.name}")
def activate(activation: activations.Activation, x, out, stream):
    """Return the activation of every element of `x`, or of every row for a row-wise one."""
    stream = memory.stream_of(stream, x, out)
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
        takes = _any if dtype == validate.FLOAT32 and compiler.takes_halves(activation, columns) else None
        source = memory.matrix(x, rows, columns, dtype, stream, takes)
        if x.view is None:
            buffer = source  # a copy of our own: in place
        else:
            target = result.target
            same = target.view is not None and memory.address(target.view) == memory.address(source)
            apart = () if same and target.dtype.itemsize == source.dtype.itemsize else (source,)
            buffer = result.buffer(rows, columns, apart, takes)
        forms = _forms(source.dtype, buffer.dtype)
        if activation.rowwise:
            compiler.launch_rowwise(activation, stream, source, buffer, forms)
        else:
            make, chunk = (compiler.elementwise_halves, halves.BITS) if forms else (compiler.elementwise, dtype)
            kernel = make(activation, *forms or (dtype,))
            flat = source.reshape(x.like.size), buffer.reshape(x.like.size)
            compiler.launch_one_dimensional(kernel, -(-x.like.size * chunk.itemsize // CHUNK), stream, *flat)
        result.deliver(buffer)
    if out is None and isinstance(result.given, np.ndarray) and not x.like.ndim and not isinstance(x.given, np.ndarray):
        return result.given[()]
    return result.given


def _any(matrix) -> bool:
    """Say that a matrix of 16-bit floats is taken as it lies."""
    return True


def _forms(given: np.dtype, taken: np.dtype) -> tuple:
    """Return the precisions of x and out where one has 16 bits, and whether the device rounds to bf16; else nothing."""
    forms = halves.precision(given), halves.precision(taken)
    if forms == (None, None):
        return ()
    capability = compiler.capability()
    return *forms, capability is None or capability >= tensor_tiles.LEAST


@failures.owner("numbadense.cuda.program")
def program(weights, biases, chosen, dtype: np.dtype, width: int | None, known, warp: bool):
    """Return device programs, a row each, of networks of one shape, for the device function of these arguments."""
    chosen = [activations.get(spec) for spec in chosen]
    room = WARP_ROOM if warp else THREAD_ROOM
    width = room.usual if width is None else width
    held = [entry.name for entry in _in_registers(width, known, room)]
    for index, (w, entry) in enumerate(zip(weights, chosen, strict=True)):
        k, n = w.shape[1:]
        if max(k, n) > width:
            need = -(-max(k, n) // room.multiple) * room.multiple
            remedy = (
                f"pass width={need} here and to {room.function}"
                if need <= room.widest
                else "call network.to('cuda') instead"
            )
            raise ShapeError(f"layer {index} is {k} -> {n} but the device function has room for {width}; {remedy}.")
        if entry.name not in held:
            _check_in_registers(entry)
            raise ActivationError(
                f"layer {index} has the activation {entry.name!r} but the device function knows {', '.join(held)}; "
                f"add it to activations, here and in {room.function}."
            )
    return memory.upload(program_module.pack(weights, biases, chosen, dtype, warp), dtype, 0)


def forward_of(width: int, known):
    """Return the device function that runs programs of networks this wide, with these activations."""
    return compiler.forward(width, _in_registers(width, known, THREAD_ROOM))


def forward_warp_of(width: int, known, rows: int):
    """Return the same for the warps of a kernel, each of which takes `rows` rows at once."""
    chosen = _in_registers(width, known, WARP_ROOM)
    if not isinstance(rows, int) or not 1 <= rows <= MOST_IN_WARP // width:
        raise OptionError(f"rows is {rows!r} but must be from 1 to {MOST_IN_WARP // width} for a width of {width}.")
    return compiler.forward_warp(width, rows, chosen)


def _in_registers(width: int, known, room: Room) -> tuple:
    """Return the activations of a device function, identity among them, after checking its arguments."""
    if not isinstance(width, int) or width % room.multiple or not 0 < width <= room.widest:
        raise OptionError(
            f"width is {width!r} but must be a multiple of {room.multiple}, from {room.multiple} to {room.widest}; "
            f"pass width={room.usual}."
        )
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
