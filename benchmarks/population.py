"""Populations of networks, one row or a few through each, against JAX and PyTorch.

``python benchmarks/population.py --threads 1`` takes about a minute and writes a JSON file and a Markdown table.  Every
ratio is the peer's time over ours, the median of interleaved pairs in one process; results are checked equal before
anything is timed.  The last column is the time to read the weights once over ours: NumPy's maximum of an array of their
size, on one thread.  At 1 there, a call is as fast as one thread's memory; no engine that reads all weights can be
faster by much.
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

POPULATIONS = [(100, 1), (1000, 1), (10_000, 1), (100, 32), (1000, 32)]  # networks, rows for each
WIDTHS = (8, 32, 32, 2)


def problem(networks, m, dtype, widths=WIDTHS):
    """Return examples and the stacked weights and biases by layer, random but the same each time."""
    rng = np.random.default_rng(0)
    pairs = list(itertools.pairwise(widths))
    weights = [(rng.standard_normal((networks, k, n)) / k**0.5).astype(dtype) for k, n in pairs]
    biases = [rng.standard_normal((networks, n)).astype(dtype) for _, n in pairs]
    return rng.standard_normal((networks, m, widths[0])).astype(dtype), weights, biases


def torch_layers(x, weights, biases):
    """Return tensors that share the arrays' memory."""
    import torch

    return torch.from_numpy(x), [
        (torch.from_numpy(w), torch.from_numpy(b)) for w, b in zip(weights, biases, strict=True)
    ]


def baddbmm(x, weights, biases, threads):
    """`torch.baddbmm` by layer, in inference mode, the tanh in place."""
    import torch

    torch.set_num_threads(threads)
    tensor, layers = torch_layers(x, weights, biases)

    def call():
        with torch.inference_mode():
            a = tensor
            for index, (w, b) in enumerate(layers):
                a = torch.baddbmm(b[:, None], a, w)
                if index < len(layers) - 1:
                    a = torch.tanh_(a)
        return a

    return call


def torch_vmap(x, weights, biases, threads):
    """`torch.func.vmap` of one network, in inference mode."""
    import torch

    torch.set_num_threads(threads)
    tensor, layers = torch_layers(x, weights, biases)

    def network(layers, a):
        for index, (w, b) in enumerate(layers):
            a = torch.addmm(b, a, w)
            if index < len(layers) - 1:
                a = torch.tanh(a)
        return a

    mapped = torch.func.vmap(network)

    def call():
        with torch.inference_mode():
            return mapped(layers, tensor)

    return call


def jax_network(layers, a):
    """Return one network's output."""
    import jax.numpy as jnp

    for index, (w, b) in enumerate(layers):
        a = a @ w + b
        if index < len(layers) - 1:
            a = jnp.tanh(a)
    return a


def jax_arguments(x, weights, biases, threads):
    """`jax.vmap`, jitted, the weights arguments."""
    import jax
    import jax.numpy as jnp

    jax.config.update("jax_enable_x64", x.dtype == np.float64)
    layers = [(jnp.asarray(w), jnp.asarray(b)) for w, b in zip(weights, biases, strict=True)]
    mapped, ready = jax.jit(jax.vmap(jax_network)), jnp.asarray(x)
    return lambda: mapped(layers, ready).block_until_ready()


def jax_constants(x, weights, biases, threads):
    """`jax.vmap`, jitted, the weights constants of the program."""
    import jax
    import jax.numpy as jnp

    jax.config.update("jax_enable_x64", x.dtype == np.float64)
    layers = [(jnp.asarray(w), jnp.asarray(b)) for w, b in zip(weights, biases, strict=True)]
    mapped, ready = jax.jit(lambda a: jax.vmap(jax_network)(layers, a)), jnp.asarray(x)
    return lambda: mapped(ready).block_until_ready()


PEERS = {
    "jax.vmap, arguments": jax_arguments,
    "jax.vmap, constants": jax_constants,
    "torch.baddbmm": baddbmm,
    "torch.func.vmap": torch_vmap,
}


def measure(networks, m, dtype, names, arguments):
    """Return the comparisons of one population by peer."""
    x, weights, biases = problem(networks, m, dtype)
    population = nd.Population(weights, biases, ["tanh", "tanh", None])
    y = np.empty((networks, m, WIDTHS[-1]), dtype)

    def ours():
        population(x, out=y)

    ours()
    found = {}
    for name in names:
        if name == "reading the weights":
            as_much = np.ones(sum(w.size + b.size for w, b in zip(weights, biases, strict=True)), dtype)
            peer = as_much.max
        else:
            try:
                peer = PEERS[name](x, weights, biases, arguments.threads)
            except ImportError:
                continue
            tolerance = 2e-5 if dtype == np.float32 else 1e-12
            np.testing.assert_allclose(np.asarray(peer()), y, rtol=0, atol=tolerance, err_msg=name)
        found[name] = dataclasses.asdict(harness.compare(ours, peer, arguments.pairs, arguments.budget))
    return found


def worker(arguments):
    """Measure every population with some of the peers, and print one JSON line each."""
    for networks, m in POPULATIONS:
        comparisons = measure(networks, m, np.dtype(arguments.dtype), arguments.worker.split(";"), arguments)
        print(json.dumps({"networks": networks, "m": m, "widths": WIDTHS, "peers": comparisons}), flush=True)


def table(rows):
    """Return the rows as Markdown: ours in microseconds, then each peer's time over ours."""
    names = [name for name in PEERS if name in rows[0]["peers"]]
    lines = [
        f"| networks x rows | ours, us | {' | '.join(names)} | best peer | reading the weights |",
        f"|{'--|' * (len(names) + 4)}",
    ]
    for row in rows:
        shown = " | ".join(f"{row['peers'][name]['ratio']:.2f}" for name in names)
        ours = min(comparison["ours_median"] for comparison in row["peers"].values())
        reading = row["peers"]["reading the weights"]["ratio"]
        lines.append(
            f"| {row['networks']:,} x {row['m']} | {ours * 1e6:.1f} | {shown} | {row['best']:.2f} | {reading:.2f} |"
        )
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
    rows = None
    for names in ([*list(PEERS)[:2], "reading the weights"], list(PEERS)[2:]):
        found = list(run.run_worker(arguments, names, {}, Path(__file__), ("dtype", "threads", "pairs", "budget"), ";"))
        rows = found if rows is None else rows
        for row, other in zip(rows, found, strict=True):
            row["peers"] |= other["peers"]
    for row in rows:
        row["best"] = min(row["peers"][name]["ratio"] for name in PEERS if name in row["peers"])
    shape = "-".join(map(str, WIDTHS))
    result = {"machine": machine, "suite": "population", "dtype": arguments.dtype, "threads": arguments.threads}
    name = f"{machine['cpu']}-population-{arguments.dtype}-{arguments.threads}.json"
    output = arguments.output or Path(__file__).with_name("results") / name
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(result | {"rows": rows}, indent=1) + "\n")
    versions = ", ".join(f"{key} {value}" for key, value in machine["versions"].items() if value)
    text = (
        f"Populations of {shape} networks, tanh, {arguments.dtype}, threads: {arguments.threads}. "
        f"Times of the peers over ours; {machine['cpu']} ({machine['isa']}), {versions}.\n\n{table(rows)}\n"
    )
    output.with_suffix(".md").write_text(text)
    print(text)


if __name__ == "__main__":
    sys.exit(main())
