"""Motion module files, as people download them, become a `MotionModule`.

What a file is, is read from the names and shapes of its tensors, never from its file name::

    check("mm_sd_v15_v2.ckpt").name                                     # "AnimateDiff v2", reads no weights
    load("mm_sd_v15_v2.ckpt", loras=[("v2_lora_ZoomIn.ckpt", 0.8)], dtype=torch.float16, device="cuda")
"""
from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from . import files, lora
from .files import Source, Tensors
from .module import HOTSHOT, LCM, SDXL, V1, V2, V3, Kind, Layout, MotionModule, sinusoids

DIFFUSERS_NAMES = (
    (".temporal_transformer.", "."),
    (".attention_blocks.0.pos_encoder.", ".pos_embed."),
    (".attention_blocks.0.", ".attn1."),
    (".attention_blocks.1.", ".attn2."),
    (".norms.0.", ".norm1."),
    (".norms.1.", ".norm2."),
    (".ff_norm.", ".norm3."),
)
"""AnimateDiff's names -> diffusers'. diffusers has one position table for the two attentions of a block."""

LCM_POSITIONS = 64
"""Length of AnimateLCM's position table, which its file leaves out (its ``models/motion_module.py``)."""

WANTED = "choose an AnimateDiff motion module, such as v3_sd15_mm.ckpt or mm_sdxl_v10_beta.ckpt"

INCOMPLETE = "is incomplete, without {}; download it again"


class MotionError(ValueError):
    """A motion module cannot be used, or not so. The message is one line: what, why, and what to do."""

    def __init__(self, what: Any, problem: str):
        super().__init__(f"IV-mixed: motion module {what} {problem}.")


def check(path: Source) -> Kind:
    """What the motion module at ``path`` is. Reads no weights where the format allows.

    Raises MotionError: the file is missing, damaged, of another kind, or incomplete.
    """
    return _recognise(path, _tensors(path, "meta"))[0]


def load(
    path: Source,
    *,
    loras: Sequence[tuple[Source, float]] = (),
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
    as_diffusers: bool = False,
) -> MotionModule:
    """The motion module at ``path``, in ``dtype`` (the file's own where not given) on ``device``, for inference.

    ``path``: AnimateDiff v1, v2, v3, AnimateLCM, AnimateDiff-SDXL or HotShot-XL in a single file of the published
    layout or of diffusers', or the folder of a diffusers MotionAdapter. ``loras``: motion LoRAs, (file, weight) pairs.
    ``as_diffusers``: normalise the frames of a clip together before each temporal transformer. AnimateDiff takes each
    frame by itself, and so does this by default; diffusers does not, and its clips differ a little for it.
    Raises MotionError.
    """
    tensors = _tensors(path, "cpu")
    kind, layout = _recognise(path, tensors, as_diffusers)
    with torch.device("meta"):
        module = MotionModule(kind, layout, Path(path).name)
    module.load_state_dict(_with_tables(tensors, module), assign=True)
    module.requires_grad_(False).eval()
    for file, weight in loras:
        _fuse(module, file, weight)
    return module.to(device=device, dtype=dtype)


def to_diffusers(tensors: Mapping[str, Any]) -> dict[str, Any]:
    """The tensors of a motion module under diffusers' names."""
    return {_renamed(name, DIFFUSERS_NAMES): tensor for name, tensor in tensors.items()}


def _renamed(name: str, pairs: Sequence[tuple[str, str]]) -> str:
    for old, new in pairs:
        name = name.replace(old, new)
    return name


def _tensors(path: Source, device: str) -> Tensors:
    """The tensors of a file or folder under AnimateDiff's names."""
    try:
        tensors = files.read(_weights_in(path) if os.path.isdir(path) else path, device)
    except files.FileError as error:
        raise MotionError(path, f"{error}; {WANTED}") from error
    kind = files.kind(tensors)
    if kind != files.MOTION:
        raise MotionError(path, f"is {kind}; {WANTED}")
    return _as_animatediff(tensors)


def _weights_in(folder: Source) -> Path:
    """The weights of a diffusers MotionAdapter; those of its folder's two variants that are there."""
    found = sorted(file for file in Path(folder).glob("diffusion_pytorch_model*") if file.suffix != ".json")
    if not found:
        raise files.FileError("is a folder without diffusion_pytorch_model.safetensors")
    return min(found, key=lambda file: file.suffix != ".safetensors")


