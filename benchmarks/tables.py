"""Markdown tables, and how figures are written in them."""

from __future__ import annotations

from ldm_engine.benchmarking.statistics import sign_test_confidence
from peers import PEERS
from results import Results, Start, Timed
from workload import Plan


def table(head: list[str], rows: list[list[str]]) -> str:
    """Markdown; columns that are empty throughout are left out."""
    kept = [i for i in range(len(head)) if i == 0 or any(row[i] for row in rows)]
    lines = [[head[i] for i in kept], ["---"] * len(kept), *([r[i] for i in kept] for r in rows)]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def title(results: Results, name: str) -> str:
    """A peer's title: ours in bold, ≠ behind one whose results are others."""
    text = PEERS[name].title
    text = f"**{text}**" if PEERS[name].is_ours else text
    return text if results.is_faithful(name) else f"{text} ≠"


def baselines(results: Results) -> tuple[str, str, str]:
    """Whom times are compared with; in which reduced precision; which other one against that."""
    reference = results.plan.get("reference", Plan.reference)
    reduced = PEERS[results.plan.get("reduced_reference", Plan.reduced_reference)].precision
    title = PEERS[reference].title.replace(", ", " with ")
    return title, reduced, {"bf16": "int8", "fp16": "bf16"}[reduced]


def milliseconds(timed: Timed | None) -> str:
    """The median."""
    if timed is None:
        return ""
    median = timed.summary.median * 1e3
    return f"{median:.0f} ms" if median >= 100 else f"{median:.3g} ms"


def seconds(timed: Timed | None) -> str:
    """The median."""
    return f"{timed.summary.median:.3g} s" if timed else ""


def ratio(timed: Timed | None) -> str:
    """How many times as long as ours."""
    return f"{timed.ratio.value:.2f}" if timed and timed.ratio else ""


def interval(timed: Timed) -> str:
    """The ratio with its interval and how sure that is, if there are turns enough."""
    if timed.ratio is None:
        return ""
    if not timed.has_interval:
        return f"{timed.ratio.value:.3f}"
    sure = sign_test_confidence(len(timed.peer_s))
    return f"{timed.ratio.value:.3f} [{timed.ratio.low:.3f}, {timed.ratio.high:.3f}] {sure:.0%}"


def share(results: Results, timed: Timed | None) -> str:
    """Of the machine's limit."""
    found = results.share_of_limit(timed) if timed else None
    return f"{found:.0%}" if found else ""


def error(timed: Timed | None) -> str:
    """Relative L2, with ≠ outside of what is tolerated."""
    if timed is None or timed.peer_error is None:
        return ""
    mark = "" if timed.is_close else " ≠"
    return f"{timed.peer_error['relative_l2']:.1e}{mark}"


def memory(start: Start | None) -> str:
    """The peaks, anonymous and of all pages."""
    if start is None:
        return ""
    peaks = (start.peak_anonymous_bytes, start.peak_resident_bytes)
    return " / ".join(map(gigabytes, peaks))


def gigabytes(count: float | None) -> str:
    """Bytes as GB."""
    return f"{count / 1e9:.2f} GB" if count else ""
