"""What the threads of a warp do together: the twins' rendezvous, and the instructions that it stands for."""

import numpy as np
import pytest
from device_code import assemble
from device_needs import absent

from numbadense._engine.cuda import device

cuda = None  # numba's module, which a kernel below finds among its globals
CAPABILITIES = [(8, 0), (9, 0), (12, 0)]
TYPES = ["float32", "float64", "int32", "uint32"]
LANES = np.arange(32)


@pytest.fixture(autouse=True)
def module(monkeypatch):
    """numba's module, where there is one."""
    monkeypatch.setitem(globals(), "cuda", pytest.importorskip("numba.cuda"))


@pytest.fixture
def simulated(gpu):
    """The simulator, where the twins are."""
    if not device.simulated():
        absent("simulator", "the twins are the simulator's")
    return gpu


def exchange(name):
    """Return the kernel in which each thread shuffles a number by what it is told to."""
    from numbadense._engine.cuda import primitives

    shuffle = getattr(primitives, name)

    def kernel(x, by, out):
        me = cuda.grid(1)
        out[me] = shuffle(x[me], by[me])

    return kernel


@pytest.mark.parametrize("kind", TYPES)
def test_a_lane_gets_the_number_of_the_lane_it_names(simulated, rng, kind):
    x = (rng.normal(size=128) * 1e6).astype(np.int32).astype(kind)
    if kind.startswith("float"):
        x[:3] = -0.0, np.inf, 5e-324
    by = rng.integers(0, 32, 128).astype(np.int32)
    out = np.zeros_like(x)
    simulated.jit(exchange("shuffle"))[2, 64](x, by, out)  # two warps in each of two blocks
    expected = x.reshape(4, 32)[np.arange(4)[:, None], by.reshape(4, 32)].ravel()
    np.testing.assert_array_equal(out.view(np.uint8), expected.view(np.uint8))


@pytest.mark.parametrize("kind", TYPES)
def test_a_lane_gets_the_number_of_the_lane_that_differs_in_the_bits_of_a_mask(simulated, rng, kind):
    x = (rng.normal(size=32) * 1e6).astype(np.int32).astype(kind)
    for mask in (0, 1, 16, 21, 31):
        out = np.zeros_like(x)
        simulated.jit(exchange("shuffle_xor"))[1, 32](x, np.full(32, mask, np.int32), out)
        np.testing.assert_array_equal(out, x[LANES ^ mask])


def synchronous(returning=None, elsewhere=None, failing=None, divided=None):
    """Return a kernel whose lanes meet, but for one that has returned, is elsewhere, fails, or waits for its block."""
    from numbadense._engine.cuda import primitives

    lane, sync_warp = primitives.lane, primitives.sync_warp

    def kernel(out):
        me = lane()
        if me == returning:
            return
        if me == failing:
            raise ZeroDivisionError("a fault of the user's own")
        if me == divided:
            cuda.syncthreads()
        if me == elsewhere:
            sync_warp()
        else:
            sync_warp()
        out[me] = 1

    return kernel


def test_lanes_that_meet_go_on(simulated):
    out = np.zeros(32)
    simulated.jit(synchronous())[1, 32](out)
    assert out.all()


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ({"returning": 7}, r"warp 0 do not meet: lanes \[7\] do not come to sync_warp in line \d+ of kernel"),
        ({"divided": 7}, r"warp 0 do not meet: lanes \[7\] do not come to sync_warp in line \d+ of kernel"),
        ({"elsewhere": 7}, r"do not meet: lane \d+ is at sync_warp in line \d+ of kernel while lane \d+ is at sync_w"),
        ({"failing": 7}, "a fault of the user's own"),
    ],
    ids=str,
)
def test_lanes_that_do_not_come_fail_in_a_sentence_and_nothing_hangs(simulated, fault, said):
    with pytest.raises((AssertionError, ZeroDivisionError), match=said):
        simulated.jit(synchronous(**fault))[2, 32](np.zeros(32))
    out = np.zeros(32)
    simulated.jit(synchronous())[1, 32](out)  # what failed is not in the way of the next launch
    assert out.all()


@pytest.mark.parametrize(
    ("name", "x", "by", "threads", "said"),
    [
        ("shuffle", np.zeros(32), 32, 32, "there is no lane 32"),
        ("shuffle_xor", np.zeros(32), 32, 32, "a mask of 32 leads out of the warp"),
        ("shuffle", np.zeros(32, np.int64), 0, 32, "a int64 cannot be shuffled"),
        ("shuffle", np.zeros(32), 0, 20, "a block of 20 threads has no whole number of warps of 32"),
    ],
)
def test_a_shuffle_that_no_device_can_do_fails(simulated, name, x, by, threads, said):
    with pytest.raises(AssertionError, match=said):
        simulated.jit(exchange(name))[1, threads](x, np.full(32, by, np.int32), x)


@pytest.mark.parametrize("capability", CAPABILITIES, ids=str)
@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize(("name", "found"), [("shuffle", "SHFL.IDX"), ("shuffle_xor", "SHFL.BFLY")])
def test_a_shuffle_is_an_instruction_for_each_32_bits(compile_ptx, tmp_path, capability, kind, name, found):
    ptx = compile_ptx(exchange(name), (kind, 1), ("int32", 1), (kind, 1), capability=capability)
    code = assemble(ptx, tmp_path)
    assert [each for each in code.instructions if each.startswith("SHFL")] == [found] * (np.dtype(kind).itemsize // 4)
    assert code.local == 0


@pytest.mark.parametrize("capability", CAPABILITIES, ids=str)
def test_what_a_warp_stores_before_it_meets_is_read_after(compile_ptx, tmp_path, capability):
    from numba import float32

    from numbadense._engine.cuda import primitives

    lane, sync_warp = primitives.lane, primitives.sync_warp

    def turn(x, out):
        shared = cuda.shared.array(32, float32)
        me = lane()
        shared[me] = x[me]
        sync_warp()
        out[me] = shared[31 - me]

    ptx = compile_ptx(turn, ("float32", 1), ("float32", 1), capability=capability)
    assert ptx.index("st.shared") < ptx.index("bar.warp.sync") < ptx.index("ld.shared")
    names = [each.split(".")[0] for each in assemble(ptx, tmp_path).instructions]
    # A warp whose lanes are known to be together has nothing to wait for: what is left of the barrier is the order.
    between = names[names.index("STS") : names.index("LDS")]
    assert {"WARPSYNC", "NOP"} & set(between)
