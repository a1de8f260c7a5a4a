"""The options of a clip with built-in motion, declared once: a WebUI's panel, API and infotext all read this."""
from __future__ import annotations

from dataclasses import dataclass

from ..controls import MOST_FRAMES, MotionControls
from ..kinds import Choice, Loras, Number, Several, Text, Whole
from ..options import Option, declare
from .module import ALIKE, AUTO

FORMATS = ("GIF", "MP4", "WebM", "WebP", "PNG")
"""How a clip can be written; PNG is a file for every frame."""


@dataclass(frozen=True)
class MotionOptions(MotionControls):
    """One checked set of options of a clip in a WebUI. Raises OptionError, ConflictError."""

    model: str = declare(
        Text(words="the name of a motion module file in one of the folders for them"), "", "IV-mixed motion",
        title="Motion module",
        help="AnimateDiff motion module made for the checkpoint: v1, v2, v3, AnimateDiff-Lightning or AnimateLCM for "
             "SD 1.5, AnimateDiff-SDXL or HotShot-XL for SDXL",
    )
    frames: int = declare(Whole(2, MOST_FRAMES), 16, "IV-mixed motion frames", help="Frames of the clip")
    fps: float = declare(Number(1, 60), 8.0, "IV-mixed motion fps", title="FPS", help="Frames a second")
    formats: tuple[str, ...] = declare(
        Several(FORMATS), ("GIF", "PNG"), "IV-mixed motion formats", advanced=True,
        help="How the clip is written; PNG is a file for every frame",
    )
    loras: tuple[tuple[str, float], ...] = declare(
        Loras(), (), "IV-mixed motion LoRA", advanced=True, title="Motion LoRAs",
        help="Motion LoRAs for a v2 module, with their weights: v2_lora_ZoomIn:0.8, v2_lora_PanLeft",
    )
    kind: str = declare(
        Choice((AUTO, *(kind.name for kind in ALIKE))), AUTO, "IV-mixed motion kind", advanced=True,
        help="What the module is, where its file does not tell: norms of v1 and HotShot-XL span the frames, Lightning "
             "is v2 distilled to a few steps. The log and the infotext say what auto took",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_frames(self.frames)


MOTION_OPTIONS: dict[str, Option] = {option.name: option for option in MotionOptions.declared()}
