r"""Every activation, once: its formula as scalar Python, and its facts.

This is the place to add one.  From an entry come ``nd.<name>``, the name that :func:`numbadense.dense` accepts, the CPU
and CUDA passes, the rows of the documentation and a set of tests per dtype.

The scalar language
-------------------
An element-wise function takes one number and returns one of the same type.  It may use assignments, ``if``, ``return``,
conditional expressions, arithmetic, comparisons, ``abs`` and the words of :mod:`numbadense.scalar_math`.  Every literal
is cast with ``T = type(x)``: without it float32 work silently becomes float64 on a compiled target.  Prefer a
conditional expression to a branch: it compiles to a vector blend.  A NaN must come out as NaN, so the comparison has to
fail towards ``x``: ``T(0) if x < T(0) else x``.

A derivative is such a function too, of the same x: with all its digits in the tails, no NaN at infinity, and at a kink
the value of PyTorch's automatic differentiation, which is that of one side or 0.  That of a row-wise function takes a
row of its results and a tangent of its argument, and changes the tangent in place into that of the results.

A row-wise function takes one row, a 1-D array, and changes it in place with plain loops.  (The CPU runs softmax and
log_softmax many rows at a time instead: ``numbadense/_engine/cpu/softmax.py``, which the same tests hold to them.)

Families
--------
A family is a function of parameters that returns such a function: the scalar language, closed over numbers.  Its
members answer to names with the parameters in them, wherever an activation is named: ``"leaky_relu(0.2)"``,
``"clip(0, 6)"``.
"""

import ast
import difflib
import functools
import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from .errors import ActivationError
from .scalar_math import (
    WORDS,
    exp,
    expm1,
    fma,
    log1p,
    logistic,
    logistic_high,
    scaled_exp,
    scaled_logistic,
    tanh,
    tanh_high,
    weighted_tail,
)

__all__ = ["FAMILIES", "HIGH", "REGISTRY", "Activation", "Family", "activation", "get", "member", "names"]


