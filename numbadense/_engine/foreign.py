"""Arrays and frames of other libraries: read where they lie, and results given back in their kind.

Nothing here imports a library: what an object is, its type says.  Whatever exports its memory through DLPack (PyTorch,
JAX, any array API library) is read with no copy, and the library's own ``from_dlpack`` takes the result.  Frames of
pandas and polars are matrices whose columns have names.
"""

import functools
import sys

import numpy as np

from numbadense.errors import DTypeError, OutputError, ShapeError

DLPACK, PANDAS, POLARS, DASK_ARRAY, DASK, POLARS_LAZY, OTHER = range(7)
FRAMES = {
    ("pandas", "DataFrame"): PANDAS,
    ("polars", "DataFrame"): POLARS,
    ("polars", "LazyFrame"): POLARS_LAZY,
    ("dask", "Array"): DASK_ARRAY,
}
NAMED = 5  # names that a sentence lists
REMEDIES = {  # of what would be loaded whole, by its library
    "dask": "a network is called on a Dask array itself, net({0}), and stays lazy; a Dask DataFrame has map_partitions",
    "xarray": "xarray.apply_ufunc(net, {0}, ..., dask='allowed') stays lazy",
}


@functools.lru_cache(maxsize=256)
def family(kind: type) -> int:
    """Return what the objects of a type are to us."""
    for base in kind.__mro__:
        found = FRAMES.get((base.__module__.partition(".")[0], base.__name__))
        if found is not None:
            return found
    if hasattr(kind, "__dask_graph__"):
        return DASK
    return DLPACK if hasattr(kind, "__dlpack__") and not issubclass(kind, np.ndarray) else OTHER


def is_dask_array(value) -> bool:
    """Say whether `value` is a Dask array."""
    return type(value) is not np.ndarray and family(type(value)) == DASK_ARRAY


def shares(value) -> bool:
    """Say whether `value` is an array of another library that lends its memory."""
    return type(value) is not np.ndarray and family(type(value)) == DLPACK


def array(name: str, value, owner=None) -> np.ndarray | None:
    """Return `value` as an array, or None if it is of no library that is treated here.

    The columns of a frame have to be the `feature_names` of `owner`, where it has any.
    """
    kind = family(type(value))
    if kind == DLPACK:
        return _shared(name, value)
    if kind == PANDAS:
        return _pandas(name, value, owner)
    if kind == POLARS:
        return _polars(name, value, owner)
    if kind == POLARS_LAZY:
        raise DTypeError(f"{name} is a polars LazyFrame, which holds no numbers yet; pass {name}.collect().")
    if kind in (DASK_ARRAY, DASK) and value.__dask_graph__() is not None:  # an xarray object may have none
        remedy = REMEDIES.get(type(value).__module__.partition(".")[0], "computing it first is up to you").format(name)
        raise DTypeError(
            f"{name} is a lazy {type(value).__name__}, which would be loaded whole: {remedy}; or pass {name}.compute()."
        )
    return None


def like(given, result: np.ndarray):
    """Return `result` as an array of the library that `given` comes from, sharing the memory; or as it is."""
    if type(given) is np.ndarray or family(type(given)) != DLPACK:
        return result
    if hasattr(given, "__array_namespace__"):
        return given.__array_namespace__().from_dlpack(result)
    for base in type(given).__mro__:
        library = sys.modules.get(base.__module__.partition(".")[0])
        if hasattr(library, "from_dlpack"):
            return library.from_dlpack(result)
    return result


def target(out) -> np.ndarray | None:
    """Return `out` as an array of the memory to write to, or None if it is of no library that lends any."""
    if isinstance(out, np.ndarray):
        return out
    if family(type(out)) != DLPACK:
        return None
    try:
        found = _shared("out", out)
    except DTypeError as error:
        raise OutputError(str(error)) from None
    if found.flags.writeable:
        return found
    again = np.asarray(out)  # NumPy < 2.1 makes everything read-only that comes through DLPack
    return again if np.may_share_memory(again, found) else found


def _shared(name: str, value) -> np.ndarray:
    try:
        return np.from_dlpack(value)
    except Exception as error:  # each library has its own
        kind = f"{type(value).__module__.partition('.')[0]} {type(value).__name__}"
        if getattr(value, "requires_grad", False):
            raise DTypeError(
                f"{name} is a {kind} that requires a gradient, which would end here; pass {name}.detach()."
            ) from None
        if hasattr(value, "__cuda_array_interface__") or _elsewhere(value):
            raise on_a_device(name) from None
        try:
            return np.asarray(value)  # such as bfloat16 of JAX, which DLPack has and NumPy's reader has not
        except Exception:
            reason = str(error).partition("\n")[0].rstrip(".")
            raise DTypeError(
                f"{name} is a {kind} of {getattr(value, 'dtype', 'unknown dtype')} that NumPy cannot read ({reason}); "
                "pass it as a dense array of float32 or float64 in the memory of the CPU."
            ) from error


