"""The command ``ldm-engine info``: what is inside a bundle."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import click

from ..bundle.bundle import Bundle
from ..bundle.manifest import open_bundle
from ..sampling.fitted import Tables
from ..sampling.schedule import NoiseSchedule
from ..sampling.solvers_file import load_tables
from . import console
from .bundles import bundle_folder
from .solver_tables import print_tables


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print the manifest's facts as JSON.")
@console.debug_option
def info(bundle: Path, as_json: bool) -> None:
    """Show what is inside BUNDLE.

    Programs, tensors, sizes, how closely each program agrees with the original model, the versions
    it was made with, which runtime would be chosen on this machine and why, and the solvers that
    were fitted to it.
    """
    opened = open_bundle(bundle_folder(bundle))
    tables = load_tables(opened, NoiseSchedule.from_config(opened.scheduler_config))
    if as_json:
        print(json.dumps(_as_json(opened, tables), indent=2))
        return
    console.print_bundle(opened)
    console.out.print()
    print_tables(tables)


def _as_json(bundle: Bundle, tables: Tables) -> dict[str, Any]:
    facts = asdict(replace(bundle, path=str(bundle.path)))  # type: ignore[arg-type]
    del facts["manifest_stamp"]
    facts |= {"digest": bundle.digest, "formats": bundle.formats}
    solvers = [asdict(table) for table in tables.tables]
    return {**facts, "solvers": solvers, "solvers_fault": tables.fault or None}