@dataclass(frozen=True, eq=False, repr=False)
class Activation:
    r"""An activation function and its facts.

    Attributes
    ----------
    name : str
        The canonical name.
    function : function
        The plain Python function, ``f(x) -> value`` on scalars, or ``f(row)`` in place when `rowwise`.
    rowwise : bool
        Whether it needs a whole row at a time.
    exact : callable or None
        The textbook formula ``exact(m, x)`` in the arithmetic of a module ``m``: :mod:`math`, or mpmath in the tests.
        If `rowwise`, `x` is a list and so is the value.
    tex : str
        The formula as LaTeX.
    limits : tuple of float
        Its values at minus and plus infinity.
    lipschitz : float
        The supremum of ``|f'|``; the maximum norm is meant when `rowwise`.
    max_ulp : dict of str to float
        The largest error seen on the CPU, in units in the last place of the result, by dtype name.
    aliases : tuple of str
        Other names it answers to.
    high : str or None
        The name of its twin of high accuracy, which ``get(name, accuracy="high")`` returns.
    derivative : function or None
        The derivative in the scalar language, ``f'(x)``; or when `rowwise` ``differential(y, dy)``, which turns the
        tangent dy of a row in place into that of its result y.
    """

    name: str
    function: Callable[..., Any]
    rowwise: bool
    exact: Callable[..., Any] | None
    tex: str
    limits: tuple[float, float]
    lipschitz: float
    max_ulp: dict[str, float]
    aliases: tuple[str, ...]
    high: str | None = None
    derivative: Callable[..., Any] | None = None

    def __post_init__(self) -> None:
        """Take over the function's docstring."""
        object.__setattr__(self, "__doc__", self.function.__doc__)

    def __call__(self, x: Any) -> Any:
        """Evaluate the Python function itself, on one number or in place on one row."""
        return self.function(x)

    def __repr__(self) -> str:
        """Return its kind and name."""
        return f"<activation {self.name}>"

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle by name: the receiving process has registered the same."""
        return get, (self.name,)


HIGH = 1.05
"""The largest error of an activation of high accuracy, in units in the last place."""

REGISTRY: dict[str, Activation] = {}
"""Every activation by its canonical name, in order of registration."""

FAMILIES: dict[str, "Family"] = {}
"""Every family of activations by its name."""

_NAMES: dict[str, Activation] = {}  # canonical names and aliases


def names() -> list[str]:
    """Return the canonical names, sorted."""
    return sorted(REGISTRY)


@dataclass(frozen=True, eq=False, repr=False)
class Family:
    """Activations that differ in parameters alone.

    Attributes
    ----------
    name : str
        What the names of its members begin with.
    make : function
        Given the parameters, it returns the scalar function of a member, its derivative, and its facts: see
        `Activation`.  It raises ValueError for parameters that make no sense.
    parameters : tuple of str
        What they are called, in order.
    """

    name: str
    make: Callable[..., tuple[Callable[..., Any], Callable[..., Any], dict[str, Any]]]
    parameters: tuple[str, ...]

    @property
    def call(self) -> str:
        """Its name and parameters."""
        return f"{self.name}({', '.join(self.parameters)})"

    def __repr__(self) -> str:
        """Return its name and parameters."""
        return f"<family {self.call}>"


def member(family: str, *values: float, **parameters: float) -> Activation:
    """Return a member of a family of activations.

    Parameters
    ----------
    family : str
        The family's name, a key of `FAMILIES`.
    *values, **parameters : float
        All parameters of the family, by position or by name: finite numbers.

    Returns
    -------
    Activation
        The same object each time; its name is such as ``"leaky_relu(alpha=0.2)"``, by which :func:`get` finds it.

    Raises
    ------
    ActivationError
        If there is no such family, or the parameters do not suit it.

    Examples
    --------
    >>> from numbadense import activations
    >>> activations.member("clip", 0, 6)
    <activation clip(low=0.0, high=6.0)>
    >>> activations.get("leaky_relu(0.2)")(-3.0)
    -0.6000000000000001
    """
    found = FAMILIES.get(family)
    if found is None:
        raise ActivationError(f"no family of activations is called {family!r}: known are {', '.join(FAMILIES)}.")
    try:
        bound = inspect.signature(found.make).bind(*values, **parameters)
        numbers = {name: float(value) for name, value in bound.arguments.items()}
        if not all(map(math.isfinite, numbers.values())):
            raise ValueError("a parameter is not finite")
        return _member(found, tuple(numbers.values()))
    except (TypeError, ValueError, OverflowError) as error:
        if isinstance(error, ActivationError):
            raise
        given = ", ".join([*map(repr, values), *(f"{name}={value!r}" for name, value in parameters.items())])
        raise ActivationError(f"activation {family}({given}) cannot be had, {error}: it is {found.call}.") from None


@functools.cache
def _member(family, numbers):
    function, derivative, facts = family.make(*numbers)
    name = f"{family.name}({', '.join(f'{p}={v!r}' for p, v in zip(family.parameters, numbers, strict=True))})"
    function.__doc__ = inspect.getdoc(family.make)
    return Activation(name=name, function=function, derivative=derivative, rowwise=False, aliases=(), **facts)


def get(spec: Any, accuracy: str | None = None) -> Activation:
    """Find an activation.

    Parameters
    ----------
    spec : None, str, Activation, or a public function such as ``numbadense.sigmoid``
        None means identity.
    accuracy : "high", optional
        Its twin of high accuracy, within 1.05 units in the last place on a CPU with FMA, at two to three times the
        time; itself if it is as good as that.

    Returns
    -------
    Activation

    Raises
    ------
    ActivationError
        If nothing of that name is registered, or `spec` is something else, or there is no twin.

    Examples
    --------
    >>> from numbadense import activations
    >>> activations.get("sigmoid", accuracy="high")
    <activation sigmoid_high>
    """
    found = _find(spec)
    if accuracy is None:
        return found
    if accuracy != "high":
        raise ActivationError(f'accuracy is {accuracy!r} but must be "high", or left out.')
    if max(found.max_ulp.values(), default=math.inf) <= HIGH:
        return found
    if found.high is None:
        twins = ", ".join(name for name, entry in REGISTRY.items() if entry.high)
        raise ActivationError(
            f"activation {found.name!r} has no twin of high accuracy: those that do are {twins}. Leave accuracy out."
        )
    return REGISTRY[found.high]


def _find(spec: Any) -> Activation:
    if spec is None:
        return REGISTRY["identity"]
    if isinstance(spec, str):
        return _named(spec)
    found = getattr(spec, "activation", spec)
    if isinstance(found, Activation):
        return found
    raise ActivationError(
        f"activation is {spec!r}, of type {type(spec).__name__}, and must be None, a name, or an activation: "
        "register a function of your own with @numbadense.activation."
    )


def _named(name: str) -> Activation:
    found = _NAMES.get(name)
    if found is None and "(" in name:
        values, parameters = _parsed(name)
        return member(*values, **parameters)
    if found is None and name in FAMILIES:
        raise ActivationError(f"activation {name!r} needs its parameters: it is {FAMILIES[name].call}.")
    if found is None:
        close = difflib.get_close_matches(name.lower(), _NAMES, n=1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise ActivationError(
            f"no activation is called {name!r}: {hint}known are {', '.join(names())}, and "
            f"the families {', '.join(entry.call for entry in FAMILIES.values())}."
        )
    return found


LONGEST_NAME = 400


def _parsed(name):
    """Return the arguments of `member` that a name such as "clip(low=0.0, high=6.0)" stands for."""
    try:
        if len(name) > LONGEST_NAME:
            raise ValueError(name)
        call = ast.parse(name.strip(), mode="eval").body
        values = [ast.literal_eval(value) for value in call.args]
        parameters = {str(each.arg): ast.literal_eval(each.value) for each in call.keywords}
        return (call.func.id, *values), parameters
    except (SyntaxError, ValueError, AttributeError, TypeError, MemoryError, RecursionError):
        raise ActivationError(
            f"activation {name[:80]!r} cannot be read: a member of a family is named like 'leaky_relu(0.2)'."
        ) from None


def activation(
    name: str | Callable[..., Any] | None = None,
    *,
    exact: Callable[..., Any] | None = None,
    tex: str = "",
    limits: tuple[float, float] = (math.nan, math.nan),
    lipschitz: float = math.inf,
    max_ulp: dict[str, float] | None = None,
    aliases: tuple[str, ...] = (),
    rowwise: bool = False,
    high: str | None = None,
    derivative: Callable[..., Any] | None = None,
) -> Any:
    r"""Register a function as an activation, the equal of the built-in ones.

    Use it bare, ``@nd.activation``, or with facts, ``@nd.activation(limits=(0.0, 1.0))``.

    Parameters
    ----------
    name : str, optional
        The canonical name; the function's own by default.
    exact : callable, optional
        The textbook formula ``exact(m, x)`` in the arithmetic of a module ``m``, such as :mod:`math` or mpmath.
    tex : str, optional
        The formula as LaTeX.
    limits : tuple of float, optional
        The values at minus and plus infinity.
    lipschitz : float, optional
        The supremum of ``|f'|``.
    max_ulp : dict of str to float, optional
        The accuracy to hold it to, by dtype name.
    aliases : tuple of str, optional
        Other names.
    rowwise : bool, optional
        Whether the function takes a row and changes it in place.
    high : str, optional
        The name of another activation, the same function of higher accuracy.
    derivative : function, optional
        The derivative ``f'(x)``, a function like the activation itself, or another activation; for a row-wise one
        ``differential(y, dy)``, which turns the tangent dy of a row in place into that of its result y.  Without it
        there are no derivatives of networks that use the activation.

    Returns
    -------
    Activation
        In place of the function, which stays at hand as its attribute ``function``.

    Raises
    ------
    ActivationError
        If a name is taken by another function, or the function cannot be used on float32 and float64.

    Examples
    --------
    >>> import numpy as np
    >>> from numbadense.activations import activation
    >>> @activation
    ... def squared_relu(x):
    ...     T = type(x)
    ...     positive = T(0) if x < T(0) else x
    ...     return positive * positive
    >>> float(squared_relu(np.float32(3)))
    9.0
    """
    facts = {
        "rowwise": rowwise,
        "exact": exact,
        "tex": tex,
        "limits": limits,
        "lipschitz": lipschitz,
        "max_ulp": dict(max_ulp or {}),
        "aliases": tuple(aliases),
        "high": high,
        "derivative": _plain(derivative),
    }
    if callable(name):
        return _register(name, name.__name__, facts)
    return lambda function: _register(function, name or function.__name__, facts)


def _register(function, name, facts):
    entry = Activation(name=name, function=function, **facts)
    for taken in (name, *entry.aliases):
        holder = _NAMES.get(taken)
        if holder is not None and _origin(holder.function) != _origin(function):
            origin = ".".join(_origin(holder.function))
            raise ActivationError(
                f"the name {taken!r} is taken by the activation {holder.name!r} from {origin}: give yours another name."
            )
    what = f"activation {name!r}"
    (_check_row if entry.rowwise else _check_scalar)(what, function)
    if entry.derivative is not None:
        (_check_row if entry.rowwise else _check_scalar)(f"the derivative of {what}", entry.derivative)
    for old in REGISTRY[name].aliases if name in REGISTRY else ():
        del _NAMES[old]
    REGISTRY[name] = entry
    _NAMES.update(dict.fromkeys((name, *entry.aliases), entry))
    return entry


def _plain(derivative):
    """Return the function of a derivative that may be given as an activation; a word has no target to be bound to."""
    found = getattr(derivative, "activation", derivative)
    if found in WORDS:
        raise ActivationError(
            f"the derivative is the word {found.__name__} itself: "
            f"write a function of your own, such as def slope(x): return {found.__name__}(x)."
        )
    return found.function if isinstance(found, Activation) else found


def _origin(function):
    return function.__module__, function.__qualname__


def _check_row(what, function):
    for dtype in (np.float32, np.float64):
        rows = [np.linspace(-1, 1, 5).astype(dtype) for _ in inspect.signature(function).parameters]
        try:
            result = function(*rows)
        except Exception as error:
            raise ActivationError(f"{what} fails on a row of {dtype.__name__}: {error}.") from error
        if result is not None:
            raise ActivationError(f"{what} returns a value, but a row-wise one must change its row in place.")


def _check_scalar(what, function):
    remedy = "write T = type(x), cast each literal as in T(0.5), and take exp and the like from numbadense.scalar_math"
    for kind in (_Strict, np.float32, np.float64):
        for value in (-0.5, 0.5):
            try:
                with np.errstate(all="ignore"):
                    result = function(kind(value))
            except _UncastError as error:
                raise ActivationError(f"{what} {error}, which turns float32 into float64: {remedy}.") from None
            except Exception as error:
                if kind is _Strict:  # a Python float divides by zero and overflows less quietly than NumPy's
                    continue
                raise ActivationError(f"{what} fails on a {kind.__name__}: {error}.") from error
            if kind is not _Strict and type(result) is not kind:
                raise ActivationError(f"{what} turns {kind.__name__} into {type(result).__name__}: {remedy}.")


class _UncastError(TypeError):
    """A Python literal met a typed number."""


def _strict(name):
    operator = getattr(float, name)

    def method(self, *others):
        for other in others:
            if type(other) in (int, float):
                raise _UncastError(f"mixes its argument with the uncast number {other!r}")
        result = operator(self, *others)
        return _Strict(result) if type(result) is float else result

    return method


_ARITHMETIC = ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow")
_METHODS = (
    *(f"__{name}__" for name in _ARITHMETIC),
    *(f"__r{name}__" for name in _ARITHMETIC),
    *("__lt__", "__le__", "__gt__", "__ge__", "__eq__", "__ne__", "__neg__", "__abs__"),
)

# A number that refuses Python literals.  NumPy's scalars absorb them, where a compiled target would go over to float64.
_Strict = type("_Strict", (float,), {name: _strict(name) for name in _METHODS})


# Constants in two parts of one sign: the first is exact in float32, the second has all that either dtype can add.
_SELU_RIGHT, _SELU_RIGHT_LOW = 1.0507009029388428, 8.441663771998183e-08
_SELU_LEFT, _SELU_LEFT_LOW = 1.7580993175506592, 2.3296717680252718e-08
_DENSITY = 0.3989422804014327  # 1 / sqrt(2 * pi)
_GELU_LINEAR, _GELU_LINEAR_LOW = 1.595703125, 6.599660573071176e-05  # 2 * sqrt(2 / pi)
_GELU_CUBIC, _GELU_CUBIC_LOW = 0.07135481387376785, 2.3988323959931355e-09  # 0.044715 times that


def _identity_slope(x):
    T = type(x)
    return x if x != x else T(1)


@activation(
    exact=lambda m, x: x,
    tex=r"x",
    limits=(-math.inf, math.inf),
    lipschitz=1.0,
    max_ulp={"float32": 0, "float64": 0},
    aliases=("linear", "none"),
    derivative=_identity_slope,
)
def identity(x):
    """Leave x as it is: a layer without an activation."""
    return x


def _sigmoid_slope(x):
    """Return ``e / (1 + e)**2`` with ``e = exp(-|x|)``: s * (1 - s) would lose the digits of the right tail."""
    T = type(x)
    e = exp(-abs(x))
    more = T(1) + e
    return e / (more * more)


@activation(
    exact=lambda m, x: 1 / (1 + m.exp(-x)),
    tex=r"\frac{1}{1 + e^{-x}}",
    limits=(0.0, 1.0),
    lipschitz=0.25,
    max_ulp={"float32": 2.5, "float64": 2.5},
    aliases=("logistic", "expit"),
    high="sigmoid_high",
    derivative=_sigmoid_slope,
)
def sigmoid(x):
    """Logistic function."""
    return logistic(x)


@activation(
    exact=lambda m, x: 1 / (1 + m.exp(-x)),
    tex=r"\frac{1}{1 + e^{-x}}",
    limits=(0.0, 1.0),
    lipschitz=0.25,
    max_ulp={"float32": 0.6, "float64": 0.6},
    derivative=_sigmoid_slope,
)
def sigmoid_high(x):
    """Logistic function, nearly as it would be rounded from the exact value; slower."""
    return logistic_high(x)


def _relu_slope(x):
    T = type(x)
    return x if x != x else (T(1) if x > T(0) else T(0))


@activation(
    exact=lambda m, x: max(x, 0),
    tex=r"\max(x, 0)",
    limits=(0.0, math.inf),
    lipschitz=1.0,
    max_ulp={"float32": 0, "float64": 0},
    derivative=_relu_slope,
)
def relu(x):
    """Rectified linear unit; the comparison fails towards x, so that NaN stays NaN."""
    T = type(x)
    return T(0) if x < T(0) else x


def _tanh_slope(x):
    """Return ``4 e / (1 + e)**2`` with ``e = exp(-2 |x|)``: 1 - tanh(x)**2 would lose the digits of both tails."""
    T = type(x)
    e = scaled_exp(T(4), T(-2) * abs(x))
    more = fma(e, T(0.25), T(1))
    return e / (more * more)


@activation(
    "tanh",
    exact=lambda m, x: m.tanh(x),
    tex=r"\tanh x",
    limits=(-1.0, 1.0),
    lipschitz=1.0,
    max_ulp={"float32": 2.5, "float64": 2.5},
    high="tanh_high",
    derivative=_tanh_slope,
)
def hyperbolic_tangent(x):
    """Hyperbolic tangent."""
    return tanh(x)


@activation(
    "tanh_high",
    exact=lambda m, x: m.tanh(x),
    tex=r"\tanh x",
    limits=(-1.0, 1.0),
    lipschitz=1.0,
    max_ulp={"float32": 0.6, "float64": 0.6},
    derivative=_tanh_slope,
)
def hyperbolic_tangent_high(x):
    """Hyperbolic tangent, nearly as it would be rounded from the exact value; slower."""
    return tanh_high(x)


def _leaky_relu_slope(x):
    T = type(x)
    return x if x != x else (T(1) if x > T(0) else T(0.01))


@activation(
    exact=lambda m, x: x if x > 0 else x / 100,
    tex=r"\max(x, x / 100)",
    limits=(-math.inf, math.inf),
    lipschitz=1.0,
    max_ulp={"float32": 0.9, "float64": 0.7},
    derivative=_leaky_relu_slope,
)
def leaky_relu(x):
    """Rectified linear unit that leaks a hundredth of its negative input.

    References
    ----------
    Maas, Hannun, Ng, "Rectifier nonlinearities improve neural network acoustic models", ICML 2013, section 3.
    """
    T = type(x)
    return x if x >= T(0) else T(0.01) * x


def _elu_slope(x):
    T = type(x)
    return exp(T(0) if x > T(0) else x)


@activation(
    exact=lambda m, x: x if x > 0 else m.expm1(x),
    tex=r"x \text{ if } x > 0 \text{ else } e^x - 1",
    limits=(-1.0, math.inf),
    lipschitz=1.0,
    max_ulp={"float32": 0.9, "float64": 1.2},
    derivative=_elu_slope,
)
def elu(x):
    """Exponential linear unit with alpha = 1.

    References
    ----------
    Clevert, Unterthiner, Hochreiter, "Fast and accurate deep network learning by exponential linear units (ELUs)",
    ICLR 2016, equation 15.
    """
    T = type(x)
    return x if x > T(0) else expm1(x)


def _selu_slope(x):
    T = type(x)
    y = exp(x)
    left = fma(T(_SELU_LEFT), y, T(_SELU_LEFT_LOW) * y)
    return T(_SELU_RIGHT) + T(_SELU_RIGHT_LOW) if x > T(0) else left


@activation(
    exact=lambda m, x: _selu_exact(m, x),
    tex=r"\lambda x \text{ if } x > 0 \text{ else } \lambda \alpha (e^x - 1)",
    limits=(-1.7580993408473768, math.inf),
    lipschitz=1.7580993408473768,
    max_ulp={"float32": 1.6, "float64": 1.7},
    derivative=_selu_slope,
)
def selu(x):
    """Scaled exponential linear unit, whose fixed point is mean 0 and variance 1.

    References
    ----------
    Klambauer, Unterthiner, Mayr, Hochreiter, "Self-normalizing neural networks", NeurIPS 2017, equation 2; the
    constants' closed forms are equation 14 of its supplement.
    """
    T = type(x)
    y = expm1(x)
    return fma(T(_SELU_RIGHT), x, T(_SELU_RIGHT_LOW) * x) if x > T(0) else fma(T(_SELU_LEFT), y, T(_SELU_LEFT_LOW) * y)


def _selu_exact(m, x):
    e, root_e, tail = m.exp(1), m.exp(m.mpf(1) / 2), m.erfc(m.sqrt(m.mpf(1) / 2))
    alpha = m.sqrt(2 / m.pi) / (1 - tail * root_e)
    variance = 2 * m.erfc(m.sqrt(2)) * e**2 + m.pi * tail**2 * e - 2 * (2 + m.pi) * tail * root_e + m.pi + 2
    scale = (1 - tail * root_e) * m.sqrt(2 * m.pi / variance)
    return scale * (x if x > 0 else alpha * m.expm1(x))


def _silu_slope(x):
    """Return ``s(x) (1 + x s(-x))`` with the logistic function s; beyond 1000, infinity times zero is kept out."""
    T = type(x)
    y = T(-1000) if x < T(-1000) else (T(1000) if x > T(1000) else x)
    return scaled_logistic(fma(y, logistic(-y), T(1)), y, T(0))


@activation(
    exact=lambda m, x: x / (1 + m.exp(-x)),
    tex=r"\frac{x}{1 + e^{-x}}",
    limits=(0.0, math.inf),
    lipschitz=1.0998393201288669,
    max_ulp={"float32": 2.3, "float64": 2},
    aliases=("swish",),
    derivative=_silu_slope,
)
def silu(x):
    """Sigmoid linear unit, x * sigmoid(x).  Left of -1000 nothing remains, and infinity times zero is kept out.

    References
    ----------
    Elfwing, Uchibe, Doya, "Sigmoid-weighted linear units for neural network function approximation in reinforcement
    learning", Neural Networks 107, 2018, equation 4; Ramachandran, Zoph, Le, "Searching for activation functions",
    2017 (swish).
    """
    T = type(x)
    y = T(-1000) if x < T(-1000) else x
    return scaled_logistic(y, y, T(0))


def _gelu_slope(x):
    """Return ``ndtr(x) + x phi(x)``, with the density phi of the normal distribution.

    What squaring x rounds away is given back to phi.  No density remains beyond 100, where infinity is kept out.
    """
    T = type(x)
    t = T(1e-30) if abs(x) < T(1e-30) else abs(x)
    tail = weighted_tail(t) / t
    y = T(-100) if x < T(-100) else (T(100) if x > T(100) else x)
    square = y * y
    base = y * T(_DENSITY)
    lost = fma(y, y, -square)
    bell = scaled_exp(fma(base * lost, T(-0.5), base), T(-0.5) * square)
    return (tail if x < T(0) else T(1) - tail) + bell


@activation(
    exact=lambda m, x: x * m.erfc(-x / m.sqrt(2)) / 2,
    tex=r"x \, \Phi(x)",
    limits=(0.0, math.inf),
    lipschitz=1.1289041451851548,
    max_ulp={"float32": 2.4, "float64": 2},
    derivative=_gelu_slope,
)
def gelu(x):
    """Gaussian error linear unit, x times the normal distribution function.

    On both sides it lies below ``max(x, 0)`` by ``|x|`` times the tail beyond ``|x|``.

    References
    ----------
    Hendrycks, Gimpel, "Gaussian error linear units (GELUs)", 2016, section 2.
    """
    T = type(x)
    return (T(0) if x < T(0) else x) - weighted_tail(abs(x))


def _gelu_tanh_slope(x):
    """Return ``s(u) (1 + x u' s(-u))``, with the logistic function s and u, in two words, as in gelu_tanh."""
    T = type(x)
    y = T(-30) if x < T(-30) else (T(30) if x > T(30) else x)
    square = y * y
    slope = fma(T(_GELU_CUBIC), square, T(_GELU_LINEAR))
    lost = fma(T(_GELU_CUBIC), square, T(_GELU_LINEAR) - slope)
    lost += fma(T(_GELU_CUBIC), fma(y, y, -square), fma(T(_GELU_CUBIC_LOW), square, T(_GELU_LINEAR_LOW)))
    u = y * slope
    du = fma(y, lost, fma(y, slope, -u))
    twice = T(2) * (T(_GELU_CUBIC) + T(_GELU_CUBIC_LOW))
    steeper = fma(twice, square, slope) + lost
    return scaled_logistic(fma(y * steeper, scaled_logistic(T(1), -u, -du), T(1)), u, du)


@activation(
    exact=lambda m, x: x / (1 + m.exp(-2 * m.sqrt(2 / m.pi) * (x + x**3 * 44715 / 1000000))),
    tex=r"\frac{x}{2} \left(1 + \tanh \sqrt{2 / \pi} \, (x + 0.044715 x^3)\right)",
    limits=(0.0, math.inf),
    lipschitz=1.1289930686587717,
    max_ulp={"float32": 2.4, "float64": 1.9},
    derivative=_gelu_tanh_slope,
)
def gelu_tanh(x):
    """Gaussian error linear unit in its tanh approximation, x * sigmoid(2 * sqrt(2 / pi) * (x + 0.044715 x**3)).

    The argument u is computed in two words, u + du: rounded to one, it would cost the left tail hundreds of ULP.

    References
    ----------
    Hendrycks, Gimpel, "Gaussian error linear units (GELUs)", 2016, section 2.
    """
    T = type(x)
    y = T(-30) if x < T(-30) else x
    square = y * y
    slope = fma(T(_GELU_CUBIC), square, T(_GELU_LINEAR))
    lost = fma(T(_GELU_CUBIC), square, T(_GELU_LINEAR) - slope)
    lost += fma(T(_GELU_CUBIC), fma(y, y, -square), fma(T(_GELU_CUBIC_LOW), square, T(_GELU_LINEAR_LOW)))
    u = y * slope
    return scaled_logistic(y, u, fma(y, lost, fma(y, slope, -u)))


def _softplus_slope(x):
    return logistic(x)


@activation(
    exact=lambda m, x: m.log1p(m.exp(x)),
    tex=r"\log(1 + e^x)",
    limits=(0.0, math.inf),
    lipschitz=1.0,
    max_ulp={"float32": 1.9, "float64": 2.2},
    derivative=_softplus_slope,
)
def softplus(x):
    """Softplus, max(x, 0) + log(1 + exp(-|x|)).

    References
    ----------
    Glorot, Bordes, Bengio, "Deep sparse rectifier neural networks", AISTATS 2011, section 3.
    """
    T = type(x)
    return (T(0) if x < T(0) else x) + log1p(exp(-abs(x)))


def _softsign_slope(x):
    T = type(x)
    root = T(1) / (T(1) + abs(x))
    return root * root


@activation(
    exact=lambda m, x: x / (1 + abs(x)),
    tex=r"\frac{x}{1 + |x|}",
    limits=(-1.0, 1.0),
    lipschitz=1.0,
    max_ulp={"float32": 1.5, "float64": 1.5},
    derivative=_softsign_slope,
)
def softsign(x):
    """Softsign; beyond 1e30 it is 1 in any dtype, which keeps infinity over infinity out.

    References
    ----------
    Glorot, Bengio, "Understanding the difficulty of training deep feedforward neural networks", AISTATS 2010,
    section 3.2.
    """
    T = type(x)
    y = T(-1e30) if x < T(-1e30) else (T(1e30) if x > T(1e30) else x)
    return y / (T(1) + abs(y))


def _exp_slope(x):
    return exp(x)


@activation(
    "exp",
    exact=lambda m, x: m.exp(x),
    tex=r"e^x",
    limits=(0.0, math.inf),
    lipschitz=math.inf,
    max_ulp={"float32": 0.9, "float64": 0.9},
    aliases=("exponential",),
    derivative=_exp_slope,
)
def exponential(x):
    """Exponential function."""
    return exp(x)


def _hard_sigmoid_slope(x):
    T = type(x)
    return x if x != x else (T(1) / T(6) if abs(x) < T(3) else T(0))


@activation(
    exact=lambda m, x: min(max((x + 3) / 6, 0), 1),
    tex=r"\min(\max(x / 6 + 1 / 2, 0), 1)",
    limits=(0.0, 1.0),
    lipschitz=1 / 6,
    max_ulp={"float32": 1, "float64": 1},
    derivative=_hard_sigmoid_slope,
)
def hard_sigmoid(x):
    """Piecewise linear sigmoid, with the slope 1/6 of PyTorch and Keras 3 (Keras 2 had 1/5).

    ``(x + 3) / 6`` keeps its digits at the lower corner, where ``x / 6 + 1 / 2`` would cancel.

    References
    ----------
    Howard et al., "Searching for MobileNetV3", ICCV 2019, section 5.2.
    """
    T = type(x)
    y = x + T(3)
    return (T(0) if y < T(0) else (T(6) if y > T(6) else y)) / T(6)


def _hard_swish_slope(x):
    T = type(x)
    y = fma(T(2), x, T(3)) / T(6)
    return T(0) if x <= T(-3) else (T(1) if x >= T(3) else y)


@activation(
    exact=lambda m, x: x * min(max((x + 3) / 6, 0), 1),
    tex=r"x \min(\max(x / 6 + 1 / 2, 0), 1)",
    limits=(0.0, math.inf),
    lipschitz=1.5,
    max_ulp={"float32": 1.9, "float64": 1.8},
    derivative=_hard_swish_slope,
)
def hard_swish(x):
    """Piecewise quadratic silu, x * hard_sigmoid(x).

    References
    ----------
    Howard et al., "Searching for MobileNetV3", ICCV 2019, section 5.2.
    """
    T = type(x)
    y = T(-3) if x < T(-3) else x
    return y * ((T(6) if y > T(3) else y + T(3)) / T(6))


def _mish_slope(x):
    """Return ``e p / d**2`` with ``e = exp(-|x|)``.

    With ``w = e**x`` the derivative is ``w ((w + 2) d + 4 x (1 + w)) / d**2`` for ``d = 2 + 2 w + w**2``, on the left
    as it is, on the right divided by powers of w.  Infinity times zero is kept out.
    """
    T = type(x)
    y = T(-1000) if x < T(-1000) else (T(1000) if x > T(1000) else x)
    e = exp(-abs(y))
    bend = T(4) * y * fma(e, e, e)
    d = fma(e, e + T(2), T(2)) if y < T(0) else fma(T(2) * e, e + T(1), T(1))
    left = fma(e + T(2), d, T(4) * y * (T(1) + e)) / (d * d)
    right = fma(fma(T(2), e, T(1)), d, bend * e) / (d * d)
    return scaled_exp(left if y < T(0) else right, T(0) if y > T(0) else y)


@activation(
    exact=lambda m, x: x * m.tanh(m.log1p(m.exp(x))),
    tex=r"x \tanh(\log(1 + e^x))",
    limits=(0.0, math.inf),
    lipschitz=1.0884981612511219,
    max_ulp={"float32": 2.3, "float64": 2},
    derivative=_mish_slope,
)
def mish(x):
    """Mish, x * tanh(softplus(x)).

    With ``w = e**x``, ``tanh(log(1 + w)) = w (1 - (w + w**2) / (2 + 2 w + w**2))``; on the right, with ``w = e**-x``,
    it is ``1 - 2 w**2 / (1 + 2 w + 2 w**2)``.  What is subtracted stays below 0.4, and so do its errors.  What rounding
    takes from the first divisor is taken from its dividend too.  Left of -1000 nothing remains, right of 100 all of x,
    and infinity times zero is kept out.  The sign of a zero stays.

    References
    ----------
    Misra, "Mish: a self regularized non-monotonic activation function", BMVC 2020, equation 1.
    """
    T = type(x)
    y = T(-1000) if x < T(-1000) else x
    w = scaled_exp(T(1), -abs(y))
    base = scaled_exp(y, -abs(y)) if y < T(0) else y
    both = fma(w, w, w)
    more = w + T(2)
    total = more + both
    lost = (w - (more - T(2))) + (both - (total - more))
    taken = fma(lost * w, T(-0.43), both) / total if y < T(0) else T(2) * w * w / fma(T(2), both, T(1))
    return x if x > T(100) or x == T(0) else fma(-base, taken, base)


def _softmax_differential(y, dy):
    mean = y[0] * dy[0]
    for j in range(1, y.size):
        mean += y[j] * dy[j]
    for j in range(y.size):
        dy[j] = y[j] * (dy[j] - mean)


@activation(
    exact=lambda m, row: [m.exp(x) / sum(m.exp(y) for y in row) for x in row],
    tex=r"\frac{e^{x_j}}{\sum_p e^{x_p}}",
    lipschitz=0.5,
    max_ulp={"float32": 4, "float64": 4},
    rowwise=True,
    derivative=_softmax_differential,
)
def softmax(row):
    """Softmax of a row, in place: positive, of sum 1.

    The largest entry is subtracted first, so that nothing overflows.  One NaN, or a positive infinity, makes the whole
    row NaN, as does a row of nothing but negative infinities.
    """
    largest = row[0]
    for j in range(row.size):
        largest = row[j] if row[j] > largest else largest
    for j in range(row.size):
        row[j] = exp(row[j] - largest)
    total = row[0]
    for j in range(1, row.size):
        total += row[j]
    for j in range(row.size):
        row[j] /= total


def _log_softmax_differential(y, dy):
    mean = exp(y[0]) * dy[0]
    for j in range(1, y.size):
        mean += exp(y[j]) * dy[j]
    for j in range(y.size):
        dy[j] -= mean


@activation(
    exact=lambda m, row: [-m.log(sum(m.exp(y - x) for y in row)) for x in row],
    tex=r"x_j - \log \sum_p e^{x_p}",
    lipschitz=2.0,
    max_ulp={"float32": 8, "float64": 8},
    rowwise=True,
    derivative=_log_softmax_differential,
)
def log_softmax(row):
    """Logarithm of softmax of a row, in place.

    The largest entry, ``exp(0) = 1`` after the subtraction, stays out of the sum and enters through ``log1p``: an entry
    that takes nearly all the probability keeps its digits.  NaN and infinity as in softmax.
    """
    winner = 0
    largest = row[0]
    for j in range(1, row.size):
        winner = j if row[j] > largest else winner
        largest = row[j] if row[j] > largest else largest
    others = largest - largest
    for j in range(row.size):
        row[j] -= largest
        others += exp(row[j]) if j != winner else row[j]
    log_total = log1p(others)
    for j in range(row.size):
        row[j] -= log_total


def family(make):
    """Register a function of parameters, which returns a scalar function, its derivative and its facts, as a family."""
    name = make.__name__.removesuffix("_family")
    FAMILIES[name] = Family(name, make, tuple(inspect.signature(make).parameters))
    return FAMILIES[name]


@family
def leaky_relu_family(alpha):
    """Rectified linear unit that leaks `alpha` of its negative input; PReLU with one slope for all features."""

    def function(x):
        T = type(x)
        return T(alpha) * x if x < T(0) else x

    def derivative(x):
        T = type(x)
        return x if x != x else (T(1) if x > T(0) else T(alpha))

    return (
        function,
        derivative,
        {
            "exact": lambda m, x: x if x > 0 else alpha * x,
            "tex": rf"x \text{{ if }} x > 0 \text{{ else }} {alpha:g} x",
            "limits": (math.copysign(math.inf, -alpha) if alpha else math.nan, math.inf),
            "lipschitz": max(1.0, abs(alpha)),
            "max_ulp": {"float32": 1.5, "float64": 1.5},
        },
    )


@family
def elu_family(alpha):
    """Exponential linear unit, ``alpha * (e**x - 1)`` on the left."""

    def function(x):
        T = type(x)
        return x if x > T(0) else T(alpha) * expm1(x)

    def derivative(x):
        T = type(x)
        return T(1) if x > T(0) else T(alpha) * exp(x)

    return (
        function,
        derivative,
        {
            "exact": lambda m, x: x if x > 0 else alpha * m.expm1(x),
            "tex": rf"x \text{{ if }} x > 0 \text{{ else }} {alpha:g} (e^x - 1)",
            "limits": (-alpha, math.inf),
            "lipschitz": max(1.0, abs(alpha)),
            "max_ulp": {"float32": 2.5, "float64": 2.5},
        },
    )


@family
def celu_family(alpha):
    """Continuously differentiable exponential linear unit, ``alpha * (e**(x / alpha) - 1)`` on the left.

    References
    ----------
    Barron, "Continuously differentiable exponential linear units", arXiv:1704.07483, equation 2.
    """
    if not alpha > 0:
        raise ValueError("alpha must be positive")

    def function(x):
        T = type(x)
        return x if x > T(0) else T(alpha) * expm1(x / T(alpha))

    def derivative(x):
        T = type(x)
        return T(1) if x > T(0) else exp(x / T(alpha))

    return (
        function,
        derivative,
        {
            "exact": lambda m, x: x if x > 0 else alpha * m.expm1(x / alpha),
            "tex": rf"x \text{{ if }} x > 0 \text{{ else }} {alpha:g} (e^{{x / {alpha:g}}} - 1)",
            "limits": (-alpha, math.inf),
            "lipschitz": 1.0,
            "max_ulp": {"float32": 3.5, "float64": 3.5},
        },
    )


@family
def clip_family(low, high):
    """Clipping to an interval: ReLU6 is ``clip(0, 6)``, the hard hyperbolic tangent ``clip(-1, 1)``."""
    if low > high:
        raise ValueError("low is above high")

    def function(x):
        T = type(x)
        return T(low) if x < T(low) else (T(high) if x > T(high) else x)

    def derivative(x):
        T = type(x)
        return x if x != x else (T(1) if x > T(low) and x < T(high) else T(0))

    return (
        function,
        derivative,
        {
            "exact": lambda m, x: min(max(x, low), high),
            "tex": rf"\min(\max(x, {low:g}), {high:g})",
            "limits": (low, high),
            "lipschitz": 1.0,
            "max_ulp": {"float32": 1, "float64": 1},
        },
    )


@family
def threshold_family(threshold, value):
    """Pass what is above a threshold, and give a value elsewhere: ONNX's ThresholdedRelu is ``threshold(alpha, 0)``."""

    def function(x):
        T = type(x)
        return T(value) if x <= T(threshold) else x

    def derivative(x):
        T = type(x)
        return x if x != x else (T(1) if x > T(threshold) else T(0))

    return (
        function,
        derivative,
        {
            "exact": lambda m, x: x if x > threshold else value,
            "tex": rf"x \text{{ if }} x > {threshold:g} \text{{ else }} {value:g}",
            "limits": (value, math.inf),
            "lipschitz": 1.0 if value == threshold else math.inf,
            "max_ulp": {"float32": 1, "float64": 1},
        },
    )


@family
def bounded_relu_family(slope, threshold, high):
    """Keras' general ReLU: `high` from there on, x from the threshold on, ``slope * (x - threshold)`` below it."""
    if threshold > high:
        raise ValueError("threshold is above high")

    def function(x):
        T = type(x)
        return T(slope) * (x - T(threshold)) if x < T(threshold) else (T(high) if x > T(high) else x)

    def derivative(x):
        T = type(x)
        return x if x != x else (T(slope) if x <= T(threshold) else (T(1) if x < T(high) else T(0)))

    return (
        function,
        derivative,
        {
            "exact": lambda m, x: slope * (x - threshold) if x < threshold else min(x, high),
            "tex": rf"\min(x, {high:g}) \text{{ if }} x \ge {threshold:g} \text{{ else }}"
            rf" {slope:g} (x - {threshold:g})",
            "limits": (math.copysign(math.inf, -slope) if slope else math.nan, high),
            "lipschitz": max(1.0, abs(slope)) if threshold == 0 else math.inf,
            "max_ulp": {"float32": 2.5, "float64": 2.5},
        },
    )


@family
def hard_sigmoid_family(alpha, beta):
    """Piecewise linear sigmoid, ``alpha * x + beta`` between 0 and 1: ONNX's defaults are 0.2 and 0.5."""

    def function(x):
        T = type(x)
        y = fma(T(alpha), x, T(beta))
        return T(0) if y < T(0) else (T(1) if y > T(1) else y)

    def derivative(x):
        T = type(x)
        y = fma(T(alpha), x, T(beta))
        return x if x != x else (T(alpha) if y > T(0) and y < T(1) else T(0))

    return (
        function,
        derivative,
        {
            "exact": lambda m, x: min(max(alpha * x + beta, 0), 1),
            "tex": rf"\min(\max({alpha:g} x + {beta:g}, 0), 1)",
            "limits": (0.0, 1.0) if alpha > 0 else (1.0, 0.0),
            "lipschitz": abs(alpha),
            "max_ulp": {},  # absolutely within an ULP of 1: where the line meets 0 it has the error of its parameters
        },
    )


@family
def shrink_family(lambd, bias):
    """Zero within `lambd` of zero, and `bias` nearer to it elsewhere: hard shrinkage with bias 0, soft with `lambd`."""
    if lambd < 0:
        raise ValueError("lambd is negative")

    def function(x):
        T = type(x)
        return T(0) if abs(x) <= T(lambd) else (x - T(bias) if x > T(0) else x + T(bias))

    def derivative(x):
        T = type(x)
        return x if x != x else (T(0) if abs(x) <= T(lambd) else T(1))

    return (
        function,
        derivative,
        {
            "exact": lambda m, x: 0 if abs(x) <= lambd else (x - bias if x > 0 else x + bias),
            "tex": rf"0 \text{{ if }} |x| \le {lambd:g} \text{{ else }} x - {bias:g} \operatorname{{sign}} x",
            "limits": (-math.inf, math.inf),
            "lipschitz": 1.0 if bias == lambd else math.inf,
            "max_ulp": {},  # absolutely within an ULP of x
        },
    )
