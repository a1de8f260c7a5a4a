"""What the sampler knows of motion on the Forge family: entries in the options of the UNet's patcher.

Source: sd-forge-animatediff's ``scripts/animatediff_mm.py`` (what it puts there) and ``animatediff_infv2v.py`` (context
windows), read at b20f751; where a host reads them: ``block_inner_modifiers`` in ``forward_timestep_embed`` of
``ldm_patched/ldm/modules/diffusionmodules/openaimodel.py`` and in ``backend/nn/unet.py``.
"""
from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor

from .... import Schedule
from ....patch import replaced
from ...extensions import animatediff

OWNERS = ("scripts.animatediff_",)
"""How the modules begin whose functions are motion. Entries of other extensions stay for both models."""


def is_motion(entry: Any) -> bool:
    """AnimateDiff has put it there."""
    return getattr(entry, "__module__", "").startswith(OWNERS)


def motion_schedule() -> Schedule:
    """The noise table that the motion module was trained on."""
    module = getattr(getattr(sys.modules.get("scripts.animatediff_mm"), "mm_animatediff", None), "mm", None)
    if getattr(module, "is_adxl", False):
        return Schedule.scaled_linear(0.00085, 0.020)
    return Schedule.linear()


class Motion:
    """The motion in a UNet. Its options are never written to: changed ones are given as a new dictionary."""

    def __init__(self, entries: list[Callable[..., Any]]):
        self.entries = entries
        """What the UNet calls before and after each of its layers, to put motion there."""
        self.seen = False
        """Whether a UNet has called one of them while `watched`."""
        self.context = int(_params().batch_size)
        """Frames that are evaluated at a time."""

    @classmethod
    def of_clip(cls, p: Any, unet: Any, frames: int) -> Motion | None:
        """The motion for a latent of ``frames`` frames; None where ``unet`` has none, or the latent is no clip.

        Raises OptionError, RefusedError where the request ``p`` asks for motion and ``unet`` has none.
        """
        entries = [entry for entry in inner_modifiers(unet.model_options) if is_motion(entry)]
        if not entries:
            animatediff.refuse_stills(p)
        return cls(entries) if entries and frames > 1 else None

    def left_out(self, model_options: dict[str, Any]) -> dict[str, Any]:
        """The options without motion: with them the UNet is the checkpoint's own, to the bit.

        Its context windows stay, as they bound the batch, but do not overlap: frames are independent now.
        """
        options = self._with_modifiers(
            model_options, [entry for entry in inner_modifiers(model_options) if not is_motion(entry)])
        if is_motion(options["transformer_options"].get("group_norm_wrapper")):
            del options["transformer_options"]["group_norm_wrapper"]  # v1: the statistics of all frames together
        windows = options.get("model_function_wrapper")
        if is_motion(windows):
            options["model_function_wrapper"] = _apart(windows)
        return options

    def travelled(self, cond: Any) -> Any:
        """The prompts of a step, (frames, ...), as they change along the clip."""
        return animatediff.travelled(_params(), cond)

    def around(self, network: Any) -> AbstractContextManager[None]:
        """Within the block a network that is not the clip's takes as many frames at a time: by the windows already."""
        return nullcontext()

    def outermost(self, model_options: dict[str, Any], last: int) -> dict[str, Any]:
        """The options where deep features serve again: motion acts behind the layers that follow them alone.

        ``last`` is the number of the last output block.
        """
        kept = {("input", 0), ("output", last - 1), ("output", last)}

        def outer(entry: Callable[..., Any]) -> Callable[..., Any]:
            def call(x: Tensor, place: str, layer: Any, index: int, block: Any, options: dict[str, Any]) -> Tensor:
                return entry(x, place, layer, index, block, options) if options["block"] in kept else x
            return call if is_motion(entry) else entry

        return self._with_modifiers(model_options, [outer(entry) for entry in inner_modifiers(model_options)])

    def watched(self, model_options: dict[str, Any]) -> dict[str, Any]:
        """The options with the same effect, that set `seen` when motion is called."""
        def watch(entry: Callable[..., Any]) -> Callable[..., Any]:
            def call(*args: Any) -> Any:
                self.seen = True
                return entry(*args)
            return call if is_motion(entry) else entry

        return self._with_modifiers(model_options, [watch(entry) for entry in inner_modifiers(model_options)])

    @staticmethod
    def _with_modifiers(model_options: dict[str, Any], modifiers: list[Any]) -> dict[str, Any]:
        inner = {**model_options["transformer_options"], "block_inner_modifiers": modifiers}
        return {**model_options, "transformer_options": inner}


def inner_modifiers(model_options: dict[str, Any]) -> list[Callable[..., Any]]:
    """What a UNet called with these options calls before and after each of its layers."""
    return model_options.get("transformer_options", {}).get("block_inner_modifiers", [])


def network_call(model_options: dict[str, Any]) -> Callable[[Callable[..., Tensor], dict[str, Any]], Tensor]:
    """How the host calls a network with these options: ``call(apply_model, info)``."""
    def call(apply_model: Callable[..., Tensor], info: dict[str, Any]) -> Tensor:
        return apply_model(info["input"], info["timestep"], **info["c"])
    return model_options.get("model_function_wrapper") or call


def _params() -> Any:
    return sys.modules["scripts.animatediff_mm"].mm_animatediff.ad_params


def _apart(windows: Callable[..., Any]) -> Callable[..., Any]:
    """AnimateDiff's context windows, side by side."""
    def call(apply_model: Callable[..., Any], info: dict[str, Any]) -> Any:
        with ExitStack() as stack:
            for name, value in (("overlap", 0), ("stride", 1), ("closed_loop", "R-P")):
                stack.enter_context(replaced(_params(), name, value))
            return windows(apply_model, info)
    return call


@contextmanager
def on_table(holder: torch.nn.Module, sigmas: Tensor) -> Iterator[None]:
    """Within the block ``holder`` has this noise table; afterwards its own again, on the device where it is then."""
    own, logs = (holder.sigmas, holder.log_sigmas), sigmas.log()
    try:
        holder.sigmas, holder.log_sigmas = sigmas, logs
        yield
    finally:
        holder.sigmas, holder.log_sigmas = (table.to(holder.sigmas.device) for table in own)


def note_tables(p: Any, table: torch.nn.Module) -> None:
    """Notes the noise tables as they are before a request: hosts change them around ``p.sample``."""
    places = [(table, "sigmas"), (table, "log_sigmas"), (p.sd_model, "alphas_cumprod")]
    p.iv_mixed_tables = [(*place, getattr(*place)) for place in places if hasattr(*place)]


def put_back_tables(p: Any) -> None:
    """Makes the noise tables those before the request again, on the devices where they are now."""
    for target, name, table in getattr(p, "iv_mixed_tables", ()):
        setattr(target, name, table.to(getattr(target, name).device))
