import errno
import functools
import io
import json
import os
import re
import subprocess
import sys
from types import SimpleNamespace

import numba
import numpy as np
import pytest
import safetensors
from rich.console import Console

import numbadense as nd
from numbadense import cli, progress, tables
from numbadense._engine import cache, threads
from numbadense._engine.cuda import device

NEEDS_COMPILER = pytest.mark.skipif(bool(numba.config.DISABLE_JIT), reason="nothing is compiled")


def run(*arguments):
    return cli.main([str(argument) for argument in arguments])


def process(*arguments, **environment):
    return subprocess.run(
        [sys.executable, "-m", "numbadense.cli", *map(str, arguments)],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty current folder, so that messages name files shortly."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def net(folder):
    rng = np.random.default_rng(1)
    hidden = nd.Dense(rng.normal(size=(3, 5)).astype(np.float32), rng.normal(size=5).astype(np.float32), "tanh")
    network = nd.Sequential([hidden, nd.Dense(rng.normal(size=(5, 2)).astype(np.float32))], {"author": "a test"})
    network.save("net.safetensors")
    return network


@pytest.fixture
def x(folder):
    values = np.random.default_rng(2).normal(size=(70, 3)).astype(np.float32)
    np.save("x.npy", values)
    np.savetxt("x.csv", values, "%.9g", delimiter=",")
    return values


def read(name):
    return np.load(name) if name.endswith(".npy") else np.loadtxt(name, np.float32, delimiter=",", ndmin=2)


def fails(capsys, expected, *arguments, status=1):
    """Run a command that must fail in one line, and leave no file that was not there."""
    before = sorted(os.listdir())
    assert run(*arguments) == status
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == f"numbadense: error: {expected}\n"
    assert sorted(os.listdir()) == before


# Help, version and usage


@pytest.mark.parametrize("option", ["--help", "--version"])
def test_help_and_version_import_neither_numba_nor_numpy(option):
    code = (
        "import sys\n"
        "from numbadense.cli import main\n"
        "try:\n"
        f"    main([{option!r}])\n"
        "except SystemExit as stop:\n"
        "    assert stop.code == 0\n"
        "print({'numba', 'numpy', 'llvmlite', 'rich'} & sys.modules.keys())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("set()\n")


def test_version_is_the_packages():
    done = process("--version")
    assert (done.stdout, done.stderr, done.returncode) == (f"numbadense {nd.__version__}\n", "", 0)


def test_help_lists_every_command(capsys):
    with pytest.raises(SystemExit) as stop:
        run("--help")
    assert stop.value.code == 0
    shown = capsys.readouterr().out
    for command in ("demo", "predict", "info", "convert", "verify", "warm", "doctor"):
        assert f"\n    {command} " in shown


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], "numbadense: error: the following arguments are required: COMMAND\n"),
        (["train"], "numbadense: error: argument COMMAND: invalid choice: 'train'"),
        (["predict", "m", "x.npy"], "numbadense predict: error: the following arguments are required: -o/--out\n"),
        (
            ["predict", "m", "x.txt", "-o", "y.npy"],
            "numbadense predict: error: argument INPUT: 'x.txt' ends in '.txt' but must be a .npy or .csv file\n",
        ),
        (
            ["predict", "m", "x.csv", "-o", "y"],
            "numbadense predict: error: argument -o/--out: 'y' ends in '' but must be a .npy or .csv file\n",
        ),
        (
            ["predict", "m", "x.csv", "-o", "y.csv", "--skip-rows", "-1"],
            "numbadense predict: error: argument --skip-rows: '-1' must be a whole number, 0 or more\n",
        ),
        (
            ["info", "m", "--rows", "many"],
            "numbadense info: error: argument --rows: 'many' must be a whole number, 0 or more\n",
        ),
    ],
)
def test_wrong_usage_is_explained_and_exits_2(arguments, expected, capsys):
    with pytest.raises(SystemExit) as stop:
        run(*arguments)
    assert stop.value.code == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert expected in captured.err


