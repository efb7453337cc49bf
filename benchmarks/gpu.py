"""Every CUDA kernel there is: built, checked and timed against its peers on the device at hand, in 8 minutes at most.

``python benchmarks/gpu.py`` needs an NVIDIA GPU, numba-cuda with a compiler, and nothing installed of this project;
PyTorch and CuPy are peers where they are installed.  It writes one JSON file, anew after each case, and at the end a
table of the bars: figure, and whether it reaches the bar.  Before anything is timed, each kernel has given the right
numbers: on fresh random data, into outputs full of NaN, against float64.  Times are CUDA events' around calls in a row,
the medians of rounds in which the engines take turns; ratios are the median of the rounds', the peer's time over ours.

All sections run in one process, which another one watches.  A case that fails is noted, with its traceback, and the
next one runs.  A section that hangs, or loses the device, ends its process, and the next section begins in a new one.
Each has its share of the time that is left: what it does not take is for those after it, and what it takes too much is
taken from all of them.

``NUMBA_ENABLE_CUDASIM=1 python benchmarks/gpu.py --dry-run`` runs all of it in numba's simulator, on tiny shapes, and
reports no times: it shows that the script works, before there is a device.
"""

import argparse
import contextlib
import faulthandler
import importlib.metadata
import json
import multiprocessing
import os
import sys
import tempfile
import time
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))  # the package, where it is not installed
if (toolkit := Path("/usr/local/cuda")).exists():
    os.environ.setdefault("CUDA_HOME", str(toolkit))  # where its compiler is, if pip's is not installed

from numbadense._engine.cuda import device

if (reason := device.why_not()) is not None:
    raise SystemExit(f"CUDA cannot be used: {reason}.")

import gpu_bench
import gpu_fused
import gpu_hopper
import gpu_launch
import gpu_layers
import gpu_tensor
import gpu_warp
import harness
from numba import cuda
from rich import box
from rich.console import Console
from rich.table import Table

BUDGET = 440  # seconds, for all sections
LONGEST = 480  # seconds, after which nothing is waited for
GRACE = 40  # seconds that a section may take beyond its share: a kernel that is compiled, a case that is timed
START = 120  # seconds in which a process has to begin its first section
DRY = 3600  # seconds of a dry run

# Sections, and their shares of the time: those with bars first, and of these the boldest kernels last.
SECTIONS = {
    gpu_layers.dense: 60,
    gpu_fused.fused: 70,
    gpu_launch.host: 30,
    gpu_warp.stepping: 20,
    gpu_layers.elementwise: 50,
    gpu_tensor.tensor_cores: 50,
    gpu_hopper.hopper: 50,
    gpu_layers.classes: 50,
    gpu_layers.few: 30,
    gpu_launch.rows: 10,
    gpu_warp.warp: 15,
    gpu_layers.every_tile: 50,
    gpu_hopper.clusters: 20,
}


def machine(bench):
    """Return what the numbers were measured on."""
    found = harness.machine()
    if not device.simulated():
        current = cuda.get_current_device()
        name = current.name.decode() if isinstance(current.name, bytes) else current.name
        found |= {"gpu": name, "capability": list(current.compute_capability)}
        found |= {"multiprocessors": current.MULTIPROCESSOR_COUNT, "clock_khz": current.CLOCK_RATE}
        found["memory"] = cuda.current_context().get_memory_info()[1]
    found["versions"]["numba-cuda"] = importlib.metadata.version("numba-cuda")
    found["versions"] |= {name: module.__version__ for name, module in bench.peers.items()}
    return found


