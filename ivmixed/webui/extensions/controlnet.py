"""What the sampler knows of the sd-webui-controlnet extension: its control images belong to the rows of the batch.

Source: that extension's ``scripts/hook.py`` (``control_params``) and ``scripts/controlnet_lllite.py``, and how
AnimateDiff cuts them to its context windows (``animatediff_infv2v.py``). It tells the prompt from the negative prompt
by a token before each, and when a control begins and ends at the start of every evaluation (``mark_prompt_context``,
``guidance_schedule_handler``). For AnimateDiff it reads a unit's pictures from a folder, one for each frame
(``scripts/animate_diff/batch.py``, ``get_control`` in ``scripts/controlnet.py``).
"""
from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from modules import devices

from ...clips.encode import Frames
from ...patch import replaced
from ..errors import RefusedError
from .control_video import NOBODY, STOPPED, script_of


@contextmanager
def rows(script_runner: Any, chosen: slice | Tensor, total: int) -> Iterator[None]:
    """Within the block the control images are those of the ``chosen`` rows in a batch of ``total`` rows.

    They are on ControlNet's device, where AnimateDiff brings them only for the video model.
    """
    with ExitStack() as stack:
        for control in controls(script_runner):
            for value, assign in _batched(control):
                # assigned though it may be the same: what was computed from it for other rows is dropped with it
                stack.callback(assign, value)
                assign(_rows(value, chosen, total))
        yield


@contextmanager
def fed(p: Any, frames: Sequence[Frames]) -> Iterator[Callable[[], None]]:
    """As `Host.fed_controlnet` has it. A unit is an object of pydantic or, from the API, a dictionary."""
    script = script_of(p, "args_from")
    units = slice(script.args_from, script.args_to)
    enabled = [unit for unit in p.script_args[units] if _of(unit, "enabled")]
    taking = [unit for unit in enabled if not _has_picture(unit)]
    if not taking:
        raise RefusedError(NOBODY)

    def check() -> None:
        made = controls(p.scripts)
        if len(made) < len(enabled):
            raise RefusedError(STOPPED)
        device = devices.get_device_for("controlnet")
        for control in made:  # it leaves them in memory, where AnimateDiff takes them from
            for name in ("hint_cond", "hr_hint_cond"):
                value: Any = getattr(control, name, None)
                if getattr(value, "ndim", 0) == 4:
                    setattr(control, name, value.to(device))

    with tempfile.TemporaryDirectory(prefix="ivmixed-") as folder:
        for number, frame in enumerate(frames):
            Image.fromarray(frame).save(Path(folder, f"{number:05}.png"))
        told = {"animatediff_batch": True, "batch_images": folder, "save_detected_map": False}
        args = list(p.script_args)
        args[units] = [unit if all(unit is not other for other in taking) else
                       {**unit, **told} if isinstance(unit, dict) else unit.copy(update=told) for unit in args[units]]
        with replaced(p, "script_args", type(p.script_args)(args)):
            yield check


def _of(unit: Any, name: str) -> Any:
    return unit.get(name) if isinstance(unit, dict) else getattr(unit, name, None)


def _has_picture(unit: Any) -> bool:
    """Whether a unit brings what it looks at: a picture, or a folder or several pictures."""
    mode = getattr(_of(unit, "input_mode"), "name", "SIMPLE")
    images = [_of(unit, name) for name in ("image", "input_image", "ipadapter_input")]
    images = [image.get("image") if isinstance(image, dict) else image for image in images]
    return mode != "SIMPLE" or any(image is not None and not (isinstance(image, str) and not image) for image in images)


def marked(script_runner: Any, given: dict[str, Any]) -> dict[str, Any]:
    """Encoded prompts, arguments of the host's denoiser, as a request with ControlNet has them."""
    hook = sys.modules.get("scripts.hook")
    if hook is not None and controls(script_runner):
        for name, conds in given.items():
            hook.mark_prompt_context(conds, positive=name == "cond")
    return given


def switch_off(script_runner: Any) -> None:
    """Until the next evaluation begins all controls are as before their beginning."""
    network = _network(script_runner)
    for control in controls(script_runner):
        control.guidance_stopped = True
        network.model.current_sampling_percent = -1.0  # IP-Adapter's and LLLite's


def networks(script_runner: Any) -> list[torch.nn.Module]:
    """The networks of the active controls."""
    models = (control.control_model for control in controls(script_runner))
    return [model for model in models if isinstance(model, torch.nn.Module) and callable(model.modules)]


def controls(script_runner: Any) -> list[Any]:
    """The active controls."""
    return list(getattr(_network(script_runner), "control_params", None) or ())


def _network(script_runner: Any) -> Any:
    for script in getattr(script_runner, "alwayson_scripts", ()):
        if script.title().lower() == "controlnet":
            return getattr(script, "latest_network", None)
    return None


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


def _rows(value: Any, chosen: slice | Tensor, total: int) -> Any:
    """The rows of a batch of images, or of an IP-Adapter's embedding; anything else as it is."""
    if hasattr(value, "cond_emb"):
        return value._replace(cond_emb=_rows(value.cond_emb, chosen, total))
    if getattr(value, "ndim", 0) < 3:
        return value
    if value.shape[0] == total:
        value = value[chosen if isinstance(chosen, slice) else chosen.to(value.device)]
    return value.to(devices.get_device_for("controlnet"))