# predict


@pytest.mark.parametrize("out", ["y.npy", "y.csv"])
@pytest.mark.parametrize("given", ["x.npy", "x.csv"])
def test_predict_writes_what_the_network_gives(net, x, given, out, capsys):
    assert run("predict", "net.safetensors", given, "-o", out) == 0
    assert capsys.readouterr().out == ""
    y = read(out)
    assert y.dtype == np.float32
    np.testing.assert_array_equal(y, net(x))
    assert sorted(os.listdir()) == sorted(["net.safetensors", "x.csv", "x.npy", out])


@pytest.mark.parametrize("out", ["y.npy", "y.csv"])
def test_predict_goes_through_many_batches(net, x, out, monkeypatch):
    monkeypatch.setattr(tables, "BATCH_BYTES", 8 * (3 + 2) * 16)
    assert tables.batch_size(net) == 16
    assert run("predict", "net.safetensors", "x.npy", "-o", out) == 0
    np.testing.assert_array_equal(read(out), net(x))


def test_predict_keeps_every_digit_of_float64(net, x):
    net.astype("float64").save("net64.safetensors")
    assert run("predict", "net64.safetensors", "x.npy", "-o", "y.csv") == 0
    np.testing.assert_array_equal(np.loadtxt("y.csv", delimiter=","), net.astype("float64")(x))


@pytest.mark.parametrize(
    "change",
    [np.asfortranarray, lambda x: x.astype(">f8"), lambda x: (10 * x).astype(np.int8), lambda x: x.astype(np.float16)],
    ids=["Fortran", "big-endian", "int8", "float16"],
)
def test_predict_takes_any_real_npy(net, x, change):
    np.save("other.npy", change(x))
    assert run("predict", "net.safetensors", "other.npy", "-o", "y.npy") == 0
    np.testing.assert_array_equal(read("y.npy"), net(change(x)))


def test_predict_of_no_rows_writes_no_rows(net):
    np.save("none.npy", np.empty((0, 3)))
    assert run("predict", "net.safetensors", "none.npy", "-o", "y.npy") == 0
    assert read("y.npy").shape == (0, 2)


def test_predict_can_replace_its_own_input(net, x):
    assert run("predict", "net.safetensors", "x.npy", "-o", "x.npy") == 0
    np.testing.assert_array_equal(read("x.npy"), net(x))


def test_predict_can_skip_a_header(net, x):
    with open("x.csv") as stream, open("head.csv", "w") as headed:
        headed.write("a,b,c\n" + stream.read())
    assert run("predict", "net.safetensors", "head.csv", "--skip-rows", "1", "-o", "y.npy") == 0
    np.testing.assert_array_equal(read("y.npy"), net(x))


def header(text):
    content = text.encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + len(content).to_bytes(2, "little") + content


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("bad.npy", b"", "bad.npy is not a whole .npy file of numbers (EOF: reading magic string"),
        ("bad.npy", b"not an array", "bad.npy is not a whole .npy file of numbers (the magic string is not correct"),
        ("bad.npy", header("{'descr': ((("), "bad.npy is not a whole .npy file of numbers ("),
        (
            "bad.npy",
            header("{'descr': '<f8', 'fortran_order': False, 'shape': (10000000000000, 3)}"),
            "bad.npy is not a whole .npy file of numbers (mmap length is greater than file size); save it again.",
        ),
        (
            "bad.csv",
            b"a,b,c\n1,2,3\n",
            "bad.csv is not a table of numbers separated by commas (could not convert string 'a' to float32 at row 0, "
            "column 1); if its first line is a header, pass --skip-rows 1.",
        ),
        ("bad.csv", b"1,2,3\n1,2\n", "bad.csv is not a table of numbers separated by commas (the number of columns"),
        ("bad.csv", b"1,\xff,3\n", "bad.csv is not a table of numbers separated by commas ('utf-8' codec can't decode"),
        ("bad.csv", b"", "bad.csv has no rows."),
        ("bad.csv", b"1,2\n", "bad.csv has shape (1, 2) but the network takes rows of 3 features: (m, 3)."),
    ],
)
def test_predict_refuses_a_broken_table_in_one_line(net, name, content, expected, capsys):
    with open(name, "wb") as stream:
        stream.write(content)
    assert run("predict", "net.safetensors", name, "-o", "y.npy") == 1
    captured = capsys.readouterr()
    assert captured.err.startswith(f"numbadense: error: {expected}")
    assert captured.err.count("\n") == 1
    assert sorted(os.listdir()) == sorted([name, "net.safetensors"])


