"""Dask arrays: memory against the size of the input, from Zarr to Zarr, and what a graph holds.

``python benchmarks/dask_scale.py`` needs dask and zarr, and room on disk for the largest input.  Each size has a
process of its own; its memory is what the peak resident set grows by after a run over two chunks.
"""

import argparse
import functools
import itertools
import json
import pickle
import subprocess
import sys
import tempfile
from pathlib import Path

import harness
import numpy as np

import numbadense as nd

FEATURES, CHUNK = 256, 8192  # 8 MB a chunk
SMALLEST = 16  # MB: two chunks


def network(width=512):
    """Return a float32 network of 256 features."""
    rng = np.random.default_rng(0)
    widths = (FEATURES, width, 8)
    made = [(rng.standard_normal((k, n)) / k**0.5).astype("f4") for k, n in itertools.pairwise(widths)]
    return nd.Sequential([nd.Dense(made[0], None, "relu"), nd.Dense(made[1])])


def through(folder, megabytes, workers):
    """Send so much input from Zarr to Zarr, and check the last chunk."""
    import dask
    import dask.array as da
    import zarr

    net, chunks = network(), megabytes // 8
    shape = (chunks * CHUNK, FEATURES)
    source = zarr.create_array(
        f"{folder}/x-{megabytes}", shape=shape, chunks=(CHUNK, FEATURES), dtype="f4", compressors=None
    )
    part = np.random.default_rng(0).standard_normal((CHUNK, FEATURES)).astype("f4")
    for begin in range(0, shape[0], CHUNK):
        source[begin : begin + CHUNK] = part
    with dask.config.set(scheduler="threads", num_workers=workers):
        net(da.from_zarr(source)).to_zarr(f"{folder}/y-{megabytes}")
    assert np.array_equal(zarr.open_array(f"{folder}/y-{megabytes}")[-CHUNK:], net(part))


def peak():
    """Return the peak resident set in MB."""
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)


def one_size(megabytes, workers):
    """Print the measurements of one size, in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        through(folder, SMALLEST, workers)
        before = peak()
        through(folder, megabytes, workers)
        print(json.dumps({"MB": megabytes, "MB more": peak() - before}))


def graph(partitions):
    """Return the bytes of a graph's tasks, pickled one by one as for workers, over the weights: ours, and a partial."""
    import dask.array as da

    net = network(4096)
    weights = sum(layer.nbytes for layer in net.layers)
    x = da.ones((partitions, FEATURES), chunks=(1, FEATURES), dtype="f4")
    y = x.map_blocks(
        functools.partial(forward, net), dtype="f4", chunks=(x.chunks[0], (8,)), meta=np.empty((0, 0), "f4")
    )
    found = {"partitions": partitions}
    for name, array in (("graph", net(x)), ("partial", y)):
        found[name] = sum(len(pickle.dumps(task)) for task in dict(array.__dask_graph__()).items()) / weights
    return found


def forward(net, block):
    """Run one block as somebody would who has not thought of graphs."""
    return net(block, threads=1)


def main():
    """Measure, and write a JSON file and a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[128, 512, 2048], help="MB of input")
    parser.add_argument("--workers", type=int, default=2, help="threads of Dask")
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    options = parser.parse_args()
    if options.one:
        one_size(options.one, options.workers)
        return
    command = [sys.executable, __file__, "--workers", str(options.workers), "--one"]
    sizes = [json.loads(subprocess.check_output([*command, str(size)])) for size in options.sizes]
    graphs = [graph(partitions) for partitions in (10, 100, 1000)]
    found = {"machine": harness.machine(), "workers": options.workers, "sizes": sizes, "graphs": graphs}
    lines = ["| MB of input | MB of memory more than for two chunks |", "|--|--|"]
    lines += [f"| {r['MB']} | {r['MB more']:.0f} |" for r in sizes]
    lines += [
        "",
        "| blocks | bytes of the graph over the weights | with a partial in `map_blocks` |",
        "|--|--|--|",
    ]
    lines += [f"| {r['partitions']} | {r['graph']:.3f} | {r['partial']:.1f} |" for r in graphs]
    text = "\n".join(lines)
    options.out.mkdir(exist_ok=True)
    (options.out / "dask_scale.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    (options.out / "dask_scale.md").write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
