"""Steps one after the other, casts before and behind: a step itself."""

import functools
import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np

from numbadense._engine.cuda import halves, memory
from numbadense._engine.cuda import room as rooms
from numbadense._engine.cuda.borrowed import Borrowed
from numbadense._engine.cuda.remembered import recall


@dataclass(frozen=True, eq=False, repr=False)
class Chain:
    """At least two steps, each of which takes what the one before gives: a matrix of `dtype`, or of half precision.

    It is 16 bits where the one step writes and the other reads such a matrix, which it would round to that itself.

    ::

        room   outputs of steps 0, 2, ...  |  of steps 1, 3, ...  |  what a step needs besides

    Every other output begins at the same place: when a step writes, the input of the step before is of no use any more.
    """

    steps: tuple[Any, ...]
    dtype: np.dtype

    @functools.cached_property
    def n_in(self) -> int:
        """Features in."""
        return self.steps[0].n_in

    @functools.cached_property
    def n_out(self) -> int:
        """Features out."""
        return self.steps[-1].n_out

    @functools.cached_property
    def arrays(self) -> tuple[Any, ...]:
        """Those of all."""
        return tuple(array for step in self.steps for array in step.arrays)

    @functools.cached_property
    def _plans(self) -> dict:
        return {}  # by rows

    def room(self, x) -> int:
        """Return the bytes that the rows of x need between the steps, and in one of them."""
        outputs, inside = recall(self._plans, (x.shape[0],), self._plan)
        within = (step.room(matrix) for step, matrix in zip(self.steps, (x, *outputs), strict=True))
        return inside + max(within)

    def run(self, x, out, room: Borrowed, stream) -> None:
        """Fill out from x."""
        outputs, inside = recall(self._plans, (x.shape[0],), self._plan)
        beside = room.part(inside, (room.size - inside,), room.dtype)
        for step, output in zip(self.steps, outputs, strict=False):
            to = room.part(output.address, output.shape, output.dtype)
            step.run(x, to, beside, stream)
            x = to
        self.steps[-1].run(x, out, beside, stream)

    def reads(self, x) -> bool:
        """Say whether the first step takes a matrix of 16-bit floats as it lies."""
        return self.steps[0].reads(x)

    def writes(self, out) -> bool:
        """Say the same of what the last step gives."""
        return self.steps[-1].writes(out)

    def explain(self, m: int) -> str:
        """Say of each step which kernel `m` rows take, a line each."""
        return "\n".join(step.explain(m) for step in self.steps)

    def _plan(self, m: int) -> tuple[list[Borrowed], int]:
        """Return the outputs of all steps but the last for `m` rows, in a room at address 0, and where they end."""
        forms = [((m, a.n_out), _handed_on(a, b, m, self.dtype)) for a, b in itertools.pairwise(self.steps)]
        sizes = [rooms.bytes_of(*form) for form in forms]
        odd = max(sizes[::2])
        outputs = [Borrowed(index % 2 * odd, *form, None, form[0][0] * form[0][1]) for index, form in enumerate(forms)]
        return outputs, max(rooms.BOUNDARY, odd + max(sizes[1::2], default=0))


def _handed_on(step, after, m: int, computed: np.dtype) -> np.dtype:
    """Return the dtype in which a step hands `m` rows to the one after it."""
    for dtype in halves.OF_PRECISION.values():
        matrix = Borrowed(0, (m, step.n_out), dtype, None, m * step.n_out)
        if step.writes(matrix) and after.reads(matrix):
            return dtype
    return computed


@dataclass(frozen=True)
class Cast:
    """Every number of ``(m, n)`` in another dtype: 16-bit floats, on their way into a network or out of it."""

    n: int

    @property
    def n_in(self) -> int:
        """Features in."""
        return self.n

    n_out = n_in

    @property
    def arrays(self) -> tuple[Any, ...]:
        """None."""
        return ()

    def room(self, x) -> int:
        """None is needed."""
        return 0

    def reads(self, x) -> bool:
        """None from another step: what comes out of a network is rounded once."""
        return False

    def writes(self, out) -> bool:
        """Any."""
        return True

    def run(self, x, out, room, stream) -> None:
        """Fill out from x, of any dtypes."""
        memory.copy(x, x.dtype, out, out.dtype, stream)

    def explain(self, m: int) -> str:
        """Say what it does."""
        return f"cast of {self.n} features"


def between(step, x, out, dtype: np.dtype):
    """Return the step from matrix x to matrix out: itself, or behind or before casts of 16-bit floats.

    `dtype` is what the step computes in.
    """
    before = x.dtype != dtype and not step.reads(x)
    after = out.dtype != dtype and not step.writes(out)
    if not before and not after:
        return step
    return recall(vars(step).setdefault("_between", {}), (before, after), functools.partial(_cast, step, dtype))


def _cast(step, dtype: np.dtype, before: bool, after: bool) -> Chain:
    return Chain((*(Cast(step.n_in),) * before, step, *(Cast(step.n_out),) * after), dtype)
