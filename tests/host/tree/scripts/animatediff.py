"""AnimateDiff's script: motion in before a clip, out after it."""
from scripts.animatediff_infv2v import animatediff_on_cfg_denoiser
from scripts.animatediff_mm import mm_animatediff
from scripts.animatediff_ui import AnimateDiffProcess

from modules import script_callbacks, scripts


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
        if isinstance(params, dict):  # by the API
            params = AnimateDiffProcess(**params)
            p.script_args = list(p.script_args)
            p.script_args[self.args_from] = params
        mm_animatediff.set_ad_params(params)
        if params is not None and params.enable:
            mm_animatediff.inject(p.sd_model, params.model)
            p.batch_size = max(params.video_length, params.batch_size)
            params.set_overlap()
            params.prompt_scheduler = params  # which has what the clip's prompts need
            self.hacked = True
        elif self.hacked:
            mm_animatediff.restore(p.sd_model)
            self.hacked = False

    def postprocess(self, p, processed, params):
        if params is not None and params.enable:
            mm_animatediff.restore(p.sd_model)
            self.hacked = False
            params.write(p, processed)


script_callbacks.on_cfg_denoiser(animatediff_on_cfg_denoiser)
