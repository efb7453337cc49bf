"""What reaches the driver: a script for a process whose driver is `stub_driver.c`.  It prints JSON."""

import ctypes
import gc
import json
import re
import sys
import threading
import warnings

import numpy as np
from numba import cuda

import numbadense as nd
from numbadense._engine.cuda import borrowed, hopper, room, whole
from numbadense._engine.cuda import compile as compiler

warnings.simplefilter("ignore")
ROOM = ("cuLaunchKernel", "cuMemPoolCreate", "cuMemPoolSetAttribute", "cuMemAllocFromPoolAsync", "cuMemFreeAsync")
CONTEXT = ("cuCtxGetCurrent", "cuCtxGetDevice")  # numba asks for these at every turn


class Launch(ctypes.Structure):
    """A launch as the driver saw it."""

    _fields_ = (
        ("function", ctypes.c_uint64),
        ("stream", ctypes.c_uint64),
        ("grid", ctypes.c_uint * 3),
        ("block", ctypes.c_uint * 3),
        ("shared", ctypes.c_uint),
        ("words", ctypes.c_uint64 * 64),
    )


stub = ctypes.CDLL("libcuda.so.1")
stub.stub_log.restype = ctypes.c_char_p
stub.stub_launch.restype = ctypes.POINTER(Launch)
stub.stub_memory.argtypes = [ctypes.c_size_t]


def calls(function):
    """Return the names of the driver's functions that are called, but for those about the context."""
    stub.stub_clear()
    function()
    return [name for name in stub.stub_log().decode().split() if name not in CONTEXT]


def every_call(function):
    """Return all names."""
    stub.stub_clear()
    function()
    return stub.stub_log().decode().split()


def last(words):
    """Return the last launch."""
    found = stub.stub_launch(stub.stub_launches() - 1).contents
    facts = {name: list(getattr(found, name)) for name in ("grid", "block")}
    return facts | {"stream": found.stream, "shared": found.shared, "words": list(found.words)[:words]}


def failing(name, code, function):
    """Return what is said when the driver's function of this name fails."""
    stub.stub_fail(name.encode(), code, 0)
    try:
        function()
    except nd.DeviceError as error:
        return str(error), type(error.__cause__).__module__.partition(".")[0]
    finally:
        stub.stub_fail(b"", 0, 0)
    return None


def copies(x, out):
    """A kernel of arrays."""
    i = cuda.grid(1)
    if i < x.shape[0]:
        out[i, 0] = x[i, 0]


def numbers(x, a, b, c):
    """A kernel of an array and numbers."""
    x[0] = a + b + c


def words_of(x, words):
    """A kernel of an array and a tuple."""
    x[0] = words[0] + words[2]


def parity():
    """Return pairs of launches, Numba's and ours, of one kernel on the same arguments."""
    x = cuda.to_device(np.arange(24, dtype=np.float32).reshape(4, 6))
    out, flat = cuda.device_array((4, 6), np.float32), cuda.device_array(7, np.float64)
    stream = cuda.stream()
    kernel, counting, of_words = cuda.jit(copies), cuda.jit(numbers), cuda.jit(words_of)
    cases = {
        "contiguous": (kernel, 5, 32, 0, 0, (x, out), 18),
        "strided": (kernel, (2, 3), (4, 5, 6), stream, 16, (x[::2, 1::2], out), 18),
        "transposed": (kernel, 1, 64, 0, 0, (cuda.to_device(np.zeros((4, 6), np.float32, order="F")), out), 18),
        "reversed": (kernel, 1, 1, stream, 0, (x[::-1], out), 18),
        "numbers": (counting, 1, 1, 0, 0, (flat, 7, np.int32(-3), np.float32(1.5)), 10),
        "tuple": (of_words, 2, 1, stream, 0, (flat, (7, -3, 2**40)), 10),
        "borrowed": (kernel, 3, 8, stream, 0, (x, out), 18),
    }
    found = {}
    for name, (function, blocks, threads, queue, shared, arguments, words) in cases.items():
        stub.stub_parameters(words)
        function[blocks, threads, queue, shared](*arguments)
        theirs = last(words)
        if name == "borrowed":
            arguments = tuple(map(borrowed.borrow, arguments))
        compiler.launch(function, blocks, threads, queue, *arguments, shared=shared)
        once = calls(lambda: compiler.launch(function, blocks, threads, queue, *arguments, shared=shared))
        found[name] = {"numba": theirs, "ours": last(words), "calls": once}
    return found


