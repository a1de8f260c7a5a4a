"""AnimateDiff for Forge: motion and its noise table as wishes in the options of the UNet's patcher.

On Forge main and Forge Classic the published extension does not load; here it stands for whatever puts the same there.
"""
import torch

from modules import paths


class TemporalTransformer(torch.nn.Module):
    """Mixes every frame of a context window with the one before it."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.rand(4, 1, 1))

    def forward(self, x):
        clips = x.unflatten(0, (-1, mm_animatediff.ad_params.batch_size))
        return (clips + self.weight * torch.tanh(clips.roll(1, dims=1))).flatten(0, 1)


class MotionWrapper(torch.nn.Module):
    def __init__(self, version):
        super().__init__()
        self.mm_name = version
        self.blocks = torch.nn.ModuleList(TemporalTransformer() for _ in range(5))

    is_adxl = False


class AnimateDiffMM:
    def __init__(self):
        self.mm = self.ad_params = None

    def get_model_dir(self):
        return f"{paths.models_path}/AnimateDiff"

    def set_ad_params(self, ad_params):
        self.ad_params = ad_params

    def load(self, version):
        if version.split(".")[0] not in ("v1", "v2", "v3"):
            raise RuntimeError("Please download models manually.")
        if self.mm is None or self.mm.mm_name != version:
            self.mm = MotionWrapper(version)

    def inject(self, sd_model):
        from scripts.animatediff_infv2v import mm_sd_forward

        unet = sd_model.forge_objects.unet.clone()

        def mm_block_modifier(x, identifier, layer, layer_index, ts, transformer_options):
            if layer_index == len(ts) - 1 and identifier == "after":
                part, number = transformer_options["block"]
                return self.mm.blocks[{"input": 0, "middle": 2, "output": 3}[part] + number](x)
            return x

        if self.mm.mm_name == "v1":
            unet.set_group_norm_wrapper(_over_frames)
        unet.set_model_unet_function_wrapper(mm_sd_forward)
        unet.add_block_inner_modifier(mm_block_modifier)
        sd_model.forge_objects.unet = unet

    def set_ddim_alpha(self, sd_model):
        unet = sd_model.forge_objects.unet.clone()
        table = torch.cumprod(1 - torch.linspace(0.00085, 0.012, sd_model.num_timesteps), dim=0)
        unet.add_alphas_cumprod_modifier(lambda own: table)
        sd_model.forge_objects.unet = unet


def _over_frames(norm, x, transformer_options):
    """The statistics of a window are those of all its frames together."""
    clips = x.unflatten(0, (-1, mm_animatediff.ad_params.batch_size)).transpose(1, 2)
    return norm(clips).transpose(1, 2).flatten(0, 1)


mm_animatediff = AnimateDiffMM()
