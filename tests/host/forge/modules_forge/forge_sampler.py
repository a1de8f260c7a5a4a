"""Cond and uncond through the network, with the options of the UNet's patcher as they are at the call."""
import math

import torch

from modules import shared


def forge_sample(denoiser, params, cond_scale):
    unet = denoiser.inner_model.inner_model.forge_objects.unet
    return sampling_function(unet.model, params.x, params.sigma, params.text_uncond, params.text_cond, cond_scale,
                             unet.model_options, unet.controlnet_linked_list)


def sampling_function(model, x, sigma, uncond, cond, cond_scale, model_options, control):
    if math.isclose(cond_scale, 1.0) and not model_options.get("disable_cfg1_optimization", False):
        uncond = None
    cond_pred, uncond_pred = calc_cond_uncond_batch(model, cond, uncond, x, sigma, model_options, control)
    return uncond_pred + (cond_pred - uncond_pred) * cond_scale


def calc_cond_uncond_batch(model, cond, uncond, x, sigma, model_options, control):
    """In one batch, uncond first, or one after the other; what was not asked is zero."""
    out = [torch.zeros_like(x), torch.zeros_like(x)]
    to_run = [(mark, text) for mark, text in ((1, uncond), (0, cond)) if text is not None]
    together = shared.fits_in_memory and len({text.shape[1] for mark, text in to_run}) == 1
    for batch in [to_run] if together else [[one] for one in to_run]:
        marks = [mark for mark, text in batch]
        c = {"c_crossattn": torch.cat([text for mark, text in batch]),
             "transformer_options": {**model_options.get("transformer_options", {}), "sigmas": sigma}}
        if control is not None:
            c["control"] = control(len(batch) * len(x))
        info = {"input": torch.cat([x] * len(batch)), "timestep": torch.cat([sigma] * len(batch)), "c": c,
                "cond_or_uncond": marks}
        if "model_function_wrapper" in model_options:
            answer = model_options["model_function_wrapper"](model.apply_model, info)
        else:
            answer = model.apply_model(info["input"], info["timestep"], **c)
        for mark, rows in zip(marks, answer.chunk(len(marks))):
            out[mark] += rows
    return out
