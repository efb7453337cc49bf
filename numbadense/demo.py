"""The lesson's ladder over real handwritten digits: from a loop over neurons, rung by rung, to the kernels.

Every rung computes the same network on the same images; each is timed, and compared with the loop that anyone can read.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from safetensors.numpy import load_file

from numbadense.io import load

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from numbadense.model import Sequential

    Array = NDArray[Any]

__all__ = ["Demo", "Rung", "run"]

DATA = Path(__file__).with_name("data")
# The held-out images are repeated this often in a timed batch.  3600 rows are worth several threads; with twice as many
# NumPy's temporaries outgrow what malloc keeps, and its rung takes three times as long (2-core Zen 4, November 2026).
COPIES = 8
ROUNDS = 6
TURN = 0.05  # seconds of calls that a rung gets in a round
DRAWN = 6


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
        wrong = [int(i) for i in np.flatnonzero(~right)[:1]]
        first = [int(np.flatnonzero(right & (self.labels == digit))[0]) for digit in np.unique(self.labels[right])]
        return sorted(first)[: count - len(wrong)] + wrong


class Way(NamedTuple):
    """One way to compute the network: what it is called, the images in its batch, and the call."""

    name: str
    rows: int
    call: Callable[[], Any]


def sigmoid(z: Array) -> Array:
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
    content: dict[str, Array] = load_file(DATA / "digits_heldout.safetensors")
    return content["images"], content["labels"]


def _by_loops(x: Array, layers: list[tuple[Array, Array]]) -> Array:
    outputs = []
    for a in x:
        for w, b in layers:
            a = loop(a, w, b)
        outputs.append(a)
    return np.array(outputs)


def _by_matrices(x: Array, layers: list[tuple[Array, Array]]) -> Array:
    for w, b in layers:
        x = vectorised(x, w, b)
    return x


def _ways(network: Sequential, x: Array, copies: int) -> tuple[list[Way], list[str]]:
    """Return the ways to compute the network on the CPU, and a note on any that cannot be had."""
    from numbadense._engine import run as runner
    from numbadense._engine import threads

    layers = [(layer.w, layer.b) for layer in network.layers if layer.b is not None]
    batch = np.tile(x, (copies, 1))
    rows = len(batch)
    ways = [
        Way("loop over neurons", len(x), lambda: _by_loops(x, layers)),
        Way("np.matmul", rows, lambda: _by_matrices(batch, layers)),
        Way("numbadense, 1 thread", rows, lambda: network(batch, threads=1)),
    ]
    if threads.limit() > 1:
        threads.layer()  # the plan depends on it, and it is known only once it has run
    plan = runner.plan(network._program, rows, None)
    if not plan.parallel:
        return ways, [f"There is no parallel rung: {plan.why}."]
    return [*ways, Way(f"numbadense, {plan.threads} threads", rows, lambda: network(batch))], []


def _cuda_ways(network: Sequential, x: Array, copies: int) -> tuple[list[Way], list[str]]:
    """Return the ways to compute the network on a CUDA device, or a note on why there are none."""
    from numbadense._engine.cuda import device

    reason = "the simulator is no device" if device.simulated() else device.why_not()
    if reason is not None:
        return [], [f"There is no CUDA rung: {reason}."]
    from numba import cuda

    on_device = network.to("cuda")
    batch = np.tile(x, (copies, 1))
    resident = cuda.to_device(batch)

    def stay() -> Any:
        result = on_device(resident)
        cuda.synchronize()
        return result

    return [
        Way("numbadense, CUDA", len(batch), lambda: on_device(batch)),
        Way("CUDA, data on device", len(batch), stay),
    ], []


def _times(calls: list[Callable[[], Any]], rounds: int) -> list[float]:
    """Return the median seconds of each call, taking turns: down the list in one round, up it in the next."""
    seconds: list[list[float]] = [[] for _ in calls]
    turns = list(enumerate(calls))
    for _ in range(rounds):
        for index, call in turns:
            call()  # untimed: it wakes this rung's threads while those of the one before it go to sleep
            turn_ends = time.perf_counter() + TURN
            while (begin := time.perf_counter()) < turn_ends:
                call()
                seconds[index].append(time.perf_counter() - begin)
        turns.reverse()
    return [median(each) for each in seconds]


def run(
    rounds: int = ROUNDS,
    copies: int = COPIES,
    while_compiling: Callable[[bool], contextlib.AbstractContextManager[Any]] = contextlib.nullcontext,
) -> Demo:
    """Climb the ladder.

    Parameters
    ----------
    rounds : int, optional
        How often the rungs take turns.
    copies : int, optional
        How often the held-out images are repeated in the batch that is timed, for all rungs but the first.
    while_compiling : callable, optional
        Gives a context manager for the first use of the rungs; its argument says whether their kernels are cached.

    Returns
    -------
    Demo
    """
    network = load(DATA / "digits.safetensors")
    images, labels = held_out()
    x = images.astype(np.float32) / 16
    ways, notes, outputs = [], [], []
    for find, cached in ((_ways, True), (_cuda_ways, False)):
        with while_compiling(cached):
            found, reasons = find(network, x, copies)
            outputs += [_on_host(way.call()).reshape(-1, len(x), network.n_out) for way in found]
        ways += found
        notes += reasons
    seconds = _times([way.call for way in ways], rounds)
    reference = outputs[0]
    rungs = tuple(
        Rung(
            name=way.name,
            rows=way.rows,
            seconds=time_,
            speedup=(seconds[0] / ways[0].rows) / (time_ / way.rows),
            max_abs_difference=float(np.abs(output - reference).max()),
            accuracy=float((output.argmax(axis=-1) == labels).mean()),
        )
        for way, time_, output in zip(ways, seconds, outputs, strict=True)
    )
    return Demo(network, images, labels, reference[0].argmax(axis=1), rungs, tuple(notes))


def _on_host(output: Any) -> Array:
    return output if isinstance(output, np.ndarray) else np.asarray(output.copy_to_host())
