"""Opening a bundle to run it: manifest, runtime, options, noise schedule and hashes, each once.

Whoever runs a bundle begins here and hands on what was opened.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from ..bundle.bundle import SCHEDULER_CONFIG, Bundle
from ..bundle.contract import OPTIONAL_PROGRAMS, PROGRAMS
from ..bundle.manifest import open_bundle
from ..errors import LDMEngineError, RuntimeUnavailableError
from ..machine.events import LOG, timed
from ..runtimes.base import Program, RuntimeOptions
from ..runtimes.choice import (
    RUNTIMES,
    Choice,
    check_options,
    choose_runtime,
    require,
    resolve_options,
)
from .fitted import Tables
from .request import Request, resolve_request
from .schedule import NoiseSchedule
from .settings import Limits
from .solvers_file import load_tables


@dataclass(frozen=True)
class Opened:
    """A bundle that was read, and how it is run here."""

    bundle: Bundle
    choice: Choice
    options: RuntimeOptions
    schedule: NoiseSchedule
    tables: Tables  #: of the solvers that were fitted to the bundle
    checks_hashes: bool = True  #: of optional programs, when they are opened

    @property
    def limits(self) -> Limits:
        """What the bundle accepts of an image."""
        try:
            self._require("vae_encoder")
            no_pictures = ""
        except LDMEngineError as error:
            no_pictures = str(error)
        return Limits(self.bundle.model, self.schedule, self.tables, no_pictures)

    def request(self, settings: Mapping[str, Any], latents: Any = None) -> Request:
        """The settings of a call of a pipeline over this, checked: see ``resolve_request``."""
        return resolve_request(self.limits, settings, latents)

    def open_program(self, name: str) -> Program:
        """Load one program with its weights.

        Raises:
            BundleError: if it is optional, and the bundle lacks it, or its files are damaged.
            RuntimeUnavailableError: if it is optional, and outside its tolerance in this precision.
        """
        if name in OPTIONAL_PROGRAMS:
            self._require(name)
            if self.checks_hashes:
                self.bundle.check_changed_files(self._files_of(name))
        with timed("loaded the program %s", name):
            return self.choice.runtime.open(self.bundle, name, self.options)

    def _require(self, optional: str) -> None:
        """What was looked at of the programs that every bundle has when it was opened."""
        self.bundle.require_program(optional)
        runtime, precision = self.choice.runtime.name, self.options.precision
        measured = self.bundle.outside(runtime, precision, optional)
        if measured:
            raise RuntimeUnavailableError(
                f"The program {optional} cannot be used in {runtime} {precision}: the export "
                f"measured it outside its tolerance there ({measured}). Use another precision, "
                "such as fp32."
            )

    def check_hashes(
        self, on_bytes: Callable[[int, int], None] = lambda count, total: None
    ) -> None:
        """Compare the files that are needed with the manifest's hashes.

        `on_bytes` is as of ``Bundle.check_changed_files``.

        A file that had its hash is read again only when its size or times have changed. Those of
        optional programs are looked at when these are opened.

        Raises:
            BundleError: naming every missing or altered file.
        """
        programs = [file for program in PROGRAMS for file in self._files_of(program)]
        others = [name for name in self.bundle.files if "/" not in name]
        self.bundle.check_changed_files(programs + others, on_bytes)

    def _files_of(self, program: str) -> tuple[str, ...]:
        """The files that a program is run from."""
        format_name = self.choice.runtime.format_of(program, self.options.precision)
        return self.bundle.programs[program].formats[format_name].files

    def in_fp32(self) -> Opened:
        """The same bundle in fp32, in the runtime that computes in it from the same files."""
        runtime = self.choice.runtime
        if self.options.precision != "fp32" and runtime.fp32_runtime is not None:
            runtime = RUNTIMES[runtime.fp32_runtime]
        options = replace(self.options, precision="fp32")
        return replace(self, choice=replace(self.choice, runtime=runtime), options=options)


def open_to_run(
    path: str | os.PathLike[str],
    *,
    runtime: str = "auto",
    precision: str = "fp32",
    device: str = "cpu",
    threads: int | None = None,
) -> Opened:
    """Read the bundle at `path` and choose how to run it; no program is loaded.

    The arguments are those of ``LDMTextToImagePipeline.from_pretrained``, which names what is
    raised.
    """
    return choose_for(open_bundle(path), runtime, precision, device, threads)


def choose_for(
    bundle: Bundle, runtime: str, precision: str, device: str, threads: int | None
) -> Opened:
    """How to run a `bundle` that was read before."""
    require(check_options(runtime, precision, device, threads))
    choice = choose_runtime(bundle, runtime, precision, device)
    bundle.check_files([SCHEDULER_CONFIG])  # before it is believed
    options = resolve_options(choice.runtime, device, precision, threads)
    LOG.info(
        "the runtime is %s, in %s on %s with %s threads: %s",
        choice.runtime.name, precision, device, options.threads, choice.reason,
    )  # fmt: skip
    return prepare(bundle, choice, options)


def prepare(bundle: Bundle, choice: Choice, options: RuntimeOptions) -> Opened:
    """What runs a `bundle` for which a runtime was chosen before."""
    schedule = NoiseSchedule.from_config(bundle.scheduler_config)
    return Opened(bundle, choice, options, schedule, load_tables(bundle, schedule))
