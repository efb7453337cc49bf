"""
A differential equation whose right-hand side is a network
==========================================================

A network has learned how foxes and rabbits multiply, and a compiled solver integrates what it has learned.  A solver
calls its right-hand side one state at a time, thousands of times, and so the price of a call decides.

The populations follow the equations of Lotka [1]_ and Volterra.
"""

# %%
# The network
# -----------
#
# It takes the logarithms of both populations and gives their rates of change.  In place of a training run, the last
# layer is fitted to samples of the true rates by least squares, on a hidden layer of random weights.

import matplotlib.pyplot as plt
import numpy as np
from numba import njit

import numbadense as nd

rng = np.random.default_rng(0)
BIRTH, EATEN, FED, STARVED = 1.1, 0.4, 0.1, 0.4


def rates(z):
    """Return the true derivatives of the logarithms of rabbits and foxes."""
    rabbits, foxes = np.exp(z.T)
    return np.stack([BIRTH - EATEN * foxes, FED * rabbits - STARVED], axis=1)


def fitted_rates(width=128, rows=4000):
    """Return a network 2-width-2 that has seen the rates at random states."""
    states = rng.uniform([-2, -2], [4, 3], (rows, 2))
    hidden = nd.Dense(rng.normal(0, 0.4, (2, width)), rng.uniform(-2, 2, width), "tanh")
    w = np.linalg.lstsq(np.column_stack([hidden(states), np.ones(rows)]), rates(states), rcond=1e-10)[0]
    return nd.Sequential([hidden, nd.Dense(w[:-1], w[-1])])


net = fitted_rates()
check = rng.uniform([-1, -1], [3.5, 2.5], (1000, 2))
print(f"{net!r}: the largest error of a rate is {abs(net(check) - rates(check)).max():.1e}")

# %%
# The solver
# ----------
#
# The classical method of Runge and Kutta, of fourth order, in a compiled function.  ``rhs`` is ``net.jit``: calling it
# allocates nothing, and any other network of its dtype may take its place without compiling anything.


@njit
def integrate(rhs, z, dt, steps):
    """Return the states ``z(0), z(dt), z(2 dt), ...`` as rows."""
    path = np.empty((steps + 1, z.size))
    path[0] = z
    k1, k2, k3, k4 = np.empty_like(z), np.empty_like(z), np.empty_like(z), np.empty_like(z)
    for step in range(steps):
        z = path[step]
        rhs(z, k1)
        rhs(z + dt / 2 * k1, k2)
        rhs(z + dt / 2 * k2, k3)
        rhs(z + dt * k3, k4)
        path[step + 1] = z + dt / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
    return path


@njit
def truth(z, out):
    """Compute the true rates, in the place of a network."""
    out[0], out[1] = BIRTH - EATEN * np.exp(z[1]), FED * np.exp(z[0]) - STARVED


DT, STEPS = 0.01, 4000
learned = integrate(net.jit, np.log([10.0, 5.0]), DT, STEPS)
true = integrate(truth, np.log([10.0, 5.0]), DT, STEPS)
print(f"after {STEPS * DT:g} years the logarithms are off by {abs(learned - true)[-1].max():.1e}")
assert abs(learned - true).max() < 0.01

# %%
# Along the exact solution, a certain function of both populations stays what it was.  Its contour lines are drawn below
# the learned paths of several beginnings.

figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3.6), layout="constrained")
time = np.arange(STEPS + 1) * DT
left.plot(time, np.exp(learned), label=["rabbits", "foxes"])
left.plot(time, np.exp(true), "k:", linewidth=1)
left.set(xlabel="time (years)", ylabel="population", xlim=(0, 40))
left.legend(loc="upper right")
rabbits, foxes = np.meshgrid(np.linspace(0.2, 16, 200), np.linspace(0.2, 10, 200))
kept = FED * rabbits - STARVED * np.log(rabbits) + EATEN * foxes - BIRTH * np.log(foxes)
right.contour(rabbits, foxes, kept, levels=15, colors="lightgray", linewidths=1)
for begin in (6.0, 8.0, 10.0):
    right.plot(*np.exp(integrate(net.jit, np.log([begin, 5.0]), DT, 1200)).T)
right.set(xlabel="rabbits", ylabel="foxes")
plt.show()

# %%
# How much faster this is than calling a framework from the solver, ``python benchmarks/examples.py`` measured:
#
# .. include:: ../../benchmarks/results/znver4-examples.md
#    :parser: myst_parser.sphinx_
#
# .. [1] A. J. Lotka, *Elements of Physical Biology*, Williams and Wilkins, 1925, chapter 8.
