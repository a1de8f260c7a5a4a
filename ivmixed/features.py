"""The deep features of a UNet, kept from one evaluation for another: only the outermost layers are computed anew.

Between neighbouring evaluations the deep features change least, while most of the time goes into them. Source:
DeepCache, Ma et al., CVPR 2024, arXiv 2312.00858, section 3 (there between steps; branch 0, as here).
"""
from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

from .patch import replaced


class DeepFeatures:
    """What the deep layers of a UNet gave in the latest recorded evaluation.

    ``layers``: all modules of the UNet that a shallow evaluation does without, none inside another. The last of them to
    run must be the only one whose output the remaining layers read, as in a UNet whose outermost level is left: of the
    others only the shapes are kept. An evaluation may consist of several calls of the network (chunks, windows, cond
    and uncond), if those after it consist of the same.
    """

    def __init__(self, layers: Iterable[torch.nn.Module]):
        self._layers = tuple(layers)
        self._outputs: list[Any] = []

    @contextmanager
    def recorded(self) -> Iterator[None]:
        """Within the block the network runs whole, and what its deep layers give is kept, with what hooks behind them
        make of it."""
        self._outputs.clear()
        first: torch.nn.Module | None = None

        def keep(layer: torch.nn.Module, args: Any, output: Any) -> None:
            nonlocal first
            first = first or layer
            if layer is not first:  # else the output before it was the last of another call
                self._outputs[-1] = _hollow(self._outputs[-1])
            self._outputs.append(output)

        with ExitStack() as stack:
            for layer in self._layers:
                stack.callback(layer.register_forward_hook(keep).remove)
            yield

    @contextmanager
    def replayed(self) -> Iterator[None]:
        """Within the block the deep layers give what was kept, without computing anything."""
        outputs = iter(self._outputs)
        with ExitStack() as stack:
            for layer in self._layers:
                stack.enter_context(replaced(layer, "forward", lambda *args, **kwargs: next(outputs)))
                stack.enter_context(replaced(layer, "_forward_hooks", OrderedDict()))
            yield


def deep_blocks(unet: Any) -> list[Any]:
    """The blocks of a UNet of CompVis' layout (``openaimodel.UNetModel``, which all WebUIs have) but the first and the
    last: each holds the layers that run one after the other."""
    return [*unet.input_blocks[1:], unet.middle_block, *unet.output_blocks[:-1]]


def _hollow(output: Any) -> Any:
    """Something of the same shape that takes no memory."""
    if isinstance(output, torch.Tensor):
        return output.new_zeros(()).expand(output.shape)
    return type(output)(_hollow(part) for part in output)
