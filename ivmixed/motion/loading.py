"""Motion module files, as people download them, become a `MotionModule`.

What a file is, is read from the names and shapes of its tensors. From its own name is only taken what they cannot say:
that a v2 module is one of AnimateDiff-Lightning, which has the same, and for how many steps::

    check("mm_sd_v15_v2.ckpt").name                                     # "AnimateDiff v2", reads no weights
    load("mm_sd_v15_v2.ckpt", loras=[("v2_lora_ZoomIn.ckpt", 0.8)], dtype=torch.float16, device="cuda")
"""
from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from ..untrusted import JsonError, parse_object, shown
from ..weights import files, lora
from ..weights.files import Source, Tensors
from .module import AUTO, HOTSHOT, LCM, LIGHTNING, SDXL, V1, V2, V3, Layout, ModuleKind, MotionModule, sinusoids

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

INCOMPLETE = "is incomplete, without {} (download it again)"

BLOCK = re.compile(r"(?:^|\.)((?:down_blocks|mid_block|up_blocks)\.)")
"""Where AnimateDiff's names begin; before it may stand whatever a model that holds the module calls it."""

MOST_LAYERS, MOST_WIDTH, MOST_POSITIONS = 8, 1 << 14, 1 << 12

SHORT, LONG = 24, 32
"""Frames that the published position tables of v1 and HotShot-XL number, and of v3 and AnimateDiff-SDXL."""
TOLERANCE = 0.02
"""Of a table in half precision, bfloat16 too."""


class MotionError(ValueError):
    """A motion module cannot be used, or not so. The message is one line: what, why, and what to do."""

    def __init__(self, what: Any, problem: str):
        super().__init__(f"IV-mixed: motion module {what} {problem}.")


@dataclass(frozen=True)
class Found:
    """A motion module file: what it is, its measures, and its tensors under AnimateDiff's names."""

    kind: ModuleKind
    layout: Layout
    tensors: Tensors
    doubt: str = ""
    """Where the file does not tell which of two kinds it is: in one line, which was taken, and what else it may be."""

    def with_tables(self) -> Tensors:
        """The tensors, and the sinusoids that a file may leave out."""
        missing = _shapes(self.layout).keys() - self.tensors.keys()
        return {**self.tensors, **{name: sinusoids(*_shapes(self.layout)[name][1:]) for name in missing}}


def check(path: Source) -> ModuleKind:
    """What the motion module at ``path`` is. Reads no weights where the format allows.

    Raises MotionError: the file is missing, damaged, of another kind, or incomplete.
    """
    with _refused_as_motion(path):
        return read(path, "meta").kind


def load(
    path: Source,
    *,
    loras: Sequence[tuple[Source, float]] = (),
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
    as_diffusers: bool = False,
    kind: str = AUTO,
) -> MotionModule:
    """The motion module at ``path``, in ``dtype`` (the file's own where not given) on ``device``, for inference.

    ``path``: AnimateDiff v1, v2, v3, AnimateDiff-Lightning, AnimateLCM, AnimateDiff-SDXL or HotShot-XL in a single file
    of the published layout or of diffusers', or the folder of a diffusers MotionAdapter. ``loras``: motion LoRAs,
    (file, weight) pairs.
    ``as_diffusers``: normalise the frames of a clip together before each temporal transformer. AnimateDiff takes each
    frame by itself, and so does this by default; diffusers does not, and its clips differ a little for it.
    ``kind``: the name of a `ModuleKind` where the file does not tell, see `read`; "auto" takes the likelier, and
    `MotionModule.doubt` says so.
    Raises MotionError.
    """
    with _refused_as_motion(path):
        found = read(path, "cpu", kind)
    layout = replace(found.layout, norm_over_frames=as_diffusers)
    with torch.device("meta"):
        module = MotionModule(found.kind, layout, Path(path).name, found.doubt)
    module.load_state_dict(found.with_tables(), assign=True)
    module.requires_grad_(False).eval()
    for file, weight in loras:
        _fuse(module, file, weight)
    return module.to(device=device, dtype=dtype)


