"""From an ONNX graph to the steps of a chain: a straight line from the input to the output, and constants beside it.

::

    X --> Gemm --> Relu --> MatMul --> Add --> Y        one value at a time goes through the line
             ^                ^         ^
           w, b    Transpose(v)         c               constants: initialisers, and what is folded of them

Where a value goes to several nodes, these are taken together until one value is left, and compared with the patterns.
"""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np

from numbadense import activations
from numbadense.errors import ModelFormatError, NumbadenseError
from numbadense.io.chain import Activate, Linear, Scale, Step
from numbadense.io.onnx import patterns
from numbadense.io.onnx.expressions import MOST_NODES, Region
from numbadense.io.onnx.operators import EITHER_SIDE, FOLDED, OPERATORS, defaults, refused
from numbadense.io.onnx.tensors import FLOATS, KINDS, Store

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["DOUBLE", "OPSETS", "Line", "Node", "follow"]

OPSETS = {"": (7, 28), "ai.onnx.ml": (1, 6)}  # from the first whose broadcasting is today's, to the last that is tested
DOUBLE = 11  # TensorProto.DataType
FIELDS = {1: "f", 2: "i", 3: "s", 4: "t", 6: "floats", 7: "ints"}  # AttributeProto.AttributeType


class Node:
    """A node, and what it is called in messages."""

    def __init__(self, index: int, proto: Any) -> None:
        self.op, self.proto = proto.op_type, proto
        self.domain = "" if proto.domain == "ai.onnx" else proto.domain
        self.inputs, self.outputs = list(proto.input), list(proto.output)
        while self.inputs and not self.inputs[-1]:
            self.inputs.pop()
        kind = f"{self.domain}.{self.op}" if self.domain else self.op
        self.origin = f"node {index} ({kind[:80]} {proto.name[:80]!r})"

    @property
    def key(self) -> tuple[str, str]:
        """Its domain and operator."""
        return self.domain, self.op

    def attributes(self) -> dict[str, Any]:
        """Return its attributes by name: text as str, lists as tuples."""
        found: dict[str, Any] = {}
        for each in self.proto.attribute:
            if each.type not in FIELDS or each.ref_attr_name or each.name in found:
                raise refused(self, f"has an attribute {each.name[:80]!r} of a kind that is not read")
            value = getattr(each, FIELDS[each.type])
            if each.type == 3:
                value = value.decode("utf-8", "replace")
            found[each.name] = tuple(value) if each.type in (6, 7) else value
        return found

    def facts(self, function: Any) -> dict[str, Any]:
        """Return its attributes, checked against the keyword arguments of a function, and defaults as float32 too."""
        known, given = defaults(function), self.attributes()
        for name, value in given.items():
            if name not in known:
                raise refused(self, f"has an attribute {name[:80]!r}, which is not read", "export it without")
            default = known[name]
            kind = int if default is None else type(default)
            if type(value) is not kind:
                raise refused(self, f"has an attribute {name} of a wrong type, {type(value).__name__}")
        rounded = {name: float(np.float32(each)) if isinstance(each, float) else each for name, each in known.items()}
        return {**rounded, **given}


