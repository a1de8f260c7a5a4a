"""The memory that a clip takes: counted from its tensors, not measured, so that it needs no GPU."""
from __future__ import annotations

import weakref
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from ..settings import Setting, sample
from .networks import TABLES, Networks, make, noise

STEPS = 3
"""Enough: two of them with the extra loop; a clip's later steps need what its first ones need."""


def peaks(settings: Sequence[Setting], frames: int, width: int, height: int, small: bool = False) -> dict[str, float]:
    """By setting the most bytes of tensors alive at once while a clip is sampled, weights included, in fp16.

    ``width``, ``height``: pixels. Attention is taken to hold no scores, as its kernels on a GPU do. Nothing is
    computed.
    """
    meta = torch.device("meta")
    unet = make(meta, torch.float16, small)
    weights = sum(weight.nbytes for weight in unet.parameters())
    start = noise(frames, width, height, meta)
    found = {}
    for setting in settings:
        networks = Networks(unet, meta)
        with ExitStack() as stack:
            stack.enter_context(_WithoutScores())
            alive = stack.enter_context(_Alive())
            sample(setting, (networks.video, networks.image), TABLES, start, STEPS, {"cond_scale": 7.5}, 0)
        found[setting.name] = float(weights + alive.most)
    return found


class _Alive(TorchDispatchMode):
    """Counts the bytes of tensors that were made within the block and are not gone yet."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.most = 0
        self._known: weakref.WeakSet[Any] = weakref.WeakSet()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if (left := _leaving(func, args, kwargs or {})) is not None:
            return left
        output = func(*args, **(kwargs or {}))
        tree_map_only(Tensor, self._note, output)
        return output

    def _note(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        if storage in self._known:
            return
        self._known.add(storage)
        self.now += storage.nbytes()
        self.most = max(self.most, self.now)
        weakref.finalize(storage, self._gone, storage.nbytes())

    def _gone(self, size: int) -> None:
        self.now -= size


def _leaving(func: Any, args: Any, kwargs: dict[str, Any]) -> Tensor | None:
    """What a copy off the meta device gives: zeros, as there are no values. None where ``func`` is no such copy."""
    if func is torch.ops.aten.copy_.default and args[1].is_meta and not args[0].is_meta:
        target: Tensor = args[0].zero_()
        return target
    place = kwargs.get("device")
    if func is torch.ops.aten._to_copy.default and args[0].is_meta and place not in (None, args[0].device):
        return torch.zeros(args[0].shape, device=place)
    return None


class _WithoutScores(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.nn.functional.scaled_dot_product_attention:
            query, _, value = args[:3]
            return query.new_empty((*query.shape[:-1], value.shape[-1]))
        return func(*args, **(kwargs or {}))
