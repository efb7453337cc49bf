"""Activations in few instructions, two at a time: as right as one at a time, whatever the other of the two is."""

import numpy as np
import pytest
from device_needs import absent
from hypothesis import example, given, settings
from hypothesis import strategies as st

from numbadense._engine.cuda import device, quick
from numbadense.activations import REGISTRY
from numbadense.scalar_math import logistic, tanh

ELEMENTWISE = [name for name, entry in REGISTRY.items() if not entry.rowwise]
WORDS = ("logistic", "logistic_high", "tanh", "tanh_high")
SIGMOIDS, TANHS = ("sigmoid", "sigmoid_high"), ("tanh", "tanh_high")
SPECIAL = (0.0, -0.0, 1e-45, -1e-30, 20.0, -20.0, -86.5, -90.0, 200.0, -1e4, 3e38, -3e38, np.inf, -np.inf, np.nan)
LEAST = 2.0**-124  # what a sigmoid is at least


@pytest.fixture(autouse=True)
def simulator(gpu):
    """The words of these tests are the simulator's."""
    if not device.simulated():
        absent("simulator", "the words are the simulator's")


def pair_of(name, x, y):
    from numbadense._engine.cuda import compile as compiler

    with np.errstate(all="ignore"):
        return compiler.quick_pair(REGISTRY[name])((np.float32(x), np.float32(y)))


def assert_right(name, found, x):
    """The argument of a power of two has an error of its own size; the rest are a few roundings."""
    with np.errstate(all="ignore"):
        exact = REGISTRY[name].function(np.float64(x))
    if np.isnan(x):
        assert np.isnan(found)
    elif name in SIGMOIDS:
        assert abs(found - exact) <= (min(abs(x), 128) + 8) * 2.0**-23 * exact + LEAST
    else:
        assert abs(found - exact) <= 1e-6 and np.signbit(found) == np.signbit(x)


numbers = st.one_of(st.sampled_from(SPECIAL), st.floats(width=32), st.floats(-100, 100, width=32))


@pytest.mark.parametrize("name", [*SIGMOIDS, *TANHS])
@settings(max_examples=150, deadline=None)
@given(numbers, numbers)
@example(-86.0, -86.0)
@example(-86.0, np.nan)
@example(np.inf, -np.inf)
def test_neither_of_two_numbers_disturbs_the_other(name, x, y):
    for found, given_to_it in zip(pair_of(name, x, y), (x, y), strict=True):
        assert_right(name, found, np.float32(given_to_it))


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_two_numbers_come_out_as_one_and_one_do(name):
    from numbadense._engine.cuda import compile as compiler

    scalar = compiler.quick_scalar(REGISTRY[name])
    for x, y in ((0.5, -3.0), (-0.0, 7.0), (np.nan, -1.0)):
        with np.errstate(all="ignore"):
            alone = [scalar(np.float32(number)) for number in (x, y)]
        np.testing.assert_allclose(pair_of(name, x, y), alone, rtol=1e-6, atol=1e-7)


def test_only_what_consists_of_words_for_two_is_said_to_two():
    known = dict.fromkeys(WORDS)
    found = [name for name in ELEMENTWISE if quick.consists_of(REGISTRY[name].function, known)]
    assert found == ["identity", "sigmoid", "sigmoid_high", "tanh", "tanh_high"]

    def nested(x):
        return tanh(logistic(x))

    def asking(x):
        return logistic(x) if x == x else x

    def negative(x):
        return tanh(-x)

    assert quick.consists_of(nested, known)
    assert not quick.consists_of(asking, known) and not quick.consists_of(negative, known)
