"""What starting costs: the import, the first call in a process, and compiling with an empty cache.

``python benchmarks/cold.py`` runs each in processes of its own, in turn, and writes medians of several rounds.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import harness

TIMED = """
import time
{setup}
begin = time.perf_counter()
{work}
print(time.perf_counter() - begin)
"""
ARRAYS = "import numpy as np; x = np.ones((8, 16), np.float32); w = np.ones((16, 16), np.float32)"
NETWORK = f"import numba, numbadense as nd; {ARRAYS}; net = nd.Sequential([nd.Dense(w, None, 'sigmoid')])"
MANY_ROWS = "net(np.ones((100_000, 16), np.float32), threads=2)"  # the parallel kernel too
SOMEBODYS = """
import numba


@numba.njit(cache=True)
def add(x, y):
    return x + y
"""
CASES = {
    "import numba": ("", "import numba"),
    "import numbadense after numba": ("import numba", "import numbadense"),
    "first call of somebody's own cached njit function": (f"import numba, somebodys; {ARRAYS}", "somebodys.add(x, x)"),
    "the same, then first dense call, kernels cached": (
        f"import numba, somebodys, numbadense as nd; {ARRAYS}",
        "somebodys.add(x, x); nd.dense(x, w, None, 'sigmoid')",
    ),
    "first dense call, kernels cached": (
        f"import numba, numbadense as nd; {ARRAYS}",
        "nd.dense(x, w, None, 'sigmoid')",
    ),
    "first call of a network, kernels cached": (NETWORK, "net(x)"),
    "first call of a second network": (
        f"{NETWORK}; net(x); net = nd.Sequential([nd.Dense(w, w[0], 'sigmoid'), nd.Dense(w[:, :3], None)])",
        "net(x)",
    ),
}
COMPILING = {
    "first call of a network, compiling": (NETWORK, "net(x)"),
    "all that a network needs on one thread and on two, compiling": (NETWORK, f"net(x); net(x[:1]); {MANY_ROWS}"),
}


def seconds(setup, work, folder):
    """Return what a fresh process says that `work` took."""
    code = TIMED.format(setup=setup, work=work)
    environment = os.environ | {
        "NUMBADENSE_CACHE_DIR": f"{folder}/kernels",
        "NUMBA_CACHE_DIR": f"{folder}/numba",
        "NUMBA_NUM_THREADS": "2",
        "PYTHONPATH": os.pathsep.join(filter(None, [folder, os.environ.get("PYTHONPATH")])),
    }
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # an installed package has its bytecode
    return float(subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, check=True).stdout)


def help_seconds():
    """Return what ``numbadense --help`` takes, the interpreter included; it exits by SystemExit."""
    begin = time.perf_counter()
    subprocess.run(
        [sys.executable, "-c", "from numbadense.cli import main; main(['--help'])"], capture_output=True, check=True
    )
    return time.perf_counter() - begin


def main(rounds=9):
    """Measure, and write milliseconds as JSON and Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--output", type=Path, help="a .json file; by default in benchmarks/results")
    arguments = parser.parse_args()
    found = {name: [] for name in CASES} | {"numbadense --help": []} | {name: [] for name in COMPILING}
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "somebodys.py").write_text(SOMEBODYS)
        for setup, work in CASES.values():
            seconds(setup, work, folder)
        for _ in range(rounds):
            for name, (setup, work) in CASES.items():
                found[name].append(seconds(setup, work, folder))
            found["numbadense --help"].append(help_seconds())
    for _ in range(3):
        for name, (setup, work) in COMPILING.items():
            with tempfile.TemporaryDirectory() as folder:
                found[name].append(seconds(setup, work, folder))
    information = harness.machine()
    rows = {name: round(1e3 * statistics.median(times), 2) for name, times in found.items()}
    output = arguments.output or Path(__file__).with_name("results") / f"{information['cpu']}-cold.json"
    output.write_text(json.dumps({"machine": information, "milliseconds": rows}, indent=1) + "\n")
    versions = ", ".join(f"{name} {information['versions'][name]}" for name in ("numbadense", "numba", "llvmlite"))
    lines = [f"Medians, milliseconds, each in a process of its own; {information['cpu']}, {versions}.", ""]
    lines += ["| what | ms |", "|--|--|", *(f"| {name} | {value} |" for name, value in rows.items())]
    text = "\n".join(lines) + "\n"
    output.with_suffix(".md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