def work(pipe, names, dry, until, grace, stuck):
    """Run sections, telling the process that watches what is found; where one hangs is written to the file `stuck`."""
    sections = [section for section in SECTIONS if section.__name__ in names]
    tell = lambda kind, value: pipe.send((kind, value))  # noqa: E731
    gpu_bench.quick_turns()
    bench = gpu_bench.Bench(dry, tell)
    tell("machine", machine(bench))
    for index, section in enumerate(sections):
        share = SECTIONS[section] / sum(SECTIONS[each] for each in sections[index:])
        seconds = max(0.0, (until - time.monotonic()) * share)
        bench.section, bench.deadline = section.__name__, time.monotonic() + seconds
        tell("begin", (section.__name__, seconds))
        with open(stuck, "w") as file:
            faulthandler.dump_traceback_later(max(1.0, seconds + 0.8 * grace), file=file)
            try:
                section(bench)
            except TimeoutError as error:
                tell("left out", f"the rest of {section.__name__}: {error}")
            except gpu_bench.LostError:  # what comes next needs another process
                break
            except Exception as error:
                bench.failed("as a whole", error)
                break
            finally:
                faulthandler.cancel_dump_traceback_later()
        tell("end", section.__name__)
    pipe.close()
    os._exit(0)  # without a word to a device that may not answer


class Watch:
    """What has been found, and what is still to be run."""

    def __init__(self, names, arguments, output):
        self.left, self.dry, self.output = list(names), arguments.dry_run, output
        self.begin = time.monotonic()
        self.until = self.begin + arguments.budget
        self.longest = self.begin + arguments.budget + LONGEST - BUDGET
        self.section = None
        lists = {name: [] for name in ("failures", "left_out", "rows")}
        self.found = {"dry_run": self.dry, "sections": {}, "absent": {}, **lists}

    def all(self, stuck):
        """Run all sections, in as many processes as it takes."""
        while self.left and time.monotonic() < self.longest:
            before = len(self.left)
            self.some(stuck)
            if len(self.left) == before:
                self.fail("no section begins", "")
                break
        self.found["left_out"] += [f"{name}: no time was left" for name in self.left]
        self.write()

    def some(self, stuck):
        """Run sections in a process, until they are done, or one hangs or ends it."""
        self.section, self.limit = None, time.monotonic() + START
        context = multiprocessing.get_context("spawn")
        pipe, theirs = context.Pipe(duplex=False)
        process = context.Process(target=work, args=(theirs, tuple(self.left), self.dry, self.until, GRACE, stuck))
        process.start()
        theirs.close()
        try:
            while pipe.poll(max(0.0, min(self.limit, self.longest) - time.monotonic())):
                self.take(*pipe.recv())
            where = Path(stuck).read_text() if Path(stuck).exists() else ""
            self.fail("it does not end, and its process was killed", where)
        except EOFError:  # the process has ended
            process.join(GRACE)
            if self.section is not None and not self.lost():
                self.fail(f"the process ended with exit code {process.exitcode}", "")
        finally:
            if process.is_alive():
                process.kill()
            process.join(GRACE)
        if self.section is not None:
            self.left.remove(self.section)

    def lost(self):
        """Say whether the section that the process ended in has said why."""
        return any(failure["section"] == self.section for failure in self.found["failures"])

    def fail(self, what, where):
        """Note a failure of the section as a whole."""
        self.take("failure", {"section": self.section, "case": what, "traceback": where[-4000:]})

    def take(self, kind, value):
        """Keep what the process tells, and write it down: the next word may not come."""
        found = self.found
        if kind == "begin":
            self.section, seconds = value
            self.limit, self.began = time.monotonic() + seconds + GRACE, time.monotonic()
            return
        if kind == "end":
            self.left.remove(value)
            self.section = None
            found["sections"][value] = time.monotonic() - self.began
        elif kind == "row":
            found["rows"].append(value)
            print(line_of(value), flush=True)
        elif kind == "failure":
            found["failures"].append(value)
            print(f"FAILED {value['section']}: {value['case']}\n{value['traceback']}", flush=True)
        elif kind == "left out":
            found["left_out"].append(value)
        elif kind == "absent":
            found["absent"][value[0]] = value[1]
        else:
            found[kind] = value
        if self.output is None:
            name = "dry-run" if self.dry else found["machine"]["gpu"].lower().replace(" ", "-")
            self.output = Path(__file__).with_name("results") / f"{name}-gpu.json"
        self.write()

    def write(self):
        """Write the file, by a rename, so that it is whole whenever this ends."""
        self.found |= {"seconds": time.monotonic() - self.begin, "bars": list(decided(self.found["rows"]))}
        if self.output is None:
            return
        self.output.parent.mkdir(parents=True, exist_ok=True)
        half = self.output.with_suffix(".part")
        half.write_text(json.dumps(self.found, indent=1) + "\n")
        half.replace(self.output)


