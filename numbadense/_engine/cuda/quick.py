"""The words of activations where products were rounded to 11 bits or fewer: few instructions, no branch, 16 bits right.

A warpgroup that applies an activation has one warp to a scheduler: what branches, or waits for itself, is not hidden.
Where an activation goes to zero, its relative error stays as small as the tests say; near a zero in the middle, as of
tanh, the absolute error does.  The words that are not here are those of `numbadense._engine.cuda.words`.
"""

import math

import numpy as np

from numbadense.scalar_math import bind

LOG2_E = np.float32(1 / math.log(2))
DENSITY = np.float32(-0.5 / math.log(2))  # exp(-t**2 / 2) = 2**(DENSITY t**2)
SLOPE = np.float32(0.38)
# Mills' ratio of the normal distribution, (1 - ndtr(t)) / exp(-t**2 / 2), as a polynomial without constant in
# 1 / (1 + 0.38 t): least squares of relative errors, reweighted until they were even, 3.6e-5 at most for 0 <= t <= 14.
MILLS = tuple(
    np.float32(c)
    for c in (0.15122512307082595, 0.15783084938863012, 0.09197292130123864, 0.18888718656074746, -0.08993367960627865)
)
FAR = np.float32(40)
SMALL, LARGE = np.float32(2.0**-124), np.float32(2.0**124)
LEAST = np.float32(-1000)


def vocabulary(jit, power_of_two, reciprocal) -> dict:
    """Return the words by name; `jit` compiles them for float32, from 2**x and 1/x."""
    log2_e, density, slope, far, least = LOG2_E, DENSITY, SLOPE, FAR, LEAST
    c1, c2, c3, c4, c5 = MILLS
    zero, one, two, hundred = (np.float32(number) for number in (0, 1, 2, 100))

    def exp(x):
        return power_of_two(x * log2_e)

    def scaled_exp(a, x):
        return a * power_of_two(x * log2_e)

    def logistic(x):
        return reciprocal(one + power_of_two(-x * log2_e))

    def scaled_logistic(a, x, dx):
        z = (least if x < least else x) + dx
        result = a * reciprocal(one + power_of_two(-z * log2_e))
        return a if x > hundred else result

    def tanh(x):
        t = power_of_two(abs(x) * (-two * log2_e))
        part = reciprocal(one + t)
        return math.copysign(part - t * part, x)

    def tail(t):
        u = reciprocal(one + slope * t)
        ratio = u * (c1 + u * (c2 + u * (c3 + u * (c4 + u * c5))))
        return ratio * power_of_two(density * (t * t))

    tail_of = jit(tail)

    def weighted_tail(t):
        t = far if t > far else t
        return t * tail_of(t)

    def ndtr(x):
        t = abs(x)
        beyond = tail_of(far if t > far else t)
        return beyond if x < zero else one - beyond

    found = {
        word.__name__: jit(word) for word in (exp, scaled_exp, logistic, scaled_logistic, tanh, weighted_tail, ndtr)
    }
    return found | {"logistic_high": found["logistic"], "tanh_high": found["tanh"]}


def pairs(jit, power_of_two, reciprocal, larger) -> dict:
    """Return the words that have a form for two numbers, ``word((x, y))``, by name: 1.5 special operations for each.

    The two share a reciprocal, for 1/p and 1/q are q r and p r with ``r = 1 / (p q)``.  Neither changes the other but
    in its last bits.  Divisors are kept finite, and numbers, by the smaller of two, which is the one that is a number;
    so the logistic function is 2**-124 at least.  NaN comes back by the `larger` of two, which is NaN if one is.
    """
    log2_e, small, large = LOG2_E, SMALL, LARGE
    one, two = (np.float32(number) for number in (1, 2))

    def divisor(x):
        p = small * power_of_two(-x * log2_e) + small  # from 2**-124 to 1: the product of two stays a normal number
        return p if p < one else one

    divisor_of = jit(divisor)

    def logistic(both):
        x, y = both
        p, q = divisor_of(x), divisor_of(y)
        r = reciprocal(p * large * q)
        return larger(q * r, -abs(x)), larger(p * r, -abs(y))

    def tanh(both):
        x, y = both
        t, u = power_of_two(abs(x) * (-two * log2_e)), power_of_two(abs(y) * (-two * log2_e))
        p, q = one + t, one + u
        p, q = p if p < two else two, q if q < two else two
        r = reciprocal(p * q)
        p, q = q * r, p * r
        return math.copysign(p - t * p, x), math.copysign(q - u * q, y)

    found = {word.__name__: jit(word) for word in (logistic, tanh)}
    return found | {"logistic_high": found["logistic"], "tanh_high": found["tanh"]}


class _Unknown:
    """A number of which nothing is known, and nothing can be asked."""

    __eq__ = __ne__ = __bool__ = __hash__ = None


def consists_of(function, words) -> bool:
    """Say whether a scalar function does nothing but say some of these `words`, one after another."""
    try:
        bind(function, dict.fromkeys(words, lambda x: x))(_Unknown())
    except Exception:
        return False
    return True
