"""What a stranger gets: names, documentation, imports and the README's first screen."""

import ast
import contextlib
import importlib.metadata
import importlib.util
import io
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest

import numbadense as nd
from numbadense.activations import REGISTRY

TREE = Path(__file__).parents[1]
REFERENCE = TREE / "docs" / "api"
README = TREE / "README.md"
CI = TREE / ".ci" / "run"
LAZY = ("cupy", "dask", "h5py", "matplotlib", "numba.cuda", "numba_cuda", "onnx", "pandas", "polars", "rich", "scipy")
LAZY += ("sklearn", "torch", "xarray")
BUILT_IN = [name for name, entry in REGISTRY.items() if entry.function.__module__ == "numbadense.activations"]


def in_a_new_process(code, **environment):
    """Run Python code with nothing imported yet and return what it prints."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def documented_names():
    """Return the names, below the package's, that the API reference gives a page or a section."""
    found = set()
    for path in REFERENCE.glob("*.rst"):
        module, inside = "numbadense", False
        for line in path.read_text(encoding="utf-8").splitlines():
            if directive := re.match(r"\.\. (currentmodule|automodule):: (\S+)", line):
                module = directive[2]
                found.add(module)
            elif line.startswith(".. autosummary::"):
                inside = True
            elif inside and (entry := re.match(r" +(\w+)$", line)):
                found.add(f"{module}.{entry[1]}")
            elif line and not line.startswith(" "):
                inside = False
    return {name.removeprefix("numbadense.") for name in found}


def test_version_is_that_of_the_metadata():
    assert nd.__version__ == importlib.metadata.version("numbadense")


def test_all_is_sorted_and_every_name_in_it_is_there():
    assert nd.__all__ == sorted(nd.__all__)
    assert dir(nd) == nd.__all__
    for name in nd.__all__:
        assert getattr(nd, name) is not None


def test_all_lists_every_activation_and_every_error():
    assert set(BUILT_IN) <= set(nd.__all__)
    assert set(nd.errors.__all__) <= set(nd.__all__)
    assert {"Dense", "Sequential", "dense", "load", "save", "activation"} <= set(nd.__all__)


def test_the_type_checker_is_told_every_public_name():
    tree = ast.parse(Path(nd.__file__).read_text(encoding="utf-8"))
    told = {"__version__"}
    for block in [node for node in tree.body if isinstance(node, ast.If)]:
        for node in block.body:
            told |= {alias.name for alias in getattr(node, "names", ())}
            told |= {node.target.id} if isinstance(node, ast.AnnAssign) else set()
    assert set(nd.__all__) <= told


def test_an_unknown_name_is_an_attribute_error_that_names_it():
    with pytest.raises(AttributeError, match="module 'numbadense' has no attribute 'dence'"):
        nd.dence  # noqa: B018 - the access is the test


@pytest.mark.parametrize("name", [name for name in nd.__all__ if name != "__version__"])
def test_every_public_name_has_a_docstring(name):
    assert (getattr(nd, name).__doc__ or "").strip()


@pytest.mark.skipif(not REFERENCE.is_dir(), reason="the documentation is not beside the tests")
@pytest.mark.parametrize("name", [name for name in nd.__all__ if name not in ("__version__", "errors", "io")])
def test_every_public_name_is_in_the_reference(name):
    assert name in documented_names()


@pytest.mark.skipif(not REFERENCE.is_dir(), reason="the documentation is not beside the tests")
@pytest.mark.parametrize("module", ["activations", "cuda", "jit", "scalar_math", "testing"])
def test_every_name_of_a_public_module_is_in_the_reference(module):
    public = getattr(nd, module)
    names = [name for name in public.__all__ if not name.isupper()]
    own = [name for name in names if name not in nd.__all__ or getattr(public, name) is not getattr(nd, name)]
    assert {f"{module}.{name}" for name in own} <= documented_names()


def test_importing_the_package_imports_nothing_that_is_optional_and_no_numba():
    code = "import sys, numbadense; print(*sorted(sys.modules))"
    loaded = set(in_a_new_process(code).split())
    assert loaded.isdisjoint({*LAZY, "numba", "numpy"})


def test_calling_a_layer_imports_nothing_that_is_optional():
    code = "import sys, numbadense as nd; nd.dense([[1.0]], [[2.0]], None, 'relu'); print(*sorted(sys.modules))"
    loaded = set(in_a_new_process(code).split())
    assert "numbadense.functional" in loaded
    # numba itself looks for SciPy's BLAS when it is installed.
    assert loaded.isdisjoint(set(LAZY) - {"scipy", "numba_cuda", "numba.cuda"})


def test_the_console_script_is_installed():
    [script] = importlib.metadata.distribution("numbadense").entry_points.select(group="console_scripts")
    assert (script.name, script.value) == ("numbadense", "numbadense.cli:main")
    assert callable(script.load())


@pytest.mark.parametrize("extra", ["cuda12", "cuda13", "dask", "plot"])
def test_an_extra_is_offered(extra):
    assert extra in importlib.metadata.metadata("numbadense").get_all("Provides-Extra")


@pytest.mark.skipif("NUMBADENSE_MINIMAL" not in os.environ, reason="optional libraries may be installed here")
@pytest.mark.parametrize("library", ["matplotlib", "mpmath", "numba_cuda", "scipy", "sklearn", "torch"])
def test_the_minimal_environment_has_no_optional_library(library):
    assert importlib.util.find_spec(library) is None


def test_types_and_data_are_in_the_package():
    root = Path(nd.__file__).parent
    assert (root / "py.typed").is_file()
    assert {path.name for path in (root / "data").iterdir()} >= {"digits.safetensors", "digits_heldout.safetensors"}


@pytest.mark.skipif(not README.is_file(), reason="the README is not beside the tests")
def test_the_first_snippet_of_the_readme_gives_the_lessons_answer():
    snippet = re.search(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)[1]
    names = {}
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(snippet, names)
    assert np.array_equal(names["A"] >= 0.5, [[True, False, True]])
    assert printed.getvalue() == "[[1 0 1]]\n"


@pytest.mark.skipif(not README.is_file(), reason="the README is not beside the tests")
def test_the_readme_shows_both_commands_on_its_first_screen():
    screen = README.read_text(encoding="utf-8").splitlines()[:40]
    assert "python -m pip install . && numbadense demo" in screen
    assert "python -m pip install tox && tox run-parallel -p auto" in screen


@pytest.mark.skipif(not CI.is_file(), reason="the repository is not around the tests")
def test_ci_runs_the_command_of_the_readme():
    assert "\npython -m pip install tox && tox run-parallel -p auto\n" in CI.read_text(encoding="utf-8")


@pytest.mark.skipif(not README.is_file(), reason="the source tree is not beside the tests")
def test_pyproject_has_the_version_of_the_package():
    project = tomllib.loads((TREE / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["version"] == nd.__version__
