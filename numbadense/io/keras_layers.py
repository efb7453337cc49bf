"""What Keras' layers do to a row of features, as steps of a chain: from their configurations and weights.

A model is a list of layers (Sequential), or a graph of them (Functional) that has to be a line.  The shape of one
example is followed from layer to layer: until it is flat, only what works on each number alone may come.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from numbadense.errors import ActivationError, ModelFormatError
from numbadense.io import keras_functions, keras_graph
from numbadense.io.chain import Activate, Linear, Scale, Step

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Layer", "Weights", "steps"]

BATCH_NORM_EPSILON, NORMALIZATION_EPSILON = 1e-3, 1e-7
POLICIES = ("float16", "bfloat16", "float32", "float64", "mixed_float16", "mixed_bfloat16")
DROPPED = (
    "Dropout", "AlphaDropout", "GaussianDropout", "GaussianNoise", "ActivityRegularization", "Identity",
)  # fmt: skip
MODELS = ("Sequential", "Functional", "Model")
LIBRARIES = ("keras", "tf_keras", "tensorflow", "builtins")
MAX_SIZE = 2**31


@dataclass(frozen=True)
class Layer:
    """A layer in a file.

    Attributes
    ----------
    origin : str
        What it is called in messages: its index, kind and name.
    kind : str
        The name of its class.
    config : dict
        How it was made.
    folder : str
        Where a ``.keras`` file has its weights.
    names : tuple of str
        Where an ``.h5`` file does: the names of the models that it is in, and its own.
    """

    origin: str
    kind: str
    config: dict[str, Any]
    folder: str
    names: tuple[str, ...]


class Weights(Protocol):
    """Where a layer's weights are."""

    def read(self, layer: Layer, names: Sequence[str], unread: int = 0) -> list[NDArray[Any]]:
        """Return those that Keras calls by these names, in its order, before so many others."""


def steps(config: dict[str, Any], version: str, weights: Weights) -> tuple[list[Step], int | None]:
    """Return the steps of a model, and its number of features if the file says it.

    Parameters
    ----------
    config : dict
        The model's configuration.
    version : str
        The version of Keras that wrote it, or nothing.
    weights : Weights
        The weights.
    """
    kind = _kind(config, "the model")
    if kind not in MODELS:
        raise ModelFormatError(f"its model is of the class {kind!r}, but only {', '.join(MODELS)} can be read.")
    walk = _Walk(version, weights)
    model = Layer("the model", kind, keras_functions.mapping(config, "config", "the model"), "", ())
    walk.input(model)
    walk.model(model)
    if walk.shape is not None and len(walk.shape) != 1:
        raise ModelFormatError(f"its outputs have the shape {walk.shape}, but those of a network are flat: flatten.")
    return walk.steps, walk.n_in


def _kind(config: Any, origin: str) -> str:
    """Return the name of a class of Keras' own."""
    if not isinstance(config, dict) or not isinstance(config.get("class_name"), str):
        raise ModelFormatError(f"{origin} has no class_name: the description is damaged; save the model again.")
    kind = config["class_name"]
    module, registered = config.get("module"), config.get("registered_name")
    if registered not in (None, kind) or str(module or "keras").split(".")[0] not in LIBRARIES:
        said = ".".join(str(part)[:80] for part in (module, registered or kind) if part)
        raise ModelFormatError(
            f"{origin} is of the class {said!r}, not Keras' own: write it with layers of Keras, such as "
            f"{', '.join(sorted(_Walk.KINDS))}."
        )
    return kind


def _snake(name: str) -> str:
    """Return a class name as Keras writes it in paths: PReLU is p_re_lu."""
    name = re.sub(r"\W+", "", name)
    name = re.sub("(.)([A-Z][a-z]+)", r"\1_\2", name)
    return re.sub("([a-z])([A-Z])", r"\1_\2", name).lower()


