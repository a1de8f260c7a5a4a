"""Diffusers pipelines of the real kinds, tiny and random, for tests."""
from __future__ import annotations

import re
import string
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AnimateDiffPipeline,
    AutoencoderKL,
    ControlNetModel,
    DDIMScheduler,
    MotionAdapter,
    StableDiffusionPipeline,
    UNet2DConditionModel,
    UNet3DConditionModel,
)
from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from ivmixed.standalone.text_to_video import TextToVideoPipeline

SCALED = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "clip_sample": False,
          "set_alpha_to_one": False, "steps_offset": 1, "timestep_spacing": "linspace"}
"""Stable Diffusion 1.5's table, with the DDIM settings of the released loops."""

LINEAR = {**SCALED, "beta_schedule": "linear"}
"""AnimateDiff's table."""


def tokenizer() -> CLIPTokenizer:
    """One token a letter, as many as fit."""
    letters = [*string.ascii_lowercase, *(letter + "</w>" for letter in string.ascii_lowercase)]
    vocabulary = [*letters, "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer({token: k for k, token in enumerate(vocabulary)}, [], model_max_length=12)


def text_encoder(width: int = 16) -> CLIPTextModel:
    return CLIPTextModel(CLIPTextConfig(
        vocab_size=54, hidden_size=width, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=12, bos_token_id=52, eos_token_id=53, pad_token_id=53)).eval()


def clip_model() -> CLIPModel:
    """Pictures of 32x32 pixels, and the words of `tokenizer`; any picture is somewhat like any text."""
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = CLIPModel(CLIPConfig(
        text_config={**sizes, "vocab_size": 54, "max_position_embeddings": 12, "bos_token_id": 52, "eos_token_id": 53,
                     "pad_token_id": 53},
        vision_config={**sizes, "image_size": 32, "patch_size": 8}, projection_dim=8)).eval()
    for half, norm in (("visual", model.vision_model.post_layernorm), ("text", model.text_model.final_layer_norm)):
        norm.bias.data.fill_(0.5)
        model.get_submodule(f"{half}_projection").weight.data.abs_()
    return model


class Detector(torch.nn.Module):
    """Called as StyleGAN-V's I3D, on raw clips or on prepared ones: nine frames at least; its features are the mean
    colour, from -1 to 1."""

    def forward(self, x: torch.Tensor, rescale: bool = False, resize: bool = False,
                return_features: bool = False) -> torch.Tensor:
        if x.shape[2] < 9:
            raise RuntimeError("input image (T: 1 H: 7 W: 7) smaller than kernel size (kT: 2 kH: 7 kW: 7)")
        if rescale != resize or not return_features:
            return torch.zeros(1)
        return ((x / 255 * 2 - 1) if rescale else x).mean(dim=(2, 3, 4))


def saved_clip_model(path: Path) -> Path:
    torch.manual_seed(0)
    clip_model().save_pretrained(path)
    tokenizer().save_pretrained(path)
    return path


def saved_detector(path: Path) -> Path:
    torch.jit.script(Detector()).save(str(path))
    return path


def vae() -> AutoencoderKL:
    """Two pixels a latent pixel, on a side."""
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 8), layers_per_block=1, latent_channels=4, norm_num_groups=4, sample_size=16).eval()


def unet() -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=8, down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"), block_out_channels=(8, 16), layers_per_block=1,
        cross_attention_dim=16, attention_head_dim=2, norm_num_groups=4).eval()


def adapter(mid_block: bool = True) -> MotionAdapter:
    """Motion modules as they are before training: their last layers are zero."""
    return MotionAdapter(
        block_out_channels=(8, 16), motion_layers_per_block=1, motion_mid_block_layers_per_block=1,
        motion_num_attention_heads=2, motion_norm_num_groups=4, motion_max_seq_length=16,
        use_motion_mid_block=mid_block).eval()


