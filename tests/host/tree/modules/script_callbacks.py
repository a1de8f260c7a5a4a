"""Callbacks of extensions around the network. What they raise is reported, and sampling goes on."""
from types import SimpleNamespace

from modules import errors

callback_map = {"cfg_denoiser": [], "cfg_denoised": [], "cfg_after_cfg": []}


def _call(name, params):
    for callback in list(callback_map[name]):
        try:
            callback(params)
        except Exception as error:
            errors.report(f"{name}: {error!r}")
    return params


def on_cfg_denoiser(callback):
    callback_map["cfg_denoiser"].append(callback)


def on_cfg_denoised(callback):
    callback_map["cfg_denoised"].append(callback)


def on_cfg_after_cfg(callback):
    callback_map["cfg_after_cfg"].append(callback)


def cfg_denoiser_callback(x, image_cond, sigma, step, steps, text_cond, text_uncond, denoiser):
    return _call("cfg_denoiser", SimpleNamespace(
        x=x, image_cond=image_cond, sigma=sigma, sampling_step=step, total_sampling_steps=steps,
        text_cond=text_cond, text_uncond=text_uncond, denoiser=denoiser))


def cfg_denoised_callback(x, step, steps, inner_model):
    return _call("cfg_denoised", SimpleNamespace(
        x=x, sampling_step=step, total_sampling_steps=steps, inner_model=inner_model))


def cfg_after_cfg_callback(x, step, steps):
    return _call("cfg_after_cfg", SimpleNamespace(x=x, sampling_step=step, total_sampling_steps=steps))
