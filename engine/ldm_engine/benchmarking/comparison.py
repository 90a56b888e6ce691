"""Two results side by side: which rows are faster, slower, or within noise, and which of it counts.

A ratio is new time over old time, so that above 1 is slower, for throughput too.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from ..errors import ResultsError
from .results import END_TO_END, SINGLE_STREAM, UNET, Results, Row, Samples, Settings
from .statistics import Ratio, ratio_of_medians, summarize

MIN_SAMPLES = 5  #: calls; of fewer, an interval says nothing
#: What a user waits for. The other stages are a small part of that, and host times of a tenth of a
#: millisecond double without anybody noticing.
DECIDING_STAGES = (END_TO_END, UNET)
FASTER, SLOWER, NOISE, FEW = "faster", "slower", "within noise", "too few samples"


@dataclass(frozen=True)
class Compared:
    """One row of both results."""

    row: Row
    old_median_s: float
    new_median_s: float
    ratio: Ratio | None  #: None with too few samples

    @property
    def verdict(self) -> str:
        """What the interval of the ratio says: noise, if it contains 1."""
        if self.ratio is None:
            return FEW
        if self.ratio.low > 1:
            return SLOWER
        return FASTER if self.ratio.high < 1 else NOISE

    def is_slowdown(self, tolerance: float) -> bool:
        """Whether this row counts, is certainly slower, and by more than `tolerance`."""
        return (
            self.row.stage in DECIDING_STAGES
            and self.ratio is not None
            and self.verdict == SLOWER
            and self.ratio.value > 1 + tolerance
        )


def check_comparable(path: Path, old: Results, settings: Settings, rows: Iterable[Row]) -> None:
    """Refuse what cannot be compared, before anything is measured.

    Raises:
        ResultsError: if `old`, read from `path`, measured other work, or none of the `rows`.
    """
    before, now = old.settings.work, settings.work
    differing = [name for name in now if before[name] != now[name]]
    if differing:
        listing = "\n".join(f"  {n}: there {before[n]}, here {now[n]}" for n in differing)
        raise ResultsError(
            f"{path} measured other work:\n{listing}\n"
            "Only the same work can be compared. Give these options as they were there, or "
            "measure both anew."
        )
    if not old.rows.keys() & set(rows):
        measured = "; ".join(str(m) for m in old.measurements) or "nothing"
        raise ResultsError(
            f"{path} has no row in common with what is to be measured. It holds {measured}, for "
            f"{' and '.join(old.scenarios)}. Choose --runtime, --precision, --scenario or "
            "--batch-size to match."
        )


def compare(old: Results, new: Results) -> list[Compared]:
    """Every row that both have, in the order of `new`; what both scenarios share stands once."""
    before, now = old.rows, new.rows
    common = [row for row in now if row in before]
    return [
        _compare(row, before[row], now[row])
        for row in common
        if row.scenario == SINGLE_STREAM or replace(row, scenario=SINGLE_STREAM) not in common
    ]


def _compare(row: Row, old: Samples, new: Samples) -> Compared:
    is_enough = min(len(old), len(new)) >= MIN_SAMPLES
    ratio = ratio_of_medians(new, old) if is_enough else None
    return Compared(row, summarize(old).median, summarize(new).median, ratio)


def differences(old: Results, new: Results) -> list[str]:
    """What else changed between the two, besides what is to be found out."""
    notes = []
    before, now = old.bundle, new.bundle
    if before.digest != now.digest:
        notes.append(
            f"The bundle is another: {before.digest[:12]} ({before.source}) there, "
            f"{now.digest[:12]} ({now.source}) here."
        )
    for what, then, here, names in (
        ("machine", old.machine, new.machine, {**old.machine, **new.machine}),
        ("versions", old.versions, new.versions, old.versions.keys() & new.versions.keys()),
    ):
        changed = sorted(n for n in names if then.get(n) != here.get(n))
        if changed:
            listing = "; ".join(f"{n} {then.get(n)} there, {here.get(n)} here" for n in changed)
            notes.append(f"Other {what}: {listing}.")
    missing = sorted({f"{r.runtime} {r.precision}" for r in old.rows.keys() - new.rows.keys()})
    if missing:
        notes.append(f"Not compared, as not all of it was measured here: {', '.join(missing)}.")
    if not old.is_complete:
        notes.append("The older run was interrupted; it holds what it had measured by then.")
    return notes
