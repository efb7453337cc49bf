"""What reaches the driver, in a process whose driver notes everything and computes nothing."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from device_needs import absent

from numbadense._engine.cuda import device

HERE = Path(__file__).parent
LAUNCH = ["cuLaunchKernel"]
IN_ROOM = ["cuMemAllocFromPoolAsync", *LAUNCH * 3, "cuMemFreeAsync"]


@pytest.fixture(scope="module")
def seen(tmp_path_factory):
    """What `driver_calls.py` found."""
    if device.simulated():
        absent("ptx", "the simulator has no driver")
    if importlib.util.find_spec("numba_cuda") is None:
        absent("ptx", "numba-cuda is not installed")
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None or sys.platform != "linux":
        pytest.skip("there is no C compiler, or no Linux")
    folder = tmp_path_factory.mktemp("driver")
    options = ["-shared", "-fPIC", "-O1", "-Wl,-soname,libcuda.so.1", "-o", str(folder / "libcuda.so.1")]
    subprocess.run([compiler, *options, str(HERE / "stub_driver.c"), "-ldl"], check=True)
    found = os.environ.get("LD_LIBRARY_PATH")
    paths = os.pathsep.join(filter(None, (str(folder), found)))
    environment = os.environ | {"LD_LIBRARY_PATH": paths, "NUMBA_ENABLE_CUDASIM": "0"}
    command = [sys.executable, str(HERE / "driver_calls.py")]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if "NVVM" in done.stderr and "ptx" not in os.environ.get("NUMBADENSE_TESTS_NEED", ""):
        pytest.skip("the CUDA compiler is not installed")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("case", ["contiguous", "strided", "transposed", "reversed", "numbers", "tuple", "borrowed"])
def test_parameters_are_numbas_own_in_one_call_of_the_driver(seen, case):
    found = seen["parity"][case]
    for fact in ("grid", "block", "stream", "shared"):
        assert found["ours"][fact] == found["numba"][fact]
    words = [(ours ^ numba) & mask(case, i) for i, (ours, numba) in enumerate(zip(*both(found), strict=True))]
    assert not any(words), found
    assert found["calls"] == LAUNCH


def both(found):
    """Return the words of both launches."""
    return found["ours"]["words"], found["numba"]["words"]


def mask(case, word):
    """Return which bits of a word the kernel reads: of a number of 32 bits, those."""
    return 2**32 - 1 if case == "numbers" and word >= 8 else 2**64 - 1


def test_much_shared_memory_is_asked_for_once(seen):
    first, much, again, less, more, shared = seen["opt_in"]
    assert first == again == less == LAUNCH
    assert much == more == ["cuFuncSetAttribute", *LAUNCH] and shared == 200_000


def test_blocks_run_in_clusters_because_their_code_says_so(seen):
    grid, called, directives = seen["cluster"]
    assert called == LAUNCH and grid == [6, 1, 1]  # which a graph takes down as any other
    assert directives == [".explicitcluster", ".reqnctapercluster 2, 1, 1"]


def test_a_call_on_ready_arrays_is_one_call_of_the_driver(seen):
    assert seen["one"] == ["cuCtxGetDevice", *LAUNCH]  # where the network is
    called, (rows, _, shares) = seen["fused"]
    assert called == seen["one"] and rows == 64 and not shares  # and no other network has the same rows
    assert seen["pool"] == ["cuMemPoolCreate", "cuMemPoolSetAttribute", *IN_ROOM]


def test_halves_of_the_precision_of_a_network_are_one_call_too_and_others_are_cast_in_room_of_a_pool(seen):
    called, words, address = seen["halves"]
    assert called == seen["fused"][0] and words == [0, 0, 64 * 8, 2, address, 64, 8, 16, 2]  # x, as uint16
    assert seen["bf16"] == [LAUNCH, IN_ROOM] and seen["fp16"] == [IN_ROOM, IN_ROOM]


def test_what_is_between_the_layers_has_room_of_a_pool_in_one_piece(seen):
    assert seen["three"] == IN_ROOM
    assert seen["broken"] == ["cuMemAllocFromPoolAsync", *LAUNCH, "cuMemFreeAsync"]
    assert seen["without"] == ["cuMemAlloc", *LAUNCH * 3]


def test_a_thread_that_is_new_to_cuda_finds_its_context(seen):
    assert seen["thread"].count("cuLaunchKernel") == 1 and "cuCtxPushCurrent" in seen["thread"]
    assert seen["thread"][0] == "cuCtxGetDevice" and seen["thread"][-1] == "cuLaunchKernel"


def test_a_network_is_captured_once_and_launched_as_one(seen):
    begin = seen["bind"].index("cuStreamBeginCapture")
    assert seen["bind"][:begin].count("cuLaunchKernel") == 3  # compiled and loaded before
    assert seen["bind"][begin:] == [
        "cuStreamBeginCapture",
        *LAUNCH * 3,
        "cuStreamEndCapture",
        "cuGraphInstantiate",
        "cuGraphDestroy",
        "cuStreamDestroy",
    ]
    assert seen["bound"] == ["cuCtxGetDevice", "cuGraphLaunch"]
    assert "cuGraphExecDestroy" in seen["drop"]


def test_batches_allocate_at_first_and_wait_once_each(seen):
    batch = ["cuMemcpyHtoDAsync", *LAUNCH * 3, "cuMemcpyDtoHAsync"]
    steady = [name for name in seen["predict"] if name not in ("cuMemAlloc", "cuMemFree")]
    wait = ["cuStreamSynchronize"]
    assert steady == batch * 2 + (wait + batch) * 2 + wait * 4
    last = len(seen["predict"]) - seen["predict"][::-1].index("cuMemcpyHtoDAsync")
    assert seen["predict"][:last].count("cuMemAlloc") == 2 * 3  # rows, results and what is between, in each lane
    assert "cuMemHostAlloc" not in seen["predict"]


def test_work_is_queued_on_the_stream_that_was_given(seen):
    queued, given = seen["stream"]
    assert queued == given and seen["handle"] == 4096


FAILURES = {
    "launch": "the call of the network failed: a block needs more registers or shared memory than the device has "
    "(Call to cuLaunchKernel results in CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES); ",
    "shared": "the device does not give a block the 300000 bytes of shared memory that ",
    "elsewhere": "the call of the network failed: a stream or kernel belongs to another device, or is gone "
    "(Call to cuLaunchKernel results in CUDA_ERROR_INVALID_HANDLE); ",
    "result": "the call of the network failed: a kernel read or wrote outside the arrays "
    "(Call to cuMemcpyDtoH results in CUDA_ERROR_ILLEGAL_ADDRESS); ",
    "stream": "predict failed: a kernel failed (Call to cuStreamSynchronize results in CUDA_ERROR_LAUNCH_FAILED); ",
    "capture": "binding the network to its arrays failed: a step cannot be part of a graph "
    "(Call to cuStreamEndCapture results in CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED); ",
    "graph": "binding the network to its arrays failed: the driver reports an error "
    "(Call to cuGraphInstantiate results in CUDA_ERROR_NOT_SUPPORTED); ",
    "bound": "the call of a bound network failed: a kernel read or wrote outside the arrays "
    "(Call to cuGraphLaunch results in CUDA_ERROR_ILLEGAL_ADDRESS); ",
    "memory": "the call of the network failed: the device has no memory left: asked for 3.052 MiB, ",
    "room": "the call of the network failed: the device has no memory left: asked for 16 KiB, 0 bytes of ",
}


@pytest.mark.parametrize("case", FAILURES)
def test_what_the_driver_refuses_is_a_sentence(seen, case):
    said, cause = seen["failures"][case]
    assert said.startswith(FAILURES[case]) and cause == "numba" and said.endswith(".") and "\n" not in said


def test_a_failure_is_forgotten_by_the_next_call(seen):
    assert seen["after"] == LAUNCH


def test_a_call_is_explained_for_the_device_at_hand(seen):
    assert "device   Stub, compute capability 9.0, 132 multiprocessors" in seen["explained"].splitlines()


def test_two_devices_are_kept_apart(seen):
    first, second = seen["several"]["explained"]
    assert "device   Stub, compute capability 9.0, 132 multiprocessors" in first
    assert "device   Stub 1, compute capability 8.6, 82 multiprocessors" in second
    assert seen["several"]["kinds"] == [[[9, 0], 132], [[8, 6], 82]]
    assert seen["several"]["threads"] == []


def test_devices_that_take_turns_load_and_create_nothing_anew(seen):
    assert set(seen["several"]["again"]) <= {
        *("cuCtxPushCurrent", "cuCtxPopCurrent", "cuMemGetInfo", "cuMemAlloc", "cuMemFree", "cuStreamSynchronize"),
        *("cuLaunchKernel", "cuGraphLaunch", "cuMemAllocFromPoolAsync", "cuMemFreeAsync"),
        *("cuMemcpyHtoD", "cuMemcpyDtoH", "cuMemcpyHtoDAsync", "cuMemcpyDtoHAsync"),
    }


@pytest.mark.parametrize("case", ["call", "rows", "predict", "bind", "bound", "population", "explain", "other"])
def test_a_network_is_refused_where_it_is_not(seen, case):
    where, here = (1, 0) if case == "other" else (0, 1)
    what = {"bound": "the bound network", "population": "the population"}.get(case, "the network")
    assert seen["several"]["there"][case] == (
        f"{what} is on device {where} but device {here} is current; select device {where}, as in `with numba.cuda."
        f"gpus[{where}]:` or `with torch.cuda.device({where}):`, or send it to device {here} as well."
    )


@pytest.mark.parametrize("case", ["x", "out", "bind", "population", "w", "activation"])
def test_arrays_of_another_device_are_refused(seen, case):
    name = {"out": "out", "w": "w"}.get(case, "x")
    assert seen["several"]["arrays"][case] == (
        f"{name} is on device 1 but device 0 is current; select the one where weights and arrays are."
    )


def test_shared_memory_is_asked_for_on_each_device(seen):
    turns = seen["several"]["opt_in"]  # one kernel, on either device
    first, second, *again = ([name for name in calls if not name.startswith("cuCtx")] for calls in turns)
    assert first[-2:] == second[-2:] == ["cuFuncSetAttribute", *LAUNCH]
    assert again == [LAUNCH * 2, LAUNCH * 2]  # the driver refuses what was loaded for the other device
    enough, more = seen["several"]["most"]
    assert enough is None and more.startswith("the device does not give a block the 200000 bytes of shared memory")
