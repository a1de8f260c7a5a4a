"""Callbacks of extensions around the network. What they raise is reported, and sampling goes on."""
from types import SimpleNamespace

from modules import errors

callback_map = {"cfg_denoiser": [], "cfg_denoised": [], "cfg_after_cfg": [], "script_unloaded": [], "app_started": [],
                "ui_tabs": [], "before_ui": [], "ui_settings": []}


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


def on_script_unloaded(callback):
    callback_map["script_unloaded"].append(callback)


def script_unloaded_callback():
    for callback in reversed(callback_map["script_unloaded"]):
        callback()
    callback_map["script_unloaded"].clear()


class CFGDenoiserParams:
    def __init__(self, x, image_cond, sigma, sampling_step, total_sampling_steps, text_cond, text_uncond, denoiser):
        vars(self).update(x=x, image_cond=image_cond, sigma=sigma, sampling_step=sampling_step,
                          total_sampling_steps=total_sampling_steps, text_cond=text_cond, text_uncond=text_uncond,
                          denoiser=denoiser)


def cfg_denoiser_callback(params):
    _call("cfg_denoiser", params)


def cfg_denoised_callback(x, step, steps, inner_model):
    return _call("cfg_denoised", SimpleNamespace(
        x=x, sampling_step=step, total_sampling_steps=steps, inner_model=inner_model))


def cfg_after_cfg_callback(x, step, steps):
    return _call("cfg_after_cfg", SimpleNamespace(x=x, sampling_step=step, total_sampling_steps=steps))


def on_ui_tabs(callback):
    callback_map["ui_tabs"].append(callback)


def ui_tabs_callback():
    return [tab for callback in callback_map["ui_tabs"] for tab in callback() or ()]


def on_before_ui(callback):
    callback_map["before_ui"].append(callback)


def on_ui_settings(callback):
    callback_map["ui_settings"].append(callback)


def before_ui_callback():
    _call_plain("before_ui")


def ui_settings_callback():
    _call_plain("ui_settings")


def _call_plain(name, *args):
    for callback in callback_map[name]:
        try:
            callback(*args)
        except Exception as error:
            errors.report(f"{name}: {error!r}")


def on_app_started(callback):
    callback_map["app_started"].append(callback)


def app_started_callback(demo, app):
    _call_plain("app_started", demo, app)