@dataclass
class _Walk:
    """The way through a model: steps so far, and the shape of an example where they have led."""

    version: str
    weights: Weights
    steps: list[Step] = field(default_factory=list)
    shape: tuple[int | None, ...] | None = None
    n_in: int | None = None

    def model(self, model: Layer) -> None:
        for layer in self.layers(model):
            config = layer.config
            if layer.kind != "InputLayer":
                if not self.steps and self.shape is None:
                    self.input(layer)
                self.check_policy(layer)
            if layer.kind in DROPPED:
                continue
            if layer.kind in self.KINDS:
                self.KINDS[layer.kind](self, layer)
            elif layer.kind in keras_functions.CLASSES:
                self.activate(layer, {"class_name": layer.kind, "config": config})
            else:
                known = sorted({*self.KINDS, *DROPPED, *keras_functions.LAYERS})
                raise ModelFormatError(
                    f"{layer.origin} is of a kind that cannot be read: known are {', '.join(known)}."
                )

    def layers(self, model: Layer) -> Iterator[Layer]:
        """Return the layers of a model, in the order in which a row meets them."""
        entries = model.config.get("layers")
        if not isinstance(entries, list):
            raise ModelFormatError(f"{model.origin} has no list of layers: the description is damaged; save it again.")
        found, counts = [], dict[str, int]()
        index = 0
        for entry in entries:
            place = f"layer {index}" if not model.names else f"layer {index} of {model.origin}"
            kind = _kind(entry, place)
            config = keras_functions.mapping(entry, "config", place)
            name = config.get("name", entry.get("name"))
            if not isinstance(name, str):
                raise ModelFormatError(f"{place} has no name: the description is damaged; save the model again.")
            snake = _snake(kind)
            count = counts[snake] = counts.get(snake, -1) + 1
            folder = f"layers/{snake}_{count}" if count else f"layers/{snake}"
            origin = f"{place} ({kind} {name[:80]!r})"
            layer = Layer(
                origin, kind, config, f"{model.folder}/{folder}" if model.folder else folder, (*model.names, name)
            )
            found.append(layer)
            index += model.kind != "Sequential" or kind != "InputLayer"
        yield from found if model.kind == "Sequential" else keras_graph.line(model, entries, found)

    def check_policy(self, layer: Layer) -> None:
        policy = layer.config.get("dtype")
        if isinstance(policy, dict):
            policy = keras_functions.mapping(policy, "config", layer.origin).get("name", policy.get("class_name"))
        if policy is not None and policy not in POLICIES:
            raise ModelFormatError(
                f"{layer.origin} has the dtype policy {str(policy)[:80]!r} but {', '.join(POLICIES)} can be read; "
                "save the model before it is quantized."
            )

    def input(self, layer: Layer) -> None:
        given = layer.config.get("batch_shape", layer.config.get("batch_input_shape"))
        if given is None and layer.kind == "Sequential":
            given = layer.config.get("build_input_shape")
        if isinstance(given, dict):  # a tuple, as some releases of Keras 2 write it
            given = given.get("items")
        if given is None:
            return
        if not isinstance(given, list) or not given or not all(size is None or _is_size(size) for size in given[1:]):
            raise ModelFormatError(
                f"{layer.origin} has the input shape {str(given)[:80]}, and should have a list of sizes."
            )
        shape = tuple(given[1:])
        if self.shape is not None and self.shape != shape:
            raise ModelFormatError(f"{layer.origin} takes examples of shape {shape} but gets {self.shape}.")
        if self.shape is None and not self.steps:
            self.shape, self.n_in = shape, _product(shape)

    def flat(self, layer: Layer) -> None:
        """Refuse a layer that works on the last axis of several."""
        if self.shape is not None and len(self.shape) != 1:
            raise ModelFormatError(f"{layer.origin} takes examples of shape {self.shape}: only flat ones can be read.")

    def nested(self, layer: Layer) -> None:
        if len(layer.names) > 20:
            raise ModelFormatError(f"{layer.origin} is in {len(layer.names)} models, one in the other: flatten them.")
        self.model(layer)

    def dense(self, layer: Layer) -> None:
        self.flat(layer)
        config = layer.config
        for option in ("lora_rank", "quantization_config"):
            if config.get(option) is not None:
                raise ModelFormatError(f"{layer.origin} has {option}, and only plain weights can be read; merge it.")
        bias = keras_functions.flag(config, "use_bias", True, layer.origin)
        arrays = self.weights.read(layer, ["kernel", "bias"] if bias else ["kernel"])
        w, b = arrays[0], arrays[1] if bias else None
        if w.ndim != 2 or w.shape[1] != config.get("units"):
            raise ModelFormatError(
                f"{layer.origin} has a kernel of shape {w.shape} but {config.get('units')} units: "
                "the description and the weights are not of the same model; save it again."
            )
        self.steps.append(Linear(layer.origin, w, b))
        self.shape = w.shape[1:]
        self.activate(layer, config.get("activation"))

    def activation(self, layer: Layer) -> None:
        self.activate(layer, layer.config.get("activation"))

    def activate(self, layer: Layer, given: Any) -> None:
        """Append what an activation does: a name, or the configuration of a function or layer."""
        if isinstance(given, dict) and given.get("class_name") != "function":
            kind = _kind(given, f"the activation of {layer.origin}")
            if kind == "PReLU":
                raise ModelFormatError(f"{layer.origin} has a PReLU as its activation: make it a layer of its own.")
        try:
            parts = keras_functions.parts(given, self.version, layer.origin)
        except ActivationError as error:
            raise ModelFormatError(f"{layer.origin} has an activation that cannot be had: {error}") from None
        for part in parts:
            if isinstance(part, float):
                self.steps.append(Scale(layer.origin, part))
            else:
                if part.rowwise:
                    self.flat(layer)
                self.steps.append(Activate(layer.origin, part))

    def prelu(self, layer: Layer) -> None:
        (alpha,) = self.weights.read(layer, ["alpha"])
        if alpha.size == 0 or not (alpha == alpha.flat[0]).all():
            raise ModelFormatError(
                f"{layer.origin} has {alpha.size} slopes that differ, and only one for all can be read: "
                "give it shared_axes=[1], or use LeakyReLU."
            )
        self.activate(layer, {"class_name": "LeakyReLU", "config": {"negative_slope": float(alpha.flat[0])}})

    def batch_normalization(self, layer: Layer) -> None:
        self.flat(layer)
        config = layer.config
        self.check_axis(layer, (-1, 1))
        names = ["gamma"] if keras_functions.flag(config, "scale", True, layer.origin) else []
        names += ["beta"] if keras_functions.flag(config, "center", True, layer.origin) else []
        names += ["moving_mean", "moving_variance"]
        unread = 3 if config.get("renorm") else 0  # of training
        read = zip(names, self.weights.read(layer, names, unread), strict=True)
        arrays = {name: array.astype(np.float64) for name, array in read}
        epsilon = keras_functions.number(config, "epsilon", BATCH_NORM_EPSILON, layer.origin)
        if len({array.shape for array in arrays.values()}) > 1 or arrays["moving_mean"].ndim != 1:
            shapes = ", ".join(str(array.shape) for array in arrays.values())
            raise ModelFormatError(
                f"{layer.origin} has weights of shapes {shapes}, and should have rows of one length."
            )
        variance = self.variance(layer, arrays["moving_variance"] + epsilon)
        scale = arrays.get("gamma", 1.0) / np.sqrt(variance)
        self.scale(layer, scale, arrays.get("beta", 0.0) - arrays["moving_mean"] * scale)

    def normalization(self, layer: Layer) -> None:
        config = layer.config
        self.check_axis(layer, (-1, 1, None))
        if config.get("mean") is None:
            read = self.weights.read(layer, ["mean", "variance"], 1)  # and how many examples there were
            mean, variance = (array.astype(np.float64) for array in read)
        else:
            mean = keras_functions.numbers(config, "mean", 0.0, layer.origin)
            variance = keras_functions.numbers(config, "variance", 1.0, layer.origin)
        if mean.shape != variance.shape:
            raise ModelFormatError(f"{layer.origin} has means of shape {mean.shape} but variances of {variance.shape}.")
        deviation = np.maximum(np.sqrt(self.variance(layer, variance)), NORMALIZATION_EPSILON)
        if keras_functions.flag(config, "invert", False, layer.origin):
            self.scale(layer, deviation, mean)
        else:
            self.scale(layer, 1 / deviation, -mean / deviation)

    def rescaling(self, layer: Layer) -> None:
        scale = keras_functions.numbers(layer.config, "scale", 1.0, layer.origin)
        self.scale(layer, scale, keras_functions.numbers(layer.config, "offset", 0.0, layer.origin))

    def scale(self, layer: Layer, scale: NDArray[Any], shift: NDArray[Any]) -> None:
        if np.ndim(scale) or np.ndim(shift):
            self.flat(layer)
        self.steps.append(Scale(layer.origin, scale, shift))

    def variance(self, layer: Layer, variance: NDArray[Any]) -> NDArray[Any]:
        if (variance < 0).any():
            raise ModelFormatError(f"{layer.origin} has a negative variance; save the model again.")
        return variance

    def check_axis(self, layer: Layer, supported: tuple[int | None, ...]) -> None:
        axis = layer.config.get("axis", -1)
        if isinstance(axis, list) and len(axis) <= 1:
            axis = axis[0] if axis else None
        if axis not in supported:
            raise ModelFormatError(
                f"{layer.origin} is along axis {str(axis)[:80]}, and only that of features can be read."
            )

    def flatten(self, layer: Layer) -> None:
        if self.shape is not None and len(self.shape) > 1 and layer.config.get("data_format") == "channels_first":
            raise ModelFormatError(f"{layer.origin} moves channels to the end: only channels_last can be read.")
        if self.shape is not None:
            self.shape = (_product(self.shape),)

    def reshape(self, layer: Layer) -> None:
        target = layer.config.get("target_shape")
        sizes = [-1 if size is None else size for size in target] if isinstance(target, list) else []
        if not sizes or not all(size == -1 or _is_size(size) for size in sizes) or sizes.count(-1) > 1:
            raise ModelFormatError(f"{layer.origin} has the target shape {str(target)[:80]}, which cannot be read.")
        total = None if self.shape is None else _product(self.shape)
        known = -math.prod(sizes) if -1 in sizes else math.prod(sizes)
        if total is not None and (total % max(known, 1) if -1 in sizes else total != known):
            raise ModelFormatError(f"{layer.origin} makes {target} of examples of shape {self.shape}, which cannot be.")
        rest = None if total is None or not known else total // known
        self.shape = tuple(rest if size == -1 else size for size in sizes)

    KINDS = {  # noqa: RUF012
        "Activation": activation,
        "BatchNormalization": batch_normalization,
        "Dense": dense,
        "Flatten": flatten,
        "Functional": nested,
        "InputLayer": input,
        "Model": nested,
        "Normalization": normalization,
        "PReLU": prelu,
        "Rescaling": rescaling,
        "Reshape": reshape,
        "Sequential": nested,
    }


def _is_size(size: Any) -> bool:
    return isinstance(size, int) and not isinstance(size, bool) and 0 < size < MAX_SIZE


def _product(shape: tuple[int | None, ...]) -> int | None:
    return None if None in shape else math.prod(shape)  # type: ignore[arg-type]
