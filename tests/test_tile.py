"""The register tile where it could go wrong unseen: past the ends of arrays, on other CPUs, in its registers."""

import re

import numpy as np
import pytest
import scripts
from numba import config

import numbadense as nd
from numbadense import activations
from numbadense._engine import compile as compiler
from numbadense._engine import half, machine, plan
from numbadense._engine.cpu.tiles import TABLE

compiled = pytest.mark.skipif(config.DISABLE_JIT, reason="the twins are NumPy, which checks its own bounds")

GUARDED = """
    import ctypes, mmap, sys
    import numpy as np
    import numbadense as nd
    from numbadense._engine import plan as planner

    libc = ctypes.CDLL(None, use_errno=True)
    PAGE = mmap.PAGESIZE

    def guarded(array, side):
        # A copy whose last byte, or first one, is next to a page that nobody may touch.
        pages = max(1, -(-array.nbytes // PAGE))
        memory = mmap.mmap(-1, (pages + 2) * PAGE)
        base = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        for offset in (0, (pages + 1) * PAGE):
            assert libc.mprotect(ctypes.c_void_p(base + offset), PAGE, 0) == 0
        start = PAGE + (pages * PAGE - array.nbytes if side == "end" else 0)
        copy = np.frombuffer(memory, array.dtype, array.size, start).reshape(array.shape)
        copy[...] = array
        return copy

    rng = np.random.default_rng(0)
    for dtype in (np.float32, np.float64):
        for side in ("end", "begin"):
            for m in (1, 2, 3, 7, 8, 9, 17):
                for k, n in ((1, 1), (3, 15), (5, 16), (4, 17), (2, 33), (3, 65), (9, 300), (1, 256), (40, 8)):
                    x, w, b = (rng.standard_normal(s).astype(dtype) for s in ((m, k), (k, n), n))
                    layer = nd.Dense(w, b, "sigmoid")
                    expected = layer(x)
                    x, w, b = guarded(x, side), guarded(w, side), guarded(b, side)
                    out = guarded(np.zeros((m, n), dtype), side)
                    nd.dense(x, w, b, "sigmoid", out=out)
                    assert np.array_equal(out, expected)
                    out[:] = 0
                    layer(x, out=out)
                    assert np.array_equal(out, expected)
                    nd.softmax(out, out=out)
                    nd.tanh(x, out=x)
            x, w = rng.standard_normal((41, 1030)).astype(dtype), rng.standard_normal((1030, 21)).astype(dtype)
            layer = nd.Dense(w)
            out = guarded(np.zeros((41, 21), dtype), side)
            layer(guarded(x, side), out=out)
            assert np.array_equal(out, layer(x))
            for n in (*range(1, 40), 63, 64, 65, 130, 1023, 1024, 1025, 2500):
                x = rng.standard_normal((3, n)).astype(dtype)
                source, out = guarded(x, side), guarded(x, side)
                for function in (nd.softmax, nd.log_softmax):
                    assert np.array_equal(function(source, out=out), function(x))
                planner.STREAMED_FROM = 0
                nd.hard_swish(source, out=out, threads=1)
                planner.STREAMED_FROM = 1 << 40
                assert np.array_equal(out, nd.hard_swish(x))
"""


@compiled
@pytest.mark.skipif(not hasattr(__import__("os"), "fork"), reason="mprotect is for POSIX systems")
def test_nothing_beyond_an_array_is_touched():
    scripts.run(GUARDED)


def test_the_guard_pages_do_guard():
    code = scripts.textwrap.dedent(GUARDED).split("rng =")[0] + "print(guarded(np.ones(3), 'end').ctypes.data + 24)\n"
    touched = code + "ctypes.string_at(guarded(np.ones(3), 'end').ctypes.data, 25)\n"
    assert scripts.run(code, check=False).returncode == 0
    assert scripts.run(touched, check=False).returncode < 0  # a signal


