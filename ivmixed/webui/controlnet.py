"""What the sampler knows of the sd-webui-controlnet extension: its control images belong to the rows of the batch.

Source: that extension's ``scripts/hook.py`` (``control_params``) and ``scripts/controlnet_lllite.py``, and how
AnimateDiff cuts them to its context windows (``animatediff_infv2v.py``).
"""
from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from .patch import replaced


@contextmanager
def rows(script_runner: Any, start: int, end: int, total: int) -> Iterator[None]:
    """Within the block the control images are those of rows ``start`` to ``end`` in a batch of ``total`` rows."""
    with ExitStack() as stack:
        for control in _control_params(script_runner):
            for owner, name in _batched(control):
                value = getattr(owner, name)
                tensor = getattr(value, "cond_emb", value)
                if getattr(tensor, "ndim", 0) < 3 or tensor.shape[0] != total:
                    continue
                cut = tensor[start:end]
                stack.enter_context(replaced(owner, name, cut if value is tensor else value._replace(cond_emb=cut)))
        yield


def _control_params(script_runner: Any) -> list[Any]:
    for script in getattr(script_runner, "alwayson_scripts", ()):
        if script.title().lower() == "controlnet":
            return list(getattr(getattr(script, "latest_network", None), "control_params", None) or ())
    return []


def _batched(control: Any) -> Iterator[tuple[Any, str]]:
    """Where a control keeps one entry for every row: (object, attribute)."""
    yield control, "hint_cond"
    yield control, "hr_hint_cond"
    model = control.control_model
    if hasattr(model, "image_emb"):
        yield model, "image_emb"
    modules = getattr(model, "modules", None)  # Controlllite keeps a dict here, a torch module its method
    if isinstance(modules, dict):
        for module in modules.values():
            yield module, "cond_image"
