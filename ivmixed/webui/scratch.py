"""Folders for files that the page shows and nobody keeps: clips that are not saved, and GIFs made to be played.

They lie in one folder of this process among the system's temporary files. The oldest go when there are many, all when
the process ends. The hosts end without ceremony after Ctrl-C, so the next process removes what such a one left: the
folder has a file that is locked while its process lives.
"""
from __future__ import annotations

import atexit
import os
import shutil
import tempfile
import threading
from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import Any

try:
    import fcntl
except ImportError:  # Windows, where a file that is open cannot be removed
    fcntl = None  # type: ignore[assignment]

KEPT = 100
"""Folders that stay: more than pages, strips and the grid of an X/Y/Z plot usually show."""
PREFIX, LOCK = "iv-mixed-", "in-use"

_folders: deque[Path] = deque()
_guard = threading.Lock()
_root: Path | None = None
_lock: Any = None


def folder() -> Path:
    """A new one. Raises OSError."""
    with _guard:
        root = _begin()
        while len(_folders) >= KEPT:
            shutil.rmtree(_folders.popleft(), ignore_errors=True)
        _folders.append(Path(tempfile.mkdtemp(dir=root)))
        return _folders[-1]


def _begin() -> Path:
    """The folder of this process, made when it is first needed."""
    global _root, _lock
    if _root is None or not _root.is_dir():
        _sweep()
        _root = Path(tempfile.mkdtemp(prefix=PREFIX))
        made = _root / "new"
        _lock = made.open("w")
        if fcntl is not None:
            fcntl.flock(_lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            made.rename(_root / LOCK)  # only now may another process look
        atexit.register(_end, _root)
    return _root


def _end(root: Path) -> None:
    if _lock is not None:
        _lock.close()
    shutil.rmtree(root, ignore_errors=True)


def _sweep() -> None:
    """Removes what processes left that are gone; what has no lock of ours, or cannot be removed, stays."""
    for left in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        with suppress(OSError):
            if not left.is_symlink() and not _in_use(left):
                shutil.rmtree(left, ignore_errors=True)


def _in_use(left: Path) -> bool:
    """Raises OSError where there is no lock."""
    if fcntl is None:
        os.remove(left / "new")  # fails while it is open
        return False
    with (left / LOCK).open("r+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False
