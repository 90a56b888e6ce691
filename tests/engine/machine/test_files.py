from __future__ import annotations

import os
import stat
import subprocess
import sys

import pytest

from ldm_engine.errors import OutputError
from ldm_engine.machine.files import make_folder, write_atomically

# A limit on file size makes the kernel refuse a write half-way, as a full disk does.
FULL_DISK = """
import resource, signal, sys
from pathlib import Path
from ldm_engine.errors import OutputError
from ldm_engine.machine.files import write_atomically
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    write_atomically(Path(sys.argv[1]), b"new" * 1000)
except OutputError as error:
    print(error)
    sys.exit(7)
"""


def test_a_file_is_replaced_with_ordinary_permissions(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    write_atomically(path, b"new")
    assert path.read_bytes() == b"new"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
    mask = os.umask(0)
    os.umask(mask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~mask


def test_when_the_disk_is_full_the_old_file_survives(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 7, done.stderr
    assert "unchanged" in done.stdout
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_folder_that_is_a_file_is_refused(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with pytest.raises(OutputError, match="another folder"):
        make_folder(path)
    with pytest.raises(OutputError, match="could not be written"):
        write_atomically(path / "below", b"new")
    assert path.read_bytes() == b"old"
