"""Activations that exporters take apart, recognised by what they compute rather than by how.

Nodes between two places of the line are multiplied out: a sum of products of atoms, where an atom is the value they
start from or a function of such sums.  However the factors of ``0.5 * x * (1 + erf(x / sqrt(2)))`` are ordered,
the sum is

::

    0.5 [x]  +  0.5 [x, Erf(0.707 [x])]

which is compared with the patterns: numbers within a few units in the last place of float32, for that is what
exporters round them to, and letters standing for any number.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

__all__ = ["Region", "Sum", "X", "atom", "close", "matches", "number", "plus", "power", "scaled", "times"]

Sum = frozenset[tuple[Any, Any]]  # (product, factor) pairs; a product is the multiset of its atoms, as item pairs

TOLERANCE = 2.5e-7  # relative: four times the unit roundoff of float32
MOST_NODES = 16
MOST_TERMS = 8


class UnknownError(Exception):
    """A node that no pattern has."""


def _sum(terms: dict[Any, Any]) -> Sum:
    if len(terms) > MOST_TERMS:
        raise UnknownError
    return frozenset((product, factor) for product, factor in terms.items() if factor != 0)


def number(value: Any) -> Sum:
    """Return a number, or a letter that stands for one."""
    return _sum({frozenset(): value})


def atom(*parts: Any) -> Sum:
    """Return a function of sums, once."""
    return frozenset({(frozenset({(parts, 1)}), 1.0)})


X = atom("x")


def plus(*sums: Sum) -> Sum:
    """Return the sum of sums."""
    total: dict[Any, Any] = {}
    for each in sums:
        for product, factor in each:
            total[product] = total[product] + factor if product in total else factor
    return _sum(total)


def times(a: Sum, b: Sum) -> Sum:
    """Return the product of two sums, multiplied out."""
    total: dict[Any, Any] = {}
    for first, factor in a:
        for second, other in b:
            atoms = Counter(dict(first)) + Counter(dict(second))
            if atoms.total() > MOST_TERMS:
                raise UnknownError
            product = frozenset(atoms.items())
            total[product] = total.get(product, 0.0) + factor * other
    return _sum(total)


def scaled(a: Sum, factor: Any) -> Sum:
    """Return a multiple of a sum."""
    return times(a, number(factor))


def _constant(a: Sum) -> float | None:
    """Return the number that a sum is, if it is one."""
    if not a:
        return 0.0
    ((product, factor),) = a if len(a) == 1 else ((None, None),)
    return factor if product == frozenset() else None


def _divided(a: Sum, b: Sum) -> Sum:
    divisor = _constant(b)
    if divisor is None:
        return times(a, atom("Reciprocal", b))
    if divisor == 0:
        raise UnknownError
    return scaled(a, 1 / divisor)


def power(a: Sum, b: Sum) -> Sum:
    """Return the square or the cube of a sum."""
    exponent = _constant(b)
    if exponent not in (2.0, 3.0):
        raise UnknownError
    return times(a, a) if exponent == 2 else times(times(a, a), a)


BOOL, FLOATS = 9, (1, 10, 11, 16)  # TensorProto.DataType


def _cast(a: Sum, to: int = 0) -> Sum:
    condition = any(name in CONDITIONS for product, _ in a for (name, *_), _ in product)
    if to not in ((BOOL,) if condition else FLOATS):
        raise UnknownError
    return a


def _extreme(name: str) -> Callable[..., Sum]:
    return lambda a, b: atom(name, b, a) if _constant(a) is not None else atom(name, a, b)


CONDITIONS = ("Greater", "GreaterOrEqual", "Or")
OPERATIONS: dict[str, Callable[..., Sum]] = {
    "Add": plus,
    "Sub": lambda a, b: plus(a, scaled(b, -1.0)),
    "Mul": times,
    "Div": _divided,
    "Neg": lambda a: scaled(a, -1.0),
    "Pow": power,
    "Reciprocal": lambda a: _divided(number(1.0), a),
    "Identity": lambda a: a,
    "Cast": _cast,
    "Min": _extreme("Min"),
    "Max": _extreme("Max"),
    "Less": lambda a, b: atom("Greater", b, a),
    "LessOrEqual": lambda a, b: atom("GreaterOrEqual", b, a),
    "HardSigmoid": lambda a, alpha=0.2, beta=0.5: atom(
        "Clip", plus(scaled(a, alpha), number(beta)), number(0.0), number(1.0)
    ),
}
for _name in ("Abs", "Erf", "Exp", "Log", "Sigmoid", "Sign", "Softplus", "Tanh"):
    OPERATIONS[_name] = lambda a, name=_name: atom(name, a)
for _name in CONDITIONS:
    OPERATIONS[_name] = lambda a, b, name=_name: atom(name, a, b)
for _name in ("Clip", "Where"):
    OPERATIONS[_name] = lambda a, b, c, name=_name: atom(name, a, b, c)


class Region:
    """Nodes that start from one value, and what they compute of it."""

    def __init__(self, value: str) -> None:
        self.sums = {value: X}
        self.nodes = 0

    def add(
        self, op: str, inputs: list[str], output: str, constants: Callable[[str], float | None], **facts: Any
    ) -> bool:
        """Add a node, with its attributes; return whether it may be part of a pattern."""
        self.nodes += 1
        if op not in OPERATIONS or self.nodes > MOST_NODES:
            return False
        operands = []
        for name in inputs:
            value = None if name in self.sums else constants(name)
            if value is None and name not in self.sums:
                return False
            operands.append(self.sums[name] if value is None else number(value))
        try:
            self.sums[output] = OPERATIONS[op](*operands, **facts)
        except (UnknownError, TypeError):  # the latter for another number of operands
            return False
        return True


def matches(pattern: Sum, found: Sum) -> Iterator[dict[str, float]]:
    """Yield the ways to give numbers to the letters of a pattern that make it what was found."""
    return _sums(list(pattern), list(found), {})


def close(a: float, b: float) -> bool:
    """Return whether two numbers may be one that was rounded to float32 in different ways."""
    return abs(a - b) <= TOLERANCE * abs(a)


def _sums(patterns: list[Any], terms: list[Any], known: dict[str, float]) -> Iterator[dict[str, float]]:
    if not patterns:
        if not terms:
            yield known
        return
    (product, factor), *others = patterns
    for place, (found, number) in enumerate(terms):
        for more in _products(_atoms_of(product), _atoms_of(found), known):
            yet = _numbers(factor, number, more)
            if yet is not None:
                yield from _sums(others, terms[:place] + terms[place + 1 :], yet)
    if isinstance(factor, str):
        yet = _numbers(factor, 0.0, known)
        if yet is not None:
            yield from _sums(others, terms, yet)


def _atoms_of(product: Any) -> list[Any]:
    return list(Counter(dict(product)).elements())


def _products(patterns: list[Any], atoms: list[Any], known: dict[str, float]) -> Iterator[dict[str, float]]:
    if len(patterns) != len(atoms):
        return
    if not patterns:
        yield known
        return
    (name, *arguments), *others = patterns
    for place, (op, *operands) in enumerate(atoms):
        if op == name and len(operands) == len(arguments):
            for more in _arguments(arguments, operands, known):
                yield from _products(others, atoms[:place] + atoms[place + 1 :], more)


def _arguments(patterns: list[Any], operands: list[Any], known: dict[str, float]) -> Iterator[dict[str, float]]:
    if not patterns:
        yield known
        return
    for more in _sums(list(patterns[0]), list(operands[0]), known):
        yield from _arguments(patterns[1:], operands[1:], more)


def _numbers(pattern: float | str, number: float, known: dict[str, float]) -> dict[str, float] | None:
    if isinstance(pattern, str):
        if pattern not in known:
            return {**known, pattern: number}
        pattern = known[pattern]
    return known if close(pattern, number) else None
