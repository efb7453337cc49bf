"""The words an activation may use, and the one mechanism that gives them another voice per target.

In CPython a word is the function below: it takes a Python float or a NumPy scalar and returns the same type, computed
in double precision.  A compiled target swaps the words for its own with :func:`bind`; the activation is not rewritten.
"""

import math
import types

import numpy as np

__all__ = ["WORDS", "bind", "exp", "expm1", "log1p", "ndtr", "tanh"]


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


WORDS = (exp, expm1, log1p, tanh, ndtr)


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
