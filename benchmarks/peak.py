"""How much of what one core can do is used: multiply-adds on a large layer, bytes read on a single wide row.

``python benchmarks/peak.py`` takes half a minute and writes a JSON file and a Markdown table.  The core's own limits
are measured in turns with ours: a loop of nothing but fused multiply-adds in registers, and one that adds up an array
as large as the weights.
"""

import argparse
import json
import os
from pathlib import Path

import harness
import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

import numbadense as nd
from numbadense._engine import machine
from numbadense._engine.cpu.tiles import TABLE

SUMS = 10  # more than any CPU's latency times its units
LARGE, WIDE = 1024, 4096
PASSES = 1_000_000  # of the loop of multiply-adds


def _vector_type(dtype):
    lanes = TABLE[machine.host().isa].lanes(dtype.itemsize)
    return ir.VectorType(ir.FloatType() if dtype.itemsize == 4 else ir.DoubleType(), lanes)


def make_multiply_adds(dtype):
    """Return a compiled ``loop(n)`` of n times `SUMS` independent vector multiply-adds, and the flops of one pass."""
    vector = _vector_type(dtype)
    scalar = types.float32 if dtype.itemsize == 4 else types.float64
    name = f"llvm.fmuladd.v{vector.count}f{8 * dtype.itemsize}"

    @intrinsic
    def multiply_adds(typing_context, n):
        def codegen(context, builder, signature, args):
            fused = cgutils.get_or_insert_function(builder.module, ir.FunctionType(vector, [vector] * 3), name)
            sums = [
                cgutils.alloca_once_value(builder, ir.Constant(vector, [1.0 + i] * vector.count)) for i in range(SUMS)
            ]
            factor = ir.Constant(vector, [0.999] * vector.count)
            with cgutils.for_range(builder, args[0]):
                for place in sums:
                    builder.store(builder.call(fused, [builder.load(place), factor, factor]), place)
            total = builder.load(sums[0])
            for place in sums[1:]:
                total = builder.fadd(total, builder.load(place))
            return builder.extract_element(total, ir.IntType(32)(0))

        return scalar(n), codegen

    @njit
    def loop(n):
        return multiply_adds(n)

    return loop, 2 * SUMS * vector.count


@njit(fastmath=True)
def read(array):
    """Add up an array: one load for each vector of it."""
    total = array[0] - array[0]
    for i in range(array.size):
        total += array[i]
    return total


def measure(dtype):
    """Return ours, and the core's limits, in flops and bytes a second, and ours over the limits."""
    rng = np.random.default_rng(0)
    weights = (rng.standard_normal((LARGE, LARGE)) / LARGE**0.5).astype(dtype)
    net = nd.Sequential([nd.Dense(weights, rng.standard_normal(LARGE).astype(dtype), "sigmoid")])
    x, y = rng.standard_normal((LARGE, LARGE)).astype(dtype), np.empty((LARGE, LARGE), dtype)
    loop, flops = make_multiply_adds(dtype)
    compute = harness.compare(lambda: net(x, out=y, threads=1), lambda: loop(PASSES), 25, 10)
    most = PASSES * flops / compute.peer_median
    share = 2 * LARGE**3 / (compute.ratio**-1 * compute.peer_median) / most
    wide = nd.Sequential([nd.Dense(rng.standard_normal((WIDE, WIDE)).astype(dtype))])
    row, out = np.ones((1, WIDE), dtype), np.empty((1, WIDE), dtype)
    array = np.ones(WIDE * WIDE, dtype)
    memory = harness.compare(lambda: wide(row, out=out, threads=1), lambda: read(array), 51, 20)
    return {
        "dtype": dtype.name,
        "multiply-adds": {"ours": 2 * LARGE**3 / compute.ours_median, "core": most, "share": share},
        "reading": {
            "ours": array.nbytes / memory.ours_median,
            "core": array.nbytes / memory.peer_median,
            "share": memory.ratio,
        },
    }


def main():
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--output", type=Path, help="a .json file; by default in benchmarks/results")
    arguments = parser.parse_args()
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-1:])
    information = harness.machine()
    rows = [measure(np.dtype(dtype)) for dtype in (np.float32, np.float64)]
    output = arguments.output or Path(__file__).with_name("results") / f"{information['cpu']}-peak.json"
    output.write_text(json.dumps({"machine": information, "rows": rows}, indent=1) + "\n")
    lines = [
        f"One core of {information['cpu']} ({information['isa']}): {LARGE} x {LARGE} x {LARGE} with sigmoid against a "
        f"loop of multiply-adds, and one row of {WIDE} x {WIDE} against a loop that adds up as many numbers.",
        "",
        "| dtype | GFLOP/s | the core's | share | GB/s read | the core's | share |",
        "|--|--|--|--|--|--|--|",
    ]
    for row in rows:
        compute, memory = row["multiply-adds"], row["reading"]
        numbers = [f"{kind[who] / 1e9:.1f}" for kind in (compute, memory) for who in ("ours", "core")]
        shares = [f"{kind['share']:.1%}" for kind in (compute, memory)]
        lines.append(f"| {row['dtype']} | {' | '.join([*numbers[:2], shares[0], *numbers[2:], shares[1]])} |")
    text = "\n".join(lines) + "\n"
    output.with_suffix(".md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
