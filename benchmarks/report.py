"""Makes a run's report from its samples, and the table of the README."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

import plots
from ldm_engine.errors import ResultsError
from ldm_engine.sampling.solvers_file import MAX_TERMS
from peers import PEERS
from records import Records
from results import Results
from tables import (
    baselines,
    error,
    gigabytes,
    interval,
    memory,
    milliseconds,
    ratio,
    seconds,
    share,
    table,
    title,
)
from workload import STAGES, Task

BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"
STEP, TEN_STEPS, FIFTY_STEPS = (
    Task("unet_step"),
    Task("image", steps=10),
    Task("image", steps=50),
)
#: Of the overview: share, a step, an image of 50 steps, error, first image, memory.
_README_COLUMNS = (0, 1, 2, 3, 4, 7, 8, 9, 11, 12)
_COMMANDS = {
    "shapes": "make bench",
    "large": "make bench-large",
    "large-fewest": "make bench-fewest",
    "gpu": "sh benchmarks/gpu/run.sh",
}
_PRECISIONS = ("fp32", "bf16", "int8")

NOTE = """\
"against ours": its time over that of {ours} in the same precision ({other}: in {low};
ours in {low}: in fp32), the median of the ratios of turns taken next to each other; dividing two
medians of this table gives something near, or, where turns scatter, something else. "share": of
what this machine could do at most. "error": relative L2 of its pixels to ours in fp32. ≠ marks a
peer whose results are further off than this engine tolerates of its own programs: its times are
those of another picture. "once": converting, compiling and caching, before anything is measured.
"first image": from the start of the process, of {steps} steps, with all of that done and the peer's
files in the page cache. Memory: the peak of that process; "anonymous" leaves out mapped files. "on
disk": weights and graphs, without caches. A cell is empty where that was not measured."""


FEWEST = """\
How long an image takes where each takes as few steps as it can: ours by a solver fitted to the
bundle, the others by DPM-Solver++ 2M, which they have. Their numbers of steps are the fewest by
which pictures of the shapes model come, at this guidance, as near to the converged ones as those of
50 steps of DDIM do: in median, 10th percentile and least, over 128 held-out captions. (The least is
a matter of rare pictures: on other captions 17 are too few. docs/solvers.md has the figures.)
Weights that are random have no such pictures; with them the same numbers of steps are timed. "times
as long as ours" is the median of the ratios of turns taken next to each other. "share": of what
this machine could do at most in as many calls. "error": relative L2 of its pixels to ours in fp32
with the same solver and as many steps. ≠ marks a peer any of whose results is further off than this
engine tolerates of its own programs."""


