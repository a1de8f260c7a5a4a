"""LoRA files: the layers they name, and adding them to a model's weights.

Sources: Hu et al. 2021, arXiv 2106.09685, section 4.1; the layouts are those of kohya-ss' sd-scripts, of peft, of
diffusers, of ComfyUI, and of AnimateDiff's motion LoRAs.
"""
from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ..untrusted import JsonError, parse_object, shown
from .files import Notes, Source, Tensors, contents, finite, shape

NAME = re.compile(
    r"(.+?)(?:[._]lora(?:_linear_layer)?[._](?:(down|up)|(A|B)(?:\.(?!weight$)[^.]+)?)\.weight|\.alpha)$")
"""A tensor of a LoRA: its layer, and which side of it; kohya's ``.lora_down``, peft's ``.lora_A`` and
``.lora_A.<adapter>``, diffusers' older ``.lora.down``, ``_lora.down`` and ``.lora_linear_layer.down``."""

HARMLESS = re.compile(r"bundle_emb\.")
"""What lies beside a LoRA and changes nothing by itself: textual inversion embeddings, for prompts that name them."""

OWNERS = (
    (r"(lora_te1?|te1?|text_encoder|(text_encoders_)?clip_l|cond_stage_model)_(transformer_)?(text_model_)?", "te_"),
    (r"(lora_unet|unet|model_diffusion_model|diffusion_model)_", "unet_"),
    (r"text_model_(?=encoder_layers_)|(?=encoder_layers_)", "te_"),
    (r"(?=(down_blocks|mid_block|up_blocks|input_blocks|middle_block|output_blocks|time_embed|conv)_|time_embedding_"
     r"|out_[02]$|conv_(in|out|norm_out)$)", "unet_"),
)
"""How names begin -> which of the two networks a layer is of; the first match counts."""

ATTENTION = re.compile(r"(?<=self_attn_)to_(q|k|v|out)(_0)?$")
"""diffusers 0.17's names of a text encoder's layers; its own are ``q_proj`` and so on."""

RESIDUAL = {"in_layers_0": "norm1", "in_layers_2": "conv1", "emb_layers_1": "time_emb_proj", "out_layers_0": "norm2",
            "out_layers_3": "conv2", "skip_connection": "conv_shortcut"}
AROUND = {"input_blocks_0_0": "conv_in", "time_embed_0": "time_embedding_linear_1",
          "time_embed_2": "time_embedding_linear_2", "out_0": "conv_norm_out", "out_2": "conv_out"}
"""The original names of layers of SD 1.5's UNet -> diffusers'."""


def fuse(layers: Mapping[str, torch.nn.Module], path: Source, weight: float) -> None:
    """Add ``weight * alpha / rank * up @ down`` to every layer that the LoRA at ``path`` names.

    ``layers``: by name, with underscores for dots, behind ``unet_`` or ``te_`` (text encoder). Nothing is changed
    unless all of it fits. Not diffusers' own loader, which drops what it does not match without an error, and with
    peft 0.21 and transformers 5 does not match the alphas of kohya's attention layers nor the attention of kohya's
    text encoders. Raises FileError, and ValueError where a name or a shape is not matched here, or where the sum is no
    finite number.
    """
    tensors, notes = contents(path)
    adapter = _adapter(path, notes)
    fused: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
    for name, parts in layers_of(tensors).items():
        target = getattr(layers.get(name), "weight", None)
        if not isinstance(target, torch.Tensor) or target.dim() < 2 or not {"down", "up"} <= parts.keys():
            raise ValueError(f"layer {shown(name, 100)} is not in the model, or half of it is missing")
        if id(target) in fused:
            raise ValueError(f"layer {shown(name, 100)} is there twice, in two spellings")
        change = _change(name, parts, _default_alpha(adapter, name), target)
        result = (target.data.float() + weight * change.to(target.device)).to(target.dtype)
        if not finite(result):
            raise ValueError(f"layer {shown(name, 100)} would hold values that are infinite or no numbers")
        fused[id(target)] = target, result
    if not fused:
        raise ValueError("it names no layer")
    for target, result in fused.values():
        target.data = result


def layers_of(tensors: Tensors) -> dict[str, Tensors]:
    """The parts "down", "up" and perhaps "alpha" of each layer, which is named ``unet_...`` or ``te_...``, as diffusers
    names it, with underscores.

    Raises ValueError for a part that a plain LoRA does not have, and for a layer that is there in two spellings.
    """
    layers: dict[str, Tensors] = {}
    for name, tensor in tensors.items():
        if HARMLESS.match(name):
            continue
        match = NAME.match(name)
        if match is None:
            raise ValueError(f"{shown(name, 100)} is not part of a plain LoRA")
        parts = layers.setdefault(_layer(match[1]), {})
        part = {"A": "down", "B": "up"}.get(match[3], match[2] or "alpha")
        if part in parts:
            raise ValueError(f"layer {shown(match[1], 100)} is there twice, in two spellings")
        parts[part] = tensor
    return layers