def test_predict_counts_the_lines_that_it_skipped(net, x, capsys):
    arguments = ("predict", "net.safetensors", "x.csv", "--skip-rows", "70", "-o", "y.npy")
    fails(capsys, "x.csv has no rows after the 70 skipped.", *arguments)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (np.zeros(3), "bad.npy has shape (3,) but the network takes rows of 3 features: (m, 3)."),
        (np.zeros(()), "bad.npy has shape () but the network takes rows of 3 features: (m, 3)."),
        (np.zeros((5, 7)), "bad.npy has shape (5, 7) but the network takes rows of 3 features: (m, 3)."),
        (
            np.zeros((5, 3), complex),
            "bad.npy: x has dtype complex128 but dense layers compute with real numbers; "
            "convert it first, for example with x.astype('float64').",
        ),
        (
            np.array([[{}] * 3]),
            "bad.npy is not a whole .npy file of numbers (Array can't be memory-mapped: Python objects in dtype); "
            "save it again.",
        ),
    ],
    ids=["1-D", "0-D", "7 features", "complex", "objects"],
)
def test_predict_refuses_what_is_no_batch_of_rows(net, value, expected, capsys):
    np.save("bad.npy", value, allow_pickle=True)
    fails(capsys, expected, "predict", "net.safetensors", "bad.npy", "-o", "y.npy")


def test_predict_names_the_file_that_is_not_there(net, x, capsys):
    gone = os.strerror(errno.ENOENT)
    fails(capsys, f"no.npy: {gone}", "predict", "net.safetensors", "no.npy", "-o", "y.npy")
    fails(capsys, f"no.safetensors: {gone}", "predict", "no.safetensors", "x.npy", "-o", "y.npy")
    for out in ("y.npy", "y.csv"):
        place = os.path.join("no", out)
        fails(capsys, f"{place}: {gone}", "predict", "net.safetensors", "x.npy", "-o", place)


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="a full disk shows later here")
def test_predict_on_a_full_disk_leaves_the_old_output(net, x, monkeypatch, capsys):
    def full(descriptor, offset, length):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    np.save("y.npy", x)
    fails(capsys, f"y.npy: {os.strerror(errno.ENOSPC)}", "predict", "net.safetensors", "x.npy", "-o", "y.npy")
    np.testing.assert_array_equal(read("y.npy"), x)


@pytest.mark.parametrize("out", ["y.npy", "y.csv"])
def test_predict_that_fails_half_way_leaves_the_old_output(net, x, out, monkeypatch, capsys):
    monkeypatch.setattr(tables, "BATCH_BYTES", 8 * (3 + 2) * 16)
    with open(out, "w") as stream:
        stream.write("old")
    calls = []

    def failing(network, rows, **options):
        calls.append(len(rows))
        if len(calls) == 4:
            raise MemoryError("of rows")
        return original(network, rows, **options)

    original = nd.Sequential.__call__
    monkeypatch.setattr(nd.Sequential, "__call__", failing)
    fails(capsys, "not enough memory: of rows", "predict", "net.safetensors", "x.npy", "-o", out)
    assert calls == [16, 16, 16, 16]  # once to compile, then the first, the second and the third batch
    with open(out) as stream:
        assert stream.read() == "old"


