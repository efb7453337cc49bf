"""Certify the accuracy of the element-wise activations: all float32 numbers, and many float64 ones.

``python benchmarks/sweep.py`` takes some minutes and writes ``benchmarks/results/accuracy.json`` and a Markdown table.
Float32 results are held against the float64 activation, whose own error is some 1e-9 of a float32 ULP and is certified
beside it; float64 results against mpmath, on numbers from everywhere, then ever closer to the worst of them.

An error is counted in ULP: the distance between the two floats around the exact result, which is that of the subnormal
numbers below the normal ones.  Where the exact result rounds to infinity, infinity is right.
"""

import argparse
import itertools
import json
import math
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import harness
import mpmath
import numba
import numpy as np

from numbadense._engine import compile as engine
from numbadense.activations import REGISTRY

RESULTS = Path(__file__).with_name("results") / "accuracy.json"
CHUNK = 1 << 24  # numbers that a thread takes at a time
BLOCK = 4096  # numbers in the first-level cache
TINY = float(np.finfo(np.float32).tiny)
OVERFLOW = 2.0**128 * (1 - 2.0**-25)  # from here on, a result rounds to infinity in float32
EXPONENT = 0x7FF << 52
ULP_SCALE = (2 * 1023 + 23) << 52  # less the exponent of a result, the exponent of one over its ULP
PRECISION = 140  # bits of the reference for float64
REGIONS = (  # of float64: from, to, share
    *((-760, 760, 2), (-50, 0, 2), (-8, 8, 4), (-1, 1, 3), (-0.05, 0.05, 2), (-745, -690, 1)),
    *((-39, -36, 1), (-21, -18, 1), (690, 710, 1)),
)


def make_sweep(function):
    """Return a kernel that finds the worst of `count` float32 numbers, from the one with the bits `first` on."""

    @numba.njit(error_model="numpy", nogil=True)
    def sweep(first, count):
        x, got = np.empty(BLOCK, np.float32), np.empty(BLOCK, np.float32)
        wide, exact, error = np.empty(BLOCK), np.empty(BLOCK), np.empty(BLOCK)
        bits, error_bits = x.view(np.uint32), error.view(np.int64)
        worst, where = -1, np.float32(0)
        for begin in range(first, first + count, BLOCK):
            for i in range(BLOCK):
                bits[i] = np.uint32(begin + i)
            for i in range(BLOCK):
                got[i] = function(x[i])
                wide[i] = np.float64(x[i])
            for i in range(BLOCK):
                exact[i] = function(wide[i])
            ulp_errors(got, exact, error)
            largest = error_bits[0]  # positive floats are in the order of their bits, and integers have a fast maximum
            for i in range(BLOCK):
                largest = max(largest, error_bits[i])
            if largest > worst:
                worst = largest
                for i in range(BLOCK):
                    if error_bits[i] == largest:
                        where = x[i]
        error_bits[0] = worst
        return error[0], where

    return sweep


@numba.njit(error_model="numpy", nogil=True)
def ulp_errors(got, exact, error):
    """Write the errors of float32 `got`, in ULP, to `error`."""
    bits = error.view(np.int64)
    for i in range(got.size):
        size = abs(exact[i])
        error[i] = size if size > TINY else TINY
    for i in range(got.size):
        bits[i] = ULP_SCALE - (bits[i] & EXPONENT)
    for i in range(got.size):
        g, e = np.float64(got[i]), exact[i]
        distance = abs(g - e) * error[i]
        right = (g == e) | ((g != g) & (e != e)) | ((abs(e) >= OVERFLOW) & (g == np.inf * e))
        distance = distance if distance == distance else np.inf
        error[i] = 0.0 if right else distance


def certify_float32(entry, threads):
    """Return the largest error over all float32 numbers, where it is, and how many they are."""
    sweep = make_sweep(engine.scalar(entry))
    with ThreadPoolExecutor(threads) as pool:
        found = list(pool.map(sweep, range(0, 1 << 32, CHUNK), itertools.repeat(CHUNK)))
    error, where = max(found)
    return {"max_ulp": error, "x": float(where), "inputs": 1 << 32}