def _layer(name: str) -> str:
    """A layer's name in one spelling."""
    name = re.sub(r"(^|\.)base_model\.model\.", r"\1", name)
    name = re.sub(r"\.processor\.to_out$", ".to_out.0", name).replace(".processor.", ".").replace(".", "_")
    for pattern, owner in OWNERS:
        if match := re.match(pattern, name):
            own = name[match.end():]
            return owner + (_diffusers_name(own) if owner == "unet_" else ATTENTION.sub(_encoders_name, own))
    return name


def _encoders_name(match: re.Match[str]) -> str:
    return f"{match[1]}_proj"


def _diffusers_name(name: str) -> str:
    """The name of a layer of the UNet, of the original layout or diffusers', in the latter."""
    if name in AROUND:
        return AROUND[name]
    if match := re.match(r"middle_block_(\d)_(.+)$", name):
        number, rest = int(match[1]), match[2]
        return f"mid_block_attentions_0_{rest}" if number == 1 else f"mid_block_resnets_{number // 2}_{_residual(rest)}"
    match = re.match(r"(input|output)_blocks_(\d{1,2})_(\d)_(.+)$", name)
    if match is None:
        return name
    side, number, place, rest = match[1], int(match[2]), match[3], match[4]
    level, layer = divmod(number - 1 if side == "input" else number, 3)
    block = f"{'down' if side == 'input' else 'up'}_blocks_{level}"
    if rest in ("op", "conv"):
        return f"{block}_{'downsamplers' if rest == 'op' else 'upsamplers'}_0_conv"
    return f"{block}_resnets_{layer}_{_residual(rest)}" if place == "0" else f"{block}_attentions_{layer}_{rest}"


def _residual(rest: str) -> str:
    return RESIDUAL.get(rest, rest)


def _change(name: str, parts: Tensors, alpha: float | None, target: torch.Tensor) -> torch.Tensor:
    """What a LoRA adds to a layer at weight 1, float32. Raises ValueError where it does not fit."""
    for side in ("down", "up"):
        shape(f"{name} ({side})", parts[side], (2, 4))
        if not finite(parts[side]):
            raise ValueError(f"layer {shown(name, 100)} holds values that are infinite or no numbers")
    down, up = parts["down"].float(), parts["up"].float()
    rank = down.shape[0]
    if "alpha" in parts:
        given = parts["alpha"]
        if given.numel() != 1 or given.is_complex() or not math.isfinite(given.item()):
            raise ValueError(f"layer {shown(name, 100)} has an alpha that is no finite number")
        alpha = float(given.item())
    if up.shape[1] != rank or up.flatten(1).shape[1] != rank:
        raise ValueError(f"layer {shown(name, 100)} has halves of ranks {rank} and {up.shape[1]}")
    made, wanted = (_without_ones((up.shape[0], *down.shape[1:])), _without_ones(target.shape))
    if made != wanted:
        raise ValueError(f"layer {shown(name, 100)} is of another size than in the model ({list(made)} in place of "
                         f"{list(wanted)})")
    return (rank if alpha is None else alpha) / rank * (up.flatten(1) @ down.flatten(1)).reshape(target.shape)


def _without_ones(sizes: tuple[int, ...]) -> tuple[int, ...]:
    """A shape without the 1 x 1 of a convolution that is as good as a matrix."""
    return sizes[:2] if set(sizes[2:]) <= {1} else tuple(sizes)


def _adapter(path: Source, notes: Notes) -> dict[str, Any]:
    """peft's configuration of a LoRA, from the header where diffusers writes it, or from peft's own file beside it;
    empty for other files.

    Raises ValueError where it asks for more than a plain LoRA.
    """
    beside = Path(path).with_name("adapter_config.json")
    text: Any = notes.get("lora_adapter_metadata")
    try:
        if text is None and Path(path).name.startswith("adapter_model.") and os.path.isfile(beside):
            with beside.open("rb") as file:
                text = file.read((1 << 20) + 1)
        adapter = parse_object(text) if isinstance(text, (str, bytes)) else {}
    except JsonError as error:
        raise ValueError(f"peft's configuration of it {error}") from error
    special = [name for name, value in adapter.items()
               if value and name.split(".")[-1] in ("alpha_pattern", "use_rslora", "use_dora")]
    if special:
        raise ValueError(f"it is not a plain LoRA: {shown(special[0], 60)} is set")
    return adapter


def _default_alpha(adapter: Mapping[str, Any], name: str) -> float | None:
    """The alpha of layers that bring none of their own; None: as large as the rank. Raises ValueError."""
    owner = "unet" if name.startswith("unet_") else "text_encoder"
    alpha = adapter.get(f"{owner}.lora_alpha", adapter.get("lora_alpha"))
    if alpha is not None and (isinstance(alpha, bool) or not isinstance(alpha, (int, float))):
        raise ValueError(f"peft's configuration of it has lora_alpha = {shown(alpha, 60)}, which is no number")
    return None if alpha is None else float(alpha)

