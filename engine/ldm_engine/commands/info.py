"""The command ``ldm-engine info``: what is inside a bundle."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import click

from ..bundle.bundle import Bundle
from ..bundle.manifest import open_bundle
from . import console


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print the manifest's facts as JSON.")
@console.debug_option
def info(bundle: Path, as_json: bool) -> None:
    """Show what is inside BUNDLE.

    Programs, tensors, sizes, how closely each program agrees with the original model, the versions
    it was made with, and which runtime would be chosen on this machine and why.
    """
    opened = open_bundle(bundle)
    if as_json:
        print(json.dumps(_as_json(opened), indent=2))
    else:
        console.print_bundle(opened)


def _as_json(bundle: Bundle) -> dict[str, Any]:
    facts = asdict(replace(bundle, path=str(bundle.path)))  # type: ignore[arg-type]
    del facts["manifest_stamp"]
    return {**facts, "digest": bundle.digest, "formats": bundle.formats}
