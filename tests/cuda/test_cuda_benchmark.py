"""The benchmark of the kernels runs from beginning to end, in the simulator, so that it will on a device."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from device_needs import absent

from numbadense._engine.cuda import device

FOLDER = Path(__file__).parents[2] / "benchmarks"
SCRIPT = FOLDER / "gpu.py"
LARGEST = {"float32", "tf32", "bf16", "fp16"}  # bars that are decided by the errors of all rows
OF_TORCH = {"call of tensors"}  # a bar that has a row where torch is


@pytest.fixture
def run(tmp_path):
    """A function that runs the script in the simulator, and returns what it did and wrote."""
    if not SCRIPT.exists():
        pytest.skip("an installed package comes without its benchmarks")
    if not device.simulated() or importlib.util.find_spec("numba_cuda") is None:
        absent("simulator", "the script is run in the simulator of numba-cuda")

    def run(*arguments, script=SCRIPT):
        output = tmp_path / "found.json"
        command = [sys.executable, str(script), "--output", str(output), *arguments]
        environment = os.environ | {"NUMBA_ENABLE_CUDASIM": "1"}
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        return done, json.loads(output.read_text()) if output.exists() else None

    return run


def test_a_dry_run_checks_every_kernel_and_times_nothing(run):
    done, found = run("--dry-run")
    assert done.returncode == 0, done.stdout + done.stderr
    assert found["dry_run"] and not found["failures"] and not found["left_out"]
    sections = {row["section"] for row in found["rows"]}
    special = {"tensor cores": 1e-2, "hopper": 1e-2, "fused": 1e-2, "stepping": 1e-5}
    assert sections == {"classes", "dense", "few", "elementwise", "tiles", "warp", "host", "rows", *special}
    for row in found["rows"]:
        allowed = 1e-14 if "float64" in row["case"] else special.get(row["section"], 1e-6)
        assert 0 <= row["error"] <= allowed
        assert not {"seconds", "ratio", "host_seconds"} & row.keys()
    tiles = [row["case"] for row in found["rows"] if row["section"] == "tiles"]
    assert len(tiles) == len(set(tiles)) == 8  # two tiles for each dtype, in chunks and one by one


def test_every_bar_has_a_row_that_decides_it(run):
    _, found = run("--dry-run", "--only", "stepping")
    bars = {entry["bar"] for entry in found["bars"]}
    source = "".join(path.read_text() for path in FOLDER.glob("gpu_*.py") if path.name != "gpu_bench.py")
    assert {bar for bar in bars - LARGEST if f'"{bar}"' not in source} == set()
    (peak,) = (entry for entry in found["bars"] if entry["bar"] == "peak")
    assert peak["figure"] is peak["met"] is None and peak["case"] == "3 of 3 not measured"


SECTIONS = """
import os, sys, time
sys.path.insert(0, {folder!r})
import gpu, gpu_bench
from numba import cuda

def right(bench):
    bench.attempt(row, "one")

def row(bench, case):
    bars = dict(bmm=1.0, vmap=6.0)
    bench.record("right", case, dict(ours=lambda: None), 1e-5, bars, format="float32")

def wrong(bench):
    bench.attempt(false, 7)
    bench.attempt(row, "two")

def false(bench, case):
    assert case == 8, "an output is not right"

def lost(bench):
    def synchronize():
        raise RuntimeError("no answer")
    cuda.synchronize = synchronize
    bench.attempt(false, 9)

def dead(bench):
    os._exit(7)

def stuck(bench):
    while True:
        time.sleep(0.01)

def slow(bench):
    while True:
        bench.spent()

def after(bench):
    bench.attempt(row, "three")

gpu.SECTIONS = dict.fromkeys((right, wrong, lost, dead, stuck, slow, after), 1)
gpu.SECTIONS[stuck] = gpu.SECTIONS[slow] = 1e-3
gpu.GRACE = 2.5
if __name__ == "__main__":
    gpu.main()
"""


def test_a_section_that_fails_hangs_or_dies_leaves_the_others_alone(run, tmp_path):
    script = tmp_path / "sections.py"
    script.write_text(SECTIONS.format(folder=str(FOLDER)))
    done, found = run("--dry-run", "--budget", "100", script=script)
    assert done.returncode == 1, done.stderr
    assert [row["case"] for row in found["rows"]] == ["one", "two", "three"]
    said = {(each["section"], each["case"]): each["traceback"] for each in found["failures"]}
    assert list(said) == [
        ("wrong", "false(7)"),
        ("lost", "false(9)"),
        ("dead", "the process ended with exit code 7"),
        ("stuck", "it does not end, and its process was killed"),
    ]
    assert said["wrong", "false(7)"].endswith("AssertionError: an output is not right\n")
    assert "in stuck" in said["stuck", "it does not end, and its process was killed"]
    assert found["left_out"] == ["the rest of slow: the time of slow is over"]
    assert list(found["sections"]) == ["right", "wrong", "slow", "after"]


def test_the_table_says_which_bars_are_met(run, tmp_path):
    script = tmp_path / "sections.py"
    script.write_text(SECTIONS.format(folder=str(FOLDER)))
    done, found = run("--dry-run", "--only", "right", script=script)
    decided = {entry["bar"]: entry["met"] for entry in found["bars"] if entry["figure"] is not None}
    assert decided == {"vmap": True, "bmm": False, "float32": False}
    lines = [[word.strip() for word in line.split("|")] for line in done.stdout.splitlines() if "|" in line]
    met = {tuple(line[-3:-1]) for line in lines}
    assert {("6", "yes"), ("1", "NO"), ("1e-05", "NO"), ("-", "?")} <= met


def test_times_are_not_taken_in_the_simulator(run):
    done, found = run()
    assert done.returncode == 2 and found is None
    assert "the simulator is not a device: pass --dry-run" in done.stderr
