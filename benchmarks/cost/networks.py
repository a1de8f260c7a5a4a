"""A UNet of Stable Diffusion 1.5 with AnimateDiff's motion modules, of full size and with random weights."""
from __future__ import annotations

import torch
from diffusers import MotionAdapter, UNet2DConditionModel, UNetMotionModel
from torch import Tensor

from ivmixed import Schedule
from ivmixed.standalone.denoiser import Denoiser, image_view
from ivmixed.standalone.loading import SD15, quiet

TABLES = Schedule.linear(), Schedule.scaled_linear()
WORDS = 77


def make(device: torch.device, dtype: torch.dtype, small: bool = False) -> UNetMotionModel:
    """The video model. ``small``: two levels of a few channels, to try the benchmark itself."""
    config = UNet2DConditionModel.load_config(SD15 / "unet")
    motion = {"motion_max_seq_length": 32}
    if small:
        config = {**config, "block_out_channels": (32, 32), "cross_attention_dim": 32, "layers_per_block": 1,
                  "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
                  "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D")}
        motion |= {"block_out_channels": (32, 32), "motion_num_attention_heads": 4, "motion_layers_per_block": 1}
    torch.manual_seed(0)
    with quiet(), torch.device(device):
        unet = UNetMotionModel.from_unet2d(UNet2DConditionModel.from_config(config), MotionAdapter(**motion))
    return unet.to(dtype).eval()


class Networks:
    """The two denoisers of a clip."""

    def __init__(self, unet: UNetMotionModel, device: torch.device, chunk: int | None = None):
        words = torch.randn(2, 1, WORDS, unet.config.cross_attention_dim, generator=torch.Generator().manual_seed(1))
        uncond, cond = words.to(device, unet.dtype)
        self.video = Denoiser(unet, TABLES[0], "epsilon", uncond, cond)
        self.image = Denoiser(image_view(unet), TABLES[1], "epsilon", uncond, cond, chunk)


def noise(frames: int, width: int, height: int, device: torch.device) -> Tensor:
    """Latents (frames, 4, height / 8, width / 8), variance 1."""
    return torch.randn(frames, 4, height // 8, width // 8, generator=torch.Generator().manual_seed(2)).to(device)
