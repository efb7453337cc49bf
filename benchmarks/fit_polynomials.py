"""Fit the minimax polynomials of ``numbadense/_engine/cpu/vmath.py`` and print them as Python tuples.

Each polynomial q minimises the largest *relative* error of the function it serves, by Remez's exchange algorithm in
mpmath, and is then rounded to its dtype.  Run ``python benchmarks/fit_polynomials.py`` (it needs mpmath; seconds).
"""

import mpmath as mp
import numpy as np

GRID = 600


def remez(function, weight, low, high, degree, rounds=12, points=GRID):
    """Return the coefficients, lowest first, of the polynomial p that minimises ``max |weight (p - function)|``.

    Returns that maximum too.  `weight` and `function` are sampled on a grid of Chebyshev points of ``[low, high]``.
    """
    centre, radius = (mp.mpf(low) + high) / 2, (mp.mpf(high) - low) / 2
    grid = [centre - radius * mp.cos(mp.pi * k / points) for k in range(points + 1)]
    values = [function(x) for x in grid]
    weights = [weight(x) for x in grid]
    count = degree + 2
    chosen = [round(k * points / (count - 1)) for k in range(count)]
    for _ in range(rounds):
        coefficients = _equioscillate(grid, values, weights, chosen)
        errors = [w * (mp.polyval(coefficients[::-1], x) - v) for x, v, w in zip(grid, values, weights, strict=True)]
        extrema = _alternation(errors, count)
        if extrema is None or extrema == chosen:
            break
        chosen = extrema
    return coefficients, max(abs(error) for error in errors)


def _equioscillate(grid, values, weights, chosen):
    """Solve for the polynomial whose weighted error alternates with one magnitude at the chosen points."""
    matrix = mp.matrix(len(chosen), len(chosen))
    right = mp.matrix(len(chosen), 1)
    for i, k in enumerate(chosen):
        for j in range(len(chosen) - 1):
            matrix[i, j] = weights[k] * grid[k] ** j
        matrix[i, len(chosen) - 1] = (-1) ** i
        right[i] = weights[k] * values[k]
    return list(mp.lu_solve(matrix, right))[:-1]


def _alternation(errors, count):
    """Return the largest error of each sign run, trimmed to `count` of them from the ends; None if there are fewer.

    Errors below a thousandth of the largest do not count: those around a zero of the weight alternate too.
    """
    least = max(abs(error) for error in errors) / 1000
    extrema = [0]
    for k, error in enumerate(errors):
        if abs(error) < least:
            continue
        if error * errors[extrema[-1]] < 0:
            extrema.append(k)
        elif abs(error) > abs(errors[extrema[-1]]):
            extrema[-1] = k
    while len(extrema) > count:
        extrema.pop(0 if abs(errors[extrema[0]]) < abs(errors[extrema[-1]]) else -1)
    return extrema if len(extrema) == count else None


def exponential(degree, function):
    """Fit q of ``exp(r) = 1 + r + r**2 q(r)`` on ``|r| <= log(2) / 2``, relative to `function`: exp, or expm1."""

    def quotient(r):
        return (mp.expm1(r) - r) / r**2 if r else mp.mpf(1) / 2

    def weight(r):
        return r**2 / function(r) if r else mp.mpf(0)

    half = mp.log(2) / 2 * mp.mpf("1.0005")
    return remez(quotient, weight, -half, half, degree)


def hyperbolic_cotangent(degree):
    """Fit q of ``r coth(r / 2) = 2 + z q(z)``, ``z = r**2``, on ``|r| <= log(2) / 2``."""

    def quotient(z):
        return (mp.sqrt(z) * mp.coth(mp.sqrt(z) / 2) - 2) / z if z else mp.mpf(1) / 6

    return remez(quotient, lambda z: z / 2, 0, (mp.log(2) / 2 * mp.mpf("1.0005")) ** 2, degree)


def inverse_tanh(degree):
    """Fit q of ``atanh(s) = s + s z q(z)``, ``z = s**2``, for s = f / (2 + f) and 1 + f from sqrt(1/2) to sqrt(2)."""

    def quotient(z):
        return (mp.atanh(mp.sqrt(z)) / mp.sqrt(z) - 1) / z if z else mp.mpf(1) / 3

    largest = ((mp.sqrt(2) - 1) / (mp.sqrt(2) + 1)) ** 2 * mp.mpf("1.005")
    return remez(quotient, lambda z: z, 0, largest, degree)


