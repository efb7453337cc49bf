"""The layers of a Functional model in the order of their calls, if they are a line."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from numbadense.errors import ModelFormatError

if TYPE_CHECKING:
    from numbadense.io.keras_layers import Layer

__all__ = ["line"]

Item = TypeVar("Item")


def line(model: Layer, entries: Sequence[dict[str, Any]], layers: Sequence[Layer]) -> list[Layer]:
    """Return the layers from the input to the output.

    Parameters
    ----------
    model : Layer
        The model.
    entries : sequence of dict
        The entries of its layers, with their inbound nodes.
    layers : sequence of Layer
        The layers.

    Raises
    ------
    ModelFormatError
        If they are not a line: named is where it branches or merges.
    """
    places = {layer.names[-1]: index for index, layer in enumerate(layers)}
    if len(places) < len(layers):
        raise ModelFormatError(f"{model.origin} has {len(layers)} layers of {len(places)} names; save it again.")
    before = [_source(layer, entry) for layer, entry in zip(layers, entries, strict=True)]
    users: dict[str, str] = {}
    for layer, source in zip(layers, before, strict=True):
        if source is not None and users.setdefault(source, layer.origin) != layer.origin:
            raise ModelFormatError(
                f"{source[:80]!r} branches, into {users[source]} and {layer.origin}: only models that are a line can "
                "be read."
            )
    (outputs, inputs) = (_tensors(model.config.get(key)) for key in ("output_layers", "input_layers"))
    if len(outputs) != 1 or len(inputs) != 1:
        raise ModelFormatError(
            f"{model.origin} has {len(inputs)} inputs and {len(outputs)} outputs: only models that are a line from one "
            "to one can be read."
        )
    name: str | None = outputs[0]
    found: list[Layer] = []
    while name is not None:
        if name not in places or len(found) == len(layers):
            raise ModelFormatError(f"{model.origin} has no way from its input to {name[:80]!r}; save it again.")
        found.append(layers[places[name]])
        name = before[places[name]]
    if len(found) < len(layers) or found[-1].names[-1] != inputs[0]:
        said = next((layer.origin for layer in layers if layer not in found), found[-1].origin)
        raise ModelFormatError(f"{model.origin} is no line from its input to its output: {said} is beside it.")
    return found[::-1]


def _source(layer: Layer, entry: dict[str, Any]) -> str | None:
    """Return the name of the layer that a layer is called on, or None for an input."""
    nodes = entry.get("inbound_nodes")
    if not isinstance(nodes, list):
        raise ModelFormatError(f"{layer.origin} has no inbound_nodes: the description is damaged; save it again.")
    if layer.kind == "InputLayer" and not nodes:
        return None
    if len(nodes) != 1:
        raise ModelFormatError(f"{layer.origin} is called {len(nodes)} times, and layers have to be called once.")
    node = nodes[0]
    if isinstance(node, dict):  # Keras 3
        arguments, options = node.get("args"), node.get("kwargs")
        sources = _histories(arguments) + _histories(options)
        plain = isinstance(arguments, list) and len(arguments) == 1 and isinstance(options, dict)
    else:
        calls = [node] if isinstance(node, list) and node and isinstance(node[0], str) else node
        sources = _tensors(calls)
        options = calls[0][3] if sources and len(calls[0]) > 3 else {}
        plain = isinstance(options, dict)
    if len(sources) != 1:
        raise ModelFormatError(f"{layer.origin} merges {len(sources)} inputs: only models that are a line can be read.")
    if not plain or not isinstance(options, dict):
        raise ModelFormatError(f"{layer.origin} is called on more than another layer, which cannot be read.")
    if given := ", ".join(f"{key}={value}" for key, value in options.items() if value):
        raise ModelFormatError(f"{layer.origin} is called with {given[:200]}, which cannot be read: leave it out.")
    return sources[0]


def _tensors(value: Any) -> list[str]:
    """Return the names of layers in a list of ``[name, node, tensor, ...]``, or in one of them."""
    calls = [value] if isinstance(value, list) and value and isinstance(value[0], str) else value
    calls = list(calls.values()) if isinstance(calls, dict) else calls
    if not isinstance(calls, list) or not all(
        isinstance(call, list) and len(call) >= 3 and isinstance(call[0], str) and call[2] == 0 for call in calls
    ):
        raise ModelFormatError("the calls of its layers cannot be read: the description is damaged; save it again.")
    return [call[0] for call in calls]


def _histories(value: Any) -> list[str]:
    """Return the names of the layers that tensors within come from."""
    if isinstance(value, dict) and value.get("class_name") == "__keras_tensor__":
        return _tensors((value.get("config") or {}).get("keras_history"))
    within = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [name for each in within for name in _histories(each)]
