"""Makes of this process one that has what Python has on Windows or macOS, before the engine comes.

What is missing there is removed, and what behaves in another way is replaced. Libraries that look
at the system when they are imported are imported before. C++ still sees Linux, and ``os.name``
stays: paths are those of this system.
"""

from __future__ import annotations

import ctypes
import errno
import importlib
import os
import platform
import shutil
import signal
import sys
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any

_LIBRARIES = (
    "asyncio", "click.testing", "ctypes.util", "glob", "multiprocessing.connection", "numpy",
    "onnxruntime", "openvino", "PIL.Image", "PIL.PngImagePlugin", "rich.progress", "rich.table",
    "select", "socket", "subprocess", "tempfile", "tokenizers", "uuid",
)  # fmt: skip
_NOT_ON_MACOS = """
    copy_file_range eventfd fdatasync getrandom memfd_create pipe2 posix_fadvise posix_fallocate
    sched_getaffinity sched_setaffinity splice O_DIRECT O_PATH O_TMPFILE
"""
_NOT_ON_WINDOWS = """
    chown confstr fchdir fchmod fchown fork forkpty getegid geteuid getgid getloadavg getpgid
    getpriority getuid killpg lchown lockf mkfifo mknod nice posix_spawn pread preadv pwrite
    register_at_fork sched_yield sendfile setsid statvfs sync sysconf sysconf_names uname wait
    wait3 wait4 O_CLOEXEC O_DIRECTORY O_NOCTTY O_NOFOLLOW O_NONBLOCK O_SYNC
"""
_SIGNALS_OF_WINDOWS = (
    "SIGABRT", "SIGFPE", "SIGILL", "SIGINT", "SIGSEGV", "SIGTERM", "SIGBREAK",
)  # fmt: skip
_MODULES_NOT_ON_WINDOWS = ("fcntl", "grp", "posix", "pty", "pwd", "resource", "termios", "tty")


def become(system: str, *libraries: str) -> None:
    """Make this process one on "windows" or "macos"; `libraries` are imported before, too."""
    for name in (*_LIBRARIES, *libraries):
        importlib.import_module(name)
    platform.uname()  # is kept
    assert not [name for name in sys.modules if name.startswith(("ldm_engine", "ldm_export"))]
    _remove(os, _NOT_ON_MACOS.split())
    tempfile._O_TMPFILE_WORKS = False  # type: ignore[attr-defined]  # it looked on import
    is_windows = system == "windows"
    if is_windows:
        _become_windows()
    _replace_libc(is_windows)
    sys.addaudithook(lambda event, args: event == "open" and _check_open(is_windows, *args))
    sys.platform = "win32" if is_windows else "darwin"


def _become_windows() -> None:
    sys.modules["msvcrt"] = _msvcrt()
    for name in _MODULES_NOT_ON_WINDOWS:
        sys.modules[name] = None  # type: ignore[assignment]
    _remove(os, _NOT_ON_WINDOWS.split())
    # These looked when they were imported.
    shutil._USE_CP_SENDFILE = shutil._use_fd_functions = False  # type: ignore[attr-defined]
    kill, set_handler = os.kill, signal.signal

    def kill_on_windows(pid: int, number: int) -> None:
        assert number, "which sends a Ctrl-C to whatever has that number"
        kill(pid, number)

    def set_handler_on_windows(number: int, handler: Any) -> Any:
        if number not in accepted:
            raise ValueError(f"invalid signal value: {number}")
        return set_handler(number, handler)

    signal.SIGBREAK = signal.Signals(21)  # type: ignore[attr-defined]
    accepted = {getattr(signal, name) for name in _SIGNALS_OF_WINDOWS}
    others = [n for n in dir(signal) if n.startswith("SIG") and n not in _SIGNALS_OF_WINDOWS]
    _remove(signal, [n for n in others if n not in ("SIG_DFL", "SIG_IGN")])
    _remove(signal, ["alarm", "pthread_kill", "pthread_sigmask", "setitimer", "sigwait"])
    os.kill, signal.signal = kill_on_windows, set_handler_on_windows  # type: ignore[assignment]


def _remove(module: ModuleType, names: list[str]) -> None:
    for name in names:
        if hasattr(module, name):
            delattr(module, name)


def _msvcrt() -> ModuleType:
    """Its locks; those of Windows keep others from reading the locked bytes, which these do not."""
    import fcntl

    flock, exclusive = fcntl.flock, fcntl.LOCK_EX | fcntl.LOCK_NB

    def locking(descriptor: int, mode: int, count: int) -> None:
        assert mode == module.LK_NBLCK
        if os.lseek(descriptor, 0, os.SEEK_CUR) >= 1 << 31:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        try:
            flock(descriptor, exclusive)
        except BlockingIOError as error:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES)) from error

    module: Any = ModuleType("msvcrt")
    module.LK_NBLCK, module.locking = 2, locking
    return module  # type: ignore[no-any-return]


def _replace_libc(is_windows: bool) -> None:
    class Library(ctypes.CDLL):
        def __init__(self, name: str | None, *args: Any, **more: Any) -> None:
            if name is None and is_windows:
                raise TypeError("expected a string")
            super().__init__(name, *args, **more)

        def __getattr__(self, name: str) -> Any:
            if name == "mallopt":
                raise AttributeError(name)
            return super().__getattr__(name)

    ctypes.CDLL = Library  # type: ignore[misc]


def _check_open(is_windows: bool, path: Any, mode: str | None, flags: int) -> None:
    """Raise for what cannot be opened: Linux's own files, and folders by Windows's ``os.open``."""
    if str(path).startswith(("/proc/", "/sys/")):
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
    if is_windows and mode is None and Path(path).is_dir():
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
