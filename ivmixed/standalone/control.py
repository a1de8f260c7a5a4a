"""ControlNets on a clip: each frame of a hint video steers the frame with its number.

Source: ControlNet, Zhang et al., arXiv 2302.05543; called as diffusers' ``AnimateDiffControlNetPipeline`` calls it, in
the rows and with the prompts of the UNet that it stands beside, and as often.
"""
from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from diffusers import ControlNetModel
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from ..options import OptionError
from ..patch import replaced
from .settings import ACTS_ON

Residuals = tuple[list[Tensor], Tensor]
"""What is added to a UNet: to each of its skips, and to its middle block."""


@dataclass(frozen=True)
class Control:
    """What a ControlNet is told in one clip. Raises OptionError for numbers out of their range."""

    hints: NDArray[np.uint8]
    """(frames, height, width, 3), RGB, of the clip's size: edges, depth, poses or what the ControlNet wants."""
    strength: float = 1.0
    """A factor on what it adds; 0 is none."""
    start: float = 0.0
    end: float = 1.0
    """The shares of the steps between which it acts."""
    acts_on: str = "both"
    """The model that it acts on: "both", "video" or "image"."""

    def __post_init__(self) -> None:
        if self.acts_on not in ACTS_ON:
            raise OptionError("acts_on", self.acts_on, ", ".join(ACTS_ON))
        if not 0 <= self.start < self.end <= 1:
            raise OptionError("start", self.start, f"a number from 0 to less than the end, {self.end:g}, which is at "
                              "most 1")

    def acts(self, model: str, step: int, steps: int) -> bool:
        """Whether it acts on ``model`` in an outer step, counted from 0.

        Step i of n is between the shares when start <= i / n and (i + 1) / n <= end, as in diffusers.
        """
        between = self.start <= step / steps and (step + 1) / steps <= self.end
        return self.strength != 0 and self.acts_on in ("both", model) and between


def check(config: Mapping[str, Any], unet: Mapping[str, Any], vae_scale: int) -> None:
    """Raises ValueError unless a ControlNet of configuration ``config`` fits a UNet; the message goes on after a name.

    ``vae_scale``: pixels a latent pixel, on a side.
    """
    config, unet = ({**_DEFAULTS, **values} for values in (config, unet))
    for name in _DEFAULTS:
        ours, theirs = (list(value) if isinstance(value := values[name], (list, tuple)) else value
                        for values in (unet, config))
        if ours != theirs:
            raise ValueError(f"does not fit the checkpoint: its {name} is {theirs}, and {ours} there")
    if config.get("conditioning_channels", 3) != 3:
        raise ValueError(f"is for hints of {config['conditioning_channels']} channels, and not for pictures")
    if config.get("controlnet_conditioning_channel_order", "rgb") != "rgb":
        raise ValueError("is for hints in another order of channels than RGB")
    if config.get("global_pool_conditions"):
        raise ValueError("takes the mean of its hint over the whole picture (shuffle), which is not supported")
    scale = 2 ** (len(config.get("conditioning_embedding_out_channels") or (16, 32, 96, 256)) - 1)
    if scale != vae_scale:
        raise ValueError(f"is for latents of {scale} pixels, and the checkpoint's are of {vae_scale}")


_DEFAULTS = {"in_channels": 4, "block_out_channels": [320, 640, 1280, 1280], "layers_per_block": 2,
             "cross_attention_dim": 1280}
"""What has to be alike in a ControlNet and a UNet, and what it is in diffusers where a configuration does not say."""


class ActingControl:
    """A ControlNet in one clip: the network, and what it is told."""

    def __init__(self, network: ControlNetModel, control: Control):
        self.network, self.control = network, control
        self._scale = 2 ** (len(network.config.conditioning_embedding_out_channels) - 1)
        self._embedded: dict[tuple[int, int], Tensor] = {}
        """The hints after the network's first layers, by the size of the latents."""

    def residuals(self, sample: Tensor, timestep: Tensor, context: Tensor, frames: Tensor | slice, copies: int,
                  shallow: bool) -> Residuals:
        """What it adds to the UNet's skips and to its middle block.

        ``sample``: (rows, channels, height, width), ``context``: (rows, tokens, width), as the UNet has them. Rows are
        those of ``frames``, each of them ``copies`` times in a row, and all of these again and again. ``shallow``: deep
        layers are replayed (`ivmixed.features`), so that only the first skip is read.
        """
        network, strength = self.network, self.control.strength
        hints = self._hints(sample.shape[-2], sample.shape[-1], sample.device)[frames]
        hints = hints.repeat_interleave(copies, 0)
        hints = hints.repeat(len(sample) // len(hints), 1, 1, 1)
        if shallow:
            first = network.controlnet_down_blocks[0](network.conv_in(sample) + hints) * strength
            nothing = sample.new_zeros(())
            return [first] + [nothing] * (len(network.controlnet_down_blocks) - 1), nothing
        with replaced(network, "controlnet_cond_embedding", nn.Identity()):
            down, middle = network(sample, timestep, encoder_hidden_states=context, controlnet_cond=hints,
                                   conditioning_scale=strength, return_dict=False)
        return list(down), middle

    def _hints(self, height: int, width: int, device: torch.device) -> Tensor:
        """The hints as features, (frames, channels, height, width); of latents of another size than the clip's they are
        made from hints that are stretched to it."""
        if (height, width) not in self._embedded:
            size = width * self._scale, height * self._scale
            parts = []
            for start in range(0, len(self.control.hints), 4):
                pictures = np.stack([_stretched(hint, size) for hint in self.control.hints[start:start + 4]])
                pixels = torch.from_numpy(pictures).to(device).permute(0, 3, 1, 2)
                parts.append(self.network.controlnet_cond_embedding((pixels / 255).to(self.network.dtype)))
            self._embedded[height, width] = torch.cat(parts)
        return self._embedded[height, width]


def _stretched(hint: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    if hint.shape[1::-1] == size:
        return hint
    return np.asarray(Image.fromarray(hint).resize(size, Image.Resampling.LANCZOS))


def added(controls: Sequence[ActingControl], *args: Any) -> dict[str, Any]:
    """The arguments of a UNet that add what all ``controls``, one or more, give together; ``args``: as of their
    `residuals`."""
    down, middle = controls[0].residuals(*args)
    for more, more_middle in (control.residuals(*args) for control in controls[1:]):
        down, middle = [one + other for one, other in zip(down, more)], middle + more_middle
    return {"down_block_additional_residuals": tuple(down), "mid_block_additional_residual": middle}


@contextmanager
def on_device(networks: Sequence[nn.Module], device: torch.device) -> Iterator[None]:
    """Within the block the networks are on ``device``; afterwards where they were."""
    before = [(network, next(network.parameters()).device) for network in networks]
    try:
        for network in networks:
            network.to(device)
        yield
    finally:
        for network, place in before:
            network.to(place)
