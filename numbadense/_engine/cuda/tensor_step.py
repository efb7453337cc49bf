"""A dense layer on tensor cores: which kernel a device has for it, weights laid out once, the kernel launched."""

import functools
import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from numbadense import activations
from numbadense._engine import validate
from numbadense._engine.cuda import compile as compiler
from numbadense._engine.cuda import halves, hopper_step, memory, tensor_pack, tensor_tiles, tiles
from numbadense._engine.cuda import room as rooms
from numbadense._engine.cuda.tensor import CHUNKS, ELEMENTS, HALF, x_words
from numbadense._engine.cuda.tensor_tiles import COLUMN, HALVES, PARTS
from numbadense.errors import DeviceError, OptionError

FLOAT32, WORD = np.dtype(np.float32), np.dtype(np.uint32)
EIGHT = 8  # numbers of 16 bits in a chunk


def check(precision, dtype: np.dtype) -> None:
    """Raise an error unless the device computes what has `dtype` in this precision, a name or None."""
    if precision is None:
        return
    names = ", ".join(repr(name) for name in PARTS)
    if precision not in PARTS:
        raise OptionError(f"precision is {precision!r} but must be one of {names}, or None for that of the operands.")
    if dtype != FLOAT32:
        raise OptionError(
            f"precision is {precision!r} but the operands are {dtype}, which tensor cores would cut short; "
            "convert them with astype('float32'), or leave precision out."
        )
    capability = compiler.capability()
    if capability is not None and capability < tensor_tiles.LEAST:
        raise DeviceError(
            f"precision is {precision!r} but the device has compute capability {capability[0]}.{capability[1]}, whose "
            "tensor cores, if any, do not compute in it: that takes 8.0; leave precision out."
        )


