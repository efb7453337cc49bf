"""What starting costs: the import, the first call in a process, and compiling with an empty cache.

``python benchmarks/cold.py`` runs each in processes of its own, in turn, and prints medians of several rounds.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time

TIMED = """
import time
{setup}
begin = time.perf_counter()
{work}
print(time.perf_counter() - begin)
"""
ARRAYS = "import numpy as np; x = np.ones((8, 16), np.float32); w = np.ones((16, 16), np.float32)"
CASES = {
    "import numba": ("", "import numba"),
    "import numbadense after numba": ("import numba", "import numbadense"),
    "first dense call, kernels cached": (
        f"import numba, numbadense as nd; {ARRAYS}",
        "nd.dense(x, w, None, 'sigmoid')",
    ),
    "second dense call": (
        f"import numba, numbadense as nd; {ARRAYS}; nd.dense(x, w, None, 'sigmoid')",
        "nd.dense(x, w, None, 'sigmoid')",
    ),
    "first call of a network, kernels cached": (
        f"import numba, numbadense as nd; {ARRAYS}; net = nd.Sequential([nd.Dense(w, None, 'sigmoid')])",
        "net(x)",
    ),
}


def seconds(setup, work, cache):
    """Return what a fresh process says that `work` took."""
    code = TIMED.format(setup=setup, work=work)
    environment = os.environ | {"NUMBADENSE_CACHE_DIR": cache}
    return float(subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, check=True).stdout)


def help_seconds():
    """Return what ``numbadense --help`` takes, the interpreter included; it exits by SystemExit."""
    begin = time.perf_counter()
    subprocess.run(
        [sys.executable, "-c", "from numbadense.cli import main; main(['--help'])"], capture_output=True, check=True
    )
    return time.perf_counter() - begin


def main(rounds=9):
    """Measure, and print milliseconds as JSON."""
    found = {name: [] for name in CASES} | {"numbadense --help": [], "first dense call, compiling": []}
    with tempfile.TemporaryDirectory() as cache:
        for setup, work in CASES.values():
            seconds(setup, work, cache)
        for _ in range(rounds):
            for name, (setup, work) in CASES.items():
                found[name].append(seconds(setup, work, cache))
            found["numbadense --help"].append(help_seconds())
    for _ in range(3):
        with tempfile.TemporaryDirectory() as cache:
            setup, work = CASES["first dense call, kernels cached"]
            found["first dense call, compiling"].append(seconds(setup, work, cache))
    print(json.dumps({name: round(1e3 * statistics.median(times), 2) for name, times in found.items()}, indent=1))


if __name__ == "__main__":
    main()
