"""Puts the extension into the host: the samplers into its lists, and functions of ours where it calls back."""
from __future__ import annotations

from contextlib import ExitStack
from functools import partial

from modules import script_callbacks, sd_samplers, sd_samplers_common

from . import NAME, SAMPLERS, api, hosts, selectable
from .builtin import generation
from .page import settings, txt2vid, xyz
from .sampler import Sampler


def register() -> None:
    """Called whenever the host loads the extension's scripts: at start, and at "Reload UI"."""
    _add_samplers()
    until_unloaded = ExitStack()
    until_unloaded.enter_context(selectable.watched())
    until_unloaded.enter_context(hosts.find().installed())
    script_callbacks.on_script_unloaded(until_unloaded.close)
    script_callbacks.on_cfg_denoiser(generation.on_cfg_denoiser)
    script_callbacks.on_ui_settings(settings.add)
    script_callbacks.on_before_ui(xyz.add_axes)
    script_callbacks.on_ui_tabs(txt2vid.build)
    script_callbacks.on_app_started(api.register)


def _add_samplers() -> None:
    """Puts the samplers where the dropdowns and the API look. Any number of times: they replace themselves."""
    # other modules hold this very list, and "Reload UI" runs the scripts again while it stays
    sd_samplers.all_samplers[:] = [x for x in sd_samplers.all_samplers if x.name not in SAMPLERS]
    for name, solver in SAMPLERS.items():
        # the host's own sampler of this step says which schedule "Automatic" is, and that it has Brownian noise
        own = sd_samplers.all_samplers_map.get(name.removeprefix(f"{NAME} "))
        aliases = ["iv_mixed", "ivmixed"] if name == NAME else [f"iv_mixed_{solver}"]
        options = {} if own is None or name == NAME else dict(own.options)
        data = sd_samplers_common.SamplerData(name, partial(Sampler, solver), aliases, options)
        sd_samplers.all_samplers.append(data)
        sd_samplers.all_samplers_map[name] = data
    sd_samplers.set_samplers()
    if hasattr(sd_samplers, "get_sampler_and_scheduler"):
        sd_samplers.get_sampler_and_scheduler.cache_clear()  # it remembers a miss