@dataclass(frozen=True)
class TensorLayer:
    """A dense layer: `w` as `tensor_pack` lays it out, for x of 16 bits if `halves_in`, `b` ``(n_out,)`` in float32.

    x and out are float32, or have the 16 bits of `precision`.
    """

    w: Any
    b: Any
    activation: activations.Activation
    n_in: int
    precision: str
    halves_in: bool = False

    @property
    def n_out(self) -> int:
        """Features out."""
        return int(self.b.shape[0])

    @property
    def arrays(self) -> tuple[Any, ...]:
        """Weights and biases."""
        return self.w, self.b

    @functools.cached_property
    def _laid_out(self) -> dict[bool, Any]:
        return {self.halves_in: self.w}  # by whether x has 16 bits

    def explain(self, m: int) -> str:
        """Say which kernel `m` rows take."""
        how = "no work"
        if m * self.n_out:
            how = tiles.explain(choose(self.precision, m, self.n_out), m, self.n_out, compiler.multiprocessors())
            how += _too_old(m, self.n_in, self.n_out, self.precision)
        return f"dense {self.n_in} -> {self.n_out}, {self.activation.name}, {self.precision} on tensor cores: {how}"

    def room(self, x) -> int:
        """None is needed."""
        return 0

    def reads(self, x) -> bool:
        """Say whether it takes a matrix of 16-bit floats as it lies: of its precision, rows in whole chunks."""
        return halves.precision(x.dtype) == self.precision and memory.in_chunks(x)

    def writes(self, out) -> bool:
        """Say the same of out, which a row-wise activation needs in float32."""
        return self.reads(out) and not self.activation.rowwise

    def run(self, x, out, room, stream) -> None:
        """Fill out with ``activation(x @ w + b)``."""
        if not out.size:
            return
        m, n = out.shape[0], self.n_out
        forms = x_form, out_form = _form(x), _form(out)
        w = self.weights(x_form == HALF, stream)
        x, to = x.words32() if x_form == HALF else x, out.words32() if out_form == HALF else out
        tile = choose(self.precision, m, n)
        kernel = compiler.tensor_dense(self.activation, tile, self.precision, *forms)
        shared = tile.shared(self.precision, x_words(x_form)) * WORD.itemsize
        compiler.launch(kernel, tile.blocks(m, n), tile.size, stream, x, w, self.b, to, shared=shared)
        if self.activation.rowwise:
            compiler.launch_rowwise(self.activation, stream, out, out)

    def weights(self, halves_in: bool, stream):
        """Return the weights for x of 16 bits or of 32: they are laid out for the other when that is first needed."""
        found = self._laid_out.get(halves_in)
        if found is None:
            found = rooms.made(self.w.nbytes, stream).part(0, self.w.shape, WORD)
            compiler.launch_one_dimensional(compiler.turned_weights(), found.size // COLUMN, stream, self.w, found)
            memory.wait_for(stream)  # they are there for whatever stream reads them
            self._laid_out[halves_in] = found
        return found


def _form(matrix) -> str:
    """Return how a matrix lies in memory, in the words of `tensor`."""
    if matrix.dtype.itemsize == halves.BITS.itemsize:
        return HALF
    return CHUNKS if memory.in_chunks(matrix) else ELEMENTS


def choose(precision: str, m: int, n: int) -> tensor_tiles.TensorTile:
    """Return the tile for an output of `m` rows and `n` columns on the current device."""
    candidates = tensor_tiles.row(compiler.capability())[precision]
    return tiles.choose(candidates, m, n, compiler.multiprocessors())


def prepare(
    w,
    b,
    activation,
    precision: str,
    stream,
    make=rooms.made,
    m: int = hopper_step.LEAST,
    halves_in: bool = False,
):
    """Return a step from float32 device arrays `w` ``(n_in, n_out)`` and `b`, for about `m` rows or more.

    ``make(nbytes, stream)`` gives the memory for the weights as the kernel reads them.  `halves_in` says that x is
    expected in 16 bits.  Hopper has a kernel of its own for layers that are large enough.
    """
    k, n = (int(size) for size in w.shape)
    if _has_hopper(m, k, n, precision):
        return hopper_step.pack(w, b, activation, precision, stream, make)
    shape = tensor_pack.shape(k, n, precision)
    packed = make(rooms.bytes_of(shape, WORD) or rooms.BOUNDARY, stream).part(0, shape, WORD)
    if packed.size:
        kernel = compiler.tensor_weights(precision, halves_in)
        compiler.launch_one_dimensional(kernel, packed.size // 4, stream, w, packed)
    return TensorLayer(packed, b, activations.get(activation), k, precision, halves_in)


def _has_hopper(m: int, k: int, n: int, precision: str) -> bool:
    """Say whether Hopper's kernel computes a layer: a compiler that is too old for it leaves it to the other."""
    return _for_hopper(m, k, n, precision) and compiler.written() >= hopper_step.PTX


def _for_hopper(m: int, k: int, n: int, precision: str) -> bool:
    """Say whether a layer is one for Hopper's kernel; the simulator's layers are the other's."""
    capability = compiler.capability()
    return capability is not None and hopper_step.supported(m, n, k, precision, capability)


def _too_old(m: int, k: int, n: int, precision: str) -> str:
    """Say why a layer that is one for Hopper's kernel has not got it, if it has not."""
    if not _for_hopper(m, k, n, precision) or _has_hopper(m, k, n, precision):
        return ""
    takes, writes = (".".join(map(str, version)) for version in (hopper_step.PTX, compiler.written()))
    return f"; Hopper's own kernel takes PTX {takes}, of CUDA 12.3, and the compiler writes {writes}"


def of_network(layers: Iterable, precision: str, before=None) -> tuple[Any, ...]:
    """Upload layers, anything with ``w``, ``b`` and ``activation``; `before` is the layer in front of them, if any."""
    layers = tuple(layers)
    return tuple(
        _upload(layer, precision, given is not None and _gives_halves(given, precision))
        for given, layer in itertools.pairwise((before, *layers))
    )


def _gives_halves(layer, precision: str) -> bool:
    """Say whether a layer on tensor cores hands 16 bits to one that reads them."""
    return precision in HALVES and layer.w.shape[1] % EIGHT == 0 and not activations.get(layer.activation).rowwise


def _upload(layer, precision: str, halves_in: bool):
    b = validate.zeros(layer.w.shape[1], FLOAT32) if layer.b is None else layer.b
    w, b = memory.upload(layer.w, FLOAT32, 0), memory.upload(b, FLOAT32, 0)
    return prepare(w, b, layer.activation, precision, 0, halves_in=halves_in)
