"""Where a bundle goes: checked before the work, moved into place after it, nothing lost between."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ldm_engine.bundle.bundle import (
    MANIFEST,
    PROMPTS,
    REFERENCE,
    SCHEDULER_CONFIG,
    SOLVERS,
    VOCABULARY,
    read_json_object,
)
from ldm_engine.bundle.contract import TABLE
from ldm_engine.bundle.formats import FORMAT_FILES, engine_file_name, program_file_names
from ldm_engine.errors import BundleError, LDMEngineError, OutputError
from ldm_engine.machine.files import FOLDER_MODE, make_folder

#: All that a bundle can hold.
_OWN_NAMES = {
    MANIFEST,
    SCHEDULER_CONFIG,
    VOCABULARY,
    REFERENCE,
    PROMPTS,
    SOLVERS,
    *TABLE,
    *(n for program in TABLE for f in FORMAT_FILES for n in program_file_names(program, f)),
}


def check_target(out: Path, force: bool) -> Path:
    """The real path behind `out`, if a bundle may be written there.

    It may where nothing is or an empty folder is, and with `force` over a bundle, whole or damaged,
    that holds nothing but what belongs to a bundle.

    Raises:
        OutputError: if something is in the way.
    """
    try:
        out = out.resolve()
        if not out.exists():
            return out
        if os.path.ismount(out):  # Windows has `Path.is_mount` from Python 3.12 on
            raise OutputError(
                f"{out} is a mount point, which cannot be replaced as a whole. "
                f"Choose a folder inside it, such as {out / 'bundle'}."
            )
        if not out.is_dir():
            raise OutputError(f"{out} is a file. Choose a folder that does not exist yet.")
        present = {p.relative_to(out).as_posix() for p in out.rglob("*")}
    except (OSError, RuntimeError, ValueError) as error:
        if isinstance(error, LDMEngineError):
            raise
        raise OutputError(f"{out} cannot be written to: {error}. Choose another folder.") from error
    if present:
        _check_replaceable(out, present, force)
    return out


def _check_replaceable(out: Path, present: set[str], force: bool) -> None:
    foreign = sorted(name for name in present - _OWN_NAMES if not _is_engine(name))
    if not _is_bundle(out) and (foreign or not force):
        raise OutputError(
            f"{out} exists and is not a bundle; it is left alone. Choose a folder that does not "
            "exist yet."
        )
    if not force:
        raise OutputError(
            f"{out} already holds a bundle. Choose another folder, or pass --force to replace it."
        )
    if foreign:
        raise OutputError(
            f"{out} holds what is no part of its bundle, and replacing it would lose that: "
            f"{', '.join(foreign[:5])}{' …' if len(foreign) > 5 else ''}. "
            "Move it, or choose another folder."
        )


def _is_engine(name: str) -> bool:
    """Whether it is that of a TensorRT engine, of which there can be any number."""
    number = Path(name).stem.rpartition("_")[2]
    program = name.partition("/")[0]
    return (
        program in TABLE and number.isdecimal() and name == engine_file_name(program, int(number))
    )


def _is_bundle(folder: Path) -> bool:
    try:
        return {"format_version", "programs", "files"} <= read_json_object(folder / MANIFEST).keys()
    except BundleError:
        return False


@contextmanager
def staging_folder(out: Path) -> Iterator[Path]:
    """A folder beside `out` to write into; it becomes `out` when the block ends without an error.

    Raises:
        OutputError: if the disk is full or `out` cannot be written; what was there is untouched.
    """
    make_folder(out.parent)
    staging = None
    try:
        staging = _folder_beside(out, "partial")
        staging.chmod(FOLDER_MODE)
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
        if staging is not None:
            shutil.rmtree(staging, ignore_errors=True)


def _folder_beside(out: Path, kind: str) -> Path:
    return Path(tempfile.mkdtemp(prefix=f".{out.name[:100]}.{kind}-", dir=out.parent))


def _move_into_place(staging: Path, out: Path) -> None:
    """Swap by two renames; if the second fails, the first is undone, and nothing is lost."""
    if not out.exists():
        staging.replace(out)
        return
    aside = _folder_beside(out, "old") / "bundle"
    try:
        out.replace(aside)
        staging.replace(out)
    except BaseException as error:
        if aside.exists() and not out.exists():
            _restore(aside, out, error)
        if not aside.exists():
            with suppress(OSError):
                aside.parent.rmdir()
            raise
        shutil.rmtree(aside.parent, ignore_errors=True)  # the swap was complete
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
