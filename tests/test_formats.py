"""The table of golden files in the documentation is of the golden tests that there are."""

import importlib
import runpy
from pathlib import Path

import pytest

FORMATS = Path(__file__).parent.parent / "docs" / "formats"


@pytest.mark.skipif(not FORMATS.exists(), reason="an installed package comes without its documentation")
@pytest.mark.parametrize("module", ["test_keras", "test_onnx", "test_skops", "test_torch", "test_trees"])
def test_the_table_has_every_golden_file_and_all_passed(module):
    maker = runpy.run_path(str(FORMATS / "make_table.py"))
    try:
        tests = importlib.import_module(module)
    except pytest.skip.Exception as reason:
        pytest.skip(str(reason))
    table = (FORMATS / "table.md").read_text().splitlines()
    rows = [maker["row"](module, name, kinds, True) for name, kinds in maker["cases"](tests)]
    assert [line for line in table if line.startswith(f"| {maker['SOURCES'][module]} |")] == rows