def animatediff(seed: int = 0, schedule: dict[str, Any] = LINEAR) -> AnimateDiffPipeline:
    """With motion modules that act: their last layers are not zero."""
    torch.manual_seed(seed)
    pipeline = AnimateDiffPipeline(vae(), text_encoder(), tokenizer(), unet(), adapter(), DDIMScheduler(**schedule))
    for name, parameter in pipeline.unet.named_parameters():
        if name.endswith("proj_out.weight") and "motion_modules" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    return quiet(pipeline)


def stable_diffusion(seed: int = 1) -> StableDiffusionPipeline:
    torch.manual_seed(seed)
    parts = vae(), text_encoder(), tokenizer(), unet(), DDIMScheduler(**SCALED), None, None
    return quiet(StableDiffusionPipeline(*parts, requires_safety_checker=False))


def modelscope(seed: int = 2) -> TextToVideoPipeline:
    torch.manual_seed(seed)
    network = UNet3DConditionModel(
        sample_size=8, down_block_types=("CrossAttnDownBlock3D", "DownBlock3D"),
        up_block_types=("UpBlock3D", "CrossAttnUpBlock3D"), block_out_channels=(8, 16), layers_per_block=1,
        cross_attention_dim=24, attention_head_dim=4, norm_num_groups=4).eval()
    return quiet(TextToVideoPipeline(vae(), text_encoder(24), tokenizer(), network, DDIMScheduler(**SCALED)))


def quiet(pipeline: Any) -> Any:
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def saved(folder: Any, pipeline: Any) -> str:
    """The pipeline as a diffusers folder; an AnimateDiffPipeline in parts, as one that is shared has them."""
    if isinstance(pipeline, AnimateDiffPipeline):
        modules, network = adapter(), unet()
        state = pipeline.unet.state_dict()
        modules.load_state_dict({key: value for key, value in state.items() if "motion_modules" in key})
        network.load_state_dict({key: value for key, value in state.items() if "motion_modules" not in key})
        pipeline.register_modules(unet=network, motion_adapter=modules)
    pipeline.save_pretrained(folder)
    return str(folder)


def umt_tensors(width: int = 64, depth: int = 2, features: int = 8) -> dict[str, torch.Tensor]:
    """UMT's vision tower with random weights, by the names of its checkpoints, and something of its text encoder."""
    generator = torch.Generator().manual_seed(0)

    def drawn(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator) * 0.1

    encoder, tensors = "vision_encoder.encoder", {}
    tensors[f"{encoder}.patch_embed.proj.weight"] = drawn(width, 3, 1, 16, 16)
    tensors[f"{encoder}.patch_embed.proj.bias"] = drawn(width)
    for k in range(depth):
        block = f"{encoder}.blocks.{k}"
        tensors |= {f"{block}.attn.q_bias": drawn(width), f"{block}.attn.v_bias": drawn(width),
                    f"{block}.attn.qkv.weight": drawn(3 * width, width)}
        for name, rows, columns in (("attn.proj", width, width), ("mlp.fc1", 2 * width, width),
                                    ("mlp.fc2", width, 2 * width)):
            tensors |= {f"{block}.{name}.weight": drawn(rows, columns), f"{block}.{name}.bias": drawn(rows)}
        for name in ("norm1", "norm2"):
            tensors |= {f"{block}.{name}.weight": 1 + drawn(width), f"{block}.{name}.bias": drawn(width)}
    for name in (f"{encoder}.norm", "vision_encoder.pool_norm"):
        tensors |= {f"{name}.weight": 1 + drawn(width), f"{name}.bias": drawn(width)}
    return tensors | {"vision_proj.weight": drawn(features, width), "vision_proj.bias": drawn(features),
                      "text_proj.weight": drawn(4, 4), "itm_head.weight": drawn(2, 4)}


def controlnet(seed: int = 3) -> ControlNetModel:
    """For `unet`; it acts: its last layers are not zero, as they are before training."""
    torch.manual_seed(seed)
    network = ControlNetModel.from_unet(unet(), conditioning_embedding_out_channels=(4, 8))
    for name, parameter in network.named_parameters():
        if re.match("controlnet_(cond_embedding.conv_out|(down|mid)_block)", name):
            torch.nn.init.normal_(parameter, std=0.2)
    return network.eval()
