"""Steps one after the other: a step itself."""

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np

from numbadense._engine.cuda import room as rooms
from numbadense._engine.cuda.borrowed import Borrowed
from numbadense._engine.cuda.remembered import recall

WORD = np.dtype("uint32")


@dataclass(frozen=True, eq=False, repr=False)
class Chain:
    """At least two steps of one dtype, each of which takes what the one before gives.

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

    def explain(self, m: int) -> str:
        """Say of each step which kernel `m` rows take, a line each."""
        return "\n".join(step.explain(m) for step in self.steps)

    def _plan(self, m: int) -> tuple[list[Borrowed], int]:
        """Return the outputs of all steps but the last for `m` rows, in a room at address 0, and where they end."""
        forms = [_form(step, m, self.dtype) for step in self.steps[:-1]]
        sizes = [rooms.bytes_of(*form) for form in forms]
        odd = max(sizes[::2])
        outputs = [Borrowed(index % 2 * odd, *form, None, form[0][0] * form[0][1]) for index, form in enumerate(forms)]
        return outputs, max(rooms.BOUNDARY, odd + max(sizes[1::2], default=0))


def _form(step, m: int, dtype: np.dtype) -> tuple[tuple[int, int], np.dtype]:
    """Return shape and dtype of what a step hands to the next: some in half the bits, two numbers to a word."""
    halves = getattr(step, "halves_out", False)
    return ((m, step.n_out // 2), WORD) if halves else ((m, step.n_out), dtype)
