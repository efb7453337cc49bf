"""The interface of ``onnx.backend``: functions of a module, as ONNX Runtime has them.

What is not a straight line of dense layers is refused by the exception with which the tests of ONNX skip a case.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from numbadense.errors import ModelFormatError
from numbadense.io import onnx as reader
from numbadense.io.onnx.reader import OPSETS
from numbadense.io.onnx.tensors import FLOATS
from numbadense.io.optional import need

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from numbadense.model import Sequential

__all__ = ["Prepared", "is_compatible", "prepare", "run_model", "run_node", "supports_device"]


class Prepared:
    """A model that takes and gives what it declares.

    Parameters
    ----------
    model : onnx.ModelProto
        The model.

    Attributes
    ----------
    names : list of str
        Its inputs.  The first goes through the network, and the others are constants that come with each run.
    network : Sequential or None
        The network, if it has no other inputs.
    """

    def __init__(self, model: Any) -> None:
        given = {each.name for each in model.graph.initializer}
        self.model, self.names = model, [each.name for each in model.graph.input if each.name not in given]
        self.network = self._read(()) if len(self.names) < 2 else None

    def _read(self, constants: Sequence[NDArray[Any]]) -> Sequential:
        model = self.model
        if constants:
            model = type(model).FromString(model.SerializeToString())
            numpy_helper: Any = importlib.import_module("onnx.numpy_helper")
            for name, array in zip(self.names[1:], constants, strict=True):
                model.graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        try:
            return reader.read(model)
        except ModelFormatError as error:
            raise _skipped()(str(error)) from None

    def run(self, inputs: Sequence[NDArray[Any]], **_: Any) -> tuple[NDArray[Any], ...]:
        """Propagate one batch of examples, and return the only output."""
        x = np.asarray(inputs[0])
        network = self.network or self._read([np.asarray(each) for each in inputs[1:]])
        if x.dtype.kind not in "biuf":  # bfloat16
            x = x.astype(np.float32)
        if x.ndim > 2 and x.shape[-1] != network.n_in:  # the model begins by making rows
            x = x.reshape(len(x), -1)
        element = self.model.graph.output[0].type.tensor_type.elem_type
        helper: Any = importlib.import_module("onnx.helper")
        dtype = helper.tensor_dtype_to_np_dtype(element) if element in FLOATS else network.dtype
        with np.errstate(all="ignore"):
            return (network(x).astype(dtype),)


def supports_device(device: str) -> bool:
    """Return whether a network runs there: on the CPU."""
    return device.partition(":")[0] == "CPU"


def is_compatible(model: Any, device: str = "CPU", **_: Any) -> bool:
    """Return whether a model can be read, as far as its constants are part of it."""
    try:
        prepare(model, device)
    except _skipped():
        return False
    return True


def prepare(model: Any, device: str = "CPU", **_: Any) -> Prepared:
    """Read a model.

    Parameters
    ----------
    model : onnx.ModelProto
        The model.
    device : str, optional
        The CPU.

    Returns
    -------
    Prepared

    Raises
    ------
    onnx.backend.test.runner.BackendIsNotSupposedToImplementIt
        If it is not a network that can be read; the message says why.
    """
    return Prepared(model)


def run_model(model: Any, inputs: Sequence[NDArray[Any]], device: str = "CPU", **_: Any) -> tuple[NDArray[Any], ...]:
    """Read a model, and run it once."""
    return prepare(model, device).run(inputs)


def run_node(
    node: Any, inputs: Sequence[NDArray[Any]], device: str = "CPU", **options: Any
) -> tuple[NDArray[Any], ...]:
    """Run a node: its first input goes through the network, and the others are constants."""
    helper: Any = importlib.import_module("onnx.helper")
    values = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(each.dtype), each.shape)
        for name, each in zip((name for name in node.input if name), map(np.asarray, inputs), strict=True)
    ]
    output = helper.make_tensor_value_info(node.output[0], values[0].type.tensor_type.elem_type, None)
    version = options.get("opset_version") or min(OPSETS[""][1], _newest())
    graph = helper.make_graph([node], "node", values, [output])
    return run_model(helper.make_model(graph, opset_imports=[helper.make_opsetid("", version)]), inputs, device)


def _newest() -> int:
    return int(need("onnx.defs", "onnx", "a node").onnx_opset_version())


def _skipped() -> Any:
    return importlib.import_module("onnx.backend.test.runner").BackendIsNotSupposedToImplementIt
