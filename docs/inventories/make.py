"""Write the inventories beside this file: the few names of other projects that these docs link to.

They are vendored so that a build needs no network.  To link to another name, add it here and run this script, which
needs sphobjinv.
"""

from pathlib import Path

import sphobjinv

PYTHON = {
    "py:module": {"ctypes": "library/ctypes.html#module-$", "math": "library/math.html#module-$"},
    "py:function": {"math.exp": "library/math.html#$"},
    "py:exception": {
        name: "library/exceptions.html#$"
        for name in ("Exception", "ImportError", "OSError", "RuntimeError", "TypeError", "UserWarning", "ValueError")
    },
}
NUMPY = {
    "py:function": {
        name: "reference/generated/$.html#$"
        for name in (
            "numpy.allclose",
            "numpy.array",
            "numpy.array_equal",
            "numpy.column_stack",
            "numpy.concatenate",
            "numpy.exp",
            "numpy.linspace",
            "numpy.load",
            "numpy.matmul",
            "numpy.meshgrid",
            "numpy.zeros",
        )
    }
    | {"numpy.random.default_rng": "reference/random/generator.html#$"},
    "py:class": {"numpy.ndarray": "reference/generated/$.html#$"},
}
NUMBA = {
    "std:envvar": {
        name: "reference/envvars.html#envvar-$"
        for name in ("NUMBA_CACHE_DIR", "NUMBA_DISABLE_JIT", "NUMBA_NUM_THREADS", "NUMBA_THREADING_LAYER")
    },
}
SCIPY = {
    "py:function": {name: "reference/generated/$.html#$" for name in ("scipy.integrate.nquad", "scipy.integrate.quad")},
}


def main() -> None:
    """Write an inventory for each project."""
    for project, kinds in {"python": PYTHON, "numpy": NUMPY, "numba": NUMBA, "scipy": SCIPY}.items():
        inventory = sphobjinv.Inventory()
        inventory.project, inventory.version = project, ""
        for kind, names in kinds.items():
            domain, role = kind.split(":")
            for name, uri in names.items():
                inventory.objects.append(
                    sphobjinv.DataObjStr(
                        name=name, domain=domain, role=role, priority="1", uri=uri.replace("$", name), dispname="-"
                    )
                )
        text = inventory.data_file(contract=True)
        sphobjinv.writebytes(Path(__file__).with_name(f"{project}.inv"), sphobjinv.compress(text))


if __name__ == "__main__":
    main()
