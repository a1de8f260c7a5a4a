"""The arithmetic of an evaluation: counted, not timed, so that it is the same on every machine."""
from __future__ import annotations

import torch
from diffusers import ControlNetModel
from torch.utils.flop_counter import FlopCounterMode

from ivmixed.features import DeepFeatures
from ivmixed.neighbours import attending
from ivmixed.options import ATTENTIONS
from ivmixed.standalone.denoiser import deep_layers, image_view

from .networks import WORDS, make


@torch.no_grad()
def work_of(frames: int, width: int, height: int, small: bool = False) -> dict[str, float]:
    """Floating point operations of an evaluation (cond and uncond) of each kind: "video", "image", "outer video",
    "image, neighbours", ..., and "controlnet", of one beside either model, after its hints.

    Of matrix products, convolutions and attention alone. ``width``, ``height``: pixels. Nothing is computed.
    """
    meta = torch.device("meta")
    unet = make(meta, torch.float32, small)
    side = height // 8, width // 8
    latents = {"video": torch.empty(2, 4, frames, *side, device=meta),
               "image": torch.empty(2 * frames, 4, *side, device=meta)}
    words = torch.empty(2 * frames, WORDS, unet.config.cross_attention_dim, device=meta)
    timestep = torch.empty((), dtype=torch.long, device=meta)
    count: dict[str, float] = {}
    for model, network in (("video", unet), ("image", image_view(unet))):
        features = DeepFeatures(deep_layers(network))
        for sees in ATTENTIONS if model == "image" else ("own",):
            end = "" if sees == "own" else f", {sees}"
            for name, around in ((model, features.recorded), (f"outer {model}", features.replayed)):
                with FlopCounterMode(display=False) as counter, around(), attending(network, sees, frames):
                    network(latents[model], timestep, encoder_hidden_states=words, return_dict=False)
                count[name + end] = float(counter.get_total_flops())
    with meta:
        controlnet = ControlNetModel.from_unet(image_view(unet), load_weights_from_unet=False)
    controlnet.controlnet_cond_embedding = torch.nn.Identity()  # it is asked once for a clip
    hints = torch.empty(2 * frames, unet.config.block_out_channels[0], *side, device=meta)
    with FlopCounterMode(display=False) as counter:
        controlnet(latents["image"], timestep, encoder_hidden_states=words, controlnet_cond=hints, return_dict=False)
    return {**count, "controlnet": float(counter.get_total_flops())}
