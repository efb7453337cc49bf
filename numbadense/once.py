"""A property that is computed once, even if many threads ask for it at the same time."""

import functools
import threading
from typing import TYPE_CHECKING

__all__ = ["once"]

_lock = threading.RLock()
_ABSENT = object()

if TYPE_CHECKING:
    once = functools.cached_property
else:

    class once(functools.cached_property):  # a decorator, like the one it stands in for
        """A `functools.cached_property` with a lock, which that has not since Python 3.12.

        What a network builds is reached by its address: of two that are built, the one that is dropped must not be in
        use.
        """

        def __get__(self, instance, owner=None):
            """Return the value, from the instance's own dictionary if it is there."""
            if instance is None:
                return self
            with _lock:
                found = instance.__dict__.get(self.attrname, _ABSENT)
                if found is _ABSENT:
                    found = instance.__dict__[self.attrname] = self.func(instance)
            return found
