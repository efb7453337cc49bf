"""The words an activation may use, and the one mechanism that gives them another voice per target.

In CPython a word is the function below: it takes a Python float or a NumPy scalar and returns the same type, computed
in double precision.  A compiled target swaps the words for its own with :func:`bind`; the activation is not rewritten.
"""

import math
import types
from fractions import Fraction

import numpy as np

__all__ = [
    "WORDS",
    "bind",
    "exp",
    "expm1",
    "fma",
    "log1p",
    "logistic",
    "logistic_high",
    "ndtr",
    "scaled_exp",
    "scaled_logistic",
    "tanh",
    "tanh_high",
    "weighted_tail",
]


def exp(x):
    """e**x: infinity beyond the range, gradual underflow below it."""
    with np.errstate(all="ignore"):
        return type(x)(np.exp(float(x)))


def expm1(x):
    """e**x - 1, accurate near 0."""
    with np.errstate(all="ignore"):
        return type(x)(np.expm1(float(x)))


def log1p(x):
    """log(1 + x), accurate near 0; -infinity at -1 and NaN below it."""
    with np.errstate(all="ignore"):
        return type(x)(np.log1p(float(x)))


def tanh(x):
    """Hyperbolic tangent."""
    with np.errstate(all="ignore"):
        return type(x)(np.tanh(float(x)))


def ndtr(x):
    """Cumulative distribution of the standard normal law, through erfc so that the left tail keeps its digits."""
    with np.errstate(all="ignore"):
        return type(x)(0.5 * math.erfc(float(x) * -math.sqrt(0.5)))


def fma(a, b, c):
    """Return a * b + c, rounded once: ``fma(a, b, -(a * b))`` is what the product a * b lost."""
    T = type(c)
    with np.errstate(all="ignore"):
        if T is np.float32:
            return T(float(a) * float(b) + float(c))
        if not (math.isfinite(a) and math.isfinite(b)):
            return T(a * b + c)
        if not math.isfinite(c):
            return c
        exact = Fraction(float(a)) * Fraction(float(b)) + Fraction(float(c))
        try:
            return T(float(exact)) if exact else T(a * b + c)
        except OverflowError:
            return T(math.inf if exact > 0 else -math.inf)


def scaled_exp(a, x):
    """Return a * e**x, right even where e**x alone leaves the range."""
    with np.errstate(all="ignore"):
        root = np.exp(float(x) / 2)
        return type(x)(float(a) * root * root)


def logistic(x):
    """1 / (1 + e**-x), with all digits of the left tail."""
    return _logistic(1.0, x, 0.0)


def logistic_high(x):
    """1 / (1 + e**-x) within 1.05 units in the last place, where the target can; slower."""
    return _logistic(1.0, x, 0.0)


def scaled_logistic(a, x, dx):
    """Return a / (1 + e**-(x + dx)), for a dx far below x; right even where the fraction underflows."""
    return _logistic(float(a), x, float(dx))


def _logistic(a, x, dx):
    T, x = type(x), float(x)
    if x > 100:
        return T(a)
    x = -1000.0 if x < -1000 else x  # e**-1000 is 0, and what an infinity lost would be NaN
    with np.errstate(all="ignore"):
        y = x + dx
        lost = dx - (y - x)
        root = np.exp(-abs(y) / 2)
        near = root * (1 + (lost if x < 0 else -lost))
        return T((a * root * near if x < 0 else a) / (1 + root * near))


def tanh_high(x):
    """Hyperbolic tangent within 1.05 units in the last place, where the target can; slower."""
    return tanh(x)


def weighted_tail(t):
    """Return t * ndtr(-t), for t >= 0, right even where the tail alone underflows."""
    h = min(float(t), 60.0)
    return type(t)(h * (0.5 * math.erfc(h * math.sqrt(0.5))))


WORDS = (
    *(exp, expm1, log1p, tanh, ndtr, fma, scaled_exp, logistic, logistic_high, scaled_logistic, tanh_high),
    weighted_tail,
)


def bind(fn, words):
    """Return `fn` with its words spoken by another target.

    Parameters
    ----------
    fn : function
        A plain Python function.  It is left as it is.
    words : dict of str to callable
        The target's words, by the names of this module.

    Returns
    -------
    function
        The same code, name, defaults and closure with other globals: a global called like a word is replaced, and so is
        a word of this module under any other name (``from numbadense.scalar_math import exp as e``).
    """
    scope = dict(fn.__globals__)
    scope.update((alias, words[word.__name__]) for alias, word in scope.items() if _is_word(word, words))
    scope.update(words)
    bound = types.FunctionType(fn.__code__, scope, fn.__name__, fn.__defaults__, fn.__closure__)
    bound.__kwdefaults__ = fn.__kwdefaults__
    bound.__doc__ = fn.__doc__
    bound.__qualname__ = fn.__qualname__
    bound.__module__ = fn.__module__
    return bound


def _is_word(value, words):
    return any(value is word and word.__name__ in words for word in WORDS)
