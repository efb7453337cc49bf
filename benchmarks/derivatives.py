"""Derivatives by the inputs, against JAX and PyTorch.

``python benchmarks/derivatives.py`` takes about half a minute and writes a JSON file and a Markdown table.  Every ratio
is the peer's time over ours, the median of interleaved pairs in one process; results are checked equal before anything
is timed.  A Jacobian of ours goes forward or backward, whichever is less work, and so the peers are asked both ways.
"""

import argparse
import dataclasses
import itertools
import json
import math
import sys
from pathlib import Path

import harness
import numpy as np
import run

import numbadense as nd

NETWORKS = [(8, 32, 32, 2), (64, 64, 64, 64, 1)]
ROWS = (1, 256)


def problem(widths, m, dtype):
    """Return examples, tangents and ``(w, b)`` by layer, random but the same each time."""
    rng = np.random.default_rng(0)
    pairs = list(itertools.pairwise(widths))
    layers = [
        ((rng.standard_normal((k, n)) / k**0.5).astype(dtype), rng.standard_normal(n).astype(dtype)) for k, n in pairs
    ]
    return *(rng.standard_normal((m, widths[0])).astype(dtype) for _ in range(2)), layers


def through(layers, a, tanh):
    """Return a network's outputs, in whatever arithmetic the arrays have."""
    for index, (w, b) in enumerate(layers):
        a = a @ w + b
        if index < len(layers) - 1:
            a = tanh(a)
    return a


def jax_ways(x, v, layers, threads):
    """`jax.jvp`, `jax.jacfwd` and `jax.jacrev` over rows, jitted, the weights constants of the program."""
    import jax
    import jax.numpy as jnp

    jax.config.update("jax_enable_x64", x.dtype == np.float64)
    layers = [(jnp.asarray(w), jnp.asarray(b)) for w, b in layers]

    def network(a):
        return through(layers, a, jnp.tanh)

    a, d = jnp.asarray(x), jnp.asarray(v)
    jvp = jax.jit(lambda a, d: jax.jvp(network, (a,), (d,)))
    ahead, back = (jax.jit(jax.vmap(of(network))) for of in (jax.jacfwd, jax.jacrev))
    return {
        "jvp": {"jax.jvp": lambda: jax.block_until_ready(jvp(a, d))},
        "jacobian": {
            "jax.jacfwd": lambda: jax.block_until_ready(ahead(a)),
            "jax.jacrev": lambda: jax.block_until_ready(back(a)),
        },
    }


def torch_ways(x, v, layers, threads):
    """`torch.func.jvp`, `torch.func.jacfwd` and `torch.func.jacrev` over rows."""
    import torch

    torch.set_num_threads(threads)
    layers = [(torch.from_numpy(w), torch.from_numpy(b)) for w, b in layers]

    def network(a):
        return through(layers, a, torch.tanh)

    a, d = torch.from_numpy(x), torch.from_numpy(v)
    ahead, back = (torch.func.vmap(of(network)) for of in (torch.func.jacfwd, torch.func.jacrev))
    return {
        "jvp": {"torch.func.jvp": lambda: torch.func.jvp(network, (a,), (d,))},
        "jacobian": {"torch.func.jacfwd": lambda: ahead(a), "torch.func.jacrev": lambda: back(a)},
    }


WAYS = {"jax": jax_ways, "torch": torch_ways}