class Line:
    """What a row goes through, as far as it is read: `value` is the name of what it has come to."""

    def __init__(self, graph: Any, opset: int, store: Store) -> None:
        self.graph, self.opset, self.store = graph, opset, store
        self.steps: list[Step] = []
        self.tensors = {tensor.name: tensor for tensor in graph.initializer}
        self.constants: dict[str, NDArray[Any]] = {}
        if graph.sparse_initializer:
            raise ModelFormatError("the graph has sparse initialisers, which are not read; make them dense.")
        inputs = [each for each in graph.input if each.name not in self.tensors]
        if len(inputs) != 1:
            raise ModelFormatError(
                f"the graph has {len(inputs)} inputs, {_listed(inputs)}, but a network has one; join them before it."
            )
        if len(graph.output) != 1:
            raise ModelFormatError(
                f"the graph has {len(graph.output)} outputs, {_listed(graph.output)}, but a network has one; keep one "
                f'with onnx.utils.extract_model("net.onnx", "one.onnx", [{inputs[0].name!r}], ["..."]), exported '
                'with options={"zipmap": False} if it is from skl2onnx.'
            )
        self.value, self.output = inputs[0].name, graph.output[0].name
        self.shape = self._shape(inputs[0])
        self.rank = len(self.shape)
        self.examples = self.shape[0] if self.rank > 1 else None
        self.n_in = self.shape[-1]
        self.single = self.element != DOUBLE

    def _shape(self, value: Any) -> list[int | None]:
        """Return the dimensions of the input, None for those that are open; it has two if the file does not say."""
        if value.type.WhichOneof("value") != "tensor_type":
            raise ModelFormatError(f"the input {value.name!r} is not a tensor, as the examples of a network are.")
        kind = value.type.tensor_type
        self.element = kind.elem_type
        if self.element not in KINDS:
            known = ", ".join(each.name for each in KINDS.values())
            raise ModelFormatError(
                f"the input {value.name!r} is of data type {self.element} but those read are {known}."
            )
        if not kind.HasField("shape"):
            return [None, None]
        dims = [
            d.dim_value if d.WhichOneof("value") == "dim_value" and d.dim_value > 0 else None for d in kind.shape.dim
        ]
        if not dims:
            raise ModelFormatError(f"the input {value.name!r} is a single number but a network takes rows of features.")
        return dims

    @property
    def width(self) -> int | None:
        """How many features there are, where something says so."""
        return next((step.w.shape[1] for step in reversed(self.steps) if isinstance(step, Linear)), self.n_in)

    def operand(self, node: Node, place: int) -> NDArray[Any] | None:
        """Return a constant that a node takes, or None if it is left out."""
        if place >= len(node.inputs) or not node.inputs[place]:
            return None
        array = self.constant(node.inputs[place])
        if array is None:
            raise refused(node, f"takes {node.inputs[place][:80]!r}, which is not a constant, as its input {place}")
        return array

    def constant(self, name: str) -> NDArray[Any] | None:
        """Return a constant, or None if nothing says what it is."""
        if name not in self.constants and name in self.tensors:
            self.constants[name] = self.store.read(self.tensors[name], f"the initialiser {name[:80]!r}")
        return self.constants.get(name)

    def number(self, node: Node, array: Any) -> float:
        """Return a constant that is one number."""
        if np.size(array) != 1:
            raise refused(node, f"takes numbers of shape {np.shape(array)} but a single one is read")
        return float(np.ravel(array)[0])

    def features(self, node: Node, array: NDArray[Any] | None) -> Any:
        """Return a constant as one number, or as one for each feature."""
        if array is None or array.ndim > self.rank or any(n != 1 for n in array.shape[:-1]):
            shape = None if array is None else array.shape
            raise refused(node, f"takes a constant of shape {shape}, but one number or one for each feature is read")
        if array.dtype.kind != "f":
            raise refused(node, f"takes a constant of {array.dtype}, but floats are read")
        return float(array.ravel()[0]) if array.size == 1 else array.ravel()

    def scale(self, node: Node, scale: Any, shift: Any) -> None:
        """Take a scale and a shift; what belongs to the step before is made part of it."""
        last = self.steps[-1] if self.steps else None
        neutral = isinstance(scale, float) and scale == 1
        if neutral and isinstance(shift, float) and shift == 0:
            return
        if neutral and isinstance(last, Linear) and last.b is None and _is_bias(shift, last.w):
            self.steps[-1] = Linear(last.origin, last.w, shift)
            return
        numbers = (scale, shift, *((last.scale, last.shift) if isinstance(last, Scale) else (None,)))
        if isinstance(last, Scale) and all(isinstance(each, float) for each in numbers):
            self.steps.pop()
            self.scale(node, float(last.scale * scale), float(last.shift * scale + shift))
            return
        self.steps.append(Scale(node.origin, scale, shift))

    def activate(self, node: Node, name: str, *parameters: float) -> None:
        """Take an activation, or with parameters a member of a family."""
        try:
            found = activations.member(name, *parameters) if parameters else activations.get(name)
        except NumbadenseError as error:
            raise refused(node, f"is an activation that cannot be had: {str(error).rstrip('.')}") from None
        self.steps.append(Activate(node.origin, found))

    def activated(self) -> str | None:
        """Return the name of the activation that was taken last, if it was the last step."""
        last = self.steps[-1] if self.steps else None
        return last.activation.name if isinstance(last, Activate) else None

    def flatten(self, node: Node) -> None:
        """Make rows: before it, nothing may have depended on which axis is the last."""
        if self.rank == 2:
            return
        for step in self.steps:
            rowwise = isinstance(step, Activate) and step.activation.rowwise
            sized = isinstance(step, Scale) and max(np.size(step.scale), np.size(step.shift)) > 1
            if isinstance(step, Linear) or rowwise or sized:
                raise refused(node, f"comes after {step.origin}, which goes along the last of {self.rank} axes")
        known = [n for n in self.shape[1:] if n is not None]
        self.n_in = math.prod(known) if len(known) == self.rank - 1 else None
        self.rank = 2


