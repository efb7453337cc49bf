"""The lesson's loops, in extended precision: the oracle.  Nothing of the package is imported here."""

import math

import numpy as np

REAL = np.longdouble


def normal_cdf(z):
    """Standard normal distribution function, in double precision."""
    return REAL(0.5 * math.erfc(-float(z) * math.sqrt(0.5)))


def softplus(z):
    return max(z, REAL(0)) + np.log1p(np.exp(-abs(z)))


ACTIVATIONS = {
    "identity": lambda z: z,
    "sigmoid": lambda z: 1 / (1 + np.exp(-z)),
    "relu": lambda z: z if not z < 0 else REAL(0),
    "tanh": np.tanh,
    "leaky_relu": lambda z: z if z > 0 else REAL("0.01") * z,
    "elu": lambda z: z if z > 0 else np.expm1(z),
    "silu": lambda z: z / (1 + np.exp(-z)),
    "gelu": lambda z: z * normal_cdf(z),
    "softplus": softplus,
    "softsign": lambda z: z / (1 + abs(z)),
    "hard_sigmoid": lambda z: min(max(z / 6 + REAL(0.5), REAL(0)), REAL(1)),
    "mish": lambda z: z * np.tanh(softplus(z)),
}


def dense(x, w, b, activation):
    """Forward propagation of one example, a neuron at a time."""
    out = []
    for j in range(w.shape[1]):
        z = REAL(b[j])
        for p in range(w.shape[0]):
            z += REAL(x[p]) * REAL(w[p, j])
        out.append(ACTIVATIONS[activation](z))
    return np.array(out, REAL)


def forward(x, layers):
    """Forward propagation of examples in rows through ``(w, b, activation)`` layers."""
    out = []
    for example in x:
        a = example
        for w, b, activation in layers:
            a = dense(a, w, b, activation)
        out.append(a)
    return np.array(out, REAL).reshape(len(x), layers[-1][0].shape[1])
