"""How many examples Hypothesis tries: ``HYPOTHESIS_PROFILE`` is ``dev`` (the default), ``ci`` or ``thorough``.

No example has a deadline, for the first call of a kernel compiles it.  The profile ``dev`` keeps failures in
``.hypothesis`` and tries them first; the others draw with a seed that is printed.
"""

import os
import random

import hypothesis
import pytest
from hypothesis import HealthCheck, settings

COMMON = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow], "print_blob": True}
settings.register_profile("dev", max_examples=40, **COMMON)
settings.register_profile("ci", max_examples=100, **COMMON)
settings.register_profile("thorough", max_examples=2000, **COMMON)
PROFILE = os.environ.get("HYPOTHESIS_PROFILE", "dev")
settings.load_profile(PROFILE)


@pytest.hookimpl(tryfirst=True)  # before Hypothesis reads its option
def pytest_configure(config):
    if PROFILE != "dev" and config.getoption("--hypothesis-seed", None) is None:
        config.option.hypothesis_seed = str(random.SystemRandom().getrandbits(32))


def pytest_report_header(config):
    seed = config.getoption("--hypothesis-seed", None)
    again = "failures are kept and tried first" if seed is None else f"the same again with --hypothesis-seed={seed}"
    return f"hypothesis {hypothesis.__version__}, profile {PROFILE}; {again}"
