"""Tensors of other libraries as arrays: recognised by what they look like, for none of those libraries is imported."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from numbadense._engine import validate
from numbadense.errors import ModelFormatError

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["array", "of_torch"]

WIDENED = ("torch.bfloat16",)  # what NumPy has no dtype for, and float32 holds exactly
TAKEN = ("torch.float16", "torch.float32", "torch.float64")


def array(value: Any, origin: str) -> NDArray[Any]:
    """Return a tensor of PyTorch, JAX, NumPy or what NumPy can read as an array of float16, float32 or float64.

    bfloat16 becomes float32, which holds it exactly; nothing is copied if it need not be.

    Raises
    ------
    ModelFormatError
        If it is no array of such numbers, or has no values; the message begins with `origin`.
    """
    try:
        if of_torch(value):
            return _torch_array(value, origin)
        found = validate.as_array(origin, value)
    except ModelFormatError:
        raise
    except Exception as error:  # whatever a foreign object raises
        raise ModelFormatError(f"{origin} cannot be read as an array: {error}") from None
    if validate.is_bfloat16(found.dtype):
        return found.astype(np.float32)
    if found.dtype.kind != "f" or found.dtype.itemsize > 8:
        raise ModelFormatError(
            f"{origin} is a {type(value).__name__} of dtype {found.dtype} but weights are float16, bfloat16, float32 "
            "or float64; convert it."
        )
    return found


def of_torch(value: Any) -> bool:
    """Say whether `value` is a tensor of PyTorch."""
    return any(base.__module__ == "torch" and base.__name__ == "Tensor" for base in type(value).__mro__)


def _torch_array(tensor: Any, origin: str) -> NDArray[Any]:
    if tensor.is_meta:
        raise ModelFormatError(f"{origin} is on the device 'meta', which keeps no values; load the weights first.")
    if str(tensor.layout) != "torch.strided":
        raise ModelFormatError(f"{origin} has the layout {tensor.layout}; pass tensor.to_dense().")
    dtype = str(tensor.dtype)
    if dtype not in TAKEN + WIDENED:
        raise ModelFormatError(
            f"{origin} has dtype {dtype} but weights are {', '.join(TAKEN + WIDENED)}; convert it, and load a "
            "quantised network as it was before."
        )
    tensor = tensor.detach().cpu()
    return np.asarray((tensor.float() if dtype in WIDENED else tensor).numpy())
