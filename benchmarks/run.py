"""Dense layers and networks with sigmoid, through the public face, against every peer that is installed.

``python benchmarks/run.py`` takes some minutes and writes a JSON file and a Markdown table.  Every ratio is the peer's
time over ours, the median of interleaved pairs; results are checked equal before anything is timed.  On one thread the
engines share a process; on more each has its own, for their pools spin, and the halves of a pair wait for that to end.
NumPy is measured as it comes, and again with ``OPENBLAS_CORETYPE`` set to what the CPU can do.
"""

import argparse
import dataclasses
import itertools
import json
import math
import os
import subprocess
import sys
import tempfile
import time
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
    "deep": [(m, (k, 1024)) for k in (2048, 4096, 8192) for m in (8, 256, 1024)],
    "networks": [(m, widths) for widths in NETWORKS for m in (1, 8, 256, 65536)],
}
# What keeps every engine to its threads; set for the workers, before anything is imported there.
THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
OPTIONS = ("suite", "dtype", "threads", "pairs", "budget")
XLA_SERIAL = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
CORETYPES = {"avx512": "SkylakeX", "avx2": "Haswell"}
# What limits ours and the peers to a CPU without AVX-512.  ONNX Runtime cannot be limited.
HASWELL = {
    "NUMBA_CPU_NAME": "haswell",
    "NUMBA_CPU_FEATURES": "+64bit,+avx,+avx2,+bmi,+bmi2,+cmov,+cx16,+cx8,+f16c,+fma,+fsgsbase,+fxsr,+invpcid,+lzcnt,"
    "+mmx,+movbe,+pclmul,+popcnt,+rdrnd,+sahf,+sse,+sse2,+sse3,+sse4.1,+sse4.2,+ssse3,+xsave,+xsaveopt",
    "NUMBADENSE_ISA": "avx2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "MKL_ENABLE_INSTRUCTIONS": "AVX2",
    "ATEN_CPU_CAPABILITY": "avx2",
    "OPENBLAS_CORETYPE": "Haswell",
}
OURS = "numbadense"
SMALLEST_SHARED = 500_000  # multiply-adds: at more threads than one, smaller cases are left out
HALF, REST = 0.04, 0.25  # seconds that one half of a pair runs, and that pools then spin, at more threads than one


def problem(m, widths, dtype):
    """Return examples and ``(w, b)`` layers, random but the same each time."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((m, widths[0])).astype(dtype)
    layers = [
        ((rng.standard_normal((k, n)) / k**0.5).astype(dtype), rng.standard_normal(n).astype(dtype))
        for k, n in itertools.pairwise(widths)
    ]
    return x, layers


def engine(name, m, widths, arguments):
    """Return a function of no arguments that runs one case in one engine, or None if that is not installed."""
    x, layers = problem(m, widths, np.dtype(arguments.dtype))
    if name.partition(",")[0] != OURS:
        try:
            return peers.PEERS[name.partition(",")[0]](x, layers, arguments.threads)
        except ImportError:
            return None
    net = nd.Sequential([nd.Dense(w, b, "sigmoid") for w, b in layers])
    y = np.empty((m, widths[-1]), x.dtype)

    def run():
        return net(x, out=y)

    return run


def check(expected, actual, dtype, name):
    """Compare a peer's result with ours."""
    tolerance = 1e-5 if dtype == "float32" else 1e-12
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance, err_msg=name)


def worker(arguments):
    """Compare ours with some of the peers, case by case, in this process, and print one JSON line each."""
    for m, widths in cases(arguments):
        ours, found = engine(OURS, m, widths, arguments), {}
        for name in arguments.worker.split(","):
            peer = engine(name, m, widths, arguments)
            if peer is not None:
                check(ours(), peers.as_numpy(peer()), arguments.dtype, name)
                found[name] = dataclasses.asdict(harness.compare(ours, peer, arguments.pairs, arguments.budget))
        print(json.dumps({"m": m, "widths": widths, "peers": found}), flush=True)


def server(arguments):
    """Run one engine for a process that asks: a case to prepare, or None for the seconds a call of a slice."""
    for line in sys.stdin:
        request = json.loads(line)
        if request is not None:
            function = engine(arguments.server, request["m"], request["widths"], arguments)
            count = 1
            if function is not None:
                np.save(request["result"], peers.as_numpy(function()))
                count = harness.calls_in_a_slice(function, HALF)
            print(json.dumps(function is not None), flush=True)
        else:
            print(harness.seconds_a_call(function, count), flush=True)


def cases(arguments):
    """Return the cases of the suite that the number of threads makes sense for."""
    for m, widths in CASES[arguments.suite]:
        if arguments.threads == 1 or m * sum(k * n for k, n in itertools.pairwise(widths)) >= SMALLEST_SHARED:
            yield m, widths


