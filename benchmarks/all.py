"""Every benchmark, one after the other, and one page of all their tables.

``python benchmarks/all.py`` takes half an hour on a quiet machine, and leaves its JSON files, their Markdown tables and
a page of these, named after the CPU, in ``benchmarks/results``.  ``--only WORD`` runs those whose command has the word.
"""

import argparse
import subprocess
import sys
from pathlib import Path

import harness

HERE = Path(__file__).parent
COMMANDS = [
    "run.py --suite dense --dtype float32",
    "run.py --suite dense --dtype float64",
    "run.py --suite deep --dtype float32",
    "run.py --suite networks --dtype float32",
    "run.py --suite dense --dtype float32 --threads 2",
    "run.py --suite networks --dtype float32 --threads 2",
    "run.py --suite dense --dtype float32 --isa haswell",
    "run.py --suite dense --dtype float64 --isa haswell",
    "latency.py",
    "peak.py",
    "activations.py",
    "softmax.py",
    "softmax.py --suite memory",
    "population.py",
    "half.py",
    "derivatives.py",
    "cold.py",
    "examples.py",
]


def page(cpu):
    """Return all tables of a CPU's results, each under the name of its file."""
    lines = [f"# Results on {cpu}", ""]
    for table in sorted((HERE / "results").glob(f"{cpu}-*.md")):
        lines += [f"## {table.stem.removeprefix(cpu).strip('-')}", "", table.read_text().strip(), ""]
    return "\n".join(lines)


def main():
    """Run, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", default="", metavar="WORD", help="run the commands that have this word")
    arguments = parser.parse_args()
    for command in COMMANDS:
        if arguments.only in command:
            print(f"benchmarks/{command}", flush=True)
            script, *options = command.split()
            subprocess.run([sys.executable, str(HERE / script), *options], check=True)
    cpu = harness.machine()["cpu"]
    (HERE / "results" / f"{cpu}.md").write_text(page(cpu))


if __name__ == "__main__":
    main()
