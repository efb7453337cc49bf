"""Trees of weights: mappings of arrays by name, as Flax, Haiku and PyTorch keep them, and files of such names.

What a weight is, its name says::

    params/Dense_0/kernel   Flax     (n_in, n_out)
    mlp/~/linear_0/w        Haiku    (n_in, n_out)
    layers/0/weight         PyTorch  (n_out, n_in), and Equinox

The order of the layers follows from the numbers in their names, or from the only way in which their shapes fit.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from numbadense.errors import ModelFormatError, OptionError
from numbadense.io import chain, leaves
from numbadense.io.chain import Activate, Linear, Step

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from numbadense import model

OPTIONS = ("activations",)
WEIGHTS = {"kernel": False, "w": False, "weight": True}  # whether a row of it is a neuron
BIASES = ("b", "bias")
KNOWN = {
    **dict.fromkeys(("scale", "offset"), "of a normalisation"),
    **dict.fromkeys(
        ("mean", "var", "running_mean", "running_var", "num_batches_tracked"),
        "of a batch normalisation, whose epsilon is not among the weights (pass an nn.Sequential of PyTorch itself)",
    ),
    **dict.fromkeys(("embedding", "embeddings"), "of an embedding"),
    **dict.fromkeys(("key", "count"), "the state of random numbers: from Flax, pass nnx.state(model, nnx.Param)"),
    **dict.fromkeys(("original0", "original1", "weight_g", "weight_v", "weight_orig"), "of a parametrised weight"),
}
DEEPEST = 32  # mappings in mappings
MOST_UNNUMBERED = 32  # layers whose order is looked for
MOST_STEPS = 10_000


@dataclass
class Found:
    """A dense layer of a tree: the names of its weights and biases."""

    name: str
    weights: str = ""
    biases: str = ""
    key: tuple[tuple[str, int], ...] = field(default=(), repr=False)


def recognises(source: Any) -> bool:
    """Say whether `source` is a mapping, or a list of mappings."""
    if isinstance(source, Mapping):
        return True
    return isinstance(source, list | tuple) and bool(source) and all(isinstance(part, Mapping) for part in source)


def read(tree: Any, dtype: str | None = None, activations: Sequence[Any] | None = None) -> model.Sequential:
    """Make a network of a tree."""
    said = f"the {type(tree).__name__}"
    found = dict(_flat(tree, ()))
    layers = groups(said, found)
    kept = list(found) != sorted(found) or any(map(leaves.of_torch, found.values()))  # JAX sorts what it maps over
    return build(said, layers, found, activations, dtype, kept)


def _flat(tree: Any, path: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
    """Yield the leaves of a tree, by the path to them."""
    if tree is None:
        return
    if len(path) > DEEPEST:
        raise ModelFormatError(f"{'/'.join(path[:4])}/... is more than {DEEPEST} deep; pass the parameters alone.")
    if isinstance(tree, Mapping):
        for name, part in tree.items():
            yield from _flat(part, (*path, str(name)))
    elif isinstance(tree, list | tuple):
        for index, part in enumerate(tree):
            yield from _flat(part, (*path, str(index)))
    else:
        yield "/".join(path), tree


def groups(said: str, names: Iterable[str]) -> list[Found]:
    """Return the dense layers that the names of weights speak of, in the order of the names.

    Raises
    ------
    ModelFormatError
        If a name is not that of the weights or biases of a dense layer.
    """
    layers: dict[str, Found] = {}
    for name in names:
        parts = re.split(r"[/.]", name)
        leaf = parts[-1]
        if leaf not in WEIGHTS and leaf not in BIASES:
            why = KNOWN.get(leaf, "not the name of weights or biases")
            raise ModelFormatError(
                f"{said} has {name}, which is {why}: supported are dense layers, whose weights are called "
                f"{', '.join(WEIGHTS)} and whose biases {', '.join(BIASES)}."
            )
        layer = layers.setdefault(name[: -len(leaf)], Found(name[: -len(leaf) - 1] or "the layer"))
        kind = "weights" if leaf in WEIGHTS else "biases"
        if getattr(layer, kind):
            raise ModelFormatError(f"{said} has {getattr(layer, kind)} and {name}, but a layer has one of them.")
        setattr(layer, kind, name)
        layer.key = tuple(map(_numbered, parts[:-1]))
    if not layers:
        raise ModelFormatError(f"{said} holds no weights; pass the parameters of a network.")
    for layer in layers.values():
        if not layer.weights:
            raise ModelFormatError(f"{said} has {layer.biases} but no weights beside it: it is not of a dense layer.")
    return list(layers.values())


def _numbered(part: str) -> tuple[str, int]:
    """Return what stands before the number at the end, or -1: ``linear`` is before ``linear_1``."""
    stem, digits = re.fullmatch(r"(.*?)_?([0-9]{0,18})", part, re.DOTALL).groups()  # type: ignore[union-attr]
    return stem, int(digits or -1)


def build(
    said: str,
    layers: list[Found],
    arrays: Mapping[str, Any],
    activations: Sequence[Any] | None,
    dtype: str | None,
    kept: bool,
    metadata: Mapping[str, str] | None = None,
) -> model.Sequential:
    """Make a network of the layers found; `kept` says whether they are in the order in which they were made."""
    w = {layer.name: _weights(said, layer.weights, arrays[layer.weights]) for layer in layers}
    layers = _ordered(said, layers, w, kept)
    steps: list[Step] = []
    for layer, activation in zip(layers, each(said, activations, [layer.name for layer in layers]), strict=True):
        biases = leaves.array(arrays[layer.biases], f"{said} has {layer.biases}, which") if layer.biases else None
        origin = f"layer {layer.name}"
        steps += [Linear(origin, w[layer.name], biases), Activate(origin, activation)]
    return chain.build(steps, dtype=dtype, metadata=metadata)


def each(said: str, activations: Sequence[Any] | None, names: Sequence[str]) -> list[Any]:
    """Return the activations, if there is one for each of the layers of these names."""
    count = len(names)
    example = ["relu"] * (count - 1) + [None] if count <= 4 else "['relu', ..., None]"
    remedy = f"pass activations={example}, for example, with None for none."
    shown = ", ".join(names if count <= 8 else [*names[:7], "...", names[-1]])
    have = f"{said} has {count} dense layer{'s' * (count != 1)} ({shown})"
    if activations is None:
        raise ModelFormatError(f"{have} and does not say their activations; {remedy}")
    if isinstance(activations, str) or not isinstance(activations, Sequence):
        raise OptionError(f"{have} but activations is {activations!r}, which is no list with one for each; {remedy}")
    if len(activations) != count:
        raise OptionError(f"{have} but activations has {len(activations)}: {list(activations)!r}; {remedy}")
    return list(activations)


def _weights(said: str, name: str, value: Any) -> NDArray[Any]:
    array = leaves.array(value, f"{said} has {name}, which")
    if array.ndim != 2:
        raise ModelFormatError(
            f"{said} has {name} of shape {array.shape}, but the weights of a dense layer have 2 dimensions: "
            "normalisations, convolutions and attention are not supported."
        )
    return array.T if WEIGHTS[re.split(r"[/.]", name)[-1]] else array


def _before(one: Found, other: Found) -> bool:
    """Say whether the numbers in their names put a layer before another."""
    for (stem, number), (other_stem, other_number) in zip(one.key, other.key, strict=False):
        if (stem, number) != (other_stem, other_number):
            return stem == other_stem and number < other_number
    return False


def _ordered(said: str, layers: list[Found], w: Mapping[str, NDArray[Any]], kept: bool) -> list[Found]:
    """Return the layers in the order in which a row meets them."""
    by_number = sorted(layers, key=lambda layer: layer.key)
    if all(map(_before, by_number, by_number[1:])):
        return by_number
    fits = _fits(layers, w) if len(layers) <= MOST_UNNUMBERED else []
    if len(fits) > 1 and kept and _fit(layers, w):
        return layers
    if len(fits) == 1:
        return fits[0]
    shapes = ", ".join(f"{layer.name} {w[layer.name].shape}" for layer in layers[:8])
    why = "and their shapes fit in several orders" if fits else "and no order was found in which their shapes fit"
    raise ModelFormatError(
        f"{said} has layers whose names do not say their order, {why}: {shapes}{', ...' * (len(layers) > 8)}; pass a "
        "list of them in order, such as [params['first'], params['second']]."
    )


def _fit(layers: list[Found], w: Mapping[str, NDArray[Any]]) -> bool:
    """Say whether an order is right as far as shapes and numbers tell."""
    pairs = itertools.pairwise(layers)
    chained = all(w[one.name].shape[1] == w[other.name].shape[0] for one, other in pairs)
    return chained and not any(_before(later, one) for i, one in enumerate(layers) for later in layers[i + 1 :])


def _fits(layers: list[Found], w: Mapping[str, NDArray[Any]]) -> list[list[Found]]:
    """Return the orders in which the shapes fit and numbers ascend: all if they are no more than one, or else two."""
    found: list[list[Found]] = []
    steps = 0

    def extend(chosen: list[Found], rest: list[Found]) -> None:
        nonlocal steps
        if not rest:
            found.append(chosen)
        for layer in rest:
            steps += 1
            if len(found) > 1 or steps > MOST_STEPS:
                return
            fits = not chosen or w[chosen[-1].name].shape[1] == w[layer.name].shape[0]
            if fits and not any(_before(other, layer) for other in rest):
                extend([*chosen, layer], [other for other in rest if other is not layer])

    extend([], layers)
    return found if steps <= MOST_STEPS else []
