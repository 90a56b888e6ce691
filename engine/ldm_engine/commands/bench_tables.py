"""The tables of ``ldm-engine bench``: every figure comes from the samples of the results."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.table import Table

from ..benchmarking.comparison import DECIDING_STAGES, FASTER, SLOWER, Compared
from ..benchmarking.results import (
    END_TO_END,
    OFFLINE,
    SINGLE_STREAM,
    UNET,
    Failure,
    Measurement,
    Results,
    call_settings,
)
from ..benchmarking.statistics import summarize
from .console import plain, plain_table, print_whole

_UNITS = {
    "text_encoder": "a text",
    "time_encoder": "a schedule",
    "unet": "a step",
    "vae_decoder": "an image",
    "host": "a call",
    END_TO_END: "a call",
}


def print_results(results: Results, to: Console) -> None:
    """What was measured, how, and the tables."""
    to.print(_heading(results), highlight=False)
    single, offline = results.of(SINGLE_STREAM), results.of(OFFLINE)
    if single:
        to.print("\n[bold]single-stream[/]: one image after another; milliseconds")
        print_whole(_latency_table(single), to)
    if offline:
        to.print("\n[bold]offline[/]: images at a time; milliseconds, and images a second")
        print_whole(_throughput_table(offline), to)
    if results.measurements:
        to.print("\n[bold]start and memory[/]: seconds; first: nothing cached; later: cache filled")
        print_whole(_start_table(results.measurements), to)


def print_failure(failure: Failure, to: Console) -> None:
    """Which case could not be measured, and why."""
    to.print(f"[bold red]Failed:[/] {plain(f'{failure}: {failure.reason}')}")


def _heading(results: Results) -> str:
    call, machine = results.settings.call, results.machine
    scale, eta = call["guidance_scale"], call["eta"]
    guidance = "no guidance" if scale == 1 else f"guidance {scale:g}"
    noise = f", eta {eta:g}" if eta else ""
    later = [s.name for s in call_settings() if s.is_later and s.is_recorded(call[s.name])]
    return plain(
        f"{results.bundle.source} (bundle {results.bundle.digest[:12]}): "
        f"{call['num_inference_steps']} steps, {guidance}{noise}, "
        f"{''.join(f'{name} {call[name]}, ' for name in later)}{call['width']}x{call['height']}, "
        f"{results.settings.threads} threads\n"
        f"{machine['processor']} with {machine['threads']} threads and "
        f"{_gib(machine['memory_bytes'])} GiB, {results.date_utc}"
    )


def _latency_table(measurements: Sequence[Measurement]) -> Table:
    """A row for each stage of each configuration."""
    table = plain_table(
        "runtime", "precision", "stage", "of", ">samples", ">min", ">median", ">p90", ">p99",
        ">mean", ">share",
    )  # fmt: skip
    for m in measurements:
        names = [m.runtime, m.precision]
        for stage, samples in m.samples_s.items():
            summary = summarize(samples)
            figures = (summary.min, summary.median, summary.p90, summary.p99, summary.mean)
            table.add_row(
                *names,
                stage,
                _UNITS[stage],
                str(summary.count),
                *map(_ms, figures),
                _share(m, stage),
                style="bold" if stage == END_TO_END else None,
            )
            names = ["", ""]
    return table


def _share(measurement: Measurement, stage: str) -> str:
    """The part of all calls' time that a stage took; the time encoder rests in the steady state."""
    if stage in (END_TO_END, "time_encoder"):
        return ""
    samples = measurement.samples_s
    return f"{sum(samples[stage]) / sum(samples[END_TO_END]):.1%}"


def _throughput_table(measurements: Sequence[Measurement]) -> Table:
    table = plain_table(
        "runtime", "precision", ">batch", ">images/s", ">calls", ">min", ">median", ">p90",
        ">mean", ">unet step",
    )  # fmt: skip
    for m, names in _named(measurements):
        call = summarize(m.samples_s[END_TO_END])
        step = summarize(m.samples_s[UNET]).median
        table.add_row(
            *names,
            str(m.batch_size),
            f"[bold]{_significant(m.images_per_second)}[/]",
            str(call.count),
            *map(_ms, (call.min, call.median, call.p90, call.mean, step)),
        )
    return table


def _start_table(measurements: Sequence[Measurement]) -> Table:
    table = plain_table(
        "\nruntime", "\nprecision", ">\nbatch", ">load\nfirst", ">\nlater", ">to step 1\nfirst",
        ">\nlater", ">to image 1\nlater", ">first\ncall", ">steady\ncall", ">peak GiB\nresident",
        ">\nanonymous",
    )  # fmt: skip
    for m, names in _named(measurements):
        seconds = (
            m.first_load_s,
            m.load_s,
            m.first_start_to_first_step_s,
            m.start_to_first_step_s,
            m.start_to_first_image_s,
            m.first_call_s,
            summarize(m.samples_s[END_TO_END]).median,
        )
        table.add_row(
            *names,
            str(m.batch_size),
            *map(_significant, seconds),
            _gib(m.peak_resident_bytes),
            _gib(m.peak_anonymous_bytes),
        )
    return table


def _named(measurements: Sequence[Measurement]) -> Iterator[tuple[Measurement, tuple[str, str]]]:
    """Each measurement with its runtime and precision, or blanks where they stand just above."""
    above = None
    for m in measurements:
        names = (m.runtime, m.precision)
        yield m, ("", "") if names == above else names
        above = names


def print_comparison(
    compared: Sequence[Compared], notes: Sequence[str], tolerance: float, to: Console
) -> None:
    """Every row of both results with its verdict, and what else changed."""
    to.print("\n[bold]compared[/]: milliseconds (medians); ratio: now / before; above 1 is slower")
    table = plain_table(
        "runtime", "precision", "scenario", ">batch", "stage", ">before", ">now", ">ratio",
        "95 % interval", "verdict",
    )  # fmt: skip
    for c in compared:
        row, ratio = c.row, c.ratio
        table.add_row(
            *(plain(text) for text in (row.runtime, row.precision, row.scenario)),
            str(row.batch_size),
            row.stage,
            _ms(c.old_median_s),
            _ms(c.new_median_s),
            f"{ratio.value:.3f}" if ratio else "",
            f"{ratio.low:.3f} - {ratio.high:.3f}" if ratio else "",
            _verdict(c, tolerance),
        )
    print_whole(table, to)
    decide = " and ".join(DECIDING_STAGES)
    to.print(f"{decide} decide; tolerated: {tolerance:.1%} slower.")
    for note in notes:
        to.print(f"[yellow]Note:[/] {plain(note)}")


def _verdict(compared: Compared, tolerance: float) -> str:
    if compared.is_slowdown(tolerance):
        return f"[bold red]{SLOWER}, beyond tolerance[/]"
    styles = {FASTER: "green", SLOWER: "yellow"}
    return f"[{styles.get(compared.verdict, 'default')}]{compared.verdict}[/]"


def _ms(seconds: float) -> str:
    return _significant(seconds * 1e3)


def _significant(value: float) -> str:
    """Four digits, never in powers of ten, never rounded to none."""
    return f"{value:.{max(0, 3 - len(str(int(abs(value)))) + 1)}f}"


def _gib(count: int) -> str:
    """Nothing where the system does not report it."""
    return f"{count / 2**30:.2f}" if count else ""
