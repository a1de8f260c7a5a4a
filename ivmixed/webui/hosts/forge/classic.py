"""The sampler on Forge Classic.

Read beside ``modules/sd_samplers_cfg_denoiser.py`` at 1f95d717: where a step's share of the steps is at most
``skip_early_cond`` guidance is 1, so by default in the first step. The ordinary move keeps to that, as Euler does,
unless its prediction is to serve again.
"""
from __future__ import annotations

from typing import Any

from .base import ForgeRun, ForgeSampler


class _Run(ForgeRun):
    def settings(self) -> dict[str, Any]:
        return {**super().settings(), "skip_early_cond": -1} if self.needs_uncond() else {}


class IVMixedSampler(ForgeSampler):
    """The sampler of a generation on this host."""

    run_type = _Run
