"""Keras' activations: functions by name, and layers and operations with parameters, as what they do one by one."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from numbadense.activations import Activation, get, member
from numbadense.errors import ModelFormatError

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["CLASSES", "LAYERS", "flag", "mapping", "number", "numbers", "parts"]

NO_BOUND = float(np.finfo(np.float32).max)  # a bound that no finite float32 is above

# What a function of a name does: activations, and factors before and after them.  None: it depends on the version.
FUNCTIONS: dict[str, tuple[str | float, ...]] = {
    "celu": ("celu(1.0)",),
    "elu": ("elu",),
    "exp": ("exp",),
    "exponential": ("exp",),
    "gelu": ("gelu",),
    "hard_shrink": ("shrink(0.5, 0.0)",),
    "hard_sigmoid": ("hard_sigmoid",),
    "hard_silu": ("hard_swish",),
    "hard_swish": ("hard_swish",),
    "hard_tanh": ("clip(-1.0, 1.0)",),
    "leaky_relu": ("leaky_relu(0.2)",),
    "linear": (),
    "log_sigmoid": (-1.0, "softplus", -1.0),
    "log_softmax": ("log_softmax",),
    "mish": ("mish",),
    "relu": ("relu",),
    "relu6": ("clip(0.0, 6.0)",),
    "selu": ("selu",),
    "sigmoid": ("sigmoid",),
    "silu": ("silu",),
    "soft_shrink": ("shrink(0.5, 0.5)",),
    "softmax": ("softmax",),
    "softmax_v2": ("softmax",),  # as Keras 2 calls TensorFlow's
    "softplus": ("softplus",),
    "softsign": ("softsign",),
    "swish": ("silu",),
    "tanh": ("tanh",),
}
HARD_SIGMOID_OF_KERAS_2 = "hard_sigmoid(0.2, 0.5)"

Part = Activation | float
Maker = Callable[[dict[str, Any], str, str], list[Part]]  # of a configuration, the version, and whose it is


def parts(given: Any, version: str, origin: str) -> list[Part]:
    """Return what an activation does, one after the other: activations, and factors to multiply by.

    Parameters
    ----------
    given : None, str or dict
        A function's name, or the configuration of a function or of a layer.
    version : str
        The version of Keras, on which the hard sigmoid depends.
    origin : str
        Whose activation it is.

    Raises
    ------
    ModelFormatError
        If there is no such activation here.
    ActivationError
        If its parameters make no sense.
    """
    if given is None:
        return []
    if isinstance(given, dict) and given.get("class_name") in CLASSES:
        return CLASSES[given["class_name"]](mapping(given, "config", origin), version, origin)
    name = given
    if isinstance(given, dict):
        own = given.get("module") in ("builtins", "keras.activations", "keras.ops", None)
        name = given.get("config") if given.get("class_name") == "function" and own else given.get("class_name")
        name = name if own else f"{given.get('module')}.{given.get('config')}"
    if not isinstance(name, str) or name not in FUNCTIONS:
        raise ModelFormatError(
            f"{origin} has the activation {str(name)[:80]!r}, which cannot be read: known are "
            f"{', '.join(FUNCTIONS)}, and the layers {', '.join(LAYERS)}."
        )
    return _function(name, version, origin)


def _function(name: str, version: str, origin: str) -> list[Part]:
    if name == "hard_sigmoid":
        major = version.split(".")[0]
        if not major:
            raise ModelFormatError(
                f"{origin} is a hard_sigmoid, and the file does not say of which version of Keras: "
                "it was 0.2 x + 0.5 in Keras 2, and is x / 6 + 0.5 in Keras 3; load and save it with yours."
            )
        if int(major) < 3:
            return [get(HARD_SIGMOID_OF_KERAS_2)]
    return [part if isinstance(part, float) else get(part) for part in FUNCTIONS[name]]


def mapping(holder: dict[str, Any], key: str, origin: str) -> dict[str, Any]:
    """Return an entry that is a JSON object."""
    value = holder.get(key)
    if not isinstance(value, dict):
        raise ModelFormatError(f"{origin} has no {key}: the description is damaged; save the model again.")
    return value


def number(config: dict[str, Any], key: str, default: float, origin: str) -> float:
    """Return an entry that is one finite number."""
    value = numbers(config, key, default, origin)
    if value.size != 1:
        raise ModelFormatError(f"{origin} has {value.size} numbers as its {key}, and should have one.")
    return float(value.flat[0])


def numbers(config: dict[str, Any], key: str, default: float, origin: str) -> NDArray[np.float64]:
    """Return an entry that is a finite number or a row of them, as an array of no or one dimension."""
    value = config.get(key, default)
    if isinstance(value, dict) and isinstance(value.get("config"), dict):  # an array of NumPy or of a backend
        value = value["config"].get("value")
    while isinstance(value, list) and len(value) == 1 and isinstance(value[0], list):
        value = value[0]
    for each in value if isinstance(value, list) else [value]:
        if isinstance(each, bool) or not isinstance(each, (int, float)) or not math.isfinite(each):
            raise ModelFormatError(f"{origin} has {str(each)[:80]} in its {key}, and should have finite numbers.")
    return np.array(value, np.float64)


def flag(config: dict[str, Any], key: str, default: bool, origin: str) -> bool:
    """Return an entry that is true or false."""
    value = config.get(key, default)
    if not isinstance(value, bool):
        raise ModelFormatError(f"{origin} has {str(value)[:80]} as its {key}, and should have true or false.")
    return value


def _relu(config: dict[str, Any], version: str, origin: str) -> list[Part]:
    """``slope * (x - threshold)`` below the threshold, `max_value` above it."""
    slope = number(config, "negative_slope", 0.0, origin)
    threshold = number(config, "threshold", 0.0, origin)
    bounded = config.get("max_value") is not None
    high = number(config, "max_value", NO_BOUND, origin) if bounded else NO_BOUND
    if not slope and not threshold:
        return [member("clip", 0.0, high) if bounded else get("relu")]
    if not bounded and not threshold:
        return [member("leaky_relu", slope)]
    if not bounded and not slope:
        return [member("threshold", threshold, 0.0)]
    return [member("bounded_relu", slope, threshold, high)]


def _leaky_relu(config: dict[str, Any], version: str, origin: str) -> list[Part]:
    key = "negative_slope" if "negative_slope" in config else "alpha"  # as Keras 3 calls it, and as Keras 2 did
    return [member("leaky_relu", number(config, key, 0.3, origin))]


def _gelu(config: dict[str, Any], version: str, origin: str) -> list[Part]:
    return [get("gelu_tanh" if flag(config, "approximate", True, origin) else "gelu")]


def _rowwise(name: str) -> Maker:
    def make(config: dict[str, Any], version: str, origin: str) -> list[Part]:
        axis = config.get("axis", -1)
        if axis not in (-1, 1, [-1], [1]):
            raise ModelFormatError(f"{origin} is along axis {str(axis)[:80]}, and only that of features can be read.")
        return [get(name)]

    return make


def _member(family: str, **defaults: float) -> Maker:
    def make(config: dict[str, Any], version: str, origin: str) -> list[Part]:
        return [member(family, *(number(config, key, value, origin) for key, value in defaults.items()))]

    return make


def _shrink(soft: bool) -> Maker:
    def make(config: dict[str, Any], version: str, origin: str) -> list[Part]:
        threshold = number(config, "threshold", 0.5, origin)
        return [member("shrink", threshold, threshold if soft else 0.0)]

    return make


def _plain(name: str) -> Maker:
    return lambda config, version, origin: _function(name, version, origin)


# Layers, and operations of Functional models, by their classes.
LAYERS: dict[str, Maker] = {
    "ELU": _member("elu", alpha=1.0),
    "LeakyReLU": _leaky_relu,
    "ReLU": _relu,
    "Softmax": _rowwise("softmax"),
    "ThresholdedReLU": lambda config, version, origin: [member("threshold", number(config, "theta", 1.0, origin), 0.0)],
}
CLASSES: dict[str, Maker] = {
    **LAYERS,
    "Celu": _member("celu", alpha=1.0),
    "Elu": _member("elu", alpha=1.0),
    "Exp": _plain("exp"),
    "Gelu": _gelu,
    "HardShrink": _shrink(soft=False),
    "HardSigmoid": _plain("hard_sigmoid"),
    "HardSilu": _plain("hard_silu"),
    "HardTanh": _plain("hard_tanh"),
    "LeakyRelu": _member("leaky_relu", negative_slope=0.2),
    "LogSigmoid": _plain("log_sigmoid"),
    "LogSoftmax": _rowwise("log_softmax"),
    "Mish": _plain("mish"),
    "Relu": _plain("relu"),
    "Relu6": _plain("relu6"),
    "Selu": _plain("selu"),
    "Sigmoid": _plain("sigmoid"),
    "Silu": _plain("silu"),
    "SoftShrink": _shrink(soft=True),
    "Softplus": _plain("softplus"),
    "Softsign": _plain("softsign"),
    "Tanh": _plain("tanh"),
    "Threshold": _member("threshold", threshold=math.nan, default_value=math.nan),
}
