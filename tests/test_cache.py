import shutil
from pathlib import Path

import numpy as np
import pytest
import scripts
from numba import config

import numbadense as nd
from numbadense._engine import cache
from numbadense._engine import compile as compiler

compiled = pytest.mark.skipif(config.DISABLE_JIT, reason="nothing is compiled, so nothing is cached")

USE = """
    import numpy as np, sys
    import numbadense as nd
    from numbadense._engine import cache
    w = np.arange(12, dtype=np.float32).reshape(3, 4)
    y = nd.Dense(w, None, "relu")(np.ones((2, 3), np.float32))
    assert (y == w.sum(axis=0)).all()
    print(cache.info()["files"], cache.stamp().hex())
"""


def kernels(folder):
    return {file.name: file.read_bytes() for file in Path(folder).glob("*.kernel")}


@pytest.fixture(scope="module")
def once(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kernels")
    scripts.run(USE, NUMBADENSE_CACHE_DIR=folder)
    assert (
        len(kernels(folder)) == 5
    )  # of networks over many rows and one, of a layer, the pass, the short way from Python
    return folder


@pytest.fixture
def warm(once, tmp_path):
    return shutil.copytree(once, tmp_path / "kernels")


@compiled
def test_a_second_process_compiles_nothing(warm):
    before = kernels(warm)
    code = """
        from numba.core import compiler
        def compile_extra(*arguments, **options):
            raise SystemExit("something is compiled: " + str(arguments[2]))
        compiler.compile_extra = compile_extra
    """
    scripts.run(scripts.textwrap.dedent(code) + scripts.textwrap.dedent(USE), NUMBADENSE_CACHE_DIR=warm)
    assert kernels(warm) == before


@compiled
@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[: len(content) // 2],
        lambda content: content[:200] + bytes([content[200] ^ 1]) + content[201:],
        lambda content: b"",
    ],
)
def test_damaged_files_are_misses_and_are_written_again(warm, damage):
    before = kernels(warm)
    for name, content in before.items():
        (warm / name).write_bytes(damage(content))
    scripts.run(USE, NUMBADENSE_CACHE_DIR=warm)
    assert kernels(warm).keys() == before.keys()
    for name, content in kernels(warm).items():
        checksum, payload = content[len(cache.MAGIC) :][: cache.DIGEST], content[len(cache.MAGIC) + cache.DIGEST :]
        assert cache.hashlib.blake2b(payload, digest_size=cache.DIGEST).digest() == checksum, name


@compiled
def test_a_folder_in_a_files_place_is_a_miss(warm):
    for name in kernels(warm):
        (warm / name).unlink()
        (warm / name).mkdir()
    scripts.run(USE, NUMBADENSE_CACHE_DIR=warm)


@compiled
def test_a_cache_that_cannot_be_written_does_not_matter(tmp_path):
    (tmp_path / "file").write_text("in the way")
    scripts.run(USE, NUMBADENSE_CACHE_DIR=tmp_path / "file" / "cache")
    assert [file.name for file in tmp_path.iterdir()] == ["file"]


@compiled
def test_nothing_half_written_stays(warm):
    assert {file.suffix for file in warm.iterdir()} == {".kernel"}


