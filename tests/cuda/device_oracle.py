"""What the device has to agree with: the lesson's loops in extended precision, and how far from them it may be."""

import numpy as np

from numbadense.activations import REGISTRY

UNIT = {"float32": 2.0**-24, "float64": 2.0**-53}
DEVICE_ULP = 5  # the largest error of a libdevice function that an activation uses, beyond the CPU's


def dense(x, w, b):
    """Return x @ w + b by loops over examples, neurons and features."""
    x, w, b = (np.asarray(array, np.longdouble) for array in (x, w, b))
    out = np.zeros((x.shape[0], w.shape[1]), np.longdouble)
    for i in range(x.shape[0]):
        for j in range(w.shape[1]):
            z = b[j]
            for p in range(x.shape[1]):
                z = z + x[i, p] * w[p, j]
            out[i, j] = z
    return out


def bound(x, w, b, dtype):
    """Return the largest error of x @ w + b in `dtype`, whatever the order of the sum: Higham, section 3.1."""
    n = (np.shape(x)[1] + 1) * UNIT[np.dtype(dtype).name]
    return n / (1 - n) * (np.abs(x).astype(np.float64) @ np.abs(w).astype(np.float64) + np.abs(b))


def activate(entry, z):
    """Return the activation of float64 `z`, computed by its textbook formula in mpmath."""
    import mpmath

    with mpmath.workdps(40):
        if entry.rowwise:
            rows = [entry.exact(mpmath, [mpmath.mpf(float(value)) for value in row]) for row in z]
            return np.array([[float(value) for value in row] for row in rows]).reshape(z.shape)
        return np.array([float(entry.exact(mpmath, mpmath.mpf(float(value)))) for value in z.flat]).reshape(z.shape)


def rounding(entry, exact, dtype):
    """Return how far a correct result may be from `exact` for the activation's own rounding."""
    dtype = np.dtype(dtype)
    ulp = entry.max_ulp.get(dtype.name, 8) + DEVICE_ULP + (exact.shape[-1] if entry.rowwise else 0)
    return ulp * np.spacing(np.abs(exact).astype(dtype)).astype(np.float64)


def lipschitz(entry, z):
    """Return the steepest slope of the activation over `z`."""
    if np.isfinite(entry.lipschitz):
        return entry.lipschitz
    assert entry is REGISTRY["exp"], f"no bound is known for the slope of {entry.name}"
    return 1.01 * np.exp(float(np.max(z)))


def assert_within(actual, exact, tolerance):
    """Fail unless every element of `actual` is within `tolerance` of `exact`."""
    error = np.abs(actual.astype(np.longdouble) - exact)
    worst = np.unravel_index(np.argmax(error - tolerance), error.shape)
    assert (error <= tolerance).all(), f"at {worst}: {actual[worst]} instead of {exact[worst]}"
