"""Everything that makes a clip, declared once: the command line, the Python API and the files' metadata read this.

``Settings`` is one checked set of values; ``Settings.from_dict(clip_metadata)`` is the set that made a clip.
"""
from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..options import OPTIONS, OptionError, Options
from ..plan import RELEASED, SOLVERS
from ..presets import PRESETS
from ..untrusted import shown
from . import box

PREDICTIONS = ("epsilon", "v_prediction")
PRECISIONS = ("auto", "fp32", "fp16", "bf16")

Lora = tuple[str, float]


@dataclass(frozen=True)
class Field:
    """How a setting is checked and said. ``check`` takes the value of Python or JSON, or the text of the command line,
    and raises ValueError where it is not ``allowed``."""

    group: str
    help: str
    check: Callable[[Any], Any]
    allowed: str
    metavar: str = ""
    choices: tuple[str, ...] = ()


LONGEST_TEXT = 20_000
"""Characters of a prompt."""
LONGEST_PATH = 4096
MOST_LORAS = 64


def _text(value: Any) -> str:
    if not isinstance(value, str) or len(value) > LONGEST_TEXT:
        raise ValueError
    value.encode()  # UnicodeEncodeError, a ValueError: half a surrogate pair is no character
    return value


def _path(value: Any) -> str:
    """Relative to nothing: a clip can be made again from another folder."""
    text = _text(str(value) if isinstance(value, Path) else value)
    if not text or len(text) > LONGEST_PATH or "\0" in text:
        raise ValueError
    return text if text == BOX else str(Path(text).expanduser().absolute())


def _whole(low: int, high: int) -> Callable[[Any], int]:
    def check(value: Any) -> int:
        if isinstance(value, (bool, float)) or not low <= int(value) <= high:
            raise ValueError
        return int(value)

    return check


def _number(low: float, high: float) -> Callable[[Any], float]:
    def check(value: Any) -> float:
        if isinstance(value, bool) or not low <= float(value) <= high:
            raise ValueError
        return float(value)

    return check


def _size(value: Any) -> tuple[int, int]:
    """(width, height) from "512x768" or a pair."""
    sides = value.lower().split("x") if isinstance(value, str) else value
    width, height = (_whole(8, 8192)(side) for side in sides)
    if width % 8 or height % 8:
        raise ValueError
    return width, height


def _switch(value: Any) -> bool:
    if not isinstance(value, bool) and value not in ("on", "off"):
        raise ValueError
    return value in (True, "on")


def _choice(*choices: str) -> Callable[[Any], str]:
    def check(value: Any) -> str:
        if value not in choices:
            raise ValueError
        return str(value)

    return check


def _loras(value: Any) -> tuple[Lora, ...]:
    """("file.safetensors", 0.8) pairs from such pairs or from "file.safetensors:0.8"; the weight is 1 if not given."""
    pairs: list[Lora] = []
    entries = [value] if isinstance(value, (str, Path)) else value
    if not isinstance(entries, (list, tuple)) or len(entries) > MOST_LORAS:
        raise ValueError
    for entry in entries:
        if isinstance(entry, (str, Path)):
            entry = str(entry)
            file, _, number = entry.rpartition(":")
            entry = (file, number) if file and _is_number(number) else (entry, 1.0)
        file, weight = entry
        pairs.append((_path(file), _number(-10, 10)(weight)))
    return tuple(pairs)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _declare(default: Any, *args: Any, **kwargs: Any) -> Any:
    return field(default=default, metadata={"field": Field(*args, **kwargs)})


BOX = "box"
"""The checkpoint that comes with the package."""

_SIDES = "WIDTHxHEIGHT in pixels, each a multiple of 8 from 8 to 8192, such as 512x512"