@compiled
def test_an_edit_in_any_file_is_noticed(tmp_path):
    package = tmp_path / "numbadense"
    shutil.copytree(Path(nd.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__"))
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n" + scripts.textwrap.dedent(USE)
    folder = tmp_path / "cache"
    first = scripts.run(code, NUMBADENSE_CACHE_DIR=folder).stdout.split()
    again = scripts.run(code, NUMBADENSE_CACHE_DIR=folder).stdout.split()
    assert first == again and first[0] == "5"
    edited = package / "_engine" / "cpu" / "vmath.py"
    edited.write_text(edited.read_text() + "\n# an edit\n")
    after = scripts.run(code, NUMBADENSE_CACHE_DIR=folder).stdout.split()
    assert after[0] == "10" and after[1] != first[1]


@compiled
def test_bounds_checking_has_kernels_of_its_own(tmp_path):
    stamps = {scripts.run(USE, NUMBADENSE_CACHE_DIR=tmp_path, NUMBA_BOUNDSCHECK=flag).stdout for flag in (0, 1)}
    assert len(stamps) == 2


def test_where_the_cache_is(monkeypatch, tmp_path):
    monkeypatch.setenv("NUMBADENSE_CACHE_DIR", str(tmp_path / "own"))
    assert cache.folder() == tmp_path / "own"
    monkeypatch.delenv("NUMBADENSE_CACHE_DIR")
    monkeypatch.setattr(config, "CACHE_DIR", str(tmp_path / "numba"))
    assert cache.folder() == tmp_path / "numba" / "numbadense"
    monkeypatch.setattr(config, "CACHE_DIR", "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setattr("sys.platform", "linux")
    assert cache.folder() == tmp_path / "xdg" / "numbadense"


def test_a_changed_constant_is_another_activation():
    results = []
    for constant in (2.0, 3.0):

        @nd.activation(name="scaled_for_the_cache")
        def scaled(x):
            return x * type(x)(constant)

        results.append(nd.scaled_for_the_cache(np.ones(3)).tolist())
    assert results == [[2.0] * 3, [3.0] * 3]


def test_the_fingerprint_knows_what_it_cannot_know():
    def outer(x):
        return x

    from numbadense.scalar_math import exp

    def simple(x):
        return exp(x)

    def calls_another(x):
        return outer(x)

    def nested(x):
        return (lambda y: y)(x)

    assert compiler.fingerprint(simple) is not None
    assert compiler.fingerprint(calls_another) is None
    assert compiler.fingerprint(nested) is None


def test_info_says_what_there_is(tmp_path, monkeypatch):
    monkeypatch.setenv("NUMBADENSE_CACHE_DIR", str(tmp_path / "new"))
    assert cache.info() == {"path": str(tmp_path / "new"), "writable": True, "files": 0, "bytes": 0}
    (tmp_path / "new" / "one.kernel").write_bytes(b"12345")
    assert cache.info() == {"path": str(tmp_path / "new"), "writable": True, "files": 1, "bytes": 5}
    monkeypatch.setenv("NUMBADENSE_CACHE_DIR", str(tmp_path / "new" / "one.kernel" / "below"))
    assert not cache.info()["writable"]


def test_the_fingerprint_sees_closures_modules_and_constants():
    import math

    def make(slope):
        def leaky(x):
            return x * type(x)(slope) if x < type(x)(0) else type(x)(math.pi)

        return leaky

    assert compiler.fingerprint(make(0.1)) == compiler.fingerprint(make(0.1)) != compiler.fingerprint(make(0.2))
    assert compiler.fingerprint(make(np.zeros(3))) is None


@compiled
def test_kernels_cached_by_different_processes_do_not_meet_under_one_name(tmp_path):
    # numba counts compilations in each process and puts the count into the name of the machine code.  Kernels cached
    # in this order once ran one another's tiles: wrong numbers, and writes outside of arrays.
    use = """
        import sys
        import numpy as np
        import numbadense as nd
        rng = np.random.default_rng(0)
        for what in sys.argv[1:]:
            way, dtype = what.split(":")
            for m in (1, 3, 9, 20):
                for n in (16, 17, 64, 257):
                    x, w = rng.standard_normal((m, 19)).astype(dtype), rng.standard_normal((19, n)).astype(dtype)
                    y = nd.dense(x, w) if way == "dense" else nd.Dense(w)(x)
                    assert np.allclose(y, x @ w, rtol=0, atol=1e-4), (what, m, n)
    """
    for each in ("dense:f8 dense:f4", "net:f4", "net:f8", "net:f4 net:f8 dense:f4 dense:f8", "dense:f8 net:f8"):
        scripts.run(use, *each.split(), NUMBADENSE_CACHE_DIR=tmp_path)
