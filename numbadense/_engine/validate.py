"""Every check of an argument, and every sentence about one.

What leaves this module is what kernels expect: native byte order, aligned, float32 or float64, of the right shape.
"""

import functools
import itertools
import json
import math
from collections.abc import Mapping, Sequence

import numpy as np

from numbadense._engine import foreign, half
from numbadense.errors import DTypeError, NetworkIndexError, OptionError, OutputError, ShapeError

FLOAT32, FLOAT64 = np.dtype(np.float32), np.dtype(np.float64)
INT64 = np.dtype(np.int64)
NATIVE = {np.float32: FLOAT32, np.float64: FLOAT64}


def is_bfloat16(dtype: np.dtype) -> bool:
    """Say whether a dtype is the bfloat16 of ml_dtypes, which NumPy converts once that library is loaded."""
    return dtype.kind == "V" and dtype.name == "bfloat16"


def compute_dtype(name: str, *arrays: np.ndarray) -> np.dtype:
    """Return float32 or float64: what NumPy promotes the dtypes to, half and small integers counting as float32."""
    dtypes = [FLOAT32 if is_bfloat16(array.dtype) else array.dtype for array in arrays]
    for dtype in dtypes:
        if dtype.kind not in "fiub":
            raise DTypeError(
                f"{name} has dtype {dtype} but dense layers compute with real numbers; "
                "convert it first, for example with x.astype('float64')."
            )
    if all(dtype.kind in "iub" for dtype in dtypes):
        return FLOAT64
    dtype = np.result_type(FLOAT32, *dtypes)
    if dtype.itemsize > FLOAT64.itemsize:
        raise DTypeError(
            f"{name} has dtype {dtype} but the widest that is computed is float64; convert it with x.astype('float64')."
        )
    return NATIVE[dtype.type]


def operands_dtype(x: np.ndarray, w: np.ndarray, b: np.ndarray | None) -> np.dtype:
    """Return the dtype in which a layer of these operands is computed."""
    if x.dtype is w.dtype and (b is None or b.dtype is w.dtype) and (w.dtype is FLOAT32 or w.dtype is FLOAT64):
        return w.dtype
    named = {"x": x, "w": w} if b is None else {"x": x, "w": w, "b": b}
    for name, array in named.items():
        compute_dtype(name, array)
    return compute_dtype("a layer", *named.values())


def network_dtype(dtype) -> str:
    """Return the name of `dtype` if weights can have it."""
    try:
        wanted = dtype if isinstance(dtype, str) and dtype in half.FORMS else np.dtype(dtype).name
    except TypeError:
        wanted = None
    if wanted not in ("float32", "float64", *half.FORMS):
        raise DTypeError(
            f"dtype is {dtype!r} but weights can be float32, float64, float16 or bfloat16; pass one of them."
        )
    return wanted


@functools.lru_cache(maxsize=64)
def zeros(n: int, dtype: np.dtype) -> np.ndarray:
    """Return a shared read-only array of `n` zeros."""
    array = np.zeros(n, dtype)
    array.flags.writeable = False
    return array


def as_array(name: str, value, owner=None) -> np.ndarray:
    """Return `value` as an array, refusing what would lose something on the way.

    `owner` is the network that it goes through, whose features the columns of a frame have to be.
    """
    if type(value) is np.ndarray:
        return value
    if isinstance(value, np.ma.MaskedArray):
        raise DTypeError(
            f"{name} is a masked array, whose mask a dense layer would ignore; pass {name}.filled(value), "
            "or its rows without missing values."
        )
    if (array := foreign.array(name, value, owner)) is not None:
        return array
    if hasattr(value, "__cuda_array_interface__"):
        raise foreign.on_a_device(name)
    try:
        return np.asarray(value)
    except ValueError as error:
        raise ShapeError(f"{name} is not a rectangular array ({error}); pass rows of equal length.") from None


