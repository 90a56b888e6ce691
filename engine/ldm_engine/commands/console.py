"""What a person sees in the terminal: progress bars, tables, warnings and errors. No logic."""

from __future__ import annotations

import io
import os
import shlex
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO, TypeVar

import click
from rich.console import Console, JustifyMethod
from rich.markup import escape
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from ..bundle.bundle import Bundle
from ..bundle.contract import OPTIONAL_PROGRAMS
from ..checks.verification import Finding
from ..errors import (
    ArgumentTypeError,
    InvalidArgumentError,
    LDMEngineError,
    OutputError,
    RuntimeUnavailableError,
)
from ..machine.gpu import find_gpus
from ..runtimes.base import Runtime
from ..runtimes.choice import PREFERENCE, RUNTIMES, choose_runtime, usable_runtimes
from ..version import __version__
from .interrupts import INTERRUPTS
from .log import LOG


class _Errors(Console):
    """What goes to stderr. That nobody reads it any more ends no run."""

    def on_broken_pipe(self) -> None:
        """Print no more; rich would exit."""
        self.quiet = True


#: Results go to stdout, everything else to stderr.
out = Console(highlight=False, soft_wrap=True)
err = _Errors(stderr=True, highlight=False, soft_wrap=True)

EXIT_FAILURE, EXIT_USAGE = 1, 2

Command = TypeVar("Command", bound=Callable[..., Any])


def run(command: click.Command) -> None:
    """Run `command` with the process's arguments and exit.

    The code is 0, 1 on failure, 2 on bad usage, or 128 and the number of the signal that came.
    """
    # Paddle's C++ library logs through glog; it reads this when it is first imported.
    os.environ.setdefault("GLOG_minloglevel", "2")
    warnings.showwarning = _show_warning
    warnings.filterwarnings("ignore", message="No ccache found")  # on importing Paddle
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        # In a file or pipe on Windows it has few letters, and names may have any.
        sys.stdout.reconfigure(errors="backslashreplace")
    INTERRUPTS.install()
    try:
        sys.exit(command.main(standalone_mode=False))
    except (Exception, KeyboardInterrupt) as error:
        # A C++ call, or whoever called it, may have turned the interrupt into an error of its own.
        if INTERRUPTS.received or isinstance(error, (click.Abort, KeyboardInterrupt)):
            if isinstance(error, OutputError):  # which no interrupt brings about
                _print_error(str(error))
            LOG.write("Interrupted.")
            err.print("Interrupted.")
            sys.exit(INTERRUPTS.exit_code())
        _fail(error)


def is_debugging() -> bool:
    """Whether this process was started with ``--debug``."""
    return "--debug" in sys.argv


def _fail(error: BaseException) -> None:
    """Print an error in one paragraph, and exit."""
    if isinstance(error, click.ClickException):
        LOG.write(f"Error: {error.format_message()}")
        error.show()
        sys.exit(error.exit_code)
    code = EXIT_FAILURE
    message = str(error)
    if isinstance(error, (InvalidArgumentError, ArgumentTypeError)):
        code = EXIT_USAGE
    elif isinstance(error, OSError) and not isinstance(error, LDMEngineError):
        message += ". Check the file or the disk, and run again."
    elif not isinstance(error, LDMEngineError):
        hint = "" if is_debugging() else " Run again with --debug for the traceback, and report it."
        message = f"{type(error).__name__}: {error}.{hint}"
    if is_debugging():
        traceback.print_exc()
    _print_error(message)
    sys.exit(code)


def _print_error(message: str) -> None:
    """Print an error, also with ``--quiet``."""
    LOG.write(f"Error: {message}")
    err.quiet = False
    err.print(f"[bold red]Error:[/] {plain(message)}")


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    if category in (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning):
        return
    LOG.write(f"Warning: {message}")
    with suppress(OSError):  # what runs does not depend on who reads it
        err.print(f"[bold yellow]Warning:[/] {plain(str(message))}")


def print_note(text: str) -> None:
    """Print what a user should know of a choice that was made."""
    LOG.write(f"Note: {text}")
    err.print(f"[bold]Note:[/] {plain(text)}")


def print_result(text: str) -> None:
    """Print what was made, and where it is."""
    LOG.write(text)
    out.print(plain(text))


@contextmanager
def busy(description: str) -> Iterator[None]:
    """A spinner, for what has no measure of progress."""
    with err.status(plain(description)):
        yield


@contextmanager
def stages(total: int | None = None) -> Iterator[Callable[[str], None]]:
    """A bar over named stages, `total` of them if that is known.

    Call the result as each stage begins, which is also where an interrupt stops the work.
    """
    counts = () if total is None else (BarColumn(), MofNCompleteColumn())
    columns = (SpinnerColumn(), *counts, TimeElapsedColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=err) as progress:
        task = progress.add_task("", total=total)
        begun = 0

        def begin(stage: str) -> None:
            nonlocal begun
            INTERRUPTS.check()
            progress.update(task, completed=begun, description=stage)
            begun += 1

        with INTERRUPTS.deferred():
            yield begin
        progress.update(task, completed=total, description="done")


