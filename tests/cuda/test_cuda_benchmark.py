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

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gpu.py"


@pytest.fixture
def run(tmp_path):
    """A function that runs the script in the simulator, and returns what it did and wrote."""
    if not SCRIPT.exists():
        pytest.skip("an installed package comes without its benchmarks")
    if not device.simulated() or importlib.util.find_spec("numba_cuda") is None:
        absent("simulator", "the script is run in the simulator of numba-cuda")

    def run(*arguments):
        output = tmp_path / "found.json"
        command = [sys.executable, str(SCRIPT), "--output", str(output), *arguments]
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
    assert sections == {"peak", "dense", "few", "elementwise", "tiles", "warp", "host", "rows", *special}
    for row in found["rows"]:
        allowed = 1e-14 if "float64" in row["case"] else special.get(row["section"], 1e-6)
        assert 0 <= row["error"] <= allowed
        assert not {"seconds", "ratio", "host_seconds"} & row.keys()
    tiles = [row["case"] for row in found["rows"] if row["section"] == "tiles"]
    assert len(tiles) == len(set(tiles)) == 8  # two tiles for each dtype, in chunks and one by one


def test_times_are_not_taken_in_the_simulator(run):
    done, found = run()
    assert done.returncode == 2 and found is None
    assert "the simulator is not a device: pass --dry-run" in done.stderr
