"""The lesson's loops, in extended precision or in the one asked for: the oracle.  It imports nothing of the package."""

import math

import numpy as np

LONG = np.longdouble
INVERSE_ROOT_TWO_PI = LONG("0.398942280401432677939946059934381868")
ROOT_TWO_OVER_PI = LONG("0.797884560802865355879892119868763737")
SELU_SCALE = LONG("1.05070098735548049341933498529460")
SELU_ALPHA = LONG("1.67326324235437728481704299167171")


def normal_cdf(z):
    """Standard normal distribution function: Taylor's series, or in the tails Laplace's continued fraction."""
    T = type(z)
    if not math.isfinite(z):
        return z if z != z else T(z > 0)
    density = T(INVERSE_ROOT_TWO_PI) * np.exp(-z * z / 2)
    if abs(z) < 2:
        term = total = z
        for n in range(3, 200, 2):
            term = term * z * z / n
            total += term
        return T(0.5) + density * total
    fraction = T(0)
    for n in range(200, 0, -1):
        fraction = n / (abs(z) + fraction)
    tail = density / (abs(z) + fraction)
    return tail if z < 0 else 1 - tail


def softplus(z):
    return max(z, type(z)(0)) + np.log1p(np.exp(-abs(z)))


def selu(z):
    T = type(z)
    return T(SELU_SCALE) * (z if z > 0 else T(SELU_ALPHA) * np.expm1(z))


def gelu_tanh(z):
    T = type(z)
    return z / (1 + np.exp(-2 * T(ROOT_TWO_OVER_PI) * (z + z**3 * T(44715) / T(1000000))))


def hard_sigmoid(z):
    T = type(z)
    return min(max(z / 6 + T(0.5), T(0)), T(1))


def softmax(row):
    e = [np.exp(z - max(row)) for z in row]
    return [value / sum(e) for value in e]


def log_softmax(row):
    return [z - max(row) - np.log(sum(np.exp(other - max(row)) for other in row)) for z in row]


ACTIVATIONS = {
    "identity": lambda z: z,
    "sigmoid": lambda z: 1 / (1 + np.exp(-z)),
    "sigmoid_high": lambda z: 1 / (1 + np.exp(-z)),
    "relu": lambda z: type(z)(0) if z < 0 else z,
    "tanh": np.tanh,
    "tanh_high": np.tanh,
    "leaky_relu": lambda z: z if z > 0 else z / 100,
    "elu": lambda z: z if z > 0 else np.expm1(z),
    "selu": selu,
    "silu": lambda z: z / (1 + np.exp(-z)),
    "gelu": lambda z: z * normal_cdf(z),
    "gelu_tanh": gelu_tanh,
    "softplus": softplus,
    "softsign": lambda z: z / (1 + abs(z)),
    "exp": np.exp,
    "hard_sigmoid": hard_sigmoid,
    "hard_swish": lambda z: z * hard_sigmoid(z),
    "mish": lambda z: z * np.tanh(softplus(z)),
}
ROWWISE = {"softmax": softmax, "log_softmax": log_softmax}


def dense(x, w, b, activation, real=LONG):
    """Forward propagation of one example, a neuron at a time."""
    out = []
    with np.errstate(all="ignore"):
        for j in range(w.shape[1]):
            z = real(0) if b is None else real(b[j])
            for p in range(w.shape[0]):
                z += real(x[p]) * real(w[p, j])
            out.append(z)
        out = ROWWISE[activation](out) if activation in ROWWISE else [ACTIVATIONS[activation](z) for z in out]
    return np.array(out, real)


def forward(x, layers, real=LONG):
    """Forward propagation of examples in rows through ``(w, b, activation)`` layers."""
    out = []
    for example in x:
        a = example
        for w, b, activation in layers:
            a = dense(a, w, b, activation, real)
        out.append(a)
    return np.array(out, real).reshape(len(x), layers[-1][0].shape[1])


def fused(x, w, b, dtype):
    """``bias + x[0] w[0] + x[1] w[1] + ...`` of one example in `dtype`, each product and sum rounded once, together."""
    out = []
    with np.errstate(all="ignore"):
        for j in range(w.shape[1]):
            z = dtype(0) if b is None else dtype(b[j])
            for p in range(w.shape[0]):
                z = dtype(LONG(z) + LONG(x[p]) * LONG(w[p, j]))
            out.append(z)
    return np.array(out, dtype)
