"""Fused dense-layer forward propagation for NumPy, in Numba, on CPU and GPU.

This page lists what there is; each name is imported when it is first used, so that ``import numbadense`` costs little
and compiles nothing.
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_WHERE = {
    "ActivationError": "errors",
    "DTypeError": "errors",
    "Dense": "model",
    "DeviceError": "errors",
    "MissingDependencyError": "errors",
    "ModelFormatError": "errors",
    "NetworkIndexError": "errors",
    "NonFiniteWarning": "errors",
    "NumbadenseError": "errors",
    "OptionError": "errors",
    "OutputError": "errors",
    "Population": "population",
    "Sequential": "model",
    "ShapeError": "errors",
    "activation": "activations",
    "dense": "functional",
    "elu": "functional",
    "exp": "functional",
    "gelu": "functional",
    "gelu_tanh": "functional",
    "hard_sigmoid": "functional",
    "hard_swish": "functional",
    "identity": "functional",
    "leaky_relu": "functional",
    "load": "io",
    "log_softmax": "functional",
    "mish": "functional",
    "relu": "functional",
    "save": "io",
    "selu": "functional",
    "sigmoid": "functional",
    "sigmoid_high": "functional",
    "silu": "functional",
    "softmax": "functional",
    "softplus": "functional",
    "softsign": "functional",
    "stack": "population",
    "tanh": "functional",
    "tanh_high": "functional",
}
_MODULES = (
    "activations",
    "cli",
    "cuda",
    "errors",
    "functional",
    "io",
    "jit",
    "model",
    "population",
    "scalar_math",
    "testing",
)

__all__ = [
    "ActivationError",
    "DTypeError",
    "Dense",
    "DeviceError",
    "MissingDependencyError",
    "ModelFormatError",
    "NetworkIndexError",
    "NonFiniteWarning",
    "NumbadenseError",
    "OptionError",
    "OutputError",
    "Population",
    "Sequential",
    "ShapeError",
    "__version__",
    "activation",
    "activations",
    "cuda",
    "dense",
    "elu",
    "errors",
    "exp",
    "gelu",
    "gelu_tanh",
    "hard_sigmoid",
    "hard_swish",
    "identity",
    "io",
    "jit",
    "leaky_relu",
    "load",
    "log_softmax",
    "mish",
    "relu",
    "save",
    "scalar_math",
    "selu",
    "sigmoid",
    "sigmoid_high",
    "silu",
    "softmax",
    "softplus",
    "softsign",
    "stack",
    "tanh",
    "tanh_high",
    "testing",
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"{__name__}.{name}")
    if name in _WHERE:
        value = globals()[name] = getattr(importlib.import_module(f"{__name__}.{_WHERE[name]}"), name)
        return value
    if not name.startswith("_"):
        functional = importlib.import_module(f"{__name__}.functional")
        if hasattr(functional, name):  # an activation that a user has registered
            return getattr(functional, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__


if TYPE_CHECKING:
    from numbadense import activations, cuda, errors, io, jit, scalar_math, testing
    from numbadense.activations import activation
    from numbadense.errors import (
        ActivationError,
        DeviceError,
        DTypeError,
        MissingDependencyError,
        ModelFormatError,
        NetworkIndexError,
        NonFiniteWarning,
        NumbadenseError,
        OptionError,
        OutputError,
        ShapeError,
    )
    from numbadense.functional import ActivationFunction, dense
    from numbadense.io import load, save
    from numbadense.model import Dense, Sequential
    from numbadense.population import Population, stack

    elu: ActivationFunction
    exp: ActivationFunction
    gelu: ActivationFunction
    gelu_tanh: ActivationFunction
    hard_sigmoid: ActivationFunction
    hard_swish: ActivationFunction
    identity: ActivationFunction
    leaky_relu: ActivationFunction
    log_softmax: ActivationFunction
    mish: ActivationFunction
    relu: ActivationFunction
    selu: ActivationFunction
    sigmoid: ActivationFunction
    sigmoid_high: ActivationFunction
    silu: ActivationFunction
    softmax: ActivationFunction
    softplus: ActivationFunction
    softsign: ActivationFunction
    tanh: ActivationFunction
    tanh_high: ActivationFunction
