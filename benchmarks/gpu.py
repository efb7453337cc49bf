"""Every CUDA kernel there is: built, checked and timed against its peers on the device at hand, in under 8 minutes.

``python benchmarks/gpu.py`` needs an NVIDIA GPU; PyTorch and CuPy are peers where they are installed.  It writes one
JSON file.  Before anything is timed, each kernel has given the right numbers: on fresh random data, into outputs full
of NaN, against float64.  Times are CUDA events' around calls in a row, the medians of rounds in which the engines take
turns; ratios are the median of the rounds', the peer's time over ours.

``NUMBA_ENABLE_CUDASIM=1 python benchmarks/gpu.py --dry-run`` runs all of it in numba's simulator, on tiny shapes, and
reports no times: it shows that the script works, before there is a device.
"""

import argparse
import faulthandler
import importlib.metadata
import json
import statistics
import sys
import time
from pathlib import Path

import gpu_fused
import gpu_hopper
import gpu_launch
import gpu_tensor
import gpu_warp
import harness
import numpy as np
from numba import cuda, float32

import numbadense as nd
from numbadense._engine.cuda import device
from numbadense.activations import REGISTRY

ALLOWED = {"float32": 1e-6, "float64": 1e-14}  # relative Frobenius error against float64, up to 1024 features
ROUNDS = 7
SLICE = 0.02  # seconds of calls in a row between two events
BUDGET = 450  # seconds, after which cases are left out, and named
SHAPES = [(4096, 4096, 4096), (8192, 1024, 1024), (65536, 256, 256), (8192, 1023, 1021), (65536, 64, 64)]
FEW = [(1, 1024, 1024), (8, 1024, 1024), (1, 4096, 4096), (64, 4096, 4096), (512, 512, 512)]
RUNNERS_UP = [  # threads, outputs, depth, stages, resident: large tiles that assemble nearly as well
    ((16, 16), (8, 8), 8, 4, 2),
    ((16, 16), (8, 8), 16, 3, 2),
    ((16, 8), (8, 8), 8, 4, 3),
]


class Bench:
    """The device, its peers, and what has been found."""

    def __init__(self, dry, budget):
        self.dry, self.deadline = dry, time.monotonic() + budget
        self.rng = np.random.default_rng()
        self.peers, self.absent = {}, {}
        for name in ("torch", "cupy"):
            try:
                if dry:
                    raise ImportError("a dry run has no peers")
                self.peers[name] = __import__(name)
                if name == "torch":
                    self.peers[name].cuda.init()  # a build for the CPU has none
            except Exception as error:
                self.peers.pop(name, None)
                self.absent[name] = f"{type(error).__name__}: {error}"[:200]
        self.rows, self.left_out = [], []
        if "torch" in self.peers:
            self.peers["torch"].backends.cuda.matmul.allow_tf32 = False

    def peer(self, make, *arguments):
        """Return the engines of a peer, or none if they cannot be made."""
        try:
            return make(self, *arguments)
        except Exception as error:
            self.absent[make.__name__] = f"{type(error).__name__}: {error}"[:200]
            return {}

    def normal(self, *shape, dtype="float32"):
        """Return fresh random numbers on the device."""
        if time.monotonic() > self.deadline:
            raise TimeoutError("the budget is spent")
        return cuda.to_device(self.rng.standard_normal(shape, np.dtype(dtype)))

    def poisoned(self, *shape, dtype="float32"):
        """Return an output full of NaN."""
        return cuda.to_device(np.full(shape, np.nan, dtype))

    def record(self, section, case, engines, error, **facts):
        """Time the engines in turns, ours first, and keep what was found; `error` is ours, checked before."""
        row = {"section": section, "case": case, "error": error, **facts}
        if time.monotonic() > self.deadline:
            self.left_out.append(f"{section}: {case}")
            return
        measured = self.timed(engines)
        if not self.dry:  # what the simulator takes says nothing
            row |= measured
        self.rows.append(row)
        print(json.dumps(row), flush=True)

    def timed(self, engines):
        """Return the medians of seconds a call, and of the ratios to ours."""
        counts = {}
        for name, call in list(engines.items()):
            try:
                if self.dry:
                    counts[name] = 1
                    continue
                call()
                cuda.synchronize()
                counts[name] = max(1, min(2000, int(SLICE / max(self.slice(call, 3), 1e-6))))
            except Exception as error:  # a peer that cannot do it
                if name == "ours":
                    raise
                self.absent[name] = f"{type(error).__name__}: {error}"[:200]
        times = {name: [] for name in counts}
        for turn in range(1 if self.dry else ROUNDS):
            for name in sorted(counts, reverse=bool(turn % 2)):
                times[name].append(self.slice(engines[name], counts[name]))
        ours = times["ours"]
        ratios = {
            name: statistics.median(theirs / own for theirs, own in zip(each, ours, strict=True))
            for name, each in times.items()
            if name != "ours"
        }
        return {"seconds": {name: statistics.median(each) for name, each in times.items()}, "ratio": ratios}

    def slice(self, call, count):
        """Return the seconds a call of `count` in a row, by events of the default stream, which all engines use."""
        begin, end = cuda.event(), cuda.event()
        begin.record()
        for _ in range(count):
            call()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) / 1e3 / count


