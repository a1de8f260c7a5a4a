"""The Forge family's patcher of a UNet, ``forge_objects.unet``: its options, and the network's noise table.

The options are read on every call of the network, so they are never written to: changed ones are a new dictionary.
Source: ``ldm_patched/modules/samplers.py`` and ``backend/sampling/sampling_function.py`` (who reads them),
``forward_timestep_embed`` of ``ldm_patched/ldm/modules/diffusionmodules/openaimodel.py`` and ``backend/nn/unet.py``
(``block_inner_modifiers``).
"""
from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor

NetworkCall = Callable[[Callable[..., Tensor], dict[str, Any]], Tensor]
"""How the host calls the network, ``call(apply_model, info)``: its ``model_function_wrapper``. ``info`` has the rows
``input`` and ``timestep``, the network's other arguments ``c``, and in ``cond_or_uncond`` a mark for each set of rows:
0 for cond, 1 for uncond."""


def network_call(model_options: dict[str, Any]) -> NetworkCall:
    """That of these options."""
    def call(apply_model: Callable[..., Tensor], info: dict[str, Any]) -> Tensor:
        return apply_model(info["input"], info["timestep"], **info["c"])
    return model_options.get("model_function_wrapper") or call


def inner_modifiers(transformer_options: dict[str, Any]) -> list[Callable[..., Any]]:
    """What a UNet called with these options calls before and after each of its layers."""
    modifiers: list[Callable[..., Any]] = transformer_options.get("block_inner_modifiers", [])
    return modifiers


@contextmanager
def on_table(holder: Any, sigmas: Tensor) -> Iterator[None]:
    """Within the block ``holder`` has this noise table; afterwards its own again, on the device where it is then."""
    own, logs = (holder.sigmas, holder.log_sigmas), sigmas.log()
    try:
        holder.sigmas, holder.log_sigmas = sigmas, logs
        yield
    finally:
        holder.sigmas, holder.log_sigmas = (table.to(holder.sigmas.device) for table in own)
