"""Forge's main branch (2025).

Read beside ``backend/sampling/sampling_function.py``, ``backend/modules/k_prediction.py`` (``Prediction``),
``backend/loader.py`` and ``modules/sd_samplers_cfg_denoiser.py`` at dfdcbab6.
"""
from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

from backend import memory_management
from backend.loader import forge_loader
from torch import Tensor

from ...sampler import Sampler
from .base import ForgeHost


class ForgeMain(ForgeHost):
    """Forge's main branch."""

    hires_cfg_wins = True

    def table_of(self, unet: Any) -> Any:
        return unet.model.predictor

    def load_checkpoint(self, info: Any) -> Any:
        model = forge_loader(info.filename)
        # what the host gives a model when it chooses it, in sd_models.forge_model_reload
        model.extra_generation_params, model.comments, model.sd_checkpoint_info = {}, [], info
        return model

    def moved_models(self) -> list[Any]:
        return memory_management.current_loaded_models  # type: ignore[no-any-return]

    def step_table(self, sampler: Sampler, sigmas: Tensor) -> AbstractContextManager[None]:
        return nullcontext()  # the host's schedule of steps looks into the network's

    def tab_title(self, name: str) -> str:
        return name.capitalize()
