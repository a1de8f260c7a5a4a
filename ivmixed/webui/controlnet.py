"""What the sampler knows of the sd-webui-controlnet extension: its control images belong to the rows of the batch.

Source: that extension's ``scripts/hook.py`` (``control_params``) and ``scripts/controlnet_lllite.py``, and how
AnimateDiff cuts them to its context windows (``animatediff_infv2v.py``).
"""
from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch

from modules import devices


@contextmanager
def rows(script_runner: Any, start: int, end: int, total: int) -> Iterator[None]:
    """Within the block the control images are those of rows ``start`` to ``end`` in a batch of ``total`` rows.

    They are on ControlNet's device, where AnimateDiff brings them only for the video model.
    """
    with ExitStack() as stack:
        for control in _control_params(script_runner):
            for value, assign in _batched(control):
                # assigned though it may be the same: what was computed from it for other rows is dropped with it
                stack.callback(assign, value)
                assign(_rows(value, start, end, total))
        yield


def networks(script_runner: Any) -> list[torch.nn.Module]:
    """The networks of the active controls."""
    models = (control.control_model for control in _control_params(script_runner))
    return [model for model in models if isinstance(model, torch.nn.Module) and callable(model.modules)]


def _control_params(script_runner: Any) -> list[Any]:
    for script in getattr(script_runner, "alwayson_scripts", ()):
        if script.title().lower() == "controlnet":
            return list(getattr(getattr(script, "latest_network", None), "control_params", None) or ())
    return []


def _batched(control: Any) -> Iterator[tuple[Any, Callable[[Any], None]]]:
    """Where a control keeps something for every row: (value, what assigns another)."""
    model = control.control_model
    for owner, name in ((control, "hint_cond"), (control, "hr_hint_cond"), (model, "image_emb")):
        if hasattr(owner, name):
            yield getattr(owner, name), partial(setattr, owner, name)
    modules = getattr(model, "modules", None)
    if isinstance(modules, dict):  # Controlllite's; a torch module has its method of that name
        for module in modules.values():
            yield module.cond_image, module.set_cond_image


def _rows(value: Any, start: int, end: int, total: int) -> Any:
    """The rows of a batch of images, or of an IP-Adapter's embedding; anything else as it is."""
    if hasattr(value, "cond_emb"):
        return value._replace(cond_emb=_rows(value.cond_emb, start, end, total))
    if getattr(value, "ndim", 0) < 3:
        return value
    cut = value[start:end] if value.shape[0] == total and end - start < total else value
    return cut.to(devices.get_device_for("controlnet"))
