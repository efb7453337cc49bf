"""What libraries of arrays and frames ask of a network: names for columns; a name, a token and a size for Dask."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from numbadense.once import once

if TYPE_CHECKING:
    from numbadense.layer import Dense

__all__ = ["OverArrays"]


class OverArrays:
    """What makes of a network, its layers and metadata, something that other libraries know how to handle."""

    layers: tuple[Dense, ...]
    metadata: Mapping[str, str]
    __name__ = "Sequential"  # by which Dask names the tasks of what it takes for a function

    @once
    def feature_names(self) -> tuple[str, ...] | None:
        """``metadata["feature_names"]``, a JSON list of text, or None: what the columns of a frame have to be."""
        from numbadense._engine import validate

        return validate.feature_names(self.metadata, self.layers[0].n_in)

    @once
    def _digest(self) -> str:
        from numbadense._engine import lazy

        return lazy.digest([(layer._kept, layer.b, layer.activation) for layer in self.layers], self.feature_names)

    def __dask_tokenize__(self) -> tuple[Any, ...]:
        return "numbadense.Sequential", self._digest

    def __sizeof__(self) -> int:
        return object.__sizeof__(self) + sum(layer.nbytes for layer in self.layers)  # by which Dask plans