def report(results: Results) -> str:
    """The whole report in Markdown."""
    model, day = results.plan["model"], results.setup["began"][:10]
    parts = [f"# The {model} model, measured {day}", _setup(results)]
    if results.same:
        parts += [
            "## One image\n\n" + overview(results),
            _note(results),
            "![](images.svg)\n\n![](ratios.svg)",
        ]
    parts.append(_targets(results))
    if results.same:
        stages = "\n\n".join(_stage(results, Task(name)) for name in STAGES)
        parts += ["## Stages\n\n" + stages, "![](latency.svg)\n\n![](roofline.svg)"]
    parts += [_fewest(results), _throughput(results)]
    if results.same:
        parts.append("## All ratios\n\n" + _ratios(results))
    parts += ["## The loop\n\n" + _loop(results), "## Setups\n\n" + _peers(results)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _note(results: Results) -> str:
    ours, low, other = baselines(results)
    return NOTE.format(ours=ours, low=low, other=other, steps=results.plan["start_steps"])


def overview(results: Results, columns: Sequence[int] | None = None) -> str:
    """One row a peer, with all of the columns or some."""
    rows = []
    for name in results.peers:
        step = results.find(name, STEP)
        ten, fifty = results.find(name, TEN_STEPS), results.find(name, FIFTY_STEPS)
        start, ready = results.starts.get(name), results.ready.get(name)
        rows.append(
            [
                title(results, name),
                PEERS[name].precision,
                *(share(results, fifty or ten), milliseconds(step), ratio(step)),
                *(seconds(ten), ratio(ten), seconds(fifty), ratio(fifty), error(fifty or ten)),
                f"{ready['seconds']:.0f} s" if ready else "",
                f"{start.seconds:.1f} s" if start else "",
                memory(start),
                gigabytes(ready["bytes_on_disk"] if ready else None),
            ]
        )
    head = ["", "", "share", "UNet step", "against ours", "image, 10 steps", "against ours"]
    head += ["image, 50 steps", "against ours", "error", "once", "first image"]
    head += ["memory: anonymous / all", "on disk"]
    columns = range(len(head)) if columns is None else columns
    return table([head[c] for c in columns], [[row[c] for c in columns] for row in rows])


def _setup(results: Results) -> str:
    setup, limits = results.setup, results.limits
    machine, plan = setup["machine"], results.plan
    processors = [machine[name] for name in ("processor", "gpu") if name in machine]
    versions = ", ".join(f"{n} {v}" for n, v in setup["versions"].items() if v)
    lines = [
        f"This is {plan['description']}; images of {plan['image_size']}x{plan['image_size']}, "
        "guidance 6, eta 0.",
        f"{' with '.join(processors)}, {setup['threads']} threads, "
        f"{machine['memory_bytes'] / 2**30:.0f} GiB, {machine['system']}, Python "
        f"{machine['python']}. {versions}; commit {setup['commit']}, code {setup['code']}, bundle "
        f"{setup['bundle'][:12]}.",
        f"Made by `{_COMMANDS[plan['model']]}`. Pairs take "
        f"turns (A B, B A, ...) with a pause of {setup['pause_s']} s before each; calls of one "
        "step warm a task up. Text in, float pixels out: encoding and decoding are in the times of "
        "images, PNG files are not. All samples: [samples.jsonl](samples.jsonl), turn by turn, in "
        "seconds.",
    ]
    if limits:
        rates = ", ".join(f"{limits[p] / 1e9:.0f} in {p}" for p in _PRECISIONS if p in limits)
        lines.append(
            f"The machine's limits, the best of what was measured before and between: {rates} G "
            f"operations a second; {limits['memory'] / 1e9:.1f} GB read a second."
        )
    if results.work:
        work = "; ".join(
            f"{stage} {w['operations'] / 1e9:.3g} G operations, {w['parameters'] / 1e6:.3g} M "
            "parameters"
            for stage, w in results.work.items()
        )
        lines.append(
            f"The least work known for the model (one text, one guided step, one image): {work}. "
            "Upsampling counts as this engine computes it, which is less than as published."
        )
    return "\n\n".join(lines)


def _targets(results: Results) -> str:
    rows = []
    for target, timed in results.targets():
        assert timed.ratio
        verdict = "reached" if timed.ratio.value >= target.ratio else "**short**"
        words = [title(results, target.peer), PEERS[target.peer].precision, str(target.task)]
        ours = f"{PEERS[timed.baseline].precision}, {timed.baseline_task}"
        words.append(ours if timed.baseline_task else "")
        rows.append([*words, f"{target.ratio:.2f}", interval(timed), verdict])
    if not rows:
        return ""
    head = ["", "", "task", "ours in", "wanted: times as long as ours", "measured", ""]
    return "## What was wanted\n\n" + table(head, rows)


def _stage(results: Results, task: Task) -> str:
    rows = []
    for name in results.peers:
        timed = results.find(name, task)
        if timed:
            s = timed.summary
            times = [f"{v * 1e3:.4g}" for v in (s.min, s.median, s.p90, s.p99, s.mean)]
            row = [title(results, name), PEERS[name].precision, *times, str(s.count)]
            rows.append([*row, interval(timed), share(results, timed), error(timed)])
    head = ["", "", "min ms", "median", "p90", "p99", "mean", "samples", "against ours"]
    few = "p90 and p99 of few samples are next to the largest."
    return f"**{task.name}**\n\n" + table([*head, "share", "error"], rows) + f"\n\n{few}"


def _fewest(results: Results) -> str:
    rows = []
    for t in results.fewest():
        baseline = PEERS[t.baseline].precision if t.ratio else ""
        words = [title(results, t.peer), PEERS[t.peer].precision, t.task.solver, str(t.task.steps)]
        rows.append([*words, seconds(t), baseline, interval(t), share(results, t), error(t)])
    if not rows:
        return ""
    head = ["", "", "solver", "calls of the UNet", "time", "ours fitted in"]
    head += ["times as long as ours", "share", "error"]
    return f"## At the fewest calls\n\n{FEWEST}\n\n" + table(head, rows)


def _throughput(results: Results) -> str:
    tasks = results.batches()
    rows = []
    for name in results.peers:
        found = [results.find(name, task) for task in tasks]
        if not any(found):
            continue
        cells = [f"{t.task.batch / t.summary.median:.3g}" if t else "" for t in found]
        last = next((t for t in reversed(found) if t), None)
        memory_then = gigabytes(last.peer_anonymous_bytes) if last else ""
        words = [title(results, name), PEERS[name].precision, *cells]
        rows.append([*words, ratio(last), share(results, last), error(last), memory_then])
    if not rows:
        return ""
    head = ["", "", *(f"batch {task.batch}" for task in tasks), "against ours", "share", "error"]
    note = (
        f"Images of {tasks[0].steps} steps, texts all different. The last columns are of the "
        "largest batch; memory is the anonymous part then, all batch sizes having been run."
    )
    body = table([*head, "memory"], rows)
    return f"## Images a second over the batch\n\n{note}\n\n{body}\n\n![](throughput.svg)"


def _ratios(results: Results) -> str:
    rows = []
    for t in results.same:
        words = [title(results, t.peer), PEERS[t.peer].precision, PEERS[t.baseline].precision]
        rows.append([*words, str(t.task), interval(t), share(results, t), error(t)])
    note = (
        "Medians of the turns' ratios, with the interval of the sign test where there are five "
        "turns or more, and how sure it is."
    )
    if "int8" in baselines(results):
        note += (
            " Ours in int8 and in bf16 run the same text encoder and decoder: what their ratios "
            "differ from 1 is noise."
        )
    head = ["", "", "ours in", "task", "times as long as ours", "share", "error"]
    return f"{note}\n\n" + table(head, rows)


def _loop(results: Results) -> str:
    account = results.accounting
    if account is None:
        return "Not measured."
    outside, step = (float(np.median(account[n])) for n in ("outside_run_s", "step_s"))
    is_fitted = account.get("solver") == "fitted"
    work = f"a history of {MAX_TERMS} predictions" if is_fitted else "fresh noise"
    return (
        f"{account['runtime']} in {account['precision']}, batch 1, guidance and {work}: "
        f"{outside * 1e3:.3f} ms of a step of {step * 1e3:.1f} ms pass outside of the UNet "
        f"({outside / step:.2%}). Over {account['counted_steps']} settled steps Python's memory "
        f"grew by {account['blocks_kept']} blocks and {account['bytes_kept']} bytes; a step takes "
        f"{account['peak_bytes_in_step']} bytes at its peak, {account['largest_peak_bytes']} in "
        "the largest (tracemalloc; each step ends with a garbage collection, and what is allocated "
        "and freed within a step shows in its peak only)."
    )


def _peers(results: Results) -> str:
    lines = [f"- {PEERS[n].title}, {PEERS[n].precision}: {PEERS[n].setup}." for n in results.peers]
    return "\n".join([*lines, *absences(results)])


def absences(results: Results) -> list[str]:
    """Who is missing or failed, and why."""
    lines = [f"- `{name}` is missing: {reason}" for name, reason in results.absent.items()]
    lines += [f"- `{name}` failed at {task}: {reason}" for name, task, reason in results.failures]
    return list(dict.fromkeys(lines))


def readme_block(results: Results) -> str:
    """The README's table between its markers, with when and where it was measured."""
    setup, plan = results.setup, results.plan
    where = (
        f"Measured {setup['began'][:10]} on {setup['threads']} threads of an "
        f"{setup['machine']['processor']} processor: {plan['description']}, batch 1, guidance 6, "
        f"{plan['image_size']}x{plan['image_size']}."
    )
    return (
        "\n\n".join([f"{BEGIN}\n{where}", overview(results, _README_COLUMNS), *absences(results)])
        + f"\n{END}"
    )


def update_readme(path: Path, results: Results) -> None:
    """Put the table between the README's markers."""
    text = path.read_text()
    before, _, rest = text.partition(BEGIN)
    _, found, after = rest.partition(END)
    if not found:
        raise ResultsError(f"{path} lacks the lines {BEGIN} and {END}. Add them.")
    path.write_text(before + readme_block(results) + after)


def write(folder: Path) -> Path:
    """Write report.md and the plots beside the samples."""
    results = Results(Records(folder / "samples.jsonl"))
    if results.same:
        plots.write_plots(results, folder)
    path = folder / "report.md"
    path.write_text(report(results))
    return path


def main() -> None:
    """Parse the command line, write, and say where."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="where samples.jsonl lies")
    parser.add_argument("--readme", type=Path, help="whose table is to be made anew")
    a = parser.parse_args()
    try:
        print(write(a.folder))
        if a.readme:
            update_readme(a.readme, Results(Records(a.folder / "samples.jsonl")))
    except (ResultsError, OSError) as problem:
        sys.exit(f"Error: {problem}")


if __name__ == "__main__":
    main()
