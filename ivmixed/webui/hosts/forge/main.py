"""The sampler on Forge's main branch (2025).

Read beside ``backend/sampling/sampling_function.py``, ``backend/modules/k_prediction.py`` (``Prediction``),
``backend/loader.py`` and ``modules/sd_samplers_cfg_denoiser.py`` at dfdcbab6.
"""
from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from backend import memory_management
from backend.loader import forge_loader
from torch import Tensor

from ....patch import replaced
from .base import ForgeSampler, HiresRun


class IVMixedSampler(ForgeSampler):
    """The sampler of a generation on this host."""

    run_type = HiresRun

    @staticmethod
    def table_of(unet: Any) -> torch.nn.Module:
        return unet.model.predictor

    @staticmethod
    def load_checkpoint(info: Any) -> Any:
        model = forge_loader(info.filename)
        # what the host gives a model when it chooses it, in sd_models.forge_model_reload
        model.extra_generation_params, model.comments, model.sd_checkpoint_info = {}, [], info
        return model

    @staticmethod
    def moved_models() -> list[Any]:
        return memory_management.current_loaded_models  # type: ignore[no-any-return]

    def step_table(self, sigmas: Tensor) -> AbstractContextManager[None]:
        return nullcontext()  # the host's schedule of steps looks into the network's

    def sample(self, p: Any, x: Tensor, conditioning: Any, unconditional_conditioning: Any, **kwargs: Any) -> Tensor:
        uncond = self._uncond(p, x, unconditional_conditioning)
        return super().sample(p, x, conditioning, uncond, **kwargs)

    def sample_img2img(self, p: Any, x: Tensor, noise: Tensor, conditioning: Any, unconditional_conditioning: Any,
                       **kwargs: Any) -> Tensor:
        uncond = self._uncond(p, x, unconditional_conditioning)
        return super().sample_img2img(p, x, noise, conditioning, uncond, **kwargs)

    def _uncond(self, p: Any, x: Tensor, uncond: Any) -> Any:
        """The negative prompt, which the host does not encode where its own CFG scale is 1: extra moves guide too."""
        if uncond is not None or self.motion_of_clip(p, x.shape[0]) is None:
            return uncond
        with replaced(p, "hr_cfg" if p.is_hr_pass else "cfg_scale", 2):
            p.setup_conds()
        return p.get_conds()[1]