def start(arguments, options, environment, script=__file__, keys=OPTIONS):
    """Start a script again, pinned to as many cores as it has threads."""
    same = [f"--{key}={getattr(arguments, key)}" for key in keys]
    cores = sorted(os.sched_getaffinity(0))[-arguments.threads :]
    settings = os.environ | dict.fromkeys(THREAD_VARIABLES, str(arguments.threads)) | {"JAX_PLATFORMS": "cpu"}
    flags = [XLA_SERIAL] if arguments.threads == 1 else []
    if getattr(arguments, "isa", "host") == "haswell":
        settings |= HASWELL
        flags.append("--xla_cpu_max_isa=AVX2")
    return subprocess.Popen(
        [sys.executable, str(script), *same, *options],
        env=settings | {"XLA_FLAGS": " ".join(flags)} | environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: os.sched_setaffinity(0, cores),
    )


def run_worker(arguments, names, environment, script=__file__, keys=OPTIONS, comma=","):
    """Start a worker of a script and yield its lines."""
    with start(arguments, [f"--worker={comma.join(names)}"], environment, script, keys) as process:
        yield from map(json.loads, process.stdout)
    if process.returncode:
        sys.exit(f"the worker for {', '.join(names)} failed")


def ask(process, request):
    """Return a server's answer."""
    print(json.dumps(request), file=process.stdin, flush=True)
    return json.loads(process.stdout.readline())


def run_servers(arguments, environments):
    """Compare ours with each peer, each in a process of its own, and yield a line for each case."""
    ours = start(arguments, [f"--server={OURS}"], {})
    alone = start(arguments, [f"--server={OURS}", "--threads=1"], {"NUMBA_NUM_THREADS": "1"})
    others = {name: start(arguments, [f"--server={name}"], extra) for name, extra in environments.items()}
    with tempfile.TemporaryDirectory() as folder:
        for m, widths in cases(arguments):
            case, found = {"m": m, "widths": widths}, {}
            results = {name: f"{folder}/{name}.npy" for name in (OURS, "alone", *others)}
            ask(ours, case | {"result": results[OURS]})
            for name, peer in (others | {"alone": alone}).items():
                if ask(peer, case | {"result": results[name]}):
                    check(np.load(results[OURS]), np.load(results[name]), arguments.dtype, name)
                    times = [[], []]
                    for index in range(max(5, arguments.pairs // 3)):
                        for which in ((0, 1), (1, 0))[index % 2]:
                            time.sleep(REST)
                            times[which].append(ask((ours, peer)[which], None))
                    found[name] = dataclasses.asdict(harness.comparison(*times))
            yield case | {"peers": found, "speed_up": found.pop("alone")["ratio"]}
    for process in (ours, alone, *others.values()):
        process.stdin.close()
        process.wait()


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
    if "speed_up" in rows[0]:
        speed_ups = ", ".join(f"{row['speed_up']:.2f}" for row in rows)
        lines.append(f"\nOurs against itself on one thread, in this order: {speed_ups}.")
    return "\n".join(lines)


def main():
    """Run the workers and write what they found."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--suite", choices=CASES, default="dense")
    parser.add_argument("--dtype", choices=["float32", "float64"], default="float32")
    parser.add_argument("--threads", type=int, default=1, help="for every engine")
    parser.add_argument("--pairs", type=int, default=25)
    parser.add_argument("--budget", type=float, default=1.0, help="seconds for one case and peer, about")
    parser.add_argument("--output", type=Path, help="a .json file; by default in benchmarks/results")
    parser.add_argument(
        "--isa", choices=["host", "haswell"], default="host", help="haswell: every engine without AVX-512"
    )
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--server", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker or arguments.server:
        (worker if arguments.worker else server)(arguments)
        return
    machine = harness.machine()
    environments = {name: {} for name in peers.PEERS}
    if arguments.isa == "host" and machine["isa"] in CORETYPES:
        coretype = CORETYPES[machine["isa"]]
        environments[f"numpy+scipy, {coretype}"] = {"OPENBLAS_CORETYPE": coretype}
    if arguments.threads == 1:
        rows = list(run_worker(arguments, list(peers.PEERS), {}))
        for name, extra in environments.items():
            if extra:
                for row, other in zip(rows, run_worker(arguments, ["numpy+scipy"], extra), strict=True):
                    row["peers"][name] = other["peers"]["numpy+scipy"]
    else:
        rows = list(run_servers(arguments, environments))
    for row in rows:
        row["best"] = min(comparison["ratio"] for comparison in row["peers"].values())
    result = {
        "machine": machine,
        "as": arguments.isa,
        "suite": arguments.suite,
        "dtype": arguments.dtype,
        "threads": arguments.threads,
        "rows": rows,
    }
    cpu = machine["cpu"] if arguments.isa == "host" else f"{machine['cpu']}-as-{arguments.isa}"
    name = f"{cpu}-{arguments.suite}-{arguments.dtype}-{arguments.threads}.json"
    output = arguments.output or Path(__file__).with_name("results") / name
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(result, indent=1) + "\n")
    text = (
        f"{arguments.suite} + sigmoid, {arguments.dtype}, threads: {arguments.threads}. Times of the peers over ours; "
        f"{cpu} ({machine['isa']}), "
        + ", ".join(f"{key} {value}" for key, value in machine["versions"].items() if value)
        + f".\n\n{table(rows)}\n"
    )
    output.with_suffix(".md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