def follow(line: Line, model: Any) -> None:
    """Read the steps of a model."""
    functions = {(each.domain, each.name) for each in model.functions}
    nodes = _needed(model.graph, line.output)
    varying = {line.value}
    along = []
    for node in nodes:
        if (node.proto.domain, node.op) in functions:
            raise refused(
                node, "is a function of the model", "inline it with onnx.inliner.inline_local_functions(model)"
            )
        if node.domain not in OPSETS:
            raise refused(node, f"is of the domain {node.domain[:80]!r}, but those read are of the standard")
        if varying.isdisjoint(node.inputs):
            _fold(line, node)
        else:
            varying.update(node.outputs)
            along.append(node)
    if line.output not in varying:
        raise ModelFormatError(
            f"the output {line.output!r} does not depend on the input {line.value!r}; export it again."
        )
    uses = Counter(name for node in along for name in node.inputs if name in varying)
    place = 0
    while line.value != line.output:
        if place == len(along):
            raise ModelFormatError(f"nothing leads from {line.value[:80]!r} to the output {line.output[:80]!r}.")
        place += _taken(line, along[place : place + MOST_NODES + 1], uses, varying)
    if place != len(along):
        raise refused(along[place], "takes what is after the output")


def _taken(line: Line, nodes: list[Node], uses: Counter[str], varying: set[str]) -> int:
    """Take the next step, and return how many nodes it was."""
    node = nodes[0]
    if line.element not in FLOATS and node.op != "Cast":
        raise refused(node, f"takes {KINDS[line.element].name}, but only Cast does", "make the input float")
    if node.inputs.count(line.value) != 1 or sum(name in varying for name in node.inputs) != 1:
        single = False
    else:
        single = uses[line.value] == 1 and node.key in OPERATORS
    if not single:
        count = _matched(line, nodes, uses)
        if count:
            return count
        raise _branch(line, nodes, uses)
    if node.inputs[0] != line.value and node.op not in EITHER_SIDE:
        raise refused(node, "takes a constant as its first input, and the network's values as another")
    for extra in node.outputs[1:]:
        if uses[extra] or extra == line.output:
            raise refused(node, f"has its output {extra[:80]!r} used, but only the first can be had")
    function = OPERATORS[node.key]
    function(line, node, **node.facts(function))
    if line.element not in FLOATS and node.op == "Cast":
        line.element = node.facts(function).get("to", 0)
        line.single = line.element != DOUBLE
    line.value = node.outputs[0] if node.outputs else ""
    return 1


