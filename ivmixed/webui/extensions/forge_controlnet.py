"""What is known of the Forge family's ControlNet: how one model is asked without it, and how it gets a video.

A control network is in a list of the UNet's patcher; IP-Adapter and ControlNet-LLLite are entries in its options.
Source: ``lib_ipadapter/IPAdapterPlus.py`` and ``lib_controllllite/lib_controllllite.py`` in the hosts'
``extensions-builtin``, ``apply_control`` in their UNets, and ``sd_forge_controlnet/scripts/controlnet.py``.
"""
from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
from torch import Tensor

from ...clips.encode import Frames
from ...patch import replaced
from ..errors import RefusedError
from .control_video import NOBODY, STOPPED, script_of

OWNERS = ("lib_ipadapter", "lib_controllllite")
"""How the modules begin whose objects are controls. Patches of other extensions stay."""


@contextmanager
def switched_off(unet: Any) -> Iterator[None]:
    """Within the block the controls of a patcher ``unet`` are as if there were none; its options are left as they are,
    see `left_out`."""
    with replaced(unet, "controlnet_linked_list", None):
        yield


def left_out(model_options: dict[str, Any]) -> dict[str, Any]:
    """A patcher's options without IP-Adapter and LLLite."""
    inner = dict(model_options["transformer_options"])
    if "patches" in inner:
        inner["patches"] = {name: [entry for entry in entries if not _is_control(entry)]
                            for name, entries in inner["patches"].items()}
    if "patches_replace" in inner:
        inner["patches_replace"] = {name: {place: entry for place, entry in entries.items() if not _is_control(entry)}
                                    for name, entries in inner["patches_replace"].items()}
    return {**model_options, "transformer_options": inner}


def _is_control(entry: Any) -> bool:
    return (getattr(entry, "__module__", None) or "").startswith(OWNERS)


def outermost(control: dict[str, list[Any]]) -> dict[str, list[Any]]:
    """What a control network adds, by the UNet's parts, where deep features serve again: to the outer layers alone.

    The UNet takes each list from its end, block by block.
    """
    def none(count: int) -> list[None]:
        return [None] * max(count, 0)

    output, into = control.get("output", []), control.get("input", [])
    return {"output": output[:1] + none(len(output) - 1), "input": none(len(into) - 1) + into[-1:], "middle": []}


@contextmanager
def fed(p: Any, frames: Sequence[Frames]) -> Iterator[Callable[[], None]]:
    """As `Host.fed_controlnet` has it.

    Its script asks ``get_input_data`` for the pictures of each unit, as many as there may be, prepares each, and gives
    frame i the i-th, in ``process``; what it made of the units is in ``current_params``. Of errors in it the host only
    has a line in its log.
    """
    script = script_of(p, "get_input_data")
    asked: list[tuple[Any, bool]] = []
    choose = script.get_input_data
    with ExitStack() as stack:
        def get_input_data(request: Any, unit: Any, *args: Any, **kwargs: Any) -> Any:
            takes = request is p and not _has_picture(unit)
            asked.append((unit, takes))
            if not takes:
                return choose(request, unit, *args, **kwargs)
            stack.enter_context(replaced(unit, "save_detected_map", False))  # a picture for every frame
            mode = sys.modules["lib_controlnet.external_code"].resize_mode_from_value(unit.resize_mode)
            return [[np.ascontiguousarray(frame), None] for frame in frames], mode

        def check() -> None:
            made = getattr(script, "current_params", {})
            if len(made) < len(asked):
                raise RefusedError(STOPPED)
            taking = [number for number, (_, takes) in enumerate(asked) if takes]
            if not taking:
                raise RefusedError(NOBODY)
            for number in taking:
                cond = made[number].control_cond
                if not isinstance(cond, Tensor) or len(cond) != len(frames):
                    raise RefusedError(f"control_video: unit {number} of ControlNet ({asked[number][0].module}) looks "
                                       "at one picture, and not at frames: give it a picture, or switch it off.")

        stack.enter_context(replaced(script, "get_input_data", get_input_data))
        yield check


def _has_picture(unit: Any) -> bool:
    """Whether a unit brings what it looks at: a picture, a preview, or a folder or several pictures."""
    mode = getattr(getattr(unit, "input_mode", None), "name", "SIMPLE")
    preview = unit.use_preview_as_input and unit.generated_image is not None
    return bool(preview or unit.image is not None or mode != "SIMPLE")
