"""The package's own rules of construction, read off its source."""

import ast
from pathlib import Path

import pytest

import numbadense

ROOT = Path(numbadense.__file__).parent
MODULES = sorted(path.relative_to(ROOT) for path in ROOT.rglob("*.py"))
COMPILERS = {"njit", "jit", "generated_jit", "vectorize", "guvectorize", "cfunc", "CFunc", "stencil", "jitclass"}
MAY_COMPILE = {Path("_engine/compile.py"), Path("_engine/cuda/compile.py")}
OPTIONAL = {"cupy", "dask", "distributed", "h5py", "jax", "matplotlib", "onnx", "pandas", "polars", "scipy"}
OPTIONAL |= {"skl2onnx", "sklearn", "skops", "torch", "xarray"}


def compilers_used(source):
    """Return the names of numba's compilers that a module's source takes from numba, in any way."""
    tree = ast.parse(source)
    of_numba = set()
    used = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imported = [alias for alias in node.names if alias.name.split(".")[0] == "numba"]
            of_numba |= {alias.asname or "numba" for alias in imported}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "numba" and not node.level:
            used |= {alias.name for alias in node.names} & COMPILERS
            of_numba |= {alias.asname or alias.name for alias in node.names}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr in COMPILERS:
            owner = node.value
            while isinstance(owner, ast.Attribute):
                owner = owner.value
            if isinstance(owner, ast.Name) and owner.id in of_numba:
                used.add(node.attr)
    return used


def imported_at_once(source):
    """Return the top-level packages that importing a module with this source would import."""
    found = set()
    todo = list(ast.parse(source).body)
    while todo:
        node = todo.pop()
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found.add(node.module.split(".")[0])
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            todo += node.orelse
        elif not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            todo += [child for child in ast.iter_child_nodes(node) if isinstance(child, (ast.stmt, ast.ExceptHandler))]
    return found


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("import numba\nnumba.njit(f)", {"njit"}),
        ("import numba as nb\n@nb.njit(parallel=True)\ndef f(): pass", {"njit"}),
        ("from numba import njit as compiled", {"njit"}),
        ("from numba import cuda\ncuda.jit(f)", {"jit"}),
        ("def f():\n    import numba.cuda\n    return numba.cuda.jit(f)", {"jit"}),
        ("from numba.core.ccallback import CFunc", {"CFunc"}),
        ("from numba import prange, types\ndef make(jit):\n    @jit\n    def f(): pass", set()),
        ("import numbadense\nnumbadense.jit.sigmoid", set()),
    ],
)
def test_the_search_for_compilers_finds_each_way_to_one(source, expected):
    assert compilers_used(source) == expected


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("import a.b, c", {"a", "c"}),
        ("from .a import b\nfrom c.d import e", {"c"}),
        ("def f():\n    import a", set()),
        ("class C:\n    import a", {"a"}),
        ("try:\n    import a\nexcept ImportError:\n    import b", {"a", "b"}),
        ("if TYPE_CHECKING:\n    import a\nelse:\n    import b", {"b"}),
    ],
)
def test_the_search_for_imports_finds_those_that_run_at_import(source, expected):
    assert imported_at_once(source) == expected


@pytest.mark.parametrize("module", MODULES, ids=str)
def test_only_the_compile_modules_compile(module):
    if module not in MAY_COMPILE:
        assert compilers_used((ROOT / module).read_text(encoding="utf-8")) == set()


def test_the_compile_module_is_where_compilers_are_used():
    assert "njit" in compilers_used((ROOT / "_engine" / "compile.py").read_text(encoding="utf-8"))


@pytest.mark.parametrize("module", MODULES, ids=str)
def test_no_module_imports_an_optional_library_before_it_is_used(module):
    assert imported_at_once((ROOT / module).read_text(encoding="utf-8")) & OPTIONAL == set()


@pytest.mark.parametrize("module", MODULES, ids=str)
def test_a_module_is_ascii_and_of_one_concept(module):
    text = (ROOT / module).read_text(encoding="utf-8")
    assert text.isascii()
    if module != Path("activations.py"):  # a catalogue may be longer
        assert len(text.splitlines()) <= 450, "split it: a module holds one concept, in about 300 lines"
