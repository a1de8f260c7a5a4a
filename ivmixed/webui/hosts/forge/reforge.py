"""The sampler on reForge (main branch, 2026).

Read beside ``modules/sd_samplers_cfg_denoiser.py`` and ``ldm_patched/modules/samplers.py`` at 3b56b268. Its UNet does
not read ``block_inner_modifiers``: sd-forge-animatediff loads, runs to its end, and animates nothing.
"""
from __future__ import annotations

from importlib import import_module
from typing import Any

from modules import shared

from ....patch import replaced
from .base import ForgeSampler, HiresRun


class _Run(HiresRun):
    motion_is_idle = (
        "sd-forge-animatediff has no effect on reForge: it sets its motion module up, and reForge's UNet never calls "
        "it, so all frames would be stills. Switch AnimateDiff off and tick IV-mixed motion, which works here.")

    def ngms(self) -> float:
        return shared.opts.s_min_uncond  # the host's denoiser looks there too


class IVMixedSampler(ForgeSampler):
    """The sampler of a generation on this host."""

    run_type = _Run

    @staticmethod
    def load_checkpoint(info: Any) -> Any:
        texts = import_module("modules.sd_text_encoder")  # the loader notes a model's text encoder there, as the host's
        with replaced(texts, "current_text_encoder", texts.current_text_encoder), \
                replaced(texts, "current_text_encoder_option", texts.current_text_encoder_option):
            return ForgeSampler.load_checkpoint(info)
