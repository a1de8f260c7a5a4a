"""The checkpoint: the UNet with a noise table."""
from pathlib import Path
from types import SimpleNamespace

import networks
import torch

from ldm.modules.diffusionmodules.openaimodel import UNetModel
from modules import prompt_parser, sd_models


class TextEncoder(torch.nn.Module):
    """What is learned of it; the rest is `prompt_parser.encode`."""

    def __init__(self):
        super().__init__()
        self.transformer = torch.nn.Module()
        self.transformer.weight = torch.nn.Parameter(torch.ones(4))


class Hijacked(torch.nn.Module):
    """What the host puts around a text encoder."""

    def __init__(self, wrapped):
        super().__init__()
        self.wrapped = wrapped

    def forward(self, tensor):
        transformer = self.wrapped.transformer
        networks.network_apply_weights(transformer)
        return (tensor * transformer.weight).detach()


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
        self.is_sd1 = True
        self.sd_checkpoint_info = sd_models.CheckpointInfo(Path("models", "loaded.safetensors"))
        self.model = torch.nn.Module()
        self.model.diffusion_model = UNetModel()
        self.model.conditioning_key = "crossattn"
        self.cond_stage_key = "txt"
        self.cond_stage_model = Hijacked(TextEncoder())
        networks.assign_network_names_to_compvis_modules(self)
        self.cond_stage_model_empty_prompt = prompt_parser.encode("")[None]
        self.watch = SimpleNamespace(call=None)
        """``watch.call(x, t, context, run)`` stands around every network call of a test."""

    def apply_model(self, x, t, cond):
        context = torch.cat(cond["c_crossattn"], dim=1)

        def run():
            return self.model.diffusion_model(x, timesteps=t, context=context)

        return run() if self.watch.call is None else self.watch.call(x, t, context, run)
