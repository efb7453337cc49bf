"""What the device has to agree with: the lesson's loops and the textbook's formulas."""

import mpmath
import naive
import numpy as np

from numbadense._engine.cuda import device
from numbadense.activations import REGISTRY, get

DEVICE_ULP = 5  # the largest error of the libdevice functions that activations use, beyond what the CPU is held to


def activate(activation, z):
    """Return the activation of float64 `z`, by its formula in mpmath."""
    entry = get(activation)
    with mpmath.workdps(40):
        if entry.rowwise:
            rows = [entry.exact(mpmath, [mpmath.mpf(float(value)) for value in row]) for row in z]
            return np.array([[float(value) for value in row] for row in rows]).reshape(z.shape)
        return np.array([float(entry.exact(mpmath, mpmath.mpf(float(value)))) for value in z.flat]).reshape(z.shape)


def forward(x, layers):
    """Return the forward propagation of examples in rows through layers."""
    for layer in layers:
        b = np.zeros(layer.n_out) if layer.b is None else layer.b
        x = activate(layer.activation, naive.forward(x, [(layer.w, b, "identity")]))
    return x


def assert_close(name, actual, x):
    """Fail unless `actual` is the activation of `x` up to the rounding that it is allowed in its dtype."""
    entry, dtype = REGISTRY[name], actual.dtype
    exact = activate(entry, x.astype(np.float64))
    fits = np.abs(exact) <= np.finfo(dtype).max
    assert np.isposinf(actual[~fits]).all()
    allowed = (entry.max_ulp[dtype.name] + DEVICE_ULP) * np.spacing(np.abs(exact[fits]).astype(dtype)).astype(
        np.float64
    )
    unit = np.finfo(dtype).eps / 2
    if entry.rowwise:  # the rounding of x - max(x), and of a sum
        allowed += unit * (2 * entry.lipschitz * np.ptp(x) + 2 * x.shape[-1] * np.abs(exact[fits]))
    elif name == "gelu" and device.simulated():  # CPython's ndtr, which the simulator uses, rounds x / sqrt(2)
        allowed += unit * 2 * x[fits].astype(np.float64) ** 2 * np.abs(exact[fits])
    error = np.abs(actual[fits].astype(np.longdouble) - exact[fits])
    worst = np.argmax(error - allowed)
    assert (error <= allowed).all(), f"{name}({x[fits][worst]}) is {actual[fits][worst]}, not {exact[fits][worst]}"
