import os

import hypothesis
from hypothesis import HealthCheck, settings

COMMON = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow], "print_blob": True}
settings.register_profile("dev", max_examples=40, **COMMON)
settings.register_profile("ci", max_examples=100, **COMMON)
settings.register_profile("thorough", max_examples=2000, **COMMON)
PROFILE = os.environ.get("HYPOTHESIS_PROFILE", "dev")
settings.load_profile(PROFILE)


def pytest_report_header():
    return f"hypothesis {hypothesis.__version__}, profile {PROFILE}; a failure prints its seed and its blob"
