"""The lesson's ladder over real handwritten digits: from a loop over neurons, rung by rung, to the kernels.

Every rung computes the same network on the same images; each is timed, and compared with the loop that anyone can read.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors.numpy import load_file

from numbadense.io import load

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from rich.console import Console

    from numbadense.model import Sequential

    Array = NDArray[Any]

__all__ = ["Demo", "Rung", "run"]

DATA = Path(__file__).with_name("data")
COPIES = 64  # of the held-out images in a timed batch: 28 800 rows, enough to be worth several threads
ROUNDS = 6
TURN = 0.03  # seconds of calls that one rung gets in a round
REST = 0.05  # seconds before a turn, for the thread pool of the rung before to stop spinning
DRAWN = 6
PICTURE = 16  # characters
GAP = 2
SHADES = " \u2591\u2592\u2593\u2588"
ASCII_SHADES = " .:*#"


@dataclass(frozen=True)
class Rung:
    """One way to compute the network, and how it did.

    Attributes
    ----------
    name : str
        What it is.
    rows : int
        Images in the batch that was timed.
    seconds : float
        The median time of that batch.
    speedup : float
        The first rung's time per image over this one's.
    max_abs_difference : float
        The largest absolute difference of an output from the first rung's.
    accuracy : float
        The share of the held-out images whose digit is the largest output.
    """

    name: str
    rows: int
    seconds: float
    speedup: float
    max_abs_difference: float
    accuracy: float

    @property
    def seconds_per_image(self) -> float:
        """The median time over the number of images."""
        return self.seconds / self.rows


@dataclass(frozen=True)
class Demo:
    """The ladder, and the digits that it read.

    Attributes
    ----------
    network : Sequential
    images : ndarray, shape (n, 64), uint8
        Held-out images of 8x8 pixels, from 0 to 16.
    labels : ndarray, shape (n,), uint8
        The digits that they show.
    predicted : ndarray, shape (n,), int
        The digits that the first rung read.
    rungs : tuple of Rung
    notes : tuple of str
        Which rungs there are none of, and why.
    """

    network: Sequential
    images: Array
    labels: Array
    predicted: Array
    rungs: tuple[Rung, ...]
    notes: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return what is worth writing as JSON."""
        return {
            "network": repr(self.network),
            "images": len(self.images),
            "rungs": [{**asdict(rung), "seconds_per_image": rung.seconds_per_image} for rung in self.rungs],
            "notes": list(self.notes),
            "digits": [
                {"image": i, "predicted": int(self.predicted[i]), "label": int(self.labels[i])}
                for i in self.examples(DRAWN)
            ],
        }

    def examples(self, count: int) -> list[int]:
        """Return the indices of `count` images: digits read right, all different, and at the end one read wrong."""
        right = self.predicted == self.labels
        wrong = np.flatnonzero(~right)[:1].tolist()
        first = [int(np.flatnonzero(right & (self.labels == digit))[0]) for digit in np.unique(self.labels[right])]
        return sorted(first)[: count - len(wrong)] + wrong


def sigmoid(z: Any) -> Any:
    """Logistic function, as the lesson writes it."""
    return 1 / (1 + np.exp(-z))


def loop(a_in: Array, w: Array, b: Array) -> Array:
    """Return one example's activations: the lesson's loop over neurons."""
    units = w.shape[1]
    a_out = np.zeros(units, w.dtype)
    for j in range(units):
        z = np.dot(w[:, j], a_in) + b[j]
        a_out[j] = sigmoid(z)
    return a_out


def vectorised(a_in: Array, w: Array, b: Array) -> Array:
    """Return the activations of all examples: the lesson's matrix product."""
    return sigmoid(np.matmul(a_in, w) + b)


def held_out() -> tuple[Array, Array]:
    """Return the images that the network was not trained on, and the digits that they show."""
    content = load_file(DATA / "digits_heldout.safetensors")
    return content["images"], content["labels"]


def _by_loops(network: Sequential, x: Array) -> Array:
    outputs = []
    for example in x:
        a = example
        for layer in network.layers:
            a = loop(a, layer.w, layer.b)
        outputs.append(a)
    return np.array(outputs)


def _by_matrices(network: Sequential, x: Array) -> Array:
    for layer in network.layers:
        x = vectorised(x, layer.w, layer.b)
    return x


def _ways(network: Sequential, x: Array, copies: int) -> tuple[dict[str, tuple[int, Callable[[], Array]]], list[str]]:
    """Return each way to compute the network by name, with its number of rows, and the ways that cannot be had."""
    from numbadense._engine import run as runner
    from numbadense._engine import threads

    batch = np.tile(x, (copies, 1))
    rows = len(batch)
    ways: dict[str, tuple[int, Callable[[], Array]]] = {
        "loop over neurons": (len(x), lambda: _by_loops(network, x)),
        "np.matmul": (rows, lambda: _by_matrices(network, batch)),
        "numbadense, 1 thread": (rows, lambda: network(batch, threads=1)),
    }
    notes = []
    if threads.limit() > 1:
        threads.layer()  # plans depend on the layer, which is known only once it has run
    plan = runner.plan(network._program, rows, None)
    if plan.parallel:
        ways[f"numbadense, {plan.threads} threads"] = rows, lambda: network(batch)
    else:
        notes.append(f"No parallel rung: {plan.why}.")
    return ways, notes


