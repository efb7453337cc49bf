"""Activations as exporters take them apart, and the steps that they are."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from numbadense.io.onnx.expressions import Sum, X, atom, close, matches, number, plus, power, scaled, times

__all__ = ["recognise"]

THRESHOLD = 20.0  # from here on softplus(x) is x in float32; PyTorch says so of float64 too

Part = Any  # a (scale, shift) pair, the name of an activation, or the name and parameters of a member of a family


def _letter(letter: str, found: Sum = X) -> Sum:
    """Return any number times a product."""
    return frozenset((product, letter) for product, _ in found)


def _where(condition: Sum, yes: Sum, no: Sum) -> Sum:
    return atom("Where", condition, yes, no)


def _about(name: str) -> Callable[..., list[Part] | None]:
    """Return what makes the parts of ``f(beta x) / beta``."""

    def parts(beta: float, inverse: float | None = None, t: float = math.inf) -> list[Part] | None:
        if beta == 0 or not (inverse is None or close(1.0, beta * inverse)) or not t >= THRESHOLD:
            return None
        return [name] if beta == 1 else [(beta, 0.0), name, (1 / beta, 0.0)]

    return parts


def _only(*parts: Part) -> Callable[..., list[Part] | None]:
    return lambda: list(parts)


def _shrink(lambd: float, minus: float) -> list[Part]:
    return [("shrink", lambd, 0.0 - minus)]


def _both_sides(lambd: float, minus: float, low: float | None = None, high: float | None = None) -> list[Part] | None:
    """Return soft shrinkage of two halves, or without what is taken from each, hard shrinkage."""
    bias = 0.0 if low is None else lambd
    same = close(lambd, -minus) and (low is None or (close(lambd, low) and high is not None and close(lambd, -high)))
    return [("shrink", lambd, bias)] if same else None


def _bounded(slope: float, below: float, t: float, high: float) -> list[Part] | None:
    return [("bounded_relu", slope, t, high)] if close(below, -slope * t) else None


def _gelu_tanh() -> Sum:
    cubic = scaled(power(X, number(3.0)), 0.044715)
    return times(X, plus(number(0.5), scaled(atom("Tanh", scaled(plus(X, cubic), math.sqrt(2 / math.pi))), 0.5)))


_T, _LAMBD, _ZERO, _ABS = number("t"), number("lambd"), number(0.0), atom("Abs", X)
_NEARER = plus(X, _letter("minus", atom("Sign", X)))
_AT_LEAST = atom("Greater", X, _LAMBD)
_AT_MOST = atom("Greater", number("minus"), X)

# Letters are parameters of the function beside the pattern, which says no by None.
PATTERNS: list[tuple[Sum, Callable[..., list[Part] | None]]] = [
    (times(X, atom("Sigmoid", _letter("beta"))), _about("silu")),
    (times(X, plus(number(0.5), scaled(atom("Erf", scaled(X, math.sqrt(0.5))), 0.5))), _only("gelu")),
    (_gelu_tanh(), _only("gelu_tanh")),
    (times(X, atom("Tanh", atom("Softplus", X))), _only("mish")),
    (times(X, atom("Reciprocal", plus(_ABS, number(1.0)))), _only("softsign")),
    (times(X, atom("Clip", plus(scaled(X, 1 / 6), number(0.5)), _ZERO, number(1.0))), _only("hard_swish")),
    (scaled(times(X, atom("Clip", plus(X, number(3.0)), _ZERO, number(6.0))), 1 / 6), _only("hard_swish")),
    (
        _where(atom("Greater", _letter("beta"), _T), X, _letter("inverse", atom("Softplus", _letter("beta")))),
        _about("softplus"),
    ),
    (
        _where(atom("Greater", _ZERO, X), _letter("slope"), X),
        lambda slope: ["relu"] if slope == 0 else [("leaky_relu", slope)],
    ),
    (_where(atom("GreaterOrEqual", _T, X), number("v"), X), lambda t, v: [("threshold", t, v)]),
    (_where(atom("GreaterOrEqual", _LAMBD, _ABS), _ZERO, _NEARER), _shrink),
    (_where(atom("Greater", _ABS, _LAMBD), _NEARER, _ZERO), _shrink),
    (_where(atom("Or", _AT_LEAST, _AT_MOST), X, _ZERO), _both_sides),
    (
        plus(
            _where(_AT_LEAST, plus(X, number("high")), _ZERO),
            _where(_AT_MOST, plus(X, number("low")), _ZERO),
        ),
        _both_sides,
    ),
    (
        _where(atom("Greater", _T, X), plus(_letter("slope"), number("below")), atom("Min", X, number("high"))),
        _bounded,
    ),
]


def recognise(found: Sum) -> list[Part] | None:
    """Return the parts that make up what was found, which may be a multiple of a pattern."""
    for pattern, parts in PATTERNS:
        _, first = next(iter(pattern))
        for factor in {factor / first for _, factor in found}:
            if factor == 0 or not math.isfinite(factor) or not math.isfinite(1 / factor):
                continue
            if close(1.0, factor):
                factor = 1.0
            for letters in matches(pattern, scaled(found, 1 / factor)):
                made = parts(**letters)
                if made is not None:
                    return made if factor == 1 else [*made, (factor, 0.0)]
    return None