@pytest.mark.codegen
@compiled
@pytest.mark.parametrize("isa", sorted(TABLE))
def test_every_row_of_the_tile_table_is_right_on_any_machine(isa):
    code = """
        import numpy as np
        import numbadense as nd
        from numbadense._engine import machine, plan
        rng = np.random.default_rng(0)
        print(machine.host().isa)
        for dtype in (np.float32, np.float64):
            layers = [
                nd.Dense(rng.standard_normal((k, n)).astype(dtype) / 4, rng.standard_normal(n).astype(dtype), "tanh")
                for k, n in ((9, 70), (70, 20), (20, 3))
            ]
            net = nd.Sequential(layers)
            for m in (1, 2, 5, 6, 13, 50):
                x = rng.standard_normal((m, 9)).astype(dtype)
                a = x.astype(float)
                for layer in layers:
                    a = np.tanh(a @ layer.w.astype(float) + layer.b)
                nd.testing.assert_forward_close(net(x), a, x, layers)
                assert np.array_equal(nd.dense(x, layers[0].w, layers[0].b, "tanh"), layers[0](x))
        for kind in ("bfloat16", "float16"):
            half = net.astype(kind)
            full = half.astype("float32")
            for m in (1, 2, 5, 6, 13, 50):
                x = rng.standard_normal((m, 9)).astype(np.float32)
                assert np.array_equal(half(x), full(x))
    """
    assert scripts.run(code, NUMBADENSE_ISA=isa).stdout.split() == [isa]