def _times(calls: list[Callable[[], Any]], rounds: int) -> list[float]:
    """Return the median seconds of each call, taking turns: down the list in one round, up it in the next."""
    seconds: list[list[float]] = [[] for _ in calls]
    turns = list(enumerate(calls))
    for _ in range(rounds):
        for index, call in turns:
            time.sleep(REST)
            call()  # untimed: it brings the data and the clock back
            turn_ends = time.perf_counter() + TURN
            while (begin := time.perf_counter()) < turn_ends:
                call()
                seconds[index].append(time.perf_counter() - begin)
        turns.reverse()
    return [median(each) for each in seconds]


def run(
    rounds: int = ROUNDS,
    copies: int = COPIES,
    while_compiling: Callable[[], contextlib.AbstractContextManager[Any]] = contextlib.nullcontext,
) -> Demo:
    """Climb the ladder.

    Parameters
    ----------
    rounds : int, optional
        How often the rungs take turns.
    copies : int, optional
        How often the held-out images are repeated in the batch that is timed, for all rungs but the first.
    while_compiling : callable, optional
        Gives a context manager, entered around the first use of every rung.

    Returns
    -------
    Demo
    """
    network = load(DATA / "digits.safetensors")
    images, labels = held_out()
    x = images.astype(np.float32) / 16
    with while_compiling():
        ways, notes = _ways(network, x, copies)
        outputs = [call().reshape(-1, len(x), network.n_out) for _, call in ways.values()]
    seconds = _times([call for _, call in ways.values()], rounds)
    reference = outputs[0]
    per_image = seconds[0] / len(x)
    rungs = tuple(
        Rung(
            name,
            rows,
            time_,
            per_image / (time_ / rows),
            float(np.abs(output - reference).max()),
            float((output.argmax(axis=-1) == labels).mean()),
        )
        for (name, (rows, _)), time_, output in zip(ways.items(), seconds, outputs, strict=True)
    )
    return Demo(network, images, labels, reference[0].argmax(axis=1), rungs, tuple(notes))


def show(demo: Demo, console: Console) -> None:
    """Print the digits and the ladder.

    Parameters
    ----------
    demo : Demo
        What to print.
    console : rich.console.Console
        Where to; characters that its encoding lacks are replaced by ASCII ones.
    """
    from rich import box
    from rich.table import Table
    from rich.text import Text

    n, rows = len(demo.images), demo.rungs[-1].rows
    widths = "-".join(str(width) for width in (demo.network.n_in, *(layer.n_out for layer in demo.network.layers)))
    console.print(f"A {widths} sigmoid network reads {n} handwritten digits that it was not trained on.\n")
    chosen = demo.examples(max(2, min(DRAWN, (console.width + GAP) // (PICTURE + GAP))))
    for line in zip(*(picture(demo.images[i], shades(console.encoding)) for i in chosen), strict=True):
        console.print(Text((" " * GAP).join(line).rstrip(), no_wrap=True, overflow="crop"))
    captions = Text(no_wrap=True, overflow="crop")
    for i in chosen:
        right = demo.predicted[i] == demo.labels[i]
        caption = f"reads {demo.predicted[i]}, is {demo.labels[i]}"
        captions.append(caption.center(PICTURE), "green" if right else "bold red").append(" " * GAP)
    captions.rstrip()
    console.print(captions)

    table = Table(box=box.SIMPLE, pad_edge=False)
    table.add_column("")
    for name in ("time per image", "speed-up", "largest difference", "accuracy"):
        table.add_column(name, justify="right")
    for rung in demo.rungs:
        difference = f"{rung.max_abs_difference:.1e}" if rung is not demo.rungs[0] else ""
        accuracy = f"{rung.accuracy:.2%}"
        table.add_row(rung.name, duration(rung.seconds_per_image), f"{rung.speedup:,.1f}", difference, accuracy)
    console.print(table)
    console.print(
        f"All in {demo.network.dtype}. The loop ran over the {n} images, the others over them {rows // n} times at once, "
        f"{rows:,} rows. Times are medians of rounds in which the rungs took turns."
    )
    for note in demo.notes:
        console.print(note)


def shades(encoding: str) -> str:
    """Return characters from light to dark that the encoding has."""
    try:
        SHADES.encode(encoding)
    except (UnicodeEncodeError, LookupError):
        return ASCII_SHADES
    return SHADES


def picture(image: Array, shades: str) -> list[str]:
    """Return an image as eight lines of text, two characters a pixel."""
    levels = image.reshape(8, 8).astype(int) * (len(shades) - 1) // 16
    return ["".join(2 * shades[level] for level in row) for row in levels]


def duration(seconds: float) -> str:
    """Return a time with three digits and its unit."""
    for unit, size in (("s", 1), ("ms", 1e-3), ("us", 1e-6)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds / 1e-9:.3g} ns"
