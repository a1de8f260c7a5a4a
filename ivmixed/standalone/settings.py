"""Everything that makes a clip, declared once: the command line, the Python API and the files' metadata read this.

``Settings`` is one checked set of values; ``Settings.from_dict(clip_metadata)`` is the set that made a clip.
"""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..controls import MOST_FRAMES, MotionControls
from ..kinds import Choice, Dimensions, Kind, Loras, Many, Nested, NotAllowed, Number, Schema, Switch, Text, Whole
from ..options import Options, declare
from ..plan import SOLVERS, SPACINGS
from ..presets import PRESETS
from ..released import RELEASED
from . import box

PREDICTIONS = ("epsilon", "v_prediction")
PRECISIONS = ("auto", "fp32", "fp16", "bf16")

Lora = tuple[str, float]


LONGEST_PATH = 4096
MOST_LORAS = 64
MOST_CONTROLNETS = 8
ACTS_ON = ("both", "video", "image")
"""Which model ControlNets act on."""
STRENGTH = 0.6
"""Denoising strength of a clip that begins with another."""
BOX = "box"
"""The checkpoint that comes with the package."""


@dataclass(frozen=True)
class File(Kind):
    """A file or folder, kept absolute, so that a clip can be made again from another folder; or `BOX`."""

    noun = "file or folder"
    metavar = "PATH"

    def _allowed(self) -> str:
        return "a file or folder"

    def check(self, value: Any) -> str:
        text = str(value) if isinstance(value, Path) else value
        if not isinstance(text, str) or not 0 < len(text) <= LONGEST_PATH or "\0" in text:
            raise NotAllowed
        try:
            text.encode()
            return text if text == BOX else str(Path(text).expanduser().absolute())
        except (UnicodeEncodeError, RuntimeError):  # half a surrogate pair; no such user's home
            raise NotAllowed from None

    def schema(self) -> Schema:
        return {"type": "string", "minLength": 1, "maxLength": LONGEST_PATH}


@dataclass(frozen=True)
class LoraFiles(Loras):
    """LoRA files with their weights, each a "file.safetensors:0.8" or a pair."""

    metavar = "FILE:WEIGHT"
    most: int = MOST_LORAS

    def _allowed(self) -> str:
        return f"FILE or FILE:WEIGHT, weight from {-self.most_weight:g} to {self.most_weight:g}"

    def check(self, value: Any) -> Any:
        entries = [value] if isinstance(value, (str, Path)) else value
        if isinstance(entries, Sequence):
            entries = [str(entry) if isinstance(entry, Path) else entry for entry in entries]
        return super().check(entries)

    def name(self, value: Any) -> str:
        return File().check(value)


_FILE = File()