def _elsewhere(value) -> bool:
    """Say whether an array is on a CUDA or ROCm device."""
    try:
        return int(value.__dlpack_device__()[0]) in (2, 10)
    except Exception:
        return False


def on_a_device(name: str) -> DTypeError:
    """Return the error for an array that is not in the memory of the CPU."""
    return DTypeError(
        f"{name} is on a CUDA device; call net.to('cuda') or the function of the same name in numbadense.cuda."
    )


def _pandas(name: str, frame, owner) -> np.ndarray:
    check_columns(name, list(frame.columns), owner)
    by_column = list(frame.dtypes)
    numbers = {dtype: _number_dtype(dtype) for dtype in set(by_column)}
    _refuse(name, frame.columns, by_column, {dtype for dtype, found in numbers.items() if found is None})
    nullable = [not isinstance(dtype, np.dtype) for dtype in by_column]
    if any(nullable):
        missing = frame.loc[:, nullable].isna().any()
        _refuse_missing(name, list(missing.index[missing]), "dropna()", "fillna(0)")
    # Left to itself, pandas makes objects of numbers beside booleans, or of nullable ones.
    return frame.to_numpy(dtype=np.result_type(*(numbers.values() or [np.float64])))


def _number_dtype(dtype) -> np.dtype | None:
    """Return the NumPy dtype of a column's real numbers, or None if it holds something else."""
    found = dtype
    for attribute in ("numpy_dtype", "subtype"):  # of nullable and Arrow columns; of sparse ones
        found = getattr(found, attribute, found)
    return found if isinstance(found, np.dtype) and found.kind in "fiub" else None


def _polars(name: str, frame, owner) -> np.ndarray:
    check_columns(name, frame.columns, owner)
    by_column = frame.dtypes
    bad = {d for d in set(by_column) if not (d.is_float() or d.is_integer() or str(d) == "Boolean")}
    _refuse(name, frame.columns, by_column, bad)
    if frame.width:
        counts = frame.null_count().row(0)
        missing = [column for column, count in zip(frame.columns, counts, strict=True) if count]
        _refuse_missing(name, missing, "drop_nulls()", "fill_null(0)")
    return frame.to_numpy()


def _refuse(name: str, columns, by_column, bad) -> None:
    if bad:
        found = [f"{column!r} ({dtype})" for column, dtype in zip(columns, by_column, strict=True) if dtype in bad]
        raise DTypeError(
            f"{name} has columns that are not real numbers, {listed(found)}; drop them or encode them first."
        )


def _refuse_missing(name: str, missing, drop: str, fill: str) -> None:
    if missing:
        raise DTypeError(
            f"{name} has missing values in the columns {listed(map(repr, missing))}; "
            f"drop or fill them first, with {name}.{drop} or {name}.{fill}."
        )


def check_columns(name: str, columns: list, owner) -> None:
    """Raise an error unless columns that have names are the features of `owner`, in order."""
    if not any(isinstance(column, str) for column in columns):  # a frame whose columns are numbered
        return
    expected = getattr(owner, "feature_names", None)
    if expected is None or columns == list(expected):
        return
    given, known = set(columns), set(expected)
    missing = [repr(column) for column in expected if column not in given]
    surplus = [repr(column) for column in columns if column not in known]
    if missing or surplus:
        found = [f"lacks the columns {listed(missing)}"] if missing else []
        found += [f"has the columns {listed(surplus)} besides"] if surplus else []
        raise ShapeError(
            f"{name} {' and '.join(found)}, but the network takes {listed(map(repr, expected))}; "
            f"{'add what is missing' if missing else f'pass {name}[list(net.feature_names)]'}."
        )
    if len(columns) != len(expected):
        twice = [repr(column) for column in expected if columns.count(column) > 1]
        raise ShapeError(f"{name} has the columns {listed(twice)} more than once; drop all but one.")
    at = next(i for i, (a, b) in enumerate(zip(columns, expected, strict=True)) if a != b)
    raise ShapeError(
        f"{name} has the features of the network in another order: column {at} is {columns[at]!r} "
        f"but feature {at} is {expected[at]!r}; pass {name}[list(net.feature_names)]."
    )


def listed(names) -> str:
    """Return some names as text: the first few, and how many more there are."""
    names = list(names)
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more
