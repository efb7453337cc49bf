"""
A coffee roasting network, from a loop to a kernel
==================================================

A roaster wants to know which roasts are good.  Beans that are roasted too cool or too briefly stay raw, and beans that
are roasted too hot or too long burn.  A network of three neurons and then one has been trained to tell, from the
temperature in degrees Celsius and the duration in minutes.

This page runs that network forward in five ways, from a Python loop over neurons to a parallel kernel.  Each rung of
the ladder is asserted to give the answer of the first one.
"""

# %%
# Two hundred roasts
# ------------------
#
# Every quantity is a 2-D array whose rows are examples.  The features have very different ranges, and so the network
# was trained on normalised ones: less their mean, over their standard deviation.

import math

import matplotlib.pyplot as plt
import numpy as np

import numbadense as nd

rng = np.random.default_rng(2)
X = rng.random((200, 2)) * [285 - 150, 4] + [150, 11.5]
temperature, duration = X.T
good = (temperature > 175) & (duration > 12) & (duration < 21 - 3 / 85 * temperature)

mean, deviation = X.mean(axis=0), X.std(axis=0)
A0 = (X - mean) / deviation
print(A0.shape)

# %%
# The weights are fixed here.  ``W`` has a row for each feature and a column for each neuron.

W1 = np.array([[-8.93, 0.29, 12.9], [-0.1, -7.32, 10.81]])
B1 = np.array([[-9.82, -9.28, 0.96]])
W2 = np.array([[-31.18], [-27.59], [-32.56]])
B2 = np.array([[15.41]])

# %%
# Rung 1: a loop over neurons
# ---------------------------
#
# A neuron multiplies each feature by a weight, adds them to its bias, and squashes the sum with the sigmoid function.
# A layer does so for each of its neurons, and the next layer takes what the first one gives.


def loop_dense(a_in, w, b):
    """Forward propagation of one example, a neuron at a time."""
    n_in, n_out = w.shape
    a_out = np.zeros(n_out)
    for j in range(n_out):
        z = b[0, j]
        for p in range(n_in):
            z += a_in[p] * w[p, j]
        a_out[j] = 1 / (1 + math.exp(-z))
    return a_out


answer = np.array([loop_dense(loop_dense(a, W1, B1), W2, B2) for a in A0])
print(f"{((answer[:, 0] >= 0.5) == good).mean():.1%} of the roasts are told right")

# %%
# Rung 2: a matrix product
# ------------------------
#
# The sums of all neurons and all examples are one matrix product.  ``B`` has a single row, which NumPy adds to each.


def matmul_dense(a_in, w, b):
    """Forward propagation of all examples, a layer at a time."""
    return 1 / (1 + np.exp(-(np.matmul(a_in, w) + b)))


assert np.allclose(matmul_dense(matmul_dense(A0, W1, B1), W2, B2), answer, rtol=1e-10)

# %%
# Rung 3: a fused layer
# ---------------------
#
# :func:`numbadense.dense` is the product, the bias and the activation in one call.  No array for ``z`` is made.

A1 = nd.dense(A0, W1, B1, activation="sigmoid")
A2 = nd.dense(A1, W2, B2, activation="sigmoid")
assert np.allclose(A2, answer, rtol=1e-10)

# %%
# Rung 4: a network
# -----------------
#
# Layers that are used again belong in a :class:`numbadense.Sequential`.  It arranges its weights for the CPU once, and
# then takes blocks of rows through all of its layers while they are in cache.

net = nd.Sequential([nd.Dense(W1, B1, "sigmoid"), nd.Dense(W2, B2, "sigmoid")])
assert np.allclose(net(A0), answer, rtol=1e-10)
print(net.summary())

# %%
# Rung 5: all cores
# -----------------
#
# Threads are used when there is enough work for them: here, for a fine grid over all temperatures and durations.  How
# a call would run is what ``explain`` says.  A row's bits do not depend on the threads, so the answers are compared
# exactly.

grid_temperature, grid_duration = np.meshgrid(np.linspace(150, 285, 600), np.linspace(11.5, 15.5, 400))
grid = (np.column_stack([grid_temperature.ravel(), grid_duration.ravel()]) - mean) / deviation
probability = net(grid)
assert np.array_equal(probability, net(grid, threads=1))
assert np.array_equal(net(np.concatenate([A0, grid]))[: len(A0)], net(A0))
print(net.explain(grid.shape))

# %%
# What the network has learned
# ----------------------------
#
# A layer's neurons each draw a line, and the last neuron keeps the triangle between the three.  The dashed line is
# where the network is undecided, at a probability of one half.

surface = grid_temperature, grid_duration, probability.reshape(grid_temperature.shape)
figure, axes = plt.subplots(figsize=(7, 4.2), layout="constrained")
shades = axes.pcolormesh(*surface, cmap="YlOrBr", vmin=0, vmax=1.2)
axes.contour(*surface, levels=[0.5], colors="black", linestyles="dashed", linewidths=1)
axes.scatter(*X[good].T, marker="o", s=22, facecolor="saddlebrown", edgecolor="white", label="good roast")
axes.scatter(*X[~good].T, marker="x", s=22, linewidth=1, color="slategray", label="bad roast")
axes.set(xlabel="temperature (Celsius)", ylabel="duration (minutes)", xlim=(150, 285), ylim=(11.5, 15.5))
axes.legend(loc="upper right", framealpha=0.9)
levels = np.linspace(0, 1, 101)
figure.colorbar(shades, label="probability of a good roast", boundaries=levels, ticks=[0, 0.5, 1])
plt.show()

# %%
# Two roasts
# ----------
#
# A roast of 13.9 minutes at 200 degrees is good, and one of 17 minutes is burnt.

tests = (np.array([[200, 13.9], [200, 17]]) - mean) / deviation
decisions = net(tests) >= 0.5
assert decisions.tolist() == [[True], [False]]
print(decisions)

# %%
# The command ``numbadense demo`` climbs the same ladder with a larger network, on handwritten digits, and times each
# rung on your machine.
