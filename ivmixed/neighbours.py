"""The image model's self-attention over more frames than its own, so that texture is the same from frame to frame.

Keys and values of other frames stand beside a frame's own in every self-attention layer; no weights are added. Sources:
Text2Video-Zero, arXiv 2303.13439 (the first frame), and Tune-A-Video, arXiv 2212.11565 (the first and the one before).
"""
from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from .options import ConflictError, OptionError
from .plan import Plan


def check_attention(plan: Plan, frames: int, at_once: int) -> None:
    """Raises ConflictError where ``frames`` of a clip are to see others, and the image model takes fewer at once."""
    if plan.image_attention != "own" and frames > at_once and plan.count("image"):
        raise ConflictError(
            "image_attention", plan.image_attention, f"{at_once} of {frames} frames at once",
            because="a frame cannot see those that are not evaluated with it",
            remedy=f"take own, or a clip of {at_once} frames at most")


@contextmanager
def attending(network: nn.Module, sees: str, frames: int, clips: int = 1) -> Iterator[None]:
    """Within the block the self-attention of ``network`` sees other frames too; after it as before.

    ``network``: a UNet of diffusers or of CompVis' layout, whose transformer blocks have their self-attention as
    ``attn1``; its rows are (sets x frames x clips), with ``clips`` clips side by side. A compiled one runs uncompiled.
    ``sees``: one of `ivmixed.options.ATTENTIONS`. Raises OptionError for other rows, and where no self-attention was
    called.
    """
    if sees == "own":
        yield
        return
    rows, acted = 0, False

    def note(layer: nn.Module, args: tuple[Tensor, ...]) -> None:
        nonlocal rows
        rows = len(args[0])
        if rows % (frames * clips):
            raise OptionError("image_attention", sees, "own", f"has no meaning for {rows} rows of {frames} frames")

    def see(layer: nn.Module, args: tuple[Tensor, ...], own: Tensor) -> Tensor:
        """Behind the layer that makes keys or values, (rows, tokens, width); more rows where a picture is in tiles."""
        nonlocal acted
        acted = True
        each = own.unflatten(0, (-1, frames, clips * (len(own) // rows)))
        first = each[:, :1]
        if sees == "first":
            others = [first.expand_as(each)]
        else:
            others = [torch.cat([first, each[:, :-1]], 1), torch.cat([each[:, 1:], each[:, -1:]], 1)]
        return torch.cat([each, *others], -2).flatten(0, 2)

    with ExitStack() as stack:
        if hasattr(torch.compiler, "set_stance"):  # compiled code does not notice hooks that come and go
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        stack.callback(network.register_forward_pre_hook(note).remove)
        attentions: list[Any] = [block.attn1 for block in network.modules() if hasattr(block, "attn1")]
        for layer in (layer for attention in attentions for layer in (attention.to_k, attention.to_v)):
            stack.callback(layer.register_forward_hook(see).remove)
        yield
        if not acted:
            raise OptionError("image_attention", sees, "own, or a UNet that nothing replaces (as TensorRT does)",
                              "has no effect here, as the UNet's self-attention was never called")
