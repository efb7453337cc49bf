"""The node cases of ONNX for every operator that is read: which pass, which are refused and why, and which differ.

What differs is infinity in a case that has no dense layer: the one that is made passes it on as NaN, 0 times infinity.

``python tests/onnx_conformance.py`` writes ``docs/formats/onnx_conformance.json``; a test holds it to be true.
"""

import importlib
import json
import warnings
from pathlib import Path

import numpy as np

from numbadense.io.onnx import backend
from numbadense.io.onnx.operators import OPERATORS

RESULTS = Path(__file__).parent.parent / "docs" / "formats" / "onnx_conformance.json"
CLAIMED = sorted(name for domain, name in OPERATORS if not domain)
MODULES = {"BatchNormalization": "batch_normalization"}


def cases():
    """Return the cases of the claimed operators, by operator."""
    from onnx.backend.test.case import node

    found = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in CLAIMED:
            importlib.import_module(f"{node.__name__}.{MODULES.get(name, name.lower())}")
    for case in node._NodeTestCases:
        whole = case.name.partition("_expanded")[0]
        operator = node._existing_names[whole].op_type
        if operator in CLAIMED:
            found.setdefault(operator, []).append(case)
    return found


def outcome(case):
    """Return "passed", "differs", or why a case is refused; raise AssertionError if it fails."""
    from onnx import TensorProto, numpy_helper
    from onnx.backend.test import BackendTest
    from onnx.backend.test.runner import BackendIsNotSupposedToImplementIt

    def array(value):
        return numpy_helper.to_array(value) if isinstance(value, TensorProto) else np.asarray(value)

    try:
        prepared = backend.prepare(case.model)
        for inputs, outputs in case.data_sets:
            given, expected = [array(each) for each in inputs], [array(each) for each in outputs]
            found = prepared.run(given)
            if np.isinf(given[0].astype(np.float64)).any() and np.isnan(found[0].astype(np.float64)).any():
                return "differs"
            BackendTest.assert_similar_outputs(expected, found, case.rtol, case.atol)
    except BackendIsNotSupposedToImplementIt as refusal:
        return str(refusal).partition(";")[0]
    return "passed"


def results():
    """Return the outcomes as they are kept."""
    import onnx

    operators = {}
    for operator, found in sorted(cases().items()):
        outcomes = {case.name: outcome(case) for case in found}
        operators[operator] = {
            "passed": sorted(name for name, what in outcomes.items() if what == "passed"),
            "differs": sorted(name for name, what in outcomes.items() if what == "differs"),
            "refused": {name: what for name, what in sorted(outcomes.items()) if " " in what},
        }
    return {"onnx": onnx.__version__, "operators": operators}


if __name__ == "__main__":
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(results(), indent=1) + "\n")
