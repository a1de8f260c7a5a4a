"""The model in the box as two denoisers of many clips at once, which saves time on a CPU."""
from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from diffusers import UNetMotionModel
from numpy.typing import NDArray
from torch import Tensor

from ivmixed.schedule import Schedule
from ivmixed.standalone import Settings, box, txt2vid
from ivmixed.standalone.models import image_view


class Box:
    """The model, loaded. ``tables``: the noise tables of the video and the image model."""

    def __init__(self) -> None:
        cpu = torch.device("cpu")
        self.pipe = txt2vid.load(txt2vid.complete(Settings(prompt="a red circle turns"), cpu), cpu)
        self.unets = self.pipe.video.unet, image_view(self.pipe.video.unet)
        self.tables = self.pipe.video_table, self.pipe.image_table

    def noise(self, clips: int, seed: int) -> Tensor:
        """(frames, clips, channels, height, width), variance 1."""
        side = self.pipe.video.unet.config.sample_size
        return torch.randn(box.FRAMES, clips, 4, side, side, generator=torch.Generator().manual_seed(seed))

    @torch.no_grad()
    def denoisers(self, prompts: Sequence[str]) -> tuple[Denoiser, Denoiser]:
        """The video and the image denoiser of a clip for each prompt."""
        cond, uncond = self.pipe.video.encode_prompt(list(prompts), torch.device("cpu"), 1, True, [""] * len(prompts))
        video, image = (Denoiser(unet, table, torch.stack([uncond, cond]))
                        for unet, table in zip(self.unets, self.tables))
        return video, image

    @torch.no_grad()
    def decode(self, x: Tensor) -> NDArray[np.uint8]:
        """Finished latents (frames, clips, ...) as clips (clips, frames, height, width, 3)."""
        pixels = self.pipe._decode(x.flatten(0, 1)).unflatten(0, x.shape[:2])
        clips: NDArray[np.uint8] = pixels.transpose(0, 1).numpy()
        return clips


class Denoiser:
    """A UNet as a denoiser of latents (frames, clips, channels, height, width).

    ``words``: (2, clips, tokens, width), the encoded prompts, uncond before cond.
    """

    def __init__(self, unet: torch.nn.Module, table: Schedule, words: Tensor):
        self.unet, self.table, self.words = unet, table, words
        self._asked: Tensor | None = None

    def __call__(self, x: Tensor, sigma: Tensor, cond_scale: float) -> Tensor:
        level = float(sigma[0])
        if x is not self._asked:  # else the same question again, with other guidance
            self._asked, self._eps = x, self._network(x / math.sqrt(1 + level**2), level)
        uncond, cond = self._eps
        return x - level * torch.lerp(uncond, cond, cond_scale)

    def _network(self, x: Tensor, level: float) -> tuple[Tensor, ...]:
        t = torch.tensor(self.table.sigma_to_timestep(level))
        frames, clips = x.shape[:2]
        if isinstance(self.unet, UNetMotionModel):
            both = x.movedim(0, 2).repeat(2, 1, 1, 1, 1)  # (2 clips, channels, frames, height, width)
            words = self.words.flatten(0, 1).repeat_interleave(frames, 0)
            out = self.unet(both, t, encoder_hidden_states=words, return_dict=False)[0].movedim(2, 0)
            return out.chunk(2, dim=1)
        both = x.flatten(0, 1).repeat(2, 1, 1, 1)
        words = self.words.repeat(1, frames, 1, 1).flatten(0, 1)
        out = self.unet(both, t, encoder_hidden_states=words, return_dict=False)[0]
        return tuple(part.unflatten(0, (frames, clips)) for part in out.chunk(2))
