"""Machine code without a device: PTX assembled by ptxas, taken apart by nvdisasm, and read."""

import functools
import importlib.metadata
import re
import shutil
import subprocess
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from device_needs import absent

ASSEMBLY = re.compile(r"call[^\n]* asm (?:sideeffect)? *\"([^\"]*)\", \"[^\n]*?( convergent)?$", re.MULTILINE)
TOGETHER = re.compile(r"\b(wg?mma|mma|(ld|st)matrix|m?bar(rier)?|shfl|vote|match|redux|elect|setmaxnreg)\.")


def assert_together(code):
    """Fail unless each call of assembly that threads have to come to together is convergent in LLVM's code."""
    for text, convergent in ASSEMBLY.findall(code):
        assert convergent or not TOGETHER.search(text), f"not convergent: {text}"


@dataclass(frozen=True)
class Code:
    """A kernel as assembled: its registers and bytes of memory a thread or block, and its instructions in order.

    `loops` are the instructions between each backward branch and its target, nested ones twice; `said` is what the
    assembler had to say.
    """

    registers: int
    local: int  # stack and spills
    shared: int
    instructions: tuple[str, ...]
    loops: tuple[tuple[str, ...], ...]
    said: str

    def step(self, multiply: str, products: int) -> Counter:
        """Return how often each instruction is issued in a step of the loop that copies and multiplies.

        A step has so many `products`; where it has an inner loop, that runs as often as it takes.
        """
        loops = [Counter(_head(name) for name in loop) for loop in self.loops]
        steps = [loop for loop in loops if loop[multiply] and loop["LDGSTS"]]
        outer = min(steps, key=Counter.total)
        inner = [loop for loop in loops if loop[multiply] and not loop["LDGSTS"] and loop.total() < outer.total()]
        inner = [loop for loop in inner if products - (outer - loop)[multiply] > loop[multiply] and loop <= outer]
        if outer[multiply] == products:
            return outer
        body = max(inner, key=lambda loop: loop[multiply])
        rest = outer - body
        turns, left = divmod(products - rest[multiply], body[multiply])
        assert not left
        return rest + Counter({name: count * turns for name, count in body.items()})


def _head(name):
    return name.split(".")[0]


@functools.cache
def _tool(name, package):
    try:
        shipped = importlib.metadata.files(package) or ()
    except importlib.metadata.PackageNotFoundError:
        shipped = ()
    found = [str(path) for path in (Path(file.locate()) for file in shipped) if path.stem == name and path.is_file()]
    return found[0] if found else shutil.which(name)


def assemble(ptx, folder):
    """Return the `Code` of a module with one kernel; without the tools the test is skipped, or fails if it must not."""
    ptxas, nvdisasm = _tool("ptxas", "nvidia-cuda-nvcc"), _tool("nvdisasm", "nvidia-cuda-nvdisasm")
    if ptxas is None or nvdisasm is None:
        absent("ptx", "ptxas and nvdisasm, of nvidia-cuda-nvcc and nvidia-cuda-nvdisasm, are not installed")
    source, binary = folder / "kernel.ptx", folder / "kernel.cubin"
    source.write_text(ptx)
    architecture = re.search(r"^\.target (\w+)", ptx, re.MULTILINE)[1]
    done = subprocess.run([ptxas, f"-arch={architecture}", "-v", source, "-o", binary], capture_output=True, text=True)
    if "Unsupported .version" in done.stderr:
        absent("ptx", "ptxas is older than the compiler: install both from one release of the CUDA toolkit")
    assert done.returncode == 0, done.stderr
    stack = re.findall(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", done.stderr)
    shared = re.search(r"(\d+) bytes smem", done.stderr)
    sass = subprocess.run([nvdisasm, "-c", binary], capture_output=True, text=True, check=True).stdout
    return Code(
        int(re.search(r"Used (\d+) registers", done.stderr)[1]),
        sum(int(size) for sizes in stack for size in sizes),
        int(shared[1]) if shared else 0,
        *_read(sass),
        done.stderr,
    )


def refusal(ptx, version, folder):
    """Return what the assembler says of the first instruction that this version of PTX has not, or None."""
    source, older = folder / "older.ptx", re.sub(r"^\.version .*$", f".version {version}", ptx, flags=re.MULTILINE)
    source.write_text(older)
    architecture = re.search(r"^\.target (\w+)", ptx, re.MULTILINE)[1]
    command = [_tool("ptxas", "nvidia-cuda-nvcc"), f"-arch={architecture}", source, "-o", folder / "older.cubin"]
    said = subprocess.run(command, capture_output=True, text=True).stderr
    found = re.search(r"error\s*: (.*)", said)
    return found and found[1]


def _read(sass):
    labels, names, branches = {}, [], []
    for line in sass.splitlines():
        if label := re.match(r"(\.L_x_\d+):", line):
            labels[label[1]] = len(names)
        elif found := re.search(r"/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_.x]*)(.*)", line):
            name, operands = found.groups()
            if _head(name) == "BRA" and (target := re.search(r"\.L_x_\d+", operands)):
                branches.append((len(names), target[0]))
            names.append(name)
    loops = (names[labels[label] : at + 1] for at, label in branches if labels.get(label, at + 1) <= at)
    return tuple(names), tuple(tuple(loop) for loop in loops if loop)
