"""What the commands print for people: digits, tables, facts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from numbadense.demo import Demo

__all__ = ["draw", "duration", "shades", "show_demo", "show_facts"]

WIDTH = 16  # characters of a picture: two a pixel, which makes pixels square
GAP = 2
SHADES = " \u2591\u2592\u2593\u2588"
ASCII_SHADES = " .:*#"


def shades(encoding: str) -> str:
    """Return characters from light to dark that the encoding has."""
    try:
        SHADES.encode(encoding)
    except (UnicodeEncodeError, LookupError):
        return ASCII_SHADES
    return SHADES


def draw(image: NDArray[Any], shades: str) -> list[str]:
    """Return an image of 8x8 pixels from 0 to 16 as eight lines of text."""
    levels = image.reshape(8, 8).astype(int) * (len(shades) - 1) // 16
    return ["".join(2 * shades[level] for level in row) for row in levels]


def duration(seconds: float) -> str:
    """Return a time with three digits and its unit."""
    for unit, size in (("s", 1), ("ms", 1e-3), ("us", 1e-6)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds / 1e-9:.3g} ns"


def show_demo(demo: Demo, console: Console) -> None:
    """Print as many of the example digits as the console is wide for, and the ladder."""
    n, rows = len(demo.images), demo.rungs[-1].rows
    widths = "-".join(str(width) for width in (demo.network.n_in, *(layer.n_out for layer in demo.network.layers)))
    console.print(f"A {widths} sigmoid network reads {n} handwritten digits that it has never seen.\n")
    chosen = demo.examples(max(2, (console.width + GAP) // (WIDTH + GAP)))
    pictures = [draw(demo.images[i], shades(console.encoding)) for i in chosen]
    for line in zip(*pictures, strict=True):
        console.print(Text((" " * GAP).join(line).rstrip(), no_wrap=True, overflow="crop"))
    captions = Text(no_wrap=True, overflow="crop")
    for i in chosen:
        style = "green" if demo.predicted[i] == demo.labels[i] else "bold red"
        captions.append(f"reads {demo.predicted[i]}, is {demo.labels[i]}".center(WIDTH + GAP), style)
    captions.rstrip()
    console.print(captions)

    table = Table(box=box.SIMPLE, pad_edge=False)
    table.add_column(no_wrap=True, overflow="crop")
    for name in ("per image", "speed-up", "max difference", "accuracy"):
        table.add_column(name, justify="right", no_wrap=True, overflow="crop")
    for rung in demo.rungs:
        difference = "" if rung is demo.rungs[0] else f"{rung.max_abs_difference:.1e}"
        accuracy = f"{rung.accuracy:.2%}"
        table.add_row(rung.name, duration(rung.seconds_per_image), f"{rung.speedup:,.1f}", difference, accuracy)
    console.print(table)
    notes = (
        f"Everything is in {demo.network.dtype}, and differences are from the first rung.",
        f"The loop ran over the {n} images, the others over {rows // n} copies of them at once: {rows:,} rows.",
        "Times are medians; the rungs took turns. np.matmul has its BLAS's own threads.",
        *demo.notes,
    )
    console.print("\n".join(notes), markup=False)  # a note may name an extra, [cuda13]


def show_facts(facts: dict[str, dict[str, Any]], console: Console) -> None:
    """Print facts by topic."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(no_wrap=True, overflow="crop")
    table.add_column(overflow="fold")
    for topic, values in facts.items():
        table.add_row(Text(topic, "bold"), "")
        for name, value in values.items():
            label = name if name.isupper() else name.replace("_", " ")
            table.add_row(Text(f"  {label}"), Text(_word(value, "none" if topic != "optional" else "not installed")))
    console.print(table)


def _word(value: Any, missing: str) -> str:
    if value is None:
        return missing
    if isinstance(value, bool):
        return "yes" if value else "no"
    return " ".join(value) if isinstance(value, list) else str(value)
