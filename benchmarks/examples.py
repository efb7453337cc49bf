"""The examples of the documentation: networks in a compiled loop, against frameworks called from a Python loop.

``python benchmarks/examples.py`` runs the examples themselves, then the same loops in Python with PyTorch's and
scikit-learn's network in the place of ours, results compared first.  Times are for one call of the network and the rest
of its turn of the loop.  It takes a minute and writes a JSON file and a Markdown table.
"""

import argparse
import json
import math
import os
import runpy
from pathlib import Path

import harness
import numpy as np

EXAMPLES = Path(__file__).parent.parent / "docs" / "examples"
PAIRS, BUDGET = 15, 20.0


def in_torch(net):
    """Return PyTorch's copy of a network of tanh, clip and identity layers, as a function of one row."""
    import torch

    torch.set_num_threads(1)
    modules = []
    for layer in net.layers:
        linear = torch.nn.Linear(layer.n_in, layer.n_out, dtype=getattr(torch, net.dtype.name))
        linear.weight.data = torch.tensor(layer.w.T.copy())
        linear.bias.data = torch.tensor(np.zeros(layer.n_out, net.dtype) if layer.b is None else layer.b.copy())
        modules.append(linear)
        if layer.activation.name != "identity":
            modules.append(torch.nn.Tanh() if layer.activation.name == "tanh" else torch.nn.Hardtanh(-10, 10))
    model = torch.nn.Sequential(*modules).eval()

    @torch.inference_mode()
    def call(x):
        return model(torch.from_numpy(x)).numpy()

    return call


def in_sklearn(net):
    """Return scikit-learn's copy of a network of tanh layers and a last one of none, as a function of one row."""
    from sklearn.neural_network import MLPRegressor

    model = MLPRegressor(hidden_layer_sizes=[layer.n_out for layer in net.layers[:-1]], activation="tanh")
    rng = np.random.default_rng(0)
    model.partial_fit(*(rng.standard_normal((4, n)).astype(net.dtype) for n in (net.n_in, net.n_out)))
    model.coefs_ = [layer.w.copy() for layer in net.layers]
    model.intercepts_ = [np.zeros(n.n_out, net.dtype) if n.b is None else n.b.copy() for n in net.layers]
    return lambda x: model.predict(x[None])[0]


def carts_in_python(call, states, steps):
    """Step each cart in turn, as ``plot_policy.py`` does."""
    gravity, cart, pole, length, dt = 9.8, 1.0, 0.1, 0.5, 0.02
    for state in states:
        for _ in range(steps):
            if abs(state[2]) > 1.5:
                continue
            force = call(state)[0]
            sin, cos = math.sin(state[2]), math.cos(state[2])
            push = (force + pole * length * state[3] ** 2 * sin) / (cart + pole)
            turn = (gravity * sin - cos * push) / (length * (4 / 3 - pole * cos**2 / (cart + pole)))
            state[1] += dt * (push - pole * length * turn * cos / (cart + pole))
            state[3] += dt * turn
            state[0] += dt * state[1]
            state[2] += dt * state[3]


def path_in_python(call, z, dt, steps):
    """Integrate as ``plot_neural_ode.py`` does."""
    path = np.empty((steps + 1, z.size))
    path[0] = z
    for step in range(steps):
        z = path[step]
        k1 = call(z)
        k2 = call(z + dt / 2 * k1)
        k3 = call(z + dt / 2 * k2)
        k4 = call(z + dt * k3)
        path[step + 1] = z + dt / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
    return path


def chain_in_python(call, data, noise, low, high, start, steps, size, seed):
    """Walk as ``plot_surrogate.py`` does: NumPy's old generator is the one that numba has."""
    rng = np.random.RandomState(seed)
    visited, taken = np.empty((steps, 2)), 0
    here = start.copy()
    fit = -((call(here) - data) ** 2).sum() / (2 * noise**2)
    for step in range(steps):
        there = np.array([here[j] + size * (high[j] - low[j]) * rng.standard_normal() for j in range(2)])
        if ((low < there) & (there < high)).all():
            new = -((call(there) - data) ** 2).sum() / (2 * noise**2)
            if np.log(rng.random_sample()) < new - fit:
                here, fit = there, new
                taken += 1
        visited[step] = here
    return visited, taken


