"""What a call costs the host, and rows that come from it: two sections of `gpu.py`.

``python benchmarks/gpu_launch.py`` needs no GPU: it times the host's part of a call, ours and Numba's own launch, over
a driver that does nothing (`tests/cuda/stub_driver.c`, which it compiles).  What it prints is the time of Python and
of the bindings; the driver's own time, and a device's, come on top.
"""

import os
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import gpu_bench
import harness
import numpy as np

import numbadense as nd

LAYERS = [(8, 32), (32, 32), (32, 2)]
WIDE = [(8, 300), (300, 300), (300, 2)]  # too wide for one launch
QUEUED = 100  # calls in a row that no queue of the driver refuses


def host(bench):
    """A network of three layers on ready arrays."""
    net = nd.Sequential([nd.Dense(bench.rng.standard_normal(s, np.float32), None, "sigmoid") for s in LAYERS])
    on_device = net.to("cuda")
    for m in (1, 3) if bench.dry else (1, 8, 64, 256, 1024):
        bench.attempt(call, m, net, on_device)


def call(bench, m, net, on_device):
    """A call: the time until it returns, from call to call, and of the kernel, where the host is longer than that."""
    x, out = bench.normal(m, 8), bench.poisoned(m, 2)
    expected = net.astype("float64")(x.copy_to_host().astype(np.float64))
    on_device(x, out)
    error = gpu_bench.checked(out, expected)
    bound = on_device.bind(x, bench.poisoned(m, 2))
    bench.poison(bound.out)
    error = max(error, gpu_bench.checked(bound(), expected))
    engines = {"ours": lambda: on_device(x, out), "ours, bound": bound}
    engines |= bench.peer(peers, net, on_device, x)
    facts = {"explained": on_device.explain(m).splitlines()[0], "format": "float32"}
    bars = {"call": ("torch", 1), "launches": gpu_bench.launches(engines["ours"]), "host": None}
    if not bench.dry:
        facts["host_seconds"] = {name: until_it_returns(engine) for name, engine in engines.items()}
        bars["host"] = 1e6 * facts["host_seconds"]["ours"]
    bench.record("host", f"8-32-32-2, {m} rows", engines, error, bars, (expected, np.arange(m)), **facts)
    if "torch" in bench.peers:
        there = {"ours": engines["ours, tensors of torch"], "torch": engines["torch"]}
        bench.record("host", f"8-32-32-2, {m} rows, tensors", there, error, {"call of tensors": ("torch", 1)})


def until_it_returns(call):
    """Return the least mean of the seconds that the host spends in a call, while the device falls behind as it may."""
    from numba import cuda

    found = []
    for _ in range(7):
        call()
        cuda.synchronize()
        begin = time.perf_counter()
        for _ in range(QUEUED):
            call()
        found.append((time.perf_counter() - begin) / QUEUED)
    cuda.synchronize()
    return min(found)


def peers(bench, net, on_device, x):
    """Return the peers' calls, on the same rows, and ours on their arrays."""
    if "torch" not in bench.peers:
        return {}
    torch = bench.peers["torch"]
    parts = []
    for layer in net.layers:
        linear = torch.nn.Linear(layer.n_in, layer.n_out, bias=False, device="cuda")
        linear.weight = torch.nn.Parameter(torch.as_tensor(layer.w.T.copy(), device="cuda"), requires_grad=False)
        parts += [linear, torch.nn.Sigmoid()]
    model, given = torch.nn.Sequential(*parts), torch.as_tensor(x, device="cuda").clone()
    result = torch.empty((len(given), net.n_out), device="cuda")

    def eager():
        return model(given)

    def ours():
        return on_device(given, result)

    engines = bench.kernels([ours], gpu_bench.WHAT_FEW)
    engines |= {"torch, the kernels": bench.kernels([eager], gpu_bench.WHAT_FEW)["ours, the kernel"]}
    graph = bench.kernels([eager])["ours, the kernel"]
    made = {"ours, makes its result": lambda: on_device(given), "ours, tensors of torch": ours}
    return engines | made | {"torch": eager, "torch, a graph": graph}


def rows(bench):
    """Rows in the host's memory, to the host's memory: in batches, or by the peer in one piece."""
    bench.attempt(from_host, 11 if bench.dry else 2**20)


