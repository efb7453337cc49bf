"""PyTorch modules: an ``nn.Sequential`` and what is in it, read as in ``module.eval()``; PyTorch is not imported.

A module is known by the classes it is of: the first that is PyTorch's own says what the module does, if the module's
class runs that ``forward`` and not one of its own.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from inspect import getattr_static
from typing import TYPE_CHECKING, Any

import numpy as np

from numbadense.errors import ModelFormatError
from numbadense.io import chain, leaves
from numbadense.io.chain import Activate, Linear, Scale, Step

if TYPE_CHECKING:
    from numbadense.model import Sequential

OPTIONS: tuple[str, ...] = ()
FORWARDS = ("forward", "__call__", "__iter__", "__getattr__")  # what a class that does something else has of its own
MODULES = "torch.nn.modules."
SOFTPLUS_THRESHOLD = 20.0
DEEPEST = 64  # modules in modules


def recognises(source: Any) -> bool:
    """Say whether `source` is a module of PyTorch, of any kind."""
    bases = type(source).__mro__
    return any(base.__module__ == "torch.nn.modules.module" and base.__name__ == "Module" for base in bases)


def read(module: Any, dtype: str | None = None) -> Sequential:
    """Make a network of a module."""
    steps = list(_steps(module, ""))
    version = getattr(sys.modules.get("torch"), "__version__", None)
    metadata = None if version is None else {"source": f"torch {version}"}
    return chain.build(steps, n_in=_features(steps), dtype=dtype, metadata=metadata)


def _features(steps: list[Step]) -> int | None:
    """Return the features that the first step to say so takes: those before it go by element."""
    for step in steps:
        if isinstance(step, Linear) and step.w.ndim == 2:
            return int(step.w.shape[0])
        if isinstance(step, Scale) and np.ndim(step.scale) == 1:
            return int(np.size(step.scale))
    return None


def _steps(module: Any, path: str) -> Iterator[Step]:
    kind = _kind(module, path)
    origin = f"layer {path} ({kind})" if path else f"the module ({kind})"
    _check_plain(module, origin)
    if kind == "Sequential":
        for name, child in module._modules.items():
            yield from _steps(child, f"{path}.{name}" if path else name)
    elif kind not in DROPPED:
        yield from KINDS[kind](module, origin)


def _kind(module: Any, path: str) -> str:
    """Return the name of PyTorch's class whose forward the module runs."""
    cls = type(module)
    full = f"{cls.__module__}.{cls.__name__}"
    name = cls.__name__ if full.startswith(MODULES) else full
    said = f"layer {path} ({name})" if path else f"the module, a {full},"
    if path.count(".") > DEEPEST:
        raise ModelFormatError(f"layer {path[:9]}... is more than {DEEPEST} deep in others; pass the inner one.")
    for base in cls.__mro__:
        if str(base.__module__).startswith(MODULES) and base.__name__ in SUPPORTED:
            own = [name for name in FORWARDS if getattr_static(cls, name, None) is not getattr_static(base, name, None)]
            if own or "forward" in vars(module):
                raise ModelFormatError(
                    f"{said} is a {base.__name__} with a {(own or FORWARDS)[0]} of its own, which cannot be read; "
                    f"replace it by torch.nn.{base.__name__} if that does the same."
                )
            return base.__name__
    inner = [name for name, child in getattr(module, "_modules", {}).items() if _is_sequential(child)]
    if inner:
        raise ModelFormatError(
            f"{said} runs code of its own, which cannot be read; if that does nothing but call its "
            f"nn.Sequential, pass module.{(path + '.' if path else '') + inner[0]}."
        )
    remedy = " Put the modules in torch.nn.Sequential, in the order of the calls." if not path else ""
    raise ModelFormatError(f"{said} is not supported: supported are {', '.join(SUPPORTED)}.{remedy}")


def _is_sequential(module: Any) -> bool:
    bases = type(module).__mro__
    return any(base.__module__ == "torch.nn.modules.container" and base.__name__ == "Sequential" for base in bases)


def _check_plain(module: Any, origin: str) -> None:
    """Refuse what changes the weights, the input or the output of a module from outside."""
    if "parametrizations" in module._modules:
        raise ModelFormatError(
            f"{origin} has parametrizations of {', '.join(module._modules['parametrizations']._modules)}; make them "
            "plain with torch.nn.utils.parametrize.remove_parametrizations(module, name)."
        )
    if hasattr(module, "_infer_parameters"):
        raise ModelFormatError(f"{origin} is lazy and has no shape yet; call the module once, and load it then.")
    hooks = [*module._forward_pre_hooks.values(), *module._forward_hooks.values()]
    if hooks:
        name = getattr(hooks[0], "__qualname__", type(hooks[0]).__name__)
        raise ModelFormatError(
            f"{origin} has a hook, {name}, that runs with it and cannot be read; remove it: by its handle.remove(), "
            "torch.nn.utils.remove_weight_norm, remove_spectral_norm, or torch.nn.utils.prune.remove."
        )


def _linear(module: Any, origin: str) -> Iterator[Step]:
    weight = leaves.array(module.weight, f"weight of {origin}")
    bias = None if module.bias is None else leaves.array(module.bias, f"bias of {origin}")
    yield Linear(origin, weight.T, bias)


def _batch_norm(module: Any, origin: str) -> Iterator[Step]:
    if module.running_mean is None or module.running_var is None:
        raise ModelFormatError(
            f"{origin} keeps no running statistics (track_running_stats=False) and so takes those of each batch, which "
            "makes a row depend on others; train it with track_running_stats=True."
        )
    mean, variance = (
        leaves.array(getattr(module, name), f"{name} of {origin}").astype(np.float64)
        for name in ("running_mean", "running_var")
    )
    with np.errstate(all="ignore"):
        scale = 1 / np.sqrt(variance + float(module.eps))
        if module.weight is not None:
            scale = leaves.array(module.weight, f"weight of {origin}").astype(np.float64) * scale
        shift = -mean * scale
    if module.bias is not None:
        shift = shift + leaves.array(module.bias, f"bias of {origin}")
    yield Scale(origin, scale, shift)


