"""Forge at 29be1da7, "previous": the last version that sd-forge-animatediff was made for.

This host puts AnimateDiff's noise table in itself, around ``p.sample`` in ``modules/processing.py``.
"""
from __future__ import annotations

from typing import Any

from torch import Tensor

from .base import ForgeHost


class ForgePrevious(ForgeHost):
    """Forge at 29be1da7."""

    animatediff_acts = True
    puts_video_table = True
    drops_uncond = False

    def checkpoint_sigmas(self, unet: Any) -> Tensor:
        # the host keeps the checkpoint's own in a local variable: made again as it was at loading
        model = unet.model
        return type(model.model_sampling)(model.model_config).sigmas  # type: ignore[no-any-return]
