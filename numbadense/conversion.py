"""Whether two networks say the same: one of ours, and the file it was converted from."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from numbadense import testing
from numbadense.errors import ModelFormatError, ShapeError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from numbadense.model import Sequential

__all__ = ["Comparison", "Side", "compare", "of_file", "of_network", "random_rows"]

ROUNDOFF = {"float64": 2.0**-53, "float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}
FRAMEWORK_EPS = 64.0  # how far the activations of a framework may be from the truth, in eps of 1 + |y|, in each layer


@dataclass(frozen=True)
class Side:
    """Who computes, and how: ``run(x)``.

    `rows` are those that its results were recorded for, or None if it takes any.  `dtypes` are what it computes in and
    what it keeps its weights in, as far as is known.  `ours` says whether it is a network of numbadense.
    """

    name: str
    run: Callable[[NDArray[Any]], NDArray[Any]]
    dtypes: frozenset[str] = frozenset()
    rows: NDArray[Any] | None = None
    ours: bool = False


@dataclass(frozen=True)
class Comparison:
    """What came of comparing two sides over `rows` rows.

    `finite` says how many results were numbers on both sides.  `share` is the largest difference in units of its bound,
    so that 1 or less is agreement; `difference` and `bound` are those there, at `where`: a row and a column.
    """

    this: str
    other: str
    rows: int
    finite: int
    share: float
    difference: float
    bound: float
    where: tuple[int, int]

    @property
    def agree(self) -> bool:
        """Whether every difference is within its bound."""
        return self.share <= 1


def random_rows(n_in: int, count: int, seed: int) -> NDArray[np.float32]:
    """Return random rows of all sizes: normal numbers, times between 1/100 and 100 for each row."""
    rng = np.random.default_rng(seed)
    return (rng.standard_normal((count, n_in)) * 10.0 ** rng.uniform(-2, 2, (count, 1))).astype(np.float32)


def of_network(name: str, network: Sequential) -> Side:
    """Return a network of numbadense as a side."""
    return Side(name, network, frozenset({network.dtype.name, network.storage}), ours=True)


def of_file(path: Path) -> Side | None:
    """Return what another program says of a file: recorded results, or ONNX Runtime's; None where there is none.

    Raises
    ------
    ModelFormatError
        If recorded results are not two arrays x and y of as many rows, or ONNX Runtime refuses the file.
    """
    if path.suffix == ".npz":
        return _recorded(path)
    if path.suffix == ".onnx" and importlib.util.find_spec("onnxruntime") is not None:
        return _onnxruntime(path)
    return None


def _recorded(path: Path) -> Side:
    try:
        with np.load(path, allow_pickle=False) as file:
            x, y = file["x"], file["y"]
            x.astype(np.float64), y.astype(np.float64)
    except OSError:
        raise
    except Exception as error:  # NumPy lets through whatever its parsing of a damaged file comes upon
        raise ModelFormatError(
            f"{path} must have arrays of numbers x, the inputs, and y, what the original gives for them ({error!r})."
        ) from None
    if x.ndim != 2 or y.shape[:1] != x.shape[:1]:
        raise ModelFormatError(
            f"{path} has x of shape {x.shape} and y of shape {y.shape} but needs as many rows of each."
        )
    return Side(f"results in {path}", lambda _: y, frozenset({y.dtype.name}), x)


def _onnxruntime(path: Path) -> Side:
    import onnxruntime

    try:
        session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
        operand = session.get_inputs()[0]
    except OSError:
        raise
    except Exception as error:  # of a kind for each thing that can be wrong
        raise ModelFormatError(f"{path} cannot be run by ONNX Runtime ({error}); compare with another file.") from None
    dtype = np.dtype(np.float64 if operand.type == "tensor(double)" else np.float32)
    return Side(
        f"ONNX Runtime on {path}",
        lambda x: session.run(None, {operand.name: np.ascontiguousarray(x, dtype)})[0],
        frozenset({dtype.name}),
    )


def compare(network: Sequential, name: str, other: Side, x: NDArray[Any]) -> Comparison:
    """Compare a network with another side over rows `x`.

    Each output may differ by twice its error bound, in the coarser precision of the two sides: see
    :func:`numbadense.testing.error_bound`.  A framework's activations are given `FRAMEWORK_EPS` more.

    Raises
    ------
    ShapeError
        If the two sides do not take the same features, or do not give as many results.
    """
    if x.shape[1] != network.n_in:
        raise ShapeError(f"{other.name} has {x.shape[1]} features but {name} takes {network.n_in}.")
    y, theirs = network(x), np.asarray(other.run(x))
    theirs = theirs.reshape(len(x), -1) if len(x) else theirs.reshape(0, network.n_out)
    if theirs.shape != y.shape:
        raise ShapeError(f"{other.name} gives {theirs.shape[1]} results a row but {name} gives {y.shape[1]}.")
    roundoff = max(ROUNDOFF.get(kind, 0.0) for kind in other.dtypes | {network.dtype.name, network.storage})
    dtype = np.dtype(np.float32 if roundoff > ROUNDOFF["float64"] else np.float64)
    extra = 0.0 if other.ours else FRAMEWORK_EPS
    with np.errstate(all="ignore"):
        bound = 2 * testing.error_bound(x, network.layers, dtype, weight_error=roundoff, activation_error=extra)
        difference = abs(y.astype(np.longdouble) - theirs)
        share = np.where((y == theirs) | (np.isnan(y) & np.isnan(theirs)), 0, difference / bound)
    share[np.isnan(share)] = np.inf
    if not share.size:
        return Comparison(name, other.name, len(x), 0, 0.0, 0.0, 0.0, (0, 0))
    row, column = (int(index) for index in np.unravel_index(np.argmax(share), share.shape))
    at = row, column
    finite = int((np.isfinite(y) & np.isfinite(theirs)).sum())
    return Comparison(name, other.name, len(x), finite, float(share[at]), float(difference[at]), float(bound[at]), at)