def opt_in():
    """Return the calls for much dynamic shared memory, at first and again."""
    kernel, x = cuda.jit(copies), cuda.device_array((4, 6), np.float32)
    stub.stub_parameters(18)
    launch = [(lambda shared=shared: compiler.launch(kernel, 1, 32, 0, x, x, shared=shared)) for shared in SHARED]
    compiler.launch(kernel, 1, 32, 0, x, x)
    return [calls(each) for each in launch] + [last(0)["shared"]]


def cluster():
    """Return the grid of a kernel whose blocks run in clusters, the driver's calls, and the directives of its code."""
    rank = hopper.primitives.make_rank(2)

    def ranks(x, out):
        out[0, 0] = x[0, 0] + rank()

    kernel, x = cuda.jit(ranks), cuda.device_array((4, 6), np.float32)
    compiler.launch(kernel, 6, 32, 0, x, x)
    called = calls(lambda: compiler.launch(kernel, 6, 32, 0, x, x))
    (code,) = kernel.inspect_asm().values()
    return last(0)["grid"], called, re.findall(r"^\.\w*cluster.*", code, re.MULTILINE)


SHARED = (48 * 1024, 100_000, 100_000, 60_000, 200_000)


def halves(tensor, fused):
    """Return the calls for arrays of 16-bit floats: of a network on tensor cores in bf16, and of one in float32."""
    found = {}
    stub.stub_parameters(18)  # as many as every kernel of these calls has
    for name, dtype in (("bf16", "V2"), ("fp16", "f2")):
        x, out = (cuda.to_device(np.zeros((64, n), np.uint16).view(dtype)) for n in (8, 2))
        tensor(x, out), fused(x, out)
        found[name] = calls(lambda: tensor(x, out)), calls(lambda: fused(x, out))
    stub.stub_parameters(30)
    x, out = (cuda.to_device(np.zeros((64, n), np.uint16).view("V2")) for n in (8, 2))
    tensor(x, out)
    found["halves"] = every_call(lambda: tensor(x, out)), last(30)["words"][9:18], x.device_ctypes_pointer.value
    return found


def refused(function):
    """Return what an error says."""
    try:
        function()
    except nd.DeviceError as error:
        return str(error)
    return None


def several():
    """Return what two devices are asked for: one network on each, and either called where it is not."""
    rng = np.random.default_rng(1)
    layers = [nd.Dense(rng.standard_normal(shape, np.float32), None, "relu") for shape in ((8, 300), (300, 2))]
    network, rows = nd.Sequential(layers), rng.standard_normal((200, 8), np.float32)
    population = nd.stack([nd.Sequential([nd.Dense(rng.standard_normal((8, 2), np.float32))])] * 2)
    stub.stub_parameters(14)  # all kernels have as many: two addresses are among them
    nets, arrays, bound, many, found = [], [], [], [], {}
    for number in (0, 1):
        with cuda.gpus[number]:
            nets.append(network.to("cuda"))
            arrays.append((cuda.to_device(rows), cuda.device_array((200, 2), np.float32)))
            bound.append(nets[number].bind(arrays[number][0]))
            many.append(population.to("cuda"))

    def all_of(number):
        with cuda.gpus[number]:
            nets[number](*arrays[number])
            nets[number](arrays[number][0])
            many[number](arrays[number][0])
            nets[number].predict(rows, 50)
            nets[number](rows)
            bound[number]()

    for number in (0, 1):
        all_of(number)
    found["again"] = sorted({name for number in (0, 1, 0, 1) for name in calls(lambda number=number: all_of(number))})
    found["explained"] = [inside(number, nets[number].explain, 64) for number in (0, 1)]
    x, out = arrays[0]
    there, to = arrays[1]
    found["there"] = {
        "call": inside(1, refused, lambda: nets[0](there, to)),
        "rows": inside(1, refused, lambda: nets[0](rows)),
        "predict": inside(1, refused, lambda: nets[0].predict(rows)),
        "bind": inside(1, refused, lambda: nets[0].bind(there)),
        "bound": inside(1, refused, bound[0]),
        "population": inside(1, refused, lambda: many[0](there)),
        "explain": inside(1, refused, lambda: nets[0].explain(4)),
        "other": refused(lambda: nets[1](x, out)),
    }
    found["arrays"] = {
        "x": refused(lambda: nets[0](there, out)),
        "out": refused(lambda: nets[0](x, to)),
        "bind": refused(lambda: nets[0].bind(there)),
        "population": refused(lambda: many[0](there)),
        "w": refused(lambda: nd.cuda.dense(x, there[:8, :3])),
        "activation": refused(lambda: nd.cuda.relu(there)),
    }
    found["threads"] = threads(lambda number: nets[number](*arrays[number]))
    kernel = cuda.jit(copies)
    stub.stub_parameters(18)

    def much(number, shared):
        inside(number, compiler.launch, kernel, 1, 32, 0, *arrays[number], shared=shared)

    found["opt_in"] = [calls(lambda: much(number, 60_000)) for number in (0, 1, 0, 1)]
    found["most"] = [refused(lambda number=number: much(number, 200_000)) for number in (0, 1)]
    kinds = compiler.capability, compiler.multiprocessors
    found["kinds"] = [[inside(number, kind) for kind in kinds] for number in (0, 1)]
    return found


