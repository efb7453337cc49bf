"""Single rows: from Python, in a user's compiled loop, by a C pointer, and what the order of the sums costs.

Times in nanoseconds.  ``python benchmarks/latency.py`` takes a minute and writes a JSON file and a Markdown table.
"""

import argparse
import functools
import itertools
import json
import os
import statistics
import time
from pathlib import Path

import harness
import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

import numbadense as nd
from numbadense._engine import compile as compiler
from numbadense._engine import machine
from numbadense._engine.cpu import forward as kernels
from numbadense._engine.cpu.primitives import rank1, start, store
from numbadense._engine.cpu.tile import View
from numbadense._engine.cpu.tiles import TABLE
from numbadense._engine.half import FULL

WIDTHS = [(8, 32, 32, 2), (16, 16), (32, 32, 32, 32), (64, 64, 64, 64, 1), (784, 256, 128, 10)]
CALLS = 200_000  # timed one by one
REPEATS = 31


def network(widths, activation="sigmoid"):
    """Return a float32 network."""
    rng = np.random.default_rng(0)
    return nd.Sequential(
        [
            nd.Dense(
                (rng.standard_normal((k, n)) / k**0.5).astype("f4"), rng.standard_normal(n).astype("f4"), activation
            )
            for k, n in itertools.pairwise(widths)
        ]
    )


def median_ns(function, calls):
    """Return the median over `REPEATS` of the mean time of `calls` calls in a row."""
    function()
    return statistics.median(harness.seconds_a_call(function, calls) for _ in range(REPEATS)) * 1e9


def from_python(widths):
    """Return the median of `net(x, out=y)` in a loop, and quantiles of calls that are timed one by one."""
    net = network(widths)
    x, y = np.ones((1, widths[0]), "f4"), np.empty((1, widths[-1]), "f4")
    loop = median_ns(lambda: net(x, out=y), 2000)
    clock, times = time.perf_counter_ns, np.empty(CALLS)
    for index in range(CALLS):
        begin = clock()
        net(x, out=y)
        times[index] = clock() - begin
    return {"loop": loop, **{f"p{q}": float(np.percentile(times, q)) for q in (50, 99, 99.9)}}


@njit
def dependent(f, x, out, calls):
    """A policy that sees what it did: each call waits for the one before."""
    for _ in range(calls):
        f(x, out)
        x[0] = out[0]


@njit
def independent(f, x, out, calls):
    """The same row again and again."""
    for _ in range(calls):
        f(x, out)


def in_a_loop(net, loop):
    """Return the nanoseconds a row of a compiled loop that calls `net.jit`."""
    x, out = np.ones(net.n_in, net.dtype), np.empty(net.n_out, net.dtype)
    return median_ns(lambda: loop(net.jit, x, out, 1000), 5) / 1000


def from_ctypes(net):
    """Return the nanoseconds of `net.ctypes` on no row, which is what ctypes takes, and on one."""
    x, out = np.ones(net.n_in, net.dtype), np.empty(net.n_out, net.dtype)
    kind = net.ctypes.argtypes[0]
    a, b = x.ctypes.data_as(kind), out.ctypes.data_as(kind)
    return {m: median_ns(lambda m=m: net.ctypes(a, b, m), 2000) for m in (0, 1)}


@intrinsic
def clear(typing_context, tile):
    """Return a tile of zeros."""
    vectors = ir.ArrayType(tile.vector, tile.mr * tile.nv)
    return tile(tile), lambda context, builder, signature, args: ir.Constant(vectors, None)


@intrinsic
def add(typing_context, a, b):
    """Return the sum of two tiles."""

    def codegen(context, builder, signature, args):
        total = args[0]
        for index in range(a.mr * a.nv):
            pair = [builder.extract_value(arg, index) for arg in args]
            total = builder.insert_value(total, builder.fadd(*pair), index)
        return total

    return a(a, b), codegen


