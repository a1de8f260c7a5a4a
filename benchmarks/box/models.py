"""The bundled model as two denoisers of many clips at once, which saves time on a CPU."""
from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ivmixed.standalone import Settings, box, txt2vid
from ivmixed.standalone.denoiser import Denoiser, image_view


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
        video, image = (Denoiser(unet, table, "epsilon", uncond, cond) for unet, table in zip(self.unets, self.tables))
        return video, image

    @torch.no_grad()
    def decode(self, x: Tensor) -> NDArray[np.uint8]:
        """Finished latents (frames, clips, ...) as clips (clips, frames, height, width, 3)."""
        pixels = self.pipe.decode(x.flatten(0, 1)).unflatten(0, x.shape[:2])
        clips: NDArray[np.uint8] = pixels.transpose(0, 1).numpy()
        return clips
