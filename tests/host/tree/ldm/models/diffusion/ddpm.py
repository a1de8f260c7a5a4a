"""The checkpoint: the UNet with a noise table."""
from types import SimpleNamespace

import torch

from ldm.modules.diffusionmodules.openaimodel import UNetModel
from modules import prompt_parser


class LatentDiffusion(torch.nn.Module):
    def __init__(self, parameterization="eps"):
        super().__init__()
        torch.manual_seed(0)
        betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
        table = torch.cumprod(1 - betas, dim=0)
        self.register_buffer("alphas_cumprod", table)
        self.register_buffer("alphas_cumprod_original", table)
        self.parameterization = parameterization
        self.num_timesteps = 1000
        self.is_sdxl = self.lowvram = False
        self.model = torch.nn.Module()
        self.model.diffusion_model = UNetModel()
        self.model.conditioning_key = "crossattn"
        self.cond_stage_key = "txt"
        self.cond_stage_model_empty_prompt = prompt_parser.encode("")[None]
        self.watch = SimpleNamespace(call=None)
        """``watch.call(x, t, context, run)`` stands around every network call of a test."""

    def apply_model(self, x, t, cond):
        context = torch.cat(cond["c_crossattn"], dim=1)

        def run():
            return self.model.diffusion_model(x, timesteps=t, context=context)

        return run() if self.watch.call is None else self.watch.call(x, t, context, run)