@contextmanager
def _refused_as_motion(path: Source) -> Iterator[None]:
    try:
        yield
    except files.FileError as error:
        raise MotionError(path, f"{error}; {WANTED}") from error


def read(path: Source, device: str, kind: str = AUTO) -> Found:
    """The motion module at ``path``, recognised and complete; its tensors on "cpu", all finite, or on "meta".

    v1 and v3 have tensors of the same names and sizes but for their position tables, and so have HotShot-XL and
    AnimateDiff-SDXL. Which it is, ``kind`` says, the name of a `ModuleKind`; or with "auto" the file, in its own
    ``use_inflated_groupnorm``; or the rows of its table, see `made_for`; or a table of 24 or 32 frames, the published
    ones. Where none of them does, `Found.doubt` says which was taken. AnimateDiff-Lightning has v2's tensors with other
    numbers in them: it is told by "lightning" and "4step" in the name of the file or folder.
    Raises FileError: it is missing, damaged, of another kind, or incomplete.
    """
    weights = _weights_in(path) if os.path.isdir(path) else path
    tensors, notes = files.contents(weights, device)
    what = files.kind(tensors)
    if what != files.MOTION:
        raise files.FileError(f"is {what}")
    named = as_animatediff(tensors)
    layout = _layout(named, _config(path) if os.path.isdir(path) else {})
    hotshot = any(".temporal_attentions." in name for name in tensors)
    taken, doubt = _recognised(layout, named, weights, notes, kind, hotshot, Path(path).name)
    _compare(named, layout)
    if device != "meta":
        files.check_finite(named)
    return Found(taken, layout, named, doubt)


def to_diffusers(tensors: Mapping[str, Any]) -> dict[str, Any]:
    """The tensors of a motion module under diffusers' names."""
    return {_renamed(name, DIFFUSERS_NAMES): tensor for name, tensor in tensors.items()}


def _renamed(name: str, pairs: Sequence[tuple[str, str]]) -> str:
    for old, new in pairs:
        name = name.replace(old, new)
    return name


def _weights_in(folder: Source) -> Path:
    """The weights of a diffusers MotionAdapter; those of its folder's two variants that are there."""
    found = sorted(file for file in Path(folder).glob("diffusion_pytorch_model*") if file.suffix != ".json")
    if not found:
        raise files.FileError("is a folder without diffusion_pytorch_model.safetensors")
    return min(found, key=lambda file: file.suffix != ".safetensors")


def as_animatediff(tensors: Tensors) -> Tensors:
    """The same under AnimateDiff's names, whatever they were: without a prefix that all have, from diffusers' layout or
    HotShot-XL's. Raises FileError where two have one name then."""
    places = {name: match for name in tensors if (match := BLOCK.search(name))}
    prefixes = sorted({name[:match.start(1)] for name, match in places.items()})
    if len(prefixes) > 1:
        raise files.FileError(f"holds several models ({shown(', '.join(prefixes), 100)})")
    renamed: Tensors = {}
    for name, tensor in tensors.items():
        name = name[places[name].start(1):] if name in places else name
        name = re.sub(r"\.temporal_attentions\.(\d+)\.", r".motion_modules.\1.temporal_transformer.", name)  # HotShot's
        if "motion_modules." in name and ".temporal_transformer." not in name:
            name = re.sub(r"(motion_modules\.\d+\.)", r"\1temporal_transformer.", name)
            name = _renamed(name, [(theirs, ours) for ours, theirs in DIFFUSERS_NAMES[1:]])
            if name.endswith(".attention_blocks.0.pos_encoder.pe"):
                files.add(renamed, name.replace("blocks.0.pos", "blocks.1.pos"), tensor)
        # AnimateLCM's own name for a table, and HotShot-XL's
        files.add(renamed, re.sub(r"\.pos_encoder\.pos(itional)?_encoding$", ".pos_encoder.pe", name), tensor)
    return renamed


