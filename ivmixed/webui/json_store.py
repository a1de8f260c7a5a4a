"""Small JSON files in the host's data folder, for what is to be there after a restart.

A file may come from strangers, or be edited by hand: one entry that is damaged does not take the others with it, and is
written again as it was.
"""
from __future__ import annotations

import errno
import json
import os
import re
import shutil
import stat
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import NamedTemporaryFile
from types import MappingProxyType
from typing import Any

from modules.paths_internal import data_path

from ..untrusted import MAX_BYTES, JsonError, parse, shown

try:
    import fcntl
except ModuleNotFoundError:  # Windows
    import msvcrt

    fcntl = None  # type: ignore[assignment]

PATIENCE = 10.0
"""Seconds that a change waits for another process that is changing the file."""
HELD = {errno.EAGAIN, errno.EWOULDBLOCK, errno.EACCES, errno.EDEADLK}
"""What says that another process has a lock."""


class StoreError(Exception):
    """A file cannot be read or written. The message says which, and what to do."""


@dataclass(frozen=True)
class Damaged:
    """An entry that cannot be read: what stands in the file, and what is wrong with it."""

    text: str
    problem: str


class Store:
    """An object by string keys in ``data_path/ivmixed/name``."""

    def __init__(self, name: str):
        self.path = Path(data_path, "ivmixed", name)
        self._lock = threading.Lock()
        self._seen: tuple[object, Mapping[str, Any] | StoreError] | None = None
        """What the file was when it was last read, and what it held."""

    def read(self) -> Mapping[str, Any]:
        """What the file holds, JSON values or `Damaged`; nothing where there is none. Raises StoreError.

        It is read where it has changed: until then the answer, or the error, is the same object.
        """
        seen, state = self._seen, self._state()
        if seen is None or seen[0] != state:
            seen = self._seen = state, self._held()
        if isinstance(seen[1], StoreError):
            raise seen[1].with_traceback(None)  # or it would grow
        return seen[1]

    @contextmanager
    def changing(self) -> Iterator[dict[str, Any]]:
        """What the file holds, to be changed in the block and written at its end, with no other process in between.

        Raises StoreError.
        """
        target = Path(os.path.realpath(self.path))  # a link stays one
        with self._lock, ExitStack() as stack:
            try:
                target.parent.mkdir(parents=True, exist_ok=True)
                stack.enter_context(_locked(target.with_name(f"{target.name}.lock")))
            except OSError as error:
                raise self._unwritten(error) from None
            self._seen = None  # another process may have written within a tick of the file system's clock
            entries = dict(self.read())
            yield entries
            self._write(target, entries)

    def _state(self) -> object:
        try:
            found = os.stat(self.path)
        except OSError as error:
            return error.errno
        return found.st_mtime_ns, found.st_size, found.st_ino, found.st_mode

    def _held(self) -> Mapping[str, Any] | StoreError:
        try:
            if not stat.S_ISREG(os.stat(self.path).st_mode):  # a pipe would be waited for, a device never ends
                return StoreError(f"{self.path} is no file: move it away")
            with self.path.open("rb") as file:
                data = file.read(MAX_BYTES + 1)
        except FileNotFoundError:
            return MappingProxyType({})
        except OSError as error:
            return StoreError(f"{self.path} cannot be read ({error}): repair it, or move it away")
        if len(data) > MAX_BYTES:
            return StoreError(f"{self.path} has more than {MAX_BYTES} bytes: shorten it, or move it away")
        try:
            return MappingProxyType({key: _value(text) for key, text in _entries(data.decode()).items()})
        except ValueError as error:
            return StoreError(f"{self.path} cannot be read ({shown(str(error))}): repair it, or move it away")

    def _write(self, target: Path, entries: dict[str, Any]) -> None:
        """The whole file or, where that fails, the old one."""
        lines = ",\n".join(f"  {_text(key)}: {_text(value)}" for key, value in entries.items())
        data = f"{{\n{lines}\n}}\n".encode()
        if len(data) > MAX_BYTES:
            raise StoreError(f"{self.path} would have more than {MAX_BYTES} bytes: delete something of it first")
        temporary = None
        try:
            with NamedTemporaryFile("wb", dir=target.parent, suffix=".tmp", delete=False) as file:
                temporary = file.name
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            if target.exists():
                shutil.copymode(target, temporary)
            os.replace(temporary, target)
        except OSError as error:
            raise self._unwritten(error) from None
        finally:
            if temporary is not None:
                with suppress(OSError):
                    os.remove(temporary)

    def _unwritten(self, error: OSError) -> StoreError:
        return StoreError(f"{self.path} cannot be written ({error})")


_STRING = r'"[^"\\]*(?:\\.[^"\\]*)*"'
_MARK = re.compile(rf'{_STRING}|[\[\]{{}},"]', re.DOTALL)
_MEMBER = re.compile(rf"\s*({_STRING})\s*:(.*)", re.DOTALL)


def _entries(text: str) -> dict[str, str]:
    """The members of a JSON object, each value as its own text, not looked into. Linear, without recursion.

    Raises ValueError where they cannot be told apart. What else is wrong with a value is found by who reads it.
    """
    text = text.strip()
    if text[:1] != "{" or text[-1:] != "}":
        raise ValueError("no JSON object")
    parts, start, depth = [], 1, 0
    for match in _MARK.finditer(text, 1, len(text) - 1):
        mark = match[0]
        if mark == '"':
            raise ValueError(f"a text that begins at character {match.start()} has no end")
        depth += (mark in "[{") - (mark in "]}")
        if depth < 0:
            raise ValueError(f"a bracket too many at character {match.start()}")
        if mark == "," and depth == 0:
            parts.append(text[start:match.start()])
            start = match.end()
    if depth:
        raise ValueError("a bracket without its end")
    parts.append(text[start:-1])
    if not text[1:-1].strip():
        return {}
    members = [_MEMBER.fullmatch(part) for part in parts]
    if None in members:
        raise ValueError(f"entry {members.index(None) + 1} is no key and value")
    return {json.loads(member[1], strict=False): member[2].strip() for member in members if member is not None}


def _value(text: str) -> Any:
    try:
        return parse(text)
    except JsonError as error:
        return Damaged(text, str(error))


def _text(value: Any) -> str:
    """The inverse of `_value`."""
    if isinstance(value, Damaged):
        return value.text
    text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    return text if text.isprintable() else json.dumps(value)  # a key may have what is no Unicode


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Within the block no other process has this lock, a file that is gone afterwards. Raises OSError."""
    end = time.monotonic() + PATIENCE
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            _try_lock(handle)
            if os.path.samestat(os.fstat(handle), os.stat(path)):
                break
        except FileNotFoundError:  # whoever had it has taken it away, and it is a lock no more
            pass
        except OSError as error:
            if error.errno not in HELD:
                break  # a file system without locks
            if time.monotonic() > end:
                os.close(handle)
                raise TimeoutError("another process is writing it") from None
        os.close(handle)
        time.sleep(0.01)
    try:
        yield
    finally:
        if fcntl is not None:
            with suppress(OSError):
                os.remove(path)
        os.close(handle)
        if fcntl is None:
            with suppress(OSError):  # Windows: as soon as nobody has it open
                os.remove(path)


def _try_lock(handle: int) -> None:
    """Raises OSError where another process has it."""
    if fcntl is not None:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    else:
        msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
