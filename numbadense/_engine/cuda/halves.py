"""Arrays of 16-bit floats on a device: kernels see their bits, as uint16, and a dtype beside them says what they mean.

NumPy has no bfloat16.  Here its dtype is what NumPy calls 16 bits that it does not know, ``V2``, by which PyTorch, CuPy
and ml_dtypes name it in their interfaces.  Whatever stands for float16 or bfloat16 outside becomes one of two objects
where it comes in, `FLOAT16` and `BFLOAT16`; nothing else of the engine asks what an array is called elsewhere.
"""

import sys

import numpy as np

from numbadense._engine import validate

FLOAT16, BFLOAT16, BITS = np.dtype(np.float16), np.dtype("V2"), np.dtype(np.uint16)
OF_PRECISION = {"bf16": BFLOAT16, "fp16": FLOAT16}


def known(dtype: np.dtype) -> np.dtype:
    """Return the dtype of an array on the device: `BFLOAT16` for whatever is one, `FLOAT16` itself."""
    if dtype.kind == "V" and dtype.itemsize == BITS.itemsize and dtype.fields is None:
        return BFLOAT16
    return FLOAT16 if dtype == FLOAT16 else dtype


def precision(dtype: np.dtype) -> str | None:
    """Return the precision of tensor cores that has the numbers of a dtype, one that is `known`; None for others."""
    return "bf16" if dtype is BFLOAT16 else "fp16" if dtype is FLOAT16 else None


def in_memory(dtype: np.dtype) -> np.dtype:
    """Return the dtype that kernels see."""
    return BITS if precision(dtype) else dtype


def checked_as(dtype: np.dtype) -> np.dtype:
    """Return the dtype by which `validate` checks an array: half precision is all one there."""
    return FLOAT16 if precision(dtype) else dtype


def name(dtype: np.dtype) -> str:
    """Return the name of a dtype for a sentence."""
    return "bfloat16" if dtype == BFLOAT16 or validate.is_bfloat16(dtype) else str(dtype)


def interface(value) -> tuple[dict | None, object]:
    """Return the ``__cuda_array_interface__`` of an array, or None if it has none, and the owner of that memory.

    Some versions of PyTorch and JAX have no word for bfloat16 in it: then it is that of the bits.
    """
    try:
        return getattr(value, "__cuda_array_interface__", None), value
    except Exception:
        if not str(getattr(value, "dtype", "")).endswith("bfloat16") or getattr(value, "requires_grad", False):
            raise
    torch = sys.modules.get("torch")
    bits = value.view(torch.int16 if torch and isinstance(value, torch.Tensor) else "int16")
    return bits.__cuda_array_interface__ | {"typestr": "<V2"}, bits
