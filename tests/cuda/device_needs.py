"""What the tests of this folder need, and whether they may do without.

The variable ``NUMBADENSE_TESTS_NEED`` names what must be there, separated by commas: ``cuda``, ``simulator``, ``ptx``,
which is the compiler, the assembler and the disassembler.
A test that misses it fails there; elsewhere it is skipped.
"""

import os

import pytest

CAPABILITY = (9, 0)  # that PTX is compiled for where a test names no other

NEEDED = set(filter(None, os.environ.get("NUMBADENSE_TESTS_NEED", "").split(",")))


def absent(what, reason):
    """Skip the test, or fail it where `what` must be there."""
    if what in NEEDED:
        pytest.fail(f"{what} is needed but {reason}", pytrace=False)
    pytest.skip(reason)
