"""From a network to an ONNX model: Gemm and activations, at opset 13, which every runtime of today reads.

Operators of later opsets are written as what they stand for.  Attributes are float32: in a network of float64, whose
parameters would be rounded, operators with constants stand for them, which ONNX Runtime has in float64 too.  The model
also says which activations it was made of, so that reading it gives the same network.
"""

from __future__ import annotations

import importlib
import json
import math
from typing import TYPE_CHECKING, Any

from numbadense import activations
from numbadense.errors import ModelFormatError

if TYPE_CHECKING:
    from numbadense.model import Sequential

__all__ = ["KEY", "OPSET", "model", "nodes"]

OPSET, IR_VERSION = 13, 7
KEY = "numbadense"
ELEMENTS = {"float32": 1, "float64": 11}  # TensorProto.DataType
MOST_BYTES = 2**31 - 2**20  # of weights: a protocol buffer holds 2 GiB


class Writer:
    """The nodes of a model in the making: `value` is the name of what has been computed last."""

    def __init__(self, element: int) -> None:
        self.helper: Any = importlib.import_module("onnx.helper")
        self.element = element
        self.nodes: list[Any] = []
        self.value, self.layer = "x", "layers.0"

    def number(self, value: float) -> str:
        """Add a constant, and return its name."""
        name = f"{self.layer}.constant.{len(self.nodes)}"
        tensor = self.helper.make_tensor(name, self.element, [], [value])
        self.nodes.append(self.helper.make_node("Constant", [], [name], name, value=tensor))
        return name

    def node(self, op: str, *inputs: Any, **attributes: Any) -> str:
        """Add a node that takes values by name and numbers, and return the name of what it gives."""
        names = [self.number(each) if isinstance(each, float) else each for each in inputs]
        output = f"{self.layer}.{op.lower()}.{len(self.nodes)}"
        self.nodes.append(self.helper.make_node(op, names, [output], output, **attributes))
        self.value = output
        return output

    @property
    def single(self) -> bool:
        """Whether attributes, which are float32, are as good as the network's own numbers."""
        return self.element == ELEMENTS["float32"]


def _sigmoid(w: Writer, x: str) -> None:
    w.node("Sigmoid", x)


def _tanh(w: Writer, x: str) -> None:
    w.node("Tanh", x)


def _gelu(w: Writer, x: str) -> None:
    erf = w.node("Erf", w.node("Div", x, math.sqrt(2.0)))
    w.node("Mul", w.node("Mul", x, 0.5), w.node("Add", erf, 1.0))


def _gelu_tanh(w: Writer, x: str) -> None:
    cubic = w.node("Mul", w.node("Mul", x, x), w.node("Mul", x, 0.044715))
    tanh = w.node("Tanh", w.node("Mul", w.node("Add", x, cubic), math.sqrt(2 / math.pi)))
    w.node("Mul", w.node("Mul", x, 0.5), w.node("Add", tanh, 1.0))


def _hard_sigmoid(w: Writer, x: str, alpha: float = 1 / 6, beta: float = 0.5) -> None:
    if w.single:
        w.node("HardSigmoid", x, alpha=alpha, beta=beta)
    else:
        w.node("Clip", w.node("Add", w.node("Mul", x, alpha), beta), 0.0, 1.0)


def _leaky_relu(w: Writer, x: str, alpha: float = 0.01) -> None:
    if w.single:
        w.node("LeakyRelu", x, alpha=alpha)
    else:
        w.node("Where", w.node("Less", x, 0.0), w.node("Mul", x, alpha), x)


def _elu(w: Writer, x: str, alpha: float = 1.0) -> None:
    if w.single or alpha == 1:
        w.node("Elu", x, alpha=alpha)
    else:
        w.node("PRelu", w.node("Elu", x, alpha=1.0), alpha)


def _selu(w: Writer, x: str) -> None:
    if w.single:
        w.node("Selu", x)
    else:
        _elu(w, x, 1.6732632423543772)
        w.node("Mul", w.value, 1.0507009873554805)


def _celu(w: Writer, x: str, alpha: float) -> None:
    if w.single:
        w.node("Celu", x, alpha=alpha)
    else:
        w.node("Mul", w.node("Elu", w.node("Div", x, alpha), alpha=1.0), alpha)


def _threshold(w: Writer, x: str, threshold: float, value: float) -> None:
    if value == 0 and w.single:
        w.node("ThresholdedRelu", x, alpha=threshold)
    elif value == threshold:
        w.node("Max", x, threshold)
    else:
        w.node("Where", w.node("LessOrEqual", x, threshold), value, x)


def _bounded_relu(w: Writer, x: str, slope: float, threshold: float, high: float) -> None:
    below = w.node("Mul", w.node("Sub", x, threshold), slope)
    w.node("Where", w.node("Less", x, threshold), below, w.node("Min", x, high))