def checked(out, expected, places=slice(None), features=1):
    """Return the relative Frobenius error of an output, of which no element may be missing; fail if it is too large.

    That of sums in order grows with the root of the number of features.
    """
    host = out.copy_to_host()
    assert not np.isnan(host).any(), "some outputs were not written"
    error = float(np.linalg.norm(host[places] - expected) / np.linalg.norm(expected))
    allowed = ALLOWED[host.dtype.name] * max(1, features / 1024) ** 0.5
    assert error <= allowed, f"relative error {error}, and {allowed} is allowed"
    return error


def elementwise(bench):
    """Activations of an array, and of rows: against a copy, and the peers' own."""
    size = 2**7 + 3 if bench.dry else 2**28
    x, out = bench.normal(size), bench.poisoned(size)
    sample = bench.rng.integers(0, size, min(size, 10**5))
    host = x.copy_to_host()[sample].astype(np.float64)
    for name, entry in REGISTRY.items():
        if entry.rowwise or name == "exp":  # whose largest results would hide the errors of all others
            continue
        ours = getattr(nd.cuda, name)
        out.copy_to_device(bench.poisoned(size))
        ours(x, out)
        error = checked(out, getattr(nd, name)(host), sample)
        engines = {"ours": lambda ours=ours: ours(x, out)}
        if name in ("sigmoid", "relu", "tanh", "gelu"):
            engines |= {"copy": lambda: out.copy_to_device(x)} | bench.peer(peers_elementwise, name, x, out)
        bench.record("elementwise", f"{name} of {size} float32", engines, error, bytes=8 * size)
    for m, n in [(5, 9)] if bench.dry else [(65536, 64), (8192, 1024)]:
        x, out = bench.normal(m, n), bench.poisoned(m, n)
        nd.cuda.softmax(x, out)
        error = checked(out, nd.softmax(x.copy_to_host().astype(np.float64)))
        engines = {"ours": lambda x=x, out=out: nd.cuda.softmax(x, out)}
        if "torch" in bench.peers:
            torch = bench.peers["torch"]
            given = torch.as_tensor(x, device="cuda")
            engines["torch"] = lambda torch=torch, given=given: torch.softmax(given, 1)
        bench.record("elementwise", f"softmax of {m} x {n} float32", engines, error)


def peers_elementwise(bench, name, x, out):
    """Return the peers' calls, on the same memory."""
    engines = {}
    if "torch" in bench.peers:
        torch = bench.peers["torch"]
        given, result = (torch.as_tensor(array, device="cuda") for array in (x, out))
        if name == "gelu":
            engines["torch"] = lambda: torch.nn.functional.gelu(given)
        elif name == "relu":
            engines["torch"] = lambda: torch.clamp_min(given, 0, out=result)
        else:
            engines["torch"] = lambda: getattr(torch, name)(given, out=result)
    if "cupy" in bench.peers and name == "sigmoid":
        cupy = bench.peers["cupy"]
        sigmoid = cupy.ElementwiseKernel("float32 x", "float32 y", "y = 1 / (1 + exp(-x))", "sigmoid")
        there, back = cupy.asarray(x), cupy.asarray(out)
        engines["cupy"] = lambda: sigmoid(there, back)
    return engines