@dataclass(frozen=True)
class Settings:
    """One checked set of settings. Raises OptionError, which names the field, the value and what is allowed.

    None stands for what the model itself suggests. Paths are kept absolute.
    """

    checkpoint: str = _declare(
        BOX, "models", "checkpoint of SD 1.5 or VideoCrafter2 (.safetensors, .ckpt), or diffusers folder, also of "
        "ModelScope-T2V; "
        f'"{BOX}" is the small model that comes with ivmixed', _path, "a file or folder", "PATH")
    motion_module: str | None = _declare(
        None, "models", "AnimateDiff motion module for SD 1.5: v1, v2, v3 file or MotionAdapter folder", _path,
        "a file or folder", "PATH")
    image_checkpoint: str | None = _declare(
        None, "models", "another checkpoint as the image model (the checkpoint itself if not given)", _path,
        "a file or folder", "PATH")
    lora: tuple[Lora, ...] = _declare(
        (), "models", "LoRA for the checkpoint, so for both models, or for the video model alone where the image model "
        "is another checkpoint; may be given several times", _loras,
        "FILE or FILE:WEIGHT, weight from -10 to 10", "FILE:WEIGHT")
    image_lora: tuple[Lora, ...] = _declare(
        (), "models", "LoRA for the image model alone; may be given several times", _loras,
        "FILE or FILE:WEIGHT, weight from -10 to 10", "FILE:WEIGHT")
    vae: str | None = _declare(None, "models", "another VAE", _path, "a file or folder", "PATH")
    prediction: str | None = _declare(
        None, "models", "what the checkpoint predicts (what its file says, or else epsilon)", _choice(*PREDICTIONS),
        "one of " + ", ".join(PREDICTIONS), choices=PREDICTIONS)
    zero_snr: bool | None = _declare(
        None, "models", "whether the checkpoint was trained with zero terminal SNR (what its file says, or else off)",
        _switch, "on or off", choices=("on", "off"))
    image_prediction: str | None = _declare(
        None, "models", "the same of --image-checkpoint", _choice(*PREDICTIONS), "one of " + ", ".join(PREDICTIONS),
        choices=PREDICTIONS)
    image_zero_snr: bool | None = _declare(
        None, "models", "the same of --image-checkpoint", _switch, "on or off", choices=("on", "off"))
    precision: str = _declare(
        "auto", "models", "of the networks; auto: fp16 on a GPU, fp32 on a CPU", _choice(*PRECISIONS),
        "one of " + ", ".join(PRECISIONS), choices=PRECISIONS)

    prompt: str = _declare("", "clip", "what the clip shows", _text, "text", "TEXT")
    negative_prompt: str = _declare("", "clip", "what it shall not show", _text, "text", "TEXT")
    frames: int | None = _declare(
        None, "clip", f"number of frames (16, or {box.FRAMES} of the model in the box)", _whole(1, 1024),
        "a whole number from 1 to 1024", "N")
    size: tuple[int, int] | None = _declare(
        None, "clip", "WIDTHxHEIGHT in pixels (what the checkpoint was made for)", _size, _SIDES, "WxH")
    fps: float | None = _declare(
        None, "clip", "frames a second: VideoCrafter2 is told them (28, as its own script does); clips of other models "
        "play at them (8)", _number(0.1, 240), "a number from 0.1 to 240", "X")
    playback_fps: float | None = _declare(
        None, "clip", "frames a second at which the clip plays (8, or --fps where the model is not told it)",
        _number(0.1, 240), "a number from 0.1 to 240", "X")
    steps: int = _declare(25, "clip", "outer sampling steps", _whole(1, 1000), "a whole number from 1 to 1000", "N")
    cfg: float | None = _declare(
        None, "clip", f"CFG scale of the ordinary steps (7.5, or {box.CFG:g} of the model in the box)",
        _number(0, 100), "a number from 0 to 100", "X")
    seed: int | None = _declare(
        None, "clip", "of the noise; one is drawn if not given", _whole(0, 2**63 - 2), "a whole number from 0", "N")

    solver: str | None = _declare(
        None, "sampler", "how the ordinary step is taken: Euler (DDIM), DPM++ 2M, DPM++ 2M SDE, that of LCM and "
        "AnimateLCM, or Euler ancestral, which is DDIM with eta 1 (euler, or what the released loop has)",
        _choice(*SOLVERS), "one of " + ", ".join(SOLVERS), choices=SOLVERS)
    loop: str = _declare(
        "", "image model", "run one of the authors' released loops, move by move", _choice("", *RELEASED),
        "one of " + ", ".join(RELEASED), choices=RELEASED)
    image_chunk: int | None = _declare(
        None, "image model", "frames that the image model takes at once (all); fewer need less memory",
        _whole(1, 1024), "a whole number from 1 to 1024", "N")

    options: Options = field(default_factory=Options)

    def __post_init__(self) -> None:
        for name, declared in FIELDS.items():
            value = getattr(self, name)
            if value is None and self.__dataclass_fields__[name].default is None:
                continue
            try:
                object.__setattr__(self, name, declared.check(value))
            except (ValueError, TypeError, OverflowError, RuntimeError):  # the last: no such user's home
                raise OptionError(name, value, declared.allowed) from None
        if not isinstance(self.options, Options):
            object.__setattr__(self, "options", Options.from_dict(self.options))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Settings:
        """Settings by name, as JSON carries them; what is left out has its default."""
        if not isinstance(values, Mapping):
            raise OptionError("settings", shown(values), "an object of settings by name", "is none")
        for name in values:
            if name not in FIELDS and name != "options":
                near = difflib.get_close_matches(str(name)[:60], FIELDS, n=1)
                hint = f" (did you mean {near[0]}?)" if near else ""
                raise OptionError(str(name), values[name], ", ".join(FIELDS) + ", options", f"is no setting{hint}")
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """All values by name, ready for JSON."""
        values = {name: getattr(self, name) for name in FIELDS}
        return {**values, "options": self.options.to_dict()}


FIELDS: Mapping[str, Field] = {
    f.name: f.metadata["field"] for f in dataclasses.fields(Settings) if "field" in f.metadata}


def with_preset(values: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Settings by name with a preset over them: its options, its loop and its CFG scale, where it has one.

    Options that say what a clip shows, such as the image model's prompt, stay. ``name``: a key of `PRESETS`.
    """
    preset, options = PRESETS[name], dict(values.get("options", {}))
    of_clip = {option.name: options[option.name] for option in OPTIONS if option.of_clip and option.name in options}
    scale = {} if preset.cfg_scale is None else {"cfg": preset.cfg_scale}
    return {**values, "loop": preset.loop, **scale, "options": {**preset.options.to_dict(), **of_clip}}
