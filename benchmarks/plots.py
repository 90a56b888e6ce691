"""The report's plots, as SVG that is the same for the same samples."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np

from peers import PEERS
from results import Results, Timed, precision_of
from tables import baselines
from work import BYTES
from workload import STAGES, Task

mpl.use("svg")
import matplotlib.pyplot as plt
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

STYLE = {
    "svg.hashsalt": "ldm-engine",
    "svg.fonttype": "path",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
}
COLORS = {"fp32": "#3b6fb6", "bf16": "#d9822b", "fp16": "#8e5ea2", "int8": "#5b9a4a"}


def write_plots(results: Results, folder: Path) -> None:
    """images.svg, ratios.svg, latency.svg, throughput.svg and roofline.svg."""
    with plt.rc_context(STYLE):
        _save(_images(results), folder / "images.svg")
        _save(_ratios(results), folder / "ratios.svg")
        _save(_latency(results), folder / "latency.svg")
        _save(_throughput(results), folder / "throughput.svg")
        _save(_roofline(results), folder / "roofline.svg")


def _save(figure: Any, path: Path) -> None:
    figure.savefig(path, metadata={"Date": None}, bbox_inches="tight")
    plt.close(figure)


def _scale(axis: Any, ticks: tuple[int, ...] = (1, 2, 5)) -> None:
    """Logarithmic, with numbers that people read."""
    axis.axes.set(**{f"{axis.axis_name}scale": "log"})
    axis.set_major_locator(LogLocator(subs=ticks))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def _label(results: Results, name: str) -> str:
    mark = "" if results.is_faithful(name) else " ≠"
    return f"{PEERS[name].title}, {PEERS[name].precision}{mark}"


def _images(results: Results) -> Any:
    """Bars of the seconds that one image of 50 steps takes, and where that was measured."""
    found = (results.find(name, Task("image", steps=50)) for name in results.peers)
    shown = [timed for timed in found if timed][::-1]
    figure, axes = _rows(len(shown))
    for place, timed in enumerate(shown):
        peer, seconds = PEERS[timed.peer], timed.summary.median
        hatch = "" if results.is_faithful(timed.peer) else "////"
        axes.barh(
            place,
            seconds,
            height=0.65,
            color=COLORS[peer.precision],
            hatch=hatch,
            edgecolor="white",
        )
        axes.text(seconds, place, f"  {seconds:.3g} s", va="center")
    axes.set_yticks(range(len(shown)), [_label(results, timed.peer) for timed in shown])
    for label, timed in zip(axes.get_yticklabels(), shown, strict=True):
        label.set_fontweight("bold" if PEERS[timed.peer].is_ours else "normal")
    axes.set_xlabel("seconds for one image: 50 steps, guidance, batch 1 (medians; less is better)")
    setup, plan = results.setup, results.plan
    axes.set_title(
        f"{plan['description'].capitalize()}, {plan['image_size']}x{plan['image_size']} pixels\n"
        f"{setup['threads']} threads of an {setup['machine']['processor']} processor, "
        f"{setup['began'][:10]}"
    )
    return figure


def _ratios(results: Results) -> Any:
    """Bars of times as long as ours for one image, with their intervals."""
    shown: list[Timed] = []
    for name in results.peers:
        found = [results.find(name, Task("image", steps=steps)) for steps in (50, 10)]
        shown += [timed for timed in found if timed and timed.ratio][:1]
    figure, axes = _rows(len(shown))
    for place, timed in enumerate(reversed(shown)):
        assert timed.ratio
        value, high = timed.ratio.value, timed.ratio.high if timed.has_interval else 0.0
        spread = [[value - timed.ratio.low], [high - value]] if high else None
        hatch = "" if results.is_faithful(timed.peer) else "////"
        style = {"color": COLORS[PEERS[timed.peer].precision], "hatch": hatch, "edgecolor": "white"}
        axes.barh(place, value, xerr=spread, height=0.65, capsize=3, **style)
        axes.text(max(value, high), place, f"  {value:.2f}", va="center")
    names = [f"{_label(results, t.peer)} ({t.task.steps} steps)" for t in reversed(shown)]
    axes.set_yticks(range(len(shown)), names)
    axes.axvline(1, color="black", linewidth=0.8)
    ours, reduced, other = baselines(results)
    axes.set_xlabel(f"time of one image, {ours} in the same precision = 1")
    axes.set_title(
        f"As many times as long ({other}: against {reduced}; ours in {reduced}: against fp32)"
    )
    return figure


def _latency(results: Results) -> Any:
    """The distribution of the UNet step's samples."""
    shown = results.find_all(["unet_step"])[::-1]
    figure, axes = _rows(len(shown))
    if not shown:
        return figure
    samples = [[s * 1e3 for s in t.samples_s] for t in shown]
    boxes = axes.boxplot(samples, orientation="horizontal", whis=(0, 100), patch_artist=True)
    for box, timed in zip(boxes["boxes"], shown, strict=True):
        box.set_facecolor(COLORS[PEERS[timed.peer].precision])
    axes.set_yticks(range(1, len(shown) + 1), [_label(results, t.peer) for t in shown])
    _scale(axes.xaxis)
    axes.set_xlabel("one guided UNet step, ms (box: quartiles; whiskers: all samples)")
    return figure


