"""What was worked out once and is worth keeping, as long as it is not too much."""

from collections.abc import Callable
from typing import Any

MOST = 256


def recall(kept: dict, key: tuple, make: Callable[..., Any]) -> Any:
    """Return what is kept under a key, or what ``make(*key)`` gives, which is kept then."""
    found = kept.get(key)
    if found is None:
        if len(kept) >= MOST:
            kept.clear()
        found = kept[key] = make(*key)
    return found
