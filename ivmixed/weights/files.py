"""Model files: what they are and what is in them, read without running code that they may hold.

They come from strangers: its first bytes and the names of its tensors say what a file is, and what it claims is bounded
by what it holds. `read` gives the tensors, `kind` says what they are of, `shape` is asked before one is taken apart.
"""
from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors
import torch

from ..untrusted import shown
from . import pickles

Source = str | os.PathLike[str]
Tensors = dict[str, torch.Tensor]
Notes = dict[str, Any]

CHECKPOINT, MOTION, LORA, VAE = "a checkpoint file", "an AnimateDiff motion module", "a LoRA", "a VAE file"
CONTROLNET = "a ControlNet"
MOTION_LORA = "an AnimateDiff motion LoRA"

OTHER = "a model of another family (SD 3, Flux or the like)"
SIGNS = (
    (r"^lllite_", "a ControlNet-LLLite"),
    (r"^lora_controlnet$", "a Control-LoRA"),
    (r"controlnet_cond_embedding|^control_model\.|^(input_hint_block|zero_convs)\.", CONTROLNET),
    (r"(motion_modules|temporal_attentions)\.", MOTION),
    (r"^model\.diffusion_model\.input_blocks\.(?!.*lora[._])", CHECKPOINT),
    (r"(double|single|joint)_blocks", OTHER),
    (r"hada_w|lokr_w|oft_blocks", "a LyCORIS file (LoHa, LoKr or OFT)"),
    (r"to_[kv]_ip|^image_proj[._]", "an IP-Adapter"),
    (r"lora[._]", LORA),
    (r"^model\.diffusion_model\.", OTHER),
    (r"^(first_stage_model\.)?decoder\.conv_in\.", VAE),
    (r"^(down_blocks|mid_block)\.", "the UNet of a diffusers folder (give the whole folder)"),
    (r"^(adapter\.)?body\.\d+\.", "a T2I-Adapter"),
    (r"^emb_params$", "a textual inversion embedding"),
)
"""A tensor whose name matches tells what a file is; the first match counts."""

FAMILIES = {1024: "SD 2", 1280: "the SDXL refiner", 2048: "SDXL"}
"""Width of the text embedding -> the family of models that has it; SD 1.5's is 768."""

MOST_HEADER = 1 << 25
"""Bytes of the header of a .safetensors file, which holds names, and what trainers note of their pictures."""
MOST_TENSORS, MOST_NAME = 1 << 16, 500
"""Tensors of a file, and characters of the name of one; SDXL has some 2500, kohya's names some 120."""
MOST_LEVELS = 8
"""Dictionaries inside each other around the weights."""

WRAPPERS = (
    "state_dict", "model_state_dict", "model", "motion_module", "unet", "module", "network", "params", "weights")
"""Names under which trainers put weights beside other things."""
TRAINING = ("module.", "_orig_mod.")
"""What training puts before all names: several devices at once, and ``torch.compile``."""

DTYPES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2", "I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8", "U8": "uint8",
    "U64": "uint64", "U32": "uint32", "U16": "uint16", "BOOL": "bool"}
"""The types of numbers of .safetensors, by their names there."""


class FileError(ValueError):
    """A file cannot be read. The message is one line that goes on after the file's name: ``is damaged ...``."""


def read(path: Source, device: str = "cpu") -> Tensors:
    """The tensors of a file by name, on "cpu", mapped from disk, or "meta", which gives names, shapes and dtypes.

    .safetensors, and what ``torch.save`` writes, told apart by their first bytes and not by the file's name. Of the
    latter no code is run, see `pickles`; the weights may lie inside dictionaries, such as ``{"state_dict": ...}``.
    ``module.`` and the like before names are dropped. Raises FileError: it does not exist, is damaged, or holds code
    besides weights.
    """
    return contents(path, device)[0]


def contents(path: Source, device: str = "cpu") -> tuple[Tensors, Notes]:
    """The tensors as of `read`, and what else is noted in the file: the metadata of .safetensors, text by name, or what
    stands beside the weights in the dictionaries around them. Raises FileError."""
    if not os.path.isfile(path):
        raise FileError("is no file" if os.path.exists(path) else "does not exist")
    try:
        found, notes = _load(Path(path), device)
    except FileError:
        raise
    except pickles.PickleError as error:
        raise FileError(str(error)) from error
    except OSError as error:
        raise FileError(f"cannot be read ({one_line(error)})") from error
    except Exception as error:  # of any kind: bytes that are no pickle can look like the start of one
        raise FileError(f"is damaged or no model file ({one_line(error)})") from error
    tensors: Tensors = {}
    for name, tensor in found.items():
        if len(name) > MOST_NAME:
            raise FileError(f"holds a tensor with a name of {len(name)} characters ({shown(name, 60)}...)")
        while name.startswith(TRAINING):
            name = name[name.index(".") + 1:]
        add(tensors, name, tensor)
    return tensors, notes


def add(tensors: dict[str, Any], name: str, tensor: Any) -> None:
    """Puts a tensor under a name that is free. Raises FileError where it is not: of two, one would be lost."""
    if name in tensors:
        raise FileError(f"holds {shown(name, 100)} twice, in two spellings")
    tensors[name] = tensor


