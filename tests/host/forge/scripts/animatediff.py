"""AnimateDiff's script: the table before a batch, motion before every sampling. Nothing to take out afterwards."""
from scripts.animatediff_infv2v import animatediff_on_cfg_denoiser
from scripts.animatediff_mm import mm_animatediff
from scripts.animatediff_ui import AnimateDiffProcess  # noqa: F401

from modules import script_callbacks, scripts


class AnimateDiffScript(scripts.Script):
    def title(self):
        return "AnimateDiff"

    def show(self, is_img2img):
        return scripts.AlwaysVisible

    def ui(self, is_img2img):
        return ["the unit"]

    def before_process(self, p, params):
        mm_animatediff.set_ad_params(params)
        if self._is_on(params):
            mm_animatediff.load(params.model)
            p.batch_size = max(params.video_length, params.batch_size)
            params.set_overlap()
            params.prompt_scheduler = params  # which has what the clip's prompts need

    def process_batch(self, p, params):
        if self._is_on(params):
            mm_animatediff.set_ddim_alpha(p.sd_model)

    def process_before_every_sampling(self, p, params):
        if self._is_on(params):
            mm_animatediff.inject(p.sd_model)

    def postprocess(self, p, processed, params):
        if self._is_on(params):
            params.write(p, processed)

    @staticmethod
    def _is_on(params):
        return params is not None and params.enable


script_callbacks.on_cfg_denoiser(animatediff_on_cfg_denoiser)
