"""The video and the image model, made of diffusers pipelines, in k-diffusion's manner.

Both are denoisers as `ivmixed.sample_iv_mixed` wants them: ``model(x, sigma, cond_scale)`` returns the denoised latent.
"""
from __future__ import annotations

import inspect
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from diffusers import DiffusionPipeline, UNet2DConditionModel, UNetMotionModel
from torch import Tensor

from ..features import DeepFeatures
from ..neighbours import attending
from ..plan import Move, Plan
from ..predictions import Predictions
from ..schedule import VIDEOCRAFTER2_SCALE, Schedule
from .control import ActingControl, added
from .motion import ActingMotion
from .videocrafter import VideoCrafterUNet


def noise_table(pipeline: DiffusionPipeline) -> Schedule:
    """The noise table of a diffusers pipeline: that of its scheduler, to which VideoCrafter2 has an input scale."""
    scale = VIDEOCRAFTER2_SCALE if isinstance(pipeline.unet, VideoCrafterUNet) else None
    return Schedule(pipeline.scheduler.alphas_cumprod.tolist(), scale)


def image_view(unet: UNetMotionModel) -> UNet2DConditionModel:
    """The image model inside AnimateDiff's video model: the same layers without the motion modules.

    The layers are shared, not copied: no memory is needed, and what is done to the video model's layers (LoRA, another
    device, attention processors) holds for the view. Make it anew after layers were replaced.
    """
    known = inspect.signature(UNet2DConditionModel).parameters
    config = {key: value for key, value in unet.config.items() if key in known and value is not None}
    for key in ("down_block_types", "up_block_types"):
        config[key] = tuple(name.replace("Motion", "2D") for name in config[key])
    config["attention_head_dim"] = config.pop("num_attention_heads")  # diffusers' own name for the number of heads
    with torch.device("meta"):
        view = UNet2DConditionModel(**config)
    _share(unet, view)
    return view.eval()


def _share(source: torch.nn.Module, target: torch.nn.Module) -> None:
    """Puts the layers of ``source`` in the place of ``target``'s, block by block."""
    for name, child in target.named_children():
        blocks = name.endswith("_blocks") or name == "mid_block"
        if blocks and isinstance(child, torch.nn.ModuleList):
            for block, twin in zip(getattr(source, name), child):
                _share(block, twin)
        elif blocks:
            _share(getattr(source, name), child)
        else:
            setattr(target, name, getattr(source, name))


def deep_layers(unet: Any) -> list[torch.nn.Module]:
    """All of a diffusers UNet but its first convolution, its last layer of the outermost level, and what is behind."""
    down, up = unet.down_blocks, unet.up_blocks
    outermost = [child[:-1] if block is up[-1] else child
                 for block in (down[0], up[-1]) for child in block.children() if isinstance(child, torch.nn.ModuleList)]
    inside = list(itertools.chain(*outermost))
    return [*inside, *down[1:], unet.mid_block, *up[:-1]]


