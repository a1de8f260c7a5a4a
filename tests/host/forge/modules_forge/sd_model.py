"""A checkpoint: its parts as loaded, with LoRAs, and as scripts change them for one sampling."""
from pathlib import Path
from types import SimpleNamespace

import networks  # noqa: F401  the extension registers itself
import torch
from ldm_patched.modules import model_management
from ldm_patched.modules.model_base import BaseModel
from modules_forge.unet_patcher import ModelPatcher, UnetPatcher

from modules import prompt_parser, sd_models, shared


class TextEncoder(torch.nn.Module):
    """What is learned of it; the rest is `prompt_parser.encode`."""

    def __init__(self):
        super().__init__()
        self.transformer = torch.nn.Module()
        self.transformer.weight = torch.nn.Parameter(torch.ones(4))


class Clip:
    def __init__(self, patcher):
        self.patcher = patcher

    def clone(self):
        return Clip(self.patcher.clone())

    def add_patches(self, added):
        return self.patcher.add_patches(added)

    def __call__(self, tensor):
        model_management.load_models_gpu([self.patcher])
        return (tensor * self.patcher.model.transformer.weight).detach()


class ForgeObjects:
    def __init__(self, unet, clip):
        self.unet, self.clip = unet, clip

    def shallow_copy(self):
        return ForgeObjects(self.unet, self.clip)


class SdModel(torch.nn.Module):
    parameterization = "eps"
    is_sd1 = True
    is_sdxl = False
    num_timesteps = 1000

    def __init__(self):
        super().__init__()
        network = BaseModel()
        self.forge_objects = ForgeObjects(UnetPatcher(network), Clip(ModelPatcher(TextEncoder())))
        self.forge_objects_original = self.forge_objects.shallow_copy()
        self.forge_objects_after_applying_lora = self.forge_objects.shallow_copy()
        self.sd_checkpoint_info = sd_models.CheckpointInfo(Path("models", "loaded.safetensors"))
        self.current_lora_hash = "[]"
        self.tiling_enabled = False
        self.cond_stage_model_empty_prompt = prompt_parser.encode("")[None]
        self.model = SimpleNamespace(diffusion_model=network.diffusion_model, conditioning_key="crossattn")
        if shared.host != "forge_main":
            sigmas = network.model_sampling.sigmas
            self.register_buffer("alphas_cumprod", 1 / (1 + sigmas**2))

    @classmethod
    def from_tensors(cls, tensors):
        model = cls()
        parts = (("model.diffusion_model.", model.model.diffusion_model),
                 ("cond_stage_model.", model.forge_objects.clip.patcher.model))
        for prefix, part in parts:
            part.load_state_dict({key.removeprefix(prefix): value for key, value in tensors.items()
                                  if key.startswith(prefix)})
        return model