def normal_tail(degree, pole, end):
    """Fit q of ``ndtr(-t) = exp(-t**2 / 2) w q(y)``, ``w = 1 / (t + pole)``, ``y = 1 - 2 pole w``, for t up to `end`.

    The factor w takes the decay of the tail, and q stays within 0.3 and 3: it is well conditioned everywhere.
    """

    def quotient(y):
        w = (1 - y) / (2 * pole)
        t = 1 / w - pole
        return mp.exp(t**2 / 2) * mp.erfc(t / mp.sqrt(2)) / (2 * w)

    pole, end = mp.mpf(pole), mp.mpf(end)
    return remez(quotient, lambda y: 1 / quotient(y), -1, (end - pole) / (end + pole), degree)


def gated_tail(degree, pole, centre, end, dtype, heavier, rounded, points=GRID, kept=None):
    """Fit p of ``t ndtr(-t) = exp(-t**2 / 2) v p(v - centre)``, ``v = t / (t + pole)``, for t up to `end`.

    The lowest `rounded` coefficients are rounded to the dtype one after the other, each before the rest is fitted.
    `heavier` lists places ``(height, v, width)`` where the fit has to be closer: the bump adds to the relative weight.
    With `kept`, so many coefficients are rounded after the fit, and the others adjusted to that by least squares.
    """
    pole, end, centre = mp.mpf(pole), mp.mpf(end), mp.mpf(centre)
    aside = mp.mpf("1e-6" if dtype is np.float32 else "1e-12")  # no point of the grid may fall on y = 0
    low, high = -centre + aside, end / (end + pole) - centre + aside
    fixed = []

    def target(y):
        t = pole * (y + centre) / (1 - y - centre)
        return mp.exp(t**2 / 2) * mp.erfc(t / mp.sqrt(2)) / 2 * (t + pole)

    def rest(y):
        value = target(y)
        for coefficient in fixed:
            value = (value - coefficient) / y
        return value

    def weight(y):
        bumps = sum(height * mp.exp(-(((y + centre - mp.mpf(v)) / width) ** 2)) for height, v, width in heavier)
        return (1 + bumps) / target(y) * abs(y) ** len(fixed)

    while True:
        coefficients, error = remez(rest, weight, low, high, degree - len(fixed), points=points)
        if len(fixed) == rounded:
            break
        fixed.append(mp.mpf(dtype(float(coefficients[0])).item()))
    coefficients = fixed + coefficients
    if kept is None:
        return coefficients, error
    coefficients = [mp.mpf(dtype(float(c)).item()) for c in coefficients[:kept]]
    grid = [low - aside + (high - low) * (1 - mp.cos(mp.pi * k / 300)) / 2 for k in range(301)]
    matrix = mp.matrix(len(grid), degree + 1 - kept)
    right = mp.matrix(len(grid), 1)
    for i, y in enumerate(grid):
        value = target(y)
        right[i] = 1 - mp.polyval(coefficients[::-1], y) / value
        for j in range(matrix.cols):
            matrix[i, j] = y ** (kept + j) / value
    return coefficients + list(mp.lu_solve(matrix.T * matrix, matrix.T * right)), error


def show(name, dtype, fit):
    """Print one fit, with its error in units of the dtype's rounding error."""
    coefficients, error = fit
    ulps = mp.nstr(error * 2 / mp.mpf(float(np.finfo(dtype).eps)), 2)
    print(f"# {name}, {np.dtype(dtype).name}: relative error {mp.nstr(error, 2)}, {ulps} roundings")
    print("(" + ", ".join(str(dtype(float(c)).item()) for c in coefficients) + ")")


def main():
    """Fit and print everything."""
    mp.mp.dps = 60
    show("EXP", np.float32, exponential(4, mp.exp))
    show("EXP", np.float64, exponential(9, mp.exp))
    show("EXPM1", np.float32, exponential(5, mp.expm1))
    show("EXPM1", np.float64, exponential(9, mp.expm1))
    show("COTH", np.float32, hyperbolic_cotangent(1))
    show("COTH", np.float64, hyperbolic_cotangent(4))
    show("ATANH", np.float32, inverse_tanh(2))
    show("ATANH", np.float64, inverse_tanh(6))
    show("NORMAL_TAIL", np.float32, normal_tail(9, pole=3.5, end=14.5))
    show("NORMAL_TAIL", np.float64, normal_tail(21, pole=5, end=39))
    # Where the exponential's argument is most reduced and the result's last place is smallest, and at 0, the fit is
    # closer: the largest errors of gelu were there.
    single, double = ((3, 0.424, 0.08), (2, 0, 0.03)), ((1, 0, 0.05),)
    show("GATED_TAIL", np.float32, gated_tail(9, 2.5, 0.25, 14.5, np.float32, single, rounded=2, points=400))
    show("GATED_TAIL", np.float64, gated_tail(24, 3.5, 0.4375, 39, np.float64, double, rounded=1, kept=4))


if __name__ == "__main__":
    main()
