"""What the sampler knows of the sd-webui-animatediff extension: where its motion is, and how to do without it.

Source: that extension's ``scripts/animatediff_mm.py`` (injection, noise table) and ``animatediff_infv2v.py`` (context
windows), read at a88e889.
"""
from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from modules import sd_models

from ...motion import MotionOptions
from ...options import ConflictError, OptionError
from ...patch import replaced
from ...untrusted import shown
from ..errors import RefusedError
from ..motion import ClipMotion, sigmas_of
from . import controlnet

TITLE = "AnimateDiff"
"""Of its script."""

KNOWN = ("model", "frames", "fps", "formats", "context", "overlap", "stride", "closed_loop")
"""Options of a clip's motion that it has too."""
UNPREPARED = (
    "AnimateDiff stopped while it prepared this clip, and would write none: the WebUI's log says why. Through the API "
    "it stops at ControlNet's units: use the page, or tick IV-mixed motion instead of AnimateDiff, which works with "
    "them.")
"""Said where the extension has put motion into the UNet and got no further."""
MOTIONLESS = (
    "AnimateDiff stopped before it put motion into the UNet, and all frames would be stills: the WebUI's log says why. "
    "The motion module may be made for another kind of checkpoint, or the request has a setting that AnimateDiff does "
    "not know.")
"""Said where it has not put any."""


def _extension() -> Any:
    module = sys.modules.get("scripts.animatediff_mm")
    return getattr(module, "mm_animatediff", None)


def folder() -> Path:
    """Where it looks for motion modules: not in the folders inside."""
    return Path(_extension().get_model_dir())


def settings_of(options: MotionOptions) -> Any:
    """The extension's settings, as its panel sends them, that ask for this clip. Raises OptionError."""
    if options.loras:
        raise ConflictError("loras", options.loras, "the AnimateDiff extension", because="it reads the prompt's",
                            remedy="write <lora:name:weight> into the prompt")
    for name, value in options.changed().items():
        if name not in KNOWN:
            default = options.option(name).to_text(options.option(name).default) or "nothing"
            raise ConflictError(name, value, "the AnimateDiff extension", because="it does not have it",
                                remedy=f"take {default}, or built-in motion")
    if not (folder() / options.model).is_file():
        raise OptionError("model", options.model, f"the files in AnimateDiff's folder {folder()}", "is not there")
    return sys.modules["scripts.animatediff_ui"].AnimateDiffProcess(
        model=options.model, enable=True, video_length=options.frames, fps=options.fps, closed_loop=options.closed_loop,
        batch_size=min(options.context, options.frames), stride=options.stride, overlap=options.overlap,
        format=[name.upper() for name in options.formats])


def remove(sd_model: Any) -> None:
    """Takes motion out of the UNet after an error, where AnimateDiff does not: it only does so at the end."""
    extension = _extension()
    if extension is not None and extension.mm_injected:
        extension.restore(sd_model)


def asked(p: Any) -> Any:
    """The extension's settings in a request that asks for its motion, an object, or a dict by the API; else None."""
    for script in getattr(p.scripts, "alwayson_scripts", None) or ():
        if script.title() == TITLE and script.args_from is not None:
            given = p.script_args[script.args_from]
            return given if _get(given, "enable") else None
    return None


def refuse_stills(p: Any) -> None:
    """To be called where the UNet has no motion. Raises OptionError, RefusedError where a request asks for it: the host
    only logs why the extension has put none there."""
    given = asked(p)
    if given is None:
        return
    name, extension = _get(given, "model"), _extension()
    if isinstance(name, str) and extension is not None:
        folder = Path(extension.get_model_dir())
        if not (folder / name).is_file():
            raise OptionError("model", shown(name), f"the files in AnimateDiff's folder {folder}", "is not there")
    raise RefusedError(MOTIONLESS)


def _get(given: Any, name: str) -> Any:
    return given.get(name) if isinstance(given, dict) else getattr(given, name, None)


def blended(params: Any, cond: Any) -> Any:
    """The prompts of a step, (frames, ...), blended between the frames that have one by a clip's settings."""
    closed = params.video_length > params.batch_size and params.closed_loop in ("R+P", "A")
    return params.prompt_scheduler.multi_cond(cond, closed)


class AnimateDiffMotion(ClipMotion):
    """The motion that AnimateDiff has put into AUTOMATIC1111's UNet for the clip being sampled."""

    needs_both = True

    def __init__(self, extension: Any, scripts: Any):
        self._extension, self._scripts = extension, scripts
        self.context = int(extension.ad_params.batch_size)
        self.modules = [module for module in extension.mm.modules() if hasattr(module, "temporal_transformer")]

    @classmethod
    def of_clip(cls, p: Any, frames: int) -> AnimateDiffMotion | None:
        """The motion for a latent of ``frames`` frames; None where the UNet has none, or the latent is no clip.

        Raises OptionError, RefusedError where AnimateDiff stopped while it prepared the clip of the request ``p``.
        """
        extension = _extension()
        if extension is None:
            return None
        if not extension.mm_injected:
            refuse_stills(p)
        if not extension.mm_injected or frames < 2:
            return None
        if extension.ad_params is None or not extension.ad_params.enable:
            return None
        if extension.ad_params.prompt_scheduler is None:
            raise RefusedError(UNPREPARED)
        return cls(extension, p.scripts)

    def checkpoint_sigmas(self) -> torch.Tensor:
        own = SimpleNamespace(
            alphas_cumprod=self._extension.prev_alpha_cumprod,
            alphas_cumprod_original=self._extension.prev_alpha_cumprod_original,
        )
        sd_models.apply_alpha_schedule_override(own)
        return sigmas_of(own.alphas_cumprod)

    def blended(self, cond: Any) -> Any:
        return blended(self._extension.ad_params, cond)

    @contextmanager
    def left_out(self) -> Iterator[None]:
        with ExitStack() as stack:
            # SparseCtrl is a control with motion of the same make
            theirs = [module for network in controlnet.networks(self._scripts) for module in network.modules()
                      if hasattr(module, "temporal_transformer")]
            for module in (*self.modules, *theirs):
                stack.enter_context(replaced(module, "forward", _identity))
            if self._extension.gn32_original_forward is not None:
                # v1 and HotShot: the group norm spans the frames while motion is in
                stack.enter_context(replaced(self._group_norm(), "forward", self._extension.gn32_original_forward))
            yield

    def _group_norm(self) -> Any:
        if self._extension.mm.is_hotshot:
            from sgm.modules.diffusionmodules.util import GroupNorm32
        else:
            from ldm.modules.diffusionmodules.util import GroupNorm32
        return GroupNorm32


def _identity(x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    return x
