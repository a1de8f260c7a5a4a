"""What an object tree held at a moment, to find what has changed since."""
from __future__ import annotations

from typing import Any

import torch

PROGRESS = {"state." + name for name in (
    "sampling_step", "sampling_steps", "current_latent", "current_image", "current_image_sampling_step",
    "id_live_preview", "job", "job_no", "job_count")}
"""What every generation leaves behind, whatever the sampler."""


class Snapshot:
    """The attributes of named objects. Containers are followed one level, tensors are copied."""

    def __init__(self, parts: dict[str, Any]):
        self.values: dict[str, tuple[Any, Any]] = {}
        for name, part in parts.items():
            for key, value in vars(part).items():
                if not key.startswith("__"):
                    self._add(f"{name}.{key}", value)

    def _add(self, path: str, value: Any) -> None:
        copy = None
        if isinstance(value, torch.Tensor):
            copy = value.detach().clone()
        elif isinstance(value, (list, dict)):
            copy = dict(value) if isinstance(value, dict) else dict(enumerate(value))
            for key, item in copy.items():
                if isinstance(item, torch.Tensor):
                    self._add(f"{path}[{key}]", item)
        self.values[path] = value, copy

    def changed(self, later: Snapshot) -> set[str]:
        """The attributes that are others in ``later``, but for the progress that every generation leaves."""
        paths = self.values.keys() | later.values.keys()
        return {path for path in paths - PROGRESS if not _same(self.values.get(path), later.values.get(path))}


def _same(before: tuple[Any, Any] | None, after: tuple[Any, Any] | None) -> bool:
    if before is None or after is None:
        return before is after
    (value, copy), (value_now, copy_now) = before, after
    if isinstance(value, (bool, int, float, str)):
        return value == value_now
    if isinstance(value, dict) and isinstance(value_now, dict):
        # torch makes new dictionaries of its own as layers come and go
        return copy.keys() == copy_now.keys() and all(copy[key] is copy_now[key] for key in copy)
    if value is not value_now:
        return False
    if isinstance(value, list):
        return len(copy) == len(copy_now) and all(copy[key] is copy_now[key] for key in copy)
    return copy is None or torch.equal(copy, copy_now)
