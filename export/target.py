"""Where a bundle goes: checked before the work, moved into place after it, nothing lost between."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ldm_engine.bundle import MANIFEST, read_json_object
from ldm_engine.errors import BundleError, LDMEngineError, OutputError
from ldm_engine.files import make_folder


def check_target(out: Path, force: bool) -> Path:
    """The real path behind `out`, if a bundle may be written there.

    It may where nothing is or an empty folder is, and with `force` over a bundle that holds nothing
    but its own files.

    Raises:
        OutputError: if something is in the way.
    """
    try:
        out = out.resolve()
        if not out.exists():
            return out
        if out.is_mount():
            raise OutputError(
                f"{out} is a mount point, which cannot be replaced as a whole. "
                f"Choose a folder inside it, such as {out / 'bundle'}."
            )
        if not out.is_dir():
            raise OutputError(f"{out} is a file. Choose a folder that does not exist yet.")
        present = _files_below(out)
    except (OSError, RuntimeError, ValueError) as error:
        if isinstance(error, LDMEngineError):
            raise
        raise OutputError(f"{out} cannot be written to: {error}. Choose another folder.") from error
    if any(out.iterdir()):
        _check_replaceable(out, present, force)
    return out


def _files_below(folder: Path) -> set[str]:
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if not p.is_dir()}


def _check_replaceable(out: Path, present: set[str], force: bool) -> None:
    try:
        manifest = read_json_object(out / MANIFEST)
        own = {MANIFEST, *manifest["files"]}
        manifest["format_version"], manifest["programs"]
    except (BundleError, KeyError, TypeError):
        raise OutputError(
            f"{out} exists and is not a bundle; it is left alone. Choose a folder that does not "
            "exist yet."
        ) from None
    if not force:
        raise OutputError(
            f"{out} already holds a bundle. Choose another folder, or pass --force to replace it."
        )
    foreign = sorted(present - own)
    if foreign:
        raise OutputError(
            f"{out} holds files that are no part of its bundle, and replacing it would lose them: "
            f"{', '.join(foreign[:5])}{' …' if len(foreign) > 5 else ''}. "
            "Move them, or choose another folder."
        )


@contextmanager
def staging_folder(out: Path) -> Iterator[Path]:
    """A folder beside `out` to write into; it becomes `out` when the block ends without an error.

    Raises:
        OutputError: if the disk is full or `out` cannot be written; what was there is untouched.
    """
    make_folder(out.parent)
    staging = Path(tempfile.mkdtemp(prefix=f".{out.name}.partial-", dir=out.parent))
    try:
        staging.chmod(0o755)
        yield staging
        _move_into_place(staging, out)
    except LDMEngineError:
        raise
    except OSError as error:
        raise OutputError(
            f"The bundle could not be written to {out}: {error.strerror or error}. "
            "Nothing was left behind; make room or choose another folder, and export again."
        ) from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _move_into_place(staging: Path, out: Path) -> None:
    """Swap by two renames; if the second fails, the first is undone, and nothing is deleted."""
    if not out.exists():
        staging.replace(out)
        return
    aside = Path(tempfile.mkdtemp(prefix=f".{out.name}.old-", dir=out.parent)) / out.name
    try:
        out.replace(aside)
        staging.replace(out)
    except BaseException as error:
        if aside.exists() and not out.exists():
            _restore(aside, out, error)
        os.rmdir(aside.parent)  # noqa: PTH106
        raise
    shutil.rmtree(aside.parent, ignore_errors=True)


def _restore(aside: Path, out: Path, cause: BaseException) -> None:
    try:
        aside.replace(out)
    except OSError as error:
        raise OutputError(
            f"The new bundle could not be moved to {out} ({cause}), nor the old one back "
            f"({error}). The old one is whole, in {aside}: move it back by hand."
        ) from cause