def _as_animatediff(tensors: Tensors) -> Tensors:
    """The same under AnimateDiff's names, whatever they were."""
    renamed: Tensors = {}
    for name, tensor in tensors.items():
        name = re.sub(r"\.temporal_attentions\.(\d+)\.", r".motion_modules.\1.temporal_transformer.", name)  # HotShot's
        if ".temporal_transformer." not in name:
            name = re.sub(r"(motion_modules\.\d+\.)", r"\1temporal_transformer.", name)
            name = _renamed(name, [(theirs, ours) for ours, theirs in DIFFUSERS_NAMES[1:]])
            if name.endswith(".attention_blocks.0.pos_encoder.pe"):
                renamed[name.replace("blocks.0.pos", "blocks.1.pos")] = tensor
        # AnimateLCM's own name for a table, and HotShot-XL's
        renamed[re.sub(r"\.pos_encoder\.pos(itional)?_encoding$", ".pos_encoder.pe", name)] = tensor
    return renamed


def _recognise(path: Source, tensors: Tensors, as_diffusers: bool = False) -> tuple[Kind, Layout]:
    """What a module is, and its measures; tensors may be without data. Raises MotionError where they do not fit."""
    levels = {int(match[1]) for name in tensors if (match := re.match(r"down_blocks\.(\d+)\.", name))}
    widths = []
    for level in range(max(levels, default=0) + 1):
        name = f"down_blocks.{level}.motion_modules.0.temporal_transformer.norm.weight"
        if name not in tensors:
            raise MotionError(path, INCOMPLETE.format(name))
        widths.append(tensors[name].shape[0])
    layers = {match[1] for name in tensors if (match := re.match(r"down_blocks\.0\.motion_modules\.(\d+)\.", name))}
    tables = [tensor.shape[1] for name, tensor in tensors.items() if name.endswith(".pos_encoder.pe")]
    middle = any(name.startswith("mid_block.") for name in tensors)
    config = _config(path)
    layout = Layout(
        widths=tuple(widths),
        layers=len(layers),
        middle=middle,
        positions=tables[0] if tables else LCM_POSITIONS if middle else Layout.positions,
        heads=int(config.get("motion_num_attention_heads", Layout.heads)),
        groups=int(config.get("motion_norm_num_groups", Layout.groups)),
        norm_over_frames=as_diffusers,
    )
    if len(widths) == 3:
        kind = HOTSHOT if layout.positions <= 24 else SDXL
    elif middle:
        kind = V2 if tables else LCM
    else:
        kind = V1 if layout.positions <= 24 else V3
    _compare(path, tensors, kind, layout)
    return kind, layout


def _config(path: Source) -> dict[str, Any]:
    """The configuration of a diffusers folder; empty for a file."""
    try:
        return dict(json.loads(Path(path, "config.json").read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return {}


def _compare(path: Source, tensors: Tensors, kind: Kind, layout: Layout) -> None:
    """Raises MotionError unless a module has just these tensors; position tables may be missing."""
    try:
        with torch.device("meta"):
            wanted = MotionModule(kind, layout).state_dict()
    except (ValueError, RuntimeError) as error:  # widths that do not divide into groups, say
        raise MotionError(path, f"has an unknown layout ({files.one_line(error)}); {WANTED}") from error
    for name, tensor in tensors.items():
        if name not in wanted:
            raise MotionError(path, f"holds more than motion ({name}), as image-to-video modules and whole video "
                                    f"models do; {WANTED}")
        if tensor.shape != wanted[name].shape:
            sizes = f"{list(tensor.shape)} in place of {list(wanted[name].shape)}"
            raise MotionError(path, f"has a tensor of another size, {name} of {sizes}; {WANTED}")
    for name in wanted:
        if name not in tensors and not name.endswith(".pe"):
            raise MotionError(path, INCOMPLETE.format(name))


def _with_tables(tensors: Tensors, module: MotionModule) -> Tensors:
    """The tensors, and the sinusoids that a file may leave out."""
    tables = {name: sinusoids(*table.shape[1:]) for name, table in module.state_dict().items()
              if name.endswith(".pe") and name not in tensors}
    return {**tensors, **tables}


def _fuse(module: MotionModule, path: Source, weight: float) -> None:
    """Add a motion LoRA, in AnimateDiff's, kohya's or diffusers' layout."""
    layers: dict[str, torch.nn.Module] = {}
    for name, layer in module.named_modules():
        if isinstance(layer, torch.nn.Linear):
            for spelled in (name, _renamed(name + ".", DIFFUSERS_NAMES)[:-1]):
                layers["unet_" + spelled.replace(".", "_")] = layer
    try:
        kind = files.kind(files.read(path, "meta"))
        if kind != files.MOTION_LORA:
            raise ValueError(f"it is {kind}")
        lora.fuse(layers, path, weight)
    except (ValueError, RuntimeError) as error:
        problem = f"cannot take the motion LoRA {path} ({files.one_line(error)}); choose one for {module.kind.name}"
        raise MotionError(module.name, problem) from error