@pytest.mark.parametrize("out", ["y.npy", "y.csv"])
def test_an_interrupted_predict_exits_130_and_leaves_nothing(net, x, out, monkeypatch, capsys):
    def interrupted(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(tables, f"_write_{out[-3:]}", interrupted)
    before = sorted(os.listdir())
    assert run("predict", "net.safetensors", "x.npy", "-o", out) == 130
    assert sorted(os.listdir()) == before


# info


def test_info_describes_a_network(net, capsys):
    assert run("info", "net.safetensors") == 0
    assert capsys.readouterr().out == f"{net.summary()}\nauthor: a test\n"


def test_info_says_how_rows_would_run(net, capsys):
    assert run("info", "net.safetensors", "--rows", "32") == 0
    assert capsys.readouterr().out.endswith(f"\n\n{net.explain(32)}\n")


def test_info_as_json(net, capsys):
    assert run("info", "net.safetensors", "--json", "--rows", "32") == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts == {
        "dtype": "float32",
        "storage": "float32",
        "parameters": 30,
        "layers": [
            {"n_in": 3, "n_out": 5, "activation": "tanh", "bias": True},
            {"n_in": 5, "n_out": 2, "activation": "identity", "bias": False},
        ],
        "metadata": {"author": "a test"},
        "explanation": net.explain(32),
    }


@pytest.mark.parametrize("kept", [0, 4, 100, -1])
def test_info_on_a_truncated_network_is_one_line(net, kept, capsys):
    with open("net.safetensors", "rb") as stream:
        content = stream.read()
    with open("cut.safetensors", "wb") as stream:
        stream.write(content[:kept])
    assert run("info", "cut.safetensors") == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("numbadense: error: cut.safetensors is ")
    assert captured.err.endswith("again.\n")
    assert captured.err.count("\n") == 1


# convert and verify


def test_convert_writes_another_file_and_says_how_far_it_is_from_the_first(net, capsys):
    assert run("convert", "net.safetensors", "half.safetensors", "--dtype", "bfloat16") == 0
    said = capsys.readouterr().out.splitlines()
    assert said[
        0
    ] == "Sequential(3-5-2, tanh-identity, float32 with bfloat16 weights) written to half.safetensors".replace(
        "tanh-identity", "tanh, identity"
    )
    assert said[1].startswith("256 rows through half.safetensors and net.safetensors: the largest difference is ")
    assert nd.load("half.safetensors").storage == "bfloat16" and "net.safetensors" in os.listdir()
    assert run("verify", "half.safetensors", "--against", "net.safetensors", "--rows", "7", "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["agree"] and facts["rows"] == 7 and 0 < facts["share"] <= 1 and facts["difference"] <= facts["bound"]


def test_convert_can_add_examples(net, x, capsys):
    np.save("x.npy", x)
    assert run("convert", "net.safetensors", "net.safetensors", "--examples", "x.npy") == 0
    with safetensors.safe_open("net.safetensors", "numpy") as file:
        assert np.array_equal(file.get_tensor("examples.y"), net(x))


@pytest.mark.filterwarnings("default")
def test_convert_that_cannot_keep_the_numbers_writes_nothing(net, capsys):
    large = nd.Sequential([nd.Dense([[1e30, 1.0]])])
    large.save("large.safetensors")
    before = sorted(os.listdir())
    assert run("convert", "large.safetensors", "half.safetensors", "--dtype", "float16") == 1
    assert "error: they do not agree: 256 rows through half.safetensors" in capsys.readouterr().err
    assert sorted(os.listdir()) == before


def test_verify_against_itself_finds_nothing(net, capsys):
    assert run("verify", "net.safetensors", "--against", "net.safetensors") == 0
    assert "the largest difference is 0, 0 of what rounding explains" in capsys.readouterr().out


def test_verify_takes_recorded_results(net, x, capsys):
    np.savez("recorded.npz", x=x, y=net(x))
    assert run("verify", "net.safetensors", "--against", "recorded.npz") == 0
    assert f"{len(x):,} rows through net.safetensors and results in recorded.npz" in capsys.readouterr().out
    y = net(x)
    y[1, 1] += 1e-3
    np.savez("recorded.npz", x=x, y=y)
    assert run("verify", "net.safetensors", "--against", "recorded.npz") == 1
    error = capsys.readouterr().err
    assert error.startswith("numbadense: error: they do not agree: ") and "(output 1 of row 1)" in error


def test_verify_runs_onnx_by_its_own_runtime(folder, capsys):
    onnx, helper = pytest.importorskip("onnx"), pytest.importorskip("onnx.helper")
    pytest.importorskip("onnxruntime")
    w = np.random.default_rng(0).standard_normal((3, 2)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["z"]), helper.make_node("Tanh", ["z"], ["y"])],
        "net",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["m", 3])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["m", 2])],
        [onnx.numpy_helper.from_array(w, "w")],
    )
    onnx.save(helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 13)]), "net.onnx")
    nd.Sequential([nd.Dense(w, activation="tanh")]).save("same.safetensors")
    nd.Sequential([nd.Dense(-w, activation="tanh")]).save("other.safetensors")
    assert run("verify", "same.safetensors", "--against", "net.onnx") == 0
    assert "ONNX Runtime on net.onnx: the largest difference" in capsys.readouterr().out
    assert run("verify", "other.safetensors", "--against", "net.onnx") == 1


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ({"x": np.zeros((2, 3))}, "must have arrays of numbers x, the inputs, and y"),
        ({"x": np.zeros((2, 3)), "y": np.array(["a", "b"])}, "must have arrays of numbers x, the inputs, and y"),
        ({"x": np.zeros((2, 3)), "y": np.zeros((3, 2))}, "has x of shape (2, 3) and y of shape (3, 2)"),
        ({"x": np.zeros((2, 4)), "y": np.zeros((2, 2))}, "has 4 features but net.safetensors takes 3."),
        ({"x": np.zeros((2, 3)), "y": np.zeros((2, 9))}, "gives 9 results a row but net.safetensors gives 2."),
    ],
)  # fmt: skip
def test_verify_refuses_results_of_something_else(net, content, expected, capsys):
    np.savez("recorded.npz", **content)
    assert run("verify", "net.safetensors", "--against", "recorded.npz") == 1
    error = capsys.readouterr().err
    assert expected in error and error.splitlines()[-1].startswith("numbadense: error: ")


