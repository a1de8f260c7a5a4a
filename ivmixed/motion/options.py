"""The options of a clip with built-in motion, declared once: a WebUI's panel, API and infotext all read this."""
from __future__ import annotations

from dataclasses import dataclass

from ..controls import MOST_FRAMES, MotionControls
from ..kinds import Choice, Data, Loras, Number, Several, Text, Whole
from ..options import ConflictError, Option, declare
from .module import ALIKE, AUTO

FORMATS = ("GIF", "MP4", "WebM", "WebP", "PNG")
"""How a clip can be written; PNG is a file for every frame."""


@dataclass(frozen=True)
class MotionOptions(MotionControls):
    """One checked set of options of a clip in a WebUI. Raises OptionError, ConflictError where the clip extends none or
    has no frame of its own, and as `MotionControls` does."""

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

    init_video: bytes | None = declare(
        Data(), None, advanced=True, title="Clip to start from",
        help="A GIF, MP4, WebM, WebP or PNG whose frames the clip begins with, each frame with its own, taken at the "
             "clip's FPS; the denoising strength says how much is made anew. In img2img and the tab txt2vid",
    )
    extend: int = declare(
        Whole(0, 1023, slider=(0, 64)), 0, "IV-mixed motion extend", advanced=True,
        title="Extend it by its last frames",
        help="0 begins with the whole of that clip; else the new clip begins with so many of its last frames, which "
             "stay as they are, and goes on from there",
    )
    control_video: bytes | None = declare(
        Data(), None, advanced=True, title="ControlNet video",
        help="A GIF, MP4, WebM, WebP or PNG for the units of ControlNet that are enabled and have no picture of their "
             "own: each frame of the clip has its own of it, taken at the clip's FPS, as the unit's preprocessor makes "
             "it",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_frames(self.frames)
        if self.extend and self.init_video is None:
            raise ConflictError("extend", self.extend, "no init_video", because="its last frames begin the clip",
                                remedy="give a clip to start from, or take 0")
        if self.extend >= self.frames:
            raise ConflictError("extend", self.extend, "frames", self.frames, because="no frame would be new",
                                remedy=f"take less than {self.frames}")


MOTION_OPTIONS: dict[str, Option] = {option.name: option for option in MotionOptions.declared()}