def native(array: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Return `array` as an aligned array of `dtype` in native byte order, itself where it is one."""
    if array.dtype is dtype and array.flags.aligned:
        return array
    return np.require(array, dtype, "A")


def floats(name: str, value) -> np.ndarray:
    """Return `value` as a native, aligned float32 or float64 array."""
    array = as_array(name, value)
    if array.dtype is FLOAT32 or array.dtype is FLOAT64:
        return native(array, array.dtype)
    return native(array, compute_dtype(name, array))


def features_error(x: np.ndarray, owner) -> ShapeError:
    """Return the error for an `x` that does not fit `owner`: the weights, or the network, that it goes through."""
    compute_dtype("x", x)  # what is no number at all has a better sentence
    have = "is a single number" if x.ndim == 0 else f"has {x.shape[-1]} feature{'s' * (x.shape[-1] != 1)}"
    if isinstance(owner, np.ndarray):
        return ShapeError(
            f"x {have} but w expects {owner.shape[0]}: x.shape={x.shape}, w.shape={owner.shape}. "
            "w is (n_in, n_out); if it came from PyTorch, pass w.T."
        )
    return ShapeError(
        f"x {have} but the network expects {owner.n_in}: x.shape={x.shape}, network {owner.n_in} -> {owner.n_out}. "
        "The last axis of x holds the features."
    )


def single_number_error(activation) -> ShapeError:
    """Return the error for a single number that goes to a row-wise activation."""
    return ShapeError(
        f"x is a single number but {activation.name} works on the last axis: x.shape=(); pass an array of rows."
    )


def matrix(x: np.ndarray, n_in: int, dtype: np.dtype, owner) -> np.ndarray:
    """Return `x`, ``(..., n_in)``, as a native 2-D array of rows; `owner` is what it has to fit."""
    if x.ndim == 0 or x.shape[-1] != n_in:
        raise features_error(x, owner)
    x = native(x, dtype)
    if x.ndim != 2:
        x = x.reshape(math.prod(x.shape[:-1]), n_in)
    if x.strides[0] % dtype.itemsize or x.strides[1] % dtype.itemsize:
        x = np.ascontiguousarray(x)
    return x


def tangents(v, x: np.ndarray, dtype: np.dtype) -> tuple[np.ndarray, int]:
    """Return `v`, one tangent of each row of x, or several on an axis of their own, as rows, and how many each has."""
    v = as_array("v", v)
    compute_dtype("v", v)
    n_in = x.shape[-1]
    several = v.ndim == x.ndim + 1 and (*v.shape[:-2], v.shape[-1]) == x.shape
    if v.shape != x.shape and not several:
        wanted = (*x.shape[:-1], "t", n_in)
        raise ShapeError(
            f"v has shape {v.shape} but x has shape {x.shape}: v is one tangent for each row of x, of the same shape, "
            f"or t for each, of shape ({', '.join(map(str, wanted))}); one for all is np.broadcast_to(v, x.shape)."
        )
    rows = native(v, dtype).reshape(math.prod(v.shape[:-1]), n_in)
    if rows.strides[0] % dtype.itemsize or rows.strides[1] % dtype.itemsize:
        rows = np.ascontiguousarray(rows)
    return rows, v.shape[-2] if several else 1


def output_pair(out) -> tuple:
    """Return `out`, None or a pair of outputs, as a pair."""
    if out is None:
        return None, None
    if not isinstance(out, tuple | list) or len(out) != 2:
        raise OutputError(
            f"out is a {type(out).__name__} but jvp has two results; pass out=(y, dy), either of them None to make it."
        )
    return tuple(out)


def strided_output(out: np.ndarray, shape: tuple[int, ...], dtype: np.dtype, others: tuple) -> np.ndarray | None:
    """Return `out` in `shape` if a kernel may write its elements where they lie, or None if it needs a temporary."""
    if out.dtype is not dtype or not out.flags.aligned or any(stride % dtype.itemsize for stride in out.strides):
        return None
    if any(np.may_share_memory(out, other) for other in others):
        return None
    view = out.reshape(shape)
    return view if view.base is not None and np.may_share_memory(view, out) else None


def weights(w) -> np.ndarray:
    """Return `w` as a 2-D array."""
    w = as_array("w", w)
    if w.ndim != 2:
        raise ShapeError(
            f"w has {w.ndim} dimension{'s' * (w.ndim != 1)} but must have 2, (n_in, n_out): w.shape={w.shape}."
        )
    return w


def bias(b, w: np.ndarray) -> np.ndarray | None:
    """Return `b`, ``(n_out,)`` or ``(1, n_out)``, as a 1-D array, or None."""
    if b is None:
        return None
    b = as_array("b", b)
    n_out = w.shape[1]
    if b.shape not in ((n_out,), (1, n_out)):
        raise ShapeError(
            f"b has shape {b.shape} but w has {n_out} outputs: w.shape={w.shape}; pass b as ({n_out},) or (1, {n_out})."
        )
    return b.reshape(n_out)


def check_output(out, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Return `out`, as a plain array, if it can take a result of `shape` and `dtype`; other floats may, as in NumPy."""
    given, out = out, foreign.target(out)
    if out is None or isinstance(out, np.ma.MaskedArray):
        raise OutputError(
            f"out is a {type(given).__name__} but must be a NumPy array of shape {shape} and dtype {dtype}."
        )
    if out.shape != shape:
        raise OutputError(
            f"out has shape {out.shape} but the result has shape {shape}; pass np.empty({shape}, '{dtype}')."
        )
    if not out.flags.writeable:
        raise OutputError(
            f"out is read-only but must take the result of shape {shape}; pass an array that owns its data."
        )
    taken = out.dtype is dtype or out.dtype.kind in "fc" or is_bfloat16(out.dtype)
    if not taken:  # NumPy would print a number into a string, and cut it
        raise OutputError(
            f"out has dtype {out.dtype} but the result is {dtype}, which cannot be cast to it; "
            f"pass np.empty({shape}, '{dtype}')."
        )
    return out if type(out) is np.ndarray else np.asarray(out)


def deliver(result: np.ndarray, out: np.ndarray) -> None:
    """Write a result to an `out` that `check_output` took, rounded to its dtype."""
    with np.errstate(all="ignore"):
        np.copyto(out, result.reshape(out.shape), casting="same_kind")


def direct_output(out: np.ndarray, dtype: np.dtype, inputs: tuple[np.ndarray, ...]) -> np.ndarray | None:
    """Return `out` as the 2-D array of rows that a kernel may write, or None if it needs a temporary.

    Rows must be contiguous, native and aligned, and apart from each other and from every input.
    """
    rows = out if out.ndim == 2 else None
    if rows is None:
        if out.ndim == 1:
            rows = out[None, :]
        elif out.flags.c_contiguous:
            rows = out.reshape(math.prod(out.shape[:-1]), out.shape[-1])
        else:
            return None
    flags = rows.flags
    if rows.dtype is not dtype or not flags.aligned:
        return None
    if not flags.c_contiguous:
        width = rows.shape[1] * dtype.itemsize
        if rows.strides[1] != dtype.itemsize or abs(rows.strides[0]) < width or rows.strides[0] % dtype.itemsize:
            return None
    for array in inputs:
        if np.may_share_memory(rows, array):
            return None
    return rows


def chain(layers, kind) -> tuple:
    """Return the layers of a network as a tuple: of a `kind`, one at least, each taking what the one before gives."""
    try:
        layers = tuple(layers)
    except TypeError:
        raise OptionError(
            f"layers is a {type(layers).__name__} but must be a sequence of layers; pass [layer, ...]."
        ) from None
    if not layers:
        raise ShapeError("a network has 0 layers but needs 1 at least; pass [numbadense.Dense(w, b, activation), ...].")
    for index, layer in enumerate(layers):
        if not isinstance(layer, kind):
            raise OptionError(
                f"layer {index} is a {type(layer).__name__} but must be a numbadense.Dense; "
                "pass Dense(w, b, activation)."
            )
    for index, (before, after) in enumerate(itertools.pairwise(layers), start=1):
        if before.n_out != after.n_in:
            raise ShapeError(
                f"layer {index} takes {after.n_in} features but layer {index - 1} gives {before.n_out}: "
                f"w.shape={after.w.shape} after w.shape={before.w.shape}; "
                "w is (n_in, n_out), so if they came from PyTorch, pass w.T."
            )
    return layers


def notes(metadata) -> dict[str, str]:
    """Return `metadata`, a mapping of text to text or None, as a dict of its own."""
    found = {} if metadata is None else metadata
    if isinstance(found, Mapping):
        found = dict(found)
        wrong = [part for pair in found.items() for part in pair if not isinstance(part, str)]
    else:
        wrong = [found]
    if wrong:
        raise OptionError(
            f"metadata has {wrong[0]!r} of type {type(wrong[0]).__name__} but takes text by text; "
            "pass a dict, for example {'epochs': '20'}."
        )
    return found


def frozen(array: np.ndarray) -> np.ndarray:
    """Return a read-only array that nobody else can write: itself, if it and all that it views are, or a copy."""
    holder = array
    while isinstance(holder, np.ndarray):
        if holder.flags.writeable:
            array = array.copy(order="K")
            array.flags.writeable = False
            return array
        holder = holder.base
    return array


def feature_names(metadata: Mapping[str, str], n_in: int) -> tuple[str, ...] | None:
    """Return the names of the features that the metadata of a network give, or None."""
    if "feature_names" not in metadata:
        return None
    try:
        names = json.loads(metadata["feature_names"])
    except ValueError:
        names = None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names) or len(names) != n_in:
        raise OptionError(
            f"metadata['feature_names'] is {metadata['feature_names'][:80]!r} but must be a JSON list of "
            f"{n_in} names, one for each feature; pass {{'feature_names': json.dumps(names)}}."
        )
    return tuple(names)


