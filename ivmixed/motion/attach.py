"""Puts a motion module into a UNet of the original layout, and takes it out again.

That is the layout of CompVis' ``openaimodel.UNetModel`` (``input_blocks``, ``middle_block``, ``output_blocks``), which
AUTOMATIC1111 and the Forge family all have. Nothing in the UNet is replaced: hooks act behind its layers. ::

    with attach(unet, module) as motion:
        motion.frames = 16        # rows come as (sets x 16 frames)
        unet(...)
        motion.frames = None      # the image model: the UNet by itself, to the bit
        unet(...)
"""
from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

from torch import Tensor, nn

from ..weights.files import FAMILIES
from .loading import MotionError
from .module import MotionModule, TemporalTransformer, depth_to_frames, frames_to_depth

TAKEN = "has no place in a UNet that has motion already; switch the other extension's motion off, or this one"
"""What is wrong with a second motion."""


class Motion:
    """The motion in a UNet: set `frames` before the UNet runs."""

    def __init__(self, module: MotionModule):
        self.module = module
        self.acted = False
        """A temporal transformer has acted; a clip in which none does has no motion."""
        self.strength: Tensor | None = None
        """A factor on what motion adds to each of the frames, (frames,), on the UNet's device; None: 1, without a
        multiplication."""
        self.attention_scale = 1.0
        """A factor on the keys of the attention over the frames, see `module.TemporalAttention`."""
        self._frames: int | None = None

    @property
    def frames(self) -> int | None:
        """Frames of a clip in the rows that the UNet gets; None: motion is off. Raises MotionError for too many."""
        return self._frames

    @frames.setter
    def frames(self, frames: int | None) -> None:
        most = self.module.layout.positions
        if frames is not None and not 1 <= frames <= most:
            raise MotionError(self.module.name, f"sees 1 to {most} frames at a time, not {frames}; "
                                                f"use context windows of {most} frames at most")
        self._frames = frames

    def _act(self, transformer: TemporalTransformer, layer: nn.Module, args: Any, output: Tensor) -> Tensor | None:
        """Behind a layer."""
        frames = self._frames_in(output)
        if frames is None:
            return None
        self.acted = True  # no count: torch.compile would compile anew for every number
        return transformer(output, frames, self.strength, self.attention_scale)  # type: ignore[no-any-return]

    def _join(self, norm: nn.Module, args: tuple[Tensor, ...]) -> Tensor | None:
        """Before a norm that spans the frames."""
        frames = self._frames_in(args[0])
        return None if frames is None else frames_to_depth(args[0], frames)

    def _part(self, norm: nn.Module, args: Any, output: Tensor) -> Tensor | None:
        """Behind it."""
        return None if self._frames is None else depth_to_frames(output)

    def _frames_in(self, x: Tensor) -> int | None:
        if self._frames is not None and x.shape[0] % self._frames:
            raise MotionError(self.module.name, f"got {x.shape[0]} rows, which are no whole number of clips of "
                                                f"{self._frames} frames; let cond and uncond have all frames each")
        return self._frames


@contextmanager
def attach(unet: nn.Module, module: MotionModule) -> Iterator[Motion]:
    """Within the block ``module`` acts in ``unet``, on as many frames as `Motion.frames` says (none at first).

    Where the module was trained so (AnimateDiff v1), the group norms of the UNet's residual blocks and of its output
    span the frames meanwhile. Afterwards, also after errors and interrupts, the UNet is as before.
    ``module`` has to be on the UNet's device; its dtype may be another.
    Raises MotionError, before anything is changed: the module does not fit the UNet, or this has motion already.
    """
    places = _places(unet, module)
    motion = Motion(module)
    with ExitStack() as stack:
        for layer, transformer in places:
            stack.callback(layer.register_forward_hook(partial(motion._act, transformer)).remove)
        for norm in _group_norms(unet) if module.kind.norms_span_frames else ():
            stack.callback(norm.register_forward_pre_hook(motion._join).remove)
            stack.callback(norm.register_forward_hook(motion._part).remove)
        yield motion


def _places(unet: Any, module: MotionModule) -> list[tuple[nn.Module, TemporalTransformer]]:
    """The layer that each temporal transformer acts behind. Raises MotionError.

    That is the last layer of a block which keeps the picture's size (so before an Upsample), in blocks that have one;
    in the middle block it is the attention (AnimateDiff's ``models/unet_blocks.py``).
    """
    if not all(hasattr(unet, part) for part in ("input_blocks", "middle_block", "output_blocks")):
        raise MotionError(module.name, f"has no place in a {type(unet).__name__}, which has no input, middle and "
                                       "output blocks; use a Stable Diffusion 1.5 or SDXL checkpoint")
    if any(hasattr(layer, "temporal_transformer") or _acts_behind(layer) for layer in unet.modules()):
        raise MotionError(module.name, TAKEN)
    layers = {
        "down": [kept[-1] for block in unet.input_blocks if (kept := _keeping_size(block))],
        "mid": [layer for layer in unet.middle_block if hasattr(layer, "transformer_blocks")],
        "up": [kept[-1] for block in unet.output_blocks if (kept := _keeping_size(block))],
    }
    places: list[tuple[nn.Module, TemporalTransformer]] = []
    for part, found in layers.items():
        transformers = module.transformers(part)
        if part == "mid" and not transformers:
            continue
        theirs, ours = [_width(layer) for layer in found], [transformer.width for transformer in transformers]
        if theirs != ours or _family(unet) not in (None, module.kind.family):
            family = f"for {_family(unet)}" if _family(unet) else f"of blocks of {theirs} channels"
            raise MotionError(module.name, f"is {module.kind.name} for {module.kind.family} (blocks of {ours} channels)"
                                           f", and the checkpoint is one {family}; choose a motion module made for it")
        places += zip(found, transformers)
    return places


def _acts_behind(layer: nn.Module) -> bool:
    """Motion of ours acts behind a layer."""
    owners = (getattr(getattr(hook, "func", None), "__self__", None) for hook in layer._forward_hooks.values())
    return any(isinstance(owner, Motion) for owner in owners)


def _keeping_size(block: Any) -> list[nn.Module]:
    """The residual blocks and transformers of a block."""
    return [layer for layer in block if hasattr(layer, "in_layers") or hasattr(layer, "transformer_blocks")]


def _width(layer: Any) -> int:
    """The channels that a residual block or a transformer gives."""
    norm = layer.out_layers[0] if hasattr(layer, "out_layers") else layer.norm
    return int(norm.num_channels)


def _family(unet: nn.Module) -> str | None:
    """The family of models that a UNet belongs to, by the width of its text; None where that is not known."""
    for layer in unet.modules():
        if hasattr(layer, "attn2"):
            return {768: "SD 1.5", **FAMILIES}.get(layer.attn2.to_k.in_features)  # type: ignore[union-attr,arg-type]
    return None


def _group_norms(unet: Any) -> Iterator[nn.Module]:
    """Those of the residual blocks and of the output; the transformers' keep to the frame."""
    for layer in unet.modules():
        if hasattr(layer, "in_layers") and hasattr(layer, "out_layers"):
            yield layer.in_layers[0]
            yield layer.out_layers[0]
    yield unet.out[0]