@contextmanager
def stoppable() -> Iterator[Callable[[], bool]]:
    """A block that a first signal does not break; the result returns whether one has come."""
    with INTERRUPTS.deferred():
        yield lambda: bool(INTERRUPTS.received)


def exit_code() -> int:
    """What an interrupted command exits with."""
    return INTERRUPTS.exit_code()


@contextmanager
def byte_bar(description: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar over `total` bytes; call the result with each count."""
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
    with Progress(*columns, TimeRemainingColumn(), console=err) as progress:
        task = progress.add_task(description, total=total)
        yield lambda count: progress.advance(task, count)


@contextmanager
def step_bar(total: int) -> Iterator[Callable[[str], None]]:
    """A bar over `total` denoising steps; call the result after each, saying of what."""
    with _counted(total) as advance:
        yield lambda description: advance(description, 1)


@contextmanager
def _counted(total: int) -> Iterator[Callable[[str, int], None]]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=err) as progress:
        task = progress.add_task("starting", total=total)
        yield lambda description, count: progress.update(
            task, advance=count, description=description
        )


@contextmanager
def call_bar(total: int) -> Iterator[Callable[[str, int], None]]:
    """A bar over `total` calls of a program; call the result with of what, and how many were made.

    That is also where an interrupt stops the work.
    """
    with _counted(total) as count, INTERRUPTS.deferred():

        def advance(description: str, calls: int) -> None:
            INTERRUPTS.check()
            count(description, calls)

        yield advance


@contextmanager
def timing_bar(total: int) -> Iterator[Callable[[int, str], None]]:
    """A bar over `total` things to be timed; call the result with how many are done, and what is.

    It is drawn once a second, so that it takes next to nothing from what is timed.
    """
    columns = (SpinnerColumn(), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    description = TextColumn("{task.description}")
    with Progress(*columns, description, console=err, refresh_per_second=1) as progress:
        task = progress.add_task("", total=total)
        yield lambda done, what: progress.update(task, completed=done, description=what)
        progress.update(task, completed=total, description="done")


def debug_option(command: Command) -> Command:
    """``--debug``, which ``is_debugging`` finds."""
    return click.option(
        "--debug", is_flag=True, expose_value=False, help="Show the traceback of an error."
    )(command)


def output_options(command: Command) -> Command:
    """``--quiet`` and ``--log-file``, which take effect here, and ``--debug``."""

    def silence(context: click.Context, parameter: click.Parameter, value: bool) -> None:
        err.quiet = value

    def log(context: click.Context, parameter: click.Parameter, value: Path | None) -> None:
        if value is not None and not context.resilient_parsing:  # as completion parses
            LOG.open(value)
            LOG.write(f"ldm-engine {__version__}: {shlex.join(sys.argv[1:])}")

    quiet = click.option(
        "--quiet",
        is_flag=True,
        is_eager=True,
        expose_value=False,
        callback=silence,
        help="Print no progress, notes, warnings or summary: errors, and the paths of pictures.",
    )
    log_file = click.option(
        "--log-file",
        type=click.Path(path_type=Path),
        is_eager=True,
        expose_value=False,
        callback=log,
        help="File to append to what is printed, and how far a run is, with times; also --quiet's.",
    )
    return quiet(log_file(debug_option(command)))


def print_bundle(bundle: Bundle) -> None:
    """The tables of ``ldm-engine info``."""
    model = bundle.model
    out.print(f"[bold]{plain(str(bundle.path))}[/]  {plain(model.source)}")
    total = sum(info.bytes for info in bundle.files.values())
    facts = {
        "image size": f"{model.default_size}x{model.default_size} by default, "
        f"multiples of {model.pixel_multiple}",
        "tokens": f"{model.token_length} a prompt, vocabulary of {model.vocab_size}",
        "formats": ", ".join(bundle.formats),
        "on disk": size_text(total),
        "digest": bundle.digest,
        "made with": ", ".join(f"{n} {v}" for n, v in bundle.versions.items()),
        "runtime here": _describe_choice(bundle),
        "runs here in": _describe_usable(bundle),
        "GPU here": _describe_gpu(bundle),
        "order on GPUs": _describe_order(bundle),
    }
    for runtime in RUNTIMES.values():
        facts |= runtime.format_facts(bundle)
    table = Table.grid(padding=(0, 2))
    for name, value in facts.items():
        table.add_row(f"[dim]{name}[/]", plain(value))
    out.print(table)
    out.print()
    print_whole(_program_table(bundle))
    out.print()
    print_whole(_parity_table(bundle))
    for sentence in _refused_precisions(bundle):
        out.print(plain(sentence))
    out.print()
    print_whole(_tensor_table(bundle))


def _program_table(bundle: Bundle) -> Table:
    """What each program weighs in each format."""
    table = plain_table("program", "format", "weights", "size")
    for name, info in bundle.programs.items():
        for format_name, written in info.formats.items():
            size = size_text(sum(bundle.files[f].bytes for f in written.files))
            table.add_row(name, *map(plain, (format_name, written.weights)), size)
    return table


def _parity_table(bundle: Bundle) -> Table:
    """How far each program, and the images of a short loop, lie from the original model."""
    rows = (*bundle.programs, "end_to_end")
    table = plain_table("relative error in", "precision", *rows)
    for runtime, precisions in bundle.parity.items():
        for precision, programs in precisions.items():
            errors = [f"{p.relative_l2_error:.1e}" if p else "" for p in map(programs.get, rows)]
            table.add_row(*map(plain, (runtime, precision)), *errors)
    return table


def _refused_precisions(bundle: Bundle) -> Iterator[str]:
    """A sentence for each precision that the export found outside, or could not measure."""
    for name, runtime in RUNTIMES.items():
        if runtime.format not in bundle.formats or "cpu" not in runtime.precisions:
            continue
        for precision in runtime.offers(bundle, "cpu"):
            outside = bundle.outside(name, precision)
            if outside:
                yield f"{name} {precision} is outside its tolerance and refused: {outside}."
            elif precision == "bf16" and precision not in bundle.parity.get(name, {}):
                yield f"{name} {precision} was not measured: the exporting machine has none."
            yield from refused_programs(bundle, name, precision)


def refused_programs(bundle: Bundle, runtime: str, precision: str) -> Iterator[str]:
    """A sentence for each optional program that the export found outside its tolerance there."""
    for name in OPTIONAL_PROGRAMS:
        measured = bundle.outside(runtime, precision, name)
        if measured:
            yield f"{name} is refused in {runtime} {precision}, outside its tolerance: {measured}."


def _tensor_table(bundle: Bundle) -> Table:
    table = plain_table("program", "", "tensor", "type", "shape")
    for name, info in bundle.programs.items():
        for direction, tensors in (("in", info.inputs), ("out", info.outputs)):
            for tensor in tensors:
                table.add_row(name, direction, tensor.name, tensor.dtype, _shape(tensor.shape))
    return table


def plain_table(*columns: str) -> Table:
    """A table without lines; a column whose name begins with ">" holds numbers, and ends right."""
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    for column in columns:
        justify: JustifyMethod = "right" if column.startswith(">") else "left"
        table.add_column(column.removeprefix(">"), no_wrap=True, justify=justify)
    return table


def print_whole(table: Table, to: Console = out) -> None:
    """Print `table` as wide as it is: a number or a verdict that is cut says nothing."""
    table.width = to.measure(table, options=to.options.update(width=1000)).maximum
    to.print(table)


def print_findings(findings: Sequence[Finding]) -> None:
    """The table of ``ldm-engine verify``."""
    table = plain_table("runtime", "precision", "program", "case", "error", "tolerance", "")
    for f in findings:
        verdict = "[green]pass[/]" if f.passed else "[bold red]FAIL[/]"
        table.add_row(
            f.runtime,
            f.precision,
            f.program,
            f.label,
            f"{f.error:.1e}",
            f"{f.tolerance:.0e}",
            verdict,
        )
    print_whole(table)


def _describe_choice(bundle: Bundle, precision: str = "fp32", device: str = "cpu") -> str:
    try:
        choice = choose_runtime(bundle, precision=precision, device=device)
    except RuntimeUnavailableError as error:
        return f"none. {error}"
    return f"{choice.runtime.name} {choice.runtime.version(device)}: {choice.reason}"


def _describe_usable(bundle: Bundle) -> str:
    precisions: dict[str, list[str]] = {}
    for choice, precision in usable_runtimes(bundle):
        precisions.setdefault(choice.runtime.name, []).append(precision)
    return "; ".join(f"{name} {', '.join(p)}" for name, p in precisions.items()) or "nothing"


def _describe_gpu(bundle: Bundle) -> str:
    try:
        gpus = ", ".join(f"gpu:{gpu.index} {gpu.name}" for gpu in find_gpus())
    except RuntimeUnavailableError as error:
        return f"none: {error}"
    preferred = next((r for r in _gpu_runtimes() if r.format in bundle.formats), None)
    precision = preferred.offers(bundle, "gpu")[0] if preferred else "fp32"
    return f"{gpus}; in {precision} {_describe_choice(bundle, precision, 'gpu:0')}"


def _describe_order(bundle: Bundle) -> str:
    """What a GPU would run the bundle with, the preferred one first."""
    order = []
    for runtime in _gpu_runtimes():
        is_there = runtime.format in bundle.formats
        precisions = ", ".join(runtime.offers(bundle, "gpu"))
        order.append(
            f"{runtime.name} ({precisions if is_there else f'needs the format {runtime.format}'})"
        )
    return ", else ".join(order)


def _gpu_runtimes() -> list[Runtime]:
    return [RUNTIMES[name] for name in PREFERENCE["gpu"]]


def plain(text: str) -> str:
    """`text` without markup or control characters: it may come from anywhere."""
    return escape("".join(c if c.isprintable() or c == "\n" else "\ufffd" for c in text))


def _shape(shape: Sequence[int]) -> str:
    return escape(f"[{', '.join('any' if s == -1 else str(s) for s in shape)}]")


def size_text(count: float) -> str:
    """`count` bytes in a unit that suits them."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.2f} GB"