@pytest.mark.parametrize("dtype", [np.dtype("f4"), np.dtype("f8")])
@pytest.mark.parametrize("threads", [1, 3])
def test_streaming_writes_the_same_bits_and_nothing_else(dtype, threads):
    rng = np.random.default_rng(0)
    address = compiler.activation_pass(activations.get("hard_swish"), dtype)
    kernel = compiler.streamed(dtype, threads > 1)
    for size in (1, 15, 16, 17, 64, 100, 511, 512, 513, 1024, 5000):
        x = rng.standard_normal(size).astype(dtype)
        expected = nd.hard_swish(x)
        for offset in range(64 // dtype.itemsize):
            around = np.full(size + 64, 7, dtype)
            out = around[offset : offset + size]
            kernel(address, x, out, threads)
            assert np.array_equal(out, expected)
            assert (around[:offset] == 7).all() and (around[offset + size :] == 7).all()


def test_only_large_outputs_of_light_activations_apart_from_x_stream(monkeypatch):
    used = []
    found = compiler.streamed
    monkeypatch.setattr(compiler, "streamed", lambda dtype, parallel: used.append(parallel) or found(dtype, parallel))
    x = np.linspace(-2, 2, 4000)
    nd.relu(x, threads=1)
    assert not used
    monkeypatch.setattr(plan, "STREAMED_FROM", x.nbytes)
    for name in ("relu", "leaky_relu", "softsign", "hard_sigmoid"):
        getattr(nd, name)(x, out=np.empty_like(x), threads=1)
    assert len(used) == 4
    nd.relu(x.copy(), out=x, threads=1)
    assert len(used) == 5
    nd.relu(x, out=x, threads=1)
    for name in ("sigmoid", "elu", "softmax", "gelu"):  # bound by their exponentials, or row by row
        getattr(nd, name)(x, threads=1)
    assert len(used) == 5


def loops(assembly):
    """Return the bodies of the innermost loops, each with the registers that point to the stack there."""
    for function in assembly.split(",@function"):
        stack = {"%rsp", "%rbp"} if "movq\t%rsp, %rbp" in function else {"%rsp"}  # a frame pointer, or any pointer
        lines = function.splitlines()
        labels = {match[1]: i for i, line in enumerate(lines) if (match := re.match(r"(\.L\w+):", line))}
        for i, line in enumerate(lines):
            jump = re.match(r"\s+j\w+\s+(\.L\w+)", line)
            if jump and labels.get(jump[1], i) < i:
                body = lines[labels[jump[1]] + 1 : i + 1]
                if not any(label.startswith(".L") for label in body):
                    yield "\n".join(body), stack


def spills(body, stack):
    """Return the instructions that move a vector to or from the stack."""
    return re.findall(rf"vmov[au]p[sd]\s.*\((?:{'|'.join(stack)})[,)].*", body)


def test_the_spill_finder_finds_spills():
    assert spills("\tvmovups\t%zmm3, 64(%rsp)", {"%rsp"})
    assert spills("\tvmovaps\t-128(%rbp), %ymm3", {"%rsp", "%rbp"})
    assert not spills("\tvmovups\t(%rbp), %zmm4\n\tmovq\t8(%rsp), %rax", {"%rsp"})


@pytest.mark.codegen
@compiled
@pytest.mark.skipif(machine.host().isa not in ("avx512", "avx2"), reason="reads x86 assembly")
@pytest.mark.parametrize(
    "dtype,form,widening",
    [
        (np.dtype("f4"), half.FULL, ()),
        (np.dtype("f8"), half.FULL, ()),
        (np.dtype("f4"), half.FLOAT16, ("vcvtph2ps",)),
        (np.dtype("f4"), half.BFLOAT16, ("vpslld", "v(?:pand[dq]?|andps)")),
    ],
    ids=["float32", "float64", "float16", "bfloat16"],
)
def test_tiles_stay_in_registers(dtype, form, widening, monkeypatch, tmp_path):
    monkeypatch.setenv("NUMBADENSE_CACHE_DIR", str(tmp_path))  # a kernel from the cache has no assembly to read
    before, row = len(compiler._alive), TABLE[machine.host().isa]
    for vectors in row.rows:
        compiler.layer.__wrapped__(dtype, form, vectors)
    compiler.kernels.__wrapped__(dtype, form)
    assembly = [kernel.library.get_asm_str() for kernel in compiler._alive[before:]]
    inner = [loop for loop in loops("".join(assembly)) if "vfmadd" in loop[0]]
    fused = {len(re.findall(r"vfn?madd\w+\s", body)) for body, _ in inner}
    expected = {nv * height for nv, height in row.rows.items()}
    assert expected <= {count // unrolled for count in fused for unrolled in (1, 2, 4) if count % unrolled == 0}
    for body, stack in inner:
        assert not spills(body, stack), "a vector is spilled inside a k loop"
    assert not re.search(r"__\w*hf", "".join(assembly)), "float16 is widened by a C function"
    widest = max(inner, key=lambda loop: len(re.findall(r"vfn?madd", loop[0])))[0]
    for instruction in widening:
        assert re.search(rf"\s{instruction}\s", widest), f"weights are not widened by {instruction}"


def wide_registers():
    return "%zmm" if machine.host().isa == "avx512" else "%ymm"


@compiled
@pytest.mark.skipif(machine.host().isa not in ("avx512", "avx2"), reason="reads x86 assembly")
@pytest.mark.parametrize("dtype", [np.dtype("f4"), np.dtype("f8")])
@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
def test_the_stages_of_softmax_are_vectors(name, dtype, monkeypatch, tmp_path):
    monkeypatch.setenv("NUMBADENSE_CACHE_DIR", str(tmp_path))
    compiler.activation_pass.__wrapped__(activations.get(name), dtype)
    assembly = compiler._alive[-1].library.get_asm_str()
    kind = "ps" if dtype.itemsize == 4 else "pd"
    bodies = [body for body, _ in loops(assembly) if wide_registers() in body]
    for instruction in ("vmax", "vadd", "vsub", "vfmadd"):
        assert any(re.search(rf"{instruction}\w*{kind}\s.*{wide_registers()}", body) for body in bodies), instruction


@compiled
@pytest.mark.skipif(machine.host().isa not in ("avx512", "avx2"), reason="reads x86 assembly")
@pytest.mark.parametrize("dtype", [np.dtype("f4"), np.dtype("f8")])
def test_streaming_stores_whole_vectors_and_waits_for_them(dtype, monkeypatch, tmp_path):
    monkeypatch.setenv("NUMBADENSE_CACHE_DIR", str(tmp_path))
    assembly = "".join(compiler.streamed.__wrapped__(dtype, False).inspect_asm().values())
    assert re.search(rf"vmovntp[sd]\s+{wide_registers()}", assembly)
    assert re.search(r"mfence|sfence|lock\s", assembly)


def test_a_users_layer_may_be_wider_than_any_tile():
    w = np.ones((3, 1000))
    assert (nd.dense(np.ones((2, 3)), w) == 3).all()
