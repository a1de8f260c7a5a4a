"""The options of a clip with built-in motion, declared once: a WebUI's panel, API and infotext all read this."""
from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..kinds import Choice, Data, Loras, Number, Several, Text, Whole
from ..options import ConflictError, Option, OptionSet, declare
from .module import ALIKE, AUTO
from .windows import LOOPS

FORMATS = ("GIF", "MP4", "WebM", "WebP", "PNG")
"""How a clip can be written; PNG is a file for every frame."""


@dataclass(frozen=True)
class MotionOptions(OptionSet):
    """One checked set of options of a clip. Raises OptionError, ConflictError where the overlap is no less than the
    context, or the clip extends none or has no frame of its own."""

    model: str = declare(
        Text(words="the name of a motion module file in one of the folders for them"), "", "IV-mixed motion",
        title="Motion module",
        help="AnimateDiff motion module made for the checkpoint: v1, v2, v3 or AnimateLCM for SD 1.5, "
             "AnimateDiff-SDXL or HotShot-XL for SDXL",
    )
    frames: int = declare(Whole(2, 1024), 16, "IV-mixed motion frames", help="Frames of the clip")
    fps: float = declare(Number(1, 60), 8.0, "IV-mixed motion fps", title="FPS", help="Frames a second")
    formats: tuple[str, ...] = declare(
        Several(FORMATS), ("GIF", "PNG"), "IV-mixed motion formats", advanced=True,
        help="How the clip is written; PNG is a file for every frame",
    )
    loras: tuple[tuple[str, float], ...] = declare(
        Loras(), (), "IV-mixed motion LoRA", advanced=True, title="Motion LoRAs",
        help="Motion LoRAs for a v2 module, with their weights: v2_lora_ZoomIn:0.8, v2_lora_PanLeft",
    )
    context: int = declare(
        Whole(2, 64), 16, "IV-mixed motion context", advanced=True,
        help="Frames that the motion module sees at a time; a longer clip is evaluated in windows of so many frames",
    )
    overlap: int = declare(
        Whole(-1, 63), -1, "IV-mixed motion overlap", advanced=True,
        help="Frames that neighbouring windows share; -1 is a quarter of the context",
    )
    stride: int = declare(
        Whole(1, 8), 1, "IV-mixed motion stride", advanced=True,
        help="2 adds windows of every second frame, 3 also those of every fourth, and so on",
    )
    closed_loop: str = declare(
        Choice(LOOPS), "R-P", "IV-mixed motion closed loop", advanced=True,
        help="How much the end of a clip longer than the context is joined to its start: N not at all, R-P windows may "
             "reach over the end, R+P the prompt travels over it too, A wholly",
    )
    fuse: str = declare(
        Choice(("last", "mean")), "last", "IV-mixed motion fuse", advanced=True,
        help="A frame in several windows is that of the last one, as AnimateDiff's extension has it, or their mean",
    )
    kind: str = declare(
        Choice((AUTO, *(kind.name for kind in ALIKE))), AUTO, "IV-mixed motion kind", advanced=True,
        help="What a module with a longer position table was made from, where its file does not tell: norms of v1 and "
             "HotShot-XL span the frames. The log and the infotext say what auto took",
    )

    init_video: bytes | None = declare(
        Data(), None, advanced=True, title="Start from a clip",
        help="A GIF, MP4, WebM, WebP or PNG whose frames the clip begins with, each frame with its own, taken at the "
             "clip's FPS; the denoising strength says how much is made anew. In img2img and the tab txt2vid",
    )
    extend: int = declare(
        Whole(0, 1023), 0, "IV-mixed motion extend", advanced=True, title="Extend it by its last frames",
        help="0 begins with the whole of that clip; else the new clip begins with so many of its last frames, which "
             "stay as they are, and goes on from there",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.overlap >= self.context:
            raise ConflictError(
                "overlap", self.overlap, "context", self.context, because="a window would share all of its frames",
                remedy=f"take an overlap below {self.context}")
        if self.extend and self.init_video is None:
            raise ConflictError("extend", self.extend, "no init_video", because="its last frames begin the clip",
                                remedy="give a clip to start from, or take 0")
        if self.extend >= self.frames:
            raise ConflictError("extend", self.extend, "frames", self.frames, because="no frame would be new",
                                remedy=f"take less than {self.frames}")

    def windows(self) -> dict[str, Any]:
        """The arguments of `uniform_windows` besides the step."""
        return {"frames": self.frames, "context": self.context, "stride": self.stride, "closed_loop": self.closed_loop,
                "overlap": None if self.overlap < 0 else self.overlap}

    @property
    def closes(self) -> bool:
        """Prompt travel goes on over the clip's end."""
        return self.frames > self.context and self.closed_loop in ("R+P", "A")


MOTION_OPTIONS: dict[str, Option] = {option.name: option for option in MotionOptions.declared()}
