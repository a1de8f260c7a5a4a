"""What the sampler knows of sd-forge-animatediff: its motion is entries in the options of the UNet's patcher.

Source: that extension's ``scripts/animatediff_mm.py`` (what it puts there) and ``animatediff_infv2v.py`` (context
windows), read at b20f751.
"""
from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor

from ... import Schedule
from ...patch import replaced
from ..errors import RefusedError
from ..hosts.forge.patcher import inner_modifiers
from ..motion import ClipMotion
from . import animatediff

OWNERS = ("scripts.animatediff_",)
"""How the modules begin whose functions are motion. Entries of other extensions stay for both models."""


def is_motion(entry: Any) -> bool:
    """AnimateDiff has put it there."""
    return getattr(entry, "__module__", "").startswith(OWNERS)


class ForgeAnimateDiffMotion(ClipMotion):
    """The motion that AnimateDiff has put into the patcher ``unet`` for the clip being sampled.

    ``checkpoint``: the noise levels of the checkpoint's own table. ``table_is_there``: the host has put AnimateDiff's
    in its place. ``idle``: what is said where the UNet never calls motion.
    """

    def __init__(self, unet: Any, checkpoint: Tensor, table_is_there: bool, idle: str):
        self._unet, self._checkpoint, self._idle = unet, checkpoint, idle
        self._seen = False
        self.context = int(_params().batch_size)
        if not table_is_there:
            self.missing_sigmas = _trained_sigmas()

    @property
    def image_context(self) -> int:
        return self.context

    def checkpoint_sigmas(self) -> Tensor:
        return self._checkpoint

    def blended(self, cond: Any) -> Any:
        return animatediff.blended(_params(), cond)

    def left_out(self) -> AbstractContextManager[None]:
        """The context windows stay, as they bound the batch, but do not overlap: frames are independent now."""
        whole = self._unet.model_options
        inner = _with_modifiers(whole["transformer_options"], lambda entry: None if is_motion(entry) else entry)
        if is_motion(inner.get("group_norm_wrapper")):
            del inner["group_norm_wrapper"]  # v1: the statistics of all frames together
        options = {**whole, "transformer_options": inner}
        windows = options.get("model_function_wrapper")
        if windows is not None and is_motion(windows):
            options["model_function_wrapper"] = _without_overlap(windows)
        return replaced(self._unet, "model_options", options)

    @contextmanager
    def watched(self) -> Iterator[None]:
        if self._seen:
            yield
            return

        def watch(entry: Callable[..., Any]) -> Callable[..., Any]:
            def call(*args: Any) -> Any:
                self._seen = True
                return entry(*args)
            return call if is_motion(entry) else entry

        whole = self._unet.model_options
        options = {**whole, "transformer_options": _with_modifiers(whole["transformer_options"], watch)}
        with replaced(self._unet, "model_options", options):
            yield
        if not self._seen:
            raise RefusedError(self._idle)

    def outermost(self, transformer_options: dict[str, Any], last: int) -> dict[str, Any]:
        kept = {("input", 0), ("output", last - 1), ("output", last)}

        def outer(entry: Callable[..., Any]) -> Callable[..., Any]:
            def call(x: Tensor, place: str, layer: Any, index: int, block: Any, options: dict[str, Any]) -> Tensor:
                return entry(x, place, layer, index, block, options) if options["block"] in kept else x
            return call if is_motion(entry) else entry

        return _with_modifiers(transformer_options, outer)


def is_in(unet: Any) -> bool:
    """Whether AnimateDiff has put motion into the patcher ``unet``."""
    return any(map(is_motion, inner_modifiers(unet.model_options.get("transformer_options", {}))))


def _with_modifiers(
    transformer_options: dict[str, Any], change: Callable[[Callable[..., Any]], Callable[..., Any] | None],
) -> dict[str, Any]:
    """The options with each of the modifiers changed; None: it is left out."""
    changed = [change(entry) for entry in inner_modifiers(transformer_options)]
    return {**transformer_options, "block_inner_modifiers": [entry for entry in changed if entry is not None]}


def _trained_sigmas() -> Tensor:
    """The noise levels that the motion module was trained on, one a timestep."""
    module = getattr(getattr(sys.modules.get("scripts.animatediff_mm"), "mm_animatediff", None), "mm", None)
    schedule = Schedule.scaled_linear(0.00085, 0.020) if getattr(module, "is_adxl", False) else Schedule.linear()
    return torch.tensor(schedule.sigmas)


def _params() -> Any:
    return sys.modules["scripts.animatediff_mm"].mm_animatediff.ad_params


def _without_overlap(windows: Callable[..., Any]) -> Callable[..., Any]:
    """AnimateDiff's context windows, side by side."""
    def call(apply_model: Callable[..., Any], info: dict[str, Any]) -> Any:
        with ExitStack() as stack:
            for name, value in (("overlap", 0), ("stride", 1), ("closed_loop", "R-P")):
                stack.enter_context(replaced(_params(), name, value))
            return windows(apply_model, info)
    return call