@dataclass(frozen=True)
class Settings(MotionControls):
    """One checked set of settings. Raises OptionError, which names the field, the value and what is allowed.

    None stands for what the model itself suggests. Paths are kept absolute.
    """

    word = "setting"

    checkpoint: str = declare(
        _FILE, BOX, group="models",
        help="checkpoint of SD 1.5 or VideoCrafter2 (.safetensors, .ckpt), or diffusers folder, also of "
             f'ModelScope-T2V; "{BOX}" is the bundled model')
    motion_module: str | None = declare(
        _FILE, None, group="models",
        help="AnimateDiff motion module for SD 1.5: v1, v2, v3, Lightning or AnimateLCM, as a file or MotionAdapter "
             "folder")
    image_checkpoint: str | None = declare(
        _FILE, None, group="models", help="another checkpoint as the image model (the checkpoint itself if not given)")
    lora: tuple[tuple[str, float], ...] = declare(
        LoraFiles(), (), group="models",
        help="LoRA for the checkpoint, so for both models, or for the video model alone where the image model is "
             "another checkpoint; may be given several times")
    image_lora: tuple[tuple[str, float], ...] = declare(
        LoraFiles(), (), group="models", help="LoRA for the image model alone; may be given several times")
    vae: str | None = declare(_FILE, None, group="models", help="another VAE")
    prediction: str | None = declare(
        Choice(PREDICTIONS), None, group="models",
        help="what the checkpoint predicts (what its file says, or else epsilon)")
    zero_snr: bool | None = declare(
        Switch(), None, group="models",
        help="whether the checkpoint was trained with zero terminal SNR (what its file says, or else off)")
    image_prediction: str | None = declare(
        Choice(PREDICTIONS), None, group="models", help="what the image checkpoint predicts, likewise")
    image_zero_snr: bool | None = declare(
        Switch(), None, group="models", help="whether the image checkpoint has zero terminal SNR, likewise")
    precision: str = declare(
        Choice(PRECISIONS), "auto", group="models",
        help="precision of the networks; auto: fp16 on a GPU, fp32 on a CPU")

    prompt: str = declare(Text(), "", group="clip", help="what the clip shows")
    negative_prompt: str = declare(Text(), "", group="clip", help="what it should not show")
    frames: int | None = declare(
        Whole(1, MOST_FRAMES), None, group="clip",
        help=f"number of frames (16, or {box.FRAMES} of the bundled model)")
    size: tuple[int, int] | None = declare(
        Dimensions(8, 8192, step=8), None, group="clip", help="size of the clip (what the checkpoint was made for)")
    fps: float | None = declare(
        Number(0.1, 240), None, group="clip",
        help="frames a second: an input of VideoCrafter2 (28, as in its own script); clips of other models play at "
             "this rate (8)")
    playback_fps: float | None = declare(
        Number(0.1, 240), None, group="clip",
        help="frames a second at which the clip plays (8, or --fps where the model is not told it)")
    init_video: str | None = declare(
        _FILE, None, group="clip",
        help="clip to begin with instead of noise alone: .gif, .mp4, .webm, .webp, or a folder of PNG frames; its "
             "frames are taken at the clip's frames a second, their middle fills its size")
    strength: float | None = declare(
        Number(0, 1), None, group="clip",
        help=f"how much of --init-video changes, 0 to 1: that share of the steps is run ({STRENGTH:g})")
    mask_video: str | None = declare(
        _FILE, None, group="clip",
        help="clip or picture, white where --init-video may change and black where it stays")
    controlnet: tuple[str, ...] = declare(
        Many(_FILE, MOST_CONTROLNETS), (), group="ControlNet",
        help="ControlNet for SD 1.5, as a file or diffusers folder; may be given several times")
    control_video: tuple[str, ...] = declare(
        Many(_FILE, MOST_CONTROLNETS), (), group="ControlNet",
        help="hints of a --controlnet, one for each frame: .gif, .mp4, .webm, .webp, .png, or a folder of PNG frames, "
             "taken as those of --init-video are; edges, depth, poses or what the ControlNet wants, drawn already; "
             "given once for all ControlNets, or once for each in their order, as are the next three")
    control_strength: tuple[float, ...] = declare(
        Many(Number(0, 10), MOST_CONTROLNETS), (1.0,), group="ControlNet",
        help="factor on what a ControlNet adds; 0 is none")
    control_start: tuple[float, ...] = declare(
        Many(Number(0, 1), MOST_CONTROLNETS), (0.0,), group="ControlNet",
        help="share of the steps after which a ControlNet begins to act")
    control_end: tuple[float, ...] = declare(
        Many(Number(0, 1), MOST_CONTROLNETS), (1.0,), group="ControlNet",
        help="share of the steps after which it acts no more")
    control_acts_on: str = declare(
        Choice(ACTS_ON), "both", group="ControlNet",
        help="which model ControlNets act on: both, or the video or the image model alone")
    steps: int | None = declare(
        Whole(1, 1000), None, group="clip", help="outer sampling steps (25, or those of a distilled motion module)")
    cfg: float | None = declare(
        Number(0, 100), None, group="clip",
        help=f"CFG scale of the ordinary steps (7.5, {box.CFG:g} of the bundled model, 1 of a distilled motion module)")
    seed: int | None = declare(
        Whole(0, 2**63 - 2, words="a whole number from 0 to 2^63 - 2"), None, group="clip",
        help="seed of the noise; one is drawn if not given")

    solver: str | None = declare(
        Choice(SOLVERS), None, group="sampler",
        help="how the ordinary step is taken: Euler (DDIM), DPM++ 2M, DPM++ 2M SDE, that of LCM and AnimateLCM, or "
             "Euler ancestral, which is DDIM with eta 1 (euler, or what the released loop or a distilled motion module "
             "has)")
    spacing: str | None = declare(
        Choice(SPACINGS), None, group="sampler",
        help="where the timesteps of the steps lie: linspace ends at the first timestep, trailing one step before it, "
             "as distilled models were trained (trailing with the solver lcm and a distilled motion module, else "
             "linspace)")
    loop: str = declare(
        Choice(("", *RELEASED)), "", group="image model",
        help="run one of the authors' released loops, move by move")
    image_chunk: int | None = declare(
        Whole(1, 1024), None, group="image model",
        help="frames that the image model takes at once (all); fewer need less memory")

    options: Options = declare(Nested(Options), Options(), group="sampler", help="the sampler's options")


def files_of(values: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    """The files and folders that ``values``, settings by name, lead to, by the settings that name them."""
    found: dict[str, tuple[str, ...]] = {}
    for option in Settings.declared():
        value, kind = values.get(option.name), option.kind
        if isinstance(kind, LoraFiles):
            found[option.name] = tuple(file for file, _ in value or ())
        elif isinstance(kind, Many) and kind.of is _FILE:
            found[option.name] = tuple(value or ())
        elif kind is _FILE and value not in (None, BOX):
            found[option.name] = (value,)
    return {name: files for name, files in found.items() if files}


def with_preset(values: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Settings by name with a preset over them: its options, its loop and its CFG scale, where it has one.

    Options that say what a clip shows, such as the image model's prompt, stay. ``name``: a key of `PRESETS`.
    """
    preset, options = PRESETS[name], dict(values.get("options", {}))
    of_clip = {option.name: options[option.name] for option in Options.declared()
               if option.of_clip and option.name in options}
    scale = {} if preset.cfg_scale is None else {"cfg": preset.cfg_scale}
    return {**values, "loop": preset.loop, **scale, "options": {**preset.options.to_dict(), **of_clip}}
