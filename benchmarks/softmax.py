"""Activations over arrays, through the public face with ``out=``, against every peer that is installed.

``--suite rows`` is softmax and log_softmax of matrices; ``--suite memory`` is element-wise activations of arrays that
no cache holds, with `np.copyto` as the peer that only moves them.  It writes a JSON file and a Markdown table.  Every
ratio is the peer's time over ours, the median of interleaved pairs in one process on one thread; results are checked
equal before anything is timed.
"""

import argparse
import dataclasses
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import harness
import numpy as np
import run

import numbadense as nd

ROWS = [
    *((64, 1000), (1000, 64), (1024, 1024)),  # wide, narrow, square
    *((4096, 10), (65536, 8), (256, 3), (2000, 17), (4096, 100)),  # where a classifier's last layer lives
]
CASES = {
    "rows": [(name, shape) for name in ("softmax", "log_softmax") for shape in ROWS],
    "memory": [(name, (1 << 24,)) for name in ("relu", "sigmoid", "tanh", "silu", "softplus")],
}


def torch(name, x, out):
    """In inference mode, into a tensor of its own."""
    import torch

    torch.set_num_threads(1)
    source, target = torch.from_numpy(x), torch.from_numpy(out)
    function = {
        "softmax": lambda: torch.softmax(source, dim=1, out=target),
        "log_softmax": lambda: torch.log_softmax(source, dim=1, out=target),
        "relu": lambda: torch.clamp_min(source, 0, out=target),
        "sigmoid": lambda: torch.sigmoid(source, out=target),
        "tanh": lambda: torch.tanh(source, out=target),
        "silu": lambda: torch.ops.aten.silu.out(source, out=target),
        "softplus": lambda: torch.ops.aten.softplus.out(source, out=target),
    }[name]

    def call():
        with torch.inference_mode():
            function()

    return call


def numpy_scipy(name, x, out):
    """One ufunc where there is one; SciPy's softmax has no ``out=``."""
    from scipy import special

    return {
        "softmax": lambda: np.copyto(out, special.softmax(x, axis=1)),
        "log_softmax": lambda: np.copyto(out, special.log_softmax(x, axis=1)),
        "relu": lambda: np.maximum(x, 0, out=out),
        "sigmoid": lambda: special.expit(x, out=out),
        "tanh": lambda: np.tanh(x, out=out),
    }.get(name)


PEERS = {"torch": torch, "numpy+scipy": numpy_scipy}


def measure(name, shape, dtype, arguments):
    """Return the comparisons of one case by peer."""
    x = np.random.default_rng(0).standard_normal(shape, np.float32).astype(dtype)
    out, other = np.zeros_like(x), np.zeros_like(x)
    function = getattr(nd, name)

    def ours():
        function(x, out=out)

    ours()
    found = {}
    for peer_name, make in PEERS.items():
        if importlib.util.find_spec(peer_name.rpartition("+")[2]) is None:
            continue
        peer = make(name, x, other)
        if peer is not None:
            peer()
            np.testing.assert_allclose(other, out, rtol=3e-5 if dtype == np.float32 else 1e-12, err_msg=peer_name)
            found[peer_name] = dataclasses.asdict(harness.compare(ours, peer, arguments.pairs, arguments.budget))
    if arguments.suite == "memory":
        copied = harness.compare(ours, lambda: np.copyto(other, x), arguments.pairs, arguments.budget)
        found["np.copyto"] = dataclasses.asdict(copied)
    return found


def table(rows):
    """Return the rows as Markdown: ours in nanoseconds an element, then each peer's time over ours."""
    names = list(dict.fromkeys(name for row in rows for name in row["peers"]))
    lines = [f"| activation | dtype | shape | ours, ns | {' | '.join(names)} |", f"|{'--|' * (len(names) + 4)}"]
    for row in rows:
        ratios = [row["peers"].get(name, {}).get("ratio") for name in names]
        shown = " | ".join("" if ratio is None else f"{ratio:.2f}" for ratio in ratios)
        ours = min(comparison["ours_median"] for comparison in row["peers"].values()) / np.prod(row["shape"])
        shape = " x ".join(map(str, row["shape"]))
        lines.append(f"| {row['activation']} | {row['dtype']} | {shape} | {ours * 1e9:.3f} | {shown} |")
    return "\n".join(lines)


def main():
    """Measure every case and write what was found."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--suite", choices=CASES, default="rows")
    parser.add_argument("--pairs", type=int, default=25)
    parser.add_argument("--budget", type=float, default=0.5, help="seconds for one case and peer, about")
    parser.add_argument("--output", type=Path, help="a .json file; by default in benchmarks/results")
    arguments = parser.parse_args()
    if any(os.environ.get(variable) != "1" for variable in run.THREAD_VARIABLES):  # read before anything is imported
        environment = os.environ | dict.fromkeys(run.THREAD_VARIABLES, "1")
        sys.exit(subprocess.run([sys.executable, *sys.argv], env=environment, check=False).returncode)
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    machine = harness.machine()
    rows = [
        {"activation": name, "dtype": dtype, "shape": shape, "peers": measure(name, shape, np.dtype(dtype), arguments)}
        for name, shape in CASES[arguments.suite]
        for dtype in ("float32", "float64")
    ]
    output = arguments.output or Path(__file__).with_name("results") / f"{machine['cpu']}-{arguments.suite}-1.json"
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps({"machine": machine, "suite": arguments.suite, "rows": rows}, indent=1) + "\n")
    text = (
        f"Activations, suite {arguments.suite}, one thread. Times of the peers over ours; {machine['cpu']} "
        f"({machine['isa']}), "
        + ", ".join(f"{key} {value}" for key, value in machine["versions"].items() if value)
        + f".\n\n{table(rows)}\n"
    )
    output.with_suffix(".md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
