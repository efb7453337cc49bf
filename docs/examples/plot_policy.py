"""
A policy inside a simulator
===========================

A pole stands on a cart, and a network pushes the cart so that the pole does not fall.  Thousands of carts are simulated
at once, each in its own thread's share of a compiled loop, and the network is called *inside* that loop: no step goes
back to Python, and no framework is asked.

The cart and the pole are those of Barto, Sutton and Anderson [1]_.
"""

# %%
# The network
# -----------
#
# It takes the position and velocity of the cart and the angle and angular velocity of the pole, and gives a force.  A
# trained policy would be loaded with :func:`numbadense.load`, whatever library trained it.  Here the last layer is
# fitted to a linear controller by least squares, on hidden layers of random weights, which keeps this page short.

import matplotlib.pyplot as plt
import numpy as np
from numba import njit, prange

import numbadense as nd

rng = np.random.default_rng(0)
SCALE = np.array([2.4, 3.0, 0.25, 3.0])  # of the states that the policy has to know
GAINS = np.array([1.5, 2.7, 31.0, 8.0])  # newtons per unit of each of them


def fitted_policy(width=64, rows=4000):
    """Return a network 4-width-width-1 that pushes like the linear controller, and never by more than 10 N."""
    states = rng.uniform(-1, 1, (rows, 4)) * SCALE
    hidden = [
        nd.Dense(rng.normal(0, 1, (4, width)) / SCALE[:, None], rng.normal(0, 1, width), "tanh"),
        nd.Dense(rng.normal(0, width**-0.5, (width, width)), rng.normal(0, 1, width), "tanh"),
    ]
    features = nd.Sequential(hidden)(states)
    w = np.linalg.lstsq(features, np.clip(states @ GAINS, -10, 10), rcond=1e-6)[0]
    return nd.Sequential([*hidden, nd.Dense(w[:, None], activation="clip(-10, 10)")]).astype("float32")


policy = fitted_policy()
print(policy.summary())

# %%
# The simulator
# -------------
#
# ``net.jit`` is what a compiled function takes as an argument.  All networks of one dtype are of one type, so that the
# simulator is compiled once, and a better policy is just another argument.  The call allocates nothing.


@njit(parallel=True)
def simulate(policy, states, steps, every, angles):
    """Step every cart, and note the angle of its pole after each `every` steps; a pole that falls lies."""
    gravity, cart, pole, length, dt = 9.8, 1.0, 0.1, 0.5, 0.02
    for i in prange(len(states)):
        state, force = states[i], np.empty(1, np.float32)
        for step in range(steps):
            if step % every == 0:
                angles[i, step // every] = state[2]
            if abs(state[2]) > 1.5:
                continue
            policy(state, force)
            sin, cos = np.sin(state[2]), np.cos(state[2])
            push = (force[0] + pole * length * state[3] ** 2 * sin) / (cart + pole)
            turn = (gravity * sin - cos * push) / (length * (4 / 3 - pole * cos**2 / (cart + pole)))
            state[1] += dt * (push - pole * length * turn * cos / (cart + pole))
            state[3] += dt * turn
            state[0] += dt * state[1]
            state[2] += dt * state[3]


CARTS, STEPS, EVERY = 4096, 500, 5
start = (rng.uniform(-1, 1, (CARTS, 4)) * [1, 1, 0.6, 1]).astype(np.float32)
states, angles = start.copy(), np.empty((CARTS, STEPS // EVERY), np.float32)
simulate(policy.jit, states, STEPS, EVERY, angles)
standing = abs(angles[:, -1]) < 0.1
print(f"{standing.mean():.1%} of {CARTS} poles stand after {STEPS} steps of 20 ms")
assert standing.mean() > 0.5

# %%
# Poles that lean far to begin with cannot be saved with 10 N, whatever the policy.

figure, axes = plt.subplots(figsize=(7, 3.6), layout="constrained")
time = np.arange(STEPS // EVERY) * EVERY * 0.02
for stands, color, label in ((False, "tab:red", "falls"), (True, "tab:blue", "stands")):
    lines = axes.plot(time, angles[standing == stands][:80].T, color=color, linewidth=0.6, alpha=0.5)
    lines[0].set_label(label)
axes.set(xlabel="time (s)", ylabel="angle of the pole (rad)", xlim=(0, 4), ylim=(-1.6, 1.6))
axes.legend(loc="upper right")
plt.show()

# %%
# The bits are those of calling the network from Python.

force = np.empty(1, np.float32)
policy.jit(start[7], force)
assert np.array_equal(force, policy(start[7]))

# %%
# How much faster this is than calling a framework from the loop, ``python benchmarks/examples.py`` measured:
#
# .. include:: ../../benchmarks/results/znver4-examples.md
#    :parser: myst_parser.sphinx_
#
# .. [1] A. G. Barto, R. S. Sutton, C. W. Anderson, "Neuronlike adaptive elements that can solve difficult learning
#    control problems", IEEE Transactions on Systems, Man, and Cybernetics SMC-13, 1983.