def test_verify_that_compares_nothing_fails(net, capsys):
    np.save("nan.npy", np.full((3, net.n_in), np.nan))
    for options in (("--rows", "0"), ("--input", "nan.npy")):
        assert run("verify", "net.safetensors", "--against", "net.safetensors", *options) == 1
        assert "error: nothing was compared: " in capsys.readouterr().err


def test_convert_names_the_file_that_cannot_be_written(net, capsys):
    fails(capsys, "nowhere/x.onnx: No such file or directory", "convert", "net.safetensors", "nowhere/x.onnx")
    kept = ", ".join(nd.io.WRITERS)
    expected = f"x.txt has the suffix '.txt' but networks are written as {kept}; name it so."
    fails(capsys, expected, "convert", "net.safetensors", "x.txt")


def test_info_refuses_another_format(folder, capsys):
    kept = ", ".join(nd.io.READERS)
    fails(capsys, f"net.npz has the suffix '.npz' but networks are kept as {kept}; convert it.", "info", "net.npz")


@pytest.mark.filterwarnings("default")
def test_a_warning_is_one_line_and_no_failure(folder, capsys):
    with pytest.warns(nd.NonFiniteWarning):
        network = nd.Sequential([nd.Dense([[np.nan]])])
    network.save("nan.safetensors")
    assert run("info", "nan.safetensors") == 0
    assert capsys.readouterr().err == (
        "numbadense: warning: the weights of a 1 -> 1 layer hold NaN or infinity, and so will its outputs: "
        "check how the network was trained or converted.\n"
    )