def rows_of(shape, n_in: int) -> int:
    """Return how many rows of `n_in` features an x of `shape` has; a plain number is that of the rows."""
    sizes = (shape, n_in) if isinstance(shape, int | np.integer) else shape
    if not isinstance(sizes, tuple | list) or not all(isinstance(n, int | np.integer) and n >= 0 for n in sizes):
        raise ShapeError(f"shape is {shape!r} but must be a number of rows or the shape of x; pass x.shape.")
    if not sizes or sizes[-1] != n_in:
        raise ShapeError(f"shape is {shape} but must end in the {n_in} features of the network.")
    return int(math.prod(sizes[:-1]))


def stacked(weights, biases) -> tuple[list[np.ndarray], list[np.ndarray | None], np.dtype]:
    """Return the weights and biases of a population by layer, each with a leading axis of networks, and its dtype."""
    w = [
        as_array(f"weights[{i}]", part)
        for i, part in enumerate(by_layer("weights", weights, "(networks, n_in, n_out)"))
    ]
    b = [None] * len(w) if biases is None else by_layer("biases", biases, "(networks, n_out)")
    b = [None if part is None else as_array(f"biases[{i}]", part) for i, part in enumerate(b)]
    if not w:
        raise ShapeError("a population has 0 layers but needs 1 at least; pass weights=[w, ...], one for each layer.")
    if len(b) != len(w):
        raise ShapeError(
            f"there are {len(b)} biases but {len(w)} weights; pass one for each layer, None where there is none."
        )
    for i, part in enumerate(w):
        if part.ndim != 3:
            raise ShapeError(
                f"weights[{i}] has {part.ndim} dimension{'s' * (part.ndim != 1)} but must have 3, "
                f"(networks, n_in, n_out): weights[{i}].shape={part.shape}."
            )
        if part.shape[0] != w[0].shape[0]:
            raise ShapeError(
                f"weights[{i}] has {part.shape[0]} networks but weights[0] has {w[0].shape[0]}: "
                f"weights[{i}].shape={part.shape}, weights[0].shape={w[0].shape}; the first axis counts the networks."
            )
        if i and part.shape[1] != w[i - 1].shape[2]:
            raise ShapeError(
                f"layer {i} takes {part.shape[1]} features but layer {i - 1} gives {w[i - 1].shape[2]}: "
                f"weights[{i}].shape={part.shape}, weights[{i - 1}].shape={w[i - 1].shape}; "
                "weights are (networks, n_in, n_out), so if they came from PyTorch, pass w.transpose(0, 2, 1)."
            )
        wanted = (part.shape[0], part.shape[2])
        if b[i] is not None and b[i].shape != wanted:
            raise ShapeError(
                f"biases[{i}] has shape {b[i].shape} but weights[{i}] has {wanted[0]} networks of {wanted[1]} outputs: "
                f"weights[{i}].shape={part.shape}; pass biases[{i}] as {wanted}."
            )
    named = [(f"weights[{i}]", part) for i, part in enumerate(w)]
    named += [(f"biases[{i}]", part) for i, part in enumerate(b) if part is not None]
    for name, part in named:
        compute_dtype(name, part)
    return w, b, compute_dtype("a population", *(part for _, part in named))


