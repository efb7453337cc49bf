"""Optional libraries that tests use, and whether they may do without.

A test whose library is missing is skipped; where the variable ``NUMBADENSE_TESTS_NEED`` names the library, among others
and separated by commas, it fails.
"""

import importlib
import os

import pytest

NEEDED = set(filter(None, os.environ.get("NUMBADENSE_TESTS_NEED", "").split(",")))


def library(name):
    """Return a module, or skip, or fail where it must be there."""
    if name.partition(".")[0] in NEEDED:
        return importlib.import_module(name)
    return pytest.importorskip(name)
