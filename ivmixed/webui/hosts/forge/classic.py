"""Forge Classic.

Read beside ``modules/sd_samplers_cfg_denoiser.py`` at 1f95d717: where a step's share of the steps is at most
``skip_early_cond`` guidance is 1, so by default in the first step. The ordinary move keeps to that, as Euler does,
unless its prediction is to serve again.
"""
from __future__ import annotations

from .base import ForgeHost


class ForgeClassic(ForgeHost):
    """Forge Classic."""

    early_cond_off = -1