def from_host(bench, m):
    """So many rows."""
    widths = [(4, 8), (8, 4)] if bench.dry else [(64, 64), (64, 64), (64, 8)]
    net = nd.Sequential([nd.Dense(bench.rng.standard_normal(s, np.float32) / 8, None, "tanh") for s in widths])
    on_device, x = net.to("cuda"), bench.rng.standard_normal((m, widths[0][0]), np.float32)
    out = np.full((m, widths[-1][1]), np.nan, np.float32)
    on_device.predict(x, 3 if bench.dry else None, out=out)
    places = bench.rng.integers(0, m, min(m, 1000))
    error = gpu_bench.checked(Host(out), net.astype("float64")(x[places].astype(np.float64)), places)
    engines = {"ours": lambda: on_device.predict(x, out=out), "ours, a call": lambda: on_device(x, out)}
    if "torch" in bench.peers:
        torch = bench.peers["torch"]
        weights = [torch.as_tensor(layer.w, device="cuda") for layer in net.layers]

        def whole():
            given = torch.from_numpy(x).cuda()
            for w in weights:
                given = torch.tanh(given @ w)
            return given.cpu()

        engines["torch, in one piece"] = whole
    facts = {"bytes": x.nbytes + out.nbytes, "format": "float32"}
    bench.record("rows", f"{m} rows of {widths[0][0]} from the host", engines, error, **facts)


class Host:
    """An array of the host's where one of the device's is expected."""

    def __init__(self, array):
        self.array = array

    def copy_to_host(self):
        """Return it."""
        return self.array


def over_no_driver():
    """Print what the host's part takes, over the driver that does nothing."""
    from numba import cuda

    from numbadense._engine.cuda import compile as compiler
    from numbadense._engine.cuda import steps

    warnings.simplefilter("ignore")  # of numba, about small grids
    rng = np.random.default_rng(0)
    net, wide = (
        nd.Sequential([nd.Dense(rng.standard_normal(s, np.float32), None, "sigmoid") for s in shapes]).to("cuda")
        for shapes in (LAYERS, WIDE)
    )
    layer = steps.upload(nd.Dense(rng.standard_normal((8, 2), np.float32), None, "sigmoid"), np.dtype("float32"))
    x, out = cuda.to_device(rng.standard_normal((64, 8), np.float32)), cuda.device_array((64, 2), np.float32)
    bound = wide.bind(x)
    kernel, blocks, threads, *_ = layer._plan(64, 0, 0)
    arguments = x, layer.w, layer.b, out
    calls = {
        "a launch of four arrays": lambda: compiler.launch(kernel, blocks, threads, 0, *arguments),
        "a call, one launch": lambda: net(x, out),
        "a call that makes its result": lambda: net(x),
        "a call, three launches": lambda: wide(x, out),
        "the same, bound": bound,
    }
    for name, call in calls.items():
        found = harness.compare(call, lambda: kernel[blocks, threads, 0, 0](*arguments), 40, 3.0)
        print(
            f"{name:<30}{1e6 * found.ours_median:6.2f} us; numba's launch of four arrays, "
            f"{1e6 * found.peer_median:.2f} us, takes {found.ratio:.2f} times as long"
        )


def main():
    """Compile the driver, and measure in a process that has it."""
    if "NUMBADENSE_STUB" in os.environ:
        over_no_driver()
        return
    source = Path(__file__).parents[1] / "tests" / "cuda" / "stub_driver.c"
    with tempfile.TemporaryDirectory() as folder:
        options = ["-shared", "-fPIC", "-O1", "-Wl,-soname,libcuda.so.1", "-o", f"{folder}/libcuda.so.1"]
        subprocess.run(["cc", *options, str(source), "-ldl"], check=True)
        paths = os.pathsep.join(filter(None, (folder, os.environ.get("LD_LIBRARY_PATH"))))
        environment = os.environ | {"LD_LIBRARY_PATH": paths, "NUMBADENSE_STUB": "1", "NUMBA_ENABLE_CUDASIM": "0"}
        raise SystemExit(subprocess.run([sys.executable, __file__], env=environment).returncode)


if __name__ == "__main__":
    main()