def widths(named: Tensors) -> tuple[int, ...]:
    """The channels of the levels, of tensors under AnimateDiff's names. Raises FileError."""
    found: list[int] = []
    levels = {int(match[1]) for name in named if (match := re.match(r"down_blocks\.(\d)\.", name))}
    for level in range(max(levels, default=0) + 1):
        name = f"down_blocks.{level}.motion_modules.0.temporal_transformer.norm.weight"
        if name not in named:
            raise files.FileError(INCOMPLETE.format(name))
        found += files.shape(name, named[name], (1,))
    return tuple(found)


def _layout(named: Tensors, config: Mapping[str, Any]) -> Layout:
    """The measures of a module. Raises FileError."""
    layers = {match[1] for name in named if (match := re.match(r"down_blocks\.0\.motion_modules\.(\d+)\.", name))}
    tables = [files.shape(name, tensor, (3,))[1] for name, tensor in named.items() if name.endswith(".pos_encoder.pe")]
    middle = any(name.startswith("mid_block.") for name in named)
    found = widths(named)
    if len(layers) > MOST_LAYERS or max(found) > MOST_WIDTH or max(tables, default=0) > MOST_POSITIONS:
        raise files.FileError("has an unknown layout (more layers, channels or positions than a motion module)")
    return Layout(
        widths=found,
        layers=len(layers),
        middle=middle,
        positions=tables[0] if tables else LCM_POSITIONS if middle else Layout.positions,
        heads=config.get("motion_num_attention_heads", Layout.heads),
        groups=config.get("motion_norm_num_groups", Layout.groups),
    )


def _config(folder: Source) -> dict[str, Any]:
    """The configuration of a diffusers folder. Raises FileError."""
    try:
        with Path(folder, "config.json").open("rb") as file:
            config = parse_object(file.read((1 << 20) + 1))
    except FileNotFoundError:
        raise files.FileError("is a folder without config.json") from None
    except JsonError as error:
        raise files.FileError(f"has a config.json that {error}") from error
    except OSError as error:
        raise files.FileError(f"has a config.json that cannot be read ({files.one_line(error)})") from error
    for name in ("motion_num_attention_heads", "motion_norm_num_groups"):
        if type(value := config.get(name, 1)) is not int or not 1 <= value <= 1024:
            raise files.FileError(f"has a config.json with {name} = {shown(value, 60)}, no whole number from 1 to 1024")
    return config


def _recognised(
    layout: Layout, named: Tensors, weights: Source, notes: Mapping[str, Any], wanted: str, hotshot: bool, name: str,
) -> tuple[ModuleKind, str]:
    """What a module of this file ``name`` is, and the doubt that is left. Raises FileError where it is not what is
    ``wanted``."""
    tables = [name for name in named if name.endswith(".pos_encoder.pe")]
    if len(layout.widths) == 3:
        kinds = [HOTSHOT] if hotshot else [HOTSHOT, SDXL]
    elif layout.middle:
        kinds = [*LIGHTNING.values(), V2] if tables else [LCM]
    else:
        kinds = [V1, V3]
    if wanted != AUTO and wanted not in (kind.name for kind in kinds):
        raise files.FileError(f"is {kinds[-1].name}, not {shown(wanted, 60)}; leave its kind at {AUTO}")
    chosen = [kind for kind in kinds if kind.name == wanted]
    if chosen or len(kinds) == 1:
        return (chosen or kinds)[0], ""
    if V2 in kinds:
        return _lightning_or_v2(name)
    by_frames = dict(zip((SHORT, LONG), kinds))
    spans = _says_norms_span_frames(notes)
    if spans is not None:
        return kinds[0 if spans else 1], ""
    if tables:
        frames = made_for(_table(named[tables[0]], weights, tables[0])) or layout.positions
        if frames in by_frames:
            return by_frames[frames], ""
    has = f"positions for {layout.positions} frames" if tables else "no positions"
    first, taken = (kind.name for kind in kinds)
    return kinds[1], (f"has {has}, where {first} has {SHORT} and {taken} {LONG}, and nothing else tells them apart; it "
                      f"is taken as {taken}. If it was made from {first}, choose that as its kind")