def line_of(row):
    """Return a row in words: seconds, and the peers' over ours."""
    times = {name: f"{1e6 * seconds:.4g} us" for name, seconds in row.get("seconds", {}).items()}
    times |= {name: f"{times[name]}, x {ratio:.3g}" for name, ratio in row.get("ratio", {}).items()}
    said = "; ".join(f"{name} {time}" for name, time in times.items())
    return f"{row['section']}: {row['case']}: error {row['error']:.2g}; {said}"


def decided(rows):
    """Return what is known of each bar: an entry for each case, and one for those that were not measured."""
    for name, bar in gpu_bench.BARS.items():
        given = [(row["case"], row["bars"][name]) for row in rows if name in row["bars"]]
        if name in gpu_bench.LARGEST:
            given = given or [(row["case"], row["error"]) for row in rows if row.get("format") == name]
            given = [max(given, key=lambda pair: pair[1])] if given else []
        about = {"bar": name, "work": bar.work, "what": bar.what, "limit": bar.limit, "most": bar.most}
        measured = [(case, figure) for case, figure in given if figure is not None]
        for case, figure in measured:
            yield about | {"case": case, "figure": figure, "met": bool(bar.met(figure))}
        if len(measured) < bar.cases:
            missing = f"{bar.cases - len(measured)} of {bar.cases} not measured"
            yield about | {"case": missing, "figure": None, "met": None}


def table(found):
    """Return the table of the bars."""
    machine = found.get("machine", {})
    title = f"{machine.get('gpu', 'the simulator: no times')}, {found['seconds']:.0f} s"
    made = Table(title=title, title_justify="left", box=box.ASCII)
    for name in ("work", "case", "bar", "measured", "met"):
        made.add_column(name, overflow="fold")
    before = None
    for entry in found["bars"]:
        bar = f"{'<=' if entry['most'] else '>='} {entry['limit']:g} {entry['what']}"
        figure = "-" if entry["figure"] is None else f"{entry['figure']:.3g}"
        met = {None: "?", True: "yes", False: "NO"}[entry["met"]]
        made.add_row("" if entry["work"] == before else entry["work"], entry["case"], bar, figure, met)
        before = entry["work"]
    return made


def main():
    """Run every section, write what was found, and show the bars."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--dry-run", action="store_true", help="tiny shapes, in the simulator or not, and no times")
    parser.add_argument("--budget", type=float, help=f"seconds after which cases are left out; {BUDGET}")
    parser.add_argument("--only", nargs="+", metavar="SECTION", help="sections to run", default=None)
    parser.add_argument("--output", type=Path, help="a .json file; by default in benchmarks/results")
    arguments = parser.parse_args()
    if device.simulated() and not arguments.dry_run:
        parser.error("the simulator is not a device: pass --dry-run")
    names = [section.__name__ for section in SECTIONS]
    if unknown := set(arguments.only or ()) - set(names):
        parser.error(f"there is no section {', '.join(sorted(unknown))}; there are {', '.join(names)}")
    arguments.budget = arguments.budget or (DRY if arguments.dry_run else BUDGET)
    watch = Watch([name for name in names if name in (arguments.only or names)], arguments, arguments.output)
    with tempfile.TemporaryDirectory() as folder, contextlib.suppress(KeyboardInterrupt):
        watch.all(f"{folder}/stuck")
    found = watch.found
    Console(width=None if sys.stdout.isatty() else 150).print(table(found))
    for failure in found["failures"]:
        print(f"FAILED {failure['section']}: {failure['case']}")
    for what in (*found["left_out"], *(f"{name}: {why}" for name, why in found["absent"].items())):
        print(f"not there: {what}")
    print(f"written to {watch.output}")
    if found["failures"]:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
