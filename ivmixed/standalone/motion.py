"""AnimateDiff's motion in a diffusers UNetMotionModel on one clip: context windows, and motion strength by hooks."""
from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from diffusers.models.unets.unet_motion_model import AnimateDiffTransformer3D
from torch import Tensor, nn

from ..controls import MotionControls
from ..motion.windows import evaluate_in_windows, on_device, uniform_windows
from ..options import ConflictError, OptionError
from ..plan import Move, Plan


def check(controls: MotionControls, frames: int, most: float | None) -> None:
    """Raises OptionError, ConflictError where a clip of ``frames`` frames cannot be made so.

    ``most``: the frames that the motion module numbers; None: the video model is none of AnimateDiff's.
    """
    if most is None:
        for option in MotionControls.declared():
            if (value := getattr(controls, option.name)) != option.default:
                raise ConflictError(option.name, value, "this video model", because="it is an option of AnimateDiff's "
                                    "motion modules", remedy=f"take {option.to_text(option.default)}")
        return
    controls.check_frames(frames)
    if min(frames, controls.context) > most:
        raise OptionError("context", controls.context, f"a whole number from 2 to {most:g}, which this motion module "
                          f"numbers; or at most {most:g} frames", f"is too much for a clip of {frames} frames")


def check_start(controls: MotionControls) -> None:
    """Raises ConflictError where a clip that begins with frames cannot be made so."""
    if controls.free_init > 1:
        raise ConflictError("free_init", controls.free_init, "init_video", because="its clips begin with noise alone",
                            remedy="take 1, or leave the other out")


class ActingMotion:
    """How motion acts in one clip. `expect` says before every evaluation which move it is for."""

    def __init__(self, controls: MotionControls, frames: int):
        self.controls, self.frames = controls, frames
        self._step, self._strengths = 0, controls.strengths(0, frames)
        self._factors: Tensor | None = None
        """Of the frames that are evaluated now."""

    def expect(self, move: Move, plan: Plan) -> None:
        """The move that comes next."""
        self._step = move.step
        self._strengths = self.controls.strengths(move.step / max(plan.steps - 1, 1), self.frames)

    @contextmanager
    def acting_in(self, unet: nn.Module) -> Iterator[None]:
        """Within the block the motion modules of a UNetMotionModel have the strength that is asked for. A strength of
        1 leaves them as they are."""
        controls = self.controls
        with ExitStack() as stack:
            for module in unet.modules():
                if not isinstance(module, AnimateDiffTransformer3D):
                    continue
                if (controls.motion_strength, controls.motion_strength_frames) != (1.0, 1.0):
                    stack.callback(module.proj_out.register_forward_hook(self._weaken).remove)
                if controls.attention_scale != 1:
                    for name, layer in module.named_modules():
                        if name.endswith(".to_k"):
                            stack.callback(layer.register_forward_hook(self._scale_keys).remove)
            yield

    def _weaken(self, layer: nn.Module, args: Any, added: Tensor) -> Tensor | None:
        """Behind the last layer of a temporal transformer, (columns, frames, channels)."""
        return None if self._factors is None else added * self._factors.to(added.dtype).view(-1, 1)

    def _scale_keys(self, layer: nn.Module, args: Any, keys: Tensor) -> Tensor:
        return keys * self.controls.attention_scale

    def in_windows(self, clips: Tensor, call: Callable[[Tensor | slice], Sequence[Tensor]]) -> list[Tensor]:
        """What the network gives for all frames of ``clips``, (frames, clips, channels, height, width): as many such
        tensors as ``call`` gives for some of the frames, by their numbers."""
        factors = None if all(strength == 1 for strength in self._strengths) \
            else on_device(self._strengths, clips.device, torch.float32)
        size = self.controls.context
        try:
            if self.frames <= size:
                self._factors = factors
                return list(call(slice(None)))
            if any(self._strengths):
                windows, fuse = uniform_windows(self._step, **self.controls.windows(self.frames)), self.controls.fuse
            else:  # stills need no overlap
                windows = [list(range(self.frames))[start:start + size] for start in range(0, self.frames, size)]
                fuse = "last"

            def evaluate(rows: Tensor, length: int) -> Tensor:
                self._factors = None if factors is None else factors[rows]
                return torch.stack(list(call(rows)), 1)
            made = evaluate_in_windows(evaluate, clips, windows, self.frames, fuse, self.controls.shared_frames)
            return list(made.unbind(1))
        finally:
            self._factors = None
