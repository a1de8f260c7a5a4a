"""AnimateDiff's motion modules: into the UNet with their noise table, and out again."""
import torch
from ldm.modules.diffusionmodules.util import GroupNorm32

from modules import paths

MODULES = ("v1", "v2", "v3", "xl")
"""The files that are there."""


class TemporalTransformer(torch.nn.Module):
    """Mixes every frame of a context window with the one before it."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.rand(4, 1, 1))

    def forward(self, x):
        frames = mm_animatediff.ad_params.batch_size
        clips = x.unflatten(0, (-1, frames))
        return (clips + self.weight * torch.tanh(clips.roll(1, dims=1))).flatten(0, 1)


class VanillaTemporalModule(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.temporal_transformer = TemporalTransformer()

    def forward(self, x):
        return self.temporal_transformer(x)


class MotionWrapper(torch.nn.Module):
    """The content of a motion module file. v1 swaps the group norm, v2 has one more for the middle block."""

    def __init__(self, version):
        super().__init__()
        self.mm_name = version
        self.down_blocks, self.up_blocks = (
            torch.nn.ModuleList(VanillaTemporalModule() for _ in range(2)) for _ in range(2))
        if self.is_v2:
            self.mid_block = VanillaTemporalModule()

    def enable_gn_hack(self):
        return self.mm_name == "v1"

    @property
    def is_v2(self):
        return self.mm_name == "v2"

    @property
    def is_hotshot(self):
        return False


class AnimateDiffMM:
    mm_injected = False

    def __init__(self):
        self.mm = self.ad_params = self.gn32_original_forward = None
        self.prev_alpha_cumprod = self.prev_alpha_cumprod_original = None

    def get_model_dir(self):
        return f"{paths.models_path}/AnimateDiff"

    def set_ad_params(self, ad_params):
        self.ad_params = ad_params

    def inject(self, sd_model, model_name):
        if AnimateDiffMM.mm_injected:
            self.restore(sd_model)
        if model_name.split(".")[0] not in MODULES:
            raise RuntimeError("Please download models manually.")
        if self.mm is None or self.mm.mm_name != model_name:
            self.mm = MotionWrapper(model_name)
        assert sd_model.is_sdxl == (self.mm.mm_name.split(".")[0] == "xl"), "Motion module incompatible with SD."
        unet = sd_model.model.diffusion_model
        if self.mm.is_v2:
            unet.middle_block.insert(-1, self.mm.mid_block)
        elif self.mm.enable_gn_hack():
            original = self.gn32_original_forward = GroupNorm32.forward

            def over_frames(self, x):
                """The statistics of cond, and of uncond, are those of all frames together."""
                clips = x.unflatten(0, (2, -1)).transpose(1, 2)
                return original(self, clips).transpose(1, 2).flatten(0, 1)

            GroupNorm32.forward = over_frames
        for block, motion in zip(unet.input_blocks, self.mm.down_blocks):
            block.append(motion)
        for block, motion in zip(unet.output_blocks, self.mm.up_blocks):
            block.append(motion)
        self._set_table(sd_model)
        AnimateDiffMM.mm_injected = True

    def restore(self, sd_model):
        if not AnimateDiffMM.mm_injected:
            return
        sd_model.alphas_cumprod = self.prev_alpha_cumprod
        sd_model.alphas_cumprod_original = self.prev_alpha_cumprod_original
        self.prev_alpha_cumprod = self.prev_alpha_cumprod_original = None
        unet = sd_model.model.diffusion_model
        for block in (*unet.input_blocks, *unet.output_blocks):
            block.pop(-1)
        if self.mm.is_v2:
            unet.middle_block.pop(-2)
        elif self.mm.enable_gn_hack():
            GroupNorm32.forward = self.gn32_original_forward
            self.gn32_original_forward = None
        AnimateDiffMM.mm_injected = False

    def _set_table(self, sd_model):
        self.prev_alpha_cumprod = sd_model.alphas_cumprod
        self.prev_alpha_cumprod_original = sd_model.alphas_cumprod_original
        table = torch.cumprod(1 - torch.linspace(0.00085, 0.012, sd_model.num_timesteps), dim=0)
        sd_model.alphas_cumprod = sd_model.alphas_cumprod_original = table


mm_animatediff = AnimateDiffMM()