def inside(number, function, *arguments, **options):
    """Return the result of a call while a device is current."""
    with cuda.gpus[number]:
        return function(*arguments, **options)


def threads(call, turns=300):
    """Return the errors of two threads, each of which has a device of its own, and calls it in turns with the other."""
    errors = []

    def run(number):
        with cuda.gpus[number]:
            for _ in range(turns):
                try:
                    call(number)
                except nd.DeviceError as error:
                    errors.append(str(error))

    running = [threading.Thread(target=run, args=(number,)) for number in (0, 1)]
    usual = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    sys.setswitchinterval(usual)
    return errors


def main():
    """Print what was found."""
    rng = np.random.default_rng(0)
    widths = [(8, 32), (32, 32), (32, 2)]
    network = nd.Sequential([nd.Dense(rng.standard_normal(shape, np.float32), None, "relu") for shape in widths])
    pool = room._pool
    fused, fits = network.to("cuda"), whole.fits
    whole.fits = lambda *arguments: False  # layer by layer, as wide networks are
    net, one = network.to("cuda"), nd.Sequential([nd.Dense(rng.standard_normal((8, 2), np.float32), None, "relu")])
    one = one.to("cuda")
    whole.fits = fits
    x, out = cuda.to_device(rng.standard_normal((64, 8), np.float32)), cuda.device_array((64, 2), np.float32)
    found = {"parity": parity(), "opt_in": opt_in(), "cluster": cluster()}
    stub.stub_parameters(30)
    fused(x, out)
    found["fused"] = every_call(lambda: fused(x, out)), last(30)["words"][-3:]
    stub.stub_parameters(32)
    one(x, out)
    found["pool"] = [name for name in calls(lambda: net(x, out)) if name in ROOM]
    found["one"] = every_call(lambda: one(x, out))
    found["three"] = calls(lambda: net(x, out))
    found["broken"] = calls(lambda: failing("cuLaunchKernel", 1, lambda: net(x, out)))
    room._pool = lambda device: None
    found["without"] = calls(lambda: net(x, out))
    room._pool = pool
    thread = threading.Thread(target=lambda: found.update(thread=every_call(lambda: one(x, out))))
    thread.start()
    thread.join()
    kept = []
    found["bind"] = calls(lambda: kept.append(net.bind(x)))
    found["bound"] = every_call(kept[0])
    stream = cuda.stream()
    kept[0](stream=stream)
    found["drop"] = calls(lambda: (kept.clear(), gc.collect()))
    rows = rng.standard_normal((1000, 8))
    net.predict(rows, 250)
    found["predict"] = calls(lambda: net.predict(rows, 250))
    one(x, out, stream=stream)
    found["stream"] = last(32)["stream"], int(stream)
    one(x, out, stream=4096)
    found["handle"] = last(32)["stream"]
    kernel = cuda.jit(copies)
    much = lambda: compiler.launch(kernel, 1, 32, 0, x, x, shared=300_000)  # noqa: E731
    found["failures"] = {
        "launch": failing("cuLaunchKernel", 701, lambda: one(x, out)),
        "shared": failing("cuFuncSetAttribute", 1, much),
        "elsewhere": failing("cuLaunchKernel", 400, lambda: one(x, out)),
        "result": failing("cuMemcpyDtoH", 700, lambda: one(rows)),
        "stream": failing("cuStreamSynchronize", 719, lambda: net.predict(rows, 250)),
        "capture": failing("cuStreamEndCapture", 900, lambda: net.bind(x)),
        "graph": failing("cuGraphInstantiate", 801, lambda: net.bind(x)),
    }
    bound = net.bind(x)
    found["failures"]["bound"] = failing("cuGraphLaunch", 700, bound)
    found["after"] = calls(lambda: one(x, out))
    found["explained"] = net.explain(64)
    stub.stub_memory(0)
    found["failures"]["room"] = failing("", 0, lambda: net(x, out))
    stub.stub_memory(1 << 20)
    found["failures"]["memory"] = failing("", 0, lambda: one(np.zeros((100_000, 8), np.float32)))
    stub.stub_memory(1 << 34)
    found |= halves(network.to("cuda", precision="bf16"), fused)
    found["several"] = several()
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