def four_sums(jit, nv, lanes):
    """Return `kernels.make_row_tile`'s kernel with four sums that are added at the end: it breaks the order."""

    def tile(x, k, w, bias, y, columns):
        zero = start(1, nv, lanes, bias)
        a, b, c, d = zero, clear(zero), clear(zero), clear(zero)
        whole = k & ~3
        for p in range(0, whole, 4):
            a, b = rank1(a, x, w, p), rank1(b, x, w, p + 1)
            c, d = rank1(c, x, w, p + 2), rank1(d, x, w, p + 3)
        for p in range(whole, k):
            a = rank1(a, x, w, p)
        store(add(add(a, b), add(c, d)), y, columns)

    return jit(tile, "four sums", nv, lanes)


def out_of_order(net):
    """Return the network with a row kernel that keeps four sums."""
    dtype, view, integer = net.dtype, View(types.float32), types.intp
    tiles = TABLE[machine.host().isa]
    original, kernels.make_row_tile = kernels.make_row_tile, four_sums
    try:
        signature = types.void(integer, integer, view, integer, view, view, integer)
        make = functools.partial(kernels.make_row_kernel, compiler.inline, tiles, dtype.itemsize, FULL)
        address = compiler._address(make, signature, ("four sums",), cached=False)
    finally:
        kernels.make_row_tile = original
    net._program.code[kernels.ROW_KERNEL] = address
    return net


def sixteen_elements():
    """Return how many times as fast as each peer `nd.sigmoid(x, out=y)` is on 16 elements, and its nanoseconds."""
    from scipy.special import expit

    x, y = np.linspace(-4, 4, 16, dtype="f4"), np.empty(16, "f4")
    ours = lambda: nd.sigmoid(x, out=y)  # noqa: E731
    found = {"ours": median_ns(ours, 2000), "scipy": harness.compare(ours, lambda: expit(x, out=y), 51, 2).ratio}
    try:
        import torch
    except ImportError:
        return found
    torch.set_num_threads(1)
    tx, ty = torch.from_numpy(x), torch.from_numpy(y)
    with torch.inference_mode():
        found["torch"] = harness.compare(ours, lambda: torch.sigmoid(tx, out=ty), 51, 2).ratio
    return found


def main():
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-1:])
    rows = []
    for widths in WIDTHS:
        ordered, loose = network(widths), out_of_order(network(widths))
        row = {
            "widths": widths,
            "python": from_python(widths),
            "njit, dependent": in_a_loop(ordered, dependent),
            "njit, independent": in_a_loop(ordered, independent),
            "njit, dependent, four sums": in_a_loop(loose, dependent),
            "ctypes": from_ctypes(ordered),
        }
        x, y = np.ones((1, widths[0]), "f4"), np.empty((1, widths[-1]), "f4")
        row["python, four sums: ratio"] = harness.compare(
            lambda net=ordered, x=x, y=y: net(x, out=y), lambda net=loose, x=x, y=y: net(x, out=y), 51, 2
        ).ratio
        rows.append(row)
    information = harness.machine()
    result = {"machine": information, "rows": rows, "sigmoid, 16 elements": sixteen_elements()}
    output = arguments.output or Path(__file__).with_name("results") / f"{information['cpu']}-latency.json"
    output.write_text(json.dumps(result, indent=1) + "\n")
    lines = [
        f"One row, float32, sigmoid, nanoseconds; {information['cpu']} ({information['isa']}).",
        "",
        "| widths | net(x, out=y) | p99.9 | net.jit, each waits | independent | four sums | as a call | C |",
        "|--|--|--|--|--|--|--|--|",
    ]
    for row in rows:
        python, numbers = row["python"], [row[f"njit, {kind}"] for kind in ("dependent", "independent")]
        numbers.append(row["njit, dependent, four sums"])
        shown = " | ".join(f"{number:.0f}" for number in (python["loop"], python["p99.9"], *numbers))
        widths = "-".join(map(str, row["widths"]))
        ratio, pointer = row["python, four sums: ratio"], row["ctypes"]
        lines.append(f"| {widths} | {shown} | x {ratio:.2f} | {pointer[1]:.0f} ({pointer[0]:.0f} without rows) |")
    small = result["sigmoid, 16 elements"]
    peers_shown = ", ".join(
        f"{small[name]:.2f} times as fast as {name}" for name in ("scipy", "torch") if name in small
    )
    lines += ["", f"Sigmoid of 16 elements, `out=` given: {small['ours']:.0f} ns, {peers_shown}."]
    text = "\n".join(lines) + "\n"
    output.with_suffix(".md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
