"""Which files a path, a folder, a pattern or a URL of such stands for, sorted by name."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ..errors import InputError
from .remote import import_fsspec, is_url

_PATTERN = re.compile(r"[*?\[]")
_HIDDEN = re.compile(r"(?:^|/)[._]")
#: Tables whose folders hold files that no longer count.
_LOGGED = {"_delta_log": "a Delta table", ".hoodie": "a Hudi table"}


@dataclass(frozen=True)
class _Listed:
    """What a folder or a pattern holds."""

    folder: str  #: that is listed; of a pattern, what is before its first sign
    files: Sequence[str]
    is_folder: bool

    def taken(self, endings: tuple[str, ...]) -> list[str]:
        """Those that count, sorted."""
        if not self.is_folder:
            return sorted(self.files)
        shown = (f for f in self.files if not _HIDDEN.search(f[len(self.folder) :]))
        return sorted(f for f in shown if f.lower().endswith(endings))

    def folders(self) -> set[str]:
        """The names of the folders below."""
        below = (f[len(self.folder) :].split("/")[:-1] for f in self.files)
        return {name for names in below for name in names}


def list_files(name: str, endings: Iterable[str]) -> list[str]:
    """The files that `name` stands for: itself if there is such a file, else what is listed.

    Of a folder those with one of the `endings`, in folders within it too; what begins with a dot
    or an underscore is left out, as programs name what they put beside their files.

    Raises:
        InputError: if there are none, or the folder cannot be taken for its files.
    """
    listed = _remote(name) if is_url(name) else _local(name)
    if listed is None:
        return [name]
    for folder in listed.folders():
        if folder in _LOGGED:
            raise InputError(
                f"{name} is {_LOGGED[folder]}, whose files do not all count; files of jobs are "
                "accepted. Write the table's present rows to Parquet."
            )
        if "=" in folder:
            raise InputError(
                f"{name} has the folder {folder[:80]}, a column that is written in names; columns "
                "in files are accepted. Write it without partitions."
            )
    accepted = tuple(endings)
    taken = listed.taken(accepted)
    if not taken:
        kinds = f" of {', '.join(filter(None, accepted))}" if any(accepted) else ""
        what = f"holds no file{kinds}" if listed.is_folder else "matches no file"
        raise InputError(f"{name} {what}. Give a file of jobs, or a folder or pattern of such.")
    return taken


def _local(name: str) -> _Listed | None:
    """What a path lists; None for a file."""
    name = name.replace(os.sep, "/")
    path = Path(name)
    if path.is_dir():
        walked = [Path(root, file) for root, _, files in os.walk(path) for file in files]
        return _Listed(f"{path}/", [file.as_posix() for file in walked], True)
    sign = _PATTERN.search(name)
    if path.exists() or not sign:
        return None
    found = [f for f in glob.glob(name, recursive=True) if Path(f).is_file()]  # noqa: PTH207
    files = [file.replace(os.sep, "/") for file in found]
    return _Listed(name[: name.rfind("/", 0, sign.start()) + 1], files, False)


def _remote(url: str) -> _Listed | None:
    """The same for a URL; where a store cannot say, it is a file's."""
    if "::" in url or url.startswith(("http:", "https:")):
        return None
    with suppress(Exception):  # whatever is wrong is reported where the file is opened
        files, path = import_fsspec().core.url_to_fs(url)
        if files.isfile(path):
            return None
        if files.isdir(path):
            found = [files.unstrip_protocol(f) for f in files.find(path)]
            return _Listed(f"{files.unstrip_protocol(path.rstrip('/'))}/", found, True)
        if sign := _PATTERN.search(path):
            folder = files.unstrip_protocol(path[: path.rfind("/", 0, sign.start()) + 1])
            facts = files.glob(path, detail=True)
            paths = [f for f in facts if facts[f]["type"] != "directory"]
            return _Listed(folder, [files.unstrip_protocol(f) for f in paths], False)
    return None
