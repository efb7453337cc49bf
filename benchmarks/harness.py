"""Interleaved pairs: ours and a peer take turns, A B, then B A, and the ratio is the median over the pairs.

On a shared machine everything may run at half speed for minutes.  Two blocks of runs, one after the other, then differ
by what the machine did in between; the two halves of a pair do not.
"""

import importlib.metadata
import os
import platform
import statistics
import time
from dataclasses import dataclass

SLICE = 0.004  # seconds that one half of a pair takes at least


@dataclass(frozen=True)
class Comparison:
    """Ours against one peer: seconds a call, and the peer's time over ours."""

    ours_median: float
    ours_best: float
    peer_median: float
    peer_best: float
    ratio: float  # the median of the pairs' ratios
    spread: float  # the interquartile range of the pairs' ratios over their median


def calls_in_a_slice(function, seconds=SLICE):
    """Return how many calls take some seconds; warms the function up."""
    function()
    count = 1
    while True:
        begin = time.perf_counter()
        for _ in range(count):
            function()
        passed = time.perf_counter() - begin
        if passed >= seconds:
            return count
        count = max(count + 1, int(count * min(16, 1.2 * seconds / max(passed, 1e-9))))


def seconds_a_call(function, count):
    """Return the mean time of `count` calls in a row."""
    begin = time.perf_counter()
    for _ in range(count):
        function()
    return (time.perf_counter() - begin) / count


def compare(ours, peer, pairs, budget):
    """Return the `Comparison` of two functions over `pairs` pairs, or as many as `budget` seconds allow, 5 at least."""
    ours_count, peer_count = calls_in_a_slice(ours), calls_in_a_slice(peer)
    ours_times, peer_times = [], []
    begin = time.perf_counter()
    for index in range(pairs):
        if index >= 5 and time.perf_counter() - begin > budget:
            break
        if index % 2:
            peer_times.append(seconds_a_call(peer, peer_count))
            ours_times.append(seconds_a_call(ours, ours_count))
        else:
            ours_times.append(seconds_a_call(ours, ours_count))
            peer_times.append(seconds_a_call(peer, peer_count))
    return comparison(ours_times, peer_times)


def comparison(ours_times, peer_times):
    """Return the `Comparison` of seconds a call, taken in turns."""
    ratios = [b / a for a, b in zip(ours_times, peer_times, strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4)
    median = statistics.median
    return Comparison(
        median(ours_times), min(ours_times), median(peer_times), min(peer_times), median(ratios), (high - low) / middle
    )


def machine():
    """Return what the numbers were measured on and with."""
    from numbadense._engine.machine import host

    packages = ("numbadense", "numba", "llvmlite", "numpy", "scipy", "torch", "onnxruntime", "jax", "jaxlib")
    versions = {}
    for name in packages:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = None
    cpu = host()
    return {
        "cpu": cpu.name,
        "isa": cpu.isa,
        "cores": cpu.cores,
        "system": platform.platform(terse=True),
        "python": platform.python_version(),
        "load": os.getloadavg()[0],
        "versions": versions,
    }