def dense(bench):
    """Dense layers through the public face."""
    for dtype in ("float32", "float64"):
        shapes = [(13, 19, 17), (1, 8, 16)] if bench.dry else SHAPES + FEW
        for m, k, n in shapes if dtype == "float32" else shapes[:2]:
            x, w, b = (bench.normal(*shape, dtype=dtype) for shape in ((m, k), (k, n), (n,)))
            w.copy_to_device(w.copy_to_host() / np.sqrt(k).astype(dtype))
            out = bench.poisoned(m, n, dtype=dtype)
            nd.cuda.dense(x, w, b, "sigmoid", out=out)
            error = checked(out, *reference(bench, x, w, b, "sigmoid"), features=k)
            engines = {"ours": lambda x=x, w=w, b=b, out=out: nd.cuda.dense(x, w, b, "sigmoid", out=out)}
            engines |= bench.peer(peers_dense, x, w, b)
            facts = {"flops": 2 * m * k * n, "tile": tile_of(m, n, dtype)}
            bench.record("dense", f"{m}, {k}, {n} {dtype}", engines, error, **facts)


def reference(bench, x, w, b, name):
    """Return some rows of the result in float64, and which they are."""
    m = x.shape[0]
    rows = np.unique(np.r_[0, m - 1, bench.rng.integers(0, m, 30)])
    x, w, b = (array.copy_to_host().astype(np.float64) for array in (x, w, b))
    return getattr(nd, name)(x[rows] @ w + b), rows


def tile_of(m, n, dtype):
    """Return the sentence about the tile that a shape gets."""
    from numbadense._engine.cuda import compile as compiler
    from numbadense._engine.cuda import tiles

    processors = compiler.multiprocessors()
    chosen = tiles.choose(compiler.target().dense[np.dtype(dtype).itemsize], m, n, processors)
    return tiles.explain(chosen, m, n, processors)


def peers_dense(bench, x, w, b):
    """Return the peers' calls, on the same memory, in true float32."""
    engines = {}
    if "torch" in bench.peers:
        torch = bench.peers["torch"]
        tx, tw, tb = (torch.as_tensor(array, device="cuda") for array in (x, w, b))

        def layer(tx, tw, tb):
            return torch.sigmoid(torch.addmm(tb, tx, tw))

        product = torch.empty((x.shape[0], w.shape[1]), dtype=tx.dtype, device="cuda")
        engines["torch"] = lambda: torch.addmm(tb, tx, tw, out=product).sigmoid_()
        engines["torch, product alone"] = lambda: torch.mm(tx, tw, out=product)
        try:
            torch._dynamo.reset()
            compiled = torch.compile(layer, dynamic=False)
            compiled(tx, tw, tb)
            engines["torch.compile"] = lambda: compiled(tx, tw, tb)
        except Exception as error:  # it needs a C compiler, among other things
            bench.absent["torch.compile"] = f"{type(error).__name__}: {error}"[:200]
    if "cupy" in bench.peers:
        cupy = bench.peers["cupy"]
        cx, cw, cb = (cupy.asarray(array) for array in (x, w, b))
        sigmoid = cupy.ElementwiseKernel("T x, T b", "T y", "y = 1 / (1 + exp(-x - b))", "biased_sigmoid")
        engines["cupy"] = lambda: sigmoid(cupy.matmul(cx, cw), cb)
    return engines


