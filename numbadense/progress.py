"""What the command line says on stderr while kernels compile; one that comes from the cache is loaded silently."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from numba.core import event
from rich.console import Console

if TYPE_CHECKING:
    from rich.status import Status

__all__ = ["CompilationNotice", "compilation_notice"]

COMPILING = {
    True: "compiling kernels (first use; cached afterwards) ...",
    False: "compiling kernels (in every process; not cached) ...",
}


class CompilationNotice(event.Listener):  # type: ignore[misc]
    """Hears numba's compiler, and says so once: a line, or on a terminal a spinner.

    Parameters
    ----------
    console : rich.console.Console
        Where to say it.
    cached : bool
        Whether what is compiled is kept for the next process.
    """

    def __init__(self, console: Console, cached: bool) -> None:
        self._console = console
        self._cached = cached
        self._status: Status | None = None
        self.began: float | None = None

    def on_start(self, event: Any) -> None:
        """Say that a kernel compiles, if it is the first."""
        if self.began is not None:
            return
        self.began = time.perf_counter()
        if self._console.is_terminal:
            self._status = self._console.status(COMPILING[self._cached], spinner="line")
            self._status.start()
        else:
            self._console.print(COMPILING[self._cached], soft_wrap=True)

    def on_end(self, event: Any) -> None:
        """Do nothing: another compiler pass may follow."""

    def update(self, message: str) -> None:
        """Change the words beside the spinner, if there is one."""
        if self._status is not None:
            self._status.update(message)

    def close(self) -> None:
        """Say how long it took, if a kernel was compiled, and whether it was kept."""
        from numbadense._engine import cache

        if self._status is not None:
            self._status.stop()
        if self.began is None:
            return
        message = f"compiled in {time.perf_counter() - self.began:.1f} s"
        facts = cache.info()
        if self._cached and not facts["writable"]:
            message += (
                f", but not kept: {facts['path']} cannot be written; set NUMBADENSE_CACHE_DIR to a folder that can"
            )
        self._console.print(message, soft_wrap=True)


@contextlib.contextmanager
def compilation_notice(cached: bool = True) -> Iterator[CompilationNotice]:
    """Say on stderr that kernels compile, if any do before the context ends."""
    notice = CompilationNotice(Console(stderr=True, highlight=False), cached)
    event.register("numba:run_pass", notice)
    try:
        yield notice
    finally:
        event.unregister("numba:run_pass", notice)
        notice.close()
