"""Softmax and its logarithm over rows on the device: a warp to a short row, a block to a long one."""

import numpy as np
import pytest
from device_code import assemble
from hypothesis import given, settings
from hypothesis import strategies as st

import numbadense as nd

NAMES = ["softmax", "log_softmax"]
SPECIAL = [np.nan, np.inf, -np.inf, 0.0, 3.0]


@pytest.fixture(params=["held", "walked"])
def way(request, monkeypatch):
    """Rows in the registers of a warp, or walked by a block whatever their length."""
    from numbadense._engine.cuda import softmax

    if request.param == "walked":
        monkeypatch.setattr(softmax, "HELD", 0)
    return request.param


@pytest.mark.parametrize("name", NAMES)
def test_rows_are_as_close_as_their_rounding_allows(gpu, way, name, dtype, rng):
    unit = np.finfo(dtype).eps / 2
    for n in (1, 33, 70):
        x = (4 * rng.normal(size=(2, n))).astype(dtype)
        y = getattr(nd.cuda, name)(x)
        assert y.dtype == dtype
        centred = x.astype(np.longdouble) - x.max(axis=1, keepdims=True)
        total = np.exp(centred).sum(axis=1, keepdims=True)
        # The difference to the largest is rounded once, exp and a sum of 5 + n / 32 terms of one sign as follows.
        units = np.abs(centred) + 12 + n / 32
        if name == "softmax":
            exact = np.exp(centred) / total
            assert np.all(np.abs(y - exact) <= unit * units * exact)
        else:
            exact = centred - np.log(total)
            assert np.all(np.abs(y - exact) <= unit * (units + np.abs(exact)))


@settings(max_examples=8)
@given(data=st.data(), name=st.sampled_from(NAMES), held=st.booleans())
def test_special_values_fall_into_the_classes_of_the_cpu(gpu, data, name, held):
    from numbadense._engine.cuda import softmax

    n = data.draw(st.integers(1, 40))
    rows = data.draw(st.lists(st.lists(st.sampled_from(SPECIAL), min_size=n, max_size=n), min_size=1, max_size=2))
    x = np.array(rows, np.float32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(softmax, "HELD", 4096 * held)
        y = getattr(nd.cuda, name)(x)
    np.testing.assert_allclose(y, getattr(nd, name)(x), rtol=1e-6)  # NaN and infinities in the same places


@pytest.mark.parametrize("name", NAMES)
def test_ties_and_a_certain_entry_keep_their_digits(gpu, way, name):
    x = np.array([[0, -40, -40, -41], [7, 7, -80, 7], [-1e30, 5, 5, 5]], np.float32)
    np.testing.assert_allclose(getattr(nd.cuda, name)(x), getattr(nd, name)(x.astype(np.float64)), rtol=5e-7)


def test_a_row_has_the_same_bits_in_every_batch_and_in_place(gpu, way, rng):
    x = rng.normal(size=(3, 35)).astype(np.float32)
    y = nd.cuda.softmax(x)
    np.testing.assert_array_equal(nd.cuda.softmax(x[2]), y[2])
    there = gpu.to_device(x)
    nd.cuda.softmax(there, out=there)
    np.testing.assert_array_equal(there.copy_to_host(), y)


def test_rows_of_more_than_4096_bytes_are_walked():
    from numbadense._engine.cuda.softmax import numbers

    single, double = np.dtype("float32"), np.dtype("float64")
    assert [numbers(n, single) for n in (1, 32, 33, 64, 65, 1000, 1024, 1025)] == [1, 1, 2, 2, 4, 32, 32, 0]
    assert [numbers(n, double) for n in (1, 512, 513)] == [1, 16, 0]


@pytest.mark.parametrize("capability", [(8, 0), (9, 0), (12, 0)], ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_a_row_is_in_registers_and_none_is_spilled(compile_ptx, tmp_path, capability, name):
    from numbadense._engine.cuda import compile as compiler
    from numbadense._engine.cuda import softmax

    for dtype, count in (("float32", 32), ("float32", 0), ("float64", 16)):
        kernel = compiler.softmax(name == "log_softmax", np.dtype(dtype), count).py_func
        bounds = compiler.ROW_WARPS * 32, softmax.RESIDENT[np.dtype(dtype).itemsize]
        ptx = compile_ptx(kernel, (dtype, 2), (dtype, 2), capability=capability, launch_bounds=bounds)
        code = assemble(ptx, tmp_path)
        assert (".f64" in ptx) is (dtype == "float64")
        assert code.local == 0 and code.registers <= (64 if dtype == "float32" else 255)