@pytest.mark.skipif(os.name != "posix", reason="pipes break otherwise elsewhere")
def test_a_reader_that_has_gone_is_no_traceback(net):
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", "numbadense.cli", "info", "net.safetensors"],
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    os.close(writer)
    assert (done.stderr, done.returncode) == ("", 1)


# demo


def test_demo_as_json(capsys, monkeypatch):
    from numbadense import demo

    monkeypatch.setattr(demo, "run", functools.partial(demo.run, rounds=1, copies=1))
    assert run("demo", "--json") == 0
    result = json.loads(capsys.readouterr().out)
    assert result["network"] == "Sequential(64-32-10, sigmoid, sigmoid, float32)"
    assert result["images"] == 450
    assert len(result["digits"]) == 6
    for rung in result["rungs"]:
        names = "name rows seconds seconds_per_image speedup max_abs_difference accuracy"
        assert rung.keys() == set(names.split())
        assert rung["accuracy"] == result["rungs"][0]["accuracy"] >= 0.95
        assert rung["max_abs_difference"] < 1e-5


def test_demo_prints_the_ladder(capsys, monkeypatch):
    from numbadense import demo

    small = demo.run(rounds=1, copies=1)
    monkeypatch.setattr(demo, "run", lambda while_compiling: small)
    assert run("demo") == 0
    shown = capsys.readouterr().out
    for rung in small.rungs:
        assert f"\n {rung.name} " in shown
    assert "98.22%" in shown


# warm and doctor


def test_warm_lists_what_it_compiled(capsys, monkeypatch):
    from numbadense._engine import compile as compiler

    def warm(progress, further):
        assert further
        done = [("sigmoid float32", 0.25, False), ("tanh float32", 0.004, True)]
        for each in done:
            progress(*each)
        return done

    monkeypatch.setattr(compiler, "warm", warm)
    assert run("warm") == 0
    assert capsys.readouterr().out.splitlines() == [
        "sigmoid float32                  250 ms  compiled",
        "tanh float32                       4 ms  from the cache",
        "2 kernels, 1 of them compiled now, in 0.3 s",
    ]
    assert run("warm", "--json") == 0
    assert json.loads(capsys.readouterr().out) == [
        {"name": "sigmoid float32", "seconds": 0.25, "from_cache": False},
        {"name": "tanh float32", "seconds": 0.004, "from_cache": True},
    ]


@pytest.mark.codegen
@NEEDS_COMPILER
def test_warm_compiles_every_activation(capsys):
    assert run("warm", "--json") == 0
    names = {each["name"] for each in json.loads(capsys.readouterr().out)}
    assert {f"{name} {dtype}" for name in nd.activations.REGISTRY for dtype in ("float32", "float64")} <= names


