"""Activations over arrays, through the public face, against every peer that is installed.

``python benchmarks/activations.py`` takes two minutes and writes a JSON file and a
Markdown table.  Every ratio is the peer's time over ours, the median of interleaved pairs on one thread, the result
written to an array that is there; results are checked equal before anything is timed.
"""

import argparse
import dataclasses
import json
import os
import sys
from pathlib import Path

import harness
import numpy as np

import numbadense as nd

# What keeps every engine to one thread; the script starts itself anew where they are not set.
THREADS = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"), "1")

NAMES = ("sigmoid", "tanh", "relu", "silu", "softplus", "gelu", "gelu_tanh", "mish", "elu", "exp")
HIGH = ("sigmoid", "tanh")  # also with accuracy="high"
SIZES = {"in cache": 65_536, "from memory": 16_777_216}


def torch_peer(name, x, y):
    """Return PyTorch's function with ``out=``, in inference mode."""
    import torch

    torch.set_num_threads(1)
    operators = torch.ops.aten
    source, target = torch.from_numpy(x), torch.from_numpy(y)
    calls = {
        "sigmoid": lambda: torch.sigmoid(source, out=target),
        "tanh": lambda: torch.tanh(source, out=target),
        "relu": lambda: torch.clamp_min(source, 0, out=target),
        "silu": lambda: operators.silu.out(source, out=target),
        "softplus": lambda: operators.softplus.out(source, 1, 40, out=target),
        "gelu": lambda: operators.gelu.out(source, out=target),
        "gelu_tanh": lambda: operators.gelu.out(source, approximate="tanh", out=target),
        "mish": lambda: operators.mish.out(source, out=target),
        "elu": lambda: operators.elu.out(source, out=target),
        "exp": lambda: torch.exp(source, out=target),
    }

    def run():
        with torch.inference_mode():
            calls[name]()

    return run


def numpy_peer(name, x, y):
    """Return NumPy's ufunc, for what it has."""
    ufunc = {"tanh": np.tanh, "exp": np.exp}.get(name)
    if name == "relu":
        return lambda: np.maximum(x, 0, out=y)
    return ufunc and (lambda: ufunc(x, out=y))


def scipy_peer(name, x, y):
    """Return SciPy's expit, for sigmoid."""
    from scipy.special import expit

    return (lambda: expit(x, out=y)) if name == "sigmoid" else None


def onnxruntime_peer(name, x, y):
    """Return a session of one node with arrays bound to it, for the standard operators in float32."""
    import onnxruntime as ort
    from onnx import TensorProto, helper

    operator = {"sigmoid": "Sigmoid", "tanh": "Tanh", "relu": "Relu", "softplus": "Softplus", "elu": "Elu"}.get(name)
    if operator is None or x.dtype != np.float32:
        return None
    tensors = [helper.make_tensor_value_info(label, TensorProto.FLOAT, list(x.shape)) for label in "xy"]
    graph = helper.make_graph([helper.make_node(operator, ["x"], ["y"])], name, tensors[:1], tensors[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads, options.log_severity_level = 1, 1, 3
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    binding = session.io_binding()
    for bind, label, array in ((binding.bind_input, "x", x), (binding.bind_output, "y", y)):
        bind(label, "cpu", 0, np.float32, list(array.shape), array.ctypes.data)
    return lambda: session.run_with_iobinding(binding)


PEERS = {"torch": torch_peer, "numpy": numpy_peer, "scipy": scipy_peer, "onnxruntime": onnxruntime_peer}


def measure(name, dtype, size, accuracy, pairs, budget):
    """Return the comparisons of one activation by peer."""
    x = (3 * np.random.default_rng(0).standard_normal(size)).astype(dtype)
    y, z = np.empty_like(x), np.empty_like(x)
    function = getattr(nd, name)

    def ours():
        function(x, out=y, accuracy=accuracy)

    ours()
    found = {}
    for label, make in PEERS.items():
        try:
            peer = make(name, x, z)
        except ImportError:
            continue
        if peer is not None:
            peer()
            np.testing.assert_allclose(z, y, rtol=1e-4, atol=1e-5, err_msg=f"{name} of {label}")
            found[label] = dataclasses.asdict(harness.compare(ours, peer, pairs, budget))
    return found


def table(rows):
    """Return the rows as Markdown: ours in nanoseconds an element, then each peer's time over ours."""
    lines = [f"| activation | dtype | where | ours, ns | {' | '.join(PEERS)} | fastest peer |"]
    lines.append(f"|{'--|' * (len(PEERS) + 5)}")
    for row in rows:
        ours = min(found["ours_median"] for found in row["peers"].values()) / row["size"] * 1e9
        ratios = [row["peers"].get(label, {}).get("ratio") for label in PEERS]
        shown = " | ".join("" if ratio is None else f"{ratio:.2f}" for ratio in ratios)
        name = row["name"] + (f", {row['accuracy']}" if row["accuracy"] else "")
        lines.append(f"| {name} | {row['dtype']} | {row['where']} | {ours:.3f} | {shown} | {row['best']:.2f} |")
    return "\n".join(lines)


def main():
    """Measure everything and write it."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--names", nargs="+", default=NAMES, choices=NAMES)
    parser.add_argument("--where", nargs="+", default=list(SIZES), choices=list(SIZES))
    parser.add_argument("--dtypes", nargs="+", default=["float32", "float64"])
    parser.add_argument("--pairs", type=int, default=15)
    parser.add_argument("--budget", type=float, default=0.5, help="seconds for one case and peer, about")
    parser.add_argument("--output", type=Path, help="a .json file; by default in benchmarks/results")
    arguments = parser.parse_args()
    if any(os.environ.get(name) != value for name, value in THREADS.items()):
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | THREADS)
    rows = []
    for where in arguments.where:
        for dtype in arguments.dtypes:
            for name in arguments.names:
                for accuracy in (None, "high") if name in HIGH else (None,):
                    found = measure(name, dtype, SIZES[where], accuracy, arguments.pairs, arguments.budget)
                    case = {"name": name, "dtype": dtype, "where": where, "size": SIZES[where], "accuracy": accuracy}
                    rows.append(case | {"peers": found, "best": min(pair["ratio"] for pair in found.values())})
    machine = harness.machine()
    output = arguments.output or Path(__file__).with_name("results") / f"{machine['cpu']}-activations-1.json"
    output.write_text(json.dumps({"machine": machine, "threads": 1, "rows": rows}, indent=1) + "\n")
    text = (
        "Activations of normal numbers of spread 3, one thread: nanoseconds an element, then the times of the peers "
        f"over ours; {machine['cpu']} ({machine['isa']}), "
        + ", ".join(f"{key} {value}" for key, value in machine["versions"].items() if value)
        + f".\n\n{table(rows)}\n"
    )
    output.with_suffix(".md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