def kind(names: Iterable[str]) -> str:
    """What a file with tensors of these names is, in words: one of those in `SIGNS`, or "no known model file"."""
    names = list(names)
    if any("lora" in name.partition("motion_modules")[2] for name in names):
        return MOTION_LORA
    return next((kind for sign, kind in SIGNS if any(re.search(sign, name) for name in names)), "no known model file")


def shape(name: str, tensor: torch.Tensor, dimensions: Sequence[int]) -> tuple[int, ...]:
    """The shape of a weight of a known number of ``dimensions`` (one of these), none of them 0.

    Asked before a stranger's tensor is taken apart. Raises FileError for another shape, and for other numbers than
    floating-point ones: quantized weights need scales besides.
    """
    if not tensor.is_floating_point():
        raise FileError(f"has weights in {str(tensor.dtype).removeprefix('torch.')} ({shown(name, 100)}), as quantized "
                        "files do; choose one in float16, bfloat16 or float32")
    if tensor.dim() not in dimensions or 0 in tensor.shape:
        wanted = " or ".join(map(str, dimensions))
        sizes = shown(list(tensor.shape), 60)
        raise FileError(f"has a tensor of a wrong shape, {shown(name, 100)} of {sizes} in place of {wanted} "
                        f"dimension{'' if wanted == '1' else 's'} of 1 at least")
    return tuple(tensor.shape)


def check_finite(tensors: Mapping[str, torch.Tensor]) -> None:
    """Raises FileError where a weight is no number or infinite."""
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not finite(tensor):
            raise FileError(f"is damaged: {shown(name, 100)} holds values that are infinite or no numbers")


def finite(tensor: torch.Tensor) -> bool:
    """Whether all values are finite numbers; of any floating type."""
    return bool((tensor if tensor.dtype.itemsize > 1 else tensor.float()).isfinite().all())


def one_line(error: Exception) -> str:
    """An error of a library as part of one line."""
    return shown(str(error)) or type(error).__name__


def _load(path: Path, device: str) -> tuple[Tensors, Notes]:
    with path.open("rb") as file:
        start = file.read(64)
    size = int.from_bytes(start[:8], "little")
    if start[8:9] == b"{" and size <= path.stat().st_size:
        if size > MOST_HEADER:
            raise FileError(f"has a header of {size} bytes, {MOST_HEADER} are allowed")
        return _load_safetensors(path, device)
    if start.startswith(b"GGUF"):
        raise FileError("is a GGUF file; choose a .safetensors file")
    if start.startswith(b"version https://git-lfs"):
        raise FileError("is a pointer of Git LFS in place of the file; download the file itself")
    return _innermost(pickles.load(path, device))


def _load_safetensors(path: Path, device: str) -> tuple[Tensors, Notes]:
    tensors: Tensors = {}
    with safetensors.safe_open(path, "pt") as file:
        names = file.keys()
        if len(names) > MOST_TENSORS:
            raise FileError(f"is no model file that is known here ({len(names)} tensors, {MOST_TENSORS} are allowed)")
        for name in names:
            part = file.get_slice(name)
            dtype = getattr(torch, DTYPES.get(part.get_dtype(), ""), None)
            if dtype is None:
                raise FileError(f"holds numbers of an unknown type, {shown(part.get_dtype(), 20)} ({shown(name, 100)})")
            tensors[name] = (torch.empty(part.get_shape(), dtype=dtype, device="meta") if device == "meta"
                             else file.get_tensor(name))
        return tensors, dict(file.metadata() or {})


def _innermost(found: Any) -> tuple[Tensors, Notes]:
    """The weights in what a pickle holds, and what stands beside them. Raises FileError."""
    notes: Notes = {}
    for _ in range(MOST_LEVELS):
        if not isinstance(found, dict):
            break
        inner = {name: value for name, value in found.items() if isinstance(value, dict) and value}
        own = {name: value for name, value in found.items() if isinstance(value, torch.Tensor)}
        chosen = _chosen(inner, bool(own))
        notes |= {name: value for name, value in found.items() if name != chosen and name not in own}
        if chosen is None:
            return own | _numbers(found), notes
        found = inner[chosen]
    raise FileError("is no known model file" if not isinstance(found, dict) else "holds itself")


def _chosen(inner: dict[str, Any], own: bool) -> str | None:
    """The name of the dictionary with the weights, unless they are beside it. Raises FileError: it cannot be told."""
    if own:
        return WRAPPERS[0] if WRAPPERS[0] in inner else None
    if known := [name for name in WRAPPERS if name in inner]:
        return known[0]
    holding = [name for name, part in inner.items() if any(isinstance(value, torch.Tensor) for value in part.values())]
    if len(holding) > 1:
        raise FileError(f"holds several models ({shown(', '.join(holding), 100)}); save the one you want by itself")
    return next(iter(holding or inner), None)


def _numbers(found: dict[str, Any]) -> Tensors:
    """Plain numbers among the weights, such as the alpha of a LoRA. Raises FileError for those of numpy."""
    for name, value in found.items():
        if "." in name and isinstance(value, pickles.StandIn) and value.name.startswith("numpy."):
            raise FileError(f"holds weights as numbers of numpy ({shown(name, 100)}); save them as tensors")
    return {name: torch.tensor(float(value)) for name, value in found.items()
            if "." in name and isinstance(value, (int, float)) and not isinstance(value, bool)}
