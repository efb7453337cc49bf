"""Dense layers with sigmoid, through the public face, against every peer that is installed.

``python benchmarks/run.py`` takes some minutes and writes a JSON file and a Markdown table.  Every ratio is the peer's
time over ours, the median of interleaved pairs in one process; results are checked equal before anything is timed.
NumPy is measured as it comes, and in a second process with ``OPENBLAS_CORETYPE`` set to what the CPU can do.
"""

import argparse
import dataclasses
import itertools
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import harness
import numpy as np
import peers

import numbadense as nd

GRID = [
    *((1, n, n) for n in (16, 64, 256, 1024, 4096)),
    *((32, n, n) for n in (64, 256, 1024)),
    *((256, 64, 64), (256, 784, 128), (256, 1024, 1024), (1024, 1024, 1024)),
    *((4096, 64, 64), (4096, 256, 256), (4096, 1024, 1024), (65536, 32, 32)),
]
NETWORKS = [(8, 32, 32, 2), (64, 64, 64, 64, 1), (784, 256, 128, 10), (32, 32, 32, 32)]
CASES = {
    "dense": [(m, (k, n)) for m, k, n in GRID],
    "networks": [(m, widths) for widths in NETWORKS for m in (1, 8, 256, 65536)],
}
# What keeps every engine to its threads; set for the workers, before anything is imported there.
THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
OPTIONS = ("suite", "dtype", "threads", "pairs", "budget")
XLA_SERIAL = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
CORETYPES = {"avx512": "SkylakeX", "avx2": "Haswell"}


def problem(m, widths, dtype):
    """Return examples and ``(w, b)`` layers, random but the same each time."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((m, widths[0])).astype(dtype)
    layers = [
        ((rng.standard_normal((k, n)) / k**0.5).astype(dtype), rng.standard_normal(n).astype(dtype))
        for k, n in itertools.pairwise(widths)
    ]
    return x, layers


def measure(m, widths, dtype, names, arguments):
    """Return the comparisons of one case by peer."""
    x, layers = problem(m, widths, dtype)
    net = nd.Sequential([nd.Dense(w, b, "sigmoid") for w, b in layers])
    y = np.empty((m, widths[-1]), dtype)

    def ours():
        net(x, out=y)

    ours()
    found = {}
    for name in names:
        try:
            peer = peers.PEERS[name](x, layers, arguments.threads)
        except ImportError:
            continue
        tolerance = 1e-5 if dtype == np.float32 else 1e-12
        np.testing.assert_allclose(peers.as_numpy(peer()), y, rtol=0, atol=tolerance, err_msg=name)
        found[name] = dataclasses.asdict(harness.compare(ours, peer, arguments.pairs, arguments.budget))
    return found


def worker(arguments):
    """Measure every case with some of the peers, and print one JSON line each."""
    for m, widths in CASES[arguments.suite]:
        comparisons = measure(m, widths, np.dtype(arguments.dtype), arguments.worker.split(","), arguments)
        print(json.dumps({"m": m, "widths": widths, "peers": comparisons}), flush=True)


def run_worker(arguments, names, environment, script=__file__, keys=OPTIONS, comma=","):
    """Start a worker of `script`, pinned to as many cores as it has threads, and yield its lines."""
    options = [f"--{key}={getattr(arguments, key)}" for key in keys]
    command = [sys.executable, str(script), *options, f"--worker={comma.join(names)}"]
    cores = sorted(os.sched_getaffinity(0))[: arguments.threads]
    environment = environment | dict.fromkeys(THREAD_VARIABLES, str(arguments.threads)) | {"JAX_PLATFORMS": "cpu"}
    if arguments.threads == 1:
        environment["XLA_FLAGS"] = XLA_SERIAL
    with subprocess.Popen(
        command,
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: os.sched_setaffinity(0, cores),
    ) as process:
        yield from map(json.loads, process.stdout)
    if process.returncode:
        sys.exit(f"the worker for {', '.join(names)} failed")


def table(rows):
    """Return the rows as Markdown: ours in microseconds, then each peer's time over ours."""
    names = list(dict.fromkeys(name for row in rows for name in row["peers"]))
    lines = [f"| m, widths | ours, us | {' | '.join(names)} | best peer |", f"|{'--|' * (len(names) + 3)}"]
    for row in rows:
        ratios = [row["peers"].get(name, {}).get("ratio") for name in names]
        shown = " | ".join("" if ratio is None else f"{ratio:.2f}" for ratio in ratios)
        ours = min(comparison["ours_median"] for comparison in row["peers"].values())
        widths = "-".join(map(str, row["widths"]))
        lines.append(f"| {row['m']}, {widths} | {ours * 1e6:.2f} | {shown} | {row['best']:.2f} |")
    mean = math.exp(sum(math.log(row["best"]) for row in rows) / len(rows))
    lines.append(
        f"\nGeometric mean against the best peer of each row: {mean:.2f}; least: {min(r['best'] for r in rows):.2f}."
    )
    return "\n".join(lines)


def main():
    """Run the workers and write what they found."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--suite", choices=CASES, default="dense")
    parser.add_argument("--dtype", choices=["float32", "float64"], default="float32")
    parser.add_argument("--threads", type=int, default=1, help="for every engine")
    parser.add_argument("--pairs", type=int, default=25)
    parser.add_argument("--budget", type=float, default=2.0, help="seconds for one case and peer, about")
    parser.add_argument("--output", type=Path, help="a .json file; by default in benchmarks/results")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        worker(arguments)
        return
    machine = harness.machine()
    rows = list(run_worker(arguments, list(peers.PEERS), {}))
    coretype = CORETYPES.get(machine["isa"])
    if coretype:
        tuned = run_worker(arguments, ["numpy+scipy"], {"OPENBLAS_CORETYPE": coretype})
        for row, other in zip(rows, tuned, strict=True):
            row["peers"][f"numpy+scipy, {coretype}"] = other["peers"]["numpy+scipy"]
    for row in rows:
        row["best"] = min(comparison["ratio"] for comparison in row["peers"].values())
    result = {
        "machine": machine,
        "suite": arguments.suite,
        "dtype": arguments.dtype,
        "threads": arguments.threads,
        "rows": rows,
    }
    name = f"{machine['cpu']}-{arguments.suite}-{arguments.dtype}-{arguments.threads}.json"
    output = arguments.output or Path(__file__).with_name("results") / name
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(result, indent=1) + "\n")
    text = (
        f"{arguments.suite} + sigmoid, {arguments.dtype}, threads: {arguments.threads}. Times of the peers over ours; "
        f"{machine['cpu']} ({machine['isa']}), "
        + ", ".join(f"{key} {value}" for key, value in machine["versions"].items() if value)
        + f".\n\n{table(rows)}\n"
    )
    output.with_suffix(".md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
