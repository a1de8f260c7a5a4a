"""LoRA files: the layers they name, and adding them to a model's weights.

Sources: Hu et al. 2021, arXiv 2106.09685, section 4.1; the layouts are those of kohya-ss' sd-scripts, of peft, of
diffusers, and of AnimateDiff's motion LoRAs.
"""
from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import torch

from .files import Source, Tensors, read

NAME = re.compile(r"(.+?)(?:[._]lora(?:_linear_layer)?[._](down|up|A|B)(?:\.default)?\.weight|\.alpha)$")
"""A tensor of a LoRA: its layer, and which side of it; kohya's ``.lora_down``, peft's ``.lora_A``, diffusers' older
``.lora.down``, ``_lora.down`` and ``.lora_linear_layer.down``."""


def fuse(layers: Mapping[str, torch.nn.Module], path: Source, weight: float) -> None:
    """Add ``weight * alpha / rank * up @ down`` to every layer that the LoRA at ``path`` names.

    ``layers``: by name, with underscores for dots, behind ``unet_`` or ``te_`` (text encoder). Nothing is changed
    unless all of it fits. Not diffusers' own loader, which drops what it does not match without an error, and with
    peft 0.21 and transformers 5 does not match the alphas of kohya's attention layers nor the attention of kohya's
    text encoders. Raises FileError, and ValueError where a name or a shape is not matched here.
    """
    adapter = _adapter(path)
    changes = []
    for name, parts in _parts(read(path)).items():
        if name not in layers or not {"down", "up"} <= set(parts):
            raise ValueError(f"layer {name} is not in the model, or half of it is missing")
        down, up = parts["down"].float(), parts["up"].float()
        rank = down.shape[0]
        own = adapter.get("unet.lora_alpha" if name.startswith("unet_") else "text_encoder.lora_alpha", rank)
        scale = weight * float(parts.get("alpha", own)) / rank
        target = layers[name].weight
        assert isinstance(target, torch.Tensor)
        change = scale * (up.flatten(1) @ down.flatten(1))  # of a convolution, up is 1 x 1
        if change.numel() != target.numel():
            raise ValueError(f"layer {name} is of another size than in the model")
        changes.append((target, change.reshape(target.shape)))
    for target, change in changes:
        target.data = (target.data.float() + change.to(target.device)).to(target.dtype)


def _parts(tensors: Tensors) -> dict[str, Tensors]:
    """The parts "down", "up" and perhaps "alpha" of each layer, which is named ``unet_...`` or ``te_...``.

    Raises ValueError for a part that a plain LoRA does not have.
    """
    layers: dict[str, Tensors] = {}
    for name, tensor in tensors.items():
        match = NAME.match(name)
        if match is None:
            raise ValueError(f"{name} is not part of a plain LoRA")
        layer = re.sub(r"\.processor\.to_out$", ".to_out.0", match[1]).replace(".processor.", ".").replace(".", "_")
        layer = re.sub(r"^(?=down_|mid_|up_)", "unet_", layer.removeprefix("lora_"))
        layer = re.sub(r"^(te|text_encoder)_(text_model_)?", "te_", layer)
        part = {"A": "down", "B": "up"}.get(match[2], match[2] or "alpha")
        layers.setdefault(layer, {})[part] = tensor
    return layers


def _adapter(path: Source) -> dict[str, Any]:
    """peft's configuration of a LoRA, from the header where diffusers writes it; empty for other files.

    Raises ValueError where it asks for more than a plain LoRA.
    """
    if Path(path).suffix != ".safetensors":
        return {}
    with safetensors.safe_open(path, "pt") as file:
        adapter = dict(json.loads((file.metadata() or {}).get("lora_adapter_metadata", "{}")))
    special = [name for name, value in adapter.items()
               if value and name.split(".")[-1] in ("alpha_pattern", "use_rslora", "use_dora")]
    if special:
        raise ValueError(f"it is not a plain LoRA: {special[0]} is set")
    return adapter
