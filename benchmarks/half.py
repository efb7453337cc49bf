"""Weights at half size against the same network in float32, through the public face.

``python benchmarks/half.py`` takes about a minute and writes a JSON file and a Markdown table.  Every ratio is the
float32 network's time over that of ``net.astype(kind)``, the median of interleaved pairs in one process; that the bits
are those of the rounded weights in float32 is checked before anything is timed.
"""

import argparse
import dataclasses
import json
import os
import sys
from pathlib import Path

import harness
import numpy as np
from run import THREAD_VARIABLES

import numbadense as nd

KINDS = ("bfloat16", "float16")


def network(n):
    """Return a dense layer of n features to n with sigmoid, in float32."""
    rng = np.random.default_rng(0)
    w = rng.standard_normal((n, n), np.float32)
    w /= n**0.5
    return nd.Sequential([nd.Dense(w, rng.standard_normal(n, np.float32), "sigmoid")])


def measure(n, rows, arguments):
    """Yield the comparisons of one size."""
    full = network(n)
    halves = {kind: full.astype(kind) for kind in KINDS}
    for kind, half in halves.items():
        x = np.random.default_rng(1).standard_normal((3, n), np.float32)
        np.testing.assert_array_equal(half(x), half.astype("float32")(x), err_msg=kind)
    for m in rows:
        x = np.random.default_rng(1).standard_normal((m, n), np.float32)
        y = np.empty_like(x)
        row = {"m": m, "n": n}
        for kind, half in halves.items():
            found = harness.compare(
                lambda half=half: half(x, out=y), lambda: full(x, out=y), arguments.pairs, arguments.budget
            )
            row[kind] = dataclasses.asdict(found)
        yield row


def table(rows):
    """Return the rows as Markdown."""
    lines = [f"| m, k, n | float32, us | {' | '.join(f'{kind}, us | ratio' for kind in KINDS)} |", f"|{'--|' * 6}"]
    for row in rows:
        full = min(row[kind]["peer_median"] for kind in KINDS)
        cells = " | ".join(f"{row[kind]['ours_median'] * 1e6:.0f} | {row[kind]['ratio']:.2f}" for kind in KINDS)
        lines.append(f"| {row['m']}, {row['n']}, {row['n']} | {full * 1e6:.0f} | {cells} |")
    return "\n".join(lines)


def main():
    """Measure every case and write what was found."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[2048, 4096, 8192], help="features in and out")
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 8, 256])
    parser.add_argument("--pairs", type=int, default=25)
    parser.add_argument("--budget", type=float, default=2.0, help="seconds for one case and kind, about")
    parser.add_argument("--output", type=Path, help="a .json file; by default in benchmarks/results")
    arguments = parser.parse_args()
    if any(os.environ.get(name) != "1" for name in THREAD_VARIABLES):  # read when libraries are loaded: start again
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | dict.fromkeys(THREAD_VARIABLES, "1"))
    machine = harness.machine()
    rows = [row for n in arguments.sizes for row in measure(n, arguments.rows, arguments)]
    output = arguments.output or Path(__file__).with_name("results") / f"{machine['cpu']}-half-1.json"
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps({"machine": machine, "threads": 1, "rows": rows}, indent=1) + "\n")
    versions = ", ".join(f"{key} {machine['versions'][key]}" for key in ("numbadense", "numba", "llvmlite", "numpy"))
    text = (
        "Dense layers with sigmoid, one thread, weights at half size. Times of the float32 network over ours; "
        f"{machine['cpu']} ({machine['isa']}), {versions}.\n\n{table(rows)}\n"
    )
    output.with_suffix(".md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
