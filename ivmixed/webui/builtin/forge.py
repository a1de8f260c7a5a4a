"""Built-in motion on the Forge family: how it comes into the UNet, its windows around the network's calls.

The windows stand at the network's ``apply_model``, which every evaluation ends at. ControlNet has been asked by then,
for all rows at once, and what it gave is cut to the window's rows.
"""
from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor

from ... import motion
from ...motion import MotionError, attach
from ...motion.attach import TAKEN
from ...patch import replaced
from ..extensions.forge_animatediff import is_motion
from ..hosts.forge.patcher import inner_modifiers, on_table
from ..motion import sigmas_of
from .generation import BuiltinClip, BuiltinMotion


def unet_of(clip: BuiltinClip) -> Any:
    """The host's patcher of the UNet that a clip's every sampling begins with."""
    return clip.p.sd_model.forge_objects_after_applying_lora.unet


@contextmanager
def attached(clip: BuiltinClip, holder: Any) -> Iterator[motion.Motion]:
    """Within the block the clip's motion module acts in the host's UNet, on the noise table that it was trained on.

    ``holder``: where the network finds its timestep.
    """
    sd_model, unet = clip.p.sd_model, unet_of(clip)
    network = unet.model
    with ExitStack() as stack:
        module = stack.enter_context(clip.module(_dtype(network), unet.load_device))
        attached = stack.enter_context(attach(network.diffusion_model, module))
        _reserve(unet, module, stack)
        abar = module.kind.alphas_cumprod()
        clip.checkpoint_sigmas = holder.sigmas
        stack.enter_context(on_table(holder, sigmas_of(abar).to(holder.sigmas)))
        for name in ("alphas_cumprod", "alphas_cumprod_original"):
            if isinstance(own := getattr(sd_model, name, None), Tensor):
                stack.enter_context(replaced(sd_model, name, abar.to(own)))
        stack.enter_context(replaced(network, "apply_model", _in_windows(clip, network.apply_model)))
        yield attached


def _dtype(network: Any) -> torch.dtype:
    """What the network computes in."""
    if hasattr(network, "computation_dtype"):
        return network.computation_dtype  # type: ignore[no-any-return]
    return network.manual_cast_dtype or network.get_dtype()  # type: ignore[no-any-return]


def _reserve(unet: Any, module: torch.nn.Module, stack: ExitStack) -> None:
    """The host's memory manager leaves room for the module, where it can be told."""
    if hasattr(unet, "extra_preserved_memory_during_sampling"):
        size = sum(tensor.nbytes for tensor in module.state_dict().values())
        kept = unet.extra_preserved_memory_during_sampling + size
        stack.enter_context(replaced(unet, "extra_preserved_memory_during_sampling", kept))


def _in_windows(clip: BuiltinClip, apply_model: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The network's ``apply_model``, window by window."""
    def call(x: Tensor, t: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        # AnimateDiff puts it there after motion has come in here
        if any(map(is_motion, inner_modifiers(kwargs.get("transformer_options", {})))):
            raise MotionError(clip.path.name, TAKEN)

        def part(rows: Tensor | slice) -> Tensor:
            if isinstance(rows, slice):  # all of them
                return apply_model(x, t, *args, **kwargs)
            args_of_rows, kwargs_of_rows = _cut((args, kwargs), rows, len(x))
            options = kwargs_of_rows.get("transformer_options", {})
            if "cond_indices" in options:
                length = len(rows) * clip.frames // len(x)
                for name in ("cond_indices", "uncond_indices"):
                    sets = sorted({row // clip.frames for row in options[name]})
                    options[name] = [part * length + frame for part in sets for frame in range(length)]
            return apply_model(x[rows], t[rows], *args_of_rows, **kwargs_of_rows)
        return clip.in_windows(x, part)
    return call


def _cut(value: Any, rows: Tensor, total: int) -> Any:
    """``value`` with all tensors of ``total`` rows in it, at any depth, cut to ``rows``."""
    if isinstance(value, Tensor):
        return value[rows.to(value.device)] if value.ndim and value.shape[0] == total else value
    if isinstance(value, dict):
        return {key: _cut(entry, rows, total) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)([_cut(entry, rows, total) for entry in value])
    return value


class ForgeBuiltinMotion(BuiltinMotion):
    """The same, where the image model may be another network than the clip's."""

    def around(self, network: Any) -> AbstractContextManager[None]:
        return replaced(network, "apply_model", _in_windows(self._clip, network.apply_model))