def every_tile(bench):
    """Each tile of the table and each way of copying, by itself, and the large tiles that were nearly chosen."""
    from numbadense._engine.cuda import compile as compiler
    from numbadense._engine.cuda import tiles

    target, identity = compiler.target(), REGISTRY["identity"]
    extra = [] if bench.dry else [tiles.DenseTile(*shape, share=0.0) for shape in RUNNERS_UP]
    for itemsize, dtype in ((4, np.dtype("float32")), (8, np.dtype("float64"))):
        for tile in (*target.dense[itemsize], *(extra if itemsize == 4 else ())):
            for in_chunks in ((True, True), (False, False)):
                shape = (tile.rows + 2, 24, tile.columns + 4) if bench.dry else (4096, 4096, 4096)
                m, k, n = shape if all(in_chunks) else (size - 1 for size in shape)
                x, w, b = (bench.normal(*part, dtype=dtype) for part in ((m, k), (k, n), (n,)))
                out = bench.poisoned(m, n, dtype=dtype)
                kernel = compiler.dense(identity, dtype, tile, in_chunks, target.pipelined)
                work = kernel, tile.blocks(m, n), tile.size, 0, x, w, b, out
                compiler.launch(*work)
                error = checked(out, *reference(bench, x, w, b, "identity"), features=k)
                case = (
                    f"{tile.rows} x {tile.columns} of {tile.size} threads, {tile.stages} x {tile.depth} deep, {dtype}"
                )
                how = "in chunks" if all(in_chunks) else "one by one"
                calls = {"ours": lambda work=work: compiler.launch(*work)}
                bench.record("tiles", f"{case}, {how}", calls, error, flops=2 * m * k * n)


def peak(bench):
    """How many float32 products a second the device adds, from registers alone."""
    from numbadense._engine.cuda import compile as compiler

    loops = 4 if bench.dry else 4096

    @cuda.jit
    def kernel(out):
        totals = cuda.local.array(16, float32)
        for i in range(16):
            totals[i] = float32(i)
        factor = out[0]
        for _ in range(loops):
            for i in range(16):
                totals[i] = totals[i] * factor + factor
        for i in range(1, 16):
            totals[0] += totals[i]
        if totals[0] == float32(-1):
            out[1] = totals[0]

    blocks, threads = (1, 2) if bench.dry else (compiler.multiprocessors() * 16, 256)
    out = cuda.to_device(np.full(2, 0.5, np.float32))
    work = {"ours": lambda: kernel[blocks, threads](out)}
    work["ours"]()
    bench.record("peak", "float32 multiply-add", work, 0.0, flops=2 * 16 * loops * blocks * threads)


def host(bench):
    """What a call costs the host."""
    gpu_launch.host(bench, checked)


def rows(bench):
    """Rows that come from the host."""
    gpu_launch.rows(bench, checked)


