"""Equinox: an ``equinox.nn.MLP``, and a ``Sequential`` of linear layers and functions; neither it nor JAX is imported.

A function of JAX is known by its name; one of another's is refused, unless the caller says the activations.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from numbadense.errors import ModelFormatError
from numbadense.io import chain, leaves, trees
from numbadense.io.chain import Activate, Linear, Step
from numbadense.io.torch import log_sigmoid

if TYPE_CHECKING:
    from numbadense import model

OPTIONS = ("activations",)
FUNCTIONS = {
    "celu": "celu(1.0)",
    "elu": "elu",
    "exp": "exp",
    "gelu": "gelu_tanh",
    "hard_sigmoid": "hard_sigmoid",
    "hard_silu": "hard_swish",
    "hard_tanh": "clip(-1.0, 1.0)",
    "identity": None,
    "leaky_relu": "leaky_relu",
    "log_sigmoid": "log_sigmoid",
    "mish": "mish",
    "relu": "relu",
    "relu6": "clip(0.0, 6.0)",
    "selu": "selu",
    "sigmoid": "sigmoid",
    "silu": "silu",
    "soft_sign": "softsign",
    "softplus": "softplus",
    "tanh": "tanh",
}
ROWWISE = {"softmax": "softmax", "log_softmax": "log_softmax"}  # of a vector, which a Sequential has and an MLP has not
SUPPORTED = ("MLP", "Sequential", "Linear", "Lambda", "Dropout", "Identity")


def recognises(source: Any) -> bool:
    """Say whether `source` is a module of Equinox, of any kind."""
    bases = type(source).__mro__
    return any(str(base.__module__).startswith("equinox.") and base.__name__ == "Module" for base in bases)


def read(module: Any, dtype: str | None = None, activations: Sequence[Any] | None = None) -> model.Sequential:
    """Make a network of a module."""
    if _kind(module) == "MLP":
        steps = list(_mlp(module, activations))
    elif activations is None:
        steps = list(_steps(module, "the module"))
    else:
        linear = [step for step in _steps(module, "the module", activations) if isinstance(step, Linear)]
        given = trees.each("the module", activations, [step.origin for step in linear])
        pairs = zip(linear, given, strict=True)
        steps = [each for step, name in pairs for each in (step, Activate(step.origin, name))]
    version = getattr(sys.modules.get("equinox"), "__version__", None)
    metadata = None if version is None else {"source": f"equinox {version}"}
    return chain.build(steps, dtype=dtype, metadata=metadata)


def _kind(module: Any) -> str:
    """Return the class of a module, which has to be Equinox's own: a subclass may do anything."""
    cls = type(module)
    return cls.__name__ if str(cls.__module__).startswith("equinox.nn.") else f"{cls.__module__}.{cls.__name__}"


def _mlp(module: Any, activations: Sequence[Any] | None) -> Iterator[Step]:
    names = [f"layers[{index}]" for index in range(len(module.layers))]
    if getattr(module, "scan", False):
        raise ModelFormatError("the MLP keeps its hidden layers in one (scan=True); make it with scan=False.")
    if activations is not None:
        given = trees.each("the MLP", activations, names)
    for index, (name, layer) in enumerate(zip(names, module.layers, strict=True)):
        origin = f"{name} of the MLP"
        yield _linear(layer, origin)
        if activations is not None:
            yield Activate(origin, given[index])
        elif index < len(names) - 1:
            yield from _function(module.activation, f"the activation of {origin}", FUNCTIONS)
        elif index:  # Equinox applies none at all to a single layer
            yield from _function(module.final_activation, "the final_activation of the MLP", FUNCTIONS)


def _steps(module: Any, origin: str, activations: Sequence[Any] | None = None) -> Iterator[Step]:
    kind = _kind(module)
    if kind == "Sequential":
        for index, layer in enumerate(module.layers):
            yield from _steps(layer, f"{origin if origin != 'the module' else ''}layers[{index}]", activations)
    elif kind == "Linear":
        yield _linear(module, origin)
    elif kind == "Lambda":
        if activations is None:
            yield from _function(module.fn, origin, {**FUNCTIONS, **ROWWISE})
    elif kind not in ("Dropout", "Identity"):
        raise ModelFormatError(
            f"{origin}, a {kind}, is not supported: supported are {', '.join(SUPPORTED)} of equinox.nn; pass the one "
            "in it, if that is all there is to it, or its weights as a list [{'weight': ..., 'bias': ...}, ...]."
        )


def _linear(layer: Any, origin: str) -> Linear:
    if _kind(layer) != "Linear":
        raise ModelFormatError(f"{origin} is a {_kind(layer)} but must be an equinox.nn.Linear; replace it.")
    weight = leaves.array(layer.weight, f"the weight of {origin}")
    bias = None if layer.bias is None else leaves.array(layer.bias, f"the bias of {origin}")
    return Linear(origin, weight.T, bias)


def _function(function: Any, origin: str, known: dict[str, Any]) -> Iterator[Step]:
    """Yield what a function of JAX does, by its name."""
    module, name = (str(getattr(function, which, "")) for which in ("__module__", "__name__"))
    if (module, name) == ("equinox.nn._mlp", "<lambda>"):  # the default
        name = "identity"
    elif module.split(".")[0] != "jax" or name not in known:
        raise ModelFormatError(
            f"{origin} is {name or type(function).__name__} of {module or 'no module'}, which is not known by name: "
            f"known are {', '.join(known)} of jax.nn and jax.numpy; pass activations=[...], one for each layer."
        )
    if known.get(name) == "log_sigmoid":
        yield from log_sigmoid(origin)
    elif known[name] is not None:
        yield Activate(origin, known[name])
