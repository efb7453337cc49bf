"""
A surrogate inside a Monte Carlo kernel
=======================================

How stiff and how damped was the spring whose swinging was measured, with noise?  A Markov chain walks through the
possible springs and stays longer where they explain the measurement better.  Each step asks what a spring would do, and
depends on the answer to the last one, so that the questions cannot be asked all at once.

A network that has learned the answers stands in for the simulation, inside the compiled chain.
"""

# %%
# The simulation, and a network that replaces it
# ----------------------------------------------
#
# Twenty measurements of a swinging weight.  The surrogate takes a stiffness and a damping, and gives all twenty.

import matplotlib.pyplot as plt
import numpy as np
from numba import njit

import numbadense as nd

rng = np.random.default_rng(0)
TIMES = np.linspace(0.2, 6, 20)
LOW, HIGH = np.array([1.0, 0.05]), np.array([4.0, 0.6])  # stiffness and damping: nothing else is thought possible
NOISE = 0.05


def swing(springs):
    """Return the position at all times of each spring, a row of stiffness and damping."""
    stiffness, damping = springs.T[:, :, None]
    return np.exp(-damping * TIMES) * np.cos(np.sqrt(stiffness - damping**2) * TIMES)


def fitted_surrogate(width=256, rows=4000):
    """Return a network 2-width-20 that has seen random springs."""
    springs = rng.uniform(LOW, HIGH, (rows, 2))
    spread = HIGH - LOW
    hidden = nd.Dense(rng.normal(0, 4, (2, width)) / spread[:, None], rng.normal(0, 4, width), "tanh")
    w = np.linalg.lstsq(np.column_stack([hidden(springs), np.ones(rows)]), swing(springs), rcond=1e-10)[0]
    return nd.Sequential([hidden, nd.Dense(w[:-1], w[-1])])


net = fitted_surrogate()
check = rng.uniform(LOW, HIGH, (1000, 2))
print(f"{net!r}: the largest error of a position is {abs(net(check) - swing(check)).max():.1e}, the noise {NOISE}")

# %%
# The chain
# ---------
#
# Metropolis and others [1]_: propose a spring nearby, and go there if it explains the data better, or sometimes if it
# does not.  ``model`` is ``net.jit``.


@njit
def chain(model, data, noise, low, high, start, steps, size, seed):
    """Return the springs that the chain visited, and how many proposals it took."""
    np.random.seed(seed)
    visited, taken = np.empty((steps, 2)), 0
    here, there, predicted = start.copy(), start.copy(), np.empty(data.size)
    model(here, predicted)
    fit = -((predicted - data) ** 2).sum() / (2 * noise**2)
    for step in range(steps):
        inside = True
        for j in range(2):
            there[j] = here[j] + size * (high[j] - low[j]) * np.random.standard_normal()
            inside &= low[j] < there[j] < high[j]
        if inside:
            model(there, predicted)
            new = -((predicted - data) ** 2).sum() / (2 * noise**2)
            if np.log(np.random.random()) < new - fit:
                here[:], fit = there, new
                taken += 1
        visited[step] = here
    return visited, taken


true = np.array([2.5, 0.2])
data = swing(true[None])[0] + rng.normal(0, NOISE, TIMES.size)
START, STEPS, SIZE = np.array([2.0, 0.3]), 200_000, 0.03
visited, taken = chain(net.jit, data, NOISE, LOW, HIGH, START, STEPS, SIZE, 1)
kept = visited[STEPS // 10 :]
mean, deviation = kept.mean(axis=0), kept.std(axis=0)
print(f"stiffness {mean[0]:.2f} +- {deviation[0]:.2f}, damping {mean[1]:.3f} +- {deviation[1]:.3f}, true {true}")
print(f"{taken / STEPS:.0%} of {STEPS:,} proposals were taken")
assert (abs(mean - true) < 4 * deviation).all()

# %%
# Where the chain has been, and what the springs that it visited do.

figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3.6), layout="constrained")
left.hist2d(*kept.T, bins=60, cmap="Blues")
left.plot(*true, "r+", markersize=12, label="true")
left.set(xlabel="stiffness", ylabel="damping")
left.legend(loc="upper right")
right.plot(TIMES, net(kept[:: STEPS // 100]).T, color="tab:blue", linewidth=0.4, alpha=0.3)
right.errorbar(TIMES, data, NOISE, fmt="k.", label="measured")
right.set(xlabel="time", ylabel="position")
right.legend(loc="upper right")
plt.show()

# %%
# How much faster this is than calling scikit-learn or a framework from the chain, ``python benchmarks/examples.py``
# measured:
#
# .. include:: ../../benchmarks/results/znver4-examples.md
#    :parser: myst_parser.sphinx_
#
# .. [1] N. Metropolis et al., "Equation of state calculations by fast computing machines", Journal of Chemical Physics
#    21, 1953.
