"""A device where there is none: PyTorch's "meta", whose tensors have a shape, a dtype and a place, and no values.

Like a GPU it refuses tensors of another device. What would make the host wait for a GPU is noted.
"""
from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

import ivmixed

PACKAGE = f"{Path(ivmixed.__file__).parent}{os.sep}"
DEVICE = torch.device("meta")
aten = torch.ops.aten


class Seen(TorchDispatchMode):
    """``waits``: what made the host wait, in words; ``dtypes``: of all results on the device; ``there`` and ``back``:
    bytes copied to the device and from it."""

    def __init__(self):
        super().__init__()
        self.waits = []
        self.dtypes = set()
        self.there = self.back = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is aten._to_copy.default:
            source, place = args[0], kwargs.get("device") or args[0].device
            self._copied(func, source, place, kwargs.get("non_blocking"))
            if source.is_meta and place.type == "cpu":
                return torch.zeros(source.shape, dtype=kwargs.get("dtype", source.dtype))
        elif func is aten.copy_.default:
            target, source = args[:2]
            self._copied(func, source, target.device, len(args) > 2 and args[2])
            if source.is_meta and not target.is_meta:
                return target.zero_()
        out = func(*args, **kwargs)  # item(), bool() and an index by a mask have no answer, and raise
        if isinstance(out, torch.Tensor) and out.is_meta:
            self.dtypes.add(out.dtype)
        return out

    def _copied(self, func, source, place, asynchronous):
        self.there += source.nbytes * (source.device.type == "cpu" and place == DEVICE)
        self.back += source.nbytes * (source.is_meta and place.type == "cpu")
        if source.device.type != place.type and not asynchronous:
            self.waits.append(f"{func} of {list(source.shape)} from {source.device} to {place}")


class _Made(TorchFunctionMode):
    """Tensors that are made of numbers on the host, and would be copied."""

    def __init__(self, seen):
        super().__init__()
        self.seen = seen

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        place = torch.device(kwargs.get("device") or "cpu")
        if func in (torch.tensor, torch.as_tensor) and place == DEVICE:
            self.seen.waits.append(f"a tensor of {args[0]}")
        elif func is torch.Tensor.new_tensor and args[0].is_meta:
            self.seen.waits.append(f"a tensor of {args[1]}")
        elif func is torch.Tensor.__getitem__ and args[0].is_meta:
            keys = args[1] if isinstance(args[1], tuple) else (args[1],)
            self.seen.waits += [f"an index by {key}" for key in keys if isinstance(key, list)]
        return func(*args, **kwargs)


ASKING = {torch.Tensor.item, torch.Tensor.tolist, torch.Tensor.__bool__, torch.Tensor.__float__, torch.Tensor.__int__,
          torch.Tensor.__index__, torch.Tensor.cpu, torch.Tensor.nonzero, torch.nonzero, torch.equal, torch.allclose}


class Reads(TorchFunctionMode):
    """On the CPU, where code of this package asks for values of a tensor, or makes an index that would be copied.

    ``seen``: as "file:line function", once for each time.
    """

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        frame = sys._getframe(1)
        file = frame.f_code.co_filename
        if file.startswith(PACKAGE) and (func in ASKING or self._by_list(func, args)):
            self.seen.append(f"{file.removeprefix(PACKAGE)}:{frame.f_lineno} {func.__name__}")
        return func(*args, **(kwargs or {}))

    @staticmethod
    def _by_list(func, args):
        if func is not torch.Tensor.__getitem__:
            return False
        keys = args[1] if isinstance(args[1], tuple) else (args[1],)
        return any(isinstance(key, list) or (isinstance(key, torch.Tensor) and key.dtype == torch.bool) for key in keys)


@contextmanager
def watched() -> Iterator[Seen]:
    """Within the block what happens on `DEVICE` is noted."""
    with Seen() as seen, _Made(seen):
        yield seen
