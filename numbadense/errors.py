"""Every exception and warning of numbadense.

Each derives from :class:`NumbadenseError` and from the builtin that a NumPy user would catch.  A message is one
sentence: what is, what was expected, what to do.
"""

__all__ = [
    "ActivationError",
    "DTypeError",
    "DeviceError",
    "MissingDependencyError",
    "ModelFormatError",
    "NetworkIndexError",
    "NonFiniteWarning",
    "NumbadenseError",
    "OptionError",
    "OutputError",
    "ShapeError",
]


class NumbadenseError(Exception):
    """Base class of every error that numbadense raises."""


class ShapeError(NumbadenseError, ValueError):
    """Operands whose shapes do not fit each other."""


class DTypeError(NumbadenseError, TypeError):
    """An operand of a type that dense layers do not compute with."""


class OutputError(NumbadenseError, ValueError):
    """An ``out`` argument that cannot take the result."""


class ActivationError(NumbadenseError, ValueError):
    """An unknown activation, or one that cannot be registered."""


class OptionError(NumbadenseError, ValueError):
    """An option (``threads``, ``batch_size``, an environment variable) out of its range."""


class NetworkIndexError(NumbadenseError, IndexError):
    """A network that a population does not have."""


class ModelFormatError(NumbadenseError, ValueError):
    """A file that is not a network, or not a whole one."""


class DeviceError(NumbadenseError, RuntimeError):
    """CUDA was asked for and cannot be had, or failed."""


class MissingDependencyError(NumbadenseError, ImportError):
    """An optional library is needed and not installed."""


class NonFiniteWarning(UserWarning):
    """A layer's weights hold NaN or infinity."""
