"""What a motion module is told about a clip, declared once for every host and the command line.

Motion strength, context windows, and the noise that a clip begins with; `ivmixed.motion` does what they say. In a file
of its own, since it needs no torch.
"""
from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .kinds import Choice, Curve, Gamma, Number, Whole
from .options import ConflictError, Options, OptionSet, curve_at, declare

LOOPS = ("N", "R-P", "R+P", "A")
"""How much the clip's end is joined to its start. N: no window reaches over the end. R-P, R+P: windows may reach over
it (R+P: prompt travel closes too). A: as many windows as a closed loop needs, and prompt travel closes."""


FUSES = ("last", "mean", "pyramid", "linear")
"""What a frame in several windows is, see `ivmixed.motion.windows`."""
NOISES = ("random", "freenoise", "repeat")
"""The noise of frames: each its own; FreeNoise (Qiu et al., arXiv 2310.15169, section 3.2), in which every window has
the noise of the frames before it in another order; or the first window's again and again."""
FILTERS = ("butterworth", "gaussian", "ideal")
MOST_FRAMES = 1024
"""Of a clip."""


def check_reuse(options: Options, frames: int, context: int) -> None:
    """Raises ConflictError where the sampler's ``options`` reuse features for longer than context windows allow."""
    if frames > context and options.reused == "features" and options.reuse_percent > 50:
        raise ConflictError(
            "reuse_percent", options.reuse_percent, "reused", options.reused,
            because=f"the clip is longer than the context of {context} frames, whose windows lie elsewhere in every "
                    "step, so that a step's features serve that step alone",
            remedy="take 50 or less, or reuse predictions")


@dataclass(frozen=True)
class MotionControls(OptionSet):
    """How a motion module makes a clip, on every host and on the command line. Raises OptionError, ConflictError where
    the overlap is no less than the context."""

    motion_strength: Gamma = declare(
        Curve(0, 2, step=0.05), 1.0, "IV-mixed motion strength", title="Motion strength", advanced=True, group="motion",
        help="How much of what the motion module adds is taken: 0 makes stills, 1 is the module, 2 twice as much; a "
             "number, a ramp such as 1 to 0, or keyframes over the steps",
    )
    motion_strength_frames: Gamma = declare(
        Curve(0, 2, step=0.05, over="frame", last=MOST_FRAMES - 1), 1.0, "IV-mixed motion strength frames",
        title="Motion strength over the frames", advanced=True, group="motion",
        help="The same over the frames of the clip, which multiplies it: 0=1 12=0 comes to rest at frame 12",
    )
    attention_scale: float = declare(
        Number(0, 2, step=0.05), 1.0, "IV-mixed motion attention scale", advanced=True, group="motion",
        help="A factor on how sharply the module's attention chooses among the frames; 0 takes all of them alike",
    )
    context: int = declare(
        Whole(2, 64), 16, "IV-mixed motion context", advanced=True, group="motion",
        help="Frames that the motion module sees at a time; a longer clip is evaluated in windows of so many frames",
    )
    overlap: int = declare(
        Whole(-1, 63), -1, "IV-mixed motion overlap", advanced=True, group="motion",
        help="Frames that neighbouring windows share; -1 is a quarter of the context",
    )
    stride: int = declare(
        Whole(1, 8), 1, "IV-mixed motion stride", advanced=True, group="motion",
        help="2 adds windows of every second frame, 3 also those of every fourth, and so on",
    )
    closed_loop: str = declare(
        Choice(LOOPS), "R-P", "IV-mixed motion closed loop", advanced=True, group="motion",
        help="How much the end of a clip longer than the context is joined to its start: N not at all, R-P windows may "
             "reach over the end, R+P the prompt travels over it too, A wholly",
    )
    fuse: str = declare(
        Choice(FUSES), "last", "IV-mixed motion fuse", advanced=True, group="motion",
        help="A frame in several windows is that of the last one, as AnimateDiff's extension has it, or their mean; "
             "pyramid weighs the middle of a window most, linear fades over the overlap",
    )
    noise: str = declare(
        Choice(NOISES), "random", "IV-mixed motion noise", advanced=True, group="motion",
        help="The noise of a clip longer than the context: random for every frame, freenoise the first window's in "
             "another order in every window, for a clip that stays alike, or repeat as it is",
    )
    free_init: int = declare(
        Whole(1, 5), 1, "IV-mixed motion FreeInit", title="FreeInit passes", advanced=True, group="motion",
        help="How many times the clip is sampled, each time from noise that has the low frequencies of the clip "
             "before: steadier, at so many times the price; 1 is once",
    )
    free_init_filter: str = declare(
        Choice(FILTERS), "butterworth", "IV-mixed motion FreeInit filter", title="FreeInit filter", advanced=True,
        group="motion", help="What FreeInit takes for low frequencies",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.overlap >= self.context:
            raise ConflictError(
                "overlap", self.overlap, "context", self.context, because="a window would share all of its frames",
                remedy=f"take an overlap below {self.context}")

    def check_frames(self, frames: int) -> None:
        """Raises ConflictError where a keyframe is none of a clip's ``frames``."""
        curve = self.motion_strength_frames
        if isinstance(curve, tuple) and isinstance(curve[-1], tuple) and curve[-1][0] > frames - 1:
            raise ConflictError(
                "motion_strength_frames", self.option("motion_strength_frames").to_text(curve), "frames", frames,
                because=f"it gives frame {curve[-1][0]:g}", remedy=f"give frames 0 to {frames - 1}")

    def windows(self, frames: int) -> dict[str, Any]:
        """The arguments of `uniform_windows` besides the step, for a clip of ``frames`` frames."""
        return {"frames": frames, "context": self.context, "stride": self.stride, "closed_loop": self.closed_loop,
                "overlap": self.shared_frames}

    @property
    def shared_frames(self) -> int:
        """Frames that neighbouring windows share."""
        return self.context // 4 if self.overlap < 0 else self.overlap

    def closes(self, frames: int) -> bool:
        """Prompt travel goes on over the end of a clip of ``frames`` frames."""
        return frames > self.context and self.closed_loop in ("R+P", "A")

    def strengths(self, progress: float, frames: int) -> tuple[float, ...]:
        """The factor on what motion adds to each of ``frames`` frames; ``progress``: 0 at the first step, 1 at the
        last."""
        of_step = curve_at(self.motion_strength, 100 * progress, 100)
        return tuple(of_step * curve_at(self.motion_strength_frames, frame, frames - 1) for frame in range(frames))

    @property
    def stills(self) -> bool:
        """No motion is ever asked for: what never changes is a number."""
        return 0.0 in (self.motion_strength, self.motion_strength_frames)