def _shrink(w: Writer, x: str, lambd: float, bias: float) -> None:
    if w.single:
        w.node("Shrink", x, lambd=lambd, bias=bias)
    else:
        nearer = w.node("Sub", x, w.node("Mul", w.node("Sign", x), bias))
        w.node("Where", w.node("LessOrEqual", w.node("Abs", x), lambd), 0.0, nearer)


WRITTEN: dict[str, Any] = {
    "identity": lambda w, x: None,
    "sigmoid": _sigmoid,
    "sigmoid_high": _sigmoid,
    "relu": lambda w, x: w.node("Relu", x),
    "tanh": _tanh,
    "tanh_high": _tanh,
    "leaky_relu": _leaky_relu,
    "elu": _elu,
    "celu": _celu,
    "selu": _selu,
    "silu": lambda w, x: w.node("Mul", x, w.node("Sigmoid", x)),
    "gelu": _gelu,
    "gelu_tanh": _gelu_tanh,
    "softplus": lambda w, x: w.node("Softplus", x),
    "softsign": lambda w, x: w.node("Softsign", x),
    "exp": lambda w, x: w.node("Exp", x),
    "hard_sigmoid": _hard_sigmoid,
    "hard_swish": lambda w, x: w.node("Div", w.node("Mul", x, w.node("Clip", w.node("Add", x, 3.0), 0.0, 6.0)), 6.0),
    "mish": lambda w, x: w.node("Mul", x, w.node("Tanh", w.node("Softplus", x))),
    "softmax": lambda w, x: w.node("Softmax", x, axis=-1),
    "log_softmax": lambda w, x: w.node("LogSoftmax", x, axis=-1),
    "clip": lambda w, x, low, high: w.node("Clip", x, low, high),
    "threshold": _threshold,
    "bounded_relu": _bounded_relu,
    "shrink": _shrink,
}


def nodes(names: list[str], biases: list[bool], element: int) -> tuple[list[Any], str]:
    """Return the nodes of a network, whose numbers are of the type `element`, and the name of its output."""
    writer = Writer(element)
    for index, (name, bias) in enumerate(zip(names, biases, strict=True)):
        writer.layer = f"layers.{index}"
        operands = [writer.value, f"layers.{index}.w", f"layers.{index}.b"]
        writer.node("Gemm", *operands[: 2 + bias])
        family, _, parameters = activations.get(name).name.partition("(")
        if family not in WRITTEN:
            raise ModelFormatError(
                f"layer {index} has the activation {name!r}, which has no counterpart in ONNX: those that have are "
                f"{', '.join(sorted(WRITTEN))}; save the network as .safetensors instead."
            )
        numbers = [float(each.partition("=")[2]) for each in parameters.rstrip(")").split(",") if each]
        WRITTEN[family](writer, writer.value, *numbers)
    return writer.nodes, writer.value


def model(network: Sequential) -> Any:
    """Return an ``onnx.ModelProto`` of a network; weights at half size are widened, exactly, to float32."""
    helper: Any = importlib.import_module("onnx.helper")
    dtype = network.dtype
    size = dtype.itemsize * sum(layer.parameters for layer in network.layers)
    if size > MOST_BYTES:
        raise ModelFormatError(
            f"the network has {size} bytes of weights in {dtype} but an ONNX file holds {MOST_BYTES}; "
            "save it as .safetensors, which has no limit."
        )
    element = ELEMENTS[dtype.name]
    names = [layer.activation.name for layer in network.layers]
    made, output = nodes(names, [layer.b is not None for layer in network.layers], element)
    tensors = []
    for index, layer in enumerate(network.layers):
        for name, array in ((f"layers.{index}.w", layer.w), (f"layers.{index}.b", layer.b)):
            if array is not None:
                content = array.astype(dtype.newbyteorder("<"), order="C", copy=False).tobytes()
                tensors.append(helper.make_tensor(name, element, array.shape, content, raw=True))
    graph = helper.make_graph(
        made,
        "numbadense",
        [helper.make_tensor_value_info("x", element, ["batch", network.n_in])],
        [helper.make_tensor_value_info(output, element, ["batch", network.n_out])],
        tensors,
    )
    made_of = {"version": 1, "storage": network.storage, "layers": [{"activation": name} for name in names]}
    notes = {**network.metadata, KEY: json.dumps(made_of)}
    result = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    result.producer_name = "numbadense"
    result.doc_string = network.metadata.get("doc", "")
    try:
        helper.set_model_props(result, notes)
    except UnicodeEncodeError as error:
        raise ModelFormatError(f"the network has a note that is not text ({error}); change its metadata.") from None
    return result