def stepping(bench):
    """A network that every thread of a user's kernel steps, its state in registers: against graphs of the peer's."""
    rows, steps = (5, 3) if bench.dry else (100_000, 1000)
    layers = [(8, 32), (32, 32), (32, 2)]
    normal = bench.rng.standard_normal
    net = nd.Sequential(
        [nd.Dense(normal(s, np.float32) / s[0] ** 0.5, normal(s[1], np.float32), "tanh") for s in layers]
    )
    forward = nd.cuda.forward_of(32, ["tanh"])
    decay, gain = np.float32(0.9), np.float32(0.1)

    @cuda.jit
    def roll_out(program, begin, end, steps):
        i = cuda.grid(1)
        if i < begin.shape[0]:
            state, force = cuda.local.array(8, float32), cuda.local.array(2, float32)
            for p in range(8):
                state[p] = begin[i, p]
            for _ in range(steps):
                forward(program, state, force)
                for p in range(8):
                    state[p] = decay * state[p] + gain * force[p % 2]
            for p in range(8):
                end[i, p] = state[p]

    program, begin, end = nd.cuda.program(net, activations=["tanh"]), bench.normal(rows, 8), bench.poisoned(rows, 8)
    threads = 4 if bench.dry else 128
    launch = roll_out[-(-rows // threads), threads]
    launch(program, begin, end, steps)
    few = np.unique(np.r_[0, rows - 1, bench.rng.integers(0, rows, 30)])
    expected, in_float64 = begin.copy_to_host()[few].astype(np.float64), net.astype("float64")
    for _ in range(steps):
        expected = 0.9 * expected + 0.1 * np.tile(in_float64(expected), 4)
    error = checked(end, expected, few, features=100 * 1024)  # each step begins with the error of the last
    engines = {"ours": lambda: launch(program, begin, end, steps)}
    if "torch" in bench.peers:
        engines |= bench.peer(graph_of_steps, net, begin, steps)
    flops = 2 * rows * steps * sum(k * n for k, n in layers)
    bench.record("stepping", f"8-32-32-2, {rows} threads, {steps} steps", engines, error, flops=flops)


def graph_of_steps(bench, net, begin, steps, in_graph=100):
    """Return what replays a CUDA graph of some of the peer's steps until all are done."""
    torch = bench.peers["torch"]
    weights = [(torch.tensor(layer.w, device="cuda"), torch.tensor(layer.b, device="cuda")) for layer in net.layers]
    state = torch.as_tensor(begin, device="cuda").clone()

    def step():
        a = state
        for w, b in weights:
            a = torch.tanh(torch.addmm(b, a, w))
        state.mul_(0.9).add_(a.repeat(1, 4), alpha=0.1)

    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        for _ in range(3):
            step()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(in_graph):
            step()

    def replay():
        for _ in range(steps // in_graph):
            graph.replay()

    return {"torch, a graph": replay}


def machine(bench):
    """Return what the numbers were measured on."""
    found = harness.machine()
    if not device.simulated():
        current = cuda.get_current_device()
        name = current.name.decode() if isinstance(current.name, bytes) else current.name
        found |= {"gpu": name, "capability": list(current.compute_capability)}
        found |= {"multiprocessors": current.MULTIPROCESSOR_COUNT, "clock_khz": current.CLOCK_RATE}
    found["versions"]["numba-cuda"] = importlib.metadata.version("numba-cuda")
    found["versions"] |= {name: module.__version__ for name, module in bench.peers.items()}
    return found


def main():
    """Run every section and write what was found."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--dry-run", action="store_true", help="tiny shapes, in the simulator or not, and no times")
    parser.add_argument("--budget", type=float, default=BUDGET, help="seconds after which cases are left out")
    parser.add_argument("--output", type=Path, help="a .json file; by default in benchmarks/results")
    arguments = parser.parse_args()
    if (reason := device.why_not()) is not None:
        parser.error(f"CUDA cannot be used: {reason}")
    if device.simulated() and not arguments.dry_run:
        parser.error("the simulator is not a device: pass --dry-run")
    faulthandler.dump_traceback_later(arguments.budget + 90, exit=not arguments.dry_run)  # a kernel that hangs
    if arguments.dry_run:
        sys.setswitchinterval(1e-4)  # the simulator's threads are Python's, and wait for each other
    bench = Bench(arguments.dry_run, arguments.budget)
    begin, found = time.monotonic(), {"machine": machine(bench), "dry_run": arguments.dry_run, "failures": {}}
    name = "dry-run" if arguments.dry_run else found["machine"]["gpu"].lower().replace(" ", "-")
    output = arguments.output or Path(__file__).with_name("results") / f"{name}-gpu.json"
    output.parent.mkdir(parents=True, exist_ok=True)
    # A kernel that reads where it must not ends all later ones: the boldest come last.
    for section in (
        *(peak, dense, host, stepping, gpu_fused.fused, gpu_tensor.tensor_cores),
        *(gpu_warp.few, elementwise, every_tile, gpu_warp.warp, rows, gpu_hopper.hopper, gpu_hopper.clusters),
    ):
        try:
            section(bench)
        except TimeoutError:
            bench.left_out.append(f"the rest of {section.__name__}")
        except Exception as error:  # the others may still tell something: a device is not often at hand
            found["failures"][section.__name__] = f"{type(error).__name__}: {error}"
            print(f"{section.__name__} failed: {found['failures'][section.__name__]}", flush=True)
        found |= {"seconds": time.monotonic() - begin, "absent": bench.absent}
        found |= {"left_out": bench.left_out, "rows": bench.rows}
        output.write_text(json.dumps(found, indent=1) + "\n")  # each time: the next section may be the last
    faulthandler.cancel_dump_traceback_later()
    if found["failures"]:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
