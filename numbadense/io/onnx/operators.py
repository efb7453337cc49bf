"""The operators that are read: a function each, whose keyword arguments are the attributes and their defaults.

Those of :data:`OPERATORS` take what a network has come to one step further, those of :data:`FOLDED` compute constants.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from numbadense.errors import ModelFormatError
from numbadense.io.chain import Linear
from numbadense.io.onnx.tensors import FLOATS, KINDS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from numbadense.io.onnx.reader import Line, Node

__all__ = ["EITHER_SIDE", "FOLDED", "OPERATORS", "defaults"]

OPERATORS: dict[tuple[str, str], Callable[..., None]] = {}
FOLDED: dict[tuple[str, str], Callable[..., Any]] = {}
EITHER_SIDE = {"Add", "Div", "Max", "Min", "Mul", "Sub"}  # where the constant may be the first operand

SELU = (1.67326319217681884765625, 1.05070102214813232421875)  # what the standard says alpha and gamma are


def _operator(name: str, domain: str = "") -> Callable[[Any], Any]:
    return lambda function: OPERATORS.setdefault((domain, name), function)


def _folded(name: str) -> Callable[[Any], Any]:
    return lambda function: FOLDED.setdefault(("", name), function)


def defaults(function: Callable[..., Any]) -> dict[str, Any]:
    """Return the attributes that an operator has, with their defaults."""
    parameters = inspect.signature(function).parameters.items()
    return {name: each.default for name, each in parameters if each.kind == inspect.Parameter.KEYWORD_ONLY}


def refused(node: Node, what: str, remedy: str = "export the network in another way") -> ModelFormatError:
    """Return the error that says what is the matter with a node."""
    return ModelFormatError(f"{node.origin} {what}; {remedy}.")


# Products of matrices.


def _matrix(line: Line, node: Node) -> NDArray[Any]:
    w = line.operand(node, 1)
    if w is None or w.ndim != 2 or w.dtype.kind != "f":
        raise refused(
            node, f"has weights of shape {getattr(w, 'shape', None)} but a dense layer has a matrix of floats"
        )
    return w


@_operator("Gemm")
def gemm(line: Line, node: Node, *, alpha: float = 1.0, beta: float = 1.0, transA: int = 0, transB: int = 0) -> None:
    """Take ``alpha * x @ w + beta * b``."""
    if transA or line.rank != 2:
        raise refused(node, f"has transA={transA} and an input of {line.rank} dimensions, not examples in rows")
    w = _matrix(line, node)
    w = w.T if transB else w
    b = line.operand(node, 2)
    if b is not None:
        b = line.features(node, b)
    plain = alpha == 1 and (b is None or (beta == 1 and np.shape(b) == w.shape[1:]))
    line.steps.append(Linear(node.origin, w, b if plain else None))
    if not plain:
        line.scale(node, alpha, 0.0 if b is None else b if beta == 1 else beta * np.asarray(b, np.float64))


@_operator("MatMul")
def matmul(line: Line, node: Node) -> None:
    """Take ``x @ w``."""
    line.steps.append(Linear(node.origin, _matrix(line, node)))


# Arithmetic with constants, and normalisation.


def _arithmetic(line: Line, node: Node) -> tuple[bool, Any]:
    """Return whether the constant comes first, and the constant."""
    if len(node.inputs) != 2:
        raise refused(node, f"has {len(node.inputs)} operands but those with 2 are read")
    first = node.inputs[0] != line.value
    return first, line.features(node, line.operand(node, 0 if first else 1))


@_operator("Add")
def add(line: Line, node: Node) -> None:
    """Add a constant."""
    line.scale(node, 1.0, _arithmetic(line, node)[1])


@_operator("Sub")
def sub(line: Line, node: Node) -> None:
    """Subtract a constant, or from a constant."""
    first, constant = _arithmetic(line, node)
    line.scale(node, *((-1.0, constant) if first else (1.0, -constant)))


@_operator("Mul")
def mul(line: Line, node: Node) -> None:
    """Multiply by a constant."""
    line.scale(node, _arithmetic(line, node)[1], 0.0)


@_operator("Div")
def div(line: Line, node: Node) -> None:
    """Divide by a constant."""
    first, constant = _arithmetic(line, node)
    if first:
        raise refused(node, "divides by what depends on the input, which no dense layer does")
    line.scale(node, 1 / np.asarray(constant, np.float64), 0.0)


@_operator("Neg")
def neg(line: Line, node: Node) -> None:
    """Change the sign."""
    line.scale(node, -1.0, 0.0)


def _alike(node: Node, *constants: Any) -> list[NDArray[np.float64]]:
    """Return constants of one number, or of one for each feature, in float64."""
    sizes = {np.size(each) for each in constants} - {1}
    if len(sizes) > 1:
        raise refused(node, f"takes constants for {' and '.join(map(str, sorted(sizes)))} features, which do not agree")
    return [np.asarray(each, np.float64) for each in constants]


@_operator("BatchNormalization")
def batch_normalization(
    line: Line, node: Node, *, epsilon: float = 1e-5, momentum: float = 0.9, training_mode: int = 0, spatial: int = 1
) -> None:
    """Take ``(x - mean) / sqrt(var + epsilon) * gamma + beta``."""
    if training_mode or line.rank != 2:
        raise refused(
            node, f"has training_mode={training_mode} and an input of {line.rank} dimensions; 0 and 2 are read"
        )
    gamma, beta, mean, variance = _alike(node, *(line.features(node, line.operand(node, i)) for i in range(1, 5)))
    if not (variance + epsilon > 0).all():
        raise refused(node, "has a variance that is negative or not a number", "train or export it again")
    factor = gamma / np.sqrt(variance + epsilon)
    line.scale(node, factor, beta - mean * factor)


@_operator("Scaler", "ai.onnx.ml")
def scaler(line: Line, node: Node, *, offset: tuple[float, ...] = (), scale: tuple[float, ...] = ()) -> None:
    """Take ``(x - offset) * scale``."""
    factor, zero = _alike(node, scale or (1.0,), offset or (0.0,))
    line.scale(node, factor, -zero * factor)


# Activations.


def _same(name: str, onnx: str) -> None:
    def plain(line: Line, node: Node) -> None:
        line.activate(node, name)

    _operator(onnx)(plain)


for _name, _onnx in {
    "relu": "Relu",
    "sigmoid": "Sigmoid",
    "tanh": "Tanh",
    "softplus": "Softplus",
    "softsign": "Softsign",
    "exp": "Exp",
    "mish": "Mish",
    "hard_swish": "HardSwish",
}.items():
    _same(_name, _onnx)


@_operator("LeakyRelu")
def leaky_relu(line: Line, node: Node, *, alpha: float = 0.01) -> None:
    """Take x, or alpha x on the left."""
    plain = line.single and np.float32(alpha) == np.float32(0.01)
    line.activate(node, "leaky_relu", *(() if plain else (alpha,)))


@_operator("PRelu")
def prelu(line: Line, node: Node) -> None:
    """Take x, or a slope times x on the left: one slope for all features."""
    slopes = np.unique(np.asarray(line.features(node, line.operand(node, 1))))
    if len(slopes) != 1:
        raise refused(node, f"has {len(slopes)} slopes but one for all features is read", "train it with one slope")
    leaky_relu(line, node, alpha=float(slopes[0]))


@_operator("Elu")
def elu(line: Line, node: Node, *, alpha: float = 1.0) -> None:
    """Take x, or alpha (e**x - 1) on the left."""
    line.activate(node, "elu", *(() if alpha == 1 else (alpha,)))


@_operator("Celu")
def celu(line: Line, node: Node, *, alpha: float = 1.0) -> None:
    """Take x, or alpha (e**(x / alpha) - 1) on the left."""
    line.activate(node, *(("elu",) if alpha == 1 else ("celu", alpha)))


@_operator("Selu")
def selu(line: Line, node: Node, *, alpha: float = SELU[0], gamma: float = SELU[1]) -> None:
    """Take gamma times an elu: of the rounded constants in float64, where it would show."""
    if (alpha, gamma) == SELU and line.single:
        line.activate(node, "selu")
    else:
        line.activate(node, "elu", alpha)
        line.scale(node, gamma, 0.0)


@_operator("HardSigmoid")
def hard_sigmoid(line: Line, node: Node, *, alpha: float = 0.2, beta: float = 0.5) -> None:
    """Take alpha x + beta between 0 and 1."""
    plain = line.single and beta == 0.5 and np.float32(alpha) == np.float32(1 / 6)
    line.activate(node, "hard_sigmoid", *(() if plain else (alpha, beta)))


@_operator("ThresholdedRelu")
def thresholded_relu(line: Line, node: Node, *, alpha: float = 1.0) -> None:
    """Take x above alpha, and 0 elsewhere."""
    line.activate(node, "threshold", alpha, 0.0)


@_operator("Shrink")
def shrink(line: Line, node: Node, *, lambd: float = 0.5, bias: float = 0.0) -> None:
    """Take 0 near 0, and what is nearer to it by a bias elsewhere."""
    line.activate(node, "shrink", lambd, bias)


@_operator("Gelu")
def gelu(line: Line, node: Node, *, approximate: str = "none") -> None:
    """Take x times the normal distribution function."""
    if approximate not in ("none", "tanh"):
        raise refused(node, f"has approximate={approximate!r} but must have 'none' or 'tanh'")
    line.activate(node, "gelu" if approximate == "none" else "gelu_tanh")


@_operator("Swish")
def swish(line: Line, node: Node, *, alpha: float = 1.0) -> None:
    """Take x sigmoid(alpha x)."""
    if alpha == 0:
        line.scale(node, 0.5, 0.0)
        return
    line.scale(node, alpha, 0.0)
    line.activate(node, "silu")
    line.scale(node, 1 / alpha, 0.0)


@_operator("Log")
def log(line: Line, node: Node) -> None:
    """Take the logarithm of a sigmoid or of softmax, which are activations; of nothing else."""
    last = line.activated()
    if last not in ("sigmoid", "softmax"):
        raise refused(node, "is read after Sigmoid and Softmax only")
    line.steps.pop()
    if last == "softmax":
        line.activate(node, "log_softmax")
        return
    line.scale(node, -1.0, 0.0)
    line.activate(node, "softplus")
    line.scale(node, -1.0, 0.0)


def _last_axis(line: Line, node: Node, axis: int | None) -> None:
    if axis is None:
        axis = 1 if line.opset < 13 else -1
    if axis not in (-1, line.rank - 1):
        raise refused(node, f"goes along axis {axis} of {line.rank} but the features are the last axis")


@_operator("Softmax")
def softmax(line: Line, node: Node, *, axis: int | None = None) -> None:
    """Take softmax of each row.  Before opset 13 all axes from `axis` on were one, which is the same for the last."""
    _last_axis(line, node, axis)
    line.activate(node, "softmax")


@_operator("LogSoftmax")
def log_softmax(line: Line, node: Node, *, axis: int | None = None) -> None:
    """Take the logarithm of softmax of each row."""
    _last_axis(line, node, axis)
    line.activate(node, "log_softmax")


# Bounds.


def _clipped(line: Line, node: Node, low: float, high: float) -> None:
    if low == -math.inf and high == math.inf:
        return
    if high == math.inf:
        line.activate(node, *(("relu",) if low == 0 else ("threshold", low, low)))
    elif low == -math.inf and high >= 0:
        line.activate(node, "bounded_relu", 1.0, 0.0, high)
    elif low == -math.inf:
        line.scale(node, -1.0, 0.0)
        line.activate(node, "threshold", -high, -high)
        line.scale(node, -1.0, 0.0)
    else:
        line.activate(node, "clip", low, high)


@_operator("Clip")
def clip(line: Line, node: Node, *, min: float = -math.inf, max: float = math.inf) -> None:
    """Take what is within bounds, which were attributes before opset 11."""
    low, high = (line.operand(node, i) for i in (1, 2))
    _clipped(
        line, node, min if low is None else line.number(node, low), max if high is None else line.number(node, high)
    )


@_operator("Max")
def maximum(line: Line, node: Node) -> None:
    """Take at least a number."""
    _clipped(line, node, line.number(node, _arithmetic(line, node)[1]), math.inf)


@_operator("Min")
def minimum(line: Line, node: Node) -> None:
    """Take at most a number."""
    _clipped(line, node, -math.inf, line.number(node, _arithmetic(line, node)[1]))


# What leaves a row as it is.


@_operator("Identity")
def identity(line: Line, node: Node) -> None:
    """Take nothing but x."""


@_operator("Dropout")
def dropout(line: Line, node: Node, *, ratio: float = 0.5, seed: int = 0) -> None:
    """Take x: nothing is dropped outside training."""
    training = line.operand(node, 2)
    if training is not None and training.any():
        raise refused(node, "is in training mode", "export the network in evaluation mode")


@_operator("Cast")
def cast(line: Line, node: Node, *, to: int = 0, saturate: int = 1, round_mode: str = "up") -> None:
    """Take x in another type of float; the network computes in one throughout."""
    if to not in FLOATS:
        raise refused(node, f"makes data type {to} of floats, but only casts to floats are read")


@_operator("Flatten")
def flatten(line: Line, node: Node, *, axis: int = 1) -> None:
    """Make rows of what each example has."""
    if line.rank < 2 or axis not in (1, 1 - line.rank):
        raise refused(node, f"goes from axis {axis} of {line.rank} on, but axis 1 makes rows")
    line.flatten(node)


@_operator("Reshape")
def reshape(line: Line, node: Node, *, allowzero: int = 0) -> None:
    """Make rows of what each example has, which is the only shape a network can take."""
    shape = line.operand(node, 1)
    target = () if shape is None else tuple(shape.ravel().tolist())
    if len(target) == 2 and line.rank >= 2:
        rows, n = target
        kept = (rows == 0 and not allowzero) or (rows > 0 and rows == line.examples)
        width = line.width
        if (kept and (n == -1 or width in (None, n))) or (rows == -1 and n > 0 and n == width):
            line.flatten(node)
            return
    raise refused(node, f"makes shape {target}, but only a row for each example can be made", "use Flatten")


# Constants.


@_folded("Identity")
def same(node: Node, a: NDArray[Any]) -> NDArray[Any]:
    """Return the array."""
    return a


@_folded("Transpose")
def transpose(node: Node, a: NDArray[Any], *, perm: tuple[int, ...] = ()) -> NDArray[Any]:
    """Return the array with its axes in another order."""
    return a.transpose(perm or None)


@_folded("Cast")
def converted(node: Node, a: NDArray[Any], *, to: int = 0, saturate: int = 1, round_mode: str = "up") -> NDArray[Any]:
    """Return the array in another type."""
    if to not in KINDS or KINDS[to].name == "bfloat16":
        raise refused(node, f"makes data type {to} of a constant, which is not read")
    return a.astype(KINDS[to].stored)


@_folded("Reshape")
def reshaped(node: Node, a: NDArray[Any], shape: NDArray[Any], *, allowzero: int = 0) -> NDArray[Any]:
    """Return the array in another shape."""
    target = shape.ravel().tolist()
    if not allowzero:
        target = [a.shape[i] if n == 0 else n for i, n in enumerate(target)]
    return a.reshape(target)


@_folded("Flatten")
def flattened(node: Node, a: NDArray[Any], *, axis: int = 1) -> NDArray[Any]:
    """Return the array as a matrix."""
    return a.reshape(math.prod(a.shape[:axis]), -1)


@_folded("Unsqueeze")
def unsqueezed(node: Node, a: NDArray[Any], where: NDArray[Any] | None = None, *, axes: tuple[int, ...] = ()) -> Any:
    """Return the array with more axes, of one number each."""
    return np.expand_dims(a, tuple(axes if where is None else where.ravel().tolist()))


@_folded("Squeeze")
def squeezed(node: Node, a: NDArray[Any], where: NDArray[Any] | None = None, *, axes: tuple[int, ...] = ()) -> Any:
    """Return the array with fewer axes."""
    chosen = tuple(axes if where is None else where.ravel().tolist())
    return np.squeeze(a, chosen or None)
