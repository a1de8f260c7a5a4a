"""Small JSON files in the host's data folder, for what is to be there after a restart."""
from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

from modules.paths_internal import data_path


class StoreError(Exception):
    """A file cannot be read or written. The message says which, and what to do."""


class Store:
    """An object by string keys in ``data_path/ivmixed/name``."""

    def __init__(self, name: str):
        self.path = Path(data_path, "ivmixed", name)
        self._lock = threading.Lock()

    def read(self) -> dict[str, Any]:
        """What the file holds; nothing where there is none. Raises StoreError."""
        try:
            data = json.loads(self.path.read_text("utf-8"))
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            raise StoreError(f"{self.path} cannot be read ({error}): repair it, or move it away") from None
        if not isinstance(data, dict):
            raise StoreError(f"{self.path} holds no JSON object: repair it, or move it away")
        return data

    @contextmanager
    def changing(self) -> Iterator[dict[str, Any]]:
        """What the file holds, to be changed in the block and written at its end. Raises StoreError."""
        with self._lock:
            data = self.read()
            yield data
            self._write(json.dumps(data, indent=2, ensure_ascii=False))

    def _write(self, text: str) -> None:
        """The whole file or, where that fails, the old one."""
        temporary = None
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with NamedTemporaryFile("w", encoding="utf-8", dir=self.path.parent, suffix=".tmp", delete=False) as file:
                temporary = file.name
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, self.path)
        except OSError as error:
            if temporary is not None:
                with suppress(OSError):
                    os.remove(temporary)
            raise StoreError(f"{self.path} cannot be written ({error})") from None
