"""The loaded checkpoint: its parts as loaded, and as scripts change them for one sampling."""
from types import SimpleNamespace

import torch
from ldm_patched.modules.model_base import BaseModel
from modules_forge.unet_patcher import UnetPatcher

from modules import prompt_parser, shared


class ForgeObjects:
    def __init__(self, unet):
        self.unet = unet

    def shallow_copy(self):
        return ForgeObjects(self.unet)


class SdModel(torch.nn.Module):
    parameterization = "eps"
    is_sdxl = False
    num_timesteps = 1000

    def __init__(self):
        super().__init__()
        network = BaseModel()
        self.forge_objects = self.forge_objects_after_applying_lora = ForgeObjects(UnetPatcher(network))
        self.cond_stage_model_empty_prompt = prompt_parser.encode("")[None]
        self.model = SimpleNamespace(diffusion_model=network.diffusion_model, conditioning_key="crossattn")
        if shared.host != "forge_main":
            sigmas = network.model_sampling.sigmas
            self.register_buffer("alphas_cumprod", 1 / (1 + sigmas**2))
