"""The command ``ldm-engine cache``: what the user's cache folder holds, and its removal."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress

import click

from ..bundle.bundle import MANIFEST, read_json_object
from ..errors import BundleError, InvalidArgumentError
from ..machine.cache import VARIABLE, cache_root
from ..machine.cache_entries import BUNDLES, KINDS, Entry, cache_entries, remove_entry
from . import console


@click.command()
@click.option(
    "--remove",
    "names",
    multiple=True,
    metavar="NAME",
    help="Remove what the list calls so; a kind such as openvino removes all of it, and a "
    "checkpoint's id the bundles that were exported from it. May be given several times.",
)
@click.option("--clear", is_flag=True, help="Remove all that is in the cache.")
@console.debug_option
def cache(names: tuple[str, ...], clear: bool) -> None:
    """List what is kept in the cache folder, or remove it.

    All of it is made again when it is needed: bundles that were exported from checkpoints, compiled
    models, encoded texts. Remove nothing that something is rendering with.
    """
    if names and clear:
        raise click.UsageError("--remove is given beside --clear, which removes all; give one.")
    root = cache_root()
    if root is None:
        raise InvalidArgumentError(
            f"{VARIABLE} is 'off', and there is no cache folder. Set it to a folder, or unset it."
        )
    entries = list(cache_entries())
    if not (names or clear):
        _print(str(root), entries)
        return
    chosen = entries if clear else _chosen(entries, names)
    for entry in chosen:
        remove_entry(entry)
    freed = console.size_text(sum(entry.bytes for entry in chosen))
    console.out.print(f"{len(chosen)} entries with {freed} were removed.")


def _chosen(entries: Sequence[Entry], names: Sequence[str]) -> list[Entry]:
    """The entries with these names, or of these kinds or checkpoints."""
    chosen = {name: [e for e in entries if name in (e.name, e.kind, _source(e))] for name in names}
    unknown = [repr(name) for name, found in chosen.items() if not found and name not in KINDS]
    if unknown:
        raise InvalidArgumentError(
            f"The cache has no {', '.join(unknown)}. `ldm-engine cache` lists what it has; the "
            "names and kinds there are accepted, and the ids of checkpoints."
        )
    return list(dict.fromkeys(entry for found in chosen.values() for entry in found))


def _source(entry: Entry) -> str | None:
    """The checkpoint that a bundle was exported from."""
    if entry.kind == BUNDLES:
        with suppress(BundleError, KeyError, TypeError):
            return str(read_json_object(entry.path / "bundle" / MANIFEST)["model"]["source"])
    return None


def _print(root: str, entries: Sequence[Entry]) -> None:
    table = console.plain_table("name", "what", ">size", "last used")
    for entry in sorted(entries, key=lambda entry: -entry.used):
        source = _source(entry)
        what = KINDS[entry.kind] + (f", {source}" if source else "")
        used = time.strftime("%Y-%m-%d %H:%M", time.localtime(entry.used))
        table.add_row(
            console.plain(entry.name), console.plain(what), console.size_text(entry.bytes), used
        )
    if entries:
        console.print_whole(table)
    total = console.size_text(sum(entry.bytes for entry in entries))
    console.out.print(f"{len(entries)} entries with {total} in {console.plain(root)}")
