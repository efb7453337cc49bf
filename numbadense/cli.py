"""The command line: ``numbadense demo | predict | info | convert | verify | warm | doctor``.

What a command needs is imported when it runs, so that ``--help`` and ``--version`` answer at once.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import sys
import uuid
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from numbadense import __version__
from numbadense.errors import NumbadenseError

if TYPE_CHECKING:
    from rich.console import Console

    from numbadense.conversion import Comparison
    from numbadense.model import Sequential
    from numbadense.progress import CompilationNotice

__all__ = ["main"]

TABLES = (".npy", ".csv")
CHECKED_ROWS = 256  # random ones, that a converted network is compared over


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Parameters
    ----------
    argv : sequence of str, optional
        The arguments; those of the process by default.

    Returns
    -------
    int
        The exit status: 0, or 1 for an error, or 130 if interrupted.

    Raises
    ------
    SystemExit
        With status 2 for arguments that make no sense, and 0 for ``--help`` and ``--version``.
    """
    arguments = _parser().parse_args(argv)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *_: _complain("warning", message)
            arguments.command(arguments)
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever read our output has gone.  The interpreter's own flush at exit must not complain about that.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        return 130
    except MemoryError as error:
        _complain("error", f"not enough memory: {error}")
        return 1
    except OSError as error:
        _complain("error", f"{error.filename}: {error.strerror}" if error.filename and error.strerror else error)
        return 1
    except NumbadenseError as error:
        _complain("error", error)
        return 1
    return 0


def _complain(kind: str, message: object) -> None:
    print(f"numbadense: {kind}: {' '.join(str(message).split())}", file=sys.stderr)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="numbadense",
        description="Forward propagation through dense networks.",
        epilog="Exit status: 0, 1 for an error, 2 for arguments that make no sense, 130 if interrupted.",
    )
    parser.add_argument("--version", action="version", version=f"numbadense {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    demo = commands.add_parser("demo", help="read handwritten digits, from a loop over neurons to parallel kernels")
    demo.set_defaults(command=_demo)

    predict = commands.add_parser("predict", help="run a network over the rows of a file")
    predict.set_defaults(command=_predict)
    predict.add_argument("model", metavar="MODEL", type=Path, help="a network, of any format that can be read")
    predict.add_argument("input", metavar="INPUT", type=_table, help="a .npy or .csv file, an example in each row")
    predict.add_argument(
        "-o", "--out", metavar="OUT", type=_table, required=True, help="the .npy or .csv file to write"
    )
    predict.add_argument(
        "--skip-rows", metavar="N", type=_count, default=0, help="lines to skip at the top of a .csv, such as a header"
    )
    predict.add_argument(
        "--device", choices=("cpu", "cuda"), default="cpu", help="what to run it on (cpu); cuda needs an NVIDIA GPU"
    )

    info = commands.add_parser("info", help="describe a network")
    info.set_defaults(command=_info)
    info.add_argument("model", metavar="MODEL", type=Path, help="a network, of any format that can be read")
    info.add_argument("--rows", metavar="M", type=_count, help="say also how M rows at once would run here")

    convert = commands.add_parser("convert", help="write a network in another format, and check that it says the same")
    convert.set_defaults(command=_convert)
    convert.add_argument("source", metavar="SRC", type=Path, help="a network, of any format that can be read")
    convert.add_argument("target", metavar="DST", type=Path, help="the file to write; its suffix says how")
    convert.add_argument(
        "--dtype", choices=("float32", "float64", "float16", "bfloat16"), help="what to keep the weights in"
    )
    convert.add_argument(
        "--examples",
        metavar="X",
        type=_table,
        help="a .npy or .csv file of rows for the file to keep and to be tried with",
    )

    verify = commands.add_parser("verify", help="compare a network with the one that it was converted from")
    verify.set_defaults(command=_verify)
    verify.add_argument("model", metavar="MODEL", type=Path, help="a network")
    verify.add_argument(
        "--against",
        metavar="SRC",
        type=Path,
        required=True,
        help="the original, of any format that can be read (.onnx is run by ONNX Runtime where that is installed), "
        "or an .npz file with inputs x and what the original gives for them, y",
    )
    verify.add_argument("--input", metavar="X", type=_table, help="a .npy or .csv file of rows; random ones by default")
    verify.add_argument("--rows", metavar="M", type=_count, default=256, help="how many random rows (256)")
    verify.add_argument("--seed", metavar="N", type=_count, default=0, help="the seed of random rows (0)")

    for command in (convert, verify):
        command.add_argument(
            "--activations", metavar="NAME", nargs="+", help="one for each layer, for sources that hold weights alone"
        )

    warm = commands.add_parser("warm", help="compile every kernel ahead of its first use")
    warm.set_defaults(command=_warm)

    doctor = commands.add_parser("doctor", help="say what numbadense finds on this machine")
    doctor.set_defaults(command=_doctor)

    for command in (demo, info, convert, verify, warm, doctor):
        command.add_argument("--json", action="store_true", help="print JSON")
    return parser


def _table(text: str) -> Path:
    path = Path(text)
    if path.suffix not in TABLES:
        raise argparse.ArgumentTypeError(f"{text!r} ends in {path.suffix!r} but must be a {' or '.join(TABLES)} file")
    return path


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} must be a whole number, 0 or more")
    return int(text)


def _demo(arguments: argparse.Namespace) -> None:
    from numbadense import demo, report

    result = demo.run(while_compiling=_notice)
    if arguments.json:
        print(json.dumps(result.as_dict(), indent=2))
    else:
        report.show_demo(result, _console())


