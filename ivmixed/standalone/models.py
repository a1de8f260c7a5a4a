"""The video and the image model, made of diffusers pipelines, in k-diffusion's manner.

Both are denoisers as `ivmixed.sample_iv_mixed` wants them: ``model(x, sigma, cond_scale)`` returns the denoised latent.
"""
from __future__ import annotations

import inspect
import math
from typing import Any

import torch
from diffusers import DiffusionPipeline, UNet2DConditionModel, UNetMotionModel
from torch import Tensor

from ..schedule import Schedule


def noise_table(pipeline: DiffusionPipeline) -> Schedule:
    """The noise table of a diffusers pipeline's scheduler."""
    return Schedule(pipeline.scheduler.alphas_cumprod.tolist())


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


class Denoiser:
    """A diffusers UNet as a denoiser.

    ``unet``: UNetMotionModel, UNet3DConditionModel or UNet2DConditionModel. ``schedule``: the noise table that it was
    trained on. ``prediction``: "epsilon" or "v_prediction". ``uncond``, ``cond``: (1, tokens, width), the encoded
    prompts. ``chunk``: at most so many frames at once (image models only).

    Asked again about the very tensor and level of its latest call, it answers from memory: guidance costs no network.
    ``level`` is the noise level of the next call as a plain number, so that the device need not be asked for it.
    """

    def __init__(self, unet: Any, schedule: Schedule, prediction: str, uncond: Tensor, cond: Tensor,
                 chunk: int | None = None):
        self.unet, self.schedule, self.prediction, self.chunk = unet, schedule, prediction, chunk
        self.uncond, self.cond = uncond, cond
        self.level = schedule.sigma_max
        self._asked: tuple[Tensor, float] | None = None
        self._answers: dict[str, Tensor] = {}

    def __call__(self, x: Tensor, sigma: Tensor, cond_scale: float) -> Tensor:
        """``x``: (frames, channels, height, width), float32. ``sigma``: unused, see ``level``. Returns the denoised x.

        Guidance 1 and 0 need one of the two network passes and get one.
        """
        if self._asked is None or self._asked[0] is not x or self._asked[1] != self.level:
            self._asked, self._answers = (x, self.level), {}
        wanted = ["uncond"] * (cond_scale != 1) + ["cond"] * (cond_scale != 0)
        self._answer(x, [name for name in wanted if name not in self._answers])
        outputs = [self._answers[name] for name in wanted]
        output = outputs[0] if len(outputs) == 1 else torch.lerp(outputs[0], outputs[1], cond_scale)
        if self.prediction == "v_prediction":
            return x / (1 + self.level**2) - output * (self.level / math.sqrt(1 + self.level**2))
        return x - output * self.level

    def _answer(self, x: Tensor, names: list[str]) -> None:
        """Asks the network with the prompts ``names`` (of "uncond", "cond"), and keeps what it says."""
        if not names:
            return
        scaled = (x / math.sqrt(1 + self.level**2)).to(self.unet.dtype)
        contexts = [getattr(self, name) for name in names]
        if isinstance(self.unet, UNet2DConditionModel):
            parts = [self._image(part, contexts) for part in torch.split(scaled, self.chunk or len(x))]
            outputs = [torch.cat(whole) for whole in zip(*parts)]
        else:
            outputs = self._video(scaled, contexts)
        self._answers.update(zip(names, [out.float() for out in outputs]))

    def _image(self, frames: Tensor, contexts: list[Tensor]) -> tuple[Tensor, ...]:
        context = torch.cat(contexts).repeat_interleave(len(frames), 0)
        return self._network(frames.repeat(len(contexts), 1, 1, 1), context).chunk(len(contexts))

    def _video(self, frames: Tensor, contexts: list[Tensor]) -> list[Tensor]:
        context = torch.cat(contexts)
        if isinstance(self.unet, UNetMotionModel):  # wants the prompt once a frame; UNet3DConditionModel once a clip
            context = context.repeat_interleave(len(frames), 0)
        clips = frames.transpose(0, 1).expand(len(contexts), -1, -1, -1, -1)
        return [clip.transpose(0, 1) for clip in self._network(clips, context)]

    def _network(self, sample: Tensor, context: Tensor) -> Tensor:
        timestep = torch.tensor(self.schedule.sigma_to_timestep(self.level), device=sample.device)
        out: Tensor = self.unet(sample, timestep, encoder_hidden_states=context, return_dict=False)[0]
        return out
