"""Check a built wheel: its size and contents, and that it works alone, in a new environment and an empty folder.

Usage: ``python check_wheel.py DIST``, with the folder that holds the wheel.
"""

import json
import os
import subprocess
import sys
import tempfile
import venv
import zipfile
from pathlib import Path

LARGEST = 1_000_000
NEEDED = {
    "numbadense/__init__.py",
    "numbadense/py.typed",
    "numbadense/data/digits.safetensors",
    "numbadense/data/digits_heldout.safetensors",
}


def check(condition: object, complaint: str) -> None:
    """Exit with `complaint` unless `condition` holds."""
    if not condition:
        sys.exit(f"check_wheel: {complaint}")


def check_contents(wheel: Path) -> None:
    """Check how large the wheel is and what it holds."""
    size = wheel.stat().st_size
    check(size < LARGEST, f"{wheel.name} has {size:,} bytes, and {LARGEST:,} are too many")
    names = set(zipfile.ZipFile(wheel).namelist())
    check(names >= NEEDED, f"{wheel.name} lacks {', '.join(sorted(NEEDED - names))}")
    strangers = {name for name in names if not name.startswith(("numbadense/", "numbadense-"))}
    check(not strangers, f"{wheel.name} also holds {', '.join(sorted(strangers))}")
    print(f"{wheel.name}: {size:,} bytes, {len(names)} files")


def check_installed(wheel: Path) -> None:
    """Install the wheel into a new environment and run the demo from an empty folder."""
    with tempfile.TemporaryDirectory() as folder:
        place, empty = Path(folder, "environment"), Path(folder, "empty")
        empty.mkdir()
        venv.create(place, with_pip=True)
        scripts = place / ("Scripts" if os.name == "nt" else "bin")
        settings = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        settings["NUMBADENSE_CACHE_DIR"] = str(Path(folder, "kernels"))

        def run(*command: object) -> str:
            arguments = [str(part) for part in command]
            done = subprocess.run(
                arguments, cwd=empty, env=settings, stdout=subprocess.PIPE, text=True, check=False, timeout=600
            )
            check(done.returncode == 0, f"{' '.join(arguments)} exited with {done.returncode}")
            return done.stdout

        run(scripts / "python", "-m", "pip", "install", "--quiet", wheel)
        where = run(scripts / "python", "-c", "import numbadense; print(numbadense.__file__)").strip()
        check(Path(where).resolve().is_relative_to(place.resolve()), f"numbadense was imported from {where}")
        report = json.loads(run(scripts / "numbadense", "demo", "--json"))
        names = [rung["name"] for rung in report["rungs"]]
        check(len(names) >= 3, f"the demo climbed only {', '.join(names)}")
        worst = min(rung["accuracy"] for rung in report["rungs"])
        check(worst > 0.95, f"the demo's accuracy is {worst:.1%}")
        print(f"numbadense demo --json: {', '.join(names)}; accuracy {worst:.1%}")


def main() -> None:
    """Check the only wheel of the folder that is named on the command line."""
    [wheel] = Path(sys.argv[1]).resolve().glob("numbadense-*.whl")
    check_contents(wheel)
    check_installed(wheel)


if __name__ == "__main__":
    main()
