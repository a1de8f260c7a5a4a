"""The options of a clip with built-in motion, declared once: a WebUI's panel, API and infotext all read this."""
from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..options import Option, OptionError, OptionSet, declare
from .module import ALIKE, AUTO
from .windows import LOOPS

FORMATS = ("GIF", "MP4", "WebM", "WebP", "PNG")
"""How a clip can be written; PNG is a file for every frame."""

MOST_LORAS = 20
MOST_WEIGHT = 10.0
"""Of a motion LoRA, either sign."""


@dataclass(frozen=True)
class MotionOptions(OptionSet):
    """One checked set of options of a clip. Raises OptionError, which names the field, the value and what is allowed.
    """

    model: str = declare(
        "text", "", "IV-mixed motion", title="Motion module",
        spelled="the name of a motion module file in one of the folders for them",
        help="AnimateDiff motion module made for the checkpoint: v1, v2, v3 or AnimateLCM for SD 1.5, "
             "AnimateDiff-SDXL or HotShot-XL for SDXL",
    )
    frames: int = declare(
        "whole", 16, "IV-mixed motion frames", minimum=2, maximum=1024, help="Frames of the clip")
    fps: float = declare(
        "number", 8.0, "IV-mixed motion fps", minimum=1, maximum=60, title="FPS", help="Frames a second")
    formats: tuple[str, ...] = declare(
        "several", ("GIF", "PNG"), "IV-mixed motion formats", choices=FORMATS, advanced=True,
        help="How the clip is written; PNG is a file for every frame",
    )
    loras: str = declare(
        "text", "", "IV-mixed motion LoRA", advanced=True, title="Motion LoRAs",
        spelled=f'at most {MOST_LORAS} file names, with weights from {-MOST_WEIGHT:g} to {MOST_WEIGHT:g}, as in '
                '"v2_lora_ZoomIn:0.8, v2_lora_PanLeft"',
        help="Motion LoRAs for a v2 module, with their weights: v2_lora_ZoomIn:0.8, v2_lora_PanLeft",
    )
    context: int = declare(
        "whole", 16, "IV-mixed motion context", minimum=2, maximum=64, advanced=True,
        help="Frames that the motion module sees at a time; a longer clip is evaluated in windows of so many frames",
    )
    overlap: int = declare(
        "whole", -1, "IV-mixed motion overlap", minimum=-1, maximum=63, advanced=True,
        help="Frames that neighbouring windows share; -1 is a quarter of the context",
    )
    stride: int = declare(
        "whole", 1, "IV-mixed motion stride", minimum=1, maximum=8, advanced=True,
        help="With 2, windows of every second frame come besides, with 3 those of every fourth too",
    )
    closed_loop: str = declare(
        "choice", "R-P", "IV-mixed motion closed loop", choices=LOOPS, advanced=True,
        help="How much the end of a clip longer than the context is joined to its start: N not at all, R-P windows may "
             "reach over the end, R+P the prompt travels over it too, A wholly",
    )
    fuse: str = declare(
        "choice", "last", "IV-mixed motion fuse", choices=("last", "mean"), advanced=True,
        help="A frame in several windows is that of the last one, as AnimateDiff's extension has it, or their mean",
    )
    kind: str = declare(
        "choice", AUTO, "IV-mixed motion kind", choices=(AUTO, *(kind.name for kind in ALIKE)), advanced=True,
        help="What a module with a longer position table was made from, where its file does not tell: norms of v1 and "
             "HotShot-XL span the frames. The log and the infotext say what auto took",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.overlap >= self.context:
            raise OptionError("overlap", self.overlap, f"less than the context of {self.context} frames")
        self.motion_loras()

    def motion_loras(self) -> list[tuple[str, float]]:
        """The names and weights of the motion LoRAs. Raises OptionError."""
        pairs = []
        for entry in filter(None, (part.strip() for part in self.loras.split(","))):
            name, _, weight = entry.partition(":")
            try:
                pairs.append((name.strip(), float(weight or 1)))
            except ValueError:
                raise OptionError("loras", self.loras, MOTION_OPTIONS["loras"].allowed) from None
        if len(pairs) > MOST_LORAS or not all(abs(weight) <= MOST_WEIGHT for _, weight in pairs):
            raise OptionError("loras", self.loras, MOTION_OPTIONS["loras"].allowed)
        return pairs

    def windows(self) -> dict[str, Any]:
        """The arguments of `uniform_windows` besides the step."""
        return {"frames": self.frames, "context": self.context, "stride": self.stride, "closed_loop": self.closed_loop,
                "overlap": None if self.overlap < 0 else self.overlap}

    @property
    def closes(self) -> bool:
        """Prompt travel goes on over the clip's end."""
        return self.frames > self.context and self.closed_loop in ("R+P", "A")


MOTION_OPTIONS: dict[str, Option] = {option.name: option for option in MotionOptions.declared()}