def by_layer(name: str, parts, shape: str) -> list:
    if isinstance(parts, np.ndarray) or not isinstance(parts, Sequence):
        raise OptionError(
            f"{name} is a {type(parts).__name__} but must be a list with an array for each layer; "
            f"pass {name}=[array, ...], each of shape {shape}."
        )
    return list(parts)


def shared(x: np.ndarray, owner) -> bool:
    """Say whether all the networks of a population share the rows of x, or each has its own."""
    if x.ndim not in (2, 3):
        raise ShapeError(
            f"x has {x.ndim} dimension{'s' * (x.ndim != 1)} but a population takes 2, (m, n_in), rows for every "
            f"network, or 3, ({len(owner)}, m, n_in), rows for each: x.shape={x.shape}; one row for every network is "
            "x[None, :]."
        )
    if x.ndim == 3 and x.shape[0] != len(owner):
        raise ShapeError(
            f"x has rows for {x.shape[0]} network{'s' * (x.shape[0] != 1)} but the population has {len(owner)}: "
            f"x.shape={x.shape}; pass x as ({len(owner)}, m, {owner.n_in}), or as (m, {owner.n_in}) for every network."
        )
    return x.ndim == 2


def network_ids(which: np.ndarray, x: np.ndarray, owner) -> np.ndarray:
    """Return `which` as a contiguous array of int64 with an element for each row of x."""
    if x.ndim != 2:
        raise ShapeError(
            f"x has {x.ndim} dimension{'s' * (x.ndim != 1)} but takes 2, (m, n_in), when which says the network of "
            f"each row: x.shape={x.shape}, which.shape={which.shape}."
        )
    if which.shape != x.shape[:1]:
        raise ShapeError(
            f"which has shape {which.shape} but x has {x.shape[0]} rows: x.shape={x.shape}; "
            f"pass which as ({x.shape[0]},), the number of a network for each row."
        )
    if which.dtype.kind not in "iu" and which.size:
        raise DTypeError(
            f"which has dtype {which.dtype} but holds the numbers of networks, 0 to {len(owner) - 1}; "
            "pass integers, for example which.astype(int)."
        )
    if which.dtype == np.uint64:
        which = np.minimum(which, len(owner))  # which is as wrong as what int64 may not hold
    return np.ascontiguousarray(native(which, INT64))


def network_error(name: str, index: int, count: int) -> NetworkIndexError:
    """Return the error for a network that a population does not have."""
    numbers = f"{count} networks, 0 to {count - 1}" if count > 1 else "1 network, 0" if count else "0 networks"
    return NetworkIndexError(f"{name} is {index} but the population has {numbers}; pass one of these numbers.")