class Denoiser:
    """A diffusers UNet as a denoiser.

    ``unet``: UNetMotionModel, UNet3DConditionModel or UNet2DConditionModel. ``schedule``: the noise table that it was
    trained on. ``prediction``: "epsilon" or "v_prediction". ``uncond``, ``cond``: (clips, tokens, width), the encoded
    prompts; with ``travels``, of one clip, (frames, tokens, width), one for each frame. ``chunk``: at most so many
    frames at once (image models only, which then see no others, `Plan.image_attention`). ``told``: what the network is
    told besides, as arguments of its ``forward``. ``motion``: windows and strength of a UNetMotionModel's motion;
    without it all frames are seen at once. ``controls``: ControlNets beside it, which `expect` is told of too; of a
    UNet2DConditionModel or UNetMotionModel.

    Before every evaluation it is told by `expect` which move it is for. Where that is one whose prediction serves again
    (`ivmixed.predictions`), only what guidance 1 or 0 has left out before costs a network call.
    """

    def __init__(self, unet: Any, schedule: Schedule, prediction: str, uncond: Tensor, cond: Tensor,
                 chunk: int | None = None, told: Mapping[str, Any] | None = None, *, travels: bool = False,
                 motion: ActingMotion | None = None, controls: Sequence[ActingControl] = ()):
        self.unet, self.schedule, self.prediction, self.chunk = unet, schedule, prediction, chunk
        self._dtype = unet.dtype  # diffusers looks at all layers for it
        self.told = dict(told or {})
        self.uncond, self.cond = uncond, cond
        self.travels, self.motion, self.controls = travels, motion, controls
        self._acting: list[ActingControl] = []
        """Of the controls, those of the move that comes next."""
        self._level = schedule.sigma_max
        self._features: DeepFeatures | None = None
        self._around_network: Callable[[], AbstractContextManager[None]] = nullcontext
        self._shallow = False
        """It computes the outer layers alone."""
        self._predictions = Predictions()
        self._again = False
        """They serve the evaluation that comes next."""
        self._attention = "own"
        self.kept: tuple[Tensor, Tensor] | None = None
        """A clip without noise, like x, and where it stays as it is (1) or is made anew (0): an inpainting model's
        answer is that clip there, as in the hosts' ``CFGDenoiser``."""

    def expect(self, move: Move, plan: Plan) -> None:
        """The move that comes next: its noise level as a plain number, so that the device need not be asked for it,
        and whether the network keeps deep features or makes do with those that it has."""
        self._again = not move.evaluates
        if not move.evaluates:
            return
        self._level = move.sigma
        self._attention = plan.image_attention if move.model == "image" else "own"
        if self.motion is not None:
            self.motion.expect(move, plan)
        self._acting = [each for each in self.controls if each.control.acts(move.model, move.step, plan.steps)]
        self._around_network = nullcontext
        self._shallow = False
        if plan.reuses("features"):
            self._features = self._features or DeepFeatures(deep_layers(self.unet))
            self._shallow = bool(move.reuse)
            self._around_network = self._features.replayed if move.reuse else self._features.recorded

    def __call__(self, x: Tensor, sigma: Tensor, cond_scale: float) -> Tensor:
        """``x``: (frames, channels, height, width) or (frames, clips, channels, height, width), float32. ``sigma`` is
        not read. Returns the denoised x.

        Guidance 1 and 0 need one of the two network passes and get one, unless features are kept, which are of both.
        """
        level = self._level
        if not self._again:
            self._predictions = Predictions()
        self._again = False
        wanted = ["uncond"] * (cond_scale != 1) + ["cond"] * (cond_scale != 0)
        needed = wanted if self._around_network is nullcontext else ["uncond", "cond"]
        self._predict(x, [name for name in needed if name not in self._predictions])
        take = self._predictions.again()
        outputs = [take(name, len(x)) for name in wanted]
        output = outputs[0] if len(outputs) == 1 else torch.lerp(outputs[0], outputs[1], cond_scale)
        if self.prediction == "v_prediction":
            denoised = x / (1 + level**2) - output * (level / math.sqrt(1 + level**2))
        else:
            denoised = x - output * level
        return denoised if self.kept is None else torch.lerp(denoised, *self.kept)

    def _predict(self, x: Tensor, names: list[str]) -> None:
        """Asks the network with the prompts ``names`` (of "uncond", "cond"), and keeps what it predicts."""
        if not names:
            return
        scaled = (x / self.schedule.input_norm(self._level)).to(self._dtype)
        clips = scaled if x.ndim == 5 else scaled.unsqueeze(1)
        contexts = [getattr(self, name) for name in names]
        with self._around_network():
            if isinstance(self.unet, UNet2DConditionModel):
                size = self.chunk or len(x)
                parts = [self._image(clips, contexts, slice(start, start + size)) for start in range(0, len(x), size)]
                outputs = [torch.cat(whole) for whole in zip(*parts)]
            else:
                outputs = self._video(clips, contexts)
        for name, out in zip(names, outputs):
            self._predictions.keep(name, out.float().view_as(x))

    def _image(self, clips: Tensor, contexts: list[Tensor], part: slice) -> list[Tensor]:
        """``clips``: (frames, clips, channels, height, width); ``part`` of their frames, for each of the contexts."""
        clips = clips[part]
        rows = clips.flatten(0, 1).repeat(len(contexts), 1, 1, 1)
        context = torch.cat([context[part] if self.travels else context.repeat(len(clips), 1, 1)
                             for context in contexts])
        with attending(self.unet, self._attention, *clips.shape[:2]):
            made = self._network(rows, context, part, clips.shape[1]).chunk(len(contexts))
        return [out.unflatten(0, clips.shape[:2]) for out in made]

    def _video(self, clips: Tensor, contexts: list[Tensor]) -> list[Tensor]:
        def call(rows: Tensor | slice) -> list[Tensor]:
            return self._clip(clips[rows], [context[rows] if self.travels else context for context in contexts], rows)
        return call(slice(None)) if self.motion is None else self.motion.in_windows(clips, call)

    def _clip(self, clips: Tensor, contexts: list[Tensor], frames: Tensor | slice) -> list[Tensor]:
        """``clips``: some of their ``frames``, in order, for each of the contexts."""
        context = torch.cat(contexts)
        # UNetMotionModel wants the prompt once a frame, UNet3DConditionModel once a clip
        if isinstance(self.unet, UNetMotionModel) and not self.travels:
            context = context.repeat_interleave(len(clips), 0)
        rows = clips.movedim(0, 2).repeat(len(contexts), 1, 1, 1, 1)
        made = self._network(rows, context, frames).chunk(len(contexts))
        return [out.movedim(2, 0).contiguous() for out in made]

    def _network(self, sample: Tensor, context: Tensor, frames: Tensor | slice, copies: int = 1) -> Tensor:
        """``frames``: which of the clip's are in the sample, each ``copies`` times in a row, and all repeated.
        """
        # filled on the device: a copy of a number would make the host wait for it
        timestep = sample.new_full((), self.schedule.sigma_to_timestep(self._level), dtype=torch.float32)
        controls = {}
        if self._acting:
            rows = sample if sample.ndim == 4 else sample.transpose(1, 2).flatten(0, 1)
            controls = added(self._acting, rows, timestep, context, frames, copies, self._shallow)
        out: Tensor = self.unet(sample, timestep, encoder_hidden_states=context, return_dict=False, **self.told,
                                **controls)[0]
        return out