def _lightning_or_v2(name: str) -> tuple[ModuleKind, str]:
    """Which of these a file of that name is, and the doubt that is left."""
    if "lightning" not in name.lower():
        return V2, ""
    steps = re.search(r"(?<!\d)([1248])[-_ ]?steps?", name.lower())
    if steps:
        return LIGHTNING[int(steps[1])], ""
    return LIGHTNING[4], (f"is called lightning, and not for how many steps; it is taken as {LIGHTNING[4].name}. If it "
                          "is another, choose that as its kind")


def _says_norms_span_frames(notes: Mapping[str, Any]) -> bool | None:
    """What AnimateDiff's own configuration beside the weights says; v1's is the one without inflated group norms."""
    for part in (notes, notes.get("animatediff_config"), notes.get("unet_additional_kwargs")):
        said = part.get("use_inflated_groupnorm") if isinstance(part, Mapping) else None
        if isinstance(said, bool) or said in ("true", "false", "True", "False"):
            return str(said).lower() == "false"
    return None


def _table(table: Tensor, weights: Source, name: str) -> Tensor:
    """A position table, (positions, channels), float32; read from the file where only its shape was. Raises FileError.
    """
    return (as_animatediff(files.read(weights))[name] if table.is_meta else table)[0].float()


def made_for(table: Tensor) -> int | None:
    """How many frames a longer position table, (positions, channels), was made of: 24 or 32, where its rows tell.

    They do where the published rows are stretched (linear or nearest, ends aligned or not) or repeated. They do not
    where the sinusoids just go on, or where the table was trained.
    """
    positions, width = table.shape
    plain = sinusoids(positions, width)[0]
    if width % 2 or torch.allclose(table, plain, rtol=0, atol=TOLERANCE):
        return None
    for frames in (SHORT, LONG):
        rows = sinusoids(frames, width)[0]
        stretched = [functional.interpolate(rows.T[None], size=positions, mode=mode, align_corners=aligned)[0].T
                     for mode, aligned in (("linear", True), ("linear", False), ("nearest", None))]
        repeated = rows.repeat(-(-positions // frames), 1)[:positions]
        if any(torch.allclose(table, made, rtol=0, atol=TOLERANCE) for made in (*stretched, repeated)):
            return frames
    return None


@lru_cache(maxsize=16)
def _shapes(layout: Layout) -> dict[str, torch.Size]:
    """The names and shapes of a module's tensors. Raises ValueError, RuntimeError for a layout that none can have."""
    with torch.device("meta"):
        return {name: tensor.shape for name, tensor in MotionModule(V3, layout).state_dict().items()}


def _compare(named: Tensors, layout: Layout) -> None:
    """Raises FileError unless a module has just these tensors; position tables may be missing."""
    try:
        wanted = _shapes(layout)
    except (ValueError, RuntimeError) as error:  # widths that do not divide into groups, say
        raise files.FileError(f"has an unknown layout ({files.one_line(error)})") from error
    if any(width % layout.heads or width % 2 for width in layout.widths):
        raise files.FileError(f"has an unknown layout ({layout.widths} channels for {layout.heads} heads)")
    for name, tensor in named.items():
        if name not in wanted:
            raise files.FileError(f"holds more than motion ({shown(name, 100)}), as image-to-video modules and whole "
                                  "video models do")
        files.shape(name, tensor, (len(wanted[name]),))
        if tensor.shape != wanted[name]:
            sizes = f"{list(tensor.shape)} in place of {list(wanted[name])}"
            raise files.FileError(f"has a tensor of another size, {shown(name, 100)} of {sizes}")
    for name in wanted:
        if name not in named and not name.endswith(".pe"):
            raise files.FileError(INCOMPLETE.format(name))


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
