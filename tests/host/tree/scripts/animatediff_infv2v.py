"""AnimateDiff's hook into the host's denoiser: context windows and prompt travel, set up at the first evaluation."""
from types import MethodType

import torch
from scripts.animatediff_mm import mm_animatediff

from modules import devices, shared


def halving(step):
    """The step's bits mirrored, as a fraction: 0, 1/2, 1/4, 3/4, 1/8, ..."""
    return int(f"{step:064b}"[::-1], 2) / 2**64


def uniform(step, video_length, size, overlap):
    """The windows of a step, which begin elsewhere in each."""
    if video_length <= size:
        yield list(range(size))
        return
    shift = round(video_length * halving(step))
    for start in range(shift, video_length + shift - overlap, size - overlap):
        yield [frame % video_length for frame in range(start, start + size)]


def animatediff_on_cfg_denoiser(params):
    ad_params = mm_animatediff.ad_params
    if ad_params is None or not ad_params.enable or not mm_animatediff.mm_injected:
        return
    inner_model = params.denoiser.inner_model
    if params.denoiser.step == 0 and getattr(inner_model, "original_forward", None) is None:
        ad_params.text_cond = ad_params.multi_cond(params.text_cond)
        inner_model.original_forward = inner_model.forward
        inner_model.forward = MethodType(_windows(ad_params, _controls(params.denoiser.p.scripts)), inner_model)
    params.text_cond = ad_params.text_cond
    ad_params.step = params.denoiser.step


def _windows(ad_params, controls):
    def forward(self, x, sigma, cond):
        out = torch.zeros_like(x)
        for window in uniform(ad_params.step, ad_params.video_length, ad_params.batch_size, ad_params.overlap):
            rows = list(window)
            if shared.opts.batch_cond_uncond:
                rows += [frame + ad_params.video_length for frame in window]
            _select(controls, rows)
            part = {key: [value[0][rows]] if isinstance(value, list) else value[rows] for key, value in cond.items()}
            out[rows] = self.original_forward(x[rows], sigma[rows], cond=part)
            _restore(controls, rows)
        return out

    return forward


def _controls(runner):
    for script in runner.alwayson_scripts:
        if script.title() == "ControlNet" and script.latest_network:
            return script.latest_network.control_params
    return []


def _select(controls, rows):
    """The control images of a window, brought to the GPU; LLLite does that itself."""
    for control in controls:
        kind = control.control_model_type
        if kind == "LLLite":
            for module in control.control_model.modules.values():
                if module.cond_image.shape[0] > len(rows):
                    module.cond_image_backup = module.cond_image
                    module.set_cond_image(module.cond_image[rows])
        else:
            if control.hint_cond.shape[0] > len(rows):
                control.hint_cond_backup = control.hint_cond
                control.hint_cond = control.hint_cond[rows]
            control.hint_cond = control.hint_cond.to(device=devices.get_device_for("controlnet"))


def _restore(controls, rows):
    """All rows back, in host memory."""
    for control in controls:
        kind = control.control_model_type
        if kind == "LLLite":
            for module in control.control_model.modules.values():
                if getattr(module, "cond_image_backup", None) is not None:
                    module.set_cond_image(module.cond_image_backup)
        elif getattr(control, "hint_cond_backup", None) is not None:
            control.hint_cond_backup[rows] = control.hint_cond.to(device=devices.cpu)
            control.hint_cond = control.hint_cond_backup