def _flatten(module: Any, origin: str) -> Iterator[Step]:
    if (module.start_dim, module.end_dim) not in ((1, -1), (1, 1)):
        raise ModelFormatError(
            f"{origin} flattens dimensions {module.start_dim} to {module.end_dim}, which are not those of one row; "
            "only torch.nn.Flatten() can be read."
        )
    yield from ()


def _prelu(module: Any, origin: str) -> Iterator[Step]:
    slopes = np.unique(leaves.array(module.weight, f"weight of {origin}"))
    if slopes.size != 1:
        raise ModelFormatError(
            f"{origin} has {slopes.size} different slopes, one for each feature; only one slope for all can be read: "
            "train torch.nn.PReLU()."
        )
    yield Activate(origin, f"leaky_relu({float(slopes[0])!r})")


def _leaky(slope: float, origin: str) -> Iterator[Step]:
    yield Activate(origin, "leaky_relu" if slope == 0.01 else f"leaky_relu({slope!r})")


def _elu(module: Any, origin: str) -> Iterator[Step]:
    alpha = float(module.alpha)
    yield Activate(origin, "elu" if alpha == 1 else f"elu({alpha!r})")


def _gelu(module: Any, origin: str) -> Iterator[Step]:
    yield Activate(origin, {"none": "gelu", "tanh": "gelu_tanh"}.get(module.approximate, module.approximate))


def _softplus(module: Any, origin: str) -> Iterator[Step]:
    """``log1p(exp(beta x)) / beta``, everywhere: PyTorch goes over to x beyond `threshold`, with a step there."""
    beta, threshold = float(module.beta), float(module.threshold)
    if not beta > 0:
        raise ModelFormatError(f"{origin} has beta={beta} but it must be positive.")
    if threshold < SOFTPLUS_THRESHOLD:
        raise ModelFormatError(
            f"{origin} has threshold={threshold}, beyond which it is x, with a step of "
            f"{np.log1p(np.exp(-threshold)) / beta:.1g} there; only thresholds from {SOFTPLUS_THRESHOLD:g} can be read."
        )
    yield from _scaled(origin, beta, "softplus", 1 / beta)


def log_sigmoid(origin: str) -> Iterator[Step]:
    """``log(sigmoid(x)) = -softplus(-x)``."""
    yield from _scaled(origin, -1.0, "softplus", -1.0)


def _scaled(origin: str, before: float, activation: str, after: float) -> Iterator[Step]:
    if before != 1:
        yield Scale(origin, before)
    yield Activate(origin, activation)
    if after != 1:
        yield Scale(origin, after)


def _over_features(activation: str, sign: float = 1.0) -> Callable[[Any, str], Iterator[Step]]:
    def steps(module: Any, origin: str) -> Iterator[Step]:
        if module.dim not in (-1, 1, None):  # None: PyTorch takes the second dimension of two
            raise ModelFormatError(
                f"{origin} goes over dimension {module.dim} but rows are normalised over their features; pass dim=-1."
            )
        yield from _scaled(origin, sign, activation, 1.0)

    return steps


def _plain(activation: str) -> Callable[[Any, str], Iterator[Step]]:
    return lambda module, origin: iter([Activate(origin, activation)])


def _family(name: str, *parameters: str) -> Callable[[Any, str], Iterator[Step]]:
    def steps(module: Any, origin: str) -> Iterator[Step]:
        values = ", ".join(repr(float(getattr(module, parameter))) for parameter in parameters)
        yield Activate(origin, f"{name}({values})")

    return steps


DROPPED = ("AlphaDropout", "Dropout", "Dropout1d", "FeatureAlphaDropout", "Identity")
KINDS: dict[str, Callable[[Any, str], Iterator[Step]]] = {
    "BatchNorm1d": _batch_norm,
    "CELU": _family("celu", "alpha"),
    "ELU": _elu,
    "Flatten": _flatten,
    "GELU": _gelu,
    "Hardshrink": lambda module, origin: iter([Activate(origin, f"shrink({float(module.lambd)!r}, 0.0)")]),
    "Hardsigmoid": _plain("hard_sigmoid"),
    "Hardswish": _plain("hard_swish"),
    "Hardtanh": _family("clip", "min_val", "max_val"),
    "LeakyReLU": lambda module, origin: _leaky(float(module.negative_slope), origin),
    "Linear": _linear,
    "LogSigmoid": lambda module, origin: log_sigmoid(origin),
    "LogSoftmax": _over_features("log_softmax"),
    "Mish": _plain("mish"),
    "PReLU": _prelu,
    "RReLU": lambda module, origin: _leaky((float(module.lower) + float(module.upper)) / 2, origin),
    "ReLU": _plain("relu"),
    "ReLU6": _plain("clip(0.0, 6.0)"),
    "SELU": _plain("selu"),
    "SiLU": _plain("silu"),
    "Sigmoid": _plain("sigmoid"),
    "Softmax": _over_features("softmax"),
    "Softmin": _over_features("softmax", -1.0),
    "Softplus": _softplus,
    "Softshrink": _family("shrink", "lambd", "lambd"),
    "Softsign": _plain("softsign"),
    "Tanh": _plain("tanh"),
    "Threshold": _family("threshold", "threshold", "value"),
}
SUPPORTED = ("Sequential", *sorted([*DROPPED, *KINDS]))