def _rows(count: int) -> Any:
    return plt.subplots(figsize=(7, 0.5 + 0.34 * max(1, count)))


def _throughput(results: Results) -> Any:
    """Images a second over the batch."""
    figure, axes = plt.subplots(figsize=(7, 4))
    tasks, markers = results.batches(), iter("osD^v<>Px*" * 3)
    for name in results.peers:
        found = [t for t in (results.find(name, task) for task in tasks) if t]
        if len(found) > 1:
            batches = [t.task.batch for t in found]
            rates = [t.task.batch / t.summary.median for t in found]
            color, marker = COLORS[PEERS[name].precision], next(markers)
            style, label = "-" if PEERS[name].is_ours else "--", _label(results, name)
            axes.plot(batches, rates, style, marker=marker, color=color, label=label)
    if tasks:
        axes.set_xscale("log", base=2)
        axes.set_xticks([t.batch for t in tasks], [str(t.batch) for t in tasks])
        axes.set_ylabel(f"images a second, {tasks[0].steps} steps each")
        axes.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))  # beside the lines
    axes.set_ylim(bottom=0)
    axes.set_xlabel("batch size")
    return figure


def _roofline(results: Results) -> Any:
    """Operations a second over operations a byte, under the machine's limits."""
    figure, axes = plt.subplots(figsize=(7, 4.5))
    axes.set_xlabel("operations of the model for each byte of its weights")
    axes.set_ylabel("G operations a second")
    if not (results.work and results.limits):
        return figure
    _scale(axes.xaxis, ticks=(1,))
    _scale(axes.yaxis)
    span = np.geomspace(1, 3e4, 200)
    for precision, color in COLORS.items():
        if precision in results.limits:
            roof = np.minimum(results.limits[precision], span * results.limits["memory"]) / 1e9
            axes.plot(span, roof, color=color, label=f"limit in {precision}")
    markers = dict(zip(STAGES, "osD", strict=True))
    for timed in results.find_all(STAGES):
        work, precision = results.work[timed.task.name], precision_of(timed.peer, timed.task.name)
        intensity = work["operations"] / (work["parameters"] * BYTES[precision])
        rate = work["operations"] / timed.summary.median / 1e9
        filled = COLORS[precision] if PEERS[timed.peer].is_ours else "none"
        marker = markers[timed.task.name]
        axes.plot(intensity, rate, marker, color=COLORS[precision], markerfacecolor=filled)
    for stage, marker in markers.items():
        axes.plot([], [], marker, color="gray", label=stage)
    axes.plot([], [], "o", color="gray", markerfacecolor="none", label="not ours")
    axes.legend(fontsize=8)
    return figure
