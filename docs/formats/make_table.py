"""Run the golden tests, and write ``table.md``: which files, with which layers in them, came out right.

``python docs/formats/make_table.py`` needs what the environment ``formats`` of ``tox.ini`` has.  A test,
``tests/test_formats.py``, fails where the table is not of the golden files that there are.
"""

import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
TESTS = HERE.parent.parent / "tests"
SOURCES = {
    "test_keras": "Keras",
    "test_onnx": "ONNX",
    "test_torch": "PyTorch",
    "test_skops": "scikit-learn, skops",
    "test_trees": "Flax, Haiku, Equinox",
}


class Outcomes:
    """A plugin of pytest that keeps each module's cases, and which of them passed."""

    def __init__(self):
        self.cases, self.passed = {}, {}

    def pytest_collection_finish(self, session):
        """Note the cases of the modules that were collected."""
        for item in session.items:
            self.cases[item.module.__name__] = cases(item.module)

    def pytest_runtest_logreport(self, report):
        """Note whether a test passed."""
        if report.when == "call":
            self.passed[report.nodeid] = report.passed


def cases(module):
    """Return the cases of a module of golden tests: names, and the kinds of layers in them."""
    return [*module.CASES, *getattr(module, "FILES", ())]


def ran(node, module, name):
    """Say whether a test is one of a case."""
    given = node.partition("[")[2].removesuffix("]")
    return f"{module}.py" in node and (given == name or given.startswith(f"{name}-") or given.endswith(f"-{name}"))


def row(module, name, kinds, passed):
    """Return a row of the table."""
    return f"| {SOURCES[module]} | {'passed' if passed else 'failed'} | `{name}` | {', '.join(kinds)} |"


def main():
    """Run the tests and write the table."""
    plugin = Outcomes()
    files = [str(TESTS / f"{module}.py") for module in SOURCES]
    status = pytest.main(["-q", "-k", "test_golden", *files], plugins=[plugin])
    lines = ["| source | | golden file | what is in it |", "|--|--|--|--|"]
    for module in SOURCES:
        for name, kinds in plugin.cases[module]:
            outcomes = [ok for node, ok in plugin.passed.items() if ran(node, module, name)]
            lines.append(row(module, name, kinds, outcomes and all(outcomes)))
    (HERE / "table.md").write_text("\n".join(lines) + "\n")
    sys.exit(status)


if __name__ == "__main__":
    main()
