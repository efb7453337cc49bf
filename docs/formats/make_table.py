"""Run the golden tests, and write ``table.md``: which files, with which layers in them, came out right.

``python docs/formats/make_table.py`` needs what the environment ``formats`` of ``tox.ini`` has.  A test keeps the table
true: it fails when the table is not of the tests as they are, or not all of them pass.
"""

import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
TESTS = HERE.parent.parent / "tests"
MODULES = {
    "test_onnx": "ONNX",
}


class Outcomes:
    """A plugin of pytest that keeps each golden test's cases, and whether they passed."""

    def __init__(self):
        self.cases, self.passed = {}, {}

    def pytest_collection_finish(self, session):
        """Note the cases of the modules that were collected."""
        for item in session.items:
            self.cases[item.module.__name__] = item.module.CASES

    def pytest_runtest_logreport(self, report):
        """Note whether a test passed."""
        if report.when == "call":
            self.passed[report.nodeid] = report.passed


def rows(cases, passed):
    """Return the table's rows: source, file, kinds of layers, passed or not."""
    found = []
    for module, entries in sorted(cases.items(), key=lambda each: MODULES.get(each[0], each[0]).lower()):
        for name, kinds in entries:
            good = [ok for node, ok in passed.items() if f"{module}.py" in node and f"[{name}]" in node]
            good += [ok for node, ok in passed.items() if f"{module}.py" in node and f"[{name}-" in node]
            said = "passed" if good and all(good) else "failed"
            found.append(f"| {MODULES.get(module, module)} | `{name}` | {', '.join(kinds)} | {said} |")
    return found


def table(cases, passed):
    """Return the table as Markdown."""
    return "\n".join(["| source | golden file | what is in it | |", "|--|--|--|--|", *rows(cases, passed)]) + "\n"


def main():
    """Run the tests and write the table."""
    plugin = Outcomes()
    files = [str(TESTS / f"{module}.py") for module in MODULES]
    status = pytest.main(["-q", "-k", "test_golden", *files], plugins=[plugin])
    if status == 0:
        (HERE / "table.md").write_text(table(plugin.cases, plugin.passed))
    sys.exit(status)


if __name__ == "__main__":
    main()