def measure(widths, m, dtype, engine, arguments):
    """Return the comparisons with one engine, by what is computed and peer."""
    x, v, layers = problem(widths, m, dtype)
    net = nd.Sequential(
        [nd.Dense(w, b, "tanh" if index < len(layers) - 1 else None) for index, (w, b) in enumerate(layers)]
    )
    y, dy, jac = (np.empty((m, *shape), dtype) for shape in ((widths[-1],), (widths[-1],), (widths[-1], widths[0])))
    ours = {"jvp": lambda: net.jvp(x, v, out=(y, dy)), "jacobian": lambda: net.jacobian(x, out=jac)}
    try:
        ways = WAYS[engine](x, v, layers, arguments.threads)
    except ImportError:
        return {}
    tolerance = 5e-5 if dtype == np.float32 else 1e-12
    found = {}
    for what, peers in ways.items():
        for name, peer in peers.items():
            result = peer()
            expected = np.asarray(result[1] if what == "jvp" else result)
            ours[what]()
            np.testing.assert_allclose(dy if what == "jvp" else jac, expected, rtol=0, atol=tolerance, err_msg=name)
            comparison = harness.compare(ours[what], peer, arguments.pairs, arguments.budget)
            found.setdefault(what, {})[name] = dataclasses.asdict(comparison)
    return found


def worker(arguments):
    """Measure every network with one of the engines, and print one JSON line each."""
    for widths, m in itertools.product(NETWORKS, ROWS):
        for what, peers in measure(widths, m, np.dtype(arguments.dtype), arguments.worker, arguments).items():
            print(json.dumps({"widths": widths, "m": m, "what": what, "peers": peers}), flush=True)


def table(rows):
    """Return the rows as Markdown: ours in microseconds, then each peer's time over ours."""
    lines = ["| network | rows | | ours, us | JAX forward | JAX backward | PyTorch forward | PyTorch backward | best |"]
    lines.append(f"|{'--|' * 9}")
    for row in rows:
        of = row["peers"]
        ways = ("jvp", None) if row["what"] == "jvp" else ("jacfwd", "jacrev")
        names = [f"{engine}.{way}" if way else None for engine in ("jax", "torch.func") for way in ways]
        shown = " | ".join(f"{of[name]['ratio']:.2f}" if name in of else "" for name in names)
        ours = min(comparison["ours_median"] for comparison in of.values())
        shape = "-".join(map(str, row["widths"]))
        lines.append(f"| {shape} | {row['m']} | {row['what']} | {ours * 1e6:.1f} | {shown} | {row['best']:.2f} |")
    mean = math.exp(sum(math.log(row["best"]) for row in rows) / len(rows))
    lines.append(f"\nGeometric mean against the best peer of each row: {mean:.2f}.")
    return "\n".join(lines)


def main():
    """Run a worker for JAX and one for PyTorch, whose pools would disturb each other, and write what they found."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--dtype", choices=["float32", "float64"], default="float32")
    parser.add_argument("--threads", type=int, default=1, help="for every engine")
    parser.add_argument("--pairs", type=int, default=25)
    parser.add_argument("--budget", type=float, default=1.0, help="seconds for one case and peer, about")
    parser.add_argument("--output", type=Path, help="a .json file; by default in benchmarks/results")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        worker(arguments)
        return
    machine = harness.machine()
    rows = {}
    for engine in WAYS:
        options = ("dtype", "threads", "pairs", "budget")
        for found in run.run_worker(arguments, [engine], {}, Path(__file__), options, ";"):
            row = rows.setdefault((*found["widths"], found["m"], found["what"]), found)
            row["peers"] |= found["peers"]
    rows = list(rows.values())
    for row in rows:
        row["best"] = min(comparison["ratio"] for comparison in row["peers"].values())
    result = {"machine": machine, "suite": "derivatives", "dtype": arguments.dtype, "threads": arguments.threads}
    name = f"{machine['cpu']}-derivatives-{arguments.dtype}-{arguments.threads}.json"
    output = arguments.output or Path(__file__).with_name("results") / name
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(result | {"rows": rows}, indent=1) + "\n")
    versions = ", ".join(f"{key} {value}" for key, value in machine["versions"].items() if value)
    text = (
        f"Derivatives of networks by their inputs, tanh, {arguments.dtype}, threads: {arguments.threads}. "
        f"Times of the peers over ours; {machine['cpu']} ({machine['isa']}), {versions}.\n\n{table(rows)}\n"
    )
    output.with_suffix(".md").write_text(text)
    print(text)


if __name__ == "__main__":
    sys.exit(main())
