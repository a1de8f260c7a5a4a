"""reForge (main branch, 2026).

Read beside ``modules/sd_samplers_cfg_denoiser.py`` and ``ldm_patched/modules/samplers.py`` at 3b56b268. Its UNet does
not read ``block_inner_modifiers``: sd-forge-animatediff loads, runs to its end, and animates nothing.
"""
from __future__ import annotations

from typing import Any

from modules import shared

from ....patch import replaced
from ...sampler import Sampler
from .base import ForgeHost


class ReForge(ForgeHost):
    """reForge."""

    hires_cfg_wins = True
    motion_is_idle = (
        "sd-forge-animatediff has no effect on reForge: it sets its motion module up, and reForge's UNet never calls "
        "it, so all frames would be stills. Switch AnimateDiff off and tick IV-mixed motion, which works here.")

    def ngms(self, sampler: Sampler) -> float:
        return shared.opts.s_min_uncond  # type: ignore[no-any-return]  # the host's denoiser looks there too

    def load_checkpoint(self, info: Any) -> Any:
        from modules import sd_text_encoder as texts  # the loader notes a model's text encoder there, as the host's
        with replaced(texts, "current_text_encoder", texts.current_text_encoder), \
                replaced(texts, "current_text_encoder_option", texts.current_text_encoder_option):
            return super().load_checkpoint(info)
