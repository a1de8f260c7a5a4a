"""Model files: what they are and what is in them, read without running code that they may hold."""
from __future__ import annotations

import os
import pickle
import re
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

Source = str | os.PathLike[str]
Tensors = dict[str, torch.Tensor]

CHECKPOINT, MOTION, LORA, VAE = "a checkpoint file", "an AnimateDiff motion module", "a LoRA", "a VAE file"
MOTION_LORA = "an AnimateDiff motion LoRA"

OTHER = "a model of another family (SD 3, Flux or the like)"
SIGNS = (
    (r"motion_modules[._].*lora", MOTION_LORA),
    (r"controlnet_cond_embedding|^control_model\.", "a ControlNet"),
    (r"(motion_modules|temporal_attentions)\.", MOTION),
    (r"^model\.diffusion_model\.input_blocks\.", CHECKPOINT),
    (r"(double|single|joint)_blocks", OTHER),
    (r"hada_w|lokr_w|oft_blocks", "a LyCORIS file (LoHa, LoKr or OFT)"),
    (r"lora[._]", LORA),
    (r"^model\.diffusion_model\.", OTHER),
    (r"^(first_stage_model\.)?decoder\.conv_in\.", VAE),
    (r"^(down_blocks|mid_block)\.", "the UNet of a diffusers folder (give the whole folder)"),
    (r"^emb_params$", "a textual inversion embedding"),
)
"""A tensor whose name matches tells what a file is; the first match counts."""

FAMILIES = {1024: "SD 2", 1280: "the SDXL refiner", 2048: "SDXL"}
"""Width of the text embedding -> the family of models that has it; SD 1.5's is 768."""


class FileError(ValueError):
    """A file cannot be read. The message is one line that goes on after the file's name: ``is damaged ...``."""


def read(path: Source, device: str = "cpu") -> Tensors:
    """The tensors of a file by name, mapped from disk where its format allows; ``module.`` before a name is dropped.

    ``device`` "meta" gives names and shapes, and of .safetensors reads no more than the header.
    .safetensors, and whatever torch saves (.ckpt, .pth, .pt, .bin) through weights-only loading, also inside
    ``{"state_dict": ...}``. Raises FileError: it does not exist, is damaged, or holds code besides weights.
    """
    if not os.path.isfile(path):
        raise FileError("is no file" if os.path.exists(path) else "does not exist")
    try:
        state = _load(Path(path), device)
    except pickle.UnpicklingError as error:
        code = "GLOBAL" in str(error)
        problem = "holds Python code besides weights, which is never run (look for its .safetensors)"
        raise FileError(problem if code else "is damaged or no model file") from error
    except Exception as error:  # of any kind: bytes that are no pickle can look like the start of one
        raise FileError(f"is damaged or no model file ({one_line(error)})") from error
    while isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    state = state if isinstance(state, dict) else {}
    return {str(name).removeprefix("module."): tensor for name, tensor in state.items()
            if isinstance(tensor, torch.Tensor)}


def _load(path: Path, device: str) -> Any:
    if path.suffix != ".safetensors":
        return torch.load(os.fspath(path), map_location=device, weights_only=True, mmap=zipfile.is_zipfile(path))
    if device != "meta":
        return safetensors.torch.load_file(path, device)
    with safetensors.safe_open(path, "pt") as file:
        return {name: torch.empty(file.get_slice(name).get_shape(), device=device) for name in file.keys()}  # noqa: SIM118


def kind(names: Iterable[str]) -> str:
    """What a file with tensors of these names is, in words: one of those in `SIGNS`, or "no known model file"."""
    names = list(names)
    return next((kind for sign, kind in SIGNS if any(re.search(sign, name) for name in names)), "no known model file")


def one_line(error: Exception) -> str:
    """An error of a library as part of one line."""
    return " ".join(str(error).split())[:200] or type(error).__name__