def _matched(line: Line, nodes: list[Node], uses: Counter[str]) -> int:
    """Take the nodes that make up an activation, and return how many they are, or 0."""
    region, left = Region(line.value), Counter({line.value: uses[line.value]})

    def number(name: str) -> float | None:
        array = line.constant(name)
        return None if array is None or array.size != 1 or array.ndim > line.rank else float(array.ravel()[0])

    for count, node in enumerate(nodes, start=1):
        facts = {name: value for name, value in node.attributes().items() if name in ("alpha", "beta", "to")}
        if node.domain or len(node.outputs) != 1:
            return 0
        if not region.add(node.op, node.inputs, node.outputs[0], number, **facts):
            return 0
        left.subtract(name for name in node.inputs if name in left)
        output = node.outputs[0]
        if any(left.values()):
            left[output] = uses[output]
            continue
        parts = patterns.recognise(region.sums[output])
        if parts is not None and (uses[output] or output == line.output):
            for part in parts:
                _take(line, nodes[0], part)
            line.value = output
            return count
        left[output] = uses[output]
    return 0


def _take(line: Line, node: Node, part: Any) -> None:
    if isinstance(part, str):
        line.activate(node, part)
    elif isinstance(part[0], str):
        line.activate(node, *part)
    else:
        line.scale(node, *part)


def _branch(line: Line, nodes: list[Node], uses: Counter[str]) -> ModelFormatError:
    takers = [node for node in nodes if line.value in node.inputs]
    if uses[line.value] > 1 and takers:
        names = " and ".join(node.origin for node in takers[:3])
        return ModelFormatError(
            f"the value {line.value[:80]!r} goes to several places, {names}, which are no activation that is known; "
            "a network is a straight line: export each line by itself."
        )
    node = takers[0] if takers else nodes[0]
    if node.key in OPERATORS or not takers:
        return refused(node, "joins several values that depend on the input, but a network is a straight line")
    known = ", ".join(sorted(name for _, name in OPERATORS))
    return refused(node, f"is not an operator that dense layers are made of, which are {known}")


def _needed(graph: Any, output: str) -> list[Node]:
    """Return the nodes that the output depends on, in their order."""
    makers: dict[str, Node] = {}
    nodes = [Node(index, proto) for index, proto in enumerate(graph.node)]
    for node in nodes:
        for name in node.outputs:
            if name in makers:
                raise refused(node, f"makes {name[:80]!r}, as {makers[name].origin} does", "give each its own name")
            if name:
                makers[name] = node
    todo, needed = [output], set()
    while todo:
        maker = makers.get(todo.pop())
        if maker is not None and maker not in needed:
            needed.add(maker)
            todo += maker.inputs
    return [node for node in nodes if node in needed]


def _fold(line: Line, node: Node) -> None:
    """Compute a constant."""
    if node.key == ("", "Constant") and len(node.outputs) == 1:
        line.constants[node.outputs[0]] = _value(line, node)
        return
    if node.key not in FOLDED or len(node.outputs) != 1:
        known = ", ".join(sorted(name for _, name in FOLDED))
        raise refused(node, f"computes with constants, and is none of {known}", "fold constants when exporting")
    operands = []
    for place, name in enumerate(node.inputs):
        operand = line.operand(node, place)
        if operand is None:
            raise refused(node, f"takes {name[:80]!r}, which is not a constant")
        operands.append(operand)
    function = FOLDED[node.key]
    try:
        line.constants[node.outputs[0]] = function(node, *operands, **node.facts(function))
    except (ValueError, TypeError, IndexError, OverflowError) as error:
        if isinstance(error, NumbadenseError):
            raise
        raise refused(node, f"cannot be computed, {error}") from None


def _value(line: Line, node: Node) -> NDArray[Any]:
    """Return what a Constant holds."""
    for name, value in node.attributes().items():
        if name == "value" and hasattr(value, "dims"):
            return line.store.read(value, node.origin)
        if name in ("value_float", "value_floats") and isinstance(value, (float, tuple)):
            return np.array(value, np.float32)
        if name in ("value_int", "value_ints") and isinstance(value, (int, tuple)):
            return np.array(value, np.int64)
    raise refused(node, "holds no numbers")


def _is_bias(shift: Any, w: NDArray[Any]) -> bool:
    return np.shape(shift) == w.shape[1:] and shift.dtype == w.dtype


def _listed(values: Any) -> str:
    names = [repr(each.name[:80]) for each in values[:8]]
    return ", ".join(names) + (", ..." if len(values) > 8 else "") if names else "none"