def _info(arguments: argparse.Namespace) -> None:
    from numbadense import io

    network = io.load(arguments.model)
    explanation = None
    if arguments.rows is not None:
        with _notice():
            explanation = network.explain(arguments.rows)
    if arguments.json:
        layers = [
            {"n_in": layer.n_in, "n_out": layer.n_out, "activation": layer.activation.name, "bias": layer.b is not None}
            for layer in network.layers
        ]
        parameters = sum(layer.parameters for layer in network.layers)
        facts = {
            "dtype": str(network.dtype),
            "storage": network.storage,
            "parameters": parameters,
            "layers": layers,
            "metadata": dict(network.metadata),
        }
        print(json.dumps(facts if explanation is None else facts | {"explanation": explanation}, indent=2))
        return
    print(network.summary())
    for name, value in network.metadata.items():
        print(f"{name}: {value}")
    if explanation is not None:
        print(f"\n{explanation}")


def _predict(arguments: argparse.Namespace) -> None:
    from numbadense import io, tables

    network = io.load(arguments.model)
    x = tables.read(arguments.input, network, arguments.skip_rows)
    runs = network if arguments.device == "cpu" else network.to(arguments.device)
    try:
        with _notice(arguments.device == "cpu"):
            runs.predict(x[: tables.batch_size(network)])  # compiles, and refuses what cannot be computed
    except NumbadenseError as error:
        raise NumbadenseError(f"{arguments.input}: {error}") from None
    tables.predict(runs, x, arguments.out, _console(stderr=True))


def _convert(arguments: argparse.Namespace) -> None:
    from numbadense import conversion, io, tables

    source = _loaded(arguments.source, arguments)
    network = source if arguments.dtype is None else source.astype(arguments.dtype)
    x = None if arguments.examples is None else tables.read(arguments.examples, network, 0)
    target: Path = arguments.target
    io.writer_of(target)
    part = target.with_name(f".{target.stem}.{uuid.uuid4().hex}{target.suffix}")
    try:
        with _notice():
            network.save(part, examples=x)
            rows = conversion.random_rows(network.n_in, CHECKED_ROWS, 0)
            side = conversion.of_network(str(arguments.source), source)
            result = conversion.compare(io.load(part), str(target), side, rows)
        _tell(arguments, result, f"{network!r} written to {target}")
        os.replace(part, target)
    finally:
        part.unlink(missing_ok=True)


def _verify(arguments: argparse.Namespace) -> None:
    from numbadense import conversion, io, tables

    network = io.load(arguments.model)
    other = conversion.of_file(arguments.against)
    if other is None:
        other = conversion.of_network(str(arguments.against), _loaded(arguments.against, arguments))
    if arguments.input is not None:
        x = tables.read(arguments.input, network, 0)
    else:
        x = (
            other.rows
            if other.rows is not None
            else conversion.random_rows(network.n_in, arguments.rows, arguments.seed)
        )
    with _notice():
        result = conversion.compare(network, str(arguments.model), other, x)
    if not result.finite:
        raise NumbadenseError(
            f"nothing was compared: {result.rows:,} rows through {result.this} and {result.other} give no finite "
            "result; give other rows with --input."
        )
    _tell(arguments, result, None)


def _loaded(path: Path, arguments: argparse.Namespace) -> Sequential:
    from numbadense import io

    if arguments.activations is None:
        return io.load(path)
    return io.load(path, activations=[None if name == "None" else name for name in arguments.activations])


def _tell(arguments: argparse.Namespace, result: Comparison, done: str | None) -> None:
    """Print a comparison, and fail if it is none of agreement."""
    row, column = result.where
    said = (
        f"{result.rows:,} rows through {result.this} and {result.other}: the largest difference is "
        f"{result.difference:.3g}, {result.share:.2g} of what rounding explains (output {column} of row {row})"
    )
    if arguments.json:
        print(json.dumps(dataclasses.asdict(result) | {"agree": result.agree}, indent=2))
    elif result.agree:
        print("\n".join(filter(None, (done, said))))
    if not result.agree:
        raise NumbadenseError(f"they do not agree: {said}.")


def _warm(arguments: argparse.Namespace) -> None:
    from numbadense._engine import compile as compiler
    from numbadense._engine import slopes

    with _notice() as notice:
        done = compiler.warm(
            lambda name, seconds, from_cache: notice.update(f"compiling kernels ({name} is done) ..."), slopes.jobs()
        )
    if arguments.json:
        names = ("name", "seconds", "from_cache")
        print(json.dumps([dict(zip(names, each, strict=True)) for each in done], indent=2))
        return
    for name, seconds, from_cache in done:
        print(f"{name:<28}{1e3 * seconds:>8,.0f} ms  {'from the cache' if from_cache else 'compiled'}")
    compiled = sum(not from_cache for _, _, from_cache in done)
    print(f"{len(done)} kernels, {compiled} of them compiled now, in {sum(seconds for _, seconds, _ in done):.1f} s")


def _doctor(arguments: argparse.Namespace) -> None:
    from numbadense import doctor, report

    with _notice():
        facts = doctor.examine()
    if arguments.json:
        print(json.dumps(facts, indent=2))
    else:
        report.show_facts(facts, _console())


def _notice(cached: bool = True) -> contextlib.AbstractContextManager[CompilationNotice]:
    from numbadense.progress import compilation_notice

    return compilation_notice(cached)


def _console(stderr: bool = False) -> Console:
    from rich.console import Console

    return Console(stderr=stderr, highlight=False)


if __name__ == "__main__":
    sys.exit(main())
