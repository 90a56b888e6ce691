"""Tables for one guidance: fitted to some images, and judged on others."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import LDMEngineError
from ..sampling.fitted import Origin, Table
from ..sampling.pipeline import LDMTextToImagePipeline
from ..sampling.solvers import Row, ddim_rows, dpmsolver_rows, fitted_rows
from ..sampling.values import number_text
from .fit import Weights, fit_weights
from .images import Array, Images, batches
from .judging import figures, psnr
from .reference import MARGIN_DB, STEPS, reference_rows
from .saved import Saved

Values = NDArray[np.float64]
DDIM_STEPS = 50  #: of what fitted solvers are compared with


def uncounted(calls: int) -> None:
    """What is called with counts that nobody wants."""


@dataclass(frozen=True)
class Work:
    """What is to be fitted, and with what."""

    steps: tuple[int, ...]  #: of the tables to be made
    prompts: tuple[str, ...]  #: to fit to
    held_out: tuple[str, ...]  #: to judge on
    images: int  #: to fit to; prompts are taken in turn, each time with another seed
    held_out_images: int  #: to judge on, likewise
    origin: Origin
    reference_steps: int = STEPS


class TableMaker:
    """Makes the tables of one guidance with a pipeline, whose programs nobody else uses meanwhile.

    What was computed is kept in `saved`, which belongs to this pipeline and work.
    """

    def __init__(
        self,
        pipe: LDMTextToImagePipeline,
        work: Work,
        guidance_scale: float,
        saved: Saved,
    ) -> None:
        self._pipe, self._work, self._guidance, self._saved = pipe, work, guidance_scale, saved
        self._calls = 0
        self._on_calls: Callable[[int], None] = uncounted
        self._schedule = pipe.schedule
        self._grids = {n: tuple(self._schedule.log_snr_timesteps(n)) for n in work.steps}

    @property
    def calls(self) -> int:
        """Calls of the UNet that all takes."""
        coarse = sum(self._work.steps)
        fitting = len(self._reference(self._wanted)) + coarse
        judging = len(self._reference()) + DDIM_STEPS + 2 * coarse
        return (
            fitting * len(list(batches(self._work.images)))
            + judging * len(list(batches(self._work.held_out_images)))
            + len(self._reference(finer=2))
        )

    def tables(self, on_calls: Callable[[int], None] = uncounted) -> Iterator[Table]:
        """A table for each number of steps, with its figures.

        `on_calls` is called with how many calls of the UNet are made, or were kept; what it raises
        ends the work.

        Raises:
            OutputError: if what was computed cannot be kept.
            LDMEngineError: if pictures come out as NaN.
        """
        self._on_calls = on_calls
        weights = self._fit()
        solvers = {"ddim": ddim_rows(self._schedule, DDIM_STEPS, 0.0)}
        for n, grid in self._grids.items():
            solvers[f"dpmsolver-{n}"] = dpmsolver_rows(self._schedule, grid)
            solvers[f"fitted-{n}"] = fitted_rows(self._schedule, grid, weights[n])
        reference_db, values = self._judge(solvers)
        measured = {name: figures(of_images) for name, of_images in values.items()}
        for n, grid in self._grids.items():
            yield Table(
                self._guidance,
                grid,
                weights[n],
                figures=figures(values[f"fitted-{n}"], most=reference_db - MARGIN_DB),
                ddim_50=measured["ddim"],
                dpmsolver=measured[f"dpmsolver-{n}"],
                reference_db=reference_db,
                origin=self._work.origin,
            )

    def _fit(self) -> dict[int, Weights]:
        """The weights for each number of steps."""
        images = self._images(self._work.prompts, 0, self._work.images)
        wanted = self._wanted
        rows = self._reference(wanted)
        walks = [
            self._kept(
                f"reference-{self._guidance!r}-{part.start}",
                partial(_named, images.part(part), rows, wanted),
                len(rows),
            )
            for part in batches(len(images))
        ]
        reference = {
            timestep: np.concatenate([walk[str(timestep)] for walk in walks])
            for timestep in (*wanted, None)
        }
        self._require_finite("the reference", reference[None])
        return {
            n: fit_weights(images, reference, grid, self._schedule)
            for n, grid in self._grids.items()
        }

    def _judge(self, solvers: Mapping[str, Sequence[Row]]) -> tuple[float, dict[str, Values]]:
        """How good the reference is, and the PSNR of the held-out images by each solver."""
        count = self._work.held_out_images
        parts = [
            self._kept(
                f"judged-{self._guidance!r}-{part.start}",
                partial(self._judge_part, solvers, part.start, min(part.stop, count)),
                sum(len(rows) for rows in (self._reference(), *solvers.values()))
                + (0 if part.start else len(self._reference(finer=2))),
            )
            for part in batches(count)
        ]
        values = {name: np.concatenate([part[name] for part in parts]) for name in solvers}
        for name, measured in values.items():
            self._require_finite(name, measured)
        return float(parts[0]["reference"][0]), values

    def _judge_part(
        self, solvers: Mapping[str, Sequence[Row]], start: int, stop: int
    ) -> dict[str, Values]:
        """The PSNR of some held-out images; with the first ones, how good the reference is."""
        # Other seeds than those that were fitted to.
        images = self._images(self._work.held_out, start, stop, self._work.images)
        reference = images.decode(images.walk(self._reference())[None])
        values = {
            name: psnr(images.decode(images.walk(rows)[None]), reference)
            for name, rows in solvers.items()
        }
        if start == 0:
            finer = images.decode(images.walk(self._reference(finer=2))[None])
            values["reference"] = psnr(reference, finer).min(keepdims=True)
        return values

    @property
    def _wanted(self) -> list[int]:
        """The timesteps of all tables."""
        return sorted({timestep for grid in self._grids.values() for timestep in grid})

    def _reference(self, wanted: Collection[int] = (), finer: int = 1) -> tuple[Row, ...]:
        return reference_rows(self._schedule, finer * self._work.reference_steps, wanted)

    def _kept(
        self, name: str, make: Callable[[], Mapping[str, Values | Array]], calls: int
    ) -> dict[str, Any]:
        """What `make` gives in so many `calls`, or gave before."""
        before = self._calls
        arrays = self._saved.arrays(name, make)
        if self._calls == before:
            self._count(calls)
        return arrays

    def _count(self, calls: int = 1) -> None:
        self._calls += calls
        self._on_calls(calls)

    def _require_finite(self, what: str, values: NDArray[np.floating]) -> None:
        if not np.isfinite(values).all():
            raise LDMEngineError(
                f"At a guidance of {number_text(self._guidance)}, pictures of {what} came out as "
                "NaN or infinity. Check the bundle with `ldm-engine verify`, or fit a smaller "
                "guidance."
            )

    def _images(self, prompts: Sequence[str], start: int, stop: int, seed: int = 0) -> Images:
        """Image i has prompt i, or where those end one of them again, and the seed `seed` + i."""
        texts = [prompts[i % len(prompts)] for i in range(start, stop)]
        seeds = range(seed + start, seed + stop)
        return Images(self._pipe, texts, seeds, self._guidance, self._count)


def _named(images: Images, rows: Sequence[Row], wanted: Collection[int]) -> dict[str, Array]:
    """A walk whose arrays have names."""
    return {str(timestep): x for timestep, x in images.walk(rows, wanted).items()}