def ulp_error(got, exact):
    """Return the error of a float64, in ULP of the exact result."""
    last = mpmath.mpf(2) ** -52
    if abs(exact) >= mpmath.mpf(2) ** 1024 * (1 - last / 4):
        return 0.0 if got == math.copysign(math.inf, exact) else math.inf
    exponent = max(mpmath.frexp(exact)[1] - 1, -1022) if exact else -1022
    return float(abs(mpmath.mpf(got) - exact) / mpmath.ldexp(last, int(exponent)))


def sample_float64(rng, count):
    """Return about `count` numbers: from the regions, small ones of all sizes, and large ones."""
    share = count // (sum(part for *_, part in REGIONS) + 4)
    parts = [rng.uniform(low, high, share * part) for low, high, part in REGIONS]
    parts.append(rng.standard_normal(2 * share) * 10.0 ** rng.uniform(-12, 0, 2 * share))
    parts.append(rng.choice([-1, 1], share) * 10.0 ** rng.uniform(-320, -12, share))
    parts.append(rng.choice([-1, 1], share) * 10.0 ** rng.uniform(0, 100, share))
    return np.concatenate(parts)


def certify_float64(entry, count):
    """Return the largest error over `count` float64 numbers and more near the worst, where it is, and how many."""
    function = engine.scalar(entry)

    @numba.njit(error_model="numpy")
    def loop(x, y):
        for i in range(x.size):
            y[i] = function(x[i])

    def errors_at(x):
        y = np.empty_like(x)
        loop(x, y)
        exact = (mpmath.mpf(entry.exact(mpmath.mp, mpmath.mpf(value))) for value in x.tolist())
        return np.array([ulp_error(got, value) for got, value in zip(y.tolist(), exact, strict=True)])

    rng = np.random.default_rng(0)
    total, found = 0, (-1.0, 0.0)
    with mpmath.workprec(PRECISION):
        x = sample_float64(rng, count)
        for width in (1e-2, 1e-4, 1e-8, None):
            errors = errors_at(x)
            order = np.argsort(errors)[::-1]
            total += x.size
            found = max(found, (float(errors[order[0]]), float(x[order[0]])))
            if width is not None:
                near = 1 + width * rng.uniform(-1, 1, (40, count // 400))
                x = (x[order[:40], None] * near).ravel()
    return {"max_ulp": found[0], "x": found[1], "inputs": total}


def table(certificate):
    """Return the certificate as Markdown."""
    lines = ["| activation | float32 | at | float64 | at |", "|--|--|--|--|--|"]
    for name, by_dtype in certificate["activations"].items():
        cells = (f"{found['max_ulp']:.3f} | {found['x']:.6g}" for found in by_dtype.values())
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main():
    """Certify and write."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", help="activations; all element-wise ones by default, and only then written")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--count", type=int, default=100_000, help="float64 numbers in the first sample")
    arguments = parser.parse_args()
    machine = harness.machine()
    kept = {name: machine["versions"][name] for name in ("numbadense", "numba", "llvmlite", "numpy")}
    certificate = {"cpu": machine["cpu"], "isa": machine["isa"], "versions": kept, "activations": {}}
    for name in arguments.names or [name for name, entry in REGISTRY.items() if not entry.rowwise]:
        entry = REGISTRY[name]
        found = {
            "float32": certify_float32(entry, arguments.threads),
            "float64": certify_float64(entry, arguments.count),
        }
        certificate["activations"][name] = found
        print(name, found, flush=True)
    text = (
        f"Largest errors in ULP: float32 over all 2**32 numbers, float64 over some {arguments.count} of them and more "
        f"near the worst; {machine['cpu']} ({machine['isa']}), "
        + ", ".join(f"{key} {value}" for key, value in kept.items())
        + f".\n\n{table(certificate)}\n"
    )
    print(text)
    if not arguments.names:
        RESULTS.write_text(json.dumps(certificate, indent=1) + "\n")
        RESULTS.with_suffix(".md").write_text(text)


if __name__ == "__main__":
    main()
