"""The sampler on Forge at 29be1da7, "previous": the last version that sd-forge-animatediff was made for.

This host puts AnimateDiff's noise table in itself, around ``p.sample`` in ``modules/processing.py``. Its denoiser knows
no settings that leave the negative prompt out.
"""
from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from .base import ForgeRun, ForgeSampler


class _Run(ForgeRun):
    def dropping(self) -> list[str]:
        return []


class IVMixedSampler(ForgeSampler):
    """The sampler of a generation on this host."""

    run_type = _Run

    @contextmanager
    def video_table(self) -> Iterator[None]:
        # the host keeps the checkpoint's own in a local variable: made again as it was at loading
        model = self.unet.model
        self.image_sigmas = type(model.model_sampling)(model.model_config).sigmas
        yield
