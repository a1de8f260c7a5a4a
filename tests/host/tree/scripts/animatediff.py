"""AnimateDiff's script: motion in before a clip, out after it."""
from dataclasses import dataclass, field
from typing import Any

import torch
from scripts.animatediff_infv2v import animatediff_on_cfg_denoiser
from scripts.animatediff_mm import mm_animatediff

from modules import script_callbacks, scripts


@dataclass
class AnimateDiffProcess:
    model: str = "v3"
    enable: bool = True
    video_length: int = 16
    batch_size: int = 16
    """The context window, in frames."""
    overlap: int = 4
    prompt_map: dict = field(default_factory=dict)
    """Prompt travel: frames with a prompt of their own; between two of them the conditioning is mixed."""
    step: int = 0
    text_cond: Any = None

    def multi_cond(self, cond):
        if not self.prompt_map:
            return cond
        keys, rows = sorted(self.prompt_map), []
        for frame in range(len(cond)):
            before = max((key for key in keys if key <= frame), default=keys[0])
            after = min((key for key in keys if key > frame), default=before)
            part = (frame - before) / (after - before) if after != before else 0.0
            rows.append(torch.lerp(cond[before], cond[after], part))
        return torch.stack(rows)


class AnimateDiffScript(scripts.Script):
    def __init__(self):
        self.hacked = False

    def title(self):
        return "AnimateDiff"

    def show(self, is_img2img):
        return scripts.AlwaysVisible

    def ui(self, is_img2img):
        return ["the unit"]

    def before_process(self, p, params):
        mm_animatediff.set_ad_params(params)
        if params is not None and params.enable:
            mm_animatediff.inject(p.sd_model, params.model)
            p.batch_size = max(params.video_length, params.batch_size)
            self.hacked = True
        elif self.hacked:
            mm_animatediff.restore(p.sd_model)
            self.hacked = False

    def postprocess(self, p, processed, params):
        if params is not None and params.enable:
            mm_animatediff.restore(p.sd_model)
            self.hacked = False


script_callbacks.on_cfg_denoiser(animatediff_on_cfg_denoiser)
