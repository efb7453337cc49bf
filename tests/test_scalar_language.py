"""The built-in activations keep to the scalar language, and the checker catches those that do not."""

import ast
import textwrap

import pytest
from scalar_language import check, violations

from numbadense.activations import REGISTRY, get


@pytest.mark.parametrize("name", REGISTRY)
def test_built_in_activations_keep_to_the_scalar_language(name):
    entry = REGISTRY[name]
    assert violations(entry.function, entry.rowwise) == []
    assert violations(entry.derivative, entry.rowwise) == []


@pytest.mark.parametrize(
    "name",
    [
        "leaky_relu(2)",
        "elu(1)",
        "celu(2)",
        "clip(0, 6)",
        "threshold(1, 0)",
        "shrink(1, 1)",
        "bounded_relu(0, 0, 6)",
        "hard_sigmoid(0.2, 0.5)",
    ],
)
def test_families_keep_to_the_scalar_language(name):
    entry = get(name)
    assert violations(entry.function) == violations(entry.derivative) == []


def said_of(source, rowwise=False):
    """Return the checker's findings in the source of one function."""
    return check(ast.parse(textwrap.dedent(source)).body[0], rowwise)


def test_a_good_function_passes():
    source = """
        def good(x):
            "Docstring."
            T = type(x)
            y = abs(x)
            if y > T(-3):
                y += exp(-x) * T(SCALE)
            return y if x >= T(0) else max(y, T(1e-3))
    """
    assert said_of(source) == []


@pytest.mark.parametrize(
    ("line", "finding"),
    [
        ("return x * 0.5", "the literal 0.5 is not cast with T"),
        ("return x if x > 0 else -x", "the literal 0 is not cast with T"),
        ("return -1 * x", "the literal 1 is not cast with T"),
        ("x += 1.0", "the literal 1.0 is not cast with T"),
        ("y = 2", "the literal 2 is not cast with T"),
        ("if x < 1: return x", "the literal 1 is not cast with T"),
        ("return x * SCALE", "SCALE is neither local nor cast with T"),
        ("return math.exp(x)", "the call of math.exp is not in the language"),
        ("return np.tanh(x)", "the call of np.tanh is not in the language"),
        ("return helper(x)", "the call of helper is not in the language"),
        ("return float(x)", "the call of float is not in the language"),
        ("return T(x * 2)", "T casts a literal or a constant"),
        ("return exp(0.5)", "the literal 0.5 is not cast with T"),
        ("for i in range(3): x += x", "For is not in the language"),
        ("while x > x: x = x", "While is not in the language"),
        ("return x.real", "Attribute is not in the language"),
        ("return x[0]", "Subscript is not in the language"),
        ("return (lambda y: y)(x)", "the call of lambda y: y is not in the language"),
        ("import math", "Import is not in the language"),
        ("print(x)", "Expr is not in the language"),
    ],
)
def test_a_bad_line_is_found(line, finding):
    assert said_of(f"def bad(x):\n    T = type(x)\n    {line}\n")[0] == f"line 3: {finding}"


@pytest.mark.parametrize(
    ("line", "finding"),
    [
        ("for value in row: value", "a loop runs over a range"),
        ("row[0] = row.sum()", "the call of row.sum is not in the language"),
        ("row[0] = row.T", "the attribute T is not in the language"),
    ],
)
def test_a_bad_line_of_a_rowwise_function_is_found(line, finding):
    assert said_of(f"def bad(row):\n    {line}\n", rowwise=True)[0] == f"line 2: {finding}"
