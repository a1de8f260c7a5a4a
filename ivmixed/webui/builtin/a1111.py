"""Built-in motion in AUTOMATIC1111 1.10: how it comes into the UNet, its windows around the network's calls.

The windows stand at the checkpoint's ``apply_model``, which every sampler of the host ends at: outside of what
ControlNet puts around the UNet.
"""
from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor

from modules import devices, sd_models, shared

from ... import motion
from ...motion import attach
from ...patch import replaced
from ..extensions import controlnet
from ..motion import sigmas_of
from .generation import BuiltinClip


@contextmanager
def attached(clip: BuiltinClip) -> Iterator[motion.Motion]:
    """Within the block the clip's motion module acts in the host's UNet, on the noise table that it was trained on."""
    sd_model = shared.sd_model
    with ExitStack() as stack:
        module = stack.enter_context(clip.module(devices.dtype_unet, devices.device))
        attached = stack.enter_context(attach(sd_model.model.diffusion_model, module))
        clip.checkpoint_sigmas = sigmas_of(sd_model.alphas_cumprod)
        table = module.kind.alphas_cumprod().to(sd_model.alphas_cumprod.device)
        for name in ("alphas_cumprod", "alphas_cumprod_original"):
            stack.enter_context(replaced(sd_model, name, table))
        sd_models.apply_alpha_schedule_override(sd_model, clip.p)  # as the host does with the checkpoint's
        stack.enter_context(replaced(sd_model, "apply_model", _in_windows(clip, sd_model.apply_model)))
        yield attached


def _in_windows(clip: BuiltinClip, apply_model: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The checkpoint's ``apply_model``, window by window."""
    def call(x: Tensor, t: Tensor, cond: dict[str, Any]) -> Tensor:
        def part(rows: Tensor | slice) -> Tensor:
            if isinstance(rows, slice):  # all of them
                return apply_model(x, t, cond)
            part_cond = {key: [entry[rows] for entry in value] if isinstance(value, list) else value[rows]
                         for key, value in cond.items()}
            with controlnet.rows(clip.p.scripts, rows, len(x)):
                return apply_model(x[rows], t[rows], part_cond)
        # the sampler's denoiser has parted the rows of the image model already, see `_image_denoiser` in hosts
        return apply_model(x, t, cond) if clip.left_out else clip.in_windows(x, part)
    return call