def test_doctor_as_json(capsys):
    assert run("doctor", "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["versions"]["numba"] == numba.__version__
    assert facts["versions"]["numpy"] == np.__version__
    assert facts["cpu"]["cores"] >= 1
    assert facts["cache"]["path"] == str(cache.folder())
    if numba.config.DISABLE_JIT:
        assert facts["threads"]["layer"] is None
    else:
        assert facts["threads"]["layer"] == numba.threading_layer()
    assert facts["cuda"]["usable"] == nd.cuda.is_available()


def test_doctor_prints_every_topic(capsys, monkeypatch):
    monkeypatch.setenv("NUMBADENSE_THREADS", "1")
    assert run("doctor") == 0
    lines = capsys.readouterr().out.splitlines()
    topics = [line.rstrip() for line in lines if line.strip() and not line.startswith(" ")]
    assert topics == ["versions", "cpu", "threads", "cache", "cuda", "optional", "environment"]
    assert ["NUMBADENSE_THREADS", "1"] in [line.split() for line in lines]


def test_doctor_says_what_is_wrong_with_the_threading_layer(monkeypatch, capsys):
    def missing():
        raise ValueError("No threading layer could be loaded.\nHINT:\nInstall one.")

    monkeypatch.setattr(numba.config, "DISABLE_JIT", 0)
    monkeypatch.setattr(threads, "layer", missing)
    assert run("doctor", "--json") == 0
    facts = json.loads(capsys.readouterr().out)["threads"]
    assert facts["layer"] is None
    assert facts["problem"] == "No threading layer could be loaded. HINT: Install one."


def test_doctor_describes_the_device_that_there_is(monkeypatch, capsys):
    context = SimpleNamespace(get_memory_info=lambda: SimpleNamespace(total=2**30))
    gpu = SimpleNamespace(name=b"A GPU", compute_capability=(9, 0))
    cuda = SimpleNamespace(get_current_device=lambda: gpu, current_context=lambda: context)
    monkeypatch.setattr(numba, "cuda", cuda, raising=False)
    monkeypatch.setattr(device, "why_not", lambda: None)
    monkeypatch.setattr(device, "simulated", lambda: False)
    assert run("doctor", "--json") == 0
    assert json.loads(capsys.readouterr().out)["cuda"] == {
        "usable": True,
        "reason": None,
        "simulator": False,
        "device": "A GPU",
        "compute_capability": "9.0",
        "memory_bytes": 2**30,
    }


# The notice


def said_by_the_notice(compilations, *, terminal=False, cached=True):
    """Return what a notice prints around a number of compiler passes."""
    stream = io.StringIO()
    notice = progress.CompilationNotice(Console(file=stream, force_terminal=terminal, width=200), cached)
    for _ in range(compilations):
        notice.on_start(None)
        notice.update("half way")
        notice.on_end(None)
    notice.close()
    return stream.getvalue()


def test_the_notice_says_nothing_where_nothing_compiles():
    assert said_by_the_notice(0) == said_by_the_notice(0, terminal=True) == ""


@pytest.mark.parametrize(
    ("cached", "expected"),
    [
        (True, "compiling kernels (first use; cached afterwards) ..."),
        (False, "compiling kernels (in every process; not cached) ..."),
    ],
)
def test_the_notice_is_one_line_for_many_compilations_and_one_at_the_end(cached, expected):
    first, last = said_by_the_notice(3, cached=cached).splitlines()
    assert first == expected
    assert re.fullmatch(r"compiled in \d+\.\d s", last)


def test_the_notice_spins_on_a_terminal():
    said = said_by_the_notice(2, terminal=True)
    assert "half way" in said
    assert "compiled in " in said


def test_the_notice_says_that_the_cache_cannot_be_written(monkeypatch):
    monkeypatch.setattr(cache, "info", lambda: {"writable": False, "path": "/nowhere"})
    ending = " s, but not kept: /nowhere cannot be written; set NUMBADENSE_CACHE_DIR to a folder that can"
    assert said_by_the_notice(1).splitlines()[1].endswith(ending)
    assert not said_by_the_notice(1, cached=False).splitlines()[1].endswith(ending)


@NEEDS_COMPILER
def test_first_use_says_that_it_compiles_and_the_second_is_silent(net, tmp_path):
    arguments = ("info", "net.safetensors", "--rows", "1")
    first = process(*arguments, NUMBADENSE_CACHE_DIR=str(tmp_path / "kernels"))
    said, took = first.stderr.splitlines()
    assert said == "compiling kernels (first use; cached afterwards) ..."
    assert took.startswith("compiled in ")
    assert took.endswith(" s")
    second = process(*arguments, NUMBADENSE_CACHE_DIR=str(tmp_path / "kernels"))
    assert (second.stdout, second.stderr, second.returncode) == (first.stdout, "", 0)


@NEEDS_COMPILER
def test_a_cache_that_cannot_be_written_is_said(net, tmp_path):
    (tmp_path / "file").touch()
    place = str(tmp_path / "file" / "kernels")
    done = process("info", "net.safetensors", "--rows", "1", NUMBADENSE_CACHE_DIR=place)
    assert done.returncode == 0
    assert done.stderr.endswith(
        f" s, but not kept: {place} cannot be written; set NUMBADENSE_CACHE_DIR to a folder that can\n"
    )