def run(name):
    """Return the names of an example that has run, without its pictures."""
    os.environ["MPLBACKEND"] = "agg"
    return runpy.run_path(str(EXAMPLES / f"plot_{name}.py"))


def policy(copies):
    """Yield the framework's name and both loops over carts."""
    shown = run("policy")
    net, start = shown["policy"], shown["start"][:8]
    for name in ("torch",):
        call = copies[name](net)
        ours, peer, angles = start.copy(), start.copy(), np.empty((8, 1), "f4")
        shown["simulate"](net.jit, ours, 40, 40, angles)
        carts_in_python(call, peer, 40)
        np.testing.assert_allclose(ours, peer, rtol=1e-3, atol=1e-3)
        calls = 8 * 40
        yield (
            name,
            calls,
            lambda: shown["simulate"](net.jit, start.copy(), 40, 40, angles),
            lambda call=call: carts_in_python(call, start.copy(), 40),
        )


def neural_ode(copies):
    """Yield the frameworks' names and both solvers."""
    shown = run("neural_ode")
    net, begin = shown["net"], np.log([10.0, 5.0])
    for name, copy in copies.items():
        call = copy(net)
        np.testing.assert_allclose(path_in_python(call, begin, 0.01, 50), shown["integrate"](net.jit, begin, 0.01, 50))
        yield (
            name,
            4 * 50,
            lambda: shown["integrate"](net.jit, begin, 0.01, 50),
            lambda call=call: path_in_python(call, begin, 0.01, 50),
        )


def surrogate(copies):
    """Yield the frameworks' names and both chains."""
    shown = run("surrogate")
    net = shown["net"]
    arguments = [shown[key] for key in ("data", "NOISE", "LOW", "HIGH", "START")]
    for name, copy in copies.items():
        call = copy(net)
        ours = shown["chain"](net.jit, *arguments, 300, shown["SIZE"], 1)
        peer = chain_in_python(call, *arguments, 300, shown["SIZE"], 1)
        np.testing.assert_allclose(ours[0], peer[0])
        yield (
            name,
            300,
            lambda: shown["chain"](net.jit, *arguments, 300, shown["SIZE"], 1),
            lambda call=call: chain_in_python(call, *arguments, 300, shown["SIZE"], 1),
        )


def table(results):
    """Return the results as a Markdown table."""
    lines = ["| example | framework | its turn of the loop | ours | speed-up |", "|--|--|--|--|--|"]
    for row in results["rows"]:
        theirs, ours = row["peer_median"] * 1e6, row["ours_median"] * 1e6
        lines.append(
            f"| {row['example']} | {row['framework']} | {theirs:.1f} us | {ours:.2f} us | {row['ratio']:.0f}x |"
        )
    machine = results["machine"]
    versions = ", ".join(f"{name} {machine['versions'][name]}" for name in ("numba", "torch"))
    lines += ["", f"One thread of a {machine['cpu']}, {versions}, scikit-learn {results['scikit-learn']}."]
    return "\n".join(lines) + "\n"


def main():
    """Run the examples, time them, and write what came of it."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--pairs", type=int, default=PAIRS)
    arguments = parser.parse_args()
    import importlib.metadata

    import numba

    numba.set_num_threads(1)
    copies = {"torch": in_torch, "scikit-learn": in_sklearn}
    rows = []
    for example in (policy, neural_ode, surrogate):
        for framework, calls, ours, peer in example(copies):
            found = harness.compare(ours, peer, arguments.pairs, BUDGET)
            rows.append(
                {
                    "example": example.__name__.replace("_", " "),
                    "framework": framework,
                    "ours_median": found.ours_median / calls,
                    "peer_median": found.peer_median / calls,
                    "ratio": found.ratio,
                    "spread": found.spread,
                }
            )
    results = {
        "machine": harness.machine(),
        "scikit-learn": importlib.metadata.version("scikit-learn"),
        "rows": rows,
    }
    path = Path(__file__).parent / "results" / f"{results['machine']['cpu']}-examples"
    path.with_suffix(".json").write_text(json.dumps(results, indent=1) + "\n")
    path.with_suffix(".md").write_text(table(results))
    print(table(results))


if __name__ == "__main__":
    main()
